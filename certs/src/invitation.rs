//! An invitation: one printable line that a coordinator hands to a hospital, or to a person.
//!
//! It carries a single-use token for one site or person and the digest of the CA's certificate, so that the very first
//! contact is authenticated as well. Whoever holds it may enrol as that holder, once: hand it over as one would a key.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use common::{Digest, FederationName, Holder};

use crate::CertsError;
use crate::signing::SigningKey;

const PREFIX: &str = "cmrfed1.";

/// A single-use secret of 32 random bytes, never printed but inside an invitation.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

/// An invitation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// The federation.
    pub federation: FederationName,
    /// Where its aggregator is reached: host:port.
    pub address: String,
    /// The site or the person that is invited.
    pub holder: Holder,
    /// The secret.
    pub token: Token,
    /// SHA-256 of the CA's certificate.
    pub authority: Digest,
}

/// Why a line is not an invitation.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvitationError {
    /// It does not begin as one does.
    #[error("this is not an invitation: it begins with {PREFIX:?}, and is made by `aggregator invite <site>`")]
    NotOne,
    /// Some of it is missing or changed.
    #[error("the invitation is damaged ({0}): copy the whole line again")]
    Damaged(&'static str),
}

impl Token {
    /// The key that it makes. Whoever enrols signs with it, so that the secret itself never travels: who opens TLS on the way, or
    /// reads what the aggregator stores, has nothing to enrol with.
    pub fn key(&self) -> Result<SigningKey, CertsError> {
        SigningKey::of_secret(&[b"cmrfed invitation 1\n", &self.0[..]].concat())
    }

    /// What the aggregator stores of it: the digest of that key's public half.
    pub fn digest(&self) -> Result<Digest, CertsError> {
        Ok(Digest::of(&self.key()?.verifying().0))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(not shown)")
    }
}

impl Invitation {
    /// An invitation with a new token, from the system's random source.
    pub fn new(
        federation: FederationName,
        address: String,
        holder: Holder,
        authority: Digest,
    ) -> Result<Self, CertsError> {
        let mut token = [0; 32];
        let source = Path::new("/dev/urandom");
        File::open(source).and_then(|mut file| file.read_exact(&mut token)).map_err(|error| CertsError::Disk {
            what: "read",
            path: source.display().to_string(),
            source: error,
        })?;
        Ok(Self { federation, address, holder, token: Token(token), authority })
    }
}

impl fmt::Display for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = format!("{}\n{}\n{}", self.federation, self.address, self.holder);
        let body = [&self.token.0[..], &self.authority.0, names.as_bytes()].concat();
        let checked = [&body[..], &Digest::of(&body).0[..4]].concat();
        write!(f, "{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(checked))
    }
}

impl FromStr for Invitation {
    type Err = InvitationError;
    fn from_str(line: &str) -> Result<Self, InvitationError> {
        let encoded = line.trim().strip_prefix(PREFIX).ok_or(InvitationError::NotOne)?;
        let damaged = InvitationError::Damaged;
        let checked = BASE64_URL_SAFE_NO_PAD.decode(encoded).map_err(|_| damaged("a character is wrong"))?;
        let (body, check) = checked.split_last_chunk::<4>().ok_or(damaged("it is too short"))?;
        if Digest::of(body).0[..4] != *check {
            return Err(damaged("its checksum differs"));
        }
        let (token, rest) = body.split_first_chunk::<32>().ok_or(damaged("it is too short"))?;
        let (authority, names) = rest.split_first_chunk::<32>().ok_or(damaged("it is too short"))?;
        let names = std::str::from_utf8(names).map_err(|_| damaged("a name is wrong"))?;
        let [federation, address, holder] = names.split('\n').collect::<Vec<_>>()[..] else {
            return Err(damaged("a name is missing"));
        };
        Ok(Self {
            federation: federation.parse().map_err(|_| damaged("the federation's name is wrong"))?,
            address: address.to_owned(),
            holder: holder.parse().map_err(|_| damaged("the name of who is invited is wrong"))?,
            token: Token(*token),
            authority: Digest(*authority),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invitation_reads_back_and_a_changed_character_is_noticed() {
        let invitation = Invitation::new(
            "cmr".parse().unwrap(),
            "aggregator.example.org:4433".to_owned(),
            "aalst".parse().unwrap(),
            Digest::of(b"ca"),
        )
        .unwrap();
        let line = invitation.to_string();
        assert_eq!(line.parse::<Invitation>().unwrap(), invitation);
        for place in PREFIX.len()..line.len() {
            let mut changed = line.clone().into_bytes();
            changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
            assert!(String::from_utf8(changed).unwrap().parse::<Invitation>().is_err(), "place {place}");
        }
        assert_eq!("hello".parse::<Invitation>(), Err(InvitationError::NotOne));
        assert!(!format!("{invitation:?}").contains(&format!("{:?}", invitation.token.0)));
    }
}
