//! Runs one after the other: each site ends up with the last model of each, also of one that ended while it was away.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::fs;
use std::path::Path;

use serde_json::Value;
use tests::federation::Federation;
use tests::story::{self, SITES, WITHIN};

const LATER: &str = "later";

/// Writes the story's plan anew, as one of a single short round of a run.
fn write_plan(root: &Path, run: &str) {
    let written = fs::read_to_string(story::plan(root)).unwrap();
    let short = written.replace("steps_per_round = 300", "steps_per_round = 20").replace("count = 3", "count = 1");
    fs::write(story::plan(root), short.replace("run = \"story\"", &format!("run = \"{run}\""))).unwrap();
}

fn run(federation: &Federation, name: &str) -> Value {
    let runs = federation.status().unwrap()["runs"].as_array().cloned().unwrap();
    runs.into_iter().find(|run| run["run"] == name).unwrap()
}

/// A federation with two runs of one short round, the later one behind the other, which is over; the site that `leaves` was in it, and is away.
fn one_is_over(root: &Path) -> Federation {
    story::prepare(root);
    write_plan(root, "story");
    let mut federation = Federation::open(root).unwrap();
    federation.start_aggregator().unwrap();
    story::start_run(&federation, root).unwrap();
    write_plan(root, LATER);
    story::start_run(&federation, root).unwrap();
    // Its update is acknowledged, and then it goes away.
    let [stays, leaves] = SITES;
    federation.start_lasting_agent(leaves).unwrap();
    let reported = |federation: &Federation| Ok(story::run(federation)?["open"]["reported"][0] == leaves);
    federation.wait_until("its update", WITHIN, reported).unwrap();
    federation.kill_agent(leaves);
    federation.start_lasting_agent(stays).unwrap();
    assert_eq!(story::finished(&mut federation).unwrap()["state"], "finished");
    federation
}

fn ends(federation: &mut Federation) {
    let is_over = |federation: &Federation| Ok(run(federation, LATER)["state"] == "finished");
    federation.wait_until("the end of the later run", WITHIN, is_over).unwrap();
}

#[test]
fn a_site_that_was_away_when_a_run_ended_fetches_its_last_model_before_it_works_for_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let mut federation = one_is_over(folder.path());
    federation.start_lasting_agent(SITES[1]).unwrap();
    ends(&mut federation);
    for site in SITES {
        let ended = |federation: &Federation| {
            Ok(federation.at_site(site, &["ledger", "show"])?.matches("run-finished").count() == 2)
        };
        federation.wait_until("the end of both runs in the site's ledger", WITHIN, ended).unwrap();
        for name in ["story", LATER] {
            let model = run(&federation, name)["model"].as_str().unwrap().to_owned();
            let held = federation.site_state(site).join("models").join(format!("{model}.safetensors"));
            assert!(held.exists(), "{site} has no last model of {name}: {}", held.display());
        }
        let ledger = federation.at_site(site, &["ledger", "show"]).unwrap();
        let ends: Vec<&str> = ledger.lines().filter(|line| line.contains("run-finished")).collect();
        assert!(ends[0].contains("story") && ends[1].contains(LATER), "{ends:#?}");
    }
}

#[test]
fn a_last_model_that_is_not_to_be_had_keeps_no_site_from_the_next_run() {
    let folder = tempfile::tempdir().unwrap();
    let mut federation = one_is_over(folder.path());
    let model = run(&federation, "story")["model"].as_str().unwrap().to_owned();
    fs::remove_file(federation.aggregator_state().join("blobs").join(&model[..2]).join(&model)).unwrap();
    federation.start_lasting_agent(SITES[1]).unwrap();
    ends(&mut federation);
    let sites = &run(&federation, LATER)["rounds"][0]["sites"];
    assert_eq!(sites.as_array().unwrap().len(), SITES.len(), "{sites:#}");
}
