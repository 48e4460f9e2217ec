//! A disk that fails, fills up, or loses at a power cut whatever was not synced: what was written to a file since its last
//! fsync, and every name that was made, moved or removed since the last fsync of its folder. A file that is moved from one folder
//! to another has both names if only its new one was synced, and none if only the loss of its old one was.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libc::{EIO, ENOSPC, c_int};

use super::calls;

/// What happens at one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing.
    None,
    /// It answers EIO, and has no effect.
    Fails,
    /// It and so many more that need room answer ENOSPC.
    Full(usize),
    /// The process is killed just before it; what it wrote is there.
    Killed,
    /// The power is cut just before it; what was not synced is lost.
    PowerCut,
    /// The power is cut in the middle of it; what was not synced is there, and half of these bytes.
    Torn,
}

/// A call that changes the disk or waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Open { path: PathBuf, is_new: bool },
    Write { path: PathBuf, count: usize },
    Cut { path: PathBuf },
    Sync { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf },
    Remove { path: PathBuf },
    MakeFolder { path: PathBuf },
}

impl Call {
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Open { path, .. }
            | Self::Write { path, .. }
            | Self::Cut { path }
            | Self::Sync { path }
            | Self::Rename { to: path, .. }
            | Self::Remove { path }
            | Self::MakeFolder { path } => path,
        }
    }

    pub(super) fn is_below_the_disk(&self) -> bool {
        lock().as_ref().is_some_and(|disk| self.path().starts_with(&disk.root))
    }

    fn needs_room(&self) -> bool {
        matches!(
            self,
            Self::Write { .. } | Self::MakeFolder { .. } | Self::Rename { .. } | Self::Open { is_new: true, .. }
        )
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Open { is_new: true, .. } => "make",
            Self::Open { .. } => "empty",
            Self::Write { .. } => "write",
            Self::Cut { .. } => "cut",
            Self::Sync { .. } => "sync",
            Self::Rename { .. } => "rename",
            Self::Remove { .. } => "remove",
            Self::MakeFolder { .. } => "make folder",
        };
        let name = self.path().file_name().unwrap_or_default().to_string_lossy();
        write!(f, "{what} {}", if name.len() > 32 { name.split_at(32).0 } else { &name })
    }
}

/// What is to become of a call.
pub(super) enum Verdict {
    Happens,
    Fails(c_int),
}

/// How a change of names is taken back.
enum Undo {
    Made(PathBuf),
    MadeFolder(PathBuf),
    Renamed { from: PathBuf, to: PathBuf, replaced: Option<Vec<u8>> },
    Removed { path: PathBuf, bytes: Vec<u8> },
}

/// Whether the syncs of a file or folder are left out, by the parts of its path below the disk's.
pub(super) type LeftOut = fn(&[&str]) -> bool;

/// The disk below a folder.
pub(super) struct Disk {
    root: PathBuf,
    at: usize,
    fault: Fault,
    /// Of what a sync does nothing and says that it did: a bug that only a power cut shows.
    leaves_out: LeftOut,
    calls: Vec<Call>,
    /// Bytes of a file, by its inode, as they were last synced.
    synced: BTreeMap<u64, Vec<u8>>,
    /// Changes of names that were not synced, in their order, with the folders that must be.
    names: Vec<(Vec<PathBuf>, Undo)>,
    /// What is judged and has not happened yet: what is taken back if it does.
    pending: Option<(Vec<PathBuf>, Undo)>,
}

static ARMED: AtomicBool = AtomicBool::new(false);
static DISK: Mutex<Option<Disk>> = Mutex::new(None);

thread_local! {
    /// Whether this thread is in here already: what the disk itself does is not judged.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

fn lock() -> MutexGuard<'static, Option<Disk>> {
    DISK.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn arm(disk: Disk) {
    *lock() = Some(disk);
    ARMED.store(true, Ordering::SeqCst);
}

/// The calls so far.
pub(super) fn calls() -> Vec<Call> {
    lock().as_ref().map_or(Vec::new(), |disk| disk.calls.clone())
}

pub(super) fn judges() -> bool {
    ARMED.load(Ordering::Relaxed) && !INSIDE.get()
}

/// Runs `work` on the disk, unjudged.
fn inside<T>(work: impl FnOnce(&mut Disk) -> T) -> Option<T> {
    INSIDE.set(true);
    let done = lock().as_mut().map(work);
    INSIDE.set(false);
    done
}

pub(super) fn before(call: &Call) -> Verdict {
    inside(|disk| disk.before(call)).unwrap_or(Verdict::Happens)
}

pub(super) fn after(call: &Call, happened: bool) {
    inside(|disk| disk.after(call, happened));
}

/// How many bytes of a write are written.
pub(super) fn some_of(count: usize) -> usize {
    let half = |disk: &mut Disk| disk.fault == Fault::Torn && disk.calls.len() == disk.at;
    if inside(half) == Some(true) { count / 2 } else { count }
}

/// The mark that a disk's process came as far as to the call of its fault.
pub(super) fn dealt(root: &Path) -> PathBuf {
    root.with_added_extension("dealt")
}

impl Disk {
    pub(super) fn below(root: &Path, at: usize, fault: Fault, leaves_out: LeftOut) -> Self {
        let (calls, synced, names, pending) = Default::default();
        Self { root: root.to_owned(), at, fault, leaves_out, calls, synced, names, pending }
    }

    fn before(&mut self, call: &Call) -> Verdict {
        let number = self.calls.len();
        self.calls.push(call.clone());
        if number == self.at && self.fault != Fault::None {
            fs::write(dealt(&self.root), call.to_string()).expect("a mark beside the disk");
        }
        match self.fault {
            Fault::Fails if number == self.at => return Verdict::Fails(EIO),
            Fault::Full(more) if (self.at..=self.at + more).contains(&number) && call.needs_room() => {
                return Verdict::Fails(ENOSPC);
            }
            Fault::Killed if number == self.at => calls::die(),
            Fault::PowerCut if number == self.at => self.cut_the_power(),
            _ => {}
        }
        self.remember(call);
        Verdict::Happens
    }

    fn after(&mut self, call: &Call, happened: bool) {
        if let Some(pending) = self.pending.take()
            && happened
        {
            self.names.push(pending);
        }
        if let Call::Sync { path } = call
            && happened
            && !self.is_left_out(path)
        {
            match path.is_dir() {
                true => self.names.retain_mut(|(folders, _)| {
                    folders.retain(|folder| folder != path);
                    !folders.is_empty()
                }),
                false => drop(inode(path).map(|inode| self.synced.remove(&inode))),
            }
        }
        if self.fault == Fault::Torn && self.calls.len() == self.at + 1 && matches!(call, Call::Write { .. }) {
            calls::die();
        }
    }

    fn is_left_out(&self, path: &Path) -> bool {
        let below = path.strip_prefix(&self.root).unwrap_or(path);
        (self.leaves_out)(&below.iter().filter_map(|part| part.to_str()).collect::<Vec<_>>())
    }

    /// Keeps what a power cut would bring back. The index beside the write-ahead log is no file to the disk: SQLite makes it
    /// anew after a crash.
    fn remember(&mut self, call: &Call) {
        if call.path().to_string_lossy().ends_with("-shm") {
            return;
        }
        let bytes = |path: &Path| fs::read(path).unwrap_or_default();
        let folder = call.path().parent().unwrap_or(&self.root).to_owned();
        match call {
            Call::Open { path, is_new: true } => self.pending = Some((vec![folder], Undo::Made(path.clone()))),
            Call::Open { path, .. } | Call::Write { path, .. } | Call::Cut { path } => {
                if let Some(inode) = inode(path) {
                    self.synced.entry(inode).or_insert_with(|| bytes(path));
                }
            }
            Call::Rename { from, to } => {
                let replaced = to.exists().then(|| self.last_synced(to));
                let left = from.parent().filter(|left| **left != *folder).map(Path::to_owned);
                let folders = left.into_iter().chain([folder]).collect();
                self.pending = Some((folders, Undo::Renamed { from: from.clone(), to: to.clone(), replaced }));
            }
            Call::Remove { path } if path.exists() => {
                self.pending =
                    Some((vec![folder], Undo::Removed { path: path.clone(), bytes: self.last_synced(path) }));
            }
            Call::MakeFolder { path } => self.pending = Some((vec![folder], Undo::MadeFolder(path.clone()))),
            Call::Remove { .. } | Call::Sync { .. } => {}
        }
    }

    /// What a file that goes away held when it was synced last. Another may get its inode.
    fn last_synced(&mut self, path: &Path) -> Vec<u8> {
        let synced = inode(path).and_then(|inode| self.synced.remove(&inode));
        synced.unwrap_or_else(|| fs::read(path).unwrap_or_default())
    }

    fn cut_the_power(&mut self) -> ! {
        restore(&self.root, &self.synced);
        for (folders, undo) in self.names.drain(..).rev() {
            let undone = match undo {
                // It may have another name since, which is safe.
                Undo::Made(path) if !path.exists() => Ok(()),
                Undo::Made(path) => fs::remove_file(path),
                // With all that is in it, synced or not: nobody finds it.
                Undo::MadeFolder(path) => fs::remove_dir_all(path),
                Undo::Renamed { to, .. } if !to.exists() => Ok(()),
                Undo::Renamed { from, to, replaced } => {
                    let is_synced = |path: &Path| !folders.iter().any(|folder| path.parent() == Some(folder));
                    match (is_synced(&from), is_synced(&to)) {
                        (_, true) => fs::hard_link(&to, from),
                        (false, false) => fs::rename(&to, from),
                        (true, false) => fs::remove_file(&to),
                    }
                    .and_then(|()| match replaced.filter(|_| !is_synced(&to)) {
                        Some(bytes) => fs::write(to, bytes),
                        None => Ok(()),
                    })
                }
                Undo::Removed { path, bytes } => fs::write(path, bytes),
            };
            undone.expect("what was not synced is taken back");
        }
        calls::die()
    }
}

/// Gives every file below a folder that was changed since its last sync the bytes that it had then.
fn restore(folder: &Path, synced: &BTreeMap<u64, Vec<u8>>) {
    for entry in fs::read_dir(folder).expect("the folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            restore(&path, synced);
        } else if let Some(bytes) = inode(&path).and_then(|inode| synced.get(&inode)) {
            fs::write(&path, bytes).expect("what was not synced is lost");
        }
    }
}

fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|found| found.ino())
}
