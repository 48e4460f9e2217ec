//! From a catalogue's series to frames in the cache: only what is new or changed is decoded.

use std::collections::{BTreeMap, BTreeSet};

use common::Digest;
use common::plan::ImagePlan;

use super::headers::FoundImages;
use super::listed::Order;
use super::walk::WalkedFile;
use super::workers::Crew;
use super::{IntakeError, IntakeProgress, Stage};
use crate::cache::{FrameWriter, SeriesId, SeriesRecord, SkippedImage, SliceRecord};
use crate::catalogue::{Catalogue, FoundImage, FrameSource, Series, Slice};
use crate::dicom::FrameHeader;
use crate::geometry::Placement;
use crate::keys::{PathKey, SeriesKey, SiteSecret};
use crate::limits::IntakeLimits;
use crate::normalize::{Geometry, Normalized, Normalizer};
use crate::skip::{Skip, SkipReason};
use crate::worker::{Parser, Span};

/// Values asked of a worker at once.
const REQUEST: usize = 4 << 20;

/// Where a catalogue's images are.
pub(super) struct Sources<'a> {
    pub(super) key: PathKey,
    pub(super) order: Order,
    pub(super) files: &'a [WalkedFile],
    pub(super) found: &'a FoundImages,
    pub(super) secret: &'a SiteSecret,
}

/// What became of a catalogue.
pub(super) struct Built {
    pub(super) counts: Counts,
    /// The cache's series that are the catalogue's: of this source, or of another that holds the very same files.
    pub(super) shown: BTreeSet<SeriesId>,
    pub(super) skips: Vec<Skip>,
}

/// Series of this run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) new: usize,
    pub(crate) unchanged: usize,
    pub(crate) removed: usize,
}

/// Brings the cache's series of this source in line with the catalogue.
pub(super) fn build(
    catalogue: &Catalogue,
    sources: &Sources<'_>,
    writer: &mut FrameWriter,
    crew: &Crew<'_>,
    progress: &mut dyn FnMut(&IntakeProgress),
) -> Result<Built, IntakeError> {
    let mut counts = Counts::default();
    let mut changed: Vec<&Series> = Vec::new();
    let mut relabelled = Vec::new();
    let mut shown = BTreeSet::new();
    let elsewhere = held_elsewhere(sources, writer);
    for series in &catalogue.series {
        let own = (sources.key, series.key);
        let held = writer.latest().get(&own).filter(|held| is_settled(held) && held.content == series.content);
        let another = elsewhere.get(&(series.key, series.content)).copied();
        if let (Some(held), None) = (held, another) {
            relabelled.extend(relabel(held, series));
        }
        match another.or(held.map(SeriesRecord::id)) {
            Some(id) => {
                counts.unchanged += 1;
                shown.insert(id);
            }
            None => {
                changed.push(series);
                shown.insert(own);
            }
        }
    }
    for record in relabelled {
        writer.relabel(record)?;
    }
    let own = writer.latest().keys().copied().filter(|id| id.0 == sources.key);
    let gone: Vec<SeriesId> = own.filter(|id| !shown.contains(id)).collect();
    for id in gone {
        writer.remove(id)?;
        counts.removed += 1;
    }
    let (total, mut done, mut frames) = (changed.len(), 0, 0);
    let images = writer.images().clone();
    crew.each(
        total,
        |parser, piece| decode(parser, changed[piece], sources, &images, crew.limits()),
        |_, (record, normalized)| {
            frames += normalized.len() as u64;
            writer.add(record, &normalized)?;
            done += 1;
            progress(&IntakeProgress { stage: Stage::Frames, done, total, frames });
            Ok(())
        },
    )?;
    writer.commit()?;
    counts.new = total;
    let skips = skips(sources, writer);
    Ok(Built { counts, shown, skips })
}

/// Other sources' series, by what their pixels were made from: a folder inside another, or a copy, is not cached twice.
fn held_elsewhere(own: &Sources<'_>, writer: &FrameWriter) -> BTreeMap<(SeriesKey, Digest), SeriesId> {
    let stands = |record: &&SeriesRecord| own.order.stands_for(record.source, own.key) && is_settled(record);
    let others = writer.latest().values().filter(stands);
    others.map(|record| ((record.key, record.content), record.id())).collect()
}

/// Whether reading the same files again would give the same.
fn is_settled(record: &SeriesRecord) -> bool {
    !record.skipped.iter().any(|skipped| skipped.reason.may_pass())
}

/// The record with new labels, if they changed while the pixels did not.
fn relabel(held: &SeriesRecord, series: &Series) -> Option<SeriesRecord> {
    let mut record = held.clone();
    (record.sequence, record.sequence_rule) = series.sequence;
    (record.plane, record.plane_rule) = series.plane;
    // Slices that lost all their frames are not in the record: the others are found by position.
    for slice in &mut record.slices {
        let same = |other: &&Slice| other.position_mm == slice.position_mm;
        slice.level = series.slices.iter().find(same).and_then(|slice| slice.level);
    }
    (record != *held).then_some(record)
}

/// Decodes and normalises one series. Images that cannot be decoded are left out and named.
fn decode(
    parser: &mut dyn Parser,
    series: &Series,
    sources: &Sources<'_>,
    images: &ImagePlan,
    limits: &IntakeLimits,
) -> (SeriesRecord, Vec<Vec<u16>>) {
    let nothing = || Normalized { frames: Vec::new(), window: [0.0, 0.0] };
    let skip = |image: &FoundImage, reason| {
        let path = PathKey::of(sources.secret, &sources.files[image.file].below);
        SkippedImage { path, entry: image.entry, reason }
    };
    let first = || &sources.found.images[series.slices[0].frames[0].image];
    let (bytes, limit) = (bytes_on_grid(series, images), limits.series_bytes);
    if bytes > limit {
        let skipped = vec![skip(first(), SkipReason::TooLarge { bytes, limit })];
        return record(series, sources, &[], nothing(), skipped);
    }
    // Frames by image, so that each file is decoded once; their places in the order of the record beside.
    let mut by_image: BTreeMap<usize, Vec<(u32, usize)>> = BTreeMap::new();
    for (place, frame) in series.slices.iter().flat_map(|slice| &slice.frames).enumerate() {
        by_image.entry(frame.image).or_default().push((frame.frame, place));
    }
    let [rows, columns] = series.matrix;
    let total: u64 = by_image.values().map(|frames| frames.len() as u64).sum();
    let geometry = Geometry { rows: rows as usize, columns: columns as usize, spacing: series.spacing_mm };
    let mut normalizer = Normalizer::new(images, total * u64::from(rows) * u64::from(columns));
    let (mut places, mut skipped) = (Vec::new(), Vec::new());
    for (image, mut frames) in by_image {
        frames.sort_unstable();
        let found = &sources.found.images[image];
        let file = &sources.files[found.file];
        let mut take = |place, values| {
            normalizer.take(values, geometry, series.inverted_gray);
            places.push(place);
        };
        if let Err(reason) = fetch(parser, file, found, series.matrix, &frames, &mut take) {
            skipped.push(skip(found, reason));
        }
    }
    let normalized = normalizer.finish();
    if normalized.is_none() && skipped.is_empty() {
        skipped.push(skip(first(), SkipReason::Blank));
    }
    record(series, sources, &places, normalized.unwrap_or_else(nothing), skipped)
}

/// What the normaliser holds of a series: a float for every pixel of the plan's grid.
fn bytes_on_grid(series: &Series, images: &ImagePlan) -> u64 {
    let frames: usize = series.slices.iter().map(|slice| slice.frames.len()).sum();
    (images.frame_size as u64).saturating_pow(2).saturating_mul(4).saturating_mul(frames as u64)
}

/// An image's frames, in runs that a worker can send at once.
fn fetch(
    parser: &mut dyn Parser,
    file: &WalkedFile,
    found: &FoundImage,
    matrix: [u32; 2],
    frames: &[(u32, usize)],
    take: &mut dyn FnMut(usize, Vec<f32>),
) -> Result<(), SkipReason> {
    let pixels = matrix[0] as usize * matrix[1] as usize;
    let most = (REQUEST / pixels).max(1);
    let mut left = frames;
    while let Some((first, _)) = left.first() {
        let run = left.iter().zip(*first..).take(most).take_while(|((frame, _), expected)| frame == expected).count();
        let span = Span { entry: found.entry, first: *first, count: run as u32, matrix };
        let values = parser.frames(&file.path, span)?;
        for ((_, place), values) in left.iter().zip(values.chunks_exact(pixels)) {
            take(*place, values.to_vec());
        }
        left = &left[run..];
    }
    Ok(())
}

/// The record of what was decoded, and the frames in its order. `places` says where each decoded frame belongs.
fn record(
    series: &Series,
    sources: &Sources<'_>,
    places: &[usize],
    normalized: Normalized,
    skipped: Vec<SkippedImage>,
) -> (SeriesRecord, Vec<Vec<u16>>) {
    let by_place: BTreeMap<usize, Vec<u16>> = places.iter().copied().zip(normalized.frames).collect();
    let header = |source: &FrameSource| &sources.found.images[source.image].header.frames[source.frame as usize];
    let (mut first, mut slices) = (0, Vec::new());
    for slice in &series.slices {
        let end = first + slice.frames.len();
        let mut decoded = by_place.range(first..end).map(|(place, _)| header(&slice.frames[place - first]));
        if let Some(shown) = decoded.next() {
            slices.push(SliceRecord {
                position_mm: slice.position_mm,
                placement: placement(shown),
                level: slice.level,
                phases: 1 + decoded.count() as u32,
                acquired: slice.frames.len() as u32,
            });
        }
        first = end;
    }
    let told = series.slices.first().and_then(|slice| slice.frames.first()).map(header);
    let record = SeriesRecord {
        key: series.key,
        subject: series.subject,
        study: series.study,
        source: sources.key,
        vendor: series.vendor,
        sequence: series.sequence.0,
        sequence_rule: series.sequence.1,
        plane: series.plane.0,
        plane_rule: series.plane.1,
        matrix: series.matrix,
        spacing_mm: series.spacing_mm,
        slice_step_mm: told.and_then(|frame| frame.between_mm.or(frame.thickness_mm)),
        // Where low is bright, values were negated before they were normalised.
        window: if series.inverted_gray { normalized.window.map(|value| -value) } else { normalized.window },
        slices,
        skipped,
        first_frame: 0,
        content: series.content,
        pixels: Digest([0; 32]),
        sums: Vec::new(),
    };
    (record, by_place.into_values().collect())
}

fn placement(frame: &FrameHeader) -> Option<Placement> {
    Placement::new(frame.position?, frame.orientation?)
}

/// The ledger's lines about images whose pixels could not be read, in this run or in an earlier one.
fn skips(sources: &Sources<'_>, writer: &FrameWriter) -> Vec<Skip> {
    let key = |file: &WalkedFile| PathKey::of(sources.secret, &file.below);
    let places: BTreeMap<PathKey, usize> =
        sources.files.iter().enumerate().map(|(place, file)| (key(file), place)).collect();
    let records = writer.latest().values().filter(|record| record.source == sources.key);
    records
        .flat_map(|record| &record.skipped)
        .filter_map(|skipped| {
            let place = *places.get(&skipped.path)?;
            let entry = sources.found.entry_name(place, skipped.entry).map(str::to_owned);
            Some(Skip { file: sources.files[place].relative.clone(), entry, reason: skipped.reason.clone() })
        })
        .collect()
}
