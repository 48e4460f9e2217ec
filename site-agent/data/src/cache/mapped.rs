//! A file mapped into memory: the only unsafe code of this crate.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

/// The first bytes of a file, readable as a slice.
pub(super) struct Mapped(Option<Mmap>);

impl Mapped {
    /// Maps `length` bytes; the file must hold them. For none it need not be there.
    pub(super) fn open(path: &Path, length: u64) -> io::Result<Self> {
        if length == 0 {
            return Ok(Self(None));
        }
        let file = File::open(path)?;
        if file.metadata()?.len() < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::FileTooLarge)?;
        #[expect(
            unsafe_code,
            reason = "a mapping is sound while nobody changes the mapped bytes: a file of frames is only \
            appended to, never cut, by the one process that holds the lock"
        )]
        let map = unsafe { memmap2::MmapOptions::new().len(length).map(&file) }?;
        Ok(Self(Some(map)))
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }
}
