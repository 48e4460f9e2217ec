//! What Linux says of a machine, as it is written in `/proc`; and amounts, for people.

/// Bytes of memory that programs can have without swapping: `MemAvailable` of `/proc/meminfo`.
pub fn available_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// A number of bytes, for people.
pub fn bytes(count: u64) -> String {
    match count {
        0..10_000 => format!("{count} bytes"),
        10_000..10_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.1} GB", count as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_in_kibibytes_and_what_is_written_otherwise_is_not_known() {
        let text = "MemTotal:       16318480 kB\nMemFree:          123456 kB\nMemAvailable:    8000000 kB\n";
        assert_eq!(available_memory(text), Some(8_192_000_000));
        assert_eq!(available_memory("MemTotal: 1 kB"), None);
        assert_eq!(available_memory("MemAvailable: much"), None);
    }

    #[test]
    fn a_number_of_bytes_has_the_unit_that_suits_it() {
        assert_eq!(
            [9_999, 43_000, 87_000_000, 12_300_000_000].map(bytes),
            ["9999 bytes", "43.0 kB", "87.0 MB", "12.3 GB"]
        );
    }
}
