//! What pretraining is worth to a hospital with labels: every task, from the federated backbone and from the same network at
//! random, with all labels and with few, by the real program on real DICOM files.

use std::collections::BTreeMap;
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
/// Subjects of a few-shot training.
pub const FEW: usize = 5;

/// One training and its measurement.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// The task, by its place.
    pub task: usize,
    /// From the pretrained backbone.
    pub pretrained: bool,
    /// On few subjects.
    pub few: bool,
    /// Draws the head, the batches, and the random backbone.
    pub seed: u64,
}

impl Cell {
    fn arm(&self) -> &'static str {
        if self.pretrained { "pretrained" } else { "random" }
    }
}

/// The experiment's folder and what is in it.
pub struct Bench {
    root: PathBuf,
    program: PathBuf,
    /// The tasks, in the paper's order.
    pub tasks: Vec<Task>,
}

impl Bench {
    /// Makes a hospital of `subjects` patients in `root`, unless it is there; `plan` is the network's, on a finer grid.
    pub fn prepare(root: &Path, plan: &PlanDraft, subjects: usize) -> anyhow::Result<Self> {
        let (root, program) = (root.to_owned(), Programs::build()?.site_agent);
        let bench = Self { root, program, tasks: site_agent::tasks::built_in() };
        if !bench.root.join("indexed").exists() {
            fs::create_dir_all(bench.root.join("state/images"))?;
            fs::write(bench.root.join("plan.toml"), toml::to_string(plan)?)?;
            fs::write(bench.root.join("state/site-agent.toml"), format!("held_out = {HELD_OUT}\n"))?;
            let spec = SiteSpec::b(subjects).all_tasks();
            phantom::write_site(&spec, PATIENTS_SEED, &bench.root.join("hospital"), &|_| {})?;
            bench.run(&["index", "{}/hospital/dicom", "--plan", "{}/plan.toml"])?;
            fs::write(bench.root.join("indexed"), b"")?;
        }
        Ok(bench)
    }

    /// A federated backbone: the laboratory's federated arm of a seed, trained here unless it is there.
    pub fn pretrain(&self, plan: &PlanDraft, seed: u64) -> anyhow::Result<PathBuf> {
        let (images, folder) = (self.root.join(format!("seed-{seed}")), self.root.join("pretrained"));
        let last = folder.join(format!("model-{}.safetensors", plan.rounds.count));
        if !last.exists() {
            fs::create_dir_all(&images)?;
            hospitals::prepare(&images, seed, &plan.images)?;
            let arm: Arm = "federated".parse().map_err(anyhow::Error::msg)?;
            let setting = simulation::Setting { images, held_out: HELD_OUT, points: 2 };
            simulation::run(&arm, &PlanDraft { seed, ..plan.clone() }, &setting, &folder)?;
        }
        Ok(last)
    }

    /// All trainings: each task from both beginnings, on all subjects and on few, with every seed.
    pub fn cells(&self, seeds: &[u64]) -> Vec<Cell> {
        let each = |task: usize| {
            let budgets = [false, true].into_iter();
            budgets.flat_map(move |few| {
                [false, true]
                    .into_iter()
                    .flat_map(move |pretrained| seeds.iter().map(move |&seed| Cell { task, pretrained, few, seed }))
            })
        };
        (0..self.tasks.len()).flat_map(each).collect()
    }

    /// Trains and measures one, unless it was done before, with so many steps if it answers for every pixel; the value of the task's best metric on the held-out subjects.
    pub fn measure(&self, cell: &Cell, pretrained: &Path, dense_steps: usize) -> anyhow::Result<Option<f64>> {
        let task = &self.tasks[cell.task];
        let (arm, out) = (cell.arm(), self.folder(cell));
        let measured = self.root.join(&out[3..]).join("evaluation.json");
        if !measured.exists() {
            let dense = task.input.scale > 1;
            // A small network and few steps: faster, and with fewer frames, than the tasks' own settings are.
            let (rate, batch) = if dense { ("1e-2", "8") } else { ("5e-3", "16") };
            let batch = if task.input.phases.is_empty() && task.training.batch_size > 8 { batch } else { "8" };
            let (init, seed) = (pretrained.display().to_string(), cell.seed.to_string());
            let (init, few) = (if cell.pretrained { init.as_str() } else { "random" }, FEW.to_string());
            let mut words = vec!["finetune", "--task", task.name.as_str(), "--init", init, "--plan", "{}/plan.toml"];
            words.extend(["--labels", "{}/hospital/labels", "--out", &out, "--seed", &seed, "--arm", arm, "--json"]);
            let steps = if dense { dense_steps.to_string() } else { "200".to_owned() };
            words.extend(["--steps", &steps, "--batch-size", batch, "--learning-rate", rate]);
            if cell.few {
                words.extend(["--subjects", &few]);
            }
            self.run(&words)?;
            self.run(&["evaluate", "--finetuned", &out, "--labels", "{}/hospital/labels", "--json"])?;
        }
        let measured: Value = serde_json::from_slice(&fs::read(measured)?)?;
        let metric = serde_json::to_value(task.best.metric)?;
        let mut values = measured["values"].as_array().into_iter().flatten();
        Ok(values.find(|value| value["metric"] == metric && value["of"].is_null()).and_then(|v| v["value"].as_f64()))
    }

    /// Writes the page on all of these; the phantom's images may be shown to anyone.
    pub fn report(&self, cells: &[Cell]) -> anyhow::Result<PathBuf> {
        let folders: Vec<String> = cells.iter().map(|cell| self.folder(cell)).collect();
        let mut words = vec!["report", "--out", "{}/report.html", "--title", "Clinical tasks at a phantom hospital"];
        words.extend(["--with-images", "--labels", "{}/hospital/labels"]);
        words.extend(folders.iter().map(String::as_str));
        self.run(&words)?;
        Ok(self.root.join("report.html"))
    }

    /// Where one is trained, below the experiment's folder.
    fn folder(&self, cell: &Cell) -> String {
        let budget = if cell.few { "few" } else { "all" };
        format!("{{}}/runs/{}-{}-{budget}-{}", self.tasks[cell.task].name, cell.arm(), cell.seed)
    }

    fn run(&self, words: &[&str]) -> anyhow::Result<()> {
        let root = self.root.display().to_string();
        let words: Vec<String> = words.iter().map(|word| word.replace("{}", &root)).collect();
        let state = self.root.join("state").display().to_string();
        let all: Vec<&str> = ["--state", &state].into_iter().chain(words.iter().map(String::as_str)).collect();
        // One thread each, as many trainings side by side as there are cores.
        let output = Command::new(&self.program).args(&all).env("RAYON_NUM_THREADS", "1").output();
        let output = output.with_context(|| words.join(" "))?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "`site-agent {}` failed:\n{said}", words.join(" "));
        Ok(())
    }
}

/// The table, and what it says.
pub fn table(tasks: &[Task], found: &BTreeMap<Cell, Option<f64>>, seeds: &[u64]) -> String {
    let mut text = String::from(
        "| task | metric | random, all | pretrained, all | random, few | pretrained, few | few: gain by seed |\n|---|---|--:|--:|--:|--:|---|\n",
    );
    let (mut better, mut clearly) = (0, 0);
    for (place, task) in tasks.iter().enumerate() {
        let of = |pretrained: bool, few: bool| -> Vec<f64> {
            let cell = |&seed: &u64| found.get(&Cell { task: place, pretrained, few, seed }).copied().flatten();
            seeds.iter().filter_map(cell).collect()
        };
        let columns = [(false, false), (true, false), (false, true), (true, true)].map(|(p, few)| of(p, few));
        let gains: Vec<f64> = columns[3].iter().zip(&columns[2]).map(|(with, without)| with - without).collect();
        let sign = if task.best.direction == Direction::Higher { 1.0 } else { -1.0 };
        let (gain, spread) = (sign * mean(&gains), deviation(&columns[2]).max(deviation(&columns[3])));
        better += usize::from(gain > 0.0);
        clearly += usize::from(gain > spread);
        let told = |values: &Vec<f64>| format!("{:.3} ± {:.3}", mean(values), deviation(values));
        let gains: Vec<String> = gains.iter().map(|gain| format!("{gain:+.3}")).collect();
        let [a, b, c, d] = columns.each_ref().map(told);
        let metric = task.best.metric;
        text += &format!("| {} | {metric} | {a} | {b} | {c} | {d} | {} |\n", task.name, gains.join(", "));
    }
    text + &format!(
        "\nWith few labels pretrained is better than random in {better} of {} tasks on the mean over seeds, in {clearly} of them by more \
         than the seeds' deviation.\n",
        tasks.len()
    )
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn deviation(values: &[f64]) -> f64 {
    let middle = mean(values);
    let squares: f64 = values.iter().map(|value| (value - middle).powi(2)).sum();
    if values.len() < 2 { 0.0 } else { (squares / (values.len() - 1) as f64).sqrt() }
}
