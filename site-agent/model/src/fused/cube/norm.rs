//! LayerNorm: a plane a row, and sums over rows in two stages.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::columns;
use super::launch::{array, dims, empty, plane_row, plane_total, planes, vector_size, whole};

#[cube(launch)]
fn forward_rows<E: Float, N: Size>(
    x: &Array<Vector<f32, N>>,
    weight: &Array<Vector<f32, N>>,
    bias: &Array<Vector<f32, N>>,
    result: &mut Array<Vector<E, N>>,
    moments: &mut Array<f32>,
    rows: u32,
    eps: f32,
    #[comptime] width: usize,
    #[define(E)] _of_result: StorageType,
) {
    let row = plane_row();
    if row < rows as usize {
        let start = row * width;
        let count = comptime!(width as f32) * (N::value() as f32);
        let mut sum = Vector::<f32, N>::new(0.0);
        let mut at = UNIT_POS_X as usize;
        while at < width {
            sum += x[start + at];
            at += CUBE_DIM_X as usize;
        }
        let mean = plane_total(sum) / count;
        let mut squares = Vector::<f32, N>::new(0.0);
        let mut at = UNIT_POS_X as usize;
        while at < width {
            let centered = x[start + at] - Vector::new(mean);
            squares += centered * centered;
            at += CUBE_DIM_X as usize;
        }
        let inverse = 1.0 / (plane_total(squares) / count + eps).sqrt();
        let mut at = UNIT_POS_X as usize;
        while at < width {
            let normed = (x[start + at] - Vector::new(mean)) * Vector::new(inverse);
            result[start + at] = Vector::cast_from(normed * weight[at] + bias[at]);
            at += CUBE_DIM_X as usize;
        }
        if UNIT_POS_X == 0 {
            moments[2 * row] = mean;
            moments[2 * row + 1] = inverse;
        }
    }
}

#[cube(launch)]
fn backward_rows<G: Float, N: Size>(
    gradient: &Array<Vector<G, N>>,
    x: &Array<Vector<f32, N>>,
    weight: &Array<Vector<f32, N>>,
    moments: &Array<f32>,
    of_x: &mut Array<Vector<f32, N>>,
    rows: u32,
    #[comptime] width: usize,
    #[define(G)] _of_gradient: StorageType,
) {
    let row = plane_row();
    if row < rows as usize {
        let start = row * width;
        let count = comptime!(width as f32) * (N::value() as f32);
        let mean = moments[2 * row];
        let inverse = moments[2 * row + 1];
        let mut sum = Vector::<f32, N>::new(0.0);
        let mut along = Vector::<f32, N>::new(0.0);
        let mut at = UNIT_POS_X as usize;
        while at < width {
            let scaled = Vector::<f32, N>::cast_from(gradient[start + at]) * weight[at];
            sum += scaled;
            along += scaled * (x[start + at] - Vector::new(mean)) * Vector::new(inverse);
            at += CUBE_DIM_X as usize;
        }
        let sum = plane_total(sum) / count;
        let along = plane_total(along) / count;
        let mut at = UNIT_POS_X as usize;
        while at < width {
            let scaled = Vector::<f32, N>::cast_from(gradient[start + at]) * weight[at];
            let normed = (x[start + at] - Vector::new(mean)) * Vector::new(inverse);
            of_x[start + at] = (scaled - Vector::new(sum) - normed * Vector::new(along)) * Vector::new(inverse);
            at += CUBE_DIM_X as usize;
        }
    }
}

/// Partial sums over rows of the gradient, and of the gradient times what the norm gave.
#[cube(launch)]
fn backward_columns<G: Float, N: Size>(
    gradient: &Array<Vector<G, N>>,
    x: &Array<Vector<f32, N>>,
    moments: &Array<f32>,
    of_weight: &mut Array<Vector<f32, N>>,
    of_bias: &mut Array<Vector<f32, N>>,
    rows: u32,
    #[comptime] width: usize,
    #[define(G)] _of_gradient: StorageType,
) {
    let place = columns::place(rows, width);
    let mut weights = Vector::<f32, N>::new(0.0);
    let mut biases = Vector::<f32, N>::new(0.0);
    if place.column < width {
        let mut row = place.first;
        while row < place.end {
            let value = Vector::<f32, N>::cast_from(gradient[row * width + place.column]);
            let centered = x[row * width + place.column] - Vector::new(moments[2 * row]);
            weights += value * centered * Vector::new(moments[2 * row + 1]);
            biases += value;
            row += columns::DOWN;
        }
    }
    let weights = columns::together::<N>(weights);
    let biases = columns::together::<N>(biases);
    if UNIT_POS_Y == 0 && place.column < width && place.first < rows as usize {
        of_weight[place.chunk * width + place.column] = weights;
        of_bias[place.chunk * width + place.column] = biases;
    }
}

/// The result in the type `into`, and mean and inverse deviation of each row.
pub(super) fn forward<R: CubeRuntime>(
    [x, weight, bias]: [CubeTensor<R>; 3],
    eps: f64,
    into: DType,
) -> [CubeTensor<R>; 2] {
    let [x, weight, bias] = [x, weight, bias].map(whole);
    let [rows, dim] = dims(&x);
    let (result, moments) = (empty(&x, [rows, dim], into), empty(&x, [rows, 2], DType::F32));
    let vector = vector_size(dim, &[DType::F32]);
    let (count, dim_of_cube) = planes(&x.client, rows);
    forward_rows::launch::<R>(
        &x.client,
        count,
        dim_of_cube,
        vector,
        array(&x),
        array(&weight),
        array(&bias),
        array(&result),
        array(&moments),
        rows as u32,
        eps as f32,
        dim / vector,
        into.into(),
    );
    [result, moments]
}

/// The gradients of the input, the weight and the bias.
pub(super) fn backward<R: CubeRuntime>([gradient, x, weight, moments]: [CubeTensor<R>; 4]) -> [CubeTensor<R>; 3] {
    let [gradient, x, weight, moments] = [gradient, x, weight, moments].map(whole);
    let [rows, dim] = dims(&x);
    let of_x = empty(&x, [rows, dim], DType::F32);
    let vector = vector_size(dim, &[DType::F32]);
    let (count, dim_of_cube) = planes(&x.client, rows);
    backward_rows::launch::<R>(
        &x.client,
        count,
        dim_of_cube,
        vector,
        array(&gradient),
        array(&x),
        array(&weight),
        array(&moments),
        array(&of_x),
        rows as u32,
        dim / vector,
        gradient.dtype.into(),
    );
    let [of_weight, of_bias] = [(); 2].map(|()| empty(&x, [columns::chunks(rows), dim], DType::F32));
    let (count, dim_of_cube) = columns::geometry(rows, dim / vector);
    backward_columns::launch::<R>(
        &x.client,
        count,
        dim_of_cube,
        vector,
        array(&gradient),
        array(&x),
        array(&moments),
        array(&of_weight),
        array(&of_bias),
        rows as u32,
        dim / vector,
        gradient.dtype.into(),
    );
    [of_x, columns::sum(of_weight), columns::sum(of_bias)]
}
