//! What a site does where its aggregator lies: whoever broke into it has its keys, and tells the site what to train. Honest sites train
//! nothing of it, say why, and keep the evidence.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use aggregator::authority;
use certs::signing::SigningKey;
use common::signed::{Lineage, SignedHead, model_statement};
use common::{Assignment, Digest, Directive, NamedTensors, RoundNumber};
use tests::federation::{Federation, FederationError};
use tests::liar;
use tests::story::{self, WITHIN};

const SITE: &str = "site-a";

/// A federation of one site, for which a round is over with it alone.
fn prepare(root: &Path) {
    let plan = include_str!("../plans/story.toml");
    let alone =
        plan.replace(r#"sites = ["site-a", "site-c"]"#, r#"sites = ["site-a"]"#).replace("quorum = 2", "quorum = 1");
    story::prepare_with(root, &alone, &[SITE]);
}

/// When a lie begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    TheStart,
    /// The round is being trained.
    Round(u32),
}

/// What an assignment becomes: of the truth, of the first one that was told, in the hand of a key.
type Lie = fn(Assignment, &Assignment, &SigningKey) -> Assignment;

fn declined(federation: &Federation) -> Result<String, FederationError> {
    Ok(story::run(federation)?["sites"][SITE]["declined"].as_str().unwrap_or_default().to_owned())
}

/// Tells a lie at a copy of the federation, and holds the site to what it should do.
fn told(prepared: &Path, begins: From, lie: Lie, why: &str) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("federation");
    story::copy(prepared, &root).unwrap();
    let mut federation = Federation::open(&root).unwrap();
    let key = authority::signing_key(&federation.aggregator_state()).unwrap();
    let (lies, first) = (Arc::new(Mutex::new(begins == From::TheStart)), Mutex::new(None));
    let now = Arc::clone(&lies);
    let aggregator = liar::listen(&federation.aggregator_state(), federation.address(), move |truth| {
        let first = first.lock().unwrap().get_or_insert(truth.clone()).clone();
        Directive::Train(if *now.lock().unwrap() { lie(truth, &first, &key) } else { truth })
    });
    let aggregator = aggregator.unwrap();
    story::start_run_at(&federation, &root, &[SITE]).unwrap();
    federation.start_agent(SITE).unwrap();
    let jobs = federation.site_state(SITE).join("jobs/story");
    let names = || -> BTreeSet<OsString> {
        fs::read_dir(&jobs).into_iter().flatten().map(|entry| entry.unwrap().file_name()).collect()
    };
    if let From::Round(round) = begins {
        let of_round = |name: &OsString| name.to_string_lossy().starts_with(&format!("{round:05}-"));
        federation.wait_until("the round's training", WITHIN, |_| Ok(names().iter().any(of_round))).unwrap();
        *lies.lock().unwrap() = true;
    }
    let before = names();
    federation.wait_until("the site's word", WITHIN, |federation| Ok(declined(federation)? == "lineage")).unwrap();
    assert_eq!(names().difference(&before).count(), 0, "nothing of the lie is trained: {why}");
    let status = federation.coordinator(&["status"]).unwrap();
    assert!(status.contains("the model's lineage does not hold at this site"), "{status}");
    let ledger = federation.at_site(SITE, &["ledger", "show"]).unwrap();
    let refused: Vec<&str> = ledger.lines().filter(|line| line.contains("lineage-refused")).collect();
    assert!(matches!(refused[..], [entry] if entry.contains(why)), "{why:?} is missing from:\n{ledger}");
    let log = fs::read_to_string(federation.log(SITE)).unwrap();
    assert!(log.contains(why), "{log}");
    drop(aggregator);
}

/// Signs the lineage of another model for the same round.
fn another_model(truth: Assignment, key: &SigningKey, base: Digest) -> Assignment {
    let lineage = truth.lineage.as_deref().unwrap();
    let before = if lineage.round.0 == 0 { base } else { lineage.before };
    let federation = "demo".parse().unwrap();
    let statement = model_statement(&federation, &truth.run, truth.plan, (lineage.round, before), base);
    let lineage = Some(Box::new(Lineage { round: lineage.round, before, signature: key.sign(&statement) }));
    Assignment { base, lineage, ..truth }
}

#[test]
fn of_an_aggregator_that_lies_nothing_is_trained_and_the_lie_is_told_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("prepared");
    prepare(&root);
    let stranger = |truth: Assignment, _: &Assignment, _: &SigningKey| {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::create(&folder.path().join("key")).unwrap();
        let base = truth.base;
        another_model(truth, &key, base)
    };
    told(&root, From::TheStart, stranger, "is not signed with the aggregator's key that this site enrolled with");
    let silent = |truth: Assignment, _: &Assignment, _: &SigningKey| Assignment { lineage: None, ..truth };
    told(&root, From::TheStart, silent, "does not say where the model of round 1 comes from");
    let other_ledger = |truth: Assignment, _: &Assignment, _: &SigningKey| {
        let mut told: SignedHead = *truth.ledger.as_deref().unwrap();
        told.head.entries += 1;
        Assignment { ledger: Some(Box::new(told)), ..truth }
    };
    told(&root, From::TheStart, other_ledger, "how far the aggregator's ledger goes is not told with round 1");
    let two = |truth: Assignment, _: &Assignment, key: &SigningKey| another_model(truth, key, Digest::of(b"another"));
    told(&root, From::Round(1), two, "round 1 has two models");
    let replayed = |_: Assignment, first: &Assignment, _: &SigningKey| first.clone();
    told(&root, From::Round(2), replayed, "round 1 is asked for again after round 2");
}

#[test]
fn under_an_approved_plan_nothing_is_trained_or_fetched_that_it_does_not_say() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("prepared");
    prepare(&root);
    let first = |truth: Assignment, _: &Assignment, key: &SigningKey| another_model(truth, key, Digest::of(b"another"));
    told(&root, From::TheStart, first, "the first model of round 1 is");
    let beyond = |truth: Assignment, _: &Assignment, key: &SigningKey| {
        let (federation, last) = ("demo".parse().unwrap(), (RoundNumber(3), truth.base));
        let statement = model_statement(&federation, &truth.run, truth.plan, last, truth.base);
        let lineage = Some(Box::new(Lineage { round: last.0, before: last.1, signature: key.sign(&statement) }));
        Assignment { round: RoundNumber(4), lineage, ..truth }
    };
    told(&root, From::TheStart, beyond, "the number of round 4 is 4");
    let moved = |truth: Assignment, _: &Assignment, _: &SigningKey| Assignment { first_step: 1, ..truth };
    told(&root, From::TheStart, moved, "the first step of round 1 is 1");
    let longer = |truth: Assignment, _: &Assignment, _: &SigningKey| {
        let base_bytes = truth.base_bytes + 1;
        Assignment { base_bytes, ..truth }
    };
    told(&root, From::TheStart, longer, "the length of the model of round 1 is");
}

#[test]
fn a_last_model_of_another_length_than_the_plans_is_not_fetched() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    prepare(root);
    let mut federation = Federation::open(root).unwrap();
    let lies = Arc::new(Mutex::new(false));
    let now = Arc::clone(&lies);
    let _aggregator = liar::listen(&federation.aggregator_state(), federation.address(), move |truth| {
        if *now.lock().unwrap() {
            let (run, model, bytes) = (truth.run, Digest::of(b"another"), truth.base_bytes + 1);
            Directive::Finished { run, model, bytes }
        } else {
            Directive::Train(truth)
        }
    })
    .unwrap();
    story::start_run_at(&federation, root, &[SITE]).unwrap();
    federation.start_agent(SITE).unwrap();
    federation.wait_until("a trainer", WITHIN, |federation| Ok(federation.has_trainer(SITE))).unwrap();
    *lies.lock().unwrap() = true;
    let log = federation.log(SITE);
    let is_told = |_: &Federation| Ok(fs::read_to_string(&log).unwrap().contains("which those of no plan have"));
    federation.wait_until("the site's word", WITHIN, is_told).unwrap();
    let models = fs::read_dir(federation.site_state(SITE).join("models")).unwrap();
    let others = models.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let another = Digest::of(b"another").to_string();
    assert!(others.into_iter().all(|name| !name.starts_with(&another)), "nothing of it is fetched");
}

#[test]
fn a_plan_with_a_tensor_that_no_network_of_the_sites_program_has_is_declined_before_a_person_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    prepare(root);
    let mut federation = Federation::open(root).unwrap();
    federation.start_aggregator().unwrap();
    let (plan, first) = (story::plan(root).display().to_string(), root.join("first.safetensors"));
    federation.at_site(SITE, &["init-model", &plan, "--out", &first.display().to_string()]).unwrap();
    let mut model = NamedTensors::from_safetensors(&fs::read(&first).unwrap()).unwrap();
    model.insert("student.backdoor.weight", vec![2, 2], vec![0.0; 4]);
    fs::write(&first, model.to_safetensors()).unwrap();
    federation.coordinator(&["run", "start", &plan, "--first-model", &first.display().to_string()]).unwrap();
    federation.start_agent(SITE).unwrap();
    federation.wait_until("the site's word", WITHIN, |federation| Ok(declined(federation)? == "architecture")).unwrap();
    let told = federation.at_site(SITE, &["plans"]).unwrap();
    assert!(told.contains("DECLINED HERE") && told.contains("student.backdoor.weight"), "{told}");
    assert!(!federation.site_state(SITE).join("models").exists(), "its model is not even fetched");
    assert!(!federation.has_trainer(SITE));
    let status = federation.coordinator(&["status"]).unwrap();
    assert!(status.contains("not those of a network that the site's program has"), "{status}");
}
