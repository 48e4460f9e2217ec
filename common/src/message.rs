//! What is signed of a call and of its answer, to the byte, where TLS does not reach from one end to the other.
//!
//! ```text
//! site                                                        aggregator
//!   call      method, nonce, incarnation, time, certificate ──▶
//!   message 1 … n, the last of them marked                  ──▶
//!             ◀── message 1 … n of the answer
//!             ◀── the end: how many there were, and the call's status
//! ```
//!
//! Each of them is a statement of its own, and each names the call that it belongs to. So none can be changed, left out, moved,
//! repeated or put into another call, and an answer is to the very call that was made.

use serde::Serialize;

use crate::ids::{Digest, FederationName};
use crate::signed::{Nonce, statement};

/// Most seconds that the clock of who calls may be before or behind the aggregator's.
pub const CLOCK_SKEW_S: u64 = 300;

/// A call, as it is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What is called: the path of the request.
    pub method: String,
    /// Drawn for this call.
    pub nonce: Nonce,
    /// Drawn by the aggregator when it started: a call counts under one start alone.
    pub incarnation: Nonce,
    /// When it was made, in seconds since 1970 by the clock of who calls.
    pub time_s: u64,
    /// Of the certificate (DER) of who calls.
    pub certificate: Digest,
}

/// What is signed of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// That it is made. Without content.
    Call,
    /// A message to the aggregator: its place, from 1 on, and whether it is the last.
    Request {
        /// Its place.
        sequence: u64,
        /// Whether none follows.
        last: bool,
    },
    /// A message of the answer: its place, from 1 on.
    Reply {
        /// Its place.
        sequence: u64,
    },
    /// The answer's end. Its content is the call's status.
    End {
        /// How many messages the answer had.
        messages: u64,
    },
}

/// The statement that is signed of a part of a call, whose content has this digest.
pub fn message_statement(federation: &FederationName, call: &Call, part: Part, content: Digest) -> Vec<u8> {
    let (direction, sequence, last) = match part {
        Part::Call => ("call", 0, false),
        Part::Request { sequence, last } => ("request", sequence, last),
        Part::Reply { sequence } => ("reply", sequence, false),
        Part::End { messages } => ("end", messages, true),
    };
    #[derive(Serialize)]
    struct Message<'a> {
        method: &'a str,
        nonce: Nonce,
        incarnation: Nonce,
        time_s: u64,
        certificate: Digest,
        direction: &'a str,
        sequence: u64,
        last: bool,
        content: Digest,
    }
    let Call { method, nonce, incarnation, time_s, certificate } = call;
    let (nonce, incarnation, time_s, certificate) = (*nonce, *incarnation, *time_s, *certificate);
    statement(
        "message",
        federation,
        &Message { method, nonce, incarnation, time_s, certificate, direction, sequence, last, content },
    )
}

/// Seconds that the clock of who calls is ahead of this one (behind it, if below zero), if that is too many.
pub fn clock_is_off(call: &Call, now_s: u64) -> Option<i64> {
    let ahead = i128::from(call.time_s) - i128::from(now_s);
    let ahead = i64::try_from(ahead).unwrap_or(i64::MAX);
    (ahead.unsigned_abs() > CLOCK_SKEW_S).then_some(ahead)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Call {
        Call {
            method: "/cmrfed.v1.Federation/Report".to_owned(),
            nonce: Nonce([1; 16]),
            incarnation: Nonce([2; 16]),
            time_s: 1_800_000_000,
            certificate: Digest::of(b"certificate"),
        }
    }

    #[test]
    fn a_statement_is_the_same_bytes_for_ever() {
        let statement = message_statement(&"cmr".parse().unwrap(), &call(), Part::Call, Digest::of(b""));
        let expected = format!(
            "cmrfed message 1\ncmr\n{{\"method\":\"/cmrfed.v1.Federation/Report\",\"nonce\":\"{}\",\"incarnation\":\"{}\",\
             \"time_s\":1800000000,\"certificate\":\"{}\",\"direction\":\"call\",\"sequence\":0,\"last\":false,\"content\":\"{}\"}}",
            "01".repeat(16),
            "02".repeat(16),
            Digest::of(b"certificate"),
            Digest::of(b""),
        );
        assert_eq!(String::from_utf8(statement).unwrap(), expected);
    }

    #[test]
    fn whatever_of_a_call_differs_its_statement_differs() {
        let (one, content) = ("cmr".parse().unwrap(), Digest::of(b"content"));
        let (part, request) = (Part::Request { sequence: 1, last: true }, call());
        let changed = |change: &dyn Fn(&mut Call)| {
            let mut call = call();
            change(&mut call);
            message_statement(&one, &call, part, content)
        };
        let statements = [
            message_statement(&one, &request, part, content),
            message_statement(&"cmr-2".parse().unwrap(), &request, part, content),
            message_statement(&one, &request, part, Digest::of(b"other")),
            changed(&|call| call.method.push('s')),
            changed(&|call| call.nonce.0[15] ^= 1),
            changed(&|call| call.incarnation.0[0] ^= 1),
            changed(&|call| call.time_s += 1),
            changed(&|call| call.certificate.0[0] ^= 1),
            message_statement(&one, &request, Part::Request { sequence: 2, last: true }, content),
            message_statement(&one, &request, Part::Request { sequence: 1, last: false }, content),
            message_statement(&one, &request, Part::Reply { sequence: 1 }, content),
            message_statement(&one, &request, Part::End { messages: 1 }, content),
            message_statement(&one, &request, Part::Call, content),
        ];
        for (place, statement) in statements.iter().enumerate() {
            assert!(statements.iter().skip(place + 1).all(|other| other != statement), "{place}");
        }
    }

    #[test]
    fn a_clock_may_be_off_by_five_minutes_either_way_and_no_more() {
        let off = |now_s| clock_is_off(&call(), now_s);
        let at = call().time_s;
        assert_eq!((off(at), off(at - CLOCK_SKEW_S), off(at + CLOCK_SKEW_S)), (None, None, None));
        assert_eq!(off(at - CLOCK_SKEW_S - 1), Some(301));
        assert_eq!(off(at + CLOCK_SKEW_S + 1), Some(-301));
        assert_eq!(clock_is_off(&Call { time_s: u64::MAX, ..call() }, 0), Some(i64::MAX));
    }
}
