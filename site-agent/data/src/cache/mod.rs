//! The frame cache: normalised 2-D frames of a site's images on disk, mapped into memory.
//!
//! ```text
//! cache/
//!   about              which site secret its keys were made with
//!   headers.log        what was found in each file, so that an unchanged file is not parsed again
//!   skipped.jsonl      the ledger of what was left out
//!   frames-<plan>/     for one ImagePlan
//!     frames-<n>.bin   frame after frame: frame_size squared u16, little-endian; only ever appended to
//!     series.log       which frames are which series; a record counts once its frames are on the disk
//! ```
//!
//! Each frame is held to its checksum whenever it is drawn. Both logs are rows of checksummed records; a torn tail is dropped when the cache is next written. Once most frames
//! belong to series that changed or went, the others are copied into the next `frames-<n>.bin`, and a new `series.log`,
//! which names it, is renamed into the old one's place.

mod frames;
mod log;
mod mapped;
mod record;
mod writer;

use std::io;
use std::path::{Path, PathBuf};

use common::Digest;
use common::codec::CodecError;
use common::plan::ImagePlan;

pub use frames::{FrameCache, FramePixels};
pub(crate) use log::Log;
pub(crate) use record::SeriesId;
pub use record::{FrameRef, SeriesRecord, SkippedImage, SliceRecord};
pub(crate) use writer::{CacheFolder, FrameWriter};

/// Why a cache cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Nothing was indexed here yet.
    #[error("{folder} holds no frame cache: run `site-agent index` on the folder with your images first")]
    NotBuilt {
        /// The cache's folder.
        folder: PathBuf,
    },
    /// Frames are here, but for another plan.
    #[error(
        "the frame cache {folder} was built for another image plan than {wanted}: run `site-agent index` again for this one"
    )]
    OtherPlan {
        /// The cache's folder.
        folder: PathBuf,
        /// First digits of the image plan that was asked for.
        wanted: String,
    },
    /// Written by another version of this program, which kept other things of a series.
    #[error(
        "the frame cache {folder} was written by another version of the site agent: run `site-agent index` again on the folder with your images"
    )]
    OtherVersion {
        /// The cache's folder.
        folder: PathBuf,
    },
    /// Made under another secret, so that its subjects are other pseudonyms.
    #[error(
        "the frame cache {folder} was built under another site secret: restore that secret, or delete the cache and index again"
    )]
    OtherSecret {
        /// The cache's folder.
        folder: PathBuf,
    },
    /// Another process is writing.
    #[error("the frame cache {folder} is being written by another process: wait until it has ended")]
    Busy {
        /// The cache's folder.
        folder: PathBuf,
    },
    /// The bytes are not those that were written.
    #[error("the frame cache {folder} is damaged ({what}): delete the folder and index again")]
    Damaged {
        /// The cache's folder.
        folder: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The disk refused.
    #[error("the frame cache {path} cannot be used: {source}; check its permissions and the free space")]
    Disk {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl CacheError {
    pub(crate) fn disk(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Disk { path, source }
    }

    pub(crate) fn record(folder: &Path) -> impl FnOnce(CodecError) -> Self {
        let folder = folder.to_owned();
        move |error| Self::Damaged { folder, what: error.to_string() }
    }
}

/// What the frames of a cache depend on: size, spacing and percentiles, not the mean and deviation that crops apply.
pub(crate) fn plan_digest(images: &ImagePlan) -> Digest {
    let ImagePlan { frame_size, spacing_mm, low_percentile, high_percentile, mean: _, std: _ } = images;
    let mut bytes = (*frame_size as u64).to_le_bytes().to_vec();
    for number in [spacing_mm, low_percentile, high_percentile] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    Digest::of(&bytes)
}

pub(crate) fn frames_folder(cache: &Path, images: &ImagePlan) -> PathBuf {
    cache.join(format!("frames-{}", plan_digest(images).short()))
}
