//! The wire, and the only place where wire values become domain values.
//!
//! [`wire`] is generated from `federation.proto`. Everything that arrives passes through [`convert`] before it is
//! believed: ids are parsed, digests measured, enumerations known. Refusals travel as gRPC statuses with a stable code.

pub mod convert;
pub mod refusal;

pub use convert::{Announced, Malformed};

/// Largest chunk of a file, in bytes.
pub const CHUNK_BYTES: usize = 1 << 20;
/// Largest message either side accepts: a chunk and its envelope.
pub const MESSAGE_BYTES: usize = CHUNK_BYTES + (64 << 10);

/// Bytes of a file in one HTTP/2 frame, at most: with the frame's head of 9, four whole TLS records, and what rustls takes in at
/// once. Either side asks the other for frames of this size, and no record is sent for a head or for a rest of one.
pub const FRAME_BYTES: u32 = (64 << 10) - 9;

/// Every call of every service, as HTTP/2 names it: `/package.Service/Method`.
pub const CALLS: &[&str] = include!(concat!(env!("OUT_DIR"), "/calls.rs"));

/// Generated messages, clients and servers.
#[expect(missing_docs, clippy::all, reason = "generated from federation.proto, which documents every field")]
pub mod wire {
    tonic::include_proto!("cmrfed.v1");
}
