//! Names that are parsed once and then trusted: federation, site, person, run, round, digest.

use std::fmt;
use std::io;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Why a written id was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdError {
    /// A label that could be confused, injected into a log or used as a path.
    #[error("{kind} {value:?} is not a name: use 1 to 32 of a-z, 0-9 and '-', for example {example:?}")]
    NotALabel {
        /// Which kind of id was read.
        kind: &'static str,
        /// What was written, cut to 64 characters.
        value: String,
        /// One that would do.
        example: &'static str,
    },
    /// Not 64 hexadecimal digits.
    #[error("digest {0:?} is not a SHA-256: 64 hexadecimal digits are expected")]
    NotADigest(String),
}

fn label(kind: &'static str, value: &str, example: &'static str) -> Result<String, IdError> {
    let permitted = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if (1..=32).contains(&value.len()) && value.bytes().all(permitted) {
        Ok(value.to_owned())
    } else {
        Err(IdError::NotALabel { kind, value: value.chars().take(64).collect(), example })
    }
}

macro_rules! label_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $example:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(value: &str) -> Result<Self, IdError> {
                label($kind, value, $example).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(value: String) -> Result<Self, IdError> {
                value.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

label_id!(
    /// All parties together, under one certificate authority: `[a-z0-9-]{1,32}`.
    FederationName,
    "federation name",
    "cmr-consortium"
);
label_id!(
    /// One hospital's agent: `[a-z0-9-]{1,32}`. On the wire it comes from the peer certificate's URI SAN alone.
    SiteId,
    "site",
    "aalst"
);
label_id!(
    /// A person: `[a-z0-9-]{1,32}`. Like a site's, on the wire it comes from the peer certificate's URI SAN alone.
    PersonId,
    "person",
    "alice"
);
label_id!(
    /// One training from its first model to its last: `[a-z0-9-]{1,32}`.
    RunId,
    "run",
    "pretrain-2026-1"
);

/// A round of a run, counted from 1. Round 0 is the first model, before any training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RoundNumber(pub u32);

impl RoundNumber {
    /// The round after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Whether it is the one after `before`, whatever numbers both are said to be.
    pub fn follows(self, before: Self) -> bool {
        before.0.checked_add(1) == Some(self.0)
    }
}

impl fmt::Display for RoundNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A SHA-256 (FIPS 180-4): the name of a blob, a plan, a signature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The first twelve hexadecimal digits, for people to compare in tables; never used to decide.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

/// Digest of bytes that arrive in pieces.
#[derive(Clone, Debug, Default)]
pub struct DigestBuilder(Sha256);

impl DigestBuilder {
    /// Takes the next bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes taken in so far.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl io::Write for DigestBuilder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Digest {
    type Err = IdError;
    fn from_str(value: &str) -> Result<Self, IdError> {
        let refuse = || IdError::NotADigest(value.chars().take(80).collect());
        if value.len() != 64 || !value.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(refuse());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(value.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(pair).map_err(|_| refuse())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| refuse())?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = IdError;
    fn try_from(value: String) -> Result<Self, IdError> {
        value.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl From<[u8; 32]> for Digest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_name_that_could_be_a_path_or_a_control_sequence_is_refused() {
        for bad in ["", "A", "../a", "a b", "a\u{1b}[31m", "ä", "x".repeat(33).as_str()] {
            assert!(matches!(bad.parse::<SiteId>(), Err(IdError::NotALabel { .. })), "{bad:?}");
        }
        assert_eq!("site-a".parse::<SiteId>().unwrap().as_str(), "site-a");
    }

    #[test]
    fn a_digest_reads_back_what_it_prints() {
        let digest = Digest::of(b"abc");
        assert_eq!(digest.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        assert!("+f".repeat(32).parse::<Digest>().is_err());
    }
}
