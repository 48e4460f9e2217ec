//! Reading a cache: which frames there are, and their pixels, straight from the mapped file.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use common::Digest;
use common::plan::ImagePlan;

use super::mapped::Mapped;
use super::record::{FrameRef, SeriesRecord, frame_sum};
use super::writer::{committed, read_series};
use super::{CacheError, frames_folder};
use crate::keys::SubjectKey;

/// An open cache. Cheap to share between threads; what is appended after it was opened is not seen.
pub struct FrameCache {
    folder: PathBuf,
    images: ImagePlan,
    series: Vec<SeriesRecord>,
    bytes: Mapped,
}

/// One frame's pixels.
#[derive(Clone, Copy, Debug)]
pub struct FramePixels<'a> {
    side: usize,
    values: &'a [[u8; 2]],
}

impl FrameCache {
    /// Opens the frames of an image plan in a cache's folder.
    pub fn open(cache: &Path, images: &ImagePlan) -> Result<Self, CacheError> {
        let folder = frames_folder(cache, images);
        if !folder.join("series.log").exists() {
            let wanted = super::plan_digest(images).short();
            let another = cache.join("headers.log").exists();
            let cache = cache.to_owned();
            return Err(match another {
                true => CacheError::OtherPlan { folder: cache, wanted },
                false => CacheError::NotBuilt { folder: cache },
            });
        }
        let records = read_series(&folder)?;
        let length = committed(records.all_frames, images);
        let path = folder.join(records.file.name());
        let bytes = Mapped::open(&path, length).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::NotFound => CacheError::Damaged {
                folder: folder.clone(),
                what: format!("{} holds fewer than the {length} bytes that were written", records.file.name()),
            },
            _ => CacheError::disk(&path)(error),
        })?;
        let mut series: Vec<SeriesRecord> =
            records.latest.into_values().filter(|series| !series.slices.is_empty()).collect();
        series.sort_by_key(|series| (series.subject, series.key, series.source));
        Ok(Self { folder, images: images.clone(), series, bytes })
    }

    /// The plan the frames were made for.
    pub fn images(&self) -> &ImagePlan {
        &self.images
    }

    /// All series, sorted by subject, then key.
    pub fn series(&self) -> &[SeriesRecord] {
        &self.series
    }

    /// All subjects, sorted.
    pub fn subjects(&self) -> Vec<SubjectKey> {
        let mut subjects: Vec<SubjectKey> = self.series.iter().map(|series| series.subject).collect();
        subjects.dedup();
        subjects
    }

    /// How many frames there are.
    pub fn frame_count(&self) -> u64 {
        self.series.iter().map(SeriesRecord::frame_count).sum()
    }

    /// All frames, in the order of subject, series, slice and phase.
    pub fn frames(&self) -> impl Iterator<Item = FrameRef> + '_ {
        (0_u32..).zip(&self.series).flat_map(|(series, record)| {
            (0_u32..)
                .zip(&record.slices)
                .flat_map(move |(slice, record)| (0..record.phases).map(move |phase| FrameRef { series, slice, phase }))
        })
    }

    /// A frame's pixels, held to its checksum: the disk may have changed them since, and may again after they were looked at.
    ///
    /// # Panics
    /// If the frame is not one of [`FrameCache::frames`] of this opening.
    pub fn pixels(&self, frame: FrameRef) -> Result<FramePixels<'_>, CacheError> {
        let record = &self.series[frame.series as usize];
        let slice = frame.slice as usize;
        assert!(frame.phase < record.slices[slice].phases, "phase {} of a shorter slice", frame.phase);
        let before: u64 = record.slices[..slice].iter().map(|slice| u64::from(slice.phases)).sum();
        let place = before + u64::from(frame.phase);
        let side = self.images.frame_size;
        let start = committed(record.first_frame + place, &self.images) as usize; // inside the mapping, so it fits
        let bytes = &self.bytes[start..start + 2 * side * side];
        if record.sums.get(place as usize) != Some(&frame_sum(bytes)) {
            return Err(self.changed(record));
        }
        let (values, _) = bytes.as_chunks::<2>();
        Ok(FramePixels { side, values })
    }

    fn changed(&self, record: &SeriesRecord) -> CacheError {
        let what = format!("the pixels of series {} do not match their checksum", record.key);
        CacheError::Damaged { folder: self.folder.clone(), what }
    }

    /// Reads every frame and holds it to its checksum.
    pub fn verify(&self) -> Result<(), CacheError> {
        for record in &self.series {
            let start = committed(record.first_frame, &self.images) as usize;
            let length = committed(record.frame_count(), &self.images) as usize;
            if Digest::of(&self.bytes[start..start + length]) != record.pixels {
                return Err(self.changed(record));
            }
        }
        Ok(())
    }
}

impl<'a> FramePixels<'a> {
    /// A frame that is in no cache. `values` is [side x side]
    #[cfg(test)]
    pub(crate) fn of(side: usize, values: &'a [[u8; 2]]) -> Self {
        Self { side, values }
    }

    /// Rows, and columns.
    pub fn side(&self) -> usize {
        self.side
    }

    /// A row of little-endian u16: 0 to 65535 for 0..1 of the series' window.
    pub fn row(&self, row: usize) -> &'a [[u8; 2]] {
        &self.values[row * self.side..][..self.side]
    }

    /// The whole frame as fractions 0..1. [side x side]
    pub fn to_vec(&self) -> Vec<f32> {
        self.values.iter().map(|value| f32::from(u16::from_le_bytes(*value)) / f32::from(u16::MAX)).collect()
    }
}
