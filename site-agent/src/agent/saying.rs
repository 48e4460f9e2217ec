//! What the agent says of itself in its log: each thing once, not with every report. What varies in it is a field of its own.

use common::policy::Hours;
use common::{Digest, RunId};

use super::Agent;

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// There is nothing to do, as the aggregator tells why.
    Waits { because: String },
    /// Something failed that may pass.
    TriesAgain { error: String },
    /// A person is to read a plan.
    AwaitsApproval(Digest),
    /// A run is over, and none of its plans was approved here.
    NotFetched { run: RunId },
    /// A person stopped it.
    Stopped,
    /// Its hours are over.
    OutsideHours(Option<Hours>),
}

impl Said {
    fn log(&self) {
        match self {
            Self::Waits { because } => tracing::info!(because, "waiting"),
            Self::TriesAgain { error } => tracing::info!(error, "trying again"),
            Self::AwaitsApproval(plan) => tracing::info!(
                %plan,
                "a plan awaits the approval of a person at this site: read it with `site-agent plans`, then `site-agent approve`"
            ),
            Self::NotFetched { run } => tracing::info!(
                %run,
                "the run is over, and no plan of it that is here was approved: its last model is not fetched"
            ),
            Self::Stopped => tracing::info!(
                "stopped by a person at this site: nothing trains and nothing is sent until `site-agent resume`"
            ),
            Self::OutsideHours(hours) => {
                let hours = hours.map(|hours| hours.to_string());
                tracing::info!(hours, "outside this site's hours: what was begun goes on when they begin");
            }
        }
    }
}

impl Agent {
    pub(super) fn say(&mut self, what: Said) {
        if self.said.as_ref() != Some(&what) {
            what.log();
            self.said = Some(what);
        }
    }
}
