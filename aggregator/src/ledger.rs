//! What the aggregator writes into its ledger: who was let in and out, what was asked, who took part in what, and what came of it.
//! Each entry is written in the transaction of what it tells. The chain is [`common::ledger`]'s.

use std::collections::BTreeMap;

use certs::signing::SigningKey;
use common::ledger::Head;
use common::signed::{Attestation, Ed25519, VerifyingKey, ledger_statement};
use common::{Decline, Digest, Holder, Person, PersonId, RoundNumber, RunId, SiteId};
use serde::{Serialize, Serializer};

use crate::round::{LeftOut, Outcome, Word};
use crate::run::{Attempt, RunAction};
use crate::store::Details;

/// Who did something that people do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Whoever may write to the state folder.
    StateFolder,
    /// A person, by certificate.
    Person(Person),
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::StateFolder => f.write_str("the state folder"),
            Self::Person(person) => person.fmt(f),
        }
    }
}

impl Serialize for Actor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whom an event of a membership is about: `"site": "aalst"`, or `"person": "coordinator/alice"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject<'a> {
    /// A site.
    Site(&'a SiteId),
    /// A person.
    Person(&'a Person),
}

impl<'a> Subject<'a> {
    /// A holder, as an event's subject.
    pub fn of(holder: &'a Holder) -> Self {
        match holder {
            Holder::Site(site) => Self::Site(site),
            Holder::Person(person) => Self::Person(person),
        }
    }
}

/// One event. Names, digests and numbers: nothing that a site did not agree to send.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Event<'a> {
    /// An invitation was made.
    Invited {
        /// For whom.
        #[serde(flatten)]
        who: Subject<'a>,
        /// Until when, in milliseconds since 1970.
        expires_at_ms: u64,
        /// Who made it.
        by: &'a Actor,
    },
    /// An invitation was used.
    Enrolled {
        /// By whom.
        #[serde(flatten)]
        who: Subject<'a>,
        /// The certificate that was issued.
        serial: &'a str,
        /// What the holder signs with.
        signing_key: Option<VerifyingKey>,
    },
    /// A newer certificate was issued to a site or a person.
    Renewed {
        /// To whom.
        #[serde(flatten)]
        who: Subject<'a>,
        /// The certificate.
        serial: &'a str,
    },
    /// A certificate was revoked.
    Revoked {
        /// Whose.
        #[serde(flatten)]
        who: Subject<'a>,
        /// Who did so.
        by: &'a Actor,
    },
    /// Whoever wanted to enrol was refused; once in an hour for each reason ([`crate::door`]).
    EnrolmentRefused {
        /// As whom: what was claimed, and proved by nothing.
        #[serde(flatten)]
        who: Subject<'a>,
        /// Digest of the key for which a certificate was asked.
        request: Option<Digest>,
        /// The refusal's code.
        code: &'a str,
        /// What is wrong with the invitation or the proof.
        because: &'a str,
    },
    /// A call that its caller may not make, by the table of permissions; once in an hour for each caller and deed.
    CallRefused {
        /// Who called; nobody without a certificate.
        #[serde(flatten)]
        who: Option<Subject<'a>>,
        /// What was asked.
        deed: &'a str,
        /// The refusal's code.
        code: &'a str,
    },
    /// Refusals of an hour that have no entry of their own.
    FurtherRefusals {
        /// So many.
        times: u64,
        /// When the hour began, in milliseconds since 1970.
        since_ms: u64,
    },
    /// A CA was made that is to take the place of the federation's.
    AuthorityAnnounced {
        /// Fingerprint of the one that there is.
        authority: Digest,
        /// The next one's.
        next: Digest,
        /// Who made it.
        by: &'a Actor,
    },
    /// The next CA takes the place of the one before, whose certificates count no more.
    AuthoritySwitched {
        /// Fingerprint of the one that ends.
        before: Digest,
        /// Of the one that there is now.
        authority: Digest,
        /// Members that did not know the next one, and are shut out by that.
        shut_out: &'a [Holder],
        /// Who did so.
        by: &'a Actor,
    },
    /// A coordinator put its hand under a plan.
    PlanSigned {
        /// The run.
        run: &'a RunId,
        /// Its plan.
        plan: Digest,
        /// Who.
        by: &'a Actor,
        /// With which key.
        signing_key: VerifyingKey,
        /// The signature, which is evidence.
        signature: Ed25519,
    },
    /// Enough coordinators have signed: a run's rounds begin.
    RunReleased {
        /// The run.
        run: &'a RunId,
        /// Whose signatures counted.
        signed_by: &'a [PersonId],
    },
    /// A model that a run goes on from was found damaged: it is handed out to nobody, and its round's time stands still.
    ModelDamaged {
        /// The run.
        run: &'a RunId,
        /// The model.
        model: Digest,
    },
    /// It is what it was again: made from the updates that it came of, or restored.
    ModelMended {
        /// The run.
        run: &'a RunId,
        /// The model.
        model: Digest,
    },
    /// A run was started.
    RunStarted {
        /// The run.
        run: &'a RunId,
        /// Its plan, which sites approve.
        plan: Digest,
        /// The model it starts from.
        first_model: Digest,
        /// Who started it.
        by: &'a Actor,
    },
    /// Somebody asked something of a run.
    Asked {
        /// The run.
        run: &'a RunId,
        /// That its rounds stand still.
        paused: bool,
        /// That it ends, and why.
        abort: Option<&'a str>,
        /// Who asked.
        by: &'a Actor,
    },
    /// A try at a round began.
    RoundBegan {
        /// The run.
        run: &'a RunId,
        /// The round.
        round: RoundNumber,
        /// The try, from 1.
        attempt: u32,
        /// The model it starts from.
        base: Digest,
    },
    /// A site joined.
    Joined {
        /// The run.
        run: &'a RunId,
        /// The round.
        round: RoundNumber,
        /// Who.
        site: &'a SiteId,
    },
    /// A site will not take part.
    Declined {
        /// The run.
        run: &'a RunId,
        /// The round.
        round: RoundNumber,
        /// Who.
        site: &'a SiteId,
        /// Why.
        reason: Decline,
    },
    /// A revoked site was left out of an open round.
    LeftOut {
        /// The run.
        run: &'a RunId,
        /// The round.
        round: RoundNumber,
        /// Who.
        site: &'a SiteId,
    },
    /// An update was stored, and is acknowledged.
    UpdateStored {
        /// The run.
        run: &'a RunId,
        /// The round.
        round: RoundNumber,
        /// Whose.
        site: &'a SiteId,
        /// Digest of the delta's file.
        blob: Digest,
        /// Subjects behind it, rounded down.
        subjects: u32,
        /// Optimizer steps.
        steps: u32,
        /// The site's hand under it, and under this ledger as it was then.
        attestation: Option<Attestation>,
    },
    /// An update arrived whole, and cannot count.
    UpdateRefused {
        /// The run.
        run: &'a RunId,
        /// The round.
        round: RoundNumber,
        /// Whose.
        site: &'a SiteId,
        /// Digest that was announced.
        blob: Digest,
        /// The refusal's code.
        code: &'a str,
    },
    /// A stored update no longer counts: its file is damaged.
    UpdateDiscarded {
        /// The run.
        run: &'a RunId,
        /// The round.
        round: RoundNumber,
        /// Whose.
        site: &'a SiteId,
    },
    /// The set of a round is frozen.
    RoundClosed {
        /// The run.
        run: &'a RunId,
        /// The round.
        round: RoundNumber,
        /// The try.
        attempt: u32,
        /// Digest of each update that is merged.
        reports: &'a BTreeMap<SiteId, Digest>,
        /// Who is not in it, and why.
        left_out: &'a BTreeMap<SiteId, LeftOut>,
    },
    /// A try ended without a merge.
    RoundAbandoned {
        /// The run.
        run: &'a RunId,
        /// The round.
        round: RoundNumber,
        /// The try.
        attempt: u32,
        /// Digest of each update that was there.
        reports: &'a BTreeMap<SiteId, Digest>,
        /// Who was not, and why.
        left_out: &'a BTreeMap<SiteId, LeftOut>,
    },
    /// A round's model is made.
    ModelPublished {
        /// The run.
        run: &'a RunId,
        /// The round.
        round: RoundNumber,
        /// The try.
        attempt: u32,
        /// The model it started from.
        before: Digest,
        /// The model.
        model: Digest,
        /// Each site's part of the mean.
        shares: BTreeMap<&'a SiteId, f64>,
    },
    /// All rounds are done.
    RunFinished {
        /// The run.
        run: &'a RunId,
        /// The last model.
        model: Digest,
    },
    /// A run ended before its last round.
    RunFailed {
        /// The run.
        run: &'a RunId,
        /// Why.
        because: &'a str,
    },
}

impl<'a> Event<'a> {
    /// What a decision about a run says to the ledger, if anything.
    pub(crate) fn of(run: &'a RunId, action: &'a RunAction, details: Details<'a>) -> Option<Self> {
        let ended = |Attempt { round, attempt, .. }: &Attempt, outcome: &'a Outcome| {
            (*round, *attempt, &outcome.reports, &outcome.left_out)
        };
        Some(match action {
            RunAction::Record(heard) => {
                let (site, round) = (&heard.site, heard.round);
                match (heard.word, details) {
                    (Word::Joined, _) => Self::Joined { run, round, site },
                    (Word::Declined(reason), _) => Self::Declined { run, round, site, reason },
                    (Word::Revoked, _) => Self::LeftOut { run, round, site },
                    (Word::Reported(blob), Details::Update(manifest)) => {
                        let (subjects, steps, attestation) = (manifest.subjects, manifest.steps, manifest.attestation);
                        Self::UpdateStored { run, round, site, blob, subjects, steps, attestation }
                    }
                    (Word::Reported(_) | Word::Lost, _) => return None,
                }
            }
            RunAction::Release { by } => Self::RunReleased { run, signed_by: by },
            RunAction::Begin(Attempt { round, attempt, base }) => {
                Self::RoundBegan { run, round: *round, attempt: *attempt, base: *base }
            }
            RunAction::Freeze(attempt, outcome) => {
                let (round, attempt, reports, left_out) = ended(attempt, outcome);
                Self::RoundClosed { run, round, attempt, reports, left_out }
            }
            RunAction::Abandon(attempt, outcome) => {
                let (round, attempt, reports, left_out) = ended(attempt, outcome);
                Self::RoundAbandoned { run, round, attempt, reports, left_out }
            }
            RunAction::Discard(Attempt { round, .. }, site) => Self::UpdateDiscarded { run, round: *round, site },
            RunAction::Publish(Attempt { round, attempt, base }, model) => {
                let shares = match details {
                    Details::Merge(merged) => merged.sites.iter().map(|(site, drift)| (site, drift.fraction)).collect(),
                    Details::None | Details::Update(_) => BTreeMap::new(),
                };
                let (round, attempt, before, model) = (*round, *attempt, *base, *model);
                Self::ModelPublished { run, round, attempt, before, model, shares }
            }
            RunAction::Finish { model } => Self::RunFinished { run, model: *model },
            RunAction::Fail { because } => Self::RunFailed { run, because },
            RunAction::ArmDeadline(_) | RunAction::Refuse(_) => return None,
        })
    }
}

/// The last line of a ledger that was handed out: its head in the aggregator's hand.
#[derive(Clone, Debug, PartialEq, Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Colophon {
    /// The federation.
    pub federation: common::FederationName,
    /// How far the ledger goes.
    pub head: Head,
    /// The aggregator's key.
    pub key: VerifyingKey,
    /// Over [`common::signed::ledger_statement`].
    pub signature: Ed25519,
}

impl Colophon {
    /// The end of a ledger in this hand.
    pub fn signed(federation: &common::FederationName, head: Head, key: &SigningKey) -> Self {
        let signature = key.sign(&ledger_statement(federation, head));
        Self { federation: federation.clone(), head, key: key.verifying(), signature }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever reads a ledger of years ago reads these words: an event may get further fields, and none of these another meaning.
    #[test]
    fn refusals_changes_of_the_authority_and_damage_are_written_in_these_words() {
        let (site, person): (Holder, Holder) = ("aalst".parse().unwrap(), "coordinator/alice".parse().unwrap());
        let [one, other] = [Digest([0x11; 32]), Digest([0x22; 32])];
        let (ones, others) = ("11".repeat(32), "22".repeat(32));
        let (by, by_alice) = (Actor::StateFolder, Actor::Person(person.person().unwrap().clone()));
        let (shut_out, run) = ([site.clone(), person.clone()], "pretrain".parse().unwrap());
        let table = [
            (
                Event::EnrolmentRefused {
                    who: Subject::of(&site),
                    request: Some(one),
                    code: "token",
                    because: "used already",
                },
                format!(
                    r#"{{"kind":"enrolment-refused","site":"aalst","request":"{ones}","code":"token","because":"used already"}}"#
                ),
            ),
            (
                Event::CallRefused { who: Some(Subject::of(&person)), deed: "send an update", code: "not-permitted" },
                r#"{"kind":"call-refused","person":"coordinator/alice","deed":"send an update","code":"not-permitted"}"#
                    .to_owned(),
            ),
            (
                Event::CallRefused { who: None, deed: "start a run", code: "unidentified" },
                r#"{"kind":"call-refused","deed":"start a run","code":"unidentified"}"#.to_owned(),
            ),
            (
                Event::FurtherRefusals { times: 12, since_ms: 3_600_000 },
                r#"{"kind":"further-refusals","times":12,"since_ms":3600000}"#.to_owned(),
            ),
            (
                Event::AuthorityAnnounced { authority: one, next: other, by: &by_alice },
                format!(
                    r#"{{"kind":"authority-announced","authority":"{ones}","next":"{others}","by":"coordinator/alice"}}"#
                ),
            ),
            (
                Event::AuthoritySwitched { before: one, authority: other, shut_out: &shut_out, by: &by },
                format!(
                    r#"{{"kind":"authority-switched","before":"{ones}","authority":"{others}","shut_out":["aalst","coordinator/alice"],"by":"the state folder"}}"#
                ),
            ),
            (
                Event::ModelDamaged { run: &run, model: one },
                format!(r#"{{"kind":"model-damaged","run":"pretrain","model":"{ones}"}}"#),
            ),
            (
                Event::ModelMended { run: &run, model: other },
                format!(r#"{{"kind":"model-mended","run":"pretrain","model":"{others}"}}"#),
            ),
        ];
        for (event, written) in table {
            assert_eq!(serde_json::to_string(&event).unwrap(), written);
        }
    }
}
