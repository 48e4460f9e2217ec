//! What a merge must give, value by value, to the bit: the slow way, with nothing of the aggregator's arithmetic.

/// A delta's value as a multiple of 2^-32, rounded half away from zero.
fn quantized(value: f32) -> i128 {
    // Exact: a float has 24 bits, and these are below 2^35.
    (f64::from(value) * 4_294_967_296.0).round() as i128
}

/// The next model's value: the f32 nearest to the mean of `(value, share)`, added to `base`.
pub(crate) fn merged(base: f32, deltas: &[(f32, u32)]) -> f32 {
    let sum: i128 = deltas.iter().map(|&(value, share)| quantized(value) * i128::from(share)).sum();
    let total: i128 = deltas.iter().map(|&(_, share)| i128::from(share)).sum();
    let change = nearest(sum, total);
    if change == 0.0 { base } else { (f64::from(base) + f64::from(change)) as f32 }
}

/// The f32 nearest to `sum / (total * 2^32)`, ties to even: among the neighbors of a guess.
fn nearest(sum: i128, total: i128) -> f32 {
    let guess = (sum as f64 / total as f64 / 4_294_967_296.0) as f32;
    let near = [guess.next_down(), guess, guess.next_up()];
    let key = |value: &f32| (distance(*value, sum, total), value.to_bits() & 1);
    near.into_iter().min_by_key(key).expect("three values")
}

/// `|value * total * 2^32 - sum|`, in units of 2^-48; values here are multiples of 2^-80 or more, and below 2^4.
fn distance(value: f32, sum: i128, total: i128) -> i128 {
    let bits = value.to_bits();
    let exponent = ((bits >> 23) & 0xff) as i32 - 150;
    let significand = i128::from(if exponent == -150 { bits & 0x7f_ffff } else { (bits & 0x7f_ffff) | 0x80_0000 });
    let scaled = significand * total * i128::from(if value < 0.0 { -1 } else { 1 });
    let shift = exponent + 32 + 48;
    let scaled = if shift >= 0 { scaled << shift } else { scaled >> -shift };
    (scaled - (sum << 48)).abs()
}
