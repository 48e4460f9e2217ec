//! The four hospitals: contrast, mix and size, each a knob of its own, so that a cause can be told from another.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::ids::DigestBuilder;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::dicom::{self, Header, Vendor};
use super::heart::{Disease, Heart};
use super::labels::{LabelFolder, Rows, Shown};
use super::planes::{self, Plane, Vector, View};
use super::scanner::{self, Grid, Look};
use super::signal::{self, Sequence};
use super::truth::{SiteTruth, SliceTruth, SubjectTruth};
use super::{PhantomError, Progress, dicom_folder, labels_folder};

/// One hospital's phantom: a size (how many subjects), a look (the scanner's), a mix (what is scanned, of whom).
///
/// Each is made equal everywhere by [`SiteSpec::same_size`], [`SiteSpec::same_contrast`] and [`SiteSpec::same_mix`]. With
/// all three, sites differ in their patients, their names and their tags, and in nothing a scanner or a choice adds.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteSpec {
    letter: char,
    vendor: Vendor,
    subjects: usize,
    contrast: Contrast,
    mix: Mix,
    detail: Detail,
}

/// How finely a hospital is imitated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Detail {
    Small,
    Demo,
    Full,
}

/// How a vendor's images look: signal, acquired resolution and zero-filling, orientation in the plane.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Contrast {
    look: Look,
    demo: Grid,
    full: Grid,
    turn: f64,
}

/// What a hospital scans, of whom.
#[derive(Clone, Debug, PartialEq)]
struct Mix {
    diseases: Vec<Disease>,
    views: Vec<View>,
    lge: Option<Sequence>,
    maps: bool,
    /// The outflow tract, beside `views`.
    outflow: bool,
    demo: Counts,
    full: Counts,
}

/// How many slices and phases.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Counts {
    sax: Stack,
    sax_phases: usize,
    lax_phases: usize,
    lge: Stack,
    maps: Stack,
}

/// Parallel slices from base to apex, the middle of the first half a spacing below the mitral plane.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stack {
    slices: usize,
    /// From the middle of a slice to that of the next, mm.
    spacing: f64,
}

impl Stack {
    const fn of(slices: usize, spacing: f64) -> Self {
        Self { slices, spacing }
    }

    /// Where the slices are, mm below the mitral plane.
    fn depths(self) -> impl Iterator<Item = f64> {
        (0..self.slices).map(move |slice| (slice as f64 + 0.5) * self.spacing)
    }
}

const SMALL: Counts =
    Counts { sax: Stack::of(3, 30.0), sax_phases: 2, lax_phases: 2, lge: Stack::of(3, 30.0), maps: Stack::of(1, 80.0) };

impl SiteSpec {
    /// Site A: Siemens 1.5 T, a cohort of healthy volunteers in the shape of UK Biobank; no contrast agent.
    pub fn a(subjects: usize) -> Self {
        let mix = Mix {
            diseases: vec![Disease::Nor],
            views: vec![View::TwoChamber, View::ThreeChamber, View::FourChamber],
            lge: None,
            maps: true,
            outflow: false,
            demo: Counts {
                sax: Stack::of(6, 15.0),
                sax_phases: 6,
                lax_phases: 6,
                lge: Stack::of(6, 15.0),
                maps: Stack::of(3, 25.0),
            },
            full: Counts {
                sax: Stack::of(10, 10.0),
                sax_phases: 50,
                lax_phases: 50,
                lge: Stack::of(9, 10.0),
                maps: Stack::of(1, 80.0),
            },
        };
        let look = Look { snr: 35.0, shading: 1.2, lines: 0.85, field: 1.0, banding: 0.0, gamma: 1.0, gain: 2600.0 };
        let contrast = Contrast { look, demo: Grid::of(136, 272.0, 1), full: Grid::of(208, 374.4, 1), turn: 0.0 };
        Self { letter: 'A', vendor: Vendor::Siemens, subjects, contrast, mix, detail: Detail::Demo }
    }

    /// Site B: Philips 3 T, a tertiary center: infarcts and dilated hearts. Four-chamber cines are enhanced MR images.
    pub fn b(subjects: usize) -> Self {
        let mix = Mix {
            diseases: vec![Disease::Minf, Disease::Dcm, Disease::Minf, Disease::Nor],
            views: vec![View::TwoChamber, View::ThreeChamber, View::FourChamber],
            lge: Some(Sequence::Psir),
            maps: true,
            outflow: false,
            demo: Counts {
                sax: Stack::of(5, 18.0),
                sax_phases: 6,
                lax_phases: 6,
                lge: Stack::of(6, 15.0),
                maps: Stack::of(3, 25.0),
            },
            full: Counts {
                sax: Stack::of(10, 10.0),
                sax_phases: 30,
                lax_phases: 30,
                lge: Stack::of(10, 10.0),
                maps: Stack::of(3, 25.0),
            },
        };
        let look = Look { snr: 25.0, shading: 2.0, lines: 0.8, field: 1.1, banding: 0.5, gamma: 1.0, gain: 1900.0 };
        let contrast = Contrast { look, demo: Grid::of(144, 260.0, 1), full: Grid::of(140, 364.0, 2), turn: 0.35 };
        Self { letter: 'B', vendor: Vendor::Philips, subjects, contrast, mix, detail: Detail::Demo }
    }

    /// Site C: GE 1.5 T, a community hospital: noisy and zero-filled, long axes first, thick hearts.
    pub fn c(subjects: usize) -> Self {
        let mix = Mix {
            diseases: vec![Disease::Hcm, Disease::Nor, Disease::Hcm, Disease::Arv],
            views: vec![View::TwoChamber, View::FourChamber, View::ThreeChamber],
            lge: Some(Sequence::Lge),
            maps: false,
            outflow: false,
            demo: Counts {
                sax: Stack::of(4, 22.0),
                sax_phases: 5,
                lax_phases: 10,
                lge: Stack::of(6, 15.0),
                maps: Stack::of(3, 25.0),
            },
            full: Counts {
                sax: Stack::of(12, 8.0),
                sax_phases: 20,
                lax_phases: 25,
                lge: Stack::of(12, 8.0),
                maps: Stack::of(3, 25.0),
            },
        };
        let look = Look { snr: 15.0, shading: 1.5, lines: 0.62, field: 1.0, banding: 0.0, gamma: 1.0, gain: 2200.0 };
        let contrast = Contrast { look, demo: Grid::of(96, 288.0, 2), full: Grid::of(256, 410.0, 2), turn: -0.1 };
        Self { letter: 'C', vendor: Vendor::Ge, subjects, contrast, mix, detail: Detail::Demo }
    }

    /// Site D: Canon 3 T, unseen in training.
    pub fn d(subjects: usize) -> Self {
        let mix = Mix {
            diseases: vec![Disease::Nor, Disease::Minf, Disease::Hcm, Disease::Dcm],
            views: vec![View::TwoChamber, View::ThreeChamber, View::FourChamber],
            lge: Some(Sequence::Lge),
            maps: true,
            outflow: false,
            demo: Counts {
                sax: Stack::of(6, 15.0),
                sax_phases: 5,
                lax_phases: 6,
                lge: Stack::of(6, 15.0),
                maps: Stack::of(3, 25.0),
            },
            full: Counts {
                sax: Stack::of(10, 10.0),
                sax_phases: 28,
                lax_phases: 28,
                lge: Stack::of(10, 10.0),
                maps: Stack::of(3, 25.0),
            },
        };
        let look = Look { snr: 20.0, shading: 3.2, lines: 0.75, field: 1.1, banding: 0.25, gamma: 1.3, gain: 2400.0 };
        let contrast = Contrast { look, demo: Grid::of(128, 250.0, 1), full: Grid::of(256, 358.4, 1), turn: 0.15 };
        Self { letter: 'D', vendor: Vendor::Canon, subjects, contrast, mix, detail: Detail::Demo }
    }

    /// The matrices, phases and slices that such hospitals have: 20 to 50 phases, ten slices 10 mm apart (site C: twelve,
    /// 8 mm), 208 to 512 pixels a side. Tens of times the images of a spec as it is first made, which has the demo's
    /// size: few phases on coarser grids, and fewer slices, further apart, over the same heart.
    pub fn full(self) -> Self {
        Self { detail: Detail::Full, ..self }
    }

    /// Fewer slices and phases on a coarse grid: for tests that need files and not beauty.
    pub fn small(self) -> Self {
        Self { detail: Detail::Small, ..self }
    }

    /// The same scanner everywhere (site A's): its signal, resolution and orientation.
    pub fn same_contrast(self) -> Self {
        Self { contrast: Self::a(0).contrast, ..self }
    }

    /// The same sequences, views and diseases everywhere.
    pub fn same_mix(self) -> Self {
        Self { mix: Self::d(0).mix, ..self }
    }

    /// Every sequence and view, the outflow tract too, and patients of all five diseases in turn: a hospital that can label
    /// every task.
    pub fn all_tasks(self) -> Self {
        let diseases = vec![Disease::Nor, Disease::Minf, Disease::Dcm, Disease::Hcm, Disease::Arv];
        Self { mix: Mix { diseases, outflow: true, ..Self::d(0).mix }, ..self }
    }

    /// The same number of subjects everywhere.
    pub fn same_size(self, subjects: usize) -> Self {
        Self { subjects, ..self }
    }

    /// The spec of a letter.
    pub fn of(letter: char, subjects: usize) -> Option<Self> {
        match letter.to_ascii_lowercase() {
            'a' => Some(Self::a(subjects)),
            'b' => Some(Self::b(subjects)),
            'c' => Some(Self::c(subjects)),
            'd' => Some(Self::d(subjects)),
            _ => None,
        }
    }

    pub(super) fn draw(&self, index: usize, rng: &mut ChaCha8Rng) -> Heart {
        Heart::draw(self.mix.diseases[index % self.mix.diseases.len()], rng)
    }

    pub(super) fn scan(&self, heart: &Heart, phase: f64, acquired: &Acquired, rng: &mut ChaCha8Rng) -> scanner::Scan {
        // The patient moved, not the scanner: what is written is the plane that was asked for.
        let plane = acquired.plane.clone().shifted(planes::scaled(acquired.breath, -1.0));
        scanner::scan(&heart.at(phase), &plane, acquired.sequence, self.grid(), &self.contrast.look, rng)
    }

    pub(super) fn grid(&self) -> Grid {
        match self.detail {
            Detail::Small => Grid::of(40, self.contrast.demo.field_of_view, 1),
            Detail::Demo => self.contrast.demo,
            Detail::Full => self.contrast.full,
        }
    }

    pub(super) fn turn(&self) -> f64 {
        self.contrast.turn
    }

    fn counts(&self) -> Counts {
        match self.detail {
            Detail::Small => SMALL,
            Detail::Demo => self.mix.demo,
            Detail::Full => self.mix.full,
        }
    }

    /// Every slice of a subject, in the order it is scanned.
    pub(super) fn acquired(&self, heart: &Heart, rng: &mut ChaCha8Rng) -> Vec<Acquired> {
        let (counts, turn) = (self.counts(), self.contrast.turn);
        let stacks = [
            Some((Sequence::Cine, counts.sax, counts.sax_phases)),
            self.mix.lge.map(|sequence| (sequence, counts.lge, 1)),
            self.mix.maps.then_some((Sequence::T1Map, counts.maps, 1)),
        ];
        let short = stacks.into_iter().flatten().flat_map(|(sequence, stack, phases)| {
            stack.depths().enumerate().map(move |(slice, depth)| Acquired {
                sequence,
                view: View::Sax,
                plane: Plane::sax(depth, turn),
                breath: [0.0; 3],
                phases,
                slice,
                spacing: (stack.slices > 1).then_some(stack.spacing),
                along: Some(depth / heart.length),
            })
        });
        let long = self.mix.views.iter().map(|&view| self.long(heart, view));
        let mut stacks: Vec<Acquired> = short.chain(long).collect();
        let of_subject = Planning::SUBJECT.drawn(rng);
        let mut of_series = BTreeMap::new();
        for acquired in &mut stacks {
            let own =
                of_series.entry((acquired.sequence, acquired.view)).or_insert_with(|| Planning::SERIES.drawn(rng));
            acquired.plane = own.applied(of_subject.applied(acquired.plane.clone()));
            acquired.breath = breath(rng);
        }
        stacks
    }

    /// The outflow tract, where the hospital scans it: after everything else, and with dice of its own, so that whatever else is
    /// acquired is the same without it.
    fn outflow(&self, heart: &Heart, rng: &mut ChaCha8Rng) -> Option<Acquired> {
        self.mix.outflow.then(|| {
            let acquired = self.long(heart, View::Lvot);
            let (of_subject, own) = (Planning::SUBJECT.drawn(rng), Planning::SERIES.drawn(rng));
            let plane = own.applied(of_subject.applied(acquired.plane));
            Acquired { plane, breath: breath(rng), ..acquired }
        })
    }

    fn long(&self, heart: &Heart, view: View) -> Acquired {
        Acquired {
            sequence: Sequence::Cine,
            view,
            plane: Plane::lax(heart, view, self.contrast.turn),
            breath: [0.0; 3],
            phases: self.counts().lax_phases,
            slice: 0,
            spacing: None,
            along: None,
        }
    }
}

/// Breath holds differ, by what the diaphragm moves.
fn breath(rng: &mut ChaCha8Rng) -> Vector {
    [0.0, 0.5, 2.5].map(|most: f64| most * (rng.random::<f64>() * 2.0 - 1.0))
}

/// How a technologist places a field of view: no two patients lie alike, and nobody centers to the millimetre.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Planning {
    /// In the plane, radians.
    turn: f64,
    /// In the plane, mm: to the right in the image, and down.
    offset: [f64; 2],
}

impl Planning {
    /// The most that all series of a subject share.
    const SUBJECT: Self = Self { turn: 0.3, offset: [14.0, 14.0] };
    /// The most that one series differs by.
    const SERIES: Self = Self { turn: 0.08, offset: [5.0, 5.0] };

    /// Uniform up to this much, either way.
    fn drawn(self, rng: &mut ChaCha8Rng) -> Self {
        let mut upto = |most: f64| most * (rng.random::<f64>() * 2.0 - 1.0);
        Self { turn: upto(self.turn), offset: self.offset.map(&mut upto) }
    }

    fn applied(self, plane: Plane) -> Plane {
        plane.turned(self.turn).moved(self.offset)
    }
}

/// One slice over the cycle.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Acquired {
    pub(super) sequence: Sequence,
    pub(super) view: View,
    /// As the scanner was told.
    pub(super) plane: Plane,
    /// How far the patient had moved, mm.
    pub(super) breath: Vector,
    pub(super) phases: usize,
    pub(super) slice: usize,
    /// From slice to slice of a stack, mm.
    pub(super) spacing: Option<f64>,
    pub(super) along: Option<f64>,
}

/// Seeds of a subject: the site's letter and the subject's number keep them apart.
pub(super) fn rng(seed: u64, letter: char, subject: usize, purpose: &str) -> ChaCha8Rng {
    let mut digest = DigestBuilder::default();
    digest.update(format!("{seed} {letter} {subject} {purpose}").as_bytes());
    ChaCha8Rng::from_seed(digest.finish().0)
}

/// Writes a site's images below `folder/dicom`, its labels below `folder/labels` and the truth below `folder/truth`.
pub fn write_site(
    spec: &SiteSpec,
    seed: u64,
    folder: &Path,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<SiteTruth, PhantomError> {
    let (images, truth_folder) = (dicom_folder(folder), folder.join("truth"));
    fs::create_dir_all(&images)?;
    fs::create_dir_all(&truth_folder)?;
    let label_folder = labels_folder(folder);
    let labels = LabelFolder::new(&label_folder, spec.vendor)?;
    let done = AtomicUsize::new(0);
    let subjects: Result<Vec<(SubjectTruth, Rows)>, PhantomError> = (0..spec.subjects)
        .into_par_iter()
        .map(|index| {
            let subject = write_subject(spec, seed, index, &images, &labels)?;
            progress(Progress { done: done.fetch_add(1, Ordering::Relaxed) + 1, total: spec.subjects });
            Ok(subject)
        })
        .collect();
    let (subjects, rows): (_, Vec<Rows>) = subjects?.into_iter().unzip();
    labels.finish(&rows)?;
    let truth = SiteTruth { subjects };
    fs::write(truth_folder.join("subjects.json"), serde_json::to_vec_pretty(&truth).map_err(std::io::Error::from)?)?;
    Ok(truth)
}

fn write_subject(
    spec: &SiteSpec,
    seed: u64,
    index: usize,
    images: &Path,
    labels: &LabelFolder<'_>,
) -> Result<(SubjectTruth, Rows), PhantomError> {
    let mut of_outflow = rng(seed, spec.letter, index, "outflow tract");
    let mut rng = rng(seed, spec.letter, index, "subject");
    let heart = spec.draw(index, &mut rng);
    let patient_id = match spec.vendor {
        Vendor::Siemens => format!("{}", 1_000_000 + seed % 1000 * 1000 + index as u64),
        _ => format!("PHANTOM-{}{index:04}", spec.letter),
    };
    let mut writer = dicom::Writer::new(spec.vendor, images, &patient_id)?;
    let uid = |kind: &str| dicom::uid(&format!("{seed} {} {index} {kind}", spec.letter));
    let (mut series, mut shown, mut numbers, mut count) = (Vec::new(), Vec::new(), BTreeMap::new(), 0);
    let acquired = spec.acquired(&heart, &mut rng);
    let outflow = spec.outflow(&heart, &mut of_outflow);
    for (place, acquired) in acquired.iter().chain(&outflow).enumerate() {
        let rng = if acquired.view == View::Lvot { &mut of_outflow } else { &mut rng };
        let key = dicom::series_key(spec.vendor, acquired);
        let series_uid = uid(&format!("series {key}"));
        let next = numbers.len() + 1;
        let header = Header {
            vendor: spec.vendor,
            patient_id: &patient_id,
            letter: spec.letter,
            index,
            study_uid: &uid("study"),
            series_uid: &series_uid,
            series_number: *numbers.entry(key).or_insert(next),
            acquired,
            grid: spec.grid(),
            inversion_ms: signal::inversion_ms(spec.contrast.look.field),
        };
        let scans: Vec<_> = (0..acquired.phases)
            .map(|phase| spec.scan(&heart, phase as f64 / acquired.phases as f64, acquired, rng))
            .collect();
        if dicom::is_enhanced(spec.vendor, acquired) {
            let sop_uid = uid(&format!("image {place}"));
            let frames: Vec<_> = scans.iter().map(|scan| scan.pixels.as_slice()).collect();
            writer.write_enhanced(&header, &sop_uid, &frames)?;
        } else {
            for (phase, scan) in scans.iter().enumerate() {
                let sop_uid = uid(&format!("image {place} {phase}"));
                writer.write(&header, &sop_uid, phase, &scan.pixels)?;
            }
        }
        count += scans.len();
        let named = (series_uid.clone(), header.series_number);
        shown.push(Shown::of(named, acquired, header.grid, header.corner(), &scans));
        let Acquired { sequence, view, along, breath, .. } = *acquired;
        series.push(SliceTruth { series_uid, sequence, view, along, breath_mm: breath });
    }
    writer.finish()?;
    let rows = labels.subject(&heart, &patient_id, &shown)?;
    Ok((SubjectTruth::of(&heart, patient_id, count, series), rows))
}

#[cfg(test)]
mod tests {
    use super::super::heart::END_SYSTOLE;
    use super::*;

    fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
        let mut found = Vec::new();
        let mut queue = vec![folder.to_owned()];
        while let Some(folder) = queue.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    queue.push(path);
                } else {
                    found.push((path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()));
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn the_same_seed_writes_the_same_bytes_and_another_does_not() {
        let write = |seed, spec: SiteSpec| {
            let folder = tempfile::tempdir().unwrap();
            write_site(&spec.small(), seed, folder.path(), &|_| {}).unwrap();
            files(folder.path())
        };
        for spec in [SiteSpec::a(2), SiteSpec::c(2)] {
            assert_eq!(write(1, spec.clone()), write(1, spec.clone()));
            assert_ne!(write(1, spec.clone()), write(2, spec));
        }
    }

    #[test]
    fn the_outflow_tract_is_acquired_beside_everything_else_and_changes_no_byte_of_it() {
        let images = |spec: SiteSpec| {
            let folder = tempfile::tempdir().unwrap();
            let truth = write_site(&spec.small(), 1, folder.path(), &|_| {}).unwrap();
            let views: Vec<View> = truth.subjects[0].slices.iter().map(|slice| slice.view).collect();
            (files(&dicom_folder(folder.path())), views)
        };
        for spec in [SiteSpec::b(2), SiteSpec::c(2), SiteSpec::d(2)] {
            let with = spec.all_tasks();
            let without = SiteSpec { mix: Mix { outflow: false, ..with.mix.clone() }, ..with.clone() };
            let ((more, shown), (less, _)) = (images(with), images(without));
            assert!(more.len() > less.len() && less.iter().all(|file| more.contains(file)));
            assert_eq!(
                (shown.last(), shown.iter().filter(|view| **view == View::Lvot).count()),
                (Some(&View::Lvot), 1)
            );
        }
    }

    #[test]
    fn the_biobank_has_no_late_enhancement_and_each_knob_turns_alone() {
        let mut rng = rng(1, 'A', 0, "test");
        let heart = SiteSpec::a(1).draw(0, &mut rng);
        let lge = |acquired: &Acquired| matches!(acquired.sequence, Sequence::Lge | Sequence::Psir);
        assert!(!SiteSpec::a(1).acquired(&heart, &mut rng).iter().any(lge));
        assert!(SiteSpec::a(1).same_mix().acquired(&heart, &mut rng).iter().any(lge));
        let (a, c, d) = (SiteSpec::a(3), SiteSpec::c(3), SiteSpec::d(3));
        assert_eq!(c.clone().same_contrast(), SiteSpec { contrast: a.contrast, ..c.clone() });
        assert_eq!(c.clone().same_mix(), SiteSpec { mix: d.mix, ..c.clone() });
        assert_eq!(c.clone().same_size(9), SiteSpec { subjects: 9, ..c });
    }

    #[test]
    fn sites_made_the_same_differ_in_names_and_tags_alone() {
        let images = |spec: SiteSpec| -> Vec<(Acquired, scanner::Scan)> {
            let spec = spec.small().same_contrast().same_mix().same_size(1);
            let mut rng = rng(7, 'X', 0, "the same patient");
            let heart = spec.draw(0, &mut rng);
            let acquired = spec.acquired(&heart, &mut rng);
            acquired.into_iter().map(|one| (one.clone(), spec.scan(&heart, 0.2, &one, &mut rng))).collect()
        };
        let of_a = images(SiteSpec::a(5));
        assert!([SiteSpec::b(2), SiteSpec::c(3), SiteSpec::d(1)].into_iter().all(|spec| images(spec) == of_a));
    }

    #[test]
    fn masks_times_spacing_give_the_stated_volumes_at_every_site() {
        for spec in [SiteSpec::a(1), SiteSpec::b(1), SiteSpec::c(1), SiteSpec::d(1), SiteSpec::a(1).full()] {
            let mut rng = rng(4, spec.letter, 0, "test");
            let heart = spec.draw(0, &mut rng);
            let stack = spec.acquired(&heart, &mut rng);
            let cines = || stack.iter().filter(|one| one.view == View::Sax && one.sequence == Sequence::Cine);
            let mut volume = |phase: f64| -> f64 {
                let slice = |one: &Acquired| {
                    let blood =
                        spec.scan(&heart, phase, one, &mut rng).labels.iter().filter(|label| **label == 1).count();
                    blood as f64 * spec.grid().spacing().powi(2) * one.spacing.unwrap_or_default() / 1000.0
                };
                cines().map(slice).sum()
            };
            let (edv, esv) = (volume(0.0), volume(END_SYSTOLE));
            // Slices far apart miss the more of a small cavity, the more so when a breath moves it.
            let apart = cines().filter_map(|one| one.spacing).fold(0.0, f64::max);
            let bound = (0.004 * apart).max(0.06);
            assert!((edv / heart.edv - 1.0).abs() < 0.06, "{}: {edv} {}", spec.letter, heart.edv);
            assert!(
                ((1.0 - esv / edv) - heart.ejection_fraction()).abs() < bound,
                "{}: {esv} {}",
                spec.letter,
                heart.esv
            );
        }
    }
}
