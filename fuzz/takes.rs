//! What takes bytes from others, or from a disk: each answers with a value or a refusal, whatever the bytes are. And what it
//! took and writes again, it takes again as the same.
//!
//! For `cargo fuzz`, and for the properties of `aggregator/tests/stories/foreign_bytes.rs`.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use aggregator::inspection::{Fault, inspect};
use aggregator::layout::Layout;
use common::codec::{self, Kind};
use common::{Digest, Directive, NamedTensors, Plan, Progress, Signature, UpdateManifest};
use proto::convert::{Announced, ModelScores};
use proto::wire;

/// A message of the wire: what a site and what an aggregator is sent.
pub(crate) fn message(bytes: &[u8]) {
    again::<wire::ReportRequest, Announced<Progress>>(bytes);
    again::<wire::ReportReply, Directive>(bytes);
    again::<wire::ScoresRequest, Announced<ModelScores>>(bytes);
    manifest(bytes);
}

/// An update's announcement.
pub(crate) fn manifest(bytes: &[u8]) {
    let read =
        |bytes: &[u8]| UpdateManifest::try_from(<wire::UpdateManifest as prost::Message>::decode(bytes).ok()?).ok();
    if let Some(manifest) = read(bytes) {
        let written = prost::Message::encode_to_vec(&wire::UpdateManifest::from(&manifest));
        assert_eq!(format!("{:?}", read(&written)), format!("{:?}", Some(manifest)));
    }
}

fn again<W, D>(bytes: &[u8])
where
    W: prost::Message + Default + From<D>,
    D: TryFrom<W> + std::fmt::Debug + Clone,
{
    let read = |bytes: &[u8]| D::try_from(W::decode(bytes).ok()?).ok();
    if let Some(value) = read(bytes) {
        let written = W::from(value.clone()).encode_to_vec();
        // As text: a number that is none is equal to nothing.
        assert_eq!(format!("{:?}", read(&written)), format!("{:?}", Some(value)));
    }
}

/// A file of weights.
pub(crate) fn weights(bytes: &[u8]) {
    if let Ok(tensors) = NamedTensors::from_safetensors(bytes) {
        let written = tensors.to_safetensors();
        let again = NamedTensors::from_safetensors(&written).expect("what was written is read");
        assert_eq!(again.to_safetensors(), written);
    }
}

/// A file of an update, held to the layout that was agreed on: it passes only if it is that, to the byte before its values.
pub(crate) fn update(bytes: &[u8]) {
    let layout = layout();
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(bytes).expect("room for it");
    match inspect(&file, &Arc::new(layout.clone()), Digest::of(bytes), 1e6) {
        Ok(_) => {
            assert!(bytes.starts_with(layout.header()) && bytes.len() as u64 == layout.bytes());
            let (words, _) = bytes[layout.header().len()..].as_chunks::<4>();
            assert!(words.iter().all(|&word| f32::from_le_bytes(word).is_finite()));
        }
        Err(Fault::Content(..)) => {}
        Err(other) => panic!("neither the file nor its digest is wrong: {other:?}"),
    }
}

/// The layout that updates are held to here.
pub(crate) fn layout() -> Layout {
    let named = [("a.weight", vec![2, 3]), ("b.bias", vec![3])];
    let signature = Signature::new(named.map(|(name, shape)| (name.to_owned(), shape))).expect("names and shapes");
    Layout::of(&signature).expect("a short header")
}

/// A plan, as a site is sent it.
pub(crate) fn plan(bytes: &[u8]) {
    if let Ok(plan) = Plan::from_agreed_bytes(bytes, Digest::of(bytes)) {
        let written = plan.canonical_bytes();
        let again = Plan::from_agreed_bytes(&written, Digest::of(&written)).expect("what was written is read");
        assert_eq!(again.canonical_bytes(), written);
    }
}

/// The kind of the records that are read here.
pub(crate) const RECORD: Kind = Kind { name: *b"fuzzed\0\0", version: 1 };
/// A local record, as of a journal.
pub(crate) type Record = BTreeMap<String, Option<UpdateManifest>>;

/// A stored record: the bytes as they are, and as the body of a record whose checksum is right.
pub(crate) fn record(bytes: &[u8]) {
    let mut whole = codec::encode(RECORD, &()).expect("an empty record");
    let length = whole.len();
    whole[length - 32..].copy_from_slice(&Digest::of(bytes).0);
    whole[length - 40..length - 32].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    whole.extend_from_slice(bytes);
    for record in [bytes, &whole] {
        if let Ok(value) = codec::decode::<Record>(RECORD, record) {
            let written = codec::encode(RECORD, &value).expect("what was read is written");
            assert_eq!(
                codec::decode::<Record>(RECORD, &written).ok().map(|again| format!("{again:?}")),
                Some(format!("{value:?}"))
            );
        }
    }
}
