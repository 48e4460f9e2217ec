//! One server to one state folder: a lock on a file, which the kernel lets go of when the process ends, however it ends.

use std::path::{Path, PathBuf};

use certs::CertsError;
use certs::lock::Lock;

/// The right to serve a state folder; held as long as this value lives.
#[derive(Debug)]
pub struct StateLock {
    _lock: Lock,
}

/// Why a state folder cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another server has it.
    #[error("{0} is served by another aggregator already: stop that one first, or use another state folder")]
    Taken(PathBuf),
    /// The lock file cannot be made, or locked.
    #[error(transparent)]
    File(#[from] CertsError),
}

impl StateLock {
    /// Takes the state folder, or says who has it.
    pub fn take(state: &Path) -> Result<Self, LockError> {
        let lock = Lock::take(&state.join("lock"))?.ok_or_else(|| LockError::Taken(state.to_owned()))?;
        // For people who look; the lock is the kernel's.
        lock.note(&std::process::id().to_string())?;
        Ok(Self { _lock: lock })
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
