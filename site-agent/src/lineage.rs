//! Whether the model of an assignment is what this site may train from: made of the round before by this federation's aggregator,
//! of the very model that this site trained then, and the only one of its round. A pure function; what it needs to remember is in
//! the journal.

use certs::signing::verifies;
use common::signed::{SignedHead, VerifyingKey, ledger_statement, model_statement};
use common::{Assignment, Digest, FederationName, RoundNumber};
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
    /// Round 1 starts from another model than the plan's.
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
    if lineage.round.next() != round {
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
    if round == before.round.next() && lineage.before != before.base {
        let (of, trained) = (before.round, before.base);
        return Err(LineageFault::Descent { round, of, before: lineage.before, trained });
    }
    Ok(())
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
}
