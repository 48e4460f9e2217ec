//! Sites that do not train: they enrol, and in every round fetch the model and send a delta that was ready before.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use aggregator::layout::Layout;
use bytes::Bytes;
use certs::keys::Key;
use certs::signing::SigningKey;
use common::{Assignment, Digest, Directive, FederationName, Meters, Progress, SiteId, UpdateManifest};
use hyper_util::rt::TokioIo;
use proto::convert::{Announced, digest_bytes};
use proto::wire::enrolment_client::EnrolmentClient;
use proto::wire::federation_client::FederationClient;
use proto::{CHUNK_BYTES, FRAME_BYTES, MESSAGE_BYTES, wire};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::model::{self, Tape};
use crate::server::{Server, site_name, subjects};

/// An enrolled site.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    number: usize,
    site: SiteId,
    client: FederationClient<Channel>,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) wire: Wire,
    federation: FederationName,
    signer: Arc<SigningKey>,
}

/// Bytes of TCP, below TLS.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wire {
    received: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
}

impl Wire {
    pub(crate) fn bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed) + self.sent.load(Ordering::Relaxed)
    }
}

/// A delta that is ready to be sent, of whatever the site will be asked for.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    work: Assignment,
    digest: Digest,
    header: Bytes,
    values: Bytes,
}

impl Site {
    /// Enrols as an agent does: by an invitation, with a key of its own.
    pub(crate) async fn enrol(server: &Server, number: usize) -> Self {
        let (site, wire) = (site_name(number), Wire::default());
        let key = Key::create(&server.key_path(&site)).expect("a key");
        let invitation = server.invite(&site);
        let stranger = certs::tls::enrolment_config(&invitation.federation, invitation.authority).expect("a TLS setup");
        let signer = SigningKey::create(&server.key_path(&site).with_extension("signing")).expect("a signing key");
        let request = certs::enrolment::request(&invitation, &key, &signer).expect("a request");
        let federation = invitation.federation.clone();
        let request = wire::EnrolRequest::from(request);
        let channel = channel(server.address, stranger, Wire::default());
        let enrolled = EnrolmentClient::new(channel).enrol(request).await.expect("enrolled").into_inner();
        let (certificate, authority) = (&enrolled.certificate_pem, &enrolled.authority_pem);
        let tls = certs::tls::site_config(&invitation.federation, certificate, authority, &key).expect("a TLS setup");
        let client = FederationClient::new(channel_of(server, &tls, &wire))
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES);
        Self { number, site, client, tls, wire, federation, signer: Arc::new(signer) }
    }

    async fn report(&mut self) -> Directive {
        let idle = Announced { site: self.site.clone(), value: Progress::idle() };
        let reply = self.client.report(wire::ReportRequest::from(idle)).await.expect("an answer");
        reply.into_inner().try_into().expect("a directive")
    }

    /// Work of a round after `round`, or that the run is over, if it is already so.
    pub(crate) async fn after(&mut self, round: u32) -> Option<Next> {
        match self.report().await {
            Directive::Train(work) if work.round.0 > round => Some(Next::Work(work)),
            Directive::Finished { model, bytes, .. } => Some(Next::Over { model, bytes }),
            _ => None,
        }
    }

    pub(crate) fn prepare(&self, work: Assignment, layout: &Layout, tape: &Tape) -> Ready {
        let values = tape.delta(work.round, self.number);
        let digest = model::digest(layout, &values);
        Ready { work, digest, header: Bytes::copy_from_slice(layout.header()), values }
    }

    /// A site's part of a round.
    pub(crate) async fn take_part(&mut self, ready: &Ready) {
        let fetched = self.fetch(ready.work.base, |_| {}).await;
        assert_eq!(fetched, ready.work.base_bytes, "the whole model");
        self.send(ready).await;
    }

    /// Fetches a model, and says how long it is.
    pub(crate) async fn fetch(&mut self, model: Digest, mut each: impl FnMut(&[u8])) -> u64 {
        let request = wire::DownloadRequest { blob: digest_bytes(model), offset: 0, end: 0 };
        let mut chunks = self.client.download(request).await.expect("a model").into_inner();
        let mut bytes = 0;
        while let Some(chunk) = chunks.message().await.expect("a chunk") {
            each(&chunk.data);
            bytes += chunk.data.len() as u64;
        }
        bytes
    }

    pub(crate) async fn send(&mut self, ready: &Ready) {
        let state = self.begin(ready).await;
        assert_eq!((state.next_offset, state.acknowledged), (0, false), "no delta is sent twice");
        self.send_rest(ready, 0).await;
        self.finish(ready).await;
    }

    /// Sends all but the word that it is all.
    pub(crate) async fn send_unfinished(&mut self, ready: &Ready) {
        self.begin(ready).await;
        self.send_rest(ready, 0).await;
    }

    /// Announces a delta; says how far it has come.
    pub(crate) async fn begin(&mut self, ready: &Ready) -> wire::UploadState {
        let manifest = wire::UpdateManifest::from(&self.manifest(ready));
        self.client.begin_upload(manifest).await.expect("a place").into_inner()
    }

    pub(crate) async fn send_rest(&mut self, ready: &Ready, from: u64) {
        let manifest = self.manifest(ready);
        let (run, round, blob) = (manifest.run.to_string(), manifest.round.0, digest_bytes(manifest.blob));
        let (mut offset, mut wanted) = (from, CHUNK_BYTES);
        while offset < manifest.bytes {
            let data = ready.chunk(offset as usize, wanted);
            let (run, blob) = (run.clone(), blob.clone());
            let chunk = wire::UploadChunkRequest { run, round, blob, offset, data };
            let state = self.client.upload_chunk(chunk).await.expect("taken").into_inner();
            (offset, wanted) = (state.next_offset, state.chunk_bytes as usize);
        }
    }

    pub(crate) async fn finish(&mut self, ready: &Ready) {
        let manifest = self.manifest(ready);
        let (run, round, blob) = (manifest.run.to_string(), manifest.round.0, digest_bytes(manifest.blob));
        self.client.finish_upload(wire::FinishUploadRequest { run, round, blob }).await.expect("acknowledged");
    }

    /// Asks until there is an answer: the connection was broken off.
    pub(crate) async fn is_answered(&mut self) {
        let idle = Announced { site: self.site.clone(), value: Progress::idle() };
        while self.client.report(wire::ReportRequest::from(idle.clone())).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }

    fn manifest(&self, Ready { work, digest, header, values }: &Ready) -> UpdateManifest {
        let manifest = UpdateManifest {
            run: work.run.clone(),
            round: work.round,
            site: self.site.clone(),
            plan: work.plan,
            base: work.base,
            blob: *digest,
            bytes: (header.len() + values.len()) as u64,
            subjects: subjects(self.number),
            heads: BTreeMap::new(),
            examples: 0,
            steps: 10,
            meters: Meters { loss: 5.0, teacher_entropy: 1.0, batch_entropy: 2.0, rank_me: 9.0 },
            attestation: None,
        };
        let attestation = Some(self.signer.attest(&self.federation, &manifest, work.ledger.as_deref()));
        UpdateManifest { attestation, ..manifest }
    }
}

impl Ready {
    /// The file from an offset on, as much as a call should have.
    fn chunk(&self, offset: usize, most: usize) -> Bytes {
        match offset.checked_sub(self.header.len()) {
            Some(place) => self.values.slice(place..self.values.len().min(place + most)),
            None => self.header.slice(offset..self.header.len().min(offset + most)),
        }
    }
}

/// What comes after a round.
pub(crate) enum Next {
    Work(Assignment),
    Over { model: Digest, bytes: u64 },
}

fn channel_of(server: &Server, tls: &Arc<ClientConfig>, wire: &Wire) -> Channel {
    channel(server.address, Arc::clone(tls), wire.clone())
}

fn channel(address: SocketAddr, tls: Arc<ClientConfig>, wire: Wire) -> Channel {
    let connect = move |_: Uri| {
        let (tls, wire) = (Arc::clone(&tls), wire.clone());
        async move {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            let connected = TlsConnector::from(tls).connect(ServerName::from(address.ip()), Counted(tcp, wire)).await?;
            Ok::<_, io::Error>(TokioIo::new(connected))
        }
    };
    let endpoint = Endpoint::from_static("http://aggregator").max_frame_size(FRAME_BYTES);
    endpoint.connect_with_connector_lazy(tower::service_fn(connect))
}

/// A connection whose bytes are counted.
struct Counted(TcpStream, Wire);

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.0).poll_read(cx, buf))?;
        self.1.received.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.0).poll_write(cx, buf))?;
        self.1.sent.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.0).poll_write_vectored(cx, bufs))?;
        self.1.sent.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
