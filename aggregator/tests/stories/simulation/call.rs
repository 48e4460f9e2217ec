//! What travels between a simulated site and the aggregator: the calls of the wire, as the domain knows them.

use aggregator::federation::UploadState;
use aggregator::store::UpdateKey;
use common::{Digest, Directive, Progress, Refusal, RoundNumber, SiteId, UpdateManifest};

/// What a site asks.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a call is made, passed on and gone")]
pub(crate) enum Call {
    Report(Progress),
    Begin(UpdateManifest),
    Chunk { key: UpdateKey, blob: Digest, offset: u64, data: Vec<u8> },
    Finish { key: UpdateKey, blob: Digest },
}

/// What it hears.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Directive(Directive),
    Upload(UploadState),
    Stored(Digest),
}

pub(crate) type Reply = Result<Answer, Refusal>;

/// The process died in the middle of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Died;

/// A round that was merged, as it is written down.
#[derive(Clone, Debug)]
pub(crate) struct Closed {
    pub(crate) round: RoundNumber,
    pub(crate) base: Digest,
    pub(crate) model: Digest,
    /// Who reported what.
    pub(crate) reports: Vec<(SiteId, Digest)>,
    /// Who is left out.
    pub(crate) left_out: Vec<SiteId>,
    /// The next model's values.
    pub(crate) values: Vec<f32>,
    /// The sums that it was made from, where they can be seen.
    pub(crate) sums: Option<Vec<i64>>,
}

/// An aggregator, of whatever kind, and what may happen to it.
pub(crate) trait Server {
    /// Answers a site's call; it may die of it.
    fn hear(&mut self, site: &SiteId, call: Call) -> Result<Reply, Died>;
    /// Time has passed.
    fn pass(&mut self, milliseconds: u64);
    /// Looks at the deadlines.
    fn tick(&mut self) -> Result<(), Died>;
    /// Notes the time that is left.
    fn note(&mut self);
    /// Merges what is frozen.
    fn merge(&mut self) -> Result<(), Died>;
    /// The process is killed at the `steps`th of the durable steps that it takes from now on.
    fn light_fuse(&mut self, steps: u32);
    /// It is killed where it stands, and started again.
    fn restart(&mut self);
    /// The disk changes a byte of an acknowledged update of the open round; says of which.
    fn rot(&mut self, chance: u64) -> Option<Digest>;
    /// The rounds that were merged, from the `skip`th on.
    fn closed(&self, skip: usize) -> Vec<Closed>;
    /// Whether the run is over, and its last model if it came to its end.
    fn over(&self) -> Option<Result<Digest, String>>;
    /// What it found wrong with itself.
    fn broken(&self) -> Option<String>;
}
