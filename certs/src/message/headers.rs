//! How a signed call's head and an answer's status are written as headers, and read again.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use common::Digest;
use common::message::Call;
use common::signed::Nonce;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{MessageError, SIGNATURE_BYTES};

/// The certificate of who calls.
pub const CERTIFICATE: HeaderName = HeaderName::from_static("cmrfed-certificate");
/// Nonce, incarnation and time of the call.
pub const CALL: HeaderName = HeaderName::from_static("cmrfed-call");
/// The signature of a call's head, or of an answer's end.
pub const SIGNATURE: HeaderName = HeaderName::from_static("cmrfed-signature");
/// Under which start of the aggregator to call, in the refusal of a call under another.
pub const INCARNATION: HeaderName = HeaderName::from_static("cmrfed-incarnation");
/// gRPC's status.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// What an answer's status is: what is signed of it, and what is believed.
const STATUS: [HeaderName; 5] = [
    GRPC_STATUS,
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
    HeaderName::from_static("cmrfed-refusal"),
    INCARNATION,
];
/// Longest certificate that is looked at, in base64.
const LONGEST_CERTIFICATE: usize = 4 << 10;

/// The head of a signed call, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The call.
    pub call: Call,
    /// The certificate, DER.
    pub certificate: Vec<u8>,
    /// The signature over the call.
    pub signature: [u8; SIGNATURE_BYTES],
}

/// Writes a call's head.
pub fn write(head: &Head, into: &mut HeaderMap) {
    let Head { call, certificate, signature } = head;
    let told = format!("{} {} {}", call.nonce, call.incarnation, call.time_s);
    let values = [(CERTIFICATE, BASE64_STANDARD.encode(certificate)), (CALL, told), (SIGNATURE, signed(signature))];
    for (name, value) in values {
        // Letters, digits and spaces.
        let value = HeaderValue::from_str(&value).expect("base64 and numbers are a header's value");
        into.insert(name, value);
    }
}

/// Whether any header says that a call is signed.
pub fn is_signed(headers: &HeaderMap) -> bool {
    [CERTIFICATE, CALL, SIGNATURE].iter().any(|name| headers.contains_key(name))
}

/// The head of a call of this method.
pub fn read(method: &str, headers: &HeaderMap) -> Result<Head, MessageError> {
    let odd = |name: &'static str, why| move || MessageError::Header { name, why };
    let certificate = one(headers, &CERTIFICATE, "cmrfed-certificate")?;
    let not_one = odd("cmrfed-certificate", "holds no certificate");
    if certificate.len() > LONGEST_CERTIFICATE {
        return Err(not_one());
    }
    let certificate = BASE64_STANDARD.decode(certificate).map_err(|_| not_one())?;
    let told = one(headers, &CALL, "cmrfed-call")?;
    let not_a_call = odd("cmrfed-call", "is not nonce, incarnation and seconds");
    let [nonce, incarnation, time] = told.split(' ').collect::<Vec<_>>()[..] else { return Err(not_a_call()) };
    let nonce: Nonce = nonce.parse().map_err(|_| not_a_call())?;
    let incarnation: Nonce = incarnation.parse().map_err(|_| not_a_call())?;
    let time_s: u64 = time.parse().map_err(|_| not_a_call())?;
    let call = Call { method: method.to_owned(), nonce, incarnation, time_s, certificate: Digest::of(&certificate) };
    Ok(Head { call, certificate, signature: signature(headers)? })
}

/// The one signature of these headers.
pub fn signature(headers: &HeaderMap) -> Result<[u8; SIGNATURE_BYTES], MessageError> {
    let told = one(headers, &SIGNATURE, "cmrfed-signature")?;
    let read: Result<common::signed::Ed25519, _> = told.parse();
    read.map(|bytes| bytes.0).map_err(|_| MessageError::Header { name: "cmrfed-signature", why: "is no signature" })
}

/// A signature as a header's value.
pub fn signature_value(signature: &[u8; SIGNATURE_BYTES]) -> HeaderValue {
    HeaderValue::from_str(&signed(signature)).expect("hexadecimal digits are a header's value")
}

fn signed(signature: &[u8; SIGNATURE_BYTES]) -> String {
    common::signed::Ed25519(*signature).to_string()
}

fn one<'a>(headers: &'a HeaderMap, name: &HeaderName, told: &'static str) -> Result<&'a str, MessageError> {
    let mut found = headers.get_all(name).iter();
    match (found.next(), found.next()) {
        (Some(value), None) => {
            value.to_str().map_err(|_| MessageError::Header { name: told, why: "is not plain text" })
        }
        (None, _) => Err(MessageError::Header { name: told, why: "is missing" }),
        (Some(_), Some(_)) => Err(MessageError::Header { name: told, why: "is there twice" }),
    }
}

/// What is signed of an answer's status: a line for each of its headers.
pub fn status_content(headers: &HeaderMap) -> Vec<u8> {
    let mut content = Vec::new();
    for name in &STATUS {
        for value in headers.get_all(name) {
            content.extend_from_slice(name.as_str().as_bytes());
            content.push(b':');
            // A header's value holds no line break.
            content.extend_from_slice(value.as_bytes());
            content.push(b'\n');
        }
    }
    content
}

/// The headers without what nobody signed; some of them are kept besides.
pub fn believed(headers: &HeaderMap, besides: &[HeaderName]) -> HeaderMap {
    let kept = headers.iter().filter(|(name, _)| STATUS.contains(name) || besides.contains(name));
    let mut all = HeaderMap::new();
    kept.for_each(|(name, value)| {
        all.append(name.clone(), value.clone());
    });
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        let certificate = b"certificate".to_vec();
        let call = Call {
            method: "/a/B".to_owned(),
            nonce: Nonce([1; 16]),
            incarnation: Nonce([2; 16]),
            time_s: 3,
            certificate: Digest::of(&certificate),
        };
        Head { call, certificate, signature: [4; SIGNATURE_BYTES] }
    }

    #[test]
    fn a_head_reads_back_as_it_was_written() {
        let mut headers = HeaderMap::new();
        assert!(!is_signed(&headers));
        write(&head(), &mut headers);
        assert!(is_signed(&headers));
        assert_eq!(read("/a/B", &headers).unwrap(), head());
    }

    #[test]
    fn a_head_with_a_header_too_few_too_many_or_odd_is_refused_by_the_headers_name() {
        for name in [CERTIFICATE, CALL, SIGNATURE] {
            let odd = ["", "x y z", "%", "\u{e9}"].map(|value| Some(value.to_owned()));
            let long = Some("A".repeat(LONGEST_CERTIFICATE + 4));
            for value in odd.into_iter().chain([None, long]) {
                let mut headers = HeaderMap::new();
                write(&head(), &mut headers);
                match &value {
                    None => drop(headers.remove(&name)),
                    Some(value) => drop(headers.insert(&name, HeaderValue::from_bytes(value.as_bytes()).unwrap())),
                }
                let read = read("/a/B", &headers);
                // An empty certificate is one that no CA signed: that is told elsewhere.
                let empty = name == CERTIFICATE && value.as_deref() == Some("");
                assert!(empty || read.unwrap_err().to_string().contains(name.as_str()), "{name} {value:?}");
                assert!(value.is_none() || is_signed(&headers));
            }
            let mut headers = HeaderMap::new();
            write(&head(), &mut headers);
            let value = headers[&name].clone();
            headers.append(&name, value);
            assert!(read("/a/B", &headers).unwrap_err().to_string().contains("twice"));
        }
    }

    #[test]
    fn what_is_signed_of_a_status_is_all_that_is_believed_of_it() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("grpc-status", "7"), ("cmrfed-refusal", "revoked"), ("grpc-message", "no"), ("x", "y")] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        assert_eq!(status_content(&headers), b"grpc-status:7\ngrpc-message:no\ncmrfed-refusal:revoked\n");
        let believed = believed(&headers, &[]);
        assert_eq!((believed.len(), believed.contains_key("x")), (3, false));
        headers.append("cmrfed-refusal", HeaderValue::from_static("other"));
        assert!(status_content(&headers).ends_with(b"cmrfed-refusal:revoked\ncmrfed-refusal:other\n"));
    }
}
