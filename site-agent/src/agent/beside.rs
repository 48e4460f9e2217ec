//! What is under way, with an ear on the aggregator: a transfer is no reason to miss that its run was paused or ended.

use std::future::Future;
use std::time::Duration;

use common::{Directive, Progress};

use super::Agent;
use crate::decide;
use crate::link::{Link, LinkError};

/// How a transfer ended.
#[derive(Debug)]
pub(super) enum Transfer<T> {
    /// All of it passed.
    Whole(T),
    /// Dropped, because this is asked for instead. What is on disk of it, here or there, is where it goes on.
    Dropped(Directive),
}

/// Asks what to do, beside a transfer that one directive began.
#[derive(Debug)]
pub(super) struct Ear {
    link: Link,
    progress: Progress,
    begun: Directive,
    every: Duration,
}

impl Agent {
    /// An ear for what is about to begin under this directive.
    pub(super) fn ear(&self, begun: &Directive) -> Ear {
        Ear {
            link: self.link.clone(),
            progress: self.progress(begun),
            begun: begun.clone(),
            every: decide::asks_again_after(self.config.report_every(), true),
        }
    }
}

impl Ear {
    /// Lets a transfer pass as long as it is wanted.
    pub(super) async fn beside<T>(
        self,
        transfer: impl Future<Output = Result<T, LinkError>>,
    ) -> Result<Transfer<T>, LinkError> {
        tokio::select! {
            biased;
            passed = transfer => passed.map(Transfer::Whole),
            told = self.until_unwanted() => Ok(Transfer::Dropped(told)),
        }
    }

    /// Ends when the aggregator asks for something else than what was begun. A question that it does not answer changes nothing: the transfer
    /// meets the same aggregator, and fails by itself if it must.
    async fn until_unwanted(mut self) -> Directive {
        loop {
            tokio::time::sleep(self.every).await;
            match self.link.report(self.progress.clone()).await {
                Ok(told) if !decide::is_wanted(&self.begun, &told) => {
                    tracing::info!("the transfer is no longer asked for; if it is again, it goes on from here");
                    return told;
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "no answer beside the transfer"),
            }
        }
    }
}
