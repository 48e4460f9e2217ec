//! What is done to each value alone.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launch::{UNITS, array, cubes, dims, empty, units, vector_size, whole};

#[cube]
fn below<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
    // The normal distribution up to x.
    (Vector::erf(x * Vector::new(std::f32::consts::FRAC_1_SQRT_2)) + Vector::new(1.0)) * Vector::new(0.5)
}

#[cube(launch)]
fn gelu_values<E: Float, O: Float, N: Size>(
    x: &Array<Vector<E, N>>,
    result: &mut Array<Vector<O, N>>,
    count: u32,
    #[define(E)] _of_x: StorageType,
    #[define(O)] _of_result: StorageType,
) {
    if ABSOLUTE_POS < count as usize {
        let x = Vector::<f32, N>::cast_from(x[ABSOLUTE_POS]);
        result[ABSOLUTE_POS] = Vector::cast_from(x * below::<N>(x));
    }
}

#[cube(launch)]
fn gelu_slopes<G: Float, E: Float, N: Size>(
    gradient: &Array<Vector<G, N>>,
    x: &Array<Vector<E, N>>,
    result: &mut Array<Vector<E, N>>,
    count: u32,
    #[define(G)] _of_gradient: StorageType,
    #[define(E)] _of_x: StorageType,
) {
    if ABSOLUTE_POS < count as usize {
        let x = Vector::<f32, N>::cast_from(x[ABSOLUTE_POS]);
        // 1 / sqrt(2 pi)
        let density = Vector::exp(x * x * Vector::new(-0.5)) * Vector::new(0.398_942_3);
        let slope = below::<N>(x) + x * density;
        result[ABSOLUTE_POS] = Vector::cast_from(Vector::<f32, N>::cast_from(gradient[ABSOLUTE_POS]) * slope);
    }
}

/// A row added to every row of a matrix.
#[cube(launch)]
fn row_added<E: Float, N: Size>(
    x: &mut Array<Vector<E, N>>,
    row: &Array<Vector<f32, N>>,
    count: u32,
    #[comptime] width: usize,
    #[define(E)] _of_x: StorageType,
) {
    if ABSOLUTE_POS < count as usize {
        let sum = Vector::<f32, N>::cast_from(x[ABSOLUTE_POS]) + row[ABSOLUTE_POS % width];
        x[ABSOLUTE_POS] = Vector::cast_from(sum);
    }
}

/// `x + factor * branch`, a factor for so many rows.
#[cube(launch)]
fn branch_added<E: Float, N: Size>(
    x: &Array<Vector<f32, N>>,
    branch: &Array<Vector<E, N>>,
    factors: &Array<f32>,
    result: &mut Array<Vector<f32, N>>,
    count: u32,
    #[comptime] of_a_factor: usize,
    #[define(E)] _of_branch: StorageType,
) {
    if ABSOLUTE_POS < count as usize {
        let factor = Vector::<f32, N>::new(factors[ABSOLUTE_POS / of_a_factor]);
        result[ABSOLUTE_POS] = x[ABSOLUTE_POS] + factor * Vector::cast_from(branch[ABSOLUTE_POS]);
    }
}

/// `factor * x`, a factor for so many rows.
#[cube(launch)]
fn rows_scaled<E: Float, N: Size>(
    x: &Array<Vector<f32, N>>,
    factors: &Array<f32>,
    result: &mut Array<Vector<E, N>>,
    count: u32,
    #[comptime] of_a_factor: usize,
    #[define(E)] _of_result: StorageType,
) {
    if ABSOLUTE_POS < count as usize {
        let factor = Vector::<f32, N>::new(factors[ABSOLUTE_POS / of_a_factor]);
        result[ABSOLUTE_POS] = Vector::cast_from(x[ABSOLUTE_POS] * factor);
    }
}

/// The exact GELU in the type `into`.
pub(super) fn gelu<R: CubeRuntime>(x: CubeTensor<R>, into: DType) -> CubeTensor<R> {
    let x = whole(x);
    let shape @ [rows, columns] = dims(&x);
    let result = empty(&x, shape, into);
    let vector = vector_size(columns, &[x.dtype, into]);
    let count = rows * columns / vector;
    gelu_values::launch::<R>(
        &x.client,
        cubes(count.div_ceil(UNITS)),
        units(),
        vector,
        array(&x),
        array(&result),
        count as u32,
        x.dtype.into(),
        into.into(),
    );
    result
}

/// The gradient of GELU's input, in its type.
pub(super) fn gelu_backward<R: CubeRuntime>(gradient: CubeTensor<R>, x: CubeTensor<R>) -> CubeTensor<R> {
    let [gradient, x] = [gradient, x].map(whole);
    let shape @ [rows, columns] = dims(&x);
    let result = empty(&x, shape, x.dtype);
    let vector = vector_size(columns, &[x.dtype, gradient.dtype]);
    let count = rows * columns / vector;
    gelu_slopes::launch::<R>(
        &x.client,
        cubes(count.div_ceil(UNITS)),
        units(),
        vector,
        array(&gradient),
        array(&x),
        array(&result),
        count as u32,
        gradient.dtype.into(),
        x.dtype.into(),
    );
    result
}

/// Adds a row to every row of `x`, in its place: nothing else may hold it.
pub(super) fn add_row<R: CubeRuntime>(x: &CubeTensor<R>, row: CubeTensor<R>) {
    let row = whole(row);
    let [rows, columns] = dims(x);
    let vector = vector_size(columns, &[x.dtype, row.dtype]);
    let count = rows * columns / vector;
    row_added::launch::<R>(
        &x.client,
        cubes(count.div_ceil(UNITS)),
        units(),
        vector,
        array(x),
        array(&row),
        count as u32,
        columns / vector,
        x.dtype.into(),
    );
}

/// `x + factor * branch` in single precision, a factor for each image's rows.
pub(super) fn add_branch<R: CubeRuntime>([x, branch, factors]: [CubeTensor<R>; 3]) -> CubeTensor<R> {
    let [x, branch, factors] = [x, branch, factors].map(whole);
    let shape @ [rows, columns] = dims(&x);
    let result = empty(&x, shape, DType::F32);
    let vector = vector_size(columns, &[DType::F32]);
    let count = rows * columns / vector;
    let images = factors.meta.shape().iter().product::<usize>();
    branch_added::launch::<R>(
        &x.client,
        cubes(count.div_ceil(UNITS)),
        units(),
        vector,
        array(&x),
        array(&branch),
        array(&factors),
        array(&result),
        count as u32,
        count / images,
        branch.dtype.into(),
    );
    result
}

/// `factor * x` in the type `into`, a factor for each image's rows.
pub(super) fn scale_rows<R: CubeRuntime>([x, factors]: [CubeTensor<R>; 2], into: DType) -> CubeTensor<R> {
    let [x, factors] = [x, factors].map(whole);
    let shape @ [rows, columns] = dims(&x);
    let result = empty(&x, shape, into);
    let vector = vector_size(columns, &[DType::F32]);
    let count = rows * columns / vector;
    let images = factors.meta.shape().iter().product::<usize>();
    rows_scaled::launch::<R>(
        &x.client,
        cubes(count.div_ceil(UNITS)),
        units(),
        vector,
        array(&x),
        array(&factors),
        array(&result),
        count as u32,
        count / images,
        into.into(),
    );
    result
}
