//! Frames of the cache with their right answers.

use std::collections::BTreeMap;

use common::Task;
use common::task::{LabelSource, TaskKind};
use data::{FrameCache, FrameRef, Labels, Level, Plane, SeriesMask, SeriesRecord, SubjectKey, mask_on_frame};

use super::{TasksError, declared};

/// What is asked and answered once: of a frame, or of all frames of a subject.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Whose it is.
    pub subject: SubjectKey,
    /// One frame, but for detection.
    pub frames: Vec<FrameRef>,
    /// The right answer.
    pub answer: Answer,
}

/// A right answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// A class, by its place.
    Class(usize),
    /// A class a pixel of the cached frame, 0 for the background. [frame_size x frame_size]
    Mask(Vec<u8>),
    /// The (row, column) of each landmark that is there, in pixels of the cached frame.
    Places(Vec<Option<[f64; 2]>>),
}

/// All examples of a task at this site.
#[derive(Clone, Debug, PartialEq)]
pub struct Examples {
    /// In the order of subjects, series, slices and phases.
    pub all: Vec<Example>,
    /// Masks as they were drawn, for a segmentation.
    pub masks: Vec<SeriesMask>,
    /// The class of each subject, for a detection.
    pub classes: BTreeMap<SubjectKey, usize>,
    /// Subjects with a label but without an image that the task is shown: they are left out.
    pub unseen: usize,
}

impl Examples {
    /// Every frame that the task is shown, with its answer. `labels` may be missing if the answers are read from tags.
    pub fn of(task: &Task, cache: &FrameCache, labels: Option<&Labels>) -> Result<Self, TasksError> {
        let (sequences, planes) = (declared::sequences(task)?, declared::planes(task)?);
        let wanted = |record: &SeriesRecord| sequences.contains(&record.sequence) && planes.contains(&record.plane);
        let needed =
            |what: &'static str| labels.ok_or_else(|| TasksError::NoLabels { task: task.name.to_string(), what });
        let mut examples = Self { all: Vec::new(), masks: Vec::new(), classes: BTreeMap::new(), unseen: 0 };
        match &task.labels {
            LabelSource::Sequence | LabelSource::View => {
                for frame in cache.frames() {
                    let record = &cache.series()[frame.series as usize];
                    if !wanted(record) || !is_shown(task, record, frame) {
                        continue;
                    }
                    let word = match task.labels {
                        LabelSource::Sequence => record.sequence.to_string(),
                        _ => view(record, frame),
                    };
                    if let Some(class) = task.class(&word) {
                        let (subject, answer) = (record.subject, Answer::Class(class));
                        examples.all.push(Example { subject, frames: vec![frame], answer });
                    }
                }
            }
            LabelSource::Masks => {
                examples.masks = needed("masks.csv")?.masks(cache, wanted, &task.classes)?;
                for mask in &examples.masks {
                    let record = &cache.series()[mask.series as usize];
                    for (slice, native) in (0_u32..).zip(&mask.slices) {
                        let frame = FrameRef { series: mask.series, slice, phase: mask.phase };
                        let Some(native) = native else { continue };
                        if mask.phase < record.slices[slice as usize].phases && is_shown(task, record, frame) {
                            let answer = Answer::Mask(mask_on_frame(record, cache.images(), native));
                            examples.all.push(Example { subject: record.subject, frames: vec![frame], answer });
                        }
                    }
                }
            }
            LabelSource::Landmarks => {
                for found in needed("landmarks.csv")?.landmarks(cache, wanted, &task.classes)? {
                    let record = &cache.series()[found.frame.series as usize];
                    if is_shown(task, record, found.frame) {
                        let (subject, answer) = (record.subject, Answer::Places(found.places));
                        examples.all.push(Example { subject, frames: vec![found.frame], answer });
                    }
                }
            }
            LabelSource::Column(column) => {
                examples.classes = needed("classes.csv")?.classes(column, &task.classes)?;
                let mut frames: BTreeMap<SubjectKey, Vec<FrameRef>> = BTreeMap::new();
                for frame in cache.frames() {
                    let record = &cache.series()[frame.series as usize];
                    if wanted(record) && is_shown(task, record, frame) {
                        frames.entry(record.subject).or_default().push(frame);
                    }
                }
                examples.unseen = examples.classes.keys().filter(|subject| !frames.contains_key(subject)).count();
                for (subject, frames) in frames {
                    if let Some(class) = examples.classes.get(&subject) {
                        examples.all.push(Example { subject, frames, answer: Answer::Class(*class) });
                    }
                }
            }
        }
        debug_assert!(task.kind == TaskKind::Detection || examples.all.iter().all(|example| example.frames.len() == 1));
        Ok(examples)
    }
}

/// Whether a frame is at one of the moments that a task is shown; every frame is, if it names none.
pub(super) fn is_shown(task: &Task, record: &SeriesRecord, frame: FrameRef) -> bool {
    let phases = record.slices[frame.slice as usize].phases;
    let nearest = |moment: &f64| ((moment * f64::from(phases)).round() as u32).min(phases - 1);
    task.input.phases.is_empty() || task.input.phases.iter().map(nearest).any(|phase| phase == frame.phase)
}

/// The view of a frame: its plane, and the third of the ventricle of a short-axis slice.
fn view(record: &SeriesRecord, frame: FrameRef) -> String {
    match (record.plane, record.slices[frame.slice as usize].level) {
        (Plane::Sax, Some(Level::Base)) => "SAX base".to_owned(),
        (Plane::Sax, Some(Level::Mid)) => "SAX mid".to_owned(),
        (Plane::Sax, Some(Level::Apex)) => "SAX apex".to_owned(),
        (plane, _) => plane.to_string(),
    }
}
