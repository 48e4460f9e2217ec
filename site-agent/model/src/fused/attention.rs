//! Scaled dot-product attention (Vaswani et al. 2017), a block of queries at a time. Of the scores only the log-sum-exp of
//! each row is kept; the backward makes them again (Dao et al. 2022, Algorithms 1 and 4).

use common::wide;
use rayon::prelude::*;

use super::Heads;
use super::fresh::made;
use super::product::{Place, product, transpose};
use super::vector::{exp, largest, replace, sum};

/// Queries whose scores are held at a time, at most.
const BLOCK: usize = 200;

/// Where the parts of one image's heads lie.
#[derive(Clone, Copy)]
struct Layout {
    tokens: usize,
    dim: usize,
    heads: usize,
}

impl Layout {
    fn new(packed: &[f32], columns: usize, Heads { count, heads }: Heads) -> Self {
        Self { tokens: packed.len() / columns / count, dim: columns / 3, heads }
    }

    fn width(&self) -> usize {
        self.dim / self.heads
    }

    fn scale(&self) -> f32 {
        (1.0 / (self.width() as f64).sqrt()) as f32
    }

    /// Rows of query (0), key (1) or value (2) of a head, in an image's packed rows.
    fn packed(&self, part: usize, head: usize, from: usize, rows: usize) -> Place {
        let start = from * 3 * self.dim + part * self.dim + head * self.width();
        Place::new(start, rows, self.width(), 3 * self.dim)
    }

    /// Keys or values of a head with tokens and width exchanged, `[width, tokens]`.
    fn transposed(&self, into: &mut [f32], packed: &[f32], part: usize, head: usize) -> Place {
        transpose(into, (packed, self.packed(part, head, 0, self.tokens)));
        Place::new(0, self.width(), self.tokens, self.tokens)
    }

    /// Rows of a head, in an image's mixed rows.
    fn mixed(&self, head: usize, from: usize, rows: usize) -> Place {
        Place::new(from * self.dim + head * self.width(), rows, self.width(), self.dim)
    }

    /// Rows of a block: all are of the same, but for the last.
    fn block(&self) -> usize {
        self.tokens.div_ceil(self.tokens.div_ceil(BLOCK))
    }

    /// First row and number of rows of each block.
    fn blocks(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (tokens, block) = (self.tokens, self.block());
        (0..tokens).step_by(block).map(move |from| (from, block.min(tokens - from)))
    }
}

/// The mixed values `[count * tokens, dim]`, and the log-sum-exp of the scores, `[count * heads, tokens]`.
pub(super) fn forward(packed: &[f32], columns: usize, heads: Heads) -> (Vec<f32>, Vec<f32>) {
    let layout = Layout::new(packed, columns, heads);
    let Layout { tokens, dim, heads: of, .. } = layout;
    let mut log_sums = vec![0.0; heads.count * of * tokens];
    let images = log_sums.par_chunks_mut(of * tokens).zip(packed.par_chunks(tokens * columns));
    let mixed = made(packed.len() / 3, tokens * dim, images, |mixed, (log_sums, packed)| {
        let mut scores = vec![0.0; layout.block() * tokens];
        let (mut keys, mut inverses) = (vec![0.0; layout.width() * tokens], vec![0.0; layout.block()]);
        for head in 0..of {
            let of_keys = layout.transposed(&mut keys, packed, 1, head);
            for (from, rows) in layout.blocks() {
                let block = Place::new(0, rows, tokens, tokens);
                let query = (packed, layout.packed(0, head, from, rows));
                product((&mut scores, block), false, layout.scale(), query, (&keys, of_keys));
                let log_sums = &mut log_sums[head * tokens + from..][..rows];
                wide(
                    #[inline(always)]
                    || {
                        let rows = scores.chunks_exact_mut(tokens).zip(&mut *log_sums).zip(&mut inverses);
                        for ((row, log_sum), inverse) in rows {
                            let most = largest(row);
                            let total = replace(row, |score| exp(score - most));
                            *inverse = 1.0 / total;
                            *log_sum = most + total.ln();
                        }
                    },
                );
                let values = (packed, layout.packed(2, head, 0, tokens));
                let place = layout.mixed(head, from, rows);
                product((mixed, place), false, 1.0, (&scores, block), values);
                // The mixed values are fewer than the weights: they are divided by the weights' sums instead.
                for (row, inverse) in mixed[place.start..].chunks_mut(dim).zip(&inverses[..rows]) {
                    row[..place.columns].iter_mut().for_each(|value| *value *= inverse);
                }
            }
        }
    });
    (mixed, log_sums)
}

/// The gradient of the packed input.
pub(super) fn backward(
    gradient: &[f32],
    packed: &[f32],
    mixed: &[f32],
    log_sums: &[f32],
    columns: usize,
    heads: Heads,
) -> Vec<f32> {
    let layout = Layout::new(packed, columns, heads);
    let Layout { tokens, dim, heads: of, .. } = layout;
    let images = packed
        .par_chunks(tokens * columns)
        .zip(gradient.par_chunks(tokens * dim))
        .zip(mixed.par_chunks(tokens * dim))
        .zip(log_sums.par_chunks(of * tokens));
    made(packed.len(), tokens * columns, images, |of_packed, (((packed, gradient), mixed), log_sums)| {
        let room = layout.block() * tokens;
        let (mut weights, mut of_scores) = (vec![0.0; room], vec![0.0; room]);
        let mut turned = [(); 2].map(|()| vec![0.0; layout.width() * tokens]);
        for head in 0..of {
            let [turned_keys, turned_values] = &mut turned;
            let of_turned = layout.transposed(turned_keys, packed, 1, head);
            layout.transposed(turned_values, packed, 2, head);
            for (from, rows) in layout.blocks() {
                let block = Place::new(0, rows, tokens, tokens);
                let query = (packed, layout.packed(0, head, from, rows));
                let (keys, values) = (layout.packed(1, head, 0, tokens), layout.packed(2, head, 0, tokens));
                let of_mixed = (gradient, layout.mixed(head, from, rows));
                let scale = layout.scale();
                product((&mut weights, block), false, scale, query, (turned_keys, of_turned));
                product((&mut of_scores, block), false, 1.0, of_mixed, (turned_values, of_turned));
                wide(
                    #[inline(always)]
                    || {
                        let rows = weights.chunks_exact_mut(tokens).zip(of_scores.chunks_exact_mut(tokens)).take(rows);
                        for (row, (weights, of_scores)) in rows.enumerate() {
                            let start = (from + row) * dim + head * layout.width();
                            let (gradient, mixed) = (&gradient[start..], &mixed[start..]);
                            let along = sum(layout.width(), |i| gradient[i] * mixed[i]);
                            let log_sum = log_sums[head * tokens + from + row];
                            for (weight, of_score) in weights.iter_mut().zip(of_scores) {
                                *weight = exp(*weight - log_sum);
                                *of_score = *weight * (*of_score - along) * scale;
                            }
                        }
                    },
                );
                let added = from > 0;
                let (transposed, of_packed) = (block.transposed(), &mut *of_packed);
                product((of_packed, values), added, 1.0, (&weights, transposed), of_mixed);
                product((of_packed, query.1), false, 1.0, (&of_scores, block), (packed, keys));
                product((of_packed, keys), added, 1.0, (&of_scores, transposed), query);
            }
        }
    })
}
