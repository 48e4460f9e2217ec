//! Public data sets as they are downloaded: their folders to frames, and to a folder of labels.
//!
//! ```text
//! folder ─ listing ─▶ cases (a file for each data set) ─▶ grid, masks held to it ─▶ normalised frames ─▶ FrameCache
//!                                                      └▶ labels.toml, classes.csv, masks.csv
//! ```
//!
//! | data set | frames | masks | codes | classes |
//! |---|---|---|---|---|
//! | ACDC | short-axis cines | end-diastole, end-systole | 1 RV, 2 myocardium, 3 LV | `disease` |
//! | M&Ms | short-axis cines | end-diastole, end-systole, in files of all moments | 1 LV, 2 myocardium, 3 RV | `disease` |
//! | M&Ms-2 | end-diastole and end-systole, short axis and four-chamber | both | 1 LV, 2 myocardium, 3 RV | `disease` |
//! | EMIDEC | late enhancement, short axis | all | 1 LV, 2 myocardium, 3 scar, 4 no-reflow | `hyperenhancement` |
//!
//! A data set is taken in whole or not at all, since it is the same everywhere: what does not fit is named and ends the import,
//! and the cache and the labels are what they were before. The masks stay where they are, and `masks.csv` points to them. Which
//! codes mean what is declared in a file beside each reader (`acdc.toml`), and is held to every mask before anything is kept.
//!
//! Of a mask with a volume for each moment (M&Ms) the two that the data set's table names are used. The others are empty because
//! nobody drew on them, which is another thing than a frame without a heart: no row names them, and a row that does is refused.
//!
//! Subjects and series are named `acdc:patient001` and `acdc:patient001:sax`, so that no number of a data set is taken for a
//! hospital's PatientID; both become pseudonyms here. NIfTI is read in this process: 348 bytes before plain numbers, strictly.

mod acdc;
mod case;
mod emidec;
mod error;
mod frames;
mod listing;
mod mnms;
mod mnms2;
mod stack;
mod written;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::Ordering;

use rayon::prelude::*;

pub use error::ImportError;

use self::case::{Case, Found};
use self::frames::Made;
use self::listing::Listing;
use crate::cache::{CacheFolder, FrameWriter, SeriesId, SeriesRecord};
use crate::intake::{Counts, IntakeOptions, IntakeProgress, IntakeReport, Order, Stage, public_key};

/// A public data set of cardiac MR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DataSet {
    /// Automated Cardiac Diagnosis Challenge (Bernard et al. 2018).
    Acdc,
    /// Multi-Centre, Multi-Vendor and Multi-Disease challenge (Campello et al. 2021).
    Mnms,
    /// Its second edition, with long-axis views (Martín-Isla et al. 2023).
    Mnms2,
    /// Evaluation of Myocardial Infarction from Delayed-Enhancement Cardiac MRI (Lalande et al. 2020).
    Emidec,
}

impl DataSet {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Acdc, Self::Mnms, Self::Mnms2, Self::Emidec];

    /// What a command line and the identifiers of its subjects call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Acdc => "acdc",
            Self::Mnms => "mnms",
            Self::Mnms2 => "mnms2",
            Self::Emidec => "emidec",
        }
    }

    /// What its masks' codes mean, as `labels.toml` says it.
    pub fn codes(self) -> &'static str {
        match self {
            Self::Acdc => include_str!("acdc.toml"),
            Self::Mnms => include_str!("mnms.toml"),
            Self::Mnms2 => include_str!("mnms2.toml"),
            Self::Emidec => include_str!("emidec.toml"),
        }
    }

    /// The column of `classes.csv` that its diagnoses go to.
    fn column(self) -> &'static str {
        match self {
            Self::Acdc | Self::Mnms | Self::Mnms2 => "disease",
            Self::Emidec => "hyperenhancement",
        }
    }

    /// Its diagnoses that are classes of the column, with those classes.
    fn classes(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Acdc => acdc::CLASSES,
            Self::Mnms => mnms::CLASSES,
            Self::Mnms2 => mnms2::CLASSES,
            Self::Emidec => emidec::CLASSES,
        }
    }

    fn class_of(self, diagnosis: &str) -> Option<&'static str> {
        self.classes().iter().find(|(held, _)| *held == diagnosis).map(|(_, class)| *class)
    }

    /// What there is in a folder of it.
    fn cases(self, listing: &Listing) -> Result<Found, ImportError> {
        let mut found = match self {
            Self::Acdc => acdc::cases(listing),
            Self::Mnms => mnms::cases(listing),
            Self::Mnms2 => mnms2::cases(listing),
            Self::Emidec => emidec::cases(listing),
        }?;
        found.cases.sort_by(|a, b| (&a.subject, &a.folder).cmp(&(&b.subject, &b.folder)));
        let mut first = BTreeMap::new();
        for case in &found.cases {
            if let Some(first) = first.insert(&case.subject, &case.folder) {
                let (subject, second) = (case.subject.clone(), case.folder.clone());
                return Err(ImportError::Twice { dataset: self, subject, first: first.clone(), second });
            }
        }
        Ok(found)
    }
}

impl fmt::Display for DataSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Acdc => "ACDC",
            Self::Mnms => "M&Ms",
            Self::Mnms2 => "M&Ms-2",
            Self::Emidec => "EMIDEC",
        })
    }
}

impl FromStr for DataSet {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|dataset| dataset.name() == name).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.into_iter().map(Self::name).collect();
            format!("{name:?} is none of the data sets that can be read: {}", known.join(", "))
        })
    }
}

/// Where the labels of a data set go.
#[derive(Clone, Debug)]
pub struct LabelsOut {
    /// The folder to be written; a folder of labels that an import of the same images wrote there before is replaced.
    pub folder: PathBuf,
    /// A file with another map of codes than the data set's own ([`DataSet::codes`]), for a copy that was recoded.
    pub codes: Option<PathBuf>,
}

/// What came of an import.
#[derive(Clone, Debug)]
pub struct Imported {
    /// What is in the cache now.
    pub report: IntakeReport,
    /// The labels, if they were asked for and the folder holds any.
    pub labels: Option<ImportedLabels>,
    /// Subjects that the data set's table names, and of whom the folder has no images.
    pub absent: usize,
}

/// A folder of labels that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedLabels {
    /// The folder: what `--labels` takes.
    pub folder: PathBuf,
    /// Rows of `masks.csv`.
    pub masks: usize,
    /// Subjects with a mask.
    pub masked: usize,
    /// The column of `classes.csv`.
    pub column: &'static str,
    /// Subjects with a class in it.
    pub classed: usize,
    /// Diagnoses of the data set that are none of the column's classes, with their subjects; their cells are empty.
    pub other: BTreeMap<String, usize>,
}

/// Cases that are read side by side: each holds the frames of a cine.
const SIDE_BY_SIDE: usize = 4;

/// Reads a data set's folder into a cache, and writes its labels if a place for them is named.
///
/// Cases whose files are as they were are not decoded again. On an error the cache and the labels are as before. Of `options`
/// the workers and the tolerance are not used: nothing is left out.
pub fn import(
    dataset: DataSet,
    folder: &Path,
    options: &IntakeOptions,
    labels: Option<&LabelsOut>,
    progress: &mut dyn FnMut(&IntakeProgress),
) -> Result<Imported, ImportError> {
    let listing = Listing::read(folder)?;
    let found = dataset.cases(&listing)?;
    let codes = match labels {
        Some(out) => Some(written::codes(dataset, out, &listing)?),
        None => None,
    };
    let key = public_key(&options.secret, dataset, listing.root());
    let cache = CacheFolder::lock(&options.cache, &options.secret)?;
    let mut writer = FrameWriter::open(&cache, &options.images)?;
    Order::of(options).drop_others(&mut writer)?;
    let own = |writer: &FrameWriter| -> BTreeMap<SeriesId, SeriesRecord> {
        let records = writer.latest().values().filter(|record| record.source == key);
        records.map(|record| (record.id(), record.clone())).collect()
    };
    let before = own(&writer);
    let source =
        frames::Source { dataset, key, listing: &listing, options, codes: codes.as_ref().map(|held| &held.codes) };
    let done = fill(&mut writer, &source, &found.cases, &before, progress).and_then(|counts| {
        let written = match (labels, &codes) {
            (Some(out), Some(codes)) => written::write(dataset, out, codes, &found)?,
            _ => None,
        };
        writer.commit()?;
        Ok((counts, written))
    });
    match done {
        Ok((counts, labels)) => {
            if !options.keep_other_plans {
                cache.remove_other_plans(&options.images)?;
            }
            let records = writer.latest().values().filter(|record| record.source == key);
            let report = IntakeReport::of(records, listing.count(), counts, writer.frame_count());
            Ok(Imported { report, labels, absent: found.absent })
        }
        Err(error) => {
            // Frames are only ever added: those of before are still there.
            let after: Vec<SeriesId> = own(&writer).into_keys().filter(|id| !before.contains_key(id)).collect();
            after.into_iter().try_for_each(|id| writer.remove(id))?;
            before.into_values().try_for_each(|record| writer.relabel(record))?;
            writer.commit()?;
            Err(error)
        }
    }
}

/// Brings the cache in line with the cases; what it cannot use ends it.
fn fill(
    writer: &mut FrameWriter,
    source: &frames::Source<'_>,
    cases: &[Case],
    before: &BTreeMap<SeriesId, SeriesRecord>,
    progress: &mut dyn FnMut(&IntakeProgress),
) -> Result<Counts, ImportError> {
    let mut counts = Counts::default();
    let (mut gone, mut done, mut frames) = (before.clone(), 0, 0);
    for batch in cases.chunks(SIDE_BY_SIDE) {
        if source.options.stopped.load(Ordering::SeqCst) {
            return Err(ImportError::Stopped);
        }
        let made: Vec<Result<Vec<Made>, ImportError>> =
            batch.par_iter().map(|case| frames::make(case, source, before)).collect();
        for made in made {
            for made in made? {
                gone.remove(&made.record.id());
                match made.frames {
                    Some(pixels) => {
                        frames += pixels.len() as u64;
                        writer.add(made.record, &pixels)?;
                        counts.new += 1;
                    }
                    None => counts.unchanged += 1,
                }
            }
            done += 1;
            progress(&IntakeProgress { stage: Stage::Frames, done, total: cases.len(), frames });
        }
    }
    for id in gone.into_keys() {
        writer.remove(id)?;
        counts.removed += 1;
    }
    Ok(counts)
}

#[cfg(test)]
mod tests;
