//! A file of records that is only appended to: u32 length, then the record as `common::codec` frames it.
//!
//! A kill while writing leaves a torn tail, which was never acknowledged and is dropped. A whole record behind one that
//! is not whole tells that the disk lost what it had: that is damage, and nothing is dropped.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use common::codec::{self, CodecError, Kind};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::CacheError;

/// An open log.
pub(crate) struct Log<T> {
    path: PathBuf,
    file: File,
    kind: Kind,
    /// Bytes that are on the disk, whole records all.
    whole: u64,
    unwritten: Vec<u8>,
    records: PhantomData<T>,
}

impl<T: Serialize + DeserializeOwned> Log<T> {
    /// Opens a log for appending, drops a torn tail, and gives all records to `each`. A log of another version begins
    /// anew: a cache can be made again.
    pub(crate) fn open(path: &Path, kind: Kind, mut each: impl FnMut(T)) -> Result<Self, CacheError> {
        let disk = || CacheError::disk(path);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(disk())?;
        let whole = match read_records(path, &mut file, kind, &mut each) {
            Err(CacheError::OtherVersion { .. }) => 0,
            read => read?,
        };
        file.set_len(whole).map_err(disk())?;
        file.seek(SeekFrom::Start(whole)).map_err(disk())?;
        Ok(Self { path: path.to_owned(), file, kind, whole, unwritten: Vec::new(), records: PhantomData })
    }

    /// Gives all whole records of a log to `each`, without touching the file; a log that is not there has none.
    pub(crate) fn read(path: &Path, kind: Kind, mut each: impl FnMut(T)) -> Result<(), CacheError> {
        match File::open(path) {
            Ok(mut file) => read_records(path, &mut file, kind, &mut each).map(|_| ()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(CacheError::disk(path)(error)),
        }
    }

    /// Takes a record in; it is on the disk after the next [`Log::sync`].
    pub(crate) fn append(&mut self, record: &T) -> Result<(), CacheError> {
        let bytes = codec::encode(self.kind, record).map_err(CacheError::record(&self.path))?;
        // A record is at most 256 MiB: `common::codec::MAX_BODY`.
        self.unwritten.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.unwritten.extend_from_slice(&bytes);
        Ok(())
    }

    /// Writes what was appended and waits until the disk has it. What could not be written is written by the next one.
    pub(crate) fn sync(&mut self) -> Result<(), CacheError> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all(&self.unwritten).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            self.take_back();
            return Err(CacheError::disk(&self.path)(error));
        }
        self.whole += self.unwritten.len() as u64;
        self.unwritten.clear();
        Ok(())
    }

    /// Takes off what of the unwritten got to the file: a whole record behind a torn one would be damage. Where that fails as well,
    /// the next write finds the file as it is.
    fn take_back(&mut self) {
        let whole = self.whole;
        let taken = self.file.set_len(whole).and_then(|()| self.file.seek(SeekFrom::Start(whole)));
        drop(taken);
    }
}

/// Where the whole records end.
fn read_records<T: DeserializeOwned>(
    path: &Path,
    file: &mut File,
    kind: Kind,
    each: &mut impl FnMut(T),
) -> Result<u64, CacheError> {
    let disk = || CacheError::disk(path);
    let folder = || path.parent().unwrap_or(path).to_owned();
    let size = file.metadata().map_err(disk())?.len();
    let mut reader = io::BufReader::with_capacity(1 << 20, file);
    let (mut whole, mut other_version) = (0, false);
    while let Some(record) = next_record(&mut reader, size - whole).map_err(disk())? {
        match codec::decode(kind, &record) {
            Ok(value) => each(value),
            Err(error) => {
                other_version = whole == 0 && matches!(error, CodecError::Version { .. });
                break;
            }
        }
        whole += 4 + record.len() as u64;
    }
    let mut tail = Vec::new();
    reader.seek(SeekFrom::Start(whole)).map_err(disk())?;
    reader.take(size - whole).read_to_end(&mut tail).map_err(disk())?;
    if holds_record::<T>(kind, &tail) {
        let what = format!("a record at byte {whole} is not whole, although whole ones follow it");
        return Err(CacheError::Damaged { folder: folder(), what });
    }
    if other_version {
        return Err(CacheError::OtherVersion { folder: folder() });
    }
    Ok(whole)
}

/// The next record, unless the bytes that are left end before it does.
fn next_record(reader: &mut impl Read, left: u64) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    if left < 4 {
        return Ok(None);
    }
    reader.read_exact(&mut length)?;
    let length = u64::from(u32::from_le_bytes(length));
    if length > left - 4 {
        return Ok(None);
    }
    let mut record = vec![0; length as usize]; // no more than the file holds
    reader.read_exact(&mut record)?;
    Ok(Some(record))
}

/// Whether a whole record begins anywhere in the bytes behind the first one that is not.
fn holds_record<T: DeserializeOwned>(kind: Kind, tail: &[u8]) -> bool {
    tail.windows(4 + kind.name.len()).enumerate().any(|(place, mark)| {
        let begins = mark.ends_with(&kind.name) && place >= 4;
        begins && {
            let (length, record) = tail[place - 4..].split_at(4);
            let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
            record.get(..length).is_some_and(|record| codec::decode::<T>(kind, record).is_ok())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind { name: *b"testlog\0", version: 1 };

    fn records(path: &Path) -> Vec<String> {
        let mut found = Vec::new();
        Log::read(path, KIND, |record: String| found.push(record)).unwrap();
        found
    }

    #[test]
    fn a_log_cut_at_any_byte_keeps_its_whole_records_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = Log::open(&path, KIND, |_: String| ()).unwrap();
        for record in ["one", "two", "three"] {
            log.append(&record.to_owned()).unwrap();
        }
        assert!(records(&path).is_empty(), "nothing counts before it is synced");
        log.sync().unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let before = records(&path);
            let mut log = Log::open(&path, KIND, |_: String| ()).unwrap();
            log.append(&"new".to_owned()).unwrap();
            log.sync().unwrap();
            let after = records(&path);
            assert_eq!(after, [before, vec!["new".to_owned()]].concat(), "cut at {cut}");
        }
    }

    #[test]
    fn a_damaged_record_with_whole_ones_behind_it_is_named_and_nothing_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = Log::open(&path, KIND, |_: String| ()).unwrap();
        for record in ["one", "two", "three"] {
            log.append(&record.to_owned()).unwrap();
        }
        log.sync().unwrap();
        let whole = std::fs::read(&path).unwrap();
        let record = whole.len() / 3;
        for place in 0..2 * record {
            let mut damaged = whole.clone();
            damaged[place] ^= 0x10;
            std::fs::write(&path, &damaged).unwrap();
            let opened = Log::open(&path, KIND, |_: String| ());
            assert!(matches!(opened, Err(CacheError::Damaged { .. })), "byte {place}");
            assert!(matches!(Log::read(&path, KIND, |_: String| ()), Err(CacheError::Damaged { .. })), "byte {place}");
            assert_eq!(std::fs::read(&path).unwrap(), damaged, "byte {place}");
        }
    }

    #[test]
    fn what_a_full_disk_cut_short_is_written_whole_once_there_is_room_with_what_came_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = Log::open(&path, KIND, |_: u32| ()).unwrap();
        log.append(&1).unwrap();
        log.sync().unwrap();
        log.append(&2).unwrap();
        // As far as there was room.
        let half = log.unwritten[..log.unwritten.len() / 2].to_vec();
        log.file.write_all(&half).unwrap();
        log.take_back();
        log.append(&3).unwrap();
        log.sync().unwrap();
        let mut read = Vec::new();
        Log::read(&path, KIND, |value: u32| read.push(value)).unwrap();
        assert_eq!(read, [1, 2, 3]);
    }
}
