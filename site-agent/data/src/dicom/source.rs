//! Bytes at a position, from a file or from memory.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of known length that can be read anywhere.
pub(crate) trait Source {
    /// How many bytes there are.
    fn size(&self) -> u64;

    /// Fills the buffer with the bytes from `offset` on; an error if there are not enough.
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()>;
}

/// Bytes in memory: an archive's entry, or an inflated data set.
pub(crate) struct MemorySource(pub Vec<u8>);

impl Source for MemorySource {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(into.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        into.copy_from_slice(self.0.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A file, read through a window so that a walk over its headers costs few system calls.
pub(crate) struct FileSource {
    file: File,
    size: u64,
    window: Vec<u8>,
    window_at: u64,
}

const WINDOW: u64 = 16 << 10;

impl FileSource {
    /// Opens a file for reading.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { file, size, window: Vec::new(), window_at: 0 })
    }
}

impl Source for FileSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let wanted = into.len() as u64;
        if wanted > WINDOW / 2 {
            return self.file.read_exact_at(into, offset);
        }
        let held = self.window_at..self.window_at + self.window.len() as u64;
        if !(held.contains(&offset) && offset + wanted <= held.end) {
            let length = self.size.saturating_sub(offset).min(WINDOW);
            self.window.resize(length as usize, 0);
            self.window_at = offset;
            if let Err(error) = self.file.read_exact_at(&mut self.window, offset) {
                self.window.clear();
                return Err(error);
            }
        }
        let start = (offset - self.window_at) as usize;
        into.copy_from_slice(self.window.get(start..start + into.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// The bytes of a source from one position to another, as a stream.
pub(super) struct Span<'a> {
    pub(super) source: &'a mut dyn Source,
    pub(super) at: u64,
    pub(super) end: u64,
}

impl Read for Span<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX));
        self.source.read_at(self.at, &mut buffer[..length])?;
        self.at += length as u64;
        Ok(length)
    }
}
