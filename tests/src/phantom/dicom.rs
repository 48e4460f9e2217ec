//! DICOM files as each vendor spells them: MR Image Storage, one file a frame.
//!
//! Site A's lie in UK Biobank zips with a manifest; the others' in folders of a hospital's export.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use common::Digest;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::mem::InMemElement;
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::planes::{self, Vector, View};
use super::scanner::Grid;
use super::signal::Sequence;
use super::sites::Acquired;
use super::{PhantomError, enhanced};

/// A scanner's maker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vendor {
    Siemens,
    Philips,
    Ge,
    Canon,
}

/// All that a file says of its series.
pub(crate) struct Header<'a> {
    pub(crate) vendor: Vendor,
    pub(crate) patient_id: &'a str,
    pub(crate) letter: char,
    pub(crate) index: usize,
    pub(crate) study_uid: &'a str,
    pub(crate) series_uid: &'a str,
    pub(crate) series_number: usize,
    pub(crate) acquired: &'a Acquired,
    pub(crate) grid: Grid,
    /// The inversion time of late enhancement, ms.
    pub(crate) inversion_ms: f64,
}

impl Header<'_> {
    /// The first pixel's middle.
    pub(crate) fn corner(&self) -> Vector {
        let half = (self.grid.stored() as f64 / 2.0 - 0.5) * self.grid.spacing();
        self.acquired.plane.place(-half, -half)
    }

    /// Milliseconds after the R wave.
    pub(crate) fn trigger_ms(&self, phase: usize) -> f64 {
        phase as f64 * BEAT_MS / self.acquired.phases as f64
    }

    pub(crate) fn slope(&self) -> Option<f64> {
        match (self.vendor, self.acquired.sequence) {
            (_, Sequence::T1Map) => Some(1.0),
            (Vendor::Philips, _) => Some(0.7326),
            _ => None,
        }
    }

    fn is_late(&self) -> bool {
        matches!(self.acquired.sequence, Sequence::Lge | Sequence::Psir)
    }
}

const DATE: &str = "20150830";
const TIME: &str = "101500";

/// From one R wave to the next.
pub(crate) const BEAT_MS: f64 = 930.0;

/// Whether the slice becomes one enhanced MR image of many frames: at one vendor, one view does.
pub(crate) fn is_enhanced(vendor: Vendor, acquired: &Acquired) -> bool {
    vendor == Vendor::Philips && acquired.view == View::FourChamber
}

/// A UID under 2.25, from a text that is unique to the object.
pub(crate) fn uid(text: &str) -> String {
    let digest = Digest::of(text.as_bytes()).0;
    format!("2.25.{}", u128::from_be_bytes(std::array::from_fn(|i| digest[i])))
}

/// What makes a series: UK Biobank has one a slice, hospitals one a stack.
pub(crate) fn series_key(vendor: Vendor, acquired: &Acquired) -> String {
    match vendor {
        Vendor::Siemens => format!("{} {}", description(vendor, acquired), acquired.slice),
        _ => description(vendor, acquired),
    }
}

/// The series description, as this vendor's users write it.
fn description(vendor: Vendor, acquired: &Acquired) -> String {
    let slice = acquired.slice + 1;
    let text = match (vendor, acquired.sequence, acquired.view) {
        (Vendor::Siemens, Sequence::Cine, View::Sax) => return format!("CINE_segmented_SAX_b{slice}"),
        (Vendor::Siemens, Sequence::Cine, View::TwoChamber) => "CINE_segmented_LAX_2Ch",
        (Vendor::Siemens, Sequence::Cine, View::ThreeChamber) => "CINE_segmented_LAX_3Ch",
        (Vendor::Siemens, Sequence::Cine, View::FourChamber) => "CINE_segmented_LAX_4Ch",
        (Vendor::Siemens, Sequence::Cine, View::Lvot) => "CINE_segmented_LVOT",
        (Vendor::Siemens, Sequence::T1Map, _) => {
            return format!("ShMOLLI_192i_SAX_b{slice}s_SAX_b{slice}s_SAX_b{slice}s_T1MAP");
        }
        (Vendor::Siemens, _, _) => "de_tfi_psir_SAX",
        (Vendor::Philips, Sequence::Cine, View::Sax) => "sBTFE_SA",
        (Vendor::Philips, Sequence::Cine, View::TwoChamber) => "B-TFE_2CH",
        (Vendor::Philips, Sequence::Cine, View::ThreeChamber) => "B-TFE_3CH",
        (Vendor::Philips, Sequence::Cine, View::FourChamber) => "B-TFE_4CH",
        (Vendor::Philips, Sequence::Cine, View::Lvot) => "B-TFE_LVOT",
        (Vendor::Philips, Sequence::T1Map, _) => "T1 MAP MOLLI SA",
        (Vendor::Philips, _, _) => "PSIR_TFE_SA",
        (Vendor::Ge, Sequence::Cine, View::Sax) => "FIESTA SAX",
        (Vendor::Ge, Sequence::Cine, View::TwoChamber) => "FIESTA CINE 2ch",
        (Vendor::Ge, Sequence::Cine, View::ThreeChamber) => "FIESTA CINE 3ch",
        (Vendor::Ge, Sequence::Cine, View::FourChamber) => "FIESTA CINE 4ch",
        (Vendor::Ge, Sequence::Cine, View::Lvot) => "FIESTA CINE LVOT",
        (Vendor::Ge, Sequence::T1Map, _) => "SMART1Map SAX",
        (Vendor::Ge, _, _) => "MDE SAX",
        (Vendor::Canon, Sequence::Cine, View::Sax) => "short axis cine function",
        (Vendor::Canon, Sequence::Cine, View::TwoChamber) => "two chamber cine",
        (Vendor::Canon, Sequence::Cine, View::ThreeChamber) => "three chamber cine",
        (Vendor::Canon, Sequence::Cine, View::FourChamber) => "four chamber cine",
        (Vendor::Canon, Sequence::Cine, View::Lvot) => "outflow tract cine",
        (Vendor::Canon, Sequence::T1Map, _) => "T1 map short axis",
        (Vendor::Canon, _, _) => "late enhancement short axis",
    };
    text.to_owned()
}

/// What every file says: whose it is, of which study and series, by which scanner.
pub(crate) fn general(header: &Header<'_>, class: &str, sop_uid: &str) -> InMemDicomObject {
    let Header { vendor, acquired, .. } = *header;
    let (maker, model, field) = match vendor {
        Vendor::Siemens => ("SIEMENS", "Aera", 1.5),
        Vendor::Philips => ("Philips Medical Systems", "Ingenia", 3.0),
        Vendor::Ge => ("GE MEDICAL SYSTEMS", "SIGNA Artist", 1.5),
        Vendor::Canon => ("CANON_MEC", "Vantage Galan 3T", 3.0),
    };
    let described = description(vendor, acquired);
    let name = format!("PHANTOM^{}{:04}", header.letter, header.index);
    let mut object = InMemDicomObject::from_element_iter([
        text(tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 100"),
        text(tags::SOP_CLASS_UID, VR::UI, class),
        text(tags::SOP_INSTANCE_UID, VR::UI, sop_uid),
        text(tags::ACCESSION_NUMBER, VR::SH, ""),
        text(tags::MODALITY, VR::CS, "MR"),
        text(tags::MANUFACTURER, VR::LO, maker),
        text(tags::MANUFACTURER_MODEL_NAME, VR::LO, model),
        text(tags::DEVICE_SERIAL_NUMBER, VR::LO, "0"),
        text(tags::SOFTWARE_VERSIONS, VR::LO, "phantom"),
        text(tags::REFERRING_PHYSICIAN_NAME, VR::PN, ""),
        text(tags::STUDY_DESCRIPTION, VR::LO, "Phantom heart"),
        text(tags::SERIES_DESCRIPTION, VR::LO, &described),
        text(tags::PROTOCOL_NAME, VR::LO, &described),
        text(tags::PATIENT_NAME, VR::PN, &name),
        text(tags::PATIENT_ID, VR::LO, header.patient_id),
        text(tags::PATIENT_BIRTH_DATE, VR::DA, ""),
        text(tags::PATIENT_SEX, VR::CS, "O"),
        text(tags::BODY_PART_EXAMINED, VR::CS, "HEART"),
        text(tags::PATIENT_POSITION, VR::CS, "HFS"),
        text(tags::STUDY_INSTANCE_UID, VR::UI, header.study_uid),
        text(tags::SERIES_INSTANCE_UID, VR::UI, header.series_uid),
        text(tags::STUDY_ID, VR::SH, "1"),
        text(tags::SERIES_NUMBER, VR::IS, &header.series_number.to_string()),
        text(tags::FRAME_OF_REFERENCE_UID, VR::UI, &uid(&format!("{} frame", header.study_uid))),
        text(tags::POSITION_REFERENCE_INDICATOR, VR::LO, ""),
        number(tags::MAGNETIC_FIELD_STRENGTH, field),
        text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2"),
    ]);
    for tag in [tags::STUDY_DATE, tags::SERIES_DATE, tags::CONTENT_DATE] {
        object.put(text(tag, VR::DA, DATE));
    }
    for tag in [tags::STUDY_TIME, tags::SERIES_TIME, tags::CONTENT_TIME] {
        object.put(text(tag, VR::TM, TIME));
    }
    if header.is_late() {
        object.put(text(tags::CONTRAST_BOLUS_AGENT, VR::LO, "Gd"));
    }
    let side = header.grid.stored() as u16;
    for (tag, value) in [
        (tags::SAMPLES_PER_PIXEL, 1_u16),
        (tags::ROWS, side),
        (tags::COLUMNS, side),
        (tags::BITS_ALLOCATED, 16),
        (tags::BITS_STORED, 12),
        (tags::HIGH_BIT, 11),
        (tags::PIXEL_REPRESENTATION, 0),
    ] {
        object.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value)));
    }
    object
}

/// One image as MR Image Storage.
fn classic(header: &Header<'_>, sop_uid: &str, phase: usize, pixels: &[u16]) -> InMemDicomObject {
    let Header { vendor, acquired, .. } = *header;
    let (scanning, variant, options, sequence_name) = match (acquired.sequence, vendor) {
        (Sequence::Cine, Vendor::Siemens) => ("GR", "SK\\SS\\OSP", "PFP\\CG", "*tfi2d1_12"),
        (Sequence::Cine, _) => ("GR", "SK\\SS", "CG", "bssfp"),
        (Sequence::Lge | Sequence::Psir, _) => ("GR\\IR", "SK\\SP\\MP", "", "tfl2d1"),
        (Sequence::T1Map, _) => ("GR\\IR", "SK\\MP", "", "molli"),
    };
    let image_type = match acquired.sequence {
        Sequence::Cine => "ORIGINAL\\PRIMARY\\M",
        Sequence::Lge => "ORIGINAL\\PRIMARY\\M\\IR",
        Sequence::Psir => "ORIGINAL\\PRIMARY\\PSIR",
        Sequence::T1Map => "DERIVED\\PRIMARY\\T1 MAP",
    };
    let plane = &acquired.plane;
    let corner = header.corner();
    let mut object = general(header, uids::MR_IMAGE_STORAGE, sop_uid);
    for element in [
        text(tags::IMAGE_TYPE, VR::CS, image_type),
        text(tags::ACQUISITION_DATE, VR::DA, DATE),
        text(tags::ACQUISITION_TIME, VR::TM, TIME),
        text(tags::SCANNING_SEQUENCE, VR::CS, scanning),
        text(tags::SEQUENCE_VARIANT, VR::CS, variant),
        text(tags::SCAN_OPTIONS, VR::CS, options),
        text(tags::MR_ACQUISITION_TYPE, VR::CS, "2D"),
        text(tags::SEQUENCE_NAME, VR::SH, sequence_name),
        number(tags::SLICE_THICKNESS, plane.thickness),
        number(tags::REPETITION_TIME, 2.6),
        number(tags::ECHO_TIME, 1.1),
        text(tags::ECHO_TRAIN_LENGTH, VR::IS, "1"),
        number(tags::FLIP_ANGLE, 80.0),
        text(tags::INSTANCE_NUMBER, VR::IS, &instance(acquired, phase).to_string()),
        places(tags::IMAGE_POSITION_PATIENT, &corner),
        places(tags::IMAGE_ORIENTATION_PATIENT, &[plane.row, plane.column].concat()),
        number(tags::SLICE_LOCATION, planes::dot(plane.normal(), corner)),
        numbers(tags::PIXEL_SPACING, &[header.grid.spacing(); 2]),
        DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(pixels.iter().copied().collect())),
    ] {
        object.put(element);
    }
    if let Some(spacing) = acquired.spacing {
        object.put(number(tags::SPACING_BETWEEN_SLICES, spacing));
    }
    // Empty where it is not known: of a map, which has many, and of some exports of a vendor.
    if acquired.sequence != Sequence::Cine {
        let inversion = if header.is_late() { decimal(header.inversion_ms.round()) } else { String::new() };
        object.put(text(tags::INVERSION_TIME, VR::DS, &inversion));
    }
    if acquired.phases > 1 {
        let known = vendor != Vendor::Ge || header.index % 3 != 2;
        let trigger = if known { decimal(header.trigger_ms(phase)) } else { String::new() };
        object.put(text(tags::TRIGGER_TIME, VR::DS, &trigger));
        object.put(text(tags::CARDIAC_NUMBER_OF_IMAGES, VR::IS, &acquired.phases.to_string()));
    }
    if acquired.sequence == Sequence::T1Map && vendor == Vendor::Siemens {
        object.put(text(tags::IMAGE_COMMENTS, VR::LT, "T1 Map"));
    }
    if let Some(slope) = header.slope() {
        object.put(number(tags::RESCALE_INTERCEPT, 0.0));
        object.put(number(tags::RESCALE_SLOPE, slope));
        object.put(text(tags::RESCALE_TYPE, VR::LO, if acquired.sequence == Sequence::T1Map { "ms" } else { "US" }));
    }
    object
}

/// Where an image is in its series, from 1.
fn instance(acquired: &Acquired, phase: usize) -> usize {
    acquired.slice * acquired.phases + phase + 1
}

/// The bytes of a file.
fn encoded(object: InMemDicomObject, vendor: Vendor) -> Result<Vec<u8>, PhantomError> {
    let syntax = if vendor == Vendor::Ge { uids::IMPLICIT_VR_LITTLE_ENDIAN } else { uids::EXPLICIT_VR_LITTLE_ENDIAN };
    let told = |error: &dyn std::fmt::Display| PhantomError::Dicom(error.to_string());
    let whole = object.with_meta(FileMetaTableBuilder::new().transfer_syntax(syntax)).map_err(|error| told(&error))?;
    let mut bytes = Vec::new();
    whole.write_all(&mut bytes).map_err(|error| told(&error))?;
    Ok(bytes)
}

pub(crate) fn text(tag: Tag, vr: VR, value: &str) -> InMemElement {
    DataElement::new(tag, vr, PrimitiveValue::from(value))
}

pub(crate) fn number(tag: Tag, value: f64) -> InMemElement {
    text(tag, VR::DS, &decimal(value))
}

pub(crate) fn numbers(tag: Tag, values: &[f64]) -> InMemElement {
    text(tag, VR::DS, &values.iter().map(|&value| decimal(value)).collect::<Vec<_>>().join("\\"))
}

/// Places and directions, with the digits that scanners give them: a wide image shows a direction's fifth.
pub(crate) fn places(tag: Tag, values: &[f64]) -> InMemElement {
    text(tag, VR::DS, &values.iter().map(|&value| rounded(value, 10)).collect::<Vec<_>>().join("\\"))
}

/// A decimal string: at most sixteen characters.
fn decimal(value: f64) -> String {
    rounded(value, 5)
}

/// A number as its decimal string gives it back.
pub(crate) fn written(value: f64) -> f64 {
    decimal(value).parse().unwrap_or(value)
}

fn rounded(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    if text.trim_start_matches('-').chars().all(|c| c == '0' || c == '.') { "0".to_owned() } else { text }
}

/// Where one subject's files go.
pub(crate) struct Writer {
    folder: PathBuf,
    patient_id: String,
    /// One zip a field of UK Biobank, with the lines of its manifest.
    zips: Option<BTreeMap<&'static str, (ZipWriter<File>, String)>>,
}

impl Writer {
    pub(crate) fn new(vendor: Vendor, images: &Path, patient_id: &str) -> Result<Self, PhantomError> {
        let zips = (vendor == Vendor::Siemens).then(BTreeMap::new);
        let folder = if zips.is_some() { images.to_owned() } else { images.join(patient_id) };
        fs::create_dir_all(&folder)?;
        Ok(Self { folder, patient_id: patient_id.to_owned(), zips })
    }

    /// Writes one image of one moment.
    pub(crate) fn write(
        &mut self,
        header: &Header<'_>,
        sop_uid: &str,
        phase: usize,
        pixels: &[u16],
    ) -> Result<(), PhantomError> {
        let bytes = encoded(classic(header, sop_uid, phase, pixels), header.vendor)?;
        self.store(header, sop_uid, instance(header.acquired, phase), &bytes)
    }

    /// Writes all moments as one image.
    pub(crate) fn write_enhanced(
        &mut self,
        header: &Header<'_>,
        sop_uid: &str,
        frames: &[&[u16]],
    ) -> Result<(), PhantomError> {
        let bytes = encoded(enhanced::image(header, sop_uid, frames), header.vendor)?;
        self.store(header, sop_uid, instance(header.acquired, 0), &bytes)
    }

    fn store(&mut self, header: &Header<'_>, sop_uid: &str, instance: usize, bytes: &[u8]) -> Result<(), PhantomError> {
        match &mut self.zips {
            Some(zips) => {
                let field = match (header.acquired.sequence, header.acquired.view) {
                    (Sequence::Cine, View::Sax) => "20209",
                    (Sequence::Cine, _) => "20208",
                    _ => "20214",
                };
                if !zips.contains_key(field) {
                    let path = self.folder.join(format!("{}_{field}_2_0.zip", self.patient_id));
                    let manifest = "filename,patientid,seriesid,series discription,date\n".to_owned();
                    zips.insert(field, (ZipWriter::new(File::create(path)?), manifest));
                }
                let Some((zip, manifest)) = zips.get_mut(field) else { return Ok(()) };
                let name = format!("{sop_uid}.dcm");
                // The date's comma is not quoted: so are the biobank's manifests.
                let described = description(header.vendor, header.acquired);
                *manifest += &format!("{name},{},{},{described},Aug 30, 2015\n", self.patient_id, header.series_uid);
                zip.start_file(name, stored())?;
                zip.write_all(bytes)?;
            }
            None => {
                let folder = self.folder.join(format!("S{:03}", header.series_number));
                fs::create_dir_all(&folder)?;
                // Hospital exports: some end in .dcm, some do not.
                let suffix = if header.vendor == Vendor::Philips { "" } else { ".dcm" };
                fs::write(folder.join(format!("IM{instance:04}{suffix}")), bytes)?;
            }
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<(), PhantomError> {
        for (mut zip, manifest) in self.zips.into_iter().flatten().map(|(_, zip)| zip) {
            zip.start_file("manifest.csv", stored())?;
            zip.write_all(manifest.as_bytes())?;
            zip.finish()?;
        }
        Ok(())
    }
}

/// Deflated, with the zip format's first date, so that the same seed gives the same bytes.
fn stored() -> SimpleFileOptions {
    SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated).compression_level(Some(1))
}
