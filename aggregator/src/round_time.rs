//! The time of a round: it passes while its run goes on and a server is there for it, and stands still in between. No clock is
//! read here: `now` is a reading of the one that never goes back.

use std::time::Duration;

/// A round's time as it is written down, and what is read of it after a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// What has passed since the round's first attempt began.
    pub spent: Duration,
    /// What is left of its open attempt, the plan's grace with it; none while no deadline runs.
    pub left: Option<Duration>,
}

/// What has passed of a round's time when an attempt at it begins.
pub fn carried_over(attempt: u32, spent: Duration) -> Duration {
    if attempt == 1 { Duration::ZERO } else { spent }
}

/// A round's time as it passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoundTime {
    /// What had passed when it last began to pass, or all of it if it stands still.
    spent: Duration,
    /// When it last began to pass; none while it stands still.
    since: Option<Duration>,
    /// What has passed when the attempt's time is up.
    end: Option<Duration>,
}

impl RoundTime {
    /// A time that stands still.
    pub fn standing(noted: Noted) -> Self {
        Self { spent: noted.spent, since: None, end: noted.left.map(|left| noted.spent + left) }
    }

    /// What is to be written down of it.
    pub fn noted(&self, now: Duration) -> Noted {
        Noted { spent: self.spent(now), left: self.left(now) }
    }

    /// What has passed of it.
    pub fn spent(&self, now: Duration) -> Duration {
        self.spent + self.since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    /// What is left of the attempt, once a deadline runs.
    pub fn left(&self, now: Duration) -> Option<Duration> {
        self.end.map(|end| end.saturating_sub(self.spent(now)))
    }

    /// What has passed when the attempt's time is up, once a deadline runs: another for each deadline, whenever it is asked for.
    pub fn end(&self) -> Option<Duration> {
        self.end
    }

    /// Whether a deadline runs.
    pub fn is_armed(&self) -> bool {
        self.end.is_some()
    }

    /// Whether it passes.
    pub fn passes(&self) -> bool {
        self.since.is_some()
    }

    /// Lets it pass, or stand still.
    pub fn let_pass(&mut self, passes: bool, now: Duration) {
        self.spent = self.spent(now);
        self.since = passes.then_some(now);
    }

    /// Lets a deadline run from now on, in the place of an earlier one.
    pub fn arm(&mut self, allowed: Duration, now: Duration) {
        self.end = Some(self.spent(now) + allowed);
    }

    /// Lets no deadline run.
    pub fn disarm(&mut self) {
        self.end = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn neither_what_is_spent_nor_what_is_left_changes_while_it_stands_still() {
        let mut time = RoundTime::default();
        time.let_pass(true, seconds(100));
        time.arm(seconds(60), seconds(110));
        time.let_pass(false, seconds(130));
        let noted = Noted { spent: seconds(30), left: Some(seconds(40)) };
        assert_eq!((time.noted(seconds(130)), time.noted(seconds(9000))), (noted, noted));
        time.let_pass(true, seconds(9000));
        time.let_pass(true, seconds(9001));
        assert_eq!(time.noted(seconds(9005)), Noted { spent: seconds(35), left: Some(seconds(35)) });
    }

    #[test]
    fn a_deadline_that_is_armed_while_it_stands_still_has_all_its_time_left_when_it_goes_on() {
        let mut time = RoundTime::standing(Noted { spent: seconds(7), left: None });
        assert!(!time.is_armed() && !time.passes());
        time.arm(seconds(60), seconds(50));
        time.let_pass(true, seconds(500));
        assert_eq!(time.left(seconds(559)), Some(seconds(1)));
        assert_eq!(time.left(seconds(600)), Some(Duration::ZERO));
    }

    #[test]
    fn what_was_noted_goes_on_in_another_process_whose_clock_reads_otherwise() {
        let mut time = RoundTime::standing(Noted { spent: seconds(30), left: Some(seconds(40)) });
        time.let_pass(true, seconds(2));
        assert_eq!(time.noted(seconds(12)), Noted { spent: seconds(40), left: Some(seconds(30)) });
    }
}
