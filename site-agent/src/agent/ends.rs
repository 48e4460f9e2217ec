//! How the runs ended that this site was with. It asks before it begins with another, and when it begins: while it was away, or while a
//! round of one was merged, that one may have ended, and its last model is fetched first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use common::{Decline, Digest, Directive, Plan, Progress, RunId};

use super::failure::Failure;
use super::{Agent, AgentError};
use crate::approvals;
use crate::decide;
use crate::durable::DiskError;
use crate::ledger::Event;
use crate::lineage::{self, LineageFault};
use crate::link::LinkError;
use crate::runs::Runs;

/// A last model that could not be had is not asked for again for so long where there is other work: no run waits for another's.
const PUT_OFF_FOR: Duration = Duration::from_secs(600);
/// Time between two questions for the ends of runs while there is nothing to do.
const ASKS_APART: Duration = Duration::from_secs(10);

/// What this agent has heard of the ends of runs.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// The run that the aggregator spoke of last, if of any; none before it did for the first time.
    with: Option<Option<RunId>>,
    /// When it was asked for the ends of runs last.
    asked: Option<Instant>,
    /// Runs that failed: nothing is to be had of them.
    failed: BTreeSet<RunId>,
    /// Those of them that were heard of since the ledger was looked at, and why they failed.
    unentered: BTreeMap<RunId, String>,
    /// Runs whose last model could not be had: which that is, and when.
    put_off: BTreeMap<RunId, (Digest, Instant)>,
}

impl Ends {
    /// What was heard before this agent began.
    pub(super) fn by(runs: &Runs) -> Self {
        Self { failed: runs.failed().cloned().collect(), ..Self::default() }
    }

    fn fail(&mut self, run: &RunId, because: &str) {
        if self.failed.insert(run.clone()) {
            self.unentered.insert(run.clone(), because.to_owned());
        }
    }

    /// Leaves the last model of a run for later.
    pub(super) fn put_off(&mut self, run: &RunId, model: Digest) {
        self.put_off.insert(run.clone(), (model, Instant::now()));
    }

    pub(super) fn is_put_off(&self, run: &RunId) -> bool {
        self.put_off.get(run).is_some_and(|(_, since)| since.elapsed() < PUT_OFF_FOR)
    }

    /// The last models that were left for later: what is here of them is not to be fetched again.
    pub(super) fn awaited_models(&self) -> impl Iterator<Item = Digest> {
        self.put_off.values().map(|(model, _)| *model)
    }

    pub(super) fn has_failed(&self, run: &RunId) -> bool {
        self.failed.contains(run)
    }

    /// Whether to ask how runs ended, once this is told: when the aggregator speaks of another run than before, when a last model was
    /// put off for long enough, and now and then while there is nothing to do. Of an end at once: it may be another run's.
    fn are_due(&self, told: &Directive) -> bool {
        let run = decide::work(told).map(|(run, ..)| run);
        let is_another = match &self.with {
            None => true,
            Some(with) => run.is_some() && *with != run,
        };
        let is_news = matches!(told, Directive::Failed { run, .. } if !self.has_failed(run));
        let is_idle = run.is_none() && self.asked.is_none_or(|asked| asked.elapsed() >= ASKS_APART);
        is_another || is_news || is_idle || self.put_off.values().any(|(_, since)| since.elapsed() >= PUT_OFF_FOR)
    }
}

impl Agent {
    /// Hears what to do, and first how another run ended if that is still to be asked.
    pub(super) async fn hear(&mut self, directive: &Directive) -> Result<Directive, LinkError> {
        self.stop_if_still();
        let told = self.ask(self.progress(directive)).await?;
        if !self.ends.are_due(&told) || !self.may_end_another(&told) {
            return Ok(told);
        }
        let run = decide::work(&told).map(|(run, ..)| run);
        let is_open = |before: &&RunId| {
            Some(*before) != run.as_ref() && !self.ends.has_failed(before) && !self.ends.is_put_off(before)
        };
        let unended: Vec<RunId> = self.journal.unended().filter(is_open).cloned().collect();
        for before in unended {
            let work = Some((before.clone(), decide::AFTER_THE_LAST));
            match self.ask(Progress { work, ..Progress::idle() }).await {
                Ok(Directive::Finished { run, model, bytes }) if run == before => {
                    self.ends.with = Some(Some(before));
                    return Ok(Directive::Finished { run, model, bytes });
                }
                Ok(Directive::Failed { run, because }) if run == before => self.ends.fail(&run, &because),
                Ok(_) => {}
                // It would be taken for the end of the run that this agent works for.
                Err(error) if matches!(told, Directive::Failed { .. }) => return Err(error),
                // What is to be done is known, and is not to wait; this is asked again.
                Err(error) => {
                    tracing::debug!(%error, "how a run ended is not known yet");
                    return Ok(told);
                }
            }
        }
        self.ends.asked = Some(Instant::now());
        // What is still put off was put off anew, or is of a run that is not over any more.
        self.ends.put_off.retain(|_, (_, since)| since.elapsed() < PUT_OFF_FOR);
        if run.is_some() || self.ends.with.is_none() {
            self.ends.with = Some(run);
        }
        Ok(told)
    }

    /// Enters the failures that were heard of, once each, of runs that this site knew.
    pub(super) fn enter_failures(&mut self, told: &Directive) -> Result<(), AgentError> {
        if let Directive::Failed { run, because } = told {
            self.ends.fail(run, because);
        }
        while let Some((run, because)) = self.ends.unentered.pop_first() {
            let is_announced = |(_, plan): &(Digest, Plan)| *plan.run() == run;
            // Plans that cannot be read are told where a round is looked at.
            if self.journal.run(&run).is_some()
                || approvals::announced(&self.home).is_ok_and(|plans| plans.iter().any(is_announced))
            {
                self.enter_or_owe(Event::RunFailed { run, because })?;
            }
        }
        Ok(())
    }

    /// The plans of a run that a person at this site approved. One that never came here, or cannot be read any more, is none.
    fn approved_plans(&self, run: &RunId) -> Result<Vec<Plan>, DiskError> {
        let approved = approvals::approved(&self.home)?.into_iter();
        Ok(approved.filter_map(|plan| self.read_plan(plan).ok()).filter(|plan| plan.run() == run).collect())
    }

    /// Whether nothing is left to do of a run that is over: its last model was here, or is none of this site's.
    pub(super) fn has_ended(&self, run: &RunId, model: Digest) -> Result<bool, DiskError> {
        Ok(self.journal.run(run).is_some_and(|run| run.finished == Some(model)) || self.is_anothers(run)?)
    }

    /// Whether this site was not with a run, and has no plan of it that somebody here approved: then nobody has said how long its models
    /// may be, and none is fetched.
    pub(super) fn is_anothers(&self, run: &RunId) -> Result<bool, DiskError> {
        let took_part = self.journal.run(run).is_some_and(|run| run.sealed.is_some());
        Ok(!took_part && self.approved_plans(run)?.is_empty())
    }

    /// Holds the length of a run's last model, if that is still to be fetched, to the plans of it that were approved here.
    pub(super) fn hold_last(&self, run: &RunId, model: Digest, bytes: u64) -> Result<(), Failure> {
        if self.home.model(model).exists() || self.has_ended(run, model).map_err(AgentError::from)? {
            return Ok(());
        }
        let approved = self.approved_plans(run).map_err(AgentError::from)?;
        let fault = |fault: LineageFault| Failure::Decline(Decline::Lineage, fault.to_string());
        lineage::of_last(run, bytes, &approved).map_err(fault)
    }

    /// Whether this site can do now what the end of a run asks for, and nothing is more urgent: an update that is sealed is sent first.
    fn may_end_another(&self, told: &Directive) -> bool {
        let is_sealed = matches!(told, Directive::Train(assignment) if !self.is_done(assignment)
            && self.journal.sealed(&assignment.run, assignment.round, assignment.base).is_some());
        self.still().is_none() && !is_sealed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str) -> RunId {
        name.parse().unwrap()
    }

    fn finished(name: &str) -> Directive {
        Directive::Finished { run: run(name), model: Digest::of(b"last"), bytes: 9 }
    }

    fn failed(name: &str) -> Directive {
        Directive::Failed { run: run(name), because: "a mistake".to_owned() }
    }

    #[test]
    fn the_ends_of_runs_are_asked_for_at_the_beginning_and_when_another_run_is_spoken_of_and_now_and_then_while_it_waits()
     {
        let wait = Directive::Wait { because: "a round is being merged".to_owned() };
        let mut ends = Ends::default();
        assert!(ends.are_due(&wait) && ends.are_due(&finished("a")));
        (ends.with, ends.asked) = (Some(None), Some(Instant::now()));
        assert!(!ends.are_due(&wait) && ends.are_due(&finished("a")));
        ends.with = Some(Some(run("a")));
        assert!(!ends.are_due(&wait) && !ends.are_due(&finished("a")) && ends.are_due(&finished("b")));
        ends.asked = Instant::now().checked_sub(ASKS_APART);
        assert!(ends.are_due(&wait) && !ends.are_due(&finished("a")), "who works does not ask");
    }

    #[test]
    fn the_end_of_a_run_that_is_news_is_no_reason_to_miss_that_of_another() {
        let mut ends = Ends { with: Some(Some(run("a"))), asked: Some(Instant::now()), ..Ends::default() };
        assert!(ends.are_due(&failed("c")));
        ends.fail(&run("c"), "a mistake");
        assert!(!ends.are_due(&failed("c")) && ends.has_failed(&run("c")));
    }

    #[test]
    fn a_run_that_is_put_off_keeps_no_other_waiting_for_a_while_and_is_not_forgotten() {
        let mut ends = Ends { with: Some(Some(run("b"))), asked: Some(Instant::now()), ..Ends::default() };
        ends.put_off(&run("a"), Digest::of(b"last"));
        assert!(ends.is_put_off(&run("a")) && !ends.is_put_off(&run("b")) && !ends.are_due(&finished("b")));
        assert_eq!(ends.awaited_models().collect::<Vec<_>>(), [Digest::of(b"last")]);
        let Some(long_ago) = Instant::now().checked_sub(PUT_OFF_FOR) else { return };
        ends.put_off.insert(run("a"), (Digest::of(b"last"), long_ago));
        assert!(!ends.is_put_off(&run("a")) && ends.are_due(&finished("b")), "also while there is other work");
    }
}
