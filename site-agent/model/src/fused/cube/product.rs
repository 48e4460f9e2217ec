//! Matrix products, by the strategies of burn's kernels that are fastest where they can be had.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubek::matmul::components::tile::TileMatmulKind;
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::launch::{Strategy, launch_ref};
use cubek::matmul::routines::BlueprintStrategy;
use cubek::matmul::routines::simple::SimpleArgs;
use cubek::std::InputBinding;

use super::columns;
use super::launch::{dims, empty, whole};

/// From the fastest on. The first two move tiles by the engine that GPUs have since Hopper, the first with threads that do nothing
/// else; burn's own choice, the last, goes without tensor cores where there are none.
fn strategies(dtype: DType, [m, k, n]: [usize; 3]) -> Vec<Strategy> {
    let mut all = vec![Strategy::Auto];
    if matches!(dtype, DType::BF16 | DType::F16) {
        let simple = SimpleArgs { multi_rows: true, tile_matmul: TileMatmulKind::Cmma };
        all.insert(0, Strategy::SimpleCyclicCmma(BlueprintStrategy::Inferred(simple.clone())));
        all.insert(0, Strategy::SimpleTmaCmma(BlueprintStrategy::Inferred(simple)));
        if m >= WIDE && k >= WIDE && n >= WIDE {
            all.insert(0, Strategy::SpecializedTmaMma(BlueprintStrategy::Inferred(().into())));
        }
    }
    all
}

/// Sides of a product that fill a tile, at least.
const WIDE: usize = 64;

/// The product of matrices `[rows, inner]` and `[inner, columns]`, or of a batch of them.
pub(super) fn product<R: CubeRuntime>(left: CubeTensor<R>, right: CubeTensor<R>, into: DType) -> CubeTensor<R> {
    let rank = left.meta.shape().len();
    let mut shape = left.meta.shape().to_vec();
    shape[rank - 1] = right.meta.shape()[rank - 1];
    let result = empty(&left, shape, into);
    product_into(left, right, &result);
    result
}

/// The same where the result is to be.
pub(super) fn product_into<R: CubeRuntime>(left: CubeTensor<R>, right: CubeTensor<R>, result: &CubeTensor<R>) {
    let ([.., m, k], [.., n]) = (left.meta.shape().as_slice(), right.meta.shape().as_slice()) else {
        unreachable!("matrices have two axes");
    };
    let mut why = Vec::new();
    for strategy in strategies(left.dtype, [*m, *k, *n]) {
        let mut dtypes = MatmulElems::from_globals(&MatmulGlobalElems {
            lhs: left.dtype.into(),
            rhs: right.dtype.into(),
            out: result.dtype.into(),
        });
        let of = |operand: &CubeTensor<R>| InputBinding::new(operand.clone().binding(), operand.dtype.into());
        let to = result.clone().binding();
        match launch_ref(&strategy, &result.client, of(&left), of(&right), to, &mut dtypes) {
            Ok(()) => return,
            Err(error) => why.push(error),
        }
    }
    panic!("no product of {:?} and {:?}: {why:?}", left.meta.shape(), right.meta.shape())
}

/// The same values with the last two axes in each other's place.
pub(super) fn transposed<R: CubeRuntime>(mut tensor: CubeTensor<R>) -> CubeTensor<R> {
    let rank = tensor.meta.shape().len();
    tensor.meta.swap(rank - 2, rank - 1);
    tensor
}

/// A linear layer without its bias, `x` times `weight` transposed.
pub(super) fn by_rows<R: CubeRuntime>(x: CubeTensor<R>, weight: CubeTensor<R>) -> CubeTensor<R> {
    let into = weight.dtype;
    product(x, transposed(weight), into)
}

/// The sum over rows of the outer products of two matrices' rows, `[columns of one, columns of the other]`, in single precision.
/// There are many rows, and the result is small: parts of the rows are multiplied beside each other.
pub(super) fn outer<R: CubeRuntime>(left: CubeTensor<R>, right: CubeTensor<R>) -> CubeTensor<R> {
    let [left, right] = [left, right].map(whole);
    let ([rows, m], [_, n]) = (dims(&left), dims(&right));
    let parts = parts(rows, m, n);
    let in_parts = |tensor: CubeTensor<R>, columns: usize| {
        let shape = vec![parts, rows / parts, columns].into();
        CubeTensor::new_contiguous(tensor.client, tensor.device, shape, tensor.handle, tensor.dtype)
    };
    let sums = product(transposed(in_parts(left, m)), in_parts(right, n), DType::F32);
    let flat = |tensor: CubeTensor<R>, shape: [usize; 2]| {
        CubeTensor::new_contiguous(tensor.client, tensor.device, shape.to_vec().into(), tensor.handle, tensor.dtype)
    };
    flat(columns::sum(flat(sums, [parts, m * n])), [m, n])
}

/// In how many parts rows are multiplied: so that a GPU of a hundred processors has a few tiles for each, and none is short.
fn parts(rows: usize, m: usize, n: usize) -> usize {
    const TILE: usize = 128;
    const TILES: usize = 300;
    const SHORTEST: usize = 512;
    let tiles = m.div_ceil(TILE) * n.div_ceil(TILE);
    let fits = |parts: &usize| rows.is_multiple_of(*parts) && rows / parts >= SHORTEST && tiles * parts <= 2 * TILES;
    (1..=32).filter(fits).min_by_key(|parts| (tiles * parts).abs_diff(TILES)).unwrap_or(1)
}
