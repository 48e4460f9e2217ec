//! Masks: overlap and surface distance of each volume, and what cardiologists read from a subject's.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use common::task::Metric;
use data::{FrameRef, Plane, SeriesMask, SeriesRecord, SliceRecord, mask_on_frame};

use super::{Agreement, Sheet, mean};
use crate::metrics::Unusable;
use crate::metrics::agreement::Pairs;
use crate::metrics::cardiac::{ejection_fraction_percent, mean_under_mask, myocardial_mass_g, scar_percent, volume_ml};
use crate::metrics::overlap::dice;
use crate::metrics::surface::{Hausdorff, hausdorff_95};
use crate::tasks::{Example, Said, TasksError};

/// A slice as it was drawn and as it was found, as acquired.
struct Slice<'a> {
    frame: FrameRef,
    truth: &'a Vec<u8>,
    found: &'a Vec<u8>,
}

/// The slices of a volume at one moment. Pieces of a short axis are put together here: a series a slice, as in UK Biobank, a
/// series a breath-hold, or halves of a series in two sources.
struct Stack<'a> {
    record: &'a SeriesRecord,
    phase: u32,
    slices: Vec<Slice<'a>>,
}

impl Stack<'_> {
    /// From the middle of a slice to that of the next, in mm, gaps included: as they lie, else as the scanner was told,
    /// which may have said no more than how thick they are. None if neither is known.
    fn slice_distance_mm(&self, series: &[SeriesRecord]) -> Option<f64> {
        let own: BTreeSet<u32> = self.slices.iter().map(|slice| slice.frame.series).collect();
        let own: Option<Vec<Vec<f64>>> =
            own.into_iter().map(|piece| places_beside(self.record, &series[piece as usize])).collect();
        let (Some(own), Some(step)) = (own, step_mm(self.record)) else { return self.record.slice_distance_mm() };
        let mut places = own.concat();
        // By all that were acquired, drawn on or not: the distance is the same at every moment.
        for beside in series.iter().filter_map(|other| places_beside(self.record, other)) {
            if are_elsewhere(&beside, &places, step) {
                places.extend(beside);
            }
        }
        let is_whole = places.len() == self.record.slices.len();
        if is_whole { self.record.slice_distance_mm() } else { neighbors_mm(places, step / 2.0).or(Some(step)) }
    }

    /// Where a slice lies along the stack, in mm; none if it may be of another.
    fn place(&self, slice: &Slice<'_>, series: &[SeriesRecord]) -> Option<f64> {
        places_beside(self.record, &series[slice.frame.series as usize])?.get(slice.frame.slice as usize).copied()
    }

    /// On which plane of an even grid each slice lies. A slice that is not drawn on is a plane as well, and keeps its neighbors
    /// apart.
    fn planes(&self, series: &[SeriesRecord], step: Option<f64>) -> Vec<usize> {
        let is_whole = self.slices.windows(2).all(|two| two[0].frame.series == two[1].frame.series);
        let number = |slice: &Slice<'_>| match is_whole {
            true => Some(f64::from(slice.frame.slice)),
            false => Some(self.place(slice, series)? / step?),
        };
        let numbers: Option<Vec<f64>> = self.slices.iter().map(number).collect();
        let is_near = |all: &Vec<f64>| all.iter().all(|number| (number - all[0]).abs() < MOST_PLANES);
        let numbers =
            numbers.filter(is_near).unwrap_or_else(|| (0..self.slices.len()).map(|number| number as f64).collect());
        let first = numbers.first().copied().unwrap_or(0.0);
        let after = |next: &mut usize, number: f64| {
            let plane = ((number - first).round() as usize).max(*next);
            *next = plane + 1;
            Some(plane)
        };
        numbers.into_iter().scan(0, after).collect()
    }

    /// How far the surfaces of a structure lie apart, as it was drawn and as it was found.
    fn hausdorff_95(&self, structure: u8, (planes, step): (&[usize], Option<f64>)) -> Result<Hausdorff, Unusable> {
        let [rows, columns] = self.record.matrix.map(|count| count as usize);
        let dims = [planes.last().map_or(0, |last| last + 1), rows, columns];
        let spacing = [step.unwrap_or(1.0), self.record.spacing_mm[0], self.record.spacing_mm[1]];
        let truth = self.slices.iter().map(|slice| slice.truth);
        let found = self.slices.iter().map(|slice| slice.found);
        hausdorff_95(
            &on_planes(truth, structure, planes, dims),
            &on_planes(found, structure, planes, dims),
            dims,
            spacing,
        )
    }
}

/// So many planes are no heart: headers that place slices farther apart ask for no memory.
const MOST_PLANES: f64 = 1024.0;

/// Where masks on some planes of a grid show a structure.
fn on_planes<'a>(
    masks: impl Iterator<Item = &'a Vec<u8>>,
    structure: u8,
    planes: &[usize],
    [slices, rows, columns]: [usize; 3],
) -> Vec<bool> {
    let mut all = vec![false; slices * rows * columns];
    for (mask, plane) in masks.zip(planes) {
        let held = all.iter_mut().skip(plane * rows * columns);
        held.zip(mask).for_each(|(held, class)| *held = *class == structure);
    }
    all
}

/// Where the slices of a series lie along the normal of another's, in mm; none if the two are of no one stack. Short axes
/// alone come in pieces: a second series of a long axis is the view planned anew.
fn places_beside(stack: &SeriesRecord, other: &SeriesRecord) -> Option<Vec<f64>> {
    let of = |record: &SeriesRecord| (record.subject, record.study, record.sequence, record.plane, record.matrix);
    let alike = of(stack) == of(other)
        && stack.plane == Plane::Sax
        && stack.spacing_mm == other.spacing_mm
        && stack.slice_step_mm == other.slice_step_mm;
    let first = stack.slices.first()?.placement.filter(|_| alike)?;
    let place = |slice: &SliceRecord| {
        let own = slice.placement?;
        let is_parallel = cosine(own.row, first.row).min(cosine(own.column, first.column)) > PARALLEL;
        is_parallel.then(|| first.distance_mm(own.origin))
    };
    other.slices.iter().map(place).collect()
}

/// Cosine of the angle between slices of one stack at the most: a degree.
const PARALLEL: f64 = 0.9998;

fn cosine(a: [f64; 3], b: [f64; 3]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// From slice to slice of a series, in mm, as the scanner was told, else as they lie.
fn step_mm(record: &SeriesRecord) -> Option<f64> {
    record.slice_step_mm.or_else(|| record.slice_distance_mm())
}

/// Whether none of these places is one of those, of slices so far apart or so thick: of one stack none lies in another. A stack that was
/// acquired again, moved by half a slice, is one of its own.
fn are_elsewhere(these: &[f64], those: &[f64], step: f64) -> bool {
    these.iter().all(|place| those.iter().all(|other| (place - other).abs() > 0.9 * step))
}

/// The usual distance of neighbors among places, which are one and the same within `same`; none of a single place.
fn neighbors_mm(mut places: Vec<f64>, same: f64) -> Option<f64> {
    places.sort_by(f64::total_cmp);
    places.dedup_by(|next, held| *next - *held <= same);
    let mut steps: Vec<f64> = places.windows(2).map(|two| two[1] - two[0]).collect();
    steps.sort_by(f64::total_cmp);
    // The median, and of two the smaller: a slice that is missing makes a step too large, and nothing makes one too
    // small.
    steps.get(steps.len().checked_sub(1)? / 2).copied()
}

/// Adds slices to the stack that they are of, or as one of their own. A second image of the same place is of another stack.
fn stacked<'a>(stacks: &mut Vec<Stack<'a>>, next: Stack<'a>, series: &[SeriesRecord]) {
    let takes = |stack: &&mut Stack<'_>| {
        let places = |slices: &[Slice<'_>]| slices.iter().map(|slice| stack.place(slice, series)).collect();
        let both: (Option<Vec<f64>>, Option<Vec<f64>>) = (places(&next.slices), places(&stack.slices));
        let (Some(these), Some(those), Some(step)) = (both.0, both.1, step_mm(stack.record)) else { return false };
        stack.phase == next.phase && are_elsewhere(&these, &those, step)
    };
    match stacks.iter_mut().find(takes) {
        Some(stack) => {
            let mut slices = std::mem::take(&mut stack.slices);
            slices.extend(next.slices);
            // All have a place: it took nobody in without one.
            slices
                .sort_by(|a, b| stack.place(a, series).partial_cmp(&stack.place(b, series)).unwrap_or(Ordering::Equal));
            stack.slices = slices;
        }
        None => stacks.push(next),
    }
}

/// A volume of masks: what was measured of it.
#[derive(Clone, Debug)]
struct Volume {
    phase: u32,
    /// The series of its slices: volumes of one stack at two moments share them.
    series: BTreeSet<u32>,
    slices: usize,
    /// By structure.
    dice: Vec<Option<f64>>,
    hd95: Vec<Hausdorff>,
    /// Voxels by structure: truth, found.
    voxels: Vec<[usize; 2]>,
    /// None if slices are not a stack.
    voxel_mm3: Option<f64>,
    /// Mean of the image's values over the myocardium: by the true mask, by the found one.
    means: [Option<f64>; 2],
}

impl Sheet<'_> {
    fn volume(&self, stack: &Stack<'_>) -> Result<Volume, TasksError> {
        let Stack { record, phase, slices } = stack;
        let structures = self.task.classes.len();
        let truth: Vec<u8> = slices.iter().flat_map(|slice| slice.truth).copied().collect();
        let found: Vec<u8> = slices.iter().flat_map(|slice| slice.found).copied().collect();
        let step = stack.slice_distance_mm(self.cache.series());
        let planes = stack.planes(self.cache.series(), step);
        let dice = dice(&truth, &found, structures + 1)?.split_off(1);
        let far = self.seed.is_some() && self.has(Metric::Hd95) || self.task.best.metric == Metric::Hd95;
        let mut hd95 = Vec::new();
        for structure in 1..=structures as u8 {
            hd95.push(match far {
                true => stack.hausdorff_95(structure, (&planes, step))?,
                false => Hausdorff::BothEmpty,
            });
        }
        let count =
            |values: &[u8], structure: usize| values.iter().filter(|value| usize::from(**value) == structure).count();
        let voxels = (1..=structures).map(|structure| [count(&truth, structure), count(&found, structure)]).collect();
        let area = record.spacing_mm[0] * record.spacing_mm[1];
        let means = match self.task.class("myocardium").filter(|_| self.has(Metric::MeanValue)) {
            Some(class) => self.means(slices, class + 1)?,
            None => [None; 2],
        };
        let series = slices.iter().map(|slice| slice.frame.series).collect();
        Ok(Volume {
            phase: *phase,
            series,
            slices: slices.len(),
            dice,
            hd95,
            voxels,
            voxel_mm3: step.map(|step| step * area),
            means,
        })
    }

    /// Mean of the values under the true and the found mask, on the cached frames.
    fn means(&self, slices: &[Slice<'_>], class: usize) -> Result<[Option<f64>; 2], TasksError> {
        let mut values = Vec::new();
        let mut under = [Vec::new(), Vec::new()];
        for slice in slices {
            let record = &self.cache.series()[slice.frame.series as usize];
            let pixels = self.cache.pixels(slice.frame)?.to_vec();
            values.extend(pixels.iter().map(|value| record.modality_value(f64::from(*value)) as f32));
            for (under, native) in under.iter_mut().zip([slice.truth, slice.found]) {
                let mask = mask_on_frame(record, self.cache.images(), native);
                under.extend(mask.into_iter().map(|value| usize::from(value) == class));
            }
        }
        Ok([mean_under_mask(&values, &under[0])?, mean_under_mask(&values, &under[1])?])
    }

    /// Measures masks: a volume for each series and moment that is labelled, then what a subject's volumes tell.
    pub(super) fn segmentations(
        &mut self,
        masks: &[SeriesMask],
        asked: &[&Example],
        said: &[Said],
    ) -> Result<(), TasksError> {
        let found = asked.iter().zip(said).filter_map(|(example, said)| match (&example.frames[..], said) {
            ([frame], Said::Pixels(pixels)) => Some((*frame, pixels)),
            _ => None,
        });
        let found: BTreeMap<FrameRef, &Vec<u8>> = found.collect();
        let mut stacks: Vec<Stack<'_>> = Vec::new();
        for mask in masks {
            let record = &self.cache.series()[mask.series as usize];
            let drawn = (0_u32..).zip(&mask.slices).filter_map(|(slice, drawn)| Some((slice, drawn.as_ref()?)));
            let both = drawn.filter_map(|(slice, truth)| {
                let frame = FrameRef { series: mask.series, slice, phase: mask.phase };
                Some(Slice { frame, truth, found: found.get(&frame)? })
            });
            let slices: Vec<Slice<'_>> = both.collect();
            if !slices.is_empty() {
                stacked(&mut stacks, Stack { record, phase: mask.phase, slices }, self.cache.series());
            }
        }
        let volume = |stack: &Stack<'_>| Ok((stack.record.subject, self.volume(stack)?));
        let volumes: Vec<_> = stacks.iter().map(volume).collect::<Result<_, TasksError>>()?;
        let volumes: Vec<Vec<Volume>> = self.by_subject(volumes);
        let structures = self.task.classes.len();
        // Of the whole task: the mean over the structures that the subject has.
        let over = |own: &Vec<Volume>, structure: Option<usize>, of: fn(&Volume, usize) -> Option<f64>| {
            let told = |structure| mean(own.iter().filter_map(|volume| of(volume, structure)));
            structure.map_or_else(|| mean((0..structures).filter_map(told)), told)
        };
        self.measured.each = volumes.iter().map(|own| over(own, None, |volume, s| volume.dice[s])).collect();
        if self.has(Metric::Dice) {
            self.add_parts(Metric::Dice, &volumes, |_| 0, |own, s| over(own, s, |volume, s| volume.dice[s]));
        }
        if self.has(Metric::Hd95) {
            let missed = |structure: Option<usize>| {
                let told = |volume: &Volume| match structure {
                    Some(structure) => usize::from(volume.hd95[structure] == Hausdorff::OneEmpty),
                    None => volume.hd95.iter().filter(|hd95| **hd95 == Hausdorff::OneEmpty).count(),
                };
                volumes.iter().flatten().map(told).sum()
            };
            self.add_parts(Metric::Hd95, &volumes, missed, |own, s| over(own, s, |volume, s| volume.hd95[s].mm()));
        }
        self.quantities(&volumes);
        Ok(())
    }

    /// Clinical quantities against the truth.
    fn quantities(&mut self, volumes: &[Vec<Volume>]) {
        let of_class = |name: &str| self.task.class(name);
        let (lv, rv, wall, scar) = (of_class("LV"), of_class("RV"), of_class("myocardium"), of_class("scar"));
        let cycle = |own: &[Volume], structure| Cycle::of(own, lv.unwrap_or(structure))?.volumes(structure);
        for (name, structure) in [("LV", lv), ("RV", rv)] {
            let Some(structure) = structure.filter(|_| self.has(Metric::Volumes)) else { continue };
            for (moment, which) in [("EDV", 0), ("ESV", 1)] {
                let of = |own: &[Volume]| Some(cycle(own, structure)?.map(|volumes| volumes.map(|all| all[which])));
                self.agree(Metric::Volumes, &format!("{name} {moment}, mL"), volumes, of);
            }
        }
        if let Some(lv) = lv.filter(|_| self.has(Metric::EjectionFraction)) {
            let of_volumes = |[diastolic, systolic]: [f64; 2]| ejection_fraction_percent(diastolic, systolic);
            let of = |own: &[Volume]| Some(cycle(own, lv)?.map(|volumes| volumes.and_then(of_volumes)));
            self.agree(Metric::EjectionFraction, "LV EF, %", volumes, of);
        }
        if let Some(wall) = wall.filter(|_| self.has(Metric::Mass)) {
            let of_volumes = |[diastolic, _]: [f64; 2]| myocardial_mass_g(diastolic);
            let of = |own: &[Volume]| Some(cycle(own, wall)?.map(|volumes| volumes.map(of_volumes)));
            self.agree(Metric::Mass, "LV mass, g", volumes, of);
        }
        if let Some((wall, scar)) = wall.zip(scar).filter(|_| self.has(Metric::ScarFraction)) {
            let sum =
                |own: &[Volume], structure: usize, which: usize| own.iter().map(|v| v.voxels[structure][which]).sum();
            let of =
                |own: &[Volume]| Some([0, 1].map(|which| scar_percent(sum(own, scar, which), sum(own, wall, which))));
            self.agree(Metric::ScarFraction, "scar, % of myocardium", volumes, of);
        }
        if self.has(Metric::MeanValue) {
            let of =
                |own: &[Volume]| Some([0, 1].map(|which| mean(own.iter().filter_map(|volume| volume.means[which]))));
            self.agree(Metric::MeanValue, "T1 of the myocardium, ms", volumes, of);
        }
    }

    /// Adds a clinical quantity: the mean absolute difference, and what agreement there is.
    fn agree(
        &mut self,
        metric: Metric,
        quantity: &str,
        volumes: &[Vec<Volume>],
        of: impl Fn(&[Volume]) -> Option<[Option<f64>; 2]>,
    ) {
        let pair = |own: &Vec<Volume>| of(own).and_then(|[truth, found]| Some([truth?, found?]));
        let each: Vec<Option<[f64; 2]>> = volumes.iter().map(pair).collect();
        let pairs: Vec<[f64; 2]> = each.iter().flatten().copied().collect();
        let lost = each.len() - pairs.len();
        let off: Vec<Option<f64>> = each.iter().map(|pair| pair.map(|[truth, found]| (found - truth).abs())).collect();
        self.add_mean(metric, Some(quantity), &off, lost);
        let side = |i: usize| pairs.iter().map(|pair| pair[i]).collect::<Vec<f64>>();
        let Ok(both) = Pairs::new(&side(0), &side(1)) else { return };
        if let (Some(bias), Some(mean_absolute_error)) = (both.bias(), both.mean_absolute_error()) {
            let (quantity, limits) = (quantity.to_owned(), both.limits());
            self.measured.agreements.push(Agreement { quantity, pairs, bias, limits, mean_absolute_error });
        }
    }
}

/// One stack of slices over the moments at which it is labelled.
#[derive(Debug)]
struct Cycle<'a> {
    /// The moment at which the true ventricle is largest.
    diastole: &'a Volume,
    later: Vec<&'a Volume>,
}

impl<'a> Cycle<'a> {
    /// That of a subject's stack with the most slices; none if no stack is labelled at two moments. `ventricle` tells the moment.
    ///
    /// A slice that was taken twice is a stack of its own, and no moment of another's.
    fn of(own: &'a [Volume], ventricle: usize) -> Option<Self> {
        let mut stacks: Vec<Vec<&Volume>> = Vec::new();
        // The largest first: of two volumes of one stack and moment the one with fewer slices does not count.
        let mut by_size: Vec<&Volume> = own.iter().collect();
        by_size.sort_by_key(|volume| std::cmp::Reverse(volume.slices));
        for volume in by_size {
            let is_of = |stack: &&mut Vec<&Volume>| stack.iter().any(|held| !held.series.is_disjoint(&volume.series));
            match stacks.iter_mut().find(is_of) {
                Some(stack) if stack.iter().any(|held| held.phase == volume.phase) => {}
                Some(stack) => stack.push(volume),
                None => stacks.push(vec![volume]),
            }
        }
        let stack = stacks.into_iter().find(|stack| stack.len() > 1)?;
        // Pieces that are labelled at moments of their own: none of these moments is the whole stack's.
        let apart = |one: &&Volume| stack.iter().any(|other| one.series.is_disjoint(&other.series));
        if stack.iter().any(apart) {
            return None;
        }
        let truth = |volume: &Volume| volume.voxels[ventricle][0];
        let (diastole, _) =
            stack.iter().enumerate().max_by_key(|(place, volume)| (truth(volume), std::cmp::Reverse(*place)))?;
        let later =
            stack.iter().enumerate().filter(|(place, _)| *place != diastole).map(|(_, volume)| *volume).collect();
        Some(Self { diastole: stack[diastole], later })
    }

    /// End-diastolic and end-systolic volume of a structure, mL: by the true masks, and by the found ones. End-systole is where
    /// the structure is smallest, of each by its own masks. None if the slices are not a stack.
    fn volumes(&self, structure: usize) -> Option<[Option<[f64; 2]>; 2]> {
        let ml = |volume: &Volume, which: usize| Some(volume_ml(volume.voxels[structure][which], volume.voxel_mm3?));
        Some([0, 1].map(|which| {
            let least = self.later.iter().filter_map(|volume| ml(volume, which)).min_by(f64::total_cmp)?;
            Some([ml(self.diastole, which)?, least])
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A volume of series whose true and found ventricle have so many voxels, of 1 mL each.
    fn volume(phase: u32, series: &[u32], slices: usize, voxels: [usize; 2]) -> Volume {
        Volume {
            phase,
            series: series.iter().copied().collect(),
            slices,
            dice: vec![None],
            hd95: vec![Hausdorff::BothEmpty],
            voxels: vec![voxels],
            voxel_mm3: Some(1000.0),
            means: [None; 2],
        }
    }

    fn volumes(own: &[Volume]) -> Option<[Option<[f64; 2]>; 2]> {
        Cycle::of(own, 0)?.volumes(0)
    }

    /// A short-axis series with slices at these places, whose header says how thick they are and not how far apart.
    fn series(places: &[f64], thickness: f64) -> SeriesRecord {
        let slice = |place: &f64| serde_json::json!({ "position_mm": place, "placement": at(*place), "level": null, "phases": 2, "acquired": 2 });
        let (key, digest) = ("00112233445566778899aabbccddeeff", common::Digest::of(b"pixels"));
        serde_json::from_value(serde_json::json!({
            "key": key, "subject": key, "study": key, "source": key, "vendor": "siemens", "sequence": "cine",
            "sequence_rule": "timing", "plane": "sax", "plane_rule": "geometry", "matrix": [2, 2],
            "spacing_mm": [2.0, 2.0], "slice_step_mm": thickness, "window": [0.0, 1.0],
            "slices": places.iter().map(slice).collect::<Vec<_>>(),
            "skipped": [], "first_frame": 0, "content": digest, "pixels": digest, "sums": [],
        }))
        .unwrap()
    }

    /// Facing z.
    fn at(mm: f64) -> serde_json::Value {
        serde_json::json!({ "origin": [0.0, 0.0, mm], "row": [1.0, 0.0, 0.0], "column": [0.0, 1.0, 0.0] })
    }

    /// The stacks that are made of these series at a moment: slices, each with its truth and what was found.
    fn stacks<'a>(all: &'a [SeriesRecord], drawn: &[(FrameRef, &'a [Vec<u8>; 2])]) -> Vec<Stack<'a>> {
        let mut stacks = Vec::new();
        for (index, record) in all.iter().enumerate() {
            let own = drawn.iter().filter(|(frame, _)| frame.series as usize == index);
            let slices: Vec<Slice<'_>> =
                own.map(|(frame, [truth, found])| Slice { frame: *frame, truth, found }).collect();
            if !slices.is_empty() {
                stacked(&mut stacks, Stack { record, phase: 0, slices }, all);
            }
        }
        stacks
    }

    /// Every slice of these series.
    fn frames(all: &[SeriesRecord]) -> Vec<FrameRef> {
        let of = |(index, record): (usize, &SeriesRecord)| {
            let slices = 0..record.slices.len() as u32;
            slices.map(move |slice| FrameRef { series: index as u32, slice, phase: 0 })
        };
        all.iter().enumerate().flat_map(of).collect()
    }

    /// The slices and the distance in the stacks that are made of these series, all drawn on at one moment but for those
    /// `undrawn`.
    fn sizes(all: &[SeriesRecord], undrawn: &[usize]) -> Vec<(usize, Option<f64>)> {
        let masks = [vec![1; 4], vec![1; 4]];
        let drawn = frames(all).into_iter().filter(|frame| !undrawn.contains(&(frame.series as usize)));
        let stacks = stacks(all, &drawn.map(|frame| (frame, &masks)).collect::<Vec<_>>());
        stacks.iter().map(|stack| (stack.slices.len(), stack.slice_distance_mm(all))).collect()
    }

    fn distances(all: &[SeriesRecord], undrawn: &[usize]) -> Vec<Option<f64>> {
        sizes(all, undrawn).into_iter().map(|(_, distance)| distance).collect()
    }

    #[test]
    fn a_short_axis_in_pieces_is_one_stack_and_two_long_axes_are_two() {
        let whole: Vec<f64> = (0..10).map(|slice| 10.0 * f64::from(slice)).collect();
        let one_after_the_other = [series(&whole[..5], 8.0), series(&whole[5..], 8.0)];
        assert_eq!(sizes(&one_after_the_other, &[]), [(10, Some(10.0))]);
        let every_other = [0, 1].map(|first| whole.iter().copied().skip(first).step_by(2).collect::<Vec<_>>());
        assert_eq!(sizes(&every_other.map(|places| series(&places, 8.0)), &[]), [(10, Some(10.0))]);
        // Of a header that does not say how thick they are.
        let mut untold = one_after_the_other.clone();
        untold.iter_mut().for_each(|record| record.slice_step_mm = None);
        assert_eq!(sizes(&untold, &[]), [(10, Some(10.0))]);
        // The same slices twice are two stacks, and so are long axes and a short axis that was turned.
        assert_eq!(sizes(&[series(&whole, 8.0), series(&whole, 8.0)], &[]), [(10, Some(10.0)); 2]);
        let alone = [0.0, 12.0].map(|place| series(&[place], 8.0));
        let mut long = alone.clone();
        long.iter_mut().for_each(|record| record.plane = Plane::FourChamber);
        assert_eq!(sizes(&long, &[]), [(1, Some(8.0)); 2]);
        let mut turned = alone.clone();
        let tilted =
            serde_json::json!({ "origin": [0.0, 0.0, 12.0], "row": [0.995, 0.0, 0.0999], "column": [0.0, 1.0, 0.0] });
        turned[1].slices[0].placement = serde_json::from_value(tilted).unwrap();
        assert_eq!(sizes(&turned, &[]), [(1, Some(8.0)); 2]);
        assert_eq!(sizes(&alone, &[]), [(2, Some(12.0))]);
    }

    #[test]
    fn a_slice_that_is_not_drawn_on_keeps_its_neighbors_apart() {
        let (full, empty) = (vec![1; 4], vec![0; 4]);
        let (first, last) = ([full.clone(), empty.clone()], [empty, full]);
        let far = |all: &[SeriesRecord]| {
            let frames = frames(all);
            let stacks = stacks(all, &[(frames[0], &first), (frames[2], &last)]);
            assert_eq!(stacks.len(), 1);
            let step = stacks[0].slice_distance_mm(all);
            stacks[0].hausdorff_95(1, (&stacks[0].planes(all, step), step)).unwrap()
        };
        assert_eq!(far(&[series(&[0.0, 10.0, 20.0], 8.0)]), Hausdorff::Mm(20.0));
        assert_eq!(far(&[0.0, 10.0, 20.0].map(|place| series(&[place], 8.0))), Hausdorff::Mm(20.0));
    }

    #[test]
    fn slices_of_8_mm_every_10_mm_are_10_mm_apart_be_they_one_series_or_one_series_each() {
        let places = [30.0, 0.0, 10.0, 20.0];
        let each: Vec<SeriesRecord> = places.iter().map(|place| series(&[*place], 8.0)).collect();
        assert_eq!(distances(&each, &[]), [Some(10.0)]);
        assert_eq!(distances(&[series(&[0.0, 10.0, 20.0, 30.0], 8.0)], &[]), [Some(10.0)]);
        // In systole the base and the apex are not drawn: the slices lie where they lay in diastole.
        for undrawn in [&[0, 1][..], &[2], &[0, 2, 3]] {
            assert_eq!(distances(&each, undrawn), [Some(10.0)], "{undrawn:?}");
        }
        // A slice that was taken again is a stack of its own, as far from its neighbors; one that is missing is a gap.
        let again = [each.clone(), vec![series(&[10.1], 8.0)]].concat();
        let of_both: Vec<f64> = distances(&again, &[]).into_iter().map(Option::unwrap).collect();
        assert!(of_both.len() == 2 && of_both.iter().all(|distance| (distance - 10.0).abs() < 1e-9), "{of_both:?}");
        let moved = [series(&[0.0, 10.0, 20.0], 8.0), series(&[5.0, 15.0, 25.0], 8.0)];
        assert_eq!(distances(&moved, &[]), [Some(10.0); 2], "a stack that was acquired again, elsewhere");
        assert_eq!(distances(&[0.0, 10.0, 30.0].map(|place| series(&[place], 8.0)), &[]), [Some(10.0)]);
        assert_eq!(distances(&each[..1], &[]), [Some(8.0)], "of a lone slice nothing else is known");
    }

    #[test]
    fn diastole_is_the_moment_of_the_largest_true_ventricle_whichever_number_it_has() {
        let told = Some([Some([120.0, 50.0]), Some([110.0, 60.0])]);
        for [diastole, systole] in [[0, 9], [4, 11], [11, 4]] {
            let own = [volume(diastole, &[1], 9, [120, 110]), volume(systole, &[1], 9, [50, 60])];
            assert_eq!(volumes(&own), told, "{diastole} {systole}");
        }
        // A third moment between them; and a network that finds the heart larger in systole is not made to look better.
        let own = [volume(3, &[1], 9, [80, 70]), volume(5, &[1], 9, [120, 60]), volume(9, &[1], 9, [50, 90])];
        assert_eq!(volumes(&own), Some([Some([120.0, 50.0]), Some([60.0, 70.0])]));
        assert_eq!(volumes(&own[..1]), None, "one moment is no cycle");
    }

    #[test]
    fn pieces_of_a_stack_that_are_labelled_at_moments_of_their_own_are_no_cycle() {
        let diastole = volume(0, &[1, 2], 10, [120, 110]);
        let apart = [diastole.clone(), volume(9, &[1], 5, [30, 40]), volume(10, &[2], 5, [20, 20])];
        assert_eq!(volumes(&apart), None);
        // Of one whose apex is not drawn in systole it is the ventricle that ends there.
        let shorter = [diastole, volume(9, &[1], 5, [50, 60])];
        assert_eq!(volumes(&shorter), Some([Some([120.0, 50.0]), Some([110.0, 60.0])]));
    }

    #[test]
    fn a_slice_that_was_taken_again_is_no_moment_of_the_stack() {
        // One series a slice, as in UK Biobank; slice 2 again as series 9, at both moments and small.
        let stack = [volume(0, &[1, 2, 3], 3, [120, 110]), volume(4, &[1, 2, 3], 3, [50, 60])];
        let again = [volume(0, &[9], 1, [10, 10]), volume(4, &[9], 1, [2, 0])];
        let told = Some([Some([120.0, 50.0]), Some([110.0, 60.0])]);
        assert_eq!(volumes(&[stack.clone(), again.clone()].concat()), told);
        assert_eq!(volumes(&[again.clone(), stack.clone()].concat()), told);
        // Its repetition took its place at one moment, because only that one is labelled there.
        let taken =
            [volume(0, &[1, 2, 3], 3, [120, 110]), volume(4, &[1, 9, 3], 3, [50, 60]), volume(0, &[9], 1, [10, 10])];
        assert_eq!(volumes(&taken), told);
        assert_eq!(volumes(&again[..1]), None);
    }
}
