//! Line charts as SVG text: no script, no font file, no network.

use std::fmt::Write;

pub(crate) use site_agent::report::plot::escaped;
use site_agent::report::plot::{bounds, number, padded, ticks};

/// One line of a chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Shown beside the line's end.
    pub name: String,
    /// Class of its color: `a`, `b`, `c`, `d`.
    pub color: char,
    /// x and y; y values that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// A chart of lines over a common axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// What it shows, with its unit.
    pub title: String,
    /// The x axis.
    pub x_label: String,
    /// The lines.
    pub series: Vec<Series>,
    /// A value worth comparing with, and its name: a dashed line.
    pub reference: Option<(f64, String)>,
}

/// Of the lines, without the names beside them.
const PLOT: f64 = 396.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 48.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 36.0;

impl Chart {
    /// The chart as a file of its own.
    pub fn file(&self) -> String {
        let element = self.svg();
        let (head, rest) = element.split_once('>').unwrap_or((&element, ""));
        let head = head.replacen("<svg", "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"620\"", 1);
        format!("{head}><style>{STYLE}</style>{rest}\n")
    }

    /// The chart as an SVG element.
    pub fn svg(&self) -> String {
        let finite = |series: &Series| series.points.iter().copied().filter(|(_, y)| y.is_finite()).collect::<Vec<_>>();
        let lines: Vec<_> = self.series.iter().map(finite).collect();
        let xs = || lines.iter().flatten().map(|point| point.0);
        let ys = || lines.iter().flatten().map(|point| point.1).chain(self.reference.iter().map(|line| line.0));
        let longest = self.series.iter().map(|series| series.name.chars().count()).max().unwrap_or(0);
        let names_width = (longest as f64 * 7.0 + 12.0).max(64.0);
        let (right, width) = (PLOT, PLOT + names_width);
        let (x_low, x_high) = bounds(xs());
        let (y_low, y_high) = padded(bounds(ys()));
        let x = |value: f64| LEFT + (value - x_low) / (x_high - x_low) * (right - LEFT);
        let y = |value: f64| HEIGHT - BOTTOM - (value - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM);

        let mut svg =
            format!("<svg viewBox=\"0 0 {width} {HEIGHT}\" role=\"img\" aria-label=\"{}\">", escaped(&self.title));
        let mut put = |element: String| svg.push_str(&element);
        put(format!("<text class=\"title\" x=\"{LEFT}\" y=\"16\">{}</text>", escaped(&self.title)));
        for tick in ticks(y_low, y_high, 5) {
            let at = y(tick);
            put(format!("<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"));
            put(format!(
                "<text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                at + 4.0,
                number(tick)
            ));
        }
        for tick in ticks(x_low, x_high, 8).into_iter().filter(|tick| tick.fract() == 0.0) {
            let (at, foot) = (x(tick), HEIGHT - BOTTOM + 16.0);
            put(format!("<text class=\"tick\" x=\"{at:.1}\" y=\"{foot}\" text-anchor=\"middle\">{tick}</text>"));
        }
        let (middle, foot) = ((LEFT + right) / 2.0, HEIGHT - 4.0);
        put(format!(
            "<text class=\"tick\" x=\"{middle}\" y=\"{foot}\" text-anchor=\"middle\">{}</text>",
            escaped(&self.x_label)
        ));
        if let Some((value, name)) = &self.reference {
            let at = y(*value);
            put(format!("<line class=\"reference\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"));
            put(format!("<text class=\"tick\" x=\"{}\" y=\"{:.1}\">{}</text>", right + 6.0, at + 4.0, escaped(name)));
        }
        let names = spread(lines.iter().map(|line| line.last().map(|end| y(end.1))));
        for ((series, line), name_y) in self.series.iter().zip(&lines).zip(names) {
            let color = series.color;
            let mut path = String::new();
            for (index, &(px, py)) in line.iter().enumerate() {
                let command = if index == 0 { 'M' } else { 'L' };
                // Writing to a String cannot fail.
                let written = write!(path, "{command}{:.1} {:.1}", x(px), y(py));
                debug_assert!(written.is_ok());
            }
            put(format!("<path class=\"line {color}\" d=\"{path}\"/>"));
            for &(px, py) in line {
                put(format!("<circle class=\"dot {color}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\"/>", x(px), y(py)));
            }
            if let Some(at) = name_y {
                let left = right + 6.0;
                put(format!(
                    "<text class=\"name {color}\" x=\"{left}\" y=\"{:.1}\">{}</text>",
                    at + 4.0,
                    escaped(&series.name)
                ));
            }
        }
        svg + "</svg>"
    }
}

/// As the report page's, on white, with a color more.
const STYLE: &str = "svg{background:#fff}text{font:12px system-ui,sans-serif;fill:#5b6875}.title{font-size:14px;font-weight:600;fill:#1c2733}\
.grid{stroke:#d9dfe5}.reference{stroke:#5b6875;stroke-dasharray:4 3}.line{fill:none;stroke-width:2}\
.line.a{stroke:#0b6e99}.line.b{stroke:#c0392b}.line.c{stroke:#2e7d4f}.line.d{stroke:#8e5ea2}.line.e{stroke:#b7791f}\
.dot.a,.name.a{fill:#0b6e99}.dot.b,.name.b{fill:#c0392b}.dot.c,.name.c{fill:#2e7d4f}.dot.d,.name.d{fill:#8e5ea2}.dot.e,.name.e{fill:#b7791f}";

/// Moves labels apart so that none covers another, keeping their order.
fn spread(wanted: impl Iterator<Item = Option<f64>>) -> Vec<Option<f64>> {
    let mut labels: Vec<(usize, Option<f64>)> = wanted.enumerate().collect();
    labels.sort_by(|a, b| a.1.partial_cmp(&b.1).unwrap_or(std::cmp::Ordering::Equal));
    let mut free_from = f64::NEG_INFINITY;
    for at in labels.iter_mut().filter_map(|(_, at)| at.as_mut()) {
        *at = at.max(free_from);
        free_from = *at + 13.0;
    }
    labels.sort_by_key(|(index, _)| *index);
    labels.into_iter().map(|(_, at)| at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_leaves_out_what_is_not_finite_and_names_every_line() {
        let series = |name: &str, points| Series { name: name.to_owned(), color: 'a', points };
        let chart = Chart {
            title: "loss <nats>".to_owned(),
            x_label: "round".to_owned(),
            series: vec![series("A", vec![(1.0, 5.0), (2.0, f64::NAN), (3.0, 4.0)]), series("B", vec![(1.0, 5.0)])],
            reference: Some((5.5, "ln K".to_owned())),
        };
        let svg = chart.svg();
        assert!(!svg.contains("NaN") && svg.contains("&lt;nats&gt;"), "{svg}");
        assert!(svg.contains(">A</text>") && svg.contains(">B</text>") && svg.contains(">ln K</text>"));
        assert_eq!(svg.matches("<circle").count(), 3);
    }

    #[test]
    fn labels_that_would_cover_each_other_are_moved_apart() {
        let moved = spread([Some(10.0), None, Some(11.0), Some(50.0)].into_iter());
        assert_eq!(moved, [Some(10.0), None, Some(23.0), Some(50.0)]);
    }
}
