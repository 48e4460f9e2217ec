//! From voxels to the measures of a cardiac report.

use super::{Unusable, check_finite, check_length, fraction, mean};

/// Density of myocardium, g/mL, as the SCMR's guideline on post-processing has it (Schulz-Menger et al. 2020).
pub const MYOCARDIUM_G_PER_ML: f64 = 1.05;

/// The volume, mL, of `voxels` of `voxel_mm3` mm³ each: pixel area times the distance of slice centers, gaps included.
pub fn volume_ml(voxels: usize, voxel_mm3: f64) -> f64 {
    voxels as f64 * voxel_mm3 / 1000.0
}

/// The ejection fraction, %, from the volumes at end-diastole and end-systole. Below zero where the second is larger:
/// a wrong segmentation should show. None unless the first is above zero.
pub fn ejection_fraction_percent(end_diastolic_ml: f64, end_systolic_ml: f64) -> Option<f64> {
    (end_diastolic_ml > 0.0).then(|| (end_diastolic_ml - end_systolic_ml) / end_diastolic_ml * 100.0)
}

/// The mass, g, of a volume of myocardium.
pub fn myocardial_mass_g(myocardium_ml: f64) -> f64 {
    myocardium_ml * MYOCARDIUM_G_PER_ML
}

/// Scar, % of the whole myocardium, where `myocardium` counts the voxels without scar. None if there is neither.
pub fn scar_percent(scar: usize, myocardium: usize) -> Option<f64> {
    fraction(scar as u64, scar as u64 + myocardium as u64).map(|part| part * 100.0)
}

/// The mean of a parametric map, in its unit, over the voxels of a mask on the same grid; none of an empty mask. Under
/// the mask a value that is not finite is refused, since a mean over the rest would hide a failed fit.
pub fn mean_under_mask(map: &[f32], mask: &[bool]) -> Result<Option<f64>, Unusable> {
    check_length("voxels in the mask", mask.len(), map.len())?;
    let under_mask = || map.iter().zip(mask).filter(|(_, on)| **on).map(|(value, _)| f64::from(*value));
    check_finite("map value under the mask", under_mask())?;
    Ok(mean(under_mask()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ventricle_of_known_size_has_its_textbook_numbers() {
        // 10 000 voxels of 1.5 x 1.5 x 10 mm.
        let diastolic = volume_ml(10_000, 22.5);
        assert_eq!((diastolic, volume_ml(4_000, 22.5)), (225.0, 90.0));
        assert_eq!(ejection_fraction_percent(diastolic, 90.0), Some(60.0));
        assert_eq!(myocardial_mass_g(100.0), 105.0);
        assert_eq!(scar_percent(25, 75), Some(25.0));
    }

    #[test]
    fn nothing_segmented_has_no_fraction_and_a_swapped_pair_a_negative_one() {
        assert_eq!((ejection_fraction_percent(0.0, 0.0), ejection_fraction_percent(f64::NAN, 1.0)), (None, None));
        assert_eq!(ejection_fraction_percent(80.0, 100.0), Some(-25.0));
        assert_eq!((scar_percent(0, 0), scar_percent(0, 5), scar_percent(5, 0)), (None, Some(0.0), Some(100.0)));
    }

    #[test]
    fn a_map_counts_under_the_mask_alone() {
        assert_eq!(mean_under_mask(&[1000.0, 1200.0, f32::NAN], &[true, true, false]), Ok(Some(1100.0)));
        assert_eq!(mean_under_mask(&[1000.0], &[false]), Ok(None));
        assert!(mean_under_mask(&[1000.0, f32::NAN], &[true, true]).is_err());
        assert!(mean_under_mask(&[1000.0], &[]).is_err());
    }
}
