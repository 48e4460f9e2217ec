//! How long a site takes for a round, going by its last ones: what `status` expects, and whom a round waits for past its
//! deadline, as long as the plan's grace lasts. No clock is read here.

use std::collections::BTreeMap;
use std::time::Duration;

use common::{RoundNumber, RunId, SiteId};

use crate::round::{Roll, Word};
use crate::store::{Store, StoreError};

/// A site's last rounds that a forecast goes by; older ones say less of it as it is.
const LAST: usize = 3;

/// Time from the begin of a round to the update of each site that has been in one.
pub type Forecasts = BTreeMap<SiteId, Duration>;

/// The longest of each site's last rounds, and a quarter more: the same work does not always take the same time. `took` is in
/// the order of the rounds.
pub fn forecasts(took: impl IntoIterator<Item = (SiteId, Duration)>) -> Forecasts {
    let mut of = BTreeMap::<SiteId, Vec<Duration>>::new();
    took.into_iter().for_each(|(site, took)| of.entry(site).or_default().push(took));
    let longest = |all: Vec<Duration>| all.into_iter().rev().take(LAST).max().unwrap_or_default();
    of.into_iter().map(|(site, all)| (site, longest(all) * 5 / 4)).collect()
}

/// Whether somebody who joined an open round, and has not reported, may still do so within its own forecast. Who was in no
/// round yet is not waited for.
pub fn is_worth_waiting(roll: &Roll, forecasts: &Forecasts, since_begun: Duration) -> bool {
    let awaited = |(site, word): (&SiteId, &Word)| {
        *word == Word::Joined && forecasts.get(site).is_some_and(|forecast| since_begun < *forecast)
    };
    roll.iter().any(awaited)
}

/// The forecasts for a round, from what is written down of those before it.
pub fn read(store: &dyn Store, run: &RunId, round: RoundNumber) -> Result<Forecasts, StoreError> {
    let mut begun = BTreeMap::<RoundNumber, Vec<_>>::new();
    for record in store.rounds(run)?.into_iter().filter(|record| record.attempt.round < round) {
        begun.entry(record.attempt.round).or_default().push(record.began_at);
    }
    let mut took = Vec::new();
    // As many again, because a site may have missed some.
    for (round, attempts) in begun.iter().rev().take(2 * LAST).rev() {
        for (site, update) in store.updates(run, *round)? {
            // The attempt in which it came.
            let began = attempts.iter().rev().find(|began| **began <= update.received_at);
            took.extend(began.map(|began| (site, update.received_at.since(*began))));
        }
    }
    Ok(forecasts(took))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(name: &str) -> SiteId {
        name.parse().unwrap()
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_site_is_expected_after_the_longest_of_its_last_three_rounds_and_a_quarter() {
        let took = [900, 40, 80, 60].map(|took| (site("a"), seconds(took)));
        let forecasts = forecasts(took.into_iter().chain([(site("b"), seconds(8))]));
        assert_eq!((forecasts[&site("a")], forecasts[&site("b")]), (seconds(100), seconds(10)));
    }

    #[test]
    fn only_who_joined_and_is_within_its_forecast_is_waited_for() {
        let forecasts = forecasts([(site("a"), seconds(80)), (site("b"), seconds(80))]);
        let roll = |name: &str, word| Roll::from([(site(name), word)]);
        let digest = common::Digest::of(b"update");
        assert!(is_worth_waiting(&roll("a", Word::Joined), &forecasts, seconds(99)));
        assert!(!is_worth_waiting(&roll("a", Word::Joined), &forecasts, seconds(100)));
        assert!(!is_worth_waiting(&roll("new", Word::Joined), &forecasts, seconds(1)));
        assert!(!is_worth_waiting(&roll("b", Word::Reported(digest)), &forecasts, seconds(1)));
        assert!(!is_worth_waiting(&roll("b", Word::Lost), &forecasts, seconds(1)));
    }
}
