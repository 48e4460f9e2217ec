//! DICOM files to catalogue to frame cache to samples to crops.
pub mod dicom;
pub mod keys;
pub mod labels;
pub mod limits;
pub mod skip;
