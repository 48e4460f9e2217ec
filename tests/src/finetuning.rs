//! What pretraining is worth to a hospital with labels: every task, from the federated backbone, from one that a hospital
//! pretrained alone, and from the same network at random; with all labels and with few; measured on the hospital's own
//! held-out patients and on those of a vendor that no training saw. By the real program on real DICOM files.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use common::task::Direction;
use common::{PlanDraft, Task};
use serde_json::Value;

use crate::learning::{arm::Arm, hospitals, simulation};
use crate::phantom::{self, SiteSpec};
use crate::programs::Programs;

/// The hospital's own patients: no pretraining saw them.
const PATIENTS_SEED: u64 = 77;
/// Fraction of them that is measured and nothing else.
const HELD_OUT: f64 = 0.4;
/// The same of the unseen vendor's, of whom none trains: as many as a site may hold out.
const HELD_OUT_UNSEEN: f64 = 0.9;
/// Subjects of a few-shot training.
pub const FEW: usize = 5;

/// What a training begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Beginning {
    /// The network as it starts.
    Random,
    /// A backbone that one hospital of the same vendor pretrained by itself, with as many optimizer steps.
    Local,
    /// A backbone of the federation.
    Federated,
}

impl fmt::Display for Beginning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Random => "random",
            Self::Local => "local",
            Self::Federated => "federated",
        })
    }
}

impl Beginning {
    /// The laboratory's arm that makes such a backbone.
    fn laboratory(self) -> Option<&'static str> {
        match self {
            Self::Random => None,
            Self::Local => Some("alone-b"),
            Self::Federated => Some("federated"),
        }
    }
}

/// Where a training is measured: on patients that no training of any kind saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    /// Held-out patients of the hospital that trained.
    Home,
    /// A hospital of another vendor.
    Unseen,
}

impl At {
    const BOTH: [Self; 2] = [Self::Home, Self::Unseen];

    /// Its state folder, its images and labels, and its trainings' folder.
    fn folders(self) -> [&'static str; 3] {
        match self {
            Self::Home => ["state", "hospital", "runs"],
            Self::Unseen => ["state-unseen", "hospital-unseen", "runs-unseen"],
        }
    }
}

/// One training and its measurement.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// The task, by its place.
    pub task: usize,
    /// What it begins with.
    pub beginning: Beginning,
    /// On few subjects.
    pub few: bool,
    /// Draws the head, the batches, and the random backbone.
    pub seed: u64,
}

/// The experiment's folder and what is in it.
pub struct Bench {
    root: PathBuf,
    program: PathBuf,
    /// The tasks, in the paper's order.
    pub tasks: Vec<Task>,
}

impl Bench {
    /// Makes a hospital of `subjects` patients in `root`, and one of half as many of the unseen vendor, unless they are there;
    /// `plan` is the network's, on a finer grid.
    pub fn prepare(root: &Path, plan: &PlanDraft, subjects: usize) -> anyhow::Result<Self> {
        let (root, program) = (root.to_owned(), Programs::build()?.site_agent);
        let bench = Self { root, program, tasks: site_agent::tasks::built_in() };
        let hospitals = [
            (At::Home, SiteSpec::b(subjects), PATIENTS_SEED, HELD_OUT),
            (At::Unseen, SiteSpec::d(subjects.div_ceil(2)), PATIENTS_SEED + 1, HELD_OUT_UNSEEN),
        ];
        for (at, spec, seed, held_out) in hospitals {
            let [state, hospital, _] = at.folders();
            let indexed = bench.root.join(state).join("indexed");
            if !indexed.exists() {
                fs::create_dir_all(bench.root.join(state).join("images"))?;
                fs::write(bench.root.join("plan.toml"), toml::to_string(plan)?)?;
                fs::write(bench.root.join(state).join("site-agent.toml"), format!("held_out = {held_out}\n"))?;
                phantom::write_site(&spec.all_tasks(), seed, &bench.root.join(hospital), &|_| {})?;
                bench.run(at, &["index", &format!("{{}}/{hospital}/dicom"), "--plan", "{}/plan.toml"])?;
                fs::write(indexed, b"")?;
            }
        }
        Ok(bench)
    }

    /// A backbone to begin with: the laboratory's arm of a seed, trained here unless it is there; none for random weights.
    pub fn pretrain(&self, beginning: Beginning, plan: &PlanDraft, seed: u64) -> anyhow::Result<Option<PathBuf>> {
        let Some(arm) = beginning.laboratory() else { return Ok(None) };
        let (images, folder) = (self.root.join(format!("seed-{seed}")), self.root.join("pretrained").join(arm));
        let last = folder.join(format!("model-{}.safetensors", plan.rounds.count));
        if !last.exists() {
            fs::create_dir_all(&images)?;
            hospitals::prepare(&images, seed, &plan.images)?;
            let arm: Arm = arm.parse().map_err(anyhow::Error::msg)?;
            let setting = simulation::Setting { images, held_out: HELD_OUT, points: 2 };
            simulation::run(&arm, &PlanDraft { seed, ..plan.clone() }, &setting, &folder)?;
        }
        Ok(Some(last))
    }

    /// All trainings: each task from each beginning, on all subjects and on few, with every seed.
    pub fn cells(&self, beginnings: &[Beginning], seeds: &[u64]) -> Vec<Cell> {
        let mut cells = Vec::new();
        for task in 0..self.tasks.len() {
            for few in [false, true] {
                for &beginning in beginnings {
                    cells.extend(seeds.iter().map(|&seed| Cell { task, beginning, few, seed }));
                }
            }
        }
        cells
    }

    /// Trains and measures one, unless it was done before, with so many steps if it answers for every pixel; the value of the
    /// task's best metric on the hospital's own held-out subjects and on the unseen vendor's.
    pub fn measure(
        &self,
        cell: &Cell,
        backbone: Option<&Path>,
        dense_steps: usize,
    ) -> anyhow::Result<BTreeMap<At, Option<f64>>> {
        let task = &self.tasks[cell.task];
        let measured = |at: At| self.root.join(&self.folder(at, cell)[3..]).join("evaluation.json");
        if !measured(At::Home).exists() {
            let (arm, out) = (cell.beginning.to_string(), self.folder(At::Home, cell));
            let dense = task.input.scale > 1;
            // A small network and few steps: faster, and with fewer frames, than the tasks' own settings are.
            let (rate, batch) = if dense { ("1e-2", "8") } else { ("5e-3", "16") };
            let batch = if task.input.phases.is_empty() && task.training.batch_size > 8 { batch } else { "8" };
            let (init, seed) = (backbone.map(|path| path.display().to_string()), cell.seed.to_string());
            let (init, few) = (init.as_deref().unwrap_or("random"), FEW.to_string());
            let mut words = vec!["finetune", "--task", task.name.as_str(), "--init", init, "--plan", "{}/plan.toml"];
            words.extend(["--labels", "{}/hospital/labels", "--out", &out, "--seed", &seed, "--arm", &arm, "--json"]);
            let steps = if dense { dense_steps.to_string() } else { "200".to_owned() };
            words.extend(["--steps", &steps, "--batch-size", batch, "--learning-rate", rate]);
            if cell.few {
                words.extend(["--subjects", &few]);
            }
            self.run(At::Home, &words)?;
            self.evaluate(At::Home, &out)?;
        }
        if !measured(At::Unseen).exists() {
            let out = self.folder(At::Unseen, cell);
            let at = |folder: &str| self.root.join(&folder[3..]);
            copy_folder(&at(&self.folder(At::Home, cell)), &at(&out))?;
            self.evaluate(At::Unseen, &out)?;
        }
        let metric = serde_json::to_value(task.best.metric)?;
        let value = |at: At| -> anyhow::Result<Option<f64>> {
            let told: Value = serde_json::from_slice(&fs::read(measured(at))?)?;
            let mut values = told["values"].as_array().into_iter().flatten();
            let best = values.find(|value| value["metric"] == metric && value["of"].is_null());
            Ok(best.and_then(|value| value["value"].as_f64()))
        };
        At::BOTH.into_iter().map(|at| Ok((at, value(at)?))).collect()
    }

    fn evaluate(&self, at: At, out: &str) -> anyhow::Result<()> {
        let [_, hospital, _] = at.folders();
        self.run(at, &["evaluate", "--finetuned", out, "--labels", &format!("{{}}/{hospital}/labels"), "--json"])
    }

    /// Writes a page for each place on all of these; the phantom's images may be shown to anyone.
    pub fn report(&self, cells: &[Cell]) -> anyhow::Result<Vec<PathBuf>> {
        let pages = [
            (At::Home, "report.html", "Clinical tasks at a phantom hospital"),
            (At::Unseen, "report-unseen.html", "Clinical tasks on a vendor that no training saw"),
        ];
        let page = |(at, name, title): (At, &str, &str)| {
            let folders: Vec<String> = cells.iter().map(|cell| self.folder(at, cell)).collect();
            let [_, hospital, _] = at.folders();
            let (out, labels) = (format!("{{}}/{name}"), format!("{{}}/{hospital}/labels"));
            let mut words = vec!["report", "--out", &out, "--title", title, "--with-images", "--labels", &labels];
            words.extend(folders.iter().map(String::as_str));
            self.run(at, &words)?;
            Ok(self.root.join(name))
        };
        pages.into_iter().map(page).collect()
    }

    /// Where one is trained, or measured again, below the experiment's folder.
    fn folder(&self, at: At, cell: &Cell) -> String {
        let (budget, [_, _, runs]) = (if cell.few { "few" } else { "all" }, at.folders());
        format!("{{}}/{runs}/{}-{}-{budget}-{}", self.tasks[cell.task].name, cell.beginning, cell.seed)
    }

    fn run(&self, at: At, words: &[&str]) -> anyhow::Result<()> {
        let root = self.root.display().to_string();
        let words: Vec<String> = words.iter().map(|word| word.replace("{}", &root)).collect();
        let [state, ..] = at.folders();
        let state = self.root.join(state).display().to_string();
        let all: Vec<&str> = ["--state", &state].into_iter().chain(words.iter().map(String::as_str)).collect();
        // One thread each, as many trainings side by side as there are cores.
        let output = Command::new(&self.program).args(&all).env("RAYON_NUM_THREADS", "1").output();
        let output = output.with_context(|| words.join(" "))?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "`site-agent {}` failed:\n{said}", words.join(" "));
        Ok(())
    }
}

/// The files of one folder in another.
fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() && entry.file_name() != "evaluation.json" {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// What was found of each training, where.
pub type Found = BTreeMap<Cell, BTreeMap<At, Option<f64>>>;

/// The tables, and what they say.
pub fn tables(tasks: &[Task], found: &Found, beginnings: &[Beginning], seeds: &[u64]) -> String {
    let own = table(tasks, found, At::Home, beginnings, seeds);
    let unseen = table(tasks, found, At::Unseen, beginnings, seeds);
    format!(
        "Held-out patients of the hospital that trained:\n\n{own}\nPatients of a vendor that no training saw:\n\n{unseen}"
    )
}

fn table(tasks: &[Task], found: &Found, at: At, beginnings: &[Beginning], seeds: &[u64]) -> String {
    let columns: Vec<(Beginning, bool)> =
        [false, true].into_iter().flat_map(|few| beginnings.iter().map(move |&beginning| (beginning, few))).collect();
    let heads = columns.iter().map(|(beginning, few)| format!(" {beginning}, {} |", if *few { "few" } else { "all" }));
    let mut text =
        format!("| task | metric |{}\n|---|---|{}\n", heads.collect::<String>(), "--:|".repeat(columns.len()));
    let mut gains = BTreeMap::<(bool, Beginning), [usize; 2]>::new();
    for (place, task) in tasks.iter().enumerate() {
        let of = |(beginning, few): (Beginning, bool)| -> Vec<f64> {
            let cell =
                |&seed: &u64| found.get(&Cell { task: place, beginning, few, seed })?.get(&at).copied().flatten();
            seeds.iter().filter_map(cell).collect()
        };
        let told = |&column: &(Beginning, bool)| format!(" {:.3} ± {:.3} |", mean(&of(column)), deviation(&of(column)));
        let cells: String = columns.iter().map(told).collect();
        text += &format!("| {} | {} |{cells}\n", task.name, task.best.metric);
        let sign = if task.best.direction == Direction::Higher { 1.0 } else { -1.0 };
        for few in [false, true] {
            let federated = of((Beginning::Federated, few));
            for &other in beginnings.iter().filter(|&&beginning| beginning != Beginning::Federated) {
                let other_values = of((other, few));
                let gain = sign * (mean(&federated) - mean(&other_values));
                let count = gains.entry((few, other)).or_default();
                count[0] += usize::from(gain > 0.0);
                count[1] += usize::from(gain > deviation(&federated).max(deviation(&other_values)));
            }
        }
    }
    text += "\n";
    for ((few, other), [better, clearly]) in gains {
        let labels = if few { "few labels" } else { "all labels" };
        text += &format!(
            "With {labels} federated is better than {other} in {better} of {} tasks on the mean over seeds, in {clearly} of them by more \
             than the seeds' deviation.\n",
            tasks.len()
        );
    }
    text
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn deviation(values: &[f64]) -> f64 {
    let middle = mean(values);
    let squares: f64 = values.iter().map(|value| (value - middle).powi(2)).sum();
    if values.len() < 2 { 0.0 } else { (squares / (values.len() - 1) as f64).sqrt() }
}
