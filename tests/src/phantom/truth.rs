//! Ground truth, kept beside the images and never inside the folder an agent is pointed at.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::heart::{Disease, END_SYSTOLE, Heart, Scar};
use super::planes::{self, Vector, View};
use super::signal::Sequence;

/// What is true of a site's phantom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteTruth {
    /// One entry a subject.
    pub subjects: Vec<SubjectTruth>,
}

impl SiteTruth {
    /// Images of all subjects.
    pub fn image_count(&self) -> usize {
        self.subjects.iter().map(|subject| subject.images).sum()
    }
}

/// What is true of one subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubjectTruth {
    /// Its identifier in the DICOM files.
    pub patient_id: String,
    /// What it has.
    pub disease: Disease,
    /// End-diastolic volume of the left ventricle, mL, analytic.
    pub edv_ml: f64,
    /// End-systolic volume, mL, analytic.
    pub esv_ml: f64,
    /// Ejection fraction, percent.
    pub ef_percent: f64,
    /// Whether there is a scar.
    pub scar: bool,
    /// The scar's shape.
    pub(crate) scar_shape: Option<Scar>,
    /// Landmarks at end-diastole in the patient's axes, mm: name and place.
    pub landmarks_mm: Vec<(String, [f64; 3])>,
    /// Images written.
    pub images: usize,
    /// Slices in the order they were scanned: sequence and view as they truly are.
    pub(crate) slices: Vec<SliceTruth>,
}

/// What is true of one slice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SliceTruth {
    pub(crate) series_uid: String,
    pub(crate) sequence: Sequence,
    pub(crate) view: View,
    /// Place along the long axis, 0 base to 1 apex, of a short-axis slice.
    pub(crate) along: Option<f64>,
    /// How far the patient had moved in this breath hold, mm: landmarks and segmentations move with it.
    pub(crate) breath_mm: [f64; 3],
}

impl SubjectTruth {
    pub(crate) fn of(heart: &Heart, patient_id: String, images: usize, slices: Vec<SliceTruth>) -> Self {
        Self {
            patient_id,
            disease: heart.disease,
            edv_ml: heart.edv,
            esv_ml: heart.esv,
            ef_percent: 100.0 * heart.ejection_fraction(),
            scar: heart.scar().is_some(),
            scar_shape: heart.scar(),
            landmarks_mm: landmarks(heart),
            images,
            slices,
        }
    }

    /// Phase of the cycle at end-systole.
    pub fn end_systole() -> f64 {
        END_SYSTOLE
    }
}

/// Landmarks at end-diastole, in the patient's axes.
fn landmarks(heart: &Heart) -> Vec<(String, Vector)> {
    let beat = heart.at(0.0);
    let middle = 0.45 * heart.length;
    let found = [
        ("apex", Some([0.0, 0.0, heart.length])),
        ("mitral annulus, septal", Some(beat.annulus(0.0))),
        ("mitral annulus, lateral", Some(beat.annulus(PI))),
        ("RV insertion, anterior, mid", beat.insertion(middle, -1.0)),
        ("RV insertion, inferior, mid", beat.insertion(middle, 1.0)),
    ];
    found.into_iter().filter_map(|(name, place)| Some((name.to_owned(), planes::in_patient(place?)))).collect()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::super::planes::Plane;
    use super::super::scanner::{self, Grid, Look};
    use super::*;

    #[test]
    fn insertion_landmarks_lie_where_myocardium_right_ventricle_and_background_meet() {
        let look = Look { snr: 30.0, shading: 1.0, lines: 1.0, field: 1.0, banding: 0.0, gamma: 1.0, gain: 2000.0 };
        let grid = Grid::of(200, 100.0, 1);
        for disease in [Disease::Nor, Disease::Minf, Disease::Dcm, Disease::Hcm, Disease::Arv] {
            for seed in 0..6 {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                let heart = Heart::draw(disease, &mut rng);
                let plane = Plane::sax(0.45 * heart.length, 0.0);
                let labels = scanner::scan(&heart.at(0.0), &plane, Sequence::Cine, grid, &look, &mut rng).labels;
                let insertions: Vec<_> =
                    landmarks(&heart).into_iter().filter(|(name, _)| name.starts_with("RV")).collect();
                assert_eq!(insertions.len(), 2);
                for (name, place) in insertions {
                    let [x, y] = plane.pixel_mm(place).map(|mm| 2.0 * mm + 99.5);
                    let near = |wanted: &[u8]| {
                        let pixel = |i: usize| ((i % 200) as f64 - x, (i / 200) as f64 - y);
                        (0..labels.len()).any(|i| wanted.contains(&labels[i]) && pixel(i).0.hypot(pixel(i).1) < 3.0)
                    };
                    assert!(near(&[2, 6]) && near(&[3]) && near(&[0]), "{disease:?} {seed} {name}: {x} {y}");
                }
            }
        }
    }
}
