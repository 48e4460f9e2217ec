//! The allow-listed attributes of one image, in our own struct.
//!
//! What is not named here is never copied: no patient name, date, institution or free text. PatientID and UIDs become
//! pseudonyms in the function that reads them; a description becomes what it says about sequence and plane.

use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use serde::{Deserialize, Serialize};

use super::attributes::{text, whole, words};
use super::functional_groups::{frame_headers, has_contrast, is_in_milliseconds, is_inversion_recovery};
use super::opened::{Opened, parse_file};
use super::scan::Scanned;
use super::shape::check_pixels;
use super::source::Source;
use crate::keys::{InstanceKey, SeriesKey, SiteSecret, StudyKey, SubjectKey, TextKey};
use crate::labels::{Exclusion, Names, Vendor, read_names};
use crate::limits::IntakeLimits;
use crate::skip::SkipReason;

/// What is kept of one image's header.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ImageHeader {
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
    /// ImageType names a T1 map, or ImageComments says so.
    pub t1_map_type: bool,
    /// ImageType names a phase-sensitive reconstruction.
    pub psir_type: bool,
    /// RescaleType says milliseconds.
    pub milliseconds: bool,
    /// ScanningSequence holds IR, or InversionRecovery says YES.
    pub inversion_recovery: bool,
    /// ContrastBolusAgent is filled, or an enhanced image's sequence of agents.
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
    /// Each frame's place, time, scale and part.
    pub frames: Vec<FrameHeader>,
}

/// Magnitude, phase or other part of a complex image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Component {
    /// Magnitude, or not stated.
    #[default]
    Magnitude,
    /// Phase.
    Phase,
    /// Imaginary part.
    Imaginary,
    /// Real part: phase-sensitive reconstructions are written as such.
    Real,
    /// A quantitative map.
    Map,
    /// An enhanced image mixes parts, and does not say which one a frame is.
    Unknown,
}

impl Component {
    /// Whether it shows a heart as the model is to see it.
    pub(crate) fn is_usable(self) -> bool {
        matches!(self, Self::Magnitude | Self::Real | Self::Map)
    }

    /// What a data set, or an item about some frames, says of their part: in ComplexImageComponent (PS3.3
    /// C.8.13.3.1.1), or in the third and later values of their type. None if it says nothing.
    pub(super) fn stated(component: &[String], kind: &[String]) -> Option<Self> {
        // The fourth value of a type may be MIXED too: it tells of contrast then.
        let kind = || kind.iter().skip(2).filter(|word| *word != "MIXED");
        let says = |words: &[&str]| component.iter().chain(kind()).any(|word| words.contains(&word.as_str()));
        // What was made of phase and magnitude is named beside them.
        let parts: [(&[&str], Self); 7] = [
            (&T1_MAP, Self::Map),
            (&["PSIR", "PS"], Self::Real),
            (&["P", "PHASE", "PHASE MAP", "VELOCITY"], Self::Phase),
            (&["I", "IMAGINARY"], Self::Imaginary),
            (&["R", "REAL"], Self::Real),
            (&["MIXED"], Self::Unknown),
            (&["M", "MAGNITUDE"], Self::Magnitude),
        ];
        parts.into_iter().find(|(words, _)| says(words)).map(|(_, part)| part)
    }
}

/// How ImageType names a T1 map.
const T1_MAP: [&str; 3] = ["T1 MAP", "T1MAP", "T1_MAP"];

/// One frame's place, time, scale and part.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FrameHeader {
    /// ImagePositionPatient, in mm.
    pub position: Option<[f64; 3]>,
    /// ImageOrientationPatient.
    pub orientation: Option<[f64; 6]>,
    /// Distance of rows and of columns, in mm.
    pub spacing: [f64; 2],
    /// SliceThickness, in mm.
    pub thickness_mm: Option<f64>,
    /// SpacingBetweenSlices, in mm.
    pub between_mm: Option<f64>,
    /// TriggerTime or NominalCardiacTriggerDelayTime, in ms.
    pub trigger_ms: Option<f64>,
    /// TemporalPositionIndex.
    pub phase_index: Option<u32>,
    /// Magnitude, phase or other part of the complex image.
    pub component: Component,
    /// InversionTime, if above 0, in ms.
    pub inversion_ms: Option<f64>,
    /// RescaleSlope.
    pub slope: f64,
    /// RescaleIntercept.
    pub intercept: f64,
}

/// What stands in where a header says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Substitutes<'a> {
    /// For PatientID: UK Biobank's participant, from an archive's file name.
    pub subject: Option<&'a str>,
    /// For SeriesDescription: an archive's manifest.
    pub description: Option<&'a str>,
}

/// Checks a file and reads its header.
pub(crate) fn read_header(
    source: &mut dyn Source,
    limits: &IntakeLimits,
    secret: &SiteSecret,
    substitutes: Substitutes<'_>,
) -> Result<ImageHeader, SkipReason> {
    Opened::new(source, limits)?.read(|scanned, source| {
        let end = scanned.pixels.map_or(scanned.end, |pixels| pixels.element());
        let bytes = end - scanned.data_set;
        if bytes > limits.header_bytes {
            return Err(SkipReason::TooLarge { bytes, limit: limits.header_bytes });
        }
        let object = parse_file(source, scanned, end)?.into_inner();
        header_of(&object, scanned, limits, secret, substitutes)
    })
}

fn header_of(
    object: &InMemDicomObject,
    scanned: &Scanned,
    limits: &IntakeLimits,
    secret: &SiteSecret,
    substitutes: Substitutes<'_>,
) -> Result<ImageHeader, SkipReason> {
    let image_type = words(object, tags::IMAGE_TYPE);
    check_kind(object, &image_type)?;
    let description = text(object, tags::SERIES_DESCRIPTION).filter(|text| !text.is_empty());
    let description = description.or(substitutes.description.map(str::to_owned)).unwrap_or_default();
    let names = names_of(object, &description);
    match names.exclusion {
        Some(Exclusion::InlineResult) => return Err(SkipReason::InlineResult),
        Some(Exclusion::DerivedMap) => return Err(SkipReason::DerivedMap),
        None => {}
    }
    let shape = check_pixels(object, scanned, limits)?;
    let filled = |tag| text(object, tag).filter(|value| !value.is_empty());
    let subject = filled(tags::PATIENT_ID).or(substitutes.subject.map(str::to_owned)).ok_or(SkipReason::NoPatientId)?;
    let study = filled(tags::STUDY_INSTANCE_UID).ok_or(SkipReason::NoSeries)?;
    let series = filled(tags::SERIES_INSTANCE_UID).ok_or(SkipReason::NoSeries)?;
    let instance = filled(tags::SOP_INSTANCE_UID).ok_or(SkipReason::Damaged)?;
    let comments = text(object, tags::IMAGE_COMMENTS).unwrap_or_default().to_lowercase();
    let is = |word: &str| image_type.iter().any(|value| value == word);
    let t1_map_type = T1_MAP.into_iter().any(is) || comments.contains("t1 map");
    let psir_type = is("PSIR") || is("PS");
    Ok(ImageHeader {
        subject: SubjectKey::of(secret, &subject),
        study: StudyKey::of(secret, &study),
        series: SeriesKey::of(secret, &series),
        instance: InstanceKey::of(secret, &instance),
        description: TextKey::of(secret, &description.to_lowercase()),
        vendor: Vendor::of(&text(object, tags::MANUFACTURER).unwrap_or_default()),
        names,
        t1_map_type,
        psir_type,
        milliseconds: is_in_milliseconds(object),
        inversion_recovery: is_inversion_recovery(object),
        contrast_agent: has_contrast(object),
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
        frames: frame_headers(object, shape.frames, t1_map_type)?,
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
    let unclassed = class.is_empty() && modality.is_some();
    if !unclassed && !images.contains(&class.as_str()) {
        return Err(SkipReason::NotMr);
    }
    if text(object, tags::BURNED_IN_ANNOTATION).as_deref() == Some("YES") {
        return Err(SkipReason::BurnedInText);
    }
    let captured = ["SCREEN SAVE", "SCREENSAVE", "SCREEN"];
    // The second value tells a first-hand image from a secondary one (PS3.3 C.7.6.1.1.2).
    let secondary = image_type.get(1).is_some_and(|value| value == "SECONDARY");
    let scanner_made = image_type.iter().any(|v| v == "PSIR" || T1_MAP.contains(&v.as_str()));
    if image_type.iter().any(|value| captured.contains(&value.as_str())) || (secondary && !scanner_made) {
        return Err(SkipReason::SecondaryCapture);
    }
    Ok(())
}

fn names_of(object: &InMemDicomObject, description: &str) -> Names {
    let vendor = Vendor::of(&text(object, tags::MANUFACTURER).unwrap_or_default());
    read_names(vendor, &[description, &text(object, tags::PROTOCOL_NAME).unwrap_or_default()])
}

/// HHMMSS.FFFFFF (PS3.5 section 6.2, TM).
fn second_of_day(time: &str) -> Option<u32> {
    let two = |from: usize| time.get(from..from + 2)?.parse::<u32>().ok();
    Some(two(0)? * 3600 + two(2).unwrap_or(0) * 60 + two(4).unwrap_or(0))
}
