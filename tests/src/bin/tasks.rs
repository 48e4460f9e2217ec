//! `cargo tasks`: the nine clinical tasks, from a federated backbone, from a hospital's own, and from random weights.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::Instant;

use anyhow::Context;
use clap::Parser;
use common::{Digest, PlanDraft};
use tests::finetuning::{Beginning, Bench, Cell, Effort, Experiment, tables};

/// Finetune and measure the nine clinical tasks at a phantom hospital, from a federated backbone and from random weights, with
/// all labels and with few. Two cores take a quarter of an hour, pretraining included.
#[derive(Debug, Parser)]
#[command(name = "tasks", bin_name = "cargo tasks", version)]
struct Cli {
    /// Folder of images, trainings and results; a stopped experiment goes on in it.
    #[arg(long, default_value = "tasks")]
    out: PathBuf,
    /// The laboratory's whole pretraining, larger batches and more steps; from a backbone that a hospital pretrained alone as
    /// well; and measured on the unseen vendor too. Some hours.
    #[arg(long)]
    thorough: bool,
    /// A federated model of the laboratory's plan to begin with; without it one is trained first.
    #[arg(long)]
    pretrained: Option<PathBuf>,
    /// What trainings begin with; without, random and federated, and local too if thorough.
    #[arg(long, value_enum, value_delimiter = ',')]
    beginnings: Vec<Beginning>,
    /// Seeds of heads, batches and random backbones.
    #[arg(long, value_delimiter = ',', default_value = "1,2,3")]
    seeds: Vec<u64>,
    /// Tasks, by name; all without.
    #[arg(long, value_delimiter = ',')]
    tasks: Vec<String>,
    /// Optimizer steps of the tasks that answer for every pixel, instead of the effort's.
    #[arg(long)]
    steps: Option<usize>,
    /// Train the heads alone: what the backbone has to offer as it is.
    #[arg(long)]
    freeze: bool,
    /// Measure on patients of a vendor that no training saw as well.
    #[arg(long)]
    unseen: bool,
    /// Patients of the hospital.
    #[arg(long, default_value_t = 50)]
    patients: usize,
    /// Draws the hospital's patients. Settings are chosen on others than the table's.
    #[arg(long, default_value_t = 77)]
    patients_seed: u64,
    /// Trainings at a time, each on one thread.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

/// The network, and how it is pretrained.
const PLAN: &str = include_str!("../../plans/learning.toml");

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What a worker takes up.
enum Work<'a> {
    /// To have a backbone.
    Pretraining(Beginning),
    /// To have a cell of the table.
    Finetuning(&'a Cell),
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let began = Instant::now();
    let draft: PlanDraft = toml::from_str(PLAN).context("in the plan")?;
    // The same field of view on a finer grid: masks are drawn on it.
    let mut fine = draft.clone();
    (fine.images.frame_size, fine.images.spacing_mm) =
        (96, draft.images.spacing_mm * draft.images.frame_size as f64 / 96.0);
    let effort = if cli.thorough { Effort::Thorough } else { Effort::Quick };
    let beginnings = match (&cli.beginnings[..], effort) {
        ([], Effort::Quick) => vec![Beginning::Random, Beginning::Federated],
        ([], Effort::Thorough) => vec![Beginning::Random, Beginning::Local, Beginning::Federated],
        (named, _) => named.to_vec(),
    };
    let (patients, patients_seed, dense_steps) = (cli.patients, cli.patients_seed, cli.steps);
    let digest = |model: &PathBuf| std::fs::read(model).map(|bytes| Digest::of(&bytes));
    let pretrained = cli.pretrained.as_ref().map(digest).transpose().context("reading the pretrained model")?;
    let experiment = Experiment { patients, patients_seed, effort, dense_steps, frozen: cli.freeze, pretrained };
    let mut bench = Bench::prepare(&cli.out, &fine, experiment, cli.unseen || cli.thorough)?;
    let wanted = |task: &common::Task| cli.tasks.is_empty() || cli.tasks.iter().any(|name| name == task.name.as_str());
    bench.tasks.retain(wanted);
    anyhow::ensure!(!bench.tasks.is_empty(), "--tasks names none of the tasks that `site-agent tasks` lists");
    println!("after {:.0} s: the hospital's images are there", began.elapsed().as_secs_f64());

    let plan = effort.pretraining(&draft);
    let backbones: BTreeMap<Beginning, OnceLock<Result<Option<PathBuf>, String>>> =
        beginnings.iter().map(|&beginning| (beginning, OnceLock::new())).collect();
    // Whoever needs a backbone that another worker is at waits for it.
    let backbone = |beginning: Beginning| {
        let trained = backbones[&beginning].get_or_init(|| match (&cli.pretrained, beginning) {
            (Some(model), Beginning::Federated) => Ok(Some(model.clone())),
            _ => bench.pretrain(beginning, &plan).map_err(|error| format!("{error:#}")),
        });
        trained.as_ref().map_err(|error| anyhow::anyhow!("pretraining failed: {error}"))
    };
    let cells = bench.cells(&beginnings, &cli.seeds);
    // Pretraining, one step after another, is the longest piece: it begins first, beside what needs no backbone.
    let pretrained = beginnings.iter().filter(|&&beginning| beginning != Beginning::Random);
    let work: Vec<Work<'_>> =
        pretrained.map(|&beginning| Work::Pretraining(beginning)).chain(cells.iter().map(Work::Finetuning)).collect();
    let (queue, found) = (Mutex::new(work.iter()), Mutex::new(BTreeMap::new()));
    thread::scope(|scope| -> anyhow::Result<()> {
        let worker = || -> anyhow::Result<()> {
            loop {
                let Some(work) = queue.lock().ok().and_then(|mut queue| queue.next()) else { return Ok(()) };
                let elapsed = || began.elapsed().as_secs_f64();
                match work {
                    Work::Pretraining(beginning) => {
                        backbone(*beginning)?;
                        println!("after {:.0} s: the {beginning} backbone is there", elapsed());
                    }
                    Work::Finetuning(cell) => {
                        let outcome = bench.measure(cell, backbone(cell.beginning)?.as_deref())?;
                        let Ok(mut found) = found.lock() else { anyhow::bail!("another training panicked") };
                        found.insert((*cell).clone(), outcome);
                        println!("after {:.0} s: {} of {} trainings are measured", elapsed(), found.len(), cells.len());
                    }
                }
            }
        };
        let workers: Vec<_> = (0..cli.jobs).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| anyhow::bail!("a worker panicked")))
    })?;
    let found = found.into_inner().unwrap_or_default();
    let text = tables(&bench.tasks, &found, &beginnings, &cli.seeds);
    println!("\n{text}");
    std::fs::write(cli.out.join("results.md"), text)?;
    println!("written to {}", cli.out.join("results.md").display());
    for page in bench.report(&cells)? {
        println!("with plots and pictures: {}", page.display());
    }
    println!("after {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}
