//! Runs by task and arm. An arm is what differs by the seed alone; its figures are means over seeds, and one arm is called better
//! than the others only where their seeds do not differ by as much.

use std::collections::BTreeMap;

use common::plan::ModelPlan;
use common::task::{Direction, Metric};
use common::{Digest, Task};
use model::initial_weights;

use super::{ReportError, Run};
use crate::tasks::{Finetuned, Value, built_in};

/// All runs of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskRuns {
    /// The task, as its first run declares it.
    pub task: Task,
    /// Its arms: those with the most labels first, then by name.
    pub arms: Vec<Arm>,
}

/// Runs that differ by the seed alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    /// How it is called, with the settings that it does not share with all other arms of the task.
    pub name: String,
    /// By seed; at least one.
    pub runs: Vec<Run>,
}

/// A number over seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// The mean.
    pub mean: f64,
    /// The standard deviation over seeds; none of one seed.
    pub deviation: Option<f64>,
    /// The 95 % interval by subject: of several seeds, the mean of their bounds.
    pub interval: Option<[f64; 2]>,
    /// Seeds that have it.
    pub seeds: usize,
    /// Fewest subjects behind it in any seed.
    pub subjects: usize,
    /// Structures without a distance, over all seeds.
    pub missed: usize,
}

/// Sorts runs into tasks and arms.
pub fn grouped(runs: Vec<Run>) -> Result<Vec<TaskRuns>, ReportError> {
    let known = built_in();
    let place = |task: &Task| known.iter().position(|known| known.name == task.name).unwrap_or(known.len());
    let mut tasks: Vec<(Task, Vec<Arm>)> = Vec::new();
    let mut random = Random::default();
    for run in runs {
        let own = match tasks.iter().position(|(task, _)| question(task) == question(&run.told.task)) {
            Some(at) => at,
            None => {
                tasks.push((run.told.task.clone(), Vec::new()));
                tasks.len() - 1
            }
        };
        let arms = &mut tasks[own].1;
        match arms.iter_mut().find(|arm| random.are_of_one_arm(&arm.first().told, &run.told)) {
            Some(arm) => arm.add(run)?,
            None => arms.push(Arm { name: String::new(), runs: vec![run] }),
        }
        same_subjects(&tasks[own])?;
    }
    tasks.sort_by_key(|(task, _)| (place(task), task.name.clone()));
    Ok(tasks.into_iter().map(|(task, arms)| TaskRuns { task, arms: named(arms) }).collect())
}

/// Refuses runs of a task that were measured on different people: their figures say nothing beside each other.
fn same_subjects((task, arms): &(Task, Vec<Arm>)) -> Result<(), ReportError> {
    let mut known = arms.iter().flat_map(|arm| &arm.runs).filter_map(|run| Some((run, run.measured.who?)));
    let Some((first, who)) = known.next() else { return Ok(()) };
    match known.find(|(_, other)| *other != who) {
        None => Ok(()),
        Some((other, _)) => Err(ReportError::OtherSubjects {
            one: first.folder.clone(),
            other: other.folder.clone(),
            task: task.name.to_string(),
        }),
    }
}

/// What is asked, whatever it is trained with.
fn question(task: &Task) -> Task {
    Task { about: String::new(), augmentation: Default::default(), training: Default::default(), ..task.clone() }
}

/// Backbones that are drawn from a seed, as far as they were asked for: a network takes a moment.
#[derive(Default)]
struct Random(Vec<(ModelPlan, u64, Digest)>);

impl Random {
    /// Whether two runs differ by the seed alone, which draws a random backbone as well. One that was trained is the same whatever
    /// the seed, or it is of another arm.
    fn are_of_one_arm(&mut self, one: &Finetuned, other: &Finetuned) -> bool {
        let but_for_seed = |told: &Finetuned| Finetuned { seed: 0, backbone: Digest::of(b""), ..told.clone() };
        but_for_seed(one) == but_for_seed(other)
            && (one.backbone == other.backbone || self.has_drawn(one) && self.has_drawn(other))
    }

    fn has_drawn(&mut self, told: &Finetuned) -> bool {
        let known = self.0.iter().find(|(model, seed, _)| (model, *seed) == (&told.model, told.seed));
        let digest = known.map(|(_, _, digest)| *digest).unwrap_or_else(|| {
            let digest = initial_weights(&told.model, told.seed).under("teacher.backbone.").digest();
            self.0.push((told.model.clone(), told.seed, digest));
            digest
        });
        digest == told.backbone
    }
}

fn named(mut arms: Vec<Arm>) -> Vec<Arm> {
    type Setting = fn(&Finetuned) -> String;
    let settings: [Setting; 4] = [
        |told| if told.frozen { "frozen backbone".to_owned() } else { "whole network".to_owned() },
        |told| format!("{} steps", told.task.training.steps),
        |told| format!("batches of {}", told.task.training.batch_size),
        |told| format!("learning rate {}", told.task.training.learning_rate),
    ];
    let differs = |of: &Setting| arms.iter().any(|arm| of(&arm.first().told) != of(&arms[0].first().told));
    let differing: Vec<Setting> = settings.into_iter().filter(|of| differs(of)).collect();
    for arm in &mut arms {
        arm.runs.sort_by_key(|run| run.told.seed);
        let told = &arm.runs[0].told;
        let own = differing.iter().map(|of| of(told));
        arm.name = [told.arm.clone()].into_iter().chain(own).collect::<Vec<_>>().join(", ");
    }
    // Two that are called the same begin from different backbones.
    let twins = |arm: &Arm| {
        let called = |arm: &Arm| (arm.name.clone(), arm.training_subjects());
        arms.iter()
            .any(|other| called(other) == called(arm) && other.first().told.backbone != arm.first().told.backbone)
    };
    let twins: Vec<bool> = arms.iter().map(twins).collect();
    for (arm, _) in arms.iter_mut().zip(twins).filter(|(_, is_twin)| *is_twin) {
        arm.name += &format!(", backbone {}", &arm.first().told.backbone.to_string()[..8]);
    }
    arms.sort_by(|a, b| b.training_subjects().cmp(&a.training_subjects()).then_with(|| a.name.cmp(&b.name)));
    arms
}

impl Arm {
    /// The run of the lowest seed.
    pub fn first(&self) -> &Run {
        &self.runs[0]
    }

    /// How many subjects it trained on.
    pub fn training_subjects(&self) -> usize {
        self.first().told.training_subjects
    }

    /// A metric, of the whole task or of one of its parts; none if no seed has it.
    pub fn figure(&self, metric: Metric, of: Option<&str>) -> Option<Figure> {
        let own = |run: &Run| run.measured.values.iter().find(|v| v.metric == metric && v.of.as_deref() == of).cloned();
        let values: Vec<Value> = self.runs.iter().filter_map(own).collect();
        let each: Vec<f64> = values.iter().map(|value| value.value).collect();
        let intervals: Option<Vec<[f64; 2]>> = values.iter().map(|value| value.interval).collect();
        let bound = |all: &[[f64; 2]], end: usize| mean(&all.iter().map(|ends| ends[end]).collect::<Vec<_>>());
        Some(Figure {
            mean: mean(&each)?,
            deviation: deviation(&each),
            interval: intervals.and_then(|all| Some([bound(&all, 0)?, bound(&all, 1)?])),
            seeds: each.len(),
            subjects: values.iter().map(|value| value.subjects).min()?,
            missed: values.iter().map(|value| value.missed).sum(),
        })
    }

    fn add(&mut self, run: Run) -> Result<(), ReportError> {
        if let Some(twin) = self.runs.iter().find(|held| held.told.seed == run.told.seed) {
            let (arm, task) = (run.told.arm.clone(), run.told.task.name.to_string());
            let (one, other) = (twin.folder.clone(), run.folder.clone());
            return Err(ReportError::SameSeed { one, other, seed: run.told.seed, arm, task });
        }
        self.runs.push(run);
        Ok(())
    }
}

impl TaskRuns {
    /// The metrics of the whole task, in the order in which they were measured.
    pub fn metrics(&self) -> Vec<Metric> {
        let mut all = Vec::new();
        for value in self.values().filter(|value| value.of.is_none()) {
            if !all.contains(&value.metric) {
                all.push(value.metric);
            }
        }
        all
    }

    /// The parts of metrics that have a whole: structures, landmarks.
    pub fn parts(&self) -> Vec<(Metric, String)> {
        let whole = self.metrics();
        self.with_a_name(|metric| whole.contains(&metric))
    }

    /// Clinical quantities: measured against the truth, each on its own.
    pub fn quantities(&self) -> Vec<(Metric, String)> {
        let whole = self.metrics();
        self.with_a_name(|metric| !whole.contains(&metric))
    }

    fn with_a_name(&self, wanted: impl Fn(Metric) -> bool) -> Vec<(Metric, String)> {
        let mut all = Vec::new();
        for value in self.values().filter(|value| wanted(value.metric)) {
            if let Some(name) = &value.of
                && !all.contains(&(value.metric, name.clone()))
            {
                all.push((value.metric, name.clone()));
            }
        }
        all
    }

    fn values(&self) -> impl Iterator<Item = &Value> {
        self.arms.iter().flat_map(|arm| &arm.runs).flat_map(|run| &run.measured.values)
    }

    /// Of the arms with equally many labels, the places of those that are better than each other one by more than the seeds'
    /// deviation. None of an arm with one seed.
    pub fn clearly_best(&self, metric: Metric, of: Option<&str>) -> Vec<usize> {
        let mut budgets: BTreeMap<usize, Vec<(usize, Figure)>> = BTreeMap::new();
        for (place, arm) in self.arms.iter().enumerate() {
            if let Some(figure) = arm.figure(metric, of) {
                budgets.entry(arm.training_subjects()).or_default().push((place, figure));
            }
        }
        budgets.into_values().filter_map(|arms| clearly_best_of(arms, direction(metric))).collect()
    }

    /// The place of the arm with the best mean, clear or not.
    pub fn leading(&self) -> Option<usize> {
        let metric = self.task.best.metric;
        let told = |(place, arm): (usize, &Arm)| Some((place, arm.figure(metric, None)?));
        let mut figures: Vec<(usize, Figure)> = self.arms.iter().enumerate().filter_map(told).collect();
        sort_best_first(&mut figures, direction(metric));
        figures.first().map(|(place, _)| *place)
    }
}

fn clearly_best_of(mut arms: Vec<(usize, Figure)>, direction: Direction) -> Option<usize> {
    sort_best_first(&mut arms, direction);
    let [(place, best), others @ ..] = &arms[..] else { return None };
    let beyond = |(_, other): &(usize, Figure)| {
        let spread = best.deviation.zip(other.deviation).map(|(one, other)| one.max(other));
        // A mean over what was found is no better for having found less.
        best.missed <= other.missed && spread.is_some_and(|spread| (best.mean - other.mean).abs() > spread)
    };
    (!others.is_empty() && others.iter().all(beyond)).then_some(*place)
}

fn sort_best_first(figures: &mut [(usize, Figure)], direction: Direction) {
    figures.sort_by(|(_, a), (_, b)| match direction {
        Direction::Higher => b.mean.total_cmp(&a.mean),
        Direction::Lower => a.mean.total_cmp(&b.mean),
    });
}

/// Which values of a metric are better. Of clinical quantities the mean absolute error is told.
pub(super) fn direction(metric: Metric) -> Direction {
    use Metric::*;
    match metric {
        Accuracy | BalancedAccuracy | F1Macro | Auc | Sensitivity | Specificity | Dice | Within5Mm => Direction::Higher,
        Hd95 | Volumes | EjectionFraction | Mass | ScarFraction | MeanValue | Distance => Direction::Lower,
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Over a sample, with n − 1.
fn deviation(values: &[f64]) -> Option<f64> {
    let middle = mean(values)?;
    let squares: f64 = values.iter().map(|value| (value - middle).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::super::runs::made::{of, with};
    use super::*;

    fn table(runs: Vec<Run>) -> TaskRuns {
        let mut tasks = grouped(runs).unwrap();
        assert_eq!(tasks.len(), 1);
        tasks.remove(0)
    }

    #[test]
    fn runs_that_differ_by_the_seed_alone_are_one_arm_with_a_mean_and_a_deviation() {
        let runs = vec![of("random", 20, 2, 0.70), of("pretrained", 20, 1, 0.9), of("random", 20, 1, 0.60)];
        let task = table(runs);
        assert_eq!(task.arms.iter().map(|arm| arm.name.as_str()).collect::<Vec<_>>(), ["pretrained", "random"]);
        let figure = task.arms[1].figure(Metric::Dice, None).unwrap();
        assert!((figure.mean - 0.65).abs() < 1e-12 && (figure.deviation.unwrap() - 0.005_f64.sqrt()).abs() < 1e-12);
        assert_eq!((figure.seeds, task.arms[1].first().told.seed), (2, 1));
        let [low, high] = figure.interval.unwrap();
        assert!((low - 0.6).abs() < 1e-12 && (high - 0.7).abs() < 1e-12, "each seed's interval is 0.05 either way");
        assert_eq!(task.arms[0].figure(Metric::Dice, None).unwrap().deviation, None);
    }

    #[test]
    fn two_trained_backbones_of_one_name_are_two_arms_and_no_deviation_over_seeds() {
        let from = |backbone: &[u8], seed, dice| {
            with(of("last-model", 20, seed, dice), |told| told.backbone = Digest::of(backbone))
        };
        let task = table(vec![from(b"a", 1, 0.7), from(b"b", 2, 0.9), from(b"a", 3, 0.8)]);
        let mut told: Vec<(usize, String)> = task.arms.iter().map(|arm| (arm.runs.len(), arm.name.clone())).collect();
        told.sort();
        let named = |backbone: &[u8]| format!("last-model, backbone {}", &Digest::of(backbone).to_string()[..8]);
        assert_eq!(told, [(1, named(b"b")), (2, named(b"a"))]);
    }

    #[test]
    fn an_arm_is_marked_only_beyond_the_seeds_deviation_and_among_those_with_as_many_labels() {
        let two = |name: &str, subjects, values: [f64; 2]| {
            (1..).zip(values).map(|(seed, value)| of(name, subjects, seed, value)).collect::<Vec<_>>()
        };
        let marked = |runs: Vec<Vec<Run>>| {
            let task = table(runs.concat());
            let best = task.clearly_best(Metric::Dice, None);
            best.into_iter()
                .map(|at| (task.arms[at].name.clone(), task.arms[at].training_subjects()))
                .collect::<Vec<_>>()
        };
        let all = [two("pretrained", 20, [0.90, 0.91]), two("random", 20, [0.80, 0.81])];
        let few = [two("pretrained", 5, [0.70, 0.90]), two("random", 5, [0.60, 0.62])];
        assert_eq!(
            marked(all.iter().chain(&few).cloned().collect()),
            [("pretrained".to_owned(), 5), ("pretrained".to_owned(), 20)]
        );
        let unsure = two("random", 20, [0.60, 0.95]);
        assert_eq!(marked(vec![all[0].clone(), unsure]), [], "another arm's seeds differ by more");
        let mut lost = all[0].clone();
        lost[0].measured.values[0].missed = 1;
        assert_eq!(marked(vec![lost, all[1].clone()]), [], "the better one did not find all");
        assert_eq!(marked(vec![all[0].clone()]), [], "nothing to compare with");
        assert_eq!(
            marked(vec![vec![of("pretrained", 20, 1, 0.9)], vec![of("random", 20, 1, 0.1)]]),
            [],
            "one seed each"
        );
    }

    #[test]
    fn tasks_are_apart_in_the_order_of_the_built_in_ones_and_settings_that_differ_are_named() {
        let sequence = |run: Run| with(run, |told| told.task = built_in().remove(0));
        let longer = with(of("random", 20, 1, 0.8), |told| told.task.training.steps = 600);
        let runs = vec![of("random", 20, 1, 0.7), sequence(of("random", 30, 1, 0.5)), longer];
        let tasks = grouped(runs).unwrap();
        assert_eq!(
            tasks.iter().map(|task| task.task.name.as_str()).collect::<Vec<_>>(),
            ["sequence", "cine-sax-segmentation"]
        );
        let names: Vec<&str> = tasks[1].arms.iter().map(|arm| arm.name.as_str()).collect();
        assert_eq!(names, ["random, 2000 steps", "random, 600 steps"]);
        assert_eq!(tasks[0].arms[0].name, "random");
    }

    #[test]
    fn runs_that_were_measured_on_different_people_are_no_table() {
        let on = |who: &[u8], arm: &str| {
            let mut run = of(arm, 20, 1, 0.7);
            run.measured.who = Some(common::Digest::of(who));
            run
        };
        assert_eq!(table(vec![on(b"a", "random"), on(b"a", "pretrained")]).arms.len(), 2);
        // Of one that says nothing of it nothing is known.
        assert_eq!(table(vec![on(b"a", "random"), of("pretrained", 20, 1, 0.8)]).arms.len(), 2);
        let refused = grouped(vec![on(b"a", "random"), on(b"b", "pretrained")]).unwrap_err().to_string();
        assert!(
            refused.contains("random-20") && refused.contains("pretrained-20") && refused.contains("held_out"),
            "{refused}"
        );
    }

    #[test]
    fn the_same_seed_of_the_same_arm_twice_is_refused_with_both_folders() {
        let refused = grouped(vec![of("random", 20, 1, 0.7), of("random", 20, 1, 0.8)]).unwrap_err().to_string();
        assert!(
            refused.contains("random-20-1-0.7") && refused.contains("random-20-1-0.8") && refused.contains("--arm"),
            "{refused}"
        );
    }
}
