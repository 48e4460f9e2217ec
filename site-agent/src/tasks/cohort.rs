//! Who trains, who picks the best model, and who is measured: always whole subjects, never images.
//!
//! The measured ones are those the site holds out of pretraining too. Of the others some pick the model; who does is read from
//! their keys, so that it is the same in every arm, and few shots are the first of a fixed order.

use std::collections::{BTreeMap, BTreeSet};

use common::Digest;
use common::ids::DigestBuilder;
use data::{FrameCache, Split, SubjectKey};

use super::{Answer, Example, Examples};

/// How many of the training subjects are used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FewShot {
    /// All.
    All,
    /// A fraction, rounded up.
    Fraction(f64),
    /// So many.
    Subjects(usize),
}

/// A site's labelled subjects in three parts, each sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cohort {
    training: Vec<SubjectKey>,
    validation: Vec<SubjectKey>,
    held_out: Vec<SubjectKey>,
}

/// Why a training does not start.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CohortError {
    /// Too few subjects in a part.
    #[error(
        "only {found} of this site's {subjects} labelled subjects {what}, but at least {least} must: label or index more \
         subjects, or lower --min-subjects"
    )]
    TooFew {
        /// For what.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there must be.
        least: usize,
        /// How many are labelled in all.
        subjects: usize,
    },
    /// Answers of one class.
    #[error(
        "all that {subjects} subjects have to be trained on is of class {class}: who has seen one class alone tells none apart. Label or \
         index subjects of another class, or correct the column"
    )]
    OneClass {
        /// Which.
        class: String,
        /// How many subjects.
        subjects: usize,
    },
    /// The same pixels in two parts.
    #[error(
        "a subject {one} and one {other} have the same images ({series} series in all): the same patient is here under two \
         identifiers. Index each patient once, then start again"
    )]
    Leak {
        /// What the one is for.
        one: &'static str,
        /// What the other is for.
        other: &'static str,
        /// Series whose pixels are on both sides.
        series: usize,
    },
}

/// What subjects of the last part are there for, as [`CohortError::TooFew`] says it.
pub(crate) const MEASURED: &str = "are held out to be measured";

/// Fraction of the training subjects that pick the model.
const VALIDATION: f64 = 0.2;

impl Cohort {
    /// Splits the labelled subjects, of whom at least `least` must train, few or not. `classes` gives a subject's class where it
    /// has one, so that few shots hold all classes.
    pub fn new(
        cache: &FrameCache,
        examples: &[Example],
        held_out: f64,
        few: FewShot,
        classes: &BTreeMap<SubjectKey, usize>,
        least: usize,
    ) -> Result<Self, CohortError> {
        let labelled: BTreeSet<SubjectKey> = examples.iter().map(|example| example.subject).collect();
        let split = Split::new(&cache.subjects(), held_out);
        let of = |part: &[SubjectKey]| part.iter().copied().filter(|subject| labelled.contains(subject)).collect();
        let (mut rest, held_out): (Vec<_>, Vec<_>) = (of(split.training()), of(split.held_out()));
        // Another part of the key than the one that held subjects out.
        rest.sort_by_key(|subject| (subject.0[8..].to_vec(), *subject));
        let picking = ((rest.len() as f64 * VALIDATION).round() as usize).max(1).min(rest.len());
        let mut validation = rest.split_off(rest.len() - picking);
        let mut training = in_turns(rest, classes);
        let wanted = match few {
            FewShot::All => training.len(),
            FewShot::Fraction(fraction) => (training.len() as f64 * fraction).ceil() as usize,
            FewShot::Subjects(count) => count,
        };
        let enough = |what, found: usize, least: usize| {
            let subjects = labelled.len();
            if found < least { Err(CohortError::TooFew { what, found, least, subjects }) } else { Ok(()) }
        };
        match few {
            FewShot::All => enough("can be trained on", training.len(), least)?,
            _ => {
                enough("can be trained on", training.len(), wanted)?;
                enough("are left by --subjects or --fraction to be trained on", wanted, least)?;
            }
        }
        enough(MEASURED, held_out.len(), 1)?;
        if wanted < training.len() {
            training.truncate(wanted);
            // Few shots of which many more pick the best model would not be few.
            validation = in_turns(validation, classes);
            validation.truncate(wanted);
        }
        let mut cohort = Self { training, validation, held_out };
        for part in [&mut cohort.training, &mut cohort.validation, &mut cohort.held_out] {
            part.sort_unstable();
        }
        cohort.require_apart(cache)?;
        Ok(cohort)
    }

    /// Subjects to train on.
    pub fn training(&self) -> &[SubjectKey] {
        &self.training
    }

    /// Without some subjects among those to train on: they pick a model by another task of the same network.
    pub fn without(mut self, subjects: &BTreeSet<SubjectKey>) -> Self {
        self.training.retain(|subject| !subjects.contains(subject));
        self
    }

    /// Refuses to train on answers of a single class. In a federation other sites may have the others.
    pub fn require_classes(&self, examples: &Examples, names: &[String]) -> Result<(), CohortError> {
        let own = examples.all.iter().filter(|example| self.training.binary_search(&example.subject).is_ok());
        let classes: BTreeSet<usize> = own
            .filter_map(|example| match example.answer {
                Answer::Class(class) => Some(class),
                _ => None,
            })
            .collect();
        match classes.first() {
            Some(only) if classes.len() == 1 => {
                let class = names[*only].clone();
                Err(CohortError::OneClass { class, subjects: self.training.len() })
            }
            _ => Ok(()),
        }
    }

    /// Subjects that pick the best model.
    pub fn validation(&self) -> &[SubjectKey] {
        &self.validation
    }

    /// Subjects to be measured, and for nothing else.
    pub fn held_out(&self) -> &[SubjectKey] {
        &self.held_out
    }

    /// SHA-256 of who trains and who picks, and of their right answers.
    pub fn learnt_from(&self, examples: &Examples) -> Digest {
        let mut digest = DigestBuilder::default();
        for part in [&self.training, &self.validation] {
            digest.update(&examples.digest_of(part).0);
        }
        digest.finish()
    }

    /// Refuses pixels that are in two parts of all these cohorts, whose tasks one network learns: it would be measured, or picked, for one
    /// task by whom it has learnt for another.
    pub fn require_apart_together<'a>(
        cohorts: impl Iterator<Item = &'a Self> + Clone,
        cache: &FrameCache,
    ) -> Result<(), CohortError> {
        let all = |part: fn(&Self) -> &[SubjectKey]| -> Vec<SubjectKey> {
            let sorted: BTreeSet<SubjectKey> = cohorts.clone().flat_map(part).copied().collect();
            sorted.into_iter().collect()
        };
        let together =
            Self { training: all(Self::training), validation: all(Self::validation), held_out: all(Self::held_out) };
        together.require_apart(cache)
    }

    /// Refuses pixels that are in two parts: a patient under two identifiers, who would be measured, or pick the model, by what
    /// it has learnt of him.
    fn require_apart(&self, cache: &FrameCache) -> Result<(), CohortError> {
        let pixels = |part: &[SubjectKey]| -> BTreeSet<Digest> {
            let own = cache.series().iter().filter(|record| part.binary_search(&record.subject).is_ok());
            own.map(|record| record.pixels()).collect()
        };
        let parts = [
            ("to be measured", pixels(&self.held_out)),
            ("to pick the model", pixels(&self.validation)),
            ("to be trained on", pixels(&self.training)),
        ];
        for (place, (one, held)) in parts.iter().enumerate() {
            for (other, seen) in &parts[place + 1..] {
                let series = held.intersection(seen).count();
                if series > 0 {
                    return Err(CohortError::Leak { one, other, series });
                }
            }
        }
        Ok(())
    }
}

/// Subjects of all classes in turn, each class in the order it came in; those without a class are one.
fn in_turns(subjects: Vec<SubjectKey>, classes: &BTreeMap<SubjectKey, usize>) -> Vec<SubjectKey> {
    let mut turns: BTreeMap<usize, usize> = BTreeMap::new();
    let mut placed: Vec<((usize, usize), SubjectKey)> = Vec::with_capacity(subjects.len());
    for subject in subjects {
        let class = classes.get(&subject).copied().unwrap_or(usize::MAX);
        let turn = turns.entry(class).or_default();
        placed.push(((*turn, class), subject));
        *turn += 1;
    }
    placed.sort_by_key(|(place, _)| *place);
    placed.into_iter().map(|(_, subject)| subject).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_shots_hold_every_class_before_one_comes_twice() {
        let key = |n: u8| SubjectKey([n; 16]);
        let classes = BTreeMap::from([(key(1), 0), (key(2), 0), (key(3), 0), (key(4), 1), (key(5), 2)]);
        let order = in_turns((1..=6).map(key).collect(), &classes);
        assert_eq!(order, [1, 4, 5, 6, 2, 3].map(key));
    }
}
