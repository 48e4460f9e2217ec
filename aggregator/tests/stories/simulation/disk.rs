//! What a simulated aggregator has written down: the tables of the store as values, and one transaction a decision.

use std::collections::BTreeMap;

use aggregator::round::{Outcome, Roll, Word};
use aggregator::run::{Attempt, RunAction};
use common::{Digest, RoundNumber, SiteId};

/// How a round stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum State {
    Gathering,
    Training,
    Merging(Outcome),
    Closed(Outcome, Digest, Vec<i64>),
    Abandoned,
}

/// A try at a round.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) attempt: Attempt,
    pub(crate) state: State,
    pub(crate) remaining: Option<u64>,
}

/// An acknowledged update.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored {
    pub(crate) digest: Digest,
    pub(crate) retired: bool,
}

/// An upload on its way: what was announced, its bytes, and how many of them are synced.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) digest: Digest,
    pub(crate) length: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) synced: usize,
}

pub(crate) type Key = (RoundNumber, SiteId);

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) rounds: Vec<Row>,
    pub(crate) words: BTreeMap<(u32, u32), BTreeMap<SiteId, Word>>,
    pub(crate) updates: BTreeMap<Key, Stored>,
    /// Acknowledgements in the order of their arrival, with those that should not be.
    pub(crate) arrivals: Vec<(RoundNumber, SiteId, Digest)>,
    pub(crate) parts: BTreeMap<Key, Part>,
    pub(crate) blobs: BTreeMap<Digest, Vec<u8>>,
    pub(crate) models: BTreeMap<Digest, Vec<f32>>,
    pub(crate) over: Option<Result<Digest, String>>,
}

impl Disk {
    /// Writes down one decision. What does not fit what is there is a disagreement of memory and disk.
    pub(crate) fn record(&mut self, actions: &[RunAction], sums: &[i64]) -> Result<(), String> {
        actions.iter().try_for_each(|action| {
            self.write(action, sums).map_err(|why| format!("{why}, where {action:?} was decided"))
        })
    }

    fn write(&mut self, action: &RunAction, sums: &[i64]) -> Result<(), String> {
        match action {
            RunAction::Record(heard) => {
                let key = (heard.round, heard.site.clone());
                let Word::Reported(digest) = heard.word else {
                    let last = self.rounds.iter().rfind(|row| row.attempt.round == heard.round);
                    let attempt = last.ok_or("a word of a round that is not there")?.attempt.attempt;
                    self.words.entry((heard.round.0, attempt)).or_default().insert(heard.site.clone(), heard.word);
                    return Ok(());
                };
                self.arrivals.push((heard.round, heard.site.clone(), digest));
                self.parts.remove(&key);
                let before = self.updates.insert(key, Stored { digest, retired: false });
                if before.is_some() { Err("an update is there already".to_owned()) } else { Ok(()) }
            }
            RunAction::Begin(attempt) => {
                if self
                    .rounds
                    .iter()
                    .any(|row| (row.attempt.round, row.attempt.attempt) == (attempt.round, attempt.attempt))
                {
                    return Err("that attempt is there already".to_owned());
                }
                self.rounds.push(Row { attempt: *attempt, state: State::Gathering, remaining: None });
                Ok(())
            }
            RunAction::ArmDeadline(attempt) => self.turn(attempt, |state| match state {
                State::Gathering => Some(State::Training),
                _ => None,
            }),
            RunAction::Freeze(attempt, outcome) => self.turn(attempt, |state| match state {
                State::Gathering | State::Training | State::Merging(_) => Some(State::Merging(outcome.clone())),
                _ => None,
            }),
            RunAction::Abandon(attempt, _) => self.turn(attempt, |state| match state {
                State::Gathering | State::Training | State::Merging(_) => Some(State::Abandoned),
                _ => None,
            }),
            RunAction::Publish(attempt, model) => self.turn(attempt, |state| match state {
                State::Merging(outcome) => Some(State::Closed(outcome.clone(), *model, sums.to_vec())),
                _ => None,
            }),
            RunAction::Discard(attempt, site) => {
                let stored = self.updates.get_mut(&(attempt.round, site.clone())).filter(|stored| !stored.retired);
                stored.ok_or("an update that is not there was discarded")?.retired = true;
                Ok(())
            }
            RunAction::Finish { model } => self.end(Ok(*model)),
            RunAction::Fail { because } => self.end(Err(because.clone())),
            RunAction::Release { .. } | RunAction::Refuse(_) => Ok(()),
        }
    }

    fn turn(&mut self, attempt: &Attempt, next: impl Fn(&State) -> Option<State>) -> Result<(), String> {
        let row = self.rounds.last_mut().filter(|row| row.attempt == *attempt).ok_or("not the last attempt")?;
        row.state = next(&row.state).ok_or_else(|| format!("the round is {:?}", row.state))?;
        Ok(())
    }

    fn end(&mut self, how: Result<Digest, String>) -> Result<(), String> {
        match self.over.replace(how) {
            None => Ok(()),
            Some(_) => Err("the run was over already".to_owned()),
        }
    }

    /// Everybody's last word in an attempt.
    pub(crate) fn roll(&self, attempt: &Attempt, with_retired: bool) -> Roll {
        let mut roll = self.words.get(&(attempt.round.0, attempt.attempt)).cloned().unwrap_or_default();
        for ((round, site), stored) in &self.updates {
            if *round == attempt.round {
                let is_lost = stored.retired && !with_retired;
                roll.insert(site.clone(), if is_lost { Word::Lost } else { Word::Reported(stored.digest) });
            }
        }
        roll
    }
}
