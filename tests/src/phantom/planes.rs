//! Imaging planes in the patient's axes (DICOM LPS: left, posterior, superior), and heart coordinates of their pixels.

use super::heart::Heart;

pub(crate) type Vector = [f64; 3];

/// From base to apex: to the patient's left, to the front, down.
const AXIS: Vector = [0.62, -0.58, -0.528];

/// A slice: where it lies and how it is sampled.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plane {
    /// Middle of the slice, mm.
    pub(crate) center: Vector,
    /// Direction of a row (to the right in the image) and of a column (downwards).
    pub(crate) row: Vector,
    pub(crate) column: Vector,
    /// Of the slice, mm.
    pub(crate) thickness: f64,
}

/// Which view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum View {
    Sax,
    TwoChamber,
    ThreeChamber,
    FourChamber,
    Lvot,
}

/// The heart's axes in the patient: to the right ventricle, to the inferior wall, to the apex.
pub(crate) fn axes() -> [Vector; 3] {
    let apex = unit(AXIS);
    // The right ventricle lies to the right and in front of the left one.
    let toward = [-0.75, -0.6, 0.2];
    let along = dot(toward, apex);
    let rv = unit([0, 1, 2].map(|i| toward[i] - along * apex[i]));
    [rv, cross(apex, rv), apex]
}

impl Plane {
    /// A short-axis slice `depth` mm below the mitral plane, turned in its plane by `turn` radians.
    pub(crate) fn sax(depth: f64, turn: f64) -> Self {
        let [rv, inferior, apex] = axes();
        // Seen from the apex, with the right ventricle on the left of the image.
        Self { center: scaled(apex, depth), row: scaled(rv, -1.0), column: inferior, thickness: 8.0 }.turned(turn)
    }

    /// A long-axis view.
    pub(crate) fn lax(heart: &Heart, view: View, turn: f64) -> Self {
        let [rv, inferior, apex] = axes();
        let angle = match view {
            View::FourChamber => 0.12_f64,
            View::TwoChamber => 1.35,
            View::ThreeChamber | View::Sax => -0.95,
            // Across the three-chamber view.
            View::Lvot => 0.62,
        };
        let across = [0, 1, 2].map(|i| rv[i] * angle.cos() + inferior[i] * angle.sin());
        let center = scaled(apex, 0.28 * heart.length);
        // The apex is up in the image.
        Self { center, row: scaled(across, -1.0), column: scaled(apex, -1.0), thickness: 6.0 }.turned(turn)
    }

    /// Turned in its plane by `turn` radians.
    pub(crate) fn turned(self, turn: f64) -> Self {
        let (c, s) = (turn.cos(), turn.sin());
        let mix = |a: Vector, b: Vector, x: f64, y: f64| [0, 1, 2].map(|i| a[i] * x + b[i] * y);
        Self { row: mix(self.row, self.column, c, s), column: mix(self.row, self.column, -s, c), ..self }
    }

    /// Moved in its plane: to the right in the image, and down, mm.
    pub(crate) fn moved(self, [right, down]: [f64; 2]) -> Self {
        let by = [0, 1, 2].map(|i| self.row[i] * right + self.column[i] * down);
        self.shifted(by)
    }

    /// Moved as a whole.
    pub(crate) fn shifted(self, by: Vector) -> Self {
        Self { center: sum(self.center, by), ..self }
    }

    pub(crate) fn normal(&self) -> Vector {
        cross(self.row, self.column)
    }

    /// Where a place is seen, mm from the middle of the image: to the right, down.
    #[cfg(test)]
    pub(crate) fn pixel_mm(&self, place: Vector) -> [f64; 2] {
        let from = sum(place, scaled(self.center, -1.0));
        [dot(from, self.row), dot(from, self.column)]
    }

    /// The place of a pixel, mm from the middle of the mitral plane.
    pub(crate) fn place(&self, x: f64, y: f64) -> Vector {
        [0, 1, 2].map(|i| self.center[i] + self.row[i] * x + self.column[i] * y)
    }
}

/// Heart coordinates of a place in the patient's axes.
pub(crate) fn in_heart(axes: &[Vector; 3], place: Vector) -> Vector {
    axes.map(|axis| dot(axis, place))
}

/// The patient's axes of heart coordinates.
pub(crate) fn in_patient([u, v, w]: Vector) -> Vector {
    let axes = axes();
    [0, 1, 2].map(|i| axes[0][i] * u + axes[1][i] * v + axes[2][i] * w)
}

pub(crate) fn cross(a: Vector, b: Vector) -> Vector {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

pub(crate) fn dot(a: Vector, b: Vector) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

pub(crate) fn sum(a: Vector, b: Vector) -> Vector {
    [0, 1, 2].map(|i| a[i] + b[i])
}

pub(crate) fn scaled(a: Vector, by: f64) -> Vector {
    a.map(|x| x * by)
}

fn unit(a: Vector) -> Vector {
    scaled(a, 1.0 / dot(a, a).sqrt())
}
