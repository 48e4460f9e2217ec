//! Bodies of signed messages, from one end to the other without a network: in pieces of any size, and with anything changed.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use certs::keys::{CallKey, Key};
use certs::message::framing::framed;
use certs::message::opened::Opened;
use certs::message::sealed::{self, Sealed};
use certs::message::{Hand, MessageError, Talk};
use certs::signing::SigningKey;
use common::Digest;
use common::message::Call;
use common::signed::Nonce;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame};
use http_body_util::BodyExt;

const LONGEST: usize = 1000;

/// A body in these pieces.
struct Pieces(VecDeque<Frame<Bytes>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

fn pieces(bytes: &[u8], size: usize, trailers: Option<HeaderMap>) -> Pieces {
    let data = bytes.chunks(size).map(|piece| Frame::data(Bytes::copy_from_slice(piece)));
    Pieces(data.chain(trailers.map(Frame::trailers)).collect())
}

fn talk(nonce: u8) -> Arc<Talk> {
    let call = Call {
        method: "/cmrfed.v1.Federation/Download".to_owned(),
        nonce: Nonce([nonce; 16]),
        incarnation: Nonce([9; 16]),
        time_s: 1_800_000_000,
        certificate: Digest::of(b"certificate"),
    };
    Arc::new(Talk { federation: "cmr".parse().unwrap(), call })
}

fn status(code: &'static str) -> HeaderMap {
    HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static(code))])
}

/// What comes out of a body: its bytes and trailers, or why it does not count.
async fn read<B>(body: B) -> Result<(Bytes, Option<HeaderMap>), MessageError>
where
    B: Body<Data = Bytes, Error = MessageError>,
{
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned();
    Ok((collected.to_bytes(), trailers))
}

struct Keys {
    _folder: tempfile::TempDir,
    site: CallKey,
    site_hand: Hand,
    aggregator: Arc<SigningKey>,
}

fn keys() -> Keys {
    let folder = tempfile::tempdir().unwrap();
    let key = Key::create(&folder.path().join("site.key")).unwrap();
    let authority = certs::authority::Authority::create(&folder.path().join("ca"), &"cmr".parse().unwrap(), 0).unwrap();
    let leaf = authority.issue_site(&key.csr_pem().unwrap(), &"aalst".parse().unwrap(), 1_800_000_000).unwrap();
    let aggregator = Arc::new(SigningKey::create(&folder.path().join("signing.key")).unwrap());
    let site_hand = Hand::of_certificate(&leaf.certificate_pem).unwrap();
    Keys { site: key.for_calls().unwrap(), site_hand, aggregator, _folder: folder }
}

fn messages() -> Vec<u8> {
    [framed(&[b"first"]), framed(&[]), framed(&[b"the ", b"third"])].concat()
}

/// The answer as it goes over the wire.
async fn sent(keys: &Keys, talk: &Arc<Talk>) -> (Bytes, HeaderMap) {
    let body = pieces(&messages(), 7, Some(status("0")));
    let sealed = Sealed::reply(body, Arc::clone(talk), Arc::clone(&keys.aggregator), LONGEST);
    let (bytes, trailers) = read(sealed).await.unwrap();
    (bytes, trailers.unwrap())
}

#[tokio::test]
async fn an_answer_comes_out_as_it_went_in_whatever_the_pieces() {
    let (keys, talk) = (keys(), talk(1));
    let hand = Hand::Aggregator(keys.aggregator.verifying());
    let (bytes, trailers) = sent(&keys, &talk).await;
    for size in 1..bytes.len() + 1 {
        let body = pieces(&bytes, size, Some(trailers.clone()));
        let opened = Opened::reply(body, Arc::clone(&talk), hand.clone(), LONGEST);
        let (found, trailers) = read(opened).await.unwrap();
        assert_eq!((&found[..], trailers), (&messages()[..], Some(status("0"))));
    }
}

#[tokio::test]
async fn no_byte_of_an_answer_may_differ_and_none_be_missing_or_more() {
    let (keys, talk) = (keys(), talk(1));
    let hand = Hand::Aggregator(keys.aggregator.verifying());
    let (bytes, trailers) = sent(&keys, &talk).await;
    let opened = |bytes: &[u8], trailers: Option<HeaderMap>| {
        read(Opened::reply(pieces(bytes, 64, trailers), Arc::clone(&talk), hand.clone(), LONGEST))
    };
    for place in 0..bytes.len() {
        let mut changed = bytes.to_vec();
        changed[place] ^= 1;
        assert!(opened(&changed, Some(trailers.clone())).await.is_err(), "byte {place}");
        assert!(opened(&bytes[..place], Some(trailers.clone())).await.is_err(), "the first {place} bytes");
        assert!(opened(&bytes[..place], None).await.is_err(), "the first {place} bytes and no end");
    }
    assert!(opened(&bytes, None).await.is_err() && opened(&bytes, Some(status("0"))).await.is_err());
    let mut forged = trailers.clone();
    forged.extend(status("7"));
    assert!(opened(&bytes, Some(forged)).await.is_err());
    // Other calls, and other hands.
    let (others, of_others) = sent(&keys, &self::talk(2)).await;
    assert!(opened(&others, Some(trailers.clone())).await.is_err() && opened(&others, Some(of_others)).await.is_err());
    let body = pieces(&bytes, 64, Some(trailers.clone()));
    assert!(read(Opened::reply(body, Arc::clone(&talk), keys.site_hand.clone(), LONGEST)).await.is_err());
    // An answer whose status came with its head has no messages.
    let ended = |bytes| read(Opened::ended(pieces(bytes, 64, None), Arc::clone(&talk), hand.clone()));
    assert!(ended(b"").await.is_ok() && ended(&bytes).await.is_err());
}

#[tokio::test]
async fn a_request_is_its_site_s_one_message_and_ends_where_it_was_signed_to_end() {
    let (keys, talk) = (keys(), talk(1));
    let bytes = sealed::request(&talk, &keys.site, b"content").unwrap();
    let opened = |bytes: &[u8], hand: &Hand, talk: &Arc<Talk>| {
        read(Opened::request(pieces(bytes, 9, None), Arc::clone(talk), hand.clone(), LONGEST))
    };
    let (found, _) = opened(&bytes, &keys.site_hand, &talk).await.unwrap();
    assert_eq!(found, framed(&[b"content"]));
    for place in 0..bytes.len() {
        let mut changed = bytes.to_vec();
        changed[place] ^= 1;
        assert!(opened(&changed, &keys.site_hand, &talk).await.is_err(), "byte {place}");
        assert!(opened(&bytes[..place], &keys.site_hand, &talk).await.is_err(), "the first {place} bytes");
    }
    assert!(opened(&[&bytes[..], &bytes].concat(), &keys.site_hand, &talk).await.is_err(), "twice");
    assert!(opened(&bytes, &keys.site_hand, &self::talk(2)).await.is_err(), "another call's");
    let aggregator = Hand::Aggregator(keys.aggregator.verifying());
    assert!(opened(&bytes, &aggregator, &talk).await.is_err(), "another's hand");
    let long = sealed::request(&talk, &keys.site, &[0; LONGEST + 1]).unwrap();
    assert!(opened(&long, &keys.site_hand, &talk).await.is_err(), "too long");
}
