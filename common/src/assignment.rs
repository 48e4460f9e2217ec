//! What the aggregator tells a site to do next, and what a site tells of how it goes.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, RoundNumber, RunId};
use crate::signed::{Lineage, SignedHead};

/// The answer to a site's report.
#[derive(Clone, Debug, PartialEq)]
pub enum Directive {
    /// Nothing to do; ask again.
    Wait {
        /// Why, for a person who watches the agent.
        because: String,
    },
    /// Nothing to do, because a run failed or was aborted.
    Failed {
        /// The run.
        run: RunId,
        /// Which run, and why, for a person who watches the agent.
        because: String,
    },
    /// Train this round, unless it is done already.
    Train(Assignment),
    /// The run is over.
    Finished {
        /// The run.
        run: RunId,
        /// Its last model.
        model: Digest,
        /// Length of the model's file.
        bytes: u64,
    },
}

/// One round's work for one site. The same for every site of the cohort but for the time left, and for who is still awaited.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// The run.
    pub run: RunId,
    /// The round.
    pub round: RoundNumber,
    /// The plan to train under.
    pub plan: Digest,
    /// The model to start from.
    pub base: Digest,
    /// Length of that model's file.
    pub base_bytes: u64,
    /// Steps of the global clock before this round.
    pub first_step: u64,
    /// Time until the round closes without this site.
    pub time_left: Duration,
    /// The aggregator has no update of this site in this round, and takes one. Not said by an aggregator of before this was.
    pub awaited: bool,
    /// Where the model comes from, in the aggregator's hand.
    pub lineage: Option<Box<Lineage>>,
    /// The head of the aggregator's ledger, in the aggregator's hand.
    pub ledger: Option<Box<SignedHead>>,
}

/// How a site is getting on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The run and round it works on, if any.
    pub work: Option<(RunId, RoundNumber)>,
    /// What it is doing.
    pub phase: Phase,
    /// Units done of the phase (optimizer steps, or bytes).
    pub done: u64,
    /// Units of the phase in all; 0 if it has none.
    pub total: u64,
    /// Latest loss, while training.
    pub loss: Option<f64>,
    /// Latest teacher entropy in nats, while training.
    pub teacher_entropy: Option<f64>,
    /// Expected time to the end of the phase.
    pub eta: Option<Duration>,
}

impl Progress {
    /// A site with nothing to do.
    pub fn idle() -> Self {
        Self { work: None, phase: Phase::Idle, done: 0, total: 0, loss: None, teacher_entropy: None, eta: None }
    }
}

/// What a site is doing. A site has joined a round when it reports `Fetching`, `Indexing`, `Training` or `Sending` with
/// that round as its work; a site that merely asks, awaits approval or its hours has not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Waiting for a round.
    Idle,
    /// It knows the plan, and a person at the site has not approved it yet. It has not joined the round.
    AwaitingApproval,
    /// Fetching the plan and the model.
    Fetching,
    /// Its own policy lets it use its machine at other hours. It stays in a round that it has joined.
    OutsideHours,
    /// Reading its images onto the plan's grid.
    Indexing,
    /// Training.
    Training,
    /// Sending the update.
    Sending,
    /// Its update is acknowledged.
    Reported,
    /// It will not take part in this round, and says why.
    Declined(Decline),
}

/// Why a site declines a round. A closed list: free text could carry what must not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decline {
    /// The site has not approved the plan.
    PlanNotApproved,
    /// The plan's bytes do not have the digest that was announced.
    PlanDiffers,
    /// The site has too few usable images or subjects.
    TooFewImages,
    /// More of its images were unreadable than the site tolerates.
    TooManySkipped,
    /// Training failed (device, memory, divergence).
    TrainingFailed,
    /// The update did not pass the site's privacy pipeline.
    Withheld,
    /// The site's disk is full.
    DiskFull,
    /// The site has labels for none of the run's tasks, or they cannot be used.
    NoLabels,
    /// The site's policy does not permit what the run is for.
    PolicyPurposes,
    /// The site's policy does not permit one of the run's tasks.
    PolicyTasks,
    /// The site's policy asks for larger batches.
    PolicyBatchSize,
    /// The site's policy asks for more steps a round.
    PolicySteps,
    /// The site's policy keeps one of the run's tensors at the site.
    PolicyTensors,
    /// The site has begun as many rounds today as its policy permits.
    PolicyRoundsADay,
    /// Fewer coordinators signed the plan than the site's policy, or the plan itself, asks for.
    PolicySignatures,
    /// A person at the site stopped its agent.
    Stopped,
    /// The model's lineage does not hold.
    Lineage,
    /// The site's policy asks for more noise on updates.
    PolicyNoise,
    /// Fewer subjects would shape the update, or a head of it, than the site's policy asks for.
    PolicySubjects,
    /// The plan's tensors are not those of a network that the site's program has.
    Architecture,
}

impl fmt::Display for Decline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PlanNotApproved => "the site has not approved the plan",
            Self::PlanDiffers => "the plan differs from the announced digest",
            Self::TooFewImages => "too few usable images",
            Self::TooManySkipped => "more unreadable images than the site tolerates",
            Self::TrainingFailed => "training failed",
            Self::Withheld => "the site's privacy pipeline withheld the update",
            Self::DiskFull => "the site's disk is full",
            Self::NoLabels => "no usable labels for any task of the run",
            Self::PolicyPurposes => "the site's policy does not permit what the run is for (purposes)",
            Self::PolicyTasks => "the site's policy does not permit one of the run's tasks (tasks)",
            Self::PolicyBatchSize => "the site's policy asks for larger batches (min_batch_size)",
            Self::PolicySteps => "the site's policy asks for more steps a round (min_steps)",
            Self::PolicyTensors => "the site's policy keeps one of the run's tensors (tensors)",
            Self::PolicyRoundsADay => "the site's policy permits no more rounds today (max_rounds_a_day)",
            Self::PolicyNoise => "the site's policy asks for more noise on updates (min_noise_multiplier)",
            Self::PolicySignatures => "the site asks for more coordinators' signatures under the plan (signatures)",
            Self::PolicySubjects => "the site's policy asks for more subjects behind an update (min_subjects)",
            Self::Architecture => "the plan's tensors are not those of a network that the site's program has",
            Self::Stopped => "a person at the site stopped its agent",
            Self::Lineage => "the model's lineage does not hold at this site: see its log",
        })
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle => f.write_str("idle"),
            Self::AwaitingApproval => f.write_str("awaiting approval"),
            Self::Fetching => f.write_str("fetching"),
            Self::OutsideHours => f.write_str("outside the site's hours"),
            Self::Indexing => f.write_str("indexing"),
            Self::Training => f.write_str("training"),
            Self::Sending => f.write_str("sending"),
            Self::Reported => f.write_str("reported"),
            Self::Declined(reason) => write!(f, "declined: {reason}"),
        }
    }
}
