//! The two clocks: one that only moves forward, for deadlines, and the wall's, for people, tokens and records.
//!
//! The only module of the aggregator that reads either. Everything else takes a time as an argument.

use std::fmt::Debug;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A moment on the wall's clock: milliseconds since 1970 began, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stamp(pub u64);

impl Stamp {
    /// The moment so much later.
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The time from `earlier` to this moment; zero if the wall's clock was set back in between.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Whole seconds since 1970 began.
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }
}

/// What tells the time.
pub trait Clock: Send + Sync + Debug {
    /// Time since some moment; never goes back, whatever is done to the wall's clock.
    fn elapsed(&self) -> Duration;
    /// The wall's clock.
    fn wall(&self) -> Stamp;
}

/// The system's clocks.
#[derive(Debug)]
pub struct SystemClock {
    began: Instant,
}

impl SystemClock {
    /// Clocks that begin now.
    pub fn new() -> Self {
        Self { began: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    fn wall(&self) -> Stamp {
        wall()
    }
}

/// The wall's clock, for a command that asks once.
#[expect(clippy::disallowed_methods, reason = "this is the shell around the wall's clock")]
pub fn wall() -> Stamp {
    // A clock before 1970 counts as 1970: certificates and tokens are refused then, which is right.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Stamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
