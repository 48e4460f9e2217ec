//! Wire to domain, refusing what is malformed; domain to wire, which cannot fail.
//!
//! ```text
//! enrolment    who joins, and what it gets          reports    how a site is, and what it is to do
//! updates      what a site sends of a round         signatures whose hand is under which of them
//! ```

mod enrolment;
mod reports;
mod signatures;
mod updates;

use bytes::Bytes;
use common::signed::{Ed25519, VerifyingKey};
use common::{Digest, Holder, RunId, SiteId, TaskName};

pub use updates::ModelScores;

/// A field that is missing, or holds what its type cannot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field {field} of {message}: {why}")]
pub struct Malformed {
    /// The message.
    pub message: &'static str,
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

/// A message that speaks for a site: the site as it says, which the certificate must confirm.
#[derive(Clone, Debug, PartialEq)]
pub struct Announced<T> {
    /// Who the message says it is from.
    pub site: SiteId,
    /// What it says.
    pub value: T,
}

fn text<T>(message: &'static str, field: &'static str, value: &str) -> Result<T, Malformed>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    value.parse().map_err(|error: T::Err| Malformed { message, field, why: error.to_string() })
}

/// A digest from its 32 bytes.
pub fn digest(message: &'static str, field: &'static str, value: &Bytes) -> Result<Digest, Malformed> {
    let bytes: Result<[u8; 32], _> = value.as_ref().try_into();
    bytes.map(Digest).map_err(|_| Malformed {
        message,
        field,
        why: format!("{} bytes are no SHA-256, which has 32", value.len()),
    })
}

/// The 32 bytes of a digest.
pub fn digest_bytes(digest: Digest) -> Bytes {
    Bytes::copy_from_slice(&digest.0)
}

/// The run of a message.
pub fn run(message: &'static str, value: &str) -> Result<RunId, Malformed> {
    text(message, "run", value)
}

/// The site of a message.
pub fn site(message: &'static str, value: &str) -> Result<SiteId, Malformed> {
    text(message, "site", value)
}

/// Who a message is about: a site, or a person in an office.
pub fn holder(message: &'static str, value: &str) -> Result<Holder, Malformed> {
    text(message, "holder", value)
}

/// A text of the wire, where an empty one stands for none.
pub fn told(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// The same the other way.
pub fn untold(text: Option<String>) -> String {
    text.unwrap_or_default()
}

/// The 64 bytes of a signature.
pub fn signature_bytes(signature: Ed25519) -> Bytes {
    Bytes::copy_from_slice(&signature.0)
}

fn finite(message: &'static str, field: &'static str, value: f64) -> Result<f64, Malformed> {
    if value.is_finite() {
        Ok(value)
    } else {
        Err(Malformed { message, field, why: format!("{value} is not a finite number") })
    }
}

/// The public half of a signing key.
pub fn verifying_key(message: &'static str, value: &[u8]) -> Result<VerifyingKey, Malformed> {
    Ok(VerifyingKey(bytes(message, "signing_key", value)?))
}

/// So many bytes.
pub fn bytes<const N: usize>(message: &'static str, field: &'static str, value: &[u8]) -> Result<[u8; N], Malformed> {
    let why = || Malformed { message, field, why: format!("{} bytes, where {N} are expected", value.len()) };
    value.try_into().map_err(|_| why())
}

fn task(message: &'static str, value: &str) -> Result<TaskName, Malformed> {
    TaskName::try_from(value.to_owned()).map_err(|error| Malformed { message, field: "task", why: error.to_string() })
}
