//! Masks of whole series: read, matched to slices, their codes turned into classes.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;

use super::codes::{CodeMap, Codes, listed};
use super::matching::{Fit, MaskGrid, described_images, described_mask};
use super::tables::MaskRow;
use super::{LabelError, SeriesIndex, order, phase_of};
use crate::cache::{FrameCache, SeriesRecord};
use crate::labels::Plane;
use crate::nifti::{Moments, NiftiError, Volume};

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
    /// Slices that somebody drew on and that end before the phase: what was drawn there belongs to no frame.
    pub short: usize,
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

/// What the files hold of one record at one phase.
struct Merged {
    /// By the slice's place in the record.
    slices: Vec<Option<Drawn>>,
    short: usize,
}

/// What a file holds of one record.
struct Held {
    series: u32,
    phase: u32,
    /// By the slice's place in the record.
    slices: Vec<(usize, Vec<u8>)>,
    /// Slices that are drawn on and end before the phase.
    short: usize,
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
    let mut merged: BTreeMap<(u32, u32), Merged> = BTreeMap::new();
    for batch in todo.chunks(BATCH) {
        let read: Vec<Result<Vec<Held>, LabelError>> =
            batch.par_iter().map(|wanted| read_one(wanted, folder, codes, &map, classes)).collect();
        for (wanted, held) in batch.iter().zip(read) {
            for Held { series, phase, slices, short } in held? {
                let count = cache.series()[series as usize].slices.len();
                let all =
                    merged.entry((series, phase)).or_insert_with(|| Merged { slices: vec![None; count], short: 0 });
                all.short += short;
                for (slice, pixels) in slices {
                    if let Some((first, _)) = all.slices[slice].replace((wanted.row.at.line, pixels)) {
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
    let masks = merged.into_iter().map(|((series, phase), Merged { slices, short })| {
        let slices = slices.into_iter().map(|slice| slice.map(|(_, pixels)| pixels)).collect();
        SeriesMask { series, phase, slices, short }
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

/// Reads a row's file for one record and keeps nothing; the file's path is whole.
pub(super) fn check(row: &MaskRow, record: &SeriesRecord, codes: &Codes) -> Result<(), LabelError> {
    let classes = codes.whole_classes();
    let phase = phase_of(&row.at, row.phase, record)?;
    let wanted = Wanted { row, records: vec![(0, record, phase)] };
    read_one(&wanted, Path::new(""), codes, &codes.of(&classes)?, &classes).map(|_| ())
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
    let volume = volume_of(row, &file, records)?;
    let unknown = |value: f32| LabelError::UnknownCode { at: at(), file: file.clone(), value, known: map.listed() };
    let places = volume.values.iter().map(|value| map.place(*value).ok_or_else(|| unknown(*value)));
    let voxels: Vec<u8> = places.collect::<Result<_, _>>()?;
    let grid = MaskGrid::of(volume.dims, &volume.affine);
    let mut found = Found::default();
    for (series, record, phase) in records {
        let (slices, short) = found.cut(record, *phase, &grid, &voxels);
        if matches!(record.plane, Plane::Sax | Plane::TwoChamber | Plane::ThreeChamber | Plane::FourChamber) {
            let pixels = slices.iter().map(|(_, pixels)| pixels.as_slice());
            order::check(pixels, record.matrix, classes).map_err(|wrong| wrong.refused(at(), &file, codes))?;
        }
        if !slices.is_empty() || short > 0 {
            found.held.push(Held { series: *series, phase: *phase, slices, short });
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
    let none_kept = held.iter().all(|held| held.slices.is_empty());
    if let Some(plane) = astray.filter(|_| !lost || none_kept) {
        let off = |fit: &Fit| {
            let planes = (fit.plane - plane as i64) as f64;
            grid.depth_mm(through, planes).abs().max(fit.off_mm)
        };
        let off_mm = fits.iter().map(off).fold(f64::INFINITY, f64::min);
        return Err(LabelError::OffSlices { at: at(), file, plane, off_mm, bound_mm: grid.bound_mm(through) });
    }
    Ok(held)
}

/// What a row's file holds of its phase: the whole of it, or the moment of that phase if it has as many moments as the series
/// has phases. In a file of many moments all but a few are empty because nobody drew there: an empty one that a row names is
/// no mask without a heart but a mistake.
fn volume_of(row: &MaskRow, file: &Path, records: &[(u32, &SeriesRecord, u32)]) -> Result<Volume<f32>, LabelError> {
    let (at, told) = (|| row.at.clone(), |source| LabelError::Mask { at: row.at.clone(), source });
    let mut moments = Moments::open(file).map_err(told)?;
    let ([i, j, k, count], affine) = (moments.dims(), *moments.affine());
    let phases = records.iter().map(|(_, record, _)| record.phases()).max().unwrap_or(0);
    let wanted = match row.phase {
        _ if count == 1 => 0,
        Some(phase) if count == phases as usize => phase as usize,
        _ => return Err(LabelError::Moments { at: at(), file: file.to_owned(), moments: count, phases }),
    };
    let (mut held, mut drawn) = (Vec::new(), Vec::new());
    for moment in 0..count {
        let Some(values) = moments.next().map_err(told)? else { break };
        if values.iter().any(|value| *value != 0.0) {
            drawn.push(moment);
        }
        if moment == wanted {
            held = values;
        }
    }
    moments.next().map_err(told)?; // to the end, and its checksum
    if count > 1 && !drawn.contains(&wanted) {
        let drawn = listed(drawn.iter());
        return Err(LabelError::EmptyMoment { at: at(), file: file.to_owned(), moment: wanted, drawn });
    }
    // A single slice may lie above the heart; of a whole stack that is as much a mistake.
    if k > 1 && drawn.is_empty() {
        return Err(LabelError::EmptyMask { at: at(), file: file.to_owned(), slices: k });
    }
    Ok(Volume { dims: [i, j, k, 1], affine, values: held })
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
    /// The slices of a record that lie on planes of the mask, as far as they have the phase and it is known which of their frames that
    /// is; and how many are drawn on of which that is not so.
    fn cut(
        &mut self,
        record: &SeriesRecord,
        phase: u32,
        grid: &MaskGrid,
        voxels: &[u8],
    ) -> (Vec<(usize, Vec<u8>)>, usize) {
        let (mut slices, mut short) = (Vec::new(), 0);
        for (slice, held) in record.slices.iter().enumerate() {
            let Some(placement) = &held.placement else { continue };
            self.placed = true;
            let Some(fit) = grid.fit(placement, record.matrix, record.spacing_mm) else { continue };
            self.fits.push(fit);
            if let Some(plane) = grid.plane(&fit) {
                self.planes.push(plane);
                let pixels = grid.slice(&fit, plane, record.matrix, voxels);
                if phase < held.phases && record.is_whole(slice) {
                    slices.push((slice, pixels));
                } else {
                    short += usize::from(pixels.iter().any(|class| *class > 0));
                }
            }
        }
        (slices, short)
    }
}
