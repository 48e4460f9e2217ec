//! What intake and worker say to each other over a pipe.
//!
//! A message is `b"CMRw"`, the lengths of its text and of its payload (u32, little-endian), the text as JSON, and the payload: little-endian f32. Both lengths are
//! held to a limit before anything is allocated, because the worker has read hostile files and may say anything.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::archive::Entry;
use crate::dicom::ImageHeader;
use crate::limits::IntakeLimits;
use crate::skip::SkipReason;

const MAGIC: &[u8; 4] = b"CMRw";
/// Largest text of a message.
const MAX_TEXT: usize = 64 << 20;
/// Largest payload of a message; one frame of the largest image fits.
const MAX_PAYLOAD: usize = 1 << 30;

/// From intake to worker.
#[derive(Serialize, Deserialize)]
pub(super) enum Request {
    /// First of all: the secret comes over the pipe, so that no list of processes shows it.
    Begin {
        secret: String,
        limits: IntakeLimits,
    },
    Open {
        path: Vec<u8>,
    },
    Header {
        path: Vec<u8>,
        entry: u32,
    },
    Frames {
        path: Vec<u8>,
        entry: Option<u32>,
        first: u32,
        count: u32,
    },
}

/// From worker to intake.
#[derive(Serialize, Deserialize)]
pub(super) enum Response {
    Archive(Vec<Entry>),
    Header(Box<ImageHeader>),
    /// Values are the payload.
    Frames {
        rows: u32,
        columns: u32,
    },
    Skip(SkipReason),
}

pub(super) fn write_message<T: Serialize>(to: &mut impl Write, message: &T, payload: &[f32]) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let mut bytes = vec![0; payload.len() * 4];
    bytes.as_chunks_mut::<4>().0.iter_mut().zip(payload).for_each(|(to, value)| *to = value.to_le_bytes());
    if text.len() > MAX_TEXT || bytes.len() > MAX_PAYLOAD {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message to or from the intake worker is too long"));
    }
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&(text.len() as u32).to_le_bytes()); // both are below 2^32: checked above
    head.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    for part in [&head, &text, &bytes] {
        to.write_all(part)?;
    }
    to.flush()
}

pub(super) fn read_message<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<(T, Vec<f32>)> {
    let garbled = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut head = [0; 12];
    from.read_exact(&mut head)?;
    let length = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
    let (text, payload) = (length(4), length(8));
    if &head[..4] != MAGIC || text > MAX_TEXT || payload > MAX_PAYLOAD || payload % 4 != 0 {
        return Err(garbled("not a message of the intake worker"));
    }
    let mut bytes = vec![0; text];
    from.read_exact(&mut bytes)?;
    let message = serde_json::from_slice(&bytes)?;
    let mut bytes = vec![0; payload];
    from.read_exact(&mut bytes)?;
    let (values, _) = bytes.as_chunks::<4>();
    Ok((message, values.iter().map(|value| f32::from_le_bytes(*value)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reads_back_and_a_garbled_one_allocates_nothing() {
        let mut pipe = Vec::new();
        write_message(&mut pipe, &Request::Open { path: b"/a".to_vec() }, &[1.5, -2.0]).unwrap();
        let (message, payload) = read_message::<Request>(&mut pipe.as_slice()).unwrap();
        assert!(matches!(message, Request::Open { path } if path == b"/a"));
        assert_eq!(payload, [1.5, -2.0]);
        for place in 0..12 {
            let mut garbled = pipe.clone();
            garbled[place] ^= 0xff;
            assert!(read_message::<Request>(&mut garbled.as_slice()).is_err(), "byte {place}");
        }
    }
}
