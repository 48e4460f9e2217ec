//! Writing a cache: frames first, then the record that makes them count.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use common::codec::{self, Kind};
use common::ids::DigestBuilder;
use common::plan::ImagePlan;

use super::log::Log;
use super::record::{FramesFile, SERIES, SeriesEntry, SeriesId, SeriesRecord, frame_sum};
use super::{CacheError, frames_folder};
use crate::durable::{replace, sync_folder};
use crate::keys::{PathKey, SiteSecret};

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
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
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
    latest: BTreeMap<SeriesId, SeriesRecord>,
    uncommitted: u64,
}

/// Bytes after which frames are flushed to the disk and their series count.
const BATCH: u64 = 64 << 20;

impl FrameWriter {
    /// Opens the frames of a plan; what a kill left unfinished does not count.
    pub(crate) fn open(cache: &CacheFolder, images: &ImagePlan) -> Result<Self, CacheError> {
        let folder = frames_folder(cache.path(), images);
        fs::create_dir_all(&folder).map_err(CacheError::disk(&folder))?;
        sync_folder(cache.path()).map_err(CacheError::disk(cache.path()))?;
        let records = match read_series(&folder) {
            // Its frames are made again.
            Err(CacheError::OtherVersion { .. }) => Records::default(),
            read => read?,
        };
        remove_other_frames(&folder, records.file)?;
        let (held, recorded) = (bytes_in(&folder, records.file)?, committed(records.all_frames, images));
        if held < recorded {
            let what = format!("{} holds {held} of the {recorded} bytes that were written", records.file.name());
            return Err(CacheError::Damaged { folder, what });
        }
        let live: u64 = records.latest.values().map(SeriesRecord::frame_count).sum();
        let mostly_dead = held > committed(2 * live + 1024, images);
        let compacted = if mostly_dead { compact(&folder, &records, images)? } else { None };
        let records = compacted.unwrap_or(records);
        let log = Log::open(&folder.join(LOG), SERIES, |_| ())?;
        let path = folder.join(records.file.name());
        let frames = OpenOptions::new().append(true).create(true).open(&path).map_err(CacheError::disk(&path))?;
        // Frames that no record counts stay, the last one filled up: a cut under a reader's mapping would end it.
        let next = bytes_in(&folder, records.file)?.div_ceil(committed(1, images).max(1));
        frames.set_len(committed(next, images)).map_err(CacheError::disk(&path))?;
        sync_folder(&folder).map_err(CacheError::disk(&folder))?;
        Ok(Self { path, images: images.clone(), frames, log, next, latest: records.latest, uncommitted: 0 })
    }

    /// What is known of each series.
    pub(crate) fn latest(&self) -> &BTreeMap<SeriesId, SeriesRecord> {
        &self.latest
    }

    /// Frames of all sources.
    pub(crate) fn frame_count(&self) -> u64 {
        self.latest.values().map(SeriesRecord::frame_count).sum()
    }

    /// Appends a series with its frames: `frame_size` squared fractions each. A series that is here as it is is not
    /// written again.
    pub(crate) fn add(&mut self, mut record: SeriesRecord, frames: &[Vec<u16>]) -> Result<(), CacheError> {
        let mut digest = DigestBuilder::default();
        record.sums.clear();
        for frame in frames {
            let bytes = little_endian(frame);
            digest.update(&bytes);
            record.sums.push(frame_sum(&bytes));
        }
        record.pixels = digest.finish();
        if let Some(held) = self.latest.get(&record.id()) {
            record.first_frame = held.first_frame;
            if record == *held {
                return Ok(());
            }
        }
        record.first_frame = self.next;
        for frame in frames {
            let bytes = little_endian(frame);
            self.frames.write_all(&bytes).map_err(CacheError::disk(&self.path))?;
            self.uncommitted += bytes.len() as u64;
        }
        self.next += frames.len() as u64;
        self.relabel(record)?;
        if self.uncommitted >= BATCH { self.commit() } else { Ok(()) }
    }

    /// Replaces what is said of a series whose frames stay.
    pub(crate) fn relabel(&mut self, record: SeriesRecord) -> Result<(), CacheError> {
        self.log.append(&SeriesEntry::Kept(Box::new(record.clone())))?;
        self.latest.insert(record.id(), record);
        Ok(())
    }

    /// Forgets a series.
    pub(crate) fn remove(&mut self, id: SeriesId) -> Result<(), CacheError> {
        self.log.append(&SeriesEntry::Removed(id))?;
        self.latest.remove(&id);
        Ok(())
    }

    /// Forgets all series of a source, for good once this returns.
    pub(crate) fn remove_source(&mut self, source: PathKey) -> Result<(), CacheError> {
        let of: Vec<SeriesId> = self.latest.keys().copied().filter(|id| id.0 == source).collect();
        of.into_iter().try_for_each(|id| self.remove(id))?;
        self.commit()
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

/// The log of the series in a folder of frames.
const LOG: &str = "series.log";

/// What `series.log` says in the end.
#[derive(Default)]
pub(super) struct Records {
    pub(super) latest: BTreeMap<SeriesId, SeriesRecord>,
    /// Frames ever recorded, with those of series that changed or went.
    pub(super) all_frames: u64,
    pub(super) file: FramesFile,
}

impl Records {
    fn take(&mut self, entry: SeriesEntry) {
        match entry {
            SeriesEntry::Kept(record) => {
                self.all_frames = self.all_frames.max(record.first_frame.saturating_add(record.frame_count()));
                self.latest.insert(record.id(), *record);
            }
            SeriesEntry::Removed(id) => {
                self.latest.remove(&id);
            }
            SeriesEntry::Frames(file) => self.file = file,
        }
    }
}

pub(super) fn read_series(folder: &Path) -> Result<Records, CacheError> {
    let mut records = Records::default();
    Log::read(&folder.join(LOG), SERIES, |entry| records.take(entry))?;
    Ok(records)
}

/// Copies the frames that count into the next file. The new log's rename is the one step that makes it so: a kill
/// before leaves the old log with the old file, which stays until the folder is next opened for writing, for a
/// reader that has just read the old log. Where there is no room for a copy, or anything else stands against it, what was copied is
/// given back, and the old file goes on: none is then the answer.
fn compact(folder: &Path, held: &Records, images: &ImagePlan) -> Result<Option<Records>, CacheError> {
    let file = FramesFile(held.file.0.wrapping_add(1));
    let (to, beside) = (folder.join(file.name()), folder.join("series.new"));
    let copied = copy_living(folder, held, file, &beside, images)
        .and_then(|copied| fs::rename(&beside, folder.join(LOG)).map(|()| copied).map_err(CacheError::disk(&beside)));
    let Ok(copied) = copied else {
        // What cannot be removed now is when the folder is next opened for writing.
        let _ = (fs::remove_file(&to), fs::remove_file(&beside));
        return Ok(None);
    };
    sync_folder(folder).map_err(CacheError::disk(folder))?;
    Ok(Some(copied))
}

/// The frames that count in another file, and beside the log one that says so; both on the disk.
fn copy_living(
    folder: &Path,
    held: &Records,
    file: FramesFile,
    beside: &Path,
    images: &ImagePlan,
) -> Result<Records, CacheError> {
    let mut compacted = Records { file, ..Records::default() };
    let (from, to) = (folder.join(held.file.name()), folder.join(file.name()));
    remove_if_there(beside)?;
    let mut log = Log::open(beside, SERIES, |_: SeriesEntry| ())?;
    log.append(&SeriesEntry::Frames(compacted.file))?;
    let mut source = File::open(&from).map_err(CacheError::disk(&from))?;
    let mut target = File::create(&to).map_err(CacheError::disk(&to))?;
    for mut record in held.latest.values().cloned() {
        let start = SeekFrom::Start(committed(record.first_frame, images));
        source.seek(start).map_err(CacheError::disk(&from))?;
        let mut frames = (&mut source).take(committed(record.frame_count(), images));
        io::copy(&mut frames, &mut target).map_err(CacheError::disk(&to))?;
        record.first_frame = compacted.all_frames;
        log.append(&SeriesEntry::Kept(Box::new(record.clone())))?;
        compacted.take(SeriesEntry::Kept(Box::new(record)));
    }
    target.sync_data().map_err(CacheError::disk(&to))?;
    log.sync()?;
    sync_folder(folder).map_err(CacheError::disk(folder))?;
    Ok(compacted)
}

/// Removes the files of frames that a compaction left, whether or not it came to its end. A folder of such a name is none of ours.
fn remove_other_frames(folder: &Path, keep: FramesFile) -> Result<(), CacheError> {
    for entry in fs::read_dir(folder).map_err(CacheError::disk(folder))? {
        let path = entry.map_err(CacheError::disk(folder))?.path();
        let is_frames = path.extension().is_some_and(|end| end == "bin") && !path.is_dir();
        if is_frames && path != folder.join(keep.name()) {
            fs::remove_file(&path).map_err(CacheError::disk(&path))?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<(), CacheError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CacheError::disk(path)(error)),
        _ => Ok(()),
    }
}

fn bytes_in(folder: &Path, file: FramesFile) -> Result<u64, CacheError> {
    let path = folder.join(file.name());
    match fs::metadata(&path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(CacheError::disk(&path)(error)),
    }
}

fn little_endian(frame: &[u16]) -> Vec<u8> {
    let mut bytes = vec![0; frame.len() * 2];
    bytes.as_chunks_mut::<2>().0.iter_mut().zip(frame).for_each(|(to, value)| *to = value.to_le_bytes());
    bytes
}

/// Bytes of so many frames.
pub(super) fn committed(frames: u64, images: &ImagePlan) -> u64 {
    frames.saturating_mul(2 * (images.frame_size as u64).pow(2))
}
