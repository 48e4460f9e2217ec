//! A lock on a file, for whoever changes keys and certificates: of one holder at a time, and let go of by the kernel when its
//! process ends, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::CertsError;
use crate::files::told;

/// A lock that is held as long as this value lives.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Drop for Lock {
    /// Unlocks rather than closes: a child process on its way from fork to exec holds a copy of the descriptor, and with it
    /// the lock.
    fn drop(&mut self) {
        // A lock that cannot be let go of ends with the process.
        let _ = self.file.unlock();
    }
}

impl Lock {
    /// Takes the lock on the file at `path`, which is made if it is not there; waits for whoever holds it.
    pub fn wait(path: &Path) -> Result<Self, CertsError> {
        let file = opened(path)?;
        file.lock().map_err(told("lock", path))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// The same without waiting: none if somebody holds it.
    pub fn take(path: &Path) -> Result<Option<Self>, CertsError> {
        let file = opened(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { file, path: path.to_owned() })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(told("lock", path)(source)),
        }
    }

    /// Writes a line into the file, for people who look at who holds it.
    pub fn note(&self, line: &str) -> Result<(), CertsError> {
        let written = self.file.set_len(0).and_then(|()| writeln!(&self.file, "{line}"));
        written.map_err(told("write", &self.path))
    }
}

fn opened(path: &Path) -> Result<File, CertsError> {
    // What it holds is for people; the lock is the kernel's, and a file that another user left is locked by reading it.
    let written = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let opened = written.or_else(|error| match error.kind() {
        ErrorKind::PermissionDenied => File::open(path),
        _ => Err(error),
    });
    opened.map_err(told("open", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_has_one_holder_at_a_time_and_whoever_waits_gets_it_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = Lock::wait(&path).unwrap();
        assert!(Lock::take(&path).unwrap().is_none());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| Lock::wait(&path).unwrap());
            drop(held);
            let next = waits.join().unwrap();
            assert!(Lock::take(&path).unwrap().is_none());
            drop(next);
        });
        assert!(Lock::take(&path).unwrap().is_some());
    }
}
