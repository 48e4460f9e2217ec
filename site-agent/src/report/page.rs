//! The page: one HTML file with its style and pictures inside, no script, nothing to fetch. What it may say is the audience's.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::task::{Direction, Metric, TaskKind};

use super::audience::Audience;
use super::plot::{escaped, minus};
use super::{Arm, Figure, Run, Shown, TaskRuns, agreement, arms, confusion, curves, overlays};

/// Colors of arms, after which they begin anew; tags tell arms apart as well.
pub(super) const COLORS: usize = 6;

/// All that a page shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// What it is of, in a person's words: a site, a vendor.
    pub title: String,
    /// Who reads it.
    pub audience: Audience,
    /// The tasks.
    pub tasks: Vec<TaskRuns>,
    /// Subjects of the leading arm of a task, by the task's place. They are shown to the site alone.
    pub shown: BTreeMap<usize, Vec<Shown>>,
}

/// The page as HTML.
pub fn page(report: &Report) -> String {
    let (title, audience) = (escaped(&report.title), report.audience);
    let mut body = format!("<header><h1>{title}</h1>{}</header>", banner(audience));
    body += LEAD;
    body += &overview(report);
    for (place, task) in report.tasks.iter().enumerate() {
        let shown = report.shown.get(&place).map(Vec::as_slice).unwrap_or_default();
        body += &section(place, task, audience, shown);
    }
    body += &provenance(report);
    body +=
        "<footer>Research software; not a medical device. What it says is for research, not for diagnosis.</footer>";
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head>\n<body><main>{body}</main></body></html>\n"
    )
}

fn banner(audience: Audience) -> &'static str {
    match audience {
        Audience::Site => {
            "<p class=\"banner stays\"><strong>Contains images: stays at this site.</strong> It shows pictures of patients, values \
             of single subjects, their pseudonyms and exact counts. Made without <code>--with-images</code>, the page holds none \
             of these.</p>"
        }
        Audience::Elsewhere => {
            "<p class=\"banner\"><strong>Holds no image and no value of a single subject.</strong> Counts are rounded \
             down to a multiple of five; what fewer than five subjects stand behind is not told. Of a share of subjects, \
             such as an accuracy, it is told between which two numbers it lies, as far as the rounded counts say, and an \
             area under a curve has two decimals, of few subjects one: finer, they would tell the counts that are left \
             out.</p>"
        }
    }
}

const LEAD: &str = "<p class=\"lead\">Each task is finetuned from several beginnings (arms) and measured on subjects that no \
    training saw. Of several seeds the mean ± their standard deviation is told; in brackets, the 95 % interval over subjects \
    (of several seeds, the mean of its bounds). <b class=\"best\">Marked</b> is an arm that is better than every other one with as \
    many labels by more than the seeds' deviation: of a single seed, none is.</p>";

/// A row a task and number of training subjects, a column a beginning.
fn overview(report: &Report) -> String {
    let mut names: Vec<&str> = Vec::new();
    for arm in report.tasks.iter().flat_map(|task| &task.arms) {
        if !names.contains(&arm.name.as_str()) {
            names.push(&arm.name);
        }
    }
    names.sort_unstable();
    let heads: String = names.iter().map(|name| format!("<th scope=\"col\">{}</th>", escaped(name))).collect();
    let (mut rows, mut compared, mut marked) = (String::new(), 0, 0);
    for (place, task) in report.tasks.iter().enumerate() {
        let metric = task.task.best.metric;
        let best = task.clearly_best(metric, None);
        let mut budgets: Vec<usize> = task.arms.iter().map(Arm::training_subjects).collect();
        budgets.dedup();
        for (row, budget) in budgets.iter().enumerate() {
            let of_budget = |at: &usize| task.arms[*at].training_subjects() == *budget;
            compared += usize::from((0..task.arms.len()).filter(of_budget).count() > 1);
            marked += usize::from(best.iter().any(of_budget));
            let head = match row {
                0 => format!(
                    "<th scope=\"rowgroup\" rowspan=\"{}\"><a href=\"#task-{place}\">{}</a></th><td class=\"word\" rowspan=\"{0}\">{metric}, \
                     {}</td>",
                    budgets.len(),
                    escaped(task.task.name.as_str()),
                    better(metric)
                ),
                _ => String::new(),
            };
            let cell = |name: &&str| {
                let own = task.arms.iter().enumerate();
                let own = own.filter(|(_, arm)| arm.training_subjects() == *budget && arm.name == **name);
                let told = own.map(|(at, arm)| told(arm, metric, None, best.contains(&at), report.audience));
                format!("<td>{}</td>", told.collect::<Vec<_>>().join("<br>"))
            };
            let cells: String = names.iter().map(cell).collect();
            rows += &format!("<tr>{head}<td>{}</td>{cells}</tr>", report.audience.count(*budget));
        }
    }
    format!(
        "<section><h2>All tasks</h2><div class=\"wide\"><table class=\"lined\"><caption>The metric by which each task picks its model, on \
         the held-out subjects.</caption><thead><tr><th scope=\"col\">task</th><th scope=\"col\" class=\"word\">metric</th><th scope=\"col\">training \
         subjects</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>{}</section>",
        lesson(marked, compared)
    )
}

/// What the table says as a whole, so that nobody has to count.
fn lesson(marked: usize, compared: usize) -> String {
    if compared == 0 {
        return String::new();
    }
    format!(
        "<p>Of {compared} rows that compare arms, one arm is ahead of all others by more than the seeds' deviation in {marked}. In the other \
         {}, these seeds and subjects show no beginning to be worth more than another.</p>",
        compared - marked
    )
}

fn section(place: usize, task: &TaskRuns, audience: Audience, shown: &[Shown]) -> String {
    let tags: Vec<String> = (0..task.arms.len()).map(tag).collect();
    let declared = &task.task;
    let mut html = format!(
        "<section id=\"task-{place}\"><h2>{}</h2><p>{}</p><p class=\"soft\">What is asked: {} of {}. Weights are picked on the validation \
         subjects, by: {}.</p>",
        escaped(declared.name.as_str()),
        escaped(&declared.about),
        declared.kind,
        escaped(&declared.classes.join(", ")),
        declared.best.metric
    );
    html += &arms_table(task, audience, &tags);
    html += &parts_table(task, audience, &tags);
    html += &quantities(task, audience, &tags);
    html += &classes(task, audience, &tags);
    if audience.sees_subjects() && !shown.is_empty() {
        html += &pictures(task, &tags, shown);
    }
    html + "</section>"
}

/// A row an arm, a column a metric of the whole task.
fn arms_table(task: &TaskRuns, audience: Audience, tags: &[String]) -> String {
    let metrics = columns(task, audience);
    let head = |metric: &Metric| format!("<th scope=\"col\">{metric} <i>{}</i></th>", better(*metric));
    let heads: String = metrics.iter().map(head).collect();
    let best: Vec<Vec<usize>> = metrics.iter().map(|metric| task.clearly_best(*metric, None)).collect();
    let row = |(place, arm): (usize, &Arm)| {
        let cells = metrics
            .iter()
            .zip(&best)
            .map(|(metric, best)| format!("<td>{}</td>", told(arm, *metric, None, best.contains(&place), audience)));
        let seeds: Vec<String> = arm.runs.iter().map(|run| run.told.seed.to_string()).collect();
        format!(
            "<tr><th scope=\"row\">{} {}</th><td>{}</td><td>{}</td><td>{}</td>{}</tr>",
            key(place, &tags[place]),
            escaped(&arm.name),
            audience.count(arm.training_subjects()),
            seeds.join(", "),
            audience.count(arm.first().measured.subjects),
            cells.collect::<String>()
        )
    };
    let rows: String = task.arms.iter().enumerate().map(row).collect();
    format!(
        "<div class=\"wide\"><table class=\"lined\"><caption>Arms</caption><thead><tr><th scope=\"col\">arm</th><th scope=\"col\">training \
         subjects</th><th scope=\"col\">seeds</th><th scope=\"col\">measured subjects (n)</th>{heads}</tr></thead><tbody>{rows}</tbody>\
         </table></div>"
    )
}

/// The metrics of the whole task that have a column. Elsewhere these are all that the task asks of classes: one that is
/// missing says that nobody is of a class.
fn columns(task: &TaskRuns, audience: Audience) -> Vec<Metric> {
    let mut metrics = task.metrics();
    let of_classes = matches!(task.task.kind, TaskKind::Classification | TaskKind::Detection);
    for metric in task.task.metrics.iter().filter(|_| of_classes && !audience.sees_subjects()) {
        if !metrics.contains(metric) {
            metrics.push(*metric);
        }
    }
    metrics
}

/// A row a structure or landmark, a column an arm.
fn parts_table(task: &TaskRuns, audience: Audience, tags: &[String]) -> String {
    let parts = task.parts();
    if parts.is_empty() {
        return String::new();
    }
    let what = if task.task.kind == TaskKind::Localisation { "landmark" } else { "structure" };
    let mut rows = String::new();
    for (metric, of) in &parts {
        let best = task.clearly_best(*metric, Some(of));
        let cells =
            task.arms.iter().enumerate().map(|(place, arm)| {
                format!("<td>{}</td>", told(arm, *metric, Some(of), best.contains(&place), audience))
            });
        rows += &format!(
            "<tr><th scope=\"row\">{}</th><td class=\"word\">{metric} <i>{}</i></td>{}</tr>",
            escaped(of),
            better(*metric),
            cells.collect::<String>()
        );
    }
    format!(
        "<div class=\"wide\"><table class=\"lined\"><caption>By {what}</caption><thead><tr><th scope=\"col\">{what}</th><th scope=\"col\" class=\"word\">metric\
         </th>{}</tr></thead><tbody>{rows}</tbody></table></div>",
        arm_heads(task, audience, tags)
    )
}

/// Clinical quantities: a table, then a row of Bland-Altman plots for each.
fn quantities(task: &TaskRuns, audience: Audience, tags: &[String]) -> String {
    let quantities = task.quantities();
    if quantities.is_empty() {
        return String::new();
    }
    let (mut rows, mut figures) = (String::new(), String::new());
    for (metric, quantity) in &quantities {
        let best = task.clearly_best(*metric, Some(quantity));
        let cells = task.arms.iter().enumerate().map(|(place, arm)| {
            let error = told(arm, *metric, Some(quantity), best.contains(&place), audience);
            let lines = agreement::of(arm, quantity, audience).map_or_else(String::new, |own| {
                let limits = own.limits.map_or_else(String::new, |[l, h]| format!("<br>limits {l:+.1} to {h:+.1}"));
                format!("<small>{}</small>", minus(&format!("bias {:+.1}{limits}", own.bias)))
            });
            format!("<td>{error}{lines}</td>")
        });
        rows += &format!("<tr><th scope=\"row\">{}</th>{}</tr>", escaped(quantity), cells.collect::<String>());
        let plots = agreement::plots(task, quantity, audience, tags);
        if !plots.is_empty() {
            figures += &format!("<h4>{}</h4><div class=\"plots\">{}</div>", escaped(quantity), plots.concat());
        }
    }
    format!(
        "<div class=\"wide\"><table class=\"lined\"><caption>Clinical quantities: mean absolute error; below it, of the lowest seed, \
         the mean difference from the reader (bias) and the 95 % limits of agreement</caption><thead><tr><th scope=\"col\">quantity\
         </th>{}</tr></thead><tbody>{rows}</tbody></table></div><h3>Agreement with the reader</h3><p class=\"soft\">Bland and Altman, of \
         the lowest seed of each arm: the line is the bias, dashed are the limits of agreement (± 1.96 standard deviations). {}</p>\
         {figures}",
        arm_heads(task, audience, tags),
        if audience.sees_subjects() { "A dot is a subject." } else { "No subject is drawn." }
    )
}

/// ROC curves and confusion matrices.
fn classes(task: &TaskRuns, audience: Audience, tags: &[String]) -> String {
    if !matches!(task.task.kind, TaskKind::Classification | TaskKind::Detection) {
        return String::new();
    }
    let samples = if task.task.kind == TaskKind::Detection { "subjects" } else { "frames" };
    let plots = curves::plots(task, audience, tags);
    let mut html = match plots.is_empty() {
        true if audience.sees_subjects() => String::new(),
        true => format!("<h3>ROC curves</h3><p class=\"soft\">Not drawn.{ELSEWHERE}</p>"),
        false => format!(
            "<h3>ROC curves</h3><p class=\"soft\">Each class against the others, over {samples}, of the lowest seed of each arm; dashed \
             is chance.{}</p><div class=\"plots\">{}</div>",
            if audience.sees_subjects() { "" } else { ELSEWHERE },
            plots.concat()
        ),
    };
    let table = |(place, arm): (usize, &Arm)| {
        let caption = format!("{} {}, seed {}", key(place, &tags[place]), escaped(&arm.name), arm.first().told.seed);
        Some(format!("<div>{}</div>", confusion::table(arm.first(), audience, &caption)?))
    };
    let tables: Vec<String> = task.arms.iter().enumerate().filter_map(table).collect();
    if !tables.is_empty() {
        html += &format!(
            "<h3>Confusion matrices</h3><p class=\"soft\">Counts of {samples}, of the lowest seed of each arm.{}</p>\
             <div class=\"plots\">{}</div>",
            if audience.sees_subjects() { "" } else { FEW },
            tables.concat()
        );
    }
    html
}

const ELSEWHERE: &str = " A class that fewer than five subjects are of is left out, and a curve goes by steps of a \
    twentieth, or of five subjects where that is more.";

const FEW: &str = " They are rounded down to a multiple of five. A cell of fewer than five subjects is not told, and its row \
    is not shaded.";

fn pictures(task: &TaskRuns, tags: &[String], shown: &[Shown]) -> String {
    let Some(place) = task.leading() else { return String::new() };
    let arm = &task.arms[place];
    let [reader, network] = [overlays::READER, overlays::NETWORK].map(|[r, g, b]| format!("rgb({r},{g},{b})"));
    let legend = match task.task.kind {
        TaskKind::Segmentation => format!(
            "<i class=\"swatch\" style=\"background:{reader}\"></i> wide: what the reader drew &nbsp; \
             <i class=\"swatch\" style=\"background:{network}\"></i> narrow: what the network says"
        ),
        TaskKind::Localisation => format!(
            "<i class=\"swatch\" style=\"background:{reader}\"></i> rings: where the reader sees the landmarks &nbsp; \
             <i class=\"swatch\" style=\"background:{network}\"></i> crosses: where the network says they are, with a line from the ring of each"
        ),
        _ => "Frames of the subject that was told wrong most".to_owned(),
    };
    let figures = shown.iter().map(|shown| {
        let caption = escaped(&shown.caption);
        format!(
            "<figure class=\"strip\"><img alt=\"{caption}\" src=\"data:image/png;base64,{}\"><figcaption>{caption}</figcaption></figure>",
            BASE64.encode(&shown.png)
        )
    });
    format!(
        "<h3>Held-out subjects</h3><p class=\"soft legend\">Of the arm with the best mean, {} {}, seed {}. {legend}.</p>{}",
        key(place, &tags[place]),
        escaped(&arm.name),
        arm.first().told.seed,
        figures.collect::<String>()
    )
}

/// Which trainings the page is made of.
fn provenance(report: &Report) -> String {
    let site = report.audience.sees_subjects();
    let row = |task: &TaskRuns, run: &Run| {
        let folder = format!("<td class=\"word\">{}</td>", escaped(&run.folder.display().to_string()));
        format!(
            "<tr><th scope=\"row\">{}</th><td class=\"word\">{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"word\"><code>{}</code></td>{}</tr>",
            escaped(task.task.name.as_str()),
            escaped(&run.told.arm),
            run.told.seed,
            report.audience.count(run.told.training_subjects),
            report.audience.count(run.told.validation_subjects),
            &run.told.backbone.to_string()[..16],
            if site { folder } else { String::new() }
        )
    };
    let runs = report.tasks.iter().flat_map(|task| task.arms.iter().map(move |arm| (task, arm)));
    let rows: String = runs.flat_map(|(task, arm)| arm.runs.iter().map(move |run| row(task, run))).collect();
    let folder = if site { "<th scope=\"col\">folder</th>" } else { "" };
    format!(
        "<section><h2>Trainings</h2><div class=\"wide\"><table class=\"lined\"><caption>What this page is made of</caption><thead><tr><th \
         scope=\"col\">task</th><th scope=\"col\">backbone</th><th scope=\"col\">seed</th><th scope=\"col\">training subjects</th>\
         <th scope=\"col\">validation subjects</th><th scope=\"col\">backbone's SHA-256 begins</th>{folder}</tr></thead><tbody>{rows}\
         </tbody></table></div></section>"
    )
}

/// A number as tables have it, or why it is not there.
fn told(arm: &Arm, metric: Metric, of: Option<&str>, best: bool, audience: Audience) -> String {
    let figure = arm.figure(metric, of);
    let visible = |figure: &Figure| match of {
        None => arm.runs.iter().all(|run| audience.sees_metric(run, metric, figure.subjects)),
        Some(_) => audience.sees(figure.subjects),
    };
    // Elsewhere what nobody tells is not told from what a few do.
    let Some(figure) = figure.filter(visible) else {
        let why = if audience.sees_subjects() { "not to be told" } else { "fewer than 5 subjects" };
        return format!("<span class=\"soft\">{why}</span>");
    };
    let range = audience.range(arm, metric, &figure);
    let decimals = arm.runs.iter().filter_map(|run| audience.decimals(run, metric)).min();
    let decimals = decimals.unwrap_or(decimals_of(metric));
    let number = |value: f64| format!("{value:.decimals$}");
    let value = match (range, figure.deviation) {
        (Some([low, high]), _) => format!("{low:.3} to {high:.3}"),
        (None, Some(deviation)) => format!("{} ± {}", number(figure.mean), number(deviation)),
        (None, None) => number(figure.mean),
    };
    let value = if best { format!("<b class=\"best\">{value}</b>") } else { value };
    let mut below = Vec::new();
    if let Some([low, high]) = figure.interval.filter(|_| range.is_none()) {
        below.push(format!("[{}, {}]", number(low), number(high)));
    }
    if figure.seeds < arm.runs.len() {
        below.push(format!("{} of {} seeds", figure.seeds, arm.runs.len()));
    }
    below.extend(audience.lost(figure.missed).map(|lost| format!("{lost} not told")));
    format!("{value}<small>{}</small>", below.join("<br>"))
}

/// Three of a fraction, one of what has a unit.
fn decimals_of(metric: Metric) -> usize {
    if arms::direction(metric) == Direction::Higher { 3 } else { 1 }
}

fn better(metric: Metric) -> &'static str {
    match arms::direction(metric) {
        Direction::Higher => "higher is better",
        Direction::Lower => "lower is better",
    }
}

fn arm_heads(task: &TaskRuns, audience: Audience, tags: &[String]) -> String {
    let head = |(place, arm): (usize, &Arm)| {
        let (name, count) = (escaped(&arm.name), audience.count(arm.training_subjects()));
        format!("<th scope=\"col\">{} {name}<small>{count} subjects</small></th>", key(place, &tags[place]))
    };
    task.arms.iter().enumerate().map(head).collect()
}

/// What an arm is called in plots: A, B, C and so on.
fn tag(place: usize) -> String {
    let letter = char::from(b'A' + (place % 26) as u8);
    if place < 26 { letter.to_string() } else { format!("{letter}{}", place / 26) }
}

fn key(place: usize, tag: &str) -> String {
    format!("<span class=\"key k{}\">{tag}</span>", place % COLORS)
}

const STYLE: &str = include_str!("page.css");

#[cfg(test)]
mod tests {
    use super::super::grouped;
    use super::super::runs::made::{disease, of, with};
    use super::*;
    use crate::metrics::classification::Confusion;
    use crate::tasks::Value;

    fn made(runs: Vec<Run>, audience: Audience) -> String {
        let shown = Shown { caption: "Worst subject (ab): Dice 0.1".to_owned(), png: vec![0x89, b'P', b'N', b'G'] };
        let tasks = grouped(runs).unwrap();
        page(&Report { title: "Site B".to_owned(), audience, tasks, shown: BTreeMap::from([(0, vec![shown])]) })
    }

    fn holds(page: &str, parts: &[&str]) {
        parts.iter().for_each(|part| assert!(page.contains(part), "{part:?} is not on the page:\n{page}"));
    }

    #[test]
    fn every_number_of_the_evaluation_has_its_cell_with_its_interval() {
        let runs = vec![of("random", 20, 1, 0.70), of("random", 20, 2, 0.80), of("pretrained", 20, 1, 0.9)];
        let page = made(runs, Audience::Site);
        holds(
            &page,
            &["<td>0.750 ± 0.071<small>[0.700, 0.800]</small></td>", "<td>0.900<small>[0.850, 0.950]</small></td>"],
        );
        holds(&page, &["<th scope=\"row\">LV</th>", "<td>0.931 ± 0.000<small>[0.921, 0.941]</small></td>"]);
        holds(&page, &["<td>6.5<small>[4.5, 8.5]</small><small>bias +3.5<br>limits −11.2 to +18.2</small></td>"]);
        holds(&page, &["<td>1, 2</td><td>6</td>", "A: LV EDV, n = 6", "B: LV EDV, n = 6"]);
        assert_eq!(page.matches("<circle").count(), 12, "each arm's six subjects");
    }

    #[test]
    fn a_page_opens_offline_and_what_people_called_things_is_text() {
        let run = with(of("<b>arm", 20, 1, 0.7), |told| {
            told.task.about = "<script>alert(1)</script>".to_owned();
            told.task.classes[0] = "<i>LV".to_owned();
        });
        for audience in [Audience::Site, Audience::Elsewhere] {
            let page = made(vec![run.clone(), disease([[6, 1], [1, 6]])], audience);
            assert!(!page.contains("http") && !page.contains("url(") && !page.contains("@import"));
            assert!(!page.contains("<script") && !page.contains("<b>arm") && !page.contains("<i>LV"));
            let sources = page.matches("src=").count() + page.matches("href=").count();
            assert_eq!(
                sources,
                page.matches("src=\"data:image/png;base64,").count() + page.matches("href=\"#task-").count()
            );
            holds(&page, &["&lt;script&gt;alert(1)&lt;/script&gt;", "&lt;b&gt;arm", "&lt;i&gt;LV"]);
        }
    }

    #[test]
    fn a_curve_has_a_point_for_each_of_the_evaluation_and_a_matrix_a_cell_for_each_count() {
        let page = made(vec![disease([[6, 1], [2, 7]])], Audience::Site);
        let points = page.split("class=\"curve c0\" points=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        assert_eq!(points.split(' ').count(), 5);
        // 250 pixels, 52 before the axis and 10 behind; 26 above and 38 below.
        assert!(points.starts_with("52.0,212.0 ") && points.ends_with(" 240.0,26.0"), "{points}");
        holds(&page, &["</span> 0.875</li>", "class=\"chance\" x1=\"52.0\" y1=\"212.0\" x2=\"240.0\" y2=\"26.0\""]);
        holds(&page, &[">6</td>", ">1</td>", ">2</td>", ">7</td>"]);
    }

    #[test]
    fn a_page_that_leaves_has_no_picture_no_subject_no_folder_and_no_small_count() {
        let page = made(vec![of("random", 23, 1, 0.7), disease([[17, 1], [2, 27]])], Audience::Elsewhere);
        holds(&page, &["Holds no image", "<td>≥ 20</td>", "n ≥ 5", "&lt; 5</td>", ">≥ 15</td>", ">≥ 25</td>"]);
        for held in ["<img", "<circle", "runs/random", ">23<", ">2</td>", "17<", "27<", "rgba", "Worst subject", "(ab)"]
        {
            assert!(!page.contains(held), "{held:?} leaves");
        }
        let page = made(vec![of("random", 23, 1, 0.7)], Audience::Site);
        holds(&page, &["Contains images: stays at this site", "<img", "runs/random", "<td>23</td>", "Worst subject"]);
    }

    #[test]
    fn what_fewer_than_five_stand_behind_is_not_told_elsewhere() {
        let rare = disease([[9, 0], [1, 2]]);
        let page = made(vec![rare.clone()], Audience::Elsewhere);
        assert!(!page.contains("<polyline"), "three are of the class");
        // The accuracy is over twelve; AUC (in two tables), sensitivity and what was not measured would tell of three.
        assert_eq!(page.matches("fewer than 5 subjects</span>").count(), 5, "{page}");
        holds(&page, &["<td>0.385 to 1.000<small></small></td>"]);
        assert!(made(vec![rare], Audience::Site).contains("<polyline"));

        let mut few = of("random", 20, 1, 0.7);
        few.measured.values.iter_mut().for_each(|value| value.subjects = 4);
        few.measured.agreements[0].pairs.truncate(4);
        few.measured.subjects = 4;
        let page = made(vec![few], Audience::Elsewhere);
        assert!(!page.contains("0.700") && !page.contains("6.5") && !page.contains("<svg"), "{page}");
    }

    /// A run of which all is measured that two classes of subjects have, by its table.
    fn counted(run: &mut Run, counts: [[u64; 2]; 2]) {
        let each = |truth: usize, said: usize| vec![(truth, said); counts[truth][said] as usize];
        let (truth, said): (Vec<_>, Vec<_>) =
            [each(0, 0), each(0, 1), each(1, 0), each(1, 1)].concat().into_iter().unzip();
        let table = Confusion::new(&truth, &said, 2).unwrap();
        let values = [
            (Metric::Accuracy, table.accuracy()),
            (Metric::BalancedAccuracy, table.balanced_accuracy()),
            (Metric::F1Macro, table.f1_macro()),
            (Metric::Sensitivity, table.sensitivity(1)),
            (Metric::Specificity, table.specificity(1)),
        ];
        let subjects = truth.len();
        let told = values.into_iter().filter_map(|(metric, value)| {
            Some(Value { metric, of: None, value: value?, interval: Some([0.1, 0.9]), subjects, missed: 0 })
        });
        run.measured.values = told.collect();
        run.measured.subjects = subjects;
        run.measured.confusion = counts.map(|row| row.to_vec()).to_vec();
    }

    #[test]
    fn from_what_a_page_that_leaves_shows_no_count_below_five_can_be_computed() {
        let metrics =
            [Metric::Accuracy, Metric::BalancedAccuracy, Metric::F1Macro, Metric::Sensitivity, Metric::Specificity];
        let mut arm = Arm { name: "arm".to_owned(), runs: vec![disease([[5, 5], [5, 5]])] };
        // For all that is shown, of each cell the counts that fit: the least and the most of them. Right calls up to 24
        // and wrong ones up to 9 are whole fives, so that nothing that fits is left out.
        let mut fitting: BTreeMap<String, [[u64; 2]; 4]> = BTreeMap::new();
        for (healthy, sick) in (0..25).flat_map(|healthy| (0..25).map(move |sick| (healthy, sick))) {
            for (found, missed) in (0..10).flat_map(|found| (0..10).map(move |missed| (found, missed))) {
                let counts = [[healthy, found], [missed, sick]];
                counted(&mut arm.runs[0], counts);
                let mut shown = Audience::Elsewhere.count(arm.first().measured.subjects);
                for metric in metrics {
                    shown += &told(&arm, metric, None, false, Audience::Elsewhere);
                }
                shown += &confusion::table(arm.first(), Audience::Elsewhere, "").unwrap_or_default();
                if Audience::Elsewhere.sees_class(arm.first(), 1) {
                    shown += &format!("{:?}", Audience::Elsewhere.curve_steps(arm.first(), 1));
                    shown += &format!("{:?}", Audience::Elsewhere.area_decimals(arm.first(), 1));
                }
                let fits = fitting.entry(shown).or_insert([[u64::MAX, 0]; 4]);
                for (fits, count) in fits.iter_mut().zip(counts.as_flattened()) {
                    *fits = [fits[0].min(*count), fits[1].max(*count)];
                }
            }
        }
        for (shown, fits) in &fitting {
            assert!(fits.iter().all(|[least, most]| *least >= 5 || least < most), "{fits:?} of {shown}");
        }
        assert!(fitting.len() > 100, "and yet it tells tables apart: {}", fitting.len());
    }

    #[test]
    fn a_class_that_one_subject_has_is_not_on_a_page_that_leaves_whatever_number_of_frames_he_has() {
        let mut run = disease([[60, 0], [9, 8]]);
        run.told.task.kind = TaskKind::Classification;
        (run.measured.of_class, run.measured.behind) = (vec![[12, 1], [1, 12]], vec![vec![12, 0], vec![1, 1]]);
        let page = made(vec![run.clone()], Audience::Elsewhere);
        assert!(!page.contains("<polyline") && !page.contains("0.875"), "{page}");
        assert_eq!(page.matches("&lt; 5</td>").count(), 3, "{page}");
        holds(&page, &[">≥ 60</td>"]);
        let page = made(vec![run.clone()], Audience::Site);
        holds(&page, &["<polyline", "0.875", ">60</td>", ">9</td>", ">8</td>"]);
        // Of a file that does not say whose the frames are nothing is told.
        (run.measured.of_class, run.measured.behind) = (Vec::new(), Vec::new());
        assert!(!made(vec![run], Audience::Elsewhere).contains("≥ 60"));
    }
}
