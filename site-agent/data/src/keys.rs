//! Pseudonyms: HMAC-SHA256 under a site's secret, cut to 16 bytes.
//!
//! A patient identifier or a UID is turned into a key in the function that reads it and is kept nowhere. Keys of
//! different kinds are drawn from different domains, so that a patient identifier equal to a UID gives another key.
//! Without the secret nobody can test a guessed identifier against a key.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::Sha256;

/// What only this site knows: 32 bytes that key every pseudonym. Never printed, never in a log, never on the wire.
#[derive(Clone, PartialEq, Eq)]
pub struct SiteSecret([u8; 32]);

impl SiteSecret {
    /// A secret from 32 random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A secret from 64 hexadecimal digits, as a secret's file holds it; white space around them is ignored.
    pub fn from_hex(text: &str) -> Option<Self> {
        parse_hex(text.trim()).map(Self)
    }

    /// The 64 digits that [`SiteSecret::from_hex`] reads, for the secret's own file and nothing else.
    pub fn to_hex(&self) -> String {
        hex(&self.0)
    }

    /// Which secret this is, without giving it away: equal only for equal secrets.
    pub fn fingerprint(&self) -> [u8; 16] {
        self.pseudonym("secret", b"")
    }

    fn pseudonym(&self, domain: &str, value: &[u8]) -> [u8; 16] {
        // HMAC takes keys of any length: RFC 2104.
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(&(domain.len() as u64).to_le_bytes());
        mac.update(domain.as_bytes());
        mac.update(value);
        let full = mac.finalize().into_bytes();
        std::array::from_fn(|i| full[i])
    }
}

impl fmt::Debug for SiteSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SiteSecret(not shown)")
    }
}

macro_rules! key {
    ($(#[$doc:meta])* $vis:vis $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.serialize_str(&hex(&self.0))
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    parse_hex(&text).map(Self).ok_or_else(|| de::Error::custom("32 hexadecimal digits are expected"))
                } else {
                    <[u8; 16]>::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

/// Of what a file says.
macro_rules! key_of_text {
    ($(#[$doc:meta])* $vis:vis $name:ident, $domain:literal) => {
        key!($(#[$doc])* $vis $name);

        impl $name {
            /// The pseudonym of a value under a site's secret; white space and NUL padding around it do not count.
            pub(crate) fn of(secret: &SiteSecret, value: &str) -> Self {
                let value = value.trim_matches(|c: char| c.is_whitespace() || c == '\0');
                Self(secret.pseudonym($domain, value.as_bytes()))
            }
        }
    };
}

key_of_text!(
    /// A patient of this site.
    pub SubjectKey,
    "subject"
);
key_of_text!(
    /// A DICOM study.
    pub StudyKey,
    "study"
);
key_of_text!(
    /// A DICOM series, or the part of one that lies in one orientation.
    pub SeriesKey,
    "series"
);
key_of_text!(
    /// A DICOM instance (one file).
    pub(crate) InstanceKey,
    "instance"
);
key_of_text!(
    /// A series description, for telling whether two series were meant to show the same thing.
    pub(crate) TextKey,
    "text"
);
key!(
    /// A source's path, or a file's below its source.
    pub PathKey
);

impl PathKey {
    /// The pseudonym of a path under a site's secret, to the byte: names that are no UTF-8, and names that end in a space, are files of their own.
    pub(crate) fn of(secret: &SiteSecret, path: &Path) -> Self {
        Self(secret.pseudonym("path", path.as_os_str().as_bytes()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_patient_has_the_same_key_and_another_secret_or_domain_gives_another() {
        let (one, two) = (SiteSecret::new([1; 32]), SiteSecret::new([2; 32]));
        assert_eq!(SubjectKey::of(&one, "PAT-7"), SubjectKey::of(&one, " PAT-7\0 "));
        assert_ne!(SubjectKey::of(&one, "PAT-7"), SubjectKey::of(&two, "PAT-7"));
        assert_ne!(SubjectKey::of(&one, "PAT-7").0, StudyKey::of(&one, "PAT-7").0);
        assert!(!format!("{one:?}").contains("01"), "a secret is never printed");
    }

    #[test]
    fn a_key_is_hmac_sha256_as_another_implementation_computes_it() {
        // Python: hmac.new(bytes(32), (7).to_bytes(8, "little") + b"subject" + b"1234", "sha256").hexdigest()[:32]
        let key = SubjectKey::of(&SiteSecret::new([0; 32]), "1234");
        assert_eq!(key.to_string(), "43127944190535ca2fae7c45ad575a2d");
        assert_eq!(serde_json::from_str::<SubjectKey>(&serde_json::to_string(&key).unwrap()).unwrap(), key);
    }

    #[test]
    fn a_secret_reads_back_from_its_file() {
        let secret = SiteSecret::new(std::array::from_fn(|i| i as u8));
        assert!(SiteSecret::from_hex(&format!("{}\n", secret.to_hex())) == Some(secret));
        assert!(SiteSecret::from_hex("too short").is_none());
    }
}
