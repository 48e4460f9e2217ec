//! The main job, end to end: three phantom hospitals, real programs, real mutual TLS, one foundation model.
//!
//! Every step looks at what is there already, so that an interrupted demo goes on with `--resume`.

pub mod chart;
pub mod live;
pub mod memory;
pub mod report;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::federation::Federation;
use crate::phantom::{self, SiteSpec};
use crate::programs::Programs;
use report::{Contribution, Report, RoundReport, Row, SiteReport};

/// What to run, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Folder of images, state, model and report.
    pub out: PathBuf,
    /// Go on with what is there.
    pub resume: bool,
    /// Seed of the phantom.
    pub seed: u64,
    /// The plan (TOML); the demo's own without.
    pub plan: Option<PathBuf>,
}

/// A hospital of the demo.
struct Hospital {
    /// Its site id.
    site: &'static str,
    /// What kind of hospital it is.
    description: &'static str,
    /// Whether a plan may invite it, or it is only evaluated on.
    may_train: bool,
    /// Its phantom.
    spec: fn() -> SiteSpec,
}

impl Hospital {
    /// Whether the plan invites it. One that it does not is evaluated on, as one that no plan may.
    fn trains(&self, draft: &common::PlanDraft) -> bool {
        draft.rounds.sites.iter().any(|site| site.as_str() == self.site)
    }
}

const HOSPITALS: [Hospital; 4] = [
    Hospital {
        site: "site-a",
        description: "A cohort study in the shape of UK Biobank: healthy volunteers, Siemens 1.5 T, cine and T1 maps, no contrast agent. Zips of flat DICOM files with a manifest.",
        may_train: true,
        spec: || SiteSpec::a(24),
    },
    Hospital {
        site: "site-b",
        description: "A tertiary center, Philips 3 T: infarcts and dilated hearts, cine and PSIR late enhancement, banding and strong coil shading. Folders of a hospital export.",
        may_train: true,
        spec: || SiteSpec::b(24),
    },
    Hospital {
        site: "site-c",
        description: "A community hospital, GE 1.5 T: noisy, zero-filled images, many long axes, thick hearts. Folders of a hospital export in implicit VR.",
        may_train: true,
        spec: || SiteSpec::c(24),
    },
    Hospital {
        site: "unseen-d",
        description: "A vendor that no training saw, Canon 3 T: free-text descriptions, strong bias field. Evaluation only; it never enrols.",
        may_train: false,
        spec: || SiteSpec::d(24),
    },
];

const PLAN: &str = include_str!("../../plans/demo.toml");

/// Longest the demo waits for one run.
const RUN_WITHIN: Duration = Duration::from_secs(3600);

/// Runs the demo.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let began = Instant::now();
    let memory = memory::Watch::begin();
    let out = &options.out;
    let begun = out.join("plan.toml").exists();
    if begun && !options.resume {
        bail!(
            "{} holds a demo already: `cargo demo --resume` goes on with it, or remove the folder to start over",
            out.display()
        );
    }
    if options.resume && !begun {
        bail!("{} holds no demo to go on with: run `cargo demo` without --resume", out.display());
    }
    let plan = out.join("plan.toml");
    let seed_file = out.join("seed");
    let text = match (begun, &options.plan) {
        (true, _) => fs::read_to_string(&plan)?,
        (false, Some(plan)) => fs::read_to_string(plan).with_context(|| format!("reading {}", plan.display()))?,
        (false, None) => PLAN.to_owned(),
    };
    let draft: common::PlanDraft = toml::from_str(&text).context("in the demo's plan")?;
    draft.check()?;
    let may_train: Vec<&str> =
        HOSPITALS.iter().filter(|hospital| hospital.may_train).map(|hospital| hospital.site).collect();
    if let Some(other) = draft.rounds.sites.iter().find(|site| !may_train.contains(&site.as_str())) {
        bail!(
            "the plan invites {other}, but the demo's hospitals are {}: name these in rounds.sites",
            may_train.join(", ")
        );
    }
    fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    if !begun {
        fs::write(&seed_file, options.seed.to_string())?;
        fs::write(&plan, text)?;
    }
    let seed =
        fs::read_to_string(&seed_file).context("reading the seed that the demo was begun with")?.trim().parse()?;
    println!("building the programs that are not built yet: minutes the first time");
    Programs::build()?;

    heading("1/6", "images: a phantom heart at four hospitals, as DICOM files");
    let images = make_images(out, seed)?;

    heading("2/6", "the federation: a CA, an aggregator, sites enrolled by CSR with single-use invitations");
    let mut federation = Federation::open_or_create(out)?;
    federation.start_aggregator()?;
    println!("  aggregator listening on {} (TLS 1.3, mutual)", federation.address());
    for hospital in HOSPITALS.iter().filter(|hospital| hospital.trains(&draft)) {
        if !federation.site_state(hospital.site).join("identity/site.crt").exists() {
            federation.enrol(hospital.site)?;
            println!("  {} enrolled; its key never left its folder", hospital.site);
        }
    }

    heading("3/6", "intake: DICOM to normalised frames, each site for itself");
    for hospital in &HOSPITALS {
        federation.seed_secret(hospital.site, seed)?;
    }
    let intakes = index(&federation, &images, &plan)?;

    heading("4/6", "federated DINO pretraining");
    let trained = train(&mut federation, &draft, &plan)?;

    heading("5/6", "evaluation: k-NN on held-out subjects, random initialisation against federated model");
    let (rows, sites, evaluated) = evaluate(&federation, &draft, out, &plan, &intakes)?;
    println!("{}", report::table_text(&rows));

    heading("6/6", "report");
    let model = out.join("model.safetensors");
    let (last, plan_text) = (out.join("last-model.safetensors").display().to_string(), plan.display().to_string());
    let exported = ["export", &last, "--plan", &plan_text, "--out", &model.display().to_string()].map(str::to_owned);
    federation.at_site("site-a", &exported.each_ref().map(String::as_str))?;
    let page = Report {
        summary: summary(&draft, &intakes),
        ln_k: (draft.model.head.prototypes as f64).ln(),
        sites,
        rounds: rounds(&trained.run),
        notes: notes(&draft, &rows, &trained.run),
        facts: facts(
            &draft,
            &trained,
            &intakes,
            &model,
            &Cost { evaluated_s: evaluated, elapsed: began.elapsed(), most_bytes: memory.most() },
        ),
        table: rows,
    };
    for note in &page.notes {
        println!("  · {note}");
    }
    report::write(&page, &out.join("report"))?;
    println!("\n  report  {}", out.join("report/index.html").display());
    println!("  model   {} (and its card beside)", model.display());
    println!("  took    {:.0} s, at most {} MiB of memory", began.elapsed().as_secs_f64(), memory.most() >> 20);
    Ok(())
}

fn heading(number: &str, what: &str) {
    println!("\n[{number}] {what}");
}

/// Images of every hospital, unless they are there.
fn make_images(out: &Path, seed: u64) -> anyhow::Result<Vec<(&'static Hospital, PathBuf)>> {
    let mut made = Vec::new();
    for hospital in &HOSPITALS {
        let folder = out.join("images").join(hospital.site);
        let finished = folder.join("finished");
        if !finished.exists() {
            let began = Instant::now();
            let truth = phantom::write_site(&(hospital.spec)(), seed, &folder, &|_| {})?;
            fs::write(&finished, b"")?;
            let (subjects, images, seconds) =
                (truth.subjects.len(), truth.image_count(), began.elapsed().as_secs_f64());
            println!("  {:8}  {subjects:3} subjects  {images:5} images  {seconds:5.1} s", hospital.site);
        }
        made.push((hospital, phantom::dicom_folder(&folder)));
    }
    let sheet = out.join("report/phantom.png");
    if !sheet.exists() {
        fs::create_dir_all(out.join("report"))?;
        phantom::write_sheet(&sheet, seed)?;
    }
    Ok(made)
}

/// What the intake of one hospital said.
struct Intake {
    hospital: &'static Hospital,
    report: Value,
}

fn index(federation: &Federation, images: &[(&'static Hospital, PathBuf)], plan: &Path) -> anyhow::Result<Vec<Intake>> {
    let plan = plan.display().to_string();
    let mut intakes = Vec::new();
    for (hospital, folder) in images {
        let began = Instant::now();
        let source = folder.display().to_string();
        let text = federation.at_site(hospital.site, &["index", &source, "--plan", &plan, "--json"])?;
        let report: Value = serde_json::from_str(text.trim()).context("reading the intake's report")?;
        let seconds = began.elapsed().as_secs_f64();
        let number = |key: &str| report[key].as_u64().unwrap_or_default();
        println!(
            "  {:8}  {:5} files  {:3} subjects  {:4} series  {:5} images  {:6.0} images/s",
            hospital.site,
            number("files"),
            number("subjects"),
            number("series"),
            number("images"),
            number("images") as f64 / seconds
        );
        intakes.push(Intake { hospital, report });
    }
    Ok(intakes)
}

/// What training left behind.
struct Trained {
    run: Value,
    /// Seconds of training, unless a part of it was done before this demo was resumed.
    seconds: Option<f64>,
}

/// What the demo took.
struct Cost {
    evaluated_s: f64,
    elapsed: Duration,
    most_bytes: u64,
}

fn train(federation: &mut Federation, draft: &common::PlanDraft, plan: &Path) -> anyhow::Result<Trained> {
    let sites: Vec<_> =
        HOSPITALS.iter().filter(|hospital| hospital.trains(draft)).map(|hospital| hospital.site).collect();
    let name = draft.run.as_str();
    let begun = find_run(&federation.status()?, name);
    let digest = match &begun {
        Some(run) => run["plan"].as_str().unwrap_or_default().to_owned(),
        None => federation.start_run(sites[0], plan)?,
    };
    println!("  plan {digest}");
    for site in &sites {
        federation.at_site(site, &["approve", &digest])?;
    }
    println!("  approved at {}", sites.join(", "));
    let began = Instant::now();
    for site in &sites {
        federation.start_agent(site)?;
    }
    let mut live = live::Live::new(&sites, u64::from(draft.rounds.count));
    let mut run = Value::Null;
    federation.wait_until("the end of the run", RUN_WITHIN, |federation| {
        if let Some(now) = find_run(&federation.status()?, name) {
            live.show(&now);
            run = now;
        }
        Ok(matches!(run["state"].as_str(), Some("finished" | "failed")))
    })?;
    live.finish();
    if run["state"] == "failed" {
        bail!("the run failed: {}", run["because"].as_str().unwrap_or("the aggregator's log says why"));
    }
    let seconds = began.elapsed().as_secs_f64();
    let root = plan.parent().unwrap_or(Path::new("."));
    let last = root.join("last-model.safetensors").display().to_string();
    federation.coordinator(&["model", "--run", name, "--out", &last])?;
    let resumed = if begun.is_some() { " since it was resumed" } else { "" };
    println!("  {} rounds in {seconds:.0} s{resumed}", draft.rounds.count);
    Ok(Trained { run, seconds: begun.is_none().then_some(seconds) })
}

fn find_run(status: &Value, name: &str) -> Option<Value> {
    status["runs"].as_array()?.iter().find(|run| run["run"] == name).cloned()
}

fn evaluate(
    federation: &Federation,
    draft: &common::PlanDraft,
    out: &Path,
    plan: &Path,
    intakes: &[Intake],
) -> anyhow::Result<(Vec<Row>, Vec<SiteReport>, f64)> {
    let began = Instant::now();
    let plan = plan.display().to_string();
    let (first, last) = ("first-model.safetensors", "last-model.safetensors");
    let (mut rows, mut sites) = (Vec::new(), Vec::new());
    for Intake { hospital, report } in intakes {
        let site = hospital.site;
        let pictures = out.join("report").join(site);
        let ask = |model: &str, pictures: Option<&Path>| -> anyhow::Result<Value> {
            let model = out.join(model).display().to_string();
            let pictures = pictures.map(|folder| folder.display().to_string());
            let mut arguments = vec!["evaluate", "--model", &model, "--plan", &plan, "--json"];
            arguments.extend(pictures.iter().flat_map(|folder| ["--pictures", folder]));
            Ok(serde_json::from_str(&federation.at_site(site, &arguments)?)?)
        };
        let (random, federated) = (ask(first, None)?, ask(last, Some(&pictures))?);
        let tasks = |value: &Value| value["tasks"].as_array().cloned().unwrap_or_default();
        let name = if hospital.trains(draft) { site.to_owned() } else { format!("{site} (unseen)") };
        for (before, after) in tasks(&random).iter().zip(&tasks(&federated)) {
            rows.push(Row {
                site: name.clone(),
                task: after["task"].as_str().unwrap_or_default().to_owned(),
                classes: after["classes"].as_u64().unwrap_or_default() as usize,
                subjects: federated["held_out_subjects"].as_u64().unwrap_or_default() as usize,
                images: federated["images"].as_u64().unwrap_or_default() as usize,
                random: before["accuracy"].as_f64().unwrap_or(f64::NAN),
                federated: after["accuracy"].as_f64().unwrap_or(f64::NAN),
            });
        }
        sites.push(SiteReport {
            name: site.to_owned(),
            description: hospital.description.to_owned(),
            census: census(report),
            samples: Some(format!("{site}/samples.png")),
            attention: Some(format!("{site}/attention.png")),
        });
    }
    rows.sort_by_key(|row| row.task.starts_with('…'));
    Ok((rows, sites, began.elapsed().as_secs_f64()))
}

fn census(report: &Value) -> Vec<(String, u64)> {
    let view = |view: &Value| {
        let class = format!("{} {}", view["sequence"].as_str()?, view["plane"].as_str()?);
        Some((class, view["frames"].as_u64()?))
    };
    report["views"].as_array().into_iter().flatten().filter_map(view).collect()
}

fn rounds(run: &Value) -> Vec<RoundReport> {
    let round = |round: &Value| {
        let number = |value: &Value, key: &str| value[key].as_f64().unwrap_or(f64::NAN);
        let part = |part: &Value| Contribution {
            site: part["site"].as_str().unwrap_or_default().to_owned(),
            share: number(part, "share"),
            loss: number(part, "loss"),
            teacher_entropy: number(part, "teacher_entropy"),
            batch_entropy: number(part, "batch_entropy"),
            rank_me: number(part, "rank_me"),
            cosine: number(part, "cosine"),
        };
        let left_out = |site: &Value| {
            let text = |key: &str| site[key].as_str().unwrap_or_default().to_owned();
            (text("site"), text("reason"))
        };
        RoundReport {
            round: round["round"].as_u64().unwrap_or_default() as u32,
            model: round["model"].as_str().unwrap_or_default().to_owned(),
            sites: round["sites"].as_array().into_iter().flatten().map(part).collect(),
            left_out: round["left_out"].as_array().into_iter().flatten().map(left_out).collect(),
        }
    };
    run["rounds"].as_array().into_iter().flatten().filter(|round| !round["model"].is_null()).map(round).collect()
}

fn summary(draft: &common::PlanDraft, intakes: &[Intake]) -> String {
    let trained: Vec<&Intake> = intakes.iter().filter(|intake| intake.hospital.trains(draft)).collect();
    let frames: u64 = trained.iter().map(|intake| intake.report["frames"].as_u64().unwrap_or_default()).sum();
    let hospitals = match trained.len() {
        1 => "One phantom hospital",
        2 => "Two phantom hospitals",
        _ => "Three phantom hospitals",
    };
    // The intake counts what is there: the frames of subjects that are held out as well.
    format!(
        "{hospitals} trained one Vision Transformer (dim {}, depth {}) with DINO in {} rounds of {} steps each, over mutual TLS on \
         loopback. Of {frames} frames, those of the training subjects were seen. No image left its site.",
        draft.model.dim, draft.model.depth, draft.rounds.count, draft.training.steps_per_round
    )
}

/// What is to be said of the numbers, good or bad.
fn notes(draft: &common::PlanDraft, rows: &[Row], run: &Value) -> Vec<String> {
    let ln_k = (draft.model.head.prototypes as f64).ln();
    let mean = |of: fn(&Row) -> f64| rows.iter().map(of).sum::<f64>() / rows.len().max(1) as f64;
    let gain = (mean(|row| row.federated) - mean(|row| row.random)) * 100.0;
    let rounds = rounds(run);
    let last = |of: fn(&Contribution) -> f64| {
        rounds
            .last()
            .map_or(f64::NAN, |round| round.sites.iter().map(of).sum::<f64>() / round.sites.len().max(1) as f64)
    };
    let (entropy, over_batch) = (last(|part| part.teacher_entropy), last(|part| part.batch_entropy));
    let astray: BTreeSet<&str> = run["rounds"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|round| round["alarms"].as_array().into_iter().flatten())
        .filter_map(|alarm| alarm["site"].as_str())
        .collect();
    let lost = rows.iter().filter(|row| row.federated < row.random).count();
    let learned = if gain >= 1.0 {
        format!(
            "On the mean over rows, the federated model gains {gain:.1} points over the same network at random initialisation; in \
             {lost} of {} rows it loses.",
            rows.len()
        )
    } else {
        format!(
            "On the mean over rows, the federated model does not beat random initialisation ({gain:+.1} points): random features are a strong baseline on phantoms."
        )
    };
    let said = format!(
        "In the last round the teacher's output holds {:.2} nats about an image: its mean entropy is {entropy:.2}, that of its \
         mean over a batch {over_batch:.2}, of at most {ln_k:.2}.",
        over_batch - entropy
    );
    let collapse = if over_batch - entropy > 0.1 * over_batch && entropy < 0.97 * ln_k && over_batch > 0.1 * ln_k {
        format!("{said} It has collapsed neither to all prototypes nor to one.")
    } else {
        format!("{said} That is at or near a collapse: look at the curves below.")
    };
    let alarms = if astray.is_empty() {
        "No site raised an alarm in any round: none collapsed, drifted or ran away.".to_owned()
    } else {
        format!(
            "Alarms were raised for {}: `aggregator status` says which, and when.",
            astray.into_iter().collect::<Vec<_>>().join(", ")
        )
    };
    vec![
        learned,
        collapse,
        alarms,
        "One seed, a small network, minutes of training, synthetic images: this shows that the federation works, not how good a CMR model can be.".to_owned(),
        "What pooled training and each site alone would have come to, on other seeds, is in docs/results/learning.md; `cargo lab` makes it again.".to_owned(),
    ]
}

fn facts(
    draft: &common::PlanDraft,
    trained: &Trained,
    intakes: &[Intake],
    model: &Path,
    cost: &Cost,
) -> Vec<(String, String)> {
    let steps = draft.total_steps() * draft.rounds.sites.len();
    let images = steps * draft.training.batch_size;
    let files: u64 = intakes.iter().map(|intake| intake.report["files"].as_u64().unwrap_or_default()).sum();
    let bytes = trained.run["rounds"][0]["sites"][0]["bytes"].as_u64().unwrap_or_default();
    let fact = |name: &str, value: String| (name.to_owned(), value);
    vec![
        fact("plan (SHA-256)", trained.run["plan"].as_str().unwrap_or_default().to_owned()),
        fact("backbone", model.display().to_string()),
        fact(
            "training",
            trained.seconds.map_or_else(
                || format!("{steps} optimizer steps, interrupted and resumed"),
                |seconds| {
                    let rate = images as f64 / seconds;
                    format!("{steps} optimizer steps in {seconds:.0} s: {rate:.0} images/s over all sites")
                },
            ),
        ),
        fact("DICOM files", files.to_string()),
        fact("bytes a site and round", format!("{bytes} up, about as many down")),
        fact("memory", format!("at most {} MiB, all processes together", cost.most_bytes >> 20)),
        fact("time", format!("{:.0} s, of which evaluation {:.0} s", cost.elapsed.as_secs_f64(), cost.evaluated_s)),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn draft(text: &str) -> common::PlanDraft {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_site_that_raised_alarms_in_two_rounds_is_named_once() {
        let round = json!({ "round": 1, "model": null, "alarms": [{ "site": "site-b" }, { "site": "site-b" }] });
        let notes = notes(&draft(PLAN), &[], &json!({ "rounds": [round, round] })).join("\n");
        assert!(notes.contains("Alarms were raised for site-b: "), "{notes}");
    }

    #[test]
    fn a_plan_of_two_hospitals_is_told_as_one_of_two_with_their_frames_alone() {
        let intakes: Vec<Intake> = HOSPITALS
            .iter()
            .zip([1, 20, 300, 4000])
            .map(|(hospital, frames)| Intake { hospital, report: json!({ "frames": frames }) })
            .collect();
        let told = summary(&draft(PLAN), &intakes);
        assert!(told.starts_with("Three phantom hospitals") && told.contains("Of 321 frames"), "{told}");
        let two = draft(&PLAN.replace(r#""site-a", "site-b", "site-c""#, r#""site-a", "site-c""#));
        let told = summary(&two, &intakes);
        assert!(told.starts_with("Two phantom hospitals") && told.contains("Of 301 frames"), "{told}");
        let trains: Vec<&str> =
            HOSPITALS.iter().filter(|hospital| hospital.trains(&two)).map(|hospital| hospital.site).collect();
        assert_eq!(trains, ["site-a", "site-c"]);
    }
}
