//! How long to wait before the same is tried again.

use std::time::Duration;

/// Pauses that double after each failure, up to half a minute.
#[derive(Debug)]
pub(super) struct Pauses {
    first: Duration,
    next: Duration,
}

impl Pauses {
    pub(super) fn new(first: Duration) -> Self {
        Self { first, next: first }
    }

    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }

    pub(super) fn longer(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(Duration::from_secs(30));
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_half_a_minute_and_start_over_after_a_success() {
        let mut pauses = Pauses::new(Duration::from_secs(10));
        let taken: Vec<_> = (0..4).map(|_| pauses.longer().as_secs()).collect();
        assert_eq!(taken, [10, 20, 30, 30]);
        pauses.reset();
        assert_eq!(pauses.longer().as_secs(), 10);
    }
}
