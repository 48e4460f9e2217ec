//! Whatever dies, and whenever: started again, the federation ends with the same bits as if nothing had happened.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::fs;
use std::path::Path;

use tests::federation::{Federation, FederationError};
use tests::story::{self, SITES, WITHIN};

/// Tells one story on a copy of the prepared federation, and returns the digests of its models.
fn told(
    prepared: &Path,
    name: &str,
    happens: impl FnOnce(&mut Federation) -> Result<(), FederationError>,
) -> Vec<String> {
    let root = prepared.with_file_name(name);
    story::copy(prepared, &root).unwrap();
    let mut federation = Federation::open(&root).unwrap();
    federation.start_aggregator().unwrap();
    story::start_run(&federation, &root).unwrap();
    SITES.iter().try_for_each(|site| federation.start_agent(site)).unwrap();
    happens(&mut federation).unwrap();
    let run = story::finished(&mut federation).unwrap();
    assert_eq!(run["state"], "finished", "{run:#}");
    for round in run["rounds"].as_array().unwrap() {
        assert_eq!(round["sites"].as_array().unwrap().len(), SITES.len(), "{round:#}");
    }
    story::models(&run)
}

#[test]
fn a_killed_aggregator_and_a_killed_agent_go_on_to_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    let prepared = folder.path().join("prepared");
    story::prepare(&prepared);

    let undisturbed = told(&prepared, "undisturbed", |_| Ok(()));
    assert_eq!(undisturbed.len(), 3);

    let aggregator_killed = told(&prepared, "aggregator-killed", |federation| {
        for round in 0..2 {
            federation.wait_until("a site at work", WITHIN, |federation| at_work_after(federation, round))?;
            federation.kill_aggregator();
            federation.start_aggregator()?;
        }
        Ok(())
    });
    assert_eq!(aggregator_killed, undisturbed, "the aggregator was killed");

    let agent_killed = told(&prepared, "agent-killed", |federation| {
        let checkpoint = |federation: &Federation| has_checkpoint(&federation.site_state(SITES[0]).join("jobs"));
        federation.wait_until("a checkpoint", WITHIN, |federation| Ok(checkpoint(federation)))?;
        federation.kill_agent(SITES[0]);
        federation.start_agent(SITES[0])
    });
    assert_eq!(agent_killed, undisturbed, "an agent was killed, with its trainer");
}

/// Whether so many rounds are closed and a site trains or sends.
fn at_work_after(federation: &Federation, rounds: usize) -> Result<bool, FederationError> {
    let run = story::run(federation)?;
    let busy = |site: &str| matches!(run["sites"][site]["phase"].as_str(), Some("training" | "sending" | "reported"));
    Ok(story::models(&run).len() >= rounds && SITES.iter().any(|site| busy(site)))
}

fn has_checkpoint(folder: &Path) -> bool {
    fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
        entry.file_name() == "checkpoint.safetensors" || (entry.path().is_dir() && has_checkpoint(&entry.path()))
    })
}
