//! Everything that is wrong with one message or one file, a line each: what is done, the code of the refusal, and words of it.
//! Nothing of it changes anything, and the same site's sound update counts afterwards.

use aggregator::store::{Store, UpdateKey};
use common::plan::Exchange;
use common::{Digest, Encoding, Refusal, RoundNumber, SiteId, TaskName, UpdateManifest};

use crate::bench::{Bench, plan_draft, run_id, site_id, weights};

/// A round that is open, and what site a would send: tensors `backbone.weight` of 97 and `center` of 1 x 3.
struct Scene {
    bench: Bench,
    good: UpdateManifest,
    bytes: Vec<u8>,
    /// Bytes before the first value.
    header: usize,
}

impl Scene {
    fn new() -> Self {
        Self::of(Encoding::F32)
    }

    fn of(encoding: Encoding) -> Self {
        let bench = Bench::empty();
        let mut draft = plan_draft("run", &["a", "b", "c"], 2, 2, 1);
        draft.privacy.max_delta_norm = 70.0;
        draft.aggregation.encoding = encoding;
        if encoding.has_residual() {
            draft.aggregation.exchange = Exchange::Student;
        }
        bench.start_run(draft, 100);
        let delta = weights(100, |_| 0.5);
        let (bytes, header) = (encoding.encode(&delta), encoding.header(&delta.signature()).len());
        let (blob, length) = (Digest::of(&bytes), bytes.len() as u64);
        Self { good: UpdateManifest { blob, bytes: length, ..bench.manifest("a", &delta) }, bytes, header, bench }
    }

    /// The file with these bytes so far behind the header.
    fn with_bytes(&self, at: usize, other: &[u8]) -> Refusal {
        let mut bytes = self.bytes.clone();
        bytes[self.header + at..][..other.len()].copy_from_slice(other);
        self.sends(&bytes)
    }

    fn announces(&self, change: impl FnOnce(&mut UpdateManifest)) -> Refusal {
        let mut manifest = self.good.clone();
        change(&mut manifest);
        self.bench.federation().begin_upload(&site_id("a"), manifest).unwrap_err()
    }

    /// Sends another file, announced as what it is.
    fn sends(&self, bytes: &[u8]) -> Refusal {
        let manifest = UpdateManifest { blob: Digest::of(bytes), bytes: bytes.len() as u64, ..self.good.clone() };
        self.bench.send(&manifest, bytes, 64, bytes.len()).and_then(|_| self.bench.finish(&manifest)).unwrap_err()
    }

    fn with_values(&self, values: &[(usize, u32)]) -> Refusal {
        let mut bytes = self.bytes.clone();
        for (place, bits) in values {
            let at = self.header + 4 * place;
            bytes[at..at + 4].copy_from_slice(&bits.to_le_bytes());
        }
        self.sends(&bytes)
    }

    /// The file with this header in the place of its own, as long as before: what a longer header takes, the values lose.
    fn with_header(&self, text: &str) -> Refusal {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        bytes.resize(self.bytes.len(), 0);
        self.sends(&bytes)
    }

    /// The file with one thing in its header replaced by another of the same length.
    fn with_replaced(&self, from: &str, to: &str) -> Refusal {
        let header = std::str::from_utf8(&self.bytes[8..self.header]).unwrap();
        assert!(header.contains(from) && from.len() == to.len(), "{from:?} {to:?} {header}");
        self.with_header(&header.replacen(from, to, 1))
    }

    fn with_header_length(&self, length: u64) -> Refusal {
        let mut bytes = self.bytes.clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        self.sends(&bytes)
    }

    /// A chunk of the good update, 64 bytes of which are here.
    fn chunk(&self, key: impl FnOnce(&mut UpdateKey), blob: Digest, offset: u64, length: usize) -> Refusal {
        self.bench.send(&self.good, &self.bytes, 64, 64).unwrap();
        let mut of = UpdateKey::of(&self.good);
        key(&mut of);
        self.bench.federation().upload_chunk(&of, blob, offset, &vec![7; length]).unwrap_err()
    }

    fn finish(&self, key: impl FnOnce(&mut UpdateKey), blob: Digest) -> Refusal {
        let mut of = UpdateKey::of(&self.good);
        key(&mut of);
        self.bench.federation().finish_upload(&of, blob).unwrap_err()
    }

    fn chunk_at(&self, offset: u64, length: usize) -> Refusal {
        self.chunk(|_| {}, self.good.blob, offset, length)
    }
}

const NAN: u32 = 0x7fc0_0000;
/// The position of the last value, and of the first and last of the first tensor.
const LAST: usize = 99;
const LAST_OF_FIRST: usize = 96;

fn other() -> Digest {
    Digest::of(b"other")
}

fn task() -> TaskName {
    TaskName::try_from("cine".to_owned()).unwrap()
}

type Case = (&'static str, &'static str, &'static str, fn(&Scene) -> Refusal);

/// What is done, the code, words of the refusal.
const CASES: &[Case] = &[
    // Announcements: of another run, round, plan, base or site.
    ("another run", "unknown-run", "no run other", |s| s.announces(|m| m.run = "other".parse().unwrap())),
    ("the next round", "round-not-open", "round 2", |s| s.announces(|m| m.round = RoundNumber(2))),
    ("round 0", "round-not-open", "round 0", |s| s.announces(|m| m.round = RoundNumber(0))),
    ("the last round there can be", "round-not-open", "4294967295", |s| {
        s.announces(|m| m.round = RoundNumber(u32::MAX))
    }),
    ("another plan", "plan-differs", "fetch the plan", |s| s.announces(|m| m.plan = other())),
    ("another base", "base-differs", "fetch the model", |s| s.announces(|m| m.base = other())),
    ("a site of the cohort", "speaks-for-another", "a's", |s| s.announces(|m| m.site = site_id("b"))),
    ("a site of nowhere", "speaks-for-another", "for z", |s| s.announces(|m| m.site = site_id("z"))),
    ("a site that is not invited", "unknown-run", "no run run", |s| {
        let manifest = UpdateManifest { site: site_id("d"), ..s.good.clone() };
        s.bench.federation().begin_upload(&site_id("d"), manifest).unwrap_err()
    }),
    // Announcements: of what no update of this plan has.
    ("no byte", "update-length", "0 bytes", |s| s.announces(|m| m.bytes = 0)),
    ("a byte less", "update-length", "bytes were announced", |s| s.announces(|m| m.bytes -= 1)),
    ("a byte more", "update-length", "bytes were announced", |s| s.announces(|m| m.bytes += 1)),
    ("2^63 bytes", "update-length", "9223372036854775808", |s| s.announces(|m| m.bytes = 1 << 63)),
    ("2^64 - 1 bytes", "update-length", "18446744073709551615", |s| s.announces(|m| m.bytes = u64::MAX)),
    ("no subject", "update-share", "0 subjects", |s| s.announces(|m| m.subjects = 0)),
    ("subjects that were not rounded", "update-share", "12 subjects", |s| s.announces(|m| m.subjects = 12)),
    ("subjects of four", "update-share", "4 subjects", |s| s.announces(|m| m.subjects = 4)),
    ("more subjects than there are", "update-share", "16777220 subjects", |s| s.announces(|m| m.subjects = 16_777_220)),
    ("2^32 - 1 subjects", "update-share", "4294967295 subjects", |s| s.announces(|m| m.subjects = u32::MAX)),
    ("no step", "update-steps", "0 steps", |s| s.announces(|m| m.steps = 0)),
    ("a step more than a round has", "update-steps", "11 steps", |s| s.announces(|m| m.steps = 11)),
    ("2^32 - 1 steps", "update-steps", "4294967295 steps", |s| s.announces(|m| m.steps = u32::MAX)),
    ("a loss of NaN", "update-meters", "meter", |s| s.announces(|m| m.meters.loss = f64::NAN)),
    ("an infinite entropy", "update-meters", "meter", |s| s.announces(|m| m.meters.teacher_entropy = f64::INFINITY)),
    ("another infinite entropy", "update-meters", "meter", |s| {
        s.announces(|m| m.meters.batch_entropy = f64::NEG_INFINITY)
    }),
    ("an entropy that leaves no room for a difference", "update-meters", "meter", |s| {
        s.announces(|m| m.meters.batch_entropy = -1.7e308)
    }),
    ("a rank of NaN", "update-meters", "meter", |s| s.announces(|m| m.meters.rank_me = -f64::NAN)),
    ("a head in a run that pretrains", "update-heads", "no head cine", |s| {
        s.announces(|m| m.heads = [(task(), 10)].into())
    }),
    // Chunks: 64 bytes of the good update are here.
    ("a chunk without a byte", "malformed", "0 bytes", |s| s.chunk_at(64, 0)),
    ("a chunk past the end", "malformed", "in a file of", |s| s.chunk_at(s.good.bytes - 1, 2)),
    ("a chunk longer than the file", "malformed", "in a file of", |s| s.chunk_at(0, s.bytes.len() + 1)),
    ("a chunk at the end", "malformed", "in a file of", |s| s.chunk_at(s.good.bytes, 1)),
    ("a chunk at 2^63", "malformed", "9223372036854775808", |s| s.chunk_at(1 << 63, 1)),
    ("a chunk at 2^64 - 1", "malformed", "18446744073709551615", |s| s.chunk_at(u64::MAX, 64)),
    ("a chunk from ahead", "offset", "64 is next", |s| s.chunk_at(128, 8)),
    ("a chunk that begins in what is here", "offset", "64 is next", |s| s.chunk_at(60, 8)),
    ("a chunk of another update", "offset", "0 is next", |s| s.chunk(|_| {}, other(), 64, 8)),
    ("a chunk of another run", "unknown-run", "other", |s| {
        s.chunk(|key| key.run = "other".parse().unwrap(), s.good.blob, 64, 8)
    }),
    ("a chunk of the next round", "round-not-open", "round 2", |s| {
        s.chunk(|key| key.round = RoundNumber(2), s.good.blob, 64, 8)
    }),
    ("a chunk of another site's", "offset", "0 is next", |s| {
        s.chunk(|key| key.site = site_id("b"), s.good.blob, 64, 8)
    }),
    ("a chunk of who is not invited", "unknown-run", "no run run", |s| {
        s.chunk(|key| key.site = site_id("d"), s.good.blob, 64, 8)
    }),
    // The end: what is not here whole, or was never announced.
    ("the end after 64 bytes", "offset", "64 is next", |s| s.finish(|_| {}, s.good.blob)),
    ("the end of another update", "offset", "0 is next", |s| s.finish(|_| {}, other())),
    ("the end of another site's", "offset", "0 is next", |s| s.finish(|key| key.site = site_id("b"), s.good.blob)),
    ("the end of who is not invited", "unknown-run", "no run run", |s| {
        s.finish(|key| key.site = site_id("d"), s.good.blob)
    }),
    ("the end of another run's", "unknown-run", "other", |s| {
        s.finish(|key| key.run = "other".parse().unwrap(), s.good.blob)
    }),
    ("the end of the next round's", "round-not-open", "round 2", |s| {
        s.finish(|key| key.round = RoundNumber(2), s.good.blob)
    }),
    ("the end of round 0's", "round-not-open", "round 0", |s| s.finish(|key| key.round = RoundNumber(0), s.good.blob)),
    // Files of the right length with a header that is not the plan's.
    ("another name", "update-names", "c_nter", |s| s.with_replaced("center", "c_nter")),
    ("a name with a control character", "update-header", "header", |s| s.with_replaced("center", "cent\u{1b}r")),
    ("the same name twice", "update-names", "tensor backbone.weight", |s| {
        s.with_header(r#"{"center":{"dtype":"F32","shape":[1,3],"data_offsets":[388,400]},"center":{"dtype":"F32","shape":[1,3],"data_offsets":[388,400]}}"#)
    }),
    ("a tensor less", "update-names", "tensor backbone.weight", |s| {
        s.with_header(r#"{"center":{"dtype":"F32","shape":[1,3],"data_offsets":[0,12]}}  "#)
    }),
    ("a tensor more", "update-header", "does not begin", |s| {
        let two = std::str::from_utf8(&s.bytes[8..s.header]).unwrap().trim_end();
        s.with_header(&format!(
            r#"{},"extra":{{"dtype":"F32","shape":[0],"data_offsets":[400,400]}}}}"#,
            &two[..two.len() - 1]
        ))
    }),
    ("another order of the tensors", "update-layout", "order of their names", |s| {
        s.with_header(r#"{"center":{"dtype":"F32","shape":[1,3],"data_offsets":[0,12]},"backbone.weight":{"dtype":"F32","shape":[97],"data_offsets":[12,400]}}  "#)
    }),
    ("another shape of as many values", "update-shape", "[3, 1]", |s| s.with_replaced("[1,3]", "[3,1]")),
    ("a shape of more values", "update-shape", "[98]", |s| s.with_replaced("[97]", "[98]")),
    ("a shape of 2^64 values", "update-shape", "header", |s| {
        s.with_replaced(r#""shape":[97],"data_offsets":[0,388]"#, r#""shape":[9223372036854775807, 2]   "#)
    }),
    ("a negative shape", "update-shape", "header", |s| s.with_replaced("[97]", "[-7]")),
    ("half floats", "update-dtype", "32-bit floats", |s| s.with_replaced("F32", "F16")),
    ("integers", "update-dtype", "32-bit floats", |s| s.with_replaced("F32", "I32")),
    ("a type that does not exist", "update-dtype", "32-bit floats", |s| s.with_replaced("F32", "f32")),
    ("tensors that overlap", "update-layout", "laid out", |s| s.with_replaced("[0,388]", "[9,388]")),
    ("tensors with a hole", "update-layout", "laid out", |s| s.with_replaced("[388,400]", "[392,400]")),
    ("metadata", "update-header", "does not begin", |s| {
        let two = std::str::from_utf8(&s.bytes[8..s.header]).unwrap().trim_end();
        s.with_header(&format!(r#"{{"__metadata__":{{"a":"b"}},{}"#, &two[1..]))
    }),
    ("a space that is a tab", "update-layout", "laid out", |s| s.with_replaced(" ", "\t")),
    ("a header that is no JSON", "update-header", "does not begin with a safetensors header", |s| {
        s.with_replaced("{", "[")
    }),
    ("a header of nothing", "update-names", "tensor backbone.weight", |s| s.with_header("{}      ")),
    // Files whose header's length lies.
    ("a header of 0 bytes", "update-header", "does not begin", |s| s.with_header_length(0)),
    ("a header a byte shorter", "update-layout", "laid out", |s| s.with_header_length(s.header as u64 - 8 - 1)),
    ("a header that ends in the values", "update-header", "does not begin", |s| s.with_header_length(s.header as u64)),
    ("a header as long as the file", "update-header", "does not begin", |s| s.with_header_length(s.bytes.len() as u64)),
    ("a header of 2^63 bytes", "update-header", "does not begin", |s| s.with_header_length(1 << 63)),
    ("a header of 2^64 - 1 bytes", "update-header", "does not begin", |s| s.with_header_length(u64::MAX)),
    // Files of another length.
    ("an empty file", "update-length", "0 bytes", |s| s.sends(&[])),
    ("a file of its header's length alone", "update-length", "8 bytes", |s| s.sends(&s.bytes[..8])),
    ("a file without its last byte", "update-length", "bytes were announced", |s| {
        s.sends(&s.bytes[..s.bytes.len() - 1])
    }),
    ("a file with a trailing byte", "update-length", "bytes were announced", |s| {
        s.sends(&[&s.bytes[..], b"\0"].concat())
    }),
    ("a file that is there twice", "update-length", "bytes were announced", |s| {
        s.sends(&[&s.bytes[..], &s.bytes[..]].concat())
    }),
    // Values.
    ("NaN in the first place", "update-not-finite", "backbone.weight holds NaN at position 0", |s| {
        s.with_values(&[(0, NAN)])
    }),
    ("NaN at a tensor's end", "update-not-finite", "position 96", |s| s.with_values(&[(LAST_OF_FIRST, NAN)])),
    ("NaN at a tensor's beginning", "update-not-finite", "center holds NaN at position 0", |s| {
        s.with_values(&[(LAST_OF_FIRST + 1, NAN)])
    }),
    ("NaN in the last place", "update-not-finite", "center holds NaN at position 2", |s| s.with_values(&[(LAST, NAN)])),
    ("a negative NaN", "update-not-finite", "NaN", |s| s.with_values(&[(5, NAN | 1 << 31)])),
    ("a signalling NaN", "update-not-finite", "NaN", |s| s.with_values(&[(5, 0x7f80_0001)])),
    ("an infinity", "update-not-finite", "holds inf", |s| s.with_values(&[(57, f32::INFINITY.to_bits())])),
    ("a negative infinity", "update-not-finite", "holds -inf", |s| {
        s.with_values(&[(LAST, f32::NEG_INFINITY.to_bits())])
    }),
    ("a value just above 8", "update-magnitude", "position 57", |s| s.with_values(&[(57, 8.0_f32.to_bits() + 1)])),
    ("a value just below -8", "update-magnitude", "position 57", |s| s.with_values(&[(57, (-8.0_f32).to_bits() + 1)])),
    ("the largest number there is", "update-magnitude", "position 0", |s| s.with_values(&[(0, f32::MAX.to_bits())])),
    ("two bad values, of which the first is told", "update-not-finite", "position 3:", |s| {
        s.with_values(&[(3, NAN), (60, NAN)])
    }),
    ("a norm above the bound", "update-norm", "max_delta_norm", |s| {
        s.with_values(&(0..100).map(|place| (place, 7.9_f32.to_bits())).collect::<Vec<_>>())
    }),
    // Bytes that are not those that were announced.
    ("a byte that changed on the way", "corrupt", "starts over", |s| {
        let mut bytes = s.bytes.clone();
        bytes[s.header + 3] ^= 1;
        s.bench.send(&s.good, &bytes, 64, bytes.len()).and_then(|_| s.bench.finish(&s.good)).unwrap_err()
    }),
    ("a digest of zeros", "corrupt", "starts over", |s| {
        let manifest = UpdateManifest { blob: Digest([0; 32]), ..s.good.clone() };
        s.bench.send(&manifest, &s.bytes, 64, s.bytes.len()).and_then(|_| s.bench.finish(&manifest)).unwrap_err()
    }),
    // What may not be had, or is not asked.
    ("a plan that is not there", "unknown-blob", "no blob", |s| {
        s.bench.federation().plan(&site_id("a"), other()).unwrap_err()
    }),
    ("a plan of who is not invited", "unknown-blob", "no blob", |s| {
        s.bench.federation().plan(&site_id("d"), s.good.plan).unwrap_err()
    }),
    ("a blob that is not there", "unknown-blob", "no blob", |s| {
        s.bench.federation().blob(&site_id("a"), other(), 0).unwrap_err()
    }),
    ("the model for who is not invited", "unknown-blob", "no blob", |s| {
        s.bench.federation().blob(&site_id("d"), s.good.base, 0).unwrap_err()
    }),
    ("a head of nobody in a run that pretrains", "update-heads", "no head cine", |s| {
        s.announces(|m| m.heads = [(task(), 0)].into())
    }),
    ("scores of a run that is not there", "unknown-run", "other", |s| scores(s, "a", "other", s.good.base)),
    ("scores of who is not invited", "unknown-run", "no run run", |s| scores(s, "d", "run", s.good.base)),
    ("scores of a model that is not there", "unknown-blob", "no blob", |s| scores(s, "a", "run", other())),
];

/// Of int8 a scale and 97 steps, and a scale and 3.
const INT8: &[Case] = &[
    ("a scale of NaN", "update-block", "backbone.weight, from position 0", |s| {
        s.with_bytes(0, &f32::NAN.to_le_bytes())
    }),
    ("an infinite scale", "update-block", "its scale", |s| s.with_bytes(0, &f32::INFINITY.to_le_bytes())),
    ("a scale below 0", "update-block", "its scale", |s| s.with_bytes(0, &(-0.5_f32).to_le_bytes())),
    ("a scale of NaN in the last block", "update-block", "center", |s| s.with_bytes(101, &f32::NAN.to_le_bytes())),
    ("-128 steps", "update-block", "-128", |s| s.with_bytes(4, &[0x80])),
    ("-128 steps in the last place", "update-block", "-128", |s| s.with_bytes(107, &[0x80])),
    ("a scale of which a step is infinite", "update-not-finite", "holds inf at position 0", |s| {
        s.with_bytes(0, &f32::MAX.to_le_bytes())
    }),
    ("a scale of which 127 steps are just above 8", "update-magnitude", "position 0", |s| {
        s.with_bytes(0, &(8.001_f32 / 127.0).to_le_bytes())
    }),
    ("a scale of which the norm is above the bound", "update-norm", "max_delta_norm", |s| {
        s.with_bytes(0, &(7.9_f32 / 127.0).to_le_bytes())
    }),
    ("floats", "update-length", "bytes were announced", |s| s.sends(&weights(100, |_| 0.5).to_safetensors())),
    ("floats, as long as int8", "update-dtype", "Int8", |s| {
        s.sends(&weights(100, |_| 0.5).to_safetensors()[..s.bytes.len()])
    }),
    ("a header that says another encoding", "update-dtype", "Int8", |s| s.with_replaced("int8", "int9")),
    ("a block that says other bytes", "update-shape", "Int8", |s| s.with_replaced("[101]", "[102]")),
    ("another name of int8", "update-names", "Int8", |s| s.with_replaced("center", "c_nter")),
    ("int8 with a trailing byte", "update-length", "bytes were announced", |s| {
        s.sends(&[&s.bytes[..], b"\0"].concat())
    }),
    ("int8 without its last step", "update-length", "bytes were announced", |s| s.sends(&s.bytes[..s.bytes.len() - 1])),
];

/// Of top-k, a tenth of each block: ten places and their values, and one of each.
const TOP_K: &[Case] = &[
    ("a place twice", "update-block", "its places do not rise", |s| s.with_bytes(2, &0_u16.to_le_bytes())),
    ("places that fall", "update-block", "its places do not rise", |s| s.with_bytes(0, &5_u16.to_le_bytes())),
    ("a place behind the last value", "update-block", "lie outside", |s| s.with_bytes(18, &97_u16.to_le_bytes())),
    ("the last place there can be", "update-block", "lie outside", |s| s.with_bytes(18, &u16::MAX.to_le_bytes())),
    ("a place behind the last tensor's", "update-block", "center", |s| s.with_bytes(60, &3_u16.to_le_bytes())),
    ("a kept value of NaN", "update-not-finite", "position 0", |s| s.with_bytes(20, &NAN.to_le_bytes())),
    ("the last kept value of infinity", "update-not-finite", "center holds inf", |s| {
        s.with_bytes(62, &f32::INFINITY.to_le_bytes())
    }),
    ("a kept value above 8", "update-magnitude", "position 9", |s| s.with_bytes(56, &8.5_f32.to_le_bytes())),
    ("a header of int8 over top-k", "update-dtype", "TopK", |s| s.with_replaced(r#""top-k""#, r#""int8" "#)),
    ("a value more than are kept", "update-length", "bytes were announced", |s| {
        s.sends(&[&s.bytes[..], &[0; 6]].concat())
    }),
    ("a value less than are kept", "update-length", "bytes were announced", |s| s.sends(&s.bytes[..s.bytes.len() - 6])),
    ("a header that says a value less", "update-shape", "TopK", |s| s.with_replaced("[60]", "[54]")),
    ("top-k with a trailing byte", "update-length", "bytes were announced", |s| {
        s.sends(&[&s.bytes[..], b"\0"].concat())
    }),
    ("all values", "update-length", "bytes were announced", |s| s.sends(&weights(100, |_| 0.5).to_safetensors())),
];

fn scores(scene: &Scene, site: &str, run: &str, model: Digest) -> Refusal {
    let site: SiteId = site_id(site);
    scene.bench.federation().report_scores(&site, &run.parse().unwrap(), model, &[]).unwrap_err()
}

/// Each case has its refusal and changes nothing, and nothing of what was refused is in the way of what is sound.
fn each_is_refused(scene: &Scene, cases: &[Case]) {
    let stored = || (scene.bench.run(), scene.bench.store().updates(&run_id(), RoundNumber(1)).unwrap());
    let before = stored();
    let mut wrong = Vec::new();
    for (what, code, told, act) in cases {
        let refusal = act(scene);
        if refusal.code() != *code || !refusal.to_string().contains(told) {
            wrong.push(format!("{what}: {}: {refusal}", refusal.code()));
        }
        assert!(scene.bench.store_is_untouched() && stored() == before, "{what}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let names: std::collections::BTreeSet<_> = cases.iter().map(|case| case.0).collect();
    assert_eq!(names.len(), cases.len(), "each is another");
    for site in ["a", "b", "c"] {
        let manifest = UpdateManifest { site: site_id(site), ..scene.good.clone() };
        scene.bench.send(&manifest, &scene.bytes, 64, scene.bytes.len()).unwrap();
        scene.bench.finish(&manifest).unwrap();
    }
    scene.bench.merge();
    assert_eq!(scene.bench.run().rounds[0].sites.len(), 3);
}

#[test]
fn each_of_a_hundred_wrong_messages_has_its_refusal_and_changes_nothing() {
    assert!(CASES.len() >= 100, "{}", CASES.len());
    each_is_refused(&Scene::new(), CASES);
}

#[test]
fn what_no_encoder_of_int8_or_top_k_writes_has_its_refusal_and_changes_nothing() {
    each_is_refused(&Scene::of(Encoding::Int8), INT8);
    each_is_refused(&Scene::of(Encoding::TopK(0.1)), TOP_K);
}

#[test]
fn the_smallest_numbers_both_zeros_and_the_bounds_themselves_are_merged() {
    let bench = Bench::with_run(100, 1, 1, 1);
    let odd = [f32::from_bits(1), -f32::from_bits(1), f32::MIN_POSITIVE, 0.0, -0.0, 8.0, -8.0];
    for site in ["a", "b", "c"] {
        bench.reports(site, &weights(100, |place| odd[place % odd.len()])).unwrap();
    }
    bench.merge();
    let (first, last) = (bench.blob(bench.run().first_model), bench.blob(bench.run().model));
    let (first, last) = (first.get("backbone.weight").unwrap(), last.get("backbone.weight").unwrap());
    let moved: Vec<f32> = last.values.iter().zip(&first.values).map(|(last, first)| last - first).collect();
    assert_eq!(&moved[..7], [0.0, 0.0, 0.0, 0.0, 0.0, 8.0, -8.0]);
}
