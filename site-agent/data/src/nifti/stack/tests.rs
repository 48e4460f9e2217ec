use common::Digest;

use super::*;
use crate::cache::SliceRecord;
use crate::keys::{PathKey, StudyKey, SubjectKey};
use crate::labels::{Plane, Rule, Sequence, Vendor};

const ORIENTATION: [f64; 6] = [0.6, 0.8, 0.0, -0.48, 0.36, 0.8];

/// A series with slices at these places.
fn record(placed: &[Option<([f64; 3], [f64; 6])>]) -> SeriesRecord {
    let slice = |placed: &Option<([f64; 3], [f64; 6])>| SliceRecord {
        position_mm: None,
        placement: placed.and_then(|(position, orientation)| Placement::new(position, orientation)),
        level: None,
        phases: 1,
        acquired: 1,
    };
    SeriesRecord {
        key: SeriesKey([1; 16]),
        subject: SubjectKey([2; 16]),
        study: StudyKey([3; 16]),
        source: PathKey([4; 16]),
        vendor: Vendor::Other,
        sequence: Sequence::Cine,
        sequence_rule: Rule::Timing,
        plane: Plane::Sax,
        plane_rule: Rule::Geometry,
        matrix: [4, 5],
        spacing_mm: [1.4, 0.9],
        slice_step_mm: None,
        window: [0.0, 1.0],
        slices: placed.iter().map(slice).collect(),
        skipped: Vec::new(),
        first_frame: 0,
        content: Digest([0; 32]),
        pixels: Digest([0; 32]),
        sums: Vec::new(),
    }
}

fn behind(mm: f64) -> [f64; 3] {
    let normal = Placement::new([0.0; 3], ORIENTATION).unwrap().normal();
    [0, 1, 2].map(|i| [-101.5, 42.25, 310.0][i] + mm * normal[i])
}

#[test]
fn a_stacks_voxels_lie_where_dicom_puts_its_pixels_with_x_and_y_negated() {
    let places = [0.0, -9.5, -19.0].map(behind);
    let record = record(&places.map(|place| Some((place, ORIENTATION))));
    let affine = stack_affine(&record).unwrap();
    for (k, slice) in record.slices.iter().enumerate() {
        for (row, column) in [(0.0, 0.0), (3.0, 0.0), (0.0, 4.0), (2.0, 1.0)] {
            let [x, y, z] = slice.placement.unwrap().point(record.spacing_mm, [row, column]);
            let voxel = [column, row, k as f64, 1.0];
            let found = [0, 1, 2].map(|i: usize| affine[i].iter().zip(voxel).map(|(a, b)| a * b).sum::<f64>());
            assert!(length(minus(found, [-x, -y, z])) < 1e-9, "{found:?}");
        }
    }
}

#[test]
fn a_single_slice_is_as_deep_as_the_scanner_was_told_or_one_millimetre() {
    let mut one = record(&[Some((behind(0.0), ORIENTATION))]);
    let depth = |record: &SeriesRecord| {
        let affine = stack_affine(record).unwrap();
        length([0, 1, 2].map(|row: usize| affine[row][2]))
    };
    assert!((depth(&one) - 1.0).abs() < 1e-12);
    one.slice_step_mm = Some(8.0);
    assert!((depth(&one) - 8.0).abs() < 1e-12);
}

#[test]
fn slices_that_are_no_even_stack_are_refused_by_number() {
    let stack = |placed: &[([f64; 3], [f64; 6])]| {
        stack_affine(&record(&placed.iter().map(|placed| Some(*placed)).collect::<Vec<_>>()))
    };
    let at = |mm: f64| (behind(mm), ORIENTATION);
    assert!(stack(&[at(0.0), at(10.05), at(20.0)]).is_ok(), "rounded positions");
    assert!(matches!(stack(&[at(0.0), at(10.0), at(22.0)]), Err(StackError::NotEven { slice: 1, .. })));
    let aside = behind(10.0).map(|mm| mm + 0.5);
    assert!(matches!(stack(&[at(0.0), (aside, ORIENTATION)]), Err(StackError::NotEven { slice: 1, .. })));
    let turned = [0.8, -0.6, 0.0, 0.36, 0.48, 0.8];
    assert!(matches!(stack(&[at(0.0), (behind(10.0), turned)]), Err(StackError::NotParallel { slice: 1, .. })));
    let unplaced = stack_affine(&record(&[Some(at(0.0)), None]));
    assert!(matches!(unplaced, Err(StackError::NotPlaced { slice: 1, .. })));
}
