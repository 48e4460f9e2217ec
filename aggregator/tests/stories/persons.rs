//! People and what their offices let them do, over real mutual TLS: enrolment, the permission table call by call, revocation,
//! renewal.

use aggregator::clock::wall;
use aggregator::ledger::Actor;
use aggregator::permissions::{Deed, Grant, Kind, TABLE};
use aggregator::status::Status as Standing;
use aggregator::store::Store;
use bytes::Bytes;
use certs::keys::Key;
use certs::signing::SigningKey;
use common::signed::plan_statement;
use common::{Decline, Digest, Holder, NamedTensors, Phase, Plan, Progress};
use proto::convert::{Announced, digest_bytes, signature_bytes};
use proto::wire::coordination_client::CoordinationClient;
use proto::wire::enrolment_client::EnrolmentClient;
use proto::wire::federation_client::FederationClient;
use proto::wire::{self, start_run_part};
use tokio::time::timeout;
use tonic::Status;
use tonic::codegen::http;
use tonic::transport::Channel;
use tower::Service;

use crate::bench::{Bench, holder, plan_draft, site_id, weights};
use crate::house::{House, WITHIN, channel, code};

/// An enrolled person, as the wire knows it.
pub(crate) struct Person {
    pub(crate) holder: Holder,
    pub(crate) channel: Channel,
    pub(crate) client: CoordinationClient<Channel>,
    pub(crate) signer: SigningKey,
    pub(crate) enrolled: wire::EnrolReply,
}

impl Person {
    fn name(&self) -> common::PersonId {
        self.holder.person().unwrap().name.clone()
    }

    pub(crate) async fn status(&mut self) -> Result<Standing, Status> {
        let mut parts = self.client.read_status(wire::ReadStatusRequest {}).await?.into_inner();
        let mut text = Vec::new();
        while let Some(part) = parts.message().await? {
            text.extend_from_slice(&part.data);
        }
        Ok(serde_json::from_slice(&text).unwrap())
    }

    fn signature(&self, plan: Digest) -> Bytes {
        signature_bytes(self.signer.sign(&plan_statement(&"wired".parse().unwrap(), &self.name(), plan)))
    }

    pub(crate) async fn sign(&mut self, plan: &Plan) -> Result<wire::SignPlanReply, Status> {
        let (run, digest) = (plan.run().to_string(), plan.digest());
        let signature = self.signature(digest);
        let request = wire::SignPlanRequest { run, plan: digest_bytes(digest), signature };
        self.client.sign_plan(request).await.map(tonic::Response::into_inner)
    }

    /// Starts a run with this person's hand under its plan.
    pub(crate) async fn start(&mut self, plan: &Plan, model: &[u8]) -> Result<wire::StartRunReply, Status> {
        let new = wire::NewRun { canonical: plan.canonical_bytes().into(), signature: self.signature(plan.digest()) };
        let pieces: Vec<_> = model.chunks(1000).map(|data| start_run_part::Part::Data(data.to_vec().into())).collect();
        let parts = [start_run_part::Part::Run(new)].into_iter().chain(pieces);
        let parts: Vec<_> = parts.map(|part| wire::StartRunPart { part: Some(part) }).collect();
        self.client.start_run(tokio_stream::iter(parts)).await.map(tonic::Response::into_inner)
    }
}

impl House {
    /// An enrolled person; the signing key is kept under the name that is given.
    pub(crate) async fn person_with_key(&self, text: &str, key_name: &str) -> Person {
        let holder = holder(text);
        let invitation = self.invite(text);
        let file = |kind: &str| self.key_path(&format!("{}-{kind}", key_name.replace('/', "-")));
        let tls_key = file(&format!("tls-{}", invitation.token.digest().unwrap().short()));
        let (key, signer) = (Key::create(&tls_key).unwrap(), SigningKey::load_or_create(&file("signing")).unwrap());
        let request = wire::EnrolRequest::from(certs::enrolment::request(&invitation, &key, &signer).unwrap());
        let enrolled = EnrolmentClient::new(self.stranger()).enrol(request).await.unwrap().into_inner();
        let channel = self.person_channel(&key, &enrolled.certificate_pem, &enrolled.authority_pem);
        let client = CoordinationClient::new(channel.clone());
        Person { holder, channel, client, signer, enrolled }
    }

    pub(crate) async fn person(&self, text: &str) -> Person {
        self.person_with_key(text, text).await
    }

    fn person_channel(&self, key: &Key, certificate_pem: &str, authority_pem: &str) -> Channel {
        let tls = certs::tls::site_config(&"wired".parse().unwrap(), certificate_pem, authority_pem, key).unwrap();
        channel(self.address, tls)
    }
}

/// A plan of two sites that needs so many signatures, and its first model.
pub(crate) fn signed_plan(run: &str, signatures: u32) -> (Plan, NamedTensors) {
    let mut draft = plan_draft(run, &["aalst", "bergen"], 1, 1, 1);
    draft.signatures = signatures;
    let model = weights(2000, |place| place as f32 / 1e4);
    (draft.with_first_model(model.signature(), model.digest()), model)
}

/// Makes the call of a deed with a message that says nothing that exists, about a site where it is about one.
async fn call(deed: Deed, channel: Channel, about: &str) -> Result<(), Status> {
    let mut site = FederationClient::new(channel.clone());
    let mut person = CoordinationClient::new(channel.clone());
    let run = || "nowhere".to_owned();
    let named = |holder: &str| wire::InviteRequest { holder: holder.to_owned(), address: "odd".to_owned() };
    let nothing = digest_bytes(Digest::of(b"nothing"));
    match deed {
        Deed::Enrol => EnrolmentClient::new(channel).enrol(wire::EnrolRequest::default()).await.map(drop),
        Deed::Report => {
            let announced = Announced { site: site_id("aalst"), value: Progress::idle() };
            site.report(wire::ReportRequest::from(announced)).await.map(drop)
        }
        Deed::GetPlan => site.get_plan(wire::GetPlanRequest { plan: nothing }).await.map(drop),
        Deed::Download => site.download(wire::DownloadRequest { blob: nothing, offset: 0, end: 0 }).await.map(drop),
        Deed::BeginUpload => site.begin_upload(wire::UpdateManifest::default()).await.map(drop),
        Deed::UploadChunk => site.upload_chunk(wire::UploadChunkRequest::default()).await.map(drop),
        Deed::FinishUpload => site.finish_upload(wire::FinishUploadRequest::default()).await.map(drop),
        Deed::Renew => site.renew(wire::RenewRequest::default()).await.map(drop),
        Deed::ReportScores => site.report_scores(wire::ScoresRequest::default()).await.map(drop),
        Deed::ReadStatus => person.read_status(wire::ReadStatusRequest {}).await.map(drop),
        Deed::ReadLedger => person.read_ledger(wire::ReadLedgerRequest {}).await.map(drop),
        Deed::ReadPlan => person.read_plan(wire::ReadPlanRequest { run: run() }).await.map(drop),
        Deed::StartRun => person.start_run(tokio_stream::iter([wire::StartRunPart::default()])).await.map(drop),
        Deed::SignPlan => person.sign_plan(wire::SignPlanRequest { run: run(), ..Default::default() }).await.map(drop),
        Deed::PauseRun => person.pause_run(wire::RunRequest { run: run() }).await.map(drop),
        Deed::ResumeRun => person.resume_run(wire::RunRequest { run: run() }).await.map(drop),
        Deed::AbortRun => {
            person.abort_run(wire::AbortRunRequest { run: run(), because: "x".to_owned() }).await.map(drop)
        }
        Deed::InviteSite => person.invite(named(about)).await.map(drop),
        Deed::InviteAdministrator => person.invite(named(&format!("administrator/{about}/x"))).await.map(drop),
        Deed::InviteObserver => person.invite(named("observer/x")).await.map(drop),
        Deed::InviteCoordinator => person.invite(named("coordinator/x")).await.map(drop),
        Deed::RevokeSite => person.revoke(wire::RevokeRequest { holder: about.to_owned() }).await.map(drop),
        Deed::RevokePerson => person.revoke(wire::RevokeRequest { holder: "observer/x".to_owned() }).await.map(drop),
        Deed::RenewPerson => person.renew_person(wire::RenewRequest::default()).await.map(drop),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_may_do_what_the_table_of_permissions_says_and_nothing_else() {
    let mut house = House::new();
    house.start();
    let [alice, carol, eve] = [
        house.person("coordinator/alice").await.channel,
        house.person("administrator/aalst/carol").await.channel,
        house.person("observer/eve").await.channel,
    ];
    let site = house.site_channel("aalst").await;
    let (mut permitted, mut refused, mut wrong) = (0, 0, Vec::new());
    for kind in Kind::ALL {
        let channel = match kind {
            Kind::Nobody => house.stranger(),
            Kind::Site => site.clone(),
            Kind::Coordinator => alice.clone(),
            Kind::Administrator => carol.clone(),
            Kind::Observer => eve.clone(),
        };
        for row in TABLE {
            let expected = match (row.grant(kind), kind) {
                (Grant::No, Kind::Nobody) => Some("unidentified"),
                (Grant::No, _) => Some("not-permitted"),
                (Grant::OwnSite | Grant::Yes, _) => None,
            };
            // An own site that is not enrolled under that name would be another's: `bergen` is nobody's own.
            let own = if row.deed == Deed::RevokeSite && kind == Kind::Administrator { "aalst" } else { "bergen" };
            let said = match call(row.deed, channel.clone(), own).await {
                Ok(()) => "no refusal".to_owned(),
                Err(status) => code(&status).to_owned(),
            };
            let is_refused = ["unidentified", "not-permitted"].contains(&said.as_str());
            match expected {
                Some(expected) if said == expected => refused += 1,
                None if !is_refused => permitted += 1,
                expected => wrong.push(format!("{kind:?} {:?}: {expected:?}, but it said {said}", row.deed)),
            }
            if row.grant(kind) == Grant::OwnSite && row.deed == Deed::RevokeSite {
                let other = call(row.deed, channel.clone(), "bergen").await.unwrap_err();
                assert_eq!(code(&other), "not-permitted", "{kind:?} {:?} of another site", row.deed);
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(permitted + refused, TABLE.len() * Kind::ALL.len());
    let says_yes = |row: &aggregator::permissions::Row| row.grants.iter().filter(|grant| **grant != Grant::No).count();
    assert_eq!(permitted, TABLE.iter().map(says_yes).sum::<usize>());
    // What there is no call for does not get as far as to be told so.
    for (mut channel, expected) in [(house.stranger(), "unidentified"), (alice, "not-permitted")] {
        let request = http::Request::post("http://aggregator/cmrfed.v1.Coordination/Format");
        let request = request.header("content-type", "application/grpc").body(tonic::body::Body::empty()).unwrap();
        std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
        let answer = channel.call(request).await.unwrap();
        assert_eq!(answer.headers()["cmrfed-refusal"], expected);
    }
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_coordinator_asks_from_afar_is_done_and_the_ledger_says_who_asked() {
    let mut house = House::new();
    house.start();
    let mut alice = house.person("coordinator/alice").await;
    let invite = wire::InviteRequest { holder: "observer/eve".to_owned(), address: "127.0.0.1:7".to_owned() };
    let reply = alice.client.invite(invite).await.unwrap().into_inner();
    let invitation: certs::invitation::Invitation = reply.invitation.parse().unwrap();
    assert_eq!((invitation.holder, reply.earlier_expired), (holder("observer/eve"), 0));
    let (plan, model) = signed_plan("far", 0);
    let reply = alice.start(&plan, &model.to_safetensors()).await.unwrap();
    assert_eq!(reply.not_enrolled, ["aalst", "bergen"]);
    let again = alice.start(&plan, &model.to_safetensors()).await.unwrap_err();
    assert!(code(&again) == "refused" && again.message().contains("there is a run far already"), "{again}");
    let run = || wire::RunRequest { run: "far".to_owned() };
    alice.client.pause_run(run()).await.unwrap();
    assert!(alice.status().await.unwrap().runs[0].paused);
    alice.client.resume_run(run()).await.unwrap();
    let abort = |because: &str| wire::AbortRunRequest { run: "far".to_owned(), because: because.to_owned() };
    let odd = alice.client.abort_run(abort(" ")).await.unwrap_err();
    assert!(code(&odd) == "refused" && odd.message().contains("1 to 200"), "{odd}");
    alice.client.abort_run(abort("a mistake")).await.unwrap();
    let over = alice.client.pause_run(run()).await;
    assert!(over.is_ok() || code(&over.unwrap_err()) == "refused");
    alice.client.revoke(wire::RevokeRequest { holder: "observer/eve".to_owned() }).await.unwrap();
    let told: Vec<String> = house
        .store()
        .ledger(0, 1 << 20)
        .unwrap()
        .iter()
        .filter_map(|line| {
            let entry: serde_json::Value = serde_json::from_str(line.split_once('\t').unwrap().0).unwrap();
            let event = &entry["event"];
            let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
            Some(format!("{} {}{} by {}", text("kind"), text("person"), text("run"), event["by"].as_str()?))
        })
        .collect();
    assert_eq!(
        told,
        [
            "invited coordinator/alice by the state folder",
            "invited observer/eve by coordinator/alice",
            "run-started far by coordinator/alice",
            "plan-signed far by coordinator/alice",
            "asked far by coordinator/alice",
            "asked far by coordinator/alice",
            "asked far by coordinator/alice",
        ]
    );
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_turned_away_is_in_the_ledger_with_the_reason_once_however_often_that_was() {
    let mut house = House::new();
    house.start();
    let alice = house.person("coordinator/alice").await.channel;
    let carol = house.person("administrator/aalst/carol").await.channel;
    let mut site = FederationClient::new(house.site_channel("aalst").await);
    let used = house.invite("bergen");
    let (first, second) =
        (Key::create(&house.key_path("first")).unwrap(), Key::create(&house.key_path("second")).unwrap());
    house.enrol("bergen", &first, &used).await.unwrap();
    let stray = SigningKey::create(&house.key_path("stray")).unwrap();
    for _ in 0..3 {
        assert_eq!(code(&house.enrol("bergen", &second, &used).await.unwrap_err()), "token");
        let mut forged = certs::enrolment::request(&used, &second, &stray).unwrap();
        forged.invitation_key = stray.verifying();
        let forged = EnrolmentClient::new(house.stranger()).enrol(wire::EnrolRequest::from(forged)).await;
        assert_eq!(code(&forged.unwrap_err()), "token");
        for (deed, channel, about) in [
            (Deed::InviteCoordinator, alice.clone(), "aalst"),
            (Deed::RevokeSite, carol.clone(), "bergen"),
            (Deed::StartRun, carol.clone(), "bergen"),
            (Deed::ReadLedger, house.stranger(), "aalst"),
        ] {
            call(deed, channel, about).await.unwrap_err();
        }
        let announced = Announced { site: site_id("bergen"), value: Progress::idle() };
        let for_another = site.report(wire::ReportRequest::from(announced)).await.unwrap_err();
        assert_eq!(code(&for_another), "speaks-for-another");
    }
    // What was heard before it stops is entered before it has stopped.
    house.stop().await;
    let lines = house.store().ledger(0, 1 << 20).unwrap();
    let mut told = Vec::new();
    common::ledger::verify(lines.iter().map(String::as_str), &[house.store().ledger_head().unwrap()], |entry, _| {
        let text = |name: &str| entry.event[name].as_str().unwrap_or("nobody").to_owned();
        let who = if entry.event["site"].is_string() { text("site") } else { text("person") };
        match entry.event["kind"].as_str().unwrap() {
            "enrolment-refused" => told.push(format!("{who} enrol: {}", text("because"))),
            "call-refused" => told.push(format!("{who} {}: {}", text("deed"), text("code"))),
            _ => {}
        }
    })
    .unwrap();
    told.sort();
    assert_eq!(
        told,
        [
            "aalst speak for another site: speaks-for-another",
            "administrator/aalst/carol revoke a site: not-permitted",
            "administrator/aalst/carol start a run: not-permitted",
            "bergen enrol: it did not sign this request",
            "bergen enrol: used already",
            "coordinator/alice invite a coordinator: not-permitted",
            "nobody read the federation's ledger: unidentified",
        ]
    );
    let all = lines.join("\n");
    assert!(!all.contains("BEGIN ") && !all.contains("cmrfed1."), "no key and no invitation");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_model_that_is_not_the_plans_starts_nothing_and_leaves_nothing() {
    let mut house = House::new();
    house.start();
    let mut alice = house.person("coordinator/alice").await;
    let (plan, model) = signed_plan("far", 0);
    let bytes = model.to_safetensors();
    let mut changed = bytes.clone();
    *changed.last_mut().unwrap() ^= 1;
    for (sent, told) in
        [(&bytes[..bytes.len() - 4], "bytes or more"), (&changed[..], "has digest"), (&[][..], "0 bytes")]
    {
        let refused = alice.start(&plan, sent).await.unwrap_err();
        assert!(code(&refused) == "refused" && refused.message().contains(told), "{refused}");
    }
    let mut other = house.person_with_key("coordinator/bob", "bob").await;
    other.signer = SigningKey::create(&house.key_path("stray")).unwrap();
    let refused = other.start(&plan, &bytes).await.unwrap_err();
    assert!(code(&refused) == "refused" && refused.message().contains("is not made with the key"), "{refused}");
    assert!(house.store().runs(0).unwrap().is_empty());
    assert_eq!(std::fs::read_dir(house.path().join("tmp")).unwrap().count(), 0);
    alice.start(&plan, &bytes).await.unwrap();
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_administrator_of_a_site_sees_that_site_alone_and_an_observer_sees_all() {
    let mut house = House::new();
    house.start();
    let mut carol = house.person("administrator/aalst/carol").await;
    let mut eve = house.person("observer/eve").await;
    let mut alice = house.person("coordinator/alice").await;
    let (_aalst, _bergen) = (house.site("aalst").await, house.site("bergen").await);
    let (both, model) = signed_plan("both", 0);
    alice.start(&both, &model.to_safetensors()).await.unwrap();
    let mut draft = plan_draft("theirs", &["bergen"], 1, 1, 1);
    draft.seed = 1;
    let theirs = draft.with_first_model(model.signature(), model.digest());
    alice.start(&theirs, &model.to_safetensors()).await.unwrap();
    let all = eve.status().await.unwrap();
    assert_eq!((all.sites.len(), all.persons.len(), all.runs.len()), (2, 3, 2));
    let own = carol.status().await.unwrap();
    let text = serde_json::to_string(&own).unwrap();
    assert_eq!((own.sites.len(), own.runs.len()), (1, 1));
    assert!(text.contains("aalst") && !text.contains("bergen") && !text.contains("theirs"), "{text}");
    let read = |run: &str| wire::ReadPlanRequest { run: run.to_owned() };
    carol.client.read_plan(read("both")).await.unwrap();
    let refused = carol.client.read_plan(read("theirs")).await.unwrap_err();
    assert_eq!(
        code(&refused),
        code(&carol.client.read_plan(read("nowhere")).await.unwrap_err()),
        "as if it were not there"
    );
    // It may take its own site out.
    carol.client.revoke(wire::RevokeRequest { holder: "aalst".to_owned() }).await.unwrap();
    assert!(eve.status().await.unwrap().sites.iter().any(|site| site.site == site_id("aalst") && site.revoked));
    house.stop().await;
}

#[test]
fn of_a_merge_of_two_the_administrator_of_one_is_told_nothing_that_tells_the_other_apart() {
    let bench = Bench::with_run(40, 2, 1, 1);
    bench.says("c", Phase::Declined(Decline::DiskFull));
    bench.reports("a", &weights(40, |_| 0.5)).unwrap();
    bench.reports("b", &weights(40, |_| 0.25)).unwrap();
    bench.merge();
    assert!(bench.run().rounds[0].sites.iter().all(|part| part.share.is_some() && part.cosine.is_some()));
    let seen = bench.status().seen_by_site(&site_id("a")).runs.remove(0).rounds.remove(0);
    let [own] = &seen.sites[..] else { panic!("{seen:?}") };
    assert_eq!((own.site.as_str(), own.share, own.share_parts, own.cosine), ("a", None, None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_person_is_cut_off_and_a_new_certificate_ends_the_old_one() {
    let mut house = House::new();
    house.start();
    let mut eve = house.person("observer/eve").await;
    eve.status().await.unwrap();
    let key = Key::create(&house.key_path("eve-next")).unwrap();
    let request = wire::RenewRequest { csr_pem: key.csr_pem().unwrap() };
    let renewed = eve.client.renew_person(request).await.unwrap().into_inner();
    assert!(renewed.signing_certificate_pem.is_empty(), "who signs no plans has no certificate for it");
    eve.status().await.unwrap();
    let newer = house.person_channel(&key, &renewed.certificate_pem, &renewed.authority_pem);
    let mut newer = Person { client: CoordinationClient::new(newer.clone()), channel: newer, ..eve };
    newer.status().await.unwrap();
    house.store().revoke(&holder("observer/eve"), &Actor::StateFolder, wall()).unwrap();
    let cut = async {
        loop {
            if let Err(status) = newer.status().await
                && code(&status) == "revoked"
            {
                return status;
            }
        }
    };
    let told = timeout(WITHIN, cut).await.expect("cut off in time");
    assert!(told.message().contains("observer eve is revoked"), "{told}");
    house.stop().await;
}
