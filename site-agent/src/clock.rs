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

/// A moment as HTTP writes it: `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, 5.6.7).
pub fn of_http_date(written: &str) -> Option<Moment> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = written.split_once(", ")?.1.split(' ').collect();
    let [day, month, year, time, "GMT"] = words[..] else { return None };
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let clock: Vec<u64> = time.split(':').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [hour, minute, second] = clock[..] else { return None };
    let is_one = (1970..10_000).contains(&year) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    // Days from March on, so that a leap day is the last of its year (Howard Hinnant, days_from_civil).
    let (years, months) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = years * 365 + years / 4 - years / 100 + years / 400 + (153 * months + 2) / 5 + day - 1 - 719_468;
    is_one.then_some(Moment(days * 86_400 + hour * 3600 + minute * 60 + second))
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

    #[test]
    fn a_date_of_http_is_read_and_anything_else_is_none() {
        for (written, seconds) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Thu, 29 Feb 2024 23:59:59 GMT", 1_709_251_199),
            ("Tue, 14 Nov 2023 22:13:20 GMT", 1_700_000_000),
        ] {
            assert_eq!(of_http_date(written), Some(Moment(seconds)), "{written}");
        }
        for wrong in [
            "",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Non 1994 08:49:37 GMT",
            "Sun, 99 Nov 1994 08:49:37 GMT",
            "a, b c d e GMT",
        ] {
            assert_eq!(of_http_date(wrong), None, "{wrong}");
        }
    }
}
