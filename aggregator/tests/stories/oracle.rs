//! What a merge must come to, by wide integers and by nothing of the product: `sum(share * round(x * 2^32))` in i128, and
//! the f32 nearest to the exact quotient.

/// A delta's value as an integer multiple of 2^-32, half away from zero. From the value's bits, without a float operation.
pub(crate) fn quantized(value: f32) -> i128 {
    let bits = value.to_bits();
    let exponent = ((bits >> 23) & 0xff) as i32;
    let fraction = i128::from(bits & 0x7f_ffff);
    // Subnormals have no hidden bit, and the exponent of the smallest normal number.
    let (significand, exponent) = if exponent == 0 { (fraction, 1) } else { (fraction | 0x80_0000, exponent) };
    let shift = exponent - 150 + 32;
    let magnitude = match shift {
        0.. => significand << shift,
        -126..0 => (significand + (1 << (-shift - 1))) >> -shift,
        _ => 0,
    };
    if value.is_sign_negative() { -magnitude } else { magnitude }
}

/// `sum / total * 2^-32`, rounded once to the nearest f32, ties to even.
pub(crate) fn nearest(sum: i128, total: i128) -> f32 {
    if sum == 0 {
        return 0.0;
    }
    // The float quotient is at most a place off; the nearest of three is found by integers.
    let near = (sum as f64 / total as f64 / 2.0_f64.powi(32)) as f32;
    let candidates = [near, near.next_down(), near.next_up()];
    // Everything times 2^scale is an integer.
    let scale = candidates.iter().map(|&value| -parts(value).1).fold(32, i32::max);
    let exact = sum << (scale - 32);
    let error = |value: f32| {
        let (significand, exponent) = parts(value);
        ((significand << (exponent + scale)) * total - exact).abs()
    };
    let even = |value: f32| value.to_bits() & 1 == 0;
    let better = |best: f32, other: f32| match error(other).cmp(&error(best)) {
        std::cmp::Ordering::Less => other,
        std::cmp::Ordering::Equal if even(other) => other,
        _ => best,
    };
    candidates.into_iter().reduce(better).unwrap_or(near)
}

/// `significand * 2^exponent` of a value, without trailing zeros in the significand.
fn parts(value: f32) -> (i128, i32) {
    let bits = value.to_bits();
    let exponent = ((bits >> 23) & 0xff) as i32;
    let fraction = i128::from(bits & 0x7f_ffff);
    let (significand, exponent) = if exponent == 0 { (fraction, -149) } else { (fraction | 0x80_0000, exponent - 150) };
    if significand == 0 {
        return (0, 0);
    }
    let zeros = significand.trailing_zeros() as i32;
    let significand = significand >> zeros;
    (if value.is_sign_negative() { -significand } else { significand }, exponent + zeros)
}

/// A base moved by the exact mean of some values with their shares.
pub(crate) fn moved(base: f32, parts: impl IntoIterator<Item = (f32, u32)>) -> f32 {
    let mut total = 0;
    let sum = parts.into_iter().fold(0, |sum, (value, share)| {
        total += i128::from(share);
        sum + quantized(value) * i128::from(share)
    });
    let mean = nearest(sum, total);
    if mean == 0.0 { base } else { (f64::from(base) + f64::from(mean)) as f32 }
}

#[test]
fn the_oracle_rounds_to_the_nearest_and_ties_to_even() {
    let unit = 1_i128 << 32;
    assert_eq!(nearest(unit, 1), 1.0);
    assert_eq!(nearest(-unit, 4), -0.25);
    // Halfway between 1 and its neighbor, and a hair beyond.
    let half = (1 << 24) + 1;
    assert_eq!(nearest(half * unit, 1 << 24), 1.0);
    assert_eq!(nearest(half * unit + 1, 1 << 24), 1.0_f32.next_up());
    for value in [0.0, -0.0, 0.5, 7.999_999, -8.0, 2.0_f32.powi(-33), -2.0_f32.powi(-33), 1e-30, f32::from_bits(1)] {
        let expected = (f64::from(value) * 2.0_f64.powi(32)).round();
        assert_eq!(quantized(value), expected as i128, "{value}");
    }
}
