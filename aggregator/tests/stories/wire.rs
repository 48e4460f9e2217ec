//! The wire, over real mutual TLS on loopback: enrolment, identity, a whole run, a server that is started again.

use std::sync::Arc;

use aggregator::clock::wall;
use aggregator::identity::STRANGERS;
use aggregator::ledger::Actor;
use aggregator::status;
use aggregator::store::Store;
use bytes::Bytes;
use certs::keys::Key;
use common::{Digest, Directive, NamedTensors, Phase, Progress};
use proto::convert::digest_bytes;
use proto::wire::enrolment_client::EnrolmentClient;
use proto::{CHUNK_BYTES, MESSAGE_BYTES, wire};
use tonic::Status;

use crate::bench::{holder, run_id, site_id, weights};
use crate::house::{House, Site, WITHIN, at_work, client, code};

#[tokio::test(flavor = "multi_thread")]
async fn two_sites_enrol_train_two_rounds_and_fetch_the_last_model() {
    let mut house = House::new();
    house.start();
    let mut sites = [house.site("a").await, house.site("b").await];
    // A run that is started beside the server is noticed by itself.
    house.start_run(&["a", "b"], 2);
    let mut expected = 0.0;
    for round in 1..=2 {
        for (index, site) in sites.iter_mut().enumerate() {
            let work = site.work(round).await;
            let request = wire::GetPlanRequest { plan: digest_bytes(work.plan) };
            let plan = site.client.get_plan(request).await.unwrap().into_inner();
            assert_eq!(Digest::of(&plan.canonical), work.plan);
            site.report(at_work(Phase::Fetching, &work)).await.unwrap();
            let base = site.download(work.base, 0).await.unwrap();
            assert_eq!((Digest::of(&base), base.len() as u64), (work.base, work.base_bytes));
            assert!(base.len() > 2 * CHUNK_BYTES, "more than one chunk");
            let rest = site.download(work.base, 1_500_000).await.unwrap();
            assert_eq!(rest, base[1_500_000..]);
            let part = site.download_part(work.base, 70_000, 1_500_000).await.unwrap();
            assert_eq!(part, base[70_000..1_500_000]);
            for (from, end) in [(5, 4), (0, work.base_bytes + 1), (u64::MAX, u64::MAX)] {
                let refused = site.download_part(work.base, from, end).await.unwrap_err();
                assert_eq!(code(&refused), "offset", "{from} to {end}");
            }
            site.send(&work, &weights(600_000, |_| 0.25 * (index + 1) as f32)).await.unwrap();
        }
        expected += 0.375;
    }
    let finished = |directive| match directive {
        Directive::Finished { model, bytes, .. } => Some((model, bytes)),
        _ => None,
    };
    let (model, bytes) = sites[0].told(finished).await;
    let file = sites[0].download(model, 0).await.unwrap();
    assert_eq!((Digest::of(&file), file.len() as u64), (model, bytes));
    let weights = NamedTensors::from_safetensors(&file).unwrap();
    let moved = weights.get("backbone.weight").unwrap().values[100] - 100.0 / 1e6;
    assert!((moved - expected).abs() < 1e-6, "{moved}");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_speaks_only_for_itself_and_nobody_else_speaks_at_all() {
    let mut house = House::new();
    house.start();
    house.start_run(&["a", "b"], 1);
    let mut a = house.site("a").await;
    let work = a.work(1).await;
    let delta = weights(600_000, |_| 0.5);

    // Every message of a's that names b.
    let mut as_b = Site { site: site_id("b"), client: a.client.clone(), signer: a.signer.clone() };
    assert_eq!(code(&as_b.report(at_work(Phase::Training, &work)).await.unwrap_err()), "speaks-for-another");
    assert_eq!(code(&as_b.send(&work, &delta).await.unwrap_err()), "speaks-for-another");
    // Where no message names a site, a's certificate alone does: b's upload is out of its reach.
    let mut b = house.site("b").await;
    let manifest = b.manifest(&work, &delta);
    b.client.begin_upload(wire::UpdateManifest::from(&manifest)).await.unwrap();
    assert_eq!(code(&a.chunk(&manifest, 0, vec![0; 10]).await.unwrap_err()), "offset");

    // Somebody without a certificate, on every call.
    let mut nobody = Site { site: site_id("a"), client: client(house.stranger()), signer: a.signer.clone() };
    let refused = [
        nobody.report(Progress::idle()).await.unwrap_err(),
        nobody.download(work.base, 0).await.unwrap_err(),
        nobody.send(&work, &delta).await.unwrap_err(),
        nobody.chunk(&manifest, 0, vec![0; 10]).await.unwrap_err(),
        nobody.client.get_plan(wire::GetPlanRequest { plan: digest_bytes(work.plan) }).await.unwrap_err(),
        nobody.client.finish_upload(wire::FinishUploadRequest::default()).await.unwrap_err(),
    ];
    assert!(refused.iter().all(|status| code(status) == "unidentified"), "{refused:?}");

    // Malformed and too large.
    let mut odd = wire::UpdateManifest::from(&a.manifest(&work, &delta));
    odd.blob = Bytes::from_static(b"short");
    assert_eq!(code(&a.client.begin_upload(odd).await.unwrap_err()), "malformed");
    let too_large = a.chunk(&a.manifest(&work, &delta), 0, vec![0; CHUNK_BYTES + 1]).await.unwrap_err();
    assert_eq!(code(&too_large), "malformed");
    assert!(a.chunk(&manifest, 0, vec![0; 2 * MESSAGE_BYTES]).await.is_err());

    // Revoked while connected.
    house.store().revoke(&holder("a"), &Actor::StateFolder, wall()).unwrap();
    // Its connection is cut, and the next one hears why.
    let is_told = |told: Result<_, Status>| told.is_err_and(|status| code(&status) == "revoked");
    let revoked = async { while !is_told(a.report(Progress::idle()).await) {} };
    tokio::time::timeout(WITHIN, revoked).await.expect("the revocation in time");
    assert!(b.report(Progress::idle()).await.is_ok());
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_is_for_one_site_one_key_and_one_use() {
    let mut house = House::new();
    house.start();
    let invitation = house.invite("a");
    let key = Key::create(&house.key_path("a")).unwrap();
    let other = Key::create(&house.key_path("other")).unwrap();
    assert_eq!(code(&house.enrol("b", &key, &invitation).await.unwrap_err()), "token");
    assert_eq!(code(&house.enrol("../b", &key, &invitation).await.unwrap_err()), "malformed");
    house.enrol("a", &key, &invitation).await.unwrap();
    assert_eq!(code(&house.enrol("a", &other, &invitation).await.unwrap_err()), "token");

    let newer = house.invite("a");
    let good = house.enrolment("a", &other, &newer);
    let damaged = wire::EnrolRequest { csr_pem: "not a request".to_owned(), ..good.clone() };
    let refused = EnrolmentClient::new(house.stranger()).enrol(damaged).await.unwrap_err();
    assert_eq!(code(&refused), "malformed");
    // What was signed for one key, with another key's request: whoever saw it go by has nothing.
    let (seen, own) = (house.enrolment("a", &key, &newer), good.clone());
    let stolen =
        wire::EnrolRequest { invitation_key: seen.invitation_key, invitation_proof: seen.invitation_proof, ..own };
    assert_eq!(code(&EnrolmentClient::new(house.stranger()).enrol(stolen).await.unwrap_err()), "token");
    // A signing key that the applicant does not hold.
    let elses = Bytes::copy_from_slice(&house.signer("else").verifying().0);
    let claimed = wire::EnrolRequest { signing_key: elses, ..good.clone() };
    let refused = EnrolmentClient::new(house.stranger()).enrol(claimed).await.unwrap_err();
    assert_eq!(code(&refused), "signature");
    let keyless = wire::EnrolRequest { signing_key: Bytes::new(), ..good };
    let refused = EnrolmentClient::new(house.stranger()).enrol(keyless).await.unwrap_err();
    assert_eq!(code(&refused), "malformed");
    let endless = wire::EnrolRequest { csr_pem: "x".repeat(40 << 10), ..wire::EnrolRequest::default() };
    let refused = EnrolmentClient::new(house.stranger()).enrol(endless).await.unwrap_err();
    assert_eq!((code(&refused), refused.code()), ("no refusal", tonic::Code::OutOfRange), "it is not read to its end");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_with_the_next_server_and_the_run_ends_as_if_nothing_had_happened() {
    let mut house = House::new();
    house.start();
    house.start_run(&["a"], 1);
    let mut site = house.site("a").await;
    let work = site.work(1).await;
    let delta = weights(600_000, |place| place as f32 / 1e6);
    let (manifest, bytes) = (site.manifest(&work, &delta), delta.to_safetensors());
    site.client.begin_upload(wire::UpdateManifest::from(&manifest)).await.unwrap();
    site.chunk(&manifest, 0, bytes[..CHUNK_BYTES].to_vec()).await.unwrap();
    house.stop().await;
    assert!(site.report(Progress::idle()).await.is_err(), "nobody is there");
    house.start();
    site.send(&work, &delta).await.unwrap();
    let finished = |directive| matches!(directive, Directive::Finished { .. }).then_some(());
    site.told(finished).await;
    let run = status::read(&house.store(), wall()).unwrap().runs.remove(0);
    assert_eq!((run.run, run.rounds[0].sites.len()), (run_id(), 1));
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_of_the_server_interrupts_no_run() {
    let mut house = House::new();
    house.start();
    house.start_run(&["a"], 3);
    let mut site = house.site("a").await;
    let run = async {
        let mut base = Digest::of(b"none");
        for _ in 0..3 {
            house.renew.notify_one();
            let work = loop {
                // A connection that just ended is an error that passes, as it is for an agent.
                if let Ok(Directive::Train(work)) = site.report(Progress::idle()).await
                    && work.base != base
                {
                    break work;
                }
            };
            base = work.base;
            house.renew.notify_one();
            let delta = weights(600_000, |_| 0.5);
            while let Err(status) = site.send(&work, &delta).await {
                // A call that was broken off may not have let go of the upload yet.
                assert!(["no refusal", "unavailable"].contains(&code(&status)), "{status}");
            }
        }
        while !matches!(site.report(Progress::idle()).await, Ok(Directive::Finished { .. })) {}
    };
    tokio::time::timeout(4 * WITHIN, run).await.expect("the run's end in time");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_cannot_be_renewed_leaves_the_old_one_in_service() {
    let mut house = House::new();
    house.start();
    let mut first = house.site("a").await;
    let key = house.path().join("server.key");
    let aside = house.path().join("aside");
    std::fs::rename(&key, &aside).unwrap();
    for _ in 0..20 {
        house.renew.notify_one();
        first.report(Progress::idle()).await.unwrap();
    }
    // Over a new connection as well.
    let mut second = house.site("b").await;
    second.report(Progress::idle()).await.unwrap();
    std::fs::rename(&aside, &key).unwrap();
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_strangers_keep_no_member_out() {
    let mut house = House::new();
    house.start();
    let mut member = house.site("a").await;
    let tls = certs::tls::enrolment_config(house.authority.federation(), house.authority.fingerprint().unwrap());
    let (tls, address) = (tls.unwrap(), house.address.to_string());
    let mut idle = Vec::new();
    for _ in 0..2 * STRANGERS {
        idle.push(certs::connect::connect(&address, Arc::clone(&tls)).await);
    }
    // The member's connection is made only now.
    assert!(member.report(Progress::idle()).await.is_ok());
    drop(idle);
    house.stop().await;
}
