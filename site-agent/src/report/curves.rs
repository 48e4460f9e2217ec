//! ROC curves: a plot a class, a line an arm.

use super::audience::Audience;
use super::plot::{Axis, Plot, Size};
use super::{Run, TaskRuns};

/// Points of a curve that leaves: fewer than steps, so that none of them tells of one subject.
const POINTS_ELSEWHERE: usize = 21;

/// The curves of a task, by the lowest seed of each arm; one plot for each class that may be shown.
pub(super) fn plots(task: &TaskRuns, audience: Audience, tags: &[String]) -> Vec<String> {
    let classes = task.task.classes.iter().enumerate();
    classes.filter_map(|(class, name)| plot(task, (class, name), audience, tags)).collect()
}

fn plot(task: &TaskRuns, (class, name): (usize, &String), audience: Audience, tags: &[String]) -> Option<String> {
    let curve = |run: &Run| {
        let points = run.measured.curves.get(name).filter(|_| audience.sees_class(run, class))?;
        Some((area(points), if audience.sees_subjects() { points.clone() } else { resampled(points) }))
    };
    let lines: Vec<_> = task.arms.iter().map(|arm| curve(arm.first())).collect();
    let told: Vec<String> =
        lines.iter().zip(tags).filter_map(|(line, tag)| Some(format!("{tag} {:.3}", line.as_ref()?.0))).collect();
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
            Some(format!("<li><span class=\"key k{color}\">{tag}</span> {:.3}</li>", line.as_ref()?.0))
        })
        .collect();
    Some(format!("<figure>{}<figcaption>AUC <ul class=\"areas\">{areas}</ul></figcaption></figure>", plot.end()))
}

/// The area under a curve of straight pieces.
fn area(points: &[[f64; 2]]) -> f64 {
    points.windows(2).map(|two| (two[1][0] - two[0][0]) * (two[0][1] + two[1][1]) / 2.0).sum()
}

/// The curve at evenly spaced false positive rates.
fn resampled(points: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let at = |rate: f64| {
        let after = points.iter().position(|point| point[0] > rate);
        let Some(after) = after.filter(|after| *after > 0) else { return [rate, points.last().map_or(0.0, |p| p[1])] };
        let ([x, y], [next_x, next_y]) = (points[after - 1], points[after]);
        [rate, y + (rate - x) / (next_x - x) * (next_y - y)]
    };
    let steps = POINTS_ELSEWHERE - 1;
    [[0.0, 0.0]].into_iter().chain((0..=steps).map(|step| at(step as f64 / steps as f64))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_is_that_of_the_curve_and_a_curve_that_leaves_has_no_step_of_one_subject() {
        let steps = [[0.0, 0.0], [0.0, 0.5], [0.25, 0.5], [0.25, 1.0], [1.0, 1.0]];
        assert_eq!(area(&steps), 0.875);
        let even = resampled(&steps);
        assert_eq!(even.len(), POINTS_ELSEWHERE + 1);
        assert_eq!([even[0], even[1], even[5], even[6], even[21]].map(|point| point[1]), [0.0, 0.5, 0.5, 1.0, 1.0]);
        assert!((area(&even) - 0.875).abs() < 0.03);
    }
}
