//! What an intake permits: sizes, expansion, and what a parser may use.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bounds on what is read. Anything beyond is skipped with a reason, never tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IntakeLimits {
    /// Largest file or archive entry, in bytes.
    pub file_bytes: u64,
    /// Largest header of a file (all before the pixels), in bytes.
    pub header_bytes: u64,
    /// Largest image once decoded, in bytes.
    pub pixel_bytes: u64,
    /// Least rows and columns of an image; a smaller one shows no heart.
    pub smallest_side: u32,
    /// Largest frame as stored, in bytes.
    pub frame_bytes: u64,
    /// Most frames of one multi-frame image.
    pub image_frames: u32,
    /// Largest series once on the plan's grid, in bytes: what the intake itself, outside of its parsers, holds of it.
    pub series_bytes: u64,
    /// Largest archive once expanded, in bytes.
    pub archive_bytes: u64,
    /// Entries of an archive.
    pub archive_entries: usize,
    /// Frames of all images of an archive together: what is said of each is held, and written down as one record.
    pub archive_frames: u32,
    /// Times that an entry may be larger than its compressed form.
    pub expansion: u64,
    /// Memory that a parser may use beyond what it starts with, in bytes.
    pub worker_memory: u64,
    /// Processor time that a parser may use in its life, in seconds; each serves many files.
    pub worker_cpu_s: u64,
    /// Time that one request to a parser may take, in seconds.
    pub request_s: u64,
}

impl Default for IntakeLimits {
    fn default() -> Self {
        Self {
            file_bytes: 512 << 20,
            header_bytes: 64 << 20,
            pixel_bytes: 256 << 20,
            smallest_side: 8,
            frame_bytes: 32 << 20,
            image_frames: 8192,
            series_bytes: 1 << 30,
            archive_bytes: 8 << 30,
            archive_entries: 100_000,
            archive_frames: 1 << 18,
            expansion: 100,
            worker_memory: 1 << 30,
            worker_cpu_s: 120,
            request_s: 30,
        }
    }
}

impl IntakeLimits {
    /// Time that one request to a parser may take.
    pub fn request_time(&self) -> Duration {
        Duration::from_secs(self.request_s)
    }
}
