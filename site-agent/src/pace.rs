//! A cap on bytes a second, as a value: the time is an argument, and the answer is how long to wait.

use std::time::Duration;

/// A bucket that fills at the permitted rate, up to one second's worth, and may be overdrawn by one piece: whoever overdraws
/// it waits until it is level again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    bytes_per_s: Option<f64>,
    credit: f64,
    at: Duration,
}

impl Bucket {
    /// A full bucket of so many megabytes (10^6 bytes) a second; none for no cap.
    pub fn of(mb_s: Option<f64>) -> Self {
        let bytes_per_s = mb_s.map(|mb_s| mb_s * 1e6);
        Self { bytes_per_s, credit: bytes_per_s.unwrap_or(0.0), at: Duration::ZERO }
    }

    /// Takes the bytes of a piece out, `now` on a clock that never goes back; returns how long to wait after it.
    pub fn take(&mut self, bytes: usize, now: Duration) -> Duration {
        let Some(rate) = self.bytes_per_s else { return Duration::ZERO };
        let filled = self.credit + now.saturating_sub(self.at).as_secs_f64() * rate;
        self.credit = filled.min(rate) - bytes as f64;
        self.at = now.max(self.at);
        Duration::try_from_secs_f64(-self.credit / rate).unwrap_or(Duration::ZERO)
    }

    /// The largest piece to send at once, so that a slow line is used evenly: a second's worth, 16 KiB to `most`.
    pub fn piece(&self, most: usize) -> usize {
        self.bytes_per_s.map_or(most, |rate| (rate as usize).clamp((16 << 10).min(most), most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_a_long_transfer_no_more_than_the_permitted_bytes_pass_and_no_fewer() {
        for (mb_s, piece) in [(0.01, 1 << 14), (0.5, 100_000), (3.0, 1 << 20), (80.0, 1 << 20)] {
            let mut bucket = Bucket::of(Some(mb_s));
            let (mut now, mut sent) = (Duration::ZERO, 0_usize);
            while now < Duration::from_secs(100) {
                let wait = bucket.take(piece, now);
                sent += piece;
                // A clock that ticks, so that a fast line is not served in no time at all.
                now += wait + Duration::from_millis(1);
            }
            let permitted = mb_s * 1e6 * now.as_secs_f64();
            let burst = mb_s * 1e6 + piece as f64;
            assert!(sent as f64 <= permitted + burst, "{mb_s} MB/s: {sent} of {permitted}");
            assert!(sent as f64 >= 0.95 * permitted, "{mb_s} MB/s: {sent} of {permitted}");
        }
    }

    #[test]
    fn an_idle_hour_is_worth_one_second_and_no_cap_never_waits() {
        let mut bucket = Bucket::of(Some(1.0));
        let hour = Duration::from_secs(3600);
        assert_eq!(bucket.take(1_000_000, hour), Duration::ZERO);
        assert_eq!(bucket.take(1_000_000, hour), Duration::from_secs(1));
        assert_eq!(bucket.take(500_000, hour), Duration::from_millis(1500));
        // A clock that went back gives nothing.
        assert_eq!(bucket.take(500_000, Duration::ZERO), Duration::from_secs(2));
        assert_eq!(Bucket::of(None).take(usize::MAX, Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn pieces_are_small_on_a_slow_line() {
        assert_eq!(Bucket::of(Some(0.001)).piece(1 << 20), 16 << 10);
        assert_eq!(Bucket::of(Some(0.1)).piece(1 << 20), 100_000);
        assert_eq!(Bucket::of(Some(50.0)).piece(1 << 20), 1 << 20);
        assert_eq!(Bucket::of(None).piece(1 << 20), 1 << 20);
    }
}
