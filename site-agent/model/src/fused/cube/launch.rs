//! How kernels are launched: contiguous tensors as arrays, whole rows a plane or a cube.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::ComputeClient;
use cubecl::prelude::*;

/// Units of a cube.
pub(super) const UNITS: usize = 256;

/// Values in a row after another, without gaps.
pub(super) fn whole<R: CubeRuntime>(tensor: CubeTensor<R>) -> CubeTensor<R> {
    into_contiguous(tensor)
}

/// A tensor on the device of another, its values to be written.
pub(super) fn empty<R: CubeRuntime>(
    beside: &CubeTensor<R>,
    shape: impl Into<Vec<usize>>,
    dtype: DType,
) -> CubeTensor<R> {
    let shape: Vec<usize> = shape.into();
    empty_device_contiguous_dtype(beside.client.clone(), beside.device.clone(), shape.into(), dtype)
}

/// A tensor as a kernel's argument.
///
/// # Panics
/// If it holds more values than kernels count: they would come to the first ones again.
pub(super) fn array<R: CubeRuntime>(tensor: &CubeTensor<R>) -> ArrayArg<R> {
    let values: usize = tensor.meta.shape().iter().product();
    assert!(u32::try_from(values).is_ok(), "a tensor of {values} values on a GPU, at most 2^32 - 1: set micro_batch");
    tensor.clone().binding().into_array_arg()
}

/// Rows and columns.
pub(super) fn dims<R: CubeRuntime>(tensor: &CubeTensor<R>) -> [usize; 2] {
    let shape = tensor.meta.shape();
    [shape[0], shape[1]]
}

/// The widest vector of at most 16 bytes that a row is made of, of values of these types.
pub(super) fn vector_size(width: usize, dtypes: &[DType]) -> usize {
    let largest = dtypes.iter().map(|dtype| 16 / dtype.size()).min().unwrap_or(1);
    [8, 4, 2].into_iter().find(|size| *size <= largest && width.is_multiple_of(*size)).unwrap_or(1)
}

/// So many cubes, numbered by `CUBE_POS`: some more may start, which have nothing to do.
pub(super) fn cubes(count: usize) -> CubeCount {
    const MOST: usize = 32_768;
    let (across, down) = (count.clamp(1, MOST), count.div_ceil(MOST).max(1));
    CubeCount::Static(across as u32, down as u32, 1)
}

/// A cube of one-dimensional units.
pub(super) fn units() -> CubeDim {
    CubeDim::new_1d(UNITS as u32)
}

/// Each row of a matrix by one plane, and how many of them a cube holds.
pub(super) fn planes<R: CubeRuntime>(client: &ComputeClient<R>, rows: usize) -> (CubeCount, CubeDim) {
    let lanes = client.properties().hardware.plane_size_max.max(1) as usize;
    let in_a_cube = (UNITS / lanes).max(1);
    (cubes(rows.div_ceil(in_a_cube)), CubeDim::new_2d(lanes as u32, in_a_cube as u32))
}

/// The row of a kernel that was launched with [`planes`].
#[cube]
pub(super) fn plane_row() -> usize {
    CUBE_POS * CUBE_DIM_Y as usize + UNIT_POS_Y as usize
}

/// The sum over all values that a plane's units hold.
#[cube]
pub(super) fn plane_total<N: Size>(values: Vector<f32, N>) -> f32 {
    let mut total = values[0];
    #[unroll]
    for place in 1..N::value() {
        total += values[place];
    }
    plane_sum(total)
}

/// The largest of all values that a plane's units hold.
#[cube]
pub(super) fn plane_most<N: Size>(values: Vector<f32, N>) -> f32 {
    let mut most = values[0];
    #[unroll]
    for place in 1..N::value() {
        most = max(most, values[place]);
    }
    plane_max(most)
}

/// The sum over a cube of what its planes hold alike; `shared` holds a value for each of them.
#[cube]
pub(super) fn cube_total(of_plane: f32, shared: &mut SharedMemory<f32>) -> f32 {
    if UNIT_POS_PLANE == 0 {
        shared[(UNIT_POS / PLANE_DIM) as usize] = of_plane;
    }
    sync_cube();
    let mut total = 0.0f32;
    for place in 0..CUBE_DIM / PLANE_DIM {
        total += shared[place as usize];
    }
    sync_cube();
    total
}

/// The largest over a cube of what its planes hold alike.
#[cube]
pub(super) fn cube_most(of_plane: f32, shared: &mut SharedMemory<f32>) -> f32 {
    if UNIT_POS_PLANE == 0 {
        shared[(UNIT_POS / PLANE_DIM) as usize] = of_plane;
    }
    sync_cube();
    let mut most = shared[0];
    let planes = CUBE_DIM / PLANE_DIM;
    for place in 1..planes {
        most = max(most, shared[place as usize]);
    }
    sync_cube();
    most
}
