//! Whether draws follow a law, for tests: the statistic of Kolmogorov and Smirnov.

/// Panics if draws are further from the law than one set in a thousand is. `law` is its distribution function.
#[track_caller]
pub(crate) fn follows(what: &str, mut draws: Vec<f64>, law: impl Fn(f64) -> f64) {
    draws.sort_unstable_by(f64::total_cmp);
    let n = draws.len() as f64;
    let distance = (0_u32..)
        .zip(&draws)
        .map(|(below, draw)| (law(*draw) - f64::from(below) / n).max(f64::from(below + 1) / n - law(*draw)))
        .fold(0.0, f64::max);
    // The asymptotic quantile at 0.999.
    assert!(distance < 1.95 / n.sqrt(), "{what}: {distance} away, with {n} draws");
}

/// The distribution function of the uniform law between two values.
pub(crate) fn uniform(low: f64, high: f64) -> impl Fn(f64) -> f64 {
    move |x| ((x - low) / (high - low)).clamp(0.0, 1.0)
}

/// The distribution function of the standard normal law, from its series around 0 (exact to 1e-12 below 5).
pub(crate) fn normal(x: f64) -> f64 {
    let mut term = x;
    let mut sum = x;
    for n in 1..100 {
        term *= x * x / f64::from(2 * n + 1);
        sum += term;
    }
    0.5 + sum * (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt()
}
