//! Coordinators put their hands under plans; a run that needs them begins when they are there.

use certs::signing::verifies;
use common::signed::{Ed25519, PlanSignature, plan_statement};
use common::{Digest, Person, PersonId, Plan, Refusal, RunId};

use super::{Federation, LiveRun, refusal};
use crate::clock::Stamp;
use crate::ledger::Actor;
use crate::run::{Run, RunEvent};
use crate::signatures::counting;
use crate::store::{Details, SignatureRecord, StoreError};

/// How many hands under a plan count, and how many it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signatures {
    /// That count now.
    pub counting: usize,
    /// That the plan needs.
    pub needed: u32,
}

impl Federation {
    /// Puts a coordinator's hand under the plan of a run that goes on. Nobody signs twice, but whose earlier signature counts no
    /// more.
    pub fn sign(
        &self,
        coordinator: &PersonId,
        run: &RunId,
        plan: Digest,
        signature: Ed25519,
    ) -> Result<Signatures, Refusal> {
        // A run that was started a moment ago in the state folder is there to be signed.
        self.refresh().map_err(refusal)?;
        let mut live = self.live();
        // What counts is decided by who is enrolled now, and not by who was when the server last looked.
        self.admit(self.store.members().map_err(refusal)?);
        let found = live.run(run).ok_or_else(|| Refusal::UnknownRun(run.clone()))?;
        let refused = |why: String| Err(Refusal::Refused(why));
        if found.record.plan_digest != plan {
            return refused(format!(
                "the plan of run {run} is {}, but {plan} was signed: read it again with `aggregator run show {run}`",
                found.record.plan_digest
            ));
        }
        if found.run.is_over() {
            return refused(format!("run {run} is over: nothing is left to sign"));
        }
        let there = self.store.signatures(run).map_err(refusal)?;
        if counting(&there, &self.admitted.borrow()).contains(coordinator) {
            return refused(format!(
                "coordinator {coordinator} has signed the plan of run {run} already: a signature that is missing is another \
                 coordinator's, see `aggregator run list`"
            ));
        }
        let counted = !matches!(found.run, Run::Awaiting { .. });
        let record = SignatureRecord { counted, ..self.signature(coordinator, plan, signature)? };
        self.store.sign(run, plan, &record).map_err(refusal)?;
        tracing::info!(%run, %plan, %coordinator, "the plan is signed");
        self.release(found).map_err(refusal)?;
        let there = self.store.signatures(run).map_err(refusal)?;
        let needed = found.record.plan.draft.signatures;
        Ok(Signatures { counting: counting(&there, &self.admitted.borrow()).len(), needed })
    }

    /// Starts a run whose first model is stored, in the name of a coordinator and with that hand under its plan.
    pub fn start_signed(&self, coordinator: &PersonId, plan: &Plan, signature: Ed25519) -> Result<(), Refusal> {
        let by = Actor::Person(Person::coordinator(coordinator.clone()));
        let is_there = || match self.blobs.length(plan.first_model) {
            Some(_) => Ok(()),
            None => Err(StoreError::io("finding the first model", std::io::ErrorKind::NotFound.into())),
        };
        // Locked, so that no site sees the run before the signature is there.
        let live = self.live();
        self.admit(self.store.members().map_err(refusal)?);
        let counted = plan.draft.signatures == 0;
        let record = SignatureRecord { counted, ..self.signature(coordinator, plan.digest(), signature)? };
        self.store.start_run(plan, Some(&record), &by, self.clock.wall(), &mut || is_there()).map_err(refusal)?;
        drop(live);
        self.refresh().map_err(refusal)
    }

    /// A signature as it is written down, if it is the coordinator's under this plan.
    pub fn signature(
        &self,
        coordinator: &PersonId,
        plan: Digest,
        signature: Ed25519,
    ) -> Result<SignatureRecord, Refusal> {
        let person = Person::coordinator(coordinator.clone());
        let admitted = self.admitted.borrow();
        let member = admitted.member(&person.clone().into()).filter(|member| !member.revoked);
        let certified = member.and_then(|member| Some((member.signing_key?, member.signing_certificate.clone()?)));
        // Never before the enrolment that it belongs to: the clock may have been set back since.
        let signed_at = self.clock.wall().max(member.map_or(Stamp(0), |member| member.enrolled_at));
        let (key, certificate_pem) = certified.ok_or(Refusal::PersonRevoked(person))?;
        if !verifies(key, &plan_statement(&self.name, coordinator, plan), signature) {
            return Err(Refusal::Refused(format!(
                "the signature under plan {plan} is not made with the key that coordinator {coordinator} enrolled with ({key}): sign \
                 with signing.key of that folder, or be invited again"
            )));
        }
        let coordinator = coordinator.clone();
        Ok(SignatureRecord { coordinator, key, signature, certificate_pem, signed_at, counted: false })
    }

    /// Lets a run begin whose signatures are there.
    pub(super) fn release(&self, live: &mut LiveRun) -> Result<(), StoreError> {
        if !matches!(live.run, Run::Awaiting { .. }) {
            return Ok(());
        }
        let by = counting(&self.store.signatures(live.id())?, &self.admitted.borrow());
        if by.len() < live.record.plan.draft.signatures as usize {
            return Ok(());
        }
        tracing::info!(run = %live.id(), ?by, "the plan has its signatures: the run begins");
        match self.decide(live, RunEvent::Signed { by }, Details::None) {
            Err(super::Undecided::Store(error)) => Err(error),
            Err(super::Undecided::Refused(_)) | Ok(()) => Ok(()),
        }
    }

    /// The signatures that go out with a plan: those that it began with, and those that count since. Each with the newest
    /// certificate of its key.
    pub(super) fn handed_out(&self, run: &RunId) -> Result<Vec<PlanSignature>, StoreError> {
        let there = self.store.signatures(run)?;
        let admitted = self.admitted.borrow();
        let now = counting(&there, &admitted);
        let counts = |record: &SignatureRecord| record.counted || now.contains(&record.coordinator);
        let newest = |record: &SignatureRecord| {
            let member = admitted.member(&record.holder());
            let same = member.filter(|member| !member.revoked && member.signing_key == Some(record.key));
            same.and_then(|member| member.signing_certificate.clone())
        };
        let sent = |record: SignatureRecord| PlanSignature {
            certificate_pem: newest(&record).unwrap_or(record.certificate_pem),
            signature: record.signature,
        };
        Ok(there.into_iter().filter(counts).map(sent).collect())
    }
}
