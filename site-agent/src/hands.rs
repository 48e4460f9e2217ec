//! Who signed a plan, as this site found when it received it: a record of its own, which no later change of the CA, of a certificate
//! or of the aggregator's mind alters. The signatures and certificates stay beside, as evidence.

use common::Digest;
use common::signed::{PlanSignature, Signer};
use serde::{Deserialize, Serialize};

use crate::durable::{self, DiskError};
use crate::home::Home;

/// Who signed, and what showed it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hands {
    /// When this was looked at, in seconds since 1970.
    pub seen_at_s: i64,
    /// The coordinators whose signatures held then.
    pub signers: Vec<Signer>,
    /// All that was received.
    pub received: Vec<PlanSignature>,
}

impl Hands {
    /// Those under a plan; none if nothing was received of them.
    pub fn under(home: &Home, plan: Digest) -> Result<Self, DiskError> {
        let path = home.signed(plan);
        let bytes = durable::read_if_there(&path)?;
        bytes.map_or(Ok(Self::default()), |bytes| {
            serde_json::from_slice(&bytes).map_err(|error| durable::told("read", &path)(error.into()))
        })
    }

    /// Writes them down.
    pub fn keep(&self, home: &Home, plan: Digest) -> Result<(), DiskError> {
        let path = home.signed(plan);
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| durable::told("write", &path)(error.into()))?;
        durable::write(&path, &bytes)
    }

    /// In one line, for the person who is asked to approve.
    pub fn told(&self) -> String {
        let name = |signer: &Signer| format!("{} ({})", signer.coordinator, &signer.key.to_string()[..12]);
        let names: Vec<String> = common::signed::distinct(&self.signers).into_iter().map(name).collect();
        match names.len() {
            0 => "signed by no coordinator".to_owned(),
            1 => format!("signed by one coordinator: {}", names[0]),
            some => format!("signed by {some} coordinators: {}", names.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use common::signed::VerifyingKey;

    use super::*;

    #[test]
    fn who_signed_is_remembered_and_told_by_name_and_key_each_once() {
        let folder = tempfile::tempdir().unwrap();
        let (home, plan) = (Home::at(folder.path()), Digest::of(b"plan"));
        assert_eq!(Hands::under(&home, plan).unwrap().told(), "signed by no coordinator");
        let signer = |name: &str, key: u8| Signer { coordinator: name.parse().unwrap(), key: VerifyingKey([key; 32]) };
        let mut hands = Hands { signers: vec![signer("alice", 1), signer("alice", 1)], ..Hands::default() };
        assert_eq!(hands.told(), "signed by one coordinator: alice (010101010101)");
        hands.signers.push(signer("bob", 2));
        hands.keep(&home, plan).unwrap();
        assert_eq!(Hands::under(&home, plan).unwrap(), hands);
        assert_eq!(hands.told(), "signed by 2 coordinators: alice (010101010101), bob (020202020202)");
        assert!(crate::approvals::announced(&home).unwrap().is_empty(), "the record is no plan");
    }
}
