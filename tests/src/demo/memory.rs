//! Memory of this process and all its descendants, from the process table.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Watches memory from a thread of its own, for as long as this value lives.
#[derive(Debug, Default)]
pub struct Watch(Arc<AtomicU64>);

impl Watch {
    /// Begins to watch.
    pub fn begin() -> Self {
        let most = Arc::new(AtomicU64::new(resident_bytes()));
        let watched = Arc::downgrade(&most);
        thread::spawn(move || {
            while let Some(most) = watched.upgrade() {
                most.fetch_max(resident_bytes(), Ordering::Relaxed);
                drop(most);
                thread::park_timeout(Duration::from_millis(200));
            }
        });
        Self(most)
    }

    /// The most that was seen so far, in bytes.
    pub fn most(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

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
