//! What the agent does next: a pure function of the aggregator's directive and of what is here.
//!
//! ```text
//! Train ─▶ plan here? ─▶ approved? ─▶ model here? ─▶ images on the plan's grid? ─▶ trained? ─▶ sealed? ─▶ sent
//! Finished ─▶ model here? ─▶ measured, if the run finetuned? ─▶ recorded
//! ```

use std::time::Duration;

use common::{Assignment, Decline, Digest, Directive, RoundNumber, RunId};

use crate::standing::Still;

/// What is here, as far as the directive asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Here {
    /// The plan is on disk and has its digest.
    pub plan: bool,
    /// A person at this site approved it.
    pub approved: bool,
    /// The model to start from, or the last model, is on disk.
    pub model: bool,
    /// The images are cached on the plan's grid.
    pub images: bool,
    /// What the trainer is doing, or how it ended.
    pub trainer: Trainer,
    /// Which images are being read just now.
    pub reading: Reading,
    /// The round's update is sealed on disk.
    pub sealed: bool,
    /// Nothing is left to do of the round ([`is_done`]), or the finished run is recorded.
    pub done: bool,
    /// What the last model is worth here need not be measured, or the aggregator has it already.
    pub measured: bool,
    /// This round was declined before.
    pub declined: Option<Decline>,
    /// The site's policy does not permit what the plan asks, by this rule.
    pub objection: Option<Decline>,
    /// Nothing trains just now.
    pub still: Option<Still>,
}

/// The trainer, a child process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trainer {
    /// Not running.
    #[default]
    Absent,
    /// At work on this round.
    Running,
    /// At work on another round.
    RunningAnother,
    /// Ended with a result on disk.
    Finished,
    /// Ended without, and will end so again.
    Failed(Decline),
}

/// The intake at work, beside the reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// Nothing is read, or what is read ends already.
    #[default]
    Nothing,
    /// The site's images, onto the grid that the directive asks for.
    Wanted,
    /// The site's images, onto a grid that the directive does not ask for.
    Unwanted,
}

/// Times a trainer may be killed without a step between before the round is declined.
pub const MOST_KILLS: u32 = 3;

/// How often the trainer of one round was killed, and how far it had come. It goes on from its checkpoint as long as it
/// gets further: a machine that restarts it every hour still ends its round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kills {
    at_step: u64,
    times: u32,
}

impl Kills {
    /// One more, after so many steps of the round.
    pub fn after(self, step: u64) -> Self {
        if step > self.at_step { Self { at_step: step, times: 1 } } else { Self { times: self.times + 1, ..self } }
    }

    /// Whether to start it again is of no use.
    pub fn too_many(self) -> bool {
        self.times >= MOST_KILLS
    }
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask again later.
    Rest,
    /// Fetch the plan's bytes.
    FetchPlan(Digest),
    /// A person must approve the plan first.
    AwaitApproval(Digest),
    /// Fetch a model's file.
    FetchModel {
        /// Its digest.
        model: Digest,
        /// Its length.
        bytes: u64,
    },
    /// Read the images onto the plan's grid.
    Index,
    /// Stop reading images: the round that wanted them is gone.
    StopIndexing,
    /// Start the trainer.
    Train,
    /// Let it go on.
    KeepTraining,
    /// Stop the trainer at once: its round is no longer wanted, or a person wants it so.
    StopTraining,
    /// Let the trainer end with a checkpoint: the hours are over.
    PauseTraining,
    /// Pass the trained delta through the privacy pipeline.
    Seal,
    /// Send the sealed update.
    Send,
    /// Start the trainer on the last model, which it measures.
    Measure,
    /// Send what it measured.
    SendScores,
    /// Say that this site will not take part in this round.
    Decline(Decline),
    /// Stand still until a person, or the hour, lets it go on.
    StandStill(Still),
    /// Record that the run is over.
    Finish(RunId, Digest),
}

/// The next step for a directive.
pub fn next(directive: &Directive, here: &Here) -> Step {
    match directive {
        _ if here.reading == Reading::Unwanted => Step::StopIndexing,
        Directive::Wait { .. } | Directive::Failed { .. } if here.trainer == Trainer::RunningAnother => {
            Step::StopTraining
        }
        Directive::Wait { .. } | Directive::Failed { .. } => Step::Rest,
        Directive::Finished { .. } if here.done => Step::Rest,
        Directive::Finished { .. } if here.trainer == Trainer::RunningAnother => Step::StopTraining,
        Directive::Finished { .. } if here.still == Some(Still::Stopped) => stand_still(Still::Stopped, here),
        Directive::Finished { model, bytes, .. } if !here.model => Step::FetchModel { model: *model, bytes: *bytes },
        Directive::Finished { run, model, .. } => match (&here.trainer, here.still) {
            _ if here.measured => Step::Finish(run.clone(), *model),
            (Trainer::Absent | Trainer::Running, Some(still)) => stand_still(still, here),
            (Trainer::Absent, None) => Step::Measure,
            (Trainer::Finished, _) => Step::SendScores,
            (Trainer::Running | Trainer::RunningAnother, _) => Step::KeepTraining,
            // The run is over: a measurement that cannot be made keeps nobody from going on.
            (Trainer::Failed(_), _) => Step::Finish(run.clone(), *model),
        },
        Directive::Train(assignment) => round(assignment, here),
    }
}

fn round(assignment: &Assignment, here: &Here) -> Step {
    match here {
        Here { done: true, .. } => Step::Rest,
        Here { trainer: Trainer::RunningAnother, .. } => Step::StopTraining,
        Here { still: Some(Still::Stopped), .. } => stand_still(Still::Stopped, here),
        Here { declined: Some(reason), .. } => Step::Decline(*reason),
        Here { plan: false, .. } => Step::FetchPlan(assignment.plan),
        // Before a person is asked: what the policy does not permit need not be read.
        Here { objection: Some(rule), .. } => Step::Decline(*rule),
        Here { approved: false, .. } => Step::AwaitApproval(assignment.plan),
        Here { sealed: true, .. } => Step::Send,
        Here { trainer: Trainer::Finished, .. } => Step::Seal,
        Here { still: Some(still), .. } => stand_still(*still, here),
        Here { trainer: Trainer::Running, .. } => Step::KeepTraining,
        Here { trainer: Trainer::Failed(why), .. } => Step::Decline(*why),
        Here { model: false, .. } => Step::FetchModel { model: assignment.base, bytes: assignment.base_bytes },
        Here { images: false, .. } => Step::Index,
        Here { trainer: Trainer::Absent, .. } => Step::Train,
    }
}

/// Whether nothing is left to do of a round: its update is acknowledged, and not awaited all the same. A disk of the aggregator's may
/// lose what was acknowledged; the update is sealed here still, and is sent again.
pub fn is_done(assignment: &Assignment, is_acknowledged: bool) -> bool {
    is_acknowledged && !assignment.awaited
}

fn stand_still(still: Still, here: &Here) -> Step {
    match (&here.trainer, still) {
        (Trainer::Running, Still::Stopped) => Step::StopTraining,
        (Trainer::Running, Still::OutsideHours { .. }) => Step::PauseTraining,
        _ => Step::StandStill(still),
    }
}

/// Longest time between two questions to the aggregator while something is under way, so that who pauses or ends a run has
/// every site free within ten seconds.
const ASKS_WITHIN: Duration = Duration::from_secs(5);

/// When to ask the aggregator again, for a site that would ask after `pause`.
pub fn asks_again_after(pause: Duration, is_under_way: bool) -> Duration {
    if is_under_way { pause.min(ASKS_WITHIN) } else { pause }
}

/// Whether what one directive began is to go on under the one that is `told` meanwhile.
pub fn is_wanted(begun: &Directive, told: &Directive) -> bool {
    match begun {
        // The run is over: nobody takes its last model back, and nobody waits for this site while it is fetched.
        Directive::Finished { .. } => true,
        Directive::Train(_) | Directive::Wait { .. } | Directive::Failed { .. } => work(begun) == work(told),
    }
}

/// How an agent that works for one run ends under a directive, if it does: the run has finished, or failed.
pub fn end_of_run(directive: &Directive, here: &Here) -> Option<Result<(), String>> {
    if next(directive, here) != Step::Rest {
        return None;
    }
    match directive {
        Directive::Finished { .. } => Some(Ok(())),
        Directive::Failed { because, .. } => Some(Err(because.clone())),
        Directive::Train(_) | Directive::Wait { .. } => None,
    }
}

/// Stands for the time after the last round, when the last model is measured.
pub const AFTER_THE_LAST: RoundNumber = RoundNumber(u32::MAX);

/// The round a directive is about, with the model it starts from.
pub fn work(directive: &Directive) -> Option<(RunId, RoundNumber, Digest)> {
    match directive {
        Directive::Train(assignment) => Some((assignment.run.clone(), assignment.round, assignment.base)),
        Directive::Finished { run, model, .. } => Some((run.clone(), AFTER_THE_LAST, *model)),
        Directive::Wait { .. } | Directive::Failed { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn train() -> Directive {
        Directive::Train(Assignment {
            run: "run".parse().unwrap(),
            round: RoundNumber(1),
            plan: Digest::of(b"plan"),
            base: Digest::of(b"base"),
            base_bytes: 7,
            first_step: 0,
            time_left: Duration::from_secs(1),
            awaited: false,
            lineage: None,
            ledger: None,
        })
    }

    #[test]
    fn a_round_goes_from_plan_to_sent_one_step_at_a_time() {
        let mut here = Here::default();
        assert_eq!(next(&train(), &here), Step::FetchPlan(Digest::of(b"plan")));
        here.plan = true;
        assert_eq!(next(&train(), &here), Step::AwaitApproval(Digest::of(b"plan")));
        here.approved = true;
        assert_eq!(next(&train(), &here), Step::FetchModel { model: Digest::of(b"base"), bytes: 7 });
        here.model = true;
        assert_eq!(next(&train(), &here), Step::Index);
        here.images = true;
        assert_eq!(next(&train(), &here), Step::Train);
        here.trainer = Trainer::Running;
        assert_eq!(next(&train(), &here), Step::KeepTraining);
        here.trainer = Trainer::Finished;
        assert_eq!(next(&train(), &here), Step::Seal);
        here.sealed = true;
        assert_eq!(next(&train(), &here), Step::Send);
        here.done = true;
        assert_eq!(next(&train(), &here), Step::Rest);
    }

    #[test]
    fn a_sealed_update_is_sent_again_after_a_restart_and_never_trained_again() {
        let here = Here { plan: true, approved: true, sealed: true, ..Here::default() };
        assert_eq!(next(&train(), &here), Step::Send);
    }

    #[test]
    fn an_acknowledged_update_that_is_awaited_all_the_same_is_sent_again() {
        let Directive::Train(work) = train() else { panic!("it trains") };
        let step = |awaited, is_acknowledged| {
            let assignment = Assignment { awaited, ..work.clone() };
            let done = is_done(&assignment, is_acknowledged);
            let trainer = Trainer::Finished;
            let here = Here { plan: true, approved: true, sealed: true, done, trainer, ..Here::default() };
            next(&Directive::Train(assignment), &here)
        };
        assert_eq!(step(false, true), Step::Rest);
        assert_eq!(step(true, true), Step::Send);
        assert_eq!(step(true, false), Step::Send);
        // An older aggregator does not say whom it awaits.
        assert_eq!(step(false, false), Step::Send);
    }

    #[test]
    fn nothing_trains_without_approval() {
        let here = Here { plan: true, model: true, images: true, sealed: true, ..Here::default() };
        assert_eq!(next(&train(), &here), Step::AwaitApproval(Digest::of(b"plan")));
    }

    #[test]
    fn a_stopped_agent_stops_its_trainer_and_sends_nothing_and_a_resumed_one_takes_the_step_it_would_have_taken() {
        let ready = Here { plan: true, approved: true, model: true, images: true, ..Here::default() };
        let finished = Directive::Finished { run: "run".parse().unwrap(), model: Digest::of(b"last"), bytes: 9 };
        for trainer in [Trainer::Absent, Trainer::Running, Trainer::Finished, Trainer::Failed(Decline::DiskFull)] {
            for (sealed, directive) in [(true, train()), (false, train()), (false, finished.clone())] {
                let here = Here { trainer: trainer.clone(), sealed, still: Some(Still::Stopped), ..ready.clone() };
                let expected = match trainer {
                    Trainer::Running => Step::StopTraining,
                    _ => Step::StandStill(Still::Stopped),
                };
                assert_eq!(next(&directive, &here), expected, "{here:?}");
            }
        }
        let stopped = Here { still: Some(Still::Stopped), ..Here::default() };
        assert_eq!(next(&train(), &stopped), Step::StandStill(Still::Stopped), "not even the plan is fetched");
        assert_eq!(next(&train(), &ready), Step::Train);
    }

    #[test]
    fn outside_its_hours_nothing_trains_is_read_or_fetched_and_what_is_trained_is_sent() {
        let still = Still::OutsideHours { opens_in: Duration::from_secs(60) };
        let closed = Here { plan: true, approved: true, still: Some(still), ..Here::default() };
        let step = |change: fn(&mut Here)| {
            let mut here = closed.clone();
            change(&mut here);
            next(&train(), &here)
        };
        assert_eq!(step(|_| {}), Step::StandStill(still));
        assert_eq!(step(|here| here.model = true), Step::StandStill(still));
        assert_eq!(step(|here| (here.model, here.images) = (true, true)), Step::StandStill(still));
        assert_eq!(step(|here| here.trainer = Trainer::Running), Step::PauseTraining);
        assert_eq!(step(|here| here.trainer = Trainer::Finished), Step::Seal);
        assert_eq!(step(|here| here.sealed = true), Step::Send);
        assert_eq!(step(|here| here.plan = false), Step::FetchPlan(Digest::of(b"plan")), "a person may read it by day");
        assert_eq!(step(|here| here.approved = false), Step::AwaitApproval(Digest::of(b"plan")));
        let finished = Directive::Finished { run: "run".parse().unwrap(), model: Digest::of(b"last"), bytes: 9 };
        let here = |trainer| Here { model: true, trainer, ..closed.clone() };
        assert_eq!(next(&finished, &here(Trainer::Absent)), Step::StandStill(still));
        assert_eq!(next(&finished, &here(Trainer::Running)), Step::PauseTraining);
        assert_eq!(next(&finished, &here(Trainer::Finished)), Step::SendScores);
    }

    #[test]
    fn what_the_policy_does_not_permit_is_declined_by_its_rule_whoever_approved_it_and_whatever_is_sealed() {
        let objection = Some(Decline::PolicyTensors);
        for (approved, sealed) in [(false, false), (true, false), (true, true)] {
            let here = Here { plan: true, approved, sealed, objection, ..Here::default() };
            assert_eq!(next(&train(), &here), Step::Decline(Decline::PolicyTensors));
        }
    }

    #[test]
    fn a_trainer_of_another_round_is_stopped_first() {
        let here = Here { plan: true, approved: true, trainer: Trainer::RunningAnother, ..Here::default() };
        assert_eq!(next(&train(), &here), Step::StopTraining);
        assert_eq!(next(&Directive::Wait { because: String::new() }, &here), Step::StopTraining);
    }

    #[test]
    fn images_that_no_directive_asks_for_are_read_no_further() {
        let finished = Directive::Finished { run: "run".parse().unwrap(), model: Digest::of(b"last"), bytes: 9 };
        let here = |reading| Here { plan: true, approved: true, model: true, reading, ..Here::default() };
        for directive in [train(), finished, Directive::Wait { because: "paused".to_owned() }] {
            assert_eq!(next(&directive, &here(Reading::Unwanted)), Step::StopIndexing);
            assert_ne!(next(&directive, &here(Reading::Nothing)), Step::StopIndexing);
        }
        assert_eq!(next(&train(), &here(Reading::Wanted)), Step::Index, "to look whether they are read");
    }

    #[test]
    fn a_transfer_goes_on_for_its_own_round_alone_and_the_model_of_a_finished_run_in_any_case() {
        let Directive::Train(work) = train() else { panic!("it trains") };
        let wait = Directive::Wait { because: "run run is paused by the coordinator".to_owned() };
        let finished = Directive::Finished { run: work.run.clone(), model: Digest::of(b"last"), bytes: 9 };
        let later = Directive::Train(Assignment { time_left: Duration::from_secs(9), ..work.clone() });
        assert!(is_wanted(&train(), &later));
        let next_round = Assignment { round: RoundNumber(2), ..work.clone() };
        let another_model = Assignment { base: Digest::of(b"another"), ..work.clone() };
        let another_run = Assignment { run: "another".parse().unwrap(), ..work };
        let others = [next_round, another_model, another_run].map(Directive::Train);
        for told in others.into_iter().chain([wait.clone(), finished.clone()]) {
            assert!(!is_wanted(&train(), &told), "{told:?}");
            assert!(is_wanted(&finished, &told), "{told:?}");
        }
        assert!(is_wanted(&finished, &train()));
    }

    #[test]
    fn a_site_at_work_asks_every_five_seconds_however_seldom_it_reports() {
        let minute = Duration::from_secs(60);
        assert_eq!(asks_again_after(minute, true), Duration::from_secs(5));
        assert_eq!(asks_again_after(minute, false), minute);
        assert_eq!(asks_again_after(Duration::from_millis(50), true), Duration::from_millis(50));
    }

    #[test]
    fn a_failed_trainer_declines_the_round_with_its_reason() {
        for why in [Decline::TrainingFailed, Decline::DiskFull] {
            let here = Here { plan: true, approved: true, trainer: Trainer::Failed(why), ..Here::default() };
            assert_eq!(next(&train(), &here), Step::Decline(why));
        }
        let here = Here { declined: Some(Decline::DiskFull), ..Here::default() };
        assert_eq!(next(&train(), &here), Step::Decline(Decline::DiskFull));
    }

    #[test]
    fn a_killed_trainer_goes_on_as_long_as_it_gets_further() {
        let hourly = (1..100).fold(Kills::default(), |kills, hour| kills.after(hour * 10));
        assert!(!hourly.too_many());
        let stuck = hourly.after(990).after(990);
        assert!(stuck.too_many());
        assert!(!stuck.after(991).too_many());
        let never_started = (0..MOST_KILLS).fold(Kills::default(), |kills, _| kills.after(0));
        assert!(never_started.too_many());
    }

    #[test]
    fn the_last_model_of_a_finetuning_is_measured_and_a_measurement_that_fails_ends_the_run_as_well() {
        let (run, model): (RunId, _) = ("run".parse().unwrap(), Digest::of(b"last"));
        let finished = Directive::Finished { run: run.clone(), model, bytes: 9 };
        let step = |trainer| next(&finished, &Here { model: true, trainer, ..Here::default() });
        assert_eq!(step(Trainer::Absent), Step::Measure);
        assert_eq!(step(Trainer::Running), Step::KeepTraining);
        assert_eq!(step(Trainer::Finished), Step::SendScores);
        assert_eq!(step(Trainer::Failed(Decline::NoLabels)), Step::Finish(run, model));
    }

    #[test]
    fn an_agent_for_one_run_ends_when_that_has_finished_or_failed_and_nothing_is_under_way_any_more() {
        let because = "run run failed: aborted by the coordinator: a mistake".to_owned();
        let failed = Directive::Failed { run: "run".parse().unwrap(), because: because.clone() };
        let finished = Directive::Finished { run: "run".parse().unwrap(), model: Digest::of(b"last"), bytes: 9 };
        let (idle, done) = (Here::default(), Here { done: true, ..Here::default() });
        assert_eq!(end_of_run(&failed, &idle), Some(Err(because)));
        assert_eq!(end_of_run(&finished, &done), Some(Ok(())));
        assert_eq!(end_of_run(&finished, &idle), None, "its last model is still to be fetched");
        assert_eq!(end_of_run(&train(), &done), None);
        assert_eq!(end_of_run(&Directive::Wait { because: "paused".to_owned() }, &idle), None);
        let trains = Here { trainer: Trainer::RunningAnother, ..Here::default() };
        let reads = Here { reading: Reading::Unwanted, ..Here::default() };
        assert_eq!((next(&failed, &trains), end_of_run(&failed, &trains)), (Step::StopTraining, None));
        assert_eq!((next(&failed, &reads), end_of_run(&failed, &reads)), (Step::StopIndexing, None));
    }

    #[test]
    fn a_finished_run_leaves_its_last_model_here() {
        let (run, model): (RunId, _) = ("run".parse().unwrap(), Digest::of(b"last"));
        let finished = Directive::Finished { run: run.clone(), model, bytes: 9 };
        assert_eq!(next(&finished, &Here::default()), Step::FetchModel { model, bytes: 9 });
        let measured = Here { model: true, measured: true, ..Here::default() };
        assert_eq!(next(&finished, &measured), Step::Finish(run, model));
        assert_eq!(next(&finished, &Here { model: true, done: true, ..Here::default() }), Step::Rest);
    }
}
