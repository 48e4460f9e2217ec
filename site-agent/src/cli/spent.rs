//! What a command takes of its machine.

use std::fs;
use std::time::Instant;

/// Counts from its making on.
pub(super) struct Spent(Instant);

impl Spent {
    pub(super) fn begin() -> Self {
        Self(Instant::now())
    }

    /// Seconds since then.
    pub(super) fn seconds(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }

    /// The most memory this process held at a time so far, MiB, where the system tells it (Linux).
    pub(super) fn peak_mib() -> Option<u64> {
        peak_mib_of(&fs::read_to_string("/proc/self/status").ok()?)
    }
}

fn peak_mib_of(status: &str) -> Option<u64> {
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = peak.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kib.div_ceil(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_of_memory_is_read_where_the_system_tells_it() {
        assert_eq!(peak_mib_of("Name:\tagent\nVmPeak:\t  900000 kB\nVmHWM:\t   20481 kB\n"), Some(21));
        assert_eq!(peak_mib_of("Name:\tagent\n"), None);
        assert_eq!(peak_mib_of("VmHWM:\t much kB\n"), None);
    }
}
