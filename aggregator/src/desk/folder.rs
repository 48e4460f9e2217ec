//! A person's folder: key, certificate and signing key, made on the person's own machine, and whose aggregator they are for.
//!
//! ```text
//! person.key, signing.key    0600; made here, and never leave
//! person.crt, authority.crt  what the federation's CA made for the key, and the CA
//! federation.json            who this is, where the aggregator is reached, what it signs with
//! ```

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use certs::credentials::Credentials;
use certs::identity::Validity;
use certs::invitation::Invitation;
use certs::signing::SigningKey;
use certs::{CertsError, fingerprint_text, fingerprint_words, tls};
use common::signed::{Ed25519, VerifyingKey, plan_statement};
use common::{Digest, FederationName, Holder, Person};
use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::ClientConfig;

/// Who a person is, and where the aggregator is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolled {
    /// The federation.
    pub federation: FederationName,
    /// The person, with the office.
    pub person: Person,
    /// host:port.
    pub address: String,
    /// The CA's fingerprint, in groups of four digits.
    pub fingerprint: String,
    /// The same in words, for the phone.
    pub fingerprint_words: String,
    /// What the aggregator signs with: told over the connection that the invitation authenticates.
    pub aggregator_key: VerifyingKey,
    /// What this person signs with.
    pub signing_key: VerifyingKey,
}

/// Why a person's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Nobody is enrolled there.
    #[error(
        "{0} is no person's folder: ask for an invitation, then `aggregator enrol <invitation> --as {0}`; the aggregator's own \
         state folder is named with --state"
    )]
    NotEnrolled(String),
    /// Somebody else is.
    #[error(
        "{folder} is enrolled as {person} in {federation}: give another person, office or federation a folder of its own"
    )]
    Already {
        /// The folder.
        folder: String,
        /// Who is.
        person: String,
        /// Where.
        federation: FederationName,
    },
    /// A key or certificate cannot be made or used.
    #[error(transparent)]
    Certs(#[from] CertsError),
    /// The disk said no.
    #[error("{path}: {source}; see to the folder: it must be there, belong to this user and have room")]
    Disk {
        /// Where.
        path: String,
        /// The system's answer.
        source: io::Error,
    },
}

/// A person's folder.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    credentials: Credentials,
}

impl Folder {
    /// The folder at `path`. Nothing is read yet.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), credentials: Credentials::of_person(path) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who is enrolled here.
    pub fn enrolled(&self) -> Result<Enrolled, FolderError> {
        let path = self.path.join("federation.json");
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(FolderError::NotEnrolled(self.path.display().to_string()));
            }
            read => read.map_err(self.told(&path))?,
        };
        serde_json::from_slice(&bytes).map_err(|error| self.told(&path)(error.into()))
    }

    /// Makes the folder, for this user alone, and holds an invitation to who is enrolled here already.
    pub fn prepare(&self, invitation: &Invitation, person: &Person) -> Result<(), FolderError> {
        match self.enrolled() {
            Ok(Enrolled { person: other, federation, .. })
                if other != *person || federation != invitation.federation =>
            {
                let folder = self.path.display().to_string();
                return Err(FolderError::Already { folder, person: other.told(), federation });
            }
            Err(error @ (FolderError::Disk { .. } | FolderError::Certs(_))) => return Err(error),
            _ => {}
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path).map_err(self.told(&self.path))
    }

    /// Key and certificate, and how they are replaced.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The signing key, made if there is none.
    pub fn signing_key(&self) -> Result<SigningKey, FolderError> {
        Ok(SigningKey::load_or_create(&self.path.join("signing.key"))?)
    }

    /// Takes what the federation's CA made for the key that `credentials().next()` is, and who this is from now on.
    pub fn keep(&self, enrolled: &Enrolled, certificate_pem: &str, authority_pem: &str) -> Result<(), FolderError> {
        self.credentials.replace(certificate_pem, authority_pem)?;
        let path = self.path.join("federation.json");
        let bytes = serde_json::to_vec_pretty(enrolled).map_err(|error| self.told(&path)(error.into()))?;
        let beside = path.with_added_extension("part");
        let written = File::create(&beside)
            .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&beside, &path))
            .and_then(|()| File::open(&self.path)?.sync_all());
        written.map_err(self.told(&path))
    }

    /// When the certificate counts.
    pub fn validity(&self) -> Result<Validity, FolderError> {
        Ok(self.credentials.validity()?)
    }

    /// The CAs that are known here.
    pub fn authority_pem(&self) -> Result<String, FolderError> {
        let path = self.credentials.authority_path();
        fs::read_to_string(&path).map_err(self.told(&path))
    }

    /// This person's side of TLS.
    pub fn tls(&self, federation: &FederationName) -> Result<Arc<ClientConfig>, FolderError> {
        let (key, certificate_pem) = self.credentials.load()?;
        Ok(tls::site_config(federation, &certificate_pem, &self.authority_pem()?, &key)?)
    }

    /// This person's hand under a plan.
    pub fn sign(&self, enrolled: &Enrolled, plan: Digest) -> Result<Ed25519, FolderError> {
        let key = SigningKey::load(&self.path.join("signing.key"))?;
        Ok(key.sign(&plan_statement(&enrolled.federation, &enrolled.person.name, plan)))
    }

    fn told<'a>(&self, path: &'a Path) -> impl FnOnce(io::Error) -> FolderError + 'a {
        move |source| FolderError::Disk { path: path.display().to_string(), source }
    }
}

impl Enrolled {
    /// Who the invitation's holder is from now on.
    pub fn of(
        invitation: &Invitation,
        person: Person,
        aggregator_key: VerifyingKey,
        signing_key: VerifyingKey,
    ) -> Self {
        Self {
            federation: invitation.federation.clone(),
            person,
            address: invitation.address.clone(),
            fingerprint: fingerprint_text(invitation.authority),
            fingerprint_words: fingerprint_words(invitation.authority),
            aggregator_key,
            signing_key,
        }
    }

    /// The person as a holder.
    pub fn holder(&self) -> Holder {
        Holder::Person(self.person.clone())
    }
}
