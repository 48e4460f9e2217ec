//! From a case's files to records and frames, its masks held to its images before either is kept.

use std::collections::BTreeMap;

use common::Digest;
use common::ids::DigestBuilder;

use super::case::{Case, CaseSeries};
use super::listing::Listing;
use super::stack::Stack;
use super::{DataSet, ImportError};
use crate::annotations::{Codes, LabelError, check_mask};
use crate::cache::{SeriesId, SeriesRecord};
use crate::intake::IntakeOptions;
use crate::keys::{PathKey, SeriesKey, StudyKey, SubjectKey};
use crate::labels::Rule;
use crate::nifti::{Affine, Moments};
use crate::normalize::{Geometry, Normalized, Normalizer};

/// What numbers of two headers of one grid may differ by, in mm: they are written as 32-bit floats.
const SAME_GRID_MM: f64 = 1e-2;

/// What a case's files are read with.
pub(super) struct Source<'a> {
    pub(super) dataset: DataSet,
    pub(super) key: PathKey,
    pub(super) listing: &'a Listing,
    pub(super) options: &'a IntakeOptions,
    /// The meaning of the masks' codes; none if masks are not asked for.
    pub(super) codes: Option<&'a Codes>,
}

/// A series of a case.
pub(super) struct Made {
    pub(super) record: SeriesRecord,
    /// In the order of slices and phases; none if the cache has them.
    pub(super) frames: Option<Vec<Vec<u16>>>,
}

/// What names a subject, in tables as in the cache.
pub(super) fn subject_id(dataset: DataSet, case: &Case) -> String {
    format!("{}:{}", dataset.name(), case.subject)
}

/// What names a series.
pub(super) fn series_id(dataset: DataSet, case: &Case, series: &CaseSeries) -> String {
    format!("{}:{}", subject_id(dataset, case), series.name)
}

/// Reads a case. `before` are the records that the cache has of this source.
pub(super) fn make(
    case: &Case,
    source: &Source<'_>,
    before: &BTreeMap<SeriesId, SeriesRecord>,
) -> Result<Vec<Made>, ImportError> {
    case.series.iter().map(|series| Reader { case, series, source }.make(before)).collect()
}

/// A series being read.
struct Reader<'a> {
    case: &'a Case,
    series: &'a CaseSeries,
    source: &'a Source<'a>,
}

impl Reader<'_> {
    fn make(&self, before: &BTreeMap<SeriesId, SeriesRecord>) -> Result<Made, ImportError> {
        let (stack, phases) = self.grid()?;
        let mut record = self.record(&stack);
        self.check_masks(&record)?;
        if let Some(held) = before.get(&record.id()).filter(|held| held.content == record.content) {
            return Ok(Made { record: held.clone(), frames: None });
        }
        let Normalized { frames, window } = self.decode(&stack, phases)?;
        record.window = window;
        // Moment after moment as they were read, slice after slice as they are kept.
        let (mut frames, count) = (frames, stack.slices.len());
        let order = (0..count).flat_map(|slice| (0..phases as usize).map(move |phase| phase * count + slice));
        let frames = order.map(|place| std::mem::take(&mut frames[place])).collect();
        Ok(Made { record, frames: Some(frames) })
    }

    /// The slices, and how many phases each has, by the headers alone.
    fn grid(&self) -> Result<(Stack, u32), ImportError> {
        let mut first: Option<([usize; 3], Affine)> = None;
        let mut phases = 0;
        for file in &self.series.files {
            let moments = self.open(file)?;
            let [i, j, k, count] = moments.dims();
            let least = self.source.options.limits.smallest_side as usize;
            if i < least || j < least {
                return Err(self.shape(
                    file,
                    format!(
                        "has {i} x {j} pixels, fewer than {least} a side, which show no heart: unpack the archive again"
                    ),
                ));
            }
            if self.series.files.len() > 1 && count > 1 {
                return Err(self.shape(file, format!("has {count} moments where it has one: unpack the archive again")));
            }
            match &first {
                Some((dims, affine)) if *dims != [i, j, k] || !is_same(affine, moments.affine()) => {
                    let [a, b, c] = dims;
                    return Err(self.shape(
                        file,
                        format!(
                            "is on another grid ({i} x {j} x {k} voxels) than the file of the first phase ({a} x {b} x {c}): \
                             unpack the archive again"
                        ),
                    ));
                }
                Some(_) => {}
                None => first = Some(([i, j, k], *moments.affine())),
            }
            phases += count as u32; // at most 32767 each
        }
        let named = &self.series.files[0];
        if let Some((expected, at)) = &self.series.phases
            && *expected != phases
        {
            let told = format!("{}, line {}", at.file.display(), at.line);
            return Err(self
                .shape(named, format!("has {phases} moments, but {told} says {expected}: unpack the archive again")));
        }
        let flat = || {
            self.shape(named, "lies on no grid of perpendicular rows and columns: unpack the archive again".to_owned())
        };
        let ([i, j, k], affine) = first.ok_or_else(flat)?;
        let stack = Stack::of([i, j, k, 1], &affine, phases, self.series.plane).ok_or_else(flat)?;
        let side = self.source.options.images.frame_size as u64;
        let bytes = side.saturating_pow(2).saturating_mul(4 * u64::from(phases) * stack.slices.len() as u64);
        let limit = self.source.options.limits.series_bytes;
        if bytes > limit {
            return Err(self.shape(named, format!(
                "has {phases} moments of {k} slices, {bytes} bytes on the plan's grid and more than the limit of {limit}: use a plan \
                 with smaller frames"
            )));
        }
        Ok((stack, phases))
    }

    fn record(&self, stack: &Stack) -> SeriesRecord {
        let (source, secret) = (self.source, &self.source.options.secret);
        let subject = subject_id(source.dataset, self.case);
        SeriesRecord {
            key: SeriesKey::of(secret, &series_id(source.dataset, self.case, self.series)),
            subject: SubjectKey::of(secret, &subject),
            study: StudyKey::of(secret, &subject),
            source: source.key,
            vendor: self.case.vendor,
            sequence: self.series.sequence,
            sequence_rule: Rule::DataSet,
            plane: self.series.plane,
            plane_rule: Rule::DataSet,
            matrix: stack.matrix,
            spacing_mm: stack.spacing_mm,
            slice_step_mm: Some(stack.step_mm),
            window: [0.0, 0.0],
            slices: stack.slices.clone(),
            skipped: Vec::new(),
            first_frame: 0,
            content: self.content(),
            pixels: Digest([0; 32]),
            sums: Vec::new(),
        }
    }

    /// Changes when a file does.
    fn content(&self) -> Digest {
        let mut digest = DigestBuilder::default();
        for file in &self.series.files {
            digest.update(&(file.len() as u64).to_le_bytes());
            digest.update(file.as_bytes());
            digest.update(&self.source.listing.stamp(file).unwrap_or(Digest([0; 32])).0);
        }
        digest.finish()
    }

    fn check_masks(&self, record: &SeriesRecord) -> Result<(), ImportError> {
        let Some(codes) = self.source.codes else { return Ok(()) };
        for mask in &self.series.masks {
            let path = self.source.listing.path(&mask.file);
            check_mask(&mask.at, &path, mask.phase, record, codes).map_err(|error| self.refused(error, codes))?;
        }
        Ok(())
    }

    fn refused(&self, error: LabelError, codes: &Codes) -> ImportError {
        let (dataset, subject) = (self.source.dataset, self.case.subject.clone());
        match error {
            LabelError::Order { found, picture, remedy, .. } => ImportError::OtherCodes {
                dataset,
                subject,
                told: codes.told().into(),
                found: found.into(),
                picture: picture.into(),
                remedy: remedy.into(),
            },
            source => ImportError::Mask { dataset, subject, source: Box::new(source) },
        }
    }

    fn decode(&self, stack: &Stack, phases: u32) -> Result<Normalized, ImportError> {
        let [rows, columns] = stack.matrix.map(|side| side as usize);
        let pixels = rows as u64 * columns as u64 * stack.slices.len() as u64 * u64::from(phases);
        let geometry = Geometry { rows, columns, spacing: stack.spacing_mm };
        let mut normalizer = Normalizer::new(&self.source.options.images, pixels);
        for file in &self.series.files {
            let mut moments = self.open(file)?;
            while let Some(moment) = moments.next().map_err(|source| self.unread(source))? {
                for slice in 0..stack.slices.len() {
                    normalizer.take(stack.slice(&moment, slice), geometry, false);
                }
            }
        }
        normalizer.finish().ok_or_else(|| {
            let what = "shows nothing, every voxel having the same value: unpack the archive again".to_owned();
            self.shape(&self.series.files[0], what)
        })
    }

    fn open(&self, file: &str) -> Result<Moments, ImportError> {
        Moments::open(&self.source.listing.path(file)).map_err(|source| self.unread(source))
    }

    fn unread(&self, source: crate::nifti::NiftiError) -> ImportError {
        ImportError::Image { dataset: self.source.dataset, subject: self.case.subject.clone(), source }
    }

    fn shape(&self, file: &str, what: String) -> ImportError {
        let (dataset, subject) = (self.source.dataset, self.case.subject.clone());
        ImportError::Shape { dataset, subject, file: self.source.listing.path(file), what }
    }
}

fn is_same(a: &Affine, b: &Affine) -> bool {
    a.iter().flatten().zip(b.iter().flatten()).all(|(a, b)| (a - b).abs() <= SAME_GRID_MM)
}
