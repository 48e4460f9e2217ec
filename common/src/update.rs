//! One site's contribution to one round, before and after the privacy pipeline.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, RoundNumber, RunId, SiteId};
use crate::signed::Attestation;
use crate::task::TaskName;
use crate::weights::NamedTensors;

/// What local training made: the delta and the scalars beside it. It has not passed the pipeline, and no type of the
/// wire accepts it.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// The run.
    pub run: RunId,
    /// The round.
    pub round: RoundNumber,
    /// Who trained.
    pub site: SiteId,
    /// The plan it was trained under.
    pub plan: Digest,
    /// The model it started from.
    pub base: Digest,
    /// Subjects trained on.
    pub subjects: u32,
    /// The heads in the delta, each with the subjects that its task was trained on; none in a run that pretrains.
    pub heads: BTreeMap<TaskName, u32>,
    /// Images that it trained from.
    pub examples: u32,
    /// Optimizer steps taken.
    pub steps: u32,
    /// How training went.
    pub meters: Meters,
    /// Trained weights minus the round's start.
    pub delta: NamedTensors,
}

/// Scalars of one site's training in one round: means over its steps. They are all, beside the delta, that leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meters {
    /// DINO loss, where ln K means the uniform solution; of a run that finetunes, the mean loss of its tasks, and the others
    /// are 0.
    pub loss: f64,
    /// Entropy of the teacher's sharpened output, in nats, at most ln K.
    pub teacher_entropy: f64,
    /// Entropy of the batch mean of the teacher's output; near 0 means all images share one prototype.
    pub batch_entropy: f64,
    /// RankMe of the teacher's CLS features (Garrido et al. 2023) over equally many frames at each site; 0 at a site that has fewer.
    pub rank_me: f64,
}

/// Largest magnitude of what is measured: of a loss in nats, of a rank, of millilitres or milliseconds.
pub const MOST_MEASURED: f64 = 1e9;

/// Whether a number can have been measured.
pub fn can_be(measured: f64) -> bool {
    measured.abs() <= MOST_MEASURED
}

impl Meters {
    /// Whether all are numbers that can be: finite, and so far from the largest that differences and means of them are as well.
    pub fn can_be(&self) -> bool {
        [self.loss, self.teacher_entropy, self.batch_entropy, self.rank_me].into_iter().all(can_be)
    }
}

/// What is said of an update before its bytes are sent; all that the aggregator stores beside the blob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateManifest {
    /// The run.
    pub run: RunId,
    /// The round.
    pub round: RoundNumber,
    /// Who trained. On the wire only an echo: the peer certificate decides.
    pub site: SiteId,
    /// The plan it was trained under.
    pub plan: Digest,
    /// The model it started from.
    pub base: Digest,
    /// SHA-256 of the delta's file, in the plan's encoding.
    pub blob: Digest,
    /// Length of that file.
    pub bytes: u64,
    /// Subjects trained on, rounded down to a multiple of [`SUBJECTS_ROUNDED_TO`](crate::privacy::SUBJECTS_ROUNDED_TO).
    pub subjects: u32,
    /// The heads in the delta, each with the subjects that its task was trained on, rounded likewise; none in a run that
    /// pretrains.
    #[serde(default)]
    pub heads: BTreeMap<TaskName, u32>,
    /// Images that it trained from, rounded likewise; 0 unless the plan counts shares by them.
    #[serde(default)]
    pub examples: u32,
    /// Optimizer steps taken.
    pub steps: u32,
    /// How training went.
    pub meters: Meters,
    /// The site's hand under all of this; every update of an enrolled site has it.
    #[serde(default)]
    pub attestation: Option<Attestation>,
}

impl UpdateManifest {
    /// The tasks whose heads are in the delta.
    pub fn tasks(&self) -> BTreeSet<TaskName> {
        self.heads.keys().cloned().collect()
    }
}

/// An update that passed the privacy pipeline. Only [`crate::privacy::Pipeline::seal`] builds one.
#[derive(Clone, Debug, PartialEq)]
pub struct SealedUpdate {
    pub(crate) manifest: UpdateManifest,
    pub(crate) blob: Vec<u8>,
    pub(crate) residual: Option<NamedTensors>,
}

impl SealedUpdate {
    /// What is said of it.
    pub fn manifest(&self) -> &UpdateManifest {
        &self.manifest
    }

    /// The same with the site's hand under it.
    pub fn attested(mut self, attestation: Attestation) -> Self {
        self.manifest.attestation = Some(attestation);
        self
    }

    /// The delta's file, in the plan's encoding.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// What the encoding left out, to be added to the site's next delta; none if nothing is owed.
    pub fn residual(&self) -> Option<&NamedTensors> {
        self.residual.as_ref()
    }
}
