//! Gaussian noise from a seed of 256 bits, by ChaCha20: nobody without the seed tells it from chance.

use std::f64::consts::TAU;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

use crate::weights::NamedTensors;

/// Adds independent normal noise of this standard deviation to every value, in the order of the names.
pub(crate) fn add(delta: &mut NamedTensors, deviation: f64, seed: [u8; 32]) {
    let mut rng = ChaCha20Rng::from_seed(seed);
    let mut waiting = None;
    for (_, values) in delta.iter_mut() {
        for value in values {
            let normal = waiting.take().unwrap_or_else(|| {
                let (one, other) = pair(rng.random(), rng.random());
                waiting = Some(other);
                one
            });
            *value = (f64::from(*value) + deviation * normal) as f32;
        }
    }
}

/// Two independent standard normal values (Box and Muller 1958) of two uniform ones in [0, 1).
fn pair(one: f64, other: f64) -> (f64, f64) {
    // From (0, 1]: the logarithm of 0 is no number.
    let length = (-2.0 * (1.0 - one).ln()).sqrt();
    let (sin, cos) = (TAU * other).sin_cos();
    (length * cos, length * sin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(count: usize, seed: u8) -> Vec<f64> {
        let mut delta = NamedTensors::new();
        // Two tensors of odd sizes: a pair is shared by both.
        delta.insert("a", vec![1001], vec![0.0; 1001]);
        delta.insert("b", vec![count - 1001], vec![0.0; count - 1001]);
        add(&mut delta, 1.0, [seed; 32]);
        delta.iter().flat_map(|(_, tensor)| tensor.values.clone()).map(f64::from).collect()
    }

    #[test]
    fn it_has_the_moments_and_the_tails_of_a_normal_distribution() {
        let count = 200_001;
        let values = drawn(count, 7);
        let moment = |power: i32| values.iter().map(|value| value.powi(power)).sum::<f64>() / count as f64;
        // Mean, variance, skewness and kurtosis, each within 5 of its own deviations (variances 1, 2, 15, 96 over the count).
        for (power, expected, variance) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0_f64)] {
            let off = (moment(power) - expected).abs();
            assert!(off < 5.0 * (variance / count as f64).sqrt(), "moment {power}: off by {off}");
        }
        // P(|z| > 1.96) = 0.05.
        let beyond = values.iter().filter(|value| value.abs() > 1.959_964).count() as f64 / count as f64;
        assert!((beyond - 0.05).abs() < 5.0 * (0.05 * 0.95 / count as f64).sqrt(), "{beyond}");
        let neighbors = values.windows(2).map(|pair| pair[0] * pair[1]).sum::<f64>() / count as f64;
        assert!(neighbors.abs() < 5.0 / (count as f64).sqrt(), "{neighbors}");
        assert!(values.iter().all(|value| value.is_finite()) && pair(0.0, 0.3) == (0.0, 0.0));
    }
}
