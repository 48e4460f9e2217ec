//! `aggregator run`: starts runs, signs their plans, lists them. Works on the state folder, where a server notices by itself, or as a
//! person.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use common::fixed_point::MAX_SITES;
use common::{Digest, NamedTensors, Plan, PlanDraft, RunId, SiteId, plan};
use serde::Serialize;
use serde_json::Value;

use super::acting::{Acting, Desk, State, asking, store};
use super::status::Source;
use super::wait::{self, Wait};
use super::{Failure, Json, print_json, text};
use crate::config::Config;
use crate::desk::{self, Wanted};
use crate::layout::Layout;
use crate::store::{Blobs, Store, StoreError};

/// What to do with runs.
#[derive(Debug, Subcommand)]
pub(super) enum RunVerb {
    /// Print a plan with every setting, its default, and what it does: what to begin with.
    Example,
    /// Start a run from a plan and its first model.
    ///
    /// The plan is checked, the model's names and shapes become part of it, and the digest of the whole is printed: this is
    /// what every site approves before it trains. A running server begins the first round within a second; if the plan asks for
    /// `signatures`, when so many coordinators have signed it. With `--as`, who starts a run signs its plan.
    Start(Start),
    /// Show a run's plan, every setting of it, and its digest: what a coordinator reads before signing.
    Show(OfRun),
    /// Put your hand under a run's plan, as a coordinator (`--as`).
    Sign(Sign),
    /// List the runs.
    List(List),
    /// Wait until a run is over, with a line for each round as it ends. The exit code says how: 0 finished with every site in every
    /// round, 6 finished and sites were left out (which, of which rounds, and why is told), 7 not over within `--within-s`, 8 failed
    /// or aborted.
    Wait(Wait),
    /// Let a run's rounds stand still: sites stop training within seconds, the deadline waits, and nothing is lost.
    Pause(OfRun),
    /// Let a paused run go on.
    Resume(OfRun),
    /// End a run for good; its last model stays.
    Abort(Abort),
}

#[derive(Debug, Args)]
pub(super) struct OfRun {
    /// The run.
    run: RunId,
    #[command(flatten)]
    state: State,
}

#[derive(Debug, Args)]
pub(super) struct Sign {
    /// The run, or the digest of its plan.
    run: String,
    /// Not what signs: whoever types it is told so.
    #[arg(long, value_name = "DIR", hide = true)]
    state: Option<PathBuf>,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Serialize)]
struct Signed {
    run: RunId,
    plan: Digest,
    signatures: usize,
    needed: u32,
}

#[derive(Debug, Args)]
pub(super) struct Abort {
    #[command(flatten)]
    of: OfRun,
    /// Why, for the people at the sites; names no patient.
    #[arg(long, value_name = "TEXT")]
    because: String,
}

#[derive(Debug, Args)]
pub(super) struct Start {
    /// The plan, as TOML.
    plan: PathBuf,
    /// The model to start from: safetensors of 32-bit floats, made with `site-agent init-model`.
    #[arg(long, value_name = "FILE")]
    first_model: PathBuf,
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Serialize)]
struct Started {
    run: common::RunId,
    plan: common::Digest,
    first_model: common::Digest,
    model_bytes: u64,
    rounds: u32,
    signatures: usize,
    signatures_needed: u32,
    sites: Vec<SiteId>,
    not_enrolled: Vec<SiteId>,
    remarks: Vec<String>,
}

pub(super) fn run(verb: RunVerb, acting: &Acting) -> Result<(), Failure> {
    match verb {
        RunVerb::Example => super::print(&plan::EXAMPLE),
        RunVerb::Start(arguments) => start(arguments, acting),
        RunVerb::Show(of) => show(of, acting),
        RunVerb::Sign(arguments) => sign(arguments, acting),
        RunVerb::Wait(arguments) => wait::wait(arguments, acting),
        RunVerb::Pause(of) => wish(of, "pauses", &Wanted::Pause, acting),
        RunVerb::Resume(of) => wish(of, "goes on", &Wanted::Resume, acting),
        RunVerb::Abort(Abort { of, because }) => wish(of, "ends", &Wanted::Abort(because), acting),
        RunVerb::List(List { state, json }) => {
            let status = Source::of(acting.desk(state)?)?.status()?;
            if json.json {
                print_json(&status.runs)?
            } else {
                super::print(&text::runs(&status))?
            }
            match status.damaged_runs.as_slice() {
                [] => Ok(()),
                damaged => Err(Failure::failed("a run cannot be read", damaged.join("; "))),
            }
        }
    }
}

fn wish(OfRun { run, state }: OfRun, told: &str, wanted: &Wanted, acting: &Acting) -> Result<(), Failure> {
    match acting.desk(state)? {
        Desk::Here(folder) => desk::ask(&store(&folder)?, &run, wanted, &asking())?,
        Desk::There(mut remote) => remote.ask(&run, wanted)?,
    }
    super::print(&format!("run {run} {told}: a running server sees to it within a second\n"))
}

fn show(OfRun { run, state }: OfRun, acting: &Acting) -> Result<(), Failure> {
    let plan = match acting.desk(state)? {
        Desk::Here(folder) => desk::record(&store(&folder)?, &run)?.plan,
        Desk::There(mut remote) => remote.plan(&run)?,
    };
    let settings = toml::to_string(&plan.draft).map_err(|error| Failure::failed("writing the plan", error))?;
    super::print(&format!(
        "# plan {}\n# first model {}, {} tensors of {} values\n{settings}",
        plan.digest(),
        plan.first_model,
        plan.signature.len(),
        plan.signature.value_count()
    ))
}

fn sign(Sign { run, state, json }: Sign, acting: &Acting) -> Result<(), Failure> {
    let (Some(folder), None) = (&acting.0, state) else {
        return Err(Failure::Usage(
            "a plan is signed by a person, with a coordinator's own key, and not by the state folder: leave out --state, and name the \
             folder that you enrolled into with --as"
                .to_owned(),
        ));
    };
    let mut remote = desk::remote::Remote::open(folder)?;
    let run: RunId = match run.parse::<Digest>() {
        Err(_) => run.parse().map_err(Failure::refused)?,
        Ok(digest) => {
            let runs = remote.status()?.runs;
            let found = runs.into_iter().find(|run| run.plan == digest).map(|run| run.run);
            found.ok_or_else(|| Failure::refused(format!("no run has the plan {digest}: `aggregator run list`")))?
        }
    };
    // What is signed is the digest of bytes that were read here, not one that was told.
    let plan = remote.plan(&run)?;
    if *plan.run() != run {
        return Err(Failure::failed("the plan", format!("it is of run {}, and not of {run}", plan.run())));
    }
    let now = remote.sign(&run, plan.digest())?;
    let signed = Signed { run, plan: plan.digest(), signatures: now.counting, needed: now.needed };
    if json.json {
        return print_json(&signed);
    }
    let Signed { run, plan, signatures, needed } = &signed;
    let asked = match needed {
        0 => format!("{signatures} signatures are there; the plan asks for none"),
        needed => match (*needed as usize).saturating_sub(*signatures) {
            0 => format!("{signatures} of {needed} signatures are there; the run goes on"),
            missing => format!("{signatures} of {needed} signatures are there; {missing} more to come"),
        },
    };
    super::print(&format!("signed: run {run}, plan {plan}\n{asked}\n"))
}

fn start(Start { plan, first_model, state, json }: Start, acting: &Acting) -> Result<(), Failure> {
    let mut desk = acting.desk(state)?;
    let draft = read_draft(&plan)?;
    let model = read_model(&first_model)?;
    // Every site would decline it, and the run's name would be gone.
    draft.check_size(&model.signature()).map_err(Failure::refused)?;
    let bytes = model.to_safetensors();
    let plan = agreed(draft, &model, &bytes)?;
    let layout = Layout::of(&plan.signature).map_err(Failure::refused)?;
    let not_enrolled = match &mut desk {
        Desk::Here(folder) => start_here(folder, &plan, &bytes, layout.bytes())?,
        Desk::There(remote) => remote.start(&plan, bytes)?,
    };
    let signed = usize::from(matches!(desk, Desk::There(_)));
    let started = Started {
        run: plan.run().clone(),
        plan: plan.digest(),
        first_model: plan.first_model,
        model_bytes: layout.bytes(),
        rounds: plan.draft.rounds.count,
        signatures: signed,
        signatures_needed: plan.draft.signatures,
        not_enrolled,
        sites: plan.draft.rounds.sites.clone(),
        remarks: plan.draft.remarks(),
    };
    if json.json { print_json(&started) } else { super::print(&started.told()) }
}

/// Starts a run in the state folder; names the sites that are still to enrol.
fn start_here(folder: &Path, plan: &Plan, bytes: &[u8], length: u64) -> Result<Vec<SiteId>, Failure> {
    let store = store(folder)?;
    let blobs = Blobs::open(folder).map_err(|error| Failure::failed("the state folder", error))?;
    let settings = Config::of_state(folder)?;
    desk::require_signatures(plan, settings.signatures)?;
    desk::require_room(length, settings.max_spool_bytes)?;
    match desk::record(&store, plan.run()) {
        Err(desk::DeskError::NoRun(_)) => {}
        Ok(_) => return Err(StoreError::RunExists(plan.run().clone()).into()),
        Err(error) => return Err(error.into()),
    }
    // Before the transaction: a server must not wait for a whole model to be written.
    let stored = blobs.put(bytes).map_err(|error| StoreError::io("storing the first model", error))?;
    let is_there = || match blobs.length(stored) == Some(length) {
        true => Ok(()),
        false => Err(StoreError::io("finding the first model", std::io::ErrorKind::NotFound.into())),
    };
    let by = asking();
    store.start_run(plan, None, &by.by, by.now, &mut || is_there())?;
    Ok(desk::not_enrolled(&store, plan)?)
}

impl Started {
    fn told(&self) -> String {
        let mut told = format!(
            "run {} is started: {} rounds, {} sites, {} bytes a model\nplan {}\nEach site approves this digest with \
             `site-agent approve {}`.\n",
            self.run,
            self.rounds,
            self.sites.len(),
            self.model_bytes,
            self.plan,
            self.plan,
        );
        if self.signatures < self.signatures_needed as usize {
            told += &format!(
                "It awaits signatures of coordinators: {} of {} are there. Each types `aggregator run sign {} --as <folder>`.\n",
                self.signatures, self.signatures_needed, self.run
            );
        }
        for site in &self.not_enrolled {
            told += &format!("{site} is not enrolled yet: `aggregator invite {site}`\n");
        }
        for remark in &self.remarks {
            told += &format!("note: {remark}\n");
        }
        told
    }
}

fn read_draft(path: &Path) -> Result<PlanDraft, Failure> {
    let told = |why: String| Failure::refused(format!("{}: {why}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| told(error.to_string()))?;
    let draft: PlanDraft = toml::from_str(&text).map_err(|error| told(error.to_string()))?;
    draft.check().map_err(|error| told(error.to_string()))?;
    // `check` bounds the cohort; the sum's room is why.
    debug_assert!(draft.rounds.sites.len() <= MAX_SITES);
    Ok(draft)
}

fn read_model(path: &Path) -> Result<NamedTensors, Failure> {
    let told = |why: String| Failure::refused(format!("{}: {why}", path.display()));
    let bytes = fs::read(path).map_err(|error| told(error.to_string()))?;
    let model = NamedTensors::from_safetensors(&bytes).map_err(|error| told(error.to_string()))?;
    model.require_finite().map_err(|error| told(error.to_string()))?;
    if model.signature().value_count() == 0 {
        return Err(told("it holds no values: a model is expected".to_owned()));
    }
    Ok(model)
}

/// The plan that everybody agrees on. Sites read its bytes back, so a number that does not survive that is refused here.
fn agreed(draft: PlanDraft, model: &NamedTensors, bytes: &[u8]) -> Result<Plan, Failure> {
    let plan = draft.with_first_model(model.signature(), common::Digest::of(bytes));
    let canonical = plan.canonical_bytes();
    let again = Plan::from_agreed_bytes(&canonical, plan.digest()).map_err(Failure::refused)?;
    if again.canonical_bytes() == canonical {
        return Ok(plan);
    }
    let (written, read) = (serde_json::to_value(&plan.draft), serde_json::to_value(&again.draft));
    let key = match (written, read) {
        (Ok(written), Ok(read)) => first_difference("", &written, &read),
        _ => None,
    };
    let key = key.unwrap_or_else(|| "a number of the plan".to_owned());
    Err(Failure::refused(format!("{key} has too many digits to be read back to the bit: write it shorter")))
}

/// The key of the first value that differs, with its section.
fn first_difference(key: &str, one: &Value, other: &Value) -> Option<String> {
    let below = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            one.iter().find_map(|(name, value)| first_difference(&below(name), value, other.get(name)?))
        }
        (Value::Array(one), Value::Array(other)) => {
            let mut pairs = one.iter().zip(other).enumerate();
            pairs.find_map(|(place, (one, other))| first_difference(&format!("{key}[{place}]"), one, other))
        }
        _ => (one != other).then(|| format!("{key} = {one}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_that_differs_is_named_with_its_section() {
        let plan = |value: f64| json!({"run": "r", "training": {"rate": 1.0, "decay": [0.5, value]}});
        let named = first_difference("", &plan(0.1), &plan(0.2));
        assert_eq!(named.as_deref(), Some("training.decay[1] = 0.1"));
        assert_eq!(first_difference("", &plan(0.1), &plan(0.1)), None);
    }
}
