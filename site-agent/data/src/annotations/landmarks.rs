//! Landmarks on frames: a point of the patient on the slice of its series that lies nearest to it.

use std::collections::BTreeMap;
use std::path::Path;

use super::codes::listed;
use super::tables::LandmarkRow;
use super::{LabelError, SeriesIndex, phase_of};
use crate::cache::{FrameCache, FrameRef, SeriesRecord};
use crate::geometry::{FrameGrid, is_on};

/// The most that a landmark may lie off its slice, in mm; or half of the largest gap between slices of its series.
const OFF_MM: f64 = 10.0;
/// Names that an error lists.
const LISTED: usize = 20;

/// The landmarks of a frame.
#[derive(Clone, Debug, PartialEq)]
pub struct FrameLandmarks {
    /// The frame.
    pub frame: FrameRef,
    /// By name, as (row, column) in pixels of the cached frame, continuous, centers at whole numbers. None for a name
    /// without a row, or whose place the frame does not show although the image does.
    pub places: Vec<Option<[f64; 2]>>,
}

/// A landmark that was placed: its row's line, and where the frame shows it.
type Placed = (u64, Option<[f64; 2]>);

/// A slice a landmark may lie on.
struct Near<'a> {
    off_mm: f64,
    series: u32,
    record: &'a SeriesRecord,
    slice: usize,
}

/// Places the landmarks of all series that are wanted.
pub(super) fn place_all(
    rows: &[LandmarkRow],
    folder: &Path,
    cache: &FrameCache,
    wanted: &dyn Fn(&SeriesRecord) -> bool,
    names: &[String],
) -> Result<Vec<FrameLandmarks>, LabelError> {
    if let Some(missing) = names.iter().find(|name| !rows.iter().any(|row| row.name == **name)) {
        return Err(LabelError::NoLandmark {
            file: folder.join("landmarks.csv"),
            name: missing.clone(),
            known: known(rows),
        });
    }
    let index = SeriesIndex::of(cache);
    let mut placed: BTreeMap<FrameRef, Vec<Option<Placed>>> = BTreeMap::new();
    for row in rows {
        let records = index.records(&row.at, row.subject, row.series)?;
        let Some(name) = names.iter().position(|name| *name == row.name) else {
            // Another landmark's row is another task's; one that is all but a name of this task would be lost without a word.
            if let Some(meant) = names.iter().find(|name| letters(name) == letters(&row.name)) {
                let (found, meant) = (row.name.clone(), meant.clone());
                return Err(LabelError::Spelling { at: row.at.clone(), found, meant });
            }
            continue;
        };
        let records: Vec<_> = records.into_iter().filter(|(_, record)| wanted(record)).collect();
        if records.is_empty() {
            continue;
        }
        let near = nearest(row, &records)?;
        // On which of the frames that are left the landmark lies, nobody knows.
        if !near.record.is_whole(near.slice) {
            continue;
        }
        let (slice, phase) = (near.slice as u32, phase_of(&row.at, row.phase, near.record)?);
        let phases = near.record.slices[near.slice].phases;
        if phase >= phases {
            return Err(LabelError::Phase { at: row.at.clone(), phase, phases });
        }
        let frame = FrameRef { series: near.series, slice, phase };
        let place = on_frame(row, &near, cache)?;
        let all = placed.entry(frame).or_insert_with(|| vec![None; names.len()]);
        if let Some((first, _)) = all[name].replace((row.at.line, place)) {
            return Err(LabelError::Twice { at: row.at.clone(), first, what: "the landmark on this frame" });
        }
    }
    let frames = placed.into_iter().map(|(frame, places)| {
        let places = places.into_iter().map(|place| place.and_then(|(_, place)| place)).collect();
        FrameLandmarks { frame, places }
    });
    Ok(frames.collect())
}

/// A name without what a hand may write in two ways.
fn letters(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// The slice nearest to a landmark, if it is near enough.
fn nearest<'a>(row: &LandmarkRow, records: &[(u32, &'a SeriesRecord)]) -> Result<Near<'a>, LabelError> {
    let slices = records.iter().flat_map(|&(series, record)| {
        record.slices.iter().enumerate().filter_map(move |(slice, held)| {
            let off_mm = held.placement?.distance_mm(row.point).abs();
            Some(Near { off_mm, series, record, slice })
        })
    });
    let near = slices.min_by(|a, b| a.off_mm.total_cmp(&b.off_mm));
    let near = near.ok_or_else(|| LabelError::NotPlaced { at: row.at.clone() })?;
    let bound_mm = bound_mm(near.record);
    if near.off_mm > bound_mm {
        return Err(LabelError::Far { at: row.at.clone(), off_mm: near.off_mm, bound_mm });
    }
    Ok(near)
}

fn bound_mm(record: &SeriesRecord) -> f64 {
    let gaps = record.slices.windows(2).filter_map(|pair| Some(pair[1].position_mm? - pair[0].position_mm?));
    gaps.fold(OFF_MM, |bound, gap| bound.max(gap / 2.0))
}

/// Where a landmark lies on the cached frames of its slice, if they show it.
fn on_frame(row: &LandmarkRow, near: &Near<'_>, cache: &FrameCache) -> Result<Option<[f64; 2]>, LabelError> {
    let (record, images) = (near.record, cache.images());
    let placement = record.slices[near.slice].placement;
    let placement = placement.ok_or_else(|| LabelError::NotPlaced { at: row.at.clone() })?;
    let native = placement.pixel(record.spacing_mm, row.point);
    let [rows, columns] = record.matrix;
    if !(is_on(native[0], rows as usize) && is_on(native[1], columns as usize)) {
        return Err(LabelError::Outside { at: row.at.clone(), row: native[0], column: native[1], rows, columns });
    }
    let place = FrameGrid::new(record.matrix, record.spacing_mm, images).to_frame(native);
    Ok(place.iter().all(|place| is_on(*place, images.frame_size)).then_some(place))
}

/// The names there are, as far as a line holds them.
fn known(rows: &[LandmarkRow]) -> String {
    let names: std::collections::BTreeSet<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    let more = names.len().saturating_sub(LISTED);
    let names = listed(names.into_iter().take(LISTED));
    if more > 0 { format!("{names} and {more} more") } else { names }
}
