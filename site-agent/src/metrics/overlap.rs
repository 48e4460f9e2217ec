//! Overlap of two label maps.

use super::{Unusable, check_labels, check_length, fraction};

/// The Dice coefficient (Dice 1945) of each class, background at 0 included: `2 |A ∩ B| / (|A| + |B|)` over all voxels
/// of the volume at once.
///
/// `truth` and `found` are label maps of the same grid, in any order of axes, with labels below `classes`. A class that
/// neither map holds is `None`: it is not counted, neither as 0 nor as 1. A class that only one of them holds is 0.
pub fn dice(truth: &[u8], found: &[u8], classes: usize) -> Result<Vec<Option<f64>>, Unusable> {
    check_length("voxels found", found.len(), truth.len())?;
    for map in [truth, found] {
        check_labels(map.iter().map(|label| usize::from(*label)), classes)?;
    }
    let (mut shared, mut sizes) = (vec![0_u64; classes], vec![0_u64; classes]);
    for (truth, found) in truth.iter().zip(found) {
        sizes[usize::from(*truth)] += 1;
        sizes[usize::from(*found)] += 1;
        shared[usize::from(*truth)] += u64::from(truth == found);
    }
    Ok(shared.iter().zip(&sizes).map(|(shared, sizes)| fraction(2 * shared, *sizes)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_in_neither_map_is_not_counted_and_one_in_a_single_map_is_zero() {
        assert_eq!(dice(&[0, 1, 1], &[0, 2, 1], 4), Ok(vec![Some(1.0), Some(2.0 / 3.0), Some(0.0), None]));
        assert_eq!(dice(&[], &[], 2), Ok(vec![None, None]));
    }

    #[test]
    fn maps_of_two_grids_and_unknown_labels_are_refused() {
        let length = Unusable::Length { what: "voxels found", found: 1, expected: 2 };
        assert_eq!(dice(&[0, 1], &[0], 2), Err(length));
        assert_eq!(dice(&[0, 1], &[0, 2], 2), Err(Unusable::Label { label: 2, index: 1, classes: 2 }));
    }
}
