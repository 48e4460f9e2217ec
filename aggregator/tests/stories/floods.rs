//! Whoever is let in, or is nobody yet, and floods the server with calls: more at a time than are permitted are refused, and calls that
//! are taken back by the dozen end their connection. Other members notice nothing.
//!
//! Frames are written by hand (RFC 9113), because no client does such things.

use std::sync::Arc;
use std::time::Duration;

use common::Progress;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::rustls::ClientConfig;

use crate::house::{House, WITHIN};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_HEADERS: u8 = 4;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;
/// Calls of one connection at a time, as the server permits them.
const CALLS: u32 = 16;

/// A frame of one direction.
#[derive(Debug)]
struct Frame {
    kind: u8,
    stream: u32,
    payload: Vec<u8>,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A call that begins and does not end: its message never comes.
fn call(number: u32) -> Vec<u8> {
    // HPACK (RFC 7541): two fields of the static table, and three of its names with a value that is not remembered.
    let literal = |name: &[u8], value: &str| [name, &[u8::try_from(value.len()).unwrap()], value.as_bytes()].concat();
    let fields = [
        vec![0x83, 0x87],
        literal(&[0x04], "/cmrfed.v1.Federation/Report"),
        literal(&[0x01], "aggregator"),
        literal(&[0x0f, 0x10], "application/grpc"),
    ];
    frame(HEADERS, END_HEADERS, stream(number), &fields.concat())
}

fn stream(number: u32) -> u32 {
    2 * number + 1
}

/// Sends these frames over a connection of their own, and reads what comes until `enough` of it is there or the server hangs up.
async fn answered(
    house: &House,
    tls: &Arc<ClientConfig>,
    frames: &[Vec<u8>],
    enough: impl Fn(&[Frame]) -> bool,
) -> Vec<Frame> {
    let mut connection = certs::connect::connect(&house.address.to_string(), Arc::clone(tls)).await.unwrap();
    let opening = [PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[])];
    // It may hang up in the middle.
    drop(connection.write_all(&[opening.concat(), frames.concat()].concat()).await);
    let (mut bytes, mut found) = (Vec::new(), Vec::new());
    let reading = async {
        while !enough(&found) {
            match connection.read_buf(&mut bytes).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            while let Some((head, rest)) = bytes.split_first_chunk::<9>() {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                let Some((payload, _)) = rest.split_at_checked(length) else { break };
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                found.push(Frame { kind: head[3], stream, payload: payload.to_vec() });
                bytes.drain(..9 + length);
            }
        }
    };
    timeout(WITHIN, reading).await.expect("an answer in time");
    found
}

/// What a frame that ends a stream, or a connection, says why.
fn reason(frame: &Frame) -> Option<u32> {
    let at = match frame.kind {
        RST_STREAM => 0,
        GOAWAY => 4,
        _ => return None,
    };
    Some(u32::from_be_bytes(frame.payload[at..at + 4].try_into().unwrap()))
}

/// A member's configuration, and a stranger's.
async fn configurations(house: &House) -> [Arc<ClientConfig>; 2] {
    let federation = "wired".parse().unwrap();
    let (key, enrolled) = house.enrolled("flood").await;
    let member =
        certs::tls::site_config(&federation, &enrolled.certificate_pem, &enrolled.authority_pem, &key).unwrap();
    let stranger = certs::tls::enrolment_config(&federation, house.fingerprint()).unwrap();
    [member, stranger]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_more_than_a_connection_may_have_is_refused_and_no_other() {
    let mut house = House::new();
    house.start();
    for tls in configurations(&house).await {
        let calls: Vec<Vec<u8>> = (0..=CALLS).map(call).collect();
        let is_refused = |frame: &Frame| frame.kind == RST_STREAM && reason(frame) == Some(REFUSED_STREAM);
        let found = answered(&house, &tls, &calls, |found| found.iter().any(is_refused)).await;
        let refused: Vec<u32> = found.iter().filter(|frame| is_refused(frame)).map(|frame| frame.stream).collect();
        assert_eq!(refused, [stream(CALLS)], "{found:?}");
    }
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_taken_back_at_once_end_their_connection_and_delay_no_other_member() {
    let mut house = House::new();
    house.start();
    let mut other = house.site("other").await;
    for tls in configurations(&house).await {
        let pairs =
            (0..500).flat_map(|number| [call(number), frame(RST_STREAM, 0, stream(number), &CANCEL.to_be_bytes())]);
        let pairs: Vec<Vec<u8>> = pairs.collect();
        let flood = answered(&house, &tls, &pairs, |_| false);
        let (found, answer) = tokio::join!(flood, timeout(Duration::from_secs(5), other.report(Progress::idle())));
        answer.expect("an answer beside the flood").unwrap();
        let ended: Vec<u32> = found.iter().filter(|frame| frame.kind == GOAWAY).filter_map(reason).collect();
        assert_eq!(ended, [ENHANCE_YOUR_CALM], "{found:?}");
    }
    house.stop().await;
}
