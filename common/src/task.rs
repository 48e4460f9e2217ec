//! A clinical task of the foundation model, as a small declaration: what is asked, of which images, how it is trained and
//! what is measured. The trainer has no branch for any task: a tenth one is a new file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::words;

mod metric;

pub use metric::{Best, Direction, Metric};

/// Longest sentence about a task, in bytes.
const MOST_ABOUT: usize = 400;

/// A task (TOML; unknown keys refused).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Its name: of files, tables and tensors.
    pub name: TaskName,
    /// One sentence for people.
    pub about: String,
    /// What kind of answer is asked.
    pub kind: TaskKind,
    /// Where the right answers come from.
    pub labels: LabelSource,
    /// What the answers are: classes, structures without the background, or landmarks.
    pub classes: Vec<String>,
    /// Which images are shown.
    pub input: TaskInput,
    /// What is varied in training.
    #[serde(default)]
    pub augmentation: Augmentation,
    /// How the network is trained.
    #[serde(default)]
    pub training: FinetunePlan,
    /// What is measured.
    pub metrics: Vec<Metric>,
    /// By which of them, on the validation subjects, the best model is picked.
    pub best: Best,
    /// In which planes each landmark is to be seen: it is told of no other. One that is not named here is told of all that the
    /// task is shown.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub seen_in: BTreeMap<String, Vec<String>>,
}

/// What kind of answer a task asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    /// A class for each frame: a linear layer on the CLS token.
    Classification,
    /// A class for each pixel: a convolutional decoder on the patch tokens.
    Segmentation,
    /// A place for each landmark: a heatmap from the same decoder.
    Localisation,
    /// A class for each subject: attention over the CLS tokens of its frames.
    Detection,
}

/// Where a task's right answers come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LabelSource {
    /// The frame's sequence, as the DICOM tags tell it.
    Sequence,
    /// The frame's plane, and the level of a short-axis slice, as the DICOM tags tell them.
    View,
    /// `masks.csv` of the site's labels.
    Masks,
    /// `landmarks.csv` of the site's labels.
    Landmarks,
    /// A column of `classes.csv` of the site's labels: a class a subject.
    Column(String),
    /// A column of `series.csv` of the site's labels: a class a series; where a class names a level too (`SAX base`), the
    /// column says the word before it, and the level is the slice's.
    Series(String),
}

/// Which images a task is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskInput {
    /// Sequences: `cine`, `lge`, `t1-map`, `other`. Empty: all.
    #[serde(default)]
    pub sequences: Vec<String>,
    /// Planes: `sax`, `two-chamber`, `three-chamber`, `four-chamber`, `lvot`, `other`. Empty: all.
    #[serde(default)]
    pub planes: Vec<String>,
    /// Moments of the cardiac cycle, as fractions of it: the frame nearest to each is shown. Empty: every frame that has a
    /// label.
    #[serde(default)]
    pub phases: Vec<f64>,
    /// Side of the square that the network sees, in pixels, in multiples of the size it was pretrained at.
    #[serde(default = "default::scale")]
    pub scale: usize,
    /// Frames of a subject in a training step (detection); an evaluation shows all.
    #[serde(default = "default::frames")]
    pub frames: usize,
}

/// What is varied in training. What a network is to tell must not be varied: flips change which chamber is which.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augmentation {
    /// Probability of a left-right flip.
    pub flip: f64,
    /// Rotation is drawn from ± this, in degrees.
    pub turn_degrees: f64,
    /// Magnification is drawn from 1 ± this.
    pub scale: f64,
    /// Translation is drawn from ± this fraction of the frame, down and across.
    pub shift: f64,
    /// Brightness factor is drawn from 1 ± this.
    pub brightness: f64,
    /// Contrast factor is drawn from 1 ± this.
    pub contrast: f64,
    /// Gamma is drawn log-uniformly from 1/(1+this) to 1+this.
    pub gamma: f64,
    /// Standard deviation of added Gaussian noise is drawn from 0 to this (values in 0..1).
    pub noise: f64,
}

/// How a task is trained: AdamW (betas 0.9 and 0.95), a linear warm-up, then a cosine to nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FinetunePlan {
    /// Most optimizer steps.
    pub steps: usize,
    /// Frames in a step; subjects, for detection.
    pub batch_size: usize,
    /// Peak learning rate of the head.
    pub learning_rate: f64,
    /// The rate of each block, in multiples of that of the next block towards the head.
    pub layer_decay: f64,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f64,
    /// Bound on the L2 norm of the whole gradient.
    pub clip_gradient: f64,
    /// Fraction of the steps that warm up.
    pub warmup: f64,
    /// What a class shares with the others (Szegedy et al. 2016).
    pub label_smoothing: f64,
    /// Standard deviation of a landmark's target, in pixels of the network's input.
    pub heatmap_sigma: f64,
    /// Steps between two looks at the validation subjects.
    pub validate_every: usize,
    /// Looks without a better value after which training ends.
    pub patience: usize,
}

impl fmt::Display for TaskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Classification => "classification",
            Self::Segmentation => "segmentation",
            Self::Localisation => "localisation",
            Self::Detection => "detection",
        })
    }
}

/// A task's name: lower-case letters, digits and single hyphens, at most 48; it names files and tensors.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TaskName(String);

impl TryFrom<String> for TaskName {
    type Error = TaskError;
    fn try_from(text: String) -> Result<Self, TaskError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let sound = !text.is_empty() && text.len() <= 48 && text.bytes().all(plain);
        if sound && !text.starts_with('-') && !text.ends_with('-') && !text.contains("--") {
            return Ok(Self(text));
        }
        let bound = "1 to 48 lower-case letters, digits and single hyphens between them".to_owned();
        Err(TaskError::OutOfBounds { key: "name", value: format!("{text:?}"), bound })
    }
}

impl From<TaskName> for String {
    fn from(name: TaskName) -> Self {
        name.0
    }
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TaskName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the names of its head's tensors begin with.
    pub fn head_prefix(&self) -> String {
        format!("heads.{}.", self.0)
    }
}

/// Why a task cannot be done as it is declared.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A value outside its bounds.
    #[error("task: {key} is {value}, but must be {bound}")]
    OutOfBounds {
        /// The key as written, with its section.
        key: &'static str,
        /// The value as written.
        value: String,
        /// What is permitted.
        bound: String,
    },
    /// A metric that this kind of answer, or these classes, do not have.
    #[error("task: the metric {metric} cannot be measured of {kind} over {classes}: {remedy}")]
    Metric {
        /// The metric.
        metric: Metric,
        /// The task's kind.
        kind: TaskKind,
        /// Its classes.
        classes: String,
        /// What to do.
        remedy: String,
    },
}

impl Task {
    /// Holds every value to its bounds, and the parts to each other.
    pub fn check(&self) -> Result<(), TaskError> {
        let classes = &self.classes;
        let least = if matches!(self.kind, TaskKind::Classification | TaskKind::Detection) { 2 } else { 1 };
        let distinct: BTreeSet<_> = classes.iter().collect();
        let sound = (least..=32).contains(&classes.len()) && distinct.len() == classes.len();
        within("classes", format!("{classes:?}"), sound, &format!("{least} to 32 different names"))?;
        let named = classes.iter().all(|class| !class.trim().is_empty() && class.len() <= 64);
        within("classes", format!("{classes:?}"), named, "names of 1 to 64 bytes")?;
        self.told_in_lines()?;
        let fits = match (&self.labels, self.kind) {
            (LabelSource::Sequence | LabelSource::View, TaskKind::Classification)
            | (LabelSource::Masks, TaskKind::Segmentation)
            | (LabelSource::Landmarks, TaskKind::Localisation) => true,
            (LabelSource::Column(column), TaskKind::Detection)
            | (LabelSource::Series(column), TaskKind::Classification) => !column.trim().is_empty(),
            _ => false,
        };
        let bound = "sequence, view or { series = \"...\" } for classification, masks for segmentation, landmarks for \
                     localisation, { column = \"...\" } for detection";
        within("labels", format!("{:?} of kind {}", self.labels, self.kind), fits, bound)?;
        let input = &self.input;
        within("input.scale", input.scale, (1..=8).contains(&input.scale), "1 to 8")?;
        within("input.frames", input.frames, (1..=256).contains(&input.frames), "1 to 256")?;
        let phases = input.phases.iter().all(|phase| (0.0..1.0).contains(phase));
        within("input.phases", format!("{:?}", input.phases), phases, "fractions of the cycle, 0 or more and below 1")?;
        for (landmark, planes) in &self.seen_in {
            let is_landmark = self.kind == TaskKind::Localisation && self.class(landmark).is_some();
            within(
                "seen_in",
                format!("of {landmark:?}"),
                is_landmark,
                "of landmarks among the classes of a localisation",
            )?;
            let shown = planes.iter().all(|plane| input.planes.is_empty() || input.planes.contains(plane));
            let sound = !planes.is_empty() && shown;
            within("seen_in", format!("{planes:?} of {landmark:?}"), sound, "one plane or more, all of input.planes")?;
        }
        self.augmentation.check()?;
        self.training.check()?;
        within("metrics", "empty", !self.metrics.is_empty(), "at least one metric")?;
        for metric in self.metrics.iter().chain([&self.best.metric]) {
            self.require(*metric)?;
        }
        self.require_picking(self.best.metric)
    }

    /// A person reads them in a plan, before approving it: nothing of a declaration hides or makes up another line.
    fn told_in_lines(&self) -> Result<(), TaskError> {
        let about = &self.about;
        within("about", format!("{} bytes long", about.len()), about.len() <= MOST_ABOUT, "at most 400 bytes")?;
        let column = match &self.labels {
            LabelSource::Column(column) | LabelSource::Series(column) => Some(column),
            LabelSource::Sequence | LabelSource::View | LabelSource::Masks | LabelSource::Landmarks => None,
        };
        let planes = self.seen_in.values().flatten().chain(&self.input.planes);
        let texts = (self.classes.iter().map(|class| ("classes", class)))
            .chain(column.map(|column| ("labels", column)))
            .chain(self.input.sequences.iter().map(|sequence| ("input.sequences", sequence)))
            .chain(planes.map(|plane| ("input.planes", plane)));
        for (key, text) in [("about", about)].into_iter().chain(texts) {
            let is_a_line = !text.contains(words::is_obeyed);
            within(key, format!("{text:?}"), is_a_line, "text of one line, without characters that a terminal obeys")?;
        }
        Ok(())
    }

    /// Where a class is among the task's.
    pub fn class(&self, name: &str) -> Option<usize> {
        self.classes.iter().position(|class| class == name)
    }

    /// Refuses to pick a model by what is told of parts alone, which is no one number, and by a distance, which a model that
    /// misses a whole structure has of the others only.
    fn require_picking(&self, metric: Metric) -> Result<(), TaskError> {
        use Metric::{EjectionFraction, Hd95, Mass, MeanValue, ScarFraction, Volumes};
        let why = match metric {
            Volumes | EjectionFraction | Mass | ScarFraction | MeanValue => "it is no one number of the whole task",
            Hd95 => "a structure that is missed altogether has none, and is left out of its mean",
            _ => return Ok(()),
        };
        let bound = format!("another metric, since {why}: name dice under best, and leave this one among metrics");
        within("best.metric", metric.name(), false, &bound)
    }

    fn require(&self, metric: Metric) -> Result<(), TaskError> {
        use Metric::*;
        let (of_kind, needed): (&[TaskKind], &[&str]) = match metric {
            Accuracy | BalancedAccuracy | F1Macro | Auc => (&[TaskKind::Classification, TaskKind::Detection], &[]),
            Sensitivity | Specificity => (&[TaskKind::Classification, TaskKind::Detection], &[]),
            Dice | Hd95 => (&[TaskKind::Segmentation], &[]),
            Volumes | EjectionFraction => (&[TaskKind::Segmentation], &["LV"]),
            Mass | MeanValue => (&[TaskKind::Segmentation], &["myocardium"]),
            ScarFraction => (&[TaskKind::Segmentation], &["myocardium", "scar"]),
            Distance | Within5Mm => (&[TaskKind::Localisation], &[]),
        };
        let refused = |remedy: String| {
            Err(TaskError::Metric { metric, kind: self.kind, classes: self.classes.join(", "), remedy })
        };
        if !of_kind.contains(&self.kind) {
            return refused("leave it out, or use it with another kind of task".to_owned());
        }
        if matches!(metric, Sensitivity | Specificity) && self.classes.len() != 2 {
            return refused("it is for two classes, the second of which is the finding".to_owned());
        }
        if metric == MeanValue && self.input.sequences != ["t1-map"] {
            return refused("it is told in ms of T1: set input.sequences to [\"t1-map\"]".to_owned());
        }
        match needed.iter().find(|needed| self.class(needed).is_none()) {
            Some(missing) => refused(format!("it needs the class {missing:?}")),
            None => Ok(()),
        }
    }
}

impl Augmentation {
    fn check(&self) -> Result<(), TaskError> {
        for (key, value, most) in [
            ("augmentation.flip", self.flip, 1.0),
            ("augmentation.turn_degrees", self.turn_degrees, 180.0),
            ("augmentation.scale", self.scale, 0.9),
            ("augmentation.shift", self.shift, 0.5),
            ("augmentation.brightness", self.brightness, 1.0),
            ("augmentation.contrast", self.contrast, 1.0),
            ("augmentation.gamma", self.gamma, 10.0),
            ("augmentation.noise", self.noise, 1.0),
        ] {
            within(key, value, (0.0..=most).contains(&value), &format!("0 to {most}"))?;
        }
        Ok(())
    }
}

impl FinetunePlan {
    fn check(&self) -> Result<(), TaskError> {
        for (key, value) in [
            ("training.steps", self.steps),
            ("training.batch_size", self.batch_size),
            ("training.validate_every", self.validate_every),
            ("training.patience", self.patience),
        ] {
            within(key, value, (1..=1 << 20).contains(&value), "1 to 1048576")?;
        }
        for (key, value, most) in [
            ("training.learning_rate", self.learning_rate, 1.0),
            ("training.layer_decay", self.layer_decay, 1.0),
            ("training.clip_gradient", self.clip_gradient, 1e6),
            ("training.heatmap_sigma", self.heatmap_sigma, 64.0),
        ] {
            within(key, value, 0.0 < value && value <= most, &format!("above 0 and at most {most}"))?;
        }
        for (key, value) in [("training.warmup", self.warmup), ("training.label_smoothing", self.label_smoothing)] {
            within(key, value, (0.0..1.0).contains(&value), "0 or more and below 1")?;
        }
        let decay = self.weight_decay;
        within("training.weight_decay", decay, (0.0..=1.0).contains(&decay), "0 to 1")
    }

    /// The learning rate at a step, as a fraction of its peak.
    pub fn rate_at(&self, step: u64) -> f64 {
        let (step, steps) = (step as f64, self.steps as f64);
        let warmup = (self.warmup * steps).ceil();
        if step < warmup {
            return (step + 1.0) / warmup;
        }
        0.5 * (1.0 + (std::f64::consts::PI * (step - warmup) / (steps - warmup).max(1.0)).cos())
    }
}

fn within(key: &'static str, value: impl fmt::Display, sound: bool, bound: &str) -> Result<(), TaskError> {
    if sound { Ok(()) } else { Err(TaskError::OutOfBounds { key, value: value.to_string(), bound: bound.to_owned() }) }
}

impl Default for Augmentation {
    fn default() -> Self {
        Self {
            flip: 0.0,
            turn_degrees: 15.0,
            scale: 0.1,
            shift: 0.05,
            brightness: 0.2,
            contrast: 0.2,
            gamma: 0.2,
            noise: 0.02,
        }
    }
}

impl Default for FinetunePlan {
    fn default() -> Self {
        Self {
            steps: 2000,
            batch_size: 32,
            learning_rate: 1e-3,
            layer_decay: 0.75,
            weight_decay: 0.05,
            clip_gradient: 5.0,
            warmup: 0.1,
            label_smoothing: 0.1,
            heatmap_sigma: 3.0,
            validate_every: 100,
            patience: 10,
        }
    }
}

mod default {
    pub(super) fn scale() -> usize {
        1
    }
    pub(super) fn frames() -> usize {
        8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> Task {
        toml::from_str(
            r#"
            name = "cine-sax-segmentation"
            about = "Chambers."
            kind = "segmentation"
            labels = "masks"
            classes = ["LV", "myocardium", "RV"]
            metrics = ["dice", "ejection-fraction"]
            best = { metric = "dice", direction = "higher" }
            [input]
            sequences = ["cine"]
            planes = ["sax"]
            "#,
        )
        .unwrap()
    }

    #[test]
    fn a_task_whose_parts_do_not_fit_is_refused_with_the_reason() {
        task().check().unwrap();
        let refused = |change: &dyn Fn(&mut Task)| {
            let mut changed = task();
            change(&mut changed);
            changed.check().unwrap_err().to_string()
        };
        assert!(refused(&|task| task.classes = vec!["RV".to_owned()]).contains("needs the class \"LV\""));
        assert!(refused(&|task| task.metrics = vec![Metric::Auc]).contains("leave it out"));
        assert!(refused(&|task| task.labels = LabelSource::View).contains("labels"));
        assert!(refused(&|task| task.labels = LabelSource::Series("view".to_owned())).contains("labels"));
        assert!(refused(&|task| task.metrics = vec![Metric::MeanValue]).contains("[\"t1-map\"]"));
        assert!(refused(&|task| task.classes.push("LV".to_owned())).contains("different names"));
        assert!(refused(&|task| task.input.phases = vec![1.0]).contains("input.phases is [1.0]"));
        assert!(refused(&|task| task.training.layer_decay = 0.0).contains("training.layer_decay is 0"));
        assert!(refused(&|task| task.augmentation.flip = 2.0).contains("0 to 1"));
    }

    #[test]
    fn no_model_is_picked_by_a_clinical_quantity_or_by_a_distance_that_what_is_missed_does_not_have() {
        for metric in [Metric::EjectionFraction, Metric::Volumes, Metric::Mass, Metric::Hd95] {
            let mut measured = task();
            measured.metrics.push(metric);
            measured.check().unwrap();
            let picked = Task { best: Best { metric, direction: Direction::Lower }, ..measured };
            let refused = picked.check().unwrap_err().to_string();
            assert!(
                refused.contains(&format!("best.metric is {}", metric.name())) && refused.contains("name dice"),
                "{refused}"
            );
        }
        // The others need classes or images of their own, and are no more one number.
        let mut scar = Task { classes: vec!["myocardium".to_owned(), "scar".to_owned()], ..task() };
        (scar.metrics, scar.best.metric) = (vec![Metric::Dice], Metric::ScarFraction);
        assert!(scar.check().unwrap_err().to_string().contains("best.metric is scar-fraction"));
        scar.input.sequences = vec!["t1-map".to_owned()];
        scar.best.metric = Metric::MeanValue;
        assert!(scar.check().unwrap_err().to_string().contains("best.metric is mean-value"));
    }

    #[test]
    fn a_declaration_that_would_change_what_a_person_reads_beside_it_is_refused() {
        type Change = fn(&mut Task);
        let cases: [(Change, &str); 7] = [
            (|task| task.about = "x\u{1b}[8m\n".to_owned(), "about is \"x\\u{1b}[8m\\n\""),
            (|task| task.about = "x\u{202e}".to_owned(), "about is"),
            (|task| task.about = "x".repeat(401), "about is 401 bytes long"),
            (|task| task.classes[1] = "a\nb".to_owned(), "classes is \"a\\nb\""),
            (|task| task.labels = LabelSource::Column("a\rb".to_owned()), "labels is \"a\\rb\""),
            (|task| task.input.sequences.push("\u{7}".to_owned()), "input.sequences is"),
            (|task| task.input.planes.push("\u{9b}1A".to_owned()), "input.planes is"),
        ];
        for (change, told) in cases {
            let mut changed = task();
            change(&mut changed);
            let refused = changed.told_in_lines().unwrap_err().to_string();
            assert!(refused.contains(told) && !refused.contains(words::is_obeyed), "{refused}");
            changed.check().unwrap_err();
        }
    }

    #[test]
    fn a_landmark_is_seen_in_planes_that_the_task_is_shown_and_a_task_that_does_not_say_has_the_bytes_it_always_had() {
        assert!(!serde_json::to_string(&task()).unwrap().contains("seen_in"));
        let mut marked = task();
        marked.kind = TaskKind::Localisation;
        marked.labels = LabelSource::Landmarks;
        marked.classes = vec!["apex".to_owned()];
        marked.metrics = vec![Metric::Distance];
        marked.best = Best { metric: Metric::Distance, direction: Direction::Lower };
        let seen = |of: &str, planes: &[&str]| {
            let planes = planes.iter().map(|plane| (*plane).to_owned()).collect();
            Task { seen_in: BTreeMap::from([(of.to_owned(), planes)]), ..marked.clone() }
        };
        let sound = seen("apex", &["sax"]);
        sound.check().unwrap();
        assert_eq!(toml::from_str::<Task>(&toml::to_string(&sound).unwrap()).unwrap(), sound);
        let refused = |task: Task| task.check().unwrap_err().to_string();
        assert!(refused(seen("base", &["sax"])).contains("seen_in is of \"base\""));
        assert!(refused(seen("apex", &[])).contains("one plane or more"));
        assert!(refused(seen("apex", &["four-chamber"])).contains("all of input.planes"));
        let of_masks = Task { seen_in: BTreeMap::from([("LV".to_owned(), vec!["sax".to_owned()])]), ..task() };
        assert!(refused(of_masks).contains("classes of a localisation"));
    }

    #[test]
    fn a_name_that_could_leave_its_folder_is_no_name() {
        for name in ["", "../up", "A", "a--b", "-a", "a-", "a b"] {
            assert!(TaskName::try_from(name.to_owned()).is_err(), "{name}");
        }
        assert_eq!(TaskName::try_from("t1-map-2".to_owned()).unwrap().as_str(), "t1-map-2");
    }

    #[test]
    fn the_rate_warms_up_to_its_peak_and_falls_to_nothing() {
        let plan = FinetunePlan { steps: 100, warmup: 0.1, ..FinetunePlan::default() };
        assert_eq!((plan.rate_at(0), plan.rate_at(9), plan.rate_at(10)), (0.1, 1.0, 1.0));
        assert!((plan.rate_at(55) - 0.5).abs() < 1e-12 && plan.rate_at(99) < 1e-3);
    }
}
