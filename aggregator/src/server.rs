//! The wire's side of a federation: identity, conversion, question, answer. It decides nothing.
//!
//! Every call runs off the event loop, because every call may wait for the disk.

use std::sync::Arc;

use bytes::Bytes;
use certs::authority::Authority;
use common::enrolment::Enrolling;
use common::{Digest, Directive, Progress, Refusal, RoundNumber, RunId, SiteId, UpdateManifest};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use proto::convert::{self, Announced, ModelScores, digest_bytes};
use proto::refusal::{malformed, status};
use proto::wire::enrolment_server::Enrolment;
use proto::wire::federation_server::Federation as Wire;
use proto::{CHUNK_BYTES, wire};
use tokio::task::{JoinError, spawn_blocking};
use tonic::{Request, Response, Status};

use crate::door::TurnedAway;
use crate::download::{self, Downloads};
use crate::federation::{Federation, Handout, UploadState};
use crate::identity::{self, Caller};
use crate::store::UpdateKey;

/// Refuses whoever shows no site's certificate, before a byte of the call is read.
pub fn identified(request: Request<()>) -> Result<Request<()>, Status> {
    identity::caller(&request).map_err(refused)?;
    Ok(request)
}

/// The calls that demand a site's certificate.
#[derive(Clone, Debug)]
pub struct SiteCalls {
    federation: Arc<Federation>,
    authority: Arc<Authority>,
    /// What the authority's certificates are now.
    anchors: Digest,
    downloads: Downloads,
}

/// The call that demands none.
#[derive(Clone, Debug)]
pub struct EnrolmentCalls {
    federation: Arc<Federation>,
    authority: Arc<Authority>,
}

impl SiteCalls {
    /// Calls on this federation, whose certificates are renewed by this authority.
    pub fn new(federation: Arc<Federation>, authority: Arc<Authority>) -> Self {
        let anchors = authority.anchors();
        Self { federation, authority, anchors, downloads: Downloads::default() }
    }

    /// Who calls, as the certificate says, if that still counts.
    fn caller<T>(&self, request: &Request<T>) -> Result<SiteId, Status> {
        Ok(self.identified(request)?.site)
    }

    /// The same with the certificate's serial number.
    fn identified<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let caller = identity::caller(request).map_err(refused)?;
        self.federation.admits(&caller.site, &caller.serial).map_err(|refusal| {
            self.federation.turned_away(TurnedAway::without_standing((&caller.site).into(), &refusal));
            refused(refusal)
        })?;
        Ok(caller)
    }

    /// A site speaks for itself alone; who speaks for another is in the ledger.
    fn require_itself(&self, peer: &SiteId, claimed: SiteId) -> Result<(), Status> {
        if *peer == claimed {
            return Ok(());
        }
        tracing::warn!(%peer, %claimed, "a site spoke for another");
        let refusal = Refusal::SpeaksForAnother { peer: peer.clone(), claimed };
        let (who, deed, code) = (Some(peer.into()), "speak for another site", refusal.code());
        self.federation.turned_away(TurnedAway::Calling { who, deed, code });
        Err(refused(refusal))
    }

    /// Asks the federation, off the event loop.
    async fn ask<T, F>(&self, question: F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: FnOnce(&Federation) -> Result<T, Refusal> + Send + 'static,
    {
        let federation = Arc::clone(&self.federation);
        off_the_loop(move || question(&federation)).await
    }

    fn upload_state(&self, state: UploadState) -> wire::UploadState {
        let UploadState { next_offset, acknowledged } = state;
        wire::UploadState { next_offset, acknowledged, chunk_bytes: self.federation.chunk_bytes() }
    }
}

impl EnrolmentCalls {
    /// Enrolments into this federation, under this authority.
    pub fn new(federation: Arc<Federation>, authority: Arc<Authority>) -> Self {
        Self { federation, authority }
    }
}

#[tonic::async_trait]
impl Enrolment for EnrolmentCalls {
    async fn enrol(&self, request: Request<wire::EnrolRequest>) -> Result<Response<wire::EnrolReply>, Status> {
        let asked = Enrolling::try_from(request.into_inner()).map_err(unclear)?;
        let (federation, authority) = (Arc::clone(&self.federation), Arc::clone(&self.authority));
        let welcome = off_the_loop(move || federation.enrol(&authority, &asked)).await?;
        Ok(Response::new(welcome.into()))
    }
}

#[tonic::async_trait]
impl Wire for SiteCalls {
    async fn report(&self, request: Request<wire::ReportRequest>) -> Result<Response<wire::ReportReply>, Status> {
        let Caller { site: caller, serial } = self.identified(&request)?;
        let Announced { site, value } = Announced::<Progress>::try_from(request.into_inner()).map_err(unclear)?;
        self.require_itself(&caller, site)?;
        let itself = caller.clone();
        let directive: Directive = self.ask(move |federation| federation.report(&caller, &value)).await?;
        let knows = self.federation.admitted().borrow().anchors(&itself, &serial);
        // It learns of a CA that takes the place of another by renewing its certificate.
        let renew = knows.is_some_and(|anchors| anchors != self.anchors);
        Ok(Response::new(wire::ReportReply { renew, ..directive.into() }))
    }

    async fn get_plan(&self, request: Request<wire::GetPlanRequest>) -> Result<Response<wire::GetPlanReply>, Status> {
        let caller = self.caller(&request)?;
        let plan = convert::digest("GetPlanRequest", "plan", &request.get_ref().plan).map_err(unclear)?;
        let Handout { canonical, signatures } = self.ask(move |federation| federation.plan(&caller, plan)).await?;
        let signatures = signatures.into_iter().map(wire::PlanSignature::from).collect();
        Ok(Response::new(wire::GetPlanReply { canonical: canonical.into(), signatures }))
    }

    type DownloadStream = download::Nothing;

    async fn download(
        &self,
        request: Request<wire::DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let caller = self.caller(&request)?;
        let wire::DownloadRequest { blob, offset, end } = request.into_inner();
        let digest = convert::digest("DownloadRequest", "blob", &blob).map_err(unclear)?;
        let blob = self.ask(move |federation| federation.blob(&caller, digest, offset)).await?;
        let end = if end == 0 { blob.bytes } else { end };
        if offset > end || end > blob.bytes {
            return Err(refused(Refusal::Offset { expected: blob.bytes, found: offset.max(end) }));
        }
        let federation = Arc::clone(&self.federation);
        Ok(download::handed(self.downloads.begin(blob, offset..end, move || federation.doubt(digest))))
    }

    async fn begin_upload(
        &self,
        request: Request<wire::UpdateManifest>,
    ) -> Result<Response<wire::UploadState>, Status> {
        let caller = self.caller(&request)?;
        let manifest = UpdateManifest::try_from(request.into_inner()).map_err(unclear)?;
        self.require_itself(&caller, manifest.site.clone())?;
        let state = self.ask(move |federation| federation.begin_upload(&caller, manifest)).await?;
        Ok(Response::new(self.upload_state(state)))
    }

    async fn upload_chunk(
        &self,
        request: Request<wire::UploadChunkRequest>,
    ) -> Result<Response<wire::UploadState>, Status> {
        let caller = self.caller(&request)?;
        let wire::UploadChunkRequest { run, round, blob, offset, data } = request.into_inner();
        let (key, blob) = upload("UploadChunkRequest", caller, &run, round, &blob)?;
        if data.len() > CHUNK_BYTES {
            let why = format!("a chunk of {} bytes: at most {CHUNK_BYTES} are taken", data.len());
            return Err(refused(Refusal::Malformed(why)));
        }
        let state = self.ask(move |federation| federation.upload_chunk(&key, blob, offset, &data)).await?;
        Ok(Response::new(self.upload_state(state)))
    }

    async fn finish_upload(
        &self,
        request: Request<wire::FinishUploadRequest>,
    ) -> Result<Response<wire::FinishUploadReply>, Status> {
        let caller = self.caller(&request)?;
        let wire::FinishUploadRequest { run, round, blob } = request.into_inner();
        let (key, blob) = upload("FinishUploadRequest", caller, &run, round, &blob)?;
        let stored = self.ask(move |federation| federation.finish_upload(&key, blob)).await?;
        Ok(Response::new(wire::FinishUploadReply { blob: digest_bytes(stored) }))
    }

    async fn renew(&self, request: Request<wire::RenewRequest>) -> Result<Response<wire::RenewReply>, Status> {
        let site = self.caller(&request)?;
        let Caller { serial, .. } = identity::caller(&request).map_err(refused)?;
        let (authority, csr_pem) = (Arc::clone(&self.authority), request.into_inner().csr_pem);
        let issued = self.ask(move |federation| federation.renew(&authority, &site.into(), &serial, &csr_pem)).await?;
        let certificate_pem = issued.certificate_pem;
        let authority_pem = self.authority.anchors_pem();
        Ok(Response::new(wire::RenewReply { certificate_pem, authority_pem }))
    }

    async fn report_scores(
        &self,
        request: Request<wire::ScoresRequest>,
    ) -> Result<Response<wire::ScoresReply>, Status> {
        let caller = self.caller(&request)?;
        let Announced { site, value } = Announced::<ModelScores>::try_from(request.into_inner()).map_err(unclear)?;
        self.require_itself(&caller, site)?;
        let ModelScores { run, model, scores } = value;
        self.ask(move |federation| federation.report_scores(&caller, &run, model, &scores)).await?;
        Ok(Response::new(wire::ScoresReply {}))
    }
}

/// Which update a call speaks of: the caller's own, never another's.
fn upload(
    message: &'static str,
    site: SiteId,
    run: &str,
    round: u32,
    blob: &Bytes,
) -> Result<(UpdateKey, Digest), Status> {
    let run: RunId = convert::run(message, run).map_err(unclear)?;
    let blob = convert::digest(message, "blob", blob).map_err(unclear)?;
    Ok((UpdateKey { run, round: RoundNumber(round), site }, blob))
}

pub(crate) async fn off_the_loop<T: Send + 'static>(
    question: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Status> {
    answered(spawn_blocking(question).await)
}

/// What a question came to that was asked off the event loop.
pub(crate) fn answered<T>(asked: Result<Result<T, Refusal>, JoinError>) -> Result<T, Status> {
    match asked {
        Ok(answer) => answer.map_err(refused),
        Err(panicked) => {
            tracing::error!(%panicked, "a call ended in a panic");
            Err(refused(Refusal::Unavailable))
        }
    }
}

pub(crate) fn refused(refusal: Refusal) -> Status {
    tracing::debug!(code = refusal.code(), %refusal, "refused");
    status(&refusal)
}

/// A status as it stands behind an answer's body.
pub(crate) fn trailers(status: Status) -> HeaderMap {
    let mut headers = status.into_http::<()>().into_parts().0.headers;
    headers.remove(CONTENT_TYPE);
    headers
}

pub(crate) fn unclear(error: proto::Malformed) -> Status {
    refused(malformed(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_without_a_certificate_is_refused_before_its_message_is_read() {
        let refusal = identified(Request::new(())).unwrap_err();
        assert_eq!(proto::refusal::code(&refusal), Some("unidentified"));
    }
}
