//! A run as a value: rounds in sequence, attempts at each, the model every round starts from. Like [`crate::round`] it
//! knows no clock, no disk and no network.
//!
//! ```text
//!   Awaiting ── enough coordinators have signed the plan ──▶ Open
//!
//!   Open ── round closed ──▶ Merging ── merged ──▶ Open (next round) … ──▶ Finished
//!    │ ▲                                                    (after the last)
//!    │ └── abandoned, attempts left: same round, same model; reports already stored still count
//!    └──── abandoned, none left ──▶ Failed
//!
//!   Awaiting, Open, Merging ── the coordinator aborts ──▶ Failed
//!   Merging ── an update turns out damaged ──▶ Merging without it; abandoned if that is below the quorum
//! ```
//!
//! Nothing that sites say, however often, abandons an attempt: only its deadline does, or damage found in the merge. Declines
//! are carried into the next attempt, and so is that an update is lost; a run whose quorum cannot come has as many deadlines as
//! attempts.

use common::{Digest, PersonId, Plan, Refusal, RoundNumber, SiteId};

use crate::round::{self, Event, Heard, LeftOut, Outcome, Roll, Round, RoundRules, Word};

/// What holds for a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRules {
    /// Rules of a round; its number is replaced by that of the open one.
    round: RoundRules,
    /// Rounds of the run.
    pub rounds: u32,
    /// Times a round is tried before the run fails.
    pub attempts: u32,
}

impl RunRules {
    /// The rules of a plan.
    pub fn of(plan: &Plan) -> Self {
        let round = RoundRules::of(plan, RoundNumber(1));
        Self { round, rounds: plan.draft.rounds.count, attempts: plan.draft.rounds.attempts }
    }

    /// The rules of one round.
    pub fn at(&self, round: RoundNumber) -> RoundRules {
        RoundRules { round, ..self.round.clone() }
    }
}

/// Which try at which round, and the model it starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The round.
    pub round: RoundNumber,
    /// The try, counted from 1.
    pub attempt: u32,
    /// The model it starts from.
    pub base: Digest,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Run {
    /// The plan needs signatures that are not there yet. No round is open.
    Awaiting {
        /// The model before any training.
        first_model: Digest,
    },
    /// A round is open.
    Open(Attempt, Round),
    /// The reports of a round are frozen and being merged.
    Merging(Attempt, Outcome),
    /// All rounds are done.
    Finished {
        /// The last model.
        model: Digest,
    },
    /// A round failed its quorum too often.
    Failed {
        /// What to tell people.
        because: String,
        /// The last model there was.
        model: Digest,
    },
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunEvent {
    /// Enough coordinators have signed the plan.
    Signed {
        /// Who.
        by: Vec<PersonId>,
    },
    /// A site said something about a round.
    Heard(Heard),
    /// The deadline of the open round has passed.
    TimeUp,
    /// The frozen reports are merged and the next model is stored.
    Merged {
        /// The next model.
        model: Digest,
    },
    /// A frozen report cannot be merged: the stored update is gone, or no longer has its digest.
    Damaged {
        /// Whose.
        site: SiteId,
    },
    /// The coordinator ends the run: [`ABORTED`], and then its words.
    Aborted {
        /// What to tell people.
        because: String,
    },
}

/// What the reason begins with for which a run ended that the coordinator ended.
pub const ABORTED: &str = "aborted by the coordinator: ";

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum RunAction {
    /// The signatures that the plan needs are there.
    Release {
        /// Whose.
        by: Vec<PersonId>,
    },
    /// Write down a site's word about a round.
    Record(Heard),
    /// Let the deadline run from now.
    ArmDeadline(Attempt),
    /// The set is frozen: merge these reports.
    Freeze(Attempt, Outcome),
    /// The stored update of this site no longer counts.
    Discard(Attempt, SiteId),
    /// The attempt ended without a merge.
    Abandon(Attempt, Outcome),
    /// The frozen reports became this model.
    Publish(Attempt, Digest),
    /// A round, or another try at one, begins.
    Begin(Attempt),
    /// All rounds are done.
    Finish {
        /// The last model.
        model: Digest,
    },
    /// The run ends without its last round.
    Fail {
        /// Why.
        because: String,
    },
    /// Say no; nothing has changed.
    Refuse(Refusal),
}

impl Run {
    /// The run of a plan: it begins at once, unless the plan needs signatures.
    pub fn of(plan: &Plan) -> (Self, Vec<RunAction>) {
        let first_model = plan.first_model;
        if plan.draft.signatures == 0 { Self::begin(first_model) } else { (Self::Awaiting { first_model }, Vec::new()) }
    }

    /// A run that begins with round 1.
    pub fn begin(first_model: Digest) -> (Self, Vec<RunAction>) {
        let attempt = Attempt { round: RoundNumber(1), attempt: 1, base: first_model };
        (Self::Open(attempt, Round::new()), vec![RunAction::Begin(attempt)])
    }

    /// The run with an open round as it was written down, and what had not been done yet when the writing stopped.
    pub fn resumed(attempt: Attempt, roll: Roll, armed: bool, rules: &RunRules) -> (Self, Vec<RunAction>) {
        let (round, actions) = Round::resumed(roll, armed, &rules.at(attempt.round));
        follow(attempt, round, actions, rules)
    }

    /// What follows from an event.
    pub fn on(self, event: RunEvent, rules: &RunRules) -> (Self, Vec<RunAction>) {
        match (self, event) {
            (Self::Open(attempt, round), RunEvent::Heard(heard)) => {
                let (round, actions) = round.on(Event::Heard(heard), &rules.at(attempt.round));
                follow(attempt, round, actions, rules)
            }
            (Self::Open(attempt, round), RunEvent::TimeUp) => {
                let (round, actions) = round.on(Event::TimeUp, &rules.at(attempt.round));
                follow(attempt, round, actions, rules)
            }
            (Self::Merging(attempt, _), RunEvent::Merged { model }) => publish(attempt, model, rules),
            (Self::Merging(attempt, outcome), RunEvent::Damaged { site }) => without(attempt, outcome, site, rules),
            (Self::Open(attempt, round), RunEvent::Aborted { because }) => {
                let outcome = round.given_up(&rules.at(attempt.round));
                aborted(attempt, outcome, because)
            }
            (Self::Merging(attempt, outcome), RunEvent::Aborted { because }) => aborted(attempt, outcome, because),
            (Self::Awaiting { first_model }, RunEvent::Signed { by }) => {
                let (begun, mut actions) = Self::begin(first_model);
                actions.insert(0, RunAction::Release { by });
                (begun, actions)
            }
            (Self::Awaiting { first_model: model }, RunEvent::Aborted { because }) => {
                (Self::Failed { because: because.clone(), model }, vec![RunAction::Fail { because }])
            }
            (closed, RunEvent::Heard(heard)) => {
                let refusal = match rules.round.cohort.contains(&heard.site) {
                    true => Refusal::RoundNotOpen { asked: heard.round, open: RoundNumber(0) },
                    false => Refusal::NotInvited { run: rules.round.run.clone(), site: heard.site },
                };
                (closed, vec![RunAction::Refuse(refusal)])
            }
            // A deadline that fires while the round is being merged, a merge told twice, a run that is over.
            (
                run,
                RunEvent::Signed { .. }
                | RunEvent::TimeUp
                | RunEvent::Merged { .. }
                | RunEvent::Damaged { .. }
                | RunEvent::Aborted { .. },
            ) => (run, Vec::new()),
        }
    }

    /// The attempt that is open or being merged.
    pub fn attempt(&self) -> Option<Attempt> {
        match self {
            Self::Open(attempt, _) | Self::Merging(attempt, _) => Some(*attempt),
            Self::Awaiting { .. } | Self::Finished { .. } | Self::Failed { .. } => None,
        }
    }

    /// Whether nothing follows any more.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Finished { .. } | Self::Failed { .. })
    }

    /// The newest model.
    pub fn model(&self) -> Digest {
        match self {
            Self::Open(attempt, _) | Self::Merging(attempt, _) => attempt.base,
            Self::Awaiting { first_model: model } | Self::Finished { model } | Self::Failed { model, .. } => *model,
        }
    }
}

fn follow(attempt: Attempt, round: Round, actions: Vec<round::Action>, rules: &RunRules) -> (Run, Vec<RunAction>) {
    let mut run_actions = Vec::new();
    for action in actions {
        match action {
            round::Action::Record(heard) => run_actions.push(RunAction::Record(heard)),
            round::Action::ArmDeadline => run_actions.push(RunAction::ArmDeadline(attempt)),
            round::Action::Refuse(refusal) => run_actions.push(RunAction::Refuse(refusal)),
            // The last of its list: a round ends once.
            round::Action::Close(outcome) => {
                run_actions.push(RunAction::Freeze(attempt, outcome.clone()));
                return (Run::Merging(attempt, outcome), run_actions);
            }
            round::Action::Abandon(outcome) => return again(attempt, outcome, run_actions, rules),
        }
    }
    (Run::Open(attempt, round), run_actions)
}

/// The end of a run whose last attempt is not merged.
fn aborted(last: Attempt, outcome: Outcome, because: String) -> (Run, Vec<RunAction>) {
    let actions = vec![RunAction::Abandon(last, outcome), RunAction::Fail { because: because.clone() }];
    (Run::Failed { because, model: last.base }, actions)
}

/// The merge without an update that is damaged, if the others are a quorum.
fn without(attempt: Attempt, mut outcome: Outcome, site: SiteId, rules: &RunRules) -> (Run, Vec<RunAction>) {
    if outcome.reports.remove(&site).is_none() {
        return (Run::Merging(attempt, outcome), Vec::new());
    }
    outcome.left_out.insert(site.clone(), LeftOut::Damaged);
    let mut actions = vec![RunAction::Discard(attempt, site)];
    if outcome.reports.len() < rules.round.quorum {
        return again(attempt, outcome, actions, rules);
    }
    actions.push(RunAction::Freeze(attempt, outcome.clone()));
    (Run::Merging(attempt, outcome), actions)
}

/// Another try at an abandoned round, or the end of the run.
fn again(last: Attempt, outcome: Outcome, mut actions: Vec<RunAction>, rules: &RunRules) -> (Run, Vec<RunAction>) {
    let (had, needed, left_out) = (outcome.reports.len(), rules.round.quorum, round::told(&outcome.left_out));
    actions.push(RunAction::Abandon(last, outcome.clone()));
    if last.attempt >= rules.attempts {
        let because = format!(
            "round {} had {had} of the {needed} updates of its quorum at the end of attempt {}, the last one; left out: \
             {left_out}",
            last.round, last.attempt
        );
        actions.push(RunAction::Fail { because: because.clone() });
        return (Run::Failed { because, model: last.base }, actions);
    }
    let attempt = Attempt { attempt: last.attempt + 1, ..last };
    actions.push(RunAction::Begin(attempt));
    let mut roll: Roll = outcome.reports.into_iter().map(|(site, digest)| (site, Word::Reported(digest))).collect();
    for (site, reason) in outcome.left_out {
        match reason {
            // Who declined still declines until it says something else, also if it is not heard of again.
            LeftOut::Declined(reason) => {
                let word = Word::Declined(reason);
                roll.insert(site.clone(), word);
                actions.push(RunAction::Record(Heard { site, round: attempt.round, word }));
            }
            LeftOut::Revoked => {
                roll.insert(site.clone(), Word::Revoked);
                actions.push(RunAction::Record(Heard { site, round: attempt.round, word: Word::Revoked }));
            }
            // Nobody waits for who has reported already: without this, a quorum that cannot come would be waited for for ever.
            LeftOut::Damaged => drop(roll.insert(site, Word::Lost)),
            LeftOut::NeverSeen | LeftOut::NotInTime => {}
        }
    }
    let (run, undone) = Run::resumed(attempt, roll, false, rules);
    actions.extend(undone);
    (run, actions)
}

fn publish(merged: Attempt, model: Digest, rules: &RunRules) -> (Run, Vec<RunAction>) {
    let mut actions = vec![RunAction::Publish(merged, model)];
    if merged.round.0 >= rules.rounds {
        actions.push(RunAction::Finish { model });
        return (Run::Finished { model }, actions);
    }
    let attempt = Attempt { round: merged.round.next(), attempt: 1, base: model };
    actions.push(RunAction::Begin(attempt));
    (Run::Open(attempt, Round::new()), actions)
}

#[cfg(test)]
mod tests {
    use common::{Decline, SiteId};

    use super::*;

    fn rules(rounds: u32, attempts: u32) -> RunRules {
        let cohort = ["a", "b", "c"].map(|site| site.parse().unwrap()).into();
        let round = RoundRules { run: "run".parse().unwrap(), round: RoundNumber(1), cohort, quorum: 2 };
        RunRules { round, rounds, attempts }
    }

    fn says(site: &str, round: u32, word: Word) -> RunEvent {
        let site: SiteId = site.parse().unwrap();
        RunEvent::Heard(Heard { site, round: RoundNumber(round), word })
    }

    fn reports(site: &str, round: u32) -> RunEvent {
        says(site, round, Word::Reported(Digest::of(site.as_bytes())))
    }

    fn after(run: Run, rules: &RunRules, events: impl IntoIterator<Item = RunEvent>) -> (Run, Vec<RunAction>) {
        events.into_iter().fold((run, Vec::new()), |(run, _), event| run.on(event, rules))
    }

    #[test]
    fn every_round_starts_from_the_model_of_the_one_before_until_the_last() {
        let rules = rules(2, 1);
        let (mut run, _) = Run::begin(Digest::of(b"first"));
        for round in 1..=2 {
            let all = ["a", "b", "c"].map(|site| reports(site, round));
            let (merging, actions) = after(run, &rules, all);
            assert!(matches!(actions.last(), Some(RunAction::Freeze(_, outcome)) if outcome.reports.len() == 3));
            let model = Digest::of(&[round as u8]);
            (run, _) = merging.on(RunEvent::Merged { model }, &rules);
            assert_eq!(run.model(), model);
        }
        assert_eq!(run, Run::Finished { model: Digest::of(&[2]) });
    }

    #[test]
    fn an_aborted_run_keeps_its_last_model_whatever_its_round_was_at_and_one_that_is_over_stays_over() {
        let rules = rules(2, 1);
        let abort = || RunEvent::Aborted { because: "the scanner's software changed".to_owned() };
        let (begun, _) = Run::begin(Digest::of(b"first"));
        let (open, _) = after(begun.clone(), &rules, [reports("a", 1)]);
        let (merging, _) = after(begun, &rules, ["a", "b", "c"].map(|site| reports(site, 1)));
        for (run, reported) in [(open, 1), (merging, 3)] {
            let (ended, actions) = run.on(abort(), &rules);
            assert!(ended.is_over() && ended.model() == Digest::of(b"first"));
            let [RunAction::Abandon(_, outcome), RunAction::Fail { .. }] = &actions[..] else { panic!("{actions:?}") };
            assert_eq!((outcome.reports.len(), outcome.left_out.len()), (reported, 3 - reported));
            assert_eq!(ended.clone().on(abort(), &rules), (ended, vec![]));
        }
    }

    #[test]
    fn an_abandoned_round_is_tried_again_from_the_same_model_and_stored_reports_still_count() {
        let rules = rules(1, 2);
        let (run, _) = Run::begin(Digest::of(b"first"));
        let events = [says("b", 1, Word::Joined), reports("a", 1), RunEvent::TimeUp];
        let (run, actions) = after(run, &rules, events);
        let again = Attempt { round: RoundNumber(1), attempt: 2, base: Digest::of(b"first") };
        assert_eq!(actions.last(), Some(&RunAction::Begin(again)));
        let (run, _) = after(run, &rules, [reports("b", 1), RunEvent::TimeUp]);
        assert!(matches!(run, Run::Merging(attempt, outcome) if attempt == again && outcome.reports.len() == 2));
    }

    #[test]
    fn a_round_that_fails_its_quorum_too_often_ends_the_run_and_says_so() {
        let rules = rules(3, 2);
        let (run, _) = Run::begin(Digest::of(b"first"));
        let (run, _) = after(run, &rules, [reports("a", 1), RunEvent::TimeUp, RunEvent::TimeUp]);
        let Run::Failed { because, model } = run else { panic!("{run:?}") };
        let told =
            "round 1 had 1 of the 2 updates of its quorum at the end of attempt 2, the last one; left out: b: never";
        assert!(because.starts_with(told), "{because}");
        assert_eq!(model, Digest::of(b"first"));
    }

    #[test]
    fn a_site_that_keeps_declining_costs_an_attempt_a_deadline_and_one_that_comes_back_takes_part() {
        let mut rules = rules(1, 2);
        rules.round.quorum = 3;
        let declines = || says("c", 1, Word::Declined(Decline::DiskFull));
        let (run, _) = Run::begin(Digest::of(b"first"));
        let said = [reports("a", 1), reports("b", 1), declines(), declines(), declines()];
        let (run, _) = after(run, &rules, said);
        assert_eq!(run.attempt().map(|attempt| attempt.attempt), Some(1));
        let (run, actions) = run.on(RunEvent::TimeUp, &rules);
        assert!(matches!(actions.last(), Some(RunAction::ArmDeadline(again)) if again.attempt == 2), "{actions:?}");
        let (same, actions) = run.clone().on(declines(), &rules);
        assert_eq!((&same, &actions[..]), (&run, &[][..]), "the old word, said again, ends nothing");
        let (mended, _) = run.clone().on(reports("c", 1), &rules);
        assert!(matches!(mended, Run::Merging(_, outcome) if outcome.reports.len() == 3));
        let Run::Failed { because, .. } = run.on(RunEvent::TimeUp, &rules).0 else { panic!("the last time is up") };
        assert!(because.ends_with("left out: c: declined: the site's disk is full"), "{because}");
    }

    #[test]
    fn a_damaged_update_is_left_out_by_name_and_below_the_quorum_the_attempt_is_abandoned() {
        let rules = rules(1, 2);
        let damaged = |site: &str| RunEvent::Damaged { site: site.parse().unwrap() };
        let (run, _) = Run::begin(Digest::of(b"first"));
        let (run, _) = after(run, &rules, ["a", "b", "c"].map(|site| reports(site, 1)));
        let (run, actions) = run.on(damaged("b"), &rules);
        let [RunAction::Discard(..), RunAction::Freeze(_, outcome)] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!((outcome.reports.len(), outcome.left_out.values().next()), (2, Some(&LeftOut::Damaged)));
        assert_eq!(run.clone().on(damaged("b"), &rules), (run.clone(), vec![]), "told twice");
        let (run, actions) = run.on(damaged("a"), &rules);
        let [RunAction::Discard(..), RunAction::Abandon(..), RunAction::Begin(_), RunAction::ArmDeadline(_)] =
            actions[..]
        else {
            panic!("{actions:?}")
        };
        let Run::Open(again, round) = run else { panic!("another attempt") };
        let roll = round.roll().unwrap();
        let lost = roll.values().filter(|word| **word == Word::Lost).count();
        assert_eq!((again.attempt, roll.len(), lost), (2, 3, 2));
    }

    #[test]
    fn a_quorum_that_cannot_come_because_updates_were_lost_is_waited_for_until_the_deadline_and_no_longer() {
        let mut rules = rules(1, 2);
        rules.round.quorum = 3;
        let (run, _) = Run::begin(Digest::of(b"first"));
        let (run, _) = after(run, &rules, ["a", "b", "c"].map(|site| reports(site, 1)));
        let (run, actions) = run.on(RunEvent::Damaged { site: "b".parse().unwrap() }, &rules);
        // Nobody joins any more: all have reported.
        assert!(matches!(actions.last(), Some(RunAction::ArmDeadline(again)) if again.attempt == 2), "{actions:?}");
        let (same, actions) = run.clone().on(says("b", 1, Word::Joined), &rules);
        assert_eq!((&same, &actions[..]), (&run, &[][..]), "it has done its part");
        let Run::Failed { because, .. } = run.on(RunEvent::TimeUp, &rules).0 else { panic!("the last time is up") };
        assert!(because.contains("left out: b: its update is damaged"), "{because}");
    }

    #[test]
    fn while_merging_nothing_is_heard_and_a_second_merge_changes_nothing() {
        let rules = rules(1, 1);
        let (run, _) = Run::begin(Digest::of(b"first"));
        let decline = Word::Declined(Decline::Withheld);
        let (run, _) = after(run, &rules, [reports("a", 1), reports("b", 1), says("c", 1, decline)]);
        let (run, actions) = run.on(reports("c", 1), &rules);
        assert!(matches!(actions[..], [RunAction::Refuse(Refusal::RoundNotOpen { .. })]));
        let (run, _) = run.on(RunEvent::TimeUp, &rules);
        let (run, _) = run.on(RunEvent::Merged { model: Digest::of(b"m") }, &rules);
        let (run, actions) = run.on(RunEvent::Merged { model: Digest::of(b"other") }, &rules);
        assert_eq!((run, actions), (Run::Finished { model: Digest::of(b"m") }, vec![]));
    }
}
