//! DICOM files to catalogue to frame cache to samples to crops.
//!
//! ```text
//! folder or zip ─ worker ─▶ headers ─▶ catalogue ─▶ normalised frames ─▶ FrameCache ─▶ Sampler ─▶ CropMaker
//! a public data set ───────────────────▶ normalised frames ─▶ FrameCache, and a folder of labels
//! a site's labels ─────────────────────▶ annotations (classes, masks, landmarks of what is in the cache)
//! ```
//!
//! Knows no network and no model. What identifies a patient becomes a pseudonym in the function that reads it; what
//! cannot be used is left out with a reason; hostile files are parsed in a child process.

mod annotations;
mod archive;
mod cache;
mod catalogue;
mod crops;
mod dicom;
mod durable;
mod evaluation;
mod geometry;
mod intake;
mod keys;
#[cfg(test)]
mod kolmogorov;
mod labels;
mod limits;
mod manifest;
mod nifti;
mod normalize;
mod photometry;
mod public;
mod resample;
mod sample;
mod skip;
mod split;
mod views;
mod worker;

pub use annotations::{
    FrameLandmarks, LabelError, Labels, MaskCodes, SeriesMask, SliceClasses, TableRow, mask_on_frame,
};
pub use cache::{CacheError, FrameCache, FramePixels, FrameRef, SeriesRecord, SkippedImage, SliceRecord};
pub use crops::{CropBatch, CropMaker, Crops};
pub use evaluation::{LabelledFrame, frames_for_evaluation, shown_frame, whole_frames};
pub use geometry::{FrameGrid, Placement};
pub use intake::{
    IntakeError, IntakeOptions, IntakeProgress, IntakeReport, Listed, SkipCount, SpotCheck, Stage, ViewCount, Workers,
    index, spot_check,
};
pub use keys::{PathKey, SeriesKey, SiteSecret, StudyKey, SubjectKey};
pub use labels::{Level, Plane, Rule, Sequence, Vendor};
pub use limits::IntakeLimits;
pub use nifti::{
    Affine, MAX_VOXELS, NiftiError, StackError, Volume, Voxel, read_nifti, slice_affine, stack_affine, write_nifti,
};
pub use public::{DataSet, ImportError, Imported, ImportedLabels, LabelsOut, import};
pub use sample::{NothingToSample, Sampler};
pub use skip::SkipReason;
pub use split::Split;
pub use views::{ViewMaker, Warp};
pub use worker::{holds_files, worker_main};
