//! Files that are there whole or not at all: written beside, synced, renamed, the folder synced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use certs::CertsError;
use certs::lock::Lock;

/// Why a file could not be written or read, and where.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}: {source}{}", remedy(.source))]
pub struct DiskError {
    /// What was tried.
    pub what: &'static str,
    /// The file or folder, under the agent's state folder.
    pub path: String,
    /// The system's answer.
    pub source: io::Error,
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space: an agent that still runs goes on by itself, what has ended is started again"
        }
        io::ErrorKind::PermissionDenied => "; the folder must be writable by the user the agent runs as",
        _ => "",
    }
}

impl DiskError {
    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        is_full(&self.source)
    }
}

/// Whether the system says that the disk, or the quota on it, is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Names a failed operation.
pub fn told<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> DiskError + 'a {
    move |source| DiskError { what, path: path.display().to_string(), source }
}

/// Writes a file so that after a crash it holds either its old bytes or these.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    require_no_folder(path)?;
    make_folder(folder_of(path))?;
    let beside = path.with_added_extension("part");
    let file = File::create(&beside).map_err(told("create", &beside))?;
    filled(file, &beside, path, bytes)
}

/// The same of a file that nobody but its user may read (0600), at any moment.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    require_no_folder(path)?;
    make_folder(folder_of(path))?;
    let beside = path.with_added_extension("part");
    // What a crash has left keeps the mode that it has.
    remove(&beside)?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside);
    filled(file.map_err(told("create", &beside))?, &beside, path, bytes)
}

/// Nothing is written beside what no file can take the place of.
fn require_no_folder(path: &Path) -> Result<(), DiskError> {
    let source = || io::Error::new(io::ErrorKind::IsADirectory, "it is a folder: name a file in it");
    if path.is_dir() { Err(told("write", path)(source())) } else { Ok(()) }
}

fn filled(mut file: File, beside: &Path, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(told("write", beside))?;
    publish(beside, path)
}

/// Makes a folder and those above it that are not there, so that a power cut does not take them with all that is in them.
fn make_folder(folder: &Path) -> Result<(), DiskError> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder_of(folder);
    make_folder(above)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(told("create", folder)(error)),
        _ => {}
    }
    File::open(above).and_then(|above| above.sync_all()).map_err(told("sync", above))
}

/// Gives a synced file its final name.
pub fn publish(beside: &Path, path: &Path) -> Result<(), DiskError> {
    fs::rename(beside, path).map_err(told("rename", path))?;
    let folder = folder_of(path);
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(told("sync", folder))
}

/// Removes a file, if it is there, for good.
pub fn remove(path: &Path) -> Result<(), DiskError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(told("remove", path)(error)),
        Ok(()) => {
            let folder = folder_of(path);
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(told("sync", folder))
        }
    }
}

/// Takes the lock beside a file that is read, changed and written by more than one program, so that none undoes what another one did in
/// between; waits for whoever holds it.
pub fn lock_beside(path: &Path) -> Result<Lock, DiskError> {
    make_folder(folder_of(path))?;
    let beside = path.with_added_extension("lock");
    Lock::wait(&beside).map_err(told_of_lock(&beside))
}

/// The same without waiting: none if somebody holds it.
pub fn try_lock_beside(path: &Path) -> Result<Option<Lock>, DiskError> {
    make_folder(folder_of(path))?;
    let beside = path.with_added_extension("lock");
    Lock::take(&beside).map_err(told_of_lock(&beside))
}

fn told_of_lock(path: &Path) -> impl FnOnce(CertsError) -> DiskError + '_ {
    move |error| match error {
        CertsError::Disk { what, path, source } => DiskError { what, path, source },
        other => told("lock", path)(io::Error::other(other)),
    }
}

/// The folder that a file lies in: of a bare name, the one where the program runs.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The bytes of a file.
pub fn read(path: &Path) -> Result<Vec<u8>, DiskError> {
    fs::read(path).map_err(told("read", path))
}

/// The bytes of a file, if it is there.
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, DiskError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(told("read", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_private_is_read_by_its_user_alone_also_over_what_others_could_read() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("subjects.csv");
        write(&path, b"old").unwrap();
        write(&path.with_added_extension("part"), b"left by a crash").unwrap();
        write_private(&path, b"new").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!((read(&path).unwrap(), fs::read_dir(folder.path()).unwrap().count()), (b"new".to_vec(), 1));
    }

    #[test]
    fn a_folder_is_not_written_over_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("models");
        fs::create_dir(&path).unwrap();
        for refused in [write(&path, b"model"), write_private(&path, b"model")] {
            assert!(refused.unwrap_err().to_string().contains("models: it is a folder: name a file in it"));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_bare_name_lies_where_the_program_runs() {
        let folders = ["page.html", "a/page.html", "/page.html"].map(|path| folder_of(Path::new(path)));
        assert_eq!(folders, [".", "a", "/"].map(Path::new));
    }
}
