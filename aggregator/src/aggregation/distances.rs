//! How far the sites' deltas lie apart, over all tensors: what rules that weigh whole deltas decide by.

use super::tiles::Source;
use super::{Merge, MergeError};

/// Values of one file in a tile.
const TILE: usize = 1 << 14;

/// Squared L2 distances between deltas, in the order of the sites' names.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Distances(pub(super) Vec<Vec<f64>>);

impl Distances {
    /// Reads every delta once. Sums run from the first value to the last, so that tiles do not show in them.
    pub(super) fn of(merge: &Merge<'_>) -> Result<Self, MergeError> {
        let sources = merge.contributions.iter();
        let mut sources: Vec<_> = sources.map(|(name, part)| Source::of_site(name, part, merge.layout)).collect();
        let mut squares = vec![vec![0.0; sources.len()]; sources.len()];
        // All files are of one length, so all end together.
        while !sources
            .iter_mut()
            .map(|source| Ok(source.next_tile(TILE)?.is_empty()))
            .collect::<Result<Vec<_>, _>>()?
            .contains(&true)
        {
            for (one, row) in squares.iter_mut().enumerate() {
                for (other, sum) in row.iter_mut().enumerate().take(one) {
                    let pairs = sources[one].tile.iter().zip(&sources[other].tile);
                    *sum = pairs.fold(*sum, |sum, (a, b)| sum + (f64::from(*a) - f64::from(*b)).powi(2));
                }
            }
        }
        sources.iter().try_for_each(Source::require_digest)?;
        let count = squares.len();
        let of = |one: usize, other: usize| squares[one.max(other)][one.min(other)];
        Ok(Self((0..count).map(|one| (0..count).map(|other| of(one, other)).collect()).collect()))
    }

    /// Squared distances of each delta to the weighted mean of all; the weights add up to 1.
    pub(super) fn to_mean(&self, weights: &[f64]) -> Vec<f64> {
        let toward = |row: &Vec<f64>| row.iter().zip(weights).map(|(square, weight)| square * weight).sum::<f64>();
        let each: Vec<f64> = self.0.iter().map(toward).collect();
        let spread = each.iter().zip(weights).map(|(toward, weight)| toward * weight).sum::<f64>() / 2.0;
        each.into_iter().map(|toward| (toward - spread).max(0.0)).collect()
    }
}
