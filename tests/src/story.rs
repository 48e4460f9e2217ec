//! A small federation, ready to run: phantom images indexed, sites enrolled. Stories begin from copies of it, so that
//! two tellings differ in what the story says and in nothing else.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::federation::{Federation, FederationError};
use crate::phantom::{self, SiteSpec};

/// The sites of the stories.
pub const SITES: [&str; 2] = ["site-a", "site-c"];

/// Longest a story waits for anything.
pub const WITHIN: Duration = Duration::from_secs(120);

const PLAN: &str = include_str!("../plans/story.toml");

/// The sites of the stories in which programs are killed at random instants.
pub const THREE: [&str; 3] = ["site-a", "site-b", "site-c"];

/// The plan of those: rounds as short as can be, with checkpoints close to each other.
pub const KILLS: &str = include_str!("../plans/kills.toml");

/// The plan of the stories, written into `root`.
pub fn plan(root: &Path) -> PathBuf {
    root.join("plan.toml")
}

/// Makes the federation in `root`: images, CA, enrolment, intake. The aggregator is stopped again.
///
/// # Panics
/// If any of it fails: a story cannot be told then.
pub fn prepare(root: &Path) {
    prepare_with(root, PLAN, &SITES);
}

/// The same with another plan and other sites: of each, the last letter of its name says which phantom it has.
///
/// # Panics
/// If any of it fails.
pub fn prepare_with(root: &Path, written: &str, sites: &[&str]) {
    fs::create_dir_all(root).expect("a folder for the story");
    fs::write(plan(root), written).expect("the story's plan");
    let mut federation = Federation::create(root).expect("a federation");
    federation.start_aggregator().expect("an aggregator");
    for site in sites {
        let letter = site.chars().last().expect("a name");
        let spec = SiteSpec::of(letter, 12).expect("a phantom of that letter").small();
        let images = root.join("images").join(site);
        phantom::write_site(&spec, 3, &images, &|_| {}).expect("phantom images");
        federation.enrol(site).expect("enrolment");
        federation.seed_secret(site, 3).expect("the secret of the subjects");
        let source = phantom::dicom_folder(&images).display().to_string();
        let plan = plan(root).display().to_string();
        federation.at_site(site, &["index", &source, "--plan", &plan]).expect("intake");
    }
}

/// Starts the story's run, approves it at the story's sites and returns the plan's digest; the agents are not started.
pub fn start_run(federation: &Federation, root: &Path) -> Result<String, FederationError> {
    start_run_at(federation, root, &SITES)
}

/// The same for other sites than the story's two.
pub fn start_run_at(federation: &Federation, root: &Path, sites: &[&str]) -> Result<String, FederationError> {
    let digest = federation.start_run(sites[0], &plan(root))?;
    for site in sites {
        federation.at_site(site, &["approve", &digest])?;
    }
    Ok(digest)
}

/// The story's run, as the aggregator tells it.
pub fn run(federation: &Federation) -> Result<Value, FederationError> {
    let status = federation.status()?;
    let runs = status["runs"].as_array().cloned().unwrap_or_default();
    Ok(runs.into_iter().find(|run| run["run"] == "story").unwrap_or(Value::Null))
}

/// Waits for the end of the run, and returns it.
pub fn finished(federation: &mut Federation) -> Result<Value, FederationError> {
    federation.wait_until("the end of the run", WITHIN, |federation| {
        Ok(matches!(run(federation)?["state"].as_str(), Some("finished" | "failed")))
    })?;
    run(federation)
}

/// Digest of the model of each closed round.
pub fn models(run: &Value) -> Vec<String> {
    let rounds = run["rounds"].as_array().into_iter().flatten();
    rounds.filter_map(|round| Some(round["model"].as_str()?.to_owned())).collect()
}

/// A copy of a prepared federation; both use the same address, one after the other.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
