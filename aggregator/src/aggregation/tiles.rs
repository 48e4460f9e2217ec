//! Files of one layout, read and written a tile at a time; the digest of every byte is taken on the way, or its checksum where
//! this process took the digest itself when the bytes came.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use common::ids::DigestBuilder;
use common::{Digest, Encoding, SiteId};

use super::{Contribution, Damage, MergeError};
use crate::checksum::{Checksum, Checksummer};
use crate::layout::Layout;

/// What a file of the layout is.
#[derive(Clone, Copy)]
pub(super) enum Whose<'a> {
    /// The model that the round starts from.
    Model,
    /// A site's update.
    Site(&'a SiteId),
    /// A state of the server's optimizer.
    Server,
}

/// A file of a layout, read tile by tile; its header counts for the digest.
pub(super) struct Source<'a> {
    whose: Whose<'a>,
    file: &'a File,
    expected: Digest,
    layout: &'a Layout,
    seen: Seen,
    offset: u64,
    /// Values that are left, where they are written as they are.
    left: u64,
    blocks: Box<dyn Iterator<Item = usize> + Send + 'a>,
    bytes: Vec<u8>,
    /// Values that were decoded with the last tile's and come after it.
    ahead: Vec<f32>,
    pub(super) tile: Vec<f32>,
}

impl<'a> Source<'a> {
    pub(super) fn new(whose: Whose<'a>, file: &'a File, expected: Digest, layout: &'a Layout) -> Self {
        let (seen, blocks) = (Seen::Digest(DigestBuilder::default()), Box::new(layout.blocks()));
        let (bytes, ahead, tile, left) = (Vec::new(), Vec::new(), Vec::new(), layout.values());
        Self { whose, file, expected, layout, seen, offset: 0, left, blocks, bytes, ahead, tile }
    }

    /// A site's update, held to its checksum if there is one.
    pub(super) fn of_site(name: &'a SiteId, part: &'a Contribution, whole: &'a Layout) -> Self {
        let source = Self::new(Whose::Site(name), &part.file, part.digest, part.layout(whole));
        let Some(checked) = part.checked else { return source };
        Self { seen: Seen::Checksum(Checksummer::default(), checked), ..source }
    }

    /// The next tile, of so many values or as many as there are left; empty after the last.
    pub(super) fn next_tile(&mut self, values: usize) -> Result<&[f32], MergeError> {
        if self.offset == 0 {
            self.read(self.layout.header().len())?;
        }
        let encoding = self.layout.encoding();
        if encoding == Encoding::F32 {
            return self.next_plain_tile(values);
        }
        self.tile.clear();
        let waiting = self.ahead.len().min(values);
        self.tile.extend(self.ahead.drain(..waiting));
        while self.tile.len() < values {
            let Some(count) = self.blocks.next() else { break };
            self.read(encoding.block_bytes(count))?;
            // Such a block was refused when the update came in: the disk has changed it since, and the digest will say so.
            let end = self.tile.len() + count;
            if encoding.decode_block(&self.bytes, count, &mut self.tile).is_err() {
                self.tile.resize(end, 0.0);
            }
        }
        if self.tile.len() > values {
            self.ahead.extend(self.tile.drain(values..));
        }
        Ok(&self.tile)
    }

    /// Of values that are written as they are: read to where they are wanted.
    fn next_plain_tile(&mut self, values: usize) -> Result<&[f32], MergeError> {
        let width = usize::try_from(self.left).map_or(values, |left| left.min(values));
        self.tile.resize(width, 0.0);
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.tile);
        let read = self.file.read_exact_at(bytes, self.offset);
        self.seen.update(bytes);
        read.map_err(|source| self.told(source))?;
        self.offset += 4 * width as u64;
        self.left -= width as u64;
        if cfg!(target_endian = "big") {
            self.tile.iter_mut().for_each(|value| *value = f32::from_bits(value.to_bits().swap_bytes()));
        }
        Ok(&self.tile)
    }

    fn read(&mut self, bytes: usize) -> Result<(), MergeError> {
        self.bytes.resize(bytes, 0);
        self.file.read_exact_at(&mut self.bytes, self.offset).map_err(|source| self.told(source))?;
        self.seen.update(&self.bytes);
        self.offset += bytes as u64;
        Ok(())
    }

    fn told(&self, source: io::Error) -> MergeError {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            return self.damaged(Damage::Short(self.expected));
        }
        let what = match self.whose {
            Whose::Model => "the round's first model".to_owned(),
            Whose::Site(site) => format!("the update of {site}"),
            Whose::Server => "the server optimizer's state".to_owned(),
        };
        MergeError::Io { what, source }
    }

    fn damaged(&self, damage: Damage) -> MergeError {
        match self.whose {
            Whose::Model => MergeError::Base(damage),
            Whose::Site(site) => MergeError::Update { site: site.clone(), damage },
            Whose::Server => MergeError::State(damage),
        }
    }

    fn digest_again(&self) -> io::Result<Digest> {
        let (mut digest, mut bytes, mut offset) = (DigestBuilder::default(), vec![0; 256 << 10], 0);
        loop {
            match self.file.read_at(&mut bytes, offset)? {
                0 => return Ok(digest.finish()),
                count => {
                    digest.update(&bytes[..count]);
                    offset += count as u64;
                }
            }
        }
    }

    pub(super) fn require_digest(&self) -> Result<(), MergeError> {
        let found = match &self.seen {
            Seen::Digest(digest) => digest.clone().finish(),
            Seen::Checksum(checksum, expected) if checksum.finish() == *expected => return Ok(()),
            // What it has become is told by its digest; and if that is right, it was not the file that changed.
            Seen::Checksum(..) => self.digest_again().map_err(|source| self.told(source))?,
        };
        if found == self.expected {
            return Ok(());
        }
        Err(self.damaged(Damage::Changed { expected: self.expected, found }))
    }
}

/// What is known of the bytes that were read.
enum Seen {
    Digest(DigestBuilder),
    /// With the one that they must have.
    Checksum(Checksummer, Checksum),
}

impl Seen {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Digest(digest) => digest.update(bytes),
            Self::Checksum(checksum, _) => checksum.update(bytes),
        }
    }
}

/// A file of the layout, written tile by tile.
pub(super) struct Sink<'a> {
    what: &'static str,
    file: &'a mut File,
    digest: DigestBuilder,
    bytes: Vec<u8>,
}

impl<'a> Sink<'a> {
    pub(super) fn new(what: &'static str, file: &'a mut File) -> Self {
        Self { what, file, digest: DigestBuilder::default(), bytes: Vec::new() }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), MergeError> {
        self.digest.update(bytes);
        let written = self.file.write_all(bytes);
        written.map_err(|source| MergeError::Io { what: self.what.to_owned(), source })
    }

    pub(super) fn write_values(&mut self, values: &[f32]) -> Result<(), MergeError> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.resize(values.len() * 4, 0);
        let (words, _) = bytes.as_chunks_mut::<4>();
        words.iter_mut().zip(values).for_each(|(word, value)| *word = value.to_le_bytes());
        let written = self.write(&bytes);
        self.bytes = bytes;
        written
    }

    pub(super) fn finish(self) -> Digest {
        self.digest.finish()
    }
}
