//! How the runs ended that this site was with. It asks before it begins with another, and when it begins: while it was away, or while a
//! round of one was merged, that one may have ended, and its last model is fetched first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use common::{Directive, Progress, RunId};

use super::Agent;
use crate::decide;
use crate::link::LinkError;

/// A last model that could not be had is not asked for again for so long where there is other work: no run waits for another's.
const PUT_OFF_FOR: Duration = Duration::from_secs(600);

/// What this agent has heard of the ends of runs.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// The run that the aggregator spoke of last, if of any; none before it did for the first time.
    with: Option<Option<RunId>>,
    /// Runs that failed: nothing is to be had of them.
    failed: BTreeSet<RunId>,
    /// Runs whose last model could not be had, and when.
    put_off: BTreeMap<RunId, Instant>,
}

impl Ends {
    /// Leaves the last model of a run for later.
    pub(super) fn put_off(&mut self, run: &RunId) {
        self.put_off.insert(run.clone(), Instant::now());
    }

    pub(super) fn is_put_off(&self, run: &RunId) -> bool {
        self.put_off.get(run).is_some_and(|since| since.elapsed() < PUT_OFF_FOR)
    }

    pub(super) fn has_failed(&self, run: &RunId) -> bool {
        self.failed.contains(run)
    }

    /// Whether the aggregator speaks of another run than before.
    fn is_another(&self, run: Option<&RunId>) -> bool {
        match &self.with {
            None => true,
            Some(with) => run.is_some() && with.as_ref() != run,
        }
    }
}

impl Agent {
    /// Hears what to do, and first how another run ended if that is still to be asked.
    pub(super) async fn hear(&mut self, directive: &Directive) -> Result<Directive, LinkError> {
        self.stop_if_still();
        let told = self.ask(self.progress(directive)).await?;
        let run = decide::work(&told).map(|(run, ..)| run);
        if !self.ends.is_another(run.as_ref()) || !self.may_end_another(&told) {
            return Ok(told);
        }
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
                Ok(Directive::Failed { run, .. }) if run == before => _ = self.ends.failed.insert(before),
                Ok(_) => {}
                // What is to be done is known, and is not to wait; this is asked again.
                Err(error) => {
                    tracing::debug!(%error, "how a run ended is not known yet");
                    return Ok(told);
                }
            }
        }
        self.ends.with = Some(run);
        Ok(told)
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

    #[test]
    fn the_ends_of_runs_are_asked_for_at_the_beginning_and_when_another_run_is_spoken_of_and_not_while_it_waits() {
        let run = |name: &str| name.parse::<RunId>().unwrap();
        let mut ends = Ends::default();
        assert!(ends.is_another(None) && ends.is_another(Some(&run("a"))));
        ends.with = Some(None);
        assert!(!ends.is_another(None) && ends.is_another(Some(&run("a"))));
        ends.with = Some(Some(run("a")));
        assert!(!ends.is_another(None) && !ends.is_another(Some(&run("a"))) && ends.is_another(Some(&run("b"))));
    }

    #[test]
    fn a_run_that_is_put_off_keeps_no_other_waiting_for_a_while() {
        let (one, other): (RunId, RunId) = ("one".parse().unwrap(), "other".parse().unwrap());
        let mut ends = Ends::default();
        ends.put_off(&one);
        assert!(ends.is_put_off(&one) && !ends.is_put_off(&other));
    }
}
