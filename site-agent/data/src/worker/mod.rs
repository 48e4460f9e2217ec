//! Who parses files: this process, or a child of it under limits.
//!
//! ```text
//! intake ── Parser ──▶ Examiner                       in this process: tests, and files one trusts
//!                 └──▶ Remote ── pipe ──▶ child: Examiner     a process under limits, between the kernel's walls
//! ```

mod child;
mod examiner;
mod protocol;
mod remote;
mod sandbox;

use std::path::Path;

pub use child::worker_main;
pub(crate) use examiner::Examiner;
#[cfg(test)]
pub(crate) use examiner::guarded;
pub(crate) use remote::Remote;
pub use sandbox::holds_files;

use serde::{Deserialize, Serialize};

use crate::archive::Entry;
use crate::dicom::ImageHeader;
use crate::skip::SkipReason;

/// What a file is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content {
    /// One image.
    Image(Box<ImageHeader>),
    /// An archive with these files.
    Archive(Vec<Entry>),
}

/// Frames of one image that follow each other.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Span {
    /// Which entry, if the file is an archive.
    pub(crate) entry: Option<u32>,
    /// The first frame.
    pub(crate) first: u32,
    /// How many.
    pub(crate) count: u32,
    /// Rows and columns, as the caller takes them to be.
    pub(crate) matrix: [u32; 2],
}

impl Span {
    /// Values in all: `count` times rows times columns.
    pub(crate) fn values(&self) -> usize {
        let [rows, columns] = self.matrix;
        [self.count, rows, columns].into_iter().fold(1_usize, |product, size| product.saturating_mul(size as usize))
    }
}

/// Reads files. Whatever a file holds, an answer comes back.
pub(crate) trait Parser {
    /// What a file is.
    fn open(&mut self, path: &Path) -> Result<Content, SkipReason>;

    /// The header of an archive's entry.
    fn header(&mut self, path: &Path, entry: u32) -> Result<Box<ImageHeader>, SkipReason>;

    /// The UID of the transfer syntax that a file, or an archive's entry, says it is in; `unknown` for what is none of the
    /// standard's.
    fn syntax(&mut self, path: &Path, entry: Option<u32>) -> Result<String, SkipReason>;

    /// The modality values of some frames, as many as the span has.
    fn frames(&mut self, path: &Path, span: Span) -> Result<Vec<f32>, SkipReason>;
}
