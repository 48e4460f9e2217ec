//! What shows a collapse before an accuracy does: entropies of the teacher's output, and RankMe of features.

/// The mean of the rows of `[rows, k]`.
pub(crate) fn mean_row(values: &[f32], k: usize) -> Vec<f64> {
    let mut mean = vec![0.0_f64; k];
    for row in values.chunks_exact(k) {
        mean.iter_mut().zip(row).for_each(|(mean, &value)| *mean += f64::from(value));
    }
    let rows = (values.len() / k).max(1) as f64;
    mean.iter_mut().for_each(|mean| *mean /= rows);
    mean
}

/// The mean entropy of the rows of `[rows, k]` probabilities, in nats.
pub(crate) fn mean_entropy(probabilities: &[f32], k: usize) -> f64 {
    let rows = probabilities.chunks_exact(k);
    let count = rows.len().max(1) as f64;
    rows.map(|row| entropy(row.iter().map(|&p| f64::from(p)))).sum::<f64>() / count
}

/// The entropy of probabilities, in nats.
pub(crate) fn entropy(probabilities: impl Iterator<Item = f64>) -> f64 {
    -probabilities.filter(|p| *p > 0.0).map(|p| p * p.ln()).sum::<f64>()
}

/// RankMe (Garrido et al. 2023): the exponential of the entropy of the normalized singular values of the features.
/// Between 1 and the dimension, or the number of features if that is less; low means that features use few directions.
pub fn rank_me(features: &[Vec<f32>]) -> f64 {
    let Some(dim) = features.first().map(Vec::len) else { return 0.0 };
    // Of fewer features than dimensions the products among themselves have the same singular values, and are fewer.
    let gram = if features.len() < dim { products(features) } else { gram(features, dim) };
    let singular: Vec<f64> = eigenvalues(gram).into_iter().map(|value| value.max(0.0).sqrt()).collect();
    let total: f64 = singular.iter().sum();
    if total == 0.0 {
        return 0.0;
    }
    let entropy: f64 = singular.iter().map(|value| value / total + 1e-7).map(|p| -p * p.ln()).sum();
    entropy.exp()
}

/// Features of one group of [`comparable_rank_me`].
pub const COMPARED: usize = 64;

/// RankMe as one site's may be held to another's. It cannot exceed the number of features, and grows with it, so that it is taken
/// over equally many everywhere: the mean over groups of [`COMPARED`] that follow each other. 0, not measured, of fewer.
pub fn comparable_rank_me(features: &[Vec<f32>]) -> f64 {
    let groups = features.chunks_exact(COMPARED);
    let count = groups.len().max(1) as f64;
    groups.map(rank_me).sum::<f64>() / count
}

fn gram(features: &[Vec<f32>], dim: usize) -> Vec<Vec<f64>> {
    let mut gram = vec![vec![0.0_f64; dim]; dim];
    for feature in features {
        for (row, &a) in gram.iter_mut().zip(feature) {
            row.iter_mut().zip(feature).for_each(|(sum, &b)| *sum += f64::from(a) * f64::from(b));
        }
    }
    gram
}

fn products(features: &[Vec<f32>]) -> Vec<Vec<f64>> {
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    features.iter().map(|a| features.iter().map(|b| product(a, b)).collect()).collect()
}

/// Eigenvalues of a symmetric matrix, by Jacobi's rotations.
fn eigenvalues(mut matrix: Vec<Vec<f64>>) -> Vec<f64> {
    let size = matrix.len();
    let scale: f64 = matrix.iter().enumerate().map(|(i, row)| row[i].abs()).sum();
    for _ in 0..30 {
        let off: f64 =
            (0..size).flat_map(|p| (p + 1..size).map(move |q| (p, q))).map(|(p, q)| matrix[p][q].powi(2)).sum();
        if off.sqrt() <= 1e-10 * scale {
            break;
        }
        for p in 0..size {
            for q in p + 1..size {
                rotate(&mut matrix, p, q);
            }
        }
    }
    (0..size).map(|i| matrix[i][i]).collect()
}

fn rotate(matrix: &mut [Vec<f64>], p: usize, q: usize) {
    if matrix[p][q].abs() < f64::MIN_POSITIVE {
        return;
    }
    let theta = (matrix[q][q] - matrix[p][p]) / (2.0 * matrix[p][q]);
    let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
    let t = if theta == 0.0 { 1.0 } else { t };
    let c = 1.0 / (t * t + 1.0).sqrt();
    let s = t * c;
    for row in matrix.iter_mut() {
        let (a, b) = (row[p], row[q]);
        (row[p], row[q]) = (c * a - s * b, s * a + c * b);
    }
    // p < q, so the two rows are on either side of the split.
    let (above, below) = matrix.split_at_mut(q);
    for (a, b) in above[p].iter_mut().zip(&mut below[0]) {
        (*a, *b) = (c * *a - s * *b, s * *a + c * *b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uniform_output_has_entropy_ln_k_and_a_shared_prototype_has_none_over_the_batch() {
        let entropies = |said: &[f32], k: usize| (mean_entropy(said, k), entropy(mean_row(said, k).into_iter()));
        let (each, batch) = entropies(&[0.25; 8], 4);
        assert!((each - 4.0_f64.ln()).abs() < 1e-9 && (batch - 4.0_f64.ln()).abs() < 1e-9);
        let (each, batch) = entropies(&[1.0, 0.0, 0.0, 1.0], 2);
        assert!(each.abs() < 1e-9 && (batch - 2.0_f64.ln()).abs() < 1e-9);
    }

    #[test]
    fn rank_me_counts_the_directions_that_are_used() {
        let axes: Vec<Vec<f32>> = (0..6).map(|i| (0..6).map(|j| f32::from(u8::from(i == j))).collect()).collect();
        assert!((rank_me(&axes) - 6.0).abs() < 1e-3);
        let one = vec![vec![1.0, 2.0, 3.0]; 5];
        assert!((rank_me(&one) - 1.0).abs() < 1e-3, "{}", rank_me(&one));
        assert_eq!(rank_me(&[]), 0.0);
    }

    /// Features of one distribution, whose directions weigh less and less.
    fn features(count: usize, dim: usize) -> Vec<Vec<f32>> {
        let mut state = 7_u64;
        let mut noise = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| (0..dim).map(|place| noise() / (1.0 + place as f32 / 16.0)).collect()).collect()
    }

    #[test]
    fn rank_me_of_the_same_distribution_is_the_same_from_few_frames_and_from_many_or_is_not_measured() {
        let all = features(256, 96);
        assert!(rank_me(&all[..60]) < 0.8 * rank_me(&all), "by itself it grows with their number");
        let many = comparable_rank_me(&all);
        for count in [COMPARED, 100, 200] {
            let ratio = comparable_rank_me(&all[..count]) / many;
            assert!((0.9..1.1).contains(&ratio), "{count}: {ratio}");
        }
        assert_eq!((comparable_rank_me(&all[..60]), comparable_rank_me(&[])), (0.0, 0.0));
    }

    #[test]
    fn rank_me_of_fewer_features_than_dimensions_is_that_of_their_gram_matrix() {
        let few = features(20, 30);
        let mut same: Vec<f64> = eigenvalues(gram(&few, 30));
        same.sort_by(|a, b| b.total_cmp(a));
        let mut found = eigenvalues(products(&few));
        found.sort_by(|a, b| b.total_cmp(a));
        assert!(found.iter().zip(&same).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?} {same:?}");
    }

    #[test]
    fn eigenvalues_of_a_known_matrix() {
        let mut found = eigenvalues(vec![vec![2.0, 1.0], vec![1.0, 2.0]]);
        found.sort_by(f64::total_cmp);
        assert!((found[0] - 1.0).abs() < 1e-9 && (found[1] - 3.0).abs() < 1e-9);
    }
}
