//! What takes bytes from others, or from a disk: each answers with a value or a refusal, whatever the bytes are. And what it
//! took and writes again, it takes again as the same.
//!
//! For `cargo fuzz`, and for the properties of `aggregator/tests/stories/foreign_bytes.rs`.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use aggregator::inspection::{Fault, inspect};
use aggregator::layout::Layout;
use certs::message::framing::{Messages, framed, parted};
use certs::message::headers;
use common::codec::{self, Kind};
use common::{Digest, Directive, Encoding, NamedTensors, Plan, Progress, Signature, UpdateManifest};
use http::{HeaderMap, HeaderValue};
use proto::convert::{Announced, ModelScores};
use proto::wire;

/// What answers whatever the bytes are, or panics.
type Takes = fn(&[u8]);

/// All of them, each by the name of its fuzz target.
pub(crate) const ALL: [(&str, Takes); 8] = [
    ("message", message),
    ("manifest", manifest),
    ("weights", weights),
    ("update", update),
    ("encoded_update", encoded_update),
    ("frames", |bytes| {
        frames(bytes);
        head(bytes);
    }),
    ("plan", plan),
    ("record", record),
];

/// Gives bytes to what has this name.
///
/// # Panics
/// If nothing has it.
pub(crate) fn take(name: &str, bytes: &[u8]) {
    let (_, takes) = ALL.iter().find(|(of, _)| *of == name).expect("a name of the table");
    takes(bytes);
}

/// A message of the wire: what a site and what an aggregator is sent.
fn message(bytes: &[u8]) {
    again::<wire::ReportRequest, Announced<Progress>>(bytes);
    again::<wire::ReportReply, Directive>(bytes);
    again::<wire::ScoresRequest, Announced<ModelScores>>(bytes);
    manifest(bytes);
}

/// An update's announcement.
fn manifest(bytes: &[u8]) {
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
fn weights(bytes: &[u8]) {
    if let Ok(tensors) = NamedTensors::from_safetensors(bytes) {
        let written = tensors.to_safetensors();
        let again = NamedTensors::from_safetensors(&written).expect("what was written is read");
        assert_eq!(again.to_safetensors(), written);
    }
}

/// A file of an update, held to the layout that was agreed on: it passes only if it is that, to the byte before its values.
fn update(bytes: &[u8]) {
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

/// A file of an update in each of the smaller encodings: as it is, and as what follows the right header. It passes only if it can
/// be read, and holds nothing that cannot be merged.
fn encoded_update(bytes: &[u8]) {
    for encoding in SMALLER {
        let layout = encoded_layout(encoding);
        let mut whole = [layout.header(), bytes].concat();
        whole.resize(usize::try_from(layout.bytes()).expect("a short file"), 0);
        for file in [bytes, &whole, &[&whole, bytes].concat()] {
            let mut stored = tempfile::tempfile().expect("a file");
            stored.write_all(file).expect("room for it");
            let decoded = encoding.decode(file, layout.signature());
            match inspect(&stored, &Arc::new(layout.clone()), Digest::of(file), 1e6) {
                Ok(_) => {
                    let decoded = decoded.expect("what passes is read");
                    assert!(file.len() as u64 == layout.bytes() && decoded.signature() == *layout.signature());
                    assert!(decoded.iter().all(|(_, tensor)| tensor.values.iter().all(|value| value.abs() <= 8.0)));
                }
                Err(Fault::Content(..)) => {}
                Err(other) => panic!("neither the file nor its digest is wrong: {other:?}"),
            }
        }
    }
}

/// The encodings that are not the values as they are.
pub(crate) const SMALLER: [Encoding; 4] = [Encoding::Bf16, Encoding::F16, Encoding::Int8, Encoding::TopK(0.5)];

fn signature() -> Signature {
    let named = [("a.weight", vec![2, 3]), ("b.bias", vec![3])];
    Signature::new(named.map(|(name, shape)| (name.to_owned(), shape))).expect("names and shapes")
}

/// The layout that updates are held to here.
pub(crate) fn layout() -> Layout {
    Layout::of(&signature()).expect("a short header")
}

fn encoded_layout(encoding: Encoding) -> Layout {
    Layout::encoded(&signature(), encoding).expect("a short header")
}

/// Messages of a signed call, in pieces as long as the first byte says: they are the same wherever the pieces end, and what was taken
/// apart makes the bytes that came.
fn frames(bytes: &[u8]) {
    let Some((piece, body)) = bytes.split_first() else { return };
    let taken = |piece: usize| {
        let (mut messages, mut found) = (Messages::new(LONGEST_MESSAGE), Vec::new());
        for piece in body.chunks(piece) {
            messages.add(piece);
            loop {
                match messages.next_whole() {
                    Ok(Some(message)) => found.push(message),
                    Ok(None) => break,
                    Err(error) => return (found, Err(error.to_string())),
                }
            }
        }
        (found, Ok(messages.is_empty()))
    };
    let (found, end) = taken(body.len().max(1));
    assert_eq!(taken(1 + usize::from(*piece)), (found.clone(), end.clone()));
    let again: Vec<u8> = found.iter().flat_map(|message| framed(&[message]).to_vec()).collect();
    assert!(body.starts_with(&again) && (again.len() == body.len()) == (end == Ok(true)));
    for message in &found {
        if let Ok((content, last, signature)) = parted(message) {
            assert!(content.len() + certs::message::SEALED_BYTES == message.len());
            assert_eq!(framed(&[&content, &[u8::from(last)], &signature]), framed(&[message]));
        }
    }
}

/// The longest message that is taken here.
const LONGEST_MESSAGE: usize = 200;

/// The head of a signed call: each line one of its headers, in their order.
fn head(bytes: &[u8]) {
    let names = [headers::CERTIFICATE, headers::CALL, headers::SIGNATURE];
    let mut sent = HeaderMap::new();
    for (name, line) in names.iter().cycle().zip(bytes.split(|byte| *byte == b'\n')).take(6) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            sent.append(name.clone(), value);
        }
    }
    if let Ok(head) = headers::read("/a/B", &sent) {
        let mut written = HeaderMap::new();
        headers::write(&head, &mut written);
        assert_eq!(headers::read("/a/B", &written).ok(), Some(head));
    }
}

/// A plan, as a site is sent it.
fn plan(bytes: &[u8]) {
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
fn record(bytes: &[u8]) {
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
