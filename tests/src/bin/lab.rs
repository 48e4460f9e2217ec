//! `cargo lab`: the learning experiment.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::Context;
use clap::Parser;
use tests::experiment;
use tests::learning::arm::Arm;
use tests::learning::simulation::Setting;
use tests::learning::{Settings, hospitals, results, simulation};

/// Compare ways to train one model on phantom hospitals: random, pooled, each site alone, federated.
#[derive(Debug, Parser)]
#[command(name = "lab", bin_name = "cargo lab", version)]
struct Cli {
    /// Folder of caches, courses and results; a stopped experiment goes on in it.
    #[arg(long, default_value = "lab")]
    out: PathBuf,
    /// The plan (TOML); the experiment's own without.
    #[arg(long)]
    plan: Option<PathBuf>,
    /// Folder of the seeds' images, to be shared by experiments on the same image grid.
    #[arg(long)]
    images: Option<PathBuf>,
    /// Seeds: of the phantom, of the first weights, of every draw.
    #[arg(long, value_delimiter = ',', default_value = "1,2,3")]
    seeds: Vec<u64>,
    /// Arms.
    #[arg(long, value_delimiter = ',', default_value = "random,pooled,alone-a,alone-b,alone-c,federated")]
    arms: Vec<Arm>,
    /// Arms at a time, each on one thread.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Fraction of each training site's subjects that no training sees.
    #[arg(long, default_value_t = 0.45)]
    held_out: f64,
    /// How often a course is measured.
    #[arg(long, default_value_t = 6)]
    points: u32,
    /// Run one arm of one seed in this process.
    #[arg(long, hide = true)]
    inside: bool,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The plan of the experiment in docs/results/learning.md.
const PLAN: &str = include_str!("../../plans/learning.toml");

fn run(cli: &Cli) -> anyhow::Result<()> {
    let images = cli.images.as_ref().unwrap_or(&cli.out);
    let seed_folder = |seed: u64| images.join(format!("seed-{seed}"));
    let text = cli.plan.as_ref().map_or(Ok(PLAN.to_owned()), std::fs::read_to_string).context("reading the plan")?;
    let draft: common::PlanDraft = toml::from_str(&text).context("in the plan")?;
    draft.check()?;
    if cli.inside {
        let (seed, arm) = (cli.seeds[0], &cli.arms[0]);
        let plan = common::PlanDraft { seed, ..draft };
        let folder = results::course_folder(&cli.out, seed, arm);
        let setting = Setting { images: seed_folder(seed), held_out: cli.held_out, points: cli.points };
        return simulation::run(arm, &plan, &setting, &folder);
    }
    let is_begun = |seed: &u64| cli.arms.iter().any(|arm| results::course_folder(&cli.out, *seed, arm).exists());
    anyhow::ensure!(
        experiment::is_held(&cli.out) || !cli.seeds.iter().any(is_begun),
        "{} holds courses of settings that are not known: name another folder with --out, or remove this one",
        cli.out.display()
    );
    experiment::hold(&cli.out, &Settings { plan: draft.clone(), held_out: cli.held_out, points: cli.points })?;
    for &seed in &cli.seeds {
        std::fs::create_dir_all(seed_folder(seed))?;
        hospitals::prepare(&seed_folder(seed), seed, &draft.images)?;
        println!("seed {seed}: images are there");
    }
    run_arms(cli, images)?;
    let experiment = results::read(&cli.out, &cli.seeds, &cli.arms)?;
    println!(
        "\n{}\n{}\n{}\n{}",
        experiment.table(),
        experiment.verdicts(),
        experiment.health(),
        experiment.alarms(&draft)
    );
    experiment.write(&cli.out, &draft)?;
    println!("written to {}", cli.out.join("results.md").display());
    Ok(())
}

/// Every arm of every seed, each a process of its own, some beside each other.
fn run_arms(cli: &Cli, images: &Path) -> anyhow::Result<()> {
    // Those that were finished before took no time of this experiment's.
    let work = results::unfinished(&cli.out, &cli.seeds, &cli.arms)?;
    // An arm of three sites takes three times the steps.
    let cost = |arm: &Arm| arm.sites().len();
    let (total, began): (usize, _) = (work.iter().map(|(_, arm)| cost(arm)).sum(), Instant::now());
    let (queue, done) = (Mutex::new(work.iter()), AtomicUsize::new(0));
    thread::scope(|scope| -> anyhow::Result<()> {
        let worker = || -> anyhow::Result<()> {
            loop {
                let Some((seed, arm)) = queue.lock().ok().and_then(|mut queue| queue.next()) else { return Ok(()) };
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["--inside", "--points", &cli.points.to_string(), "--seeds", &seed.to_string()]);
                command.args(["--held-out", &cli.held_out.to_string(), "--arms", &arm.to_string()]);
                command.args(cli.plan.iter().flat_map(|plan| [Path::new("--plan"), plan]));
                command.arg("--out").arg(&cli.out).arg("--images").arg(images).env("RAYON_NUM_THREADS", "1");
                anyhow::ensure!(command.status()?.success(), "{arm} of seed {seed} failed");
                let spent = done.fetch_add(cost(arm), Ordering::Relaxed) + cost(arm);
                let left = began.elapsed().as_secs_f64() / spent.max(1) as f64 * (total - spent) as f64;
                println!("seed {seed} {arm}: done; about {:.0} min left", (left / 60.0).ceil());
            }
        };
        let workers: Vec<_> = (0..cli.jobs).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| anyhow::bail!("a worker panicked")))
    })
}
