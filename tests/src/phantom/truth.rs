//! Ground truth, kept beside the images and never inside the folder an agent is pointed at.

use serde::{Deserialize, Serialize};

use super::heart::{Disease, END_SYSTOLE, Heart, Scar};
use super::planes;

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
    /// Series by their UID: sequence and view as they truly are.
    pub(crate) series: Vec<SeriesTruth>,
}

/// What is true of one series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SeriesTruth {
    pub(crate) uid: String,
    pub(crate) sequence: super::signal::Sequence,
    pub(crate) view: super::planes::View,
    /// Place along the long axis, 0 base to 1 apex, of a short-axis slice.
    pub(crate) along: Option<f64>,
}

impl SubjectTruth {
    pub(crate) fn of(heart: &Heart, patient_id: String, images: usize, series: Vec<SeriesTruth>) -> Self {
        let (base, beat) = (heart.base(0.0), heart.volume(0.0));
        let radius = (beat * 1000.0 * 1.5 / (std::f64::consts::PI * (heart.length - base))).sqrt();
        let outer = radius + 8.0;
        let landmark = |name: &str, place: [f64; 3]| (name.to_owned(), planes::in_patient(place));
        let middle = 0.45 * heart.length;
        Self {
            patient_id,
            disease: heart.disease,
            edv_ml: heart.edv,
            esv_ml: heart.esv,
            ef_percent: 100.0 * heart.ejection_fraction(),
            scar: heart.scar().is_some(),
            scar_shape: heart.scar(),
            landmarks_mm: vec![
                landmark("apex", [0.0, 0.0, heart.length]),
                landmark("mitral annulus, septal", [radius, 0.0, base]),
                landmark("mitral annulus, lateral", [-radius, 0.0, base]),
                landmark("RV insertion, anterior, mid", [outer * 0.5, -outer * 0.86, middle]),
                landmark("RV insertion, inferior, mid", [outer * 0.5, outer * 0.86, middle]),
            ],
            images,
            series,
        }
    }

    /// Phase of the cycle at end-systole.
    pub fn end_systole() -> f64 {
        END_SYSTOLE
    }
}
