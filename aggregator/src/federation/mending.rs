//! Models that the disk changed: noticed, handed out to nobody, and made again from the updates that they came of.
//!
//! The same updates give the same model, to the bit, so that a model which went bad is there again as long as the updates of the
//! round before are kept, and with them the state of a rule that has one. What cannot be made again, as a run's first model, waits for a
//! backup; no time of a round passes meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use common::{Digest, RunId, SiteId};

use super::merging::Job;
use super::{Federation, LiveRun};
use crate::ledger::Event;
use crate::store::RoundState;

/// Models that may not be what they are called.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    /// To be held to their digests.
    asked: BTreeSet<Digest>,
    /// Known to be damaged.
    damaged: BTreeSet<Digest>,
    /// Times that a damaged model was sound again.
    mended: u64,
    /// Who has begun to fetch which model.
    fetched: BTreeSet<(SiteId, Digest)>,
    /// When a model was last held to its digest, on the clock that never goes back.
    looked: BTreeMap<Digest, Duration>,
}

/// Time between two looks at a model because sites fetch it again: a site that asks without end must not keep the merges waiting.
const LOOKS_APART: Duration = Duration::from_secs(30);

impl Federation {
    /// A site begins to fetch a model. If it did before, what it got was not what it is called, or it lost it.
    pub(super) fn fetches(&self, site: &SiteId, model: Digest) {
        let mut doubts = self.doubts();
        let is_again = !doubts.fetched.insert((site.clone(), model));
        drop(doubts);
        if is_again && self.is_time_to_look(model) {
            self.doubt(model);
        }
    }

    fn is_time_to_look(&self, model: Digest) -> bool {
        let now = self.clock.elapsed();
        self.doubts().looked.get(&model).is_none_or(|looked| now >= *looked + LOOKS_APART)
    }

    /// Has a model held to its digest, soon.
    pub(crate) fn doubt(&self, model: Digest) {
        self.doubts().asked.insert(model);
        self.doubted.notify_one();
    }

    /// Has the models that runs go on from held to their digests, soon.
    pub(super) fn doubt_all(&self) {
        let models: Vec<_> =
            self.live().runs.iter().filter(|run| !run.run.is_over()).map(|run| run.run.model()).collect();
        models.into_iter().for_each(|model| self.doubt(model));
    }

    /// Times that a damaged model was sound again: what was read of one before is not what is there now.
    pub(super) fn times_mended(&self) -> u64 {
        self.doubts().mended
    }

    pub(super) fn is_damaged(&self, model: Digest) -> bool {
        self.doubts().damaged.contains(&model)
    }

    /// Holds the models that are in doubt to their digests, and makes again what can be; says whether all are sound.
    pub(super) fn settle_doubts(&self) -> bool {
        let in_doubt: BTreeSet<_> = {
            let mut doubts = self.doubts();
            std::mem::take(&mut doubts.asked).into_iter().chain(doubts.damaged.iter().copied()).collect()
        };
        let mut all_sound = true;
        for model in in_doubt {
            let is_at = |run: &&LiveRun| run.run.model() == model;
            let runs: Vec<_> =
                self.live().runs.iter().filter(is_at).map(|run| (run.id().clone(), run.run.is_over())).collect();
            let (runs, over): (Vec<RunId>, Vec<bool>) = runs.into_iter().unzip();
            if runs.is_empty() {
                // Nobody fetches it, and no round starts from it, any more.
                self.doubts().damaged.remove(&model);
                continue;
            }
            // Nobody waits for a round of a run that is over, and its model may stay damaged for long.
            if over.iter().all(|is_over| *is_over) && !self.is_time_to_look(model) {
                all_sound = false;
                continue;
            }
            self.doubts().looked.insert(model, self.clock.elapsed());
            let Some(wrong) = self.blobs.what_is_wrong_with(model) else {
                self.sound(model, &runs);
                continue;
            };
            self.damaged(model, &runs, &wrong);
            match runs.iter().try_for_each(|run| self.make_again(run, model)) {
                Ok(()) => self.sound(model, &runs),
                Err(why_not) => {
                    all_sound = false;
                    for (run, is_over) in runs.iter().zip(over) {
                        let (which, then) = match is_over {
                            true => ("run's last", "sites that have not fetched it yet wait for it"),
                            false => ("round's first", "the run goes on; no time of its round passes meanwhile"),
                        };
                        let trouble = format!(
                            "the {which} model is damaged: {wrong}. It cannot be made again ({why_not}): restore blob {model} from \
                             a backup, and {then}"
                        );
                        self.note_trouble(run, Some(&trouble));
                    }
                }
            }
        }
        self.forget_old_fetches();
        all_sound
    }

    fn damaged(&self, model: Digest, runs: &[RunId], wrong: &str) {
        if self.doubts().damaged.insert(model) {
            tracing::error!(%model, wrong, "a model is damaged: see to the disk");
            runs.iter().for_each(|run| self.enter(&Event::ModelDamaged { run, model }));
        }
        let now = self.clock.elapsed();
        for run in &mut self.live().runs {
            if runs.contains(run.id()) {
                run.damaged = true;
                run.let_time_pass(now);
            }
        }
    }

    fn sound(&self, model: Digest, runs: &[RunId]) {
        // What is noted of it may be of an earlier life of this server: it was restored while none ran.
        runs.iter().for_each(|run| self.note_trouble(run, None));
        {
            let mut doubts = self.doubts();
            if !doubts.damaged.remove(&model) {
                return;
            }
            doubts.mended += 1;
        }
        tracing::warn!(%model, "the damaged model is sound again");
        runs.iter().for_each(|run| self.enter(&Event::ModelMended { run, model }));
        let now = self.clock.elapsed();
        for run in self.live().runs.iter_mut().filter(|run| runs.contains(run.id())) {
            run.damaged = false;
            run.let_time_pass(now);
        }
    }

    /// Merges again the round that a model came of.
    fn make_again(&self, run: &RunId, model: Digest) -> Result<(), String> {
        let rounds = self.store.rounds(run).map_err(|error| error.to_string())?;
        let came_of = rounds.into_iter().rev().find_map(|record| match record.state {
            RoundState::Closed(outcome, merged) if merged.model == model => Some((record.attempt, outcome)),
            _ => None,
        });
        let (attempt, outcome) = came_of.ok_or("it is the run's first model")?;
        let job = self.live().run(run).map(|live| Job::of(live, attempt, outcome)).ok_or("the run is gone")?;
        let merged = self.merged(&job).map_err(|error| error.to_string())?;
        // Unless the run ended meanwhile.
        self.remove_unnamed(&merged);
        match merged.model == model {
            true => Ok(()),
            false => Err(format!("from what is kept came {}", merged.model)),
        }
    }

    fn enter(&self, event: &Event<'_>) {
        if let Err(error) = self.store.enter(event, self.clock.wall()) {
            tracing::error!(%error, "what became of a model could not be entered in the ledger");
        }
    }

    /// Only of models that are handed out: others would add up.
    fn forget_old_fetches(&self) {
        let current: BTreeSet<_> = self.live().runs.iter().map(|run| run.run.model()).collect();
        let mut doubts = self.doubts();
        doubts.fetched.retain(|(_, model)| current.contains(model));
        doubts.looked.retain(|model, _| current.contains(model));
    }

    fn doubts(&self) -> MutexGuard<'_, Doubts> {
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
