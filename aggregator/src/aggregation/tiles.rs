//! Files of one layout, read and written a tile at a time; the digest of every byte is taken on the way.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use common::ids::DigestBuilder;
use common::{Digest, SiteId};

use super::{Damage, MergeError};
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

/// A file of the layout, read tile by tile; its header counts for the digest.
pub(super) struct Source<'a> {
    whose: Whose<'a>,
    file: &'a File,
    expected: Digest,
    layout: &'a Layout,
    digest: DigestBuilder,
    next: u64,
    bytes: Vec<u8>,
    pub(super) tile: Vec<f32>,
}

impl<'a> Source<'a> {
    pub(super) fn new(whose: Whose<'a>, file: &'a File, expected: Digest, layout: &'a Layout, values: usize) -> Self {
        let digest = DigestBuilder::default();
        Self { whose, file, expected, layout, digest, next: 0, bytes: vec![0; values * 4], tile: vec![0.0; values] }
    }

    /// The next tile, of so many values or as many as there are left; empty after the last.
    pub(super) fn next_tile(&mut self, values: usize) -> Result<&[f32], MergeError> {
        if self.next == 0 {
            let mut header = vec![0; self.layout.header().len()];
            self.file.read_exact_at(&mut header, 0).map_err(|source| self.told(source))?;
            self.digest.update(&header);
        }
        let left = self.layout.values() - self.next;
        let most = values.min(self.bytes.len() / 4);
        let width = usize::try_from(left).map_or(most, |left| left.min(most));
        let bytes = &mut self.bytes[..width * 4];
        let read = self.file.read_exact_at(bytes, self.layout.offset(self.next));
        read.map_err(|source| self.told(source))?;
        let bytes = &self.bytes[..width * 4];
        self.digest.update(bytes);
        self.next += width as u64;
        let (words, _) = bytes.as_chunks::<4>();
        self.tile.clear();
        self.tile.extend(words.iter().map(|&word| f32::from_le_bytes(word)));
        Ok(&self.tile)
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

    pub(super) fn require_digest(&self) -> Result<(), MergeError> {
        let found = self.digest.clone().finish();
        if found == self.expected {
            return Ok(());
        }
        Err(self.damaged(Damage::Changed { expected: self.expected, found }))
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
