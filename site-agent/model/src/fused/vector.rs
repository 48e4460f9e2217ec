//! Arithmetic on slices that the compiler can make vector instructions of: no branch, no call, fixed lanes.
//! `common::wide` makes the widest of them.

use common::wide;

const LANES: usize = 16;

/// The sum of `of(i)` for `i` below `count`, in sixteen lanes and a fixed order.
#[inline(always)]
pub(super) fn sum(count: usize, of: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let whole = count / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, total) in lanes.iter_mut().enumerate() {
            *total += of(start + lane);
        }
    }
    let rest: f32 = (whole..count).map(&of).sum();
    lanes.iter().sum::<f32>() + rest
}

/// Puts `of` each value in its place; the sum of what was put, in sixteen lanes and a fixed order.
#[inline(always)]
pub(super) fn replace(values: &mut [f32], of: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (whole, rest) = values.as_chunks_mut::<LANES>();
    for chunk in whole {
        for (total, value) in lanes.iter_mut().zip(chunk) {
            *value = of(*value);
            *total += *value;
        }
    }
    let mut beyond = 0.0;
    for value in rest {
        *value = of(*value);
        beyond += *value;
    }
    lanes.iter().sum::<f32>() + beyond
}

/// The sum of each column of some rows, in double precision.
pub(super) fn column_sums<'a>(rows: impl Iterator<Item = &'a [f32]>, columns: usize) -> Vec<f32> {
    let (mut sums, mut rows) = (vec![0.0_f64; columns], rows);
    wide(
        #[inline(always)]
        || {
            for row in rows.by_ref() {
                sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
            }
        },
    );
    sums.into_iter().map(|sum| sum as f32).collect()
}

/// The sums of parts that were added up beside each other, in the parts' order. Each part is of `N` rows of `width` values.
pub(super) fn added<const N: usize>(parts: &[[Vec<f32>; N]], width: usize) -> [Vec<f32>; N] {
    let mut totals: [Vec<f32>; N] = std::array::from_fn(|_| vec![0.0; width]);
    for part in parts {
        for (total, part) in totals.iter_mut().zip(part) {
            total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
        }
    }
    totals
}

/// The largest of the values.
#[inline(always)]
pub(super) fn largest(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for chunk in whole {
        for (most, &value) in lanes.iter_mut().zip(chunk) {
            *most = if value > *most { value } else { *most };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |most, &value| if value > most { value } else { most })
}

/// `e^x` to two units in the last place; 0 below -87, and finite above. Multiplied and added in one rounding: the same bits
/// on every processor, and the half of the instructions where there is one for it.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // e^x = 2^n * e^r with |r| <= ln 2 / 2. Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let inside = x.clamp(-87.0, 88.0);
    let shifted = inside.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 in two parts, the first exact in few bits (Cody and Waite).
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, inside));
    let p = 1.987_569_1e-4_f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_5e-2);
    let p = p.mul_add(r, 1.666_666_6e-1);
    let p = p.mul_add(r, 0.5);
    let p = p.mul_add(r * r, r) + 1.0;
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { p * power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_the_library_over_its_range() {
        for step in -8700..8800 {
            let x = step as f32 * 0.01;
            let (found, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((found - exact).abs() <= 3e-7 * exact, "{x}: {found} {exact}");
        }
        assert_eq!((exp(-100.0), exp(f32::NEG_INFINITY), exp(0.0)), (0.0, 0.0, 1.0));
        assert!(exp(f32::NAN).is_nan() && exp(1e9).is_finite());
    }

    #[test]
    fn sums_and_maxima_take_every_value_once() {
        let values: Vec<f32> = (0..53).map(|i| (i * 7 % 53) as f32).collect();
        assert_eq!(sum(53, |i| values[i]), (0..53).sum::<i32>() as f32);
        let mut twice = values.clone();
        assert_eq!(replace(&mut twice, |value| 2.0 * value), 2.0 * (0..53).sum::<i32>() as f32);
        assert!(twice.iter().zip(&values).all(|(twice, value)| *twice == 2.0 * value));
        assert_eq!(largest(&values), 52.0);
        assert_eq!(largest(&values[..3]), 14.0);
        assert_eq!(
            wide(
                #[inline(always)]
                || sum(3, |i| values[i])
            ),
            21.0
        );
    }
}
