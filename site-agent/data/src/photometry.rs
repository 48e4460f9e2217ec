//! Changes of gray values in 0..1, in place.

use std::sync::LazyLock;

use rand::{Rng, RngExt};

/// Multiplies, as torchvision's brightness does.
pub(crate) fn brightness(values: &mut [f32], factor: f32) {
    values.iter_mut().for_each(|value| *value = (*value * factor).clamp(0.0, 1.0));
}

/// Moves values from (or to) their mean, as torchvision's contrast does.
pub(crate) fn contrast(values: &mut [f32], factor: f32) {
    let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len().max(1) as f64;
    let mean = mean as f32;
    values.iter_mut().for_each(|value| *value = (mean + (*value - mean) * factor).clamp(0.0, 1.0));
}

/// Raises to a power.
pub(crate) fn gamma(values: &mut [f32], power: f32) {
    values.iter_mut().for_each(|value| *value = value.powf(power));
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
    let mut padded = vec![0.0; side + 2 * reach];
    for row in values.chunks_exact_mut(side) {
        padded[..reach].fill(row[0]);
        padded[reach..reach + side].copy_from_slice(row);
        padded[reach + side..].fill(row[side - 1]);
        for (x, value) in row.iter_mut().enumerate() {
            let middle = x + reach;
            let sides = (1..=reach).map(|k| kernel[k] * (padded[middle - k] + padded[middle + k])).sum::<f32>();
            *value = kernel[0] * padded[middle] + sides;
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
                *value += weight * (a + b);
            }
        }
    }
}

/// Adds Gaussian noise of standard deviation `sigma`, drawn from 4096 equally likely values of the normal distribution:
/// a batch needs millions, and each of these takes 12 random bits and no logarithm. None is beyond 3.7 deviations.
pub(crate) fn noise(values: &mut [f32], sigma: f32, rng: &mut impl Rng) {
    if sigma <= 0.0 {
        return;
    }
    for five in values.chunks_mut(5) {
        let mut bits = rng.random::<u64>();
        for value in five {
            *value = (*value + sigma * NORMAL[(bits & 0xfff) as usize]).clamp(0.0, 1.0);
            bits >>= 12;
        }
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

    #[test]
    fn blur_is_the_sampled_gaussian_with_repeated_edges() {
        let (side, sigma) = (9, 0.8_f64);
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let image: Vec<f32> = (0..81).map(|_| rng.random()).collect();
        let mut blurred = image.clone();
        blur(&mut blurred, side, sigma);
        // The same as one double sum in two dimensions.
        let reach = 3_i32;
        let weight = |d: i32| (-f64::from(d * d) / (2.0 * sigma * sigma)).exp();
        let total: f64 = (-reach..=reach).map(weight).sum();
        let at = |y: i32, x: i32| f64::from(image[(y.clamp(0, 8) * 9 + x.clamp(0, 8)) as usize]);
        for y in 0..9 {
            for x in 0..9 {
                let sum: f64 = (-reach..=reach)
                    .flat_map(|dy| (-reach..=reach).map(move |dx| (dy, dx)))
                    .map(|(dy, dx)| weight(dy) * weight(dx) * at(y + dy, x + dx))
                    .sum();
                let found = f64::from(blurred[(y * 9 + x) as usize]);
                assert!((found - sum / (total * total)).abs() < 1e-5, "{y} {x}");
            }
        }
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
}
