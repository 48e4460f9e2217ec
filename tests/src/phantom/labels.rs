//! A site's labels as its readers would leave them: masks on the images, landmarks, classes of subjects, in the folder
//! that an agent takes labels from.
//!
//! ```text
//! labels/labels.toml, classes.csv, masks.csv, landmarks.csv, masks/<subject>/<series>-<phase>.nii.gz
//! ```
//!
//! Cines are labelled at end-diastole (their first frame) and at the frame nearest to end-systole. Hospitals number
//! structures as the data sets do that their vendors stand for: M&Ms, ACDC, MyoPS.

use std::f64::consts::PI;
use std::fs;
use std::path::{Path, PathBuf};

use data::{Placement, Volume, slice_affine, write_nifti};

use super::PhantomError;
use super::dicom::{Vendor, written};
use super::heart::{Disease, END_SYSTOLE, Heart};
use super::planes::{self, Plane, Vector, View};
use super::scanner::{Grid, LABELS, Scan};
use super::signal::Sequence;
use super::sites::Acquired;

/// What a mask holds of each kind of image, by place in [`LABELS`].
const CINE_SAX: &[u8] = &[1, 2, 3, 6];
const CINE_LAX: &[u8] = &[1, 2, 3, 4, 5, 6];
const LATE: &[u8] = &[1, 2, 6];
const MAP: &[u8] = &[1, 2, 3, 6];

/// The place of scar in [`LABELS`].
const SCAR: u8 = 6;
/// Landmarks are marked on short-axis slices in this part of the long axis, or on the one nearest to its middle.
const MIDDLE: [f64; 2] = [1.0 / 3.0, 2.0 / 3.0];

/// The codes of [`LABELS`] in a vendor's masks.
fn codes(vendor: Vendor) -> [i16; LABELS.len()] {
    match vendor {
        // M&Ms counts LV, myocardium, RV.
        Vendor::Siemens | Vendor::Canon => [0, 1, 2, 3, 4, 5, 6],
        // ACDC counts RV, myocardium, LV.
        Vendor::Philips => [0, 3, 2, 1, 4, 5, 6],
        // MyoPS and MM-WHS.
        Vendor::Ge => [0, 500, 200, 600, 420, 550, 2221],
    }
}

/// Where a site's labels lie.
pub(super) struct LabelFolder<'a> {
    folder: &'a Path,
    vendor: Vendor,
}

/// A subject's rows of the three tables.
#[derive(Default)]
pub(super) struct Rows {
    classes: String,
    masks: String,
    landmarks: String,
}

/// One slice that was scanned.
pub(super) struct Shown {
    pub(super) series_uid: String,
    pub(super) series_number: usize,
    pub(super) acquired: Acquired,
    pub(super) grid: Grid,
    /// The first pixel's middle.
    pub(super) corner: Vector,
    /// Segmentations of the moments that are labelled, by phase.
    masks: Vec<(usize, Vec<u8>)>,
}

impl Shown {
    /// Keeps what is labelled of a slice's scans over the cycle.
    pub(super) fn of(
        (series_uid, series_number): (String, usize),
        acquired: &Acquired,
        grid: Grid,
        corner: Vector,
        scans: &[Scan],
    ) -> Self {
        let kept = kept(acquired);
        let mask = |phase: usize| {
            let labels = scans[phase].labels.iter();
            (phase, labels.map(|label| if kept.contains(label) { *label } else { 0 }).collect())
        };
        let masks = labelled_phases(acquired.phases).into_iter().map(mask).collect();
        Self { series_uid, series_number, acquired: acquired.clone(), grid, corner, masks }
    }

    fn placement(&self) -> Result<Placement, PhantomError> {
        let Plane { row: [a, b, c], column: [d, e, f], .. } = self.acquired.plane;
        let placement = Placement::new(self.corner, [a, b, c, d, e, f]);
        placement.ok_or_else(|| PhantomError::Dicom("a slice whose rows and columns are not perpendicular".to_owned()))
    }
}

/// What a reader draws on a kind of image.
fn kept(acquired: &Acquired) -> &'static [u8] {
    match (acquired.sequence, acquired.view) {
        (Sequence::Cine, View::Sax) => CINE_SAX,
        (Sequence::Cine, _) => CINE_LAX,
        (Sequence::Lge | Sequence::Psir, _) => LATE,
        (Sequence::T1Map, _) => MAP,
    }
}

/// The moments that are labelled: end-diastole, and the frame nearest to end-systole.
pub(super) fn labelled_phases(phases: usize) -> Vec<usize> {
    let systole = (END_SYSTOLE * phases as f64).round() as usize % phases.max(1);
    if systole == 0 { vec![0] } else { vec![0, systole] }
}

impl<'a> LabelFolder<'a> {
    /// Makes the folder, with what its codes mean.
    pub(super) fn new(folder: &'a Path, vendor: Vendor) -> Result<Self, PhantomError> {
        fs::create_dir_all(folder.join("masks"))?;
        let mut text = "# Values of the masks below masks/; 0 is background.\n[codes]\n".to_owned();
        for (name, code) in LABELS.iter().zip(codes(vendor)).skip(1) {
            text += &format!("{name} = {code}\n");
        }
        text += "\n# Where nobody asks for scar, it is myocardium.\n[within]\nscar = \"myocardium\"\n";
        fs::write(folder.join("labels.toml"), text)?;
        Ok(Self { folder, vendor })
    }

    /// Writes a subject's masks and gives back its rows.
    pub(super) fn subject(&self, heart: &Heart, patient_id: &str, slices: &[Shown]) -> Result<Rows, PhantomError> {
        let late = || slices.iter().filter(|slice| matches!(slice.acquired.sequence, Sequence::Lge | Sequence::Psir));
        let scarred = late().any(|slice| slice.masks.iter().any(|(_, mask)| mask.contains(&SCAR)));
        // Nobody tells of enhancement who has not seen the images.
        let enhanced = if late().next().is_none() {
            ""
        } else if scarred {
            "yes"
        } else {
            "no"
        };
        let mut rows = Rows { classes: format!("{patient_id},{},{enhanced}\n", disease(heart)), ..Rows::default() };
        let mut series: Vec<Vec<&Shown>> = Vec::new();
        for slice in slices {
            match series.iter_mut().find(|held| held[0].series_uid == slice.series_uid) {
                Some(held) => held.push(slice),
                None => series.push(vec![slice]),
            }
        }
        for stack in series {
            for (place, (phase, _)) in stack[0].masks.iter().enumerate() {
                let file = PathBuf::from(format!("masks/{patient_id}/{:02}-{phase:02}.nii.gz", stack[0].series_number));
                self.write(&file, &stack, place)?;
                let phase = phase_cell(&stack[0].acquired, *phase);
                rows.masks += &format!("{patient_id},{},{phase},{}\n", stack[0].series_uid, file.display());
            }
        }
        for slice in slices {
            for (name, [x, y, z]) in landmarks(heart, slice, slices) {
                let phase = phase_cell(&slice.acquired, 0);
                rows.landmarks += &format!("{patient_id},{},{phase},{name},{x:.3},{y:.3},{z:.3}\n", slice.series_uid);
            }
        }
        Ok(rows)
    }

    /// One file: a series' slices at one moment.
    fn write(&self, file: &Path, stack: &[&Shown], moment: usize) -> Result<(), PhantomError> {
        let first = stack[0];
        let (side, placement) = (first.grid.stored(), first.placement()?);
        let step = match stack.get(1) {
            Some(next) => placement.distance_mm(next.corner),
            None => first.acquired.spacing.unwrap_or(first.acquired.plane.thickness),
        };
        let affine = slice_affine(&placement, [written(first.grid.spacing()); 2], step);
        let dims = [side, side, stack.len(), 1];
        let codes = codes(self.vendor);
        let values = stack.iter().flat_map(|slice| &slice.masks[moment].1).map(|label| codes[usize::from(*label)]);
        let path = self.folder.join(file);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        // In the smallest type that holds the codes.
        let small: Option<Vec<u8>> = values.clone().map(|code| u8::try_from(code).ok()).collect();
        match small.filter(|_| codes.iter().all(|code| *code < 256)) {
            Some(values) => write_nifti(&path, &Volume { dims, affine, values })?,
            None => write_nifti(&path, &Volume { dims, affine, values: values.collect() })?,
        }
        Ok(())
    }

    /// Writes the tables of all subjects.
    pub(super) fn finish(self, subjects: &[Rows]) -> Result<(), PhantomError> {
        let table = |name: &str, header: &str, of: fn(&Rows) -> &str| {
            let rows: String = subjects.iter().map(of).collect();
            fs::write(self.folder.join(name), format!("{header}\n{rows}"))
        };
        table("classes.csv", "subject,disease,hyperenhancement", |rows| &rows.classes)?;
        table("masks.csv", "subject,series,phase,file", |rows| &rows.masks)?;
        table("landmarks.csv", "subject,series,phase,landmark,x_mm,y_mm,z_mm", |rows| &rows.landmarks)?;
        Ok(())
    }
}

fn disease(heart: &Heart) -> &'static str {
    match heart.disease {
        Disease::Nor => "NOR",
        Disease::Minf => "MINF",
        Disease::Dcm => "DCM",
        Disease::Hcm => "HCM",
        Disease::Arv => "ARV",
    }
}

/// Empty where there is but one phase.
fn phase_cell(acquired: &Acquired, phase: usize) -> String {
    if acquired.phases > 1 { phase.to_string() } else { String::new() }
}

/// The landmarks that a reader marks on a slice at end-diastole, in DICOM's coordinates (LPS, mm): where they are seen,
/// which is where the breath hold had moved them.
fn landmarks(heart: &Heart, slice: &Shown, slices: &[Shown]) -> Vec<(&'static str, Vector)> {
    let Acquired { plane, breath, .. } = &slice.acquired;
    let seen = |at: Vector| {
        let place = planes::sum(planes::in_patient(at), *breath);
        let off = planes::dot(plane.normal(), planes::sum(place, planes::scaled(plane.center, -1.0)));
        planes::sum(place, planes::scaled(plane.normal(), -off))
    };
    let beat = heart.at(0.0);
    let axes = planes::axes();
    // Where the plane cut the heart that had moved.
    let cut = planes::in_heart(&axes, planes::sum(plane.center, planes::scaled(*breath, -1.0)));
    let marked = match (slice.acquired.sequence, slice.acquired.view) {
        (Sequence::Cine, View::Sax) if is_middle(slice, slices) => vec![
            ("RV insertion anterior", beat.insertion(cut[2], -1.0)),
            ("RV insertion inferior", beat.insertion(cut[2], 1.0)),
        ],
        (Sequence::Cine, View::FourChamber | View::TwoChamber) => {
            // Along the long axis, a breath beside it: the annulus is cut as a chord, and the apex a little above its end.
            let normal = planes::in_heart(&axes, plane.normal());
            let beside = planes::dot(normal, cut);
            let across = if normal[1] < 0.0 { [-normal[1], normal[0]] } else { [normal[1], -normal[0]] };
            let septal = across[1].atan2(across[0]);
            let hinge = |angle: f64, sign: f64| {
                let [u, v, base] = beat.annulus(angle);
                let half = sign * (u * u + v * v - beside * beside).max(0.0).sqrt();
                [across[0] * half + normal[0] * beside, across[1] * half + normal[1] * beside, base]
            };
            let [u, v, _] = beat.annulus(septal);
            let depth = heart.length * (1.0 - beside * beside / (u * u + v * v)).max(0.0).sqrt();
            let apex = ("apex", Some([normal[0] * beside, normal[1] * beside, depth]));
            match slice.acquired.view {
                View::FourChamber => vec![
                    ("mitral annulus septal", Some(hinge(septal, 1.0))),
                    ("mitral annulus lateral", Some(hinge(septal + PI, -1.0))),
                    apex,
                ],
                _ => vec![apex],
            }
        }
        _ => Vec::new(),
    };
    marked.into_iter().filter_map(|(name, at)| Some((name, seen(at?)))).collect()
}

/// Whether a short-axis slice lies in the middle third, or is the nearest to it of a stack that has none there.
fn is_middle(slice: &Shown, slices: &[Shown]) -> bool {
    let along = |slice: &Shown| slice.acquired.along.unwrap_or(f64::INFINITY);
    let [low, high] = MIDDLE;
    let inside = |slice: &Shown| (low..=high).contains(&along(slice));
    let stack = || slices.iter().filter(|other| other.acquired.sequence == slice.acquired.sequence);
    let off = |slice: &Shown| (along(slice) - (low + high) / 2.0).abs();
    inside(slice) || (!stack().any(inside) && stack().all(|other| off(slice) <= off(other)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use common::plan::ImagePlan;
    use data::{
        FrameCache, FrameRef, IntakeOptions, LabelError, Labels, SeriesRecord, SiteSecret, SubjectKey, Workers, index,
        mask_on_frame,
    };

    use super::super::scanner::{self, Look};
    use super::super::sites::{self, SiteSpec, write_site};
    use super::super::{SiteTruth, dicom_folder, labels_folder};
    use super::*;

    const CHAMBERS: [&str; 5] = ["LV", "myocardium", "RV", "LA", "RA"];

    /// A site's phantom, indexed, with its labels.
    struct Site {
        folder: tempfile::TempDir,
        truth: SiteTruth,
        cache: FrameCache,
        labels: Labels,
    }

    const SEED: u64 = 11;

    fn site(spec: &SiteSpec) -> Site {
        let folder = tempfile::tempdir().unwrap();
        let truth = write_site(spec, SEED, folder.path(), &|_| {}).unwrap();
        let (secret, images) = (SiteSecret::new([5; 32]), ImagePlan::default());
        let cache = folder.path().join("cache");
        let options = IntakeOptions::new(cache.clone(), images.clone(), secret.clone(), Workers::InProcess);
        index(&dicom_folder(folder.path()), &options, &mut |_| {}).unwrap();
        let cache = FrameCache::open(&cache, &images).unwrap();
        let labels = Labels::open(&labels_folder(folder.path()), &secret).unwrap();
        labels.check(&cache).unwrap();
        Site { folder, truth, cache, labels }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn shows(sequence: data::Sequence, plane: data::Plane) -> impl Fn(&SeriesRecord) -> bool {
        move |record| record.sequence == sequence && record.plane == plane
    }

    /// Modality values of the frames' pixels, by class: how many, and their mean.
    fn means(site: &Site, wanted: impl Fn(&SeriesRecord) -> bool, classes: &[&str]) -> Vec<f64> {
        let mut sums = vec![(0.0, 0.0); classes.len()];
        for mask in site.labels.masks(&site.cache, wanted, &names(classes)).unwrap() {
            let record = &site.cache.series()[mask.series as usize];
            for (slice, native) in mask.slices.iter().enumerate() {
                let native = native.as_ref().expect("every slice is drawn on");
                let frame = FrameRef { series: mask.series, slice: slice as u32, phase: mask.phase };
                let on_frame = mask_on_frame(record, site.cache.images(), native);
                for (value, class) in site.cache.pixels(frame).unwrap().to_vec().iter().zip(on_frame) {
                    if let Some((count, sum)) = usize::from(class).checked_sub(1).map(|class| &mut sums[class]) {
                        *count += 1.0;
                        *sum += record.modality_value(f64::from(*value));
                    }
                }
            }
        }
        sums.into_iter().map(|(count, sum): (f64, f64)| if count < 20.0 { f64::NAN } else { sum / count }).collect()
    }

    #[test]
    fn masks_lie_on_what_the_images_show_at_every_site() {
        use data::{Plane as View, Sequence};
        for spec in [SiteSpec::a(2), SiteSpec::b(2), SiteSpec::c(2), SiteSpec::d(2)] {
            let site = site(&spec);
            let cine = means(&site, shows(Sequence::Cine, View::Sax), &CHAMBERS[..3]);
            assert!(cine[0] > 1.3 * cine[1] && cine[2] > 1.3 * cine[1], "{cine:?}");
            for view in [View::TwoChamber, View::ThreeChamber, View::FourChamber] {
                let long = means(&site, shows(Sequence::Cine, view), &CHAMBERS);
                assert!(long[0] > 1.3 * long[1] && long[3] > 1.2 * long[1], "{view:?} {long:?}");
            }
            let late = || site.cache.series().iter().any(|record| record.sequence == Sequence::Lge);
            if late() {
                let late = means(&site, shows(Sequence::Lge, View::Sax), &["LV", "myocardium", "scar"]);
                assert!(late[2] > late[0] && late[0] > late[1], "scar, blood, myocardium: {late:?}");
            }
            if site.cache.series().iter().any(|record| record.sequence == Sequence::T1Map) {
                let map = means(&site, shows(Sequence::T1Map, View::Sax), &CHAMBERS[..3]);
                assert!((900.0..1250.0).contains(&map[1]) && map[0] > 1.3 * map[1], "{map:?}");
            }
        }
    }

    #[test]
    fn volumes_of_the_masks_are_those_of_the_heart_at_every_site() {
        for (spec, letter) in [SiteSpec::a(3), SiteSpec::b(3), SiteSpec::c(3), SiteSpec::d(3)].into_iter().zip('A'..) {
            let site = site(&spec);
            let stack = shows(data::Sequence::Cine, data::Plane::Sax);
            let masks = site.labels.masks(&site.cache, stack, &names(&CHAMBERS[..3])).unwrap();
            let mut volumes: BTreeMap<SubjectKey, BTreeMap<u32, f64>> = BTreeMap::new();
            let (mut apart, mut phases) = (0.0, 0);
            for mask in &masks {
                let record = &site.cache.series()[mask.series as usize];
                let step = record.slice_step_mm.unwrap();
                let voxel = record.spacing_mm[0] * record.spacing_mm[1] * step / 1000.0;
                let blood = mask.slices.iter().flatten().flatten().filter(|class| **class == 1).count();
                *volumes.entry(record.subject).or_default().entry(mask.phase).or_default() += blood as f64 * voxel;
                (apart, phases) = (step, record.slices[0].phases);
            }
            let classes = site.labels.classes("disease", &names(&["NOR", "MINF", "DCM", "HCM", "ARV"])).unwrap();
            assert_eq!(classes.keys().collect::<Vec<_>>(), volumes.keys().collect::<Vec<_>>());
            // Pseudonyms have another order than subjects: hearts are told by their volumes at end-diastole.
            let mut measured: Vec<[f64; 2]> = volumes
                .values()
                .map(|volumes| {
                    let [(0, edv), (systole, esv)] = volumes.iter().map(|(p, v)| (*p, *v)).collect::<Vec<_>>()[..]
                    else {
                        panic!("end-diastole and end-systole: {volumes:?}");
                    };
                    assert!((f64::from(systole) / f64::from(phases) - END_SYSTOLE).abs() <= 0.5 / f64::from(phases));
                    [edv, esv]
                })
                .collect();
            let mut analytic: Vec<[f64; 2]> = (0..3)
                .map(|index| {
                    let heart = spec.draw(index, &mut sites::rng(SEED, letter, index, "subject"));
                    let systole = labelled_phases(phases as usize)[1] as f64 / f64::from(phases);
                    [heart.edv, heart.volume(systole)]
                })
                .collect();
            let stated: Vec<f64> = site.truth.subjects.iter().map(|subject| subject.edv_ml).collect();
            assert_eq!(analytic.iter().map(|volumes| volumes[0]).collect::<Vec<_>>(), stated);
            measured.sort_by(|a, b| a[0].total_cmp(&b[0]));
            analytic.sort_by(|a, b| a[0].total_cmp(&b[0]));
            for ([edv, esv], [true_edv, true_esv]) in measured.into_iter().zip(analytic) {
                assert!((edv / true_edv - 1.0).abs() < 0.06, "{letter}: {edv} {true_edv}");
                // At end-systole the base lies anywhere between two slices, so that half a slice of the widest area is
                // uncertain; and so is the volume at end-diastole, as above.
                let bound = (0.75 * apart / 86.0 + 0.06) * true_esv / true_edv;
                let (fraction, stated) = (1.0 - esv / edv, 1.0 - true_esv / true_edv);
                assert!((fraction - stated).abs() < bound, "{letter}: {fraction} {stated}");
            }
        }
    }

    #[test]
    fn landmarks_lie_on_frames_where_the_masks_meet() {
        let all = [
            ("RV insertion anterior", vec![0, 2, 3]),
            ("RV insertion inferior", vec![0, 2, 3]),
            ("mitral annulus septal", vec![1, 2]),
            ("mitral annulus lateral", vec![1, 2]),
            ("apex", vec![1, 2]),
        ];
        let wanted = names(&all.clone().map(|(name, _)| name));
        for spec in [SiteSpec::a(2), SiteSpec::b(2), SiteSpec::c(2), SiteSpec::d(2)] {
            let site = site(&spec);
            let images = site.cache.images();
            let masks = site.labels.masks(&site.cache, |_| true, &names(&CHAMBERS)).unwrap();
            let mut seen = BTreeMap::new();
            for landmarks in site.labels.landmarks(&site.cache, |_| true, &wanted).unwrap() {
                let FrameRef { series, slice, phase } = landmarks.frame;
                let mask = masks.iter().find(|mask| mask.series == series && mask.phase == phase).unwrap();
                let native = mask.slices[slice as usize].as_ref().unwrap();
                let mask = mask_on_frame(&site.cache.series()[series as usize], images, native);
                for ((name, meet), place) in all.iter().zip(&landmarks.places) {
                    let Some([row, column]) = place else { continue };
                    let off = |i: usize| {
                        let (down, along) = ((i / images.frame_size) as f64, (i % images.frame_size) as f64);
                        (down - row).hypot(along - column) * images.spacing_mm
                    };
                    let near: Vec<u8> = (0..mask.len()).filter(|i| off(*i) < 5.0).map(|i| mask[i]).collect();
                    assert!(meet.iter().all(|class| near.contains(class)), "{name}: {meet:?} of {near:?}");
                    *seen.entry(*name).or_insert(0) += 1;
                }
            }
            assert!(all.iter().all(|(name, _)| seen.get(name).is_some_and(|count| *count >= 2)), "{seen:?}");
        }
    }

    #[test]
    fn landmarks_are_where_tissues_meet_in_the_image_however_far_a_breath_moved_the_heart() {
        let look = Look { snr: 30.0, shading: 1.0, lines: 1.0, field: 1.0, banding: 0.0, gamma: 1.0, gain: 2000.0 };
        let spec = SiteSpec::d(4);
        for index in 0..4 {
            let mut rng = sites::rng(3, 'D', index, "landmarks");
            let heart = spec.draw(index, &mut rng);
            let acquired =
                spec.acquired(&heart, &mut rng).into_iter().map(|one| Acquired { breath: [0.0, 1.5, 6.0], ..one });
            let shown: Vec<Shown> = acquired
                .map(|acquired| {
                    let named = (format!("{:?} {:?}", acquired.sequence, acquired.view), 1);
                    let (grid, corner) = (spec.grid(), acquired.plane.center);
                    Shown { series_uid: named.0, series_number: 1, acquired, grid, corner, masks: Vec::new() }
                })
                .collect();
            let mut count = 0;
            for (slice, (name, place)) in shown
                .iter()
                .flat_map(|slice| landmarks(&heart, slice, &shown).into_iter().map(move |mark| (slice, mark)))
            {
                let Acquired { plane, breath, sequence, .. } = &slice.acquired;
                let off = planes::dot(plane.normal(), planes::sum(place, planes::scaled(plane.center, -1.0)));
                assert!(off.abs() < 1e-6, "{name} lies {off} mm off its slice");
                // What the scanner sees around the place, finely.
                let around = Plane { center: planes::sum(place, planes::scaled(*breath, -1.0)), ..plane.clone() };
                let seen =
                    scanner::scan(&heart.at(0.0), &around, *sequence, Grid::of(60, 12.0, 1), &look, &mut rng).labels;
                // Scar is myocardium; a mitral plane that a breath moved out of the image is nearer than half its depth.
                let near = |wanted: &[u8], mm: f64| {
                    (0..3600).any(|i| {
                        let (x, y) = ((i % 60) as f64 * 0.2 - 5.9, (i / 60) as f64 * 0.2 - 5.9);
                        x.hypot(y) < mm && wanted.contains(&seen[i])
                    })
                };
                let meet: &[&[u8]] = if name.starts_with("RV") { &[&[2, 6], &[3], &[0]] } else { &[&[1], &[2, 6]] };
                assert!(meet.iter().all(|tissue| near(tissue, 1.0)), "{index} {name} at {place:?}");
                count += 1;
            }
            assert!(count >= 8, "{count}");
        }
    }

    #[test]
    fn classes_are_of_those_who_were_seen() {
        let diseases = names(&["NOR", "MINF", "DCM", "HCM", "ARV"]);
        let a = site(&SiteSpec::a(2).small());
        assert!(a.labels.classes("disease", &diseases).unwrap().values().all(|class| *class == 0));
        let enhancement = names(&["no", "yes"]);
        assert!(a.labels.classes("hyperenhancement", &enhancement).unwrap().is_empty(), "nobody had contrast agent");
        let b = site(&SiteSpec::b(4));
        let mut told: Vec<usize> = b.labels.classes("disease", &diseases).unwrap().into_values().collect();
        told.sort_unstable();
        assert_eq!(told, [0, 1, 1, 2]);
        let yes = b.labels.classes("hyperenhancement", &enhancement).unwrap();
        assert_eq!((yes.len(), yes.values().sum::<usize>()), (4, 3), "all but the healthy one");
    }

    #[test]
    fn a_hospital_that_is_read_with_another_data_sets_codes_is_refused() {
        let site = site(&SiteSpec::b(1));
        let path = labels_folder(site.folder.path()).join("labels.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("LV = 3\n") && text.contains("RV = 1\n"));
        fs::write(&path, text.replace("LV = 3\n", "LV = 1\n").replace("RV = 1\n", "RV = 3\n")).unwrap();
        let labels = Labels::open(&labels_folder(site.folder.path()), &SiteSecret::new([5; 32])).unwrap();
        let stack = shows(data::Sequence::Cine, data::Plane::Sax);
        let error = labels.masks(&site.cache, stack, &names(&CHAMBERS[..3])).unwrap_err();
        assert!(
            matches!(&error, LabelError::Order { remedy, .. } if remedy == "LV = 3, myocardium = 2, RV = 1, LA = 4, RA = 5"),
            "{error}"
        );
    }
}
