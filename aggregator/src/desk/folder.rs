//! A person's folder: key, certificate and signing key, made on the person's own machine, and whose aggregator they are for.
//!
//! ```text
//! person.key, signing.key    0600; made here, and never leave
//! person.crt, authority.crt  what the federation's CA made for the key, and the CA
//! federation.json            who this is, where the aggregator is reached, what it signs with
//! lock                       held by the command that reads or renews the certificate
//! ```

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use certs::credentials::Credentials;
use certs::identity::Validity;
use certs::invitation::Invitation;
use certs::lock::Lock;
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
pub struct Folder(PathBuf);

/// A person's folder that one command has for itself: while a certificate is renewed, its key and it are of two kinds.
#[derive(Debug)]
pub struct Held {
    folder: Folder,
    credentials: Credentials,
    _lock: Option<Lock>,
}

impl Folder {
    /// The folder at `path`. Nothing is read yet.
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Waits until no other command reads or renews the certificate, and has it for itself.
    pub fn hold(&self) -> Result<Held, FolderError> {
        let lock = match Lock::wait(&self.0.join("lock")) {
            Ok(lock) => Some(lock),
            // What cannot be written to is renewed by nobody, and a disk without locks has none.
            Err(CertsError::Disk { source, .. }) if cannot_lock(&source) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Held { folder: self.clone(), credentials: Credentials::of_person(&self.0), _lock: lock })
    }

    /// Who is enrolled here.
    pub fn enrolled(&self) -> Result<Enrolled, FolderError> {
        let path = self.0.join("federation.json");
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(FolderError::NotEnrolled(self.0.display().to_string()));
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
                let folder = self.0.display().to_string();
                return Err(FolderError::Already { folder, person: other.told(), federation });
            }
            Err(error @ (FolderError::Disk { .. } | FolderError::Certs(_))) => return Err(error),
            _ => {}
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0).map_err(self.told(&self.0))
    }

    /// The signing key, made if there is none.
    pub fn signing_key(&self) -> Result<SigningKey, FolderError> {
        Ok(SigningKey::load_or_create(&self.0.join("signing.key"))?)
    }

    /// This person's hand under a plan.
    pub fn sign(&self, enrolled: &Enrolled, plan: Digest) -> Result<Ed25519, FolderError> {
        let key = SigningKey::load(&self.0.join("signing.key"))?;
        Ok(key.sign(&plan_statement(&enrolled.federation, &enrolled.person.name, plan)))
    }

    fn told<'a>(&self, path: &'a Path) -> impl FnOnce(io::Error) -> FolderError + 'a {
        move |source| FolderError::Disk { path: path.display().to_string(), source }
    }
}

impl Held {
    /// Key and certificate, and how they are replaced.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Takes what the federation's CA made for the key that `credentials().next()` is, and who this is from now on. The key comes to be
    /// the one in use last: until then a crash or a full disk leaves it the next one, and the same invitation, for which it gets the
    /// same answer, is typed again.
    pub fn keep(&self, enrolled: &Enrolled, certificate_pem: &str, authority_pem: &str) -> Result<(), FolderError> {
        let path = self.folder.0.join("federation.json");
        let bytes = serde_json::to_vec_pretty(enrolled).map_err(|error| self.folder.told(&path)(error.into()))?;
        let beside = path.with_added_extension("part");
        let written = File::create(&beside)
            .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&beside, &path))
            .and_then(|()| File::open(&self.folder.0)?.sync_all());
        written.map_err(self.folder.told(&path))?;
        Ok(self.credentials.replace(certificate_pem, authority_pem)?)
    }

    /// When the certificate counts.
    pub fn validity(&self) -> Result<Validity, FolderError> {
        Ok(self.credentials.validity()?)
    }

    /// This person's side of TLS, and the digest of the certificate that it presents.
    pub fn tls(&self, federation: &FederationName) -> Result<(Arc<ClientConfig>, Digest), FolderError> {
        let ((key, certificate_pem), authority_pem) = (self.credentials.load()?, self.authority_pem()?);
        let presented = Digest::of(certificate_pem.as_bytes());
        Ok((tls::site_config(federation, &certificate_pem, &authority_pem, &key)?, presented))
    }

    /// The CAs that are known here.
    pub fn authority_pem(&self) -> Result<String, FolderError> {
        let path = self.credentials.authority_path();
        fs::read_to_string(&path).map_err(self.folder.told(&path))
    }
}

fn cannot_lock(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem, Unsupported};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem | Unsupported)
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

#[cfg(test)]
mod tests {
    use certs::authority::{Authority, requested_key};

    use super::*;

    #[test]
    fn a_folder_is_of_one_command_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let held = Folder::at(folder.path()).hold().unwrap();
        let takes = || Lock::take(&folder.path().join("lock")).unwrap();
        assert!(takes().is_none());
        drop(held);
        assert!(takes().is_some());
    }

    #[test]
    fn an_enrolment_that_is_cut_short_before_its_end_keeps_the_key_that_the_invitation_was_used_with() {
        let folder = tempfile::tempdir().unwrap();
        let federation: FederationName = "cmr".parse().unwrap();
        let authority = Authority::create(&folder.path().join("ca"), &federation, 1_800_000_000).unwrap();
        let holder: Holder = "observer/eve".parse().unwrap();
        let person = holder.person().unwrap().clone();
        let pinned = authority.fingerprint().unwrap();
        let invitation = Invitation::new(federation.clone(), "host:1".to_owned(), holder.clone(), pinned).unwrap();
        let own = Folder::at(&folder.path().join("eve"));
        own.prepare(&invitation, &person).unwrap();
        let held = own.hold().unwrap();
        let asked = || requested_key(&held.credentials().next().unwrap().csr_pem().unwrap()).unwrap();
        let (before, csr) = (asked(), held.credentials().next().unwrap().csr_pem().unwrap());
        let issued = authority.issue_holder(&csr, &holder, 1_800_000_000).unwrap().certificate_pem;
        let enrolled = Enrolled::of(&invitation, person, VerifyingKey([7; 32]), VerifyingKey([8; 32]));
        let keeps = || held.keep(&enrolled, &issued, authority.certificate_pem());
        // What cannot be written in turn: who this is, the CA's certificate.
        for odd in ["federation.json.part", "authority.crt"].map(|name| own.path().join(name)) {
            fs::create_dir(&odd).unwrap();
            assert!(keeps().is_err(), "{}", odd.display());
            assert_eq!(asked(), before, "{}", odd.display());
            fs::remove_dir(&odd).unwrap();
        }
        keeps().unwrap();
        assert_eq!(own.enrolled().unwrap(), enrolled);
        held.tls(&federation).unwrap();
        assert_ne!(asked(), before, "it is in use");
    }
}
