//! `cargo tasks`: the nine clinical tasks, from a federated backbone, from a hospital's own, and from random weights.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use anyhow::Context;
use clap::Parser;
use common::PlanDraft;
use tests::finetuning::{Beginning, Bench, tables};

/// Finetune and measure the nine clinical tasks at a phantom hospital: from a federated backbone, from one that a hospital
/// pretrained alone, and from random weights; with all labels and with few.
#[derive(Debug, Parser)]
#[command(name = "tasks", version)]
struct Cli {
    /// Folder of images, trainings and results; a stopped experiment goes on in it.
    #[arg(long, default_value = "tasks")]
    out: PathBuf,
    /// A federated model of the laboratory's plan to begin with; without it one is trained first.
    #[arg(long)]
    pretrained: Option<PathBuf>,
    /// What trainings begin with.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "random,local,federated")]
    beginnings: Vec<Beginning>,
    /// Seeds of heads, batches and random backbones.
    #[arg(long, value_delimiter = ',', default_value = "1,2,3")]
    seeds: Vec<u64>,
    /// Tasks, by name; all without.
    #[arg(long, value_delimiter = ',')]
    tasks: Vec<String>,
    /// Optimizer steps of the tasks that answer for every pixel.
    #[arg(long, default_value_t = 200)]
    steps: usize,
    /// Patients of the hospital.
    #[arg(long, default_value_t = 50)]
    patients: usize,
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

fn run(cli: &Cli) -> anyhow::Result<()> {
    let draft: PlanDraft = toml::from_str(PLAN).context("in the plan")?;
    // The same field of view on a finer grid: masks are drawn on it.
    let mut fine = draft.clone();
    (fine.images.frame_size, fine.images.spacing_mm) =
        (96, draft.images.spacing_mm * draft.images.frame_size as f64 / 96.0);
    let mut bench = Bench::prepare(&cli.out, &fine, cli.patients)?;
    let mut backbones = BTreeMap::new();
    for &beginning in &cli.beginnings {
        let backbone = match (&cli.pretrained, beginning) {
            (Some(model), Beginning::Federated) => Some(model.clone()),
            _ => bench.pretrain(beginning, &draft, cli.seeds[0])?,
        };
        backbones.insert(beginning, backbone);
    }
    let wanted = |task: &common::Task| cli.tasks.is_empty() || cli.tasks.iter().any(|name| name == task.name.as_str());
    bench.tasks.retain(wanted);
    anyhow::ensure!(!bench.tasks.is_empty(), "--tasks names none of the tasks that `site-agent tasks` lists");
    let cells = bench.cells(&cli.beginnings, &cli.seeds);
    let (queue, found) = (Mutex::new(cells.iter()), Mutex::new(BTreeMap::new()));
    let began = Instant::now();
    thread::scope(|scope| -> anyhow::Result<()> {
        let worker = || -> anyhow::Result<()> {
            loop {
                let Some(cell) = queue.lock().ok().and_then(|mut queue| queue.next()) else { return Ok(()) };
                let value = bench.measure(cell, backbones[&cell.beginning].as_deref(), cli.steps)?;
                let Ok(mut found) = found.lock() else { anyhow::bail!("another training panicked") };
                found.insert(cell.clone(), value);
                let left = began.elapsed().as_secs_f64() / found.len() as f64 * (cells.len() - found.len()) as f64;
                println!("{} of {}: about {:.0} min left", found.len(), cells.len(), (left / 60.0).ceil());
            }
        };
        let workers: Vec<_> = (0..cli.jobs).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| anyhow::bail!("a worker panicked")))
    })?;
    let found = found.into_inner().unwrap_or_default();
    let text = tables(&bench.tasks, &found, &cli.beginnings, &cli.seeds);
    println!("\n{text}");
    std::fs::write(cli.out.join("results.md"), text)?;
    println!("written to {}", cli.out.join("results.md").display());
    for page in bench.report(&cells)? {
        println!("with plots and pictures: {}", page.display());
    }
    Ok(())
}
