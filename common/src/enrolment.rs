//! How a site or a person becomes a member: what is asked, and what is answered. How both are signed is in [`crate::signed`].

use crate::holder::Holder;
use crate::signed::{Ed25519, VerifyingKey};

/// A request to enrol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolling {
    /// Who enrols.
    pub holder: Holder,
    /// The signing request for the certificate: only its public key counts.
    pub csr_pem: String,
    /// What updates, or plans, will be signed with.
    pub signing_key: VerifyingKey,
    /// Its signature over the enrolment.
    pub signing_proof: Ed25519,
    /// The key that the invitation's secret makes.
    pub invitation_key: VerifyingKey,
    /// Its signature over this very request.
    pub invitation_proof: Ed25519,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The holder's certificate.
    pub certificate_pem: String,
    /// The federation's CA; two while one takes the place of the other.
    pub authority_pem: String,
    /// What the aggregator signs models with.
    pub aggregator_key: VerifyingKey,
    /// The CA's signature over all of that, as it came.
    pub authority_proof: Vec<u8>,
    /// Of a coordinator, the certificate of the signing key.
    pub signing_certificate_pem: Option<String>,
}
