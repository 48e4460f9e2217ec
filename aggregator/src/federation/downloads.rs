//! What a site may fetch: the plan and the model of a run that invites it, and nothing else.

use std::fs::File;

use common::signed::PlanSignature;
use common::{Digest, Refusal, SiteId};

use super::{Federation, io_refusal, refusal};
use crate::run::Run;

/// A file to be sent.
#[derive(Debug)]
pub struct Blob {
    /// What its name says of its bytes.
    pub digest: Digest,
    /// It.
    pub file: File,
    /// Its length.
    pub bytes: u64,
    /// Another number where it may have other bytes than before: it was damaged, and is not any more.
    pub version: u64,
}

/// A plan as a site gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handout {
    /// Its canonical bytes.
    pub canonical: Vec<u8>,
    /// Coordinators' hands under it.
    pub signatures: Vec<PlanSignature>,
}

impl Federation {
    /// A plan whose run invites the site, and has the signatures that it needs.
    pub fn plan(&self, site: &SiteId, plan: Digest) -> Result<Handout, Refusal> {
        let live = self.live();
        let is_it = |run: &&super::LiveRun| run.record.plan_digest == plan && run.invites(site);
        let begun = |run: &&super::LiveRun| !matches!(run.run, Run::Awaiting { .. });
        let found = live.runs.iter().filter(begun).find(is_it);
        let (run, canonical) =
            found.map(|run| (run.id().clone(), run.record.plan_bytes.clone())).ok_or(Refusal::UnknownBlob(plan))?;
        drop(live);
        Ok(Handout { canonical, signatures: self.handed_out(&run).map_err(refusal)? })
    }

    /// The model that a run which invites the site is at, the open round's start or the last model, to be sent from an offset on.
    /// One that cannot be had falls into doubt: a site that goes on from where it was cut off never asks from the beginning again.
    pub fn blob(&self, site: &SiteId, blob: Digest, offset: u64) -> Result<Blob, Refusal> {
        let is_it = |run: &&super::LiveRun| run.invites(site) && run.run.model() == blob;
        let length = self.live().runs.iter().find(is_it).map(|run| run.layout.bytes());
        let length = length.ok_or(Refusal::UnknownBlob(blob))?;
        if offset == 0 {
            self.fetches(site, blob);
        }
        if self.is_damaged(blob) {
            return Err(Refusal::Unavailable);
        }
        let version = self.times_mended();
        let opened = self
            .blobs
            .open_blob(blob)
            .and_then(|file| Ok(Blob { digest: blob, bytes: file.metadata()?.len(), file, version }));
        match opened {
            Ok(opened) if opened.bytes == length => Ok(opened),
            Ok(Blob { bytes, .. }) => {
                tracing::error!(model = %blob, bytes, expected = length, "a model has another length than it had");
                self.doubt(blob);
                Err(Refusal::Unavailable)
            }
            Err(error) => {
                self.doubt(blob);
                Err(io_refusal("opening a model", &error))
            }
        }
    }
}
