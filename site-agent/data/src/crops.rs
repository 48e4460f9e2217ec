//! Multi-crop augmentation (Caron et al. 2021, section 3.1 and `main_dino.py`) for grayscale MR.
//!
//! Each frame gives two global crops and some local ones: a random part of the frame, resized with a cubic kernel,
//! flipped, jittered in brightness, contrast and gamma, blurred, with noise, and normalised. Hue, saturation,
//! grayscale and solarisation have no meaning here. Every frame of a batch has a random stream of its own, so that a
//! batch is the same on any number of threads.

use common::plan::{CropPlan, ImagePlan};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::cache::{FrameCache, FramePixels, FrameRef};
use crate::photometry::{blur, brightness, contrast, gamma, noise};
use crate::resample::{Axis, Kernel, resample};

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
    pub fn batch(&self, cache: &FrameCache, frames: &[FrameRef], seed: u64) -> CropBatch {
        let sides: Vec<usize> = (0..2 + self.plan.local_count).map(|crop| self.side(crop)).collect();
        let mut crops: Vec<Crops> = sides
            .iter()
            .map(|&side| Crops {
                count: frames.len(),
                channels: self.channels,
                side,
                values: vec![0.0; frames.len() * self.channels * side * side],
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
        places.into_par_iter().enumerate().for_each(|(place, own)| {
            let pixels = cache.pixels(frames[place]);
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(place as u64);
            for (crop, values) in own.into_iter().enumerate() {
                self.fill(values, &self.crop(&pixels, crop, &mut rng));
            }
        });
        CropBatch { crops }
    }

    /// One crop of a frame, in 0..1. [side x side]
    fn crop(&self, pixels: &FramePixels<'_>, crop: usize, rng: &mut impl Rng) -> Vec<f32> {
        let side = self.side(crop);
        let plan = &self.plan;
        let scale = if crop < 2 { plan.global_scale } else { plan.local_scale };
        let part = random_part(pixels.side(), scale, rng);
        let mut values = take_part(pixels, part, side);
        if rng.random_bool(plan.flip) {
            values.chunks_exact_mut(side).for_each(<[f32]>::reverse);
        }
        if rng.random_bool(plan.jitter) {
            brightness(&mut values, around_one(plan.brightness, rng));
            contrast(&mut values, around_one(plan.contrast, rng));
            let width = (1.0 + plan.gamma).ln();
            gamma(&mut values, between(-width, width, rng).exp() as f32);
        }
        if rng.random_bool(plan.blur[crop.min(2)]) {
            let sigma = between(plan.blur_sigma[0], plan.blur_sigma[1], rng);
            blur(&mut values, side, sigma * side as f64 / 224.0);
        }
        noise(&mut values, between(0.0, plan.noise, rng) as f32, rng);
        values
    }

    fn side(&self, crop: usize) -> usize {
        if crop < 2 { self.global_size } else { self.plan.local_size }
    }

    /// Normalises a crop into each channel.
    fn fill(&self, channels: &mut [f32], values: &[f32]) {
        for channel in channels.chunks_exact_mut(values.len()) {
            for (to, value) in channel.iter_mut().zip(values) {
                *to = (value - self.mean) / self.std;
            }
        }
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

/// A part of a frame at another size, in 0..1.
fn take_part(pixels: &FramePixels<'_>, part: Part, side: usize) -> Vec<f32> {
    let vertical = Axis::covering(Kernel::Cubic, part.height, side);
    let horizontal = Axis::covering(Kernel::Cubic, part.width, side);
    let row = |row: usize| &pixels.row(part.top + row)[part.left..part.left + part.width];
    let mut values = resample(row, &vertical, &horizontal, 0.0);
    // A cubic kernel overshoots at edges.
    values.iter_mut().for_each(|value| *value = value.clamp(0.0, 1.0));
    values
}

/// Uniform in `low..=high`; `low` if they are equal.
fn between(low: f64, high: f64, rng: &mut impl Rng) -> f64 {
    low + (high - low) * rng.random::<f64>()
}

/// Uniform in 1 ± `width`, never below 0.
fn around_one(width: f64, rng: &mut impl Rng) -> f32 {
    between((1.0 - width).max(0.0), 1.0 + width, rng) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_the_areas_and_ratios_that_were_asked_for() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut areas = Vec::new();
        for _ in 0..2000 {
            let Part { top, left, height, width } = random_part(256, [0.05, 0.4], &mut rng);
            assert!(top + height <= 256 && left + width <= 256);
            let ratio = width as f64 / height as f64;
            assert!((0.73..=1.37).contains(&ratio), "{ratio}");
            areas.push((width * height) as f64 / 65536.0);
        }
        assert!(areas.iter().all(|area| (0.045..=0.41).contains(area)));
        // Uniform between 0.05 and 0.4: mean 0.225, deviation 0.101, so 2000 draws are within 0.01 of the mean.
        let mean = areas.iter().sum::<f64>() / 2000.0;
        assert!((mean - 0.225).abs() < 0.01, "{mean}");
    }

    #[test]
    fn a_part_that_cannot_fit_is_the_whole_frame() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let whole = Part { top: 0, left: 0, height: 8, width: 8 };
        assert_eq!(random_part(8, [4.0, 4.0], &mut rng), whole);
    }
}
