//! Local records: a frame of magic, version, length and SHA-256 around bincode.
//!
//! For state that this machine wrote for itself (a site's journal, a cache's index). Never for bytes from elsewhere:
//! the wire is protobuf and weights are safetensors. bincode is unmaintained and pinned at 2.0.1; this is the only
//! module that names it, so another encoding is a change of one file. A golden-bytes test pins the format.

use bincode::config;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ids::Digest;

const MAGIC: &[u8; 4] = b"CMRr";
const HEADER: usize = 4 + 8 + 2 + 8;
/// Largest record body: 256 MiB.
pub const MAX_BODY: usize = 256 << 20;

/// What a record is: eight ASCII bytes and a version, so that one kind is never read as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Eight ASCII bytes, for example `b"journal\0"`.
    pub name: [u8; 8],
    /// Raised with every change of the record's fields.
    pub version: u16,
}

/// Why a record was not written or read.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Not a record at all, or one of another kind.
    #[error("this is not a {expected} record: the file was written by another program, or is damaged")]
    Kind {
        /// What was expected.
        expected: String,
    },
    /// A record of another version.
    #[error("this {kind} record has version {found}; this program reads version {expected}")]
    Version {
        /// What it is.
        kind: String,
        /// The version this program reads.
        expected: u16,
        /// The version found.
        found: u16,
    },
    /// Cut short, or with bytes behind it.
    #[error("a record of {expected} bytes is {found} bytes long: it was cut short or overwritten")]
    Length {
        /// Bytes the header states.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// The body does not have the digest in the header.
    #[error("a record's checksum does not match: the disk returned other bytes than were written")]
    Checksum,
    /// More than [`MAX_BODY`] bytes.
    #[error("a record of {0} bytes is larger than the limit of {MAX_BODY}")]
    TooLarge(usize),
    /// The body is not of the type that was asked for.
    #[error("a record's body cannot be written or read: {0}")]
    Body(String),
}

/// The bytes of a record.
pub fn encode<T: Serialize>(kind: Kind, value: &T) -> Result<Vec<u8>, CodecError> {
    let body = bincode::serde::encode_to_vec(value, config::standard())
        .map_err(|error| CodecError::Body(error.to_string()))?;
    if body.len() > MAX_BODY {
        return Err(CodecError::TooLarge(body.len()));
    }
    let mut record = Vec::with_capacity(HEADER + 32 + body.len());
    record.extend_from_slice(MAGIC);
    record.extend_from_slice(&kind.name);
    record.extend_from_slice(&kind.version.to_le_bytes());
    record.extend_from_slice(&(body.len() as u64).to_le_bytes());
    record.extend_from_slice(&Digest::of(&body).0);
    record.extend_from_slice(&body);
    Ok(record)
}

/// The value of a record; every byte is checked before any is believed.
pub fn decode<T: DeserializeOwned>(kind: Kind, record: &[u8]) -> Result<T, CodecError> {
    let told = || String::from_utf8_lossy(&kind.name).trim_end_matches('\0').to_owned();
    if record.len() < HEADER + 32 || &record[..4] != MAGIC || record[4..12] != kind.name {
        return Err(CodecError::Kind { expected: told() });
    }
    let found = u16::from_le_bytes([record[12], record[13]]);
    if found != kind.version {
        return Err(CodecError::Version { kind: told(), expected: kind.version, found });
    }
    let expected = u64::from_le_bytes(std::array::from_fn(|i| record[14 + i]));
    let body = &record[HEADER + 32..];
    if expected != body.len() as u64 {
        return Err(CodecError::Length { expected, found: body.len() as u64 });
    }
    if body.len() > MAX_BODY {
        return Err(CodecError::TooLarge(body.len()));
    }
    if Digest::of(body).0 != record[HEADER..HEADER + 32] {
        return Err(CodecError::Checksum);
    }
    let limited = config::standard().with_limit::<MAX_BODY>();
    let (value, read) =
        bincode::serde::decode_from_slice(body, limited).map_err(|error| CodecError::Body(error.to_string()))?;
    if read == body.len() { Ok(value) } else { Err(CodecError::Body("bytes are left over".to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind { name: *b"test\0\0\0\0", version: 1 };

    #[test]
    fn every_flipped_byte_and_every_cut_is_refused() {
        let record = encode(KIND, &("round", 7_u32, vec![1.5_f32])).unwrap();
        assert_eq!(decode::<(String, u32, Vec<f32>)>(KIND, &record).unwrap().1, 7);
        for place in 0..record.len() {
            let mut flipped = record.clone();
            flipped[place] ^= 0x10;
            assert!(decode::<(String, u32, Vec<f32>)>(KIND, &flipped).is_err(), "flipped {place}");
            assert!(decode::<(String, u32, Vec<f32>)>(KIND, &record[..place]).is_err(), "cut at {place}");
        }
    }

    #[test]
    fn the_bytes_of_a_record_do_not_change_between_versions_of_this_program() {
        let record = encode(KIND, &(258_u32, "ab")).unwrap();
        let golden = [
            &b"CMRrtest\0\0\0\0\x01\0\x06\0\0\0\0\0\0\0"[..],
            &Digest::of(b"\xfb\x02\x01\x02ab").0,
            b"\xfb\x02\x01\x02ab",
        ];
        assert_eq!(record, golden.concat());
    }
}
