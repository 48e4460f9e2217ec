//! The chest around a heart, in the patient's axes: skin, fat, ribs and muscle, lungs, spine, liver.

use super::heart::Tissue;
use super::planes;

/// A chest: an ellipse in the axial plane, the same from neck to belly.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chest {
    /// Half axes of the lungs' space, mm: to the side, to the front.
    half: [f64; 2],
    /// Fat under the skin, mm.
    fat: f64,
}

/// The middle of the mitral plane in the chest's own axes, mm: to the left of its middle and a little behind.
const MITRAL: [f64; 2] = [25.0, 4.0];
/// Ribs and muscles, mm.
const WALL: f64 = 16.0;
/// What spine and aorta take of the lungs' space from behind, mm.
const SPINE: f64 = 27.0;
/// What stays free between the heart and the ribs, as a fraction of the chest.
const ROOM: f64 = 0.04;

impl Chest {
    /// A chest of these outer half axes.
    pub(crate) fn new(outer: [f64; 2], fat: f64) -> Self {
        Self { half: outer.map(|half| half - fat - WALL), fat }
    }

    /// As wide as it is, or as wide as it must be to hold the places of a heart before the spine and the aorta.
    pub(crate) fn around(self, heart: impl Iterator<Item = [f64; 3]>) -> Self {
        let far = |[reach, behind]: [f64; 2], place: [f64; 3]| {
            let place = planes::in_patient(place);
            [reach.max(self.level(place, 0.0)), behind.max(place[1] + MITRAL[1])]
        };
        let [reach, behind] = heart.fold([0.0; 2], far);
        let wider = (reach.sqrt() * (1.0 + ROOM)).max(1.0);
        Self { half: [self.half[0] * wider, (self.half[1] * wider).max(behind + SPINE)], ..self }
    }

    /// Below 1 inside the ellipse that is `margin` mm wider than the lungs' space.
    pub(crate) fn level(&self, [left, posterior, _]: [f64; 3], margin: f64) -> f64 {
        ((left + MITRAL[0]) / (self.half[0] + margin)).powi(2)
            + ((posterior + MITRAL[1]) / (self.half[1] + margin)).powi(2)
    }

    /// The tissue at a place.
    pub(crate) fn tissue(&self, place: [f64; 3]) -> Tissue {
        let (x, y, superior) = (place[0] + MITRAL[0], place[1] + MITRAL[1], place[2]);
        if self.level(place, WALL + self.fat) >= 1.0 {
            return Tissue::Air;
        }
        if self.level(place, WALL) >= 1.0 {
            return Tissue::Fat;
        }
        let spine = self.half[1] - 2.0;
        if x.hypot(y - spine) < 19.0 {
            return Tissue::Bone;
        }
        // The aorta comes down beside the spine.
        if (x - 30.0).hypot(y - spine + 12.0) < 11.0 {
            return Tissue::Vessel;
        }
        if self.level(place, 0.0) >= 1.0 {
            return Tissue::Muscle;
        }
        // The liver under the right dome of the diaphragm, the stomach under the left.
        let dome = |middle: f64, height: f64| height - 0.0045 * (x - middle).powi(2) - 0.003 * y * y;
        if superior < dome(-60.0, -48.0) {
            return Tissue::Liver;
        }
        if superior < dome(70.0, -72.0) {
            return if x < 30.0 { Tissue::Liver } else { Tissue::Muscle };
        }
        Tissue::Lung
    }
}
