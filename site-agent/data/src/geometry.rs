//! Where pixels lie: in the patient, in the image as acquired, in the cached frame.
//!
//! ```text
//! patient (DICOM LPS, mm) ◀─ Placement ─▶ native pixel (row, column) ◀─ FrameGrid ─▶ frame pixel (row, column)
//! ```
//!
//! DICOM patient coordinates: +x to the patient's left, +y to the back, +z to the head (PS3.3 C.7.6.2.1.1). Pixel
//! coordinates are continuous, with the centers of pixels at whole numbers.

use common::plan::ImagePlan;
use serde::{Deserialize, Serialize};

/// A direction or a point, in millimetres.
pub(crate) type Vector = [f64; 3];

/// Farther from the scanner's middle than this, in mm, nothing was scanned.
const FAR_MM: f64 = 1e5;
/// Cosine between the directions of rows and columns up to which they count as perpendicular: written with few digits.
const SQUARE: f64 = 1e-3;

/// Where a slice lies in the patient (DICOM LPS, mm).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Placement {
    /// Center of the first pixel: ImagePositionPatient (0020,0032), in mm.
    pub origin: [f64; 3],
    /// Direction along a row, in which columns are counted: the first half of ImageOrientationPatient (0020,0037), of
    /// length 1.
    pub row: [f64; 3],
    /// Direction along a column, in which rows are counted: its second half, of length 1.
    pub column: [f64; 3],
}

impl Placement {
    /// From ImagePositionPatient and ImageOrientationPatient; none if they are not a place and two perpendicular
    /// directions.
    pub fn new(position: [f64; 3], orientation: [f64; 6]) -> Option<Self> {
        let [a, b, c, d, e, f] = orientation;
        let (row, column) = (unit([a, b, c])?, unit([d, e, f])?);
        let placed = position.iter().all(|mm| mm.abs() < FAR_MM);
        (placed && dot(row, column).abs() < SQUARE).then_some(Self { origin: position, row, column })
    }

    /// Across the slice: rows, columns and normal are a right-handed screw.
    pub fn normal(&self) -> [f64; 3] {
        let normal = cross(self.row, self.column);
        unit(normal).unwrap_or(normal)
    }

    /// How far in front of the slice's plane, in the direction of its normal, a point lies; in mm.
    pub fn distance_mm(&self, point: [f64; 3]) -> f64 {
        dot(self.normal(), minus(point, self.origin))
    }

    /// The native pixel (row, column) in front of which a point lies. `spacing_mm` is the distance of rows and of columns.
    pub fn pixel(&self, spacing_mm: [f64; 2], point: [f64; 3]) -> [f64; 2] {
        let from = minus(point, self.origin);
        [dot(from, self.column) / spacing_mm[0], dot(from, self.row) / spacing_mm[1]]
    }

    /// The point at a native pixel (row, column), in mm.
    pub fn point(&self, spacing_mm: [f64; 2], [row, column]: [f64; 2]) -> [f64; 3] {
        let (down, right) = (row * spacing_mm[0], column * spacing_mm[1]);
        std::array::from_fn(|i| self.origin[i] + down * self.column[i] + right * self.row[i])
    }
}

/// An acquired grid and the plan's grid on it, both around the same middle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FrameGrid {
    /// Rows and columns as acquired.
    matrix: [u32; 2],
    /// Frame pixels' distance in acquired pixels, down and along.
    step: [f64; 2],
    /// Rows, and columns, of the frame.
    side: usize,
}

impl FrameGrid {
    /// The grid of frames made by a plan from images of so many rows and columns, so far apart (mm).
    pub fn new(matrix: [u32; 2], spacing_mm: [f64; 2], images: &ImagePlan) -> Self {
        Self { matrix, step: spacing_mm.map(|mm| images.spacing_mm / mm), side: images.frame_size }
    }

    /// The native pixel at a frame pixel, as (row, column).
    pub fn to_native(&self, frame: [f64; 2]) -> [f64; 2] {
        std::array::from_fn(|i| self.middle(i) + (frame[i] - self.frame_middle()) * self.step[i])
    }

    /// The frame pixel at a native pixel, as (row, column).
    pub fn to_frame(&self, native: [f64; 2]) -> [f64; 2] {
        std::array::from_fn(|i| self.frame_middle() + (native[i] - self.middle(i)) / self.step[i])
    }

    fn middle(&self, axis: usize) -> f64 {
        (f64::from(self.matrix[axis]) - 1.0) / 2.0
    }

    fn frame_middle(&self) -> f64 {
        (self.side as f64 - 1.0) / 2.0
    }
}

/// Whether a continuous place lies on a pixel of a row of so many.
pub(crate) fn is_on(place: f64, count: usize) -> bool {
    (-0.5..=count as f64 - 0.5).contains(&place)
}

pub(crate) fn dot(a: Vector, b: Vector) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

pub(crate) fn cross([a, b, c]: Vector, [d, e, f]: Vector) -> Vector {
    [b * f - c * e, c * d - a * f, a * e - b * d]
}

pub(crate) fn minus(a: Vector, b: Vector) -> Vector {
    std::array::from_fn(|i| a[i] - b[i])
}

pub(crate) fn length(a: Vector) -> f64 {
    dot(a, a).sqrt()
}

pub(crate) fn unit(a: Vector) -> Option<Vector> {
    let length = length(a);
    (length.is_finite() && length > 1e-6).then(|| a.map(|x| x / length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oblique() -> Placement {
        let (s, c) = 0.3_f64.sin_cos();
        Placement::new([12.0, -40.0, 7.5], [c, s, 0.0, -s * 0.8, c * 0.8, 0.6]).unwrap()
    }

    #[test]
    fn a_pixel_is_where_the_standard_puts_it() {
        // PS3.3 equation C.7.6.2.1-1: the column index runs along the row's direction, by the distance of columns.
        let placement = Placement::new([10.0, 20.0, 30.0], [0.0, 1.0, 0.0, 0.0, 0.0, -1.0]).unwrap();
        assert_eq!(placement.point([2.0, 0.5], [3.0, 8.0]), [10.0, 24.0, 24.0]);
        assert_eq!(placement.normal(), [-1.0, 0.0, 0.0]);
        assert_eq!(placement.distance_mm([7.0, 0.0, 0.0]), 3.0);
    }

    #[test]
    fn a_point_and_its_pixel_are_there_and_back() {
        let (placement, spacing) = (oblique(), [1.4, 0.9]);
        for pixel in [[0.0, 0.0], [17.25, 3.0], [-2.0, 250.5]] {
            let point = placement.point(spacing, pixel);
            let beside: [f64; 3] = std::array::from_fn(|i| point[i] + 5.0 * placement.normal()[i]);
            let back = placement.pixel(spacing, beside);
            assert!(back.iter().zip(pixel).all(|(a, b)| (a - b).abs() < 1e-9), "{back:?} {pixel:?}");
            assert!((placement.distance_mm(beside) - 5.0).abs() < 1e-9);
        }
    }

    #[test]
    fn what_is_no_place_or_no_plane_is_no_placement() {
        let flat = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0];
        assert!(Placement::new([0.0; 3], flat).is_some());
        assert!(Placement::new([f64::NAN, 0.0, 0.0], flat).is_none());
        assert!(Placement::new([0.0, 1e9, 0.0], flat).is_none());
        assert!(Placement::new([0.0; 3], [1.0, 0.0, 0.0, 0.1, 1.0, 0.0]).is_none());
        assert!(Placement::new([0.0; 3], [0.0; 6]).is_none());
    }

    #[test]
    fn frame_and_native_pixels_share_their_middle_and_are_there_and_back() {
        let images = ImagePlan { frame_size: 16, spacing_mm: 2.5, ..ImagePlan::default() };
        let grid = FrameGrid::new([31, 14], [0.8, 3.1], &images);
        assert_eq!(grid.to_frame([15.0, 6.5]), [7.5, 7.5]);
        let native = grid.to_native([8.5, 7.5]);
        assert!((native[0] - (15.0 + 2.5 / 0.8)).abs() < 1e-12 && native[1] == 6.5, "{native:?}");
        let back = grid.to_frame(grid.to_native([3.25, -1.0]));
        assert!((back[0] - 3.25).abs() < 1e-12 && (back[1] + 1.0).abs() < 1e-12);
    }
}
