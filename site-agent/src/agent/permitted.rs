//! What this site permits the agent at this moment: its policy, its hours, its switch. The last two count without the aggregator.

use std::time::{Duration, Instant};

use common::policy::Objection;
use common::{Assignment, Decline, Digest, Directive, Plan, Progress};

use super::failure::Failure;
use super::{Agent, AgentError, DECLINED_FOR, Indexing};
use crate::architecture;
use crate::clock;
use crate::decide;
use crate::durable;
use crate::hands::Hands;
use crate::link::LinkError;
use crate::standing::{self, Still};
use crate::switch;
use crate::training::Training;

impl Agent {
    /// Why nothing trains just now, if nothing does.
    pub(super) fn still(&self) -> Option<Still> {
        standing::still(switch::is_stopped(&self.home), self.config.policy.hours, clock::wall())
    }

    /// Why this site does not train under a plan, by the word that the coordinator hears and in words for a person here: its
    /// network is not one of this program's, it asks more than the site's policy permits, or this were a round too many today.
    pub(super) fn objection(&self, plan: &Plan, assignment: &Assignment) -> Option<(Decline, String)> {
        if let Err(unlisted) = architecture::check(plan) {
            return Some((Decline::Architecture, unlisted.to_string()));
        }
        let work = (assignment.run.clone(), assignment.round, assignment.base);
        let policy = &self.config.policy;
        let too_many = || match self.begun.holds(&work) {
            true => None,
            false => policy.another_round(self.begun.on(clock::wall().day())).err(),
        };
        let beyond = policy.objections(plan).into_iter().next();
        let first = beyond.or_else(|| self.unsigned(plan, assignment.plan)).or_else(too_many)?;
        Some((first.decline(), first.to_string()))
    }

    /// That too few coordinators have signed, if so. What cannot be read counts as no signature.
    fn unsigned(&self, plan: &Plan, digest: Digest) -> Option<Objection> {
        let hands = Hands::under(&self.home, digest).unwrap_or_default();
        self.config.policy.signed(plan, &hands.signers).err()
    }

    /// Whether to ask for a plan once more, because signatures are missing here that may have been given since.
    pub(super) fn misses_signatures(&self, plan: &Plan, digest: Digest) -> bool {
        let asked = self.signatures_asked.is_some_and(|(asked, when)| asked == digest && when.elapsed() < DECLINED_FOR);
        !asked && self.unsigned(plan, digest).is_some()
    }

    /// Fetches a plan with the hands under it, and writes down whose hold.
    pub(super) async fn fetch_plan(&mut self, digest: Digest) -> Result<(), Failure> {
        let mut link = self.link.clone();
        let (plan, received) = self.watching(link.plan(digest)).await?;
        let seen_at_s = i64::try_from(rustls::pki_types::UnixTime::now().as_secs()).unwrap_or(i64::MAX);
        let (signers, odd) = self.member.signers(digest, &received, seen_at_s).map_err(AgentError::from)?;
        for why in odd {
            tracing::warn!(plan = %digest, %why, "a signature under the plan does not count here");
        }
        let hands = Hands { seen_at_s, signers, received };
        // Before the plan: one that is here has them.
        hands.keep(&self.home, digest)?;
        durable::write(&self.home.plan(digest), &plan.canonical_bytes())?;
        self.signatures_asked = Some((digest, Instant::now()));
        Ok(())
    }

    /// The objection in words, for a person at this site.
    pub(super) fn words_of_objection(&self, directive: &Directive) -> Option<String> {
        let Directive::Train(assignment) = directive else { return None };
        let plan = self.read_plan(assignment.plan).ok()?;
        Some(self.objection(&plan, assignment)?.1)
    }

    /// Stops the trainer, and reading images, if nothing may train just now, whatever the aggregator says or does not say: at once if
    /// a person wants it so, with a checkpoint if the hours are over. Called until it has ended.
    pub(super) fn stop_if_still(&mut self) {
        let still = self.still();
        if still.is_some() {
            self.indexing.iter().for_each(Indexing::stop);
        }
        let Some(training) = &mut self.training else { return };
        if !training.is_at_work() {
            return;
        }
        let (run, round) = (training.work.0.clone(), training.work.1.0);
        match still {
            Some(Still::Stopped) => {
                tracing::info!(%run, round, "stopping the trainer; its checkpoint stays");
                training.kill();
                self.training = None;
            }
            Some(Still::OutsideHours { .. }) if training.end() => {
                tracing::info!(%run, round, "the hours are over: the trainer ends with a checkpoint");
            }
            Some(Still::OutsideHours { .. }) | None => {}
        }
    }

    /// Whether a trainer, or an intake, is at work.
    fn is_at_work(&mut self) -> bool {
        self.training.as_mut().is_some_and(Training::is_at_work)
            || self.indexing.as_ref().is_some_and(|indexing| !indexing.task.is_finished())
    }

    /// Waits, with an eye on the switch and the hours; not for long while there is something to be called back.
    pub(super) async fn rest(&mut self, time: Duration) {
        let (began, look_every) = (Instant::now(), self.config.report_every());
        let time = decide::asks_again_after(time, self.is_at_work());
        loop {
            self.stop_if_still();
            let left = time.saturating_sub(began.elapsed());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(look_every)).await;
        }
    }

    /// Says how it goes.
    pub(super) async fn ask(&mut self, progress: Progress) -> Result<Directive, LinkError> {
        let mut link = self.link.clone();
        self.watching(link.report(progress)).await
    }

    /// Waits for an answer, with an eye on the switch and the hours: it may take a minute.
    pub(super) async fn watching<T>(&mut self, answer: impl Future<Output = T>) -> T {
        let mut answer = std::pin::pin!(answer);
        let look_every = decide::asks_again_after(self.config.report_every(), true);
        loop {
            tokio::select! {
                told = &mut answer => return told,
                () = tokio::time::sleep(look_every) => self.stop_if_still(),
            }
        }
    }
}
