//! The agent's command line: what was typed, and which verb does it. Exit codes are in one place.

mod adopt;
mod doctor;
mod enrol;
mod evaluate;
mod export;
mod finetune;
mod finetuned;
mod import;
mod index;
mod init_model;
mod last_model;
mod ledger;
mod plans;
mod predict;
mod report;
mod run;
mod spent;
mod stop;
mod weights;

use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use common::PlanDraft;
use model::{DeviceChoice, Precision};
use rustix::fs::Mode;
use serde::Serialize;

use crate::agent::AgentError;
use crate::config::Config;
use crate::home::Home;
use crate::job::JobFolder;
use crate::tasks::TasksError;
use crate::trainer::TrainerError;
use crate::trainer::stopping::Stop;
use crate::training::{DISK_FULL, NO_LABELS, STOPPED, TOO_FEW_SUBJECTS};
use crate::{durable, log, trainer};

/// Where help lists what every command takes.
const EVERY: &str = "Options of every command";

/// The agent of one hospital: reads DICOM, trains on this machine, sends weight updates, never images.
///
/// Three commands join a federation: `enrol <invitation>`, `index <folder|zip>`, `run`. Everything the agent keeps lies
/// in its state folder; it opens one outbound connection and listens on none.
///
/// Exit codes: 0 done; 1 failed; 2 the command line is not understood; 3 the disk is full; 5 a check of the doctor's failed; of
/// `run --until-finished`, 8 the run failed or was aborted; of `finetune`, and of a trainer, which the agent starts by itself, 7
/// stopped as asked, with a checkpoint; of a trainer 4 no usable labels, 6 too few subjects for the policy.
#[derive(Debug, Parser)]
#[command(name = "site-agent", version)]
struct Cli {
    /// The agent's state folder.
    #[arg(long, global = true, default_value = "site-state", env = "SITE_AGENT_STATE", help_heading = EVERY)]
    state: PathBuf,
    /// Compute here instead of on the settings' device: cpu, cuda or cuda:<n>.
    #[arg(long, global = true, help_heading = EVERY)]
    device: Option<String>,
    /// Multiply in this instead of the settings' precision while training: f32 or bf16.
    #[arg(long, global = true, help_heading = EVERY)]
    precision: Option<String>,
    /// Write the log as JSON lines.
    #[arg(long, global = true, help_heading = EVERY)]
    log_json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Join a federation: makes this site's key here, and gets a certificate for it with a single-use invitation.
    Enrol(enrol::EnrolArgs),
    /// Read a folder of DICOM files or UK Biobank zips: what is here, what was skipped and why. May be repeated; only what changed is read again.
    Index(index::IndexArgs),
    /// Read a public data set as it is downloaded (ACDC, M&Ms, M&Ms-2, EMIDEC), and write a folder with its labels.
    Import(import::ImportArgs),
    /// List the plans this site has heard of: what each asks of it, and what has changed since the one approved last.
    Plans(plans::PlansArgs),
    /// Approve a plan by its SHA-256. Nothing trains without; one changed byte of it is another plan.
    Approve(plans::ApproveArgs),
    /// Show this site's ledger, or check that nothing in it was changed, left out or put elsewhere.
    #[command(subcommand)]
    Ledger(ledger::LedgerVerb),
    /// Work: report, fetch, train, send, until stopped.
    Run(run::RunArgs),
    /// Look at everything that must be well (settings, network, certificates, machine, images), and say what to do where it
    /// is not. Ends with exit code 5 if a check failed.
    Doctor(doctor::DoctorArgs),
    /// Stop: the trainer ends within seconds, and nothing is sent until `resume`, whoever starts the agent again.
    Stop(Json),
    /// Let a stopped agent go on, from its checkpoint.
    Resume(Json),
    /// Make the first model of a run from its plan: the network at its random initialisation, or from a backbone.
    InitModel(init_model::InitModelArgs),
    /// Measure a model here on subjects that no training saw: a finetuned task in clinical units, or the k-NN accuracy of
    /// sequence and plane.
    Evaluate(evaluate::EvaluateArgs),
    /// List the clinical tasks: what each asks, of which images, with which labels.
    Tasks(finetune::TasksArgs),
    /// Train a clinical task at this site, from a pretrained backbone or a random one.
    Finetune(finetune::FinetuneArgs),
    /// Take a task out of a model that a run finetuned, to measure and use it here.
    Adopt(adopt::AdoptArgs),
    /// Write what a finetuned network says of this site's subjects: masks as NIfTI, classes and landmarks as CSV, pictures.
    Predict(predict::PredictArgs),
    /// Write one page on finetunings that were measured: tables by arm and seed, agreement, ROC, confusion. It may be sent;
    /// `--with-images` draws subjects as well, and then it stays here.
    Report(report::ReportArgs),
    /// Take a run's last model as this site has it: with the tensors that the plan keeps here.
    Model(last_model::ModelArgs),
    /// Take a backbone out of a federation's model for other programs, with a model card beside.
    Export(export::ExportArgs),
    /// Train one job folder (started by the agent, or by a batch system).
    #[command(hide = true)]
    Train {
        #[arg(long)]
        job: PathBuf,
        /// End when standard input ends.
        #[arg(long)]
        stop_with_parent: bool,
    },
    /// Take one step of a tiny network on the device.
    #[command(hide = true)]
    TryDevice,
    /// Parse files for the parent process, under limits on memory and time.
    #[command(hide = true)]
    IntakeWorker,
}

#[derive(Debug, Args)]
struct Json {
    /// Print JSON, for scripts.
    #[arg(long)]
    json: bool,
}

/// Exit code of a doctor of whose checks some failed.
pub const DOCTOR_FAILED: u8 = 5;

/// Exit code of an agent that was to work until a run has finished, which failed or was aborted.
pub const RUN_FAILED: u8 = 8;

/// Reads the command line, does what it says, and returns the exit code: 0 done, 1 failed, 2 not understood, 3 the disk
/// is full, 4 no usable labels, 5 a check of the doctor's failed, 6 too few subjects for the policy, 7 stopped as asked, 8 the
/// run failed that the agent was to work for.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // What is written from here on, by programs that are started as well, only this user may read: pixels, names of files, masks.
    rustix::process::umask(Mode::from_raw_mode(0o077));
    if let Verb::IntakeWorker = cli.verb {
        return data::worker_main();
    }
    log::begin(cli.log_json);
    if SystemTime::UNIX_EPOCH.elapsed().is_err() {
        say(&"error: this machine's clock stands before 1970: set it, best by NTP");
        return ExitCode::FAILURE;
    }
    match act(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {}", told(&error)));
            // By the system's own answer, which every error of a disk holds innermost.
            let full = error.chain().filter_map(|cause| cause.downcast_ref()).any(durable::is_full);
            let in_vain = matches!(error.downcast_ref(), Some(AgentError::RunFailed(_)));
            let unwell = error.downcast_ref::<doctor::Failed>().is_some();
            match error.downcast_ref() {
                _ if full => ExitCode::from(DISK_FULL),
                Some(TrainerError::NoLabels(_)) => ExitCode::from(NO_LABELS),
                Some(TrainerError::TooFewSubjects { .. }) => ExitCode::from(TOO_FEW_SUBJECTS),
                Some(TrainerError::Stopped { .. }) => ExitCode::from(STOPPED),
                _ if matches!(error.downcast_ref(), Some(TasksError::Stopped { .. })) => ExitCode::from(STOPPED),
                _ if unwell => ExitCode::from(DOCTOR_FAILED),
                _ if in_vain => ExitCode::from(RUN_FAILED),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// An error and its causes, each sentence once: most of our messages hold the words of their cause already.
fn told(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !told.contains(&cause) {
            told += if told.is_empty() { "" } else { ": " };
            told += &cause;
        }
    }
    told
}

/// What the command line takes, for whoever holds documents to it.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

fn act(cli: Cli) -> anyhow::Result<()> {
    let home = Home::at(&cli.state);
    // Read here, so that a mistyped word is refused before anything starts.
    let device = cli.device.map(|device| device.parse::<DeviceChoice>()).transpose()?;
    let precision = cli.precision.map(|precision| precision.parse::<Precision>()).transpose()?;
    let config = Config::read(&home.config()).map(|config| Config {
        device: device.as_ref().map_or(config.device, ToString::to_string),
        precision: precision.unwrap_or(config.precision),
        ..config
    });
    // Who asks for no settings works with those that cannot be read as well: the switch above all, and the trainer, whose settings are
    // in its job.
    match cli.verb {
        Verb::Doctor(args) => doctor::doctor(&home, config, &args),
        Verb::TryDevice => {
            Ok(trainer::try_device(&device.unwrap_or(DeviceChoice::Cpu), precision.unwrap_or(Precision::F32))?)
        }
        Verb::Stop(json) => stop::stop(&home, &json),
        Verb::Resume(json) => stop::resume(&home, &json),
        Verb::Ledger(verb) => ledger::ledger(&home, &verb),
        Verb::Train { job, stop_with_parent } => {
            Ok(trainer::train(&JobFolder::at(job), &Stop::heard(stop_with_parent))?)
        }
        Verb::InitModel(args) => init_model::init_model(&args),
        Verb::Tasks(args) => finetune::tasks(&args),
        Verb::Adopt(args) => adopt::adopt(&args),
        Verb::Model(args) => last_model::last_model(&home, &args),
        Verb::Export(args) => export::export(&args),
        Verb::Enrol(args) => enrol::enrol(&home, &config?, &args),
        Verb::Index(args) => index::index(&home, &config?, &args),
        Verb::Import(args) => import::import(&home, &config?, &args),
        Verb::Plans(args) => plans::plans(&home, &config?, &args),
        Verb::Approve(args) => plans::approve(&home, &config?, &args),
        Verb::Run(args) => run::run(home, config?, &args),
        Verb::Evaluate(args) => evaluate::evaluate(&home, &config?, &args),
        Verb::Finetune(args) => finetune::finetune(&home, &config?, &args),
        Verb::Predict(args) => predict::predict(&home, &config?, &args),
        Verb::Report(args) => report::report(&home, &config?, &args),
        Verb::IntakeWorker => Ok(()),
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

fn read_draft(path: &Path) -> anyhow::Result<PlanDraft> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading the plan {}", path.display()))?;
    let draft: PlanDraft = toml::from_str(&text).with_context(|| format!("in the plan {}", path.display()))?;
    draft.check()?;
    Ok(draft)
}

/// Says something to whoever types, on the standard error. Where that cannot be written, a command ends with its own code all the same.
fn say(words: &impl Display) {
    let _ = writeln!(std::io::stderr(), "{words}");
}

/// A reader that has gone, as `head` does, is an error and no panic.
fn print(text: &impl Display) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    write!(out, "{text}").and_then(|()| out.flush()).context("writing to the standard output")
}

fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

#[cfg(test)]
mod tests {
    use common::{Digest, NamedTensors};

    use super::*;

    fn done(folder: &Path, verb: &str) -> anyhow::Result<()> {
        let state = folder.join("state").display().to_string();
        let words = verb.split(' ').map(|word| word.replace("{}", &folder.display().to_string()));
        act(Cli::try_parse_from(["site-agent".to_owned(), "--state".to_owned(), state].into_iter().chain(words))?)
    }

    #[test]
    fn a_backbone_exported_in_any_layout_starts_a_run_with_the_same_numbers_and_its_card_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        std::fs::write(folder.join("plan.toml"), include_str!("../../../tests/plans/story.toml")).unwrap();
        let read = |name: &str| NamedTensors::from_safetensors(&std::fs::read(folder.join(name)).unwrap()).unwrap();
        done(folder, "init-model {}/plan.toml --out {}/a.safetensors --json").unwrap();
        for (layout, arguments) in [("published", ""), ("hugging-face", " --layout hugging-face --network student")] {
            let out = format!("{layout}/model.safetensors");
            done(
                folder,
                &format!("export {{}}/a.safetensors --plan {{}}/plan.toml --out {{}}/{out} --json{arguments}"),
            )
            .unwrap();
            done(folder, &format!("init-model {{}}/plan.toml --from {{}}/{out} --out {{}}/b.safetensors --json"))
                .unwrap();
            assert_eq!(read("a.safetensors"), read("b.safetensors"), "{layout}");
            let card = std::fs::read_to_string(folder.join(layout).join("model.md")).unwrap();
            let digest = Digest::of(&std::fs::read(folder.join(&out)).unwrap()).to_string();
            assert!(card.contains(&digest) && card.contains("never shared an image"), "{card}");
            assert_eq!(folder.join(layout).join("config.json").exists(), layout == "hugging-face");
        }
        let color =
            "export {}/published/model.safetensors --plan {}/plan.toml --channels 3 --out {}/color.safetensors --json";
        done(folder, color).unwrap();
        assert_eq!(read("color.safetensors").get("patch_embed.proj.weight").unwrap().shape[1], 3);
        let card = std::fs::read_to_string(folder.join("color.md")).unwrap();
        assert!(card.contains("3 channel(s)") && !card.contains("never shared an image"), "{card}");
        // A name that is read is not written to.
        let before = read("a.safetensors");
        for (verb, read) in [
            ("export {}/a.safetensors --plan {}/plan.toml --out {}/./a.safetensors", "a.safetensors"),
            ("export {}/a.safetensors --plan {}/plan.toml --out {}/plan.toml", "plan.toml"),
        ] {
            let told = done(folder, verb).unwrap_err().to_string();
            assert!(told.contains(&format!("{read} is what is read")) && told.contains("--out"), "{told}");
        }
        assert_eq!(read("a.safetensors"), before);
    }

    #[test]
    fn settings_that_cannot_be_read_keep_nobody_from_the_switch_and_the_ledger_nor_a_trainer_from_its_job() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let home = Home::at(folder.join("state"));
        std::fs::create_dir(home.root()).unwrap();
        std::fs::write(home.config(), "devise = \"cpu\"").unwrap();
        done(folder, "stop --json").unwrap();
        assert!(home.stopped().exists());
        done(folder, "ledger show --json").unwrap();
        done(folder, "ledger verify --json").unwrap();
        done(folder, "resume --json").unwrap();
        assert!(!home.stopped().exists());
        let told = format!("{:#}", done(folder, "index {}").unwrap_err());
        assert!(told.contains("devise"), "{told}");
        // In a process of its own: a trainer takes its signals.
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cli::tests::a_trainer_of_the_test_above", "--nocapture"])
            .env(CHILD, folder)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&child.stdout);
        assert!(told.contains("1 passed") && told.contains("/no-job/") && !told.contains("devise"), "{told}");
    }

    /// Where a trainer finds settings that cannot be read.
    const CHILD: &str = "A_TRAINER_OF_THE_TEST_ABOVE";

    #[test]
    fn a_trainer_of_the_test_above() {
        if let Some(folder) = std::env::var_os(CHILD) {
            println!("{:#}", done(Path::new(&folder), "train --job {}/no-job").unwrap_err());
        }
    }

    #[test]
    fn an_error_says_each_of_its_causes_once() {
        let disk = durable::read(Path::new("/nowhere/plan.toml")).unwrap_err();
        let words = disk.to_string();
        assert_eq!(told(&anyhow::Error::new(disk)), words);
        let disk = durable::read(Path::new("/nowhere/plan.toml")).unwrap_err();
        let error = anyhow::Error::new(crate::tasks::TasksError::from(disk)).context("in the site's labels");
        assert_eq!(told(&error), format!("in the site's labels: {words}"));
        let apart = anyhow::anyhow!("no such key").context("in the plan p.toml");
        assert_eq!(told(&apart), "in the plan p.toml: no such key");
    }

    #[test]
    fn what_is_measured_is_a_finetuning_or_a_model_with_its_plan_and_the_usage_says_so() {
        let usage = command().find_subcommand_mut("evaluate").unwrap().render_usage().to_string();
        assert!(usage.contains("<--finetuned <FINETUNED>|--model <MODEL>>"), "{usage}");
        assert!(!usage.contains("--plan"), "{usage}");
        let refused = |words: &str| {
            let words = ["site-agent", "evaluate"].into_iter().chain(words.split_whitespace());
            Cli::try_parse_from(words).err().map(|error| error.to_string())
        };
        for words in ["--finetuned a", "--finetuned a --labels l", "--model m --plan p --network student"] {
            assert_eq!(refused(words), None, "{words}");
        }
        let cases = [
            "",
            "--model m",
            "--plan p",
            "--finetuned a --model m",
            "--finetuned a --plan p",
            "--model m --plan p --labels l",
        ];
        for words in cases {
            assert!(refused(words).is_some(), "{words}");
        }
        assert!(refused("--model m").unwrap().contains("--plan <PLAN>"));
    }

    #[test]
    fn a_model_of_another_plan_gets_no_card_of_this_one() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let plan = include_str!("../../../tests/plans/story.toml");
        std::fs::write(folder.join("plan.toml"), plan).unwrap();
        std::fs::write(folder.join("other.toml"), plan.replace("prototypes = ", "prototypes = 1")).unwrap();
        done(folder, "init-model {}/other.toml --out {}/a.safetensors --json").unwrap();
        let refused = done(folder, "export {}/a.safetensors --plan {}/plan.toml --out {}/b.safetensors").unwrap_err();
        assert!(format!("{refused:#}").contains("is not a model of the plan"), "{refused:#}");
        assert!(!folder.join("b.safetensors").exists());
    }
}
