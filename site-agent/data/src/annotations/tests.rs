//! Labels against small DICOM series that are indexed in the test.

use std::f64::consts::FRAC_PI_2;
use std::fs;
use std::path::Path;

use common::plan::ImagePlan;

use super::*;
use crate::cache::FrameRef;
use crate::dicom::support::{Image, SHORT_AXIS, along_axis, short_axis_cine};
use crate::geometry::{FrameGrid, Placement};
use crate::intake::{IntakeOptions, Workers, index};
use crate::labels::{Plane, Sequence};
use crate::nifti::{Affine, NiftiError, Volume, slice_affine, stack_affine, write_nifti};

const ROWS: usize = 12;
const COLUMNS: usize = 16;
const SLICES: usize = 4;
const SPACING: [f64; 2] = [1.5, 1.0];

/// Where the first slice of the cine lies.
const ORIGIN: [f64; 3] = [-20.0, 35.0, 12.0];

/// A subject with a short-axis cine of 4 slices 10 mm apart and 3 phases (series 1) and a single frame (series 2), and
/// another subject with a single frame (series 3).
struct Site {
    folder: tempfile::TempDir,
    cache: FrameCache,
}

fn secret() -> SiteSecret {
    SiteSecret::new([7; 32])
}

fn moved(by: [f64; 3]) -> [f64; 3] {
    [0, 1, 2].map(|i| ORIGIN[i] + by[i])
}

impl Site {
    fn new() -> Self {
        let template = Image { spacing: Some(SPACING), ..Image::new() };
        let mut images = short_axis_cine(&template, SLICES as u32, 3);
        images.iter_mut().for_each(|image| image.position = moved(image.position));
        let single = Image { position: ORIGIN, description: "T1 map SAX".into(), ..template };
        images.push(Image { series: 2, ..single.clone() });
        images.push(Image { series: 3, study: 2, patient: "PATIENT-2", ..single });
        Self::of(&images, 24)
    }

    fn of(images: &[Image], frame_size: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("images");
        for (place, image) in images.iter().enumerate() {
            image.write(&source.join(place.to_string()));
        }
        let plan = ImagePlan { frame_size, spacing_mm: 1.0, ..ImagePlan::default() };
        let options = IntakeOptions::new(folder.path().join("cache"), plan.clone(), secret(), Workers::InProcess);
        index(&source, &options, &mut |_| {}).unwrap();
        let cache = FrameCache::open(&options.cache, &plan).unwrap();
        fs::create_dir(folder.path().join("labels")).unwrap();
        let site = Self { folder, cache };
        site.text(
            "labels.toml",
            "[codes]\nLV = 1\nmyocardium = 2\nRV = 3\nscar = 6\n[within]\nscar = \"myocardium\"\n",
        );
        site
    }

    fn labels(&self) -> std::path::PathBuf {
        self.folder.path().join("labels")
    }

    fn text(&self, name: &str, text: &str) {
        fs::write(self.labels().join(name), text).unwrap();
    }

    fn volume(&self, name: &str, dims: [usize; 3], affine: Affine, values: Vec<u8>) {
        let dims = [dims[0], dims[1], dims[2], 1];
        write_nifti(&self.labels().join(name), &Volume { dims, affine, values }).unwrap();
    }

    fn record(&self, series: u32) -> (u32, &SeriesRecord) {
        let key = SeriesKey::of(&secret(), &uid(series));
        let place = self.cache.series().iter().position(|record| record.key == key).unwrap();
        (place as u32, &self.cache.series()[place])
    }

    fn masks(&self, classes: &[&str]) -> Result<Vec<SeriesMask>, LabelError> {
        Labels::open(&self.labels(), &secret())?.masks(&self.cache, |_| true, &names(classes))
    }

    /// Of a table with these rows after its first line.
    fn rows(&self, rows: &str) -> Result<Vec<SeriesMask>, LabelError> {
        self.text("masks.csv", &format!("subject,series,phase,file\n{rows}\n"));
        self.masks(&["LV", "myocardium"])
    }

    fn landmarks(&self, rows: &str) -> Result<Vec<FrameLandmarks>, LabelError> {
        self.text("landmarks.csv", &format!("subject,series,phase,landmark,x_mm,y_mm,z_mm\n{rows}\n"));
        let labels = Labels::open(&self.labels(), &secret())?;
        labels.landmarks(&self.cache, |_| true, &names(&["apex", "insertion"]))
    }
}

fn uid(series: u32) -> String {
    format!("1.2.826.0.1.3680043.9.2.{series}")
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn row(phase: &str, file: &str) -> String {
    format!("PATIENT-1,{},{phase},{file}", uid(1))
}

/// A mask of the stack that no turn and no mirror leaves as it is: 0, 1, 2 and 6 in places of their own.
fn drawn() -> Vec<u8> {
    let code = |place: usize| [0, 0, 1, 2, 0, 6, 2][(place * place + 3 * place / 7) % 7];
    (0..SLICES * ROWS * COLUMNS).map(code).collect()
}

/// What becomes of [`drawn`] with the classes LV and myocardium.
fn expected() -> Vec<Option<Vec<u8>>> {
    let class = |code: &u8| if *code == 6 { 2 } else { *code };
    drawn().chunks(ROWS * COLUMNS).map(|slice| Some(slice.iter().map(class).collect())).collect()
}

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
fn another_data_sets_codes_are_refused_with_a_drawing_and_what_to_write() {
    let side = 40_u16;
    let pixels: Vec<u16> = (0..side * side).collect();
    let image = Image { rows: side, columns: side, pixels, position: ORIGIN, ..Image::new() };
    let site = Site::of(&[image], 24);
    let (_, record) = site.record(1);
    assert_eq!(record.plane, Plane::Sax);
    // As ACDC writes it: 1 is the right ventricle, 3 the left.
    let at = |place: usize| {
        let (y, x) = ((place / 40) as f64 - 20.0, (place % 40) as f64 - 24.0);
        match (y.hypot(x), y.hypot(x + 9.0)) {
            (r, _) if r < 7.0 => 3,
            (r, _) if r < 10.5 => 2,
            (_, r) if r < 12.0 && x < 0.0 => 1,
            _ => 0,
        }
    };
    site.volume("m.nii.gz", [40, 40, 1], stack_affine(record).unwrap(), (0..1600).map(at).collect());
    site.text("masks.csv", &format!("subject,series,phase,file\n{}\n", row("", "m.nii.gz")));
    let text = site.masks(&["LV", "myocardium", "RV"]).unwrap_err().to_string();
    for part in ["RV enclosed by myocardium", "LLm", "mRR", "LV = 3, myocardium = 2, RV = 1", "line 2"] {
        assert!(text.contains(part), "{text}");
    }
    site.text("labels.toml", "[codes]\nLV = 3\nmyocardium = 2\nRV = 1\n");
    let masks = site.masks(&["LV", "myocardium", "RV"]).unwrap();
    let inside = masks[0].slices.iter().flatten().flatten().filter(|class| **class == 1).count();
    assert!(inside > 0, "what was called RV is LV now");
}

#[test]
fn codes_are_checked_where_a_site_has_masks_of_the_long_axis_alone() {
    let pixels: Vec<u16> = (0..1600).collect();
    let image =
        Image { rows: 40, columns: 40, pixels, position: ORIGIN, description: "cine 4ch".into(), ..Image::new() };
    let site = Site::of(&[image], 24);
    let (_, record) = site.record(1);
    assert_eq!(record.plane, Plane::FourChamber);
    // A horseshoe around one ventricle, the other beside it; as ACDC writes them.
    let at = |place: usize| {
        let (y, x) = ((place / 40) as f64 - 28.0, (place % 40) as f64 - 24.0);
        match ((x / 6.0).hypot(y / 18.0), (x / 9.0).hypot(y / 21.0), ((x + 10.0) / 11.0).hypot(y / 16.0)) {
            _ if y > 0.0 => 0,
            (lv, _, _) if lv < 1.0 => 3,
            (_, wall, _) if wall < 1.0 => 2,
            (_, _, rv) if rv < 1.0 && x < 0.0 => 1,
            _ => 0,
        }
    };
    site.volume("m.nii.gz", [40, 40, 1], stack_affine(record).unwrap(), (0..1600).map(at).collect());
    site.text("masks.csv", &format!("subject,series,phase,file\n{}\n", row("", "m.nii.gz")));
    let text = site.masks(&["LV", "myocardium", "RV"]).unwrap_err().to_string();
    for part in ["RV enclosed by myocardium", "LV = 3, myocardium = 2, RV = 1", "line 2"] {
        assert!(text.contains(part), "{text}");
    }
    site.text("labels.toml", "[codes]\nLV = 3\nmyocardium = 2\nRV = 1\n");
    assert_eq!(site.masks(&["LV", "myocardium", "RV"]).unwrap().len(), 1);
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
fn classes_are_places_in_the_list_and_empty_cells_say_nothing() {
    let site = Site::new();
    site.text("classes.csv", "disease,subject,note\nHCM,PATIENT-1,a\n,PATIENT-2,b\n");
    let labels = Labels::open(&site.labels(), &secret()).unwrap();
    let classes = labels.classes("disease", &names(&["NOR", "HCM"])).unwrap();
    assert_eq!(classes, BTreeMap::from([(SubjectKey::of(&secret(), "PATIENT-1"), 1)]));
    let error = labels.classes("disease", &names(&["NOR"])).unwrap_err();
    assert!(error.to_string().contains("line 2") && error.to_string().contains("none of NOR"), "{error}");
    assert!(matches!(labels.classes("age", &[]), Err(LabelError::NoColumn { .. })));
    assert!(matches!(labels.masks(&site.cache, |_| true, &[]), Err(LabelError::NoTable { .. })));
    labels.check(&site.cache).unwrap();
    site.text("classes.csv", "subject,disease\nPATIENT-1,HCM\nPATIENT-7,\n");
    let error = Labels::open(&site.labels(), &secret()).unwrap().check(&site.cache).unwrap_err();
    assert!(matches!(&error, LabelError::UnknownSubject { at } if at.line == 3), "{error}");
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(Labels::open(empty.path(), &secret()), Err(LabelError::NoTables { .. })));
}

#[test]
fn a_series_that_says_nothing_of_its_place_takes_no_label() {
    let image = Image { position: [f64::from(1 << 20), 0.0, 0.0], spacing: Some(SPACING), ..Image::new() };
    let site = Site::of(&[image], 24);
    let placement = Placement::new(ORIGIN, SHORT_AXIS).unwrap();
    site.volume("m.nii.gz", [COLUMNS, ROWS, 1], slice_affine(&placement, SPACING, 8.0), vec![1; ROWS * COLUMNS]);
    assert!(matches!(site.rows(&row("", "m.nii.gz")), Err(LabelError::NotPlaced { .. })));
    let line = |name: &str| format!("PATIENT-1,{},,{name},0,0,0", uid(1));
    let placed = site.landmarks(&format!("{}\n{}", line("apex"), line("insertion")));
    assert!(matches!(placed, Err(LabelError::NotPlaced { .. })));
}

/// A record of some grid, for projections.
fn grid(matrix: [u32; 2], spacing_mm: [f64; 2]) -> SeriesRecord {
    let site = Site::new();
    SeriesRecord { matrix, spacing_mm, ..site.record(1).1.clone() }
}

#[test]
fn a_mask_on_the_frame_is_the_nearest_pixel() {
    let record = grid([40, 50], [1.3, 1.1]);
    let images = ImagePlan { frame_size: 64, spacing_mm: 1.0, ..ImagePlan::default() };
    let inside = |i: usize| ((i / 50) as f64 - 19.0).hypot((i % 50) as f64 * 0.9 - 20.0) < 11.0;
    let native: Vec<u8> = (0..2000).map(|i| u8::from(inside(i))).collect();
    let frame = mask_on_frame(&record, &images, &native);
    let mm = |count: f64, spacing: f64, i: usize| (i as f64 - (count - 1.0) / 2.0) * spacing;
    for (place, value) in frame.iter().enumerate() {
        let row = (mm(64.0, 1.0, place / 64) / 1.3 + 19.5).round();
        let column = (mm(64.0, 1.0, place % 64) / 1.1 + 24.5).round();
        let within = (0.0..40.0).contains(&row) && (0.0..50.0).contains(&column);
        let expected = if within { native[row as usize * 50 + column as usize] } else { 0 };
        assert_eq!(*value, expected, "{place}");
    }
}

#[test]
fn a_mask_on_its_own_grid_is_itself() {
    let record = grid([12, 12], [1.0, 1.0]);
    let images = ImagePlan { frame_size: 12, spacing_mm: 1.0, ..ImagePlan::default() };
    let native: Vec<u8> = (0..144).map(|i| (i * 7 % 5) as u8).collect();
    assert_eq!(mask_on_frame(&record, &images, &native), native);
}

#[test]
fn a_folder_of_labels_is_checked_whole() {
    let site = Site::new();
    site.volume(
        "m.nii.gz",
        [1, 1, 1],
        slice_affine(&Placement::new(ORIGIN, SHORT_AXIS).unwrap(), SPACING, 1.0),
        vec![0],
    );
    let check = |rows: &str| {
        site.text("masks.csv", &format!("subject,series,phase,file\n{rows}\n"));
        Labels::open(&site.labels(), &secret()).unwrap().check(&site.cache)
    };
    check(&row("0", "m.nii.gz")).unwrap();
    let error = check(&row("0", "n.nii.gz")).unwrap_err();
    assert!(matches!(&error, LabelError::Mask { at, .. } if at.line == 2), "{error}");
    assert!(matches!(check(&format!("PATIENT-1,{},0,m.nii.gz", uid(8))), Err(LabelError::UnknownSeries { .. })));
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
fn masks_may_lie_in_another_folder_that_labels_toml_names() {
    let site = Site::new();
    let (_, record) = site.record(1);
    let elsewhere = tempfile::tempdir().unwrap();
    let values = Volume { dims: [COLUMNS, ROWS, SLICES, 1], affine: stack_affine(record).unwrap(), values: drawn() };
    write_nifti(&elsewhere.path().join("m.nii.gz"), &values).unwrap();
    let error = site.rows(&row("0", "m.nii.gz")).unwrap_err();
    assert!(matches!(error, LabelError::Mask { source: NiftiError::Disk { .. }, .. }), "{error}");
    let text = fs::read_to_string(site.labels().join("labels.toml")).unwrap();
    site.text("labels.toml", &format!("masks = {:?}\n{text}", elsewhere.path()));
    assert_eq!(site.rows(&row("0", "m.nii.gz")).unwrap()[0].slices, expected());
    assert!(Labels::open(&site.labels(), &secret()).unwrap().check(&site.cache).is_ok());
}
