//! The exact GELU (Hendrycks and Gimpel 2016), `x * P(N(0, 1) <= x)`, and its gradient.

use common::wide;
use rayon::prelude::*;

use super::fresh::made;
use super::vector::exp;

/// `1 / sqrt(2 pi)`.
const INVERSE_ROOT_TAU: f32 = 0.398_942_3;

/// Values that one task takes.
const VALUES: usize = 1 << 14;

/// `P(N(0, 1) <= x)` and the density at `x`. By formula 7.1.26 of Abramowitz and Stegun, whose error is below 1.5e-7: that of
/// an f32 near 1.
#[inline(always)]
fn below_and_density(x: f32) -> (f32, f32) {
    let power = exp(-0.5 * x * x);
    let t = 1.0 / x.abs().mul_add(0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2, 1.0);
    let p = 1.061_405_4_f32;
    let p = p.mul_add(t, -1.453_152);
    let p = p.mul_add(t, 1.421_413_7);
    let p = p.mul_add(t, -0.284_496_74);
    let p = p.mul_add(t, 0.254_829_6);
    let beyond = 0.5 * p * t * power;
    let below = if x < 0.0 { beyond } else { 1.0 - beyond };
    (below, power * INVERSE_ROOT_TAU)
}

pub(super) fn forward(x: &[f32]) -> Vec<f32> {
    made(x.len(), VALUES, x.par_chunks(VALUES), |y, x| {
        wide(
            #[inline(always)]
            || y.iter_mut().zip(x).for_each(|(y, &x)| *y = x * below_and_density(x).0),
        );
    })
}

pub(super) fn backward(gradient: &[f32], x: &[f32]) -> Vec<f32> {
    made(x.len(), VALUES, gradient.par_chunks(VALUES).zip(x.par_chunks(VALUES)), |of_x, (gradient, x)| {
        wide(
            #[inline(always)]
            || {
                for ((of_x, gradient), &x) in of_x.iter_mut().zip(gradient).zip(x) {
                    let (below, density) = below_and_density(x);
                    *of_x = gradient * (below + x * density);
                }
            },
        );
    })
}
