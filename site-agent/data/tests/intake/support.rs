//! Small DICOM files, made in the test that reads them.

use std::fs;
use std::path::Path;

use dicom_core::value::{DataSetSequence, PrimitiveValue, Value};
use dicom_core::{DataElement, Length, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::mem::InMemElement;
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};

/// An MR image to be written. Start from [`Image::new`] and change what the test is about.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) patient: &'static str,
    pub(crate) study: u32,
    pub(crate) series: u32,
    pub(crate) instance: u32,
    pub(crate) series_number: u32,
    pub(crate) description: String,
    pub(crate) manufacturer: &'static str,
    pub(crate) modality: &'static str,
    pub(crate) class: &'static str,
    pub(crate) syntax: &'static str,
    pub(crate) image_type: &'static str,
    pub(crate) photometric: &'static str,
    pub(crate) rows: u16,
    pub(crate) columns: u16,
    pub(crate) bits: u16,
    pub(crate) spacing: Option<[f64; 2]>,
    pub(crate) position: [f64; 3],
    pub(crate) orientation: [f64; 6],
    pub(crate) trigger: Option<f64>,
    pub(crate) slope: Option<&'static str>,
    pub(crate) intercept: Option<&'static str>,
    pub(crate) frames: u32,
    pub(crate) pixels: Vec<u16>,
    pub(crate) extra: Vec<InMemElement>,
}

/// Rows and columns of a short-axis slice whose normal points to the apex: left, front, down.
pub(crate) const SHORT_AXIS: [f64; 6] =
    [0.640_184_399_664_48, 0.768_221_279_597_376, 0.0, 0.468_085_105_808_3, -0.390_070_921_506_9, 0.793_052_3];

/// Along the normal of [`SHORT_AXIS`].
pub(crate) fn along_axis(mm: f64) -> [f64; 3] {
    let [a, b, c, d, e, f] = SHORT_AXIS;
    [b * f - c * e, c * d - a * f, a * e - b * d].map(|part| part * mm)
}

impl Image {
    /// A 16 x 12 short-axis cine frame with a ramp on it.
    pub(crate) fn new() -> Self {
        Self {
            patient: "PATIENT-1",
            study: 1,
            series: 1,
            instance: 1,
            series_number: 1,
            description: "Cine SAX".to_owned(),
            manufacturer: "SIEMENS",
            modality: "MR",
            class: uids::MR_IMAGE_STORAGE,
            syntax: uids::EXPLICIT_VR_LITTLE_ENDIAN,
            image_type: "ORIGINAL\\PRIMARY\\M",
            photometric: "MONOCHROME2",
            rows: 12,
            columns: 16,
            bits: 16,
            spacing: Some([1.0, 1.0]),
            position: [0.0; 3],
            orientation: SHORT_AXIS,
            trigger: None,
            slope: None,
            intercept: None,
            frames: 1,
            pixels: (0..12 * 16).collect(),
            extra: Vec::new(),
        }
    }

    /// All pixels of the first row at `marker`, the rest a ramp from 0 to 1000: the marker survives normalisation.
    pub(crate) fn marked(mut self, marker: u16) -> Self {
        let (rows, columns) = (usize::from(self.rows), usize::from(self.columns));
        let ramp = |i: usize| (i * 1000 / (rows * columns - 1)) as u16;
        self.pixels = (0..rows * columns).map(|i| if i < columns { marker } else { ramp(i) }).collect();
        self
    }

    pub(crate) fn with(mut self, tag: Tag, vr: VR, value: impl Into<PrimitiveValue>) -> Self {
        self.extra.push(DataElement::new(tag, vr, value.into()));
        self
    }

    pub(crate) fn object(&self) -> InMemDicomObject {
        let uid = |kind: u32, number: u32| format!("1.2.826.0.1.3680043.9.{kind}.{number}");
        let numbers = |values: &[f64]| PrimitiveValue::Strs(values.iter().map(|v| decimal(*v)).collect());
        let mut object = InMemDicomObject::new_empty();
        let mut put = |tag, vr, value: PrimitiveValue| {
            object.put(DataElement::new(tag, vr, value));
        };
        let text = |value: &str| PrimitiveValue::from(value);
        put(tags::IMAGE_TYPE, VR::CS, text(self.image_type));
        put(tags::SOP_CLASS_UID, VR::UI, text(self.class));
        put(tags::SOP_INSTANCE_UID, VR::UI, text(&uid(3, self.series * 100_000 + self.instance)));
        put(tags::MODALITY, VR::CS, text(self.modality));
        put(tags::MANUFACTURER, VR::LO, text(self.manufacturer));
        put(tags::SERIES_DESCRIPTION, VR::LO, text(&self.description));
        put(tags::PATIENT_NAME, VR::PN, text("CANARY^NAME"));
        put(tags::PATIENT_ID, VR::LO, text(self.patient));
        put(tags::PATIENT_BIRTH_DATE, VR::DA, text("19450508"));
        put(tags::STUDY_INSTANCE_UID, VR::UI, text(&uid(1, self.study)));
        put(tags::SERIES_INSTANCE_UID, VR::UI, text(&uid(2, self.series)));
        put(tags::SERIES_NUMBER, VR::IS, text(&self.series_number.to_string()));
        put(tags::INSTANCE_NUMBER, VR::IS, text(&self.instance.to_string()));
        put(tags::IMAGE_POSITION_PATIENT, VR::DS, numbers(&self.position));
        put(tags::IMAGE_ORIENTATION_PATIENT, VR::DS, numbers(&self.orientation));
        if let Some(spacing) = self.spacing {
            put(tags::PIXEL_SPACING, VR::DS, numbers(&spacing));
        }
        if let Some(trigger) = self.trigger {
            put(tags::TRIGGER_TIME, VR::DS, numbers(&[trigger]));
        }
        if let Some(slope) = self.slope {
            put(tags::RESCALE_SLOPE, VR::DS, text(slope));
        }
        if let Some(intercept) = self.intercept {
            put(tags::RESCALE_INTERCEPT, VR::DS, text(intercept));
        }
        if self.frames > 1 {
            put(tags::NUMBER_OF_FRAMES, VR::IS, text(&self.frames.to_string()));
        }
        put(tags::SAMPLES_PER_PIXEL, VR::US, 1_u16.into());
        put(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, text(self.photometric));
        put(tags::ROWS, VR::US, self.rows.into());
        put(tags::COLUMNS, VR::US, self.columns.into());
        put(tags::BITS_ALLOCATED, VR::US, self.bits.into());
        put(tags::BITS_STORED, VR::US, self.bits.into());
        put(tags::HIGH_BIT, VR::US, (self.bits - 1).into());
        put(tags::PIXEL_REPRESENTATION, VR::US, 0_u16.into());
        put(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(self.pixels.iter().copied().collect()));
        for element in &self.extra {
            object.put(element.clone());
        }
        object
    }

    /// The file's bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let meta = FileMetaTableBuilder::new()
            .transfer_syntax(self.syntax)
            .media_storage_sop_class_uid(self.class)
            .media_storage_sop_instance_uid("2.25.1");
        let mut bytes = Vec::new();
        self.object().with_meta(meta).unwrap().write_all(&mut bytes).unwrap();
        bytes
    }

    pub(crate) fn write(&self, path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, self.bytes()).unwrap();
    }
}

/// At most 16 characters, as DS demands.
fn decimal(value: f64) -> String {
    let mut text = format!("{value:.13}");
    text.truncate(16);
    text
}

/// A sequence element.
pub(crate) fn sequence(tag: Tag, items: Vec<InMemDicomObject>) -> InMemElement {
    DataElement::new(tag, VR::SQ, Value::from(DataSetSequence::new(items, Length::UNDEFINED)))
}

/// An item with one element.
pub(crate) fn item(elements: Vec<InMemElement>) -> InMemDicomObject {
    InMemDicomObject::from_element_iter(elements)
}

pub(crate) fn element(tag: Tag, vr: VR, value: impl Into<PrimitiveValue>) -> InMemElement {
    DataElement::new(tag, vr, value.into())
}

/// A short-axis cine: `slices` positions 10 mm apart, `phases` at each, every frame marked with slice * 100 + phase.
pub(crate) fn short_axis_cine(template: &Image, slices: u32, phases: u32) -> Vec<Image> {
    (0..slices)
        .flat_map(|slice| (0..phases).map(move |phase| (slice, phase)))
        .map(|(slice, phase)| {
            let mut image = template.clone().marked((slice * 100 + phase) as u16);
            image.instance = 1 + slice * phases + phase;
            image.position = along_axis(f64::from(slice) * 10.0);
            image.trigger = Some(f64::from(phase) * 30.0);
            image
        })
        .collect()
}

/// A zip archive with these entries.
pub(crate) fn archive(path: &Path, entries: &[(&str, Vec<u8>)]) {
    use std::io::Write;
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer = zip::ZipWriter::new(fs::File::create(path).unwrap());
    for (name, bytes) in entries {
        writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap();
}
