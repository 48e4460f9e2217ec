//! One round as a value. It knows no clock, no disk, no network and no model: events come in, actions go out.
//!
//! ```text
//!   Gathering ── quorum joined, or too many declined for it ──▶ Training ── all settled, or time up ──▶ Closed
//!                                                                  │
//!                                                                  └── time up below the quorum ──▶ Abandoned
//! ```
//!
//! A site that declined may come back while the round is open: a hospital that mends its disk should not lose hours of
//! training. So declines alone abandon nothing: they let the deadline run, and sites repeat them with every report. A
//! report is final.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use common::{Decline, Digest, Plan, Refusal, RoundNumber, RunId, SiteId};
use serde::{Deserialize, Serialize};

/// What holds for every round of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundRules {
    /// The run, for refusals.
    pub run: RunId,
    /// The round's number.
    pub round: RoundNumber,
    /// The sites that are invited.
    pub cohort: BTreeSet<SiteId>,
    /// Updates without which the round is abandoned; at least 1.
    pub quorum: usize,
}

impl RoundRules {
    /// The rules of a plan's round.
    pub fn of(plan: &Plan, round: RoundNumber) -> Self {
        let rounds = &plan.draft.rounds;
        Self { run: plan.run().clone(), round, cohort: rounds.sites.iter().cloned().collect(), quorum: rounds.quorum }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A site said something about a round.
    Heard(Heard),
    /// The deadline has passed.
    TimeUp,
}

/// A site's word about a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Who, as its certificate says.
    pub site: SiteId,
    /// The round it speaks of.
    pub round: RoundNumber,
    /// What it says.
    pub word: Word,
}

/// What a site says of its part in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// It takes part.
    Joined,
    /// It will not take part.
    Declined(Decline),
    /// Its update, named by its digest, is stored.
    Reported(Digest),
    /// Said for it: its update was stored in an earlier attempt at this round, and is damaged. It has done its part and cannot
    /// do it again, because its key has one digest for ever.
    Lost,
    /// Said for it: its certificate was revoked, and whatever it sent in this round does not count. For the rest of the round,
    /// also if it is invited again.
    Revoked,
}

/// The last word of each site that said one.
pub type Roll = BTreeMap<SiteId, Word>;

/// A round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Round {
    /// Fewer than a quorum have joined, and enough may still; no deadline runs.
    Gathering(Roll),
    /// The deadline runs.
    Training(Roll),
    /// Over: these updates are merged.
    Closed(Outcome),
    /// Over: nothing is merged, the model stays.
    Abandoned(Outcome),
}

/// How a round ended. Reports and those left out are the cohort together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Digest of each update.
    pub reports: BTreeMap<SiteId, Digest>,
    /// Who is not in the merge, and why.
    pub left_out: BTreeMap<SiteId, LeftOut>,
}

/// Why a site is not in a round's merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeftOut {
    /// It never joined.
    NeverSeen,
    /// It joined, and its update was not stored in time.
    NotInTime,
    /// It declined.
    Declined(Decline),
    /// Its update was stored, and is no longer whole.
    Damaged,
    /// Its certificate was revoked.
    Revoked,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverSeen => {
                f.write_str("never joined: not connected, its plan not approved, or at work for another run")
            }
            Self::NotInTime => f.write_str("did not report in time"),
            Self::Declined(reason) => write!(f, "declined: {reason}"),
            Self::Revoked => f.write_str("its certificate was revoked"),
            Self::Damaged => {
                f.write_str("its update is damaged: the aggregator's disk lost or changed the stored file")
            }
        }
    }
}

/// Who is left out and why, in one line.
pub fn told(left_out: &BTreeMap<SiteId, LeftOut>) -> String {
    left_out.iter().map(|(site, reason)| format!("{site}: {reason}")).collect::<Vec<_>>().join("; ")
}

/// Why a run does not go on, as it is told to one of its sites: unless that names another of them.
pub fn without_names<'a>(because: String, sites: impl Iterator<Item = &'a SiteId> + Clone, own: &SiteId) -> String {
    let is_name = |word: &str| sites.clone().any(|site| site != own && site.as_str() == word);
    let mut words = because.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    if words.any(is_name) { "for a reason that names other sites: ask the coordinator".to_owned() } else { because }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Write down a site's word.
    Record(Heard),
    /// Let the deadline run from now.
    ArmDeadline,
    /// Merge the reports: the set is frozen.
    Close(Outcome),
    /// Merge nothing.
    Abandon(Outcome),
    /// Say no; nothing has changed.
    Refuse(Refusal),
}

impl Round {
    /// A round nobody has joined yet.
    pub fn new() -> Self {
        Self::Gathering(Roll::new())
    }

    /// The round as it was written down, and what had not been done yet when the writing stopped.
    pub fn resumed(roll: Roll, armed: bool, rules: &RoundRules) -> (Self, Vec<Action>) {
        let mut actions = Vec::new();
        let round = if armed { Self::Training(roll) } else { Self::Gathering(roll) };
        (round.settled(rules, &mut actions), actions)
    }

    /// What follows from an event.
    pub fn on(self, event: Event, rules: &RoundRules) -> (Self, Vec<Action>) {
        match event {
            Event::TimeUp => self.time_up(rules),
            Event::Heard(heard) => match self.objection(&heard, rules) {
                Some(refusal) => (self, vec![Action::Refuse(refusal)]),
                None => self.hear(heard, rules),
            },
        }
    }

    /// How the round stands, if it ends here and now without a merge.
    pub fn given_up(&self, rules: &RoundRules) -> Outcome {
        match self {
            Self::Gathering(roll) | Self::Training(roll) => outcome(roll, rules),
            Self::Closed(outcome) | Self::Abandoned(outcome) => outcome.clone(),
        }
    }

    /// Everybody's last word, while the round is open.
    pub fn roll(&self) -> Option<&Roll> {
        match self {
            Self::Gathering(roll) | Self::Training(roll) => Some(roll),
            Self::Closed(_) | Self::Abandoned(_) => None,
        }
    }

    /// Why a word cannot count: uninvited, of another round, or against an earlier report.
    fn objection(&self, heard: &Heard, rules: &RoundRules) -> Option<Refusal> {
        let Heard { site, round, word } = heard;
        if !rules.cohort.contains(site) {
            return Some(Refusal::NotInvited { run: rules.run.clone(), site: site.clone() });
        }
        let not_open = |open| Some(Refusal::RoundNotOpen { asked: *round, open });
        if *round != rules.round {
            return not_open(self.roll().map_or(RoundNumber(0), |_| rules.round));
        }
        let Some(roll) = self.roll() else { return not_open(RoundNumber(0)) };
        match (roll.get(site), word) {
            (Some(Word::Reported(first)), Word::Reported(second)) if first == second => None,
            (Some(Word::Reported(_) | Word::Lost | Word::Revoked), Word::Reported(_) | Word::Declined(_)) => {
                Some(Refusal::Conflict { site: site.clone(), round: *round })
            }
            _ => None,
        }
    }

    fn hear(self, heard: Heard, rules: &RoundRules) -> (Self, Vec<Action>) {
        let said_before = |roll: &Roll| match (roll.get(&heard.site), heard.word) {
            // Whoever has reported is still asked, and answers that it is there.
            (Some(Word::Reported(_) | Word::Lost | Word::Revoked), Word::Joined) => true,
            (before, now) => before == Some(&now),
        };
        let (mut roll, armed) = match self {
            Self::Gathering(roll) => (roll, false),
            Self::Training(roll) => (roll, true),
            ended => return (ended, Vec::new()),
        };
        let mut actions = Vec::new();
        if !said_before(&roll) {
            roll.insert(heard.site.clone(), heard.word);
            actions.push(Action::Record(heard));
        }
        let round = if armed { Self::Training(roll) } else { Self::Gathering(roll) };
        (round.settled(rules, &mut actions), actions)
    }

    /// Takes every step that the words at hand decide.
    fn settled(self, rules: &RoundRules, actions: &mut Vec<Action>) -> Self {
        let Some(roll) = self.roll() else { return self };
        let count = |wanted: fn(&Word) -> bool| roll.values().filter(|word| wanted(word)).count();
        let reported = count(|word| matches!(word, Word::Reported(_)));
        let declined = count(|word| matches!(word, Word::Declined(_) | Word::Lost | Word::Revoked));
        let cohort = rules.cohort.len();
        let possible = cohort - declined >= rules.quorum;
        if possible && reported + declined == cohort {
            return close(roll, rules, actions);
        }
        match self {
            Self::Gathering(roll) if !possible || roll.len() - declined >= rules.quorum => {
                actions.push(Action::ArmDeadline);
                Self::Training(roll)
            }
            round => round,
        }
    }

    fn time_up(self, rules: &RoundRules) -> (Self, Vec<Action>) {
        let mut actions = Vec::new();
        let Some(roll) = self.roll() else { return (self, actions) };
        let reported = roll.values().filter(|word| matches!(word, Word::Reported(_))).count();
        let ended = if reported >= rules.quorum { close } else { abandon };
        (ended(roll, rules, &mut actions), actions)
    }
}

impl Default for Round {
    fn default() -> Self {
        Self::new()
    }
}

fn close(roll: &Roll, rules: &RoundRules, actions: &mut Vec<Action>) -> Round {
    let outcome = outcome(roll, rules);
    actions.push(Action::Close(outcome.clone()));
    Round::Closed(outcome)
}

fn abandon(roll: &Roll, rules: &RoundRules, actions: &mut Vec<Action>) -> Round {
    let outcome = outcome(roll, rules);
    actions.push(Action::Abandon(outcome.clone()));
    Round::Abandoned(outcome)
}

fn outcome(roll: &Roll, rules: &RoundRules) -> Outcome {
    let mut outcome = Outcome { reports: BTreeMap::new(), left_out: BTreeMap::new() };
    for site in &rules.cohort {
        let reason = match roll.get(site) {
            Some(Word::Reported(digest)) => {
                outcome.reports.insert(site.clone(), *digest);
                continue;
            }
            Some(Word::Joined) => LeftOut::NotInTime,
            Some(Word::Declined(reason)) => LeftOut::Declined(*reason),
            Some(Word::Lost) => LeftOut::Damaged,
            Some(Word::Revoked) => LeftOut::Revoked,
            None => LeftOut::NeverSeen,
        };
        outcome.left_out.insert(site.clone(), reason);
    }
    outcome
}

#[cfg(test)]
mod tests {
    use common::seed::SeedScope;
    use rand::RngExt;

    use super::*;

    fn site(index: usize) -> SiteId {
        format!("site-{index}").parse().unwrap()
    }

    fn rules(sites: usize, quorum: usize) -> RoundRules {
        RoundRules {
            run: "run".parse().unwrap(),
            round: RoundNumber(3),
            cohort: (0..sites).map(site).collect(),
            quorum,
        }
    }

    fn says(index: usize, word: Word) -> Event {
        Event::Heard(Heard { site: site(index), round: RoundNumber(3), word })
    }

    fn reports(index: usize) -> Event {
        says(index, Word::Reported(Digest::of(&[index as u8])))
    }

    /// The round after some events, and the actions of the last one.
    fn after(rules: &RoundRules, events: impl IntoIterator<Item = Event>) -> (Round, Vec<Action>) {
        let first = (Round::new(), Vec::new());
        events.into_iter().fold(first, |(round, _), event| round.on(event, rules))
    }

    #[test]
    fn the_deadline_runs_from_the_moment_a_quorum_has_joined() {
        let rules = rules(3, 2);
        let (round, _) = after(&rules, [says(0, Word::Joined)]);
        assert!(matches!(round, Round::Gathering(_)));
        let (round, actions) = round.on(says(1, Word::Joined), &rules);
        assert!(matches!(round, Round::Training(_)));
        assert!(actions.contains(&Action::ArmDeadline));
        let (_, actions) = round.on(says(2, Word::Joined), &rules);
        assert!(!actions.contains(&Action::ArmDeadline), "a late site joins, and the deadline stays");
    }

    #[test]
    fn a_round_closes_at_once_when_everybody_has_reported_or_declined() {
        let events = [says(0, Word::Joined), reports(1), says(2, Word::Declined(Decline::DiskFull)), reports(0)];
        let (round, _) = after(&rules(3, 2), events);
        let Round::Closed(outcome) = round else { panic!("{round:?}") };
        assert_eq!(outcome.reports.len(), 2);
        assert_eq!(outcome.left_out[&site(2)], LeftOut::Declined(Decline::DiskFull));
    }

    #[test]
    fn at_the_deadline_a_quorum_closes_the_round_and_names_who_is_missing() {
        let (round, _) = after(&rules(4, 2), [says(2, Word::Joined), reports(0), reports(1), Event::TimeUp]);
        let Round::Closed(outcome) = round else { panic!("{round:?}") };
        assert_eq!(outcome.left_out[&site(2)], LeftOut::NotInTime);
        assert_eq!(outcome.left_out[&site(3)], LeftOut::NeverSeen);
    }

    #[test]
    fn below_quorum_the_deadline_abandons_the_round() {
        let (round, _) = after(&rules(3, 2), [says(1, Word::Joined), reports(0), Event::TimeUp]);
        assert!(matches!(round, Round::Abandoned(outcome) if outcome.reports.len() == 1));
    }

    #[test]
    fn declines_that_make_the_quorum_impossible_let_the_deadline_run_and_abandon_only_then() {
        let (rules, decline) = (rules(3, 2), Word::Declined(Decline::TrainingFailed));
        let (round, actions) = after(&rules, [says(0, decline), says(1, decline)]);
        assert_eq!(actions.last(), Some(&Action::ArmDeadline));
        let (same, actions) = round.clone().on(says(1, decline), &rules);
        assert_eq!((&same, &actions[..]), (&round, &[][..]), "a decline is repeated with every report");
        let (waiting, _) = round.on(reports(2), &rules);
        let (mended, _) = waiting.clone().on(reports(1), &rules);
        assert!(matches!(mended, Round::Closed(outcome) if outcome.reports.len() == 2));
        let Round::Abandoned(outcome) = waiting.on(Event::TimeUp, &rules).0 else { panic!("the time is up") };
        assert_eq!(outcome.left_out[&site(0)], LeftOut::Declined(Decline::TrainingFailed));
    }

    #[test]
    fn a_site_that_declined_may_come_back_while_the_round_is_open() {
        let events = [says(0, Word::Declined(Decline::DiskFull)), reports(0), reports(1)];
        let (round, _) = after(&rules(2, 1), events[..2].to_vec());
        assert!(matches!(&round, Round::Training(roll) if roll.len() == 1));
        assert!(matches!(round.on(events[2].clone(), &rules(2, 1)).0, Round::Closed(_)));
    }

    #[test]
    fn the_same_report_again_is_the_same_answer_and_another_is_a_conflict() {
        let rules = rules(3, 2);
        let (round, _) = after(&rules, [reports(0)]);
        let (same, actions) = round.clone().on(reports(0), &rules);
        assert_eq!((same, actions), (round.clone(), vec![]));
        let (same, actions) = round.clone().on(says(0, Word::Reported(Digest::of(b"other"))), &rules);
        assert_eq!(same, round);
        assert_eq!(actions, [Action::Refuse(Refusal::Conflict { site: site(0), round: RoundNumber(3) })]);
    }

    #[test]
    fn uninvited_early_and_late_words_change_nothing_and_are_refused() {
        let rules = rules(2, 2);
        let (round, _) = after(&rules, [says(0, Word::Joined)]);
        let at = |number| Heard { site: site(1), round: RoundNumber(number), word: Word::Joined };
        for event in [says(7, Word::Joined), Event::Heard(at(2)), Event::Heard(at(4))] {
            let (same, actions) = round.clone().on(event, &rules);
            assert_eq!(same, round);
            assert!(matches!(actions[..], [Action::Refuse(_)]));
        }
        let (closed, _) = after(&rules, [reports(0), reports(1)]);
        let (same, actions) = closed.clone().on(reports(1), &rules);
        assert_eq!(same, closed);
        assert!(matches!(actions[..], [Action::Refuse(Refusal::RoundNotOpen { .. })]));
    }

    #[test]
    fn a_resumed_round_does_what_was_left_undone() {
        let roll: Roll = (0..2).map(|index| (site(index), Word::Reported(Digest::of(&[index as u8])))).collect();
        let (round, actions) = Round::resumed(roll.clone(), true, &rules(2, 2));
        assert!(matches!(round, Round::Closed(_)) && matches!(actions[..], [Action::Close(_)]));
        let (round, actions) = Round::resumed(roll, false, &rules(3, 2));
        assert!(matches!(round, Round::Training(_)));
        assert_eq!(actions, [Action::ArmDeadline]);
    }

    #[test]
    fn a_hundred_thousand_random_histories_end_and_account_for_every_site() {
        let (run, nobody) = ("property".parse().unwrap(), site(0));
        let scope = SeedScope { plan_seed: 20, run: &run, round: RoundNumber(0), site: &nobody };
        let mut rng = scope.rng(0, "histories");
        let mut ends = [0_u32; 2];
        for history in 0..100_000 {
            let sites = rng.random_range(1..=6_usize);
            let rules = rules(sites, rng.random_range(1..=sites));
            let mut round = Round::new();
            let mut armed = 0;
            let mut ended = 0;
            for _ in 0..rng.random_range(0..24) {
                let event = random_event(&mut rng, sites);
                let before = round.clone();
                let actions;
                (round, actions) = round.on(event.clone(), &rules);
                armed += actions.iter().filter(|action| **action == Action::ArmDeadline).count();
                ended += actions.iter().filter(|it| matches!(it, Action::Close(_) | Action::Abandon(_))).count();
                if actions.iter().any(|action| matches!(action, Action::Refuse(_))) {
                    assert_eq!(round, before, "history {history}: {event:?} was refused");
                    assert_eq!(actions.len(), 1);
                }
                if before.roll().is_none() {
                    assert_eq!(round, before, "history {history}: an ended round stays as it ended");
                }
                legal(&round, &rules);
            }
            let actions;
            (round, actions) = round.on(Event::TimeUp, &rules);
            ended += actions.len();
            assert!(round.roll().is_none(), "history {history} did not end");
            assert!(armed <= 1 && ended == 1, "history {history}: armed {armed} times, ended {ended} times");
            legal(&round, &rules);
            ends[usize::from(matches!(round, Round::Closed(_)))] += 1;
        }
        assert!(ends.iter().all(|&count| count > 10_000), "both ends were reached: {ends:?}");
    }

    fn random_event(rng: &mut impl rand::Rng, sites: usize) -> Event {
        if rng.random_range(0..40) == 0 {
            return Event::TimeUp;
        }
        let round = if rng.random_range(0..10) == 0 { rng.random_range(2..=4) } else { 3 };
        let word = match rng.random_range(0..10) {
            0..4 => Word::Joined,
            4..5 => Word::Declined(Decline::TooFewImages),
            _ => Word::Reported(Digest::of(&[rng.random_range(0..2)])),
        };
        Event::Heard(Heard { site: site(rng.random_range(0..=sites)), round: RoundNumber(round), word })
    }

    fn legal(round: &Round, rules: &RoundRules) {
        let reported = |roll: &Roll| roll.values().filter(|word| matches!(word, Word::Reported(_))).count();
        let declined =
            |roll: &Roll| roll.values().filter(|word| matches!(word, Word::Declined(_) | Word::Lost)).count();
        match round {
            Round::Gathering(roll) | Round::Training(roll) => {
                assert!(roll.keys().all(|site| rules.cohort.contains(site)));
                let possible = rules.cohort.len() - declined(roll) >= rules.quorum;
                assert!(!possible || reported(roll) + declined(roll) < rules.cohort.len());
                if matches!(round, Round::Gathering(_)) {
                    assert!(possible && roll.len() - declined(roll) < rules.quorum);
                }
            }
            Round::Closed(outcome) | Round::Abandoned(outcome) => {
                let reports: BTreeSet<_> = outcome.reports.keys().cloned().collect();
                let left_out: BTreeSet<_> = outcome.left_out.keys().cloned().collect();
                assert!(reports.is_disjoint(&left_out));
                assert_eq!(&(&reports | &left_out), &rules.cohort);
                assert_eq!(matches!(round, Round::Closed(_)), reports.len() >= rules.quorum);
            }
        }
    }

    #[test]
    fn a_reason_is_told_unless_it_names_another_site() {
        let sites = ["aalst", "bergen", "c"].map(|site| site.parse::<SiteId>().unwrap());
        let told = |because: &str| without_names(because.to_owned(), sites.iter(), &sites[0]);
        assert_eq!(told("left out: aalst: declined"), "left out: aalst: declined", "its own it may hear");
        assert_eq!(told("aborted by the coordinator: a scanner"), "aborted by the coordinator: a scanner");
        for naming in ["left out: bergen: declined", "the update of c is damaged", "c"] {
            assert!(told(naming).contains("ask the coordinator") && !told(naming).contains("declined"));
        }
    }
}
