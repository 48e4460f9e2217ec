//! How a run takes its course: what is decided is written down, then believed, then acted on, and read again after a restart.

use std::sync::Arc;
use std::time::Duration;

use common::RunId;

use super::{Federation, LiveRun, Undecided};
use crate::layout::Layout;
use crate::round::told;
use crate::round_time::{Noted, RoundTime, carried_over};
use crate::run::{Attempt, Run, RunAction, RunEvent, RunRules};
use crate::store::{Details, Moment, RoundState, RunRecord, RunState, StoreError, UpdateKey};

impl Federation {
    /// A run as it was written down; what was left undone is done.
    pub(super) fn restored(&self, record: RunRecord) -> Result<LiveRun, StoreError> {
        let damaged = |what: &str| StoreError::Damaged(format!("run {}: {what}", record.plan.run()));
        let layout = Layout::of(&record.plan.signature).map_err(|error| damaged(&error.to_string()))?;
        let rules = RunRules::of(&record.plan);
        let rounds = self.store.rounds(record.plan.run())?;
        let mut time = RoundTime::default();
        let mut undone = Vec::new();
        let first_model = record.plan.first_model;
        let run = match (&record.state, rounds.last().map(|last| (last, &last.state))) {
            (RunState::Awaiting, None) => Run::Awaiting { first_model },
            // Ended before its plan was signed.
            (RunState::Failed { because }, None) => Run::Failed { because: because.clone(), model: first_model },
            (RunState::Running, Some((last, RoundState::Merging(outcome)))) => {
                time = RoundTime::standing(Noted { spent: last.time.spent, left: None });
                Run::Merging(last.attempt, outcome.clone())
            }
            (RunState::Running, Some((last, state @ (RoundState::Gathering | RoundState::Training)))) => {
                let armed = matches!(state, RoundState::Training);
                let roll = self.store.roll(record.plan.run(), last.attempt)?;
                let left = armed.then(|| last.time.left.unwrap_or(deadline_of(&record) + grace_of(&record)));
                time = RoundTime::standing(Noted { left, ..last.time });
                let run;
                (run, undone) = Run::resumed(last.attempt, roll, armed, &rules);
                run
            }
            (RunState::Finished, Some((_, RoundState::Closed(_, merged)))) => Run::Finished { model: merged.model },
            (RunState::Failed { because }, Some((last, RoundState::Abandoned(_)))) => {
                Run::Failed { because: because.clone(), model: last.attempt.base }
            }
            _ => return Err(damaged("its last round does not fit its state")),
        };
        let merged = rounds.iter().rev().find(|round| matches!(round.state, RoundState::Closed(..)));
        let before = merged.map_or(record.plan.first_model, |round| round.attempt.base);
        let (layout, paused, damaged) = (Arc::new(layout), false, false);
        let mut live = LiveRun { record, rules, layout, run, time, paused, damaged, before, trouble: None };
        live.let_time_pass(self.clock.elapsed());
        if !undone.is_empty() {
            self.store.record(live.id(), &undone, Details::None, self.moment(&live))?;
            self.carry_out(&mut live, &undone);
        }
        if live.run.is_over() {
            // Unless the process died between the run's end and this.
            self.retire(live.id(), None);
        }
        Ok(live)
    }

    /// Decides, writes down, believes, acts: in this order.
    pub(super) fn decide(&self, live: &mut LiveRun, event: RunEvent, details: Details<'_>) -> Result<(), Undecided> {
        let (next, actions) = live.run.clone().on(event, &live.rules);
        if let Some(RunAction::Refuse(refusal)) = actions.first() {
            return Err(Undecided::Refused(refusal.clone()));
        }
        if actions.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.store.record(live.id(), &actions, details, self.moment(live)) {
            self.reread(live);
            return Err(Undecided::Store(error));
        }
        live.run = next;
        self.carry_out(live, &actions);
        Ok(())
    }

    /// After a write that failed, only the disk knows what is written.
    pub(super) fn reread(&self, live: &mut LiveRun) {
        let found = self.store.runs(0).and_then(|records| {
            let record = records.into_iter().flatten().find(|record| record.plan.run() == live.id());
            self.restored(record.ok_or_else(|| StoreError::Damaged(format!("run {} is gone", live.id())))?)
        });
        match found {
            Ok(found) => {
                // What passed since it was noted is not given back.
                let same = live.run.attempt() == found.run.attempt() && live.time.is_armed() == found.time.is_armed();
                let time = if same { live.time } else { found.time };
                // One that was being merged already waits as whatever could not be written does.
                if matches!(found.run, Run::Merging(..)) && !matches!(live.run, Run::Merging(..)) {
                    self.frozen.notify_one();
                }
                *live = LiveRun { time, paused: live.paused, damaged: live.damaged, ..found };
                live.let_time_pass(self.clock.elapsed());
            }
            Err(error) => tracing::error!(run = %live.id(), %error, "the run cannot be read again"),
        }
    }

    pub(super) fn carry_out(&self, live: &mut LiveRun, actions: &[RunAction]) {
        let run = live.id().clone();
        for action in actions {
            match action {
                RunAction::Record(heard) => {
                    tracing::info!(%run, round = %heard.round, site = %heard.site, word = ?heard.word, "heard");
                }
                RunAction::ArmDeadline(Attempt { round, attempt, .. }) => {
                    let allowed = deadline_of(&live.record);
                    tracing::info!(%run, %round, attempt, seconds = allowed.as_secs(), "the deadline runs: a quorum has joined, or too few are left that could");
                    live.time.arm(allowed + grace_of(&live.record), self.clock.elapsed());
                }
                RunAction::Freeze(Attempt { round, .. }, outcome) => {
                    live.time.disarm();
                    let left_out = told(&outcome.left_out);
                    tracing::info!(%run, %round, updates = outcome.reports.len(), %left_out, "round closed; merging");
                    self.frozen.notify_one();
                }
                RunAction::Discard(Attempt { round, .. }, site) => {
                    tracing::error!(%run, %round, %site, "the site's update no longer counts");
                    self.remove_lost(UpdateKey { run: run.clone(), round: *round, site: site.clone() });
                }
                RunAction::Abandon(Attempt { round, attempt, .. }, outcome) => {
                    live.time.disarm();
                    let left_out = told(&outcome.left_out);
                    tracing::warn!(%run, %round, attempt, updates = outcome.reports.len(), %left_out, "round abandoned");
                }
                RunAction::Publish(Attempt { round, base, .. }, model) => {
                    (live.before, live.damaged) = (*base, false);
                    tracing::info!(%run, %round, %model, "model published");
                    self.retire(&run, Some(self.limits.keep_updates_of_rounds));
                }
                RunAction::Release { .. } => {}
                RunAction::Begin(Attempt { round, attempt, base }) => {
                    let spent = carried_over(*attempt, live.time.spent(self.clock.elapsed()));
                    live.time = RoundTime::standing(Noted { spent, left: None });
                    tracing::info!(%run, %round, attempt, %base, "round begins");
                }
                RunAction::Finish { model } => {
                    tracing::info!(%run, %model, "run finished");
                    self.retire(&run, None);
                }
                RunAction::Fail { because } => {
                    tracing::error!(%run, because, "run failed");
                    self.retire(&run, None);
                }
                RunAction::Refuse(_) => {}
            }
        }
        live.let_time_pass(self.clock.elapsed());
    }

    /// Removes the file of an update that the disk changed. The site has it still, and may send it again.
    fn remove_lost(&self, key: UpdateKey) {
        let removed = self.store.update(&key).and_then(|update| {
            let lost: Vec<_> = update.into_iter().map(|update| update.manifest.blob).collect();
            self.store.remove_unnamed(&lost, &mut |blob| self.remove_blob(blob))
        });
        if let Err(error) = removed {
            tracing::warn!(run = %key.run, round = %key.round, site = %key.site, %error, "a damaged update could not be removed; it takes room");
        }
    }

    fn moment(&self, live: &LiveRun) -> Moment {
        Moment { wall: self.clock.wall(), of_round: live.time.spent(self.clock.elapsed()) }
    }

    /// Removes the updates of a run but for those of its last `keep` merged rounds, and the server's states but for the last and what
    /// the last model can be made again from; all of them when the run is over.
    pub(super) fn retire(&self, run: &RunId, keep: Option<u32>) {
        self.remove_spares();
        let retired = match keep {
            Some(_) => self.store.retire(run, keep, &mut |blob| self.set_aside(blob)),
            None => self.store.retire(run, keep, &mut |blob| self.remove_blob(blob)),
        };
        if let Err(error) = retired {
            tracing::warn!(%run, %error, "what is no longer needed could not be removed; it takes room");
        }
    }
}

pub(super) fn deadline_of(record: &RunRecord) -> Duration {
    Duration::from_secs(record.plan.draft.rounds.deadline_s)
}

pub(super) fn grace_of(record: &RunRecord) -> Duration {
    Duration::from_secs(record.plan.draft.rounds.grace_s)
}
