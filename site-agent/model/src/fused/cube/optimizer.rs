//! AdamW, gradient clipping and the teacher's average, in one pass over a tensor.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::Factors;
use super::columns;
use super::launch::{UNITS, array, cube_total, cubes, empty, plane_total, units, vector_size, whole};

/// Cubes that add up squares, at most.
const SHARES: usize = 256;

#[cube(launch)]
fn squares<N: Size>(x: &Array<Vector<f32, N>>, sums: &mut Array<f32>, count: u32, shares: u32) {
    if CUBE_POS < shares as usize {
        let mut shared = SharedMemory::<f32>::new(UNITS);
        let mut sum = Vector::<f32, N>::new(0.0);
        let mut at = CUBE_POS * UNITS + UNIT_POS as usize;
        while at < count as usize {
            sum += x[at] * x[at];
            at += shares as usize * UNITS;
        }
        let sum = cube_total(plane_total::<N>(sum), &mut shared);
        if UNIT_POS == 0 {
            sums[CUBE_POS] = sum;
        }
    }
}

#[cube(launch)]
fn moved<N: Size>(
    values: &mut Array<Vector<f32, N>>,
    first: &mut Array<Vector<f32, N>>,
    second: &mut Array<Vector<f32, N>>,
    teacher: &mut Array<Vector<f32, N>>,
    gradient: &Array<Vector<f32, N>>,
    squares: &Array<f32>,
    count: u32,
    clip: f32,
    kept: f32,
    step_size: f32,
    second_scale: f32,
    of_first: f32,
    beta2: f32,
    of_second: f32,
    momentum: f32,
    of_student: f32,
) {
    if ABSOLUTE_POS < count as usize {
        let mut factor = f32::new(1.0);
        if clip > 0.0 {
            factor = min(clip / (squares[0].sqrt() + 1e-6), f32::new(1.0));
        }
        let gradient = gradient[ABSOLUTE_POS] * Vector::new(factor);
        let first_before = first[ABSOLUTE_POS];
        let first_after = first_before + (gradient - first_before) * Vector::new(of_first);
        let second_after = second[ABSOLUTE_POS] * Vector::new(beta2) + gradient * gradient * Vector::new(of_second);
        let root = Vector::sqrt(second_after) / Vector::new(second_scale) + Vector::new(1e-8);
        let value = values[ABSOLUTE_POS] * Vector::new(kept) - Vector::new(step_size) * first_after / root;
        first[ABSOLUTE_POS] = first_after;
        second[ABSOLUTE_POS] = second_after;
        values[ABSOLUTE_POS] = value;
        teacher[ABSOLUTE_POS] = teacher[ABSOLUTE_POS] * Vector::new(momentum) + value * Vector::new(of_student);
    }
}

/// The sum of a tensor's squares, `[1, 1]`.
fn sum_of_squares<R: CubeRuntime>(x: &CubeTensor<R>) -> CubeTensor<R> {
    let count = x.meta.shape().iter().product::<usize>();
    let vector = vector_size(count, &[DType::F32]);
    let shares = (count / vector).div_ceil(UNITS).min(SHARES);
    let sums = empty(x, [shares, 1], DType::F32);
    squares::launch::<R>(
        &x.client,
        cubes(shares),
        units(),
        vector,
        array(x),
        array(&sums),
        (count / vector) as u32,
        shares as u32,
    );
    if shares == 1 { sums } else { columns::sum(sums) }
}

/// Moves values, moments and teacher in their places: nothing else may hold them.
pub(super) fn step<R: CubeRuntime>(
    [values, first, second, teacher]: [&CubeTensor<R>; 4],
    gradient: CubeTensor<R>,
    how: &Factors,
) {
    let gradient = whole(gradient);
    let squares = sum_of_squares(&gradient);
    let count = gradient.meta.shape().iter().product::<usize>();
    let vector = vector_size(count, &[DType::F32]);
    moved::launch::<R>(
        &gradient.client,
        cubes((count / vector).div_ceil(UNITS)),
        units(),
        vector,
        array(values),
        array(first),
        array(second),
        array(teacher),
        array(&gradient),
        array(&squares),
        (count / vector) as u32,
        how.clip as f32,
        how.kept as f32,
        how.step_size as f32,
        how.second_scale as f32,
        (1.0 - how.beta1) as f32,
        how.beta2 as f32,
        (1.0 - how.beta2) as f32,
        how.momentum as f32,
        (1.0 - how.momentum) as f32,
    );
}
