//! Why the aggregator says no. Each has a stable code, and a message that names the remedy.

use crate::holder::{Holder, Person};
use crate::ids::{Digest, RoundNumber, RunId, SiteId};
use crate::message::CLOCK_SKEW_S;

/// What is wrong with an update that cannot be one of its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateFault {
    /// Fewer or more bytes than the plan's tensors take.
    Length,
    /// A count that shares go by: of subjects, or of images.
    Share,
    /// More steps than a round has, or none.
    Steps,
    /// A meter that is no finite number.
    Meters,
    /// Heads that are not the run's.
    Heads,
    /// It does not begin with a header.
    Header,
    /// Tensors of other names, fewer or more.
    Names,
    /// Values of another type or encoding.
    Dtype,
    /// Tensors of other shapes.
    Shape,
    /// The plan's tensors in another order, or with something between them.
    Layout,
    /// A block that no encoder of the plan's encoding writes.
    Block,
    /// A value that is no finite number.
    NotFinite,
    /// A value that is too large to be merged.
    Magnitude,
    /// A delta that is longer than the plan permits.
    Norm,
}

/// A refusal, as both sides know it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The connection carries no client certificate.
    #[error(
        "this call needs a certificate: enrol first, a site with `site-agent enrol <invitation>`, a person with `aggregator enrol \
         <invitation>`"
    )]
    Unidentified,
    /// The certificate's holder may not do this.
    #[error("{} may not {deed}: that is for {may}", .who.told())]
    NotPermitted {
        /// Who the certificate says it is.
        who: Holder,
        /// What it wanted to do.
        deed: &'static str,
        /// Who may.
        may: String,
    },
    /// The certificate is for another site than the message speaks for.
    #[error("the certificate is {peer}'s, but the message speaks for {claimed}: a site speaks only for itself")]
    SpeaksForAnother {
        /// Who the certificate says it is.
        peer: SiteId,
        /// Who the message says it is.
        claimed: SiteId,
    },
    /// The certificate has been revoked.
    #[error("the certificate of {0} is revoked: ask the coordinator for a new invitation")]
    Revoked(SiteId),
    /// The certificate that a signed call brings does not count.
    #[error("the certificate of this call is refused ({0}): enrol again with a new invitation")]
    Certificate(String),
    /// A signature that does not hold, or that is not there.
    #[error(
        "the call is refused: {0}; what this site sent was changed on the way: tell hospital IT, whose proxy opens TLS. Nothing \
         of it was taken, and it is made again"
    )]
    Altered(&'static str),
    /// A signed call that was made before.
    #[error(
        "the call is refused: it was made before, and an agent makes each call once; something on the way repeats what this site \
         sends: tell hospital IT, whose proxy opens TLS. It was not carried out again"
    )]
    Replayed,
    /// A signed call of another time.
    #[error(
        "the call is refused: its clock is {} s {} the aggregator's, and {CLOCK_SKEW_S} s are permitted; set this machine's clock \
         by NTP. It is tried again", .ahead_s.unsigned_abs(), if *.ahead_s > 0 { "ahead of" } else { "behind" }
    )]
    Clock {
        /// Seconds that the caller's clock is ahead; below zero, behind.
        ahead_s: i64,
    },
    /// A signed call for an earlier start of the aggregator.
    #[error("the call was signed for another start of the aggregator: it is made again, by itself")]
    Incarnation,
    /// No place for one more connection of this site, or of anybody.
    #[error("all places for connections of this site are taken: it goes on by itself when one is free")]
    Crowded,
    /// A person's certificate has been revoked, or another one took its place.
    #[error("the certificate of {} is revoked: ask at the aggregator's machine for a new invitation", .0.told())]
    PersonRevoked(Person),
    /// What a person asks for cannot be done as asked.
    #[error("{0}")]
    Refused(String),
    /// The run does not invite this site.
    #[error("run {run} does not invite {site}: ask the coordinator to add it to the plan's `rounds.sites`")]
    NotInvited {
        /// The run.
        run: RunId,
        /// The site.
        site: SiteId,
    },
    /// No such run.
    #[error("there is no run {0} here: `aggregator status` lists the runs")]
    UnknownRun(RunId),
    /// Not the round that is open.
    #[error("round {asked} is not open: the open round is {open}; fetch the next assignment")]
    RoundNotOpen {
        /// The round of the message.
        asked: RoundNumber,
        /// The open round; 0 when none is.
        open: RoundNumber,
    },
    /// Trained under another plan.
    #[error("the update was trained under plan {found}, but the run's plan is {expected}: fetch the plan again")]
    PlanDiffers {
        /// The run's plan.
        expected: Digest,
        /// The update's plan.
        found: Digest,
    },
    /// Trained from another model.
    #[error("the update starts from model {found}, but the round starts from {expected}: fetch the model again")]
    BaseDiffers {
        /// The round's start.
        expected: Digest,
        /// The update's start.
        found: Digest,
    },
    /// Another update for this round is acknowledged already.
    #[error("{site} has already reported another update for round {round}: the first one counts")]
    Conflict {
        /// The site.
        site: SiteId,
        /// The round.
        round: RoundNumber,
    },
    /// An update that cannot be one of this plan.
    #[error("the update is refused: {1}; the round goes on without it, and the site takes part in the next one")]
    Update(UpdateFault, String),
    /// An update without its site's signature.
    #[error(
        "the update is refused: {0}; the agent signs with the key that it enrolled with: enrol again if that key was lost"
    )]
    Signature(&'static str),
    /// Scores that cannot be of the run's tasks.
    #[error("the scores are refused: {0}; use the same version of agent and aggregator")]
    Scores(String),
    /// A chunk out of place.
    #[error("chunk at offset {found}, but {expected} is next: ask for the upload's state and go on from there")]
    Offset {
        /// Where the next chunk belongs.
        expected: u64,
        /// Where this one wanted to go.
        found: u64,
    },
    /// The bytes do not have the digest that was announced.
    #[error("the upload's bytes have digest {found}, but {expected} was announced: the upload starts over")]
    Corrupt {
        /// What was announced.
        expected: Digest,
        /// What arrived.
        found: Digest,
    },
    /// A token that is unknown, used, expired, or bound to another site.
    #[error("the invitation is refused ({0}): ask the coordinator for a new one, with `aggregator invite <site>`")]
    Token(String),
    /// A blob that this site may not have, or that is not here.
    #[error("no blob {0} for this site: fetch the next assignment")]
    UnknownBlob(Digest),
    /// A message that is not well formed.
    #[error("the message is not understood: {0}; use the same version of agent and aggregator")]
    Malformed(String),
    /// The aggregator's disk has no room.
    #[error(
        "the aggregator's disk is full: nothing was acknowledged; it goes on by itself when the coordinator frees room or \
         raises `max_spool_bytes`"
    )]
    DiskFull,
    /// The aggregator is busy with this very thing, or failed; then its log has the cause.
    #[error("the aggregator could not do this now: try again; if that goes on, its log names the cause")]
    Unavailable,
}

impl Refusal {
    /// That a holder's certificate is revoked.
    pub fn revoked(holder: &Holder) -> Self {
        match holder {
            Holder::Site(site) => Self::Revoked(site.clone()),
            Holder::Person(person) => Self::PersonRevoked(person.clone()),
        }
    }

    /// The stable code of a refusal, for scripts and for the wire.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unidentified => "unidentified",
            Self::SpeaksForAnother { .. } => "speaks-for-another",
            Self::Certificate(_) => "certificate",
            Self::Altered(_) => "altered",
            Self::Replayed => "replayed",
            Self::Clock { .. } => "clock",
            Self::Incarnation => "incarnation",
            Self::Crowded => "crowded",
            Self::Revoked(_) | Self::PersonRevoked(_) => "revoked",
            Self::NotPermitted { .. } => "not-permitted",
            Self::Refused(_) => "refused",
            Self::NotInvited { .. } => "not-invited",
            Self::UnknownRun(_) => "unknown-run",
            Self::RoundNotOpen { .. } => "round-not-open",
            Self::PlanDiffers { .. } => "plan-differs",
            Self::BaseDiffers { .. } => "base-differs",
            Self::Conflict { .. } => "conflict",
            Self::Update(fault, _) => fault.code(),
            Self::Signature(_) => "signature",
            Self::Scores(_) => "scores",
            Self::Offset { .. } => "offset",
            Self::Corrupt { .. } => "corrupt",
            Self::Token(_) => "token",
            Self::UnknownBlob(_) => "unknown-blob",
            Self::Malformed(_) => "malformed",
            Self::DiskFull => "disk-full",
            Self::Unavailable => "unavailable",
        }
    }

    /// The code of all refusals after which a caller does the same: their own one, but for updates, of which no fault can be
    /// mended by sending again. It is what travels as the refusal, so that an agent need not know every fault there is.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Update(..) => "update",
            other => other.code(),
        }
    }

    /// Whether the same call may succeed later with nothing changed by the caller.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::DiskFull
                | Self::Unavailable
                | Self::Certificate(_)
                | Self::Altered(_)
                | Self::Replayed
                | Self::Clock { .. }
                | Self::Incarnation
                | Self::Crowded
        )
    }
}

impl UpdateFault {
    fn code(self) -> &'static str {
        match self {
            Self::Length => "update-length",
            Self::Share => "update-share",
            Self::Steps => "update-steps",
            Self::Meters => "update-meters",
            Self::Heads => "update-heads",
            Self::Header => "update-header",
            Self::Names => "update-names",
            Self::Dtype => "update-dtype",
            Self::Shape => "update-shape",
            Self::Layout => "update-layout",
            Self::Block => "update-block",
            Self::NotFinite => "update-not-finite",
            Self::Magnitude => "update-magnitude",
            Self::Norm => "update-norm",
        }
    }
}
