//! Frames for k-NN and for people to look at: whole, without augmentation, with their labels.

use rayon::prelude::*;

use crate::cache::{CacheError, FrameCache, FramePixels, FrameRef};
use crate::keys::SubjectKey;
use crate::labels::{Level, Plane, Sequence};
use crate::resample::{Axis, Kernel, resample};

/// A frame with what it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabelledFrame {
    /// The frame.
    pub frame: FrameRef,
    /// Whose it is.
    pub subject: SubjectKey,
    /// Its sequence.
    pub sequence: Sequence,
    /// Its plane.
    pub plane: Plane,
    /// The third of the ventricle, for short-axis slices of a stack.
    pub level: Option<Level>,
}

/// Up to `per_slice` frames of every slice of these subjects, spread evenly over the cardiac cycle, in the cache's
/// order. The first is always the first phase (end-diastole, where the scan is triggered).
pub fn frames_for_evaluation(cache: &FrameCache, subjects: &[SubjectKey], per_slice: usize) -> Vec<LabelledFrame> {
    let mut wanted = subjects.to_vec();
    wanted.sort_unstable();
    let mut frames = Vec::new();
    for (series, record) in (0_u32..).zip(cache.series()) {
        if wanted.binary_search(&record.subject).is_err() {
            continue;
        }
        for (slice, held) in (0_u32..).zip(&record.slices) {
            let count = u32::try_from(per_slice).unwrap_or(u32::MAX).min(held.phases);
            frames.extend((0..count).map(|i| LabelledFrame {
                frame: FrameRef {
                    series,
                    slice,
                    phase: (u64::from(i) * u64::from(held.phases) / u64::from(count)) as u32,
                },
                subject: record.subject,
                sequence: record.sequence,
                plane: record.plane,
                level: held.level,
            }));
        }
    }
    frames
}

/// Whole frames at a model's size, normalised with the plan's mean and deviation.
/// [frames x channels x image_size x image_size]
pub fn whole_frames(
    cache: &FrameCache,
    frames: &[FrameRef],
    image_size: usize,
    in_channels: usize,
) -> Result<Vec<f32>, CacheError> {
    let pixels = image_size * image_size;
    let mut values = vec![0.0; frames.len() * in_channels * pixels];
    let (mean, std) = (cache.images().mean as f32, cache.images().std as f32);
    values.par_chunks_mut((in_channels * pixels).max(1)).zip(frames).try_for_each(|(own, frame)| {
        let whole = resized(&cache.pixels(*frame)?, image_size);
        for channel in own.chunks_exact_mut(pixels) {
            channel.iter_mut().zip(&whole).for_each(|(to, value)| *to = (value - mean) / std);
        }
        Ok(())
    })?;
    Ok(values)
}

/// A frame as gray bytes, for a picture. [side x side]
pub fn shown_frame(cache: &FrameCache, frame: FrameRef, side: usize) -> Result<Vec<u8>, CacheError> {
    let values = resized(&cache.pixels(frame)?, side);
    Ok(values.iter().map(|value| (value * 255.0).round() as u8).collect())
}

pub(crate) fn resized(pixels: &FramePixels<'_>, side: usize) -> Vec<f32> {
    let axis = Axis::covering(Kernel::Cubic, pixels.side(), side);
    let mut values = resample(|row| pixels.row(row), &axis, &axis, 0.0);
    values.iter_mut().for_each(|value| *value = value.clamp(0.0, 1.0));
    values
}
