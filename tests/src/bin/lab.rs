//! `cargo lab`: the learning experiment.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::thread;

use clap::Parser;
use tests::learning::arm::Arm;
use tests::learning::simulation::Setting;
use tests::learning::{hospitals, results, simulation};

/// Compare ways to train one model on phantom hospitals: random, pooled, each site alone, federated.
#[derive(Debug, Parser)]
#[command(name = "lab", version)]
struct Cli {
    /// Folder of caches, courses and results; a stopped experiment goes on in it.
    #[arg(long, default_value = "lab")]
    out: PathBuf,
    /// The plan (TOML).
    #[arg(long)]
    plan: PathBuf,
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
    #[arg(long, default_value_t = 0.4)]
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

fn run(cli: &Cli) -> anyhow::Result<()> {
    let images = cli.images.as_ref().unwrap_or(&cli.out);
    let seed_folder = |seed: u64| images.join(format!("seed-{seed}"));
    let draft: common::PlanDraft = toml::from_str(&std::fs::read_to_string(&cli.plan)?)?;
    draft.check()?;
    if cli.inside {
        let (seed, arm) = (cli.seeds[0], &cli.arms[0]);
        let plan = common::PlanDraft { seed, ..draft };
        let folder = cli.out.join(format!("seed-{seed}")).join(arm.to_string());
        let setting = Setting { images: seed_folder(seed), held_out: cli.held_out, points: cli.points };
        return simulation::run(arm, &plan, &setting, &folder);
    }
    for &seed in &cli.seeds {
        std::fs::create_dir_all(seed_folder(seed))?;
        hospitals::prepare(&seed_folder(seed), seed, &draft.images)?;
        eprintln!("seed {seed}: images are there");
    }
    let work: Vec<(u64, &Arm)> =
        cli.seeds.iter().flat_map(|&seed| cli.arms.iter().map(move |arm| (seed, arm))).collect();
    let queue = Mutex::new(work.iter());
    thread::scope(|scope| -> anyhow::Result<()> {
        let worker = || -> anyhow::Result<()> {
            loop {
                let Some((seed, arm)) = queue.lock().ok().and_then(|mut queue| queue.next()) else { return Ok(()) };
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["--inside", "--points", &cli.points.to_string(), "--seeds", &seed.to_string()]);
                command
                    .args(["--held-out", &cli.held_out.to_string(), "--arms", &arm.to_string()])
                    .arg("--plan")
                    .arg(&cli.plan)
                    .arg("--out")
                    .arg(&cli.out);
                command.arg("--images").arg(images).env("RAYON_NUM_THREADS", "1");
                anyhow::ensure!(command.status()?.success(), "{arm} of seed {seed} failed");
                eprintln!("seed {seed} {arm}: done");
            }
        };
        let workers: Vec<_> = (0..cli.jobs).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| anyhow::bail!("a worker panicked")))
    })?;
    let experiment = results::read(&cli.out, &cli.seeds, &cli.arms)?;
    println!("{}\n{}\n{}", experiment.table(), experiment.verdicts(), experiment.alarms(&draft));
    experiment.write(&cli.out, &draft)?;
    println!("written to {}", cli.out.join("results.md").display());
    Ok(())
}
