//! When the agent stands still: a person here stopped it, or its hours are over. A pure decision.

use std::time::Duration;

use common::policy::Hours;

use crate::clock::Moment;

/// Why nothing trains just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Still {
    /// A person stopped the agent. Nothing trains and nothing is sent, but for the word that it is so.
    Stopped,
    /// The policy's hours are over. What is trained is still sent.
    OutsideHours {
        /// Until they begin again.
        opens_in: Duration,
    },
}

/// Whether to stand still, and why.
pub fn still(is_stopped: bool, hours: Option<Hours>, now: Moment) -> Option<Still> {
    if is_stopped {
        return Some(Still::Stopped);
    }
    let minutes = hours.map_or(0, |hours| hours.opens_in(now.minute_of_day()));
    (minutes > 0).then(|| Still::OutsideHours { opens_in: Duration::from_secs(u64::from(minutes) * 60) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_counts_at_every_hour_and_the_hours_count_without_it() {
        let night: Hours = "20:00-06:00".parse().unwrap();
        let at = |hour: u64| Moment(19_000 * 86_400 + hour * 3600);
        assert_eq!(still(false, None, at(12)), None);
        assert_eq!(still(false, Some(night), at(21)), None);
        assert_eq!(
            still(false, Some(night), at(12)),
            Some(Still::OutsideHours { opens_in: Duration::from_secs(8 * 3600) })
        );
        for hour in [12, 21] {
            assert_eq!(still(true, Some(night), at(hour)), Some(Still::Stopped));
        }
    }
}
