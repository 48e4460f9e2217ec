//! A cine as one Enhanced MR image of many frames (PS3.3 A.36.2): what classic files say frame by frame stands in
//! functional groups, once for what is shared.

use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::InMemDicomObject;
use dicom_object::mem::InMemElement;

use super::dicom::{BEAT_MS, Header, general, number, numbers, places, text, uid};

const IMAGE_TYPE: &str = "ORIGINAL\\PRIMARY\\CARDIAC\\NONE";

/// The image of one slice over the cycle.
pub(crate) fn image(header: &Header<'_>, sop_uid: &str, frames: &[&[u16]]) -> InMemDicomObject {
    let organization = text(tags::DIMENSION_ORGANIZATION_UID, VR::UI, &uid(&format!("{sop_uid} dimensions")));
    let by_time = [
        pointer(tags::DIMENSION_INDEX_POINTER, tags::NOMINAL_CARDIAC_TRIGGER_DELAY_TIME),
        pointer(tags::FUNCTIONAL_GROUP_POINTER, tags::CARDIAC_SYNCHRONIZATION_SEQUENCE),
        organization.clone(),
    ];
    let own = [
        code(tags::IMAGE_TYPE, IMAGE_TYPE),
        text(tags::INSTANCE_NUMBER, VR::IS, "1"),
        text(tags::NUMBER_OF_FRAMES, VR::IS, &frames.len().to_string()),
        group(tags::DIMENSION_ORGANIZATION_SEQUENCE, [organization]),
        group(tags::DIMENSION_INDEX_SEQUENCE, by_time),
        items(tags::ACQUISITION_CONTEXT_SEQUENCE, []),
        items(tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE, [shared(header)]),
        items(tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE, (0..frames.len()).map(|phase| frame(header, phase))),
        DataElement::new(
            tags::PIXEL_DATA,
            VR::OW,
            PrimitiveValue::U16(frames.iter().copied().flatten().copied().collect()),
        ),
    ];
    let mut object = general(header, uids::ENHANCED_MR_IMAGE_STORAGE, sop_uid);
    for element in own.into_iter().chain(acquisition()).chain(gating()).chain(described()) {
        object.put(element);
    }
    object
}

/// How it was acquired.
fn acquisition() -> impl Iterator<Item = InMemElement> {
    let codes = [
        (tags::RESONANT_NUCLEUS, "1H"),
        (tags::K_SPACE_FILTERING, "NONE"),
        (tags::APPLICABLE_SAFETY_STANDARD_AGENCY, "IEC"),
        (tags::CONTENT_QUALIFICATION, "RESEARCH"),
        (tags::BURNED_IN_ANNOTATION, "NO"),
        (tags::LOSSY_IMAGE_COMPRESSION, "00"),
        (tags::PRESENTATION_LUT_SHAPE, "IDENTITY"),
        (tags::ECHO_PULSE_SEQUENCE, "GRADIENT"),
        (tags::MULTI_PLANAR_EXCITATION, "NO"),
        (tags::PHASE_CONTRAST, "NO"),
        (tags::TIME_OF_FLIGHT_CONTRAST, "NO"),
        (tags::STEADY_STATE_PULSE_SEQUENCE, "FREE_PRECESSION"),
        (tags::ECHO_PLANAR_PULSE_SEQUENCE, "NO"),
        (tags::SATURATION_RECOVERY, "NO"),
        (tags::SPECTRALLY_SELECTED_SUPPRESSION, "NONE"),
        (tags::OVERSAMPLING_PHASE, "2D"),
        (tags::GEOMETRY_OF_K_SPACE_TRAVERSAL, "RECTILINEAR"),
        (tags::RECTILINEAR_PHASE_ENCODE_REORDERING, "LINEAR"),
        (tags::SEGMENTED_K_SPACE_TRAVERSAL, "PARTIAL"),
    ];
    let others = [
        text(tags::ACQUISITION_DATE_TIME, VR::DT, MOMENT),
        double(tags::ACQUISITION_DURATION, 10_000.0),
        text(tags::PULSE_SEQUENCE_NAME, VR::SH, "bTFE"),
        text(tags::MR_ACQUISITION_TYPE, VR::CS, "2D"),
        DataElement::new(tags::NUMBER_OF_K_SPACE_TRAJECTORIES, VR::US, PrimitiveValue::from(12_u16)),
    ];
    codes.into_iter().map(|(tag, value)| code(tag, value)).chain(others)
}

/// How the cycle was followed.
fn gating() -> [InMemElement; 8] {
    [
        code(tags::CARDIAC_SYNCHRONIZATION_TECHNIQUE, "RETROSPECTIVE"),
        code(tags::CARDIAC_SIGNAL_SOURCE, "ECG"),
        double(tags::CARDIAC_RR_INTERVAL_SPECIFIED, BEAT_MS),
        code(tags::CARDIAC_BEAT_REJECTION_TECHNIQUE, "NONE"),
        text(tags::LOW_RR_VALUE, VR::IS, ""),
        text(tags::HIGH_RR_VALUE, VR::IS, ""),
        text(tags::INTERVALS_ACQUIRED, VR::IS, ""),
        text(tags::INTERVALS_REJECTED, VR::IS, ""),
    ]
}

/// What is said of the image, and again of its frames.
fn described() -> [InMemElement; 5] {
    [
        code(tags::PIXEL_PRESENTATION, "MONOCHROME"),
        code(tags::VOLUMETRIC_PROPERTIES, "VOLUME"),
        code(tags::VOLUME_BASED_CALCULATION_TECHNIQUE, "NONE"),
        code(tags::COMPLEX_IMAGE_COMPONENT, "MAGNITUDE"),
        code(tags::ACQUISITION_CONTRAST, "UNKNOWN"),
    ]
}

/// What all frames share: the slice, the contrast, the coils.
fn shared(header: &Header<'_>) -> InMemDicomObject {
    let plane = &header.acquired.plane;
    let short = |tag, value: usize| DataElement::new(tag, VR::US, PrimitiveValue::from(value as u16));
    let region = [
        text(tags::CODE_VALUE, VR::SH, "80891009"),
        text(tags::CODING_SCHEME_DESIGNATOR, VR::SH, "SCT"),
        text(tags::CODE_MEANING, VR::LO, "Heart"),
    ];
    let measures =
        [numbers(tags::PIXEL_SPACING, &[header.grid.spacing(); 2]), number(tags::SLICE_THICKNESS, plane.thickness)];
    let value = [
        number(tags::RESCALE_INTERCEPT, 0.0),
        number(tags::RESCALE_SLOPE, header.slope().unwrap_or(1.0)),
        text(tags::RESCALE_TYPE, VR::LO, "US"),
    ];
    let timing = [
        number(tags::REPETITION_TIME, 2.6),
        number(tags::FLIP_ANGLE, 80.0),
        text(tags::ECHO_TRAIN_LENGTH, VR::IS, "1"),
        short(tags::RF_ECHO_TRAIN_LENGTH, 0),
        short(tags::GRADIENT_ECHO_TRAIN_LENGTH, 1),
        group(
            tags::SPECIFIC_ABSORPTION_RATE_SEQUENCE,
            [
                code(tags::SPECIFIC_ABSORPTION_RATE_DEFINITION, "IEC_WHOLE_BODY"),
                double(tags::SPECIFIC_ABSORPTION_RATE_VALUE, 1.0),
            ],
        ),
        code(tags::GRADIENT_OUTPUT_TYPE, "DB_DT"),
        double(tags::GRADIENT_OUTPUT, 50.0),
        items(
            tags::OPERATING_MODE_SEQUENCE,
            ["STATIC FIELD", "RF", "GRADIENT"].map(|kind| {
                InMemDicomObject::from_element_iter([
                    code(tags::OPERATING_MODE_TYPE, kind),
                    code(tags::OPERATING_MODE, "IEC_NORMAL"),
                ])
            }),
        ),
    ];
    let geometry = [
        code(tags::IN_PLANE_PHASE_ENCODING_DIRECTION, "COLUMN"),
        short(tags::MR_ACQUISITION_FREQUENCY_ENCODING_STEPS, header.grid.side),
        short(tags::MR_ACQUISITION_PHASE_ENCODING_STEPS_IN_PLANE, header.grid.side),
        number(tags::PERCENT_SAMPLING, 100.0),
        number(tags::PERCENT_PHASE_FIELD_OF_VIEW, 100.0),
    ];
    let modifier = [
        (tags::INVERSION_RECOVERY, "NO"),
        (tags::FLOW_COMPENSATION, "NONE"),
        (tags::SPOILING, "NONE"),
        (tags::T2_PREPARATION, "NO"),
        (tags::SPECTRALLY_SELECTED_EXCITATION, "NONE"),
        (tags::SPATIAL_PRESATURATION, "NONE"),
        (tags::PARTIAL_FOURIER, "NO"),
        (tags::PARALLEL_ACQUISITION, "NO"),
    ];
    let imaging = [
        code(tags::MAGNETIZATION_TRANSFER, "NONE"),
        code(tags::BLOOD_SIGNAL_NULLING, "NO"),
        code(tags::TAGGING, "NONE"),
        double(tags::TRANSMITTER_FREQUENCY, 127.7),
        number(tags::PIXEL_BANDWIDTH, 1000.0),
    ];
    let receive = [
        text(tags::RECEIVE_COIL_NAME, VR::SH, "Torso"),
        text(tags::RECEIVE_COIL_MANUFACTURER_NAME, VR::LO, ""),
        code(tags::RECEIVE_COIL_TYPE, "SURFACE"),
        code(tags::QUADRATURE_RECEIVE_COIL, "NO"),
    ];
    let transmit = [
        text(tags::TRANSMIT_COIL_NAME, VR::SH, "Body"),
        text(tags::TRANSMIT_COIL_MANUFACTURER_NAME, VR::LO, ""),
        code(tags::TRANSMIT_COIL_TYPE, "BODY"),
    ];
    InMemDicomObject::from_element_iter([
        group(tags::PIXEL_MEASURES_SEQUENCE, measures),
        group(tags::PLANE_POSITION_SEQUENCE, [places(tags::IMAGE_POSITION_PATIENT, &header.corner())]),
        group(
            tags::PLANE_ORIENTATION_SEQUENCE,
            [places(tags::IMAGE_ORIENTATION_PATIENT, &[plane.row, plane.column].concat())],
        ),
        group(
            tags::FRAME_ANATOMY_SEQUENCE,
            [group(tags::ANATOMIC_REGION_SEQUENCE, region), code(tags::FRAME_LATERALITY, "U")],
        ),
        group(tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE, value),
        group(tags::MR_IMAGE_FRAME_TYPE_SEQUENCE, described().into_iter().chain([code(tags::FRAME_TYPE, IMAGE_TYPE)])),
        group(tags::MR_TIMING_AND_RELATED_PARAMETERS_SEQUENCE, timing),
        group(tags::MRFOV_GEOMETRY_SEQUENCE, geometry),
        group(tags::MR_ECHO_SEQUENCE, [double(tags::EFFECTIVE_ECHO_TIME, 1.1)]),
        group(tags::MR_MODIFIER_SEQUENCE, modifier.map(|(tag, value)| code(tag, value))),
        group(tags::MR_IMAGING_MODIFIER_SEQUENCE, imaging),
        group(tags::MR_RECEIVE_COIL_SEQUENCE, receive),
        group(tags::MR_TRANSMIT_COIL_SEQUENCE, transmit),
        group(tags::MR_AVERAGES_SEQUENCE, [number(tags::NUMBER_OF_AVERAGES, 1.0)]),
    ])
}

/// What one frame has of its own: its time in the cycle.
fn frame(header: &Header<'_>, phase: usize) -> InMemDicomObject {
    let index = PrimitiveValue::from(phase as u32 + 1);
    let content = [
        text(tags::FRAME_ACQUISITION_DATE_TIME, VR::DT, MOMENT),
        text(tags::FRAME_REFERENCE_DATE_TIME, VR::DT, MOMENT),
        double(tags::FRAME_ACQUISITION_DURATION, BEAT_MS / header.acquired.phases as f64),
        DataElement::new(tags::DIMENSION_INDEX_VALUES, VR::UL, index.clone()),
        DataElement::new(tags::TEMPORAL_POSITION_INDEX, VR::UL, index),
    ];
    let cardiac = [
        double(tags::NOMINAL_CARDIAC_TRIGGER_DELAY_TIME, header.trigger_ms(phase)),
        double(tags::RR_INTERVAL_TIME_NOMINAL, BEAT_MS),
    ];
    InMemDicomObject::from_element_iter([
        group(tags::FRAME_CONTENT_SEQUENCE, content),
        group(tags::CARDIAC_SYNCHRONIZATION_SEQUENCE, cardiac),
    ])
}

const MOMENT: &str = "20150830101500";

/// A sequence of one item, as functional groups are.
fn group(tag: Tag, elements: impl IntoIterator<Item = InMemElement>) -> InMemElement {
    items(tag, [InMemDicomObject::from_element_iter(elements)])
}

fn items(tag: Tag, items: impl IntoIterator<Item = InMemDicomObject>) -> InMemElement {
    DataElement::new(tag, VR::SQ, DataSetSequence::from(items.into_iter().collect::<Vec<_>>()))
}

fn code(tag: Tag, value: &str) -> InMemElement {
    text(tag, VR::CS, value)
}

fn double(tag: Tag, value: f64) -> InMemElement {
    DataElement::new(tag, VR::FD, PrimitiveValue::from(value))
}

fn pointer(tag: Tag, to: Tag) -> InMemElement {
    DataElement::new(tag, VR::AT, PrimitiveValue::from(to))
}
