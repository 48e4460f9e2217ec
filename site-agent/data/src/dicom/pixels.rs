//! The pixels of one image, as modality values: stored value x RescaleSlope + RescaleIntercept.
//!
//! Uncompressed pixels are read straight from their checked place; compressed ones by dicom-pixeldata. What comes out has
//! exactly rows x columns x frames values, or is refused, and so is what says otherwise of itself than the header does. Display windows are never applied.

use std::error::Error;

use dicom_pixeldata::PixelDecoder;

use super::header::ImageHeader;
use super::opened::{Opened, parse_file};
use super::scan::{PixelSpan, Scanned};
use super::source::Source;
use super::streams::check_streams;
use crate::limits::IntakeLimits;
use crate::skip::SkipReason;

/// An image's stored samples.
pub(crate) struct Pixels {
    /// Little-endian samples, 1 or 2 bytes each: rows x columns x frames.
    samples: Vec<u8>,
    bits_allocated: u16,
    bits_stored: u16,
    high_bit: u16,
    signed: bool,
    frame_samples: usize,
    scale: Vec<[f64; 2]>,
}

/// Decodes an image whose header has been read.
pub(crate) fn read_pixels(
    source: &mut dyn Source,
    header: &ImageHeader,
    limits: &IntakeLimits,
) -> Result<Pixels, SkipReason> {
    let samples = Opened::new(source, limits)?.read(|scanned, source| samples_of(header, scanned, source))?;
    Ok(Pixels {
        samples,
        bits_allocated: header.bits_allocated,
        bits_stored: header.bits_stored,
        high_bit: header.high_bit,
        signed: header.signed,
        frame_samples: header.rows as usize * header.columns as usize,
        scale: header.frames.iter().map(|frame| [frame.slope, frame.intercept]).collect(),
    })
}

impl Pixels {
    /// One frame's modality values, row by row. [rows x columns]
    pub(crate) fn frame(&self, frame: usize) -> Option<Vec<f32>> {
        let [slope, intercept] = *self.scale.get(frame)?;
        let bytes = usize::from(self.bits_allocated / 8);
        let length = self.frame_samples * bytes;
        let samples = self.samples.get(frame * length..(frame + 1) * length)?;
        let value = |stored: u16| (f64::from(self.sample(stored)) * slope + intercept) as f32;
        Some(match bytes {
            1 => samples.iter().map(|sample| value(u16::from(*sample))).collect(),
            _ => samples.chunks_exact(2).map(|pair| value(u16::from_le_bytes([pair[0], pair[1]]))).collect(),
        })
    }

    /// The bits that hold the sample, without the overlays that old files keep in the others.
    fn sample(&self, stored: u16) -> i32 {
        let shifted = u32::from(stored) >> (self.high_bit + 1 - self.bits_stored);
        let bits = u32::from(self.bits_stored);
        let kept = shifted & (u32::MAX >> (32 - bits));
        if self.signed && kept >> (bits - 1) == 1 { kept as i32 - (1 << bits) } else { kept as i32 }
    }
}

fn samples_of(header: &ImageHeader, scanned: &Scanned, source: &mut dyn Source) -> Result<Vec<u8>, SkipReason> {
    let bytes = usize::from(header.bits_allocated / 8);
    let expected = header.rows as usize * header.columns as usize * header.frames.len() * bytes;
    let fewer = |found: usize| SkipReason::FewerPixels { expected: expected as u64, found: found as u64 };
    match scanned.pixels {
        None => Err(SkipReason::NoPixels),
        Some(PixelSpan::Native { value, length, words, .. }) => {
            if length < expected as u64 {
                return Err(fewer(length as usize));
            }
            let mut samples = vec![0; expected];
            source.read_at(value, &mut samples).map_err(|_| SkipReason::Unreadable)?;
            if scanned.encoding.big_endian && (bytes == 2 || words) {
                samples.chunks_exact_mut(2).for_each(|pair| pair.swap(0, 1));
            }
            Ok(samples)
        }
        Some(PixelSpan::Encapsulated { end, .. }) => {
            let object = parse_file(source, scanned, end)?;
            check_streams(&object, &scanned.transfer_syntax, header)?;
            let decoded = object.decode_pixel_data().map_err(|error| undecodable(&error, &scanned.transfer_syntax))?;
            let mut samples = decoded.into_data();
            if samples.len() < expected {
                return Err(fewer(samples.len()));
            }
            samples.truncate(expected);
            Ok(samples)
        }
    }
}

/// Whether a decoder knows no such image, or could not make sense of this one. The decoders tell only in words.
fn undecodable(error: &(dyn Error + 'static), transfer_syntax: &str) -> SkipReason {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    let unsupported = causes.map(|cause| cause.to_string().to_lowercase()).any(|words| {
        ["unsupported", "not supported", "unimplemented", "not implemented"].iter().any(|word| words.contains(word))
    });
    match unsupported {
        true => SkipReason::TransferSyntax { uid: transfer_syntax.to_owned() },
        false => SkipReason::Damaged,
    }
}
