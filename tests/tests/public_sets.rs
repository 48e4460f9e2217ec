//! Public data sets as they are downloaded: read, labelled, refused, and finetuned on by the program.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::plan::ImagePlan;
use data::{
    DataSet, FrameCache, FrameRef, ImportError, Imported, IntakeOptions, Labels, LabelsOut, Plane, Sequence,
    SeriesMask, SiteSecret, SubjectKey, Vendor, Volume, Workers, import, mask_on_frame, read_nifti, write_nifti,
};
use tests::programs::{ProgramError, Programs, run};
use tests::public_sets::{self as sets, ACDC, ED_ES, LAX, MNMS, MOMENTS, SAX};

const FRAME: usize = 40;

/// A site with the folder of a data set.
struct Site {
    folder: tempfile::TempDir,
    dataset: DataSet,
}

impl Site {
    fn with(dataset: DataSet) -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap(), dataset };
        fs::create_dir(site.root()).unwrap();
        site
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("downloaded")
    }

    fn labels(&self) -> PathBuf {
        self.folder.path().join("labels")
    }

    fn images() -> ImagePlan {
        ImagePlan { frame_size: FRAME, spacing_mm: sets::PIXEL_MM, ..ImagePlan::default() }
    }

    fn secret() -> SiteSecret {
        SiteSecret::new([7; 32])
    }

    fn imported_as(&self, dataset: DataSet, codes: Option<PathBuf>) -> Result<Imported, ImportError> {
        let cache = self.folder.path().join("cache");
        let options = IntakeOptions::new(cache, Self::images(), Self::secret(), Workers::InProcess);
        let out = LabelsOut { folder: self.labels(), codes };
        import(dataset, &self.root(), &options, Some(&out), &mut |_| {})
    }

    fn imported(&self) -> Imported {
        self.imported_as(self.dataset, None).unwrap()
    }

    /// The words of a refusal; nothing is left of what was refused, and what was there before is as it was.
    fn refused(&self) -> String {
        let before = self.held();
        let error = self.imported_as(self.dataset, None).unwrap_err();
        assert_eq!(self.held(), before, "{error}");
        let beside: Vec<_> =
            fs::read_dir(self.folder.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert!(
            beside.iter().all(|name| ["cache", "downloaded", "labels"].iter().any(|known| name == known)),
            "{beside:?}"
        );
        error.to_string()
    }

    /// Every series of the cache with its pixels, and every file of labels.
    fn held(&self) -> (Vec<String>, BTreeMap<PathBuf, Vec<u8>>) {
        let cache = FrameCache::open(&self.folder.path().join("cache"), &Self::images());
        let series = cache.map_or_else(
            |_| Vec::new(),
            |cache| {
                cache.verify().unwrap();
                cache.series().iter().map(|record| format!("{record:?}")).collect()
            },
        );
        let files = fs::read_dir(self.labels()).into_iter().flatten().flatten();
        (series, files.map(|entry| (entry.path(), fs::read(entry.path()).unwrap())).collect())
    }

    fn cache(&self) -> FrameCache {
        FrameCache::open(&self.folder.path().join("cache"), &Self::images()).unwrap()
    }

    fn opened(&self) -> Labels {
        let labels = Labels::open(&self.labels(), &Self::secret()).unwrap();
        labels.check(&self.cache()).unwrap();
        labels
    }

    fn masks(&self, classes: &[&str]) -> Vec<SeriesMask> {
        let classes: Vec<String> = classes.iter().map(|class| (*class).to_owned()).collect();
        self.opened().masks(&self.cache(), |_| true, &classes).unwrap()
    }

    fn classes(&self, column: &str, classes: &[&str]) -> BTreeMap<SubjectKey, usize> {
        let classes: Vec<String> = classes.iter().map(|class| (*class).to_owned()).collect();
        self.opened().classes(column, &classes).unwrap()
    }

    fn path(&self, below: &str) -> PathBuf {
        let path = self.root().join(below);
        assert!(path.exists(), "{path:?}");
        path
    }

    /// Writes a volume again with other values.
    fn rewrite(&self, below: &str, change: impl Fn(usize, f32) -> u8) {
        let path = self.path(below);
        let Volume { dims, affine, values } = read_nifti(&path).unwrap();
        let values = values.into_iter().enumerate().map(|(place, value)| change(place, value)).collect();
        write_nifti(&path, &Volume { dims, affine, values }).unwrap();
    }
}

fn assert_says(words: &str, parts: &[&str]) {
    parts.iter().for_each(|part| assert!(words.contains(part), "{part:?} is missing from:\n{words}"));
}

/// Mean of the frames under each class of their masks, 0 to 1, background first: geometry is right if blood is bright and the
/// wall dark on every slice.
fn shades(cache: &FrameCache, masks: &[SeriesMask], classes: usize) -> Vec<f64> {
    let (mut sums, mut counts) = (vec![0.0; classes + 1], vec![0.0; classes + 1]);
    for mask in masks {
        let record = &cache.series()[mask.series as usize];
        for (slice, native) in (0_u32..).zip(&mask.slices) {
            let pixels = cache.pixels(FrameRef { series: mask.series, slice, phase: mask.phase }).unwrap().to_vec();
            let drawn = mask_on_frame(record, cache.images(), native.as_ref().unwrap());
            for (pixel, class) in pixels.into_iter().zip(drawn) {
                sums[usize::from(class)] += f64::from(pixel);
                counts[usize::from(class)] += 1.0;
            }
        }
    }
    sums.iter().zip(counts).map(|(sum, count)| sum / count).collect()
}

#[test]
fn acdc_becomes_cines_with_masks_at_both_ends_of_the_beat_and_a_disease_a_patient() {
    let site = Site::with(DataSet::Acdc);
    sets::write_acdc(&site.root(), 6, ACDC).unwrap();
    let imported = site.imported();
    let report = &imported.report;
    assert_eq!((report.subjects, report.series, report.frames), (6, 6, (6 * SAX[2] * MOMENTS) as u64));
    let labels = imported.labels.unwrap();
    assert_eq!((labels.masks, labels.masked, labels.column, labels.classed), (12, 6, "disease", 6));

    let cache = site.cache();
    for record in cache.series() {
        assert_eq!((record.sequence, record.plane, record.vendor), (Sequence::Cine, Plane::Sax, Vendor::Siemens));
        assert_eq!((record.matrix, record.spacing_mm), ([SAX[1] as u32, SAX[0] as u32], [sets::PIXEL_MM; 2]));
        assert_eq!(record.slice_distance_mm(), Some(sets::STEP_MM));
        assert!(record.slices.iter().all(|slice| slice.phases == MOMENTS as u32 && slice.placement.is_some()));
    }
    let masks = site.masks(&["LV", "myocardium", "RV"]);
    assert_eq!(masks.len(), 12);
    assert!(masks.iter().all(|mask| ED_ES.contains(&(mask.phase as usize)) && mask.slices.iter().all(Option::is_some)));
    let [_, lv, wall, rv] = shades(&cache, &masks, 3)[..] else { panic!("four shades") };
    assert!(lv > 0.6 && rv > 0.6 && wall < 0.4, "{lv} {wall} {rv}");
    // The cavity is smaller in systole, as it was drawn.
    let cavity = |mask: &SeriesMask| mask.slices.iter().flatten().flatten().filter(|class| **class == 1).count();
    assert!(masks.chunks(2).all(|both| cavity(&both[0]) > cavity(&both[1])));
    let diseases = site.classes("disease", &["NOR", "MINF", "DCM", "HCM", "ARV"]);
    let mut counts = [0; 5];
    diseases.values().for_each(|class| counts[*class] += 1);
    assert_eq!(counts, [1, 2, 1, 1, 1]);
}

#[test]
fn frames_are_the_voxels_on_the_plans_grid_around_the_same_middle() {
    let site = Site::with(DataSet::Acdc);
    sets::write_acdc(&site.root(), 1, ACDC).unwrap();
    site.imported();
    let cine = read_nifti(&site.path("testing/patient001/patient001_4d.nii.gz")).unwrap();
    let cache = site.cache();
    let record = &cache.series()[0];
    let [columns, rows, slices] = SAX;
    let (top, left) = ((FRAME - rows) / 2, (FRAME - columns) / 2);
    let [low, high] = record.window;
    for frame in cache.frames() {
        let pixels = cache.pixels(frame).unwrap().to_vec();
        let plane = (frame.phase as usize * slices + frame.slice as usize) * rows * columns;
        for (place, pixel) in pixels.iter().enumerate() {
            let (row, column) = ((place / FRAME).wrapping_sub(top), (place % FRAME).wrapping_sub(left));
            let inside = row < rows && column < columns;
            let voxel = || f64::from(cine.values[plane + row * columns + column]);
            let expected = if inside { ((voxel() - low) / (high - low)).clamp(0.0, 1.0) } else { 0.0 };
            assert!((f64::from(*pixel) - expected).abs() < 1e-4, "{frame:?} {place}");
        }
    }
}

#[test]
fn of_masks_with_all_moments_the_two_of_the_table_are_used_and_those_below_unlabeled_are_not() {
    let site = Site::with(DataSet::Mnms);
    sets::write_mnms(&site.root(), MNMS).unwrap();
    let imported = site.imported();
    let labels = imported.labels.unwrap();
    assert_eq!((imported.report.subjects, imported.absent), (4, 1));
    assert_eq!((labels.masks, labels.masked, labels.classed), (6, 3, 3));
    assert_eq!(labels.other, BTreeMap::from([("LVNC".to_owned(), 1)]));
    let cache = site.cache();
    let mut vendors: Vec<Vendor> = cache.series().iter().map(|record| record.vendor).collect();
    vendors.sort();
    assert_eq!(vendors, [Vendor::Siemens, Vendor::Philips, Vendor::Ge, Vendor::Canon]);
    // An oblique grid says where base and apex are.
    assert!(cache.series().iter().all(|record| record.slices.iter().all(|slice| slice.level.is_some())));
    let masks = site.masks(&["LV", "myocardium", "RV"]);
    let phases: Vec<u32> = masks.iter().map(|mask| mask.phase).collect();
    assert_eq!(phases, [0, 2, 0, 2, 0, 2]);
    let [_, lv, wall, rv] = shades(&cache, &masks, 3)[..] else { panic!("four shades") };
    assert!(lv > 0.6 && rv > 0.6 && wall < 0.4, "{lv} {wall} {rv}");
}

#[test]
fn a_moment_that_the_table_names_and_nobody_drew_on_is_refused_with_those_that_are_drawn() {
    let site = Site::with(DataSet::Mnms);
    sets::write_mnms(&site.root(), MNMS).unwrap();
    let table = site.path("211230_M&Ms_Dataset_information_diagnosis_opendataset.csv");
    let sound = fs::read_to_string(&table).unwrap();
    fs::write(&table, sound.replace("C4K8P2,GE,C,1,0,2", "C4K8P2,GE,C,1,0,3")).unwrap();
    assert_says(&site.refused(), &["M&Ms, C4K8P2", "opendataset.csv, line 4", "no label on its volume 3", "0, 2"]);
    fs::write(&table, sound.replace("C4K8P2,GE,C,1,0,2", "C4K8P2,GE,C,1,0,9")).unwrap();
    assert_says(&site.refused(), &["line 4", "phase 9 is none of the 5"]);
    fs::write(&table, sound.replace("C4K8P2,GE,C,1,0,2", "C4K8P2,GE,C,1,0,end")).unwrap();
    assert_says(&site.refused(), &["line 4", "ES is \"end\", no whole number"]);
    fs::write(&table, sound.replace("C4K8P2", "C4K8P3")).unwrap();
    assert_says(&site.refused(), &["M&Ms, C4K8P2", "has no row for this case"]);
    fs::write(&table, sound).unwrap();
    assert_eq!(site.imported().report.subjects, 4);
}

#[test]
fn both_views_of_mnms2_become_series_of_two_phases() {
    let site = Site::with(DataSet::Mnms2);
    sets::write_mnms2(&site.root(), &["NOR", "RV", "FALL"]).unwrap();
    let imported = site.imported();
    let labels = imported.labels.unwrap();
    assert_eq!((imported.report.series, imported.report.frames), (6, 3 * 2 * (SAX[2] + LAX[2]) as u64));
    assert_eq!((labels.masks, labels.classed), (12, 2));
    assert_eq!(labels.other, BTreeMap::from([("FALL".to_owned(), 1)]));
    let cache = site.cache();
    let planes: Vec<Plane> = cache.series().iter().map(|record| record.plane).collect();
    assert_eq!(planes.iter().filter(|plane| **plane == Plane::FourChamber).count(), 3);
    assert!(cache.series().iter().all(|record| record.slices.iter().all(|slice| slice.phases == 2)));
    assert!(cache.series().iter().all(|record| record.vendor == Vendor::Philips));
    let masks = site.masks(&["LV", "myocardium", "RV"]);
    let [_, lv, wall, rv] = shades(&cache, &masks, 3)[..] else { panic!("four shades") };
    assert!(lv > 0.6 && rv > 0.6 && wall < 0.4, "{lv} {wall} {rv}");
    let classes = site.classes("disease", &["NOR", "MINF", "DCM", "HCM", "ARV"]);
    let mut found: Vec<usize> = classes.into_values().collect();
    found.sort_unstable();
    assert_eq!(found, [0, 4]);
}

#[test]
fn emidec_becomes_late_enhancement_whose_no_reflow_is_scar_and_whose_letters_are_answers() {
    let site = Site::with(DataSet::Emidec);
    sets::write_emidec(&site.root(), &["N006", "P001", "P017"]).unwrap();
    let labels = site.imported().labels.unwrap();
    assert_eq!((labels.masks, labels.column, labels.classed), (3, "hyperenhancement", 3));
    let cache = site.cache();
    assert!(cache.series().iter().all(|record| (record.sequence, record.plane) == (Sequence::Lge, Plane::Sax)));
    let masks = site.masks(&["LV", "myocardium", "scar"]);
    let holds = |mask: &SeriesMask, class: u8| mask.slices.iter().flatten().flatten().any(|value| *value == class);
    let answers = site.classes("hyperenhancement", &["no", "yes"]);
    assert_eq!(answers.len(), 3);
    for mask in &masks {
        let subject = cache.series()[mask.series as usize].subject;
        assert!(holds(mask, 1) && holds(mask, 2) && holds(mask, 3) == (answers[&subject] == 1));
    }
    // Rows are counted from below in these files; frames and masks are turned together.
    let [_, lv, wall, scar] = shades(&cache, &masks, 3)[..] else { panic!("four shades") };
    assert!(lv > 0.5 && scar > 0.5 && wall < 0.4, "{lv} {wall} {scar}");
    let no_reflow = site.masks(&["scar", "no-reflow"]);
    assert!(no_reflow.iter().any(|mask| holds(mask, 2)));
}

#[test]
fn an_image_whose_rows_are_counted_from_below_gives_the_frames_of_one_that_is_not() {
    let pixels = |turned: bool| {
        let site = Site::with(DataSet::Emidec);
        sets::write_emidec(&site.root(), &["P001"]).unwrap();
        for below in ["Images", "Contours"] {
            let path = site.path(&format!("Case_P001/{below}/Case_P001.nii.gz"));
            let Volume { dims, affine, values } = read_nifti(&path).unwrap();
            let [columns, rows, ..] = dims;
            let plane =
                |plane: &[f32]| plane.chunks(columns).rev().flatten().map(|value| *value as i16).collect::<Vec<_>>();
            let values: Vec<i16> = match turned {
                true => values.chunks(rows * columns).flat_map(plane).collect(),
                false => values.iter().map(|value| *value as i16).collect(),
            };
            let affine = if turned { sets::from_below(&affine, rows) } else { affine };
            write_nifti(&path, &Volume { dims, affine, values }).unwrap();
        }
        site.imported();
        let cache = site.cache();
        let frames: Vec<Vec<f32>> = cache.frames().map(|frame| cache.pixels(frame).unwrap().to_vec()).collect();
        (frames, site.masks(&["LV", "myocardium"]))
    };
    assert!(pixels(false) == pixels(true));
}

#[test]
fn masks_that_are_coded_as_another_data_sets_are_refused_with_a_drawing_and_the_map_that_fits() {
    let site = Site::with(DataSet::Acdc);
    sets::write_acdc(&site.root(), 3, MNMS).unwrap();
    let words = site.refused();
    assert_says(
        &words,
        &[
            "ACDC, patient00",
            "by its codes (RV = 1, myocardium = 2, LV = 3)",
            "has RV enclosed by myocardium",
            "LV = 1, myocardium = 2, RV = 3",
            "--codes",
        ],
    );
    // The ring is drawn around what the map calls RV.
    let drawn: Vec<&str> = words.lines().filter(|line| line.starts_with("    ")).map(str::trim).collect();
    assert!(drawn.len() > 8 && drawn.iter().any(|line| line.contains("mRR") && line.contains("RRm")), "{words}");
    // With the map that fits the same folder is taken.
    let map = site.folder.path().join("labels.map");
    fs::write(&map, "[codes]\nLV = 1\nmyocardium = 2\nRV = 3\n").unwrap();
    let labels = site.imported_as(DataSet::Acdc, Some(map)).unwrap().labels.unwrap();
    assert_eq!(labels.masks, 6);
    assert_eq!(site.masks(&["LV", "myocardium", "RV"]).len(), 6);
}

#[test]
fn a_map_that_is_swapped_after_the_import_is_refused_when_the_labels_are_loaded() {
    let site = Site::with(DataSet::Mnms);
    sets::write_mnms(&site.root(), MNMS).unwrap();
    site.imported();
    let file = site.labels().join("labels.toml");
    let text = fs::read_to_string(&file)
        .unwrap()
        .replace("LV = 1", "LV = 9")
        .replace("RV = 3", "RV = 1")
        .replace("LV = 9", "LV = 3");
    fs::write(&file, text).unwrap();
    let classes = ["LV", "myocardium", "RV"].map(str::to_owned);
    let error = site.opened().masks(&site.cache(), |_| true, &classes).unwrap_err().to_string();
    assert_says(&error, &["masks.csv, line 2", "RV enclosed by myocardium", "write LV = 1, myocardium = 2, RV = 3"]);
}

#[test]
fn a_file_that_was_cut_short_ends_the_import_and_the_one_before_stays() {
    let site = Site::with(DataSet::Acdc);
    sets::write_acdc(&site.root(), 3, ACDC).unwrap();
    let cine = site.path("training/patient002/patient002_4d.nii.gz");
    let whole = fs::read(&cine).unwrap();
    fs::write(&cine, &whole[..whole.len() * 2 / 3]).unwrap();
    assert_says(&site.refused(), &["ACDC, patient002", "patient002_4d.nii.gz ends after", "it was cut short"]);
    assert!(!site.labels().exists());
    fs::write(&cine, &whole).unwrap();
    assert_eq!(site.imported().report.subjects, 3);

    // A whole import is there now: one that is refused later changes nothing of it.
    sets::write_acdc(&site.root(), 4, ACDC).unwrap();
    fs::remove_dir_all(site.root().join("testing/patient003")).unwrap();
    let mask = site.path("training/patient001/patient001_frame03_gt.nii.gz");
    let whole = fs::read(&mask).unwrap();
    fs::write(&mask, &whole[..whole.len() - 9]).unwrap();
    assert_says(&site.refused(), &["ACDC, patient001", "frame03_gt.nii.gz", "Info.cfg, line 2"]);
    assert_eq!(site.cache().subjects().len(), 3);
}

#[test]
fn what_is_missing_unknown_or_of_another_shape_is_named_with_what_to_do() {
    type Damage = fn(&Site);
    let cases: [(Damage, &[&str]); 8] = [
        (
            |site| fs::remove_file(site.path("training/patient001/patient001_frame03_gt.nii.gz")).unwrap(),
            &["ACDC, patient001", "patient001_frame03_gt.nii.gz is not there", "unpack the archive again"],
        ),
        (
            |site| fs::remove_file(site.path("training/patient001/patient001_4d.nii.gz")).unwrap(),
            &["patient001_4d.nii.gz is not there"],
        ),
        (
            |site| {
                site.rewrite("training/patient001/patient001_frame01_gt.nii.gz", |place, code| {
                    if place == 700 { 4 } else { code as u8 }
                });
            },
            &["frame01_gt.nii.gz holds the value 4", "it names 1, 2, 3", "Info.cfg, line 1"],
        ),
        (
            |site| {
                let path = site.path("training/patient001/patient001_frame01_gt.nii.gz");
                let mask = Volume { dims: [8, 9, 4, 1], affine: sets::upright(10.0), values: vec![1_u8; 288] };
                write_nifti(&path, &mask).unwrap();
            },
            &["is not on the grid of its series", "mask:   8 x 9 x 4 voxels", "images: 32 x 36 pixels"],
        ),
        (
            |site| {
                let path = site.path("training/patient001/Info.cfg");
                let text = fs::read_to_string(&path).unwrap();
                fs::write(path, text.replace("NbFrame: 5", "NbFrame: 7")).unwrap();
            },
            &["patient001_4d.nii.gz has 5 moments", "Info.cfg, line 5 says 7"],
        ),
        (
            |site| {
                let path = site.path("training/patient001/Info.cfg");
                let text = fs::read_to_string(&path).unwrap();
                fs::write(path, text.replace("ES: 3", "ES: 9")).unwrap();
            },
            &["Info.cfg, line 2", "ES is frame 9", "there are 5"],
        ),
        (
            |site| {
                let path = site.path("training/patient001/patient001_4d.nii.gz");
                let dims = [4, 4, 4, MOMENTS];
                let flat = Volume { dims, affine: sets::upright(10.0), values: vec![1_u8; 64 * MOMENTS] };
                write_nifti(&path, &flat).unwrap();
            },
            &["patient001_4d.nii.gz has 4 x 4 pixels", "fewer than 8"],
        ),
        (
            |site| site.rewrite("training/patient001/patient001_4d.nii.gz", |_, _| 3),
            &["patient001_4d.nii.gz shows nothing"],
        ),
    ];
    for (damage, parts) in cases {
        let site = Site::with(DataSet::Acdc);
        sets::write_acdc(&site.root(), 2, ACDC).unwrap();
        damage(&site);
        assert_says(&site.refused(), parts);
    }
}

#[test]
fn a_folder_of_another_data_set_or_of_none_is_refused_with_what_was_looked_for_and_what_is_there() {
    let site = Site::with(DataSet::Acdc);
    assert_says(&site.refused(), &["no folder of ACDC", "patientNNN/Info.cfg", "there is nothing"]);
    sets::write_mnms(&site.root(), MNMS).unwrap();
    assert_says(&site.refused(), &["patientNNN/Info.cfg", "211230_M&Ms_Dataset", "Training/, Validation/"]);
    for (dataset, wanted) in [(DataSet::Mnms2, "dataset_information.csv"), (DataSet::Emidec, "Case_XNNN/Images")] {
        let error = site.imported_as(dataset, None).unwrap_err();
        assert!(matches!(error, ImportError::NotThis { .. }) && error.to_string().contains(wanted), "{error}");
    }
}

#[test]
fn acdcs_test_cases_may_have_no_masks_and_are_there_without() {
    let site = Site::with(DataSet::Acdc);
    sets::write_acdc(&site.root(), 2, ACDC).unwrap();
    for frame in [1, 3] {
        fs::remove_file(site.path(&format!("testing/patient002/patient002_frame0{frame}_gt.nii.gz"))).unwrap();
    }
    let imported = site.imported();
    assert_eq!((imported.report.subjects, imported.labels.unwrap().masks), (2, 2));
}

#[test]
fn a_second_import_decodes_nothing_and_one_of_fewer_cases_drops_the_others() {
    let site = Site::with(DataSet::Mnms2);
    sets::write_mnms2(&site.root(), &["NOR", "HCM"]).unwrap();
    assert_eq!(site.imported().report.new_series, 4);
    let before = site.held();
    let again = site.imported().report;
    assert_eq!((again.new_series, again.unchanged_series, again.removed_series), (0, 4, 0));
    assert_eq!(site.held(), before);
    fs::remove_dir_all(site.path("dataset/002")).unwrap();
    let imported = site.imported();
    assert_eq!((imported.report.removed_series, imported.report.subjects, imported.absent), (2, 1, 1));
    assert_eq!(imported.labels.unwrap().masks, 4);
    site.opened();
}

#[test]
fn a_folder_of_labels_that_no_import_wrote_is_never_written_over() {
    let site = Site::with(DataSet::Emidec);
    sets::write_emidec(&site.root(), &["N001"]).unwrap();
    fs::create_dir(site.labels()).unwrap();
    fs::write(site.labels().join("classes.csv"), "subject,disease\nSOMEBODY,NOR\n").unwrap();
    assert_says(&site.refused(), &["was not written by an import of EMIDEC", "--labels"]);
}

/// Runs a verb of the site's program; `{}` is the folder of everything.
fn tried(folder: &Path, verb: &str) -> Result<String, ProgramError> {
    let program = Programs::build().unwrap().site_agent;
    let state = folder.join("state").display().to_string();
    let words = verb.split(' ').map(|word| word.replace("{}", &folder.display().to_string()));
    let words: Vec<String> = ["--state".to_owned(), state].into_iter().chain(words).collect();
    run(&program, &words.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn a_site_imports_acdc_finetunes_on_it_and_is_measured_by_its_masks_and_diseases() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("plan.toml"), include_str!("../plans/story.toml")).unwrap();
    sets::write_acdc(&folder.join("acdc"), 12, ACDC).unwrap();
    fs::create_dir_all(folder.join("state")).unwrap();
    fs::write(folder.join("state/site-agent.toml"), "held_out = 0.4\n").unwrap();
    let told = tried(folder, "import --dataset acdc {}/acdc --plan {}/plan.toml").unwrap();
    assert_says(&told, &["12 subjects", "24 masks of 12 subjects, disease of 12", "state/labels/acdc"]);
    for task in ["cine-sax-segmentation", "cardiac-disease"] {
        let finetune = format!(
            "finetune --task {task} --init random --plan {{}}/plan.toml --labels {{}}/state/labels/acdc --out {{}}/{task} \
             --steps 4 --batch-size 2 --min-subjects 2 --json"
        );
        tried(folder, &finetune).unwrap();
        let evaluate = format!("evaluate --finetuned {{}}/{task} --labels {{}}/state/labels/acdc --json");
        let measured: serde_json::Value = serde_json::from_str(&tried(folder, &evaluate).unwrap()).unwrap();
        assert!(measured["subjects"].as_u64().unwrap() > 0, "{measured}");
        assert!(!measured["values"].as_array().unwrap().is_empty(), "{measured}");
    }
    // Recorded as a source: another plan's grid is read from the same folder, and a list of DICOM folders goes on beside it.
    let sources = fs::read_to_string(folder.join("state/images/sources.json")).unwrap();
    assert_says(&sources, &["\"dataset\": \"acdc\""]);
    let again = tried(folder, "import --dataset acdc {}/acdc --plan {}/plan.toml --json").unwrap();
    let again: serde_json::Value = serde_json::from_str(&again).unwrap();
    assert_eq!(again["report"]["unchanged_series"], 12);

    let Err(ProgramError::Failed { words, .. }) = tried(folder, "import --dataset mnms {}/acdc --plan {}/plan.toml")
    else {
        panic!("not refused")
    };
    assert_says(&words, &["is no folder of M&Ms", "training/", "testing/"]);
    assert!(!folder.join("state/labels/mnms").exists());
}
