//! From answers to the numbers that clinicians use, each with an interval by subject.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use common::Task;
use common::task::{Metric, TaskKind};
use data::{FrameCache, SeriesMask, SeriesRecord, Split, SubjectKey};
use model::Finetuner;
use serde::{Deserialize, Serialize};

use super::training::thinned;
use super::{Answer, Asked, CohortError, Example, Examples, Finetuned, Said, TasksError};
use crate::metrics::agreement::Pairs;
use crate::metrics::bootstrap;
use crate::metrics::cardiac::{ejection_fraction_percent, mean_under_mask, myocardial_mass_g, scar_percent, volume_ml};
use crate::metrics::classification::{Confusion, Roc, RocPoint, auc_one_vs_rest};
use crate::metrics::distance::NEAR_MM;
use crate::metrics::overlap::dice;
use crate::metrics::surface::{Hausdorff, hausdorff_95};

/// Rounds of the bootstrap.
const ROUNDS: usize = 500;

/// What was measured of a task on some subjects. Subjects are told apart by their place alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Subjects.
    pub subjects: usize,
    /// Frames that were asked.
    pub frames: usize,
    /// Each metric, and its parts by structure or landmark.
    pub values: Vec<Value>,
    /// Clinical quantities against the truth.
    pub agreements: Vec<Agreement>,
    /// Samples by class, `[truth][said]`.
    pub confusion: Vec<Vec<u64>>,
    /// A curve a class (the second alone, of two): (false positive rate, true positive rate).
    pub curves: BTreeMap<String, Vec<[f64; 2]>>,
    /// The task's best metric of each subject, in the order of their keys; none where it cannot be told of one subject.
    pub each: Vec<Option<f64>>,
}

/// A measured number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Value {
    /// Which.
    pub metric: Metric,
    /// Of which structure, class or landmark; none for the whole task.
    pub of: Option<String>,
    /// The number.
    pub value: f64,
    /// The 95 % interval by subject.
    pub interval: Option<[f64; 2]>,
    /// Subjects it is the mean of.
    pub subjects: usize,
    /// Structures that were there and were not found, or the other way round: no distance can be told of them.
    pub missed: usize,
}

/// A clinical quantity as it was found, against the truth (Bland and Altman 1986).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agreement {
    /// Which quantity, with its unit.
    pub quantity: String,
    /// (truth, found), one a subject.
    pub pairs: Vec<[f64; 2]>,
    /// Mean of found minus truth.
    pub bias: f64,
    /// Bias ± 1.96 standard deviations; none for a single subject.
    pub limits: Option<[f64; 2]>,
    /// Mean of the absolute difference.
    pub mean_absolute_error: f64,
}

impl Measured {
    /// A metric of the whole task.
    pub fn value(&self, metric: Metric) -> Option<f64> {
        self.values.iter().find(|value| value.metric == metric && value.of.is_none()).map(|value| value.value)
    }
}

/// Asks a finetuned network of the site's held-out subjects, and measures what it says.
pub fn evaluate(
    told: &Finetuned,
    cache: &FrameCache,
    examples: &Examples,
    held_out: f64,
    network: &Finetuner,
    seed: u64,
) -> Result<Measured, TasksError> {
    let split = Split::new(&cache.subjects(), held_out);
    let asked = thinned(split.held_out(), &told.task, cache, examples);
    if asked.is_empty() {
        let subjects = examples.all.iter().map(|example| example.subject).collect::<BTreeSet<_>>().len();
        return Err(CohortError::TooFew { what: "are held out to be measured", found: 0, least: 1, subjects }.into());
    }
    let side = told.model.image_size * told.task.input.scale;
    let said = Asked::new(cache, &told.task, side, told.model.in_channels).all(network, &asked)?;
    measure(&told.task, cache, examples, &asked, &said, Some(seed))
}

/// Measures what was said of examples. `seed` draws the bootstrap; without one no interval is computed, and of a
/// segmentation no distance unless it picks the model.
pub fn measure(
    task: &Task,
    cache: &FrameCache,
    examples: &Examples,
    asked: &[&Example],
    said: &[Said],
    seed: Option<u64>,
) -> Result<Measured, TasksError> {
    let mut keys: Vec<SubjectKey> = asked.iter().map(|example| example.subject).collect();
    keys.sort_unstable();
    keys.dedup();
    let place = |subject: &SubjectKey| keys.binary_search(subject).unwrap_or_default();
    let frames = asked.iter().map(|example| example.frames.len()).sum();
    let mut sheet = Sheet { task, subjects: keys.len(), seed, measured: Measured::default() };
    (sheet.measured.subjects, sheet.measured.frames) = (keys.len(), frames);
    match task.kind {
        TaskKind::Classification | TaskKind::Detection => {
            let mut samples = vec![Vec::new(); keys.len()];
            for (example, said) in asked.iter().zip(said) {
                if let (Answer::Class(class), Said::Scores(scores)) = (&example.answer, said) {
                    samples[place(&example.subject)].push((*class, scores.clone()));
                }
            }
            sheet.classes(&samples)?;
        }
        TaskKind::Segmentation => {
            let found: BTreeMap<_, _> = asked
                .iter()
                .zip(said)
                .filter_map(|(example, said)| match (example.frames.first(), said) {
                    (Some(frame), Said::Pixels(pixels)) => Some((*frame, pixels)),
                    _ => None,
                })
                .collect();
            let mut volumes = vec![Vec::new(); keys.len()];
            for mask in &examples.masks {
                let record = &cache.series()[mask.series as usize];
                let Ok(subject) = keys.binary_search(&record.subject) else { continue };
                let slice = |slice: usize| {
                    let frame = data::FrameRef { series: mask.series, slice: slice as u32, phase: mask.phase };
                    Some((mask.slices[slice].as_ref()?, *found.get(&frame)?, frame))
                };
                let slices: Vec<_> = (0..mask.slices.len()).filter_map(slice).collect();
                if !slices.is_empty() {
                    volumes[subject].push(sheet.volume(cache, record, mask, &slices)?);
                }
            }
            sheet.segmentations(&volumes);
        }
        TaskKind::Localisation => {
            let mut distances = vec![Vec::new(); keys.len()];
            for (example, said) in asked.iter().zip(said) {
                let (Answer::Places(truth), Said::Places(found)) = (&example.answer, said) else { continue };
                let record = &cache.series()[example.frames[0].series as usize];
                let grid = data::FrameGrid::new(record.matrix, record.spacing_mm, cache.images());
                for (landmark, (truth, found)) in truth.iter().zip(found).enumerate() {
                    let Some(truth) = truth.map(|place| grid.to_native(place)) else { continue };
                    let [down, right] = [0, 1].map(|i| (truth[i] - found[i]) * record.spacing_mm[i]);
                    distances[place(&example.subject)].push((landmark, down.hypot(right)));
                }
            }
            sheet.places(&distances);
        }
    }
    Ok(sheet.measured)
}

/// What is measured so far.
struct Sheet<'a> {
    task: &'a Task,
    subjects: usize,
    seed: Option<u64>,
    measured: Measured,
}

/// A volume of masks: what was measured of it.
#[derive(Clone, Debug)]
struct Volume {
    phase: u32,
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
    fn has(&self, metric: Metric) -> bool {
        self.task.metrics.contains(&metric)
    }

    /// Adds a number that is defined over subjects.
    fn add(
        &mut self,
        metric: Metric,
        of: Option<&str>,
        subjects: usize,
        missed: usize,
        statistic: impl Fn(&[usize]) -> Option<f64>,
    ) {
        let all: Vec<usize> = (0..self.subjects).collect();
        let Some(value) = statistic(&all) else { return };
        let interval = self.seed.and_then(|seed| bootstrap::interval(self.subjects, seed, ROUNDS, &statistic));
        let of = of.map(str::to_owned);
        self.measured.values.push(Value { metric, of, value, interval, subjects, missed });
    }

    /// Adds the mean over subjects of a number that each of them may have.
    fn add_mean(&mut self, metric: Metric, of: Option<&str>, each: &[Option<f64>], missed: usize) {
        let subjects = each.iter().flatten().count();
        self.add(metric, of, subjects, missed, |some| mean(some.iter().filter_map(|subject| each[*subject])));
    }

    /// `samples`: by subject, (truth, scores).
    fn classes(&mut self, samples: &[Vec<(usize, Vec<f64>)>]) -> Result<(), TasksError> {
        let classes = self.task.classes.len();
        let said = |scores: &[f64]| {
            (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b]).then(b.cmp(a))).unwrap_or_default()
        };
        let confusion = |some: &[usize]| -> Option<Confusion> {
            let rows = || some.iter().flat_map(|subject| &samples[*subject]);
            let truth: Vec<usize> = rows().map(|(truth, _)| *truth).collect();
            let found: Vec<usize> = rows().map(|(_, scores)| said(scores)).collect();
            Confusion::new(&truth, &found, classes).ok()
        };
        let auc = |some: &[usize]| -> Option<f64> {
            let rows = || some.iter().flat_map(|subject| &samples[*subject]);
            if classes == 2 {
                let truth: Vec<bool> = rows().map(|(truth, _)| *truth == 1).collect();
                let scores: Vec<f64> = rows().map(|(_, scores)| scores[1]).collect();
                return Roc::new(&truth, &scores).ok()?.auc();
            }
            let truth: Vec<usize> = rows().map(|(truth, _)| *truth).collect();
            let scores: Vec<f64> = rows().flat_map(|(_, scores)| scores.iter().copied()).collect();
            auc_one_vs_rest(&truth, &scores, classes).ok().flatten()
        };
        let subjects = samples.iter().filter(|samples| !samples.is_empty()).count();
        for metric in self.metrics() {
            match metric {
                Metric::Accuracy => self.add(metric, None, subjects, 0, |some| confusion(some)?.accuracy()),
                Metric::BalancedAccuracy => {
                    self.add(metric, None, subjects, 0, |some| confusion(some)?.balanced_accuracy());
                }
                Metric::F1Macro => self.add(metric, None, subjects, 0, |some| confusion(some)?.f1_macro()),
                Metric::Sensitivity => self.add(metric, None, subjects, 0, |some| confusion(some)?.sensitivity(1)),
                Metric::Specificity => self.add(metric, None, subjects, 0, |some| confusion(some)?.specificity(1)),
                Metric::Auc => self.add(metric, None, subjects, 0, auc),
                _ => {}
            }
        }
        let all: Vec<usize> = (0..samples.len()).collect();
        self.measured.confusion = confusion(&all).map(|all| all.counts().to_vec()).unwrap_or_default();
        let first = usize::from(classes == 2);
        for class in first..classes {
            let rows = || samples.iter().flatten();
            let truth: Vec<bool> = rows().map(|(truth, _)| *truth == class).collect();
            let scores: Vec<f64> = rows().map(|(_, scores)| scores[class]).collect();
            if let Some(points) = Roc::new(&truth, &scores)?.points() {
                let pair = |point: RocPoint| [point.false_positive_rate, point.true_positive_rate];
                let points = points.into_iter().map(pair).collect();
                self.measured.curves.insert(self.task.classes[class].clone(), points);
            }
        }
        self.measured.each = samples.iter().map(|own| right(own, said)).collect();
        Ok(())
    }

    /// The metrics to compute: those of the task, and the one that picks the model.
    fn metrics(&self) -> Vec<Metric> {
        let mut all = self.task.metrics.clone();
        if !all.contains(&self.task.best.metric) {
            all.push(self.task.best.metric);
        }
        all
    }

    fn volume(
        &self,
        cache: &FrameCache,
        record: &SeriesRecord,
        mask: &SeriesMask,
        slices: &[(&Vec<u8>, &Vec<u8>, data::FrameRef)],
    ) -> Result<Volume, TasksError> {
        let structures = self.task.classes.len();
        let truth: Vec<u8> = slices.iter().flat_map(|(truth, ..)| truth.iter().copied()).collect();
        let found: Vec<u8> = slices.iter().flat_map(|(_, found, _)| found.iter().copied()).collect();
        let [rows, columns] = record.matrix.map(|count| count as usize);
        let step = record.slice_distance_mm();
        let dice = dice(&truth, &found, structures + 1)?.split_off(1);
        let far = self.seed.is_some() && self.has(Metric::Hd95) || self.task.best.metric == Metric::Hd95;
        let mut hd95 = Vec::new();
        for structure in 1..=structures as u8 {
            let only = |values: &[u8]| values.iter().map(|value| *value == structure).collect::<Vec<bool>>();
            let spacing = [step.unwrap_or(1.0), record.spacing_mm[0], record.spacing_mm[1]];
            hd95.push(match far {
                true => hausdorff_95(&only(&truth), &only(&found), [slices.len(), rows, columns], spacing)?,
                false => Hausdorff::BothEmpty,
            });
        }
        let count =
            |values: &[u8], structure: usize| values.iter().filter(|value| usize::from(**value) == structure).count();
        let voxels = (1..=structures).map(|structure| [count(&truth, structure), count(&found, structure)]).collect();
        let area = record.spacing_mm[0] * record.spacing_mm[1];
        let means = match self.task.class("myocardium").filter(|_| self.has(Metric::MeanValue)) {
            Some(class) => self.means(cache, record, slices, class as u8 + 1)?,
            None => [None; 2],
        };
        Ok(Volume { phase: mask.phase, dice, hd95, voxels, voxel_mm3: step.map(|step| step * area), means })
    }

    /// Mean of the values under the true and the found mask, on the cached frames.
    fn means(
        &self,
        cache: &FrameCache,
        record: &SeriesRecord,
        slices: &[(&Vec<u8>, &Vec<u8>, data::FrameRef)],
        class: u8,
    ) -> Result<[Option<f64>; 2], TasksError> {
        let mut values = Vec::new();
        let mut under = [Vec::new(), Vec::new()];
        for (truth, found, frame) in slices {
            let pixels = cache.pixels(*frame).to_vec();
            values.extend(pixels.iter().map(|value| record.modality_value(f64::from(*value)) as f32));
            for (under, native) in under.iter_mut().zip([truth, found]) {
                let mask = data::mask_on_frame(record, cache.images(), native);
                under.extend(mask.into_iter().map(|value| value == class));
            }
        }
        Ok([mean_under_mask(&values, &under[0])?, mean_under_mask(&values, &under[1])?])
    }

    fn segmentations(&mut self, volumes: &[Vec<Volume>]) {
        let structures = self.task.classes.clone();
        let dice_of = |own: &[Volume], structure: usize| mean(own.iter().filter_map(|volume| volume.dice[structure]));
        let overall = |own: &Vec<Volume>| mean((0..structures.len()).filter_map(|structure| dice_of(own, structure)));
        self.measured.each = volumes.iter().map(overall).collect();
        for metric in self.metrics() {
            match metric {
                Metric::Dice => {
                    let each = self.measured.each.clone();
                    self.add_mean(metric, None, &each, 0);
                    for (structure, name) in structures.iter().enumerate() {
                        let each: Vec<_> = volumes.iter().map(|own| dice_of(own, structure)).collect();
                        self.add_mean(metric, Some(name), &each, 0);
                    }
                }
                Metric::Hd95 => {
                    let of = |own: &[Volume], structure: usize| mean(own.iter().filter_map(|v| v.hd95[structure].mm()));
                    let missed = |structure: usize| {
                        let all = volumes.iter().flatten();
                        all.filter(|volume| volume.hd95[structure] == Hausdorff::OneEmpty).count()
                    };
                    let each: Vec<_> =
                        volumes.iter().map(|own| mean((0..structures.len()).filter_map(|s| of(own, s)))).collect();
                    self.add_mean(metric, None, &each, (0..structures.len()).map(missed).sum());
                    for (structure, name) in structures.iter().enumerate() {
                        let each: Vec<_> = volumes.iter().map(|own| of(own, structure)).collect();
                        self.add_mean(metric, Some(name), &each, missed(structure));
                    }
                }
                Metric::Volumes => {
                    for (name, (moment, which)) in
                        ["LV", "RV"].into_iter().flat_map(|name| [("EDV", 0), ("ESV", 1)].map(|moment| (name, moment)))
                    {
                        let Some(structure) = self.task.class(name) else { continue };
                        let of =
                            |own: &[Volume]| Some(cycle(own, structure)?.map(|volumes| volumes.map(|all| all[which])));
                        self.agree(metric, &format!("{name} {moment}, mL"), volumes, of);
                    }
                }
                Metric::EjectionFraction => {
                    let Some(structure) = self.task.class("LV") else { continue };
                    self.agree(metric, "LV EF, %", volumes, |own| {
                        let [truth, found] = cycle(own, structure)?;
                        Some([truth, found].map(|volumes| {
                            volumes.and_then(|[end_diastolic, end_systolic]| {
                                ejection_fraction_percent(end_diastolic, end_systolic)
                            })
                        }))
                    });
                }
                Metric::Mass => {
                    let Some(structure) = self.task.class("myocardium") else { continue };
                    self.agree(metric, "LV mass, g", volumes, |own| {
                        Some(
                            cycle(own, structure)?
                                .map(|v| v.map(|[end_diastolic, _]| myocardial_mass_g(end_diastolic))),
                        )
                    });
                }
                Metric::ScarFraction => {
                    let (Some(wall), Some(scar)) = (self.task.class("myocardium"), self.task.class("scar")) else {
                        continue;
                    };
                    self.agree(metric, "scar, % of myocardium", volumes, |own| {
                        let sum = |structure: usize, which: usize| own.iter().map(|v| v.voxels[structure][which]).sum();
                        Some([0, 1].map(|which| scar_percent(sum(scar, which), sum(wall, which))))
                    });
                }
                Metric::MeanValue => self.agree(metric, "mean of the myocardium", volumes, |own| {
                    Some([0, 1].map(|which| mean(own.iter().filter_map(|volume| volume.means[which]))))
                }),
                _ => {}
            }
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

    /// `distances`: by subject, (landmark, mm).
    fn places(&mut self, distances: &[Vec<(usize, f64)>]) {
        let landmarks = self.task.classes.clone();
        let all = |own: &Vec<(usize, f64)>| mean(own.iter().map(|(_, mm)| *mm));
        self.measured.each = distances.iter().map(all).collect();
        for metric in self.metrics() {
            let told = |mm: f64| match metric {
                Metric::Within5Mm => f64::from(u8::from(mm <= NEAR_MM)),
                _ => mm,
            };
            if !matches!(metric, Metric::Distance | Metric::Within5Mm) {
                continue;
            }
            let each: Vec<_> = distances.iter().map(|own| mean(own.iter().map(|(_, mm)| told(*mm)))).collect();
            self.add_mean(metric, None, &each, 0);
            for (landmark, name) in landmarks.iter().enumerate() {
                let of =
                    |own: &Vec<(usize, f64)>| mean(own.iter().filter(|(l, _)| *l == landmark).map(|(_, mm)| told(*mm)));
                let each: Vec<_> = distances.iter().map(of).collect();
                self.add_mean(metric, Some(name), &each, 0);
            }
        }
    }
}

/// End-diastolic and end-systolic volume of a structure, mL: by the true masks, and by the found ones. None where fewer than
/// two moments are labelled, or the slices are not a stack. End-diastole is the first frame; end-systole is where the
/// structure is smallest, of each by its own masks.
fn cycle(own: &[Volume], structure: usize) -> Option<[Option<[f64; 2]>; 2]> {
    let first = own.iter().find(|volume| volume.phase == 0)?;
    let later: Vec<&Volume> = own.iter().filter(|volume| volume.phase > 0).collect();
    let ml = |volume: &Volume, which: usize| Some(volume_ml(volume.voxels[structure][which], volume.voxel_mm3?));
    Some([0, 1].map(|which| {
        let least = later.iter().filter_map(|volume| ml(volume, which)).min_by(f64::total_cmp)?;
        Some([ml(first, which)?, least])
    }))
}

/// Fraction of a subject's samples that were said right.
fn right(own: &[(usize, Vec<f64>)], said: impl Fn(&[f64]) -> usize) -> Option<f64> {
    mean(own.iter().map(|(truth, scores)| f64::from(u8::from(said(scores) == *truth))))
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} held-out subjects, {} frames", self.subjects, self.frames)?;
        for value in &self.values {
            let name = format!("{:?}", value.metric);
            let interval = value.interval.map_or_else(String::new, |[low, high]| format!("   [{low:.3}, {high:.3}]"));
            let missed = if value.missed > 0 { format!("   {} not told", value.missed) } else { String::new() };
            let of = value.of.as_deref().unwrap_or("all");
            writeln!(f, "  {name:<18} {of:<26} {:>9.3}{interval}{missed}", value.value)?;
        }
        for agreement in &self.agreements {
            let limits =
                agreement.limits.map_or_else(String::new, |[l, h]| format!(", limits of agreement {l:.1} to {h:.1}"));
            writeln!(
                f,
                "  {}: bias {:+.1}{limits} (n = {})",
                agreement.quantity,
                agreement.bias,
                agreement.pairs.len()
            )?;
        }
        Ok(())
    }
}
