//! Masks, and the slices they belong to.

use dicom_core::value::{PixelFragmentSequence, Value};
use dicom_core::{DataElement, VR};
use dicom_dictionary_std::tags;
use std::f64::consts::FRAC_PI_2;

use super::*;

/// The same voxels with their axes in another order and direction.
fn turned(affine: &Affine, values: &[u8], order: [usize; 3], flipped: [bool; 3]) -> ([usize; 3], Affine, Vec<u8>) {
    let old = [COLUMNS, ROWS, SLICES];
    let dims = order.map(|axis| old[axis]);
    let mut turned = *affine;
    for (row, old_row) in turned.iter_mut().zip(affine).take(3) {
        for (axis, &from) in order.iter().enumerate() {
            row[axis] = if flipped[axis] { -old_row[from] } else { old_row[from] };
            row[3] += if flipped[axis] { old_row[from] * (dims[axis] - 1) as f64 } else { 0.0 };
        }
    }
    let mut voxels = Vec::new();
    for k in 0..dims[2] {
        for j in 0..dims[1] {
            for i in 0..dims[0] {
                let mut at = [0; 3];
                for (axis, place) in [i, j, k].into_iter().enumerate() {
                    at[order[axis]] = if flipped[axis] { dims[axis] - 1 - place } else { place };
                }
                voxels.push(values[(at[2] * ROWS + at[1]) * COLUMNS + at[0]]);
            }
        }
    }
    (dims, turned, voxels)
}

#[test]
fn a_mask_is_brought_into_place_from_any_order_and_direction_of_its_axes() {
    let site = Site::new();
    let (place, record) = site.record(1);
    let affine = stack_affine(record).unwrap();
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        for flips in 0..8 {
            let flipped = [0, 1, 2].map(|axis| flips >> axis & 1 == 1);
            let (dims, affine, values) = turned(&affine, &drawn(), order, flipped);
            site.volume("m.nii.gz", dims, affine, values);
            let masks = site.rows(&row("1", "m.nii.gz")).unwrap();
            let wanted = SeriesMask { series: place, phase: 1, slices: expected(), short: 0 };
            assert_eq!(masks, [wanted], "{order:?} {flipped:?}");
        }
    }
}

#[test]
fn slices_may_lie_in_files_of_their_own_and_a_slice_without_one_has_no_mask() {
    let site = Site::new();
    let (_, record) = site.record(1);
    let slices = drawn();
    let write = |name: &str, slice: usize| {
        let placement = record.slices[slice].placement.unwrap();
        let values = slices[slice * ROWS * COLUMNS..][..ROWS * COLUMNS].to_vec();
        site.volume(name, [COLUMNS, ROWS, 1], slice_affine(&placement, SPACING, 8.0), values);
    };
    write("base.nii.gz", 0);
    write("apex.nii.gz", 3);
    let rows = format!("{}\n{}", row("0", "apex.nii.gz"), row("0", "./base.nii.gz"));
    let masks = site.rows(&rows).unwrap();
    let [first, .., last] = &expected()[..] else { panic!("four slices") };
    assert_eq!(masks[0].slices, [first.clone(), None, None, last.clone()]);
    write("again.nii.gz", 3);
    let error = site.rows(&format!("{rows}\n{}", row("0", "again.nii.gz"))).unwrap_err();
    assert!(matches!(&error, LabelError::Twice { at, first: 2, .. } if at.line == 4), "{error}");
}

#[test]
fn a_mask_on_another_grid_is_refused_with_both_geometries_and_the_remedy() {
    let site = Site::new();
    let (_, record) = site.record(1);
    let affine = stack_affine(record).unwrap();
    let whole = [COLUMNS, ROWS, SLICES];
    let scaled = |by: f64| affine.map(|row| [row[0] * by, row[1] * by, row[2], row[3]]);
    let shifted = |pixels: f64| affine.map(|row| [row[0], row[1], row[2], row[3] + pixels * row[0]]);
    let spun = {
        let (s, c) = 0.05_f64.sin_cos();
        affine.map(|row| [c * row[0] + s * row[1], c * row[1] - s * row[0], row[2], row[3]])
    };
    // The first slice's last row and the others' first ones: as many voxels, other sides.
    let cases = [
        (whole, shifted(0.5)),
        (whole, shifted(1.0)),
        (whole, scaled(1.05)),
        (whole, scaled(2.0)),
        (whole, spun),
        ([ROWS, COLUMNS, SLICES], affine),
        ([COLUMNS - 1, ROWS, SLICES], affine),
        ([COLUMNS + 1, ROWS, SLICES], affine),
        // Made from a header whose x and y nobody negated.
        (whole, [affine[0].map(|x| -x), affine[1].map(|x| -x), affine[2], affine[3]]),
    ];
    for (dims, affine) in cases {
        site.volume("m.nii.gz", dims, affine, vec![1; dims.iter().product()]);
        let error = site.rows(&row("0", "m.nii.gz")).unwrap_err();
        assert!(matches!(error, LabelError::Grid { .. }), "{affine:?}: {error}");
        let text = error.to_string();
        for part in [
            "masks.csv, line 2",
            "m.nii.gz",
            "mask:   ",
            "images: 16 x 12 pixels of 1.000 x 1.500 mm in 4 slices",
            "do not resample",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(text.contains(&format!("{} x {} x {} voxels", dims[0], dims[1], dims[2])), "{text}");
    }
    // What rounding does is no other grid.
    site.volume("m.nii.gz", whole, shifted(0.1), drawn());
    let straight = site.rows(&row("0", "m.nii.gz")).unwrap();
    site.volume("m.nii.gz", whole, stack_affine(site.record(1).1).unwrap(), drawn());
    assert_eq!(site.rows(&row("0", "m.nii.gz")).unwrap(), straight);
}

#[test]
fn labels_between_or_beyond_the_slices_are_refused_and_empty_planes_are_not() {
    let site = Site::new();
    let (_, record) = site.record(1);
    let affine = stack_affine(record).unwrap();
    let deeper = |by: f64| affine.map(|row| [row[0], row[1], row[2], row[3] + by * row[2]]);
    site.volume("m.nii.gz", [COLUMNS, ROWS, SLICES], deeper(0.3), drawn());
    let error = site.rows(&row("0", "m.nii.gz")).unwrap_err();
    assert!(
        matches!(error, LabelError::OffSlices { plane: 0, off_mm, bound_mm, .. } if (off_mm - 3.0).abs() < 1e-3 && bound_mm == 1.0),
        "{error}"
    );
    // A slice further than there are images, first with nothing on it.
    let mut values = drawn();
    values.extend([0; ROWS * COLUMNS]);
    site.volume("m.nii.gz", [COLUMNS, ROWS, SLICES + 1], affine, values.clone());
    assert_eq!(site.rows(&row("0", "m.nii.gz")).unwrap()[0].slices, expected());
    values[SLICES * ROWS * COLUMNS + 5] = 1;
    site.volume("m.nii.gz", [COLUMNS, ROWS, SLICES + 1], affine, values);
    let error = site.rows(&row("0", "m.nii.gz")).unwrap_err();
    assert!(matches!(error, LabelError::OffSlices { plane: SLICES, .. }), "{error}");
}

#[test]
fn what_is_wrong_with_a_masks_row_or_file_is_told_by_line() {
    let site = Site::new();
    let (_, record) = site.record(1);
    let affine = stack_affine(record).unwrap();
    let all = [COLUMNS, ROWS, SLICES];
    site.volume("m.nii.gz", all, affine, drawn());
    site.volume("unknown.nii.gz", all, affine, vec![9; SLICES * ROWS * COLUMNS]);
    let moments = Volume { dims: [COLUMNS, ROWS, 1, 2], affine, values: vec![0_u8; 2 * ROWS * COLUMNS] };
    write_nifti(&site.labels().join("4d.nii.gz"), &moments).unwrap();
    let half = Volume { dims: [COLUMNS, ROWS, SLICES, 1], affine, values: vec![1.5_f32; SLICES * ROWS * COLUMNS] };
    write_nifti(&site.labels().join("half.nii.gz"), &half).unwrap();
    let whole = fs::read(site.labels().join("m.nii.gz")).unwrap();
    fs::write(site.labels().join("cut.nii.gz"), &whole[..whole.len() / 2]).unwrap();
    type Told = fn(&LabelError) -> bool;
    let cases: [(String, Told); 15] = [
        (row("", "m.nii.gz"), |e| matches!(e, LabelError::NoPhase { phases: 3, .. })),
        (row("3", "m.nii.gz"), |e| matches!(e, LabelError::Phase { phase: 3, phases: 3, .. })),
        (row("-1", "m.nii.gz"), |e| matches!(e, LabelError::Row { .. })),
        (row("0", "none.nii.gz"), |e| matches!(e, LabelError::Mask { source: NiftiError::Disk { .. }, .. })),
        (row("0", "cut.nii.gz"), |e| matches!(e, LabelError::Mask { source: NiftiError::Truncated { .. }, .. })),
        (row("0", "labels.toml"), |e| matches!(e, LabelError::Mask { source: NiftiError::Truncated { .. }, .. })),
        (row("0", "unknown.nii.gz"), |e| matches!(e, LabelError::UnknownCode { value: 9.0, .. })),
        (row("0", "half.nii.gz"), |e| matches!(e, LabelError::UnknownCode { value: 1.5, .. })),
        (row("0", "4d.nii.gz"), |e| matches!(e, LabelError::Moments { moments: 2, .. })),
        (row("0", "../labels/m.nii.gz"), |e| matches!(e, LabelError::Row { .. })),
        (row("0", "/etc/passwd"), |e| matches!(e, LabelError::Row { .. })),
        (format!("PATIENT-9,{},0,m.nii.gz", uid(1)), |e| matches!(e, LabelError::UnknownSubject { .. })),
        (format!("PATIENT-1,{},0,m.nii.gz", uid(9)), |e| matches!(e, LabelError::UnknownSeries { .. })),
        (format!("PATIENT-2,{},0,m.nii.gz", uid(1)), |e| matches!(e, LabelError::OtherSubject { .. })),
        (format!("{}\n{}", row("0", "m.nii.gz"), row("0", "m.nii.gz")), |e| {
            matches!(e, LabelError::Twice { first: 2, .. })
        }),
    ];
    for (rows, told) in cases {
        let error = site.rows(&rows).unwrap_err();
        assert!(told(&error), "{rows}: {error}");
        let text = error.to_string();
        let line = if rows.contains('\n') { "line 3" } else { "line 2" };
        assert!(text.contains("masks.csv") && text.contains(line) && !text.contains("PATIENT"), "{text}");
    }
    // A single phase may be left out, and series that nobody wants are not read.
    let (_, single) = site.record(2);
    site.volume("one.nii.gz", [COLUMNS, ROWS, 1], stack_affine(single).unwrap(), vec![2; ROWS * COLUMNS]);
    let rows = format!("PATIENT-1,{},,one.nii.gz\n{}", uid(2), row("0", "unknown.nii.gz"));
    site.text("masks.csv", &format!("subject,series,phase,file\n{rows}\n"));
    let labels = Labels::open(&site.labels(), &secret()).unwrap();
    let masks = labels.masks(&site.cache, |record| record.sequence != Sequence::Cine, &names(&["myocardium"])).unwrap();
    assert_eq!((masks.len(), masks[0].phase), (1, 0));
    assert_eq!(masks[0].slices, [Some(vec![1; ROWS * COLUMNS])]);
}

#[test]
fn a_mask_fits_its_part_of_a_series_that_was_cut_by_orientation() {
    // Two planes under one SeriesInstanceUID, as UK Biobank's mixed long-axis series.
    let axis = along_axis(1.0);
    let across = [SHORT_AXIS[0], SHORT_AXIS[1], SHORT_AXIS[2]];
    let long = [across[0], across[1], across[2], axis[0], axis[1], axis[2]];
    let short = Image { spacing: Some(SPACING), position: ORIGIN, ..Image::new() };
    let site = Site::of(&[short.clone(), Image { instance: 2, orientation: long, ..short }], 24);
    assert_eq!(site.cache.series().len(), 2);
    let files = ["short.nii.gz", "long.nii.gz"].into_iter().zip([SHORT_AXIS, long]);
    for (code, (name, orientation)) in (1..).zip(files) {
        let placement = Placement::new(ORIGIN, orientation).unwrap();
        site.volume(name, [COLUMNS, ROWS, 1], slice_affine(&placement, SPACING, 8.0), vec![code; ROWS * COLUMNS]);
    }
    let masks = site.rows(&format!("{}\n{}", row("", "short.nii.gz"), row("", "long.nii.gz"))).unwrap();
    for mask in &masks {
        let placed = site.cache.series()[mask.series as usize].slices[0].placement.unwrap();
        let code = if (placed.column[0] - SHORT_AXIS[3]).abs() < 0.01 { 1 } else { 2 };
        assert_eq!(mask.slices, [Some(vec![code; ROWS * COLUMNS])]);
    }
    assert_eq!(masks.len(), 2);
}

#[test]
fn a_slice_that_ends_before_the_phase_that_is_drawn_on_it_is_counted() {
    let template = Image { spacing: Some(SPACING), ..Image::new() };
    let mut images = short_axis_cine(&template, SLICES as u32, 3);
    images.iter_mut().for_each(|image| image.position = moved(image.position));
    // Of one slice the scanner kept two phases.
    let last = images.pop().unwrap().position;
    let site = Site::of(&images, 24);
    let (_, record) = site.record(1);
    let ended = record.slices.iter().position(|slice| slice.phases == 2).unwrap();
    assert!(record.slices[ended].placement.unwrap().distance_mm(last).abs() < 1e-3);
    site.volume("m.nii.gz", [COLUMNS, ROWS, SLICES], stack_affine(record).unwrap(), drawn());
    let mask = |phase: &str| site.rows(&row(phase, "m.nii.gz")).unwrap().remove(0);
    assert_eq!((mask("1").slices, mask("1").short), (expected(), 0));
    let mut without = expected();
    without[ended] = None;
    assert_eq!((mask("2").slices, mask("2").short), (without, 1));
}

#[test]
fn a_mask_across_its_images_is_none_of_them() {
    // On the plane through the first row, across the slice: as many voxels.
    let site = Site::new();
    let (s, c) = FRAC_PI_2.sin_cos();
    let affine = stack_affine(site.record(1).1).unwrap();
    let tilted = affine.map(|row| [row[0], c * row[1] + s * row[2], c * row[2] - s * row[1], row[3]]);
    site.volume("m.nii.gz", [COLUMNS, ROWS, SLICES], tilted, drawn());
    assert!(matches!(site.rows(&row("0", "m.nii.gz")), Err(LabelError::Grid { .. })));
    assert!(Path::new(&site.labels()).exists());
}

#[test]
fn a_file_of_all_phases_gives_the_one_of_its_row_and_an_empty_one_is_no_mask_without_a_heart() {
    let site = Site::new();
    let (place, record) = site.record(1);
    let affine = stack_affine(record).unwrap();
    let values =
        [drawn(), vec![0; SLICES * ROWS * COLUMNS], drawn().into_iter().map(|code| code % 2).collect()].concat();
    let all = Volume { dims: [COLUMNS, ROWS, SLICES, 3], affine, values };
    write_nifti(&site.labels().join("all.nii.gz"), &all).unwrap();
    let masks = site.rows(&format!("{}\n{}", row("2", "all.nii.gz"), row("0", "all.nii.gz"))).unwrap();
    assert_eq!(masks.iter().map(|mask| (mask.series, mask.phase)).collect::<Vec<_>>(), [(place, 0), (place, 2)]);
    assert_eq!(masks[0].slices, expected());
    assert_ne!(masks[1].slices, masks[0].slices);
    let error = site.rows(&row("1", "all.nii.gz")).unwrap_err();
    assert!(matches!(&error, LabelError::EmptyMoment { moment: 1, drawn, .. } if drawn == "0, 2"), "{error}");
}

#[test]
fn a_stack_on_which_nobody_drew_is_refused_and_a_slice_above_the_heart_is_not() {
    let site = Site::new();
    let affine = stack_affine(site.record(1).1).unwrap();
    site.volume("empty.nii.gz", [COLUMNS, ROWS, SLICES], affine, vec![0; SLICES * ROWS * COLUMNS]);
    let error = site.rows(&row("0", "empty.nii.gz")).unwrap_err();
    assert!(matches!(error, LabelError::EmptyMask { slices: SLICES, .. }), "{error}");
    site.volume("slice.nii.gz", [COLUMNS, ROWS, 1], affine, vec![0; ROWS * COLUMNS]);
    let slices = site.rows(&row("0", "slice.nii.gz")).unwrap().remove(0).slices;
    let drawn: Vec<_> = slices.into_iter().flatten().collect();
    assert_eq!(drawn, [vec![0; ROWS * COLUMNS]], "one slice, with no heart on it");
}

/// A cine of so many slices and 3 phases, with the pixels of one image cut short.
fn with_a_lost_frame(slices: u32, lost: usize) -> Site {
    let template = Image { spacing: Some(SPACING), ..Image::new() };
    let mut images = short_axis_cine(&template, slices, 3);
    images.iter_mut().for_each(|image| image.position = moved(image.position));
    let cut_short = PixelFragmentSequence::new(Vec::<u32>::new(), vec![vec![1_u8, 0, 0, 0]]);
    images[lost].syntax = dicom_dictionary_std::uids::RLE_LOSSLESS;
    images[lost].extra.push(DataElement::new(tags::PIXEL_DATA, VR::OB, Value::PixelSequence(cut_short)));
    let site = Site::tolerating(&images, 24, 0.5);
    assert_eq!(site.record(1).1.skipped.len(), 1);
    site
}

#[test]
fn a_slice_of_which_a_frame_could_not_be_decoded_has_no_mask_since_nobody_knows_which_frame_it_is_of() {
    let site = with_a_lost_frame(SLICES as u32, 4);
    let (_, record) = site.record(1);
    let cut = record.slices.iter().position(|slice| slice.phases == 2).unwrap();
    site.volume("m.nii.gz", [COLUMNS, ROWS, SLICES], stack_affine(record).unwrap(), drawn());
    let mut without = expected();
    without[cut] = None;
    for phase in ["0", "1"] {
        let mask = site.rows(&row(phase, "m.nii.gz")).unwrap().remove(0);
        assert_eq!((mask.slices, mask.short), (without.clone(), 1), "phase {phase}");
    }
}

#[test]
fn the_only_slice_of_a_series_that_lost_a_frame_has_no_mask_and_no_landmark_at_any_phase() {
    let site = with_a_lost_frame(1, 1);
    let (_, record) = site.record(1);
    assert_eq!((record.slices[0].phases, record.slices[0].acquired), (2, 3));
    let (affine, one) = (stack_affine(record).unwrap(), drawn()[..ROWS * COLUMNS].to_vec());
    site.volume("m.nii.gz", [COLUMNS, ROWS, 1], affine, one.clone());
    let all = Volume { dims: [COLUMNS, ROWS, 1, 3], affine, values: one.repeat(3) };
    write_nifti(&site.labels().join("all.nii.gz"), &all).unwrap();
    let [x, y, z] = record.slices[0].placement.unwrap().point(SPACING, [5.0, 5.0]);
    for phase in ["0", "1", "2"] {
        for file in ["m.nii.gz", "all.nii.gz"] {
            let mask = site.rows(&row(phase, file)).unwrap().remove(0);
            assert_eq!((mask.slices, mask.short), (vec![None], 1), "phase {phase} of {file}");
        }
        let line = |name: &str| format!("PATIENT-1,{},{phase},{name},{x},{y},{z}", uid(1));
        let rows = [line("apex"), line("insertion")].join("\n");
        assert_eq!(site.landmarks(&rows).unwrap(), [], "phase {phase}");
    }
}
