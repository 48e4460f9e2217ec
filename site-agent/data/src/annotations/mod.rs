//! A site's own labels: what doctors say of patients, drew on images, and marked.
//!
//! ```text
//! labels/
//!   labels.toml      which codes of the masks mean what
//!   classes.csv      subject,<column>,...                               one row a subject; an empty cell says nothing
//!   series.csv       subject,series,<column>,...                        one row a series; the same
//!   masks.csv        subject,series,phase,file                          file: NIfTI, relative to the folder
//!   landmarks.csv    subject,series,phase,landmark,x_mm,y_mm,z_mm       DICOM patient coordinates (LPS)
//! ```
//!
//! `subject` is PatientID (0010,0020), or a UK Biobank participant; `series` is SeriesInstanceUID (0020,000E); both become
//! pseudonyms in the function that reads them. `phase` is the frame of the cardiac cycle, from 0; it may be empty for a
//! series of a single phase. A mask is on the grid of its images, in whatever order of axes, and is matched to slices by
//! where it lies in the patient, never by its place in a list; a file with a volume for each phase may be named for several
//! of them. Nothing is guessed: what does not fit is refused by name.

mod codes;
mod error;
mod landmarks;
mod masks;
mod matching;
mod order;
mod projection;
mod series;
mod tables;
mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub use error::{LabelError, TableRow};
pub use landmarks::FrameLandmarks;
pub use masks::SeriesMask;
pub use projection::mask_on_frame;
pub use series::SliceClasses;
pub use written::MaskCodes;

use crate::cache::{FrameCache, SeriesRecord};
use crate::catalogue::part_key;
use crate::keys::{SeriesKey, SiteSecret, SubjectKey};
pub(crate) use codes::Codes;
use tables::{ClassTable, LandmarkRow, MaskRow};

/// An open folder of labels. Its tables are read; its masks are read when they are asked for.
pub struct Labels {
    codes: Codes,
    classes: Option<ClassTable<SubjectKey>>,
    series: Option<ClassTable<(SubjectKey, SeriesKey)>>,
    masks: Option<Vec<MaskRow>>,
    landmarks: Option<Vec<LandmarkRow>>,
    /// Where the tables lie.
    folder: PathBuf,
    /// Below which the files of `masks.csv` lie.
    below: PathBuf,
}

impl Labels {
    /// Opens a folder of labels: each of the four tables may be missing, but not all of them.
    pub fn open(folder: &Path, secret: &SiteSecret) -> Result<Self, LabelError> {
        let codes = Codes::read(&folder.join("labels.toml"))?;
        let labels = Self {
            below: codes.masks().unwrap_or(folder).to_owned(),
            codes,
            classes: tables::classes(&folder.join("classes.csv"), secret)?,
            series: tables::series(&folder.join("series.csv"), secret)?,
            masks: tables::masks(&folder.join("masks.csv"), secret)?,
            landmarks: tables::landmarks(&folder.join("landmarks.csv"), secret)?,
            folder: folder.to_owned(),
        };
        let tables = [labels.classes.is_some(), labels.series.is_some(), labels.has_masks(), labels.has_landmarks()];
        if !tables.contains(&true) {
            return Err(LabelError::NoTables { folder: folder.to_owned() });
        }
        Ok(labels)
    }

    /// Who the subjects of the tables are, as the site itself calls them (PatientID). They are read again and not kept: for a
    /// file that stays at the site, and for nothing else.
    pub fn identifiers(&self, secret: &SiteSecret) -> Result<BTreeMap<SubjectKey, String>, LabelError> {
        let mut all = BTreeMap::new();
        for table in ["classes.csv", "series.csv", "masks.csv", "landmarks.csv"] {
            tables::identifiers(&self.folder.join(table), secret, &mut all)?;
        }
        Ok(all)
    }

    /// Whether there are masks.
    pub fn has_masks(&self) -> bool {
        self.masks.is_some()
    }

    /// Whether there are landmarks.
    pub fn has_landmarks(&self) -> bool {
        self.landmarks.is_some()
    }

    /// Whether a column of classes has that name.
    pub fn has_column(&self, column: &str) -> bool {
        self.classes.as_ref().is_some_and(|table| table.has_column(column))
    }

    /// Whether a column of the series' classes has that name.
    pub fn has_series_column(&self, column: &str) -> bool {
        self.series.as_ref().is_some_and(|table| table.has_column(column))
    }

    /// The first of these classes that no code of the masks stands for.
    pub fn without_code<'a>(&self, classes: &'a [String]) -> Option<&'a str> {
        classes.iter().map(String::as_str).find(|class| !self.codes.has(class))
    }

    /// The codes of `labels.toml` for masks of these classes, so that what is written reads as what was drawn.
    pub fn mask_codes(&self, classes: &[String]) -> Result<MaskCodes, LabelError> {
        MaskCodes::of_site(&self.codes, classes).map_err(|class| self.codes.no_code(class))
    }

    /// The first of these landmarks that no row has.
    pub fn without_row<'a>(&self, landmarks: &'a [String]) -> Option<&'a str> {
        let marked = |name: &str| self.landmarks.iter().flatten().any(|row| row.name == name);
        landmarks.iter().map(String::as_str).find(|name| !marked(name))
    }

    /// Who is in `masks.csv`.
    pub fn mask_subjects(&self) -> BTreeSet<SubjectKey> {
        self.masks.iter().flatten().map(|row| row.subject).collect()
    }

    /// Whom `landmarks.csv` gives one of these landmarks.
    pub fn landmark_subjects(&self, names: &[String]) -> BTreeSet<SubjectKey> {
        self.landmarks.iter().flatten().filter(|row| names.contains(&row.name)).map(|row| row.subject).collect()
    }

    /// Of whom a column of `series.csv` says something.
    pub fn series_subjects(&self, column: &str) -> BTreeSet<SubjectKey> {
        let rows = self.series.iter().filter_map(|table| table.column(column).ok()).flatten();
        rows.map(|(_, (subject, _), _)| subject).collect()
    }

    /// The class of each subject that a column says something of, as its place in `classes`.
    pub fn classes(&self, column: &str, classes: &[String]) -> Result<BTreeMap<SubjectKey, usize>, LabelError> {
        let table = self.classes.as_ref().ok_or_else(|| self.no_table("classes.csv"))?;
        let class = |(at, subject, cell): (&TableRow, SubjectKey, &str)| {
            let class = classes.iter().position(|class| class == cell);
            Ok((subject, class.ok_or_else(|| tables::no_class(at, column, classes))?))
        };
        table.column(column)?.map(class).collect()
    }

    /// The classes of the slices of all series that are `wanted` and that a column says something of, by the series' place in
    /// the cache.
    pub fn series_classes(
        &self,
        cache: &FrameCache,
        wanted: impl Fn(&SeriesRecord) -> bool,
        column: &str,
        classes: &[String],
    ) -> Result<BTreeMap<u32, SliceClasses>, LabelError> {
        let table = self.series.as_ref().ok_or_else(|| self.no_table("series.csv"))?;
        series::place_all(table, column, cache, &wanted, classes)
    }

    /// The masks of all series that are `wanted`, with the places of their classes in `classes`, in the order of the
    /// cache's series and of phases.
    pub fn masks(
        &self,
        cache: &FrameCache,
        wanted: impl Fn(&SeriesRecord) -> bool,
        classes: &[String],
    ) -> Result<Vec<SeriesMask>, LabelError> {
        let rows = self.masks.as_ref().ok_or_else(|| self.no_table("masks.csv"))?;
        masks::read_all(rows, &self.below, &self.codes, cache, &wanted, classes)
    }

    /// The landmarks of all series that are `wanted`, by their places in `names`, in the order of the cache's frames.
    pub fn landmarks(
        &self,
        cache: &FrameCache,
        wanted: impl Fn(&SeriesRecord) -> bool,
        names: &[String],
    ) -> Result<Vec<FrameLandmarks>, LabelError> {
        let rows = self.landmarks.as_ref().ok_or_else(|| self.no_table("landmarks.csv"))?;
        landmarks::place_all(rows, &self.folder, cache, &wanted, names)
    }

    /// Whether every subject and every series that the tables name is in the cache, and every mask's file is there.
    pub fn check(&self, cache: &FrameCache) -> Result<(), LabelError> {
        let index = SeriesIndex::of(cache);
        if let Some(table) = &self.classes {
            for (row, subject) in table.keys() {
                index.knows(row, subject)?;
            }
        }
        for (row, (subject, series)) in self.series.iter().flat_map(ClassTable::keys) {
            index.records(row, subject, series)?;
        }
        for row in self.masks.iter().flatten() {
            index.records(&row.at, row.subject, row.series)?;
            masks::is_there(&self.below, row)?;
        }
        for row in self.landmarks.iter().flatten() {
            index.records(&row.at, row.subject, row.series)?;
        }
        Ok(())
    }

    fn no_table(&self, name: &'static str) -> LabelError {
        LabelError::NoTable { file: self.folder.join(name) }
    }
}

/// Holds a mask's file to the images of its series, before either is kept: its grid, its codes, and which class encloses which.
/// `at` is where a person finds the mask named.
pub(crate) fn check_mask(
    at: &TableRow,
    file: &Path,
    phase: u32,
    record: &SeriesRecord,
    codes: &Codes,
) -> Result<(), LabelError> {
    let row = MaskRow {
        at: at.clone(),
        subject: record.subject,
        series: record.key,
        phase: Some(phase),
        file: file.to_owned(),
    };
    masks::check(&row, record, codes)
}

/// Parts that a series may have been cut into: by orientation, by magnitude and real part.
const PARTS: usize = 32;

/// A cache's records by what tables name them.
struct SeriesIndex<'a> {
    cache: &'a FrameCache,
    series: BTreeMap<SeriesKey, Vec<u32>>,
    subjects: BTreeSet<SubjectKey>,
}

impl<'a> SeriesIndex<'a> {
    fn of(cache: &'a FrameCache) -> Self {
        let mut series: BTreeMap<SeriesKey, Vec<u32>> = BTreeMap::new();
        for (place, record) in (0_u32..).zip(cache.series()) {
            series.entry(record.key).or_default().push(place);
        }
        Self { cache, series, subjects: cache.subjects().into_iter().collect() }
    }

    /// Whether a subject has images.
    fn knows(&self, at: &TableRow, subject: SubjectKey) -> Result<(), LabelError> {
        if self.subjects.contains(&subject) {
            return Ok(());
        }
        Err(LabelError::UnknownSubject { at: at.clone() })
    }

    /// The records of a row's series: several if it was cut into parts, or lies in several sources.
    fn records(
        &self,
        at: &TableRow,
        subject: SubjectKey,
        series: SeriesKey,
    ) -> Result<Vec<(u32, &'a SeriesRecord)>, LabelError> {
        self.knows(at, subject)?;
        let keys = std::iter::once(series).chain((0..PARTS).map(|part| part_key(series, part)));
        let places = keys.filter_map(|key| self.series.get(&key)).flatten();
        let all: Vec<(u32, &SeriesRecord)> =
            places.map(|place| (*place, &self.cache.series()[*place as usize])).collect();
        let own: Vec<_> = all.iter().copied().filter(|(_, record)| record.subject == subject).collect();
        match (all.is_empty(), own.is_empty()) {
            (true, _) => Err(LabelError::UnknownSeries { at: at.clone() }),
            (false, true) => Err(LabelError::OtherSubject { at: at.clone() }),
            (false, false) => Ok(own),
        }
    }
}

/// The phase of a record that a row means.
fn phase_of(at: &TableRow, phase: Option<u32>, record: &SeriesRecord) -> Result<u32, LabelError> {
    let phases = record.phases();
    match phase {
        None if phases == 1 => Ok(0),
        Some(phase) if phase < phases => Ok(phase),
        None => Err(LabelError::NoPhase { at: at.clone(), phases }),
        Some(phase) => Err(LabelError::Phase { at: at.clone(), phase, phases }),
    }
}

#[cfg(test)]
mod tests;
