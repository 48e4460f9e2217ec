//! Enrolment: the key is made here and never leaves; the invitation pins the CA; a CSR comes back as a certificate. The invitation's
//! secret never leaves either, and the answer has the CA's hand under it: so it may pass whoever opens TLS on the way.

use std::path::PathBuf;
use std::sync::Arc;

use certs::credentials::Credentials;
use certs::identity::Validity;
use certs::invitation::{Invitation, InvitationError};
use certs::keys::Key;
use certs::message::caller::Caller;
use certs::signer::{SignerError, signer_of};
use certs::signing::SigningKey;
use certs::{CertsError, authority, enrolment, fingerprint_text, fingerprint_words, tls};
use common::enrolment::Welcome;
use common::signed::{Attestation, PlanSignature, SignedHead, Signer, VerifyingKey};
use common::{Digest, FederationName, Holder, SiteId, UpdateManifest};
use proto::MESSAGE_BYTES;
use proto::wire::enrolment_client::EnrolmentClient;
use proto::wire::{EnrolRequest, RenewReply};
use rustls::pki_types::UnixTime;
use serde::{Deserialize, Serialize};

use crate::durable::{self, DiskError};
use crate::home::Home;
use crate::ledger::{Event, Ledger, LedgerError};
use crate::link::{Link, LinkError, Way, channel};
use crate::network::{ChannelMode, NetworkConfig};

/// Whom this site is, and where its aggregator is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolled {
    /// The federation.
    pub federation: FederationName,
    /// This site.
    pub site: SiteId,
    /// host:port.
    pub address: String,
    /// The CA's fingerprint, in groups of four digits.
    pub fingerprint: String,
    /// The same in words, for the phone.
    pub fingerprint_words: String,
    /// What the aggregator signs models with: told over the connection that the invitation authenticates.
    pub aggregator_key: VerifyingKey,
}

/// Why a site is not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// Not an invitation.
    #[error(transparent)]
    Invitation(#[from] InvitationError),
    /// An invitation for a person.
    #[error(
        "this is the invitation of {0}, a person: it is used on that person's own machine, with `aggregator enrol <invitation> --as \
         <folder>`"
    )]
    ForAPerson(String),
    /// Enrolled already, as somebody else.
    #[error(
        "this state folder is enrolled as {site} in {federation}: an invitation for that very site renews it, another site or \
         federation needs its own --state"
    )]
    Already {
        /// As whom.
        site: SiteId,
        /// Where.
        federation: FederationName,
    },
    /// Not enrolled yet.
    #[error(
        "this site is not enrolled yet: ask the coordinator for an invitation, then `site-agent enrol <invitation>`"
    )]
    NotYet,
    /// A key or certificate cannot be made or used.
    #[error(transparent)]
    Certs(#[from] CertsError),
    /// The aggregator cannot be reached, or refuses.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The proxy's address cannot be used.
    #[error(transparent)]
    Proxy(#[from] certs::proxy::ProxyUrlError),
    /// The disk said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The aggregator signs with nothing.
    #[error(
        "the aggregator did not say what it signs with: it is older than this agent; the coordinator updates it first"
    )]
    NoKey,
    /// The ledger cannot be written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The answer is not believed.
    #[error(transparent)]
    NotWelcome(#[from] enrolment::NotWelcome),
}

/// An enrolled site, with what proves it.
#[derive(Clone, Debug)]
pub struct Member {
    /// Who it is.
    pub enrolled: Enrolled,
    credentials: Credentials,
    signer: Arc<SigningKey>,
    network: NetworkConfig,
}

impl Member {
    /// The site of a state folder, which reaches its aggregator as `network` says.
    pub fn of(home: &Home, network: &NetworkConfig) -> Result<Self, EnrolError> {
        let (enrolled, signer) = (enrolled(home)?, SigningKey::load(&signing_key_path(home))?);
        network.route(&enrolled.address)?;
        let credentials = Credentials::at(home.identity());
        Ok(Self { enrolled, credentials, signer: Arc::new(signer), network: network.clone() })
    }

    /// Puts this site's hand under an update, and under the aggregator's ledger as this site was told it.
    pub fn attest(&self, manifest: &UpdateManifest, told: Option<&SignedHead>) -> Attestation {
        self.signer.attest(&self.enrolled.federation, manifest, told)
    }

    /// Who signed a plan, as of now: each signature is held to the CA that this site knows, and to the plan. Those that do not hold
    /// are told apart.
    pub fn signers(
        &self,
        plan: Digest,
        signatures: &[PlanSignature],
        now_s: i64,
    ) -> Result<(Vec<Signer>, Vec<SignerError>), EnrolError> {
        let authority_pem = self.authority_pem()?;
        let federation = &self.enrolled.federation;
        let (mut signers, mut odd) = (Vec::new(), Vec::new());
        for signed in signatures {
            match signer_of(signed, plan, &authority_pem, federation, now_s) {
                Ok(signer) => signers.push(signer),
                Err(error) => odd.push(error),
            }
        }
        Ok((signers, odd))
    }

    /// A link that presents the certificate as it is now.
    pub fn link(&self) -> Result<Link, EnrolError> {
        let way = presented(&self.enrolled, &self.credentials, &self.network)?;
        Ok(Link::new(self.enrolled.site.clone(), &self.enrolled.address, way)?)
    }

    /// When its certificate counts.
    pub fn validity(&self) -> Result<Validity, EnrolError> {
        Ok(self.credentials.validity()?)
    }

    /// Asks for a certificate for a new key over `link`, and puts both in the place of those in use. A key from an attempt
    /// whose answer was lost is used again, and gets the same answer.
    pub async fn renew(&self, link: &mut Link) -> Result<(), EnrolError> {
        let key = self.credentials.next()?;
        let renewed = link.renew(key.csr_pem()?).await?;
        let now_s = i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX);
        self.keep_renewed(&key, &renewed, now_s)
    }

    /// A certificate that would not count here, or CAs of which none is known, are refused before anything is kept. The connection was
    /// verified by the CAs that are known here, or the answer by the key that was pinned at enrolment: what it tells of the next CA is
    /// told by whoever has the server's key.
    fn keep_renewed(&self, key: &Key, renewed: &RenewReply, now_s: i64) -> Result<(), EnrolError> {
        let (federation, holder) = (&self.enrolled.federation, &Holder::Site(self.enrolled.site.clone()));
        let known_pem = &self.authority_pem()?;
        let RenewReply { certificate_pem, authority_pem, .. } = renewed;
        let renewing = enrolment::Renewing { federation, holder, key, known_pem };
        enrolment::require_renewed(renewing, certificate_pem, authority_pem, now_s)?;
        Ok(self.credentials.replace(certificate_pem, authority_pem)?)
    }

    /// SHA-256 of each CA's certificate that is known here.
    pub fn authorities(&self) -> Result<Vec<Digest>, EnrolError> {
        Ok(authority::fingerprints(&self.authority_pem()?)?)
    }

    fn authority_pem(&self) -> Result<String, DiskError> {
        let path = self.credentials.authority_path();
        std::fs::read_to_string(&path).map_err(durable::told("read", &path))
    }
}

/// Enrols this site with an invitation, or once more: after its certificate expired or was revoked, with a new key. A key from
/// an attempt that was cut short is used again.
pub async fn enrol(home: &Home, network: &NetworkConfig, invitation: &str) -> Result<Enrolled, EnrolError> {
    let invitation: Invitation = invitation.parse()?;
    let invited = match &invitation.holder {
        Holder::Site(site) => site.clone(),
        Holder::Person(person) => return Err(EnrolError::ForAPerson(person.told())),
    };
    if let Ok(Enrolled { federation, site, .. }) = enrolled(home)
        && (site != invited || federation != invitation.federation)
    {
        return Err(EnrolError::Already { site, federation });
    }
    let credentials = Credentials::at(home.identity());
    let key = credentials.next()?;
    let signer = SigningKey::load_or_create(&signing_key_path(home))?;
    let inspection = network.inspection_pem()?;
    // Without CAs of an inspection, this is what it is for everybody.
    let tls = tls::signed_enrolment_config(&invitation.federation, invitation.authority, inspection.as_deref())?;
    let route = network.route(&invitation.address)?;
    let mut client =
        EnrolmentClient::new(channel(&invitation.address, tls, route)?).max_decoding_message_size(MESSAGE_BYTES);
    let request = enrolment::request(&invitation, &key, &signer)?;
    let reply = client.enrol(EnrolRequest::from(request)).await.map_err(LinkError::from)?.into_inner();
    let welcome = Welcome::try_from(reply).map_err(|_| EnrolError::NoKey)?;
    enrolment::require_welcome(&invitation, &key, &welcome)?;
    let enrolled = Enrolled {
        federation: invitation.federation,
        site: invited,
        address: invitation.address,
        fingerprint: fingerprint_text(invitation.authority),
        fingerprint_words: fingerprint_words(invitation.authority),
        aggregator_key: welcome.aggregator_key,
    };
    keep(home, &enrolled, &welcome, (invitation.authority, signer.verifying()))?;
    Ok(enrolled)
}

/// Takes what the federation's CA made for the next key, and who this site is from now on. The key comes to be the one in use last:
/// until then a crash or a full disk leaves it the next one, and the same invitation, for which it gets the same answer, is typed
/// again.
fn keep(
    home: &Home,
    enrolled: &Enrolled,
    welcome: &Welcome,
    (authority, signing_key): (Digest, VerifyingKey),
) -> Result<(), EnrolError> {
    let Enrolled { federation, site, aggregator_key, .. } = enrolled.clone();
    Ledger::at(home.ledger()).enter(&Event::Enrolled { federation, site, authority, aggregator_key, signing_key })?;
    let path = home.identity().join("federation.json");
    let bytes = serde_json::to_vec_pretty(enrolled).map_err(|error| durable::told("write", &path)(error.into()))?;
    durable::write(&path, &bytes)?;
    Ok(Credentials::at(home.identity()).replace(&welcome.certificate_pem, &welcome.authority_pem)?)
}

/// How an enrolled site calls its aggregator, with the certificate as it is now.
pub fn way(home: &Home, network: &NetworkConfig) -> Result<Way, EnrolError> {
    presented(&enrolled(home)?, &Credentials::at(home.identity()), network)
}

fn presented(enrolled: &Enrolled, credentials: &Credentials, network: &NetworkConfig) -> Result<Way, EnrolError> {
    let (key, certificate_pem) = credentials.load()?;
    let path = credentials.authority_path();
    let authority_pem = std::fs::read_to_string(&path).map_err(durable::told("read", &path))?;
    let (federation, route) = (&enrolled.federation, network.route(&enrolled.address)?);
    Ok(match network.channel {
        ChannelMode::Mutual => {
            Way { tls: tls::site_config(federation, &certificate_pem, &authority_pem, &key)?, route, caller: None }
        }
        ChannelMode::Signed => {
            let inspection = network.inspection_pem()?;
            let tls = tls::signed_config(federation, &authority_pem, inspection.as_deref())?;
            let caller = Caller::new(federation, &certificate_pem, &key, enrolled.aggregator_key, MESSAGE_BYTES)?;
            Way { tls, route, caller: Some(Arc::new(caller)) }
        }
    })
}

fn signing_key_path(home: &Home) -> PathBuf {
    home.identity().join("signing.key")
}

/// Who this site is, if it is enrolled.
pub fn enrolled(home: &Home) -> Result<Enrolled, EnrolError> {
    let path = home.identity().join("federation.json");
    let bytes = durable::read_if_there(&path)?.ok_or(EnrolError::NotYet)?;
    Ok(serde_json::from_slice(&bytes).map_err(|error| durable::told("read", &path)(error.into()))?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use certs::authority::{Authority, requested_key};

    use super::*;

    #[test]
    fn an_enrolment_that_is_cut_short_before_its_end_keeps_the_key_that_the_invitation_was_used_with() {
        let folder = tempfile::tempdir().unwrap();
        let (home, federation, site) = (Home::at(folder.path().join("state")), "cmr".parse().unwrap(), "aalst".parse());
        let authority = Authority::create(&folder.path().join("ca"), &federation, 1_800_000_000).unwrap();
        let (pinned, site): (_, SiteId) = (authority.fingerprint().unwrap(), site.unwrap());
        let asked = || requested_key(&Credentials::at(home.identity()).next().unwrap().csr_pem().unwrap()).unwrap();
        let key = Credentials::at(home.identity()).next().unwrap();
        let (before, signing) = (asked(), SigningKey::load_or_create(&signing_key_path(&home)).unwrap());
        let enrolled = Enrolled {
            federation: federation.clone(),
            site: site.clone(),
            address: "aggregator:4433".to_owned(),
            fingerprint: fingerprint_text(pinned),
            fingerprint_words: fingerprint_words(pinned),
            aggregator_key: VerifyingKey([7; 32]),
        };
        let welcome = Welcome {
            certificate_pem: authority
                .issue_site(&key.csr_pem().unwrap(), &site, 1_800_000_000)
                .unwrap()
                .certificate_pem,
            authority_pem: authority.certificate_pem().to_owned(),
            aggregator_key: enrolled.aggregator_key,
            authority_proof: Vec::new(),
            signing_certificate_pem: None,
        };
        let kept = || keep(&home, &enrolled, &welcome, (pinned, signing.verifying()));
        // What cannot be written in turn: the ledger, who this site is, the CA's certificate.
        for odd in [home.ledger(), home.identity().join("federation.json.part"), home.identity().join("authority.crt")]
        {
            fs::create_dir(&odd).unwrap();
            assert!(kept().is_err(), "{}", odd.display());
            assert_eq!(asked(), before, "{}", odd.display());
            fs::remove_dir(&odd).unwrap();
        }
        kept().unwrap();
        assert_eq!(super::enrolled(&home).unwrap(), enrolled);
        let (in_use, certificate_pem) = Credentials::at(home.identity()).load().unwrap();
        tls::site_config(&federation, &certificate_pem, &welcome.authority_pem, &in_use).unwrap();
        assert_ne!(asked(), before, "it is in use");
    }

    #[test]
    fn a_renewal_by_a_ca_that_is_not_known_here_leaves_all_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let (home, now) = (Home::at(folder.path().join("state")), 1_800_000_000);
        let (federation, site): (FederationName, SiteId) = ("cmr".parse().unwrap(), "aalst".parse().unwrap());
        let authority = Authority::create(&folder.path().join("ca"), &federation, now).unwrap();
        let foreign = Authority::create(&folder.path().join("foreign"), &federation, now).unwrap();
        let credentials = Credentials::at(home.identity());
        let issued =
            |by: &Authority, key: &Key| by.issue_site(&key.csr_pem().unwrap(), &site, now).unwrap().certificate_pem;
        let first = credentials.next().unwrap();
        credentials.replace(&issued(&authority, &first), authority.certificate_pem()).unwrap();
        let pinned = authority.fingerprint().unwrap();
        let enrolled = Enrolled {
            federation,
            site: site.clone(),
            address: "aggregator:4433".to_owned(),
            fingerprint: fingerprint_text(pinned),
            fingerprint_words: fingerprint_words(pinned),
            aggregator_key: VerifyingKey([7; 32]),
        };
        let signer = Arc::new(SigningKey::load_or_create(&signing_key_path(&home)).unwrap());
        let member = Member { enrolled, credentials: credentials.clone(), signer, network: NetworkConfig::default() };
        let next = credentials.next().unwrap();
        let files = || -> Vec<_> {
            let mut files: Vec<_> = fs::read_dir(home.identity()).unwrap().map(|entry| entry.unwrap().path()).collect();
            files.sort();
            files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
        };
        let reply = |certificate_pem: String, by: &Authority| RenewReply {
            certificate_pem,
            authority_pem: by.certificate_pem().to_owned(),
        };
        let before = files();
        let of_foreign = issued(&foreign, &next);
        for lie in [reply(of_foreign.clone(), &foreign), reply(of_foreign, &authority)] {
            assert!(matches!(member.keep_renewed(&next, &lie, now), Err(EnrolError::NotWelcome(_))));
            assert_eq!(files(), before);
        }
        member.keep_renewed(&next, &reply(issued(&authority, &next), &authority), now).unwrap();
        assert_ne!(files(), before);
        assert_eq!(member.authorities().unwrap(), [pinned]);
    }
}
