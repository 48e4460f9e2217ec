//! Whatever the bytes are: what takes them from others, or from a disk, answers with a value or a refusal (`fuzz/takes.rs`).
//! Bytes that mean nothing, and bytes of the right kind of which some are changed, cut off or said twice.

use std::collections::BTreeMap;

use certs::message::framing::{Messages, framed, parted};
use certs::message::headers::{self, Head};
use common::message::Call;
use common::signed::Nonce;
use common::{Digest, Meters, NamedTensors, Phase, Progress, RoundNumber, UpdateManifest};
use http::HeaderMap;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use prost::Message;
use proto::convert::Announced;
use proto::wire;

use crate::bench::{plan_draft, site_id, weights};

#[path = "../../../fuzz/spoil.rs"]
mod spoil;
#[path = "../../../fuzz/takes.rs"]
mod takes;

fn manifest() -> UpdateManifest {
    let delta = weights(60, |place| place as f32);
    UpdateManifest {
        run: "run".parse().unwrap(),
        round: RoundNumber(3),
        site: site_id("a"),
        plan: delta.digest(),
        base: delta.digest(),
        blob: delta.digest(),
        bytes: 1000,
        subjects: 10,
        heads: BTreeMap::new(),
        examples: 0,
        steps: 10,
        meters: Meters { loss: 5.0, teacher_entropy: 1.5, batch_entropy: 3.0, rank_me: 12.0 },
        attestation: None,
    }
}

const KINDS: usize = 12;

/// Bytes that each of those takes.
fn right() -> [Vec<u8>; KINDS] {
    let mut named = NamedTensors::new();
    named.insert("a.weight", vec![2, 3], vec![0.5; 6]);
    named.insert("b.bias", vec![3], vec![0.25; 3]);
    let plan = plan_draft("run", &["a", "b"], 1, 2, 1).with_first_model(named.signature(), named.digest());
    let work = Some((manifest().run, manifest().round));
    let progress = Progress { work, phase: Phase::Training, loss: Some(0.5), ..Progress::idle() };
    let said = Announced { site: site_id("a"), value: progress };
    let record = takes::Record::from([("a".to_owned(), Some(manifest())), ("b".to_owned(), None)]);
    [
        wire::ReportRequest::from(said).encode_to_vec(),
        wire::UpdateManifest::from(&manifest()).encode_to_vec(),
        named.to_safetensors(),
        plan.canonical_bytes(),
        common::codec::encode(takes::RECORD, &record).unwrap(),
        common::codec::encode(takes::RECORD, &record).unwrap().split_off(54),
        takes::SMALLER[0].encode(&named),
        takes::SMALLER[1].encode(&named),
        takes::SMALLER[2].encode(&named),
        takes::SMALLER[3].encode(&named),
        sealed(),
        head(),
    ]
}

/// Pieces of seven bytes, and of two signed messages, of which the second is the last.
fn sealed() -> Vec<u8> {
    let messages = [(&b"a message"[..], 0), (b"", 1)].map(|(content, last)| framed(&[content, &[last], &[7; 64]]));
    [&[6], &messages[0][..], &messages[1]].concat()
}

/// The headers of a signed call, a line each.
fn head() -> Vec<u8> {
    let certificate = b"certificate".to_vec();
    let call = Call {
        method: "/a/B".to_owned(),
        nonce: Nonce([1; 16]),
        incarnation: Nonce([2; 16]),
        time_s: 3,
        certificate: Digest::of(&certificate),
    };
    let mut written = HeaderMap::new();
    headers::write(&Head { call, certificate, signature: [4; 64] }, &mut written);
    [headers::CERTIFICATE, headers::CALL, headers::SIGNATURE].map(|name| written[name].as_bytes().to_vec()).join(&b'\n')
}

fn take(bytes: &[u8]) {
    takes::ALL.iter().for_each(|(name, _)| takes::take(name, bytes));
}

/// Bytes of the right kind after something happened to them.
fn spoilt() -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<Index>(), any::<u8>()), 0..4);
    let cut = proptest::option::of(any::<Index>());
    let twice = proptest::option::of((any::<Index>(), any::<Index>()));
    (0..KINDS, changes, cut, twice).prop_map(|(kind, changes, cut, twice)| {
        let mut bytes = right()[kind].clone();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        spoil::repeat_and_cut(&mut bytes, twice, cut);
        bytes
    })
}

#[test]
fn bytes_of_the_right_kind_are_taken() {
    let all = right();
    let [report, announced, weights, plan, record, _, _, _, _, _, sealed, head] = &all;
    let said: Announced<Progress> = wire::ReportRequest::decode(&**report).unwrap().try_into().unwrap();
    assert_eq!((said.site, said.value.phase), (site_id("a"), Phase::Training));
    let announced: UpdateManifest = wire::UpdateManifest::decode(&**announced).unwrap().try_into().unwrap();
    assert_eq!(announced, manifest());
    assert_eq!(weights.len() as u64, takes::layout().bytes());
    assert_eq!(common::Plan::from_agreed_bytes(plan, Digest::of(plan)).unwrap().canonical_bytes(), *plan);
    let kept: takes::Record = common::codec::decode(takes::RECORD, record).unwrap();
    assert_eq!((kept.len(), kept["a"].as_ref()), (2, Some(&manifest())));
    let mut messages = Messages::new(200);
    messages.add(&sealed[1..]);
    assert!((0..2).all(|_| parted(&messages.next_whole().unwrap().unwrap()).is_ok()) && messages.is_empty());
    assert_eq!(head.iter().filter(|byte| **byte == b'\n').count(), 2);
    all.iter().for_each(|bytes| take(bytes));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_that_mean_nothing_are_answered(bytes in vec(any::<u8>(), 0..600)) {
        take(&bytes);
    }

    #[test]
    fn bytes_that_were_right_and_are_spoilt_are_answered(bytes in spoilt()) {
        take(&bytes);
    }
}
