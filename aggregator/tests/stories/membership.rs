//! A membership's life: certificates that are renewed in the middle of the work, and one that is revoked there.

use std::fs;
use std::time::{Duration, Instant};

use aggregator::allowance::OF_A_KIND;
use aggregator::clock::{Clock, wall};
use aggregator::identity::CONNECTIONS_OF_ONE;
use aggregator::ledger::Actor;
use aggregator::store::Store;
use aggregator::{authority, status};
use certs::keys::Key;
use common::{Directive, Phase, Progress, Refusal};
use proto::{CHUNK_BYTES, wire};
use tokio::time::timeout;

use crate::bench::{Bench, enrol, holder, run_id, site_id, weights};
use crate::house::{House, Site, WITHIN, code};

/// From a revocation to the end of what its site has under way.
const CUT_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_renewals_in_the_middle_of_uploads_cost_no_round() {
    const ROUNDS: u32 = 5;
    let mut house = House::new();
    house.start();
    house.start_run(&["a"], ROUNDS);
    let mut site = house.site("a").await;
    let mut renewals = 0;
    for round in 1..=ROUNDS {
        let delta = weights(600_000, |_| round as f32 / 10.0);
        let bytes = delta.to_safetensors();
        let work = site.work(round).await;
        let manifest = site.manifest(&work, &delta);
        site.client.begin_upload(wire::UpdateManifest::from(&manifest)).await.unwrap();
        let mut offset = 0;
        while offset < bytes.len() {
            // As many renewals as it takes to come to a hundred, spread over the chunks of all rounds.
            for _ in 0..7 {
                let key = Key::create(&house.key_path(&format!("a-{renewals}"))).unwrap();
                let certificate = site.renew(&key).await.unwrap();
                site = house.holder("a", &key, &certificate);
                renewals += 1;
            }
            let end = bytes.len().min(offset + CHUNK_BYTES);
            offset =
                site.chunk(&manifest, offset as u64, bytes[offset..end].to_vec()).await.unwrap().next_offset as usize;
        }
        site.send(&work, &delta).await.unwrap();
    }
    site.told(|directive| matches!(directive, Directive::Finished { .. }).then_some(())).await;
    let run = status::read(&house.store(), wall()).unwrap().runs.remove(0);
    assert!(run.rounds.iter().all(|round| round.merged && round.attempt == 1) && run.rounds.len() == ROUNDS as usize);
    assert!(renewals >= 100, "{renewals}");
    house.stop().await;
}

/// Calls until the answer is this refusal; a connection that is cut in between is an error that passes.
async fn refused_as(site: &mut Site, expected: &str) {
    let asking = async {
        loop {
            match site.report(Progress::idle()).await {
                Err(status) if code(&status) == expected => return,
                Ok(_) | Err(_) => {}
            }
        }
    };
    timeout(WITHIN, asking).await.unwrap_or_else(|_| panic!("{expected} is not heard"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_whose_answer_was_lost_shuts_nobody_out_and_the_old_certificate_ends_when_the_new_one_is_used() {
    let mut house = House::new();
    house.start();
    let mut old = house.site("a").await;
    let key = Key::create(&house.key_path("a-next")).unwrap();
    let lost = old.renew(&key).await.unwrap();
    old.report(Progress::idle()).await.unwrap();
    house.stop().await;
    house.start();
    assert_eq!(old.renew(&key).await.unwrap(), lost, "the same answer for the same key");
    // Another key takes the place of one that was never used.
    let other = Key::create(&house.key_path("a-other")).unwrap();
    let certificate = old.renew(&other).await.unwrap();
    refused_as(&mut house.holder("a", &key, &lost), "revoked").await;
    old.report(Progress::idle()).await.unwrap();
    let mut new = house.holder("a", &other, &certificate);
    new.report(Progress::idle()).await.unwrap();
    refused_as(&mut old, "revoked").await;
    assert_eq!(code(&old.renew(&key).await.unwrap_err()), "revoked", "who is out gets no new certificate");
    new.report(Progress::idle()).await.unwrap();
    house.stop().await;
}

/// What is counted by the hour begins anew with each: in the last minute of one a story waits for the next.
async fn within_an_hour() {
    let left_ms = 3_600_000 - wall().0 % 3_600_000;
    if left_ms < 60_000 {
        tokio::time::sleep(Duration::from_millis(left_ms)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_so_often_in_an_hour_and_the_last_one_is_given_again() {
    within_an_hour().await;
    let mut house = House::new();
    house.start();
    let mut site = house.site("a").await;
    let keys: Vec<Key> =
        (0..=OF_A_KIND).map(|number| Key::create(&house.key_path(&format!("a-{number}"))).unwrap()).collect();
    let (beyond, keys) = keys.split_last().unwrap();
    let mut last = String::new();
    for key in keys {
        last = site.renew(key).await.unwrap();
    }
    assert_eq!(code(&site.renew(beyond).await.unwrap_err()), "unavailable");
    // Whose answer was lost asks again, and who has it goes on.
    assert_eq!(site.renew(keys.last().unwrap()).await.unwrap(), last);
    house.holder("a", keys.last().unwrap(), &last).report(Progress::idle()).await.unwrap();
    let lines = house.store().ledger(0, 1 << 20).unwrap();
    assert_eq!(lines.iter().filter(|line| line.contains("\"renewed\"")).count(), OF_A_KIND as usize);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_holds_connections_with_a_certificate_that_counts_no_more_keeps_its_site_from_no_call() {
    within_an_hour().await;
    let mut house = House::new();
    house.start();
    let (key, enrolled) = house.enrolled("a").await;
    let certificate = enrolled.certificate_pem;
    house.store().revoke(&holder("a"), &Actor::StateFolder, wall()).unwrap();
    refused_as(&mut house.holder("a", &key, &certificate), "revoked").await;
    let mut held: Vec<Site> = (0..CONNECTIONS_OF_ONE)
        .flat_map(|_| [house.holder("a", &key, &certificate), house.signed_holder("a", &key, &certificate)])
        .collect();
    for stolen in &mut held {
        assert_eq!(code(&stolen.report(Progress::idle()).await.unwrap_err()), "revoked");
    }
    let next = Key::create(&house.key_path("a-next")).unwrap();
    let again = house.enrol("a", &next, &house.invite("a")).await.unwrap().certificate_pem;
    house.holder("a", &next, &again).report(Progress::idle()).await.unwrap();
    house.signed_holder("a", &next, &again).report(Progress::idle()).await.unwrap();
    drop(held);
    // What it tried is in the ledger, once in the hour.
    house.stop().await;
    let lines = house.store().ledger(0, 1 << 20).unwrap();
    let uses: Vec<_> = lines.iter().filter(|line| line.contains("\"call-refused\"")).collect();
    assert!(uses.len() == 1 && uses[0].contains("\"revoked\"") && uses[0].contains("\"a\""), "{uses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_cuts_an_upload_and_a_download_in_their_middle_and_nothing_of_the_site_is_merged() {
    let mut house = House::new();
    house.start();
    house.start_run(&["a", "b", "c"], 1);
    let [mut a, mut b, mut c] = [house.site("a").await, house.site("b").await, house.site("c").await];
    let (small, poison) = (weights(600_000, |_| 0.25), weights(600_000, |_| 7.0));
    let work = c.work(1).await;
    for site in [&mut a, &mut b, &mut c] {
        site.joins(&work).await;
    }
    let (manifest, bytes, mut download) = c.half_way(&work, &poison).await;

    house.store().revoke(&holder("c"), &Actor::StateFolder, wall()).unwrap();
    let began = Instant::now();
    let ended = async {
        loop {
            // Bytes that are there already: it is a matter of the connection alone.
            let sent = c.chunk(&manifest, 0, bytes[..1000].to_vec()).await;
            if let Err(status) = sent {
                break code(&status).to_owned();
            }
        }
    };
    let ended = timeout(WITHIN, ended).await.expect("the upload ends");
    assert!(["revoked", "no refusal"].contains(&ended.as_str()), "{ended}");
    let cut = async {
        loop {
            match download.message().await {
                Ok(Some(_)) => {}
                Ok(None) => break false,
                Err(_) => break true,
            }
        }
    };
    assert!(timeout(WITHIN, cut).await.expect("the download ends"), "it was read to its end");
    let took = began.elapsed();
    println!("an upload and a download were cut {took:?} after the revocation");
    assert!(took < CUT_WITHIN, "{took:?}");
    refused_as(&mut c, "revoked").await;

    a.send(&work, &small).await.unwrap();
    b.send(&work, &small).await.unwrap();
    let run = status::read(&house.store(), wall()).unwrap();
    // The quorum is all three: without c the round waits for its deadline, and merges nothing of it.
    assert!(run.runs[0].rounds.is_empty());
    assert!(house.store().uploads().unwrap().is_empty(), "what had come of it is forgotten");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_expires_ends_its_connection_in_the_middle_of_an_upload_and_not_before() {
    const LIFE: Duration = Duration::from_secs(6);
    let mut house = House::of_leaves(6);
    house.start();
    house.start_run(&["a"], 1);
    let enrolled = Instant::now();
    let mut a = house.site("a").await;
    let work = a.work(1).await;
    a.joins(&work).await;
    let (manifest, bytes, _download) = a.half_way(&work, &weights(600_000, |_| 0.5)).await;
    let cut = async { while a.chunk(&manifest, 0, bytes[..1000].to_vec()).await.is_ok() {} };
    timeout(WITHIN, cut).await.expect("the connection's end");
    let lived = enrolled.elapsed();
    println!("a connection of a certificate of {LIFE:?} was cut after {lived:?}");
    // It is issued in a second that has begun.
    assert!((LIFE - Duration::from_secs(1)..LIFE + CUT_WITHIN).contains(&lived), "{lived:?}");
    // A certificate counts to the end of its last second; then nobody is let in with it.
    let shut_out = async { while a.report(Progress::idle()).await.is_ok() {} };
    timeout(WITHIN, shut_out).await.expect("the certificate's end");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_under_a_key_that_its_site_has_given_up_since_is_refused_by_name_and_may_be_sent_under_the_new_one() {
    let mut house = House::new();
    house.start();
    house.start_run(&["a"], 1);
    let mut a = house.site("a").await;
    let (work, delta) = (a.work(1).await, weights(600_000, |_| 0.5));
    let (manifest, bytes) = (a.manifest(&work, &delta), delta.to_safetensors());
    a.begin(&manifest).await.unwrap();
    for (index, part) in bytes.chunks(CHUNK_BYTES).enumerate() {
        a.chunk(&manifest, (index * CHUNK_BYTES) as u64, part.to_vec()).await.unwrap();
    }
    // All of it is there, and the site enrols again, with keys of its own making.
    ["a", "any.signing"].into_iter().for_each(|key| fs::remove_file(house.key_path(key)).unwrap());
    let mut again = house.site("a").await;
    assert_eq!(code(&again.finish(&manifest).await.unwrap_err()), "signature");
    again.send(&work, &delta).await.unwrap();
    again.told(|directive| matches!(directive, Directive::Finished { .. }).then_some(())).await;
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_authority_takes_the_place_of_the_federations_with_the_work_going_on() {
    let mut house = House::new();
    house.start();
    house.start_run(&["a"], 2);
    let mut a = house.site("a").await;
    let mut b = house.site("b").await;
    a.is_asked_to_renew(false).await;
    let federation = "wired".parse().unwrap();
    let held = authority::hold(house.path()).unwrap();
    held.prepare_next(&federation, wall()).unwrap();
    held.begin_next().unwrap();
    drop(held);
    a.is_asked_to_renew(true).await;
    // A round goes on with the certificate of before.
    let work = a.work(1).await;
    a.send(&work, &weights(600_000, |_| 0.5)).await.unwrap();
    let renewed = async |site: &mut Site, name: &str| {
        let key = Key::create(&house.key_path(name)).unwrap();
        let request = wire::RenewRequest { csr_pem: key.csr_pem().unwrap() };
        let reply = site.client.renew(request).await.unwrap().into_inner();
        (house.holder_knowing("a", &key, &reply.certificate_pem, &reply.authority_pem), reply.authority_pem)
    };
    let (mut a, both) = renewed(&mut a, "a-both").await;
    assert_eq!(both.matches("BEGIN CERTIFICATE").count(), 2);
    a.is_asked_to_renew(false).await;
    // Who does not know the next one is still served, and is named before anybody ends the old one.
    b.report(Progress::idle()).await.unwrap();
    let anchors = authority::load(house.path(), &federation).unwrap().anchors();
    let knowing = || -> Vec<String> {
        let sites = house.store().sites().unwrap().into_iter().filter(|site| site.anchors == anchors);
        sites.map(|site| site.site.to_string()).collect()
    };
    // That the new certificate is used is written down a moment after it is.
    let noted = async {
        while knowing().is_empty() {
            a.report(Progress::idle()).await.unwrap();
        }
    };
    timeout(WITHIN, noted).await.expect("a note of the certificate in use");
    assert_eq!(knowing(), ["a"]);

    authority::hold(house.path()).unwrap().switch().unwrap();
    a.is_asked_to_renew(true).await;
    let (mut a, one) = renewed(&mut a, "a-one").await;
    assert_eq!(one.matches("BEGIN CERTIFICATE").count(), 1);
    a.is_asked_to_renew(false).await;
    let work = a.work(2).await;
    a.send(&work, &weights(600_000, |_| 0.25)).await.unwrap();
    a.told(|directive| matches!(directive, Directive::Finished { .. }).then_some(())).await;
    // The old one's certificates count no more, and who knows it alone does not believe the server.
    let shut_out = async { while b.report(Progress::idle()).await.is_ok() {} };
    timeout(WITHIN, shut_out).await.expect("the old authority's end");
    house.stop().await;
}

#[test]
fn an_update_that_was_sent_before_its_site_was_revoked_does_not_count_in_a_round_that_is_open() {
    for restarted in [false, true] {
        let mut bench = Bench::with_run(40, 2, 2, 1);
        enrol(&bench, "c", "01");
        for site in ["a", "b", "c"] {
            bench.joins(site);
        }
        bench.reports("c", &weights(40, |_| 7.0)).unwrap();
        bench.store().revoke(&holder("c"), &Actor::StateFolder, bench.clock.wall()).unwrap();
        bench.federation().refresh().unwrap();
        if restarted {
            bench.restart();
        }
        // Invited again, it comes back with the next round.
        bench.clock.pass(std::time::Duration::from_secs(1));
        enrol(&bench, "c", "02");
        let says = bench.says("c", Phase::Training);
        assert!(!matches!(says, Directive::Train(_)), "{says:?}");
        let late = bench.manifest("c", &weights(40, |_| 6.0));
        assert!(matches!(bench.begin(&late), Err(Refusal::Conflict { .. })));
        let before = bench.blob(bench.run().open.unwrap().base);
        // Nobody waits for it: the two others are the round.
        bench.reports("a", &weights(40, |_| 0.5)).unwrap();
        bench.reports("b", &weights(40, |_| 0.5)).unwrap();
        bench.merge();
        let run = bench.run();
        let left_out = &run.rounds[0].left_out;
        assert!(left_out.len() == 1 && left_out[0].site == site_id("c"), "{left_out:?}");
        assert_eq!(left_out[0].reason, "its certificate was revoked");
        let after = bench.blob(run.rounds[0].model.unwrap());
        let moved = after.get("center").unwrap().values[0] - before.get("center").unwrap().values[0];
        assert_eq!(moved, 0.5, "restarted: {restarted}");
        let next = bench.joins("c");
        assert!(matches!(&next, Directive::Train(work) if work.run == run_id() && work.round.0 == 2), "{next:?}");
    }
}
