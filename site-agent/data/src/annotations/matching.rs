//! A mask's grid against the grid of its images: by where voxels lie in the patient, in whatever order of axes.

use crate::cache::SeriesRecord;
use crate::geometry::{Placement, Vector, cross, dot, length};
use crate::nifti::{Affine, Volume};

/// The most that a corner of the mask may lie off the image's, in pixels: rounding is far below it, half a pixel (a
/// program that counts from edges) above.
const CORNER_PX: f64 = 0.25;
/// The most that a plane of the mask may lie off its slice, in mm; or a quarter of the distance of its planes.
const PLANE_MM: f64 = 1.0;

/// A mask's axes in DICOM's coordinates (LPS, mm).
pub(super) struct MaskGrid {
    dims: [usize; 3],
    /// From a voxel to the next along each axis.
    axes: [Vector; 3],
    origin: Vector,
    /// Rows of the inverse of `axes`.
    inverse: [Vector; 3],
}

/// Which voxels a slice's pixels are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fit {
    /// The voxel of the first pixel, but for the axis through the planes.
    first: [i64; 3],
    /// Axis and direction in which rows are counted, and columns.
    down: (usize, i64),
    along: (usize, i64),
    /// The axis through the planes.
    pub(super) through: usize,
    /// The nearest plane; it may be none of the mask's.
    pub(super) plane: i64,
    /// How far from it the slice lies, in mm.
    pub(super) off_mm: f64,
}

impl MaskGrid {
    pub(super) fn of(dims: [usize; 4], affine: &Affine) -> Self {
        // From NIfTI's axes to DICOM's: x and y change their sign.
        let column = |at: usize| [-affine[0][at], -affine[1][at], affine[2][at]];
        let axes = [column(0), column(1), column(2)];
        let [a, b, c] = axes;
        let volume = dot(a, cross(b, c)); // the reader admits no flat grid
        let inverse = [cross(b, c), cross(c, a), cross(a, b)].map(|row| row.map(|part| part / volume));
        Self { dims: [dims[0], dims[1], dims[2]], axes, origin: column(3), inverse }
    }

    fn voxel(&self, point: Vector) -> Vector {
        let from = std::array::from_fn(|i| point[i] - self.origin[i]);
        self.inverse.map(|row| dot(row, from))
    }

    /// The most that a slice may lie off a plane, in mm.
    pub(super) fn bound_mm(&self, through: usize) -> f64 {
        if self.dims[through] == 1 { PLANE_MM } else { PLANE_MM.min(length(self.axes[through]) / 4.0) }
    }

    /// How the pixels of a slice are voxels; none if the grids differ in the plane.
    pub(super) fn fit(&self, placement: &Placement, matrix: [u32; 2], spacing_mm: [f64; 2]) -> Option<Fit> {
        let [rows, columns] = matrix.map(f64::from);
        let at = |row: f64, column: f64| self.voxel(placement.point(spacing_mm, [row, column]));
        let first = at(0.0, 0.0);
        let step = |to: Vector| -> Vector { std::array::from_fn(|i| to[i] - first[i]) };
        let (down, along) = (direction(step(at(1.0, 0.0)))?, direction(step(at(0.0, 1.0)))?);
        let through = (0..3).find(|axis| *axis != down.0 && *axis != along.0).filter(|_| down.0 != along.0)?;
        let matrix_fits = self.dims[down.0] == matrix[0] as usize && self.dims[along.0] == matrix[1] as usize;
        let whole = first.map(|part| part.round() as i64);
        // Grids that agree at the corners agree everywhere between.
        let thick = length(self.axes[through]);
        let mut corners =
            [(0.0, 0.0), (0.0, columns - 1.0), (rows - 1.0, 0.0), (rows - 1.0, columns - 1.0)].into_iter();
        let agrees = corners.all(|(row, column)| {
            let found = at(row, column);
            let expected = |axis: usize| {
                let moved = |(held, sign): (usize, i64), by: f64| if held == axis { sign as f64 * by } else { 0.0 };
                whole[axis] as f64 + moved(down, row) + moved(along, column)
            };
            [down.0, along.0].iter().all(|axis| {
                let inside = (-0.5..self.dims[*axis] as f64 - 0.5).contains(&expected(*axis));
                inside && (found[*axis] - expected(*axis)).abs() <= CORNER_PX
            }) && (found[through] - first[through]).abs() * thick <= PLANE_MM
        });
        let plane = whole[through];
        let off_mm = (first[through] - plane as f64).abs() * thick;
        (matrix_fits && agrees).then_some(Fit { first: whole, down, along, through, plane, off_mm })
    }

    /// The plane of this fit, if the mask has it.
    pub(super) fn plane(&self, fit: &Fit) -> Option<usize> {
        let near = fit.off_mm <= self.bound_mm(fit.through);
        usize::try_from(fit.plane).ok().filter(|plane| near && *plane < self.dims[fit.through])
    }

    /// A slice's pixels out of the mask's voxels. [rows x columns]
    pub(super) fn slice(&self, fit: &Fit, plane: usize, matrix: [u32; 2], voxels: &[u8]) -> Vec<u8> {
        let strides = [1, self.dims[0], self.dims[0] * self.dims[1]];
        let along =
            |(axis, sign): (usize, i64), by: u32| (fit.first[axis] + sign * i64::from(by)) as usize * strides[axis];
        let [rows, columns] = matrix;
        let pixels = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        let start = plane * strides[fit.through];
        pixels.map(|(row, column)| voxels[start + along(fit.down, row) + along(fit.along, column)]).collect()
    }

    /// Where a plane lies along the third direction, in mm, from the first one.
    pub(super) fn depth_mm(&self, through: usize, planes: f64) -> f64 {
        planes * length(self.axes[through])
    }

    /// Which of some voxels lie in a plane.
    pub(super) fn plane_of(&self, through: usize, voxel: usize) -> usize {
        let strides = [1, self.dims[0], self.dims[0] * self.dims[1]];
        voxel / strides[through] % self.dims[through]
    }
}

/// The axis along which a step goes one voxel, and its sign; none if it goes another way.
fn direction(step: Vector) -> Option<(usize, i64)> {
    let axis = (0..3).max_by(|a, b| step[*a].abs().total_cmp(&step[*b].abs()))?;
    // The corners tell the fine differences.
    ((step[axis].abs() - 1.0).abs() < 0.5).then_some((axis, if step[axis] > 0.0 { 1 } else { -1 }))
}

/// A grid in words: what a person compares.
pub(super) fn described_mask<T>(volume: &Volume<T>) -> String {
    let grid = MaskGrid::of(volume.dims, &volume.affine);
    let sizes = grid.axes.map(length);
    let directions: [Vector; 3] = std::array::from_fn(|axis| grid.axes[axis].map(|part| part / sizes[axis]));
    let [i, j, k] = grid.dims;
    format!(
        "{i} x {j} x {k} voxels of {} mm, first at {}, axes {}, {}, {}",
        sizes.map(|mm| format!("{mm:.3}")).join(" x "),
        triple(grid.origin, 1),
        triple(directions[0], 3),
        triple(directions[1], 3),
        triple(directions[2], 3),
    )
}

/// The images' grid in words, its axes in the same order: columns, rows, slices.
pub(super) fn described_images(record: &SeriesRecord) -> String {
    let [rows, columns] = record.matrix;
    let [down, along] = record.spacing_mm;
    let slices = record.slices.len();
    let placed = record.slices.iter().find_map(|slice| slice.placement);
    let place = placed.map_or_else(
        || "nothing says where".to_owned(),
        |placed| {
            let (row, column, normal) = (placed.row, placed.column, placed.normal());
            format!(
                "first at {}, axes {}, {}, {}",
                triple(placed.origin, 1),
                triple(row, 3),
                triple(column, 3),
                triple(normal, 3)
            )
        },
    );
    format!("{columns} x {rows} pixels of {along:.3} x {down:.3} mm in {slices} slices, {place}")
}

fn triple(values: Vector, digits: usize) -> String {
    format!("({})", values.map(|value| format!("{value:.digits$}")).join(" "))
}
