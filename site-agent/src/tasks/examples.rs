//! Frames of the cache with their right answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use common::ids::DigestBuilder;
use common::task::{LabelSource, TaskKind};
use common::{Digest, Task};
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
    /// What of the labels is not learnt from; none if it all is, or if the answers are read from tags.
    pub left_out: Option<LeftOut>,
}

/// What of a table the task does not learn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The table.
    table: &'static str,
    /// Subjects in it.
    labelled: usize,
    /// Those without a label on any image of the sequences and planes that the task is shown.
    elsewhere: usize,
    /// Those with one, but on no frame that the task is shown and that shows what is labelled.
    unseen: usize,
    /// Slices that are drawn on and end before the phase that is labelled.
    short_slices: usize,
}

impl LeftOut {
    /// Of the subjects of a table: who has a label on images that are wanted, and who is learnt from.
    fn of(
        table: &'static str,
        labelled: &BTreeSet<SubjectKey>,
        wanted: &BTreeSet<SubjectKey>,
        learnt: &BTreeSet<SubjectKey>,
        short_slices: usize,
    ) -> Option<Self> {
        let elsewhere = labelled.difference(wanted).count();
        let unseen = labelled.intersection(wanted).filter(|subject| !learnt.contains(subject)).count();
        let left_out = Self { table, labelled: labelled.len(), elsewhere, unseen, short_slices };
        (elsewhere + unseen + short_slices > 0).then_some(left_out)
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, labelled, elsewhere, unseen, short_slices } = self;
        let used = labelled - elsewhere - unseen;
        let reasons = [
            (*elsewhere, "without a label on an image of the sequences and planes that the task is shown"),
            (*unseen, "without a label on a frame that the task is shown"),
        ];
        let told = reasons.iter().filter(|(count, _)| *count > 0).map(|(count, why)| format!("{count} {why}"));
        let told = told.collect::<Vec<_>>().join(", ");
        write!(f, "{used} of {labelled} subjects of {table} are of use")?;
        if !told.is_empty() {
            write!(f, "; left out are {told}")?;
        }
        if *short_slices > 0 {
            write!(f, "; {short_slices} slices are drawn on at a phase that they do not have, and left out")?;
        }
        Ok(())
    }
}

impl Examples {
    /// Every frame that the task is shown, with its answer. `labels` may be missing if the answers are read from tags.
    pub fn of(task: &Task, cache: &FrameCache, labels: Option<&Labels>) -> Result<Self, TasksError> {
        let (sequences, planes) = (declared::sequences(task)?, declared::planes(task)?);
        let wanted = |record: &SeriesRecord| sequences.contains(&record.sequence) && planes.contains(&record.plane);
        let needed =
            |what: &'static str| labels.ok_or_else(|| TasksError::NoLabels { task: task.name.to_string(), what });
        let record = |series: u32| &cache.series()[series as usize];
        let subject = |frame: FrameRef| record(frame.series).subject;
        let shown = || {
            cache.frames().filter(|frame| wanted(record(frame.series)) && is_shown(task, record(frame.series), *frame))
        };
        let classified = |class: &dyn Fn(FrameRef) -> Option<usize>| -> Vec<Example> {
            let example = |frame| {
                Some(Example { subject: subject(frame), frames: vec![frame], answer: Answer::Class(class(frame)?) })
            };
            shown().filter_map(example).collect()
        };
        let mut examples = Self { all: Vec::new(), masks: Vec::new(), classes: BTreeMap::new(), left_out: None };
        match &task.labels {
            LabelSource::Sequence => {
                examples.all = classified(&|frame| task.class(&record(frame.series).sequence.to_string()));
            }
            LabelSource::View => examples.all = classified(&|frame| task.class(&view(record(frame.series), frame))),
            LabelSource::Series(column) => {
                let labels = needed("series.csv")?;
                let told = labels.series_classes(cache, wanted, column, &task.classes)?;
                examples.all = classified(&|frame| told.get(&frame.series)?[frame.slice as usize]);
                let on_wanted = told.keys().map(|series| record(*series).subject).collect();
                examples.leave_out("series.csv", &labels.series_subjects(column), &on_wanted, 0);
            }
            LabelSource::Masks => {
                let labels = needed("masks.csv")?;
                examples.masks = labels.masks(cache, wanted, &task.classes)?;
                for mask in &examples.masks {
                    let record = record(mask.series);
                    for (slice, native) in (0_u32..).zip(&mask.slices) {
                        let frame = FrameRef { series: mask.series, slice, phase: mask.phase };
                        let Some(native) = native else { continue };
                        if is_shown(task, record, frame) {
                            let answer = Answer::Mask(mask_on_frame(record, cache.images(), native));
                            examples.all.push(Example { subject: record.subject, frames: vec![frame], answer });
                        }
                    }
                }
                let on_wanted = examples.masks.iter().map(|mask| record(mask.series).subject).collect();
                let short = examples.masks.iter().map(|mask| mask.short).sum();
                examples.leave_out("masks.csv", &labels.mask_subjects(), &on_wanted, short);
            }
            LabelSource::Landmarks => {
                let labels = needed("landmarks.csv")?;
                let found = labels.landmarks(cache, wanted, &task.classes)?;
                let on_wanted = found.iter().map(|found| subject(found.frame)).collect();
                for found in found {
                    // A frame that shows none of its landmarks has nothing to teach.
                    let placed = found.places.iter().any(Option::is_some);
                    if placed && is_shown(task, record(found.frame.series), found.frame) {
                        let (subject, answer) = (subject(found.frame), Answer::Places(found.places));
                        examples.all.push(Example { subject, frames: vec![found.frame], answer });
                    }
                }
                examples.leave_out("landmarks.csv", &labels.landmark_subjects(&task.classes), &on_wanted, 0);
            }
            LabelSource::Column(column) => {
                examples.classes = needed("classes.csv")?.classes(column, &task.classes)?;
                let mut frames: BTreeMap<SubjectKey, Vec<FrameRef>> = BTreeMap::new();
                for frame in shown() {
                    frames.entry(subject(frame)).or_default().push(frame);
                }
                for (subject, frames) in frames {
                    if let Some(class) = examples.classes.get(&subject) {
                        examples.all.push(Example { subject, frames, answer: Answer::Class(*class) });
                    }
                }
                let labelled = examples.classes.keys().copied().collect();
                let on_wanted =
                    cache.series().iter().filter(|record| wanted(record)).map(|record| record.subject).collect();
                examples.leave_out("classes.csv", &labelled, &on_wanted, 0);
            }
        }
        debug_assert!(task.kind == TaskKind::Detection || examples.all.iter().all(|example| example.frames.len() == 1));
        Ok(examples)
    }

    /// Notes who of a table is not among the examples.
    fn leave_out(
        &mut self,
        table: &'static str,
        labelled: &BTreeSet<SubjectKey>,
        wanted: &BTreeSet<SubjectKey>,
        short_slices: usize,
    ) {
        let learnt = self.all.iter().map(|example| example.subject).collect();
        self.left_out = LeftOut::of(table, labelled, wanted, &learnt, short_slices);
    }

    /// SHA-256 of some subjects, sorted, and of their right answers.
    pub fn digest_of(&self, subjects: &[SubjectKey]) -> Digest {
        let mut digest = DigestBuilder::default();
        for example in self.all.iter().filter(|example| subjects.binary_search(&example.subject).is_ok()) {
            digest.update(&example.subject.0);
            // Not the series' places, which move when other patients are indexed.
            example.frames.iter().flat_map(|frame| [frame.slice, frame.phase]).for_each(|place| {
                digest.update(&place.to_le_bytes());
            });
            match &example.answer {
                Answer::Class(class) => digest.update(&(*class as u64).to_le_bytes()),
                Answer::Mask(mask) => digest.update(mask),
                Answer::Places(places) => {
                    let lost = [f64::NAN; 2];
                    places.iter().flat_map(|place| place.unwrap_or(lost)).for_each(|place| {
                        digest.update(&place.to_le_bytes());
                    });
                }
            }
        }
        digest.finish()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_table_it_is_told_how_many_are_learnt_from_and_why_the_others_are_not() {
        let keys = |of: std::ops::Range<u8>| of.map(|n| SubjectKey([n; 16])).collect::<BTreeSet<_>>();
        let told = LeftOut::of("masks.csv", &keys(0..10), &keys(0..7), &keys(0..5), 3).unwrap().to_string();
        for part in ["5 of 10 subjects of masks.csv", "3 without a label on an image", "2 without a label on a frame"] {
            assert!(told.contains(part), "{told}");
        }
        assert!(told.contains("3 slices are drawn on at a phase that they do not have"), "{told}");
        assert_eq!(LeftOut::of("masks.csv", &keys(0..4), &keys(0..4), &keys(0..4), 0), None);
    }
}
