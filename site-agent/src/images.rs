//! The site's images on a plan's grid: sources, secret, caches. Parsing happens in child processes of `data`.

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use common::plan::ImagePlan;
use common::{Decline, Digest};
use data::{
    CacheError, DataSet, ImportError, Imported, IntakeError, IntakeOptions, IntakeProgress, IntakeReport, LabelsOut,
    Listed, SiteSecret, SpotCheck, Workers,
};

use crate::config::{IntakeConfig, Source, Sources};
use crate::durable::{self, DiskError};
use crate::home::Home;

/// The verb of this program that parses files for its parent.
pub const PARSER_VERB: &str = "intake-worker";

/// What an intake left behind.
#[derive(Clone, Debug)]
pub struct Indexed {
    /// Frames in the cache.
    pub frames: u64,
    /// One report a source.
    pub reports: Vec<(PathBuf, IntakeReport)>,
}

/// Why a site has no usable images.
#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    /// Nothing was indexed yet.
    #[error("this site has no images yet: name a folder or zip with `site-agent index <folder|zip>`")]
    NoSources,
    /// The intake failed.
    #[error(transparent)]
    Intake(#[from] IntakeError),
    /// A public data set was not taken in.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The list of sources names a data set that this version does not know.
    #[error(
        "{path} lists the data set {dataset:?}, which this version cannot read: remove it from the list, or update"
    )]
    DataSet {
        /// The list.
        path: String,
        /// What it names.
        dataset: String,
    },
    /// A source that the list of sources cannot hold.
    #[error(
        "{} is not written in UTF-8, and the list of sources is: rename the folder or archive, or one above it, in letters that are", .path.display()
    )]
    NotUtf8 {
        /// The source.
        path: PathBuf,
    },
    /// The disk said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The secret under which subjects are named is readable by others, or damaged.
    #[error("{path}: {why}")]
    Secret {
        /// The file.
        path: String,
        /// What is wrong, with the remedy.
        why: String,
    },
}

impl ImagesError {
    /// What a log may hold of it: no path of the hospital's, which may be called what a patient is called. `site-agent index`
    /// shows the whole.
    pub fn for_a_log(&self) -> String {
        let told = match self {
            Self::Intake(IntakeError::Unreadable { error, .. }) => {
                format!("a source of images cannot be read ({error})")
            }
            Self::Intake(IntakeError::Empty { .. }) => "a source of images is empty".to_owned(),
            Self::Intake(IntakeError::NoImages { files, reasons, .. }) => {
                format!("none of the {files} files of a source is a usable cardiac MR image ({reasons})")
            }
            Self::Intake(IntakeError::TooManyFaults { report, tolerance, .. }) => format!(
                "{} of {} images of a source are faulty, more than the permitted {:.1} %",
                report.faults,
                report.faults + report.images,
                100.0 * tolerance
            ),
            // These name files of the agent's own.
            Self::NoSources
            | Self::Intake(IntakeError::NoWorker { .. } | IntakeError::Stopped | IntakeError::Cache(_))
            | Self::Import(ImportError::Cache(_))
            | Self::DataSet { .. }
            | Self::Disk(_)
            | Self::Secret { .. } => return self.to_string(),
            Self::Import(_) => "a public data set cannot be taken in".to_owned(),
            Self::NotUtf8 { .. } => "the path of a source of images is not written in UTF-8".to_owned(),
        };
        format!("{told}: `site-agent index` with that source shows which, and why")
    }

    /// What to tell the aggregator.
    pub fn decline(&self) -> Decline {
        // By the system's own answer, which every error of a disk holds innermost.
        let mut causes = std::iter::successors(Some(self as &dyn Error), |&error| error.source());
        if causes.any(|cause| cause.downcast_ref().is_some_and(durable::is_full)) {
            return Decline::DiskFull;
        }
        match self {
            Self::Intake(IntakeError::TooManyFaults { .. }) => Decline::TooManySkipped,
            Self::Intake(IntakeError::Cache(cache)) | Self::Import(ImportError::Cache(cache)) => of_cache(cache),
            Self::Import(ImportError::Labels { .. }) => Decline::NoLabels,
            // Of images there may be enough: this program, or what it runs on, is not well. The log says what it is.
            Self::Intake(IntakeError::NoWorker { .. } | IntakeError::Stopped)
            | Self::Import(ImportError::Stopped)
            | Self::Disk(_)
            | Self::Secret { .. } => Decline::TrainingFailed,
            Self::NoSources | Self::Intake(_) | Self::Import(_) | Self::DataSet { .. } | Self::NotUtf8 { .. } => {
                Decline::TooFewImages
            }
        }
    }
}

/// What a cache that cannot be used means: images that are still to be indexed, or a machine on which something broke.
fn of_cache(error: &CacheError) -> Decline {
    match error {
        CacheError::Damaged { .. }
        | CacheError::Busy { .. }
        | CacheError::OtherSecret { .. }
        | CacheError::Disk { .. } => Decline::TrainingFailed,
        _ => Decline::TooFewImages,
    }
}

/// What names a grid: the digest of its settings, without the mean and deviation that are applied to crops.
pub fn grid_digest(images: &ImagePlan) -> Digest {
    let grid = ImagePlan { mean: 0.0, std: 1.0, ..images.clone() };
    Digest::of(serde_json::to_string(&grid).unwrap_or_default().as_bytes())
}

/// The cache of a grid, whether or not it is there.
pub fn cache_folder(home: &Home, images: &ImagePlan) -> PathBuf {
    home.images().join(format!("cache-{}", grid_digest(images).short()))
}

/// Whether there is a cache of any grid.
pub(crate) fn has_caches(home: &Home) -> bool {
    let here = fs::read_dir(home.images()).into_iter().flatten().flatten();
    here.filter(|entry| entry.path().is_dir()).any(|entry| entry.file_name().to_string_lossy().starts_with("cache-"))
}

/// The cache of a grid, once an intake of all the sources that are recorded now has finished within the tolerance that is set now.
pub fn cache_for(home: &Home, images: &ImagePlan, config: &IntakeConfig) -> Result<Option<PathBuf>, DiskError> {
    let folder = cache_folder(home, images);
    let mark = durable::read_if_there(&finished(&folder))?.unwrap_or_default();
    let mark = String::from_utf8_lossy(&mark);
    let known = sources(home)?.digest().to_string();
    let holds = mark.split_once(' ').is_some_and(|(read, tolerance)| {
        read == known && tolerance.parse().is_ok_and(|tolerance: f64| tolerance <= config.tolerance)
    });
    // Whoever removes a damaged one has it made again.
    Ok((holds && folder.is_dir()).then_some(folder))
}

fn finished(cache: &Path) -> PathBuf {
    cache.with_added_extension("finished")
}

/// What an intake leaves that has finished: which sources it read, and what share of faults it would have let pass. With less it might
/// have ended otherwise.
fn mark(read: &Sources, tolerance: f64) -> String {
    format!("{} {tolerance}", read.digest())
}

/// The recorded sources.
pub fn sources(home: &Home) -> Result<Sources, DiskError> {
    Sources::read(&sources_file(home))
}

fn sources_file(home: &Home) -> PathBuf {
    home.images().join("sources.json")
}

/// Adds a source to the list as it is by now: it may have changed while the images were read.
fn record(home: &Home, source: Source) -> Result<(), DiskError> {
    let path = sources_file(home);
    let _lock = durable::lock_beside(&path)?;
    let mut sources = Sources::read(&path)?;
    sources.add(source);
    sources.write(&path)
}

/// Refuses what the list, which is JSON, could not hold in the end.
fn require_utf8(path: &Path) -> Result<(), ImagesError> {
    path.to_str().map(drop).ok_or_else(|| ImagesError::NotUtf8 { path: path.to_owned() })
}

/// Reads every recorded source onto a grid, and a new folder or zip of DICOM, again only what changed.
///
/// The new one is recorded once all of it was read, so that a folder named by mistake stands in nobody's way. Until all
/// is read the grid counts as not indexed: nothing trains on what the site's tolerance refused.
pub fn index_all(
    home: &Home,
    new: &Path,
    images: &ImagePlan,
    config: &IntakeConfig,
    program: &Path,
    progress: &mut dyn FnMut(&IntakeProgress),
) -> Result<Indexed, ImagesError> {
    require_utf8(new)?;
    let options = options(home, images, config, program)?;
    read_all(home, Some((&Source::Dicom(new.to_owned()), None)), &options, progress).map(|(indexed, _)| indexed)
}

/// As [`index_all`], of what is recorded, until `stopped` is set. The list stays as it is.
pub fn index_until(
    stopped: &Arc<AtomicBool>,
    home: &Home,
    images: &ImagePlan,
    config: &IntakeConfig,
    program: &Path,
    progress: &mut dyn FnMut(&IntakeProgress),
) -> Result<Indexed, ImagesError> {
    let options = IntakeOptions { stopped: Arc::clone(stopped), ..options(home, images, config, program)? };
    read_all(home, None, &options, progress).map(|(indexed, _)| indexed)
}

/// As [`index_all`], with the folder of a public data set as the new source and its labels written.
pub fn import(
    home: &Home,
    new: (DataSet, &Path),
    labels: &LabelsOut,
    images: &ImagePlan,
    config: &IntakeConfig,
    program: &Path,
    progress: &mut dyn FnMut(&IntakeProgress),
) -> Result<Imported, ImagesError> {
    let (dataset, folder) = new;
    require_utf8(folder)?;
    let source = Source::Public { dataset: dataset.name().to_owned(), folder: folder.to_owned() };
    let options = options(home, images, config, program)?;
    let imported = read_all(home, Some((&source, Some(labels))), &options, progress)?.1;
    imported.ok_or(ImagesError::NoSources)
}

fn options(
    home: &Home,
    images: &ImagePlan,
    config: &IntakeConfig,
    program: &Path,
) -> Result<IntakeOptions, ImagesError> {
    Ok(options_under(secret(home)?, home, images, config, program))
}

fn options_under(
    secret: SiteSecret,
    home: &Home,
    images: &ImagePlan,
    config: &IntakeConfig,
    program: &Path,
) -> IntakeOptions {
    let workers =
        Workers::Processes { program: program.to_owned(), args: vec![PARSER_VERB.into()], count: config.workers };
    let mut options = IntakeOptions::new(cache_folder(home, images), images.clone(), secret, workers);
    options.tolerance = config.tolerance;
    options.limits.worker_memory = config.memory_mib << 20;
    options
}

/// Reads the recorded sources in their order, and a new one, of which labels may be written; what came of those is returned.
///
/// What was read is said of the list as it was at the start: one that has changed meanwhile counts as not indexed.
fn read_all(
    home: &Home,
    new: Option<(&Source, Option<&LabelsOut>)>,
    options: &IntakeOptions,
    progress: &mut dyn FnMut(&IntakeProgress),
) -> Result<(Indexed, Option<Imported>), ImagesError> {
    // One intake of a grid from the list to the mark: another one's older list would drop frames that this one vouches for.
    let Some(_lock) = durable::try_lock_beside(&options.cache)? else {
        return Err(IntakeError::from(CacheError::Busy { folder: options.cache.clone() }).into());
    };
    let mut sources = sources(home)?;
    if let Some((source, _)) = new {
        sources.add(source.clone());
    }
    if sources.0.is_empty() {
        return Err(ImagesError::NoSources);
    }
    durable::remove(&finished(&options.cache))?;
    let listed = sources.0.iter().map(|source| listed(home, source)).collect::<Result<_, _>>()?;
    let options = &IntakeOptions { listed: Some(listed), ..options.clone() };
    let (mut reports, mut labelled) = (Vec::new(), None);
    for source in &sources.0 {
        let report = match source {
            Source::Dicom(path) => data::index(path, options, progress)?,
            Source::Public { dataset, folder } => {
                let dataset = data_set(home, dataset)?;
                let labels = new.filter(|(own, _)| *own == source).and_then(|(_, labels)| labels);
                let imported = data::import(dataset, folder, options, labels, progress)?;
                let report = imported.report.clone();
                if labels.is_some() {
                    labelled = Some(imported);
                }
                report
            }
        };
        reports.push((source.path().to_owned(), report));
    }
    if let Some((source, _)) = new {
        record(home, source.clone())?;
    }
    let frames = reports.last().map_or(0, |(_, report)| report.cache_frames);
    durable::write(&finished(&options.cache), mark(&sources, options.tolerance).as_bytes())?;
    Ok((Indexed { frames, reports }, labelled))
}

fn listed(home: &Home, source: &Source) -> Result<Listed, ImagesError> {
    Ok(match source {
        Source::Dicom(path) => Listed::Dicom(path.clone()),
        Source::Public { dataset, folder } => Listed::Public(data_set(home, dataset)?, folder.clone()),
    })
}

fn data_set(home: &Home, dataset: &str) -> Result<DataSet, ImagesError> {
    let unknown =
        |_| ImagesError::DataSet { path: sources_file(home).display().to_string(), dataset: dataset.to_owned() };
    dataset.parse().map_err(unknown)
}

/// A look at a few files of a source; nothing is kept.
pub(crate) fn spot_check(
    home: &Home,
    source: &Path,
    config: &IntakeConfig,
    program: &Path,
    most: usize,
) -> Result<SpotCheck, ImagesError> {
    // Of names under a secret nothing is kept: who only looks makes none.
    let none = SiteSecret::new([0; 32]);
    let options = options_under(none, home, &ImagePlan::default(), config, program);
    Ok(data::spot_check(source, &options, most)?)
}

/// Where that secret is.
pub(crate) fn secret_path(home: &Home) -> PathBuf {
    home.images().join("secret.key")
}

/// The secret under which subjects are named: made here at first use, 0600, never sent.
pub(crate) fn secret(home: &Home) -> Result<SiteSecret, ImagesError> {
    let path = secret_path(home);
    if !path.exists() {
        fs::create_dir_all(home.images()).map_err(durable::told("create", &home.images()))?;
        let mut bytes = [0; 32];
        let random = fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
        random.map_err(durable::told("read", Path::new("/dev/urandom")))?;
        let beside = path.with_added_extension("part");
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside);
        let written = file.and_then(|mut file| {
            file.write_all(SiteSecret::new(bytes).to_hex().as_bytes())?;
            file.sync_all()
        });
        written.map_err(durable::told("write", &path))?;
        durable::publish(&beside, &path)?;
    }
    read_secret(&path)
}

/// Reads a secret that is there.
pub(crate) fn read_secret(path: &Path) -> Result<SiteSecret, ImagesError> {
    let wrong = |why: &str| ImagesError::Secret { path: path.display().to_string(), why: why.to_owned() };
    let mode = fs::metadata(path).map_err(durable::told("read", path))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(wrong(&format!("mode {mode:o} lets others read this secret: chmod 600 it")));
    }
    let text = String::from_utf8(durable::read(path)?).unwrap_or_default();
    SiteSecret::from_hex(text.trim()).ok_or_else(|| {
        wrong("this is not a secret of 64 hexadecimal digits; remove it, and the caches beside it, to start over")
    })
}

#[cfg(test)]
mod tests {
    use std::io::{self, ErrorKind};

    use super::*;

    #[test]
    fn a_look_at_images_makes_no_secret_and_a_cache_without_one_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join("state"));
        fs::create_dir_all(home.images()).unwrap();
        let source = folder.path().join("source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("no-image"), "no image").unwrap();
        // Whether anything can be looked at is another matter: this is no program that parses.
        drop(spot_check(&home, &source, &IntakeConfig::default(), Path::new("/nowhere/site-agent"), 1));
        assert!(!secret_path(&home).exists());
        assert!(!has_caches(&home));
        fs::create_dir(cache_folder(&home, &ImagePlan::default())).unwrap();
        assert!(has_caches(&home));
    }

    #[test]
    fn a_full_disk_is_told_as_one_wherever_it_was_met() {
        let full = || io::Error::from(ErrorKind::StorageFull);
        let disk = |source| CacheError::Disk { path: PathBuf::from("frames-0.bin"), source };
        let met = [
            ImagesError::from(IntakeError::from(disk(full()))),
            ImportError::from(disk(io::Error::from(ErrorKind::QuotaExceeded))).into(),
            ImportError::Labels { file: PathBuf::from("masks.csv"), source: full() }.into(),
            durable::told("write", Path::new("secret.key"))(full()).into(),
        ];
        for error in met {
            assert_eq!(error.decline(), Decline::DiskFull, "{error}");
        }
        let denied = disk(io::Error::from(ErrorKind::PermissionDenied));
        assert_eq!(ImagesError::from(IntakeError::from(denied)).decline(), Decline::TrainingFailed);
    }

    #[test]
    fn a_source_that_the_list_could_not_hold_is_refused_before_anything_is_read() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;

        let folder = tempfile::tempdir().unwrap();
        let (home, source) = (Home::at(folder.path()), Path::new(OsStr::from_bytes(b"/export/k\xf6ln")));
        let (grid, config, program) = (ImagePlan::default(), IntakeConfig::default(), Path::new("nowhere"));
        let labels = LabelsOut { folder: folder.path().join("labels"), codes: None };
        let refused = [
            index_all(&home, source, &grid, &config, program, &mut |_| {}).unwrap_err(),
            import(&home, (DataSet::Acdc, source), &labels, &grid, &config, program, &mut |_| {}).unwrap_err(),
        ];
        for error in refused {
            let told = error.to_string();
            assert!(told.contains("is not written in UTF-8") && told.contains("rename the folder"), "{told}");
            assert!(!error.for_a_log().contains("/export"), "{}", error.for_a_log());
        }
    }

    #[test]
    fn a_grid_that_was_read_within_a_tolerance_counts_for_that_one_and_higher_ones() {
        let folder = tempfile::tempdir().unwrap();
        let (home, grid) = (Home::at(folder.path()), ImagePlan::default());
        record(&home, Source::Dicom("/data/cmr".into())).unwrap();
        let at = |tolerance: f64| {
            let config = IntakeConfig { tolerance, ..IntakeConfig::default() };
            cache_for(&home, &grid, &config).unwrap().is_some()
        };
        let leave = |mark: &str| durable::write(&finished(&cache_folder(&home, &grid)), mark.as_bytes()).unwrap();
        let read = sources(&home).unwrap();
        leave(&mark(&read, 0.5));
        assert!(!at(0.5), "there is no cache: whoever removed a damaged one has it made again");
        fs::create_dir(cache_folder(&home, &grid)).unwrap();
        assert!(at(0.5) && at(0.9) && !at(0.05));
        // As an earlier version left it, which did not say.
        leave(&read.digest().to_string());
        assert!(!at(1.0));
    }

    #[test]
    fn a_cache_that_broke_is_no_want_of_images_and_one_that_is_still_to_be_made_is() {
        let folder = || PathBuf::from("cache-1");
        let of = |error: CacheError| ImagesError::from(IntakeError::from(error)).decline();
        let damaged = || CacheError::Damaged { folder: folder(), what: "its last line".to_owned() };
        for broken in [damaged(), CacheError::Busy { folder: folder() }, CacheError::OtherSecret { folder: folder() }] {
            assert_eq!(of(broken), Decline::TrainingFailed);
        }
        let import = ImagesError::from(ImportError::from(damaged()));
        assert_eq!(import.decline(), Decline::TrainingFailed);
        assert!(import.for_a_log().contains("is damaged (its last line)"), "the remedy is in the log");
        assert_eq!(of(CacheError::OtherVersion { folder: folder() }), Decline::TooFewImages);
        assert_eq!(ImagesError::NoSources.decline(), Decline::TooFewImages);
        let empty = IntakeError::Empty { source_path: folder() };
        assert_eq!(ImagesError::from(empty).decline(), Decline::TooFewImages);
    }
}
