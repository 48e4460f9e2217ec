//! Which calls were made already: a memory of nonces that is bounded for each caller, and refuses what it has forgotten.

use std::collections::{BTreeMap, BTreeSet};

use common::message::CLOCK_SKEW_S;
use common::signed::Nonce;

/// Most calls of one caller that are remembered. An upload at 50 MB/s makes about so many in the time that a call may be late.
pub const REMEMBERED: usize = 16_384;

/// The calls of all callers.
#[derive(Debug, Default)]
pub struct Replays(BTreeMap<String, Calls>);

#[derive(Debug, Default)]
struct Calls {
    /// By time, the oldest first.
    made: BTreeSet<(u64, [u8; 16])>,
    /// Calls of this second and before are not remembered any more.
    forgotten_s: Option<u64>,
}

impl Replays {
    /// Whether this call of a caller's is its first, as far as that is known; then it is remembered. `now_s` is the time here, and the
    /// call's is within [`CLOCK_SKEW_S`] of it.
    pub fn is_first(&mut self, caller: &str, time_s: u64, nonce: Nonce, now_s: u64) -> bool {
        if !self.0.contains_key(caller) {
            self.0.insert(caller.to_owned(), Calls::default());
        }
        let Some(calls) = self.0.get_mut(caller) else { return false };
        // What is older than this is refused for its time, whether it is remembered or not.
        let oldest = now_s.saturating_sub(CLOCK_SKEW_S);
        calls.forget_while(|made| made.first().is_some_and(|(time_s, _)| *time_s < oldest));
        if calls.forgotten_s.is_some_and(|forgotten| time_s <= forgotten) || !calls.made.insert((time_s, nonce.0)) {
            return false;
        }
        calls.forget_while(|made| made.len() > REMEMBERED);
        true
    }
}

impl Calls {
    /// What is forgotten is refused from then on, also if the clock here is set back.
    fn forget_while(&mut self, is_too_much: impl Fn(&BTreeSet<(u64, [u8; 16])>) -> bool) {
        while is_too_much(&self.made)
            && let Some((time_s, _)) = self.made.pop_first()
        {
            self.forgotten_s = self.forgotten_s.max(Some(time_s));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nonce(number: usize) -> Nonce {
        let mut bytes = [0; 16];
        bytes[8..].copy_from_slice(&(number as u64).to_be_bytes());
        Nonce(bytes)
    }

    #[test]
    fn a_call_counts_once_for_each_caller_as_long_as_its_time_is_taken() {
        let (mut replays, now) = (Replays::default(), 1_000_000);
        assert!(replays.is_first("a", now, nonce(1), now));
        assert!(replays.is_first("a", now, nonce(2), now) && replays.is_first("b", now, nonce(1), now));
        for later in [0, 1, CLOCK_SKEW_S] {
            assert!(!replays.is_first("a", now, nonce(1), now + later), "{later} s later");
        }
        // By now the call is refused for its time, and needs no memory.
        assert!(replays.is_first("a", now + CLOCK_SKEW_S + 1, nonce(3), now + CLOCK_SKEW_S + 1));
        assert_eq!(replays.0["a"].made.len(), 1);
        assert!(!replays.is_first("a", now, nonce(2), now), "not even if the clock is set back");
    }

    #[test]
    fn a_caller_that_makes_too_many_calls_takes_no_more_memory_and_its_forgotten_calls_are_refused() {
        let (mut replays, now) = (Replays::default(), 1_000_000);
        let time = |number: usize| now - 200 + number as u64 / 200;
        let calls = REMEMBERED + 2000;
        for number in 0..calls {
            assert!(replays.is_first("a", time(number), nonce(number), now), "{number}");
        }
        assert_eq!(replays.0["a"].made.len(), REMEMBERED);
        for number in 0..calls {
            assert!(!replays.is_first("a", time(number), nonce(number), now), "{number}");
        }
        assert!(replays.is_first("b", time(0), nonce(0), now), "it is a bound for each");
    }
}
