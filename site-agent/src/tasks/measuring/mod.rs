//! From answers to the numbers that clinicians use, each with an interval by subject: a file for each kind of answer.

mod classes;
mod places;
mod segmentation;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use common::privacy::SUBJECTS_ROUNDED_TO;
use common::task::{Metric, TaskKind};
use common::{Digest, Task};
use data::{FrameCache, Split, SubjectKey};
use model::Finetuner;
use serde::{Deserialize, Serialize};

use super::learnt::{Learnt, who};
use super::{Asked, CohortError, Example, Examples, Finetuned, FinetunedFolder, Said, TasksError, thinned};
use crate::metrics::bootstrap;

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
    /// Subjects behind each of these counts; none in files of before they were written.
    #[serde(default)]
    pub behind: Vec<Vec<u64>>,
    /// Subjects by class: with a sample of it, and with one of another. None in files of before they were written.
    #[serde(default)]
    pub of_class: Vec<[u64; 2]>,
    /// A curve a class (the second alone, of two): (false positive rate, true positive rate).
    pub curves: BTreeMap<String, Vec<[f64; 2]>>,
    /// The task's best metric of each subject, in the order of their keys; none where it cannot be told of one subject.
    pub each: Vec<Option<f64>>,
    /// What the task asks for and no subject here tells: metrics and their parts, and classes that nobody has.
    #[serde(default)]
    pub untold: Vec<String>,
    /// SHA-256 of who was measured; none in files of before it was written.
    #[serde(default)]
    pub who: Option<Digest>,
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

/// What may leave the site of a measurement, be it on a page or as a score.
impl Measured {
    /// Subjects with a sample of a class, and with one of another: never frames, of which a single subject has many. Of
    /// a file that does not say they are the samples of a detection, which has one a subject, and of a classification
    /// nobody.
    pub fn class_and_rest(&self, task: &Task, class: usize) -> [u64; 2] {
        if let Some(subjects) = self.of_class.get(class) {
            return *subjects;
        }
        if task.kind != TaskKind::Detection {
            return [0, 0];
        }
        let counts: Vec<u64> = self.confusion.iter().map(|row| row.iter().sum()).collect();
        let own = counts.get(class).copied().unwrap_or(0);
        [own, counts.iter().sum::<u64>() - own]
    }

    /// Subjects who have a class and are called another, or the same, with one sample or more. Of a file that does not
    /// say as with [`Self::class_and_rest`].
    pub fn subjects_called(&self, task: &Task, class: usize, called: usize) -> u64 {
        let of = |counts: &[Vec<u64>]| counts.get(class).and_then(|row| row.get(called)).copied();
        let samples = || of(&self.confusion).filter(|_| task.kind == TaskKind::Detection);
        of(&self.behind).or_else(samples).unwrap_or(0)
    }

    /// Whether a metric of the whole task over so many subjects tells of enough of them. What tells classes apart needs
    /// enough subjects of each class that somebody has, and enough of others: the sensitivity of one patient is that patient,
    /// and so is, beside the accuracy, a mean over classes of which one is his.
    pub fn may_leave(&self, task: &Task, metric: Metric, subjects: usize) -> bool {
        use Metric::{Auc, BalancedAccuracy, F1Macro, Sensitivity, Specificity};
        let least = u64::from(SUBJECTS_ROUNDED_TO);
        let tells_apart = matches!(metric, Auc | BalancedAccuracy | F1Macro | Sensitivity | Specificity);
        let classes = (0..task.classes.len()).map(|class| self.class_and_rest(task, class));
        let had: Vec<[u64; 2]> = classes.filter(|[own, _]| *own > 0).collect();
        let enough = || !had.is_empty() && had.iter().flatten().all(|count| *count >= least);
        subjects as u64 >= least && (!tells_apart || enough())
    }
}

/// Asks a finetuned network of the site's held-out subjects, and measures what it says. Whom the network has `learnt` from is
/// not measured, whatever is held out by now.
pub fn evaluate(
    (folder, told, learnt): (&FinetunedFolder, &Finetuned, Option<&Learnt>),
    cache: &FrameCache,
    examples: &Examples,
    held_out: f64,
    network: &Finetuner,
    seed: u64,
) -> Result<Measured, TasksError> {
    let asked = held_out_examples(&told.task, cache, examples, held_out);
    let whom = asked.iter().map(|example| example.subject).collect();
    if let Some(learnt) = learnt {
        learnt.require_unseen(&whom, cache, folder.path())?;
    }
    if asked.is_empty() {
        let subjects = examples.all.iter().map(|example| example.subject).collect::<BTreeSet<_>>().len();
        return Err(CohortError::TooFew { what: "are held out to be measured", found: 0, least: 1, subjects }.into());
    }
    let side = told.model.image_size * told.task.input.scale;
    let said = Asked::new(cache, &told.task, side, told.model.in_channels).all(network, &asked)?;
    measure(&told.task, cache, examples, &asked, &said, Some(seed))
}

/// What an evaluation asks: the examples of the subjects that no training saw.
pub fn held_out_examples<'a>(
    task: &Task,
    cache: &FrameCache,
    examples: &'a Examples,
    held_out: f64,
) -> Vec<&'a Example> {
    thinned(Split::new(&cache.subjects(), held_out).held_out(), task, cache, examples)
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
    let subjects: BTreeSet<SubjectKey> = asked.iter().map(|example| example.subject).collect();
    let frames = asked.iter().map(|example| example.frames.len()).sum();
    let who = Some(who(&subjects));
    let measured = Measured { subjects: subjects.len(), frames, who, ..Measured::default() };
    let mut sheet = Sheet { task, cache, subjects, seed, measured };
    match task.kind {
        TaskKind::Classification | TaskKind::Detection => sheet.classes(asked, said)?,
        TaskKind::Segmentation => sheet.segmentations(&examples.masks, asked, said)?,
        TaskKind::Localisation => sheet.places(asked, said)?,
    }
    Ok(sheet.measured)
}

/// What is measured so far, and of whom.
struct Sheet<'a> {
    task: &'a Task,
    cache: &'a FrameCache,
    subjects: BTreeSet<SubjectKey>,
    seed: Option<u64>,
    measured: Measured,
}

impl Sheet<'_> {
    /// Whether the task names a metric, or picks its model by it.
    fn has(&self, metric: Metric) -> bool {
        self.task.metrics.contains(&metric) || self.task.best.metric == metric
    }

    /// What there is of each subject, in the order of their keys; nothing of a subject that was not asked.
    fn by_subject<T>(&self, rows: impl IntoIterator<Item = (SubjectKey, T)>) -> Vec<Vec<T>> {
        let mut all: BTreeMap<SubjectKey, Vec<T>> = self.subjects.iter().map(|key| (*key, Vec::new())).collect();
        for (subject, row) in rows {
            if let Some(own) = all.get_mut(&subject) {
                own.push(row);
            }
        }
        all.into_values().collect()
    }

    /// Adds a number that is defined over subjects.
    fn add(
        &mut self,
        metric: Metric,
        of: Option<&str>,
        (subjects, missed): (usize, usize),
        statistic: impl Fn(&[usize]) -> Option<f64>,
    ) {
        let all: Vec<usize> = (0..self.subjects.len()).collect();
        let Some(value) = statistic(&all) else {
            self.measured.untold.push(told_of(metric, of));
            return;
        };
        let interval = self.seed.and_then(|seed| bootstrap::interval(all.len(), seed, ROUNDS, &statistic));
        let of = of.map(str::to_owned);
        self.measured.values.push(Value { metric, of, value, interval, subjects, missed });
    }

    /// Adds the mean over subjects of a number that each of them may have.
    fn add_mean(&mut self, metric: Metric, of: Option<&str>, each: &[Option<f64>], missed: usize) {
        let told = (each.iter().flatten().count(), missed);
        self.add(metric, of, told, |some| mean(some.iter().filter_map(|subject| each[*subject])));
    }

    /// Adds a metric's mean over the whole task, then over each structure or landmark.
    fn add_parts<T>(
        &mut self,
        metric: Metric,
        by_subject: &[T],
        missed: impl Fn(Option<usize>) -> usize,
        of: impl Fn(&T, Option<usize>) -> Option<f64>,
    ) {
        let names = self.task.classes.iter().map(String::as_str).enumerate();
        for (place, name) in [(None, None)].into_iter().chain(names.map(|(place, name)| (Some(place), Some(name)))) {
            let each: Vec<_> = by_subject.iter().map(|own| of(own, place)).collect();
            self.add_mean(metric, name, &each, missed(place));
        }
    }
}

/// A metric's name, with its part's.
fn told_of(metric: Metric, of: Option<&str>) -> String {
    let needs = match metric {
        Metric::Volumes | Metric::EjectionFraction | Metric::Mass => {
            ": no subject has masks of one stack of slices at two moments"
        }
        Metric::Auc | Metric::Sensitivity | Metric::Specificity => ": the subjects do not have all classes",
        _ => "",
    };
    format!("{}{needs}", [Some(metric.to_string().as_str()), of].into_iter().flatten().collect::<Vec<_>>().join(", "))
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

/// What a number of `not told` counts: of HD95 structures of volumes, of a quantity subjects.
const NOT_TOLD: &str = "  \
  so many not told: of HD95, structures of a volume that only the mask or only the prediction has; of volumes, EF, mass, scar and T1,
  subjects without a number by the mask or by the prediction: a structure that is not there, masks of fewer than two moments of a
  whole stack, slices that are no stack";

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} held-out subjects, {} frames", self.subjects, self.frames)?;
        for value in &self.values {
            let interval = value.interval.map_or_else(String::new, |[low, high]| format!("   [{low:.3}, {high:.3}]"));
            let missed = if value.missed > 0 { format!("   {} not told", value.missed) } else { String::new() };
            let of = value.of.as_deref().unwrap_or("all");
            writeln!(f, "  {:<26} {of:<26} {:>9.3}{interval}{missed}", value.metric, value.value)?;
        }
        if self.values.iter().any(|value| value.missed > 0) {
            writeln!(f, "{NOT_TOLD}")?;
        }
        for untold in &self.untold {
            writeln!(f, "  not told: {untold}")?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_once_what_was_not_told_and_only_if_something_was_not() {
        let value = |missed| Value { metric: Metric::Hd95, of: None, value: 4.5, interval: None, subjects: 9, missed };
        let told =
            |missed: [usize; 2]| Measured { values: missed.map(value).to_vec(), ..Measured::default() }.to_string();
        let some = told([69, 2]);
        assert!(
            some.contains("69 not told") && some.matches("only the mask or only the prediction").count() == 1,
            "{some}"
        );
        assert!(!told([0, 0]).contains("not told"));
    }

    #[test]
    fn what_tells_a_class_of_few_patients_apart_stays_and_the_share_of_all_that_is_right_may_leave() {
        let task =
            super::super::built_in().into_iter().find(|task| task.name.as_str() == "lge-hyperenhancement").unwrap();
        let of = |sick: u64| Measured { confusion: vec![vec![20, 0], vec![0, sick]], ..Measured::default() };
        for metric in [Metric::Auc, Metric::BalancedAccuracy, Metric::F1Macro, Metric::Sensitivity, Metric::Specificity]
        {
            assert!(!of(4).may_leave(&task, metric, 24) && of(5).may_leave(&task, metric, 25), "{metric}");
        }
        assert!(of(1).may_leave(&task, Metric::Accuracy, 21) && !of(1).may_leave(&task, Metric::Accuracy, 4));
    }

    #[test]
    fn of_five_classes_of_which_one_is_a_single_patients_no_mean_over_classes_leaves() {
        let known = super::super::built_in();
        let task = known.into_iter().find(|task| task.name.as_str() == "cardiac-disease").unwrap();
        let of = |first: u64, second: u64| Measured {
            of_class: vec![[first, second], [second, first], [0, 25], [0, 25], [0, 25]],
            ..Measured::default()
        };
        for metric in [Metric::Auc, Metric::BalancedAccuracy, Metric::F1Macro] {
            let leaves = |first, second| of(first, second).may_leave(&task, metric, 25);
            assert!(!leaves(24, 1) && !leaves(21, 4) && leaves(20, 5), "{metric}");
            assert!(!leaves(25, 0), "{metric}: nobody else is there to be told apart");
        }
        assert!(of(24, 1).may_leave(&task, Metric::Accuracy, 25));
    }

    #[test]
    fn of_frames_the_subjects_count_who_have_them_and_a_file_that_does_not_say_tells_of_nobody() {
        let mut task =
            super::super::built_in().into_iter().find(|task| task.name.as_str() == "lge-hyperenhancement").unwrap();
        task.kind = TaskKind::Classification;
        let frames = Measured { confusion: vec![vec![200, 0], vec![0, 40]], ..Measured::default() };
        let of = |sick: u64| Measured { of_class: vec![[20, sick], [sick, 20]], ..frames.clone() };
        let leaves = |measured: &Measured| measured.may_leave(&task, Metric::Sensitivity, 20);
        assert!(leaves(&of(5)) && !leaves(&of(4)) && !leaves(&frames));
    }
}
