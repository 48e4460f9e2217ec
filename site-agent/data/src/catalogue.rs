//! What is here: images grouped into series, slices and phases, in order, with their labels.
//!
//! A pure function of the headers. A series is what DICOM calls one, cut where orientation, size or part of the complex
//! image changes (UK Biobank's "mixed" long-axis series, magnitude beside real). A slice is a position along its normal;
//! its frames are ordered by trigger time, then InstanceNumber.

mod labelling;

use std::collections::{BTreeMap, BTreeSet};

use common::Digest;
use common::ids::DigestBuilder;

use crate::dicom::{Component, FrameHeader, ImageHeader};
use crate::geometry::Vector;
use crate::keys::{SeriesKey, StudyKey, SubjectKey};
use crate::labels::{Level, Plane, Rule, Sequence, Vendor, slice_axis, toward_apex};
use crate::skip::SkipReason;

/// Slices nearer than this along their normal are one slice: positions are rounded when they are written.
const SAME_SLICE_MM: f64 = 0.5;
/// Cosine of 5 degrees: normals nearer than this are one orientation.
const SAME_AXIS: f64 = 0.996;

/// Parts that a series is cut into at most: each frame is held to each of them.
const MOST_PARTS: usize = 1024;

/// An image with the place of its file in the walk.
#[derive(Clone, Debug)]
pub(crate) struct FoundImage {
    /// The file, as counted by the walk.
    pub file: usize,
    /// The archive's entry.
    pub entry: Option<u32>,
    /// Changes when the file does: its size and modification time.
    pub stamp: Digest,
    /// Its header.
    pub header: ImageHeader,
}

/// All series of a source.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalogue {
    /// Sorted by subject, then key.
    pub series: Vec<Series>,
    /// Images that are not used, by their place in the list that came in.
    pub skipped: Vec<(usize, SkipReason)>,
}

/// One series to be cached.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    /// Its key.
    pub key: SeriesKey,
    /// Whose it is.
    pub subject: SubjectKey,
    /// Its study.
    pub study: StudyKey,
    /// The scanner's vendor.
    pub vendor: Vendor,
    /// What it shows, and which rule said so.
    pub sequence: (Sequence, Rule),
    /// In which plane, and which rule said so.
    pub plane: (Plane, Rule),
    /// Rows and columns as acquired.
    pub matrix: [u32; 2],
    /// Distance of rows and of columns as acquired, in mm.
    pub spacing_mm: [f64; 2],
    /// Low values are bright.
    pub inverted_gray: bool,
    /// From base to apex for short-axis stacks, otherwise along the normal.
    pub slices: Vec<Slice>,
    /// Changes when a frame, its order, its file or its patient changes.
    pub content: Digest,
    axis: Option<Vector>,
}

/// One slice position.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    /// Along the series' normal, in mm.
    pub position_mm: Option<f64>,
    /// The third of the ventricle, for short-axis slices.
    pub level: Option<Level>,
    /// In the order of the cardiac cycle.
    pub frames: Vec<FrameSource>,
}

/// Where a frame's pixels are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameSource {
    /// The image, by its place in the list that came in.
    pub image: usize,
    /// The frame within it, from 0.
    pub frame: u32,
}

/// Groups and labels images. The order of `images` is the walk's; it decides which of two copies is used.
pub(crate) fn catalogue(images: &[FoundImage]) -> Catalogue {
    let mut skipped = Vec::new();
    let mut first: BTreeMap<_, &ImageHeader> = BTreeMap::new();
    let mut groups: BTreeMap<(SubjectKey, SeriesKey), Vec<usize>> = BTreeMap::new();
    for (place, image) in images.iter().enumerate() {
        let header = &image.header;
        if let Some(held) = first.get(&header.instance) {
            let reason = if is_copy(held, header) { SkipReason::Duplicate } else { SkipReason::ReusedUid };
            skipped.push((place, reason));
            continue;
        }
        first.insert(header.instance, header);
        if header.frames.iter().any(|frame| !frame.component.is_usable()) {
            skipped.push((place, SkipReason::NotMagnitude));
        }
        if header.frames.iter().any(|frame| frame.component.is_usable()) {
            groups.entry((header.subject, header.series)).or_default().push(place);
        }
    }
    drop_shared(&mut groups, &mut skipped);
    drop_repetitions(images, &mut groups, &mut skipped);
    let mut series: Vec<Series> = Vec::new();
    for members in groups.values() {
        match parts(images, members) {
            Some(parts) => series.extend(parts),
            None => skipped.extend(members.iter().map(|place| (*place, SkipReason::Damaged))),
        }
    }
    labelling::label_by_study(&mut series);
    series.sort_by_key(|series| (series.subject, series.key));
    for one in &mut series {
        one.content = content(images, one);
    }
    skipped.sort_by_key(|(place, _)| *place);
    Catalogue { series, skipped }
}

/// Whether two images of one SOPInstanceUID are one: of the same patient and series, at equal places and times.
fn is_copy(one: &ImageHeader, other: &ImageHeader) -> bool {
    let series = |header: &ImageHeader| (header.subject, header.study, header.series, header.instance_number);
    let frame = |frame: &FrameHeader| (frame.position, frame.orientation, frame.trigger_ms, frame.phase_index);
    series(one) == series(other) && one.frames.iter().map(frame).eq(other.frames.iter().map(frame))
}

/// Of a series that is of several patients nobody can say whose it is.
fn drop_shared(groups: &mut BTreeMap<(SubjectKey, SeriesKey), Vec<usize>>, skipped: &mut Vec<(usize, SkipReason)>) {
    let mut whose: BTreeMap<SeriesKey, BTreeSet<SubjectKey>> = BTreeMap::new();
    groups.keys().for_each(|(subject, series)| _ = whose.entry(*series).or_default().insert(*subject));
    groups.retain(|(_, series), members| {
        let is_shared = whose[series].len() > 1;
        if is_shared {
            skipped.extend(members.iter().map(|place| (*place, SkipReason::SeveralPatients)));
        }
        !is_shared
    });
}

/// Of series that are one for each name (UK Biobank's slices and planes), the newest in a study is used.
fn drop_repetitions(
    images: &[FoundImage],
    groups: &mut BTreeMap<(SubjectKey, SeriesKey), Vec<usize>>,
    skipped: &mut Vec<(usize, SkipReason)>,
) {
    let mut newest = BTreeMap::new();
    let mut older = Vec::new();
    for (group, members) in &*groups {
        let header = &images[members[0]].header;
        if !header.names.one_per_name {
            continue;
        }
        let age = (header.series_number, header.series_second, *group);
        let name =
            (header.subject, header.study, header.description, header.frames.first().map(|frame| frame.component));
        match newest.insert(name, age) {
            Some(other) if other > age => {
                newest.insert(name, other);
                older.push(*group);
            }
            Some(other) => older.push(other.2),
            None => {}
        }
    }
    for group in older {
        skipped.extend(groups.remove(&group).into_iter().flatten().map(|place| (place, SkipReason::Superseded)));
    }
}

/// What all frames of one part of a series share.
#[derive(PartialEq)]
struct Shape {
    component: Component,
    matrix: [u32; 2],
    spacing: [f64; 2],
    axis: Option<Vector>,
    /// Of the two kinds of gray, values are not to be compared.
    inverted_gray: bool,
}

impl Shape {
    fn of(header: &ImageHeader, frame: &FrameHeader) -> Self {
        let axis = frame.orientation.as_ref().and_then(slice_axis);
        let (matrix, inverted_gray) = ([header.rows, header.columns], header.inverted_gray);
        Self { component: frame.component, matrix, spacing: frame.spacing, axis, inverted_gray }
    }

    fn fits(&self, other: &Self) -> bool {
        let parallel = match (self.axis, other.axis) {
            (Some(a), Some(b)) => (a[0] * b[0] + a[1] * b[1] + a[2] * b[2]).abs() > SAME_AXIS,
            (None, None) => true,
            _ => false,
        };
        let spaced = self.spacing.iter().zip(&other.spacing).all(|(a, b)| (a - b).abs() < 1e-3);
        let alike = self.component == other.component && self.inverted_gray == other.inverted_gray;
        alike && self.matrix == other.matrix && spaced && parallel
    }
}

/// Cuts a series where its shape changes; none if it does so more often than that of any scanner.
fn parts(images: &[FoundImage], members: &[usize]) -> Option<Vec<Series>> {
    let mut parts: Vec<(Shape, Vec<FrameSource>)> = Vec::new();
    for &image in members {
        let header = &images[image].header;
        let usable = header.frames.iter().enumerate().filter(|(_, frame)| frame.component.is_usable());
        for (index, frame) in usable {
            let shape = Shape::of(header, frame);
            let source = FrameSource { image, frame: index as u32 };
            let full = parts.len() == MOST_PARTS;
            match parts.iter_mut().find(|(held, _)| held.fits(&shape)) {
                Some((_, frames)) => frames.push(source),
                None if full => return None,
                None => parts.push((shape, vec![source])),
            }
        }
    }
    let cut = parts.len() > 1;
    let map = parts.iter().any(|(shape, _)| shape.component == Component::Map);
    let made = parts.into_iter().enumerate().map(|(part, (shape, frames))| {
        let key = images[members[0]].header.series;
        let mut series = series_of(images, if cut { part_key(key, part) } else { key }, &shape, &frames);
        // Beside the map itself, a series named for it holds its error map or its source images.
        if map && shape.component != Component::Map && series.sequence.0 == Sequence::T1Map {
            series.sequence = (Sequence::Other, Rule::Inversion);
        }
        series
    });
    Some(made.collect())
}

/// The key of a part of a series that was cut.
pub(crate) fn part_key(series: SeriesKey, part: usize) -> SeriesKey {
    let mut digest = DigestBuilder::default();
    digest.update(&series.0);
    digest.update(&(part as u64).to_le_bytes());
    let full = digest.finish().0;
    SeriesKey(std::array::from_fn(|i| full[i]))
}

fn series_of(images: &[FoundImage], key: SeriesKey, shape: &Shape, frames: &[FrameSource]) -> Series {
    let first = &images[frames[0].image].header;
    let axis = shape.axis.map(toward_apex);
    let slices = slices_of(images, axis, frames);
    let sequence = labelling::sequence(images, &slices);
    let plane = first.names.plane.unwrap_or((Plane::Other, Rule::Undecided));
    Series {
        key,
        subject: first.subject,
        study: first.study,
        vendor: first.vendor,
        sequence,
        plane,
        matrix: shape.matrix,
        spacing_mm: shape.spacing,
        inverted_gray: shape.inverted_gray,
        slices,
        content: Digest([0; 32]),
        axis,
    }
}

/// Frames by their position along the axis, each slice's in the order of the cardiac cycle.
fn slices_of(images: &[FoundImage], axis: Option<Vector>, frames: &[FrameSource]) -> Vec<Slice> {
    let header = |source: &FrameSource| &images[source.image].header.frames[source.frame as usize];
    let along = |source: &FrameSource| {
        let (axis, position) = (axis?, header(source).position?);
        Some(axis[0] * position[0] + axis[1] * position[1] + axis[2] * position[2])
    };
    let mut placed: Vec<(Option<f64>, FrameSource)> = frames.iter().map(|frame| (along(frame), *frame)).collect();
    // Frames without a position come first and are one slice.
    placed.sort_by(|a, b| a.0.unwrap_or(f64::NEG_INFINITY).total_cmp(&b.0.unwrap_or(f64::NEG_INFINITY)));
    let mut slices: Vec<Slice> = Vec::new();
    for (position, source) in placed {
        match slices.last_mut() {
            Some(slice) if same_place(slice.position_mm, position) => slice.frames.push(source),
            _ => slices.push(Slice { position_mm: position, level: None, frames: vec![source] }),
        }
    }
    for slice in &mut slices {
        order_in_time(images, &mut slice.frames);
    }
    slices
}

fn same_place(a: Option<f64>, b: Option<f64>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() < SAME_SLICE_MM,
        (None, None) => true,
        _ => false,
    }
}

/// By trigger time if every frame has one, else by phase index if every frame has one; then by InstanceNumber and by
/// the order of the walk.
fn order_in_time(images: &[FoundImage], frames: &mut [FrameSource]) {
    let header = |source: &FrameSource| &images[source.image].header.frames[source.frame as usize];
    let timed = frames.iter().all(|frame| header(frame).trigger_ms.is_some());
    let indexed = frames.iter().all(|frame| header(frame).phase_index.is_some());
    let time = |source: &FrameSource| match (timed, indexed) {
        (true, _) => header(source).trigger_ms.unwrap_or(0.0),
        (false, true) => f64::from(header(source).phase_index.unwrap_or(0)),
        (false, false) => 0.0,
    };
    frames.sort_by(|a, b| {
        let number = |source: &FrameSource| images[source.image].header.instance_number;
        let tie = (number(a), a.image, a.frame).cmp(&(number(b), b.image, b.frame));
        time(a).total_cmp(&time(b)).then(tie)
    });
}

/// What the cached pixels of a series depend on, but for the plan; and whose they are, which an archive's name may tell alone.
fn content(images: &[FoundImage], series: &Series) -> Digest {
    let mut digest = DigestBuilder::default();
    digest.update(&series.subject.0);
    digest.update(&series.study.0);
    digest.update(&[u8::from(series.inverted_gray)]);
    for slice in &series.slices {
        digest.update(&(slice.frames.len() as u64).to_le_bytes());
        for frame in &slice.frames {
            digest.update(&images[frame.image].header.instance.0);
            digest.update(&images[frame.image].stamp.0);
            digest.update(&frame.frame.to_le_bytes());
        }
    }
    digest.finish()
}

#[cfg(test)]
mod tests;
