//! Whatever the bytes are: what takes them from others, or from a disk, answers with a value or a refusal (`fuzz/takes.rs`).
//! Bytes that mean nothing, and bytes of the right kind of which some are changed, cut off or said twice.

use std::collections::BTreeMap;

use common::{Meters, NamedTensors, Phase, Progress, RoundNumber, UpdateManifest};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use prost::Message;
use proto::convert::Announced;
use proto::wire;

use crate::bench::{plan_draft, site_id, weights};

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

/// Bytes that each of those takes.
fn right() -> [Vec<u8>; 6] {
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
    ]
}

fn take(bytes: &[u8]) {
    takes::message(bytes);
    takes::manifest(bytes);
    takes::weights(bytes);
    takes::update(bytes);
    takes::plan(bytes);
    takes::record(bytes);
}

/// Bytes of the right kind after something happened to them.
fn spoilt() -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<Index>(), any::<u8>()), 0..4);
    let cut = proptest::option::of(any::<Index>());
    let twice = proptest::option::of((any::<Index>(), any::<Index>()));
    (0..6_usize, changes, cut, twice).prop_map(|(kind, changes, cut, twice)| {
        let mut bytes = right()[kind].clone();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Some((from, to)) = twice {
            let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
            let again = bytes[from.min(to)..from.max(to)].to_vec();
            bytes.splice(to..to, again);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        bytes
    })
}

#[test]
fn bytes_of_the_right_kind_are_taken() {
    let [report, announced, weights, plan, record, body] = right();
    assert!(Announced::<Progress>::try_from(wire::ReportRequest::decode(&*report).unwrap()).is_ok());
    assert!(UpdateManifest::try_from(wire::UpdateManifest::decode(&*announced).unwrap()).is_ok());
    assert_eq!(weights.len() as u64, takes::layout().bytes());
    assert!(common::Plan::from_agreed_bytes(&plan, common::Digest::of(&plan)).is_ok());
    assert!(common::codec::decode::<takes::Record>(takes::RECORD, &record).is_ok());
    [report, announced, weights, plan, record, body].iter().for_each(|bytes| take(bytes));
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
