//! Files of keys and certificates: written beside, synced, renamed; keys with mode 0600 from the first byte.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::CertsError;

pub(crate) fn told<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> CertsError + 'a {
    move |source| CertsError::Disk { what, path: path.display().to_string(), source }
}

/// Writes a file that must not exist yet, with this mode from its first byte.
pub(crate) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), CertsError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(told("create", folder))?;
    // Of this writer alone: another one beside it would write another key into the same file.
    static WRITERS: AtomicU64 = AtomicU64::new(0);
    let (process, writer) = (std::process::id(), WRITERS.fetch_add(1, Ordering::Relaxed));
    let beside = path.with_added_extension(format!("{process}-{writer}.part"));
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&beside);
    let mut file = file.map_err(told("create", &beside))?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).map_err(told("write", &beside));
    // A link, unlike a rename, refuses to replace what is there.
    let linked = written.and_then(|()| fs::hard_link(&beside, path).map_err(told("create", path)));
    fs::remove_file(&beside).map_err(told("remove", &beside))?;
    linked?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(told("sync", folder))
}

/// Gives a file another name, in the place of what has it, durably.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), CertsError> {
    fs::rename(from, to).map_err(told("rename", from))?;
    let folder = to.parent().unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(told("sync", folder))
}

/// Writes a file in the place of what is there.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), CertsError> {
    let beside = path.with_added_extension("new");
    if beside.exists() {
        fs::remove_file(&beside).map_err(told("remove", &beside))?;
    }
    write_new(&beside, bytes, mode)?;
    rename(&beside, path)
}

/// The text of a file.
pub(crate) fn read(path: &Path) -> Result<String, CertsError> {
    fs::read_to_string(path).map_err(told("read", path))
}

/// The text of a file that only its owner may read.
pub(crate) fn read_secret(path: &Path) -> Result<String, CertsError> {
    let mode = fs::metadata(path).map_err(told("read", path))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(CertsError::KeyIsOpen { path: path.display().to_string(), mode });
    }
    read(path)
}
