//! Weighted k-nearest-neighbor classification of frozen features, as the DINO paper evaluates (Wu et al. 2018).

/// The class of each feature asked: the `k` bank features of highest cosine vote with weight `exp(cosine / temperature)`.
pub fn predict(
    bank: &[Vec<f32>],
    labels: &[usize],
    asked: &[Vec<f32>],
    k: usize,
    temperature: f64,
    classes: usize,
) -> Vec<usize> {
    let bank: Vec<Vec<f32>> = bank.iter().map(|feature| unit(feature)).collect();
    asked.iter().map(|feature| vote(&bank, labels, &unit(feature), k, temperature, classes)).collect()
}

fn vote(bank: &[Vec<f32>], labels: &[usize], feature: &[f32], k: usize, temperature: f64, classes: usize) -> usize {
    let cosine = |other: &Vec<f32>| other.iter().zip(feature).map(|(a, b)| a * b).sum::<f32>();
    let mut similar: Vec<(f32, usize)> = bank.iter().map(cosine).zip(labels.iter().copied()).collect();
    // Ties are broken by the order of the bank, so that the answer is the same everywhere.
    similar.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut votes = vec![0.0_f64; classes];
    for (cosine, label) in similar.into_iter().take(k) {
        votes[label] += (f64::from(cosine) / temperature).exp();
    }
    let best = votes.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
    best.map_or(0, |(class, _)| class)
}

fn unit(feature: &[f32]) -> Vec<f32> {
    let norm = feature.iter().map(|value| value * value).sum::<f32>().sqrt().max(1e-12);
    feature.iter().map(|value| value / norm).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_neighbors_outvote_far_ones_and_length_does_not_count() {
        let bank = [vec![1.0, 0.0], vec![0.9, 0.1], vec![0.0, 5.0], vec![0.0, 6.0], vec![0.0, 7.0]];
        let found = predict(&bank, &[0, 0, 1, 1, 1], &[vec![10.0, 1.0], vec![0.1, 1.0]], 5, 0.07, 2);
        assert_eq!(found, [0, 1]);
    }
}
