//! What the aggregator writes of what happened, and what sites signed of it.

use std::sync::atomic::{AtomicBool, Ordering};

use aggregator::allowance::OF_A_KIND;
use aggregator::clock::Clock;
use aggregator::desk;
use aggregator::ledger::{Actor, Event};
use aggregator::store::Store;
use certs::signing::verifies;
use common::ledger::{self, Fault, Head};
use common::signed::{Attestation, SignedHead, model_statement};
use common::{Digest, Directive, Phase, Progress, RoundNumber, UpdateManifest};
use proto::wire;

use crate::bench::{Bench, enrol, holder, run_id, weights};
use crate::house::{House, Site, code};

fn lines(store: &dyn Store) -> Vec<String> {
    store.ledger(0, 1 << 20).unwrap()
}

/// The kinds of the entries, each with its site if it tells one.
fn told(store: &dyn Store) -> Vec<String> {
    let (lines, mut told) = (lines(store), Vec::new());
    let head = ledger::verify(lines.iter().map(String::as_str), &[store.ledger_head().unwrap()], |entry, _| {
        let text = |name: &str| entry.event[name].as_str().unwrap_or_default().to_owned();
        told.push(format!("{} {}", text("kind"), text("site")).trim_end().to_owned());
    });
    assert_eq!(head, Ok(store.ledger_head().unwrap()));
    told
}

#[test]
fn a_ledger_that_grows_while_it_is_read_holds() {
    let bench = Bench::with_run(40, 2, 2, 1);
    let is_read = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (store, model) = (bench.store(), Digest::of(b"model"));
            // No end is no reason to read for ever.
            for _ in (0..4000).take_while(|_| !is_read.load(Ordering::Relaxed)) {
                store.enter(&Event::ModelDamaged { run: &run_id(), model }, bench.clock.wall()).unwrap();
            }
        });
        let store = bench.store();
        let read: Vec<_> = (0..200).map(|_| desk::ledger(&store).map(|(_, head)| head.entries)).collect();
        is_read.store(true, Ordering::Relaxed);
        assert!(read.iter().all(Result::is_ok), "{read:?}");
    });
}

#[test]
fn a_run_is_told_from_its_start_to_its_end_with_who_took_part_and_who_did_not() {
    let mut bench = Bench::with_run(40, 2, 2, 1);
    enrol(&bench, "c", "01");
    bench.joins("a");
    bench.says("b", Phase::Declined(common::Decline::DiskFull));
    bench.joins("b");
    bench.store().revoke(&holder("c"), &Actor::StateFolder, bench.clock.wall()).unwrap();
    bench.federation().refresh().unwrap();
    bench.reports("a", &weights(40, |_| 0.5)).unwrap();
    // A crash and a repetition add nothing.
    bench.restart();
    bench.reports("a", &weights(40, |_| 0.5)).unwrap();
    bench.reports("b", &weights(40, |_| 0.25)).unwrap();
    bench.merge();
    let expected = [
        "run-started",
        "round-began",
        "invited c",
        "enrolled c",
        "joined a",
        "declined b",
        "joined b",
        "revoked c",
        "left-out c",
        "update-stored a",
        "update-stored b",
        "round-closed",
        "model-published",
        "round-began",
        "left-out c",
    ];
    bench.federation().refresh().unwrap();
    assert_eq!(told(&bench.store()), expected);
    let lines = lines(&bench.store());
    let closed: ledger::Entry = serde_json::from_str(lines[11].split_once('\t').unwrap().0).unwrap();
    assert_eq!(closed.event["left_out"]["c"], "revoked");
    assert_eq!(closed.event["reports"].as_object().unwrap().len(), 2);
}

#[test]
fn an_update_that_is_refused_is_told_by_its_code() {
    let bench = Bench::with_run(40, 1, 1, 1);
    bench.reports("a", &weights(40, |place| if place == 7 { f32::NAN } else { 0.0 })).unwrap_err();
    assert_eq!(told(&bench.store()).last().unwrap(), "update-refused a");
}

#[test]
fn a_site_that_changes_its_word_or_sends_what_is_refused_without_end_fills_no_ledger_and_its_update_counts() {
    let bench = Bench::with_run(40, 1, 1, 1);
    let turn = |number: usize| match number % 3 {
        0 => Phase::Declined(common::Decline::DiskFull),
        1 => Phase::Declined(common::Decline::TrainingFailed),
        _ => Phase::Training,
    };
    (0..1000).for_each(|number| drop(bench.says("a", turn(number))));
    let entries = |kinds: &[&str]| {
        bench.federation().refresh().unwrap();
        told(&bench.store()).iter().filter(|told| kinds.contains(&told.as_str())).count()
    };
    let most = OF_A_KIND as usize;
    assert_eq!(entries(&["joined a", "declined a"]), 1 + most);
    let broken = weights(40, |place| if place == 7 { f32::NAN } else { 0.0 });
    (0..2 * most).for_each(|_| drop(bench.reports("a", &broken).unwrap_err()));
    assert_eq!(entries(&["update-refused a"]), most);
    assert_eq!(entries(&["call-refused a"]), 2, "each is told once");
    bench.reports("a", &weights(40, |_| 0.5)).unwrap();
    assert_eq!(entries(&["update-stored a"]), 1);
}

#[test]
fn rows_that_were_changed_taken_off_or_written_anew_past_every_seal_are_found() {
    let story = |change: &str| {
        let bench = Bench::with_run(40, 1, 1, 1);
        bench.joins("a");
        bench.joins("b");
        let known = bench.store().ledger_head().unwrap();
        bench.spoil("ledger", |database| {
            // Who can write to the file can compute the seals as well.
            let anew = ledger::line(Head::EMPTY, 7, &serde_json::json!({ "kind": "run-started" })).0;
            database.execute_batch(&change.replace("ANEW", &anew)).unwrap();
        });
        let store = bench.store();
        match store.ledger(0, 100) {
            // A seal is the first to notice.
            Err(error) => error.to_string(),
            Ok(lines) => ledger::verify(lines.iter().map(String::as_str), &[known], |_, _| {}).unwrap_err().to_string(),
        }
    };
    assert!(story("DELETE FROM ledger WHERE entry = 4").contains("entry 4: it is missing"));
    assert!(story("DELETE FROM ledger WHERE entry = 2").contains("entry 2"));
    assert!(story("UPDATE ledger SET line = 'ANEW' WHERE entry = 1").contains("does not hold what was written"));
    let broken = ledger::follow(Head::EMPTY, "no line").unwrap_err();
    assert!(matches!(broken.fault, Fault::Malformed(_)));
}

/// What a manifest of a site is refused as, or nothing if it may send.
async fn refused(site: &mut Site, manifest: &UpdateManifest) -> String {
    match site.client.begin_upload(wire::UpdateManifest::from(manifest)).await {
        Ok(_) => "nothing".to_owned(),
        Err(status) => code(&status).to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_counts_only_with_the_hand_of_its_site_under_all_of_it_and_under_the_ledger_it_was_told() {
    let mut house = House::new();
    house.start();
    house.start_run(&["a"], 2);
    let mut site = house.site("a").await;
    let work = site.work(1).await;
    let delta = weights(600_000, |_| 0.5);
    let good = site.manifest(&work, &delta);
    let told = **work.ledger.as_ref().unwrap();
    let unsigned = UpdateManifest { attestation: None, ..good.clone() };
    assert_eq!(refused(&mut site, &unsigned).await, "signature");
    let grown = UpdateManifest { subjects: 1000, ..good.clone() };
    assert_eq!(refused(&mut site, &grown).await, "signature", "a share that is not what was signed");
    let replayed = UpdateManifest { round: RoundNumber(2), ..good.clone() };
    assert_eq!(refused(&mut site, &replayed).await, "signature", "for another round");
    let other = UpdateManifest { blob: Digest::of(b"another"), ..good.clone() };
    assert_eq!(refused(&mut site, &other).await, "signature", "under other bytes");
    let attestation = good.attestation.map(|told| Attestation { ledger: None, ..told });
    assert_eq!(refused(&mut site, &UpdateManifest { attestation, ..good.clone() }).await, "signature");
    let silent = site.attested(unsigned.clone(), None);
    assert_eq!(refused(&mut site, &silent).await, "signature", "signed well, without a word on the ledger");
    let mut of_the_aggregator = good.clone();
    of_the_aggregator.attestation =
        good.attestation.map(|told| Attestation { ledger: work.ledger.as_deref().copied(), ..told });
    assert_eq!(refused(&mut site, &of_the_aggregator).await, "signature", "the head in another hand than the site's");
    // Signed well, over a ledger that is not this aggregator's.
    let elsewhere = Head { entries: 2, digest: Digest::of(b"another history") };
    let of_another = site.attested(unsigned.clone(), Some(&SignedHead { head: elsewhere, ..told }));
    assert_eq!(refused(&mut site, &of_another).await, "signature");
    let beyond = Head { entries: 2_000, digest: Digest::of(b"the future") };
    let beyond = site.attested(unsigned.clone(), Some(&SignedHead { head: beyond, ..told }));
    assert_eq!(refused(&mut site, &beyond).await, "signature");
    // In the hand of somebody else.
    let own = std::mem::replace(&mut site.signer, house.signer("else"));
    let forged = site.attested(unsigned.clone(), work.ledger.as_deref());
    assert_eq!(refused(&mut site, &forged).await, "signature");
    site.signer = own;
    assert!(house.store().uploads().unwrap().is_empty(), "nothing of it is here");
    assert_eq!(refused(&mut site, &good).await, "nothing");
    site.send(&work, &delta).await.unwrap();

    // The model of the next round comes with its lineage in the aggregator's hand.
    let next = site.work(2).await;
    let lineage = next.lineage.unwrap();
    let key = aggregator::authority::signing_key(house.path()).unwrap().verifying();
    let statement =
        model_statement(&"wired".parse().unwrap(), &next.run, next.plan, (RoundNumber(1), work.base), next.base);
    assert!(verifies(key, &statement, lineage.signature));
    assert!(next.ledger.unwrap().head.entries > told.head.entries);
    // What it signed of the ledger is in the ledger.
    let stored = lines(&house.store()).into_iter().find(|line| line.contains("update-stored")).unwrap();
    assert!(stored.contains(&told.head.digest.to_string()), "{stored}");
    assert!(matches!(site.report(Progress::idle()).await, Ok(Directive::Train(_))));
    house.stop().await;
}
