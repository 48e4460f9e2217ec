//! The merge alone, over files in the page cache: as the aggregator does it, with the digest of every byte, and the sum of
//! integers by itself.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use aggregator::aggregation::{Contribution, Merge, merge};
use aggregator::inspection::inspect;
use aggregator::layout::Layout;
use common::fixed_point;
use common::plan::Strategy;
use common::share::Share;
use common::{RoundNumber, SiteId};

use crate::model::{Case, Tape, digest, value};
use crate::oracle;
use crate::process::{own_cpu_seconds, thread_cpu_seconds};
use crate::report::median;
use crate::server::site_name;

/// Merges of one case.
#[derive(Clone, Debug)]
pub(crate) struct Merged {
    pub(crate) case: Case,
    /// Of the deltas, the model before and the model after.
    pub(crate) bytes: u64,
    pub(crate) wall_s: f64,
    pub(crate) cpu_s: f64,
    /// The sum and its division alone, by one thread and by two: GiB of deltas per second of their processor time.
    pub(crate) kernel: [f64; 2],
}

/// Values that are held to the oracle.
const SAMPLED: usize = 10_007;
/// Values of a file at a time: a tile of eight sites stays in a core's cache.
const TILE: usize = 16 << 10;

pub(crate) fn measure(case: Case, runs: usize, folder: &Path) -> Merged {
    let layout = Arc::new(case.layout());
    let tape = Tape::of(layout.values() as usize);
    let stored = |values: &[u8]| {
        let mut file = tempfile::tempfile_in(folder).expect("a file");
        file.write_all(layout.header()).and_then(|()| file.write_all(values)).expect("written");
        file
    };
    let part = |site: usize| {
        let values = tape.delta(RoundNumber(1), site);
        let (file, digest) = (stored(&values), digest(&layout, &values));
        let checksum = inspect(&file, &layout, digest, f64::MAX).expect("as it was made");
        (site_name(site), Contribution { file, digest, share: share(site), partial: None, checked: Some(checksum) })
    };
    let contributions: BTreeMap<SiteId, Contribution> = (0..case.sites).map(part).collect();
    let first = tape.first_model();
    let (base, base_digest) = (stored(&first), digest(&layout, &first));
    let what = Merge { layout: &layout, base: &base, base_digest, contributions: &contributions, states: &[] };
    let merged = || {
        let mut out = tempfile::tempfile_in(folder).expect("a file");
        let (begun, cpu) = (Instant::now(), own_cpu_seconds());
        merge(Strategy::FedAvg {}, &what, &mut out, &mut []).expect("merged");
        (out, begun.elapsed().as_secs_f64(), own_cpu_seconds() - cpu)
    };
    let (out, ..) = merged();
    require_exact(&out, case, &layout, &tape);
    let files: Vec<(&File, Share)> = contributions.values().map(|part| (&part.file, part.share)).collect();
    // In turns, so that a change of the machine's pace meets all of them.
    let once = || {
        let (_, wall_s, cpu_s) = merged();
        (wall_s, cpu_s, [1, 2].map(|threads| kernel(&files, &layout, threads)))
    };
    let each: Vec<_> = (0..runs).map(|_| once()).collect();
    Merged {
        case,
        bytes: layout.bytes() * (case.sites as u64 + 2),
        wall_s: median(each.iter().map(|(wall_s, ..)| *wall_s)),
        cpu_s: median(each.iter().map(|(_, cpu_s, _)| *cpu_s)),
        kernel: [0, 1].map(|threads| median(each.iter().map(|(.., kernel)| kernel[threads]))),
    }
}

fn share(site: usize) -> Share {
    Share(30_011 + 1009 * site as u32)
}

fn require_exact(out: &File, case: Case, layout: &Layout, tape: &Tape) {
    let (values, first) = (layout.values() as usize, tape.first_model());
    for place in (0..values).step_by((values / SAMPLED).max(1)).chain([values - 1]) {
        let mut found = [0; 4];
        out.read_exact_at(&mut found, layout.header().len() as u64 + 4 * place as u64).expect("a value");
        let delta = |site| (value(&tape.delta(RoundNumber(1), site), place), share(site).0);
        let expected = oracle::merged(value(&first, place), &(0..case.sites).map(delta).collect::<Vec<_>>());
        assert_eq!(f32::from_le_bytes(found).to_bits(), expected.to_bits(), "value {place} of the merged model");
    }
}

/// How quickly every delta is read, added up and divided, by so many threads, each with a part of the values.
fn kernel(files: &[(&File, Share)], layout: &Layout, threads: usize) -> f64 {
    let cut = |thread: usize| layout.values() * thread as u64 / threads as u64;
    let one = |thread: usize| {
        let (values, begun) = (cut(thread)..cut(thread + 1), thread_cpu_seconds());
        fold(files, layout, values.clone());
        let bytes = 4 * (values.end - values.start) * files.len() as u64;
        bytes as f64 / (1_u64 << 30) as f64 / (thread_cpu_seconds() - begun)
    };
    thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|thread| scope.spawn(move || one(thread))).collect();
        all.into_iter().map(|thread| thread.join().expect("added up")).sum()
    })
}

fn fold(files: &[(&File, Share)], layout: &Layout, values: std::ops::Range<u64>) {
    let total = files.iter().map(|(_, share)| u64::from(share.0)).sum();
    let (mut delta, mut means) = (vec![0.0_f32; TILE], Vec::with_capacity(TILE));
    for begin in values.clone().step_by(TILE) {
        let width = (values.end - begin).min(TILE as u64) as usize;
        let mut sums = vec![0; width];
        for (file, share) in files {
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut delta[..width]);
            file.read_exact_at(bytes, layout.header().len() as u64 + 4 * begin).expect("a tile");
            fixed_point::accumulate(&mut sums, &delta[..width], *share).expect("small values");
        }
        means.clear();
        means.extend(sums.iter().map(|&sum| fixed_point::mean(sum, total)));
        std::hint::black_box(&means);
    }
}
