//! A person's end of the calls: from a folder of the person's own, over mutual TLS, to the one port.
//!
//! The certificate is renewed by whichever command is typed when two thirds of its life are over, as an agent renews a site's.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use certs::proxy::{self, Environment, Proxy, ProxyUrlError, Route};
use certs::signing::verifies;
use certs::{enrolment, signer, tls};
use common::enrolment::Welcome;
use common::ledger::{self, Broken};
use common::signed::ledger_statement;
use common::words::plain;
use common::{Digest, Holder, Plan, RunId, SiteId};
use hyper_util::rt::TokioIo;
use proto::convert::{digest_bytes, signature_bytes, site, untold};
use proto::wire::coordination_client::CoordinationClient;
use proto::wire::enrolment_client::EnrolmentClient;
use proto::wire::{self, start_run_part};
use proto::{CHUNK_BYTES, FRAME_BYTES, MESSAGE_BYTES, Malformed};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::rustls::ClientConfig;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status, Streaming};

use super::folder::{Enrolled, Folder, FolderError, Held};
use super::{Invited, Wanted};
use crate::authority::seconds;
use crate::clock::{Stamp, wall};
use crate::federation::Signatures;
use crate::ledger::Colophon;
use crate::status;
use crate::store::Revoked;

/// Longest wait for an answer, and for the next part of one; of a model that is sent, after its last byte, and until more of it is taken.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// The same while a model is sent and stored: on a slow line a part of it takes longer, and on a slow disk the whole does.
const STORED_WITHIN: Duration = Duration::from_secs(600);

/// Longest wait until a new certificate is let in, and the pause between two tries.
const KNOWN_WITHIN: Duration = Duration::from_secs(5);
const KNOWN_AGAIN: Duration = Duration::from_millis(100);

/// The code of a refusal because the certificate counts no more.
const REVOKED: &str = "revoked";

/// What a certificate in PEM begins with.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// What came with a new certificate.
#[derive(Debug)]
pub struct Renewed {
    /// Whether a CA that takes the place of the federation's is known here now.
    pub next_authority: bool,
    /// Why the certificate could not be used yet: it counts with the next call that gets through.
    pub unused: Option<RemoteError>,
}

/// Why a call of a person's did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// Not an invitation.
    #[error(transparent)]
    Invitation(#[from] certs::invitation::InvitationError),
    /// An invitation for a site.
    #[error("this is the invitation of site {0}: it is used at that hospital, with `site-agent enrol <invitation>`")]
    ForASite(SiteId),
    /// The person's folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The certificate has expired.
    #[error(
        "the certificate of {who} expired at {end}, by this machine's clock: ask for a new invitation, then `aggregator enrol \
         <invitation>` with the same --as"
    )]
    Expired {
        /// Whose.
        who: String,
        /// When.
        end: String,
    },
    /// The network, or the aggregator, is not there just now.
    #[error("the aggregator cannot be reached: {0}")]
    Unreachable(String),
    /// The aggregator said no.
    #[error("the aggregator refused ({code}): {message}")]
    Refused {
        /// The stable code of the refusal.
        code: String,
        /// Its words, with the remedy.
        message: String,
    },
    /// The aggregator failed.
    #[error("the aggregator could not do this now ({code}): {message}")]
    Failed {
        /// The stable code of the refusal.
        code: String,
        /// Its words.
        message: String,
    },
    /// The answer is not understood.
    #[error("the aggregator's answer is not understood: {0}; use the same version of the program")]
    Malformed(#[from] Malformed),
    /// The answer's JSON is not understood.
    #[error("the aggregator's answer is not understood: {0}; use the same version of the program")]
    Json(#[from] serde_json::Error),
    /// Another CA than the invitation names, or a certificate that is not for the key that was made here.
    #[error("the aggregator answered with {0}: do not go on; tell whoever runs the aggregator")]
    NotIts(&'static str),
    /// The answer to an enrolment is not believed.
    #[error(transparent)]
    NotWelcome(#[from] enrolment::NotWelcome),
    /// A plan that this version cannot honour, or that is not the one that was announced.
    #[error(transparent)]
    Plan(#[from] common::plan::PlanError),
    /// The ledger that was sent does not hold.
    #[error("the aggregator's ledger does not hold: {0}")]
    Ledger(#[from] Broken),
    /// The proxy's address cannot be used.
    #[error(transparent)]
    Proxy(#[from] ProxyUrlError),
    /// The program cannot start its network.
    #[error("starting: {0}")]
    Start(std::io::Error),
}

type Result<T> = std::result::Result<T, RemoteError>;

impl From<Status> for RemoteError {
    /// Its words are whoever answered's: a person reads them in a terminal.
    fn from(status: Status) -> Self {
        let message = plain(status.message());
        match (proto::refusal::code(&status).map(plain), status.code()) {
            (Some(code), Code::Unavailable | Code::ResourceExhausted) => Self::Failed { code, message },
            (Some(code), _) => Self::Refused { code, message },
            (None, _) => Self::Unreachable(certs::connect::root_cause(&status).map_or(message, |cause| plain(&cause))),
        }
    }
}

impl From<certs::CertsError> for RemoteError {
    fn from(error: certs::CertsError) -> Self {
        Self::Folder(error.into())
    }
}

type Client = CoordinationClient<Channel>;

/// The aggregator, as a person reaches it.
#[derive(Debug)]
pub struct Remote {
    folder: Folder,
    enrolled: Enrolled,
    runtime: Runtime,
    client: Client,
    /// Digest of the certificate that it presents.
    presented: Digest,
}

impl Remote {
    /// The aggregator of the person whose folder this is. Nothing is sent, unless it is time to renew the certificate. Another
    /// command that is renewing it is waited for, and its certificate is used.
    pub fn open(path: &Path) -> Result<Self> {
        let folder = Folder::at(path);
        let enrolled = folder.enrolled()?;
        let held = folder.hold()?;
        let (validity, now_s) = (held.validity()?, seconds(wall()));
        if validity.is_over(now_s) {
            return Err(RemoteError::Expired { who: enrolled.person.told(), end: validity.end_text() });
        }
        let runtime = runtime()?;
        let (client, presented) = runtime.block_on(async { client(&held, &enrolled) })?;
        let mut remote = Self { folder, enrolled, runtime, client, presented };
        if validity.is_renewed_at(now_s) {
            match remote.renew_held(&held) {
                Ok(_) => tracing::info!(until = held.validity()?.end_text(), "the certificate is renewed"),
                Err(error @ RemoteError::Refused { .. }) => return Err(error),
                // A third of its life is left for that.
                Err(error) => {
                    tracing::warn!(%error, "the certificate could not be renewed yet; the next command tries again")
                }
            }
        }
        Ok(remote)
    }

    /// Makes the connection anew; renews the certificate if it is time.
    pub fn reopen(&mut self) -> Result<()> {
        *self = Self::open(self.folder.path())?;
        Ok(())
    }

    /// Whether it is time for another certificate.
    pub fn is_to_be_renewed(&self) -> bool {
        self.validity().is_ok_and(|validity| validity.is_renewed_at(seconds(wall())))
    }

    /// Who this is.
    pub fn enrolled(&self) -> &Enrolled {
        &self.enrolled
    }

    /// When the certificate counts.
    pub fn validity(&self) -> Result<certs::identity::Validity> {
        Ok(self.folder.hold()?.validity()?)
    }

    /// Takes a certificate for a new key in the place of the one in use, and uses it: the aggregator counts it, and the CAs that
    /// came with it, from then on.
    pub fn renew(&mut self) -> Result<Renewed> {
        let held = self.folder.hold()?;
        // Another command may have renewed the one that this one has known.
        self.present(&held)?;
        self.renew_held(&held)
    }

    fn renew_held(&mut self, held: &Held) -> Result<Renewed> {
        let key = held.credentials().next()?;
        let request = wire::RenewRequest { csr_pem: key.csr_pem()? };
        let renewed = self.runtime.block_on(answer(ANSWER_WITHIN, self.client.renew_person(request)))?.into_inner();
        // A certificate that would not count, or CAs of which none is known here, are refused before anything is kept.
        let (federation, holder) = (&self.enrolled.federation, &self.enrolled.holder());
        let (key, known_pem) = (&key, &held.authority_pem()?);
        let renewing = enrolment::Renewing { federation, holder, key, known_pem };
        enrolment::require_renewed(renewing, &renewed.certificate_pem, &renewed.authority_pem, seconds(wall()))?;
        held.credentials().replace(&renewed.certificate_pem, &renewed.authority_pem)?;
        self.present(held)?;
        let next_authority = renewed.authority_pem.matches(CERTIFICATE).count() > 1;
        Ok(Renewed { next_authority, unused: self.is_known().err() })
    }

    /// Makes a call with a certificate that is new. A server that has just heard of the next CA lets in whom that vouches for a
    /// second later.
    fn is_known(&self) -> Result<()> {
        let end = Instant::now() + KNOWN_WITHIN;
        loop {
            match self.runtime.block_on(read_status(self.client.clone())) {
                Err(RemoteError::Unreachable(_)) if Instant::now() < end => std::thread::sleep(KNOWN_AGAIN),
                answer => return answer.map(drop),
            }
        }
    }

    /// Presents the certificate that is in the folder.
    fn present(&mut self, held: &Held) -> Result<()> {
        (self.client, self.presented) = self.runtime.block_on(async { client(held, &self.enrolled) })?;
        Ok(())
    }

    /// The same; whether it is another one than before.
    fn presents_another(&mut self) -> Result<bool> {
        let before = self.presented;
        self.present(&self.folder.hold()?)?;
        Ok(self.presented != before)
    }

    /// The answer to a call. A certificate that counts no more because another command has renewed it meanwhile is no reason to fail:
    /// the call, of which nothing was done, is made once more with the new one.
    fn answer<T>(&mut self, call: impl AsyncFn(Client) -> Result<T>) -> Result<T> {
        let answer = self.runtime.block_on(call(self.client.clone()));
        let is_revoked = matches!(&answer, Err(RemoteError::Refused { code, .. }) if code == REVOKED);
        if is_revoked && matches!(self.presents_another(), Ok(true)) {
            return self.runtime.block_on(call(self.client.clone()));
        }
        answer
    }

    /// How the federation stands, as far as this person may see it.
    pub fn status(&mut self) -> Result<status::Status> {
        self.answer(read_status)
    }

    /// The ledger's lines, which hold to their chain and to their end in the aggregator's hand, and that end.
    pub fn ledger(&mut self) -> Result<(Vec<String>, Colophon)> {
        let text = self.answer(async |mut client| {
            whole(answer(ANSWER_WITHIN, client.read_ledger(wire::ReadLedgerRequest {})).await?.into_inner()).await
        })?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let last = lines.pop().ok_or(RemoteError::NotIts("a ledger without an end"))?;
        let colophon: Colophon = serde_json::from_str(&last)?;
        let statement = ledger_statement(&self.enrolled.federation, colophon.head);
        if colophon.key != self.enrolled.aggregator_key || !verifies(colophon.key, &statement, colophon.signature) {
            return Err(RemoteError::NotIts("a ledger whose end is not signed with the key that it enrolled you with"));
        }
        ledger::verify(lines.iter().map(String::as_str), &[colophon.head], |_, _| {})?;
        Ok((lines, colophon))
    }

    /// The plan of a run.
    pub fn plan(&mut self, run: &RunId) -> Result<Plan> {
        let request = wire::ReadPlanRequest { run: run.to_string() };
        let reply = self.answer(async |mut client| answer(ANSWER_WITHIN, client.read_plan(request.clone())).await)?;
        let bytes = reply.into_inner().canonical;
        Ok(Plan::from_agreed_bytes(&bytes, Digest::of(&bytes))?)
    }

    /// Starts a run with this person's hand under its plan; names the sites that are still to enrol.
    pub fn start(&mut self, plan: &Plan, first_model: Vec<u8>) -> Result<Vec<SiteId>> {
        let signature = self.folder.sign(&self.enrolled, plan.digest())?;
        let new = wire::NewRun { canonical: plan.canonical_bytes().into(), signature: signature_bytes(signature) };
        let model = Bytes::from(first_model);
        let reply = self.answer(async |mut client| {
            let (taken, progress) = watch::channel(());
            let parts = start_run_parts(new.clone(), model.clone()).inspect(move |_| taken.send_replace(()));
            answer_to_parts(STORED_WITHIN, client.start_run(tokio_stream::iter(parts)), progress).await
        })?;
        let names = &reply.into_inner().not_enrolled;
        Ok(names.iter().map(|name| site("StartRunReply", name)).collect::<std::result::Result<_, _>>()?)
    }

    /// Puts this person's hand under a plan that it has read.
    pub fn sign(&mut self, run: &RunId, plan: Digest) -> Result<Signatures> {
        let signature = signature_bytes(self.folder.sign(&self.enrolled, plan)?);
        let request = wire::SignPlanRequest { run: run.to_string(), plan: digest_bytes(plan), signature };
        let reply = self
            .answer(async |mut client| answer(ANSWER_WITHIN, client.sign_plan(request.clone())).await)?
            .into_inner();
        Ok(Signatures { counting: reply.counting as usize, needed: reply.needed })
    }

    /// Asks something of a run.
    pub fn ask(&mut self, run: &RunId, wanted: &Wanted) -> Result<()> {
        self.answer(async |mut client| {
            let run = run.to_string();
            match wanted {
                Wanted::Pause => answer(ANSWER_WITHIN, client.pause_run(wire::RunRequest { run })).await?,
                Wanted::Resume => answer(ANSWER_WITHIN, client.resume_run(wire::RunRequest { run })).await?,
                Wanted::Abort(because) => {
                    let request = wire::AbortRunRequest { run, because: because.clone() };
                    answer(ANSWER_WITHIN, client.abort_run(request)).await?
                }
            };
            Ok(())
        })
    }

    /// Has an invitation made.
    pub fn invite(&mut self, holder: &Holder, address: Option<String>) -> Result<Invited> {
        let request = wire::InviteRequest { holder: holder.to_string(), address: untold(address) };
        let reply =
            self.answer(async |mut client| answer(ANSWER_WITHIN, client.invite(request.clone())).await)?.into_inner();
        let invitation: certs::invitation::Invitation = reply.invitation.parse()?;
        if invitation.holder != *holder {
            return Err(RemoteError::NotIts("an invitation for somebody else"));
        }
        Ok(Invited::of(&invitation, Stamp(reply.expires_at_ms), reply.earlier_expired as usize))
    }

    /// Ends a holder's certificate and open invitations.
    pub fn revoke(&mut self, holder: &Holder) -> Result<Revoked> {
        let request = wire::RevokeRequest { holder: holder.to_string() };
        let reply =
            self.answer(async |mut client| answer(ANSWER_WITHIN, client.revoke(request.clone())).await)?.into_inner();
        Ok(Revoked { certificate: reply.certificate, invitations: reply.invitations as usize })
    }
}

async fn read_status(mut client: Client) -> Result<status::Status> {
    let text = whole(answer(ANSWER_WITHIN, client.read_status(wire::ReadStatusRequest {})).await?.into_inner()).await?;
    Ok(serde_json::from_slice(&text)?)
}

/// The answer to a call, if it comes in time: a server whose calls hang answers pings all the same.
async fn answer<T>(within: Duration, call: impl Future<Output = std::result::Result<T, Status>>) -> Result<T> {
    Ok(timeout(within, call).await.map_err(|_| unanswered(within))??)
}

/// The answer to a call that is sent in parts: while they are taken one after the other, it may take its time.
async fn answer_to_parts<T>(
    within: Duration,
    call: impl Future<Output = std::result::Result<T, Status>>,
    mut taken: watch::Receiver<()>,
) -> Result<T> {
    let mut call = pin!(call);
    loop {
        tokio::select! {
            answered = &mut call => return Ok(answered?),
            next = timeout(within, taken.changed()) => match next {
                Ok(Ok(())) => {}
                // That was the last.
                Ok(Err(_)) => return answer(within, call).await,
                Err(_) => return Err(unanswered(within)),
            },
        }
    }
}

fn unanswered(within: Duration) -> RemoteError {
    RemoteError::Unreachable(format!("it is there, and did not answer within {} s", within.as_secs()))
}

/// A run, and its first model in pieces.
fn start_run_parts(new: wire::NewRun, model: Bytes) -> impl Iterator<Item = wire::StartRunPart> {
    let pieces = (0..model.len())
        .step_by(CHUNK_BYTES)
        .map(move |begin| start_run_part::Part::Data(model.slice(begin..model.len().min(begin + CHUNK_BYTES))));
    let parts = [start_run_part::Part::Run(new)].into_iter().chain(pieces);
    parts.map(|part| wire::StartRunPart { part: Some(part) })
}

/// Enrols a person into a folder, or once more: after the certificate expired or was revoked, with a new key. A key from an
/// attempt that was cut short is used again.
pub fn enrol(invitation: &str, path: &Path) -> Result<Enrolled> {
    let invitation: certs::invitation::Invitation = invitation.parse()?;
    let person = match &invitation.holder {
        Holder::Person(person) => person.clone(),
        Holder::Site(site) => return Err(RemoteError::ForASite(site.clone())),
    };
    let folder = Folder::at(path);
    folder.prepare(&invitation, &person)?;
    let held = folder.hold()?;
    let (key, signing) = (held.credentials().next()?, folder.signing_key()?);
    let request = enrolment::request(&invitation, &key, &signing)?;
    let tls = tls::enrolment_config(&invitation.federation, invitation.authority)?;
    let runtime = runtime()?;
    let reply = runtime.block_on(async {
        let mut client = EnrolmentClient::new(channel(&invitation.address, tls)?);
        let reply = answer(ANSWER_WITHIN, client.enrol(wire::EnrolRequest::from(request))).await?;
        Ok::<_, RemoteError>(reply.into_inner())
    })?;
    let welcome = Welcome::try_from(reply)?;
    enrolment::require_welcome(&invitation, &key, &welcome)?;
    if person.is_coordinator() {
        let (pem, now_s) = (welcome.signing_certificate_pem.as_deref().unwrap_or(""), seconds(wall()));
        let certified = signer::certified(pem, &welcome.authority_pem, &invitation.federation, now_s);
        if !certified.is_ok_and(|it| it.key == signing.verifying() && it.coordinator == person.name) {
            return Err(RemoteError::NotIts("no certificate for the signing key that was made here"));
        }
    }
    let enrolled = Enrolled::of(&invitation, person, welcome.aggregator_key, signing.verifying());
    held.keep(&enrolled, &welcome.certificate_pem, &welcome.authority_pem)?;
    Ok(enrolled)
}

fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RemoteError::Start)
}

/// Who calls with the certificate that is in the folder, and the digest of that.
fn client(held: &Held, enrolled: &Enrolled) -> Result<(Client, Digest)> {
    let (tls, presented) = held.tls(&enrolled.federation)?;
    let client = CoordinationClient::new(channel(&enrolled.address, tls)?);
    Ok((client.max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES), presented))
}

/// A channel to `address` (host:port) that connects when it is first used.
fn channel(address: &str, tls: Arc<ClientConfig>) -> Result<Channel> {
    let route = route(address)?;
    // The scheme is only tonic's wish: the stream that the connector returns is TLS already.
    let endpoint = Endpoint::try_from(format!("http://{address}"))
        .map_err(|_| RemoteError::Unreachable(format!("{address:?} is not an address: host:port is expected")))?
        .max_frame_size(FRAME_BYTES)
        .http2_keep_alive_interval(ANSWER_WITHIN / 3)
        .keep_alive_timeout(ANSWER_WITHIN / 3);
    let address = address.to_owned();
    Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let (address, tls, route) = (address.clone(), Arc::clone(&tls), route.clone());
        async move { certs::connect::connect_via(&address, tls, &route).await.map(TokioIo::new) }
    })))
}

/// The way there, by this process's environment.
fn route(address: &str) -> Result<Route> {
    let read = |names: [&str; 2]| {
        names.into_iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    };
    let environment =
        Environment { https_proxy: read(["HTTPS_PROXY", "https_proxy"]), no_proxy: read(["NO_PROXY", "no_proxy"]) };
    Ok(match proxy::chosen(None, &environment, address)? {
        None => Route::Direct,
        Some(url) => Route::Via(Arc::new(Proxy::new(url, None)?)),
    })
}

/// A text that arrives in pieces.
async fn whole(mut arriving: Streaming<wire::Part>) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    while let Some(part) = answer(ANSWER_WITHIN, arriving.message()).await? {
        text.extend_from_slice(&part.data);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[test]
    fn a_call_that_is_not_answered_ends_in_time_and_one_whose_parts_are_taken_does_not_before_they_are_not() {
        let hangs = || pending::<std::result::Result<(), Status>>();
        let (within, runtime) = (Duration::from_millis(20), runtime().unwrap());
        let ended = |answered| matches!(answered, Err(RemoteError::Unreachable(why)) if why.contains("did not answer"));
        assert!(ended(runtime.block_on(answer(within, hangs()))));
        for is_sent in [false, true] {
            let (taken, progress) = watch::channel(());
            let kept = (!is_sent).then_some(taken);
            assert!(ended(runtime.block_on(answer_to_parts(within, hangs(), progress))));
            drop(kept);
        }
    }
}
