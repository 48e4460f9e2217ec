//! Exact merging: updates as 64-bit integers, so that a weighted sum has the same bits in any order.
//!
//! A value `x` of a delta becomes `q = round(x * 2^32)` with `|x| <= 8`; a share is at most 2^20, the whole, and the shares of a
//! cohort add up to about that. There is room for 32 times as much: 32 + 3 + 20 + 5 bits and a sign, 61 of 64. The sum is
//! exact, and equals the sum that secure aggregation yields modulo 2^64. There is one division, at the end.

use crate::share::{Share, WHOLE};

/// Fraction bits of a quantised value.
pub const FRACTION_BITS: u32 = 32;
/// Largest magnitude of a delta's value.
pub const MAX_MAGNITUDE: f32 = 8.0;
/// Shares of the whole that a sum has room for, three bits to spare.
pub const FULL_SHARES: usize = 32;
/// Largest cohort: each of its shares is at least one part of the whole, and so they add up to less than two wholes.
pub const MAX_SITES: usize = 1024;

/// Why a value cannot be summed.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum FixedPointError {
    /// NaN, infinite, or too large to be a step of training.
    #[error("a delta holds {value}: only finite values between -{MAX_MAGNITUDE} and {MAX_MAGNITUDE} can be merged")]
    OutOfRange {
        /// The value, as text, because NaN equals nothing.
        value: String,
    },
    /// More shares than the sum has room for.
    #[error("the sum overflows: it has room for {FULL_SHARES} shares of 2^20")]
    Overflow,
}

/// A value of a delta as an integer multiple of 2^-32, rounded half away from zero.
pub fn quantize(value: f32) -> Result<i64, FixedPointError> {
    if is_in_range(value) { Ok(quantized(value)) } else { Err(out_of_range(value)) }
}

/// Sums of `share * delta`, a place for each value.
///
/// They cannot overflow: it is known how many shares they hold, and one that there is no room for is refused before it is
/// added.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    sums: Vec<i64>,
    shares: u64,
}

/// Values of a delta that are added up before the next delta's: few, so that the processor has them of all deltas on their way
/// from memory at the same time.
const BLOCK: usize = 128;

impl Sums {
    /// So many, of nothing yet.
    pub fn new(values: usize) -> Self {
        Self { sums: vec![0; values], shares: 0 }
    }

    /// Begins anew, with so many.
    pub fn reset(&mut self, values: usize) {
        self.sums.clear();
        self.sums.resize(values, 0);
        self.shares = 0;
    }

    /// Adds deltas in, each of as many values as there are sums. After an error the sums mean nothing.
    ///
    /// # Panics
    /// If a delta has fewer or more values.
    pub fn add(&mut self, deltas: &[(&[f32], Share)]) -> Result<(), FixedPointError> {
        if deltas.iter().any(|(_, share)| share.0 > WHOLE) {
            return Err(FixedPointError::Overflow);
        }
        self.take_in(deltas.iter().map(|(_, share)| u64::from(share.0)).sum())?;
        assert!(deltas.iter().all(|(delta, _)| delta.len() == self.sums.len()), "a value of each delta for each sum");
        let mut largest = 0;
        for (place, sums) in self.sums.chunks_mut(BLOCK).enumerate() {
            for (delta, share) in deltas {
                let delta = &delta[place * BLOCK..][..sums.len()];
                largest = largest.max(add(sums, delta, i64::from(share.0)));
            }
        }
        // What has no sign is ordered as its bits are, NaN above all.
        if largest <= MAX_MAGNITUDE.to_bits() {
            return Ok(());
        }
        deltas.iter().try_for_each(|(delta, _)| require_in_range(delta))
    }

    /// Adds other sums of as many values in.
    pub fn join(&mut self, other: &Self) -> Result<(), FixedPointError> {
        self.take_in(other.shares)?;
        self.sums.iter_mut().zip(&other.sums).for_each(|(sum, more)| *sum += more);
        Ok(())
    }

    /// The sums, as multiples of 2^-32 and of a part of the whole share.
    pub fn integers(&self) -> &[i64] {
        &self.sums
    }

    /// The mean of each, by the shares that went in: see [`mean`].
    ///
    /// # Panics
    /// If nothing went in.
    pub fn means(&self) -> Vec<f32> {
        let mut means = vec![0.0; self.sums.len()];
        for (sums, means) in self.sums.chunks(BLOCK).zip(means.chunks_mut(BLOCK)) {
            if !near_means(sums, self.shares, means) {
                sums.iter().zip(means).for_each(|(&sum, found)| *found = mean(sum, self.shares));
            }
        }
        means
    }

    fn take_in(&mut self, shares: u64) -> Result<(), FixedPointError> {
        self.shares = self.shares.saturating_add(shares);
        if self.shares > FULL_SHARES as u64 * u64::from(WHOLE) { Err(FixedPointError::Overflow) } else { Ok(()) }
    }
}

/// Adds `share * delta` to the sums; the bits of the largest magnitude among the values. Without a branch, so that it becomes
/// vector instructions: whether a value was out of range is looked at in the end.
fn add(sums: &mut [i64], delta: &[f32], share: i64) -> u32 {
    pulp::Arch::new().dispatch(|| {
        let mut largest = 0;
        for (sum, &value) in sums.iter_mut().zip(delta) {
            largest = largest.max(value.abs().to_bits());
            // Of values in range nothing wraps, by the shares that there is room for.
            *sum = sum.wrapping_add(quantized(value).wrapping_mul(share));
        }
        largest
    })
}

/// Says which value of a delta cannot be merged.
pub fn require_in_range(delta: &[f32]) -> Result<(), FixedPointError> {
    match delta.iter().find(|value| !is_in_range(**value)) {
        None => Ok(()),
        Some(&value) => Err(out_of_range(value)),
    }
}

/// NaN is in no range.
#[inline(always)]
fn is_in_range(value: f32) -> bool {
    value.abs() <= MAX_MAGNITUDE
}

fn out_of_range(value: f32) -> FixedPointError {
    FixedPointError::OutOfRange { value: value.to_string() }
}

/// [`quantize`] of a value in range; of any other, some integer.
#[inline(always)]
fn quantized(value: f32) -> i64 {
    // Adding 1.5 * 2^52 to an integer leaves it in the low bits.
    const INTEGER: f64 = 6_755_399_441_055_744.0;
    // Exact in f64: 24 bits of significand times a power of two. So is the half that is added, or what it is added to is so
    // small that nothing of it is left either way.
    let scaled = f64::from(value) * (1_u64 << FRACTION_BITS) as f64;
    let rounded = (scaled + 0.5_f64.copysign(scaled)).trunc();
    ((rounded + INTEGER).to_bits() as i64).wrapping_sub(INTEGER.to_bits() as i64)
}

/// The mean: one division of an exact sum, correctly rounded to f32 (ties to even).
///
/// # Panics
/// If `total_share` is 0: a cohort without a share is never merged.
#[inline]
pub fn mean(sum: i64, total_share: u64) -> f32 {
    assert!(total_share > 0, "the shares of a round are positive");
    // The sum and the quotient are each rounded once, so this lies within four units in the last place of the exact mean.
    let near = sum as f64 / divisor(total_share);
    if from_the_middle(near) > 0 { near as f32 } else { exact_mean(sum, total_share) }
}

/// The means of some sums by floats, as [`mean`] has them; or says that some of them lie where integers must decide.
fn near_means(sums: &[i64], total_share: u64, means: &mut [f32]) -> bool {
    assert!(total_share > 0, "the shares of a round are positive");
    let divisor = divisor(total_share);
    pulp::Arch::new().dispatch(|| {
        let mut nearest = u64::MAX;
        for (mean, &sum) in means.iter_mut().zip(sums) {
            let near = sum as f64 / divisor;
            nearest = nearest.min(from_the_middle(near));
            *mean = near as f32;
        }
        nearest > 0
    })
}

#[inline(always)]
fn divisor(total_share: u64) -> f64 {
    total_share as f64 * (1_u64 << FRACTION_BITS) as f64
}

/// How many units in the last place more than four a quotient lies from the middle between two f32; 0 if they could decide.
///
/// An f32 drops 29 bits of an f64.
#[inline(always)]
fn from_the_middle(near: f64) -> u64 {
    const DROPPED: u64 = (1 << 29) - 1;
    const MIDDLE: u64 = 1 << 28;
    (near.to_bits() & DROPPED).abs_diff(MIDDLE).saturating_sub(4)
}

/// The mean by division of integers.
#[cold]
fn exact_mean(sum: i64, total_share: u64) -> f32 {
    let negative = sum < 0;
    let magnitude = u128::from(sum.unsigned_abs());
    let divisor = u128::from(total_share);
    // magnitude / (divisor * 2^32), rounded once. Shift so that the quotient has at least 26 bits, and keep whether
    // anything was left over as a sticky last bit: then the conversion to f32 rounds as if it saw the exact quotient.
    let shift = 64;
    let quotient = (magnitude << shift) / divisor;
    let sticky = u128::from((magnitude << shift) % divisor != 0);
    let rounded = round_to_f32(quotient, sticky == 1, -(shift + FRACTION_BITS as i32));
    if negative { -rounded } else { rounded }
}

/// The f32 nearest to `(integer + a fraction if sticky) * 2^exponent`, ties to even. Subnormals cannot occur here.
fn round_to_f32(integer: u128, sticky: bool, exponent: i32) -> f32 {
    let bits = 128 - integer.leading_zeros() as i32;
    let excess = bits - 24;
    if excess <= 0 {
        // Fewer than 24 bits: with 64 bits of shift this happens only for an exact zero.
        return (integer as f64 * 2.0_f64.powi(exponent)) as f32;
    }
    let kept = (integer >> excess) as u32;
    let rest = integer & ((1 << excess) - 1);
    let half = 1_u128 << (excess - 1);
    let up = rest > half || (rest == half && (sticky || kept & 1 == 1));
    // Exact in f64: at most 25 bits times a power of two within f64's range.
    (f64::from(kept + u32::from(up)) * 2.0_f64.powi(exponent + excess)) as f32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn merged(deltas: &[(f32, u32)]) -> f32 {
        let mut sum = Sums::new(1);
        deltas.iter().for_each(|&(value, share)| sum.add(&[(&[value], Share(share))]).unwrap());
        mean(sum.integers()[0], deltas.iter().map(|&(_, share)| u64::from(share)).sum())
    }

    proptest! {
        #[test]
        fn any_order_of_arrival_gives_the_same_bits(
            deltas in prop::collection::vec((-8.0_f32..=8.0, 1_u32..=WHOLE), 1..=32),
            rotation in 0_usize..32,
        ) {
            let mut other = deltas.clone();
            other.rotate_left(rotation % deltas.len());
            let reversed: Vec<_> = deltas.iter().rev().copied().collect();
            prop_assert_eq!(merged(&deltas).to_bits(), merged(&other).to_bits());
            prop_assert_eq!(merged(&deltas).to_bits(), merged(&reversed).to_bits());
        }

        #[test]
        fn a_value_becomes_the_nearest_integer_and_ties_go_away_from_zero(bits in any::<u32>(), half in -(1_i32 << 22)..(1 << 22)) {
            let tie = (f64::from(half) + 0.5) / 4_294_967_296.0;
            for value in [f32::from_bits(bits), tie as f32, f32::from_bits(bits % 0x4000_0000)] {
                if let Ok(found) = quantize(value) {
                    prop_assert_eq!(found, (f64::from(value) * 4_294_967_296.0).round() as i64);
                }
            }
        }

        #[test]
        fn the_quick_mean_is_the_exact_one_also_beside_and_at_a_tie(
            sum in -(1_i64 << 60)..(1_i64 << 60), share in 1_u64..=1 << 25, value in any::<u32>(), aside in -3_i128..=3,
        ) {
            prop_assert_eq!(mean(sum, share).to_bits(), exact_mean(sum, share).to_bits());
            // The middle between two floats, as near to it as a sum comes.
            let value = f32::from_bits(value % 0x7f_ffff + 0x3d80_0000);
            let middle = (f64::from(value) + f64::from(value.next_up())) / 2.0;
            let tie = ((middle * 2.0_f64.powi(60)) as i128 * i128::from(share)) >> 28;
            let tie = i64::try_from(tie + aside).unwrap();
            prop_assert_eq!(mean(tie, share).to_bits(), exact_mean(tie, share).to_bits());
        }

        #[test]
        fn the_means_of_many_sums_are_the_mean_of_each_and_a_tie_among_them_is_decided_by_integers(
            values in prop::collection::vec(-8.0_f32..=8.0, 1..300), share in 1..=WHOLE, ties in prop::collection::vec((0_usize..300, any::<u32>()), 0..3),
        ) {
            let mut sums = Sums::new(values.len());
            sums.add(&[(&values, Share(share)), (&values, Share(1))]).unwrap();
            for (place, value) in ties {
                let value = f32::from_bits(value % 0x7f_ffff + 0x3d80_0000);
                let middle = (f64::from(value) + f64::from(value.next_up())) / 2.0;
                let count = sums.sums.len();
                sums.sums[place % count] = i64::try_from(((middle * 2.0_f64.powi(60)) as i128 * i128::from(sums.shares)) >> 28).unwrap();
            }
            let each: Vec<u32> = sums.integers().iter().map(|&sum| exact_mean(sum, sums.shares).to_bits()).collect();
            prop_assert_eq!(sums.means().into_iter().map(f32::to_bits).collect::<Vec<_>>(), each);
        }

        #[test]
        fn the_mean_is_the_nearest_f32_to_the_exact_quotient(sum in -(1_i64 << 60)..(1_i64 << 60), share in 1_u64..=1 << 25) {
            let found = mean(sum, share);
            // |found * share * 2^32 - sum| must not exceed that of either neighbor; in integers, scaled by 2^120.
            let error = |value: f32| {
                let (significand, exponent) = exact(value);
                let scaled = significand * i128::from(share);
                let shift = exponent + 32;
                // Compare |scaled * 2^shift - sum| exactly as rationals with denominator 2^max(0,-shift).
                if shift >= 0 { ((scaled << shift) - i128::from(sum)).abs() as f64 }
                else if -shift < 60 { (scaled - (i128::from(sum) << -shift)).abs() as f64 / 2.0_f64.powi(-shift) }
                else { (sum as f64).abs() }
            };
            if found != 0.0 {
                let up = f32::from_bits(found.to_bits() + 1);
                let down = f32::from_bits(found.to_bits() - 1);
                prop_assert!(error(found) <= error(up) && error(found) <= error(down));
            }
        }
    }

    fn exact(value: f32) -> (i128, i32) {
        let bits = value.to_bits();
        let exponent = ((bits >> 23) & 0xff) as i32 - 150;
        let significand = i128::from((bits & 0x7f_ffff) | 0x80_0000);
        (if value < 0.0 { -significand } else { significand }, exponent)
    }

    #[test]
    fn one_site_alone_gets_its_own_delta_back_to_the_resolution() {
        for value in [0.0_f32, 1.0, -0.125, 7.999_999, 1e-3, -3.4e-6] {
            assert!((f64::from(merged(&[(value, WHOLE)])) - f64::from(value)).abs() <= 2.0_f64.powi(-33), "{value}");
        }
    }

    #[test]
    fn the_widest_sum_fits_and_a_wider_value_is_refused() {
        let mut sum = Sums::new(1);
        (0..FULL_SHARES).for_each(|_| sum.add(&[(&[8.0], Share(WHOLE))]).unwrap());
        assert_eq!(mean(sum.integers()[0], 32 * u64::from(WHOLE)), 8.0);
        for bad in [8.000_001_f32, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in 0..40 {
                let (good, mut delta) = ([0.5; 40], [0.5; 40]);
                delta[place] = bad;
                let error = Sums::new(40).add(&[(&good, Share(1)), (&delta, Share(1))]).unwrap_err();
                assert_eq!(error, FixedPointError::OutOfRange { value: bad.to_string() });
            }
        }
        let full = sum.clone();
        assert_eq!(sum.add(&[(&[0.0], Share(1))]), Err(FixedPointError::Overflow));
        let mut one = Sums::new(1);
        one.add(&[(&[8.0], Share(1))]).unwrap();
        assert_eq!(one.join(&full), Err(FixedPointError::Overflow));
        assert_eq!(Sums::new(1).add(&[(&[0.0], Share(WHOLE + 1))]), Err(FixedPointError::Overflow));
    }
}
