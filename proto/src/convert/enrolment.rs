//! Who joins, and what it gets.

use bytes::Bytes;
use common::enrolment::{Enrolling, Welcome};
use common::signed::{Ed25519, VerifyingKey};
use common::{Holder, Person};

use super::{Malformed, bytes, signature_bytes, site, text, told, untold, verifying_key};
use crate::wire;

impl TryFrom<wire::EnrolRequest> for Enrolling {
    type Error = Malformed;
    fn try_from(request: wire::EnrolRequest) -> Result<Self, Malformed> {
        const MESSAGE: &str = "EnrolRequest";
        let holder = match (request.site.as_str(), request.person.as_str()) {
            (named, "") => Holder::Site(site(MESSAGE, named)?),
            ("", person) => Holder::Person(text::<Person>(MESSAGE, "person", person)?),
            _ => {
                return Err(Malformed { message: MESSAGE, field: "person", why: "a site is named as well".to_owned() });
            }
        };
        Ok(Self {
            holder,
            csr_pem: request.csr_pem,
            signing_key: verifying_key(MESSAGE, &request.signing_key)?,
            signing_proof: Ed25519(bytes(MESSAGE, "signing_proof", &request.signing_proof)?),
            invitation_key: VerifyingKey(bytes(MESSAGE, "invitation_key", &request.invitation_key)?),
            invitation_proof: Ed25519(bytes(MESSAGE, "invitation_proof", &request.invitation_proof)?),
        })
    }
}

impl From<Enrolling> for wire::EnrolRequest {
    fn from(request: Enrolling) -> Self {
        let (site, person) = match request.holder {
            Holder::Site(site) => (site.to_string(), String::new()),
            Holder::Person(person) => (String::new(), person.to_string()),
        };
        Self {
            site,
            csr_pem: request.csr_pem,
            signing_key: Bytes::copy_from_slice(&request.signing_key.0),
            signing_proof: signature_bytes(request.signing_proof),
            invitation_key: Bytes::copy_from_slice(&request.invitation_key.0),
            invitation_proof: signature_bytes(request.invitation_proof),
            person,
        }
    }
}

impl TryFrom<wire::EnrolReply> for Welcome {
    type Error = Malformed;
    fn try_from(reply: wire::EnrolReply) -> Result<Self, Malformed> {
        Ok(Self {
            certificate_pem: reply.certificate_pem,
            authority_pem: reply.authority_pem,
            aggregator_key: verifying_key("EnrolReply", &reply.signing_key)?,
            authority_proof: reply.authority_proof.to_vec(),
            signing_certificate_pem: told(reply.signing_certificate_pem),
        })
    }
}

impl From<Welcome> for wire::EnrolReply {
    fn from(welcome: Welcome) -> Self {
        Self {
            certificate_pem: welcome.certificate_pem,
            authority_pem: welcome.authority_pem,
            signing_key: Bytes::copy_from_slice(&welcome.aggregator_key.0),
            authority_proof: welcome.authority_proof.into(),
            signing_certificate_pem: untold(welcome.signing_certificate_pem),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_enrols_is_a_site_or_a_person_and_a_request_is_the_same_after_the_wire() {
        let odd = [("", ""), ("aalst", "observer/eve"), ("", "aalst"), ("coordinator/alice", ""), ("", "root/x")];
        for holder in ["aalst", "coordinator/alice"] {
            let asked = Enrolling {
                holder: holder.parse().unwrap(),
                csr_pem: "a request".to_owned(),
                signing_key: VerifyingKey([1; 32]),
                signing_proof: Ed25519([2; 64]),
                invitation_key: VerifyingKey([3; 32]),
                invitation_proof: Ed25519([4; 64]),
            };
            let wired = wire::EnrolRequest::from(asked.clone());
            assert_eq!(Enrolling::try_from(wired.clone()).unwrap(), asked);
            for (site, person) in odd {
                let odd = wire::EnrolRequest { site: site.to_owned(), person: person.to_owned(), ..wired.clone() };
                assert!(Enrolling::try_from(odd).is_err(), "{site} {person}");
            }
            let short = wire::EnrolRequest { invitation_proof: Bytes::from_static(&[4; 63]), ..wired };
            assert_eq!(Enrolling::try_from(short).unwrap_err().field, "invitation_proof");
        }
    }
}
