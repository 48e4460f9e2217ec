//! Which hands under a plan count. A pure function of what is written down.

use common::PersonId;
use common::signed::{Signer, distinct};

use crate::federation::Admitted;
use crate::store::SignatureRecord;

/// The coordinators whose signatures count now: of each who is enrolled and not revoked, made since then with the very key that is
/// certified for the coordinator. A signature from before a revocation stays dead when its coordinator is let in again.
pub fn counting(signatures: &[SignatureRecord], admitted: &Admitted) -> Vec<PersonId> {
    let counts = |record: &&SignatureRecord| {
        let member = admitted.member(&record.holder()).filter(|member| !member.revoked);
        member.is_some_and(|member| member.signing_key == Some(record.key) && member.enrolled_at <= record.signed_at)
    };
    let signers: Vec<Signer> = signatures
        .iter()
        .filter(counts)
        .map(|record| Signer { coordinator: record.coordinator.clone(), key: record.key })
        .collect();
    distinct(&signers).into_iter().map(|signer| signer.coordinator.clone()).collect()
}

#[cfg(test)]
mod tests {
    use common::signed::{Ed25519, VerifyingKey};
    use common::{Digest, Person};

    use super::*;
    use crate::clock::Stamp;
    use crate::store::MemberRecord;

    fn member(name: &str, key: u8, enrolled_at: u64, revoked: bool) -> MemberRecord {
        MemberRecord {
            holder: Person::coordinator(name.parse().unwrap()).into(),
            serial: "01".to_owned(),
            expires_at: Stamp(u64::MAX),
            renewal: None,
            enrolled_at: Stamp(enrolled_at),
            revoked,
            signing_key: Some(VerifyingKey([key; 32])),
            signing_certificate: None,
            anchors: Digest::of(b"ca"),
            renewal_anchors: None,
        }
    }

    fn signature(name: &str, key: u8, signed_at: u64) -> SignatureRecord {
        SignatureRecord {
            coordinator: name.parse().unwrap(),
            key: VerifyingKey([key; 32]),
            signature: Ed25519([0; 64]),
            certificate_pem: String::new(),
            signed_at: Stamp(signed_at),
            counted: false,
        }
    }

    #[test]
    fn only_the_present_key_of_an_enrolled_coordinator_counts_and_nothing_from_before_the_enrolment() {
        let signed = [signature("alice", 1, 10), signature("bob", 2, 10)];
        let names = |members: Vec<MemberRecord>| -> Vec<String> {
            counting(&signed, &Admitted::of(members)).iter().map(ToString::to_string).collect()
        };
        let alice = || member("alice", 1, 5, false);
        assert_eq!(names(vec![alice(), member("bob", 2, 10, false)]), ["alice", "bob"]);
        assert_eq!(names(vec![alice()]), ["alice"], "who is not enrolled");
        assert_eq!(names(vec![alice(), member("bob", 2, 5, true)]), ["alice"], "who is revoked");
        assert_eq!(names(vec![alice(), member("bob", 3, 5, false)]), ["alice"], "another key");
        assert_eq!(names(vec![alice(), member("bob", 2, 11, false)]), ["alice"], "let in again since");
        let twins = [signature("alice", 1, 10), signature("bob", 1, 10)];
        let both = Admitted::of(vec![alice(), member("bob", 1, 5, false)]);
        assert_eq!(counting(&twins, &both).len(), 1, "one key is one hand");
    }
}
