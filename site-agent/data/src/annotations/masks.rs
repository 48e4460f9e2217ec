//! Masks of whole series: read, matched to slices, their codes turned into classes.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;

use super::codes::{CodeMap, Codes};
use super::matching::{Fit, MaskGrid, described_images, described_mask};
use super::tables::MaskRow;
use super::{LabelError, SeriesIndex, order, phase_of};
use crate::cache::{FrameCache, SeriesRecord};
use crate::labels::Plane;
use crate::nifti::{NiftiError, read_nifti};

/// The masks of a series at one phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesMask {
    /// The series' place in [`FrameCache::series`].
    pub series: u32,
    /// The frame of the cardiac cycle, from 0.
    pub phase: u32,
    /// One for each slice of the record, none for a slice that no file covers: 0 for background, else the class's place
    /// plus 1. [rows x columns] as acquired
    pub slices: Vec<Option<Vec<u8>>>,
}

/// Files that are read side by side.
const BATCH: usize = 64;

/// A row whose mask is wanted, and the records it may belong to, each with its phase.
struct Wanted<'a> {
    row: &'a MaskRow,
    records: Vec<(u32, &'a SeriesRecord, u32)>,
}

/// A slice's mask, and its row's line.
type Drawn = (u64, Vec<u8>);

/// What a file holds of one record.
struct Held {
    series: u32,
    phase: u32,
    /// By the slice's place in the record.
    slices: Vec<(usize, Vec<u8>)>,
}

/// Reads the masks of all series that are wanted.
pub(super) fn read_all(
    rows: &[MaskRow],
    folder: &Path,
    codes: &Codes,
    cache: &FrameCache,
    wanted: &dyn Fn(&SeriesRecord) -> bool,
    classes: &[String],
) -> Result<Vec<SeriesMask>, LabelError> {
    let map = codes.of(classes)?;
    let index = SeriesIndex::of(cache);
    let mut todo = Vec::new();
    for row in rows {
        let records = index.records(&row.at, row.subject, row.series)?;
        let records: Vec<_> = records.into_iter().filter(|(_, record)| wanted(record)).collect();
        if records.is_empty() {
            continue;
        }
        // Parts of a series may have other phases: those that have the row's are meant.
        let phased: Vec<_> = records.iter().map(|(_, record)| phase_of(&row.at, row.phase, record)).collect();
        if phased.iter().all(Result::is_err) {
            phased.into_iter().collect::<Result<Vec<_>, _>>()?;
            continue;
        }
        let records = records.into_iter().zip(phased).filter_map(|((place, record), phase)| {
            let phase = phase.ok()?;
            Some((place, record, phase))
        });
        todo.push(Wanted { row, records: records.collect() });
    }
    let mut merged: BTreeMap<(u32, u32), Vec<Option<Drawn>>> = BTreeMap::new();
    for batch in todo.chunks(BATCH) {
        let read: Vec<Result<Vec<Held>, LabelError>> =
            batch.par_iter().map(|wanted| read_one(wanted, folder, codes, &map, classes)).collect();
        for (wanted, held) in batch.iter().zip(read) {
            for Held { series, phase, slices } in held? {
                let count = cache.series()[series as usize].slices.len();
                let all = merged.entry((series, phase)).or_insert_with(|| vec![None; count]);
                for (slice, pixels) in slices {
                    if let Some((first, _)) = all[slice].replace((wanted.row.at.line, pixels)) {
                        return Err(LabelError::Twice {
                            at: wanted.row.at.clone(),
                            first,
                            what: "a slice of the series",
                        });
                    }
                }
            }
        }
    }
    let masks = merged.into_iter().map(|((series, phase), slices)| {
        let slices = slices.into_iter().map(|slice| slice.map(|(_, pixels)| pixels)).collect();
        SeriesMask { series, phase, slices }
    });
    Ok(masks.collect())
}

/// Whether a row's file is there.
pub(super) fn is_there(folder: &Path, row: &MaskRow) -> Result<(), LabelError> {
    let file = folder.join(&row.file);
    let source = match std::fs::metadata(&file) {
        Ok(held) if held.is_file() => return Ok(()),
        Ok(_) => std::io::ErrorKind::IsADirectory.into(),
        Err(error) => error,
    };
    Err(LabelError::Mask { at: row.at.clone(), source: NiftiError::Disk { file, source } })
}

/// One file, cut into the slices of its records.
fn read_one(
    wanted: &Wanted<'_>,
    folder: &Path,
    codes: &Codes,
    map: &CodeMap,
    classes: &[String],
) -> Result<Vec<Held>, LabelError> {
    let Wanted { row, records } = wanted;
    let (at, file) = (|| row.at.clone(), folder.join(&row.file));
    let volume = read_nifti(&file).map_err(|source| LabelError::Mask { at: at(), source })?;
    if volume.dims[3] > 1 {
        return Err(LabelError::Moments { at: at(), file, moments: volume.dims[3] });
    }
    let unknown = |value: f32| LabelError::UnknownCode { at: at(), file: file.clone(), value, known: map.listed() };
    let places = volume.values.iter().map(|value| map.place(*value).ok_or_else(|| unknown(*value)));
    let voxels: Vec<u8> = places.collect::<Result<_, _>>()?;
    let grid = MaskGrid::of(volume.dims, &volume.affine);
    let mut found = Found::default();
    for (series, record, phase) in records {
        let slices = found.cut(record, *phase, &grid, &voxels);
        if !slices.is_empty() {
            if record.plane == Plane::Sax {
                let pixels = slices.iter().map(|(_, pixels)| pixels.as_slice());
                order::check(pixels, record.matrix, classes).map_err(|wrong| wrong.refused(at(), &file, codes))?;
            }
            found.held.push(Held { series: *series, phase: *phase, slices });
        }
    }
    let lost = records.iter().any(|(_, record, _)| !record.skipped.is_empty());
    let Found { held, planes, fits, placed } = found;
    let Some(through) = fits.first().map(|fit| fit.through) else {
        if !placed {
            return Err(LabelError::NotPlaced { at: at() });
        }
        let (mask, images) = (described_mask(&volume), described_images(records[0].1));
        return Err(LabelError::Grid { at: at(), file, mask, images });
    };
    // Labels on a plane where no slice is would be lost without a word; a slice may have been left out of the cache.
    let labelled = volume.values.iter().zip(0..).filter(|(value, _)| **value != 0.0);
    let astray = labelled.map(|(_, voxel)| grid.plane_of(through, voxel)).find(|plane| !planes.contains(plane));
    if let Some(plane) = astray.filter(|_| !lost || held.is_empty()) {
        let off = |fit: &Fit| {
            let planes = (fit.plane - plane as i64) as f64;
            grid.depth_mm(through, planes).abs().max(fit.off_mm)
        };
        let off_mm = fits.iter().map(off).fold(f64::INFINITY, f64::min);
        return Err(LabelError::OffSlices { at: at(), file, plane, off_mm, bound_mm: grid.bound_mm(through) });
    }
    Ok(held)
}

/// What was found of a file so far.
#[derive(Default)]
struct Found {
    held: Vec<Held>,
    /// Planes that are slices.
    planes: Vec<usize>,
    /// Slices whose pixels are voxels, on whatever plane.
    fits: Vec<Fit>,
    /// Some slice says where it lies.
    placed: bool,
}

impl Found {
    /// The slices of a record that lie on planes of the mask, as far as they have the phase.
    fn cut(&mut self, record: &SeriesRecord, phase: u32, grid: &MaskGrid, voxels: &[u8]) -> Vec<(usize, Vec<u8>)> {
        let mut slices = Vec::new();
        for (slice, held) in record.slices.iter().enumerate() {
            let Some(placement) = &held.placement else { continue };
            self.placed = true;
            let Some(fit) = grid.fit(placement, record.matrix, record.spacing_mm) else { continue };
            self.fits.push(fit);
            if let Some(plane) = grid.plane(&fit) {
                self.planes.push(plane);
                if phase < held.phases {
                    slices.push((slice, grid.slice(&fit, plane, record.matrix, voxels)));
                }
            }
        }
        slices
    }
}
