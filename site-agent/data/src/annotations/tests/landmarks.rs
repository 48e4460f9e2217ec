//! Landmarks, and the slices they belong to.

use super::*;

#[test]
fn a_landmark_belongs_to_the_nearest_slice_and_lies_where_the_frame_shows_it() {
    let site = Site::new();
    let (series, record) = site.record(1);
    let at = |slice: usize, pixel: [f64; 2], off: f64| {
        let placement = record.slices[slice].placement.unwrap();
        let (point, normal) = (placement.point(SPACING, pixel), placement.normal());
        let [x, y, z] = [0, 1, 2].map(|i| point[i] + off * normal[i]);
        format!("{x:.4},{y:.4},{z:.4}")
    };
    let line = |phase: &str, name: &str, place: String| format!("PATIENT-1,{},{phase},{name},{place}", uid(1));
    let rows = [
        line("2", "insertion", at(2, [4.0, 9.5], 3.0)),
        line("2", "apex", at(3, [5.5, 7.5], -1.0)),
        line("2", "apex", at(2, [0.0, 0.0], 0.0)),
        line("0", "other", at(2, [0.0, 0.0], 0.0)),
    ];
    let found = site.landmarks(&rows.join("\n")).unwrap();
    assert_eq!(
        found.iter().map(|one| one.frame).collect::<Vec<_>>(),
        [2, 3].map(|slice| FrameRef { series, slice, phase: 2 })
    );
    // The frame is 24 pixels of 1 mm around the middle of 12 rows of 1.5 mm and 16 columns of 1 mm.
    let near = |place: Option<[f64; 2]>, expected: [f64; 2]| {
        let place = place.unwrap();
        assert!(place.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-3), "{place:?} {expected:?}");
    };
    near(found[0].places[0], [11.5 - 5.5 * 1.5, 11.5 - 7.5]);
    near(found[0].places[1], [11.5 - 1.5 * 1.5, 11.5 + 2.0]);
    near(found[1].places[0], [11.5, 11.5]);
    assert_eq!(found[1].places[1], None);
    let grid = FrameGrid::new(record.matrix, record.spacing_mm, site.cache.images());
    near(Some(grid.to_native(found[0].places[1].unwrap())), [4.0, 9.5]);
}

#[test]
fn a_landmark_off_its_images_is_refused_with_a_word_on_the_signs() {
    let site = Site::new();
    let (_, record) = site.record(1);
    let placement = record.slices[0].placement.unwrap();
    let line = |[x, y, z]: [f64; 3]| {
        format!("PATIENT-1,{},0,apex,{x},{y},{z}\nPATIENT-1,{},0,insertion,{x},{y},{z}", uid(1), uid(1))
    };
    let [x, y, z] = placement.point(SPACING, [5.0, 5.0]);
    assert_eq!(site.landmarks(&line([x, y, z])).unwrap()[0].frame.slice, 0);
    let normal = placement.normal();
    let before = |mm: f64| [0, 1, 2].map(|i| [x, y, z][i] + mm * normal[i]);
    // The stack begins here and goes on in one direction of the normal.
    let outward = if placement.distance_mm(record.slices[1].placement.unwrap().origin) > 0.0 { -1.0 } else { 1.0 };
    assert_eq!(site.landmarks(&line(before(outward * 9.9))).unwrap()[0].frame.slice, 0);
    let error = site.landmarks(&line(before(outward * 10.2))).unwrap_err();
    assert!(matches!(error, LabelError::Far { bound_mm, .. } if bound_mm == 10.0), "{error}");
    let error = site.landmarks(&line([-x, -y, z])).unwrap_err();
    assert!(error.to_string().contains("RAS has x and y with the other sign"), "{error}");
    let error = site.landmarks(&line(placement.point(SPACING, [5.0, 15.6]))).unwrap_err();
    assert!(matches!(error, LabelError::Outside { rows: 12, columns: 16, .. }), "{error}");
    let twice = site.landmarks(&format!("{0}\n{0}", line([x, y, z]))).unwrap_err();
    assert!(matches!(&twice, LabelError::Twice { at, first: 2, .. } if at.line == 4), "{twice}");
    let missing = site.landmarks(&format!("PATIENT-1,{},0,apexx,{x},{y},{z}", uid(1))).unwrap_err();
    assert!(matches!(&missing, LabelError::NoLandmark { name, .. } if name == "apex"), "{missing}");
}

#[test]
fn a_landmark_that_is_spelt_in_two_ways_is_refused_with_its_line() {
    let site = Site::new();
    let (_, record) = site.record(1);
    let [x, y, z] = record.slices[0].placement.unwrap().point(SPACING, [5.0, 5.0]);
    let line = |phase: u32, name: &str| format!("PATIENT-1,{},{phase},{name},{x},{y},{z}\n", uid(1));
    for written in ["Apex", "a-pex", " apex."] {
        let rows = [line(0, "apex"), line(0, "insertion"), line(1, written)].concat();
        let error = site.landmarks(rows.trim_end()).unwrap_err();
        assert!(error.to_string().contains("line 4") && error.to_string().contains("\"apex\""), "{error}");
    }
}
