//! Labels that need more than one image: sequence by timing, plane and level by the slices of the whole study.

use std::collections::BTreeMap;

use super::{FoundImage, FrameSource, SAME_AXIS, Series, Slice};
use crate::dicom::FrameHeader;
use crate::geometry::Vector;
use crate::keys::{StudyKey, SubjectKey};
use crate::labels::{Evidence, Level, Plane, Rule, Sequence, is_oblique, level_along, long_axis_plane, sequence_of};

/// Parallel slices, of any series, that make a short-axis stack when no name says so.
const STACK: usize = 6;
/// Parallel slices of one series that do.
const STACK_OF_ONE_SERIES: usize = 3;
/// Slices a stack needs before thirds of it mean anything.
const LEVELS: usize = 3;

/// The sequence of a part of a series.
pub(super) fn sequence(images: &[FoundImage], slices: &[Slice]) -> (Sequence, Rule) {
    let headers = || slices.iter().flat_map(|slice| &slice.frames).map(|frame| &images[frame.image].header);
    let names = || headers().map(|header| header.names);
    let named = names().find_map(|names| names.sequence);
    let any = |holds: fn(&crate::dicom::ImageHeader) -> bool| headers().any(holds);
    let most = |of: &dyn Fn(&FrameHeader) -> Option<f64>| {
        let at = |slice: &Slice| distinct(slice.frames.iter().filter_map(|frame| of(frame_header(images, frame))));
        slices.iter().map(at).max().unwrap_or(0)
    };
    let evidence = Evidence {
        cardiac_images: headers().filter_map(|header| header.cardiac_images).max(),
        distinct_triggers: most(&|frame| frame.trigger_ms),
        phases: slices.iter().map(|slice| slice.frames.len()).max().unwrap_or(0),
        inversion_times: most(&|frame| frame.inversion_ms),
        technique: names().find_map(|names| names.technique),
        milliseconds: any(|header| header.milliseconds),
        t1_map_type: any(|header| header.t1_map_type),
        psir_type: any(|header| header.psir_type),
        inversion_recovery: any(|header| header.inversion_recovery),
        contrast_agent: any(|header| header.contrast_agent),
    };
    // A raw series named like a map (MOLLI) whose image type says "T1 MAP" is the map.
    match named {
        Some((Sequence::Other, _)) if evidence.t1_map_type => (Sequence::T1Map, Rule::Inversion),
        _ => sequence_of(named, &evidence),
    }
}

fn frame_header<'a>(images: &'a [FoundImage], frame: &FrameSource) -> &'a FrameHeader {
    &images[frame.image].header.frames[frame.frame as usize]
}

/// Planes and levels, study by study.
pub(super) fn label_by_study(series: &mut [Series]) {
    let mut studies: BTreeMap<(SubjectKey, StudyKey), Vec<usize>> = BTreeMap::new();
    for (place, one) in series.iter().enumerate() {
        studies.entry((one.subject, one.study)).or_default().push(place);
    }
    for members in studies.values() {
        let axis = short_axis(series, members);
        if let Some(axis) = axis {
            for &member in members {
                name_plane(&mut series[member], axis);
            }
        }
        name_levels(series, members);
    }
}

/// The axis of the study's short-axis slices: of those named so, or of the largest stack of parallel slices.
fn short_axis(series: &[Series], members: &[usize]) -> Option<Vector> {
    let named = members
        .iter()
        .filter(|&&member| series[member].plane.0 == Plane::Sax && series[member].axis.is_some())
        .max_by_key(|&&member| (series[member].slices.len(), std::cmp::Reverse(member)));
    if let Some(&member) = named {
        return series[member].axis;
    }
    let heart = |member: &usize| series[*member].sequence.0 != Sequence::Other;
    let stacks = members.iter().copied().filter(heart).filter_map(|member| {
        let axis = series[member].axis.filter(|axis| is_oblique(*axis))?;
        let parallel = members.iter().copied().filter(heart).filter(|&other| is_parallel(series, other, axis));
        let slices = distinct(parallel.flat_map(|other| positions(&series[other])));
        let alone = series[member].slices.len();
        (slices >= STACK || alone >= STACK_OF_ONE_SERIES).then_some((slices, axis))
    });
    // The first of equals: `members` is in the order of keys.
    stacks.reduce(|best, other| if other.0 > best.0 { other } else { best }).map(|(_, axis)| axis)
}

fn is_parallel(series: &[Series], member: usize, axis: Vector) -> bool {
    series[member].axis.is_some_and(|own| cosine(own, axis) > SAME_AXIS)
}

fn cosine(a: Vector, b: Vector) -> f64 {
    (a[0] * b[0] + a[1] * b[1] + a[2] * b[2]).abs()
}

fn positions(series: &Series) -> impl Iterator<Item = f64> {
    series.slices.iter().filter_map(|slice| slice.position_mm)
}

/// Positions at least 2 mm, or times at least 2 ms apart.
fn distinct(values: impl Iterator<Item = f64>) -> usize {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.dedup_by(|a, b| (*a - *b).abs() < 2.0);
    sorted.len()
}

/// The plane of a series of the heart that no name tells.
fn name_plane(series: &mut Series, short_axis: Vector) {
    let Some(axis) = series.axis else { return };
    if series.plane.1 != Rule::Undecided || series.sequence.0 == Sequence::Other {
        return;
    }
    if cosine(axis, short_axis) > 0.985 {
        series.plane = (Plane::Sax, Rule::Geometry);
    } else if let Some(plane) = long_axis_plane(axis, short_axis) {
        series.plane = (plane, Rule::Geometry);
    }
}

/// Thirds of the study's largest short-axis stack, for all its short-axis slices.
fn name_levels(series: &mut [Series], members: &[usize]) {
    let short: Vec<usize> = members.iter().copied().filter(|&member| series[member].plane.0 == Plane::Sax).collect();
    let stack = |sequence: Sequence| -> Vec<f64> {
        let of = short.iter().filter(|&&member| series[member].sequence.0 == sequence);
        of.flat_map(|&member| positions(&series[member])).collect()
    };
    let largest = Sequence::ALL
        .iter()
        .map(|sequence| stack(*sequence))
        .map(|positions| (distinct(positions.iter().copied()), positions))
        .reduce(|best, other| if other.0 > best.0 { other } else { best });
    let Some((slices, positions)) = largest.filter(|(slices, _)| *slices >= LEVELS) else { return };
    debug_assert!(slices <= positions.len());
    let base = positions.iter().copied().fold(f64::INFINITY, f64::min);
    let apex = positions.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    for member in short {
        for slice in &mut series[member].slices {
            slice.level = slice.position_mm.and_then(|position| level(position, base, apex));
        }
    }
}

/// None for a slice well outside the stack: it may belong to a part of the heart the stack does not cover.
fn level(position: f64, base: f64, apex: f64) -> Option<Level> {
    let margin = 0.25 * (apex - base);
    (base - margin..=apex + margin).contains(&position).then(|| level_along(position, [base, apex])).flatten()
}
