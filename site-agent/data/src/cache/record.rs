//! What the cache keeps of a series beside its pixels.

use common::Digest;
use common::codec::Kind;
use serde::{Deserialize, Serialize};

use crate::geometry::Placement;
use crate::keys::{PathKey, SeriesKey, StudyKey, SubjectKey};
use crate::labels::{Level, Plane, Rule, Sequence, Vendor};
use crate::skip::SkipReason;

pub(super) const SERIES: Kind = Kind { name: *b"series\0\0", version: 4 };

/// A line of `series.log`; the last one about a series of a source counts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum SeriesEntry {
    /// The series is here.
    Kept(Box<SeriesRecord>),
    /// Its files are gone.
    Removed(SeriesId),
    /// The frames are in this file from now on.
    Frames(FramesFile),
}

/// A series of one source. Halves of a series that lie in two sources are two of them.
pub(crate) type SeriesId = (PathKey, SeriesKey);

/// Which file of the folder holds the frames: each compaction makes a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FramesFile(pub(crate) u32);

impl FramesFile {
    /// Its name.
    pub(crate) fn name(self) -> String {
        format!("frames-{}.bin", self.0)
    }
}

/// A cached series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeriesRecord {
    /// Its key.
    pub key: SeriesKey,
    /// Whose it is.
    pub subject: SubjectKey,
    /// Its study.
    pub study: StudyKey,
    /// The source (folder or archive) it was indexed from.
    pub source: PathKey,
    /// The scanner's vendor.
    pub vendor: Vendor,
    /// What it shows.
    pub sequence: Sequence,
    /// Which rule said so.
    pub sequence_rule: Rule,
    /// In which plane.
    pub plane: Plane,
    /// Which rule said so.
    pub plane_rule: Rule,
    /// Rows and columns as acquired.
    pub matrix: [u32; 2],
    /// Distance of rows and of columns as acquired, in mm.
    pub spacing_mm: [f64; 2],
    /// From the middle of a slice to that of the next as the scanner was told, in mm: SpacingBetweenSlices (0018,0088),
    /// else SliceThickness (0018,0050).
    pub slice_step_mm: Option<f64>,
    /// The modality values that became 0 and 1; milliseconds for a T1 map. Where low values are bright (MONOCHROME1) the
    /// first is the larger.
    pub window: [f64; 2],
    /// Slices, from base to apex for short-axis stacks. Empty if no image of the series could be used.
    pub slices: Vec<SliceRecord>,
    /// Images of the series that could not be decoded.
    pub skipped: Vec<SkippedImage>,
    /// The first frame's place in `frames.bin`; the others follow, slice after slice.
    pub(crate) first_frame: u64,
    /// What the pixels were made from.
    pub(crate) content: Digest,
    /// SHA-256 of the frames' bytes.
    pub(crate) pixels: Digest,
    /// What each frame is held to whenever it is drawn, in their order.
    pub(crate) sums: Vec<FrameSum>,
}

/// XXH3 of a frame's bytes: what a disk did shows in it, and it takes a tenth of the time of a digest, each time a frame is drawn.
pub(crate) type FrameSum = u64;

pub(super) fn frame_sum(frame: &[u8]) -> FrameSum {
    xxhash_rust::xxh3::xxh3_64(frame)
}

/// A slice of a cached series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SliceRecord {
    /// Along the series' normal, in mm.
    pub position_mm: Option<f64>,
    /// Where its first frame lies in the patient; none if its header does not say.
    pub placement: Option<Placement>,
    /// The third of the ventricle, for short-axis slices.
    pub level: Option<Level>,
    /// Frames, in the order of the cardiac cycle.
    pub phases: u32,
    /// Frames that its headers tell of, with those whose pixels could not be decoded.
    pub acquired: u32,
}

/// An image that was left out when its pixels were read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SkippedImage {
    /// The file.
    pub path: PathKey,
    /// The archive's entry.
    pub entry: Option<u32>,
    /// Why.
    pub reason: SkipReason,
}

/// One frame of a cache, by its place in it. Places are in the order of subject, series, slice and phase, and hold for
/// one opening of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameRef {
    /// In [`super::FrameCache::series`].
    pub series: u32,
    /// In [`SeriesRecord::slices`].
    pub slice: u32,
    /// In the cardiac cycle, from 0.
    pub phase: u32,
}

impl SeriesRecord {
    /// What the cache knows it by.
    pub(crate) fn id(&self) -> SeriesId {
        (self.source, self.key)
    }

    /// The modality value of a fraction of the window, as a cached pixel holds it. What lay outside the window was clipped.
    pub fn modality_value(&self, fraction: f64) -> f64 {
        self.window[0] + fraction * (self.window[1] - self.window[0])
    }

    /// Phases of the cardiac cycle as they were acquired, of the slice that has most: what whoever labelled the images counted.
    pub fn phases(&self) -> u32 {
        self.slices.iter().map(|slice| slice.acquired).max().unwrap_or(0)
    }

    /// Whether all frames of a slice are here: of one that lost some when they were decoded, nobody knows which phase is missing, and so which
    /// those after it are. No other slice tells: a series may have one, or all may have lost as many.
    pub fn is_whole(&self, slice: usize) -> bool {
        self.slices[slice].phases == self.slices[slice].acquired
    }

    /// How many frames there are.
    pub fn frame_count(&self) -> u64 {
        self.slices.iter().map(|slice| u64::from(slice.phases)).sum()
    }

    /// SHA-256 of its pixels: the same images under two names have one.
    pub fn pixels(&self) -> Digest {
        self.pixels
    }

    /// From the middle of a slice to that of the next, in mm: as they lie, if there are several, else as the scanner was told.
    /// None if neither is known.
    pub fn slice_distance_mm(&self) -> Option<f64> {
        let places: Option<Vec<f64>> = self.slices.iter().map(|slice| slice.position_mm).collect();
        match places.as_deref() {
            Some([first, .., last]) => Some((last - first).abs() / (self.slices.len() - 1) as f64),
            _ => self.slice_step_mm,
        }
    }
}
