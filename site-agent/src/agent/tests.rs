//! An agent whose disk or aggregator does not do what it should.

use std::fs;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use certs::authority::{Authority, LEAF_S};
use certs::credentials::Credentials;
use certs::signing::SigningKey;
use common::FederationName;
use common::ledger::Head;
use common::signed::{Lineage, SignedHead, ledger_statement, model_statement};
use rustls::pki_types::UnixTime;
use tempfile::TempDir;

use super::*;
use crate::enrol::Enrolled;
use crate::network::NetworkConfig;
use crate::switch;

/// A site that enrolled at an address three quarters of its certificate's life ago, and what its aggregator signs with.
fn site(address: &str) -> (TempDir, SigningKey, Agent) {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::at(folder.path().join("state"));
    let (federation, site): (FederationName, SiteId) = ("cmr".parse().unwrap(), "aalst".parse().unwrap());
    let enrolled_s = i64::try_from(UnixTime::now().as_secs()).unwrap() - LEAF_S * 3 / 4;
    let authority = Authority::create(&folder.path().join("ca"), &federation, enrolled_s).unwrap();
    let (credentials, aggregator) =
        (Credentials::at(home.identity()), SigningKey::create(&folder.path().join("key")).unwrap());
    let asked = credentials.next().unwrap().csr_pem().unwrap();
    let certificate = authority.issue_site(&asked, &site, enrolled_s).unwrap().certificate_pem;
    credentials.replace(&certificate, authority.certificate_pem()).unwrap();
    SigningKey::create(&home.identity().join("signing.key")).unwrap();
    let enrolled = Enrolled {
        federation,
        site,
        address: address.to_owned(),
        fingerprint: String::new(),
        fingerprint_words: String::new(),
        aggregator_key: aggregator.verifying(),
    };
    fs::write(home.identity().join("federation.json"), serde_json::to_vec(&enrolled).unwrap()).unwrap();
    let network = NetworkConfig { proxy: Some("none".to_owned()), ..NetworkConfig::default() };
    let member = Member::of(&home, &network).unwrap();
    let config = Config { report_every_s: 0.05, ..Config::default() };
    (folder, aggregator, Agent::new(member, home, config, PathBuf::new()).unwrap())
}

/// The first round of a run, in the aggregator's hand. Its plan is at the site.
fn first_round(aggregator: &SigningKey, agent: &Agent) -> Directive {
    let draft: common::PlanDraft = toml::from_str(include_str!("../../../tests/plans/story.toml")).unwrap();
    let signature = common::Signature::new([("center".to_owned(), vec![1, 4])]).unwrap();
    let agreed = draft.with_first_model(signature, Digest::of(b"first"));
    fs::create_dir_all(agent.home.plans()).unwrap();
    fs::write(agent.home.plan(agreed.digest()), agreed.canonical_bytes()).unwrap();
    let (federation, run) = ("cmr".parse().unwrap(), agreed.run().clone());
    let (before, plan, base) = (RoundNumber(0), agreed.digest(), agreed.first_model);
    let lineage = aggregator.sign(&model_statement(&federation, &run, plan, (before, base), base));
    let head = Head { entries: 7, digest: Digest::of(b"entry 7") };
    Directive::Train(Assignment {
        run,
        round: RoundNumber(1),
        plan,
        base,
        base_bytes: agreed.model_bytes(),
        first_step: 0,
        time_left: Duration::ZERO,
        awaited: true,
        lineage: Some(Box::new(Lineage { round: before, before: base, signature: lineage })),
        ledger: Some(Box::new(SignedHead { head, signature: aggregator.sign(&ledger_statement(&federation, head)) })),
    })
}

fn entered(agent: &Agent) -> Vec<String> {
    let mut kinds = Vec::new();
    let each = |entry: &common::ledger::Entry, _| kinds.push(entry.event["kind"].as_str().unwrap().to_owned());
    Ledger::at(agent.home.ledger()).verify(each).unwrap();
    kinds
}

#[tokio::test]
async fn while_a_renewal_is_not_answered_the_switch_is_looked_at() {
    // Connections are made, and nobody shakes hands.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (_folder, _, mut agent) = site(&silent.local_addr().unwrap().to_string());
    let stopped = Arc::<AtomicBool>::default();
    let task = tokio::spawn(std::future::pending());
    agent.indexing = Some(Indexing { grid: Digest::of(b"grid"), stopped: Arc::clone(&stopped), task });
    switch::stop(&agent.home).unwrap();
    let seen = async {
        while !stopped.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = seen => {}
        _ = agent.keep_certificate() => panic!("what was at work went on until the renewal was given up"),
    }
}

#[tokio::test]
async fn what_the_ledger_does_not_tell_is_not_done() {
    let (_folder, aggregator, mut agent) = site("127.0.0.1:1");
    let directive = first_round(&aggregator, &agent);
    let (run, model) = ("story".parse::<RunId>().unwrap(), Digest::of(b"last"));
    let finish = || Step::Finish(run.clone(), model);
    fs::create_dir(agent.home.ledger()).unwrap();
    assert!(matches!(agent.hold_to_lineage(&directive), Err(Failure::Ends(_))));
    assert!(matches!(agent.take(finish(), &directive).await, Err(Failure::Ends(_))));
    assert_eq!(agent.journal.run(&run), None);
    fs::remove_dir(agent.home.ledger()).unwrap();
    assert!(agent.hold_to_lineage(&directive).is_ok() && agent.take(finish(), &directive).await.is_ok());
    assert_eq!(entered(&agent), ["round-accepted", "run-finished"]);
    assert!(agent.journal.run(&run).unwrap().accepted.is_some() && agent.has_ended(&run, model).unwrap());
    // Approvals that cannot be read are not none: a run that may be this site's is not taken for another's.
    let late = "late".parse().unwrap();
    assert!(agent.has_ended(&late, model).unwrap());
    fs::write(agent.home.approvals(), b"not a list").unwrap();
    agent.has_ended(&late, model).unwrap_err();
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn on_a_full_disk_the_round_is_declined_and_the_ledger_tells_it_when_there_is_room() {
    if !std::path::Path::new("/dev/full").exists() {
        println!("NOT RUN: there is no /dev/full");
        return;
    }
    let (_folder, aggregator, mut agent) = site("127.0.0.1:1");
    let directive = first_round(&aggregator, &agent);
    // Where the ledger's end is noted there is no room.
    let note = agent.home.ledger().with_added_extension("head.part");
    std::os::unix::fs::symlink("/dev/full", &note).unwrap();
    match agent.hold_to_lineage(&directive) {
        Err(Failure::Decline(reason, why)) => agent.decline(&directive, reason, &why).unwrap(),
        _ => panic!("a full disk ends the agent, or is not seen"),
    }
    assert_eq!(agent.progress(&directive).phase, Phase::Declined(Decline::DiskFull));
    // Before it is looked at again, nothing more of it is written.
    let before = entered(&agent);
    assert!(agent.hold_to_lineage(&directive).is_ok());
    assert_eq!(entered(&agent), before);
    fs::remove_file(&note).unwrap();
    agent.declined = None;
    assert!(agent.hold_to_lineage(&directive).is_ok());
    let kinds = entered(&agent);
    assert!(kinds.ends_with(&["declined".to_owned(), "round-accepted".to_owned()]), "{kinds:?}");
    assert!(agent.owed.is_empty());
}
