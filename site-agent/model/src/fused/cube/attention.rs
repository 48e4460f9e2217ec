//! Attention by three products and a pass over the rows of scores between them, forward and backward. Scores of all images
//! are in memory while it is computed, in the type of the products; none is kept.
//!
//! Heads lie apart meanwhile, `[images * heads, padded, width]`: tokens are filled up with zeros to a number that a product's
//! loads are wide for.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launch::{
    UNITS, array, cubes, dims, empty, plane_most, plane_row, plane_total, planes, units, vector_size, whole,
};
use super::product::{product, product_into, transposed};

/// Tokens are filled up to a multiple of so many: 16 bytes of the narrowest type.
const PADDING: usize = 8;

/// How heads lie in rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Split {
    /// Images.
    pub(super) count: usize,
    /// Heads of an image.
    pub(super) heads: usize,
    /// Tokens of an image.
    pub(super) tokens: usize,
    /// Values of a head.
    pub(super) width: usize,
}

impl Split {
    fn padded(self) -> usize {
        self.tokens.next_multiple_of(PADDING)
    }

    fn batch(self) -> usize {
        self.count * self.heads
    }
}

/// The parts of packed rows, one after the other, heads apart.
#[cube(launch)]
fn split_heads<E: Float, N: Size>(
    packed: &Array<Vector<E, N>>,
    apart: &mut Array<Vector<E, N>>,
    count: u32,
    batch: u32,
    #[comptime] heads: usize,
    #[comptime] tokens: usize,
    #[comptime] padded: usize,
    #[comptime] width: usize,
    #[comptime] row: usize,
    #[define(E)] _of_values: StorageType,
) {
    if ABSOLUTE_POS < count as usize {
        let at = ABSOLUTE_POS % width;
        let token = (ABSOLUTE_POS / width) % padded;
        let matrix = ABSOLUTE_POS / (width * padded);
        let part = matrix / batch as usize;
        let matrix = matrix % batch as usize;
        if token < tokens {
            let of_image = (matrix / heads * tokens + token) * row;
            apart[ABSOLUTE_POS] = packed[of_image + (part * heads + matrix % heads) * width + at];
        } else {
            apart[ABSOLUTE_POS] = Vector::cast_from(Vector::<f32, N>::new(0.0));
        }
    }
}

/// The way back, without what was filled up.
#[cube(launch)]
fn merge_heads<E: Float, N: Size>(
    apart: &Array<Vector<E, N>>,
    packed: &mut Array<Vector<E, N>>,
    count: u32,
    batch: u32,
    #[comptime] heads: usize,
    #[comptime] tokens: usize,
    #[comptime] padded: usize,
    #[comptime] width: usize,
    #[comptime] row: usize,
    #[define(E)] _of_values: StorageType,
) {
    if ABSOLUTE_POS < count as usize {
        let at = ABSOLUTE_POS % width;
        let head = (ABSOLUTE_POS % row) / width;
        let token = (ABSOLUTE_POS / row) % tokens;
        let image = ABSOLUTE_POS / (row * tokens);
        let matrix = head / heads * batch as usize + image * heads + head % heads;
        packed[ABSOLUTE_POS] = apart[(matrix * padded + token) * width + at];
    }
}

/// Scaled scores, very low where there is no token.
#[cube]
fn scaled<E: Float, N: Size>(scores: Vector<E, N>, at: usize, scale: f32, #[comptime] tokens: usize) -> Vector<f32, N> {
    let mut scaled = Vector::<f32, N>::cast_from(scores) * Vector::new(scale);
    if (at + 1) * N::value() > tokens {
        #[unroll]
        for place in 0..N::value() {
            if at * N::value() + place >= tokens {
                scaled[place] = -1e30f32;
            }
        }
    }
    scaled
}

/// Scores to weights, in their place, and the log-sum-exp of each row.
#[cube(launch)]
fn softmax_rows<E: Float, N: Size>(
    scores: &mut Array<Vector<E, N>>,
    log_sums: &mut Array<f32>,
    rows: u32,
    scale: f32,
    #[comptime] tokens: usize,
    #[comptime] padded: usize,
    #[define(E)] _of_scores: StorageType,
) {
    let row = plane_row();
    if row < rows as usize {
        let width = comptime!(padded) / N::value();
        let start = row * width;
        let token = row % padded;
        if token < tokens {
            let mut most = Vector::<f32, N>::new(-1e30);
            let mut at = UNIT_POS_X as usize;
            while at < width {
                most = max(most, scaled::<E, N>(scores[start + at], at, scale, tokens));
                at += CUBE_DIM_X as usize;
            }
            let most = plane_most::<N>(most);
            let mut sum = Vector::<f32, N>::new(0.0);
            let mut at = UNIT_POS_X as usize;
            while at < width {
                sum += Vector::exp(scaled::<E, N>(scores[start + at], at, scale, tokens) - Vector::new(most));
                at += CUBE_DIM_X as usize;
            }
            let log_sum = plane_total(sum).ln() + most;
            let mut at = UNIT_POS_X as usize;
            while at < width {
                let weight = Vector::exp(scaled::<E, N>(scores[start + at], at, scale, tokens) - Vector::new(log_sum));
                scores[start + at] = Vector::cast_from(weight);
                at += CUBE_DIM_X as usize;
            }
            if UNIT_POS_X == 0 {
                log_sums[(row / padded) * tokens + token] = log_sum;
            }
        } else {
            let mut at = UNIT_POS_X as usize;
            while at < width {
                scores[start + at] = Vector::cast_from(Vector::<f32, N>::new(0.0));
                at += CUBE_DIM_X as usize;
            }
        }
    }
}

/// Scores to weights, and gradients of weights to those of scores, each in their place.
#[cube(launch)]
fn softmax_rows_backward<E: Float, N: Size>(
    scores: &mut Array<Vector<E, N>>,
    gradient: &mut Array<Vector<E, N>>,
    log_sums: &Array<f32>,
    rows: u32,
    scale: f32,
    #[comptime] tokens: usize,
    #[comptime] padded: usize,
    #[define(E)] _of_scores: StorageType,
) {
    let row = plane_row();
    if row < rows as usize {
        let width = comptime!(padded) / N::value();
        let start = row * width;
        let token = row % padded;
        if token < tokens {
            let log_sum = log_sums[(row / padded) * tokens + token];
            let mut along = Vector::<f32, N>::new(0.0);
            let mut at = UNIT_POS_X as usize;
            while at < width {
                let weight = Vector::exp(scaled::<E, N>(scores[start + at], at, scale, tokens) - Vector::new(log_sum));
                along += weight * Vector::cast_from(gradient[start + at]);
                at += CUBE_DIM_X as usize;
            }
            let along = plane_total(along);
            let mut at = UNIT_POS_X as usize;
            while at < width {
                let weight = Vector::exp(scaled::<E, N>(scores[start + at], at, scale, tokens) - Vector::new(log_sum));
                let of_weight = Vector::<f32, N>::cast_from(gradient[start + at]);
                scores[start + at] = Vector::cast_from(weight);
                gradient[start + at] =
                    Vector::cast_from(weight * (of_weight - Vector::new(along)) * Vector::new(scale));
                at += CUBE_DIM_X as usize;
            }
        } else {
            let mut at = UNIT_POS_X as usize;
            while at < width {
                scores[start + at] = Vector::cast_from(Vector::<f32, N>::new(0.0));
                gradient[start + at] = Vector::cast_from(Vector::<f32, N>::new(0.0));
                at += CUBE_DIM_X as usize;
            }
        }
    }
}

/// Parts of packed rows with their heads apart, one after the other in one piece of memory.
struct Apart<R: CubeRuntime> {
    all: CubeTensor<R>,
    split: Split,
    parts: usize,
}

impl<R: CubeRuntime> Apart<R> {
    /// To be written.
    fn empty(beside: &CubeTensor<R>, split: Split, parts: usize) -> Self {
        let all = empty(beside, [parts * split.batch(), split.padded(), split.width], beside.dtype);
        Self { all, split, parts }
    }

    fn of(packed: &CubeTensor<R>, split: Split) -> Self {
        let [_, row] = dims(packed);
        let apart = Self::empty(packed, split, row / (split.heads * split.width));
        let vector = vector_size(split.width, &[packed.dtype]);
        let width = split.width / vector;
        let count = apart.parts * split.batch() * split.padded() * width;
        split_heads::launch::<R>(
            &packed.client,
            cubes(count.div_ceil(UNITS)),
            units(),
            vector,
            array(packed),
            array(&apart.all),
            count as u32,
            split.batch() as u32,
            split.heads,
            split.tokens,
            split.padded(),
            width,
            row / vector,
            packed.dtype.into(),
        );
        apart
    }

    /// The heads of one part, `[count * heads, padded, width]`.
    fn part(&self, part: usize) -> CubeTensor<R> {
        let CubeTensor { client, handle, device, dtype, .. } = self.all.clone();
        let shape = vec![self.split.batch(), self.split.padded(), self.split.width];
        let bytes = (shape.iter().product::<usize>() * dtype.size()) as u64;
        let (before, after) = (part as u64 * bytes, (self.parts - part - 1) as u64 * bytes);
        let handle = handle.offset_start(before).offset_end(after);
        CubeTensor::new_contiguous(client, device, shape.into(), handle, dtype)
    }

    /// As packed rows, `[count * tokens, parts * heads * width]`.
    fn packed(&self) -> CubeTensor<R> {
        let (split, all) = (self.split, &self.all);
        let [rows, columns] = [split.count * split.tokens, self.parts * split.heads * split.width];
        let result = empty(all, [rows, columns], all.dtype);
        let vector = vector_size(split.width, &[all.dtype]);
        let count = rows * columns / vector;
        merge_heads::launch::<R>(
            &all.client,
            cubes(count.div_ceil(UNITS)),
            units(),
            vector,
            array(all),
            array(&result),
            count as u32,
            split.batch() as u32,
            split.heads,
            split.tokens,
            split.padded(),
            split.width / vector,
            columns / vector,
            all.dtype.into(),
        );
        result
    }
}

fn scale(split: Split) -> f32 {
    1.0 / (split.width as f32).sqrt()
}

/// The result, and the log-sum-exp of each row of scores, `[count * heads, tokens]`.
pub(super) fn forward<R: CubeRuntime>(rows: CubeTensor<R>, split: Split) -> [CubeTensor<R>; 2] {
    let rows = whole(rows);
    let apart = Apart::of(&rows, split);
    let [query, key, value] = [0, 1, 2].map(|part| apart.part(part));
    let scores = product(query, transposed(key), rows.dtype);
    let log_sums = empty(&rows, [split.batch(), split.tokens], DType::F32);
    let all = split.batch() * split.padded();
    let (count, dim_of_cube) = planes(&rows.client, all);
    softmax_rows::launch::<R>(
        &rows.client,
        count,
        dim_of_cube,
        vector_size(split.padded(), &[rows.dtype]),
        array(&scores),
        array(&log_sums),
        all as u32,
        scale(split),
        split.tokens,
        split.padded(),
        rows.dtype.into(),
    );
    let mixed = Apart::empty(&rows, split, 1);
    product_into(scores, value, &mixed.part(0));
    [mixed.packed(), log_sums]
}

/// The gradient of the packed rows.
pub(super) fn backward<R: CubeRuntime>([gradient, rows, log_sums]: [CubeTensor<R>; 3], split: Split) -> CubeTensor<R> {
    let [gradient, rows, log_sums] = [gradient, rows, log_sums].map(whole);
    let dtype = rows.dtype;
    let apart = Apart::of(&rows, split);
    let [query, key, value] = [0, 1, 2].map(|part| apart.part(part));
    let gradient = Apart::of(&gradient, split).part(0);
    let weights = product(query.clone(), transposed(key.clone()), dtype);
    let of_scores = product(gradient.clone(), transposed(value), dtype);
    let all = split.batch() * split.padded();
    let (count, dim_of_cube) = planes(&rows.client, all);
    softmax_rows_backward::launch::<R>(
        &rows.client,
        count,
        dim_of_cube,
        vector_size(split.padded(), &[dtype]),
        array(&weights),
        array(&of_scores),
        array(&log_sums),
        all as u32,
        scale(split),
        split.tokens,
        split.padded(),
        dtype.into(),
    );
    let result = Apart::empty(&rows, split, 3);
    product_into(of_scores.clone(), key, &result.part(0));
    product_into(transposed(of_scores), query, &result.part(1));
    product_into(transposed(weights), gradient, &result.part(2));
    result.packed()
}
