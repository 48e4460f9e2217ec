//! A file of records that is only appended to: u32 length, then the record as `common::codec` frames it.
//!
//! Reading stops at the first record that is not whole; what lies behind it was never acknowledged.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use common::codec::{self, Kind};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::CacheError;

/// An open log.
pub(crate) struct Log<T> {
    path: PathBuf,
    file: File,
    kind: Kind,
    unwritten: Vec<u8>,
    records: PhantomData<T>,
}

impl<T: Serialize + DeserializeOwned> Log<T> {
    /// Opens a log for appending, drops a torn tail, and gives all records to `each`.
    pub(crate) fn open(path: &Path, kind: Kind, mut each: impl FnMut(T)) -> Result<Self, CacheError> {
        let disk = || CacheError::disk(path);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(disk())?;
        let whole = read_records(&mut file, kind, &mut each).map_err(disk())?;
        file.set_len(whole).map_err(disk())?;
        file.seek(SeekFrom::Start(whole)).map_err(disk())?;
        Ok(Self { path: path.to_owned(), file, kind, unwritten: Vec::new(), records: PhantomData })
    }

    /// Gives all whole records of a log to `each`, without touching the file.
    pub(crate) fn read(path: &Path, kind: Kind, mut each: impl FnMut(T)) -> io::Result<()> {
        read_records(&mut File::open(path)?, kind, &mut each)?;
        Ok(())
    }

    /// Takes a record in; it is on the disk after the next [`Log::sync`].
    pub(crate) fn append(&mut self, record: &T) -> Result<(), CacheError> {
        let bytes = codec::encode(self.kind, record).map_err(CacheError::record(&self.path))?;
        // A record is at most 256 MiB: `common::codec::MAX_BODY`.
        self.unwritten.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.unwritten.extend_from_slice(&bytes);
        Ok(())
    }

    /// Writes what was appended and waits until the disk has it.
    pub(crate) fn sync(&mut self) -> Result<(), CacheError> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        self.file.write_all(&self.unwritten).map_err(CacheError::disk(&self.path))?;
        self.file.sync_data().map_err(CacheError::disk(&self.path))?;
        self.unwritten.clear();
        Ok(())
    }
}

/// Where the whole records end.
fn read_records<T: DeserializeOwned>(file: &mut File, kind: Kind, each: &mut impl FnMut(T)) -> io::Result<u64> {
    let size = file.metadata()?.len();
    let mut reader = io::BufReader::with_capacity(1 << 20, file);
    let mut whole = 0;
    loop {
        let left = size - whole;
        let mut length = [0; 4];
        if left < 4 {
            return Ok(whole);
        }
        reader.read_exact(&mut length)?;
        let length = u64::from(u32::from_le_bytes(length));
        if length > left - 4 {
            return Ok(whole);
        }
        let mut record = vec![0; length as usize]; // no more than the file holds
        reader.read_exact(&mut record)?;
        let Ok(value) = codec::decode(kind, &record) else { return Ok(whole) };
        each(value);
        whole += 4 + length;
    }
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
}
