//! Who a certificate says its holder is: exactly one URI SAN, `spiffe://<federation>/site/<id>`, of a person
//! `spiffe://<federation>/coordinator/<name>`, `.../administrator/<site>/<name>` or `.../observer/<name>`, or
//! `spiffe://<federation>/aggregator`.

use common::{FederationName, Holder, Person, SiteId};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{ASN1Time, FromDer, GeneralName, X509Certificate};

use crate::CertsError;
use crate::authority::CLOCK_SKEW_S;

/// What a holder may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// A hospital's agent: may call, may not serve.
    Site(SiteId),
    /// A person in an office: may call what that office is for, may not serve.
    Person(Person),
    /// The aggregator: may serve, may not call.
    Aggregator,
}

impl Role {
    /// Who calls, if this role may call at all.
    pub fn holder(&self) -> Option<Holder> {
        match self {
            Self::Site(site) => Some(Holder::Site(site.clone())),
            Self::Person(person) => Some(Holder::Person(person.clone())),
            Self::Aggregator => None,
        }
    }
}

impl From<Holder> for Role {
    fn from(holder: Holder) -> Self {
        match holder {
            Holder::Site(site) => Self::Site(site),
            Holder::Person(person) => Self::Person(person),
        }
    }
}

/// A holder's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The federation.
    pub federation: FederationName,
    /// The role in it.
    pub role: Role,
}

/// A peer whose certificate was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who it is.
    pub identity: PeerIdentity,
    /// The certificate's serial number, in hexadecimal: what a revocation names.
    pub serial: String,
    /// When the certificate expires, in seconds since 1970.
    pub expires_at_s: i64,
}

/// When a certificate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From, in seconds since 1970.
    pub not_before_s: i64,
    /// To, in seconds since 1970.
    pub not_after_s: i64,
}

impl Validity {
    /// That of a certificate.
    pub fn of_certificate(pem: &str) -> Result<Self, CertsError> {
        let refuse = CertsError::malformed("a certificate");
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| refuse(error.to_string()))?;
        let (_, certificate) = X509Certificate::from_der(&der).map_err(|error| refuse(error.to_string()))?;
        let validity = certificate.validity();
        Ok(Self { not_before_s: validity.not_before.timestamp(), not_after_s: validity.not_after.timestamp() })
    }

    /// Its end, for people: UTC.
    pub fn end_text(self) -> String {
        ASN1Time::from_timestamp(self.not_after_s)
            .map_or_else(|_| self.not_after_s.to_string(), |time| time.to_string())
    }

    /// Whether it is over at `now_s`.
    pub fn is_over(self, now_s: i64) -> bool {
        now_s >= self.not_after_s
    }

    /// Whether two thirds of its life are over at `now_s`: time to renew it, with as much time left for that to fail as a
    /// third of its life.
    pub fn is_renewed_at(self, now_s: i64) -> bool {
        // A certificate is made valid from a little before it was made: that is not of its life.
        let life = self.not_after_s - (self.not_before_s + CLOCK_SKEW_S);
        now_s >= self.not_after_s - life / 3
    }
}

impl PeerIdentity {
    /// The URI that names this identity in a certificate.
    pub fn uri(&self) -> String {
        match &self.role {
            Role::Site(site) => format!("spiffe://{}/site/{site}", self.federation),
            Role::Person(person) => format!("spiffe://{}/{person}", self.federation),
            Role::Aggregator => format!("spiffe://{}/aggregator", self.federation),
        }
    }

    fn from_uri(uri: &str) -> Option<Self> {
        let (federation, path) = uri.strip_prefix("spiffe://")?.split_once('/')?;
        let role = match path.split_once('/') {
            Some(("site", site)) => Role::Site(site.parse().ok()?),
            None if path == "aggregator" => Role::Aggregator,
            _ => Role::Person(path.parse().ok()?),
        };
        Some(Self { federation: federation.parse().ok()?, role })
    }
}

impl Peer {
    /// The peer of a verified certificate.
    pub fn of_certificate(der: &[u8]) -> Result<Self, CertsError> {
        let refuse = CertsError::malformed("the peer's certificate");
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| refuse(error.to_string()))?;
        let names = certificate.subject_alternative_name().map_err(|error| refuse(error.to_string()))?;
        let uris: Vec<_> = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
            .collect();
        let [uri] = uris[..] else {
            return Err(refuse(format!("{} URI names, but exactly one says who the holder is", uris.len())));
        };
        let identity =
            PeerIdentity::from_uri(uri).ok_or_else(|| refuse("its URI name is not of a federation".to_owned()))?;
        let expires_at_s = certificate.validity().not_after.timestamp();
        Ok(Self { identity, serial: hexadecimal(certificate.raw_serial()), expires_at_s })
    }

    /// The same, of somebody who may call the aggregator of this federation.
    pub fn of_caller(der: &[u8], federation: &FederationName) -> Result<Self, CertsError> {
        let refuse = CertsError::malformed("the peer's certificate");
        let peer = Self::of_federation(der, federation)?;
        if peer.identity.role.holder().is_none() {
            return Err(refuse("it is not a site's or a person's: it may not call".to_owned()));
        }
        Ok(peer)
    }

    /// The same, of the aggregator of this federation.
    pub fn of_aggregator(der: &[u8], federation: &FederationName) -> Result<Self, CertsError> {
        let peer = Self::of_federation(der, federation)?;
        if peer.identity.role == Role::Aggregator {
            return Ok(peer);
        }
        Err(CertsError::malformed("the peer's certificate")("it is not an aggregator's: it may not serve".to_owned()))
    }

    /// A peer of the federation, whose certificate is for what its role does in a handshake and for nothing else: WebPKI lets one
    /// pass that states no purpose, or several.
    fn of_federation(der: &[u8], federation: &FederationName) -> Result<Self, CertsError> {
        let refuse = CertsError::malformed("the peer's certificate");
        let peer = Self::of_certificate(der)?;
        if peer.identity.federation != *federation {
            return Err(refuse("it is of another federation".to_owned()));
        }
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| refuse(error.to_string()))?;
        let usage = certificate.extended_key_usage().map_err(|error| refuse(error.to_string()))?;
        let (serves, calls) = usage.map_or((false, false), |usage| (usage.value.server_auth, usage.value.client_auth));
        let is_server = peer.identity.role == Role::Aggregator;
        if (serves, calls) != (is_server, !is_server) {
            return Err(refuse("its purpose is not that of its holder's role, or not that alone".to_owned()));
        }
        Ok(peer)
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_when_two_thirds_of_its_life_are_over() {
        let made = 1_000_000;
        let validity = Validity { not_before_s: made - CLOCK_SKEW_S, not_after_s: made + 30 };
        assert!(!validity.is_renewed_at(made + 19) && validity.is_renewed_at(made + 20));
        assert!(!validity.is_over(made + 29) && validity.is_over(made + 30));
    }

    #[test]
    fn an_identity_reads_back_from_its_uri_and_nothing_else_does() {
        let site = PeerIdentity { federation: "cmr".parse().unwrap(), role: Role::Site("aalst".parse().unwrap()) };
        for person in ["coordinator/alice", "administrator/aalst/carol", "observer/eve"] {
            let role = Role::Person(person.parse().unwrap());
            let identity = PeerIdentity { federation: "cmr".parse().unwrap(), role };
            assert_eq!(identity.uri(), format!("spiffe://cmr/{person}"));
            assert_eq!(PeerIdentity::from_uri(&identity.uri()), Some(identity));
        }
        let aggregator = PeerIdentity { federation: "cmr".parse().unwrap(), role: Role::Aggregator };
        assert_eq!(PeerIdentity::from_uri(&site.uri()), Some(site));
        assert_eq!(PeerIdentity::from_uri(&aggregator.uri()), Some(aggregator));
        for bad in [
            "https://cmr/site/a",
            "spiffe://cmr/site/A",
            "spiffe://cmr/site/a/b",
            "spiffe://cmr/root",
            "spiffe:///site/a",
            "spiffe://cmr/coordinator",
            "spiffe://cmr/coordinator/alice/x",
            "spiffe://cmr/administrator/carol",
            "spiffe://cmr/Coordinator/alice",
        ] {
            assert_eq!(PeerIdentity::from_uri(bad), None, "{bad}");
        }
    }
}
