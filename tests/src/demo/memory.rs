//! Memory of this process and all its descendants, from the process table.

use std::collections::BTreeMap;
use std::fs;

/// Resident bytes of this process and everything it started, now. Pages shared between them are counted for each.
pub fn resident_bytes() -> u64 {
    let mut parents: BTreeMap<u32, (u32, u64)> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else { continue };
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        if let (Some(parent), Some(kib)) = (field("PPid:"), field("VmRSS:")) {
            parents.insert(id, (parent as u32, kib * 1024));
        }
    }
    let root = std::process::id();
    let descends = |mut id: u32| loop {
        if id == root {
            return true;
        }
        match parents.get(&id) {
            Some(&(parent, _)) if parent != id => id = parent,
            _ => return false,
        }
    };
    parents.iter().filter(|(id, _)| descends(**id)).map(|(_, (_, bytes))| bytes).sum()
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_takes_some_memory_and_less_than_the_machine_has() {
        let bytes = super::resident_bytes();
        assert!((1 << 20..1 << 36).contains(&bytes), "{bytes}");
    }
}
