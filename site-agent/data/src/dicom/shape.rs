//! The size and form of an image's samples, held to what can be decoded and to what the file holds.

use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

use super::attributes::{text, whole};
use super::opened::is_encapsulated;
use super::scan::{PixelSpan, Scanned};
use crate::limits::IntakeLimits;
use crate::skip::SkipReason;

/// What the Image Pixel module says (PS3.3 C.7.6.3).
pub(super) struct Shape {
    pub(super) rows: u32,
    pub(super) columns: u32,
    pub(super) frames: u32,
    pub(super) bits_allocated: u16,
    pub(super) bits_stored: u16,
    pub(super) high_bit: u16,
    /// Two's complement.
    pub(super) signed: bool,
    /// MONOCHROME1.
    pub(super) inverted_gray: bool,
}

/// Holds what the header says of the pixels to what can be decoded, and to what the file holds.
pub(super) fn check_pixels(
    object: &InMemDicomObject,
    scanned: &Scanned,
    limits: &IntakeLimits,
) -> Result<Shape, SkipReason> {
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
    let (side, least) = (rows.min(columns), limits.smallest_side);
    if side < least {
        return Err(SkipReason::TooSmall { side, least });
    }
    // Rows and columns are below 2^31: see `whole`.
    let frame = u64::from(rows) * u64::from(columns) * u64::from(bits_allocated / 8);
    let expected = frame.saturating_mul(u64::from(frames));
    for (bytes, limit) in [(expected, limits.pixel_bytes), (frame, limits.frame_bytes)] {
        if bytes > limit {
            return Err(SkipReason::TooLarge { bytes, limit });
        }
    }
    if frames > limits.image_frames {
        return Err(SkipReason::TooManyFrames { frames, limit: limits.image_frames });
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
