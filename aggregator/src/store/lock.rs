//! One server to one state folder: a lock on a file, which the kernel lets go of when the process ends, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The right to serve a state folder; held as long as this value lives.
#[derive(Debug)]
pub struct StateLock {
    file: File,
}

impl Drop for StateLock {
    /// Unlocks rather than closes: a child process on its way from fork to exec holds a copy of the descriptor, and with it
    /// the lock.
    fn drop(&mut self) {
        // A lock that cannot be let go of ends with the process; the next server is told that it is held.
        let _ = self.file.unlock();
    }
}

/// Why a state folder cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another server has it.
    #[error("{0} is served by another aggregator already: stop that one first, or use another state folder")]
    Taken(PathBuf),
    /// The lock file cannot be made.
    #[error("{path} cannot be locked: {source}")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl StateLock {
    /// Takes the state folder, or says who has it.
    pub fn take(state: &Path) -> Result<Self, LockError> {
        let path = state.join("lock");
        let told = |source| LockError::Io { path: path.clone(), source };
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(told)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::Taken(state.to_owned())),
            Err(TryLockError::Error(source)) => return Err(told(source)),
        }
        // For people who look; the lock is the kernel's.
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(told)?;
        Ok(Self { file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_folder_has_one_server_at_a_time() {
        let state = tempfile::tempdir().unwrap();
        let first = StateLock::take(state.path()).unwrap();
        assert!(matches!(StateLock::take(state.path()), Err(LockError::Taken(_))));
        drop(first);
        StateLock::take(state.path()).unwrap();
    }
}
