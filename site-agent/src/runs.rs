//! How each run stands at this site, by its ledger: a fold over the entries.

use std::collections::BTreeMap;

use common::ledger::Entry;
use common::{Decline, RoundNumber, RunId};

use crate::ledger::{Event, Ledger, LedgerError};

/// How one run stands here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunHere {
    /// What became of the round that this site had to do with last.
    pub last: Option<(RoundNumber, Part)>,
    /// How the run ended, if it has.
    pub end: Option<End>,
}

/// What part this site had in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It accepted the round; nothing more is known of it yet.
    Accepted,
    /// Its update is sealed, and not acknowledged yet.
    Sealed,
    /// The aggregator acknowledged its update.
    Acknowledged,
    /// It took no part.
    Declined(Decline),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Its last model is here.
    Finished,
    /// It failed, or was aborted: why, in the aggregator's words.
    Failed(String),
}

impl End {
    /// In words.
    pub fn told(&self) -> String {
        match self {
            Self::Finished => "finished".to_owned(),
            Self::Failed(because) => because.clone(),
        }
    }
}

/// How all runs stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    runs: BTreeMap<RunId, RunHere>,
    /// The run that was entered last.
    latest: Option<RunId>,
}

impl Runs {
    /// By a ledger, which is held to its chain on the way.
    pub fn of(ledger: &Ledger) -> Result<Self, LedgerError> {
        let mut runs = Self::default();
        ledger.verify(|entry, _| runs.learn(entry))?;
        Ok(runs)
    }

    /// One run.
    pub fn get(&self, run: &RunId) -> Option<&RunHere> {
        self.runs.get(run)
    }

    /// How a run ended, if it has.
    pub fn end(&self, run: &RunId) -> Option<&End> {
        self.get(run)?.end.as_ref()
    }

    /// The runs that failed.
    pub fn failed(&self) -> impl Iterator<Item = &RunId> {
        self.runs.iter().filter(|(_, here)| matches!(here.end, Some(End::Failed(_)))).map(|(run, _)| run)
    }

    /// The run that this site had to do with last.
    pub fn latest(&self) -> Option<(&RunId, &RunHere)> {
        self.runs.get_key_value(self.latest.as_ref()?)
    }

    fn learn(&mut self, entry: &Entry) {
        // What a later version enters is its own to tell.
        let Ok(event) = serde_json::from_value(entry.event.clone()) else { return };
        let (run, part) = match event {
            Event::RoundAccepted { run, round, .. } => (run, Ok((round, Part::Accepted))),
            Event::UpdateSealed { run, round, .. } => (run, Ok((round, Part::Sealed))),
            Event::UpdateAcknowledged { run, round, .. } => (run, Ok((round, Part::Acknowledged))),
            Event::Declined { run, round, reason } => (run, Ok((round, Part::Declined(reason)))),
            Event::RunFinished { run, .. } => (run, Err(End::Finished)),
            Event::RunFailed { run, because } => (run, Err(End::Failed(because))),
            Event::Enrolled { .. }
            | Event::Renewed { .. }
            | Event::Approved { .. }
            | Event::LineageRefused { .. }
            | Event::TornTail { .. } => return,
        };
        let here = self.runs.entry(run.clone()).or_default();
        match part {
            Ok(part) => here.last = Some(part),
            Err(end) => here.end = Some(end),
        }
        self.latest = Some(run);
    }
}

#[cfg(test)]
mod tests {
    use common::Digest;

    use super::*;

    #[test]
    fn a_run_stands_as_its_last_entries_say_and_the_one_entered_last_is_the_latest() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::at(folder.path().join("ledger"));
        let run = |name: &str| name.parse::<RunId>().unwrap();
        let (one, other, model) = (run("one"), run("other"), Digest::of(b"model"));
        let round = RoundNumber(4);
        let because = "run other failed: aborted by the coordinator: a mistake".to_owned();
        let events = [
            Event::Approved { plan: Digest::of(b"plan") },
            Event::Declined { run: one.clone(), round: RoundNumber(3), reason: Decline::DiskFull },
            Event::UpdateAcknowledged { run: one.clone(), round, blob: model },
            Event::RunFinished { run: one.clone(), model },
            Event::Declined { run: other.clone(), round, reason: Decline::PolicySubjects },
        ];
        events.iter().for_each(|event| ledger.enter(event).unwrap());
        let runs = Runs::of(&ledger).unwrap();
        let finished = RunHere { last: Some((round, Part::Acknowledged)), end: Some(End::Finished) };
        let declined = RunHere { last: Some((round, Part::Declined(Decline::PolicySubjects))), end: None };
        assert_eq!(runs.get(&one), Some(&finished));
        assert_eq!(runs.latest(), Some((&other, &declined)));
        assert_eq!(runs.failed().count(), 0);
        ledger.enter(&Event::RunFailed { run: other.clone(), because: because.clone() }).unwrap();
        let runs = Runs::of(&ledger).unwrap();
        assert_eq!(runs.end(&other), Some(&End::Failed(because)));
        assert_eq!(runs.failed().collect::<Vec<_>>(), [&other]);
        assert_eq!(runs.end(&run("third")), None);
    }
}
