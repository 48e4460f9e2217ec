//! Plans that need two coordinators' signatures: no round before, each hand once, and a revoked one counts no more.

use aggregator::clock::wall;
use aggregator::ledger::Actor;
use aggregator::status::RunPhase;
use aggregator::store::Store;
use certs::signer::signer_of;
use common::signed::PlanSignature;
use common::{Digest, Directive, Progress, RoundNumber};
use proto::convert::digest_bytes;
use proto::wire;

use crate::bench::holder;
use crate::house::{House, Site, code};
use crate::persons::signed_plan;

async fn waits(site: &mut Site, because: &str) {
    let told = site.report(Progress::idle()).await.unwrap();
    assert!(matches!(&told, Directive::Wait { because: told } if told.contains(because)), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_needs_two_signatures_opens_no_round_with_one_and_goes_out_with_both() {
    let mut house = House::new();
    house.start();
    let (mut alice, mut bob) = (house.person("coordinator/alice").await, house.person("coordinator/bob").await);
    let mut site = house.site("aalst").await;
    let (plan, model) = signed_plan("two", 2);
    alice.start(&plan, &model.to_safetensors()).await.unwrap();
    waits(&mut site, "awaits signatures of coordinators").await;
    let fetch = wire::GetPlanRequest { plan: digest_bytes(plan.digest()) };
    assert_eq!(code(&site.client.get_plan(fetch.clone()).await.unwrap_err()), "unknown-blob");
    let again = alice.sign(&plan).await.unwrap_err();
    assert!(
        code(&again) == "refused" && again.message().contains("alice has signed the plan of run two already"),
        "{again}"
    );
    // What awaits its signatures does so after a restart as well.
    house.stop().await;
    house.start();
    let run = alice.status().await.unwrap().runs.remove(0);
    assert_eq!(
        (run.state, run.signatures_needed, run.signed_by.len(), run.open),
        (RunPhase::AwaitingSignatures, 2, 1, None)
    );
    let (other, _) = signed_plan("two", 3);
    let stray = bob.sign(&other).await.unwrap_err();
    assert!(code(&stray) == "refused" && stray.message().contains("aggregator run show two"), "{stray}");
    let forged = wire::SignPlanRequest {
        run: "two".to_owned(),
        plan: digest_bytes(plan.digest()),
        signature: vec![7; 64].into(),
    };
    assert_eq!(code(&bob.client.sign_plan(forged).await.unwrap_err()), "refused");
    waits(&mut site, "awaits signatures of coordinators").await;
    assert_eq!(bob.sign(&plan).await.unwrap(), wire::SignPlanReply { counting: 2, needed: 2 });
    let work = site.work(1).await;
    assert_eq!((work.plan, work.round), (plan.digest(), RoundNumber(1)));
    let reply = site.client.get_plan(fetch).await.unwrap().into_inner();
    let authority_pem = &alice.enrolled.authority_pem;
    let now_s = i64::try_from(wall().seconds()).unwrap();
    let signers: Vec<String> = reply
        .signatures
        .into_iter()
        .map(|signed| {
            let signed = PlanSignature::try_from(signed).unwrap();
            assert!(
                signer_of(&signed, Digest::of(b"another"), authority_pem, &"wired".parse().unwrap(), now_s).is_err()
            );
            let signer = signer_of(&signed, plan.digest(), authority_pem, &"wired".parse().unwrap(), now_s).unwrap();
            signer.coordinator.to_string()
        })
        .collect();
    assert_eq!(signers, ["alice", "bob"]);
    let lines = house.store().ledger(0, 1 << 20).unwrap();
    let released = lines.iter().find(|line| line.contains("run-released")).unwrap();
    assert!(released.contains(r#""signed_by":["alice","bob"]"#), "{released}");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_coordinators_signature_counts_no_more_not_even_when_the_coordinator_is_let_in_again() {
    let mut house = House::new();
    house.start();
    let (mut alice, mut bob) = (house.person("coordinator/alice").await, house.person("coordinator/bob").await);
    let (plan, model) = signed_plan("two", 2);
    alice.start(&plan, &model.to_safetensors()).await.unwrap();
    house.store().revoke(&holder("coordinator/alice"), &Actor::StateFolder, wall()).unwrap();
    while bob.status().await.unwrap().persons.iter().filter(|person| person.revoked).count() == 0 {}
    assert_eq!(bob.sign(&plan).await.unwrap(), wire::SignPlanReply { counting: 1, needed: 2 });
    let counts =
        |run: &aggregator::status::RunStatus| -> Vec<bool> { run.signed_by.iter().map(|it| it.counts).collect() };
    let run = bob.status().await.unwrap().runs.remove(0);
    assert_eq!((run.state, counts(&run)), (RunPhase::AwaitingSignatures, vec![false, true]));
    // The very same key again: what it signed before was signed by whoever had it then.
    let mut again = house.person("coordinator/alice").await;
    let run = again.status().await.unwrap().runs.remove(0);
    assert_eq!((run.state, counts(&run)), (RunPhase::AwaitingSignatures, vec![false, true]));
    assert_eq!(again.sign(&plan).await.unwrap().counting, 2);
    let run = again.status().await.unwrap().runs.remove(0);
    assert_eq!((run.state, counts(&run)), (RunPhase::Running, vec![true, true]));
    // A run that has begun goes on with the hands that it began with.
    house.store().revoke(&holder("coordinator/alice"), &Actor::StateFolder, wall()).unwrap();
    while bob.status().await.unwrap().persons.iter().filter(|person| person.revoked).count() == 0 {}
    let run = bob.status().await.unwrap().runs.remove(0);
    assert_eq!((run.state, counts(&run)), (RunPhase::Running, vec![true, true]));
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_under_two_names_is_one_hand() {
    let mut house = House::new();
    house.start();
    let mut alice = house.person_with_key("coordinator/alice", "one").await;
    let mut twin = house.person_with_key("coordinator/twin", "one").await;
    let (plan, model) = signed_plan("two", 2);
    alice.start(&plan, &model.to_safetensors()).await.unwrap();
    assert_eq!(twin.sign(&plan).await.unwrap(), wire::SignPlanReply { counting: 1, needed: 2 });
    assert_eq!(alice.status().await.unwrap().runs[0].state, RunPhase::AwaitingSignatures);
    // It can be ended before it begins.
    let abort = wire::AbortRunRequest { run: "two".to_owned(), because: "signed by one".to_owned() };
    alice.client.abort_run(abort).await.unwrap();
    let ended = async {
        loop {
            let run = alice.status().await.unwrap().runs.remove(0);
            if run.state == RunPhase::Failed {
                return run;
            }
        }
    };
    let run = tokio::time::timeout(crate::house::WITHIN, ended).await.unwrap();
    assert!(run.because.unwrap().contains("signed by one"));
    assert_eq!(code(&twin.sign(&plan).await.unwrap_err()), "refused");
    house.stop().await;
    house.start();
    assert_eq!(alice.status().await.unwrap().runs[0].state, RunPhase::Failed);
    house.stop().await;
}
