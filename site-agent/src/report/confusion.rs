//! Confusion matrices as tables: a row what it is, a column what it was called, darker where more of the row is.

use super::Run;
use super::audience::Audience;
use super::plot::escaped;

/// The table of a run, if it may be shown and anything was counted. `caption` is HTML.
pub(super) fn table(run: &Run, audience: Audience, caption: &str) -> Option<String> {
    let (classes, counts) = (&run.told.task.classes, &run.measured.confusion);
    if counts.is_empty() || !audience.sees(run.measured.subjects) {
        return None;
    }
    let heads: String = classes.iter().map(|name| format!("<th scope=\"col\">{}</th>", escaped(name))).collect();
    let rows = classes.iter().zip(counts).enumerate();
    let rows: String = rows.map(|(class, (name, counts))| row((class, name), counts, run, audience)).collect();
    Some(format!(
        "<table class=\"confusion\"><caption>{caption}</caption><thead><tr><th scope=\"col\">is ↓ called →</th>{heads}</tr>\
         </thead><tbody>{rows}</tbody></table>"
    ))
}

fn row((class, name): (usize, &str), counts: &[u64], run: &Run, audience: Audience) -> String {
    let told = |(called, count): (usize, &u64)| {
        audience.cell(*count, run.measured.subjects_called(&run.told.task, class, called))
    };
    let told: Vec<Option<u64>> = counts.iter().enumerate().map(told).collect();
    // What is shown and nothing else is shaded by: a cell's part of a row would tell the rest of it.
    let all: Option<u64> = told.iter().copied().sum();
    let cell = |(called, count): (usize, &Option<u64>)| {
        let right = if called == class { " class=\"right\"" } else { "" };
        let Some(count) = *count else { return format!("<td{right}>&lt; 5</td>") };
        let style = all.map_or_else(String::new, |all| {
            // Light enough that dark figures stay readable on all of it.
            let shade = 0.6 * count as f64 / all.max(1) as f64;
            format!(" style=\"background:rgba(11,110,153,{shade:.2})\"")
        });
        let least = if audience.sees_subjects() { "" } else { "≥ " };
        format!("<td{right}{style}>{least}{count}</td>")
    };
    let cells: String = told.iter().enumerate().map(cell).collect();
    format!("<tr><th scope=\"row\">{}</th>{cells}</tr>", escaped(name))
}
