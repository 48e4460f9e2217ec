//! Which rounds were begun on which day, for the policy's most rounds a day.
//!
//! A round counts on the day on which its trainer was first started: one that goes on after midnight, a restart or the end
//! of a window is not begun again.

use common::{Digest, RoundNumber, RunId};
use serde::{Deserialize, Serialize};

use crate::durable::{self, DiskError};
use crate::home::Home;

/// Of earlier days than the newest, more are never asked about: a round that is so old is not trained on any more.
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

    fn write(&self, home: &Home) -> Result<(), DiskError> {
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

    /// Records that a round begins, unless it had begun before. What cannot be written is not begun.
    pub fn begin(&mut self, work: &(RunId, RoundNumber, Digest), day: u64, home: &Home) -> Result<(), DiskError> {
        if self.holds(work) {
            return Ok(());
        }
        let begun = self.with(work.clone(), day);
        begun.write(home)?;
        *self = begun;
        Ok(())
    }

    /// These, and one more. All of a day count, however many they are.
    fn with(&self, (run, round, base): (RunId, RoundNumber, Digest), day: u64) -> Self {
        let mut begun = self.clone();
        begun.0.push(Entry { day, run, round, base });
        let too_many = begun.0.len().saturating_sub(KEPT);
        let older = begun.0.iter().take_while(|entry| entry.day < day).count();
        begun.0.drain(..too_many.min(older));
        begun
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
        for (round, day) in [(1, 7), (2, 7), (2, 8)] {
            begun.begin(&work(round), day, &home).unwrap();
        }
        let begun = Begun::read(&home).unwrap();
        assert_eq!((begun.on(7), begun.on(8)), (2, 0));
        assert!(begun.holds(&work(1)) && !begun.holds(&work(3)));
    }

    #[test]
    fn all_rounds_of_a_day_count_and_of_earlier_days_so_many_are_kept() {
        let work = |round| ("run".parse().unwrap(), RoundNumber(round), Digest::of(b"base"));
        let of_one_day = (0..300).fold(Begun::default(), |begun, round| begun.with(work(round), 7));
        assert_eq!(of_one_day.on(7), 300);
        let next_day = of_one_day.with(work(300), 8);
        assert_eq!((next_day.0.len(), next_day.on(7), next_day.on(8)), (KEPT, 255, 1));
        let later = (301..1000).fold(next_day, |begun, round| begun.with(work(round), 9 + u64::from(round)));
        assert_eq!((later.0.len(), later.holds(&work(999))), (KEPT, true));
    }

    #[test]
    fn a_round_that_could_not_be_written_down_is_not_begun() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path());
        let work = ("run".parse().unwrap(), RoundNumber(1), Digest::of(b"base"));
        let odd = home.begun().with_added_extension("part");
        std::fs::create_dir_all(&odd).unwrap();
        let mut begun = Begun::read(&home).unwrap();
        begun.begin(&work, 7, &home).unwrap_err();
        assert!(!begun.holds(&work));
        std::fs::remove_dir(&odd).unwrap();
        begun.begin(&work, 7, &home).unwrap();
        assert_eq!((begun.on(7), Begun::read(&home).unwrap().on(7)), (1, 1));
    }
}
