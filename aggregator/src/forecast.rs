//! How long a site takes for a round, going by its last ones: what `status` expects, and whom a round waits for past its
//! deadline, as long as the plan's grace lasts. A site's time counts from where it joined to its update, and stands still with the
//! round's: neither a pause, nor an aggregator that was down, nor another run that it was with before makes it a slow one. No clock is
//! read here.

use std::collections::BTreeMap;
use std::time::Duration;

use common::{RoundNumber, RunId, SiteId};

use crate::round::{Roll, Word};
use crate::store::{Store, StoreError};

/// A site's last rounds that a forecast goes by; older ones say less of it as it is.
const LAST: usize = 3;

/// How long each site that has been in a round is expected to be at work in the next.
pub type Forecasts = BTreeMap<SiteId, Duration>;

/// The longest of each site's last rounds, and a quarter more: the same work does not always take the same time. `took` is in
/// the order of the rounds.
pub fn forecasts(took: impl IntoIterator<Item = (SiteId, Duration)>) -> Forecasts {
    let mut of = BTreeMap::<SiteId, Vec<Duration>>::new();
    took.into_iter().for_each(|(site, took)| of.entry(site).or_default().push(took));
    let longest = |all: Vec<Duration>| all.into_iter().rev().take(LAST).max().unwrap_or_default();
    of.into_iter().map(|(site, all)| (site, longest(all) * 5 / 4)).collect()
}

/// How long sites are at work already in a round of which `spent` has passed, by what had passed when each joined it.
pub fn at_work(joined: BTreeMap<SiteId, Duration>, spent: Duration) -> BTreeMap<SiteId, Duration> {
    joined.into_iter().map(|(site, since)| (site, spent.saturating_sub(since))).collect()
}

/// Whether somebody who joined an open round, and has not reported, may still do so within its own forecast. Who was in no
/// round yet is not waited for.
pub fn is_worth_waiting(roll: &Roll, forecasts: &Forecasts, at_work: &BTreeMap<SiteId, Duration>) -> bool {
    let is_in_time =
        |site| forecasts.get(site).zip(at_work.get(site)).is_some_and(|(forecast, since)| since < forecast);
    roll.iter().any(|(site, word)| *word == Word::Joined && is_in_time(site))
}

/// The forecasts for a round, from what is written down of those before it.
pub fn read(store: &dyn Store, run: &RunId, round: RoundNumber) -> Result<Forecasts, StoreError> {
    let mut took = Vec::new();
    // As many again, because a site may have missed some.
    for round in (round.0.saturating_sub(2 * LAST as u32).max(1)..round.0).map(RoundNumber) {
        let joined = store.joined(run, round)?;
        for (site, update) in store.updates(run, round)? {
            took.extend(joined.get(&site).map(|since| (site.clone(), update.spent.saturating_sub(*since))));
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
        let since = |spent| at_work(["a", "b", "new"].map(|name| (site(name), seconds(10))).into(), seconds(spent));
        assert!(is_worth_waiting(&roll("a", Word::Joined), &forecasts, &since(109)));
        assert!(!is_worth_waiting(&roll("a", Word::Joined), &forecasts, &since(110)));
        assert!(!is_worth_waiting(&roll("new", Word::Joined), &forecasts, &since(11)));
        assert!(!is_worth_waiting(&roll("b", Word::Reported(digest)), &forecasts, &since(11)));
        assert!(!is_worth_waiting(&roll("b", Word::Lost), &forecasts, &since(11)));
        assert!(!is_worth_waiting(&roll("a", Word::Joined), &forecasts, &BTreeMap::new()));
    }
}
