//! The files of a source, in one order wherever they are walked: sorted by path, links not followed.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use common::Digest;
use common::ids::DigestBuilder;
use serde::{Deserialize, Serialize};

use crate::skip::SkipReason;

/// A file of a source.
#[derive(Clone, Debug)]
pub(crate) struct WalkedFile {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Its path below the source.
    pub(crate) below: PathBuf,
    /// The same for the ledger, where what is no UTF-8 is not told apart.
    pub(crate) relative: String,
    /// Tells whether it changed; none if it cannot be looked at.
    pub(crate) stamp: Result<Stamp, SkipReason>,
}

/// What tells whether a file changed without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    size: u64,
    modified_s: i64,
    modified_ns: i64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self { size: metadata.len(), modified_s: metadata.mtime(), modified_ns: metadata.mtime_nsec() }
    }

    /// What stands for the file's content in a series' record, wherever the file lies.
    pub(crate) fn digest(&self) -> Digest {
        let mut digest = DigestBuilder::default();
        digest.update(&self.size.to_le_bytes());
        digest.update(&self.modified_s.to_le_bytes());
        digest.update(&self.modified_ns.to_le_bytes());
        digest.finish()
    }
}

/// All regular files below a folder, or the one file that the source is. An error only if the source itself cannot
/// be read: what cannot be read below it is among the files, with the reason.
pub(crate) fn walk(source: &Path) -> io::Result<Vec<WalkedFile>> {
    let metadata = fs::metadata(source)?;
    if !metadata.is_dir() {
        let folder = source.parent().unwrap_or(source);
        return Ok(vec![walked(folder, source.to_owned(), Ok(Stamp::of(&metadata)))]);
    }
    let mut files = Vec::new();
    let mut folders = vec![source.to_owned()];
    while let Some(folder) = folders.pop() {
        let listed = fs::read_dir(&folder);
        if listed.is_err() && folder == source {
            return listed.map(|_| Vec::new());
        }
        let Ok(listed) = listed else {
            files.push(walked(source, folder, Err(SkipReason::Unreadable)));
            continue;
        };
        for entry in listed {
            let Ok(entry) = entry else {
                files.push(walked(source, folder.clone(), Err(SkipReason::Unreadable)));
                continue;
            };
            let path = entry.path();
            match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_dir() => folders.push(path),
                Ok(metadata) if metadata.is_file() => files.push(walked(source, path, Ok(Stamp::of(&metadata)))),
                Ok(metadata) if metadata.is_symlink() => {
                    files.push(walked(source, path, Err(SkipReason::SymbolicLink)));
                }
                Ok(_) => {} // a socket, a pipe or a device is no image
                Err(_) => files.push(walked(source, path, Err(SkipReason::Unreadable))),
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn walked(source: &Path, path: PathBuf, stamp: Result<Stamp, SkipReason>) -> WalkedFile {
    let below = path.strip_prefix(source).unwrap_or(&path).to_owned();
    let relative = below.to_string_lossy().into_owned();
    WalkedFile { path, below, relative, stamp }
}
