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

/// The plan of the stories, written into `root`.
pub fn plan(root: &Path) -> PathBuf {
    root.join("plan.toml")
}

/// Makes the federation in `root`: images, CA, enrolment, intake. The aggregator is stopped again.
///
/// # Panics
/// If any of it fails: a story cannot be told then.
pub fn prepare(root: &Path) {
    fs::create_dir_all(root).expect("a folder for the story");
    fs::write(plan(root), PLAN).expect("the story's plan");
    let mut federation = Federation::create(root).expect("a federation");
    federation.start_aggregator().expect("an aggregator");
    let specs = [SiteSpec::a(12).small(), SiteSpec::c(12).small()];
    for (site, spec) in SITES.into_iter().zip(specs) {
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
    let digest = federation.start_run(SITES[0], &plan(root))?;
    for site in SITES {
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
