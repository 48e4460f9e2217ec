//! How far found landmarks lie from the true ones.

use super::{Unusable, check_finite, check_length, check_spacing, fraction, mean, quantile};

/// Where a landmark counts as found, mm.
pub const NEAR_MM: f64 = 5.0;

/// The distance of each landmark to the true one.
#[derive(Clone, Debug, PartialEq)]
pub struct Distances {
    mm: Vec<f64>,
}

impl Distances {
    /// Measures landmarks, `(slice, row, column)` in voxels and fractions of them, on a grid of `spacing_mm`. In an
    /// image of one slice both slices are 0.
    pub fn new(truth: &[[f64; 3]], found: &[[f64; 3]], spacing_mm: [f64; 3]) -> Result<Self, Unusable> {
        check_length("landmarks found", found.len(), truth.len())?;
        check_spacing(spacing_mm)?;
        check_finite("true coordinate", truth.iter().copied().flatten())?;
        check_finite("coordinate found", found.iter().copied().flatten())?;
        let length = |(truth, found): (&[f64; 3], &[f64; 3])| {
            (0..3).map(|axis| ((found[axis] - truth[axis]) * spacing_mm[axis]).powi(2)).sum::<f64>().sqrt()
        };
        Ok(Self { mm: truth.iter().zip(found).map(length).collect() })
    }

    /// Each distance, mm, in the order of the landmarks.
    pub fn mm(&self) -> &[f64] {
        &self.mm
    }

    /// The mean, mm; none of no landmark.
    pub fn mean_mm(&self) -> Option<f64> {
        mean(self.mm.iter().copied())
    }

    /// The median, mm, of an even number the middle of the two; none of no landmark.
    pub fn median_mm(&self) -> Option<f64> {
        quantile(self.mm.clone(), 0.5)
    }

    /// The fraction of landmarks no farther than [`NEAR_MM`] from the truth; none of no landmark.
    pub fn fraction_near(&self) -> Option<f64> {
        fraction(self.mm.iter().filter(|mm| **mm <= NEAR_MM).count() as u64, self.mm.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_millimeters_are_near_and_each_axis_has_its_own_spacing() {
        let found = [[0.0, 3.0, 4.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.5], [0.0, 6.0, 0.0]];
        let distances = Distances::new(&[[0.0; 3]; 4], &found, [8.0, 1.0, 1.0]).unwrap();
        assert_eq!(distances.mm(), [5.0, 8.0, 0.5, 6.0]);
        assert_eq!((distances.mean_mm(), distances.median_mm()), (Some(4.875), Some(5.5)));
        assert_eq!(distances.fraction_near(), Some(0.5));
    }

    #[test]
    fn no_landmark_has_no_distance_and_a_lost_one_is_refused() {
        let nothing = Distances::new(&[], &[], [1.0; 3]).unwrap();
        assert_eq!((nothing.mean_mm(), nothing.median_mm(), nothing.fraction_near()), (None, None, None));
        assert!(Distances::new(&[[0.0; 3]], &[], [1.0; 3]).is_err());
        assert!(Distances::new(&[[0.0; 3]], &[[f64::NAN; 3]], [1.0; 3]).is_err());
        assert!(Distances::new(&[], &[], [1.0, -1.0, 1.0]).is_err());
    }
}
