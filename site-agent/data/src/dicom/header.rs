//! The allow-listed attributes of one image, in our own struct.
//!
//! What is not named here is never copied: no patient name, date, institution or free text. PatientID and UIDs become
//! pseudonyms in the function that reads them; a description becomes what it says about sequence and plane.

use std::io::Read;

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::file::ReadPreamble;
use dicom_object::{FileMetaTableBuilder, InMemDicomObject, OpenFileOptions};
use serde::{Deserialize, Serialize};

use super::functional_groups::frame_headers;
use super::scan::{Encoding, PixelSpan, Scanned, is_deflated, scan, scan_data_set};
use super::source::{MemorySource, Source, Span};
use crate::keys::{InstanceKey, SeriesKey, SiteSecret, StudyKey, SubjectKey, TextKey};
use crate::labels::{Exclusion, Names, Vendor, read_names};
use crate::limits::IntakeLimits;
use crate::skip::SkipReason;

/// What is kept of one image's header.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageHeader {
    /// Whose image it is.
    pub subject: SubjectKey,
    /// Its study.
    pub study: StudyKey,
    /// Its series.
    pub series: SeriesKey,
    /// Itself.
    pub instance: InstanceKey,
    /// Its description, for finding repetitions.
    pub description: TextKey,
    /// Who made the scanner.
    pub vendor: Vendor,
    /// What the series' names say.
    pub names: Names,
    /// Magnitude, phase or other part of the complex image.
    pub component: Component,
    /// ImageType names a T1 map, or ImageComments says so.
    pub t1_map_type: bool,
    /// ImageType names a phase-sensitive reconstruction.
    pub psir_type: bool,
    /// InversionTime is above 0.
    pub inverted: bool,
    /// ScanningSequence holds IR.
    pub inversion_recovery: bool,
    /// ContrastBolusAgent is filled.
    pub contrast_agent: bool,
    /// CardiacNumberOfImages.
    pub cardiac_images: Option<u32>,
    /// SeriesNumber: later series of a study have higher ones.
    pub series_number: Option<i32>,
    /// Seconds since midnight at which the series began; for ordering repetitions only.
    pub series_second: Option<u32>,
    /// InstanceNumber.
    pub instance_number: Option<i32>,
    /// Rows of a frame.
    pub rows: u32,
    /// Columns of a frame.
    pub columns: u32,
    /// 8 or 16.
    pub bits_allocated: u16,
    /// Bits that hold the sample.
    pub bits_stored: u16,
    /// The highest of them.
    pub high_bit: u16,
    /// Two's complement samples.
    pub signed: bool,
    /// MONOCHROME1: low values are bright.
    pub inverted_gray: bool,
    /// Each frame's place, time and scale.
    pub frames: Vec<FrameHeader>,
}

/// Magnitude, phase or other part of a complex image (ImageType, third value).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Component {
    /// Magnitude, or not stated.
    #[default]
    Magnitude,
    /// Phase.
    Phase,
    /// Real or imaginary part, phase-sensitive reconstruction.
    Real,
    /// A quantitative map.
    Map,
}

/// One frame's place, time and scale.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrameHeader {
    /// ImagePositionPatient, in mm.
    pub position: Option<[f64; 3]>,
    /// ImageOrientationPatient.
    pub orientation: Option<[f64; 6]>,
    /// Distance of rows and of columns, in mm.
    pub spacing: [f64; 2],
    /// TriggerTime or NominalCardiacTriggerDelayTime, in ms.
    pub trigger_ms: Option<f64>,
    /// TemporalPositionIndex.
    pub phase_index: Option<u32>,
    /// RescaleSlope.
    pub slope: f64,
    /// RescaleIntercept.
    pub intercept: f64,
}

/// What stands for the patient where a header names none: UK Biobank's participant, from an archive's file name.
pub type NoSubject<'a> = Option<&'a str>;

/// Checks a file and reads its header.
pub fn read_header(
    source: &mut dyn Source,
    limits: &IntakeLimits,
    secret: &SiteSecret,
    fallback: NoSubject<'_>,
) -> Result<ImageHeader, SkipReason> {
    Opened::new(source, limits)?.read(|scanned, source| {
        let end = scanned.pixels.map_or(scanned.end, |pixels| pixels.element());
        let bytes = end - scanned.data_set;
        if bytes > limits.header_bytes {
            return Err(SkipReason::TooLarge { bytes, limit: limits.header_bytes });
        }
        header_of(&parse_file(source, scanned, end)?, scanned, limits, secret, fallback)
    })
}

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
) -> Result<dicom_object::DefaultDicomObject, SkipReason> {
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
    use dicom_encoding::Codec;
    use dicom_transfer_syntax_registry::{TransferSyntaxIndex, TransferSyntaxRegistry};

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

fn header_of(
    object: &InMemDicomObject,
    scanned: &Scanned,
    limits: &IntakeLimits,
    secret: &SiteSecret,
    fallback: NoSubject<'_>,
) -> Result<ImageHeader, SkipReason> {
    let image_type = words(object, tags::IMAGE_TYPE);
    check_kind(object, &image_type)?;
    let names = names_of(object);
    match names.exclusion {
        Some(Exclusion::InlineResult) => return Err(SkipReason::InlineResult),
        Some(Exclusion::DerivedMap) => return Err(SkipReason::DerivedMap),
        None => {}
    }
    let shape = check_pixels(object, scanned, limits)?;
    let filled = |tag| text(object, tag).filter(|value| !value.is_empty());
    let subject = filled(tags::PATIENT_ID).or(fallback.map(str::to_owned)).ok_or(SkipReason::NoPatientId)?;
    let study = filled(tags::STUDY_INSTANCE_UID).ok_or(SkipReason::NoSeries)?;
    let series = filled(tags::SERIES_INSTANCE_UID).ok_or(SkipReason::NoSeries)?;
    let instance = filled(tags::SOP_INSTANCE_UID).ok_or(SkipReason::Damaged)?;
    let comments = text(object, tags::IMAGE_COMMENTS).unwrap_or_default().to_lowercase();
    let is = |word: &str| image_type.iter().any(|value| value == word);
    let t1_map_type = is("T1 MAP") || is("T1MAP") || is("T1_MAP") || comments.contains("t1 map");
    let psir_type = is("PSIR") || is("PS");
    Ok(ImageHeader {
        subject: SubjectKey::of(secret, &subject),
        study: StudyKey::of(secret, &study),
        series: SeriesKey::of(secret, &series),
        instance: InstanceKey::of(secret, &instance),
        description: TextKey::of(secret, &filled(tags::SERIES_DESCRIPTION).unwrap_or_default().to_lowercase()),
        vendor: Vendor::of(&text(object, tags::MANUFACTURER).unwrap_or_default()),
        names,
        component: component_of(&image_type, t1_map_type),
        t1_map_type,
        psir_type,
        inverted: number(object, tags::INVERSION_TIME).is_some_and(|ms| ms > 0.0),
        inversion_recovery: words(object, tags::SCANNING_SEQUENCE).iter().any(|word| word == "IR"),
        contrast_agent: filled(tags::CONTRAST_BOLUS_AGENT).is_some(),
        cardiac_images: whole(object, tags::CARDIAC_NUMBER_OF_IMAGES).and_then(|n| u32::try_from(n).ok()),
        series_number: whole(object, tags::SERIES_NUMBER),
        series_second: text(object, tags::SERIES_TIME)
            .or_else(|| text(object, tags::ACQUISITION_TIME))
            .and_then(|time| second_of_day(&time)),
        instance_number: whole(object, tags::INSTANCE_NUMBER),
        rows: shape.rows,
        columns: shape.columns,
        bits_allocated: shape.bits_allocated,
        bits_stored: shape.bits_stored,
        high_bit: shape.high_bit,
        signed: shape.signed,
        inverted_gray: shape.inverted_gray,
        frames: frame_headers(object, shape.frames)?,
    })
}

/// Only MR images as they were acquired.
fn check_kind(object: &InMemDicomObject, image_type: &[String]) -> Result<(), SkipReason> {
    let modality = text(object, tags::MODALITY);
    let class = text(object, tags::SOP_CLASS_UID).unwrap_or_default();
    if class == "1.2.840.10008.1.3.10" || modality.as_deref().is_some_and(|modality| modality != "MR") {
        return Err(SkipReason::NotMr);
    }
    // MR image, enhanced MR image, legacy converted enhanced MR image (PS3.4 annex B.5).
    let images = ["1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4"];
    // Secondary captures, single and multi-frame.
    if class == "1.2.840.10008.5.1.4.1.1.7" || class.starts_with("1.2.840.10008.5.1.4.1.1.7.") {
        return Err(SkipReason::SecondaryCapture);
    }
    if !(class.is_empty() && modality.is_some()) && !images.contains(&class.as_str()) {
        return Err(SkipReason::NotMr);
    }
    if text(object, tags::BURNED_IN_ANNOTATION).as_deref() == Some("YES") {
        return Err(SkipReason::BurnedInText);
    }
    let captured = ["SCREEN SAVE", "SCREENSAVE", "SCREEN"];
    // The second value tells a first-hand image from a secondary one (PS3.3 C.7.6.1.1.2).
    let secondary = image_type.get(1).is_some_and(|value| value == "SECONDARY");
    let scanner_made = image_type.iter().any(|v| v == "T1 MAP" || v == "T1MAP" || v == "T1_MAP" || v == "PSIR");
    if image_type.iter().any(|value| captured.contains(&value.as_str())) || (secondary && !scanner_made) {
        return Err(SkipReason::SecondaryCapture);
    }
    Ok(())
}

fn names_of(object: &InMemDicomObject) -> Names {
    let vendor = Vendor::of(&text(object, tags::MANUFACTURER).unwrap_or_default());
    let texts = [tags::SERIES_DESCRIPTION, tags::PROTOCOL_NAME, tags::SEQUENCE_NAME].map(|tag| text(object, tag));
    let texts: Vec<&str> = texts.iter().map(|text| text.as_deref().unwrap_or_default()).collect();
    read_names(vendor, &texts)
}

fn component_of(image_type: &[String], map: bool) -> Component {
    if map {
        return Component::Map;
    }
    image_type.iter().skip(2).find_map(|value| match value.as_str() {
        "P" | "PHASE" | "PHASE MAP" | "VELOCITY" => Some(Component::Phase),
        "R" | "I" | "REAL" | "IMAGINARY" | "PSIR" | "PS" => Some(Component::Real),
        _ => None,
    }).unwrap_or_default()
}

struct Shape {
    rows: u32,
    columns: u32,
    frames: u32,
    bits_allocated: u16,
    bits_stored: u16,
    high_bit: u16,
    signed: bool,
    inverted_gray: bool,
}

/// Holds what the header says of the pixels to what can be decoded, and to what the file holds.
fn check_pixels(object: &InMemDicomObject, scanned: &Scanned, limits: &IntakeLimits) -> Result<Shape, SkipReason> {
    let unsigned = |tag| whole(object, tag).and_then(|n| u32::try_from(n).ok());
    let narrow = |tag| whole(object, tag).and_then(|n| u16::try_from(n).ok());
    let gray = text(object, tags::PHOTOMETRIC_INTERPRETATION).unwrap_or_default();
    if unsigned(tags::SAMPLES_PER_PIXEL).unwrap_or(1) != 1 || !gray.starts_with("MONOCHROME") {
        return Err(SkipReason::NotGray);
    }
    let bits_allocated = narrow(tags::BITS_ALLOCATED).ok_or(SkipReason::Damaged)?;
    if bits_allocated != 8 && bits_allocated != 16 {
        return Err(SkipReason::BitsAllocated { bits: bits_allocated });
    }
    let bits_stored = narrow(tags::BITS_STORED).unwrap_or(bits_allocated);
    let high_bit = narrow(tags::HIGH_BIT).unwrap_or(bits_stored.saturating_sub(1));
    if bits_stored == 0 || bits_stored > bits_allocated || high_bit >= bits_allocated || high_bit + 1 < bits_stored {
        return Err(SkipReason::Damaged);
    }
    let (rows, columns) = (unsigned(tags::ROWS).unwrap_or(0), unsigned(tags::COLUMNS).unwrap_or(0));
    let frames = unsigned(tags::NUMBER_OF_FRAMES).unwrap_or(1);
    if rows == 0 || columns == 0 || frames == 0 {
        return Err(SkipReason::NoPixels);
    }
    let expected = u64::from(rows) * u64::from(columns) * u64::from(frames) * u64::from(bits_allocated / 8);
    if expected > limits.pixel_bytes || rows > 1 << 14 || columns > 1 << 14 {
        return Err(SkipReason::TooLarge { bytes: expected, limit: limits.pixel_bytes });
    }
    match scanned.pixels {
        None => return Err(SkipReason::NoPixels),
        Some(PixelSpan::Native { length, .. }) if length < expected => {
            return Err(SkipReason::FewerPixels { expected, found: length });
        }
        Some(PixelSpan::Native { .. }) if is_encapsulated(&scanned.transfer_syntax) => return Err(SkipReason::Damaged),
        Some(PixelSpan::Encapsulated { .. }) if !is_encapsulated(&scanned.transfer_syntax) => {
            return Err(SkipReason::Damaged);
        }
        Some(_) => {}
    }
    let signed = unsigned(tags::PIXEL_REPRESENTATION).unwrap_or(0) == 1;
    let inverted_gray = gray == "MONOCHROME1";
    Ok(Shape { rows, columns, frames, bits_allocated, bits_stored, high_bit, signed, inverted_gray })
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

/// The UID if it is one of the standard's, so that nothing else from a file gets into a reason.
fn standard_uid(uid: &str) -> String {
    let standard = uid.starts_with("1.2.840.10008.1.2") && uid.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if standard && uid.len() <= 32 { uid.to_owned() } else { "unknown".to_owned() }
}

/// HHMMSS.FFFFFF (PS3.5 section 6.2, TM).
fn second_of_day(time: &str) -> Option<u32> {
    let two = |from: usize| time.get(from..from + 2)?.parse::<u32>().ok();
    Some(two(0)? * 3600 + two(2).unwrap_or(0) * 60 + two(4).unwrap_or(0))
}

/// An element's text, without padding.
pub(super) fn text(object: &InMemDicomObject, tag: Tag) -> Option<String> {
    let value = object.get(tag)?.to_str().ok()?;
    Some(value.trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned())
}

/// An element's values, separated by backslashes, in upper case.
fn words(object: &InMemDicomObject, tag: Tag) -> Vec<String> {
    text(object, tag).unwrap_or_default().split('\\').map(|word| word.trim().to_uppercase()).collect()
}

/// An element's finite numbers.
pub(super) fn numbers(object: &InMemDicomObject, tag: Tag) -> Option<Vec<f64>> {
    let values = object.get(tag)?.to_multi_float64().ok()?;
    (!values.is_empty() && values.iter().all(|value| value.is_finite())).then_some(values)
}

/// An element's first number.
pub(super) fn number(object: &InMemDicomObject, tag: Tag) -> Option<f64> {
    numbers(object, tag).map(|values| values[0])
}

fn whole(object: &InMemDicomObject, tag: Tag) -> Option<i32> {
    let value = number(object, tag)?;
    (value.fract() == 0.0 && value.abs() < f64::from(i32::MAX)).then_some(value as i32)
}

impl Encoding {
    /// Whether 16-bit samples are big-endian.
    pub(super) fn swaps(self) -> bool {
        self.big_endian
    }
}
