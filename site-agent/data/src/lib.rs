//! DICOM files to catalogue to frame cache to samples to crops.
