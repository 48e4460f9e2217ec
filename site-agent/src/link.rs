//! The one connection to the aggregator: outbound, retried and resumed; mutual TLS, or messages that are signed.
//!
//! It knows the wire and the certificates; it does not know what a model or an image is. Every transfer goes on from
//! where it stopped, and nothing is believed before its digest is checked.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use certs::message::caller::{Caller, Signing};
use certs::proxy::Route;
use common::ids::DigestBuilder;
use common::policy::SitePolicy;
use common::signed::PlanSignature;
use common::words::plain;
use common::{Digest, Directive, Plan, Progress, RunId, Score, SiteId, UpdateManifest};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use proto::convert::{Announced, ModelScores, digest_bytes};
use proto::wire::federation_client::FederationClient;
use proto::{CHUNK_BYTES, FRAME_BYTES, MESSAGE_BYTES, Malformed, wire};
use rustls::ClientConfig;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Response, Status};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use crate::changes::Before;
use crate::durable::{self, DiskError};
use crate::home::Home;
use crate::pace::Bucket;
use crate::switch;

/// A connection to the aggregator, as one site.
#[derive(Clone, Debug)]
pub struct Link {
    site: SiteId,
    client: FederationClient<Calls>,
    upload: Pace,
    download: Pace,
    /// Bytes of an update that go in one call.
    piece: usize,
    /// Whether the aggregator asked for a renewal: heard by any clone of this link.
    renewal: Arc<AtomicBool>,
}

/// What carries calls.
type Calls = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

/// How calls get to the aggregator, and what proves whose they are.
#[derive(Clone, Debug)]
pub struct Way {
    /// What the connection shows and believes.
    pub tls: Arc<ClientConfig>,
    /// Straight, or through a proxy.
    pub route: Route,
    /// Who signs each message, if the connection proves nothing.
    pub caller: Option<Arc<Caller>>,
}

impl Way {
    /// Calls to `address` (host:port) by this way.
    fn calls(self, address: &str) -> Result<Calls, LinkError> {
        let channel = channel(address, self.tls, self.route)?;
        Ok(match self.caller {
            None => BoxCloneSyncService::new(channel.map_err(|error| Status::from_error(error.into()))),
            Some(caller) => {
                let sent = channel.map_request(|request: http::Request<Full<Bytes>>| request.map(Body::new));
                let signing = Signing::new(sent, caller);
                // Named, because a service may take several kinds of requests.
                let signing = ServiceExt::<http::Request<Body>>::map_err(signing, Status::from_error);
                let answered = |answer: http::Response<_>| answer.map(Body::new);
                BoxCloneSyncService::new(ServiceExt::<http::Request<Body>>::map_response(signing, answered))
            }
        })
    }
}

/// How fast bytes may pass one way, and the switch that ends a transfer.
#[derive(Clone, Debug)]
struct Pace {
    bucket: Bucket,
    since: Instant,
    switch: Option<Home>,
}

impl Pace {
    fn of(mb_s: Option<f64>, switch: Option<&Home>) -> Self {
        Self { bucket: Bucket::of(mb_s), since: Instant::now(), switch: switch.cloned() }
    }

    /// Waits until so many bytes may have passed; ends early, with an error, when a person stops the agent.
    async fn passed(&mut self, bytes: usize) -> Result<(), LinkError> {
        let mut wait = self.bucket.take(bytes, self.since.elapsed());
        loop {
            if self.switch.as_ref().is_some_and(switch::is_stopped) {
                return Err(LinkError::Stopped);
            }
            if wait.is_zero() {
                return Ok(());
            }
            let now = wait.min(Duration::from_secs(1));
            tokio::time::sleep(now).await;
            wait -= now;
        }
    }
}

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The network, or the aggregator, is not there just now.
    #[error("the aggregator cannot be reached: {0}")]
    Unreachable(String),
    /// The aggregator said no.
    #[error("the aggregator refused ({fault}): {message}")]
    Refused {
        /// The stable code of the refusal's kind: what to do goes by it alone.
        code: String,
        /// What is wrong, by a finer code if the aggregator told one.
        fault: String,
        /// Its words, with the remedy.
        message: String,
        /// Whether the same call may succeed later.
        transient: bool,
    },
    /// An answer without the aggregator's signature, or with one that does not hold.
    #[error(
        "the aggregator's answer does not count: {0}; something on the way changes what is sent: tell hospital IT, whose proxy opens \
         TLS. Nothing of the answer was taken, and the call is made again"
    )]
    Altered(String),
    /// The aggregator said something that this version does not understand.
    #[error("the aggregator's answer is not understood: {0}")]
    Malformed(#[from] Malformed),
    /// A file's bytes are not those that were announced.
    #[error("{what} arrived with digest {found}, but {expected} was announced; it is fetched again")]
    DigestDiffers {
        /// What was fetched.
        what: &'static str,
        /// What was announced.
        expected: Digest,
        /// What arrived.
        found: Digest,
    },
    /// A model cannot be made of an earlier one that is here.
    #[error("a model cannot be made of an earlier one that is on this disk: {0}")]
    NotMade(io::Error),
    /// A person stopped the agent in the middle of a transfer.
    #[error("a person at this site stopped the agent; the transfer goes on after `site-agent resume`")]
    Stopped,
    /// A plan that this version cannot honour.
    #[error(transparent)]
    Plan(#[from] common::plan::PlanError),
    /// The disk said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl LinkError {
    /// Whether to try the same again after a pause.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Altered(_) | Self::DigestDiffers { .. } | Self::NotMade(_) | Self::Stopped => {
                true
            }
            Self::Refused { transient, .. } => *transient,
            Self::Malformed(_) | Self::Plan(_) | Self::Disk(_) => false,
        }
    }

    /// The stable code, if the aggregator refused.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => Some(code),
            _ => None,
        }
    }
}

impl From<Status> for LinkError {
    /// Its words are whoever answered's: a person at this site reads them in a terminal.
    fn from(status: Status) -> Self {
        match proto::refusal::code(&status) {
            Some(code) => Self::Refused {
                code: plain(code),
                fault: plain(proto::refusal::fault(&status).unwrap_or(code)),
                message: plain(status.message()),
                transient: matches!(status.code(), Code::Unavailable | Code::ResourceExhausted),
            },
            None => match certs::connect::altered(&status) {
                Some(altered) => Self::Altered(plain(&altered.to_string())),
                None => Self::Unreachable(plain(
                    &certs::connect::root_cause(&status).unwrap_or_else(|| status.message().to_owned()),
                )),
            },
        }
    }
}

/// An answer to [`Link::ping`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The round trip.
    pub took: Duration,
    /// The aggregator's time, as HTTP writes it.
    pub date: Option<String>,
}

/// Codes of refusals that are of who asks, and not of what is asked.
const REFUSES_THE_SITE: [&str; 3] = ["unidentified", "speaks-for-another", "revoked"];

/// Longest wait for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Longest wait for the next chunk of a download, however slow the line: of a stream that stays open although nobody is behind it any
/// more, nothing else would tell.
const CHUNK_WITHIN: Duration = Duration::from_secs(600);

/// The least that is sent of an update in one call.
const LEAST_PIECE: usize = 16 << 10;

/// All of an answer to one call: the channel's own limit is on its headers alone.
async fn answered<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, LinkError> {
    Ok(within(ANSWER_WITHIN, call).await?.into_inner())
}

async fn within<T>(limit: Duration, answer: impl Future<Output = Result<T, Status>>) -> Result<T, LinkError> {
    let silent = |_| LinkError::Unreachable(format!("no answer within {} s", limit.as_secs()));
    Ok(tokio::time::timeout(limit, answer).await.map_err(silent)??)
}

/// A channel to `address` (host:port) that connects when it is first used and again whenever it broke.
pub(crate) fn channel(address: &str, tls: Arc<ClientConfig>, route: Route) -> Result<Channel, LinkError> {
    // The scheme is only tonic's wish: the stream that the connector returns is TLS already.
    let endpoint = Endpoint::try_from(format!("http://{address}"))
        .map_err(|_| LinkError::Unreachable(format!("{address:?} is not an address: host:port is expected")))?
        .timeout(ANSWER_WITHIN)
        .max_frame_size(FRAME_BYTES)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    let address = address.to_owned();
    Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let (address, tls, route) = (address.clone(), Arc::clone(&tls), route.clone());
        async move { certs::connect::connect_via(&address, tls, &route).await.map(TokioIo::new) }
    })))
}

impl Link {
    /// A link to the aggregator at `address`, as `site`. Nothing is sent yet.
    pub fn new(site: SiteId, address: &str, way: Way) -> Result<Self, LinkError> {
        let client = FederationClient::new(way.calls(address)?)
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES);
        let unbounded = Pace::of(None, None);
        let (upload, download) = (unbounded.clone(), unbounded);
        Ok(Self { site, client, upload, download, piece: CHUNK_BYTES, renewal: Arc::default() })
    }

    /// The same link, held to the policy's bandwidth and to the switch in the state folder.
    pub fn under(self, policy: &SitePolicy, home: &Home) -> Self {
        let upload = Pace::of(policy.max_upload_mb_s, Some(home));
        let download = Pace::of(policy.max_download_mb_s, Some(home));
        Self { upload, download, ..self }
    }

    /// Says how this site is getting on, and hears what to do.
    pub async fn report(&mut self, progress: Progress) -> Result<Directive, LinkError> {
        let announced = Announced { site: self.site.clone(), value: progress };
        let reply = answered(self.client.report(wire::ReportRequest::from(announced))).await?;
        if reply.renew {
            self.renewal.store(true, Ordering::Relaxed);
        }
        Ok(reply.try_into()?)
    }

    /// Fetches a plan and holds it to the announced digest; and what is said to be coordinators' hands under it, which the caller
    /// is to hold to the CA.
    pub async fn plan(&mut self, announced: Digest) -> Result<(Plan, Vec<PlanSignature>), LinkError> {
        let reply = answered(self.client.get_plan(wire::GetPlanRequest { plan: digest_bytes(announced) })).await?;
        let signatures = reply.signatures.into_iter().map(PlanSignature::try_from).collect::<Result<_, _>>()?;
        Ok((Plan::from_agreed_bytes(&reply.canonical, announced)?, signatures))
    }

    /// Fetches a model's file to `path`, from where an earlier attempt stopped; `path` appears when it is whole.
    pub async fn fetch_model(&mut self, model: Digest, bytes: u64, path: &Path) -> Result<(), LinkError> {
        let beside = path.with_added_extension("part");
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(durable::told("create", folder))?;
        let mut file =
            OpenOptions::new().create(true).append(true).open(&beside).map_err(durable::told("create", &beside))?;
        let mut offset = file.metadata().map_err(durable::told("read", &beside))?.len();
        if offset > bytes {
            file.set_len(0).map_err(durable::told("write", &beside))?;
            offset = 0;
        }
        self.fetch(model, offset..bytes, &mut file, &beside).await?;
        file.sync_all().map_err(durable::told("write", &beside))?;
        publish_model(&beside, model, path)
    }

    /// Fetches what has changed of a model since the one `before` it, from where an earlier attempt stopped, and makes its file of both.
    pub async fn fetch_changes(&mut self, model: Digest, before: &Before, path: &Path) -> Result<(), LinkError> {
        let [changes, made] = ["changes", "made"].map(|extension| path.with_added_extension(extension));
        let mut file =
            OpenOptions::new().create(true).append(true).open(&changes).map_err(durable::told("create", &changes))?;
        let here = file.metadata().map_err(durable::told("read", &changes))?.len();
        for part in before.left(here) {
            self.fetch(model, part, &mut file, &changes).await?;
        }
        if let Err(error) = before.make(&changes, &made) {
            // Of no use to anybody, and what the disk has no room for.
            durable::remove(&made)?;
            if durable::is_full(&error) {
                return Err(durable::told("write", &made)(error).into());
            }
            durable::remove(&changes)?;
            return Err(LinkError::NotMade(error));
        }
        durable::remove(&changes)?;
        publish_model(&made, model, path)
    }

    /// Fetches a part of a model's file to the end of `file`.
    async fn fetch(&mut self, model: Digest, part: Range<u64>, file: &mut File, path: &Path) -> Result<(), LinkError> {
        let Range { start: mut offset, end } = part;
        if offset == end {
            return Ok(());
        }
        let request = wire::DownloadRequest { blob: digest_bytes(model), offset, end };
        let mut chunks = answered(self.client.download(request)).await?;
        while let Some(chunk) = within(CHUNK_WITHIN, chunks.message()).await? {
            if chunk.offset != offset {
                return Err(LinkError::Unreachable("the download's chunks are out of order".to_owned()));
            }
            let wanted = usize::try_from(end - offset).map_or(chunk.data.len(), |room| room.min(chunk.data.len()));
            file.write_all(&chunk.data[..wanted]).map_err(durable::told("write", path))?;
            offset += wanted as u64;
            // What is not read is not sent: the connection's window holds the aggregator to this pace as well.
            self.download.passed(chunk.data.len()).await?;
            // An older aggregator does not stop where it is asked to.
            if wanted < chunk.data.len() {
                return Ok(());
            }
        }
        if offset < end {
            return Err(LinkError::Unreachable(format!("the download stopped at {offset} of {end} bytes")));
        }
        Ok(())
    }

    /// Whether the aggregator asked this site to renew its certificate.
    pub fn renewal_is_asked_for(&self) -> bool {
        self.renewal.load(Ordering::Relaxed)
    }

    /// Asks for a new certificate for the key of this request.
    pub async fn renew(&mut self, csr_pem: String) -> Result<wire::RenewReply, LinkError> {
        answered(self.client.renew(wire::RenewRequest { csr_pem })).await
    }

    /// Asks for a plan that nobody has: whether the aggregator answers this very site, how fast, and what time it has there.
    pub async fn ping(&mut self) -> Result<Answered, LinkError> {
        let asked = Instant::now();
        let nothing = wire::GetPlanRequest { plan: digest_bytes(Digest::of(b"")) };
        let Err(status) = self.client.get_plan(nothing).await else {
            return Ok(Answered { took: asked.elapsed(), date: None });
        };
        let date = status.metadata().get("date").and_then(|date| date.to_str().ok()).map(str::to_owned);
        let took = asked.elapsed();
        match LinkError::from(status) {
            LinkError::Refused { ref code, transient: false, .. } if !REFUSES_THE_SITE.contains(&code.as_str()) => {
                Ok(Answered { took, date })
            }
            error => Err(error),
        }
    }

    /// Fetches a model for at most so long and keeps nothing; bytes that came, and in which time.
    pub async fn measure(&mut self, model: Digest, most: Duration) -> Result<(u64, Duration), LinkError> {
        let request = wire::DownloadRequest { blob: digest_bytes(model), offset: 0, end: 0 };
        let (mut chunks, began, mut moved) = (answered(self.client.download(request)).await?, Instant::now(), 0);
        while began.elapsed() < most
            && let Some(chunk) = within(ANSWER_WITHIN, chunks.message()).await?
        {
            moved += chunk.data.len() as u64;
            self.download.passed(chunk.data.len()).await?;
        }
        Ok((moved, began.elapsed()))
    }

    /// Says what this site measured of a model.
    pub async fn scores(&mut self, run: &RunId, model: Digest, scores: Vec<Score>) -> Result<(), LinkError> {
        let value = ModelScores { run: run.clone(), model, scores };
        let announced = Announced { site: self.site.clone(), value };
        answered(self.client.report_scores(wire::ScoresRequest::from(announced))).await?;
        Ok(())
    }

    /// Sends a sealed update until the aggregator has acknowledged it.
    pub async fn send(&mut self, manifest: &UpdateManifest, sealed: &Path) -> Result<(), LinkError> {
        self.upload(manifest, sealed).await?;
        self.finish(manifest).await
    }

    /// Sends the bytes of a sealed update, from where an earlier attempt stopped.
    pub async fn upload(&mut self, manifest: &UpdateManifest, sealed: &Path) -> Result<(), LinkError> {
        let state = answered(self.client.begin_upload(wire::UpdateManifest::from(manifest))).await?;
        if state.acknowledged {
            return Ok(());
        }
        let (run, round, blob) = (manifest.run.to_string(), manifest.round.0, digest_bytes(manifest.blob));
        let (mut offset, mut wanted) = (state.next_offset, chunk_bytes(&state));
        while offset < manifest.bytes {
            let most = self.upload.bucket.piece(wanted.min(self.piece));
            let data = chunk_at(sealed, offset, most).map_err(durable::told("read", sealed))?;
            self.upload.passed(data.len()).await?;
            let (run, blob) = (run.clone(), blob.clone());
            let chunk = wire::UploadChunkRequest { run, round, blob, offset, data };
            let began = Instant::now();
            let sent = answered(self.client.upload_chunk(chunk)).await;
            self.piece = piece_after(most, began.elapsed(), sent.is_ok());
            let state = sent?;
            (offset, wanted) = (state.next_offset, chunk_bytes(&state));
        }
        Ok(())
    }

    /// Asks for the acknowledgement of an update whose bytes are all sent. May be repeated.
    pub async fn finish(&mut self, manifest: &UpdateManifest) -> Result<(), LinkError> {
        let (run, round, blob) = (manifest.run.to_string(), manifest.round.0, digest_bytes(manifest.blob));
        answered(self.client.finish_upload(wire::FinishUploadRequest { run, round, blob })).await?;
        Ok(())
    }
}

/// How large the aggregator wants the next chunk; one that does not say takes any.
fn chunk_bytes(state: &wire::UploadState) -> usize {
    match state.chunk_bytes as usize {
        0 => CHUNK_BYTES,
        wanted => wanted.min(CHUNK_BYTES),
    }
}

/// How much of an update to send in the next call, after one of so many bytes: on a slow line a call may end without an answer before
/// a large piece has passed, and what passed of it does not count.
fn piece_after(piece: usize, took: Duration, is_answered: bool) -> usize {
    match (is_answered, took < ANSWER_WITHIN / 4) {
        (true, true) => piece.saturating_mul(2).min(CHUNK_BYTES),
        (true, false) | (false, true) => piece,
        (false, false) => (piece / 2).clamp(LEAST_PIECE, CHUNK_BYTES),
    }
}

fn chunk_at(path: &Path, offset: u64, most: usize) -> io::Result<Bytes> {
    use std::os::unix::fs::FileExt;
    let file = File::open(path)?;
    let left = file.metadata()?.len().saturating_sub(offset);
    let mut chunk = vec![0; usize::try_from(left).map_or(most, |left| left.min(most))];
    file.read_exact_at(&mut chunk, offset)?;
    if chunk.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(chunk.into()) }
}

/// Gives a model's file, which is synced, its name, if it is the one that was announced; otherwise it is removed.
fn publish_model(beside: &Path, model: Digest, path: &Path) -> Result<(), LinkError> {
    let found = file_digest(beside).map_err(durable::told("read", beside))?;
    if found != model {
        fs::remove_file(beside).map_err(durable::told("remove", beside))?;
        return Err(LinkError::DigestDiffers { what: "the model", expected: model, found });
    }
    Ok(durable::publish(beside, path)?)
}

fn file_digest(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut digest = DigestBuilder::default();
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(digest.finish()),
            read => digest.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::metadata::MetadataValue;

    use super::*;

    #[test]
    fn the_words_of_an_answer_are_a_line_that_no_terminal_obeys() {
        let said = "no\n\u{1b}[2Jall is well";
        let mut refused = Status::new(Code::NotFound, said);
        refused.metadata_mut().insert(proto::refusal::REFUSAL, MetadataValue::from_static("unknown-run"));
        for status in [Status::new(Code::Unavailable, said), refused] {
            let told = LinkError::from(status).to_string();
            assert!(told.contains("[2Jall is well") && !told.contains(char::is_control), "{told:?}");
        }
    }

    #[test]
    fn on_a_slow_line_pieces_become_smaller_until_they_pass_and_larger_where_there_is_time() {
        let (quick, slow) = (Duration::from_secs(1), ANSWER_WITHIN);
        let mut pieces = vec![CHUNK_BYTES];
        for _ in 0..8 {
            pieces.push(piece_after(pieces[pieces.len() - 1], slow, false));
        }
        assert_eq!(pieces[1], CHUNK_BYTES / 2);
        assert_eq!(pieces[8], LEAST_PIECE);
        assert_eq!(piece_after(LEAST_PIECE, slow / 2, true), LEAST_PIECE, "it passes, and no more would");
        assert_eq!(piece_after(LEAST_PIECE, quick, true), 2 * LEAST_PIECE);
        assert_eq!(piece_after(CHUNK_BYTES, quick, true), CHUNK_BYTES);
        assert_eq!(piece_after(CHUNK_BYTES, quick, false), CHUNK_BYTES, "a refusal says nothing of the line");
    }

    #[tokio::test]
    async fn an_answer_that_does_not_come_is_not_waited_for_for_ever() {
        let never = std::future::pending::<Result<(), Status>>();
        let error = within(Duration::from_millis(1), never).await.unwrap_err();
        assert!(matches!(error, LinkError::Unreachable(_)) && error.is_transient(), "{error}");
    }
}
