//! The same over real mutual TLS on loopback: enrolment, identity, a whole run, a server that is started again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aggregator::clock::{SystemClock, wall};
use aggregator::federation::Federation;
use aggregator::identity::{Places, STRANGERS};
use aggregator::ledger::Actor;
use aggregator::serving::{Serving, listen};
use aggregator::store::{FederationRecord, SqliteStore, Store};
use aggregator::{authority, status};
use bytes::Bytes;
use certs::authority::Authority;
use certs::authority::requested_key;
use certs::invitation::Invitation;
use certs::keys::Key;
use certs::message::caller::{Caller, Signing};
use certs::signing::SigningKey;
use common::ledger::Head;
use common::signed::{Attestation, enrolment_statement, invitation_statement, update_statement};
use common::{
    Assignment, Digest, Directive, Holder, Meters, NamedTensors, Phase, PlanDraft, Progress, RoundNumber, SiteId,
    UpdateManifest,
};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use proto::convert::{Announced, digest_bytes};
use proto::wire::enrolment_client::EnrolmentClient;
use proto::wire::federation_client::FederationClient;
use proto::{CHUNK_BYTES, MESSAGE_BYTES, wire};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio_rustls::rustls::ClientConfig;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use crate::bench::{ROOMY, holder, plan_draft, run_id, site_id, weights};

/// A federation on loopback, and the folder of its sites' keys.
pub(crate) struct House {
    folder: tempfile::TempDir,
    pub(crate) address: SocketAddr,
    pub(crate) authority: Arc<Authority>,
    renew: Arc<Notify>,
    pub(crate) places: Places,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl House {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = "wired".parse().unwrap();
        let authority = authority::create(folder.path(), &name, wall()).unwrap();
        let record = FederationRecord { name, address: "localhost:0".to_owned(), created_at: wall() };
        SqliteStore::create(folder.path(), &record).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            folder,
            address,
            authority: Arc::new(authority),
            renew: Arc::default(),
            places: Places::new(8),
            running: None,
        }
    }

    /// With places for so many members.
    pub(crate) fn of_places(places: usize) -> Self {
        Self { places: Places::new(places), ..Self::new() }
    }

    pub(crate) fn start(&mut self) {
        let listener = listen(self.address).unwrap();
        self.address = listener.local_addr().unwrap();
        let state = self.folder.path().to_owned();
        let signer = authority::signing_key(&state).unwrap();
        let federation = Federation::open(&state, ROOMY, Arc::new(SystemClock::new())).unwrap().signing_with(signer);
        let serving = Serving {
            state,
            federation: Arc::new(federation),
            authority: Arc::clone(&self.authority),
            names: vec!["127.0.0.1".to_owned()],
            places: self.places.clone(),
            renewed_every: Duration::from_secs(3600),
            renew: Arc::clone(&self.renew),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move {
            let until = async { drop(stopped.await) };
            serving.serve(listener, until).await.unwrap();
        });
        self.running = Some((stop, serving));
    }

    pub(crate) async fn stop(&mut self) {
        let (stop, serving) = self.running.take().unwrap();
        stop.send(()).unwrap();
        serving.await.unwrap();
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub(crate) fn store(&self) -> SqliteStore {
        SqliteStore::open(self.folder.path()).unwrap()
    }

    pub(crate) fn start_run(&self, sites: &[&str], rounds: u32) {
        self.start_run_of(plan_draft("run", sites, sites.len(), rounds, 1));
    }

    pub(crate) fn start_run_of(&self, draft: PlanDraft) {
        self.start_run_with(draft, 600_000);
    }

    /// A run whose model has so many values.
    pub(crate) fn start_run_with(&self, draft: PlanDraft, values: usize) {
        let model = weights(values, |place| place as f32 / 1e6);
        let plan = draft.with_first_model(model.signature(), model.digest());
        let blobs = aggregator::store::Blobs::open(self.folder.path()).unwrap();
        blobs.put(&model.to_safetensors()).unwrap();
        self.store().start_run(&plan, &Actor::StateFolder, wall(), &mut || Ok(())).unwrap();
    }

    /// An invitation for a site, or for a person as a certificate names it.
    pub(crate) fn invite(&self, site: &str) -> Invitation {
        let fingerprint = self.authority.fingerprint().unwrap();
        let federation = self.authority.federation().clone();
        let invitation = Invitation::new(federation, self.address.to_string(), holder(site), fingerprint).unwrap();
        let now = wall();
        let expires_at = now.after(Duration::from_secs(60));
        self.store()
            .invite(invitation.token.digest().unwrap(), &holder(site), &Actor::StateFolder, now, expires_at)
            .unwrap();
        invitation
    }

    /// A site with this key and the certificate that was issued for it.
    pub(crate) fn holder(&self, site: &str, key: &Key, certificate_pem: &str) -> Site {
        self.holder_knowing(site, key, certificate_pem, self.authority.certificate_pem())
    }

    /// The same, who knows these CAs.
    pub(crate) fn holder_knowing(&self, site: &str, key: &Key, certificate_pem: &str, authority_pem: &str) -> Site {
        let tls = certs::tls::site_config(self.authority.federation(), certificate_pem, authority_pem, key);
        Site { site: site_id(site), client: client(channel(self.address, tls.unwrap())), signer: self.signer("any") }
    }

    pub(crate) fn key_path(&self, name: &str) -> PathBuf {
        self.folder.path().join("keys").join(name)
    }

    /// What a site signs with: one key for each name.
    pub(crate) fn signer(&self, site: &str) -> Arc<SigningKey> {
        Arc::new(SigningKey::load_or_create(&self.key_path(&format!("{site}.signing"))).unwrap())
    }

    /// The request of a site that enrols; nothing of it but the site's name depends on whether that is a name.
    pub(crate) fn enrolment(&self, site: &str, key: &Key, invitation: &Invitation) -> wire::EnrolRequest {
        let (csr_pem, signer) = (key.csr_pem().unwrap(), self.signer("any"));
        let certified = requested_key(&csr_pem).unwrap();
        let name = site.parse().map_or_else(|_| holder("odd"), Holder::Site);
        let proof = signer.sign(&enrolment_statement(self.authority.federation(), &name, certified));
        let invited = invitation.token.key().unwrap();
        let statement = invitation_statement(self.authority.federation(), &name, certified, signer.verifying());
        wire::EnrolRequest {
            site: site.to_owned(),
            csr_pem,
            signing_key: Bytes::copy_from_slice(&signer.verifying().0),
            signing_proof: Bytes::copy_from_slice(&proof.0),
            invitation_key: Bytes::copy_from_slice(&invited.verifying().0),
            invitation_proof: Bytes::copy_from_slice(&invited.sign(&statement).0),
            person: String::new(),
        }
    }

    async fn enrol(&self, site: &str, key: &Key, invitation: &Invitation) -> Result<wire::EnrolReply, Status> {
        let request = self.enrolment(site, key, invitation);
        let mut client = EnrolmentClient::new(self.stranger());
        client.enrol(request).await.map(tonic::Response::into_inner)
    }

    /// A channel of somebody without a certificate.
    pub(crate) fn stranger(&self) -> Channel {
        let pin = self.authority.fingerprint().unwrap();
        let tls = certs::tls::enrolment_config(self.authority.federation(), pin).unwrap();
        channel(self.address, tls)
    }

    /// An enrolled site.
    pub(crate) async fn site(&self, site: &str) -> Site {
        self.site_by_way_of(site, self.address).await
    }

    /// A channel of an enrolled site, for whatever is called over it.
    pub(crate) async fn site_channel(&self, site: &str) -> Channel {
        let key = Key::create(&self.key_path(site)).unwrap();
        let enrolled = self.enrol(site, &key, &self.invite(site)).await.unwrap();
        let (certificate, authority) = (&enrolled.certificate_pem, &enrolled.authority_pem);
        channel(
            self.address,
            certs::tls::site_config(self.authority.federation(), certificate, authority, &key).unwrap(),
        )
    }

    /// An enrolled site that calls another address than the aggregator's.
    pub(crate) async fn site_by_way_of(&self, site: &str, address: SocketAddr) -> Site {
        let (key, enrolled) = self.enrolled(site).await;
        let tls = certs::tls::site_config(
            self.authority.federation(),
            &enrolled.certificate_pem,
            &enrolled.authority_pem,
            &key,
        );
        Site { site: site_id(site), client: client(channel(address, tls.unwrap())), signer: self.signer("any") }
    }

    /// An enrolled site whose messages are signed, over a connection that shows no certificate.
    pub(crate) async fn signed_site(&self, site: &str) -> Site {
        let (key, enrolled) = self.enrolled(site).await;
        self.signed_holder(site, &key, &enrolled.certificate_pem)
    }

    /// The same of a site with this key and the certificate that was issued for it.
    pub(crate) fn signed_holder(&self, site: &str, key: &Key, certificate_pem: &str) -> Site {
        self.signed_over(site, key, certificate_pem, self.stranger())
    }

    /// The same over another connection.
    pub(crate) fn signed_over(&self, site: &str, key: &Key, certificate_pem: &str, channel: Channel) -> Site {
        let aggregator = authority::signing_key(self.path()).unwrap().verifying();
        let caller = Caller::new(self.authority.federation(), certificate_pem, key, aggregator, MESSAGE_BYTES).unwrap();
        let sent = channel.map_request(|request: http::Request<Full<Bytes>>| request.map(Body::new));
        let signing = Signing::new(sent, Arc::new(caller));
        let signing = ServiceExt::<http::Request<Body>>::map_err(signing, Status::from_error);
        let answered = |answer: http::Response<_>| answer.map(Body::new);
        let calls = BoxCloneSyncService::new(ServiceExt::<http::Request<Body>>::map_response(signing, answered));
        Site { site: site_id(site), client: client_of(calls), signer: self.signer("any") }
    }

    /// A site's key, and what it is told when it enrols.
    pub(crate) async fn enrolled(&self, site: &str) -> (Key, wire::EnrolReply) {
        let key = Key::create(&self.key_path(site)).unwrap();
        let invitation = self.invite(site);
        // A connection that just ended is an error that passes: the same key may ask again.
        let enrolled = loop {
            match self.enrol(site, &key, &invitation).await {
                Ok(enrolled) => break enrolled,
                Err(status) => assert_eq!(code(&status), "no refusal", "{status}"),
            }
        };
        (key, enrolled)
    }
}

pub(crate) fn channel(address: SocketAddr, tls: Arc<ClientConfig>) -> Channel {
    let connect = move |_: Uri| {
        let (address, tls) = (address.to_string(), Arc::clone(&tls));
        async move { certs::connect::connect(&address, tls).await.map(TokioIo::new) }
    };
    Endpoint::from_static("http://aggregator").connect_with_connector_lazy(tower::service_fn(connect))
}

/// What carries calls, whoever signs them.
pub(crate) type Calls = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

fn client(channel: Channel) -> FederationClient<Calls> {
    client_of(BoxCloneSyncService::new(channel.map_err(|error| Status::from_error(error.into()))))
}

fn client_of(calls: Calls) -> FederationClient<Calls> {
    FederationClient::new(calls).max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES)
}

/// Longest wait for what is certain to come, on a busy machine too.
pub(crate) const WITHIN: Duration = Duration::from_secs(30);

/// An enrolled site, as the wire knows it.
pub(crate) struct Site {
    pub(crate) site: SiteId,
    pub(crate) client: FederationClient<Calls>,
    pub(crate) signer: Arc<SigningKey>,
}

impl Site {
    pub(crate) async fn report(&mut self, progress: Progress) -> Result<Directive, Status> {
        let announced = Announced { site: self.site.clone(), value: progress };
        let reply = self.client.report(wire::ReportRequest::from(announced)).await?;
        Ok(reply.into_inner().try_into().unwrap())
    }

    /// Reports until the aggregator asks for a renewal, or for none, as wanted.
    pub(crate) async fn is_asked_to_renew(&mut self, wanted: bool) {
        let asking = async {
            loop {
                let announced = Announced { site: self.site.clone(), value: Progress::idle() };
                let reply = self.client.report(wire::ReportRequest::from(announced)).await;
                // A connection that ends with its server's certificate is an error that passes.
                if reply.is_ok_and(|reply| reply.into_inner().renew == wanted) {
                    return;
                }
            }
        };
        tokio::time::timeout(WITHIN, asking).await.expect("the wish in time");
    }

    /// Asks until the answer is of the wanted kind.
    pub(crate) async fn told<T>(&mut self, wanted: impl Fn(Directive) -> Option<T>) -> T {
        let asking = async {
            loop {
                if let Some(told) = wanted(self.report(Progress::idle()).await.unwrap()) {
                    return told;
                }
            }
        };
        tokio::time::timeout(WITHIN, asking).await.expect("the directive in time")
    }

    pub(crate) async fn work(&mut self, round: u32) -> Assignment {
        let of_round = |directive| match directive {
            Directive::Train(work) if work.round == RoundNumber(round) => Some(work),
            _ => None,
        };
        self.told(of_round).await
    }

    pub(crate) async fn download(&mut self, blob: Digest, offset: u64) -> Result<Vec<u8>, Status> {
        let request = wire::DownloadRequest { blob: digest_bytes(blob), offset };
        let mut chunks = self.client.download(request).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.message().await? {
            assert_eq!(chunk.offset, offset + bytes.len() as u64);
            bytes.extend_from_slice(&chunk.data);
        }
        Ok(bytes)
    }

    pub(crate) fn manifest(&self, work: &Assignment, delta: &NamedTensors) -> UpdateManifest {
        let bytes = delta.to_safetensors();
        let manifest = UpdateManifest {
            run: work.run.clone(),
            round: work.round,
            site: self.site.clone(),
            plan: work.plan,
            base: work.base,
            blob: Digest::of(&bytes),
            bytes: bytes.len() as u64,
            subjects: 10,
            heads: BTreeMap::new(),
            examples: 0,
            steps: 10,
            meters: Meters { loss: 5.0, teacher_entropy: 1.0, batch_entropy: 2.0, rank_me: 9.0 },
            attestation: None,
        };
        self.attested(manifest, work.ledger)
    }

    /// With the site's hand under it.
    pub(crate) fn attested(&self, manifest: UpdateManifest, ledger: Option<Head>) -> UpdateManifest {
        let statement = update_statement(&"wired".parse().unwrap(), &manifest, ledger);
        let attestation = Some(Attestation { ledger, signature: self.signer.sign(&statement) });
        UpdateManifest { attestation, ..manifest }
    }

    pub(crate) async fn renew(&mut self, key: &Key) -> Result<String, Status> {
        let request = wire::RenewRequest { csr_pem: key.csr_pem().unwrap() };
        Ok(self.client.renew(request).await?.into_inner().certificate_pem)
    }

    pub(crate) async fn chunk(
        &mut self,
        manifest: &UpdateManifest,
        offset: u64,
        data: Vec<u8>,
    ) -> Result<wire::UploadState, Status> {
        let request = wire::UploadChunkRequest {
            run: manifest.run.to_string(),
            round: manifest.round.0,
            blob: digest_bytes(manifest.blob),
            offset,
            data: data.into(),
        };
        self.client.upload_chunk(request).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn send(&mut self, work: &Assignment, delta: &NamedTensors) -> Result<(), Status> {
        let (manifest, bytes) = (self.manifest(work, delta), delta.to_safetensors());
        let mut offset = self.begin(&manifest).await?.next_offset as usize;
        while offset < bytes.len() {
            let end = bytes.len().min(offset + CHUNK_BYTES);
            let state = self.chunk(&manifest, offset as u64, bytes[offset..end].to_vec()).await?;
            offset = state.next_offset as usize;
        }
        self.finish(&manifest).await
    }

    pub(crate) async fn begin(&mut self, manifest: &UpdateManifest) -> Result<wire::UploadState, Status> {
        Ok(self.client.begin_upload(wire::UpdateManifest::from(manifest)).await?.into_inner())
    }

    pub(crate) async fn finish(&mut self, manifest: &UpdateManifest) -> Result<(), Status> {
        let (run, round) = (manifest.run.to_string(), manifest.round.0);
        let finish = wire::FinishUploadRequest { run, round, blob: digest_bytes(manifest.blob) };
        let stored = self.client.finish_upload(finish).await?.into_inner();
        assert_eq!(stored.blob, digest_bytes(manifest.blob));
        Ok(())
    }
}

pub(crate) fn code(status: &Status) -> &str {
    proto::refusal::code(status).unwrap_or("no refusal")
}

pub(crate) fn at_work(phase: Phase, work: &Assignment) -> Progress {
    Progress { work: Some((work.run.clone(), work.round)), phase, ..Progress::idle() }
}

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
    let key = house.folder.path().join("server.key");
    let aside = house.folder.path().join("aside");
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
