//! What a site may fetch: the plan and the model of a run that invites it, and nothing else.

use std::fs::File;

use common::{Digest, Refusal, SiteId};

use super::{Federation, io_refusal};

/// A file to be sent.
#[derive(Debug)]
pub struct Blob {
    /// It.
    pub file: File,
    /// Its length.
    pub bytes: u64,
}

impl Federation {
    /// The canonical bytes of a plan whose run invites the site.
    pub fn plan(&self, site: &SiteId, plan: Digest) -> Result<Vec<u8>, Refusal> {
        let live = self.live();
        let found = live.runs.iter().find(|run| run.record.plan_digest == plan && run.invites(site));
        found.map(|run| run.record.plan_bytes.clone()).ok_or(Refusal::UnknownBlob(plan))
    }

    /// The model that a run which invites the site is at: the open round's start, or the last model.
    pub fn blob(&self, site: &SiteId, blob: Digest) -> Result<Blob, Refusal> {
        let named = self.live().runs.iter().any(|run| run.invites(site) && run.run.model() == blob);
        if !named {
            return Err(Refusal::UnknownBlob(blob));
        }
        let opened = self.blobs.open_blob(blob).and_then(|file| Ok(Blob { bytes: file.metadata()?.len(), file }));
        opened.map_err(|error| io_refusal("opening a model", &error))
    }
}
