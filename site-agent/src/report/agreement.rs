//! How clinical quantities agree with the truth: difference against mean, with the bias and the limits of agreement as lines
//! (Bland and Altman 1986).

use super::TaskRuns;
use super::audience::Audience;
use super::plot::{Axis, Plot, Size, bounds, minus, padded};
use crate::tasks::Agreement;

/// A row of plots for each quantity, one an arm on common axes, by its lowest seed.
pub(super) fn plots(task: &TaskRuns, quantity: &str, audience: Audience, tags: &[String]) -> Vec<String> {
    let all: Vec<Option<&Agreement>> = task.arms.iter().map(|arm| of(arm, quantity, audience)).collect();
    let Some(span) = Span::over(all.iter().flatten().copied(), audience.sees_subjects()) else { return Vec::new() };
    let drawn = all.iter().zip(tags).filter_map(|(agreement, tag)| Some(plot((*agreement)?, tag, span, audience)));
    drawn.collect()
}

/// The agreement that an arm's lowest seed has, if it may be shown.
pub(super) fn of<'a>(arm: &'a super::Arm, quantity: &str, audience: Audience) -> Option<&'a Agreement> {
    let own = arm.first().measured.agreements.iter().find(|agreement| agreement.quantity == quantity);
    own.filter(|agreement| audience.sees(agreement.pairs.len()))
}

/// What the axes of one quantity span.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Span {
    x: [f64; 2],
    y: [f64; 2],
}

impl Span {
    /// Over the lines, zero, and the subjects where they are shown; where they are not, no axis tells of the most extreme one.
    fn over<'a>(all: impl Iterator<Item = &'a Agreement> + Clone, subjects: bool) -> Option<Self> {
        all.clone().next()?;
        let pairs = all.clone().filter(|_| subjects).flat_map(|agreement| &agreement.pairs).map(|pair| point(*pair));
        let lines = all.flat_map(|own| own.limits.into_iter().flatten().chain([own.bias, 0.0]));
        let (left, right) = padded(bounds(pairs.clone().map(|[x, _]| x)));
        let (low, high) = padded(padded(bounds(pairs.map(|[_, y]| y).chain(lines))));
        Some(Self { x: [left, right], y: [low, high] })
    }
}

/// Mean of the two, and found minus truth.
fn point([truth, found]: [f64; 2]) -> [f64; 2] {
    [(truth + found) / 2.0, found - truth]
}

fn plot(agreement: &Agreement, tag: &str, span: Span, audience: Audience) -> String {
    let (name, unit) = agreement.quantity.rsplit_once(", ").unwrap_or((&agreement.quantity, ""));
    let labelled = |what: &str| if unit.is_empty() { what.to_owned() } else { format!("{what}, {unit}") };
    let count = audience.n(agreement.pairs.len());
    let subjects = audience.sees_subjects();
    let across = if subjects { labelled("mean of network and reader") } else { "subjects stay at the site".to_owned() };
    let x = Axis { label: &across, values: span.x, told: subjects };
    let down = labelled("network − reader");
    let y = Axis { label: &down, values: span.y, told: true };
    let limits = agreement.limits.map_or_else(String::new, |[l, h]| format!(", limits of agreement {l:.1} to {h:.1}"));
    let told = format!("bias {:+.1}{limits}, {count}", agreement.bias);
    // Lines alone need less room.
    let [width, height] = if subjects { [270.0, 210.0] } else { [220.0, 180.0] };
    let size = Size { width, height, beside: 44.0 };
    let mut plot = Plot::new(&format!("{tag}: {name}, {count}"), &told, size, x, y);
    plot.line("zero", [span.x[0], 0.0], [span.x[1], 0.0]);
    for pair in agreement.pairs.iter().filter(|_| subjects) {
        plot.dot("subject", point(*pair));
    }
    if let Some(limits) = agreement.limits {
        for limit in limits {
            plot.level("limit", limit, &minus(&format!("{limit:+.1}")));
        }
    }
    plot.level("bias", agreement.bias, &minus(&format!("{:+.1}", agreement.bias)));
    plot.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreement() -> Agreement {
        let pairs = vec![[100.0, 110.0], [200.0, 190.0], [150.0, 156.0], [120.0, 122.0], [180.0, 177.0]];
        Agreement {
            quantity: "LV EDV, mL".to_owned(),
            pairs,
            bias: 1.0,
            limits: Some([-14.0, 16.0]),
            mean_absolute_error: 6.2,
        }
    }

    #[test]
    fn bias_and_limits_lie_at_their_height_and_every_subject_at_its_difference() {
        let agreement = agreement();
        let span = Span { x: [50.0, 250.0], y: [-20.0, 20.0] };
        // 210 pixels high: 26 above the axis and 38 below leave 146 for 40 mL.
        let at = |ml: f64| 172.0 - (ml + 20.0) / 40.0 * 146.0;
        let svg = plot(&agreement, "A", span, Audience::Site);
        for (class, ml) in [("bias", 1.0), ("limit", -14.0), ("limit", 16.0), ("zero", 0.0)] {
            let line =
                format!("<line class=\"{class}\" x1=\"52.0\" y1=\"{0:.1}\" x2=\"226.0\" y2=\"{0:.1}\"/>", at(ml));
            assert!(svg.contains(&line), "{line} is not in\n{svg}");
        }
        assert_eq!(svg.matches("<circle").count(), 5);
        // The first subject: mean 105, difference 10.
        let dot = format!("cx=\"{:.1}\" cy=\"{:.1}\"", 52.0 + 55.0 / 200.0 * 174.0, at(10.0));
        assert!(svg.contains(&dot), "{dot} is not in\n{svg}");
        assert!(svg.contains("network − reader, mL") && svg.contains("n = 5"));
    }

    #[test]
    fn a_plot_that_leaves_has_no_subject_and_no_axis_that_tells_of_the_largest() {
        let mut agreement = agreement();
        agreement.pairs[1] = [900.0, 1400.0];
        let span = Span::over([&agreement].into_iter(), false).unwrap();
        assert!(span.y[1] < 25.0 && span.x[1] < 2.0, "{span:?}");
        let svg = plot(&agreement, "A", span, Audience::Elsewhere);
        assert!(!svg.contains("<circle") && svg.contains("subjects stay at the site"), "{svg}");
    }
}
