//! A file whose lengths have been checked, and the parser that may now read it.
//!
//! Knows which transfer syntaxes can be decoded here; a deflated data set is inflated under a cap and walked again.

use std::io::Read;

use dicom_encoding::Codec;
use dicom_object::file::ReadPreamble;
use dicom_object::{DefaultDicomObject, FileMetaTableBuilder, OpenFileOptions};
use dicom_transfer_syntax_registry::{TransferSyntaxIndex, TransferSyntaxRegistry};

use super::scan::{Scanned, is_deflated, scan, scan_data_set};
use super::source::{MemorySource, Source, Span};
use crate::limits::IntakeLimits;
use crate::skip::SkipReason;

/// A file whose lengths have been checked, with its data set inflated if it was deflated.
pub(super) struct Opened<'a> {
    scanned: Scanned,
    source: Inflated<'a>,
}

enum Inflated<'a> {
    AsIs(&'a mut dyn Source),
    Memory(MemorySource),
}

impl<'a> Opened<'a> {
    pub(super) fn new(source: &'a mut dyn Source, limits: &IntakeLimits) -> Result<Self, SkipReason> {
        let bytes = source.size();
        if bytes > limits.file_bytes {
            return Err(SkipReason::TooLarge { bytes, limit: limits.file_bytes });
        }
        let scanned = scan(source)?;
        if !is_supported(&scanned.transfer_syntax) {
            return Err(SkipReason::TransferSyntax { uid: standard_uid(&scanned.transfer_syntax) });
        }
        if !is_deflated(&scanned.transfer_syntax) {
            return Ok(Self { scanned, source: Inflated::AsIs(source) });
        }
        let inflated = inflate(source, scanned.data_set, limits)?;
        let mut source = MemorySource(inflated);
        let (pixels, end) = scan_data_set(&mut source, 0, scanned.encoding)?;
        let transfer_syntax = "1.2.840.10008.1.2.1".to_owned();
        let scanned = Scanned { transfer_syntax, data_set: 0, pixels, end, ..scanned };
        Ok(Self { scanned, source: Inflated::Memory(source) })
    }

    /// Hands what the walk found and the bytes to a reader.
    pub(super) fn read<T>(
        mut self,
        reader: impl FnOnce(&Scanned, &mut dyn Source) -> Result<T, SkipReason>,
    ) -> Result<T, SkipReason> {
        match &mut self.source {
            Inflated::AsIs(source) => reader(&self.scanned, *source),
            Inflated::Memory(source) => reader(&self.scanned, source),
        }
    }
}

/// Parses a checked span of a file. The meta group given to the parser is ours: only the transfer syntax was taken.
pub(super) fn parse_file(
    source: &mut dyn Source,
    scanned: &Scanned,
    end: u64,
) -> Result<DefaultDicomObject, SkipReason> {
    let meta = FileMetaTableBuilder::new()
        .transfer_syntax(&scanned.transfer_syntax)
        .media_storage_sop_class_uid("1.2.840.10008.5.1.4.1.1.4")
        .media_storage_sop_instance_uid("2.25.1")
        .build()
        .map_err(|_| SkipReason::Damaged)?;
    let mut head = b"DICM".to_vec();
    meta.write(&mut head).map_err(|_| SkipReason::Damaged)?;
    let body = Span { source, at: scanned.data_set, end };
    OpenFileOptions::new()
        .read_preamble(ReadPreamble::Never)
        .from_reader(head.as_slice().chain(body))
        .map_err(|_| SkipReason::Damaged)
}

fn inflate(source: &mut dyn Source, data_set: u64, limits: &IntakeLimits) -> Result<Vec<u8>, SkipReason> {
    let deflated = "1.2.840.10008.1.2.1.99";
    let Some(Codec::Dataset(Some(adapter))) = TransferSyntaxRegistry.get(deflated).map(|syntax| syntax.codec()) else {
        return Err(SkipReason::TransferSyntax { uid: deflated.to_owned() });
    };
    let end = source.size();
    let limit = limits.file_bytes.min((end - data_set).saturating_mul(limits.expansion));
    let mut inflated = Vec::new();
    let body = Span { source, at: data_set, end };
    let mut reader = adapter.adapt_reader(Box::new(body)).take(limit + 1);
    reader.read_to_end(&mut inflated).map_err(|_| SkipReason::Damaged)?;
    if inflated.len() as u64 > limit {
        return Err(SkipReason::TooLarge { bytes: inflated.len() as u64, limit });
    }
    Ok(inflated)
}

const NATIVE: [&str; 3] = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"];

/// RLE, JPEG baseline, extended (8 bit) and lossless, JPEG 2000 and its high-throughput form.
const ENCAPSULATED: [&str; 10] = [
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.201",
    "1.2.840.10008.1.2.4.202",
    "1.2.840.10008.1.2.4.203",
];

pub(super) fn is_encapsulated(transfer_syntax: &str) -> bool {
    ENCAPSULATED.contains(&transfer_syntax)
}

fn is_supported(transfer_syntax: &str) -> bool {
    NATIVE.contains(&transfer_syntax) || is_encapsulated(transfer_syntax) || is_deflated(transfer_syntax)
}

/// The UID of the transfer syntax that a file says it is in, whether or not it can be decoded here.
pub(crate) fn transfer_syntax(source: &mut dyn Source) -> Result<String, SkipReason> {
    Ok(standard_uid(&scan(source)?.transfer_syntax))
}

/// The UID if it is one of the standard's, so that nothing else from a file gets into a reason.
pub(crate) fn standard_uid(uid: &str) -> String {
    let standard = uid.starts_with("1.2.840.10008.1.2") && uid.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if standard && uid.len() <= 32 { uid.to_owned() } else { "unknown".to_owned() }
}
