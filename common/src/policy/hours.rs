//! A window of the day. The time is an argument: minutes of the UTC day.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const DAY: u32 = 24 * 60;

/// The hours of every day in which a machine may be used: `20:00-06:00`, in UTC, or `20:00-06:00 +02:00` by a clock that is so
/// far ahead of it. The first minute is in, the last is out. An offset is a number: it does not follow summer time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hours {
    /// Minutes of the local day.
    from: u32,
    until: u32,
    /// Minutes that the local clock is ahead of UTC.
    ahead: i32,
}

/// What is written is no window.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} are no hours: write \"20:00-06:00\" for UTC, or \"20:00-06:00 +02:00\" for a clock two hours ahead of it; begin and end must differ"
)]
pub struct NotHours(String);

impl Hours {
    /// Whether the window is open at this minute of the UTC day.
    pub fn are_open(&self, utc_minute: u32) -> bool {
        self.minutes_after(self.from, utc_minute) < self.minutes_after(self.from, self.in_utc(self.until))
    }

    /// Minutes until the window opens; 0 if it is open.
    pub fn opens_in(&self, utc_minute: u32) -> u32 {
        if self.are_open(utc_minute) { 0 } else { (self.in_utc(self.from) + DAY - utc_minute % DAY) % DAY }
    }

    /// Minutes from the local minute `from` to a minute of the UTC day, going forward.
    fn minutes_after(&self, from: u32, utc_minute: u32) -> u32 {
        (utc_minute % DAY + DAY - self.in_utc(from)) % DAY
    }

    fn in_utc(&self, local_minute: u32) -> u32 {
        (local_minute as i32 - self.ahead).rem_euclid(DAY as i32) as u32
    }
}

impl FromStr for Hours {
    type Err = NotHours;
    fn from_str(written: &str) -> Result<Self, NotHours> {
        parsed(written.trim()).ok_or_else(|| NotHours(written.to_owned()))
    }
}

fn parsed(written: &str) -> Option<Hours> {
    let (window, offset) = written.split_once(' ').unwrap_or((written, "+00:00"));
    let (from, until) = window.split_once('-')?;
    let (from, until) = (minute(from)?, minute(until)?);
    let ahead = match offset.split_at_checked(1)? {
        ("+", ahead) => minute(ahead)? as i32,
        ("-", behind) => -(minute(behind)? as i32),
        _ => return None,
    };
    (from != until && ahead.abs() <= 14 * 60).then_some(Hours { from, until, ahead })
}

fn minute(written: &str) -> Option<u32> {
    let (hour, minute) = written.split_once(':')?;
    let digits = |text: &str| (text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit())).then_some(());
    digits(hour).and(digits(minute))?;
    let (hour, minute): (u32, u32) = (hour.parse().ok()?, minute.parse().ok()?);
    (hour < 24 && minute < 60).then_some(hour * 60 + minute)
}

impl TryFrom<String> for Hours {
    type Error = NotHours;
    fn try_from(written: String) -> Result<Self, NotHours> {
        written.parse()
    }
}

impl From<Hours> for String {
    fn from(hours: Hours) -> Self {
        hours.to_string()
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clock = |minute: u32| format!("{:02}:{:02}", minute / 60, minute % 60);
        write!(f, "{}-{}", clock(self.from), clock(self.until))?;
        match self.ahead {
            0 => Ok(()),
            ahead => write!(f, " {}{}", if ahead < 0 { '-' } else { '+' }, clock(ahead.unsigned_abs())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hour: u32, minute: u32) -> u32 {
        hour * 60 + minute
    }

    #[test]
    fn a_window_over_midnight_is_open_on_both_sides_of_it() {
        let night: Hours = "20:00-06:00".parse().unwrap();
        for (hour, minute, open) in
            [(19, 59, false), (20, 0, true), (23, 59, true), (0, 0, true), (5, 59, true), (6, 0, false), (12, 0, false)]
        {
            assert_eq!(night.are_open(at(hour, minute)), open, "{hour}:{minute}");
        }
        assert_eq!(night.opens_in(at(19, 59)), 1);
        assert_eq!(night.opens_in(at(6, 0)), 14 * 60);
        assert_eq!(night.opens_in(at(3, 0)), 0);
        let noon: Hours = "11:30-13:00".parse().unwrap();
        assert!(noon.are_open(at(12, 0)) && !noon.are_open(at(13, 0)) && !noon.are_open(at(0, 0)));
    }

    #[test]
    fn an_offset_moves_the_window_in_utc() {
        let brussels: Hours = "20:00-06:00 +02:00".parse().unwrap();
        assert!(brussels.are_open(at(18, 0)) && brussels.are_open(at(3, 59)) && !brussels.are_open(at(4, 0)));
        let boston: Hours = "20:00-06:00 -05:00".parse().unwrap();
        assert!(boston.are_open(at(1, 0)) && !boston.are_open(at(0, 59)) && !boston.are_open(at(11, 0)));
        assert_eq!(boston.opens_in(at(0, 30)), 30);
        assert_eq!(
            (brussels.to_string(), boston.to_string()),
            ("20:00-06:00 +02:00".into(), "20:00-06:00 -05:00".into())
        );
    }

    #[test]
    fn what_is_no_window_is_refused_with_what_would_do() {
        for wrong in [
            "",
            "20-06",
            "20:00",
            "24:00-06:00",
            "20:00-20:00",
            "20:60-06:00",
            "20:00-06:00 CET",
            "8:00-9:00",
            "20:00-06:00 +15:00",
        ] {
            let told = wrong.parse::<Hours>().unwrap_err().to_string();
            assert!(told.contains("20:00-06:00 +02:00"), "{told}");
        }
    }
}
