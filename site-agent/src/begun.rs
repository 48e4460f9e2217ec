//! Which rounds were begun on which day, for the policy's most rounds a day.
//!
//! A round counts on the day on which its trainer was first started: one that goes on after midnight, a restart or the end
//! of a window is not begun again.

use common::{Digest, RoundNumber, RunId};
use serde::{Deserialize, Serialize};

use crate::durable::{self, DiskError};
use crate::home::Home;

/// More are never asked about: a round that is so old is not trained on any more.
const KEPT: usize = 256;

/// The newest rounds that were begun here, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Begun(Vec<Entry>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Days since 1970 began.
    day: u64,
    run: RunId,
    round: RoundNumber,
    base: Digest,
}

impl Begun {
    /// The rounds begun in this state folder.
    pub fn read(home: &Home) -> Result<Self, DiskError> {
        let path = home.begun();
        let bytes = durable::read_if_there(&path)?;
        bytes.map_or(Ok(Self::default()), |bytes| {
            serde_json::from_slice(&bytes).map_err(|error| durable::told("read", &path)(error.into()))
        })
    }

    /// Records them.
    pub fn write(&self, home: &Home) -> Result<(), DiskError> {
        let path = home.begun();
        let bytes = serde_json::to_vec(self).map_err(|error| durable::told("write", &path)(error.into()))?;
        durable::write(&path, &bytes)
    }

    /// Whether this round was begun before, on whatever day.
    pub fn holds(&self, (run, round, base): &(RunId, RoundNumber, Digest)) -> bool {
        self.0.iter().any(|entry| entry.run == *run && entry.round == *round && entry.base == *base)
    }

    /// How many were begun on a day.
    pub fn on(&self, day: u64) -> u32 {
        let count = self.0.iter().filter(|entry| entry.day == day).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Notes that a round begins. False if it had begun before.
    pub fn begin(&mut self, work: &(RunId, RoundNumber, Digest), day: u64) -> bool {
        if self.holds(work) {
            return false;
        }
        let (run, round, base) = work.clone();
        self.0.push(Entry { day, run, round, base });
        let too_many = self.0.len().saturating_sub(KEPT);
        self.0.drain(..too_many);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_counts_on_the_day_it_was_begun_and_never_again() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path());
        let work = |round| ("run".parse().unwrap(), RoundNumber(round), Digest::of(b"base"));
        let mut begun = Begun::read(&home).unwrap();
        assert!(begun.begin(&work(1), 7) && begun.begin(&work(2), 7) && !begun.begin(&work(2), 8));
        begun.write(&home).unwrap();
        let mut begun = Begun::read(&home).unwrap();
        assert_eq!((begun.on(7), begun.on(8)), (2, 0));
        assert!(begun.holds(&work(1)) && !begun.holds(&work(3)));
        assert!((3..1000).all(|round| begun.begin(&work(round), 9)));
        assert_eq!((begun.0.len(), begun.holds(&work(999))), (KEPT, true));
    }
}
