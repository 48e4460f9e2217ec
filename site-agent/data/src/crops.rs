//! Multi-crop augmentation (Caron et al. 2021, section 3.1 and `main_dino.py`) for grayscale MR.
//!
//! Each frame gives two global crops and some local ones: a random part of the frame, resized with a cubic kernel,
//! flipped, jittered in brightness, contrast and gamma, blurred, with noise, and normalised. Hue, saturation,
//! grayscale and solarisation have no meaning here. Every frame of a batch has a random stream of its own, so that a
//! batch is the same on any number of threads.

use common::plan::{CropPlan, ImagePlan};
use common::wide;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::cache::{CacheError, FrameCache, FramePixels, FrameRef};
use crate::photometry::{between, blur, jitter, noise};
use crate::resample::{Axis, Kernel, Scratch, resample_into};

/// Makes crops as a plan says.
#[derive(Clone, Debug)]
pub struct CropMaker {
    plan: CropPlan,
    global_size: usize,
    channels: usize,
    mean: f32,
    std: f32,
}

/// A batch's crops: two global ones, then the local ones.
#[derive(Clone, Debug, PartialEq)]
pub struct CropBatch {
    /// One entry for each crop of a frame; its values hold that crop of all frames.
    pub crops: Vec<Crops>,
}

/// One crop of each frame of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Crops {
    /// Frames.
    pub count: usize,
    /// Channels, all equal.
    pub channels: usize,
    /// Rows, and columns.
    pub side: usize,
    /// [count x channels x side x side]
    pub values: Vec<f32>,
}

/// A part of a frame, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    top: usize,
    left: usize,
    height: usize,
    width: usize,
}

impl CropMaker {
    /// For a model that takes global crops of `image_size` with `in_channels` channels.
    pub fn new(crops: &CropPlan, images: &ImagePlan, image_size: usize, in_channels: usize) -> Self {
        let (mean, std) = (images.mean as f32, images.std as f32);
        Self { plan: crops.clone(), global_size: image_size, channels: in_channels, mean, std }
    }

    /// All crops of some frames; the n-th frame's depend on the seed, on n and on the frame alone.
    pub fn batch(&self, cache: &FrameCache, frames: &[FrameRef], seed: u64) -> Result<CropBatch, CacheError> {
        self.batch_in(Vec::new(), cache, frames, seed)
    }

    /// The same in the memory of an older batch, if it was of this size: memory that is fresh from the system costs a quarter
    /// of a batch's time.
    pub fn batch_in(
        &self,
        used: Vec<Vec<f32>>,
        cache: &FrameCache,
        frames: &[FrameRef],
        seed: u64,
    ) -> Result<CropBatch, CacheError> {
        let mut used = used.into_iter();
        let sides: Vec<usize> = (0..2 + self.plan.local_count).map(|crop| self.side(crop)).collect();
        let mut crops: Vec<Crops> = sides
            .iter()
            .map(|&side| {
                let (count, channels) = (frames.len(), self.channels);
                // An older batch may have had fewer crops. All values are written below, whatever they were.
                let mut values = used.next().unwrap_or_default();
                values.resize(count * channels * side * side, 0.0);
                Crops { count, channels, side, values }
            })
            .collect();
        // Each frame's places in all crops, so that threads write without sharing.
        let mut places: Vec<Vec<&mut [f32]>> = frames.iter().map(|_| Vec::with_capacity(crops.len())).collect();
        for crop in &mut crops {
            let length = crop.channels * crop.side * crop.side;
            for (own, values) in places.iter_mut().zip(crop.values.chunks_mut(length.max(1))) {
                own.push(values);
            }
        }
        places.into_par_iter().enumerate().try_for_each_init(Scratch::default, |scratch, (place, own)| {
            let pixels = cache.pixels(frames[place])?;
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(place as u64);
            for (crop, channels) in own.into_iter().enumerate() {
                let side = self.side(crop);
                let (first, others) = channels.split_at_mut(side * side);
                self.crop(first, &pixels, crop, &mut rng, scratch);
                wide(
                    #[inline(always)]
                    || first.iter_mut().for_each(|value| *value = (*value - self.mean) / self.std),
                );
                others.chunks_exact_mut(side * side).for_each(|channel| channel.copy_from_slice(first));
            }
            Ok(())
        })?;
        Ok(CropBatch { crops })
    }

    /// Makes one crop of a frame, in 0..1. `values` is [side x side]
    fn crop(
        &self,
        values: &mut [f32],
        pixels: &FramePixels<'_>,
        crop: usize,
        rng: &mut impl Rng,
        scratch: &mut Scratch,
    ) {
        let side = self.side(crop);
        let plan = &self.plan;
        let scale = if crop < 2 { plan.global_scale } else { plan.local_scale };
        let part = random_part(pixels.side(), scale, rng);
        take_part(values, pixels, part, side, scratch);
        if rng.random_bool(plan.flip) {
            values.chunks_exact_mut(side).for_each(<[f32]>::reverse);
        }
        if rng.random_bool(plan.jitter) {
            jitter(values, [plan.brightness, plan.contrast, plan.gamma], rng);
        }
        if rng.random_bool(plan.blur[crop.min(2)]) {
            let sigma = between(plan.blur_sigma[0], plan.blur_sigma[1], rng);
            blur(values, side, sigma * side as f64 / 224.0);
        }
        noise(values, between(0.0, plan.noise, rng) as f32, rng);
    }

    fn side(&self, crop: usize) -> usize {
        if crop < 2 { self.global_size } else { self.plan.local_size }
    }
}

/// A part of a square frame: an area drawn from `scale`, a ratio from 3/4 to 4/3 log-uniformly; ten tries, then the
/// whole frame (torchvision's RandomResizedCrop).
fn random_part(side: usize, scale: [f64; 2], rng: &mut impl Rng) -> Part {
    let area = (side * side) as f64;
    let widest = (4.0_f64 / 3.0).ln();
    for _ in 0..10 {
        let target = area * between(scale[0], scale[1], rng);
        let ratio = between(-widest, widest, rng).exp();
        let width = (target * ratio).sqrt().round() as usize;
        let height = (target / ratio).sqrt().round() as usize;
        if (1..=side).contains(&width) && (1..=side).contains(&height) {
            let top = rng.random_range(0..=side - height);
            let left = rng.random_range(0..=side - width);
            return Part { top, left, height, width };
        }
    }
    // The fallback is the middle of the frame at the nearest permitted ratio: of a square, all of it.
    Part { top: 0, left: 0, height: side, width: side }
}

/// A part of a frame at another size, in 0..1. `values` is [side x side]
fn take_part(values: &mut [f32], pixels: &FramePixels<'_>, part: Part, side: usize, scratch: &mut Scratch) {
    let vertical = Axis::covering(Kernel::Cubic, part.height, side);
    let horizontal = Axis::covering(Kernel::Cubic, part.width, side);
    let row = |row: usize| &pixels.row(part.top + row)[part.left..part.left + part.width];
    resample_into(values, row, &vertical, &horizontal, scratch);
    // A cubic kernel overshoots at edges.
    wide(
        #[inline(always)]
        || values.iter_mut().for_each(|value| *value = value.clamp(0.0, 1.0)),
    );
}

#[cfg(test)]
mod tests;
