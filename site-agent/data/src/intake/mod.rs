//! From a folder or an archive to a frame cache, doing again only what changed.
//!
//! ```text
//! walk ─▶ headers (workers; known files from headers.log) ─▶ catalogue ─▶ frames (workers) ─▶ cache, ledger, report
//! ```
//!
//! A kill at any moment costs at most the work since the last flush; the next run goes on from there.

mod frames;
mod headers;
mod listed;
mod report;
mod spot;
mod walk;
mod workers;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::{fs, io};

use common::plan::ImagePlan;

pub(crate) use frames::Counts;
pub use listed::Listed;
pub(crate) use listed::{Order, public_key};
pub use report::{IntakeReport, SkipCount, ViewCount};
pub use spot::{SpotCheck, spot_check};
pub(crate) use walk::walk;
pub use workers::Workers;

use crate::cache::{CacheError, CacheFolder, FrameWriter};
use crate::catalogue::catalogue;
use crate::durable::replace;
use crate::keys::{PathKey, SiteSecret};
use crate::limits::IntakeLimits;
use crate::skip::{self, Skip};

/// What an intake needs to know.
#[derive(Clone, Debug)]
pub struct IntakeOptions {
    /// Where the cache is, or will be.
    pub cache: PathBuf,
    /// How images become frames.
    pub images: ImagePlan,
    /// What keys the site's pseudonyms.
    pub secret: SiteSecret,
    /// Who parses files.
    pub workers: Workers,
    /// What is permitted.
    pub limits: IntakeLimits,
    /// Share of images, and of files, that may be faulty, 0 to 1; above it the intake reports
    /// [`IntakeError::TooManyFaults`].
    pub tolerance: f64,
    /// Keep the frames of other image plans beside this one's.
    pub keep_other_plans: bool,
    /// All sources that the cache is to be made of, in the order in which they are read: what it holds of others goes. Without, whatever
    /// it holds of others stays.
    pub listed: Option<Vec<Listed>>,
    /// Set, from anywhere, it ends the intake soon, as a kill does: what was flushed is not read again.
    pub stopped: Arc<AtomicBool>,
}

impl IntakeOptions {
    /// With the default limits, and a tenth of the images as tolerance.
    pub fn new(cache: PathBuf, images: ImagePlan, secret: SiteSecret, workers: Workers) -> Self {
        let limits = IntakeLimits::default();
        Self {
            cache,
            images,
            secret,
            workers,
            limits,
            tolerance: 0.1,
            keep_other_plans: false,
            listed: None,
            stopped: Arc::default(),
        }
    }
}

/// How far an intake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntakeProgress {
    /// What is being done.
    pub stage: Stage,
    /// Files (headers) or series (frames) done.
    pub done: usize,
    /// Files or series there are.
    pub total: usize,
    /// Frames added to the cache so far.
    pub frames: u64,
}

/// The parts of an intake, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Headers are read.
    Headers,
    /// Frames are normalised and cached.
    Frames,
}

/// Why nothing, or too little, came out of an intake.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The source does not exist or may not be read.
    #[error(
        "cannot read {source_path}: {error}; give a folder of DICOM files or a zip archive that this user may read"
    )]
    Unreadable {
        /// The folder or archive.
        source_path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A folder without a file.
    #[error("{source_path} is empty: put the exported DICOM folders or UK Biobank archives into it")]
    Empty {
        /// The folder.
        source_path: PathBuf,
    },
    /// Files, but no MR image among them.
    #[error(
        "none of the {files} files in {source_path} is a usable cardiac MR image ({reasons}): see {ledger} for each file's reason"
    )]
    NoImages {
        /// The folder or archive.
        source_path: PathBuf,
        /// Files there are.
        files: usize,
        /// How often each reason occurred.
        reasons: String,
        /// Where the ledger is.
        ledger: PathBuf,
    },
    /// More faults than the site permits. No frame of the source is left in the cache; what its headers say is, so that
    /// another try need not read them again.
    #[error("{} of {} images and {} of {} files are faulty, more than the permitted {:.1} %: see {} for each one's reason and remedy, or raise the tolerance", report.faults, report.faults + report.images, report.faulty_files, report.image_files, 100.0 * tolerance, ledger.display())]
    TooManyFaults {
        /// What was found, and how much of it could be read.
        report: Box<IntakeReport>,
        /// The share permitted.
        tolerance: f64,
        /// Where the ledger is.
        ledger: PathBuf,
    },
    /// No worker could be started.
    #[error(
        "the intake worker {program} cannot be started: {error}; reinstall the site agent, or point to the worker's program"
    )]
    NoWorker {
        /// The program.
        program: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It was asked to stop.
    #[error("reading the images was stopped; the next time goes on from there")]
    Stopped,
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// Brings a cache up to date with a source: a folder, walked to its ends, or one archive or file.
///
/// Series whose files have gone from this source are dropped; other sources' series stay, unless [`IntakeOptions::listed`] says otherwise.
pub fn index(
    source: &Path,
    options: &IntakeOptions,
    progress: &mut dyn FnMut(&IntakeProgress),
) -> Result<IntakeReport, IntakeError> {
    let unreadable = |error| IntakeError::Unreadable { source_path: source.to_owned(), error };
    // One source, however it is spelled.
    let root = source.canonicalize().map_err(unreadable)?;
    let files = walk(&root).map_err(unreadable)?;
    if files.is_empty() {
        return Err(IntakeError::Empty { source_path: source.to_owned() });
    }
    let folder = CacheFolder::lock(&options.cache, &options.secret)?;
    let key = listed::dicom_key(&options.secret, &root);
    let crew = workers::Crew::new(options, &root);

    let mut found = headers::read_all(&files, key, &folder, &crew, progress)?;
    let mut skips = std::mem::take(&mut found.skips);
    let catalogue = catalogue(&found.images);
    for (place, reason) in &catalogue.skipped {
        let image = &found.images[*place];
        let entry = found.entry_name(image.file, image.entry).map(str::to_owned);
        skips.push(Skip { file: files[image.file].relative.clone(), entry, reason: reason.clone() });
    }

    let mut writer = FrameWriter::open(&folder, &options.images)?;
    let order = Order::of(options);
    order.drop_others(&mut writer)?;
    let sources = frames::Sources { key, order, files: &files, found: &found, secret: &options.secret };
    let mut built = frames::build(&catalogue, &sources, &mut writer, &crew, progress)?;
    skips.append(&mut built.skips);
    skips.sort_by(|a, b| (&a.file, &a.entry).cmp(&(&b.file, &b.entry)));
    let ledger = write_ledger(&folder, key, &skips)?;

    let mut report = IntakeReport::new(&sources, &writer, &built, &skips);
    if report.images == 0 {
        let reasons = report.reasons();
        return Err(IntakeError::NoImages { source_path: source.to_owned(), files: files.len(), reasons, ledger });
    }
    if report.exceeds(options.tolerance) {
        writer.remove_source(key)?;
        report.cache_frames = writer.frame_count();
        return Err(IntakeError::TooManyFaults { report: Box::new(report), tolerance: options.tolerance, ledger });
    }
    if !options.keep_other_plans {
        folder.remove_other_plans(&options.images)?;
    }
    Ok(report)
}

/// Brings a source's lines in the ledger of all sources up to date; where the ledger is.
fn write_ledger(folder: &CacheFolder, source: PathKey, skips: &[Skip]) -> Result<PathBuf, CacheError> {
    let path = folder.path().join("skipped.jsonl");
    let held = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    };
    let written = held.and_then(|held| replace(&path, &skip::ledger(&held, source, skips)?));
    written.map_err(CacheError::disk(&path))?;
    Ok(path)
}
