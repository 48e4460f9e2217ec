//! Merging a round's updates into the next model, from files to a file.
//!
//! Updates and models are files of one [`Layout`]; they are read a tile at a time, the same tile of
//! every site, so that memory does not grow with the model or with the sites. Which rule merges is the plan's choice.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;

use common::fixed_point::FixedPointError;
use common::plan::Strategy;
use common::share::Share;
use common::{Digest, SiteId};
use serde::{Deserialize, Serialize};

use crate::layout::Layout;

pub mod fedavg;

/// One site's delta, as it is stored.
#[derive(Debug)]
pub struct Contribution {
    /// Its file.
    pub file: File,
    /// The digest that its bytes had when they were acknowledged.
    pub digest: Digest,
    /// How much it counts.
    pub share: Share,
}

/// What is merged into what.
#[derive(Debug)]
pub struct Merge<'a> {
    /// Layout of every file here.
    pub layout: &'a Layout,
    /// The model that the round started from.
    pub base: &'a File,
    /// The digest of that file.
    pub base_digest: Digest,
    /// The deltas, one or more.
    pub contributions: &'a BTreeMap<SiteId, Contribution>,
}

/// What came of a merge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Merged {
    /// Digest of the next model's file.
    pub model: Digest,
    /// L2 norm of the merged delta, over all tensors.
    pub norm: f64,
    /// How each site went along.
    pub sites: BTreeMap<SiteId, Drift>,
}

/// How far one site moved, and whether with the others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// Its share.
    pub share: Share,
    /// Its share as a fraction of all.
    pub fraction: f64,
    /// L2 norm of its delta, over all tensors.
    pub norm: f64,
    /// Cosine of its delta to the merged delta; 0 if either is 0.
    pub cosine: f64,
}

/// What became of a stored file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It is gone.
    #[error("its file {0} is gone")]
    Gone(Digest),
    /// It has other bytes.
    #[error("its file {expected} has digest {found} now")]
    Changed {
        /// What it had when it was stored.
        expected: Digest,
        /// What it has.
        found: Digest,
    },
    /// It is shorter than its tensors.
    #[error("its file {0} was cut short")]
    Short(Digest),
}

/// Why updates were not merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// The disk said no.
    #[error("{what}: {source}; see to the disk below the state folder, and the merge goes on")]
    Io {
        /// What was being read or written.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The model that the round starts from no longer has the bytes that were stored.
    #[error("the round's first model is damaged: {0}; restore that blob from a backup, and the merge goes on")]
    Base(Damage),
    /// A site's update no longer has the bytes that were stored.
    #[error("the update of {site} is damaged: {damage}")]
    Update {
        /// Whose.
        site: SiteId,
        /// What is wrong.
        damage: Damage,
    },
    /// Values that the sum has no room for.
    #[error("the update of {site} cannot be merged: {source}")]
    Value {
        /// Whose.
        site: SiteId,
        /// Why.
        source: FixedPointError,
    },
}

/// Merges by the plan's rule, and writes the next model to `out`.
pub fn merge(strategy: Strategy, merge: &Merge<'_>, out: &mut File) -> Result<Merged, MergeError> {
    match strategy {
        Strategy::FedAvg => fedavg::merge(merge, out),
    }
}
