//! The report folder: one page that opens offline, its pictures beside it.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::chart::{Chart, Series, escaped};

/// All that the page shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// One sentence on what was run.
    pub summary: String,
    /// ln K: the entropy and the loss of the uniform solution.
    pub ln_k: f64,
    /// The sites that trained, then the unseen one.
    pub sites: Vec<SiteReport>,
    /// The rounds, in order.
    pub rounds: Vec<RoundReport>,
    /// What the last model learned.
    pub table: Vec<Row>,
    /// What is to be said of these numbers.
    pub notes: Vec<String>,
    /// Names and values of the run: digests, times, bytes.
    pub facts: Vec<(String, String)>,
}

/// One site's images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteReport {
    /// Its name.
    pub name: String,
    /// What kind of hospital it is.
    pub description: String,
    /// Frames by class, as the intake counted them.
    pub census: Vec<(String, u64)>,
    /// Picture of sample frames, relative to the page.
    pub samples: Option<String>,
    /// Picture of the attention of the CLS token on held-out frames, relative to the page.
    pub attention: Option<String>,
}

/// One round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundReport {
    /// Its number.
    pub round: u32,
    /// SHA-256 of the model it made.
    pub model: String,
    /// Who contributed.
    pub sites: Vec<Contribution>,
    /// Who did not, and why.
    pub left_out: Vec<(String, String)>,
}

/// One site's part in a round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contribution {
    /// The site.
    pub site: String,
    /// Its share of the mean.
    pub share: f64,
    /// Loss, in nats.
    pub loss: f64,
    /// Teacher entropy, in nats.
    pub teacher_entropy: f64,
    /// Entropy of the teacher's mean output over a batch, in nats.
    pub batch_entropy: f64,
    /// RankMe of its features.
    pub rank_me: f64,
    /// Cosine of its delta to the mean delta.
    pub cosine: f64,
}

/// k-NN accuracy at one site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The site.
    pub site: String,
    /// What is predicted.
    pub task: String,
    /// Classes at this site.
    pub classes: usize,
    /// Held-out subjects and images behind each figure.
    pub subjects: usize,
    /// Images behind each figure.
    pub images: usize,
    /// Accuracy of the network at its random initialisation.
    pub random: f64,
    /// Accuracy of the federated model.
    pub federated: f64,
}

/// Writes `index.html` and `report.json` into `folder`.
pub fn write(report: &Report, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("report.json"), serde_json::to_vec_pretty(report)?)?;
    fs::write(folder.join("index.html"), page(report))
}

/// The table as the terminal shows it.
pub fn table_text(rows: &[Row]) -> String {
    let mut text = String::from(
        "  site                 predicted                 classes  subjects  images   random  federated   gain\n  \
         ───────────────────  ────────────────────────  ───────  ────────  ──────  ───────  ─────────  ─────\n",
    );
    for row in rows {
        text += &format!(
            "  {:<19}  {:<24}  {:>7}  {:>8}  {:>6}  {:>6.1}%  {:>8.1}%  {:>+5.1}\n",
            row.site,
            row.task,
            row.classes,
            row.subjects,
            row.images,
            row.random * 100.0,
            row.federated * 100.0,
            (row.federated - row.random) * 100.0
        );
    }
    text
}

fn page(report: &Report) -> String {
    let mut body =
        format!("<h1>One foundation model, and no image shared</h1><p class=\"lead\">{}</p>", escaped(&report.summary));
    body += "<h2>What the model learned</h2>";
    body += "<p>Accuracy of a k-nearest-neighbor vote (k = 20, cosine, T = 0.07) on frozen CLS features of subjects that no \
             training saw. Each site votes with its own training subjects: no image is compared across sites.</p>";
    body += &knn_table(&report.table);
    body += &list(&report.notes);
    body += "<h2>How training went</h2><div class=\"charts\">";
    body += &curves(report, "loss (nats)", |part| part.loss, None);
    body += &curves(report, "teacher entropy (nats)", |part| part.teacher_entropy, Some(report.ln_k));
    body += &curves(report, "entropy of its mean over a batch (nats)", |part| part.batch_entropy, Some(report.ln_k));
    body += &curves(report, "RankMe of CLS features", |part| part.rank_me, None);
    body += &curves(report, "cosine of a site's delta to the mean", |part| part.cosine, None);
    body += "</div><p>Where both entropies meet, every image looks alike to the teacher: at ln K it spreads over all \
         prototypes (the uniform solution), near 0 it has chosen one.</p>";
    body += "<h2>The sites</h2><figure><img src=\"phantom.png\" alt=\"phantom\"><figcaption>The phantom: one subject at each \
             scanner (A, B, C, D from above). Cine short axis at base, middle and apex, the middle at end-systole, 2CH, 3CH, \
             4CH, late enhancement, T1 map. A dark tile: that site does not scan it.</figcaption></figure>";
    for site in &report.sites {
        body += &site_section(site);
    }
    body += "<h2>Rounds</h2>";
    body += &rounds_table(&report.rounds);
    body += "<h2>This run</h2><table>";
    for (name, value) in &report.facts {
        body += &format!("<tr><th scope=\"row\">{}</th><td class=\"fact\">{}</td></tr>", escaped(name), escaped(value));
    }
    body +=
        "</table><p class=\"foot\">Synthetic images of a phantom heart. Research software; not a medical device.</p>";
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>CMR federation: report</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body><main>{body}</main></body></html>"
    )
}

fn knn_table(rows: &[Row]) -> String {
    let mut html = String::from(
        "<table><thead><tr><th>site</th><th>predicted</th><th>classes</th><th>subjects</th><th>images</th>\
         <th>random initialisation</th><th>federated</th><th>gain (points)</th></tr></thead><tbody>",
    );
    for row in rows {
        let gain = (row.federated - row.random) * 100.0;
        html += &format!(
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.1} %</td><td>{:.1} %</td>\
             <td class=\"{}\">{gain:+.1}</td></tr>",
            escaped(&row.site),
            escaped(&row.task),
            row.classes,
            row.subjects,
            row.images,
            row.random * 100.0,
            row.federated * 100.0,
            if gain < 0.0 { "down" } else { "up" },
        );
    }
    html + "</tbody></table>"
}

fn curves(report: &Report, title: &str, meter: fn(&Contribution) -> f64, reference: Option<f64>) -> String {
    let trained =
        report.sites.iter().filter(|site| report.rounds.iter().any(|round| part(round, &site.name).is_some()));
    let series = trained.zip('a'..).map(|(site, color)| {
        let points =
            report.rounds.iter().filter_map(|round| Some((f64::from(round.round), meter(part(round, &site.name)?))));
        Series { name: site.name.clone(), color, points: points.collect() }
    });
    let reference = reference.map(|value| (value, "ln K".to_owned()));
    let chart = Chart { title: title.to_owned(), x_label: "round".to_owned(), series: series.collect(), reference };
    format!("<figure>{}</figure>", chart.svg())
}

fn part<'a>(round: &'a RoundReport, site: &str) -> Option<&'a Contribution> {
    round.sites.iter().find(|part| part.site == site)
}

fn site_section(site: &SiteReport) -> String {
    let mut html = format!("<section><h3>{}</h3><p>{}</p>", escaped(&site.name), escaped(&site.description));
    let census: Vec<_> = site.census.iter().map(|(class, count)| format!("{} {count}", escaped(class))).collect();
    html += &format!("<p class=\"census\">Frames: {}</p>", census.join(" · "));
    for (file, caption) in [
        (&site.samples, "Sample frames as the network sees them, after normalisation, one column a class."),
        (
            &site.attention,
            "Held-out frames, and where the CLS token of the last block looks (mean over heads, bright is more).",
        ),
    ] {
        if let Some(file) = file {
            let file = escaped(file);
            html +=
                &format!("<figure><img src=\"{file}\" alt=\"{caption}\"><figcaption>{caption}</figcaption></figure>");
        }
    }
    html + "</section>"
}

fn rounds_table(rounds: &[RoundReport]) -> String {
    let mut html = String::from(
        "<table><thead><tr><th>round</th><th>shares</th><th>left out</th><th>model (SHA-256)</th></tr></thead><tbody>",
    );
    for round in rounds {
        let shares: Vec<_> =
            round.sites.iter().map(|part| format!("{} {:.0} %", escaped(&part.site), part.share * 100.0)).collect();
        let left_out: Vec<_> =
            round.left_out.iter().map(|(site, why)| format!("{}: {}", escaped(site), escaped(why))).collect();
        let left_out = if left_out.is_empty() { "nobody".to_owned() } else { left_out.join("; ") };
        html += &format!(
            "<tr><td>{}</td><td>{}</td><td>{left_out}</td><td class=\"fact\">{}</td></tr>",
            round.round,
            shares.join(" · "),
            escaped(&round.model)
        );
    }
    html + "</tbody></table>"
}

fn list(notes: &[String]) -> String {
    let items: String = notes.iter().map(|note| format!("<li>{}</li>", escaped(note))).collect();
    format!("<ul>{items}</ul>")
}

const STYLE: &str = "
:root{--ink:#1c2733;--soft:#5b6875;--rule:#d9dfe5;--paper:#fff;--a:#0b6e99;--b:#c0392b;--c:#2e7d4f;--d:#8e5ea2}
@media (prefers-color-scheme:dark){:root{--ink:#e6ebf0;--soft:#9aa7b4;--rule:#33404d;--paper:#12181f;--a:#5bb8e0;--b:#ef8377;--c:#7bc99a;--d:#c79bdb}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:1000px;margin:0 auto;padding:32px 20px 64px}
h1{font-size:30px;line-height:1.2;margin:0 0 8px}h2{margin:40px 0 8px;font-size:21px}h3{margin:24px 0 4px;font-size:17px}
.lead{font-size:18px;color:var(--soft);max-width:70ch}p,li{max-width:75ch}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:14px}
th,td{text-align:right;padding:6px 8px;border-bottom:1px solid var(--rule);vertical-align:top}
th:first-child,td:first-child,th:nth-child(2),td:nth-child(2){text-align:left}th{font-weight:600;color:var(--soft)}
.fact{font-family:ui-monospace,monospace;font-size:12px;word-break:break-all;text-align:left}
.up{color:var(--c)}.down{color:var(--b)}.census,.foot,figcaption{color:var(--soft);font-size:14px}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(380px,1fr));gap:16px}
figure{margin:12px 0}img{max-width:100%;image-rendering:pixelated;background:#000;border-radius:4px}svg{width:100%;height:auto}
svg text{font:12px system-ui,sans-serif;fill:var(--soft)}svg .title{font-size:14px;font-weight:600;fill:var(--ink)}
.grid{stroke:var(--rule)}.reference{stroke:var(--soft);stroke-dasharray:4 3}.line{fill:none;stroke-width:2}
.line.a{stroke:var(--a)}.line.b{stroke:var(--b)}.line.c{stroke:var(--c)}.line.d{stroke:var(--d)}
.dot.a{fill:var(--a)}.dot.b{fill:var(--b)}.dot.c{fill:var(--c)}.dot.d{fill:var(--d)}
svg .name.a{fill:var(--a)}svg .name.b{fill:var(--b)}svg .name.c{fill:var(--c)}svg .name.d{fill:var(--d)}
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_opens_offline_and_shows_what_a_site_called_itself_as_text() {
        let report = Report {
            summary: "a <b>run</b>".to_owned(),
            ln_k: 5.5,
            sites: vec![],
            rounds: vec![RoundReport {
                round: 1,
                model: "00".to_owned(),
                sites: vec![Contribution {
                    site: "a".to_owned(),
                    share: 0.5,
                    loss: 5.0,
                    teacher_entropy: 4.0,
                    batch_entropy: 5.0,
                    rank_me: 9.0,
                    cosine: 0.9,
                }],
                left_out: vec![("b".to_owned(), "did not report in time".to_owned())],
            }],
            table: vec![],
            notes: vec![],
            facts: vec![],
        };
        let page = page(&report);
        assert!(page.contains("a &lt;b&gt;run&lt;/b&gt;") && page.contains("b: did not report in time"));
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("<script"));
    }
}
