//! A holder's key and certificate in one folder, and how they are replaced: by new ones made beside them, so that a crash at
//! any instant leaves a pair that belongs together.
//!
//! ```text
//! site.key  site.crt                 what is used; of a person person.key and person.crt
//! next.key                           made for a renewal, and for its repetition if the answer is lost
//! next.key  next.crt                 the answer is here: next.key becomes site.key, then next.crt site.crt
//!           next.crt                 a crash between the two: the second is made up for
//! ```

use std::path::{Path, PathBuf};

use crate::identity::Validity;
use crate::keys::Key;
use crate::{CertsError, files};

/// The folder of a holder's key and certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    folder: PathBuf,
    whose: &'static str,
}

impl Credentials {
    /// A site's in `folder`. Nothing is read yet.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), whose: "site" }
    }

    /// A person's in `folder`.
    pub fn of_person(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), whose: "person" }
    }

    /// The key.
    pub fn key_path(&self) -> PathBuf {
        self.folder.join(format!("{}.key", self.whose))
    }

    /// The certificate.
    pub fn certificate_path(&self) -> PathBuf {
        self.folder.join(format!("{}.crt", self.whose))
    }

    /// The CA's certificate, or several while one takes the place of another.
    pub fn authority_path(&self) -> PathBuf {
        self.folder.join("authority.crt")
    }

    fn next_key(&self) -> PathBuf {
        self.folder.join("next.key")
    }

    fn next_certificate(&self) -> PathBuf {
        self.folder.join("next.crt")
    }

    /// The key and the certificate that are used, after a replacement that a crash interrupted is made up for.
    pub fn load(&self) -> Result<(Key, String), CertsError> {
        self.settle()?;
        Ok((Key::load(&self.key_path())?, files::read(&self.certificate_path())?))
    }

    /// When the certificate counts.
    pub fn validity(&self) -> Result<Validity, CertsError> {
        self.settle()?;
        Validity::of_certificate(&files::read(&self.certificate_path())?)
    }

    /// The key that the next certificate is asked for: made now, unless one was made and its certificate not heard of. A
    /// request for the same key gets the same answer.
    pub fn next(&self) -> Result<Key, CertsError> {
        self.settle()?;
        let path = self.next_key();
        if path.exists() { Key::load(&path) } else { Key::create(&path) }
    }

    /// Puts the next key and `certificate_pem`, which was issued for it, in the place of those in use.
    pub fn replace(&self, certificate_pem: &str, authority_pem: &str) -> Result<(), CertsError> {
        files::replace(&self.authority_path(), authority_pem.as_bytes(), 0o644)?;
        files::replace(&self.next_certificate(), certificate_pem.as_bytes(), 0o644)?;
        self.settle()
    }

    fn settle(&self) -> Result<(), CertsError> {
        if !self.next_certificate().exists() {
            return Ok(());
        }
        if self.next_key().exists() {
            files::rename(&self.next_key(), &self.key_path())?;
        }
        files::rename(&self.next_certificate(), &self.certificate_path())
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::authority::{Authority, requested_key};
    use crate::tls;

    #[test]
    fn a_replacement_that_is_cut_at_any_step_leaves_a_key_and_a_certificate_that_belong_together() {
        let federation = "cmr".parse().unwrap();
        let now = 1_800_000_000;
        // Cut after so many of: next.crt written, key renamed, certificate renamed.
        for cut in 0..4 {
            let folder = tempfile::tempdir().unwrap();
            let authority = Authority::create(&folder.path().join("ca"), &federation, now).unwrap();
            let issued = |key: &Key| {
                let site = "aalst".parse().unwrap();
                authority.issue_site(&key.csr_pem().unwrap(), &site, now).unwrap().certificate_pem
            };
            let held = Credentials::at(folder.path().join("identity"));
            let (first, mut used) = (held.next().unwrap(), Vec::new());
            held.replace(&issued(&first), authority.certificate_pem()).unwrap();
            used.push(held.load().unwrap().1);
            let next = held.next().unwrap();
            let asked = |key: &Key| requested_key(&key.csr_pem().unwrap()).unwrap();
            assert_eq!(asked(&held.next().unwrap()), asked(&next), "the same request again");
            let certificate = issued(&next);
            let at = |name: &str| held.folder().join(name);
            if cut > 0 {
                fs::write(at("next.crt"), &certificate).unwrap();
            }
            if cut > 1 {
                fs::rename(at("next.key"), at("site.key")).unwrap();
            }
            if cut > 2 {
                fs::rename(at("next.crt"), at("site.crt")).unwrap();
            }
            let (key, found) = held.load().unwrap();
            assert_eq!(found == certificate, cut > 0, "cut {cut}");
            tls::site_config(&federation, &found, authority.certificate_pem(), &key).unwrap();
            assert_eq!(held.validity().unwrap().not_after_s, now + crate::authority::LEAF_S);
        }
    }
}
