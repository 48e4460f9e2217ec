//! What intake and worker say to each other over a pipe.
//!
//! A message is `b"CMRw"`, the request's number and the lengths of text and payload (u32, little-endian), the text as
//! JSON, and the payload: little-endian f32. An answer bears its request's number. Both lengths are held to what the
//! request asks for, and memory grows with the bytes that come, because the worker has read hostile files and may say
//! anything.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Span;
use crate::archive::Entry;
use crate::dicom::ImageHeader;
use crate::limits::IntakeLimits;
use crate::skip::SkipReason;

const MAGIC: &[u8; 4] = b"CMRw";
/// Largest text of a message.
const MAX_TEXT: usize = 64 << 20;
/// Largest text of an answer whose payload counts.
const MAX_TEXT_BESIDE_VALUES: usize = 64 << 10;

/// From intake to worker.
#[derive(Serialize, Deserialize)]
pub(super) enum Request {
    /// First of all: the secret comes over the pipe, so that no list of processes shows it. The source is the folder, or the
    /// archive, that all later paths lie in.
    Begin {
        secret: String,
        limits: IntakeLimits,
        source: Vec<u8>,
    },
    Open {
        path: Vec<u8>,
    },
    Header {
        path: Vec<u8>,
        entry: u32,
    },
    Syntax {
        path: Vec<u8>,
        entry: Option<u32>,
    },
    Frames {
        path: Vec<u8>,
        span: Span,
    },
}

/// The longest text and payload that a message may have, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    text: usize,
    payload: usize,
}

impl Bounds {
    /// Of a request.
    pub(super) const REQUEST: Self = Self { text: MAX_TEXT, payload: 0 };
}

impl Request {
    /// Of its answer.
    pub(super) fn bounds(&self) -> Bounds {
        match self {
            Self::Frames { span, .. } => {
                Bounds { text: MAX_TEXT_BESIDE_VALUES, payload: span.values().saturating_mul(4) }
            }
            _ => Bounds { text: MAX_TEXT, payload: 0 },
        }
    }
}

/// From worker to intake.
#[derive(Serialize, Deserialize)]
pub(super) enum Response {
    /// The kernel holds it to its orders: it may be asked now.
    Begun,
    Archive(Vec<Entry>),
    Header(Box<ImageHeader>),
    Syntax(String),
    /// Values are the payload.
    Frames,
    Skip(SkipReason),
}

pub(super) fn write_message<T: Serialize>(
    to: &mut impl Write,
    number: u32,
    message: &T,
    payload: &[f32],
) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let mut bytes = vec![0; payload.len() * 4];
    bytes.as_chunks_mut::<4>().0.iter_mut().zip(payload).for_each(|(to, value)| *to = value.to_le_bytes());
    let too_long = |_| io::Error::new(io::ErrorKind::InvalidData, "a message of the intake worker is too long");
    let mut head = MAGIC.to_vec();
    for part in [number, u32::try_from(text.len()).map_err(too_long)?, u32::try_from(bytes.len()).map_err(too_long)?] {
        head.extend_from_slice(&part.to_le_bytes());
    }
    for part in [&head, &text, &bytes] {
        to.write_all(part)?;
    }
    to.flush()
}

/// The next message, with its number and payload.
pub(super) fn read_message<T: DeserializeOwned>(
    from: &mut impl Read,
    bounds: Bounds,
) -> io::Result<(u32, T, Vec<f32>)> {
    let mut head = [0; 16];
    from.read_exact(&mut head)?;
    let part = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (number, text, payload) = (part(4), part(8) as usize, part(12) as usize);
    if &head[..4] != MAGIC || text > bounds.text || payload > bounds.payload || payload % 4 != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a message of the intake worker"));
    }
    let message = serde_json::from_slice(&read_bytes(from, text)?)?;
    let bytes = read_bytes(from, payload)?;
    let (values, _) = bytes.as_chunks::<4>();
    Ok((number, message, values.iter().map(|value| f32::from_le_bytes(*value)).collect()))
}

fn read_bytes(from: &mut impl Read, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() == length { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { text: 100, payload: 8 };

    #[test]
    fn a_message_reads_back_and_a_garbled_one_allocates_nothing() {
        let mut pipe = Vec::new();
        write_message(&mut pipe, 7, &Request::Open { path: b"/a".to_vec() }, &[1.5, -2.0]).unwrap();
        let (number, message, payload) = read_message::<Request>(&mut pipe.as_slice(), BOUNDS).unwrap();
        assert!(matches!(message, Request::Open { path } if path == b"/a"));
        assert_eq!((number, payload), (7, vec![1.5, -2.0]));
        for place in (0..4).chain(8..16) {
            let mut garbled = pipe.clone();
            garbled[place] ^= 0xff;
            assert!(read_message::<Request>(&mut garbled.as_slice(), BOUNDS).is_err(), "byte {place}");
        }
    }

    #[test]
    fn an_answer_may_hold_the_values_that_were_asked_for_and_no_more() {
        let frames =
            |count, matrix| Request::Frames { path: Vec::new(), span: Span { entry: None, first: 0, count, matrix } };
        let mut pipe = Vec::new();
        write_message(&mut pipe, 1, &Response::Frames, &[0.0; 12]).unwrap();
        let read = |request: &Request| read_message::<Response>(&mut pipe.as_slice(), request.bounds());
        let (number, _, values) = read(&frames(2, [2, 3])).unwrap();
        assert_eq!((number, values), (1, vec![0.0; 12]));
        assert!(read(&frames(1, [2, 3])).is_err());
        assert!(read(&Request::Open { path: Vec::new() }).is_err());
        assert_eq!(frames(u32::MAX, [u32::MAX; 2]).bounds().payload, usize::MAX);
    }

    #[test]
    fn a_claimed_length_allocates_only_what_comes() {
        let mut pipe = Vec::new();
        write_message(&mut pipe, 1, &Response::Frames, &[]).unwrap();
        pipe[12..16].copy_from_slice(&0xffff_fffc_u32.to_le_bytes());
        let bounds = Bounds { text: 100, payload: usize::MAX };
        let error = read_message::<Response>(&mut pipe.as_slice(), bounds).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
