//! `cargo tasks`: the nine clinical tasks, pretrained against random.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use anyhow::Context;
use clap::Parser;
use common::PlanDraft;
use tests::finetuning::{Bench, table};

/// Finetune and measure the nine clinical tasks at a phantom hospital: from a federated backbone and from random weights, with all
/// labels and with few.
#[derive(Debug, Parser)]
#[command(name = "tasks", version)]
struct Cli {
    /// Folder of images, trainings and results; a stopped experiment goes on in it.
    #[arg(long, default_value = "tasks")]
    out: PathBuf,
    /// A model of the laboratory's plan to finetune; without it one is trained first.
    #[arg(long)]
    pretrained: Option<PathBuf>,
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
    let pretrained = match &cli.pretrained {
        Some(model) => model.clone(),
        None => bench.pretrain(&draft, cli.seeds[0])?,
    };
    let wanted = |task: &common::Task| cli.tasks.is_empty() || cli.tasks.iter().any(|name| name == task.name.as_str());
    bench.tasks.retain(wanted);
    anyhow::ensure!(!bench.tasks.is_empty(), "--tasks names none of the tasks that `site-agent tasks` lists");
    let cells = bench.cells(&cli.seeds);
    let (queue, found) = (Mutex::new(cells.iter()), Mutex::new(BTreeMap::new()));
    let began = Instant::now();
    thread::scope(|scope| -> anyhow::Result<()> {
        let worker = || -> anyhow::Result<()> {
            loop {
                let Some(cell) = queue.lock().ok().and_then(|mut queue| queue.next()) else { return Ok(()) };
                let value = bench.measure(cell, &pretrained, cli.steps)?;
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
    let text = table(&bench.tasks, &found, &cli.seeds);
    println!("\n{text}");
    std::fs::write(cli.out.join("results.md"), text)?;
    println!("written to {}", cli.out.join("results.md").display());
    println!("with plots and pictures: {}", bench.report(&cells)?.display());
    Ok(())
}
