//! The laws of the draws, and one crop against its definition: the same draws, double sums, f64.

use super::*;
use crate::kolmogorov::{follows, normal, uniform};
use crate::photometry::around_one;

const SIDE: usize = 64;

/// A frame without any symmetry, with black and white areas.
fn frame() -> Vec<[u8; 2]> {
    let value = |y: f64, x: f64| 0.5 + 0.7 * (0.13 * x + 0.002 * x * y).sin() * (0.21 * y - 0.05 * x).cos();
    (0..SIDE * SIDE)
        .map(|i| value((i / SIDE) as f64, (i % SIDE) as f64).clamp(0.0, 1.0))
        .map(|value| ((value * 65535.0) as u16).to_le_bytes())
        .collect()
}

fn maker(plan: CropPlan) -> CropMaker {
    CropMaker::new(&plan, &ImagePlan::default(), 40, 1)
}

fn crop_of(maker: &CropMaker, frame: &[[u8; 2]], crop: usize, rng: &mut impl Rng) -> Vec<f32> {
    let mut values = vec![f32::NAN; maker.side(crop) * maker.side(crop)];
    maker.crop(&mut values, &FramePixels::of(SIDE, frame), crop, rng, &mut Scratch::default());
    values
}

/// No augmentation: the whole frame at the crop's size.
fn plain() -> CropPlan {
    CropPlan {
        global_scale: [1.0, 1.0],
        local_scale: [1.0, 1.0],
        local_size: 24,
        flip: 0.0,
        jitter: 0.0,
        blur: [0.0; 3],
        noise: 0.0,
        ..CropPlan::default()
    }
}

#[test]
fn areas_are_uniform_and_ratios_log_uniform() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    // On so large a frame rounding to pixels hides nothing, and every first try fits.
    let side = 1 << 14;
    let parts: Vec<Part> = (0..4000).map(|_| random_part(side, [0.05, 0.4], &mut rng)).collect();
    let of = |f: fn(&Part) -> f64| parts.iter().map(f).collect::<Vec<f64>>();
    let areas = of(|part| (part.width * part.height) as f64);
    let frame = (side * side) as f64;
    follows("areas", areas.clone(), uniform(0.05 * frame, 0.4 * frame));
    let ratios = of(|part| (part.width as f64 / part.height as f64).ln());
    let widest = (4.0_f64 / 3.0).ln();
    follows("ratios", ratios.clone(), uniform(-widest, widest));
    follows("tops", of(|part| part.top as f64 / ((1 << 14) - part.height) as f64), uniform(0.0, 1.0));
    follows("lefts", of(|part| part.left as f64 / ((1 << 14) - part.width) as f64), uniform(0.0, 1.0));
    // Drawn apart from each other: the ratios of the smaller half of the areas follow the same law.
    let small = areas.iter().zip(ratios).filter(|(area, _)| **area < 0.225 * frame).map(|(_, ratio)| ratio).collect();
    follows("ratios of small areas", small, uniform(-widest, widest));
}

#[test]
fn parts_are_those_of_the_definition_and_the_tenth_try_is_the_last() {
    let (mut rng, mut same) = (ChaCha8Rng::seed_from_u64(2), ChaCha8Rng::seed_from_u64(2));
    let (mut fallbacks, mut last_tries) = (0, 0);
    for round in 0..3000 {
        // Of the whole area only ratios near 1 fit; rounding to pixels permits more of them on a small frame.
        let (side, low) = [(16, 0.9), (64, 1.0), (57, 0.3)][round % 3];
        let (expected, tries) = part_by_definition(side, [low, 1.0], &mut same);
        assert_eq!(random_part(side, [low, 1.0], &mut rng), expected);
        fallbacks += usize::from(tries > 10);
        last_tries += usize::from(tries == 10);
    }
    assert!(fallbacks > 100 && last_tries > 10, "{fallbacks} {last_tries}");
    assert_eq!(rng.random::<u64>(), same.random::<u64>(), "both drew as often");
}

#[test]
fn a_part_that_cannot_fit_is_the_whole_frame() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let whole = Part { top: 0, left: 0, height: 8, width: 8 };
    assert_eq!(random_part(8, [4.0, 4.0], &mut rng), whole);
}

#[test]
fn factors_are_uniform_around_one_and_never_negative() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for (width, low, high) in [(0.4, 0.6, 1.4), (1.5, 0.0, 2.5)] {
        let factors = (0..4000).map(|_| f64::from(around_one(width, &mut rng))).collect();
        follows("factors", factors, uniform(low, high));
    }
    assert_eq!(around_one(0.0, &mut rng), 1.0);
}

#[test]
fn flip_jitter_and_blur_happen_as_often_as_the_plan_says() {
    let frame = frame();
    let jitter = CropPlan { brightness: 0.5, contrast: 0.5, ..plain() };
    let blur = CropPlan { blur_sigma: [20.0, 20.0], ..plain() };
    let plans = [
        ("flip", 0, 0.3, CropPlan { flip: 0.3, ..plain() }),
        ("flip", 2, 0.5, CropPlan { flip: 0.5, ..plain() }),
        ("jitter", 1, 0.8, CropPlan { jitter: 0.8, ..jitter }),
        ("blur of the first", 0, 0.9, CropPlan { blur: [0.9, 0.1, 0.5], ..blur.clone() }),
        ("blur of the second", 1, 0.1, CropPlan { blur: [0.9, 0.1, 0.5], ..blur.clone() }),
        ("blur of the local ones", 2, 0.5, CropPlan { blur: [0.9, 0.1, 0.5], ..blur.clone() }),
        ("blur of the local ones", 4, 0.5, CropPlan { blur: [0.9, 0.1, 0.5], ..blur }),
    ];
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for (what, crop, probability, plan) in plans {
        let untouched = crop_of(&maker(plain()), &frame, crop, &mut rng);
        let maker = maker(plan);
        let n = 600;
        let changed = (0..n).filter(|_| crop_of(&maker, &frame, crop, &mut rng) != untouched).count() as f64;
        let n = f64::from(n);
        let deviation = (n * probability * (1.0 - probability)).sqrt();
        assert!((changed - n * probability).abs() < 3.3 * deviation, "{what}: {changed} of {n}");
    }
}

#[test]
fn a_crop_is_what_its_definition_makes_of_the_same_draws() {
    let frame = frame();
    let plan = CropPlan {
        global_scale: [0.3, 1.0],
        local_scale: [0.05, 0.6],
        local_size: 24,
        jitter: 0.7,
        blur: [0.8, 0.3, 0.6],
        blur_sigma: [0.1, 9.0],
        noise: 0.05,
        ..CropPlan::default()
    };
    let maker = maker(plan.clone());
    let mut steps = [0; 3];
    for seed in 0..14 {
        let (mut rng, mut same) = (ChaCha8Rng::seed_from_u64(seed), ChaCha8Rng::seed_from_u64(seed));
        for crop in 0..4 {
            let found = crop_of(&maker, &frame, crop, &mut rng);
            let side = if crop < 2 { 40 } else { 24 };
            let expected = crop_by_definition(&plan, &frame, crop, side, &mut same, &mut steps);
            for (place, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let difference = (f64::from(*found) - expected).abs();
                assert!(difference < 1e-5, "seed {seed}, crop {crop}, pixel {place}: {found} for {expected}");
            }
        }
    }
    assert!(steps.iter().all(|count| (15..50).contains(count)), "of 56 crops {steps:?} had each step");
}

/// torchvision's RandomResizedCrop.get_params on a square frame; and its tries, 11 for the fallback.
fn part_by_definition(side: usize, scale: [f64; 2], rng: &mut impl Rng) -> (Part, usize) {
    let whole = side as f64;
    for tries in 1..=10 {
        let target = (scale[0] + rng.random::<f64>() * (scale[1] - scale[0])) * whole * whole;
        let (low, high) = ((3.0_f64 / 4.0).ln(), (4.0_f64 / 3.0).ln());
        let ratio = (low + rng.random::<f64>() * (high - low)).exp();
        let (width, height) = ((target * ratio).sqrt().round(), (target / ratio).sqrt().round());
        if width >= 1.0 && width <= whole && height >= 1.0 && height <= whole {
            let (width, height) = (width as usize, height as usize);
            let top = rng.random_range(0..side - height + 1);
            let left = rng.random_range(0..side - width + 1);
            return (Part { top, left, height, width }, tries);
        }
    }
    (Part { top: 0, left: 0, height: side, width: side }, 11)
}

/// The whole chain, in its order; counts how often a flip, a jitter and a blur came.
fn crop_by_definition(
    plan: &CropPlan,
    frame: &[[u8; 2]],
    crop: usize,
    side: usize,
    rng: &mut impl Rng,
    steps: &mut [usize; 3],
) -> Vec<f64> {
    let scale = if crop < 2 { plan.global_scale } else { plan.local_scale };
    let (part, _) = part_by_definition(SIDE, scale, rng);
    let pixel = |y: usize, x: usize| f64::from(u16::from_le_bytes(frame[y * SIDE + x])) / 65535.0;
    let (down, across) = (cubic_weights(part.height, side), cubic_weights(part.width, side));
    let mut image = vec![vec![0.0; side]; side];
    for (row, down) in image.iter_mut().zip(&down) {
        for (value, across) in row.iter_mut().zip(&across) {
            let terms = down.iter().flat_map(|(y, a)| across.iter().map(move |(x, b)| (y, x, a * b)));
            let sum: f64 = terms.map(|(y, x, weight)| weight * pixel(part.top + y, part.left + x)).sum();
            *value = sum.clamp(0.0, 1.0);
        }
    }
    if rng.random_bool(plan.flip) {
        steps[0] += 1;
        image.iter_mut().for_each(|row| row.reverse());
    }
    let uniform = |low: f64, high: f64, rng: &mut dyn FnMut() -> f64| low + rng() * (high - low);
    if rng.random_bool(plan.jitter) {
        steps[1] += 1;
        let mut draw = || rng.random::<f64>();
        let brightness = uniform(1.0 - plan.brightness, 1.0 + plan.brightness, &mut draw);
        let contrast = uniform(1.0 - plan.contrast, 1.0 + plan.contrast, &mut draw);
        let gamma = (1.0 + plan.gamma).powf(uniform(-1.0, 1.0, &mut draw));
        let bright = mapped(&image, |value| (value * brightness).clamp(0.0, 1.0));
        let mean = bright.iter().flatten().sum::<f64>() / (side * side) as f64;
        let contrasted = mapped(&bright, |value| (contrast * value + (1.0 - contrast) * mean).clamp(0.0, 1.0));
        image = mapped(&contrasted, |value| value.powf(gamma));
    }
    if rng.random_bool(
        plan.blur[match crop {
            0 => 0,
            1 => 1,
            _ => 2,
        }],
    ) {
        steps[2] += 1;
        let sigma = uniform(plan.blur_sigma[0], plan.blur_sigma[1], &mut || rng.random::<f64>());
        image = blurred(&image, sigma * side as f64 / 224.0);
    }
    let sigma = plan.noise * rng.random::<f64>();
    let mut bits = 0;
    let mut values: Vec<f64> = image.into_iter().flatten().collect();
    for (place, value) in values.iter_mut().enumerate() {
        // Two bytes for each, four drawn at a time, the lower ones first.
        bits = if place % 2 == 0 { rng.random::<u32>() } else { bits >> 16 };
        let drawn = bits & 0xfff;
        *value = (*value + sigma * normal_quantile((f64::from(drawn) + 0.5) / 4096.0)).clamp(0.0, 1.0);
    }
    values
}

fn mapped(image: &[Vec<f64>], f: impl Fn(f64) -> f64) -> Vec<Vec<f64>> {
    image.iter().map(|row| row.iter().map(|value| f(*value)).collect()).collect()
}

/// For each of `count` samples the input samples and their weights: Keys 1981 at a = -1/2, widened by the step where
/// that is above 1, and divided by their sum.
fn cubic_weights(length: usize, count: usize) -> Vec<Vec<(usize, f64)>> {
    let a = -0.5;
    let keys = |x: f64| match x.abs() {
        x if x <= 1.0 => (a + 2.0) * x.powi(3) - (a + 3.0) * x.powi(2) + 1.0,
        x if x < 2.0 => a * x.powi(3) - 5.0 * a * x.powi(2) + 8.0 * a * x - 4.0 * a,
        _ => 0.0,
    };
    let step = length as f64 / count as f64;
    (0..count)
        .map(|i| {
            let center = (i as f64 + 0.5) * step - 0.5;
            let weight = |j: usize| keys((j as f64 - center) / step.max(1.0));
            let total: f64 = (0..length).map(weight).sum();
            (0..length).map(|j| (j, weight(j) / total)).filter(|(_, weight)| *weight != 0.0).collect()
        })
        .collect()
}

/// A double sum over the square of 3 sigma, edges repeated; nothing below 0.2.
fn blurred(image: &[Vec<f64>], sigma: f64) -> Vec<Vec<f64>> {
    if sigma < 0.2 {
        return image.to_vec();
    }
    let last = image.len() as i64 - 1;
    let reach = (3.0 * sigma).ceil() as i64;
    let square = || (-reach..=reach).flat_map(|dy| (-reach..=reach).map(move |dx| (dy, dx)));
    let weight = |(dy, dx): (i64, i64)| (-((dy * dy + dx * dx) as f64) / (2.0 * sigma * sigma)).exp();
    let total: f64 = square().map(weight).sum();
    let at = |y: i64, x: i64| image[y.clamp(0, last) as usize][x.clamp(0, last) as usize];
    let value = |y, x| square().map(|(dy, dx)| weight((dy, dx)) * at(y + dy, x + dx)).sum::<f64>() / total;
    (0..=last).map(|y| (0..=last).map(|x| value(y, x)).collect()).collect()
}

/// By bisection.
fn normal_quantile(wanted: f64) -> f64 {
    let (mut low, mut high) = (-4.0, 4.0);
    for _ in 0..40 {
        let middle = (low + high) / 2.0;
        if normal(middle) < wanted {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}
