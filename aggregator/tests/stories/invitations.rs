//! A token is worth one certificate.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aggregator::clock::{Clock, Stamp};
use aggregator::federation::Admitted;
use aggregator::ledger::Actor;
use aggregator::signatures::counting;
use aggregator::store::{Issued, Revoked, SignatureRecord, Store, StoreError};
use common::signed::{Ed25519, VerifyingKey};
use common::{Digest, Directive, Holder, Progress, Refusal};

use crate::bench::{Bench, holder, issued, plan_draft, site_id};
use crate::persons::signed_plan;

fn certificate(serial: &str) -> Result<Issued, StoreError> {
    Ok(issued(serial))
}

fn never() -> Result<Issued, StoreError> {
    panic!("no certificate may be issued here")
}

#[test]
fn a_token_is_burned_with_the_certificate_and_a_lost_answer_is_given_again() {
    let bench = Bench::empty();
    let (store, now) = (bench.store(), bench.clock.wall());
    let (token, request, site) = (Digest::of(b"token"), Digest::of(b"request"), site_id("a"));
    store.invite(token, &Holder::from(&site), &Actor::StateFolder, now, now.after(Duration::from_secs(60))).unwrap();
    let first = store.redeem(token, &Holder::from(&site), request, now, &mut || certificate("01")).unwrap();
    let later = now.after(Duration::from_secs(3600));
    for now in [now, later] {
        assert_eq!(
            store.redeem(token, &Holder::from(&site), request, now, &mut never).unwrap(),
            first,
            "the answer was lost"
        );
    }
    let other = store.redeem(token, &Holder::from(&site), Digest::of(b"another key"), now, &mut never);
    assert!(matches!(other, Err(StoreError::Token("used already"))));
    assert_eq!(store.sites().unwrap()[0].serial, "01");
}

#[test]
fn a_wrong_an_expired_and_another_sites_token_issue_nothing() {
    let bench = Bench::empty();
    let (store, now) = (bench.store(), bench.clock.wall());
    let (token, request) = (Digest::of(b"token"), Digest::of(b"request"));
    let expires = now.after(Duration::from_secs(60));
    store.invite(token, &holder("a"), &Actor::StateFolder, now, expires).unwrap();
    let refused = |token, site: &str, now| match store.redeem(token, &holder(site), request, now, &mut never) {
        Err(StoreError::Token(why)) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(Digest::of(b"guess"), "a", now), refused(token, "b", now), "a guess learns nothing");
    assert_eq!(refused(token, "a", expires), "expired");
    assert!(store.sites().unwrap().is_empty());
    // A failure to issue burns nothing.
    let failed = store.redeem(token, &holder("a"), request, now, &mut || Err(StoreError::Full));
    assert!(failed.is_err());
    store.redeem(token, &holder("a"), request, now, &mut || certificate("01")).unwrap();
}

#[test]
fn a_hundred_sites_racing_for_one_token_get_one_certificate() {
    let bench = Bench::empty();
    let (store, now) = (bench.store(), bench.clock.wall());
    let (token, site) = (Digest::of(b"token"), site_id("a"));
    store.invite(token, &Holder::from(&site), &Actor::StateFolder, now, now.after(Duration::from_secs(60))).unwrap();
    let issued = AtomicUsize::new(0);
    let race = |key: usize| {
        let request = Digest::of(&key.to_le_bytes());
        let mut issue = || certificate(&issued.fetch_add(1, Ordering::SeqCst).to_string());
        usize::from(store.redeem(token, &Holder::from(&site), request, now, &mut issue).is_ok())
    };
    let winners: usize = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..100).map(|key| scope.spawn(move || race(key))).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).sum()
    });
    assert_eq!((winners, issued.load(Ordering::SeqCst)), (1, 1));
}

#[test]
fn only_the_newest_certificate_of_a_site_that_is_not_revoked_counts() {
    let bench = Bench::empty();
    let (store, federation, site) = (bench.store(), bench.federation(), site_id("a"));
    let enrol = |serial: &str| {
        let token = Digest::of(serial.as_bytes());
        store
            .invite(token, &Holder::from(&site), &Actor::StateFolder, bench.clock.wall(), Stamp(u64::MAX >> 2))
            .unwrap();
        store.redeem(token, &Holder::from(&site), token, bench.clock.wall(), &mut || certificate(serial)).unwrap();
        federation.refresh().unwrap();
    };
    let revoked = Err(Refusal::Revoked(site.clone()));
    assert_eq!(federation.admits(&site, "01"), revoked, "never enrolled");
    enrol("01");
    assert_eq!(federation.admits(&site, "01"), Ok(()));
    enrol("02");
    assert_eq!((federation.admits(&site, "01"), federation.admits(&site, "02")), (revoked.clone(), Ok(())));
    assert_eq!(
        store.revoke(&Holder::from(&site), &Actor::StateFolder, bench.clock.wall()).unwrap(),
        Revoked { certificate: true, invitations: 0 }
    );
    assert!(!store.revoke(&Holder::from(&site), &Actor::StateFolder, bench.clock.wall()).unwrap().certificate, "once");
    federation.refresh().unwrap();
    assert_eq!(federation.admits(&site, "02"), revoked);
    enrol("03");
    assert_eq!(federation.admits(&site, "03"), Ok(()));
}

#[test]
fn a_newer_invitation_and_a_revocation_end_the_earlier_ones_of_their_site_alone() {
    let bench = Bench::empty();
    let (store, now) = (bench.store(), bench.clock.wall());
    let expires = now.after(Duration::from_secs(60));
    let invite = |token: &str, site: &str| {
        store.invite(Digest::of(token.as_bytes()), &holder(site), &Actor::StateFolder, now, expires).unwrap()
    };
    let redeem = |token: &str, site: &str| {
        let (token, request) = (Digest::of(token.as_bytes()), Digest::of(b"request"));
        store.redeem(token, &holder(site), request, now, &mut || certificate(site)).map(|issued| issued.serial)
    };
    assert_eq!((invite("leaked", "a"), invite("other", "b"), invite("newer", "a")), (0, 0, 1));
    assert!(matches!(redeem("leaked", "a"), Err(StoreError::Token("expired"))));
    assert_eq!(
        store.revoke(&holder("a"), &Actor::StateFolder, now).unwrap(),
        Revoked { certificate: false, invitations: 1 }
    );
    assert!(matches!(redeem("newer", "a"), Err(StoreError::Token("expired"))));
    assert_eq!(redeem("other", "b").unwrap(), "b");
}

#[test]
fn a_revocation_takes_effect_although_a_run_is_damaged_and_the_other_runs_go_on() {
    let mut bench = Bench::with_run(20, 1, 1, 1);
    bench.start_run(plan_draft("sound", &["a"], 1, 1, 1), 20);
    let site = site_id("a");
    let token = Digest::of(b"token");
    bench
        .store()
        .invite(token, &Holder::from(&site), &Actor::StateFolder, bench.clock.wall(), Stamp(u64::MAX >> 2))
        .unwrap();
    bench.store().redeem(token, &Holder::from(&site), token, bench.clock.wall(), &mut || certificate("01")).unwrap();
    bench.spoil("runs", |database| {
        database.execute("UPDATE runs SET plan = x'00' WHERE run = 'run'", []).unwrap();
    });
    bench.restart();
    let status = bench.status();
    assert_eq!((status.runs.len(), status.damaged_runs.len()), (1, 1));
    let directive = bench.federation().report(&site, &Progress::idle()).unwrap();
    assert!(matches!(directive, Directive::Train(work) if work.run.as_str() == "sound"));
    assert_eq!(bench.federation().admits(&site, "01"), Ok(()));
    bench.store().revoke(&Holder::from(&site), &Actor::StateFolder, bench.clock.wall()).unwrap();
    bench.federation().refresh().unwrap();
    assert_eq!(bench.federation().admits(&site, "01"), Err(Refusal::Revoked(site)));
}

#[test]
fn a_clock_that_is_set_back_revives_neither_an_ended_invitation_nor_what_was_signed_before_a_revocation() {
    let bench = Bench::empty();
    let (store, now) = (bench.store(), bench.clock.wall());
    let (before, expires) = (Stamp(now.0 - 3_600_000), now.after(Duration::from_secs(60)));
    let alice = holder("coordinator/alice");
    let (key, request) = (VerifyingKey([7; 32]), Digest::of(b"request"));
    let invite = |token: &[u8], now| {
        store.invite(Digest::of(token), &alice, &Actor::StateFolder, now, expires).unwrap();
    };
    let redeem = |token: &[u8], now| {
        let mut issue = || Ok(Issued { signing_key: Some(key), ..issued("01") });
        store.redeem(Digest::of(token), &alice, request, now, &mut issue)
    };
    let (plan, _) = signed_plan("two", 2);
    store.start_run(&plan, None, &Actor::StateFolder, now, &mut || Ok(())).unwrap();
    invite(b"first", before);
    redeem(b"first", before).unwrap();
    let signature = SignatureRecord {
        coordinator: "alice".parse().unwrap(),
        key,
        signature: Ed25519([0; 64]),
        certificate_pem: String::new(),
        signed_at: now,
        counted: false,
    };
    store.sign(plan.run(), plan.digest(), &signature).unwrap();
    let counts = || {
        let signed = store.signatures(plan.run()).unwrap();
        counting(&signed, &Admitted::of(store.members().unwrap())).len()
    };
    assert_eq!(counts(), 1);
    invite(b"second", now);
    let revoked = store.revoke(&alice, &Actor::StateFolder, now).unwrap();
    assert_eq!(revoked, Revoked { certificate: true, invitations: 1 });
    assert!(matches!(redeem(b"second", before), Err(StoreError::Token("expired"))));
    // Let in again with the very key, an hour before it signed by the clock.
    invite(b"third", before);
    redeem(b"third", before).unwrap();
    assert_eq!(counts(), 0);
    store.sign(plan.run(), plan.digest(), &SignatureRecord { signed_at: Stamp(now.0 + 1), ..signature }).unwrap();
    assert_eq!(counts(), 1);
}
