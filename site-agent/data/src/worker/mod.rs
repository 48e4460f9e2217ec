//! Who parses files: this process, or a child of it under limits.
//!
//! ```text
//! intake ── Parser ──▶ Examiner                       in this process: tests, and files one trusts
//!                 └──▶ Remote ── pipe ──▶ child: Examiner     hostile files stay outside
//! ```

mod child;
mod examiner;
mod protocol;
mod remote;

use std::path::Path;

pub use child::worker_main;
pub(crate) use examiner::Examiner;
#[cfg(test)]
pub(crate) use examiner::guarded;
pub(crate) use remote::Remote;

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

/// Reads files. Whatever a file holds, an answer comes back.
pub(crate) trait Parser {
    /// What a file is.
    fn open(&mut self, path: &Path) -> Result<Content, SkipReason>;

    /// The header of an archive's entry.
    fn header(&mut self, path: &Path, entry: u32) -> Result<Box<ImageHeader>, SkipReason>;

    /// The modality values of `count` frames from `first` on, which must be as large as the caller takes them to be.
    /// [count x rows x columns]
    fn frames(
        &mut self,
        path: &Path,
        entry: Option<u32>,
        first: u32,
        count: u32,
        matrix: [u32; 2],
    ) -> Result<Vec<f32>, SkipReason>;
}
