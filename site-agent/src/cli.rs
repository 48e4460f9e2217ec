//! The agent's command line: what was typed, and which verb does it. Exit codes are in one place.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use common::plan::{ImagePlan, ModelPlan};
use common::{Digest, NamedTensors, Plan, PlanDraft};
use indicatif::{ProgressBar, ProgressStyle};
use model::import::{self, Network};
use model::{DeviceChoice, export};

use crate::agent::{self, Agent, Until};
use crate::card::{Card, Origin};
use crate::config::Config;
use crate::enrol::{self, Enrolled};
use crate::evaluate::{self, Question};
use crate::home::Home;
use crate::job::JobFolder;
use crate::link::Link;
use crate::training::DISK_FULL;
use crate::{card, durable, images, trainer};

/// The agent of one hospital: reads DICOM, trains on this machine, sends weight updates, never images.
///
/// Three commands join a federation: `enrol <invitation>`, `index <folder|zip>`, `run`. Everything the agent keeps lies
/// in its state folder; it opens one outbound connection and listens on none.
#[derive(Debug, Parser)]
#[command(name = "site-agent", version)]
struct Cli {
    /// The agent's state folder.
    #[arg(long, global = true, default_value = "site-state", env = "SITE_AGENT_STATE")]
    state: PathBuf,
    /// Compute here instead of on the settings' device: cpu, cuda or cuda:<n>.
    #[arg(long, global = true)]
    device: Option<String>,
    /// Write the log as JSON lines.
    #[arg(long, global = true)]
    log_json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Join a federation: makes this site's key here, and gets a certificate for it with a single-use invitation.
    Enrol {
        /// The invitation, as the coordinator handed it over (`aggregator invite <site>`).
        invitation: String,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Read a folder of DICOM files or UK Biobank zips: what is here, what was skipped and why. May be repeated; only what changed is read again.
    Index(IndexArgs),
    /// List the plans this site has heard of, and which are approved.
    Plans {
        /// Print them as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Approve a plan by its SHA-256. Nothing trains without.
    Approve {
        /// The plan's digest, all 64 digits.
        digest: Digest,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Work: report, fetch, train, send, until stopped.
    Run {
        /// Stop when a run has finished and its last model is here.
        #[arg(long)]
        until_finished: bool,
    },
    /// Make the first model of a run from its plan: the network at its random initialisation, or from a backbone.
    InitModel(InitModelArgs),
    /// Measure a model here: k-NN accuracy of sequence and plane on subjects that no training saw.
    Evaluate(EvaluateArgs),
    /// Take a backbone out of a federation's model for other programs, with a model card beside.
    Export(ExportArgs),
    /// Train one job folder (started by the agent, or by a batch system).
    #[command(hide = true)]
    Train {
        #[arg(long)]
        job: PathBuf,
        /// End when standard input ends.
        #[arg(long)]
        stop_with_parent: bool,
    },
    /// Parse files for the parent process, under limits on memory and time.
    #[command(hide = true)]
    IntakeWorker,
}

#[derive(Debug, Args)]
struct IndexArgs {
    /// A folder of hospital exports, a folder of UK Biobank zips, or one zip.
    source: PathBuf,
    /// Read onto the grid of this plan (TOML); without it, onto the default grid (256 pixels of 1 mm).
    #[arg(long)]
    plan: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct InitModelArgs {
    /// The plan, as the coordinator wrote it (TOML).
    plan: PathBuf,
    /// Start student and teacher from the backbone in this file (safetensors with the names of DINO, timm or Hugging
    /// Face); the head stays at its random initialisation.
    #[arg(long)]
    from: Option<PathBuf>,
    /// Whose backbone, if the file of --from holds both.
    #[arg(long, value_enum, default_value_t, requires = "from")]
    network: Which,
    /// Where to write the model.
    #[arg(long)]
    out: PathBuf,
    /// Print the digest as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ExportArgs {
    /// A model of a run, or a backbone with the names of DINO, timm or Hugging Face.
    model: PathBuf,
    /// The run's plan (TOML).
    #[arg(long)]
    plan: PathBuf,
    /// Whose backbone, if the file holds both.
    #[arg(long, value_enum, default_value_t)]
    network: Which,
    /// Where to write the backbone; a model card is written beside.
    #[arg(long)]
    out: PathBuf,
    /// Whose tensor names to write.
    #[arg(long, value_enum, default_value_t)]
    layout: Layout,
    /// Channels of the images it is for, 1 or 3: a patch embedding of one channel is spread over three, one of three
    /// is summed. Without it, as many as the plan's.
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(["1", "3"]))]
    channels: Option<String>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// One of the two networks that a model of a run holds.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Which {
    Student,
    #[default]
    Teacher,
}

impl Which {
    fn word(self) -> &'static str {
        match self {
            Which::Student => "student",
            Which::Teacher => "teacher",
        }
    }
}

impl From<Which> for Network {
    fn from(which: Which) -> Self {
        match which {
            Which::Student => Network::Student,
            Which::Teacher => Network::Teacher,
        }
    }
}

/// Whose tensor names an exported backbone has.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Layout {
    /// DINO's, which timm loads too.
    #[default]
    Published,
    /// Those of transformers' ViTModel; config.json is written beside. It loads a folder, so name the file
    /// model.safetensors.
    HuggingFace,
}

impl Layout {
    fn words(self) -> &'static str {
        match self {
            Layout::Published => "published DINO key names",
            Layout::HuggingFace => "key names of Hugging Face's `ViTModel` without pooler (`config.json` beside)",
        }
    }
}

#[derive(Debug, Args)]
struct EvaluateArgs {
    /// A model of a run, or a backbone with the names of DINO, timm or Hugging Face (safetensors).
    #[arg(long)]
    model: PathBuf,
    /// The run's plan (TOML).
    #[arg(long)]
    plan: PathBuf,
    /// Whose backbone, if the file holds both.
    #[arg(long, value_enum, default_value_t)]
    network: Which,
    /// Draw sample frames and attention maps into this folder. They show images: keep them at the site.
    #[arg(long)]
    pictures: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Reads the command line, does what it says, and returns the exit code: 0 done, 1 failed, 2 not understood, 3 the disk
/// is full.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Verb::IntakeWorker = cli.verb {
        return data::worker_main();
    }
    log(cli.log_json);
    match act(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            // By the system's own answer, which every error of a disk holds innermost.
            let full = error.chain().filter_map(|cause| cause.downcast_ref()).any(durable::is_full);
            if full { ExitCode::from(DISK_FULL) } else { ExitCode::FAILURE }
        }
    }
}

fn log(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    if json { log.json().init() } else { log.with_ansi(std::io::stderr().is_terminal()).init() }
}

fn act(cli: Cli) -> anyhow::Result<()> {
    let home = Home::at(&cli.state);
    let mut config = Config::read(&home.config())?;
    if let Some(device) = cli.device {
        // Read here, so that a mistyped device is refused before anything starts.
        config.device = device.parse::<DeviceChoice>()?.to_string();
    }
    match cli.verb {
        Verb::Enrol { invitation, json } => enrol(&home, &invitation, json),
        Verb::Index(args) => index(&home, &config, &args),
        Verb::Plans { json } => plans(&home, json),
        Verb::Approve { digest, json } => approve(&home, digest, json),
        Verb::Run { until_finished } => run(home, config, until_finished),
        Verb::InitModel(args) => init_model(&args),
        Verb::Evaluate(args) => evaluate(&home, &config, &args),
        Verb::Export(args) => export(&args),
        Verb::Train { job, stop_with_parent } => {
            if stop_with_parent {
                trainer::stop_with_parent();
            }
            Ok(trainer::train(&JobFolder::at(job))?)
        }
        Verb::IntakeWorker => Ok(()),
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

fn enrol(home: &Home, invitation: &str, json: bool) -> anyhow::Result<()> {
    let enrolled = runtime()?.block_on(enrol::enrol(home, invitation))?;
    if json {
        println!("{}", serde_json::to_string_pretty(&enrolled)?);
    } else {
        println!("{} is enrolled in {} at {}", enrolled.site, enrolled.federation, enrolled.address);
        println!("CA fingerprint, to compare with the coordinator's by phone:\n  {}", enrolled.fingerprint);
        println!("next: site-agent index <folder|zip>");
    }
    Ok(())
}

fn index(home: &Home, config: &Config, args: &IndexArgs) -> anyhow::Result<()> {
    let source = args.source.canonicalize().with_context(|| {
        format!("{} cannot be read: name a folder of DICOM files, or a UK Biobank zip", args.source.display())
    })?;
    let grid = args.plan.as_deref().map(read_draft).transpose()?.map_or_else(ImagePlan::default, |draft| draft.images);
    let bar = progress_bar(args.json);
    let program = std::env::current_exe().context("finding this program")?;
    let indexed = images::index_all(home, Some(&source), &grid, &config.intake, &program, &mut |progress| {
        bar.set_length(progress.total as u64);
        bar.set_position(progress.done as u64);
        bar.set_message(format!("{} frames", progress.frames));
    });
    bar.finish_and_clear();
    let indexed = indexed?;
    for (source, report) in &indexed.reports {
        if args.json {
            println!("{}", serde_json::to_string(report)?);
        } else {
            println!("{}\n{report}", source.display());
        }
    }
    Ok(())
}

fn progress_bar(quiet: bool) -> ProgressBar {
    if quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} files, {msg}, {eta} left");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn plans(home: &Home, json: bool) -> anyhow::Result<()> {
    let approved = agent::approvals(home)?;
    let mut known = Vec::new();
    for entry in std::fs::read_dir(home.plans()).into_iter().flatten() {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(digest) = name.strip_suffix(".json").and_then(|name| name.parse::<Digest>().ok()) else { continue };
        known.push((digest, Plan::from_agreed_bytes(&durable::read(&home.plan(digest))?, digest)?));
    }
    if json {
        let rows = known.iter().map(|(digest, plan)| {
            serde_json::json!({ "plan": digest, "approved": approved.contains(digest), "draft": plan.draft })
        });
        println!("{}", serde_json::to_string_pretty(&rows.collect::<Vec<_>>())?);
        return Ok(());
    }
    if known.is_empty() {
        println!("no plan has been announced to this site yet");
    }
    for (digest, plan) in known {
        let state = if approved.contains(&digest) { "approved" } else { "AWAITS APPROVAL" };
        println!("{digest}  {state}\n{}", indented(&toml::to_string(&plan.draft)?));
    }
    Ok(())
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

fn approve(home: &Home, digest: Digest, json: bool) -> anyhow::Result<()> {
    let announced = home.plan(digest).exists();
    agent::approve(home, digest)?;
    if json {
        println!("{}", serde_json::json!({ "plan": digest, "approved": true, "announced": announced }));
        return Ok(());
    }
    if !announced {
        println!("this plan has not been announced to this site yet; the approval is kept for when it is");
    }
    println!("approved {digest}");
    Ok(())
}

fn run(home: Home, config: Config, until_finished: bool) -> anyhow::Result<()> {
    let Enrolled { site, address, .. } = enrol::enrolled(&home)?;
    let path = home.lock();
    let lock = std::fs::File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    if lock.try_lock().is_err() {
        bail!("another agent works in {}: stop it first, or give this one its own --state", home.root().display());
    }
    let program = std::env::current_exe().context("finding this program")?;
    let until = if until_finished { Until::RunFinished } else { Until::Stopped };
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let link = Link::new(site.clone(), &address, enrol::client_config(&home)?)?;
        let agent = Agent::new(site, home, config, link, program)?;
        tokio::select! {
            ended = agent.run(until) => Ok(ended?),
            () = stopped() => {
                tracing::info!("stopping; the trainer's checkpoint stays, and the next start goes on from it");
                Ok(())
            }
        }
    });
    // Without waiting for an intake that may be reading images: what it has written counts, the rest is read again.
    runtime.shutdown_background();
    ended
}

/// Resolves at SIGTERM or Ctrl-C.
async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

fn read_draft(path: &Path) -> anyhow::Result<PlanDraft> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading the plan {}", path.display()))?;
    let draft: PlanDraft = toml::from_str(&text).with_context(|| format!("in the plan {}", path.display()))?;
    draft.check()?;
    Ok(draft)
}

fn read_weights(path: &Path) -> anyhow::Result<NamedTensors> {
    NamedTensors::from_safetensors(&durable::read(path)?).with_context(|| {
        let remedy = "other formats become safetensors with site-agent/model/scripts/interchange.py convert";
        format!("in the model {} ({remedy})", path.display())
    })
}

/// The backbone among a file's weights, as the network of `plan` has it. Says what was changed.
fn fitted_backbone(
    path: &Path,
    weights: &NamedTensors,
    plan: &ModelPlan,
    network: Which,
) -> anyhow::Result<NamedTensors> {
    let imported = import::imported(weights, plan, network.into());
    let imported = imported.with_context(|| format!("in the model {}", path.display()))?;
    for change in imported.changes {
        tracing::info!("to fit the plan, {change}");
    }
    Ok(imported.backbone)
}

fn init_model(args: &InitModelArgs) -> anyhow::Result<()> {
    let draft = read_draft(&args.plan)?;
    let digest = match &args.from {
        None => trainer::first_model(&draft, &args.out)?,
        Some(from) => {
            let backbone = fitted_backbone(from, &read_weights(from)?, &draft.model, args.network)?;
            let file = import::first_weights(&draft.model, draft.seed, &backbone)?.to_safetensors();
            durable::write(&args.out, &file)?;
            Digest::of(&file)
        }
    };
    if args.json {
        println!("{}", serde_json::json!({ "model": digest, "path": args.out }));
    } else {
        println!("first model {digest}\nwritten to {}", args.out.display());
    }
    Ok(())
}

fn evaluate(home: &Home, config: &Config, args: &EvaluateArgs) -> anyhow::Result<()> {
    let plan = read_draft(&args.plan)?;
    let Some(cache) = images::cache_for(home, &plan.images)? else {
        bail!("no images on this plan's grid: `site-agent index <folder|zip> --plan {}` first", args.plan.display());
    };
    let device = config.device.parse()?;
    let backbone = fitted_backbone(&args.model, &read_weights(&args.model)?, &plan.model, args.network)?;
    let question =
        Question { plan: &plan, backbone: &backbone, cache: &cache, held_out: config.held_out, device: &device };
    let found = evaluate::evaluate(&question, args.pictures.as_deref())?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&found)?);
    } else {
        print!("{found}");
    }
    Ok(())
}

fn export(args: &ExportArgs) -> anyhow::Result<()> {
    let mut draft = read_draft(&args.plan)?;
    let weights = read_weights(&args.model)?;
    let of_a_run = import::holds_a_run(&weights);
    if of_a_run {
        // The card will say that this plan made it.
        let agreed = model::signature(&draft.model).map(|signature| signature.require(&weights.signature()))?;
        agreed
            .with_context(|| format!("{} is not a model of the plan {}", args.model.display(), args.plan.display()))?;
    }
    if let Some(channels) = &args.channels {
        draft.model.in_channels = channels.parse()?;
    }
    let backbone = fitted_backbone(&args.model, &weights, &draft.model, args.network)?;
    let (weights, metadata) = match args.layout {
        Layout::Published => (backbone, None),
        Layout::HuggingFace => {
            let export::HuggingFace { weights, config } = export::hugging_face(&backbone, &draft.model)?;
            durable::write(&args.out.with_file_name("config.json"), config.as_bytes())?;
            // Without it, transformers takes the file for one that it cannot read.
            (weights, Some([("format".to_owned(), "pt".to_owned())].into()))
        }
    };
    let file = weights.to_safetensors_with(metadata);
    let (digest, tensors) = (Digest::of(&file), weights.signature().len());
    durable::write(&args.out, &file)?;
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let origin = if of_a_run { Origin::Run(args.network.word()) } else { Origin::File(name(&args.model)) };
    let card = card::model_card(
        &draft,
        &Card {
            origin,
            layout: args.layout.words(),
            file: name(&args.out),
            digest,
            tensors,
            values: weights.signature().value_count(),
        },
    );
    durable::write(&args.out.with_extension("md"), card.as_bytes())?;
    if args.json {
        println!("{}", serde_json::json!({ "path": args.out, "tensors": tensors, "sha256": digest }));
    } else {
        println!("backbone with {tensors} tensors written to {}", args.out.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
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
        std::fs::write(folder.join("plan.toml"), include_str!("../../tests/plans/story.toml")).unwrap();
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
    }

    #[test]
    fn a_model_of_another_plan_gets_no_card_of_this_one() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let plan = include_str!("../../tests/plans/story.toml");
        std::fs::write(folder.join("plan.toml"), plan).unwrap();
        std::fs::write(folder.join("other.toml"), plan.replace("prototypes = ", "prototypes = 1")).unwrap();
        done(folder, "init-model {}/other.toml --out {}/a.safetensors --json").unwrap();
        let refused = done(folder, "export {}/a.safetensors --plan {}/plan.toml --out {}/b.safetensors").unwrap_err();
        assert!(format!("{refused:#}").contains("is not a model of the plan"), "{refused:#}");
        assert!(!folder.join("b.safetensors").exists());
    }
}
