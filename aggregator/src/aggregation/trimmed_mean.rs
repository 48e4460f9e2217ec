//! The trimmed mean of each coordinate (Yin et al. 2018): without the `floor(fraction * n)` largest and smallest values.

/// The mean of what is left; `values` are put in order.
pub(super) fn trimmed_mean(values: &mut [f64], fraction: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let out = (fraction * values.len() as f64).floor() as usize;
    let left = &values[out..values.len() - out];
    left.iter().sum::<f64>() / left.len() as f64
}
