//! Who a model learnt from at this site: subjects that trained it or picked it, and their images.
//!
//! It lies in the model's folder, and whoever is measured is held to it: the fraction of held-out subjects may have been raised
//! since, and a patient may have come again under another identifier.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use common::Digest;
use common::ids::DigestBuilder;
use data::{FrameCache, SubjectKey};
use serde::{Deserialize, Serialize};

use super::{Cohort, TasksError};

/// Who a model learnt from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Learnt {
    /// The fraction that was held out.
    held_out: f64,
    /// SHA-256 of each subject's key: enough to know it again.
    subjects: BTreeSet<Digest>,
    /// SHA-256 of each series' pixels.
    pixels: BTreeSet<Digest>,
}

/// Subjects to be measured that a model learnt from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How many are asked.
    pub asked: usize,
    /// How many of them trained it or picked it.
    pub learnt: usize,
    /// How many others have images of one who did.
    pub twins: usize,
}

impl Learnt {
    /// Those of a cohort who train and who pick.
    pub fn from(cohort: &Cohort, cache: &FrameCache, held_out: f64) -> Self {
        let all: BTreeSet<SubjectKey> = cohort.training().iter().chain(cohort.validation()).copied().collect();
        let own = cache.series().iter().filter(|record| all.contains(&record.subject));
        Self {
            held_out,
            pixels: own.map(|record| record.pixels()).collect(),
            subjects: all.iter().map(known).collect(),
        }
    }

    /// Whom of these it learnt from, if any.
    pub fn seen(&self, asked: &BTreeSet<SubjectKey>, cache: &FrameCache) -> Option<Seen> {
        let (learnt, others): (Vec<SubjectKey>, Vec<SubjectKey>) =
            asked.iter().partition(|subject| self.subjects.contains(&known(subject)));
        let of_another = |subject: &&SubjectKey| {
            let mut own = cache.series().iter().filter(|record| record.subject == **subject);
            own.any(|record| self.pixels.contains(&record.pixels()))
        };
        let twins = others.iter().filter(of_another).count();
        let seen = Seen { asked: asked.len(), learnt: learnt.len(), twins };
        (seen.learnt + seen.twins > 0).then_some(seen)
    }

    /// Refuses subjects of whom the model in `folder` has learnt.
    pub fn require_unseen(
        &self,
        asked: &BTreeSet<SubjectKey>,
        cache: &FrameCache,
        folder: &Path,
    ) -> Result<(), TasksError> {
        let folder = || folder.display().to_string();
        let refused = |seen| Err(TasksError::Seen { folder: folder(), seen, learnt: self.held_out });
        self.seen(asked, cache).map_or(Ok(()), refused)
    }
}

fn known(subject: &SubjectKey) -> Digest {
    Digest::of(&subject.0)
}

/// SHA-256 of who is measured.
pub(super) fn who(subjects: &BTreeSet<SubjectKey>) -> Digest {
    let mut digest = DigestBuilder::default();
    subjects.iter().for_each(|subject| digest.update(&subject.0));
    digest.finish()
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, learnt, twins } = self;
        write!(f, "of {asked} subjects to be measured, {learnt} trained this model or picked it")?;
        if *twins > 0 {
            write!(f, ", and {twins} have the images of one who did, under another identifier")?;
        }
        Ok(())
    }
}
