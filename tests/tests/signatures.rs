//! Two coordinators, each at a machine of their own, and a site that trains under no plan that only one of them signed.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::fs;
use std::path::Path;

use serde_json::Value;
use tests::federation::{Federation, FederationError};
use tests::programs::ProgramError;
use tests::story::{self, SITES, WITHIN};

/// Enrols a person at a machine of their own; the folder there.
fn person(federation: &Federation, root: &Path, office: &str, name: &str) -> String {
    let folder = root.join("people").join(name).display().to_string();
    let invited = federation.coordinator(&["invite", office, name, "--json"]).unwrap();
    let invited: Value = serde_json::from_str(&invited).unwrap();
    let told = federation
        .coordinator_alone(&["enrol", invited["invitation"].as_str().unwrap(), "--as", &folder, "--json"])
        .unwrap();
    let enrolled: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(enrolled["person"], invited["person"]);
    folder
}

fn refused(answer: Result<String, ProgramError>) -> String {
    answer.expect_err("it should be refused").to_string()
}

#[test]
fn a_site_that_asks_for_two_signatures_declines_by_that_rule_until_another_coordinator_has_signed() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    story::prepare(root);
    let mut federation = Federation::open(root).unwrap();
    federation.start_aggregator().unwrap();
    let alice = person(&federation, root, "--coordinator", "alice");
    let bob = person(&federation, root, "--coordinator", "bob");
    let eve = person(&federation, root, "--observer", "eve");

    // An invitation of a person is no site's, and a site's is no person's.
    let invited: Value =
        serde_json::from_str(&federation.coordinator(&["invite", "--observer", "x", "--json"]).unwrap()).unwrap();
    let told = refused(federation.at_site("elsewhere", &["enrol", invited["invitation"].as_str().unwrap()]));
    assert!(told.contains("observer x, a person") && told.contains("aggregator enrol"), "{told}");
    let told = refused(federation.coordinator_alone(&["enrol", &federation.invite("late").unwrap(), "--as", &eve]));
    assert!(told.contains("site late") && told.contains("site-agent enrol"), "{told}");

    let (plan, first) = (story::plan(root).display().to_string(), root.join("first.safetensors").display().to_string());
    federation.at_site(SITES[0], &["init-model", &plan, "--out", &first]).unwrap();
    let start = ["run", "start", &plan, "--first-model", &first, "--json", "--as"];
    let told = refused(federation.coordinator_alone(&[&start[..], &[&eve]].concat()));
    assert!(told.contains("not-permitted") && told.contains("observer eve may not start a run"), "{told}");
    let started: Value =
        serde_json::from_str(&federation.coordinator_alone(&[&start[..], &[&alice]].concat()).unwrap()).unwrap();
    let digest = started["plan"].as_str().unwrap();
    for site in SITES {
        federation.at_site(site, &["approve", digest]).unwrap();
    }
    federation.write_settings(SITES[0], "report_every_s = 0.1\n[policy]\nsignatures = 2").unwrap();
    federation.start_agent(SITES[0]).unwrap();
    let said = |federation: &Federation, what: &str| -> Result<String, FederationError> {
        Ok(story::run(federation)?["sites"][SITES[0]][what].as_str().unwrap_or_default().to_owned())
    };
    federation
        .wait_until("the site's word", WITHIN, |federation| Ok(said(federation, "declined")? == "policy-signatures"))
        .unwrap();
    assert!(!federation.has_trainer(SITES[0]), "nothing trains");
    let told = federation.at_site(SITES[0], &["plans"]).unwrap();
    for part in ["signed by one coordinator: alice (", "DECLINED HERE: 1 coordinators who count here have signed"] {
        assert!(told.contains(part), "{part:?} is missing from:\n{told}");
    }

    let told = federation.coordinator_alone(&["run", "show", "story", "--as", &bob]).unwrap();
    assert!(told.contains(digest) && told.contains("steps_per_round"), "{told}");
    let told = refused(federation.coordinator_alone(&["run", "sign", digest, "--as", &alice]));
    assert!(told.contains("coordinator alice has signed the plan of run story already"), "{told}");
    let told = federation.coordinator_alone(&["run", "sign", digest, "--as", &bob]).unwrap();
    assert!(told.contains("2 signatures are there; the plan asks for none"), "{told}");
    let told = federation.coordinator_alone(&["run", "list", "--as", &eve]).unwrap();
    assert!(told.contains("signed by alice, bob"), "{told}");
    // It would ask again by itself after ten minutes; and does when it is started.
    federation.kill_agent(SITES[0]);
    federation.start_agent(SITES[0]).unwrap();
    federation
        .wait_until("the site in the round", WITHIN, |federation| {
            Ok(["fetching", "indexing", "training", "sending", "reported"]
                .contains(&said(federation, "phase")?.as_str()))
        })
        .unwrap();
    let told = federation.at_site(SITES[0], &["plans"]).unwrap();
    assert!(told.contains("signed by 2 coordinators: alice (") && !told.contains("DECLINED"), "{told}");
    // The record is the site's own, with the evidence.
    let kept = federation.site_state(SITES[0]).join(format!("plans/{digest}.signed.json"));
    let kept: Value = serde_json::from_slice(&fs::read(kept).unwrap()).unwrap();
    assert_eq!(kept["received"].as_array().unwrap().len(), 2, "{kept:#}");
    let told = federation.coordinator_alone(&["ledger", "show", "--as", &eve]).unwrap();
    assert!(told.contains("plan-signed") && told.contains("by=coordinator/bob"), "{told}");
    let told = federation.coordinator_alone(&["ledger", "verify", "--as", &eve]).unwrap();
    assert!(told.contains("entries hold"), "{told}");
}
