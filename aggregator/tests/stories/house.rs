//! A federation on loopback over real mutual TLS, and sites that call it as agents do.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aggregator::authority;
use aggregator::clock::{SystemClock, wall};
use aggregator::federation::Federation;
use aggregator::identity::Places;
use aggregator::ledger::Actor;
use aggregator::serving::{Serving, listen};
use aggregator::store::{FederationRecord, SqliteStore, Store};
use bytes::Bytes;
use certs::authority::Authority;
use certs::invitation::Invitation;
use certs::keys::Key;
use certs::message::caller::{Caller, Signing};
use certs::signing::SigningKey;
use common::signed::SignedHead;
use common::{
    Assignment, Digest, Directive, Holder, Meters, NamedTensors, Phase, PlanDraft, Progress, RoundNumber, SiteId,
    UpdateManifest,
};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use proto::convert::{Announced, digest_bytes};
use proto::wire::enrolment_client::EnrolmentClient;
use proto::wire::federation_client::FederationClient;
use proto::{CHUNK_BYTES, FRAME_BYTES, MESSAGE_BYTES, wire};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio_rustls::rustls::ClientConfig;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Status, Streaming};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use crate::bench::{ROOMY, holder, plan_draft, site_id, weights};

/// A federation on loopback, and the folder of its sites' keys.
pub(crate) struct House {
    folder: tempfile::TempDir,
    pub(crate) address: SocketAddr,
    pub(crate) authority: Arc<Authority>,
    pub(crate) renew: Arc<Notify>,
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

    /// Whose certificates live so many seconds.
    pub(crate) fn of_leaves(leaf_s: i64) -> Self {
        let house = Self::new();
        let loaded = authority::load(house.path(), &"wired".parse().unwrap()).unwrap();
        Self { authority: Arc::new(loaded.with_leaves_of(leaf_s)), ..house }
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
        self.store().start_run(&plan, None, &Actor::StateFolder, wall(), &mut || Ok(())).unwrap();
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
        let name = site.parse().map_or_else(|_| holder("odd"), Holder::Site);
        let claimed = Invitation { holder: name, ..invitation.clone() };
        let request = certs::enrolment::request(&claimed, key, &self.signer("any")).unwrap();
        wire::EnrolRequest { site: site.to_owned(), ..request.into() }
    }

    pub(crate) async fn enrol(
        &self,
        site: &str,
        key: &Key,
        invitation: &Invitation,
    ) -> Result<wire::EnrolReply, Status> {
        let request = self.enrolment(site, key, invitation);
        let mut client = EnrolmentClient::new(self.stranger());
        client.enrol(request).await.map(tonic::Response::into_inner)
    }

    /// What an invitation pins.
    pub(crate) fn fingerprint(&self) -> Digest {
        self.authority.fingerprint().unwrap()
    }

    /// A channel of somebody without a certificate.
    pub(crate) fn stranger(&self) -> Channel {
        let tls = certs::tls::enrolment_config(self.authority.federation(), self.fingerprint()).unwrap();
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
    let endpoint = Endpoint::from_static("http://aggregator").max_frame_size(FRAME_BYTES);
    endpoint.connect_with_connector_lazy(tower::service_fn(connect))
}

/// What carries calls, whoever signs them.
pub(crate) type Calls = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

pub(crate) fn client(channel: Channel) -> FederationClient<Calls> {
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
        self.download_part(blob, offset, 0).await
    }

    pub(crate) async fn download_part(&mut self, blob: Digest, offset: u64, end: u64) -> Result<Vec<u8>, Status> {
        let request = wire::DownloadRequest { blob: digest_bytes(blob), offset, end };
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
        self.attested(manifest, work.ledger.as_deref())
    }

    /// With the site's hand under it.
    pub(crate) fn attested(&self, manifest: UpdateManifest, told: Option<&SignedHead>) -> UpdateManifest {
        let attestation = Some(self.signer.attest(&"wired".parse().unwrap(), &manifest, told));
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

    /// Says that it trains.
    pub(crate) async fn joins(&mut self, work: &Assignment) {
        self.report(at_work(Phase::Training, work)).await.unwrap();
    }

    /// In the middle of an upload, of which the bytes are given back, and of a download that is not read: most of that file waits
    /// on the server's side.
    pub(crate) async fn half_way(
        &mut self,
        work: &Assignment,
        delta: &NamedTensors,
    ) -> (UpdateManifest, Vec<u8>, Streaming<wire::Chunk>) {
        let (manifest, bytes) = (self.manifest(work, delta), delta.to_safetensors());
        self.begin(&manifest).await.unwrap();
        self.chunk(&manifest, 0, bytes[..CHUNK_BYTES].to_vec()).await.unwrap();
        let request = wire::DownloadRequest { blob: digest_bytes(work.base), offset: 0, end: 0 };
        let mut download = self.client.download(request).await.unwrap().into_inner();
        download.message().await.unwrap();
        (manifest, bytes, download)
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
