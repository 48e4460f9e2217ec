//! `aggregator run`: starts runs and lists them. Works on the state folder; a server that serves it notices by itself.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use common::fixed_point::MAX_SITES;
use common::{NamedTensors, Plan, PlanDraft, RunId, SiteId};
use serde::Serialize;
use serde_json::Value;

use super::{Failure, Json, State, print_json, text};
use crate::clock::wall;
use crate::layout::Layout;
use crate::status;
use crate::store::{Blobs, RunState, SqliteStore, Store, StoreError, Wish};

/// What to do with runs.
#[derive(Debug, Subcommand)]
pub(super) enum RunVerb {
    /// Start a run from a plan and its first model.
    ///
    /// The plan is checked, the model's names and shapes become part of it, and the digest of the whole is printed: this is
    /// what every site approves before it trains. A running server begins the first round within a second.
    Start(Start),
    /// List the runs.
    List(List),
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
    sites: Vec<SiteId>,
    not_enrolled: Vec<SiteId>,
}

pub(super) fn run(verb: RunVerb) -> Result<(), Failure> {
    match verb {
        RunVerb::Start(arguments) => start(arguments),
        RunVerb::Pause(of) => wish(&of, "pauses", |wish| wish.paused = true),
        RunVerb::Resume(of) => wish(&of, "goes on", |wish| wish.paused = false),
        RunVerb::Abort(Abort { of, because }) => {
            if !(1..=200).contains(&because.trim().len()) {
                return Err(Failure::refused("--because must be 1 to 200 bytes"));
            }
            wish(&of, "ends", |wish| wish.abort = Some(because.trim().to_owned()))
        }
        RunVerb::List(List { state, json }) => {
            let store = SqliteStore::open(&state.folder)?;
            let status = status::read(&store, wall())?;
            if json.json { print_json(&status.runs) } else { super::print(&text::runs(&status)) }
        }
    }
}

/// Writes down what is asked of a run that goes on; a running server heeds it within a second, another one when it starts.
fn wish(OfRun { run, state }: &OfRun, told: &str, change: impl FnOnce(&mut Wish)) -> Result<(), Failure> {
    let store = SqliteStore::open(&state.folder)?;
    let (found, damaged): (Vec<_>, Vec<_>) = store.runs(0)?.into_iter().partition(Result::is_ok);
    let found = found.into_iter().flatten().find(|record| record.plan.run() == run);
    match (found.map(|record| record.state), damaged.into_iter().find_map(Result::err)) {
        // It may be the one that is asked for.
        (None, Some(error)) => return Err(error.into()),
        (None, None) => return Err(Failure::refused(format!("there is no run {run}: `aggregator run list`"))),
        (Some(RunState::Running), _) => {}
        (Some(_), _) => return Err(Failure::refused(format!("run {run} is over"))),
    }
    // Nothing asked yet is nothing asked.
    let mut wished = store.wishes()?.remove(run).unwrap_or_default();
    change(&mut wished);
    store.wish(run, &wished, wall())?;
    super::print(&format!("run {run} {told}: a running server sees to it within a second\n"))
}

fn start(Start { plan, first_model, state, json }: Start) -> Result<(), Failure> {
    let store = SqliteStore::open(&state.folder)?;
    let blobs = Blobs::open(&state.folder).map_err(|error| Failure::failed("the state folder", error))?;
    let draft = read_draft(&plan)?;
    let model = read_model(&first_model)?;
    let bytes = model.to_safetensors();
    let plan = agreed(draft, &model, &bytes)?;
    let layout = Layout::of(&plan.signature).map_err(Failure::refused)?;
    if !store.rounds(plan.run())?.is_empty() {
        return Err(StoreError::RunExists(plan.run().clone()).into());
    }
    // Before the transaction: a server must not wait for a whole model to be written.
    let stored = blobs.put(&bytes).map_err(|error| StoreError::io("storing the first model", error))?;
    let is_there = || match blobs.length(stored) == Some(layout.bytes()) {
        true => Ok(()),
        false => Err(StoreError::io("finding the first model", std::io::ErrorKind::NotFound.into())),
    };
    store.start_run(&plan, wall(), &mut || is_there())?;
    let enrolled: Vec<SiteId> = store.sites()?.into_iter().filter(|site| !site.revoked).map(|site| site.site).collect();
    let sites = plan.draft.rounds.sites.clone();
    let started = Started {
        run: plan.run().clone(),
        plan: plan.digest(),
        first_model: plan.first_model,
        model_bytes: layout.bytes(),
        rounds: plan.draft.rounds.count,
        not_enrolled: sites.iter().filter(|site| !enrolled.contains(site)).cloned().collect(),
        sites,
    };
    if json.json {
        return print_json(&started);
    }
    let mut told = format!(
        "run {} is started: {} rounds, {} sites, {} bytes a model\nplan {}\nEach site approves this digest with \
         `site-agent approve {}`.\n",
        started.run,
        started.rounds,
        started.sites.len(),
        started.model_bytes,
        started.plan,
        started.plan,
    );
    for site in &started.not_enrolled {
        told += &format!("{site} is not enrolled yet: `aggregator invite {site}`\n");
    }
    super::print(&told)
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
