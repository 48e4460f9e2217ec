//! Who is trained on and who is held out: by subject, never by image.
//!
//! A subject's key is an HMAC, so its first eight bytes are a uniform number: a subject is held out if that number is
//! below the fraction. The choice does not change when other subjects come or go.

use std::collections::BTreeSet;

use common::Digest;

use crate::cache::{FrameCache, SeriesRecord};
use crate::keys::SubjectKey;

/// A site's subjects in two parts, both sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    training: Vec<SubjectKey>,
    held_out: Vec<SubjectKey>,
}

impl Split {
    /// Holds out about `fraction` of the subjects.
    ///
    /// With two subjects or more neither part is empty, unless the fraction is 0 or 1: at a very small site the subject nearest to the
    /// fraction changes sides, and may change back when more subjects come.
    pub fn new(subjects: &[SubjectKey], fraction: f64) -> Self {
        let mut sorted = subjects.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        // Sorted keys have rising places.
        let mut held = sorted.partition_point(|subject| place(subject) < fraction);
        if sorted.len() >= 2 && fraction > 0.0 && fraction < 1.0 {
            held = held.clamp(1, sorted.len() - 1);
        }
        let training = sorted.split_off(held);
        Self { training, held_out: sorted }
    }

    /// As [`Split::new`] of a cache's subjects, but for those to train on who show the very pixels of a series of somebody held out: a
    /// patient under a second identifier would be measured by what was learnt of him. They are in neither part.
    pub fn of(cache: &FrameCache, fraction: f64) -> Self {
        let mut split = Self::new(&cache.subjects(), fraction);
        let is_held = |record: &&SeriesRecord| split.held_out.binary_search(&record.subject).is_ok();
        let held: BTreeSet<Digest> = cache.series().iter().filter(is_held).map(SeriesRecord::pixels).collect();
        let shows_it = |record: &&SeriesRecord| held.contains(&record.pixels());
        let twins: BTreeSet<SubjectKey> = cache.series().iter().filter(shows_it).map(|record| record.subject).collect();
        split.training.retain(|subject| !twins.contains(subject));
        split
    }

    /// Subjects to train on.
    pub fn training(&self) -> &[SubjectKey] {
        &self.training
    }

    /// Subjects for evaluation only.
    pub fn held_out(&self) -> &[SubjectKey] {
        &self.held_out
    }
}

/// The key as a number in 0..1.
fn place(subject: &SubjectKey) -> f64 {
    let first: [u8; 8] = std::array::from_fn(|i| subject.0[i]);
    u64::from_be_bytes(first) as f64 / 2_f64.powi(64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::SiteSecret;

    fn subjects(count: usize) -> Vec<SubjectKey> {
        let secret = SiteSecret::new([3; 32]);
        (0..count).map(|i| SubjectKey::of(&secret, &i.to_string())).collect()
    }

    #[test]
    fn about_the_fraction_is_held_out_and_nobody_is_in_both_parts() {
        let split = Split::new(&subjects(1000), 0.2);
        assert!((150..250).contains(&split.held_out().len()), "{}", split.held_out().len());
        assert_eq!(split.held_out().len() + split.training().len(), 1000);
        assert!(split.held_out().iter().all(|subject| !split.training().contains(subject)));
    }

    #[test]
    fn new_subjects_do_not_move_the_old_ones() {
        let (few, many) = (Split::new(&subjects(100), 0.3), Split::new(&subjects(500), 0.3));
        assert!(few.held_out().iter().all(|subject| many.held_out().contains(subject)));
        assert!(few.training().iter().all(|subject| many.training().contains(subject)));
    }

    #[test]
    fn a_site_of_two_has_one_of_each() {
        for fraction in [0.01, 0.5, 0.99] {
            let split = Split::new(&subjects(2), fraction);
            assert_eq!((split.training().len(), split.held_out().len()), (1, 1), "{fraction}");
        }
        assert_eq!(Split::new(&subjects(3), 0.0).training().len(), 3);
        assert!(Split::new(&[], 0.5).training().is_empty());
    }
}
