//! Enrolment: the key is made here and never leaves; the invitation pins the CA; a CSR comes back as a certificate.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use certs::invitation::{Invitation, InvitationError};
use certs::keys::Key;
use certs::{CertsError, authority, fingerprint_text, tls};
use common::{FederationName, SiteId};
use proto::MESSAGE_BYTES;
use proto::wire::EnrolRequest;
use proto::wire::enrolment_client::EnrolmentClient;
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};

use crate::durable::{self, DiskError};
use crate::home::Home;
use crate::link::{LinkError, channel};
use crate::network::NetworkConfig;

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
}

/// Why a site is not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// Not an invitation.
    #[error(transparent)]
    Invitation(#[from] InvitationError),
    /// Enrolled already.
    #[error("this state folder is enrolled as {site} in {federation} already: give another site its own --state")]
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
    /// The answer is not signed by the CA of the invitation.
    #[error("the aggregator answered with another CA than the invitation names: do not go on; tell the coordinator")]
    OtherAuthority,
}

fn key_path(home: &Home) -> PathBuf {
    home.identity().join("site.key")
}

/// Enrols this site with an invitation. A key from an attempt that was cut short is used again.
pub async fn enrol(home: &Home, network: &NetworkConfig, invitation: &str) -> Result<Enrolled, EnrolError> {
    let invitation: Invitation = invitation.parse()?;
    if let Ok(Enrolled { federation, site, .. }) = enrolled(home) {
        return Err(EnrolError::Already { site, federation });
    }
    let path = key_path(home);
    let key = if path.exists() { Key::load(&path)? } else { Key::create(&path)? };
    let tls = tls::enrolment_config(&invitation.federation, invitation.authority)?;
    let route = network.route(&invitation.address)?;
    let mut client =
        EnrolmentClient::new(channel(&invitation.address, tls, route)?).max_decoding_message_size(MESSAGE_BYTES);
    let request = EnrolRequest {
        site: invitation.site.to_string(),
        token: invitation.token.as_bytes().to_vec().into(),
        csr_pem: key.csr_pem()?,
    };
    let reply = client.enrol(request).await.map_err(LinkError::from)?.into_inner();
    if authority::fingerprint(&reply.authority_pem)? != invitation.authority {
        return Err(EnrolError::OtherAuthority);
    }
    let enrolled = Enrolled {
        federation: invitation.federation,
        site: invitation.site,
        address: invitation.address,
        fingerprint: fingerprint_text(invitation.authority),
    };
    // A certificate for another key would be refused here, before anything is kept.
    tls::site_config(&enrolled.federation, &reply.certificate_pem, &reply.authority_pem, &key)?;
    durable::write(&home.identity().join("authority.crt"), reply.authority_pem.as_bytes())?;
    durable::write(&home.identity().join("site.crt"), reply.certificate_pem.as_bytes())?;
    let path = home.identity().join("federation.json");
    let bytes = serde_json::to_vec_pretty(&enrolled).map_err(|error| durable::told("write", &path)(error.into()))?;
    durable::write(&path, &bytes)?;
    Ok(enrolled)
}

/// Who this site is, if it is enrolled.
pub fn enrolled(home: &Home) -> Result<Enrolled, EnrolError> {
    let path = home.identity().join("federation.json");
    let bytes = durable::read_if_there(&path)?.ok_or(EnrolError::NotYet)?;
    Ok(serde_json::from_slice(&bytes).map_err(|error| durable::told("read", &path)(error.into()))?)
}

/// The TLS configuration of an enrolled site.
pub fn client_config(home: &Home) -> Result<Arc<ClientConfig>, EnrolError> {
    let enrolled = enrolled(home)?;
    let text = |name: &str| {
        let path = home.identity().join(name);
        fs::read_to_string(&path).map_err(durable::told("read", &path))
    };
    let key = Key::load(&key_path(home))?;
    Ok(tls::site_config(&enrolled.federation, &text("site.crt")?, &text("authority.crt")?, &key)?)
}
