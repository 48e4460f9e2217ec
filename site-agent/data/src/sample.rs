//! Which frames a batch holds: a subject, then one of its series, then a slice, then a phase, each uniformly.
//!
//! Frames of one cine are near-duplicates and subjects have very different numbers of them; drawing frames uniformly
//! would show a model little else than the longest cines. A batch is a function of its seed alone, so that a resumed
//! training draws the same.

use std::collections::BTreeMap;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::cache::{FrameCache, FrameRef};
use crate::keys::SubjectKey;

/// No subject has a frame.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("none of the {subjects} subjects to train on has a frame in the cache: index the site's images first")]
pub struct NothingToSample {
    /// Subjects that were asked for.
    pub subjects: usize,
}

/// Draws batches from some subjects of a cache.
#[derive(Clone, Debug)]
pub struct Sampler {
    /// For each subject, for each of its series: the place of the series, and the phases of each slice.
    subjects: Vec<Vec<(u32, Vec<u32>)>>,
}

impl Sampler {
    /// A sampler over the series of these subjects.
    pub fn new(cache: &FrameCache, subjects: &[SubjectKey]) -> Result<Self, NothingToSample> {
        let mut by_subject: BTreeMap<SubjectKey, Vec<(u32, Vec<u32>)>> =
            subjects.iter().map(|subject| (*subject, Vec::new())).collect();
        for (place, record) in (0_u32..).zip(cache.series()) {
            if let Some(series) = by_subject.get_mut(&record.subject) {
                series.push((place, record.slices.iter().map(|slice| slice.phases).collect()));
            }
        }
        let with_frames: Vec<_> = by_subject.into_values().filter(|series| !series.is_empty()).collect();
        if with_frames.is_empty() {
            return Err(NothingToSample { subjects: subjects.len() });
        }
        Ok(Self { subjects: with_frames })
    }

    /// Subjects that have frames.
    pub fn subject_count(&self) -> usize {
        self.subjects.len()
    }

    /// Frames of all of them.
    pub fn frame_count(&self) -> u64 {
        let slices = self.subjects.iter().flatten().flat_map(|(_, slices)| slices);
        slices.map(|phases| u64::from(*phases)).sum()
    }

    /// The batch of a seed. No subject comes twice before every one came once.
    pub fn batch(&self, seed: u64, count: usize) -> Vec<FrameRef> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut order: Vec<usize> = Vec::with_capacity(count + self.subjects.len());
        while order.len() < count {
            let mut round: Vec<usize> = (0..self.subjects.len()).collect();
            round.shuffle(&mut rng);
            order.extend(round);
        }
        order.truncate(count);
        order
            .into_iter()
            .map(|subject| {
                let all = &self.subjects[subject];
                let (series, slices) = &all[rng.random_range(0..all.len())];
                let slice = rng.random_range(0..slices.len());
                let phase = rng.random_range(0..slices[slice]);
                FrameRef { series: *series, slice: slice as u32, phase }
            })
            .collect()
    }
}
