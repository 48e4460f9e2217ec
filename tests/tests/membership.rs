//! A site's certificate, from its renewal under a run to the way back after it has expired, and the ledgers of a run, by the real
//! programs.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use certs::credentials::Credentials;
use common::ledger::{self, Head};
use tests::federation::{Federation, FederationError};
use tests::matrix;
use tests::story::{self, SITES, WITHIN};

/// Life of certificates here, in seconds; agents renew theirs after two thirds of it.
const LIFE_S: u32 = 6;

/// A ledger whose second entry tells something else, and whose later entries follow it.
fn rewritten(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let (mut head, mut anew) = (Head::EMPTY, Vec::new());
    for (place, line) in lines[..lines.len() - 1].iter().enumerate() {
        let mut entry: ledger::Entry = serde_json::from_str(line.split_once('\t').unwrap().0).unwrap();
        if place == 1 {
            entry.event["kind"] = "nothing".into();
        }
        let (line, next) = ledger::line(head, entry.time_ms, &entry.event);
        anew.push(line);
        head = next;
    }
    [anew.join("\n"), lines[lines.len() - 1].to_owned()].join("\n")
}

/// What the guide for hospital IT tells to type does what it says, at a site that has been through a run.
fn every_command_of_the_it_guide(federation: &Federation, root: &Path) {
    let site = SITES[1];
    let guide = include_str!("../../docs/it-guide.md");
    let blocks = guide.split("```").filter_map(|block| block.strip_prefix("sh\n"));
    let commands: Vec<&str> = blocks.flat_map(str::lines).collect();
    assert!(commands.len() >= 9, "{commands:?}");
    let images = tests::phantom::dicom_folder(&root.join("images").join(site)).display().to_string();
    let plans: serde_json::Value =
        serde_json::from_str(&federation.at_site(site, &["plans", "--json"]).unwrap()).unwrap();
    let plan = plans[0]["plan"].as_str().unwrap().to_owned();
    for command in commands {
        let words = command.strip_prefix("site-agent ").unwrap();
        let words = match words {
            "enrol cmrfed1.…" => vec!["enrol".to_owned(), federation.invite(site).unwrap()],
            "index /data/cmr" => vec!["index".to_owned(), images.clone()],
            // An agent that has nothing left to do ends.
            "run" => vec!["run".to_owned(), "--until-finished".to_owned()],
            "approve <digest>" => vec!["approve".to_owned(), plan.clone()],
            words => words.split(' ').map(str::to_owned).collect(),
        };
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        federation.at_site(site, &words).unwrap_or_else(|error| panic!("{command}: {error}"));
    }
}

#[test]
fn certificates_are_renewed_under_a_run_and_one_that_expired_ends_its_agent_with_the_way_back() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("federation");
    story::prepare(&root);
    let mut federation = Federation::open(&root).unwrap();
    let settings = federation.aggregator_state().join("aggregator.toml");
    let text = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, text.replace("certificate_life_s = 2592000", &format!("certificate_life_s = {LIFE_S}")))
        .unwrap();
    federation.start_aggregator().unwrap();
    let identity = |federation: &Federation, site: &str| Credentials::at(federation.site_state(site).join("identity"));
    let first_key = fs::read(identity(&federation, SITES[0]).key_path()).unwrap();
    // Enrolled once more in their own folders, now for certificates that live shortly.
    SITES.iter().try_for_each(|site| federation.enrol(site)).unwrap();
    assert_ne!(fs::read(identity(&federation, SITES[0]).key_path()).unwrap(), first_key, "with a key of its own");

    let plan = fs::read_to_string(story::plan(&root)).unwrap();
    fs::write(story::plan(&root), plan.replace("count = 3", "count = 6")).unwrap();
    story::start_run(&federation, &root).unwrap();
    SITES.iter().try_for_each(|site| federation.start_agent(site)).unwrap();
    federation.wait_until("a trainer at work", WITHIN, |federation| Ok(federation.has_trainer(SITES[0]))).unwrap();
    matrix::hold(&federation, |_| None);
    let run = story::finished(&mut federation).unwrap();
    assert_eq!(run["state"], "finished", "{run:#}");
    for round in run["rounds"].as_array().unwrap() {
        assert_eq!((round["attempt"].as_u64(), round["sites"].as_array().unwrap().len()), (Some(1), SITES.len()));
    }
    for site in SITES {
        let log = fs::read_to_string(federation.log(site)).unwrap();
        assert!(log.matches("certificate is renewed").count() >= 1, "{log}");
    }

    // What happened is in the ledgers, and they agree; a site enters the end when the last model is there.
    for site in SITES {
        let ended =
            |federation: &Federation| Ok(federation.at_site(site, &["ledger", "show"])?.contains("run-finished"));
        federation.wait_until("the end of the run at the site", WITHIN, ended).unwrap();
        let told = federation.at_site(site, &["ledger", "show"]).unwrap();
        let kinds = [
            "enrolled",
            "approved",
            "round-accepted",
            "update-sealed",
            "update-acknowledged",
            "renewed",
            "run-finished",
        ];
        assert!(kinds.iter().all(|kind| told.contains(kind)), "{told}");
        federation.at_site(site, &["ledger", "verify"]).unwrap();
    }
    let of_site = |site: &str| federation.site_state(site).join("ledger").display().to_string();
    let of_sites = SITES.map(of_site);
    let verify = ["ledger", "verify", "--site-ledger", &of_sites[0], "--site-ledger", &of_sites[1]];
    federation.coordinator(&verify).unwrap();
    let exported = root.join("ledger.jsonl").display().to_string();
    federation.coordinator(&["ledger", "export", "--out", &exported]).unwrap();
    let check =
        |words: &[&str]| federation.coordinator_alone(&[&["ledger", "verify", "--file", &exported], words].concat());
    check(&["--site-ledger", &of_sites[0]]).unwrap();
    // One word of the federation's history written anew, with every digest after it as it must be.
    let text = fs::read_to_string(&exported).unwrap();
    fs::write(&exported, rewritten(&text)).unwrap();
    let told = check(&[]).unwrap_err().to_string();
    assert!(told.contains("does not hold"), "{told}");
    fs::write(&exported, &text).unwrap();
    let mut site_ledger = fs::read_to_string(&of_sites[0]).unwrap();
    site_ledger = site_ledger.replacen("round-accepted", "round-acceptet", 1);
    fs::write(root.join("tampered"), site_ledger).unwrap();
    let told = check(&["--site-ledger", &root.join("tampered").display().to_string()]).unwrap_err().to_string();
    assert!(told.contains("the site's ledger") && told.contains("was changed"), "{told}");

    // The agents have ended with their run, and nobody renews.
    let over = |federation: &Federation| {
        let now = i64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
        Ok(identity(federation, SITES[0]).validity().unwrap().is_over(now))
    };
    federation.wait_until("the certificate's end", Duration::from_secs(2 * u64::from(LIFE_S)), over).unwrap();
    let told = federation.at_site(SITES[0], &["run", "--until-finished"]).unwrap_err().to_string();
    assert!(told.contains("expired") && told.contains(&format!("aggregator invite {}", SITES[0])), "{told}");
    let other = federation.invite("site-x").unwrap();
    let told = federation.at_site(SITES[0], &["enrol", &other]).unwrap_err().to_string();
    assert!(told.contains("needs its own --state"), "{told}");
    federation.enrol(SITES[0]).unwrap();
    federation.at_site(SITES[0], &["run", "--until-finished"]).unwrap();

    every_command_of_the_it_guide(&federation, &root);

    // Revoked, the agent ends by itself, and says what to do.
    federation.coordinator(&["revoke", SITES[0]]).unwrap();
    let told = federation.at_site(SITES[0], &["run"]).unwrap_err().to_string();
    assert!(told.contains("revoked") && told.contains("invitation"), "{told}");
}

/// As the runbook says it, with agents that nobody touches.
#[test]
fn agents_follow_another_authority_by_themselves_under_a_run_and_the_old_one_then_counts_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("federation");
    story::prepare(&root);
    let plan = fs::read_to_string(story::plan(&root)).unwrap();
    fs::write(story::plan(&root), plan.replace("count = 3", "count = 8")).unwrap();
    let mut federation = Federation::open(&root).unwrap();
    federation.start_aggregator().unwrap();
    story::start_run(&federation, &root).unwrap();
    SITES.iter().try_for_each(|site| federation.start_agent(site)).unwrap();
    federation.wait_until("a trainer at work", WITHIN, |federation| Ok(federation.has_trainer(SITES[0]))).unwrap();
    let renewals = |federation: &Federation, site: &str| -> Result<usize, FederationError> {
        Ok(federation.at_site(site, &["ledger", "show"])?.matches("renewed").count())
    };
    let anchors = |federation: &Federation, site: &str| {
        let file = Credentials::at(federation.site_state(site).join("identity")).authority_path();
        fs::read_to_string(file).unwrap().matches("BEGIN CERTIFICATE").count()
    };
    for (command, renewed, known) in [("next", 1, 2), ("switch", 2, 1)] {
        // `switch` is refused until the aggregator has seen each site use what it was given.
        let typed = |federation: &Federation| Ok(federation.coordinator(&["authority", command]).is_ok());
        federation.wait_until(command, WITHIN, typed).unwrap();
        let all = |federation: &Federation| {
            SITES.iter().try_fold(true, |all, site| Ok(all && renewals(federation, site)? == renewed))
        };
        federation.wait_until("a renewal at each site", WITHIN, all).unwrap();
        SITES.iter().for_each(|site| assert_eq!(anchors(&federation, site), known, "{command} at {site}"));
    }
    let run = story::finished(&mut federation).unwrap();
    assert_eq!((run["state"].as_str(), story::models(&run).len()), (Some("finished"), 8), "{run:#}");
    for round in run["rounds"].as_array().unwrap() {
        assert_eq!((round["attempt"].as_u64(), round["sites"].as_array().unwrap().len()), (Some(1), SITES.len()));
    }
    let of_sites = SITES.map(|site| federation.site_state(site).join("ledger").display().to_string());
    federation
        .coordinator(&["ledger", "verify", "--site-ledger", &of_sites[0], "--site-ledger", &of_sites[1]])
        .unwrap();
}
