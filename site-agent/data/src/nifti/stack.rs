//! Where the slices of a series lie as one volume.

use super::Affine;
use crate::cache::SeriesRecord;
use crate::geometry::{Placement, Vector, dot, length, minus};
use crate::keys::SeriesKey;

/// What slices of one stack may be off their even places, in mm: positions are rounded when they are written.
const EVEN_MM: f64 = 0.1;
/// What parts of their directions may differ by.
const PARALLEL: f64 = 1e-3;
/// The depth of a single slice of which nothing says how thick it is, in mm.
const UNTOLD_MM: f64 = 1.0;

/// Why a series is not one volume.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum StackError {
    /// Some slice has no place.
    #[error(
        "slice {slice} of series {series} has no ImagePositionPatient and ImageOrientationPatient that can be used: export the series again from the scanner"
    )]
    NotPlaced {
        /// The series.
        series: SeriesKey,
        /// The slice, from 0.
        slice: usize,
    },
    /// Slices are turned against each other.
    #[error("slice {slice} of series {series} is not parallel to the first: save its slices one by one")]
    NotParallel {
        /// The series.
        series: SeriesKey,
        /// The slice, from 0.
        slice: usize,
    },
    /// Slices are not evenly one behind the other.
    #[error(
        "slice {slice} of series {series} lies {off_mm:.2} mm off its place in an even stack, more than {EVEN_MM} mm: save its slices one by one"
    )]
    NotEven {
        /// The series.
        series: SeriesKey,
        /// The slice, from 0.
        slice: usize,
        /// How far, in mm.
        off_mm: f64,
    },
}

/// Where the voxels of a series' slices lie, as one volume: `i` is the column, `j` the row, `k` the slice in the record's
/// order. A single slice is as deep as the scanner was told (SpacingBetweenSlices, else SliceThickness), or 1 mm.
pub fn stack_affine(record: &SeriesRecord) -> Result<Affine, StackError> {
    let series = record.key;
    let placed = record.slices.iter().enumerate();
    let placed: Vec<Placement> = placed
        .map(|(slice, held)| held.placement.ok_or(StackError::NotPlaced { series, slice }))
        .collect::<Result<_, _>>()?;
    let first = *placed.first().ok_or(StackError::NotPlaced { series, slice: 0 })?;
    let last = placed.len() - 1;
    let normal = first.normal();
    if last == 0 {
        let step = normal.map(|part| part * record.slice_step_mm.unwrap_or(UNTOLD_MM));
        return Ok(affine(&first, record.spacing_mm, step));
    }
    // From the first slice to the last along the normal: a stack that leans is none.
    let depth = dot(normal, minus(placed[last].origin, first.origin)) / last as f64;
    let step = normal.map(|part| part * depth);
    for (slice, held) in placed.iter().enumerate() {
        let turned = [(held.row, first.row), (held.column, first.column)];
        if turned.iter().any(|(own, first)| length(minus(*own, *first)) > PARALLEL) {
            return Err(StackError::NotParallel { series, slice });
        }
        let place = std::array::from_fn(|i| first.origin[i] + slice as f64 * step[i]);
        let off_mm = length(minus(held.origin, place));
        if off_mm > EVEN_MM {
            return Err(StackError::NotEven { series, slice, off_mm });
        }
    }
    Ok(affine(&first, record.spacing_mm, step))
}

/// Where the voxels of a stack lie that begins with this slice; the next lie `step_mm` further along its normal each,
/// against it if that is below 0. `spacing_mm` is the distance of rows and of columns.
pub fn slice_affine(first: &Placement, spacing_mm: [f64; 2], step_mm: f64) -> Affine {
    affine(first, spacing_mm, first.normal().map(|part| part * step_mm))
}

/// From DICOM's axes to NIfTI's: x and y change their sign.
fn affine(first: &Placement, spacing_mm: [f64; 2], step: Vector) -> Affine {
    let row = |axis: usize, sign: f64| {
        [first.row[axis] * spacing_mm[1], first.column[axis] * spacing_mm[0], step[axis], first.origin[axis]]
            .map(|value| sign * value)
    };
    [row(0, -1.0), row(1, -1.0), row(2, 1.0), [0.0, 0.0, 0.0, 1.0]]
}

#[cfg(test)]
mod tests;
