//! Position embeddings for another grid than they were learned on: the published bicubic resampling, as a matrix.
//!
//! The published code adds 0.1 to the target side before it computes the scale factor, so the sampling ratio is not
//! exactly `target / source`; parity needs the same.

/// The matrix `[target^2, source^2]` (row-major) that resamples a `source * source` grid, or `None` for the same grid.
pub(crate) fn resampling(source: usize, target: usize) -> Option<Vec<f32>> {
    if source == target {
        return None;
    }
    let axis = axis(source, target);
    let mut matrix = vec![0.0; target * target * source * source];
    for (ty, tx) in (0..target).flat_map(|ty| (0..target).map(move |tx| (ty, tx))) {
        let row = &mut matrix[(ty * target + tx) * source * source..][..source * source];
        for (sy, sx) in (0..source).flat_map(|sy| (0..source).map(move |sx| (sy, sx))) {
            row[sy * source + sx] = (axis[ty * source + sy] * axis[tx * source + sx]) as f32;
        }
    }
    Some(matrix)
}

/// One axis: cubic convolution with a = -0.75, half-pixel centers, clamped at the border, no antialiasing.
fn axis(source: usize, target: usize) -> Vec<f64> {
    let scale = (target as f64 + 0.1) / source as f64;
    let mut weights = vec![0.0; target * source];
    for place in 0..target {
        let at = (place as f64 + 0.5) / scale - 0.5;
        let (base, fraction) = (at.floor(), at - at.floor());
        for (tap, weight) in cubic(fraction).into_iter().enumerate() {
            let index = (base as i64 + tap as i64 - 1).clamp(0, source as i64 - 1) as usize;
            weights[place * source + index] += weight;
        }
    }
    weights
}

/// Weights of the four neighbors (Keys 1981, with PyTorch's a).
fn cubic(t: f64) -> [f64; 4] {
    const A: f64 = -0.75;
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_a_weighted_mean_and_the_same_grid_is_left_alone() {
        assert!(resampling(8, 8).is_none());
        let matrix = resampling(8, 4).unwrap();
        for row in matrix.chunks(64) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        }
    }
}
