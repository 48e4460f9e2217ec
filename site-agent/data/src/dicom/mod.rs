//! One DICOM file: its elements checked, its allow-listed attributes, its pixels.
//!
//! ```text
//! bytes -> scan (every length against the file's size) -> header (our own struct) -> pixels (modality values)
//! ```
//!
//! Knows no folder, no series and no cache. Everything here runs in the intake worker, because the parsers below it
//! are not written for hostile files.

mod attributes;
mod functional_groups;
mod header;
mod opened;
mod pixels;
mod scan;
mod shape;
mod source;
mod streams;

pub(crate) use header::{Component, FrameHeader, ImageHeader, Substitutes, read_header};
pub(crate) use opened::{standard_uid, transfer_syntax};
pub(crate) use pixels::{Pixels, read_pixels};
pub(crate) use source::{FileSource, MemorySource, Source};

#[cfg(test)]
#[path = "../../tests/intake/support.rs"]
pub(crate) mod support;
#[cfg(test)]
mod tests;
