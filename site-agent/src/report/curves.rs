//! ROC curves: a plot a class, a line an arm.

use super::audience::Audience;
use super::plot::{Axis, Plot, Size};
use super::{Run, TaskRuns};

/// The curves of a task, by the lowest seed of each arm; one plot for each class that may be shown.
pub(super) fn plots(task: &TaskRuns, audience: Audience, tags: &[String]) -> Vec<String> {
    let classes = task.task.classes.iter().enumerate();
    classes.filter_map(|(class, name)| plot(task, (class, name), audience, tags)).collect()
}

fn plot(task: &TaskRuns, (class, name): (usize, &String), audience: Audience, tags: &[String]) -> Option<String> {
    let curve = |run: &Run| {
        let points = run.measured.curves.get(name).filter(|_| audience.sees_class(run, class))?;
        let decimals = audience.area_decimals(run, class).unwrap_or(3);
        let drawn = audience.curve_steps(run, class).map_or_else(|| points.clone(), |steps| resampled(points, steps));
        Some((format!("{:.decimals$}", area(points)), drawn))
    };
    let lines: Vec<_> = task.arms.iter().map(|arm| curve(arm.first())).collect();
    let told: Vec<String> =
        lines.iter().zip(tags).filter_map(|(line, tag)| Some(format!("{tag} {}", line.as_ref()?.0))).collect();
    if told.is_empty() {
        return None;
    }
    let of = |label| Axis { label, values: [0.0, 1.0], told: true };
    let (x, y) = (of("false positive rate"), of("true positive rate"));
    let mut plot = Plot::new(
        name,
        &format!("ROC, area {}", told.join(", ")),
        Size { width: 250.0, height: 250.0, beside: 10.0 },
        x,
        y,
    );
    plot.line("chance", [0.0, 0.0], [1.0, 1.0]);
    for (place, line) in lines.iter().enumerate() {
        if let Some((_, points)) = line {
            plot.polyline(&format!("curve c{}", place % super::page::COLORS), points);
        }
    }
    let areas: String = lines
        .iter()
        .zip(tags)
        .enumerate()
        .filter_map(|(place, (line, tag))| {
            let color = place % super::page::COLORS;
            Some(format!("<li><span class=\"key k{color}\">{tag}</span> {}</li>", line.as_ref()?.0))
        })
        .collect();
    Some(format!("<figure>{}<figcaption>AUC <ul class=\"areas\">{areas}</ul></figcaption></figure>", plot.end()))
}

/// The area under a curve of straight pieces.
fn area(points: &[[f64; 2]]) -> f64 {
    points.windows(2).map(|two| (two[1][0] - two[0][0]) * (two[0][1] + two[1][1]) / 2.0).sum()
}

/// The curve at evenly spaced false positive rates, its heights rounded to steps as well: where both are as wide as
/// several subjects, no step is one subject's, and none tells how many there are.
fn resampled(points: &[[f64; 2]], [up, across]: [u64; 2]) -> Vec<[f64; 2]> {
    let at = |rate: f64| {
        let after = points.iter().position(|point| point[0] > rate);
        let Some(after) = after.filter(|after| *after > 0) else { return [rate, points.last().map_or(0.0, |p| p[1])] };
        let ([x, y], [next_x, next_y]) = (points[after - 1], points[after]);
        [rate, y + (rate - x) / (next_x - x) * (next_y - y)]
    };
    let rounded = |[x, y]: [f64; 2]| [x, (y * up as f64).round() / up as f64];
    let along = (0..=across).map(|step| rounded(at(step as f64 / across as f64)));
    [[0.0, 0.0]].into_iter().chain(along).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_is_that_of_the_curve_and_a_curve_that_leaves_has_no_step_of_one_subject() {
        let steps = [[0.0, 0.0], [0.0, 0.5], [0.25, 0.5], [0.25, 1.0], [1.0, 1.0]];
        assert_eq!(area(&steps), 0.875);
        let even = resampled(&steps, [20, 20]);
        assert_eq!(even.len(), 22);
        assert_eq!([even[0], even[1], even[5], even[6], even[21]].map(|point| point[1]), [0.0, 0.5, 0.5, 1.0, 1.0]);
        assert!((area(&even) - 0.875).abs() < 0.03);
        // Of 17 and 14 subjects: heights in thirds, rates in halves.
        let unlike: Vec<[f64; 2]> =
            (0..=17).map(|step| [f64::from(step * step) / 289.0, f64::from(step) / 17.0]).collect();
        let coarse = resampled(&unlike, [3, 2]);
        assert_eq!(coarse, [[0.0, 0.0], [0.0, 0.0], [0.5, 2.0 / 3.0], [1.0, 1.0]]);
    }
}
