//! Distance between the surfaces of two masks, in mm.
//!
//! The definition is MONAI's `compute_hausdorff_distance(percentile=95, spacing=...)`: the surface of a mask is the
//! mask without its binary erosion; each surface voxel of one mask has a distance to the nearest surface voxel of the
//! other; the percentile is taken in each direction alone, and the larger of the two is the answer. Pooling both
//! directions before the percentile, as some packages do, tends to give smaller numbers.

use std::ops::Range;

use super::{Unusable, check_length, check_spacing, quantile};

/// What came of two masks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Hausdorff {
    /// The distance, mm.
    Mm(f64),
    /// One mask is empty: no distance is bad enough, and MONAI's answer is not finite. To be reported as a count, since
    /// leaving it out of a mean flatters a model that misses.
    OneEmpty,
    /// Both masks are empty: rightly nothing there, and not counted.
    BothEmpty,
}

impl Hausdorff {
    /// The distance, mm, where there is one.
    pub fn mm(self) -> Option<f64> {
        match self {
            Self::Mm(mm) => Some(mm),
            Self::OneEmpty | Self::BothEmpty => None,
        }
    }
}

/// The 95th percentile of the Hausdorff distance (Huttenlocher et al. 1993) between two masks of one grid.
///
/// Masks are `[slices, rows, columns]` as in `dims`, with the distance of neighboring voxel centers in `spacing_mm`.
/// What lies outside the grid is background. A single slice is a plane, not a slab: its voxels have neighbors in the
/// plane alone, as in MONAI's 2-D.
pub fn hausdorff_95(
    truth: &[bool],
    found: &[bool],
    dims: [usize; 3],
    spacing_mm: [f64; 3],
) -> Result<Hausdorff, Unusable> {
    let voxels = dims.iter().copied().fold(1, usize::saturating_mul);
    check_length("voxels in the truth", truth.len(), voxels)?;
    check_length("voxels found", found.len(), voxels)?;
    check_spacing(spacing_mm)?;
    // Neither a surface nor a distance between two depends on what lies around both masks: acquired slices are mostly that.
    let Some(extent) = extent([truth, found], dims) else { return Ok(Hausdorff::BothEmpty) };
    let box_dims = extent.clone().map(|places| places.len());
    let [truth, found] = [truth, found].map(|mask| surface(&cut(mask, dims, &extent), box_dims, axes(dims)));
    let directed = |from: &[bool], to: &[bool]| {
        let squared = squared_distances(to, box_dims, spacing_mm);
        let at_surface = from.iter().zip(squared).filter(|(surface, _)| **surface);
        quantile(at_surface.map(|(_, squared)| squared.sqrt()).collect(), 0.95)
    };
    Ok(match (directed(&truth, &found), directed(&found, &truth)) {
        (Some(one), Some(other)) => Hausdorff::Mm(one.max(other)),
        (None, None) => Hausdorff::BothEmpty,
        _ => Hausdorff::OneEmpty,
    })
}

/// How far apart neighbors of each axis lie in memory.
fn strides([_, rows, columns]: [usize; 3]) -> [usize; 3] {
    [rows.saturating_mul(columns), columns, 1]
}

/// The least box of voxels that holds two masks; none if both are empty.
fn extent(masks: [&[bool]; 2], dims: [usize; 3]) -> Option<[Range<usize>; 3]> {
    let strides = strides(dims);
    let mut places = (0..masks[0].len()).filter(|&index| masks[0][index] || masks[1][index]);
    let one =
        |index: usize| std::array::from_fn(|axis| index / strides[axis] % dims[axis]).map(|place| place..place + 1);
    let first = one(places.next()?);
    Some(places.map(one).fold(first, |held, next| {
        std::array::from_fn(|axis| held[axis].start.min(next[axis].start)..held[axis].end.max(next[axis].end))
    }))
}

/// The part of a mask that lies in a box.
fn cut(mask: &[bool], dims: [usize; 3], [slices, rows, columns]: &[Range<usize>; 3]) -> Vec<bool> {
    let [stride, width, _] = strides(dims);
    let lines = slices.clone().flat_map(|slice| rows.clone().map(move |row| slice * stride + row * width));
    lines.flat_map(|first| &mask[first + columns.start..first + columns.end]).copied().collect()
}

/// The axes along which voxels of a grid have neighbors: a single slice is a plane.
fn axes(dims: [usize; 3]) -> Range<usize> {
    usize::from(dims[0] == 1)..3
}

/// The mask without its erosion by the cross of direct neighbors along `axes`, as SciPy's `binary_erosion` has it.
fn surface(mask: &[bool], dims: [usize; 3], axes: Range<usize>) -> Vec<bool> {
    let strides = strides(dims);
    let is_open = |index: usize, axis: usize| {
        let (place, stride) = (index / strides[axis] % dims[axis], strides[axis]);
        place == 0 || place + 1 == dims[axis] || !mask[index - stride] || !mask[index + stride]
    };
    (0..mask.len()).map(|index| mask[index] && axes.clone().any(|axis| is_open(index, axis))).collect()
}

/// For each voxel the squared distance, mm², to the nearest of `targets`; infinite where there is none.
///
/// Exact and in linear time: Felzenszwalb and Huttenlocher 2012, one axis after the other.
fn squared_distances(targets: &[bool], dims: [usize; 3], spacing_mm: [f64; 3]) -> Vec<f64> {
    let mut squared: Vec<f64> = targets.iter().map(|target| if *target { 0.0 } else { f64::INFINITY }).collect();
    let (mut line, mut envelope) = (Vec::new(), Vec::new());
    for ((length, stride), spacing_mm) in dims.into_iter().zip(strides(dims)).zip(spacing_mm) {
        for first in (0..squared.len()).filter(|index| index / stride % length == 0) {
            line.clear();
            line.extend(squared[first..].iter().step_by(stride).take(length));
            let lower = lower_envelope(&line, spacing_mm, &mut envelope);
            squared[first..].iter_mut().step_by(stride).zip(lower).for_each(|(squared, lower)| *squared = lower);
        }
    }
    squared
}

/// At each place of a line the least of the parabolas that stand on the line's finite heights, places `step` apart.
/// `envelope` is room for the parabolas that are least somewhere, each with the coordinate where it begins to be.
fn lower_envelope(heights: &[f64], step: f64, envelope: &mut Vec<(usize, f64)>) -> impl Iterator<Item = f64> {
    let coordinate = move |place: usize| place as f64 * step;
    envelope.clear();
    for (place, height) in heights.iter().enumerate().filter(|(_, height)| height.is_finite()) {
        let x = coordinate(place);
        let mut begin = f64::NEG_INFINITY;
        // The first parabola begins at minus infinity, so it is never taken out again.
        while let Some(&(last, last_begin)) = envelope.last() {
            let at = coordinate(last);
            begin = ((height + x * x) - (heights[last] + at * at)) / (2.0 * (x - at));
            if begin > last_begin {
                break;
            }
            envelope.pop();
        }
        envelope.push((place, begin));
    }
    let mut current = 0;
    (0..heights.len()).map(move |place| {
        let x = coordinate(place);
        while envelope.get(current + 1).is_some_and(|(_, begin)| *begin < x) {
            current += 1;
        }
        // By the count of places between them, so that it is the same number wherever the line begins.
        let far = |least: usize| (place.abs_diff(least) as f64 * step).powi(2) + heights[least];
        envelope.get(current).map_or(f64::INFINITY, |(least, _)| far(*least))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(dims: [usize; 3], holds: impl Fn([usize; 3]) -> bool) -> Vec<bool> {
        let [_, rows, columns] = dims;
        (0..dims.iter().product()).map(|i| holds([i / columns / rows, i / columns % rows, i % columns])).collect()
    }

    #[test]
    fn empty_masks_have_no_distance() {
        let (dims, spacing) = ([2, 3, 3], [8.0, 1.5, 1.5]);
        let (nothing, something) = (mask(dims, |_| false), mask(dims, |[s, ..]| s == 1));
        assert_eq!(hausdorff_95(&nothing, &nothing, dims, spacing), Ok(Hausdorff::BothEmpty));
        assert_eq!(hausdorff_95(&nothing, &something, dims, spacing), Ok(Hausdorff::OneEmpty));
        assert_eq!(hausdorff_95(&something, &nothing, dims, spacing), Ok(Hausdorff::OneEmpty));
        assert_eq!(hausdorff_95(&something, &something, dims, spacing).map(Hausdorff::mm), Ok(Some(0.0)));
        assert_eq!(hausdorff_95(&[], &[], [0, usize::MAX, 3], spacing), Ok(Hausdorff::BothEmpty));
    }

    #[test]
    fn distances_are_in_mm_along_each_axis() {
        let (dims, spacing) = ([4, 5, 6], [8.0, 1.5, 0.5]);
        let single = |at: [usize; 3]| mask(dims, move |voxel| voxel == at);
        for (to, mm) in [([3, 0, 0], 24.0), ([0, 4, 0], 6.0), ([0, 0, 5], 2.5), ([1, 4, 0], 10.0)] {
            assert_eq!(hausdorff_95(&single([0; 3]), &single(to), dims, spacing), Ok(Hausdorff::Mm(mm)));
        }
    }

    #[test]
    fn a_single_slice_is_a_plane_and_two_are_a_slab() {
        // The middle of a full plane is no surface; in a slab of two slices every voxel touches the outside.
        assert_eq!(surface(&[true; 9], [1, 3, 3], axes([1, 3, 3])).iter().filter(|on| **on).count(), 8);
        assert_eq!(surface(&[true; 18], [2, 3, 3], axes([2, 3, 3])).iter().filter(|on| **on).count(), 18);
    }

    #[test]
    fn what_lies_around_both_masks_changes_nothing() {
        let spacing = [7.3, 1.9, 0.4];
        // Masks that reach to the edges of their grid, and the same ones far from the edges of a larger grid. The one slice of
        // the second is of a stack, not a plane: above and below it is background in both.
        for (inner, tight) in [([3, 6, 8], [3, 6, 8]), ([1, 6, 8], [2, 6, 8]), ([2, 1, 5], [2, 1, 5])] {
            let holds = |salt: usize| {
                move |at: [usize; 3]| {
                    let [s, r, c] = at;
                    at.iter().zip(inner).all(|(at, end)| *at < end) && (31 * s + 17 * r + 7 * c + s * r * c) % 23 < salt
                }
            };
            let shifted = |salt: usize, wide| {
                mask(wide, |[s, r, c]| s >= 2 && r >= 3 && c >= 4 && holds(salt)([s - 2, r - 3, c - 4]))
            };
            let wide = [inner[0] + 5, inner[1] + 7, inner[2] + 6];
            let near = hausdorff_95(&mask(tight, holds(9)), &mask(tight, holds(5)), tight, spacing);
            assert_eq!(near, hausdorff_95(&shifted(9, wide), &shifted(5, wide), wide, spacing));
            assert!(matches!(near, Ok(Hausdorff::Mm(mm)) if mm > 0.0), "{near:?}");
        }
    }

    #[test]
    fn the_distance_transform_is_that_of_a_search_over_all_pairs() {
        let (dims, spacing) = ([4, 7, 9], [7.3, 1.9, 0.4]);
        let targets = mask(dims, |[s, r, c]| (31 * s + 17 * r + 7 * c + s * r * c) % 23 == 5);
        let mm = |i: usize| [i / 63, i / 9 % 7, i % 9].iter().zip(spacing).map(|(i, mm)| *i as f64 * mm).collect();
        let points: Vec<Vec<f64>> = (0..targets.len()).map(mm).collect();
        for (here, fast) in points.iter().zip(squared_distances(&targets, dims, spacing)) {
            let to = |there: &Vec<f64>| here.iter().zip(there).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
            let nearest = points.iter().zip(&targets).filter(|(_, on)| **on).map(|(there, _)| to(there));
            assert!((nearest.fold(f64::INFINITY, f64::min) - fast).abs() < 1e-9);
        }
    }

    #[test]
    fn masks_of_another_grid_and_spacings_of_nothing_are_refused() {
        let refused = |dims, spacing| hausdorff_95(&[true; 4], &[true; 4], dims, spacing).is_err();
        assert!(refused([1, 2, 3], [1.0; 3]) && refused([usize::MAX; 3], [1.0; 3]));
        assert!(refused([1, 2, 2], [1.0, 0.0, 1.0]) && refused([1, 2, 2], [f64::NAN, 1.0, 1.0]));
        assert!(!refused([1, 2, 2], [1.0; 3]));
    }
}
