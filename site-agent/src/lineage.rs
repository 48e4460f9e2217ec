//! Whether the model of an assignment is what this site may train from: made of the round before by this federation's aggregator,
//! of the very model that this site trained then, and the only one of its round. A pure function; what it needs to remember is in
//! the journal.

use certs::signing::verifies;
use common::signed::{SignedHead, VerifyingKey, ledger_statement, model_statement};
use common::{Assignment, Digest, FederationName, Plan, RoundNumber, RunId};
use serde::{Deserialize, Serialize};

/// A round that this site accepted, and the model it started from: the newest one of its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The round.
    pub round: RoundNumber,
    /// Its first model.
    pub base: Digest,
}

/// Why a model is not trained from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineageFault {
    /// No lineage came along.
    #[error(
        "the aggregator does not say where the model of round {0} comes from: it is older than this agent, or not the one this site enrolled with"
    )]
    Absent(RoundNumber),
    /// Not in the hand of the aggregator that this site enrolled with, or of another run, plan, round or model.
    #[error(
        "the lineage of model {0} is not signed with the aggregator's key that this site enrolled with: tell the coordinator"
    )]
    Signature(Digest),
    /// The head of the aggregator's ledger is missing, or is not in its hand.
    #[error(
        "how far the aggregator's ledger goes is not told with round {0}, or not signed with the aggregator's key that this site enrolled with: tell the coordinator"
    )]
    Ledger(RoundNumber),
    /// Of another round than the one before.
    #[error("the model of round {round} is said to come of round {of}: it must come of the round before")]
    Round {
        /// The round to be trained.
        round: RoundNumber,
        /// Where its model is said to come from.
        of: RoundNumber,
    },
    /// The model of round 1 is said to come of another one.
    #[error("round 1 starts from model {0}, which is not the first model of its own lineage")]
    First(Digest),
    /// A round that is over here.
    #[error("round {asked} is asked for again after round {reached}: rounds do not come back; tell the coordinator")]
    Replayed {
        /// What is asked for.
        asked: RoundNumber,
        /// What this site has come to.
        reached: RoundNumber,
    },
    /// Two models for one round.
    #[error(
        "round {round} has two models, {first} and {second}, both signed: the aggregator, or who holds its key, tells sites unlike things; tell the other sites"
    )]
    Two {
        /// The round.
        round: RoundNumber,
        /// What was told first.
        first: Digest,
        /// What is told now.
        second: Digest,
    },
    /// It does not come of what this site trained.
    #[error(
        "the model of round {round} comes of model {before}, but this site trained round {of} from {trained}: tell the coordinator"
    )]
    Descent {
        /// The round to be trained.
        round: RoundNumber,
        /// The round before.
        of: RoundNumber,
        /// What its model is said to come of.
        before: Digest,
        /// What this site trained from in the round before.
        trained: Digest,
    },
    /// Something else than the plan that it names says.
    #[error("{what} of round {round} is {told}, but by the plan that it names must be {agreed}: tell the coordinator")]
    Plan {
        /// The round to be trained.
        round: RoundNumber,
        /// What of it.
        what: &'static str,
        /// What is told.
        told: String,
        /// What the plan says.
        agreed: String,
    },
    /// A last model that cannot be the run's.
    #[error(
        "the last model of run {run} is said to have {bytes} bytes, which those of no plan have that was approved here: tell the coordinator"
    )]
    Last {
        /// The run.
        run: RunId,
        /// What is told.
        bytes: u64,
    },
}

/// Holds an assignment to its lineage, and to what this site accepted of the run before.
pub fn check(
    work: &Assignment,
    federation: &FederationName,
    key: VerifyingKey,
    accepted: Option<Accepted>,
) -> Result<(), LineageFault> {
    let (round, base) = (work.round, work.base);
    let lineage = work.lineage.as_deref().ok_or(LineageFault::Absent(round))?;
    let statement = model_statement(federation, &work.run, work.plan, (lineage.round, lineage.before), base);
    if !verifies(key, &statement, lineage.signature) {
        return Err(LineageFault::Signature(base));
    }
    let is_its = |told: &SignedHead| verifies(key, &ledger_statement(federation, told.head), told.signature);
    if !work.ledger.as_deref().is_some_and(is_its) {
        return Err(LineageFault::Ledger(round));
    }
    if !round.follows(lineage.round) {
        return Err(LineageFault::Round { round, of: lineage.round });
    }
    if lineage.round.0 == 0 && lineage.before != base {
        return Err(LineageFault::First(base));
    }
    let Some(before) = accepted else { return Ok(()) };
    if round < before.round {
        return Err(LineageFault::Replayed { asked: round, reached: before.round });
    }
    if round == before.round && base != before.base {
        return Err(LineageFault::Two { round, first: before.base, second: base });
    }
    if round.follows(before.round) && lineage.before != before.base {
        let (of, trained) = (before.round, before.base);
        return Err(LineageFault::Descent { round, of, before: lineage.before, trained });
    }
    Ok(())
}

/// Holds an assignment to the plan that it names: whoever approved that, approved its first model, its rounds and its steps under its
/// name alone, and a model no longer than its own.
pub fn of_plan(work: &Assignment, plan: &Plan) -> Result<(), LineageFault> {
    let (round, rounds) = (work.round, plan.draft.rounds.count);
    let held = |what, holds: bool, told: &dyn ToString, agreed: &dyn ToString| {
        let fault = || LineageFault::Plan { round, what, told: told.to_string(), agreed: agreed.to_string() };
        holds.then_some(()).ok_or_else(fault)
    };
    held("the run", work.run == *plan.run(), &work.run, plan.run())?;
    held("the number", (1..=rounds).contains(&round.0), &round, &format!("1 to {rounds}"))?;
    let is_first_models = round.0 > 1 || work.base == plan.first_model;
    held("the first model", is_first_models, &work.base, &plan.first_model)?;
    let (step, bytes) = (plan.first_step(round), plan.model_bytes());
    held("the first step", work.first_step == step, &work.first_step, &step)?;
    held("the length of the model", work.base_bytes == bytes, &work.base_bytes, &bytes)
}

/// Holds the length of a run's last model to the plans of the run that were approved here: nothing longer is fetched.
pub fn of_last(run: &RunId, bytes: u64, approved: &[Plan]) -> Result<(), LineageFault> {
    let is_its = |plan: &Plan| plan.run() == run && plan.model_bytes() == bytes;
    match approved.iter().any(is_its) {
        true => Ok(()),
        false => Err(LineageFault::Last { run: run.clone(), bytes }),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use certs::signing::SigningKey;
    use common::ledger::Head;
    use common::signed::{Ed25519, Lineage};

    use super::*;

    struct House {
        federation: FederationName,
        key: SigningKey,
        other: SigningKey,
    }

    impl House {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let key = |name: &str| SigningKey::create(&folder.path().join(name)).unwrap();
            Self { federation: "cmr".parse().unwrap(), key: key("one"), other: key("other") }
        }

        fn signed(&self, key: &SigningKey, round: u32, before: &[u8], base: &[u8]) -> Assignment {
            let (run, plan) = ("run".parse().unwrap(), Digest::of(b"plan"));
            let (of, before, base) = (RoundNumber(round - 1), Digest::of(before), Digest::of(base));
            let statement = model_statement(&self.federation, &run, plan, (of, before), base);
            let head = Head { entries: 7, digest: Digest::of(b"entry 7") };
            Assignment {
                run,
                round: RoundNumber(round),
                plan,
                base,
                base_bytes: 9,
                first_step: 0,
                time_left: Duration::ZERO,
                awaited: true,
                lineage: Some(Box::new(Lineage { round: of, before, signature: key.sign(&statement) })),
                ledger: Some(Box::new(SignedHead {
                    head,
                    signature: key.sign(&ledger_statement(&self.federation, head)),
                })),
            }
        }

        fn told(&self, work: &Assignment, accepted: Option<(u32, &[u8])>) -> Result<(), LineageFault> {
            let accepted = accepted.map(|(round, base)| Accepted { round: RoundNumber(round), base: Digest::of(base) });
            check(work, &self.federation, self.key.verifying(), accepted)
        }
    }

    #[test]
    fn models_that_follow_each_other_are_accepted_also_after_rounds_without_this_site() {
        let house = House::new();
        let of = |round, before: &[u8], base: &[u8]| house.signed(&house.key, round, before, base);
        assert_eq!(house.told(&of(1, b"m0", b"m0"), None), Ok(()));
        assert_eq!(house.told(&of(1, b"m0", b"m0"), Some((1, b"m0"))), Ok(()), "the same again");
        assert_eq!(house.told(&of(2, b"m0", b"m1"), Some((1, b"m0"))), Ok(()));
        assert_eq!(house.told(&of(7, b"m5", b"m6"), Some((2, b"m1"))), Ok(()));
        assert_eq!(house.told(&of(7, b"m5", b"m6"), None), Ok(()), "a site that comes late");
    }

    #[test]
    fn what_an_aggregator_or_a_thief_of_its_place_could_tell_instead_is_refused() {
        let house = House::new();
        let of = |round, before: &[u8], base: &[u8]| house.signed(&house.key, round, before, base);
        type Is = fn(&LineageFault) -> bool;
        let bare = Assignment { lineage: None, ..of(2, b"m0", b"m1") };
        let another_run = Assignment { run: "another".parse().unwrap(), ..of(2, b"m0", b"m1") };
        let another_plan = Assignment { plan: Digest::of(b"another"), ..of(2, b"m0", b"m1") };
        let another_model = Assignment { base: Digest::of(b"another"), ..of(2, b"m0", b"m1") };
        let another_round = Assignment { round: RoundNumber(3), ..of(2, b"m0", b"m1") };
        let untold = Assignment { ledger: None, ..of(2, b"m0", b"m1") };
        let mut of_nobody = of(2, b"m0", b"m1");
        of_nobody.ledger = of_nobody.ledger.map(|told| Box::new(SignedHead { signature: Ed25519([7; 64]), ..*told }));
        type Case<'a> = (Assignment, Option<(u32, &'a [u8])>, Is);
        let cases: [Case<'_>; 12] = [
            (bare, None, |fault| matches!(fault, LineageFault::Absent(_))),
            (house.signed(&house.other, 2, b"m0", b"m1"), None, |fault| matches!(fault, LineageFault::Signature(_))),
            (untold, None, |fault| matches!(fault, LineageFault::Ledger(_))),
            (of_nobody, None, |fault| matches!(fault, LineageFault::Ledger(_))),
            (another_run, None, |fault| matches!(fault, LineageFault::Signature(_))),
            (another_plan, None, |fault| matches!(fault, LineageFault::Signature(_))),
            (another_model, None, |fault| matches!(fault, LineageFault::Signature(_))),
            (another_round, None, |fault| matches!(fault, LineageFault::Round { .. })),
            (of(1, b"elsewhere", b"m0"), None, |fault| matches!(fault, LineageFault::First(_))),
            (of(2, b"m0", b"m1"), Some((3, b"m2")), |fault| matches!(fault, LineageFault::Replayed { .. })),
            (of(2, b"m0", b"m1'"), Some((2, b"m1")), |fault| matches!(fault, LineageFault::Two { .. })),
            (of(3, b"m1'", b"m2"), Some((2, b"m1")), |fault| matches!(fault, LineageFault::Descent { .. })),
        ];
        for (place, (work, accepted, expected)) in cases.iter().enumerate() {
            let fault = house.told(work, *accepted).unwrap_err();
            assert!(expected(&fault), "case {place}: {fault}");
        }
    }

    #[test]
    fn rounds_at_the_end_of_what_can_be_counted_are_faults_and_no_panic() {
        let house = House::new();
        let mut last = house.signed(&house.key, 1, b"m0", b"m0");
        let statement = model_statement(
            &house.federation,
            &last.run,
            last.plan,
            (RoundNumber(u32::MAX), Digest::of(b"m0")),
            Digest::of(b"m0"),
        );
        let (round, before) = (RoundNumber(u32::MAX), Digest::of(b"m0"));
        last.lineage = Some(Box::new(Lineage { round, before, signature: house.key.sign(&statement) }));
        assert!(matches!(house.told(&last, None), Err(LineageFault::Round { .. })));
        let over = house.signed(&house.key, u32::MAX, b"m0", b"m1");
        assert_eq!(house.told(&over, Some((u32::MAX, b"m1"))), Ok(()));
    }

    fn plan() -> Plan {
        let draft: common::PlanDraft = toml::from_str(include_str!("../../tests/plans/story.toml")).unwrap();
        let signature = common::Signature::new([("center".to_owned(), vec![1, 4])]).unwrap();
        draft.with_first_model(signature, Digest::of(b"first"))
    }

    /// What an honest aggregator tells of a round.
    fn of_its_plan(round: u32) -> Assignment {
        let (house, plan) = (House::new(), plan());
        let mut work = house.signed(&house.key, round, b"first", if round == 1 { b"first" } else { b"later" });
        (work.run, work.plan) = (plan.run().clone(), plan.digest());
        (work.first_step, work.base_bytes) = (300 * u64::from(round - 1), plan.model_bytes());
        work
    }

    #[test]
    fn under_an_approved_plan_no_other_run_first_model_round_step_or_length_is_trained() {
        for round in 1..=3 {
            assert_eq!(of_plan(&of_its_plan(round), &plan()), Ok(()));
        }
        type Lie = fn(&mut Assignment);
        let lies: [(u32, Lie, &str); 8] = [
            (2, |work| work.run = "another".parse().unwrap(), "the run of round 2 is another, but by the plan"),
            (1, |work| work.base = Digest::of(b"another"), "the first model of round 1 is"),
            (1, |work| work.round = RoundNumber(0), "the number of round 0 is 0"),
            (
                3,
                |work| work.round = RoundNumber(4),
                "the number of round 4 is 4, but by the plan that it names must be 1 to 3",
            ),
            (3, |work| work.round = RoundNumber(u32::MAX), "must be 1 to 3"),
            (
                2,
                |work| work.first_step += 1,
                "the first step of round 2 is 301, but by the plan that it names must be 300",
            ),
            (2, |work| work.base_bytes += 1, "the length of the model of round 2 is"),
            (2, |work| work.base_bytes = u64::MAX, "the length of the model of round 2 is"),
        ];
        for (round, lie, told) in lies {
            let mut work = of_its_plan(round);
            lie(&mut work);
            let fault = of_plan(&work, &plan()).unwrap_err().to_string();
            assert!(fault.contains(told), "{fault}");
        }
    }

    #[test]
    fn a_last_model_is_as_long_as_those_of_an_approved_plan_of_its_own_run() {
        let (plan, run) = (plan(), plan().run().clone());
        let bytes = plan.model_bytes();
        assert_eq!(of_last(&run, bytes, std::slice::from_ref(&plan)), Ok(()));
        assert!(of_last(&run, u64::MAX, std::slice::from_ref(&plan)).is_err());
        assert!(of_last(&"another".parse().unwrap(), bytes, &[plan]).is_err());
        assert!(of_last(&run, bytes, &[]).is_err(), "no plan of it was approved");
    }
}
