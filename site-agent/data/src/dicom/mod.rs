//! One DICOM file: its elements checked, its allow-listed attributes, its pixels.
//!
//! ```text
//! bytes -> scan (every length against the file's size) -> header (our own struct) -> pixels (modality values)
//! ```
//!
//! Knows no folder, no series and no cache. Everything here runs in the intake worker, because the parsers below it
//! are not written for hostile files.

mod functional_groups;
mod header;
mod pixels;
mod scan;
mod source;

pub use header::{Component, FrameHeader, ImageHeader, NoSubject, read_header};
pub use pixels::{Pixels, read_pixels};
pub use scan::{Encoding, PixelSpan, Scanned, scan};
pub use source::{FileSource, MemorySource, Source};
