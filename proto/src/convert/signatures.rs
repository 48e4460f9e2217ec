//! Whose hand is under what: a plan, a model's origin, the head of a ledger, an update.

use common::RoundNumber;
use common::ledger::Head;
use common::signed::{Attestation, Ed25519, Lineage, PlanSignature, SignedHead};

use super::{Malformed, bytes, digest, digest_bytes, signature_bytes};
use crate::wire;

impl TryFrom<wire::PlanSignature> for PlanSignature {
    type Error = Malformed;
    fn try_from(signed: wire::PlanSignature) -> Result<Self, Malformed> {
        let signature = Ed25519(bytes("PlanSignature", "signature", &signed.signature)?);
        Ok(Self { certificate_pem: signed.certificate_pem, signature })
    }
}

impl From<PlanSignature> for wire::PlanSignature {
    fn from(signed: PlanSignature) -> Self {
        Self { certificate_pem: signed.certificate_pem, signature: signature_bytes(signed.signature) }
    }
}

pub(super) fn from_lineage(message: &'static str, lineage: &wire::Lineage) -> Result<Lineage, Malformed> {
    Ok(Lineage {
        round: RoundNumber(lineage.round),
        before: digest(message, "lineage.before", &lineage.before)?,
        signature: Ed25519(bytes(message, "lineage.signature", &lineage.signature)?),
    })
}

pub(super) fn to_lineage(Lineage { round, before, signature }: Lineage) -> wire::Lineage {
    wire::Lineage { round: round.0, before: digest_bytes(before), signature: signature_bytes(signature) }
}

pub(super) fn from_signed_head(message: &'static str, told: &wire::SignedHead) -> Result<SignedHead, Malformed> {
    let head = Head { entries: told.entries, digest: digest(message, "ledger.digest", &told.digest)? };
    Ok(SignedHead { head, signature: Ed25519(bytes(message, "ledger.signature", &told.signature)?) })
}

pub(super) fn to_signed_head(SignedHead { head, signature }: SignedHead) -> wire::SignedHead {
    let (entries, digest) = (head.entries, digest_bytes(head.digest));
    wire::SignedHead { entries, digest, signature: signature_bytes(signature) }
}

pub(super) fn from_attestation(
    message: &'static str,
    attestation: &wire::Attestation,
) -> Result<Attestation, Malformed> {
    Ok(Attestation {
        ledger: attestation.ledger.as_ref().map(|head| from_signed_head(message, head)).transpose()?,
        signature: Ed25519(bytes(message, "attestation.signature", &attestation.signature)?),
    })
}

pub(super) fn to_attestation(Attestation { ledger, signature }: Attestation) -> wire::Attestation {
    wire::Attestation { ledger: ledger.map(to_signed_head), signature: signature_bytes(signature) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coordinators_hand_is_the_same_after_the_wire() {
        let signed = PlanSignature { certificate_pem: "pem".to_owned(), signature: Ed25519([3; 64]) };
        assert_eq!(PlanSignature::try_from(wire::PlanSignature::from(signed.clone())).unwrap(), signed);
    }
}
