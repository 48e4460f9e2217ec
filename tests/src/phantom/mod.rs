//! A CMR phantom: an analytic beating heart, scanned by four unlike hospitals, written as real DICOM files.
//!
//! The geometry and the signals follow published magnitudes (bSSFP cine over the cycle, late enhancement with scar,
//! native T1 maps). Labels as a site's readers would leave them, and the analytic truth, are kept beside. The same seed
//! gives the same bytes.

mod chest;
mod dicom;
mod enhanced;
mod heart;
mod labels;
mod planes;
mod scanner;
mod sheet;
mod signal;
mod sites;
mod truth;

use std::path::{Path, PathBuf};

pub use heart::Disease;
pub use sheet::write_sheet;
pub use sites::{SiteSpec, write_site};
pub use truth::{SiteTruth, SubjectTruth};

/// Why phantom images could not be written.
#[derive(Debug, thiserror::Error)]
pub enum PhantomError {
    /// The disk said no.
    #[error("the phantom's images cannot be written: {0}")]
    Io(#[from] std::io::Error),
    /// A DICOM file could not be made.
    #[error("a phantom's DICOM file cannot be made: {0}")]
    Dicom(String),
    /// A zip could not be made.
    #[error("a phantom's zip cannot be made: {0}")]
    Zip(#[from] zip::result::ZipError),
    /// A mask could not be written.
    #[error("a phantom's mask cannot be written: {0}")]
    Mask(#[from] data::NiftiError),
    /// A picture could not be made.
    #[error("a phantom's picture cannot be made: {0}")]
    Picture(#[from] png::EncodingError),
}

/// How far a site is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Subjects written.
    pub done: usize,
    /// Subjects in all.
    pub total: usize,
}

/// Where the DICOM files of a site lie: what its agent is pointed at. The truth lies beside, not inside.
pub fn dicom_folder(folder: &Path) -> PathBuf {
    folder.join("dicom")
}

/// Where a site's labels lie, as an agent takes them.
pub fn labels_folder(folder: &Path) -> PathBuf {
    folder.join("labels")
}
