//! An aggregator that lies: the real services over the real TLS, whose word on what to train is changed on its way to the site. It has
//! the federation's own keys, as whoever broke into the aggregator has.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use aggregator::download;
use aggregator::server::SiteCalls;
use common::{Assignment, Directive as Told};
use proto::wire;
use proto::wire::federation_server::Federation as Wire;
use proto::wire::report_reply::Directive;
use tonic::{Request, Response, Status};

use crate::tap::{self, Heard, Listening};

/// What is told instead of an assignment.
type Lie = Arc<dyn Fn(Assignment) -> Told + Send + Sync>;

/// Honest calls, but for what to train.
struct Liar {
    honest: SiteCalls,
    lie: Lie,
}

impl fmt::Debug for Liar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Liar")
    }
}

/// Serves a federation's state folder at `address`, and tells sites what `lie` makes of what they are to train.
pub fn listen(
    state: &Path,
    address: &str,
    lie: impl Fn(Assignment) -> Told + Send + Sync + 'static,
) -> anyhow::Result<Listening> {
    let lie: Lie = Arc::new(lie);
    tap::listen_through(state, address, &Heard::default(), |honest| Liar { honest, lie })
}

#[tonic::async_trait]
impl Wire for Liar {
    async fn report(&self, request: Request<wire::ReportRequest>) -> Result<Response<wire::ReportReply>, Status> {
        let mut reply = self.honest.report(request).await?.into_inner();
        if let Some(Directive::Train(work)) = reply.directive {
            let truth = Assignment::try_from(work).map_err(|error| Status::internal(error.to_string()))?;
            reply.directive = wire::ReportReply::from((self.lie)(truth)).directive;
        }
        Ok(Response::new(reply))
    }

    async fn get_plan(&self, request: Request<wire::GetPlanRequest>) -> Result<Response<wire::GetPlanReply>, Status> {
        self.honest.get_plan(request).await
    }

    type DownloadStream = download::Nothing;

    async fn download(
        &self,
        request: Request<wire::DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        self.honest.download(request).await
    }

    async fn begin_upload(
        &self,
        request: Request<wire::UpdateManifest>,
    ) -> Result<Response<wire::UploadState>, Status> {
        self.honest.begin_upload(request).await
    }

    async fn upload_chunk(
        &self,
        request: Request<wire::UploadChunkRequest>,
    ) -> Result<Response<wire::UploadState>, Status> {
        self.honest.upload_chunk(request).await
    }

    async fn finish_upload(
        &self,
        request: Request<wire::FinishUploadRequest>,
    ) -> Result<Response<wire::FinishUploadReply>, Status> {
        self.honest.finish_upload(request).await
    }

    async fn renew(&self, request: Request<wire::RenewRequest>) -> Result<Response<wire::RenewReply>, Status> {
        self.honest.renew(request).await
    }

    async fn report_scores(
        &self,
        request: Request<wire::ScoresRequest>,
    ) -> Result<Response<wire::ScoresReply>, Status> {
        self.honest.report_scores(request).await
    }
}
