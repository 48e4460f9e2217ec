//! Each frame's place, time, scale and part: from the data set itself, or from an enhanced image's functional groups.
//!
//! A frame's own group wins over the shared one, and that over the data set (PS3.3 C.7.6.16).

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

use super::attributes::{number, numbers, text, words};
use super::header::{Component, FrameHeader};
use crate::skip::SkipReason;

/// One header a frame, in the order of the pixels. `map` tells that all of them are a quantitative map.
pub(super) fn frame_headers(object: &InMemDicomObject, frames: u32, map: bool) -> Result<Vec<FrameHeader>, SkipReason> {
    let shared = items(object, tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE).first();
    let own = items(object, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE);
    if !own.is_empty() && own.len() != frames as usize {
        return Err(SkipReason::Damaged);
    }
    (0..frames as usize)
        .map(|frame| Groups { own: own.get(frame), shared, object, frame, frames: frames as usize, map }.header())
        .collect()
}

/// Whether the image, or some of its frames, were made with inversion recovery.
pub(super) fn is_inversion_recovery(object: &InMemDicomObject) -> bool {
    let stated = words(object, tags::SCANNING_SEQUENCE).iter().any(|word| word == "IR");
    let says = |item| words(item, tags::INVERSION_RECOVERY).iter().any(|word| word == "YES");
    stated || macros(object, tags::MR_MODIFIER_SEQUENCE).any(says)
}

/// Whether a contrast agent was given.
pub(super) fn has_contrast(object: &InMemDicomObject) -> bool {
    let named = text(object, tags::CONTRAST_BOLUS_AGENT).is_some_and(|agent| !agent.is_empty());
    named || !items(object, tags::CONTRAST_BOLUS_AGENT_SEQUENCE).is_empty()
}

/// Whether the pixels are times.
pub(super) fn is_in_milliseconds(object: &InMemDicomObject) -> bool {
    let mut holders = macros(object, tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE).chain([object]);
    holders.any(|holder| [tags::RESCALE_TYPE, tags::UNITS].iter().any(|tag| words(holder, *tag) == ["MS"]))
}

/// The items of one macro in the shared and in every frame's groups.
fn macros(object: &InMemDicomObject, sequence: Tag) -> impl Iterator<Item = &InMemDicomObject> {
    [tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE]
        .into_iter()
        .flat_map(move |groups| items(object, groups))
        .filter_map(move |group| items(group, sequence).first())
}

/// Where a frame's attributes may stand.
struct Groups<'a> {
    own: Option<&'a InMemDicomObject>,
    shared: Option<&'a InMemDicomObject>,
    object: &'a InMemDicomObject,
    frame: usize,
    frames: usize,
    map: bool,
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
        // Some write the distance with the sign of the direction in which they scanned.
        let depth = |tag| {
            let mm = number(self.holder(tags::PIXEL_MEASURES_SEQUENCE, tag), tag).map(f64::abs);
            mm.filter(|mm| (0.05..=200.0).contains(mm))
        };
        let cardiac = self.holder(tags::CARDIAC_SYNCHRONIZATION_SEQUENCE, tags::NOMINAL_CARDIAC_TRIGGER_DELAY_TIME);
        let modifier = self.holder(tags::MR_MODIFIER_SEQUENCE, tags::INVERSION_TIMES);
        let content = self.holder(tags::FRAME_CONTENT_SEQUENCE, tags::TEMPORAL_POSITION_INDEX);
        Ok(FrameHeader {
            position: self.fixed(tags::PLANE_POSITION_SEQUENCE, tags::IMAGE_POSITION_PATIENT),
            orientation: self.fixed(tags::PLANE_ORIENTATION_SEQUENCE, tags::IMAGE_ORIENTATION_PATIENT),
            spacing,
            thickness_mm: depth(tags::SLICE_THICKNESS),
            between_mm: depth(tags::SPACING_BETWEEN_SLICES),
            trigger_ms: number(cardiac, tags::NOMINAL_CARDIAC_TRIGGER_DELAY_TIME)
                .or_else(|| number(self.object, tags::TRIGGER_TIME))
                .or_else(|| self.frame_time()),
            phase_index: number(content, tags::TEMPORAL_POSITION_INDEX).map(|index| index as u32),
            component: if self.map { Component::Map } else { self.component() },
            inversion_ms: number(modifier, tags::INVERSION_TIMES)
                .or_else(|| number(self.object, tags::INVERSION_TIME))
                .filter(|ms| *ms > 0.0),
            slope,
            intercept,
        })
    }

    /// As the innermost data set says that says it.
    fn component(&self) -> Component {
        let frame_types = [self.own, self.shared].into_iter().flatten();
        let frame_types = frame_types.filter_map(|group| items(group, tags::MR_IMAGE_FRAME_TYPE_SEQUENCE).first());
        let mut holders = frame_types.map(|item| (item, tags::FRAME_TYPE)).chain([(self.object, tags::IMAGE_TYPE)]);
        let stated =
            |(holder, kind)| Component::stated(&words(holder, tags::COMPLEX_IMAGE_COMPONENT), &words(holder, kind));
        holders.find_map(stated).unwrap_or_default()
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
