//! Krum and multi-Krum (Blanchard et al. 2017): a delta's score is the sum of its squared distances to its `n - f - 2`
//! nearest neighbors; the delta of the lowest score is taken, or the mean of the `m` lowest.

use common::share::Share;

use super::distances::Distances;

/// Equal shares for the `keep` deltas of the lowest scores, none for the others. Ties go by the order of the sites.
pub(super) fn shares(distances: &Distances, faulty: usize, keep: usize) -> Vec<Share> {
    let count = distances.0.len();
    let neighbors = count.saturating_sub(faulty + 2).max(1);
    let score = |(own, row): (usize, &Vec<f64>)| {
        let mut others: Vec<f64> = row.iter().enumerate().filter(|(other, _)| *other != own).map(|(_, d)| *d).collect();
        others.sort_by(f64::total_cmp);
        others.iter().take(neighbors).sum::<f64>()
    };
    let scores: Vec<f64> = distances.0.iter().enumerate().map(score).collect();
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]).then(a.cmp(b)));
    let kept = &order[..keep.min(count)];
    (0..count).map(|site| Share(u32::from(kept.contains(&site)))).collect()
}
