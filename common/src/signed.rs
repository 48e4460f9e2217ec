//! What is signed with Ed25519 (RFC 8032), to the byte: so that any program can check it, years later and without a network.
//!
//! A statement is a line that says what kind it is, the federation's name, and JSON in a fixed order of fields. No statement of
//! one kind or federation is one of another. The keys are kept elsewhere; here are bytes alone.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::holder::Holder;
use crate::ids::{Digest, FederationName, PersonId, RoundNumber, RunId, SiteId};
use crate::ledger::Head;
use crate::update::UpdateManifest;

macro_rules! hexadecimal {
    ($(#[$doc:meta])* $name:ident, $length:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub [u8; $length]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = NotBytes;
            fn from_str(text: &str) -> Result<Self, NotBytes> {
                let refuse = || NotBytes { expected: $length, found: text.chars().take(160).collect() };
                let mut bytes = [0; $length];
                if text.len() != 2 * $length || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
                    return Err(refuse());
                }
                for (place, byte) in bytes.iter_mut().enumerate() {
                    *byte = u8::from_str_radix(&text[2 * place..2 * place + 2], 16).map_err(|_| refuse())?;
                }
                Ok(Self(bytes))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NotBytes;
            fn try_from(text: String) -> Result<Self, NotBytes> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(bytes: $name) -> String {
                bytes.to_string()
            }
        }
    };
}

/// Not so many bytes in hexadecimal digits.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{found:?} is not {expected} bytes in lower-case hexadecimal digits")]
pub struct NotBytes {
    /// How many are expected.
    pub expected: usize,
    /// What was written, cut to 160 characters.
    pub found: String,
}

hexadecimal!(
    /// The public half of a signing key.
    VerifyingKey,
    32
);
hexadecimal!(
    /// A signature under a [`VerifyingKey`].
    Ed25519,
    64
);
hexadecimal!(
    /// A number that is drawn for one use.
    Nonce,
    16
);

/// How far the aggregator's ledger goes, in somebody's hand: the aggregator's over [`ledger_statement`] when it tells a site, a
/// site's over [`countersigned_statement`] when it has been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedHead {
    /// How far.
    pub head: Head,
    /// By whoever tells it.
    pub signature: Ed25519,
}

/// A site's hand under an update, and under the aggregator's ledger as it was told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// The head of the aggregator's ledger, as the site was told it with the round. It has a signature of its own, which can be
    /// checked without the update: so that nobody writes another history later.
    pub ledger: Option<SignedHead>,
    /// Over [`update_statement`], with that head.
    pub signature: Ed25519,
}

/// Where a round's first model comes from, in the aggregator's hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lineage {
    /// The round that it came of; 0 for the first model.
    pub round: RoundNumber,
    /// The model that round started from; itself for the first model.
    pub before: Digest,
    /// Over [`model_statement`].
    pub signature: Ed25519,
}

/// A coordinator's hand under a plan, with the certificate that says whose hand it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanSignature {
    /// The certificate of the signing key, by the federation's CA.
    pub certificate_pem: String,
    /// Over [`plan_statement`].
    pub signature: Ed25519,
}

/// A coordinator whose signature was verified, and the key that made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signer {
    /// Who.
    pub coordinator: PersonId,
    /// The key.
    pub key: VerifyingKey,
}

/// Different coordinators among some: each name counts once, and so does each key, whoever it is certified for.
pub fn distinct<'a>(signers: impl IntoIterator<Item = &'a Signer>) -> Vec<&'a Signer> {
    let mut counted: Vec<&Signer> = Vec::new();
    for signer in signers {
        if !counted.iter().any(|other| other.coordinator == signer.coordinator || other.key == signer.key) {
            counted.push(signer);
        }
    }
    counted
}

pub(crate) fn statement(kind: &str, federation: &FederationName, what: &impl Serialize) -> Vec<u8> {
    let mut statement = format!("cmrfed {kind} 1\n{federation}\n").into_bytes();
    // Numbers, text and arrays. What could not be written must not be signed as if it were nothing.
    statement.extend(serde_json::to_vec(what).expect("a statement is writable as JSON"));
    statement
}

/// What a site or a person signs to enrol: that it holds the signing key, for this certificate's key (SHA-256).
pub fn enrolment_statement(federation: &FederationName, holder: &Holder, certified_key: Digest) -> Vec<u8> {
    statement("enrolment", federation, &(holder, certified_key))
}

/// What a coordinator signs of a plan.
pub fn plan_statement(federation: &FederationName, coordinator: &PersonId, plan: Digest) -> Vec<u8> {
    statement("plan", federation, &(coordinator, plan))
}

/// What the holder of an invitation signs when it enrols, with the key that the invitation's token makes: for whom it is, and
/// which keys. Who sees it go by has nothing that enrols another key.
pub fn invitation_statement(
    federation: &FederationName,
    holder: &Holder,
    certified_key: Digest,
    signing_key: VerifyingKey,
) -> Vec<u8> {
    statement("invitation", federation, &(holder, certified_key, signing_key))
}

/// What the CA signs of the answer to an enrolment, beside the certificate itself: its own and the next CA's certificates, and
/// what the aggregator signs with. The site knows the CA's digest from its invitation, whoever stands in between.
pub fn enrolled_statement(
    federation: &FederationName,
    holder: &Holder,
    certificate: Digest,
    authorities: Digest,
    signing_key: VerifyingKey,
) -> Vec<u8> {
    statement("enrolled", federation, &(holder, certificate, authorities, signing_key))
}

/// What a site signs of an update: all of its manifest (run, round, site, plan, base, digest and length of the delta, subjects,
/// steps, meters), and the ledger's head.
pub fn update_statement(federation: &FederationName, manifest: &UpdateManifest, ledger: Option<Head>) -> Vec<u8> {
    statement("update", federation, &(UpdateManifest { attestation: None, ..manifest.clone() }, ledger))
}

/// What a site signs of the aggregator's ledger: that it was told this head.
pub fn countersigned_statement(federation: &FederationName, site: &SiteId, head: Head) -> Vec<u8> {
    statement("countersigned", federation, &(site, head))
}

/// What the aggregator signs of a model: that it came of this round of this run and plan, from that model before.
pub fn model_statement(
    federation: &FederationName,
    run: &RunId,
    plan: Digest,
    (round, before): (RoundNumber, Digest),
    model: Digest,
) -> Vec<u8> {
    statement("model", federation, &(run, plan, round, before, model))
}

/// What the aggregator signs of its ledger when it hands it out, or tells a site how far it goes.
pub fn ledger_statement(federation: &FederationName, head: Head) -> Vec<u8> {
    statement("ledger", federation, &head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_in_hexadecimal_digits_and_anything_else_is_named() {
        let key = VerifyingKey([0xab; 32]);
        assert_eq!(key.to_string().parse::<VerifyingKey>().unwrap(), key);
        assert_eq!(serde_json::from_str::<VerifyingKey>(&serde_json::to_string(&key).unwrap()).unwrap(), key);
        for odd in ["", "ab", &"AB".repeat(32), &"xy".repeat(32), &"ab".repeat(33)] {
            assert!(odd.parse::<VerifyingKey>().unwrap_err().to_string().contains("32 bytes"), "{odd}");
        }
    }

    #[test]
    fn two_names_with_one_key_are_one_coordinator_and_so_are_two_keys_with_one_name() {
        let signer = |name: &str, key: u8| Signer { coordinator: name.parse().unwrap(), key: VerifyingKey([key; 32]) };
        let count = |signers: &[Signer]| distinct(signers).len();
        assert_eq!(count(&[]), 0);
        assert_eq!(count(&[signer("alice", 1), signer("bob", 2)]), 2);
        assert_eq!(count(&[signer("alice", 1), signer("alice", 1)]), 1);
        assert_eq!(count(&[signer("alice", 1), signer("alice", 2)]), 1);
        assert_eq!(count(&[signer("alice", 1), signer("bob", 1)]), 1);
        assert_eq!(count(&[signer("alice", 1), signer("bob", 1), signer("carol", 3)]), 2);
    }

    #[test]
    fn what_sites_sign_to_enrol_is_what_it_was_before_persons_could() {
        let statement = enrolment_statement(&"cmr".parse().unwrap(), &"aalst".parse().unwrap(), Digest([0; 32]));
        let expected = format!("cmrfed enrolment 1\ncmr\n[\"aalst\",\"{}\"]", "0".repeat(64));
        assert_eq!(String::from_utf8(statement).unwrap(), expected);
    }

    #[test]
    fn no_statement_is_one_of_another_kind_or_federation() {
        let (one, other) = ("cmr".parse().unwrap(), "cmr-2".parse().unwrap());
        let (site, digest) = (Holder::Site("aalst".parse().unwrap()), Digest::of(b"key"));
        let (alice, bob) = ("alice".parse().unwrap(), "bob".parse().unwrap());
        let person: Holder = "coordinator/aalst".parse().unwrap();
        let head = Head { entries: 3, digest };
        let statements = [
            enrolment_statement(&one, &site, digest),
            enrolment_statement(&other, &site, digest),
            invitation_statement(&one, &site, digest, VerifyingKey([1; 32])),
            enrolled_statement(&one, &site, digest, digest, VerifyingKey([1; 32])),
            enrolment_statement(&one, &person, digest),
            plan_statement(&one, &alice, digest),
            plan_statement(&one, &bob, digest),
            plan_statement(&other, &alice, digest),
            plan_statement(&one, &alice, Digest::of(b"another plan")),
            ledger_statement(&one, head),
            model_statement(&one, &"run".parse().unwrap(), digest, (RoundNumber(1), digest), digest),
        ];
        for (place, statement) in statements.iter().enumerate() {
            assert!(statements.iter().skip(place + 1).all(|another| another != statement));
        }
    }
}
