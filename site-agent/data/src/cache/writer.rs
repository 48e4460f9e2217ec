//! Writing a cache: frames first, then the record that makes them count.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use common::codec::{self, Kind};
use common::ids::DigestBuilder;
use common::plan::ImagePlan;

use super::log::Log;
use super::record::{SERIES, SeriesEntry, SeriesRecord};
use super::{CacheError, frames_folder};
use crate::durable::{replace, sync_folder};
use crate::keys::{SeriesKey, SiteSecret};

const ABOUT: Kind = Kind { name: *b"frcache\0", version: 1 };

/// A cache's folder, locked for writing.
pub(crate) struct CacheFolder {
    path: PathBuf,
    lock: File,
}

impl Drop for CacheFolder {
    /// Unlocks rather than closes: a child process on its way from fork to exec holds a copy of the descriptor, and with it
    /// the lock.
    fn drop(&mut self) {
        // A lock that cannot be let go of ends with the process; the next writer is told that it is held.
        let _ = self.lock.unlock();
    }
}

impl CacheFolder {
    /// Makes or opens a cache's folder, and keeps other writers out while it is held.
    pub(crate) fn lock(path: &Path, secret: &SiteSecret) -> Result<Self, CacheError> {
        let disk = || CacheError::disk(path);
        fs::create_dir_all(path).map_err(disk())?;
        let lock =
            OpenOptions::new().write(true).create(true).truncate(false).open(path.join("lock")).map_err(disk())?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => CacheError::Busy { folder: path.to_owned() },
            fs::TryLockError::Error(error) => CacheError::disk(path)(error),
        })?;
        let about = path.join("about");
        match fs::read(&about) {
            Ok(record) => {
                let held: [u8; 16] = codec::decode(ABOUT, &record).map_err(CacheError::record(path))?;
                if held != secret.fingerprint() {
                    return Err(CacheError::OtherSecret { folder: path.to_owned() });
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let record = codec::encode(ABOUT, &secret.fingerprint()).map_err(CacheError::record(path))?;
                replace(&about, &record).map_err(disk())?;
            }
            Err(error) => return Err(disk()(error)),
        }
        Ok(Self { path: path.to_owned(), lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the frames of every other image plan.
    pub(crate) fn remove_other_plans(&self, images: &ImagePlan) -> Result<(), CacheError> {
        let keep = frames_folder(&self.path, images);
        for entry in fs::read_dir(&self.path).map_err(CacheError::disk(&self.path))? {
            let path = entry.map_err(CacheError::disk(&self.path))?.path();
            let frames = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("frames-"));
            if frames && path != keep {
                fs::remove_dir_all(&path).map_err(CacheError::disk(&path))?;
            }
        }
        Ok(())
    }
}

/// Appends series to the frames of one image plan.
pub(crate) struct FrameWriter {
    path: PathBuf,
    images: ImagePlan,
    frames: File,
    log: Log<SeriesEntry>,
    next: u64,
    latest: BTreeMap<SeriesKey, SeriesRecord>,
    uncommitted: u64,
}

/// Bytes after which frames are flushed to the disk and their series count.
const BATCH: u64 = 64 << 20;

impl FrameWriter {
    /// Opens the frames of a plan; what a kill left unfinished is dropped.
    pub(crate) fn open(cache: &CacheFolder, images: &ImagePlan) -> Result<Self, CacheError> {
        let folder = frames_folder(cache.path(), images);
        let mostly_dead = folder.exists() && {
            let held = read_series(&folder)?;
            let live: u64 = held.latest.values().map(SeriesRecord::frame_count).sum();
            held.all_frames > 2 * live + 1024
        };
        if mostly_dead {
            // More than half of the file belongs to series that changed or went: it is made anew.
            fs::remove_dir_all(&folder).map_err(CacheError::disk(&folder))?;
        }
        fs::create_dir_all(&folder).map_err(CacheError::disk(&folder))?;
        let mut records = Records::default();
        let log = Log::open(&folder.join("series.log"), SERIES, |entry| records.take(entry))?;
        let path = folder.join("frames.bin");
        let disk = || CacheError::disk(&path);
        let mut frames =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(disk())?;
        let end = committed(records.all_frames, images);
        let found = frames.metadata().map_err(disk())?.len();
        if found < end {
            let what = format!("frames.bin holds {found} of the {end} bytes that were written");
            return Err(CacheError::Damaged { folder, what });
        }
        frames.set_len(end).map_err(disk())?;
        frames.seek(SeekFrom::Start(end)).map_err(disk())?;
        sync_folder(&folder).map_err(CacheError::disk(&folder))?;
        sync_folder(cache.path()).map_err(CacheError::disk(cache.path()))?;
        let Records { latest, all_frames: next } = records;
        Ok(Self { path, images: images.clone(), frames, log, next, latest, uncommitted: 0 })
    }

    /// What is known of each series.
    pub(crate) fn latest(&self) -> &BTreeMap<SeriesKey, SeriesRecord> {
        &self.latest
    }

    /// Appends a series with its frames: `frame_size` squared fractions each.
    pub(crate) fn add(&mut self, mut record: SeriesRecord, frames: &[Vec<u16>]) -> Result<(), CacheError> {
        record.first_frame = self.next;
        let mut digest = DigestBuilder::default();
        for frame in frames {
            let mut bytes = vec![0; frame.len() * 2];
            bytes.as_chunks_mut::<2>().0.iter_mut().zip(frame).for_each(|(to, value)| *to = value.to_le_bytes());
            digest.update(&bytes);
            self.frames.write_all(&bytes).map_err(CacheError::disk(&self.path))?;
            self.uncommitted += bytes.len() as u64;
        }
        record.pixels = digest.finish();
        self.next += frames.len() as u64;
        self.relabel(record)?;
        if self.uncommitted >= BATCH { self.commit() } else { Ok(()) }
    }

    /// Replaces what is said of a series whose frames stay.
    pub(crate) fn relabel(&mut self, record: SeriesRecord) -> Result<(), CacheError> {
        self.log.append(&SeriesEntry::Kept(Box::new(record.clone())))?;
        self.latest.insert(record.key, record);
        Ok(())
    }

    /// Forgets a series.
    pub(crate) fn remove(&mut self, key: SeriesKey) -> Result<(), CacheError> {
        self.log.append(&SeriesEntry::Removed(key))?;
        self.latest.remove(&key);
        Ok(())
    }

    /// Waits until everything so far is on the disk: frames first, then the records that make them count.
    pub(crate) fn commit(&mut self) -> Result<(), CacheError> {
        if self.uncommitted > 0 {
            self.frames.sync_data().map_err(CacheError::disk(&self.path))?;
            self.uncommitted = 0;
        }
        self.log.sync()
    }

    /// The plan of these frames.
    pub(crate) fn images(&self) -> &ImagePlan {
        &self.images
    }
}

/// What `series.log` says in the end.
#[derive(Default)]
pub(super) struct Records {
    pub(super) latest: BTreeMap<SeriesKey, SeriesRecord>,
    /// Frames ever written, with those of series that changed or went.
    pub(super) all_frames: u64,
}

impl Records {
    fn take(&mut self, entry: SeriesEntry) {
        match entry {
            SeriesEntry::Kept(record) => {
                self.all_frames = self.all_frames.max(record.first_frame.saturating_add(record.frame_count()));
                self.latest.insert(record.key, *record);
            }
            SeriesEntry::Removed(key) => {
                self.latest.remove(&key);
            }
        }
    }
}

pub(super) fn read_series(folder: &Path) -> Result<Records, CacheError> {
    let mut records = Records::default();
    let path = folder.join("series.log");
    match Log::read(&path, SERIES, |entry| records.take(entry)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(CacheError::disk(&path)(error)),
        _ => Ok(records),
    }
}

/// Bytes of so many frames.
pub(super) fn committed(frames: u64, images: &ImagePlan) -> u64 {
    frames.saturating_mul(2 * (images.frame_size as u64).pow(2))
}
