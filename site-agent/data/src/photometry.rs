//! Changes of gray values in 0..1, in place.

use std::sync::LazyLock;

use common::wide;
use rand::{Rng, RngExt};

/// Uniform in `low..=high`; `low` if they are equal.
pub(crate) fn between(low: f64, high: f64, rng: &mut impl Rng) -> f64 {
    low + (high - low) * rng.random::<f64>()
}

/// Uniform in 1 ± `width`, never below 0.
pub(crate) fn around_one(width: f64, rng: &mut impl Rng) -> f32 {
    between((1.0 - width).max(0.0), 1.0 + width, rng) as f32
}

/// Brightness and contrast by factors from 1 ± the first two widths, then gamma log-uniformly from 1/(1 + the third) to
/// 1 + the third.
pub(crate) fn jitter(values: &mut [f32], widths: [f64; 3], rng: &mut impl Rng) {
    brightness(values, around_one(widths[0], rng));
    contrast(values, around_one(widths[1], rng));
    let width = (1.0 + widths[2]).ln();
    gamma(values, between(-width, width, rng).exp() as f32);
}

/// Multiplies, as torchvision's brightness does.
fn brightness(values: &mut [f32], factor: f32) {
    wide(
        #[inline(always)]
        || values.iter_mut().for_each(|value| *value = (*value * factor).clamp(0.0, 1.0)),
    );
}

/// Moves values from (or to) their mean, as torchvision's contrast does.
fn contrast(values: &mut [f32], factor: f32) {
    let mean = (sum(values) / values.len().max(1) as f64) as f32;
    wide(
        #[inline(always)]
        || values.iter_mut().for_each(|value| *value = (mean + (*value - mean) * factor).clamp(0.0, 1.0)),
    );
}

/// The sum, in lanes beside each other: one after the other would wait for each addition.
fn sum(values: &[f32]) -> f64 {
    let mut sums = [0.0_f64; LANES];
    let parts = values.chunks_exact(LANES);
    let rest: f64 = parts.remainder().iter().map(|value| f64::from(*value)).sum();
    wide(
        #[inline(always)]
        || {
            for part in parts.clone() {
                sums.iter_mut().zip(part).for_each(|(sum, value)| *sum += f64::from(*value));
            }
        },
    );
    sums.iter().sum::<f64>() + rest
}

/// Raises to a power.
fn gamma(values: &mut [f32], exponent: f32) {
    wide(
        #[inline(always)]
        || values.iter_mut().for_each(|value| *value = power(*value, exponent)),
    );
}

/// `value` in 0..1 to a positive power, to 2e-6 of it: `2^(exponent * log2 value)`. Without a branch or a call, so that the
/// compiler makes vector instructions of it, and with the same bits on every machine, which the system's library is not bound to.
#[inline(always)]
fn power(value: f32, exponent: f32) -> f32 {
    // value = m * 2^e, m from sqrt(1/2) to sqrt(2); log2 m = 2 / ln 2 * artanh((m - 1) / (m + 1)).
    let bits = value.to_bits();
    let m = f32::from_bits(bits & 0x7f_ffff | 0x3f80_0000);
    let upper = m > std::f32::consts::SQRT_2;
    let m = if upper { m * 0.5 } else { m };
    let e = (bits >> 23) as i32 - 127 + i32::from(upper);
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let series = [0.412_198_6, 0.577_078, 0.961_796_7, 2.885_39];
    let series = series.into_iter().fold(0.320_598_9_f32, |sum, term| sum.mul_add(z, term));
    let log2 = s.mul_add(series, e as f32);
    // 2^t = 2^n * 2^f, n whole, f from -1/2 to 1/2; adding 1.5 * 2^23 rounds, and leaves n in the low bits.
    let t = (log2 * exponent).max(-126.0);
    let shifted = t + 12_582_912.0;
    let f = t - (shifted - 12_582_912.0);
    let series = [0.001_333_356, 0.009_618_129, 0.055_504_11, 0.240_226_5, std::f32::consts::LN_2, 1.0];
    let series = series.into_iter().fold(0.000_154_035_3_f32, |sum, term| sum.mul_add(f, term));
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if value > 0.0 { series * scale } else { 0.0 }
}

/// A Gaussian of `sigma` pixels, cut at 3 sigma, edges repeated; one axis, then the other.
pub(crate) fn blur(values: &mut [f32], side: usize, sigma: f64) {
    let reach = (3.0 * sigma).ceil() as usize;
    // Narrower than this, the nearest neighbour's weight is below 1e-5.
    if sigma < 0.2 || side == 0 {
        return;
    }
    let weight = |offset: usize| (-0.5 * (offset as f64 / sigma).powi(2)).exp();
    let total = weight(0) + 2.0 * (1..=reach).map(weight).sum::<f64>();
    let kernel: Vec<f32> = (0..=reach).map(|offset| (weight(offset) / total) as f32).collect();
    wide(
        #[inline(always)]
        || convolve(values, side, &kernel),
    );
}

/// Along the rows, then down the columns, with a kernel from its middle on.
#[inline(always)]
fn convolve(values: &mut [f32], side: usize, kernel: &[f32]) {
    let reach = kernel.len() - 1;
    let mut padded = vec![0.0; (side + 2 * reach).next_multiple_of(LANES) + LANES];
    for row in values.chunks_exact_mut(side) {
        padded[..reach].fill(row[0]);
        padded[reach..reach + side].copy_from_slice(row);
        padded[reach + side..].fill(row[side - 1]);
        for (place, some) in row.chunks_mut(LANES).enumerate() {
            let middle = place * LANES + reach;
            let lanes = |start: usize| padded[start..start + LANES].iter();
            let mut sides = [0.0; LANES];
            for (k, weight) in kernel.iter().enumerate().skip(1) {
                for (sum, (a, b)) in sides.iter_mut().zip(lanes(middle - k).zip(lanes(middle + k))) {
                    *sum = weight.mul_add(a + b, *sum);
                }
            }
            for (value, (middle, sides)) in some.iter_mut().zip(lanes(middle).zip(sides)) {
                *value = kernel[0].mul_add(*middle, sides);
            }
        }
    }
    // Down the columns row by row, so that memory is read in order.
    let source = values.to_vec();
    let line = |y: isize| {
        let y = y.clamp(0, side as isize - 1) as usize;
        &source[y * side..][..side]
    };
    for (y, row) in values.chunks_exact_mut(side).enumerate() {
        row.iter_mut().zip(line(y as isize)).for_each(|(value, middle)| *value = kernel[0] * middle);
        for (k, weight) in kernel.iter().enumerate().skip(1) {
            let (above, below) = (line(y as isize - k as isize), line(y as isize + k as isize));
            for (value, (a, b)) in row.iter_mut().zip(above.iter().zip(below)) {
                *value = weight.mul_add(a + b, *value);
            }
        }
    }
}

/// Pixels that are blurred side by side.
const LANES: usize = 16;

/// Adds Gaussian noise of standard deviation `sigma`, drawn from 4096 equally likely values of the normal distribution:
/// a batch needs millions, and each of these takes two random bytes and no logarithm. None is beyond 3.7 deviations.
pub(crate) fn noise(values: &mut [f32], sigma: f32, rng: &mut impl Rng) {
    if sigma <= 0.0 {
        return;
    }
    let (normal, mut drawn) = (&*NORMAL, [0_u8; 1024]);
    for some in values.chunks_mut(drawn.len() / 2) {
        rng.fill_bytes(&mut drawn[..2 * some.len()]);
        wide(
            #[inline(always)]
            || {
                for (value, drawn) in some.iter_mut().zip(drawn.as_chunks().0) {
                    let place = usize::from(u16::from_le_bytes(*drawn) & 0xfff);
                    *value = (*value + sigma * normal[place]).clamp(0.0, 1.0);
                }
            },
        );
    }
}

/// The normal distribution's quantiles at (i + 1/2) / 4096, by integrating its density (Simpson's rule) from -5 up.
static NORMAL: LazyLock<[f32; 4096]> = LazyLock::new(|| {
    let density = |x: f64| (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
    let step = 1e-4;
    let (mut x, mut below) = (-5.0, 2.866_515_7e-7); // the distribution function at -5
    std::array::from_fn(|i| {
        let wanted = (i as f64 + 0.5) / 4096.0;
        loop {
            let next = below + step / 6.0 * (density(x) + 4.0 * density(x + step / 2.0) + density(x + step));
            if next >= wanted {
                return (x + step * (wanted - below) / (next - below)) as f32;
            }
            (x, below) = (x + step, next);
        }
    })
});

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::kolmogorov::{follows, normal};

    #[track_caller]
    fn close(values: &[f32], expected: &[f32]) {
        assert_eq!(values.len(), expected.len());
        for (value, expected) in values.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-6, "{values:?}");
        }
    }

    #[test]
    fn brightness_multiplies_and_clips() {
        let mut values = [0.0, 0.25, 0.5, 0.9];
        brightness(&mut values, 1.2);
        close(&values, &[0.0, 0.3, 0.6, 1.0]);
    }

    #[test]
    fn contrast_stretches_around_the_mean() {
        let mut values = [0.2, 0.4, 0.6, 0.8];
        contrast(&mut values, 0.5);
        close(&values, &[0.35, 0.45, 0.55, 0.65]);
        contrast(&mut values, 4.0);
        close(&values, &[0.0, 0.3, 0.7, 1.0]);
    }

    #[test]
    fn gamma_keeps_black_and_white() {
        let mut values = [0.0, 0.25, 0.5, 1.0];
        gamma(&mut values, 2.0);
        close(&values, &[0.0, 0.0625, 0.25, 1.0]);
    }

    /// `(37 y + 61 x + 11 x y) mod 101 / 100`. [5 x 6]
    fn image() -> Vec<f32> {
        (0..30).map(|i| (i / 6, i % 6)).map(|(y, x)| ((37 * y + 61 * x + 11 * x * y) % 101) as f32 / 100.0).collect()
    }

    #[test]
    fn a_power_is_that_of_double_precision_to_two_parts_in_a_million() {
        for exponent in [0.2_f32, 0.7, 1.0, 1.3, 4.0] {
            assert_eq!((power(0.0, exponent), power(1.0, exponent)), (0.0, 1.0));
            for step in 1..=20_000 {
                let value = step as f32 / 20_000.0;
                let expected = f64::from(value).powf(f64::from(exponent));
                let found = f64::from(power(value, exponent));
                assert!((found - expected).abs() <= 2e-6 * expected, "{value}^{exponent}: {found} {expected}");
            }
        }
    }

    #[rustfmt::skip]
    #[test]
    fn brightness_contrast_and_gamma_are_those_of_torchvision() {
        // scripts/reference_numbers.py
        type Change = fn(&mut [f32], f32);
        let tables: [(Change, f32, [f32; 30]); 4] = [
            (brightness, 1.3, [
                0.000000, 0.793000, 0.273000, 1.000000, 0.546000, 0.026000,
                0.481000, 0.104000, 1.000000, 0.663000, 0.286000, 1.000000,
                0.962000, 0.728000, 0.494000, 0.260000, 0.026000, 1.000000,
                0.130000, 0.039000, 1.000000, 1.000000, 1.000000, 0.988000,
                0.611000, 0.663000, 0.715000, 0.767000, 0.819000, 0.871000,
            ]),
            (contrast, 1.6, [
                0.000000, 0.680800, 0.040800, 1.000000, 0.376800, 0.000000,
                0.296800, 0.000000, 0.984800, 0.520800, 0.056800, 1.000000,
                0.888800, 0.600800, 0.312800, 0.024800, 0.000000, 1.000000,
                0.000000, 0.000000, 1.000000, 1.000000, 1.000000, 0.920800,
                0.456800, 0.520800, 0.584800, 0.648800, 0.712800, 0.776800,
            ]),
            (contrast, 0.7, [
                0.147600, 0.574600, 0.294600, 0.721600, 0.441600, 0.161600,
                0.406600, 0.203600, 0.707600, 0.504600, 0.301600, 0.805600,
                0.665600, 0.539600, 0.413600, 0.287600, 0.161600, 0.742600,
                0.217600, 0.168600, 0.826600, 0.777600, 0.728600, 0.679600,
                0.476600, 0.504600, 0.532600, 0.560600, 0.588600, 0.616600,
            ]),
            (gamma, 1.2, [
                0.000000, 0.552581, 0.153696, 0.788091, 0.353101, 0.009146,
                0.303279, 0.048273, 0.765082, 0.445743, 0.162520, 0.928439,
                0.696752, 0.498684, 0.313141, 0.144956, 0.009146, 0.822816,
                0.063096, 0.014878, 0.964109, 0.881234, 0.799639, 0.719410,
                0.404127, 0.445743, 0.488017, 0.530912, 0.574392, 0.618429,
            ]),
        ];
        for (change, factor, expected) in tables {
            let mut values = image();
            change(&mut values, factor);
            close(&values, &expected);
        }
    }

    #[test]
    fn blur_is_the_sampled_gaussian_with_repeated_edges() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        // Kernels within the image and beyond it; sides that are and are not whole lanes.
        for (side, sigma) in [(9, 0.8_f64), (9, 0.2), (1, 1.0), (3, 2.0), (16, 1.0), (32, 0.5), (37, 1.9)] {
            let image: Vec<f32> = (0..side * side).map(|_| rng.random()).collect();
            let mut blurred = image.clone();
            blur(&mut blurred, side, sigma);
            // The same as one double sum in two dimensions.
            let (side, reach) = (side as i64, (3.0 * sigma).ceil() as i64);
            let weight = |d: i64| (-((d * d) as f64) / (2.0 * sigma * sigma)).exp();
            let total: f64 = (-reach..=reach).map(weight).sum();
            let at = |y: i64, x: i64| f64::from(image[(y.clamp(0, side - 1) * side + x.clamp(0, side - 1)) as usize]);
            for (y, x) in (0..side).flat_map(|y| (0..side).map(move |x| (y, x))) {
                let sum: f64 = (-reach..=reach)
                    .flat_map(|dy| (-reach..=reach).map(move |dx| (dy, dx)))
                    .map(|(dy, dx)| weight(dy) * weight(dx) * at(y + dy, x + dx))
                    .sum();
                let found = f64::from(blurred[(y * side + x) as usize]);
                assert!((found - sum / (total * total)).abs() < 1e-5, "{side} {sigma}: {y} {x}");
            }
        }
    }

    #[test]
    fn a_blur_too_narrow_to_be_seen_changes_nothing() {
        let mut values = image()[..25].to_vec();
        blur(&mut values, 5, 0.19);
        assert_eq!(values, image()[..25]);
    }

    #[test]
    fn the_normal_quantiles_are_those_of_a_table() {
        // scipy.stats.norm.ppf((i + 0.5) / 4096)
        for (i, expected) in [(0, -3.668_329_3), (1000, -0.692_656_1), (2048, 0.000_306_0), (4095, 3.668_329_3)] {
            assert!((f64::from(NORMAL[i]) - expected).abs() < 1e-4, "{i}: {}", NORMAL[i]);
        }
        let deviation = (NORMAL.iter().map(|x| f64::from(x * x)).sum::<f64>() / 4096.0).sqrt();
        assert!((deviation - 1.0).abs() < 2e-3, "{deviation}");
    }

    #[test]
    fn noise_has_the_deviation_that_was_asked_for() {
        let mut values = vec![0.5; 20_001];
        noise(&mut values, 0.05, &mut ChaCha8Rng::seed_from_u64(2));
        let n = values.len() as f32;
        let mean = values.iter().sum::<f32>() / n;
        let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n).sqrt();
        assert!((mean - 0.5).abs() < 0.002 && (deviation - 0.05).abs() < 0.001, "{mean} {deviation}");
        let mut quiet = [0.5; 4];
        noise(&mut quiet, 0.0, &mut ChaCha8Rng::seed_from_u64(2));
        close(&quiet, &[0.5; 4]);
    }

    #[test]
    fn noise_is_normal_and_its_pixels_do_not_know_of_each_other() {
        let mut values = vec![0.5; 20_001];
        noise(&mut values, 0.1, &mut ChaCha8Rng::seed_from_u64(3));
        let drawn: Vec<f64> = values.iter().map(|value| f64::from(value - 0.5) / 0.1).collect();
        follows("noise", drawn.clone(), normal);
        // Five pixels share a random number: neighbours up to that far.
        for lag in 1..=6 {
            let pairs = drawn.iter().zip(&drawn[lag..]);
            let correlation = pairs.map(|(a, b)| a * b).sum::<f64>() / (drawn.len() - lag) as f64;
            assert!(correlation.abs() < 3.3 / (drawn.len() as f64).sqrt(), "{lag} apart: {correlation}");
        }
        let mut edges = [0.0, 1.0].repeat(50);
        noise(&mut edges, 0.5, &mut ChaCha8Rng::seed_from_u64(4));
        assert!(edges.iter().all(|value| (0.0..=1.0).contains(value)), "{edges:?}");
    }
}
