//! The four hospitals: vendor, mix and size, each a knob of its own, so that a cause can be told from another.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::ids::DigestBuilder;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::dicom::{self, Header, Vendor};
use super::heart::{Disease, Heart};
use super::planes::{Plane, View};
use super::scanner::{self, Grid, Look};
use super::signal::Sequence;
use super::truth::{SeriesTruth, SiteTruth, SubjectTruth};
use super::{PhantomError, Progress, dicom_folder};

/// One hospital's phantom.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteSpec {
    letter: char,
    vendor: Vendor,
    look: Look,
    grid: Grid,
    turn: f64,
    subjects: usize,
    mix: Mix,
}

/// What a hospital scans, of whom.
#[derive(Clone, Debug, PartialEq)]
struct Mix {
    diseases: Vec<Disease>,
    sax_slices: usize,
    sax_phases: usize,
    views: Vec<View>,
    lax_phases: usize,
    lge: Option<(Sequence, usize)>,
    maps: usize,
}

const LOOK_A: Look = Look { snr: 35.0, shading: 1.2, lines: 0.85, field: 1.0, banding: 0.0, gamma: 1.0, gain: 2600.0 };
const ALL_VIEWS: [View; 3] = [View::TwoChamber, View::ThreeChamber, View::FourChamber];

impl SiteSpec {
    /// Site A: Siemens 1.5 T, a cohort of healthy volunteers in the shape of UK Biobank; no contrast agent.
    pub fn a(subjects: usize) -> Self {
        let mix = Mix {
            diseases: vec![Disease::Nor],
            sax_slices: 6,
            sax_phases: 6,
            views: ALL_VIEWS.to_vec(),
            lax_phases: 6,
            lge: None,
            maps: 3,
        };
        let grid = Grid { side: 136, field_of_view: 272.0, zero_fill: 1 };
        Self { letter: 'A', vendor: Vendor::Siemens, look: LOOK_A, grid, turn: 0.0, subjects, mix }
    }

    /// Site B: Philips 3 T, a tertiary center: infarcts and dilated hearts.
    pub fn b(subjects: usize) -> Self {
        let mix = Mix {
            diseases: vec![Disease::Minf, Disease::Dcm, Disease::Minf, Disease::Nor],
            sax_slices: 5,
            sax_phases: 6,
            views: ALL_VIEWS.to_vec(),
            lax_phases: 6,
            lge: Some((Sequence::Psir, 6)),
            maps: 3,
        };
        let look = Look { snr: 25.0, shading: 2.0, lines: 0.8, field: 1.1, banding: 0.5, gamma: 1.0, gain: 1900.0 };
        let grid = Grid { side: 144, field_of_view: 260.0, zero_fill: 1 };
        Self { letter: 'B', vendor: Vendor::Philips, look, grid, turn: 0.35, subjects, mix }
    }

    /// Site C: GE 1.5 T, a community hospital: noisy and zero-filled, long axes first, thick hearts.
    pub fn c(subjects: usize) -> Self {
        let mix = Mix {
            diseases: vec![Disease::Hcm, Disease::Nor, Disease::Hcm, Disease::Arv],
            sax_slices: 4,
            sax_phases: 5,
            views: vec![View::TwoChamber, View::FourChamber, View::ThreeChamber],
            lax_phases: 10,
            lge: Some((Sequence::Lge, 6)),
            maps: 0,
        };
        let look = Look { snr: 15.0, shading: 1.5, lines: 0.62, field: 1.0, banding: 0.0, gamma: 1.0, gain: 2200.0 };
        let grid = Grid { side: 96, field_of_view: 288.0, zero_fill: 2 };
        Self { letter: 'C', vendor: Vendor::Ge, look, grid, turn: -0.1, subjects, mix }
    }

    /// Site D: Canon 3 T, unseen in training.
    pub fn d(subjects: usize) -> Self {
        let mix = Mix {
            diseases: vec![Disease::Nor, Disease::Minf, Disease::Hcm, Disease::Dcm],
            sax_slices: 6,
            sax_phases: 5,
            views: ALL_VIEWS.to_vec(),
            lax_phases: 6,
            lge: Some((Sequence::Lge, 6)),
            maps: 3,
        };
        let look = Look { snr: 20.0, shading: 3.2, lines: 0.75, field: 1.1, banding: 0.25, gamma: 1.3, gain: 2400.0 };
        let grid = Grid { side: 128, field_of_view: 250.0, zero_fill: 1 };
        Self { letter: 'D', vendor: Vendor::Canon, look, grid, turn: 0.15, subjects, mix }
    }

    /// Fewer slices and phases on a coarse grid: for tests that need files and not beauty.
    pub fn small(mut self) -> Self {
        self.grid = Grid { side: 40, zero_fill: 1, ..self.grid };
        self.mix.sax_slices = 3;
        self.mix.sax_phases = 2;
        self.mix.lax_phases = 2;
        self.mix.maps = self.mix.maps.min(1);
        self.mix.lge = self.mix.lge.map(|(sequence, _)| (sequence, 3));
        self
    }

    /// The same scanner everywhere (site A's).
    pub fn same_contrast(mut self) -> Self {
        self.look = LOOK_A;
        self
    }

    /// The same sequences, views and diseases everywhere.
    pub fn same_mix(mut self) -> Self {
        self.mix = Self::d(0).mix;
        self
    }

    /// The same number of subjects and the same matrix everywhere.
    pub fn same_size(mut self, subjects: usize) -> Self {
        self.subjects = subjects;
        self.grid = Self::a(0).grid;
        self
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
        scanner::scan(&heart.at(phase), &acquired.plane, acquired.sequence, self.grid, &self.look, rng)
    }

    pub(super) fn stored_side(&self) -> usize {
        self.grid.stored()
    }

    /// Every series of a subject, in the order it is scanned.
    pub(super) fn acquired(&self, heart: &Heart, rng: &mut ChaCha8Rng) -> Vec<Acquired> {
        let mut all = Vec::new();
        let mut breath = || (rng.random::<f64>() * 2.0 - 1.0) * 2.5;
        let along = |index: usize, count: usize| 0.08 + 0.80 * index as f64 / (count - 1).max(1) as f64;
        let mut stack = |all: &mut Vec<Acquired>, sequence, count: usize, phases| {
            for slice in 0..count {
                let along = if count == 1 { 0.45 } else { along(slice, count) };
                let plane = Plane::sax(heart, along, self.turn).shifted(breath());
                all.push(Acquired {
                    sequence,
                    view: View::Sax,
                    plane,
                    phases,
                    slice,
                    slices: count,
                    along: Some(along),
                });
            }
        };
        stack(&mut all, Sequence::Cine, self.mix.sax_slices, self.mix.sax_phases);
        if let Some((sequence, count)) = self.mix.lge {
            stack(&mut all, sequence, count, 1);
        }
        stack(&mut all, Sequence::T1Map, self.mix.maps, 1);
        for &view in &self.mix.views {
            let plane = Plane::lax(heart, view, self.turn);
            let phases = self.mix.lax_phases;
            all.push(Acquired { sequence: Sequence::Cine, view, plane, phases, slice: 0, slices: 1, along: None });
        }
        all
    }
}

/// One slice over the cycle.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Acquired {
    pub(super) sequence: Sequence,
    pub(super) view: View,
    pub(super) plane: Plane,
    pub(super) phases: usize,
    pub(super) slice: usize,
    pub(super) slices: usize,
    pub(super) along: Option<f64>,
}

/// Seeds of a subject: the site's letter and the subject's number keep them apart.
pub(super) fn rng(seed: u64, letter: char, subject: usize, purpose: &str) -> ChaCha8Rng {
    let mut digest = DigestBuilder::default();
    digest.update(format!("{seed} {letter} {subject} {purpose}").as_bytes());
    ChaCha8Rng::from_seed(digest.finish().0)
}

/// Writes a site's images below `folder/dicom` and the truth below `folder/truth`.
pub fn write_site(
    spec: &SiteSpec,
    seed: u64,
    folder: &Path,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<SiteTruth, PhantomError> {
    let (images, truth_folder) = (dicom_folder(folder), folder.join("truth"));
    fs::create_dir_all(&images)?;
    fs::create_dir_all(&truth_folder)?;
    let done = AtomicUsize::new(0);
    let subjects: Result<Vec<_>, PhantomError> = (0..spec.subjects)
        .into_par_iter()
        .map(|index| {
            let subject = write_subject(spec, seed, index, &images, &truth_folder)?;
            progress(Progress { done: done.fetch_add(1, Ordering::Relaxed) + 1, total: spec.subjects });
            Ok(subject)
        })
        .collect();
    let truth = SiteTruth { subjects: subjects? };
    fs::write(truth_folder.join("subjects.json"), serde_json::to_vec_pretty(&truth).map_err(std::io::Error::from)?)?;
    Ok(truth)
}

fn write_subject(
    spec: &SiteSpec,
    seed: u64,
    index: usize,
    images: &Path,
    truth_folder: &Path,
) -> Result<SubjectTruth, PhantomError> {
    let mut rng = rng(seed, spec.letter, index, "subject");
    let heart = spec.draw(index, &mut rng);
    let patient_id = match spec.vendor {
        Vendor::Siemens => format!("{}", 1_000_000 + seed % 1000 * 1000 + index as u64),
        _ => format!("PHANTOM-{}{index:04}", spec.letter),
    };
    let mut writer = dicom::Writer::new(spec.vendor, images, &patient_id)?;
    let (mut series, mut count) = (Vec::new(), 0);
    for (number, acquired) in spec.acquired(&heart, &mut rng).iter().enumerate() {
        let uid = |kind: &str| dicom::uid(&format!("{seed} {} {index} {kind}", spec.letter));
        let series_uid = uid(&format!("series {}", dicom::series_key(spec.vendor, acquired, number)));
        for phase in 0..acquired.phases {
            let moment = phase as f64 / acquired.phases as f64;
            let scan = spec.scan(&heart, moment, acquired, &mut rng);
            let sop_uid = uid(&format!("image {number} {phase}"));
            let header = Header {
                vendor: spec.vendor,
                patient_id: &patient_id,
                letter: spec.letter,
                index,
                study_uid: &uid("study"),
                series_uid: &series_uid,
                sop_uid: &sop_uid,
                series_number: number + 1,
                acquired,
                phase,
                spacing: spec.grid.spacing(),
                side: spec.stored_side(),
            };
            writer.write(&header, &scan.pixels)?;
            write_labels(
                &truth_folder.join(&patient_id).join(format!("{sop_uid}.png")),
                &scan.labels,
                spec.stored_side(),
            )?;
            count += 1;
        }
        let Acquired { sequence, view, along, .. } = *acquired;
        series.push(SeriesTruth { uid: series_uid, sequence, view, along });
    }
    writer.finish()?;
    Ok(SubjectTruth::of(&heart, patient_id, count, series))
}

/// A segmentation as an 8-bit PNG: 0 background, 1 LV, 2 myocardium, 3 RV, 4 LA, 5 RA, 6 scar.
fn write_labels(path: &Path, labels: &[u8], side: usize) -> Result<(), PhantomError> {
    debug_assert!(labels.iter().all(|&label| usize::from(label) < scanner::LABELS.len()));
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let file = std::io::BufWriter::new(fs::File::create(path)?);
    let mut encoder = png::Encoder::new(file, side as u32, side as u32);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_compression(png::Compression::Fastest);
    encoder.write_header()?.write_image_data(labels)?;
    Ok(())
}

#[cfg(test)]
mod tests {
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
    fn the_biobank_has_no_late_enhancement_and_each_knob_turns_alone() {
        let mut rng = rng(1, 'A', 0, "test");
        let heart = SiteSpec::a(1).draw(0, &mut rng);
        let lge = |acquired: &Acquired| matches!(acquired.sequence, Sequence::Lge | Sequence::Psir);
        assert!(!SiteSpec::a(1).acquired(&heart, &mut rng).iter().any(lge));
        assert!(SiteSpec::a(1).same_mix().acquired(&heart, &mut rng).iter().any(lge));
        let (c, plain) = (SiteSpec::c(3), SiteSpec::c(3).same_contrast());
        assert_eq!((plain.look, plain.grid, &plain.mix), (LOOK_A, c.grid, &c.mix));
        let sized = SiteSpec::c(3).same_size(9);
        assert_eq!((sized.look, sized.subjects, &sized.mix), (c.look, 9, &c.mix));
    }

    #[test]
    fn the_short_axis_masks_hold_the_stated_ejection_fraction() {
        let spec = SiteSpec::d(1);
        let mut rng = rng(4, 'D', 0, "test");
        let heart = spec.draw(0, &mut rng);
        let volume = |phase: f64, rng: &mut ChaCha8Rng| {
            let slices = 24;
            let step = (heart.length + 10.0) / f64::from(slices);
            (0..slices)
                .map(|slice| {
                    let plane = Plane::sax(&heart, (f64::from(slice) + 0.5) * step / heart.length, 0.0);
                    let acquired = Acquired {
                        sequence: Sequence::Cine,
                        view: View::Sax,
                        plane,
                        phases: 1,
                        slice: 0,
                        slices: 1,
                        along: None,
                    };
                    let blood =
                        spec.scan(&heart, phase, &acquired, rng).labels.iter().filter(|label| **label == 1).count();
                    blood as f64 * spec.grid.spacing().powi(2) * step / 1000.0
                })
                .sum::<f64>()
        };
        let (edv, esv) = (volume(0.0, &mut rng), volume(super::super::heart::END_SYSTOLE, &mut rng));
        let found = 1.0 - esv / edv;
        assert!((found - heart.ejection_fraction()).abs() < 0.03, "{found} {}", heart.ejection_fraction());
    }
}
