//! Sums over the rows of a matrix: chunks of them beside each other, then their sums.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launch::{array, cubes, dims, empty, vector_size, whole};

/// Vectors of columns that a cube adds up.
const ACROSS: usize = 32;

/// Units of a cube for each of them: each adds up every so many-th row.
pub(super) const DOWN: usize = 8;

/// Rows that a cube adds up.
const CHUNK: usize = 512;

/// Where a unit is: its vector of columns, the first of its rows, and the end of its cube's rows.
#[derive(CubeType)]
pub(super) struct Place {
    pub(super) column: usize,
    pub(super) chunk: usize,
    pub(super) first: usize,
    pub(super) end: usize,
}

#[cube]
pub(super) fn place(rows: u32, #[comptime] width: usize) -> Place {
    let tiles = comptime!(width.div_ceil(ACROSS));
    let chunk = CUBE_POS / tiles;
    Place {
        column: (CUBE_POS % tiles) * ACROSS + UNIT_POS_X as usize,
        chunk,
        first: chunk * CHUNK + UNIT_POS_Y as usize,
        end: min((chunk + 1) * CHUNK, rows as usize),
    }
}

/// The sum of what the units of a column hold: known to the first of them.
#[cube]
pub(super) fn together<N: Size>(sum: Vector<f32, N>) -> Vector<f32, N> {
    let mut shared = SharedMemory::<Vector<f32, N>>::new(comptime!(ACROSS * DOWN));
    shared[UNIT_POS as usize] = sum;
    sync_cube();
    let mut total = Vector::<f32, N>::new(0.0);
    if UNIT_POS_Y == 0 {
        #[unroll]
        for down in 0..DOWN {
            total += shared[down * ACROSS + UNIT_POS_X as usize];
        }
    }
    total
}

#[cube(launch)]
fn sums<E: Float, N: Size>(
    x: &Array<Vector<E, N>>,
    sums: &mut Array<Vector<f32, N>>,
    rows: u32,
    #[comptime] width: usize,
    #[define(E)] _of_x: StorageType,
) {
    let place = place(rows, width);
    let mut sum = Vector::<f32, N>::new(0.0);
    if place.column < width {
        let mut row = place.first;
        while row < place.end {
            sum += Vector::<f32, N>::cast_from(x[row * width + place.column]);
            row += DOWN;
        }
    }
    let sum = together::<N>(sum);
    if UNIT_POS_Y == 0 && place.column < width && place.first < rows as usize {
        sums[place.chunk * width + place.column] = sum;
    }
}

/// The chunks of so many rows.
pub(super) fn chunks(rows: usize) -> usize {
    rows.div_ceil(CHUNK)
}

/// The cubes that add up chunks of rows of so many vectors.
pub(super) fn geometry(rows: usize, width: usize) -> (CubeCount, CubeDim) {
    (cubes(chunks(rows) * width.div_ceil(ACROSS)), CubeDim::new_2d(ACROSS as u32, DOWN as u32))
}

/// The sum of each column, `[1, columns]`, in single precision.
pub(super) fn sum<R: CubeRuntime>(x: CubeTensor<R>) -> CubeTensor<R> {
    let mut x = whole(x);
    if x.dtype == DType::F32 && dims(&x)[0] == 1 {
        return x;
    }
    loop {
        let [rows, columns] = dims(&x);
        let vector = vector_size(columns, &[DType::F32]);
        let chunks = chunks(rows);
        let result = empty(&x, [chunks, columns], DType::F32);
        let (count, dim) = geometry(rows, columns / vector);
        sums::launch::<R>(
            &x.client,
            count,
            dim,
            vector,
            array(&x),
            array(&result),
            rows as u32,
            columns / vector,
            x.dtype.into(),
        );
        if chunks <= 1 {
            return result;
        }
        x = result;
    }
}
