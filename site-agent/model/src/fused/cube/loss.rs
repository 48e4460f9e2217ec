//! DINO's cross-entropy and what the teacher says, a cube a row of logits.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launch::{
    UNITS, array, cube_most, cube_total, cubes, dims, empty, plane_most, plane_total, units, vector_size, whole,
};

/// What a student's row is held to: the targets of the teacher's crops that are not itself, added up.
#[cube]
fn wanted<N: Size>(
    taught: &Array<Vector<f32, N>>,
    row: usize,
    at: usize,
    batch: usize,
    width: usize,
) -> Vector<f32, N> {
    let image = row % batch;
    let mut sum = Vector::<f32, N>::new(0.0);
    if row / batch != 0 {
        sum += taught[image * width + at];
    }
    if row / batch != 1 {
        sum += taught[(batch + image) * width + at];
    }
    sum
}

/// The log-sum-exp of a row over a temperature.
#[cube]
fn log_sum<N: Size>(
    x: &Array<Vector<f32, N>>,
    start: usize,
    inverse: f32,
    shared: &mut SharedMemory<f32>,
    #[comptime] width: usize,
) -> f32 {
    let mut most = Vector::<f32, N>::new(-1e30);
    let mut at = UNIT_POS as usize;
    while at < width {
        most = max(most, x[start + at] * Vector::new(inverse));
        at += CUBE_DIM as usize;
    }
    let most = cube_most(plane_most::<N>(most), shared);
    let mut sum = Vector::<f32, N>::new(0.0);
    let mut at = UNIT_POS as usize;
    while at < width {
        sum += Vector::exp(x[start + at] * Vector::new(inverse) - Vector::new(most));
        at += CUBE_DIM as usize;
    }
    cube_total(plane_total::<N>(sum), shared).ln() + most
}

/// Each row's part of the loss.
#[cube(launch)]
fn losses<N: Size>(
    learnt: &Array<Vector<f32, N>>,
    taught: &Array<Vector<f32, N>>,
    losses: &mut Array<f32>,
    rows: u32,
    batch: u32,
    inverse: f32,
    terms: f32,
    #[comptime] width: usize,
) {
    let row = CUBE_POS;
    if row < rows as usize {
        let mut shared = SharedMemory::<f32>::new(UNITS);
        let start = row * width;
        let log_sum = log_sum::<N>(learnt, start, inverse, &mut shared, width);
        let mut loss = Vector::<f32, N>::new(0.0);
        let mut at = UNIT_POS as usize;
        while at < width {
            let short = Vector::new(log_sum) - learnt[start + at] * Vector::new(inverse);
            loss += wanted::<N>(taught, row, at, batch as usize, width) * short;
            at += CUBE_DIM as usize;
        }
        let loss = cube_total(plane_total::<N>(loss), &mut shared) / terms;
        if UNIT_POS == 0 {
            losses[row] = loss;
        }
    }
}

/// The gradient of the logits.
#[cube(launch)]
fn gradients<N: Size>(
    learnt: &Array<Vector<f32, N>>,
    taught: &Array<Vector<f32, N>>,
    gradients: &mut Array<Vector<f32, N>>,
    rows: u32,
    batch: u32,
    inverse: f32,
    terms: f32,
    #[comptime] width: usize,
) {
    let row = CUBE_POS;
    if row < rows as usize {
        let mut shared = SharedMemory::<f32>::new(UNITS);
        let start = row * width;
        let log_sum = log_sum::<N>(learnt, start, inverse, &mut shared, width);
        let mut mass = Vector::<f32, N>::new(0.0);
        let mut at = UNIT_POS as usize;
        while at < width {
            mass += wanted::<N>(taught, row, at, batch as usize, width);
            at += CUBE_DIM as usize;
        }
        let mass = cube_total(plane_total::<N>(mass), &mut shared);
        let mut at = UNIT_POS as usize;
        while at < width {
            let said = Vector::exp(learnt[start + at] * Vector::new(inverse) - Vector::new(log_sum));
            let wanted = wanted::<N>(taught, row, at, batch as usize, width);
            gradients[start + at] = (said * Vector::new(mass) - wanted) * Vector::new(inverse / terms);
            at += CUBE_DIM as usize;
        }
    }
}

/// The softmax of each row over a temperature, a center taken away before.
#[cube(launch)]
fn sharpened<N: Size>(
    logits: &Array<Vector<f32, N>>,
    center: &Array<Vector<f32, N>>,
    taught: &mut Array<Vector<f32, N>>,
    rows: u32,
    inverse: f32,
    #[comptime] width: usize,
) {
    let row = CUBE_POS;
    if row < rows as usize {
        let mut shared = SharedMemory::<f32>::new(UNITS);
        let start = row * width;
        let mut at = UNIT_POS as usize;
        while at < width {
            taught[start + at] = logits[start + at] - center[at];
            at += CUBE_DIM as usize;
        }
        // Each unit reads only what it wrote.
        let mut most = Vector::<f32, N>::new(-1e30);
        let mut at = UNIT_POS as usize;
        while at < width {
            most = max(most, taught[start + at] * Vector::new(inverse));
            at += CUBE_DIM as usize;
        }
        let most = cube_most(plane_most::<N>(most), &mut shared);
        let mut sum = Vector::<f32, N>::new(0.0);
        let mut at = UNIT_POS as usize;
        while at < width {
            sum += Vector::exp(taught[start + at] * Vector::new(inverse) - Vector::new(most));
            at += CUBE_DIM as usize;
        }
        let log_sum = cube_total(plane_total::<N>(sum), &mut shared).ln() + most;
        let mut at = UNIT_POS as usize;
        while at < width {
            taught[start + at] = Vector::exp(taught[start + at] * Vector::new(inverse) - Vector::new(log_sum));
            at += CUBE_DIM as usize;
        }
    }
}

/// The entropy of each row of probabilities, in nats.
#[cube(launch)]
fn entropies<N: Size>(
    probabilities: &Array<Vector<f32, N>>,
    entropies: &mut Array<f32>,
    rows: u32,
    #[comptime] width: usize,
) {
    let row = CUBE_POS;
    if row < rows as usize {
        let mut shared = SharedMemory::<f32>::new(UNITS);
        let mut sum = Vector::<f32, N>::new(0.0);
        let mut at = UNIT_POS as usize;
        while at < width {
            // What is nothing adds nothing: its logarithm is taken of the smallest number instead.
            let p = probabilities[row * width + at];
            sum -= p * Vector::ln(max(p, Vector::new(f32::MIN_POSITIVE)));
            at += CUBE_DIM as usize;
        }
        let sum = cube_total(plane_total::<N>(sum), &mut shared);
        if UNIT_POS == 0 {
            entropies[row] = sum;
        }
    }
}

/// Which rows the loss compares, and by what it is divided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) batch: usize,
    pub(super) temperature: f64,
    pub(super) terms: f64,
}

/// Each row's part of the loss, `[rows, 1]`.
pub(super) fn forward<R: CubeRuntime>([learnt, taught]: [CubeTensor<R>; 2], of: Terms) -> CubeTensor<R> {
    let [learnt, taught] = [learnt, taught].map(whole);
    let [rows, k] = dims(&learnt);
    let (result, vector) = (empty(&learnt, [rows, 1], DType::F32), vector_size(k, &[DType::F32]));
    losses::launch::<R>(
        &learnt.client,
        cubes(rows),
        units(),
        vector,
        array(&learnt),
        array(&taught),
        array(&result),
        rows as u32,
        of.batch as u32,
        1.0 / of.temperature as f32,
        of.terms as f32,
        k / vector,
    );
    result
}

/// The gradient of the logits for a loss whose own gradient is 1.
pub(super) fn backward<R: CubeRuntime>([learnt, taught]: [CubeTensor<R>; 2], of: Terms) -> CubeTensor<R> {
    let [learnt, taught] = [learnt, taught].map(whole);
    let shape @ [rows, k] = dims(&learnt);
    let (result, vector) = (empty(&learnt, shape, DType::F32), vector_size(k, &[DType::F32]));
    gradients::launch::<R>(
        &learnt.client,
        cubes(rows),
        units(),
        vector,
        array(&learnt),
        array(&taught),
        array(&result),
        rows as u32,
        of.batch as u32,
        1.0 / of.temperature as f32,
        of.terms as f32,
        k / vector,
    );
    result
}

/// What the teacher says: centered and sharpened.
pub(super) fn sharpen<R: CubeRuntime>([logits, center]: [CubeTensor<R>; 2], temperature: f64) -> CubeTensor<R> {
    let [logits, center] = [logits, center].map(whole);
    let shape @ [rows, k] = dims(&logits);
    let (result, vector) = (empty(&logits, shape, DType::F32), vector_size(k, &[DType::F32]));
    sharpened::launch::<R>(
        &logits.client,
        cubes(rows),
        units(),
        vector,
        array(&logits),
        array(&center),
        array(&result),
        rows as u32,
        1.0 / temperature as f32,
        k / vector,
    );
    result
}

/// The entropy of each row of probabilities, `[rows, 1]`, in nats.
pub(super) fn entropy<R: CubeRuntime>(probabilities: CubeTensor<R>) -> CubeTensor<R> {
    let probabilities = whole(probabilities);
    let [rows, k] = dims(&probabilities);
    let (result, vector) = (empty(&probabilities, [rows, 1], DType::F32), vector_size(k, &[DType::F32]));
    entropies::launch::<R>(
        &probabilities.client,
        cubes(rows),
        units(),
        vector,
        array(&probabilities),
        array(&result),
        rows as u32,
        k / vector,
    );
    result
}
