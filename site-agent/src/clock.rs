//! The wall's clock, for the hours and days of the site's policy. Nothing else at the site depends on it.

use std::time::{SystemTime, UNIX_EPOCH};

/// A moment: whole seconds since 1970 began, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// Days since 1970 began.
    pub fn day(self) -> u64 {
        self.0 / 86_400
    }

    /// Minutes of the day.
    pub fn minute_of_day(self) -> u32 {
        // Below 1440.
        (self.0 / 60 % 1440) as u32
    }
}

/// What the wall's clock shows.
#[expect(clippy::disallowed_methods, reason = "this is the shell around the wall's clock")]
pub fn wall() -> Moment {
    Moment(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_has_its_day_and_its_minute_in_utc() {
        let moment = Moment(1_700_000_000); // 2023-11-14 22:13:20
        assert_eq!((moment.day(), moment.minute_of_day()), (19_675, 22 * 60 + 13));
    }
}
