//! From a volume's grid to slices as DICOM places them (LPS, mm), from base to apex where the grid says which way that is.
//!
//! Programs that make NIfTI of DICOM often count rows from below. Such an image is a mirrored heart, with its front and its
//! bottom swapped; where the grid tells, rows are turned round, so that slices are seen as scanners show them: short axes from
//! the apex, four chambers from the feet. A grid along the body's axes tells nothing of a heart (ACDC's was lost on the way):
//! its slices are left as they are, in their order, and have no level.

use crate::cache::SliceRecord;
use crate::geometry::{Placement, Vector, cross, dot, length, unit};
use crate::labels::{Plane, is_oblique, level_along, toward_apex};
use crate::nifti::Affine;

/// Slices that a stack needs before thirds of it mean anything.
const LEVELS: usize = 3;

/// A volume's slices.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stack {
    /// Rows and columns.
    pub(super) matrix: [u32; 2],
    /// Distance of rows and of columns, in mm.
    pub(super) spacing_mm: [f64; 2],
    /// Distance of planes, in mm.
    pub(super) step_mm: f64,
    /// Rows are counted from the last one of the file.
    pub(super) turned: bool,
    /// Which of the file's planes each slice is.
    pub(super) planes: Vec<usize>,
    pub(super) slices: Vec<SliceRecord>,
}

impl Stack {
    /// The slices of a grid whose `i` runs along rows and whose `j` counts them; none if rows and columns are not
    /// perpendicular, or lie where nothing was scanned.
    pub(super) fn of(dims: [usize; 4], affine: &Affine, phases: u32, plane: Plane) -> Option<Self> {
        let lps = |place: usize| -> Vector { [-affine[0][place], -affine[1][place], affine[2][place]] };
        let (along, down, through, origin) = (lps(0), lps(1), lps(2), lps(3));
        let (row, mut column) = (unit(along)?, unit(down)?);
        let spacing_mm = [length(down), length(along)];
        let normal = unit(cross(row, column))?;
        let told = is_oblique(normal);
        let turned = told && is_mirrored(normal, plane);
        let mut first = origin;
        if turned {
            let last = dims[1].saturating_sub(1) as f64;
            first = std::array::from_fn(|i| origin[i] + last * down[i]);
            column = column.map(|part| -part);
        }
        let short_axis = told && plane == Plane::Sax;
        // Toward the apex, or on from plane to plane.
        let axis = match (short_axis, dot(normal, through) < 0.0) {
            (true, _) => toward_apex(normal),
            (false, true) => normal.map(|part| -part),
            (false, false) => normal,
        };
        let [a, b, c] = row;
        let [d, e, f] = column;
        let mut placed = Vec::with_capacity(dims[2]);
        for place in 0..dims[2] {
            let at = std::array::from_fn(|i| first[i] + place as f64 * through[i]);
            placed.push((dot(axis, at), place, Placement::new(at, [a, b, c, d, e, f])?));
        }
        placed.sort_by(|a, b| a.0.total_cmp(&b.0));
        let ends = [placed.first()?.0, placed.last()?.0];
        let levelled = short_axis && placed.len() >= LEVELS;
        let slices = placed.iter().map(|(position, _, placement)| SliceRecord {
            position_mm: Some(*position),
            placement: Some(*placement),
            level: level_along(*position, ends).filter(|_| levelled),
            phases,
            acquired: phases,
        });
        Some(Self {
            matrix: [u32::try_from(dims[1]).ok()?, u32::try_from(dims[0]).ok()?],
            spacing_mm,
            step_mm: dot(normal, through).abs(),
            turned,
            slices: slices.collect(),
            planes: placed.iter().map(|(_, place, _)| *place).collect(),
        })
    }

    /// A slice's pixels out of a moment's voxels. [rows x columns]
    pub(super) fn slice(&self, moment: &[f32], slice: usize) -> Vec<f32> {
        let [rows, columns] = self.matrix.map(|side| side as usize);
        let plane = &moment[self.planes[slice] * rows * columns..][..rows * columns];
        match self.turned {
            false => plane.to_vec(),
            true => plane.chunks_exact(columns).rev().flatten().copied().collect(),
        }
    }
}

/// Whether a slice is seen from the other side than scanners show it: its normal leads away from who looks at it.
fn is_mirrored(normal: Vector, plane: Plane) -> bool {
    match plane {
        Plane::Sax => dot(normal, toward_apex(normal)) > 0.0,
        Plane::FourChamber => normal[2] < 0.0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::Level;
    use crate::nifti::slice_affine;

    const DIMS: [usize; 4] = [5, 4, 3, 1];

    /// A short axis as scanners show it: the lateral wall to the right, the bottom wall below.
    fn shown() -> Placement {
        let (row, normal) = ([0.72, 0.64, 0.27], unit([-0.6, 0.5, 0.42]).unwrap());
        let column = cross(normal, unit(row).unwrap());
        let [a, b, c] = row;
        let [d, e, f] = column;
        Placement::new([-80.0, -60.0, 120.0], [a, b, c, d, e, f]).unwrap()
    }

    #[test]
    fn an_image_as_scanners_show_it_stays_and_lies_where_its_grid_says_base_first() {
        // Planes are counted along the normal, which leads to the base.
        let affine = slice_affine(&shown(), [1.5, 1.25], 8.0);
        let stack = Stack::of(DIMS, &affine, 2, Plane::Sax).unwrap();
        assert!(!stack.turned && stack.planes == [2, 1, 0], "{stack:?}");
        assert_eq!((stack.matrix, stack.slices.len()), ([4, 5], 3));
        assert!((stack.step_mm - 8.0).abs() < 1e-9 && (stack.spacing_mm[0] - 1.5).abs() < 1e-9);
        let apex = stack.slices[2].placement.unwrap();
        assert!(length(std::array::from_fn(|i| apex.origin[i] - shown().origin[i])) < 1e-9);
        let levels: Vec<_> = stack.slices.iter().map(|slice| slice.level.unwrap()).collect();
        assert_eq!(levels, [Level::Base, Level::Mid, Level::Apex]);
    }

    #[test]
    fn rows_that_are_counted_from_below_are_turned_round_and_lie_where_they_lay() {
        let affine = slice_affine(&shown(), [1.5, 1.25], 8.0);
        let last = DIMS[1] as f64 - 1.0;
        let below = affine.map(|[i, j, k, origin]| [i, -j, k, origin + last * j]);
        let (upright, turned) =
            (Stack::of(DIMS, &affine, 1, Plane::Sax).unwrap(), Stack::of(DIMS, &below, 1, Plane::Sax).unwrap());
        assert!(turned.turned);
        for (a, b) in upright.slices.iter().zip(&turned.slices) {
            let (a, b) = (a.placement.unwrap(), b.placement.unwrap());
            let off = [(a.origin, b.origin), (a.row, b.row), (a.column, b.column)];
            assert!(off.iter().all(|(a, b)| length(std::array::from_fn(|i| a[i] - b[i])) < 1e-9), "{a:?} {b:?}");
        }
        let voxels: Vec<f32> = (0..60).map(|place| place as f32).collect();
        assert_eq!(turned.slice(&voxels, 2)[..6], [15.0, 16.0, 17.0, 18.0, 19.0, 10.0]);
        assert_eq!(upright.slice(&voxels, 2)[..6], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    }

    #[test]
    fn a_grid_along_the_bodys_axes_tells_no_level_and_keeps_its_order() {
        let affine = [[-1.25, 0.0, 0.0, 0.0], [0.0, -1.5, 0.0, 0.0], [0.0, 0.0, 10.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
        let stack = Stack::of(DIMS, &affine, 1, Plane::Sax).unwrap();
        assert!(!stack.turned && stack.planes == [0, 1, 2]);
        assert!(stack.slices.iter().all(|slice| slice.level.is_none() && slice.placement.is_some()));
    }

    #[test]
    fn a_sheared_plane_is_no_slice() {
        let affine = [[1.0, 0.5, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 9.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
        assert_eq!(Stack::of(DIMS, &affine, 1, Plane::Sax), None);
    }
}
