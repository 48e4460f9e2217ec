//! Each frame's place, time and scale: from the data set itself, or from an enhanced image's functional groups.
//!
//! A frame's own group wins over the shared one, and that over the data set (PS3.3 C.7.6.16).

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

use super::attributes::{number, numbers};
use super::header::FrameHeader;
use crate::skip::SkipReason;

/// One header a frame, in the order of the pixels.
pub(super) fn frame_headers(object: &InMemDicomObject, frames: u32) -> Result<Vec<FrameHeader>, SkipReason> {
    let shared = items(object, tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE).first();
    let own = items(object, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE);
    if !own.is_empty() && own.len() != frames as usize {
        return Err(SkipReason::Damaged);
    }
    (0..frames as usize)
        .map(|frame| Groups { own: own.get(frame), shared, object, frame, frames: frames as usize }.header())
        .collect()
}

/// InversionTime, or the first of an enhanced image's InversionTimes.
pub(super) fn inversion_time(object: &InMemDicomObject) -> Option<f64> {
    let shared = items(object, tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE).first();
    let modifier = shared.and_then(|group| items(group, tags::MR_MODIFIER_SEQUENCE).first());
    number(object, tags::INVERSION_TIME).or_else(|| number(modifier?, tags::INVERSION_TIMES))
}

/// Where a frame's attributes may stand.
struct Groups<'a> {
    own: Option<&'a InMemDicomObject>,
    shared: Option<&'a InMemDicomObject>,
    object: &'a InMemDicomObject,
    frame: usize,
    frames: usize,
}

impl Groups<'_> {
    fn header(&self) -> Result<FrameHeader, SkipReason> {
        let scale = |tag, otherwise| {
            let holder = self.holder(tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE, tag);
            match holder.get(tag) {
                None => Ok(otherwise),
                Some(_) => number(holder, tag).ok_or(SkipReason::BadRescale),
            }
        };
        let slope = scale(tags::RESCALE_SLOPE, 1.0)?;
        let intercept = scale(tags::RESCALE_INTERCEPT, 0.0)?;
        let spacing = self.fixed::<2>(tags::PIXEL_MEASURES_SEQUENCE, tags::PIXEL_SPACING);
        let spacing =
            spacing.filter(|mm| mm.iter().all(|mm| (0.05..=50.0).contains(mm))).ok_or(SkipReason::NoSpacing)?;
        let cardiac = self.holder(tags::CARDIAC_SYNCHRONIZATION_SEQUENCE, tags::NOMINAL_CARDIAC_TRIGGER_DELAY_TIME);
        let content = self.holder(tags::FRAME_CONTENT_SEQUENCE, tags::TEMPORAL_POSITION_INDEX);
        Ok(FrameHeader {
            position: self.fixed(tags::PLANE_POSITION_SEQUENCE, tags::IMAGE_POSITION_PATIENT),
            orientation: self.fixed(tags::PLANE_ORIENTATION_SEQUENCE, tags::IMAGE_ORIENTATION_PATIENT),
            spacing,
            trigger_ms: number(cardiac, tags::NOMINAL_CARDIAC_TRIGGER_DELAY_TIME)
                .or_else(|| number(self.object, tags::TRIGGER_TIME))
                .or_else(|| self.frame_time()),
            phase_index: number(content, tags::TEMPORAL_POSITION_INDEX).map(|index| index as u32),
            slope,
            intercept,
        })
    }

    /// The innermost data set that holds the tag, looked for inside the macro's sequence.
    fn holder(&self, sequence: Tag, tag: Tag) -> &InMemDicomObject {
        [self.own, self.shared]
            .into_iter()
            .flatten()
            .filter_map(|group| items(group, sequence).first())
            .find(|item| item.get(tag).is_some())
            .unwrap_or(self.object)
    }

    fn fixed<const N: usize>(&self, sequence: Tag, tag: Tag) -> Option<[f64; N]> {
        numbers(self.holder(sequence, tag), tag)?.try_into().ok()
    }

    /// Time of a frame in a multi-frame image that states one duration for all (PS3.3 C.7.6.5).
    fn frame_time(&self) -> Option<f64> {
        (self.frames > 1).then(|| number(self.object, tags::FRAME_TIME)).flatten().map(|ms| ms * self.frame as f64)
    }
}

fn items(object: &InMemDicomObject, sequence: Tag) -> &[InMemDicomObject] {
    object.get(sequence).and_then(|element| element.items()).unwrap_or(&[])
}
