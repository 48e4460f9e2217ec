//! What pretraining is worth to a hospital with labels: every task, from the federated backbone, from one that a hospital
//! pretrained alone, and from the same network at random; with all labels and with few; measured on the hospital's own
//! held-out patients and on those of a vendor that no training saw. By the real program on real DICOM files.

mod effort;
mod table;

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use common::{Digest, PlanDraft, Task};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use effort::Effort;
pub use table::{Found, Outcome, Spent, tables};

use crate::experiment;
use crate::learning::{arm::Arm, hospitals, simulation};
use crate::phantom::{self, SiteSpec};
use crate::programs::Programs;

/// Draws the hospitals that pretrain, their first weights and their batches.
const PRETRAINING_SEED: u64 = 1;
/// Fraction of the hospital's own patients that is measured and nothing else.
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

/// What an experiment's folder is of; another one needs another folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// Patients of the hospital.
    pub patients: usize,
    /// Draws them. No pretraining sees them.
    pub patients_seed: u64,
    /// What is spent.
    pub effort: Effort,
    /// Optimizer steps of the tasks that answer for every pixel, instead of the effort's.
    pub dense_steps: Option<usize>,
    /// Heads alone are trained, in every arm.
    #[serde(default)]
    pub frozen: bool,
    /// The federated backbone, where it was not trained here.
    #[serde(default)]
    pub pretrained: Option<Digest>,
}

/// The experiment's folder and what is in it.
pub struct Bench {
    root: PathBuf,
    program: PathBuf,
    /// The tasks as they are trained, in the paper's order.
    pub tasks: Vec<Task>,
    /// Where trainings are measured.
    places: Vec<At>,
    frozen: bool,
}

impl Bench {
    /// Makes the experiment's hospital in `root`, and one of half as many patients of the unseen vendor if it is to be
    /// measured, unless they are there; `plan` is the network's, on a finer grid.
    pub fn prepare(root: &Path, plan: &PlanDraft, experiment: Experiment, unseen: bool) -> anyhow::Result<Self> {
        experiment::hold(root, &experiment)?;
        let declare = |task| experiment.effort.declare(task, experiment.dense_steps);
        let tasks: Vec<Task> = site_agent::tasks::built_in().into_iter().map(declare).collect();
        fs::create_dir_all(root.join("declared"))?;
        for task in &tasks {
            fs::write(root.join("declared").join(format!("{}.toml", task.name)), toml::to_string(task)?)?;
        }
        let places = if unseen { vec![At::Home, At::Unseen] } else { vec![At::Home] };
        let (program, frozen) = (Programs::build()?.site_agent, experiment.frozen);
        let bench = Self { root: root.to_owned(), program, tasks, places, frozen };
        fs::write(bench.root.join("plan.toml"), toml::to_string(plan)?)?;
        for &at in &bench.places {
            let (spec, seed, held_out) = match at {
                At::Home => (SiteSpec::b(experiment.patients), experiment.patients_seed, HELD_OUT),
                At::Unseen => {
                    (SiteSpec::d(experiment.patients.div_ceil(2)), experiment.patients_seed + 1, HELD_OUT_UNSEEN)
                }
            };
            let [state, hospital, _] = at.folders();
            let indexed = bench.root.join(state).join("indexed");
            if !indexed.exists() {
                fs::create_dir_all(bench.root.join(state).join("images"))?;
                fs::write(bench.root.join(state).join("site-agent.toml"), format!("held_out = {held_out}\n"))?;
                write_secret(&bench.root.join(state).join("images/secret.key"))?;
                phantom::write_site(&spec.all_tasks(), seed, &bench.root.join(hospital), &|_| {})?;
                bench.run(at, &["index", &format!("{{}}/{hospital}/dicom"), "--plan", "{}/plan.toml"])?;
                fs::write(indexed, b"")?;
            }
        }
        Ok(bench)
    }

    /// A backbone to begin with: the laboratory's arm, trained here by `plan` unless it is there; none for random weights.
    pub fn pretrain(&self, beginning: Beginning, plan: &PlanDraft) -> anyhow::Result<Option<PathBuf>> {
        let Some(arm) = beginning.laboratory() else { return Ok(None) };
        let seed = PRETRAINING_SEED;
        let (images, folder) = (self.root.join(format!("seed-{seed}")), self.root.join("pretrained").join(arm));
        let last = folder.join(format!("model-{}.safetensors", plan.rounds.count));
        if !last.exists() {
            fs::create_dir_all(&images)?;
            let arm: Arm = arm.parse().map_err(anyhow::Error::msg)?;
            // One thread, as every training beside it.
            let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
            alone.install(|| -> anyhow::Result<()> {
                hospitals::prepare(&images, seed, &plan.images)?;
                let setting = simulation::Setting { images, held_out: HELD_OUT, points: 1 };
                simulation::run(&arm, &PlanDraft { seed, ..plan.clone() }, &setting, &folder)
            })?;
        }
        Ok(Some(last))
    }

    /// All trainings: each task from each beginning, on all subjects and on few, with every seed. Those that need no backbone
    /// come first, so that they run while one is pretrained.
    pub fn cells(&self, beginnings: &[Beginning], seeds: &[u64]) -> Vec<Cell> {
        let mut cells = Vec::new();
        for task in 0..self.tasks.len() {
            for few in [false, true] {
                for &beginning in beginnings {
                    cells.extend(seeds.iter().map(|&seed| Cell { task, beginning, few, seed }));
                }
            }
        }
        cells.sort_by_key(|cell| cell.beginning != Beginning::Random);
        cells
    }

    /// Trains and measures one, unless it was done before: the task's best metric on held-out subjects, and what the training
    /// took.
    pub fn measure(&self, cell: &Cell, backbone: Option<&Path>) -> anyhow::Result<Outcome> {
        let task = &self.tasks[cell.task];
        let spent = self.path(&self.folder(At::Home, cell)).join("spent.json");
        for &at in self.places.iter().filter(|&&at| !self.evaluation(at, cell).exists()) {
            let out = self.folder(at, cell);
            match at {
                At::Home => {
                    let (arm, seed, few) = (cell.beginning.to_string(), cell.seed.to_string(), FEW.to_string());
                    let init = backbone.map(|path| path.display().to_string());
                    let init = init.as_deref().unwrap_or("random");
                    let declared = format!("{{}}/declared/{}.toml", task.name);
                    let mut words = vec!["finetune", "--task", &declared, "--init", init, "--plan", "{}/plan.toml"];
                    words.extend(["--labels", "{}/hospital/labels", "--out", &out, "--seed", &seed, "--arm", &arm]);
                    words.push("--json");
                    if self.frozen {
                        words.push("--freeze");
                    }
                    if cell.few {
                        words.extend(["--subjects", &few]);
                    }
                    // Of one that had ended before, and was stopped before it was measured, it is not known.
                    let ended = self.path(&out).join("finetuned.json").exists();
                    let told = self.run(at, &words)?;
                    if !ended {
                        fs::write(&spent, told)?;
                    }
                }
                At::Unseen => copy_folder(&self.path(&self.folder(At::Home, cell)), &self.path(&out))?,
            }
            self.evaluate(at, &out)?;
        }
        let metric = serde_json::to_value(task.best.metric)?;
        let value = |at: At| -> anyhow::Result<Option<f64>> {
            let told: Value = serde_json::from_slice(&fs::read(self.evaluation(at, cell))?)?;
            let mut values = told["values"].as_array().into_iter().flatten();
            let best = values.find(|value| value["metric"] == metric && value["of"].is_null());
            Ok(best.and_then(|value| value["value"].as_f64()))
        };
        let values = self.places.iter().map(|&at| Ok((at, value(at)?))).collect::<anyhow::Result<_>>()?;
        let spent = fs::read(spent).ok().and_then(|told| serde_json::from_slice(&told).ok());
        Ok(Outcome { values, spent })
    }

    fn evaluation(&self, at: At, cell: &Cell) -> PathBuf {
        self.path(&self.folder(at, cell)).join("evaluation.json")
    }

    fn evaluate(&self, at: At, out: &str) -> anyhow::Result<()> {
        let [_, hospital, _] = at.folders();
        self.run(at, &["evaluate", "--finetuned", out, "--labels", &format!("{{}}/{hospital}/labels"), "--json"])?;
        Ok(())
    }

    /// Writes a page for each place that was measured on all of these; the phantom's images may be shown to anyone.
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
        pages.into_iter().filter(|(at, ..)| self.places.contains(at)).map(page).collect()
    }

    /// Where one is trained, or measured again, below the experiment's folder.
    fn folder(&self, at: At, cell: &Cell) -> String {
        let (budget, [_, _, runs]) = (if cell.few { "few" } else { "all" }, at.folders());
        format!("{{}}/{runs}/{}-{}-{budget}-{}", self.tasks[cell.task].name, cell.beginning, cell.seed)
    }

    /// What `{}` stands before, as a path.
    fn path(&self, folder: &str) -> PathBuf {
        PathBuf::from(folder.replace("{}", &self.root.display().to_string()))
    }

    /// Runs the program and returns what it said; `{}` is the experiment's folder.
    fn run(&self, at: At, words: &[&str]) -> anyhow::Result<String> {
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
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// A secret of its own would draw other subjects to be held out each time.
fn write_secret(path: &Path) -> anyhow::Result<()> {
    fs::write(path, "07".repeat(32))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o600))?)
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
