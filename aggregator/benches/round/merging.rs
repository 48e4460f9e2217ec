//! The merge alone, over files in the page cache: as the aggregator does it, with the checksum of every byte; and the sum of
//! integers and its division by themselves, of deltas in memory and of deltas that are read from their files.

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
use common::fixed_point::Sums;
use common::plan::Strategy;
use common::share::Share;
use common::{RoundNumber, SiteId};

use crate::limits::Reading;
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
    /// The sum and its division alone, of deltas in memory, by one thread and by two.
    pub(crate) kernel: [Kernel; 2],
    /// The same with deltas that are read from their files a tile at a time.
    pub(crate) from_files: [Kernel; 2],
}

/// How quickly deltas are added up and divided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel {
    /// GiB of deltas per second of processor time of the threads.
    pub(crate) gib_s: f64,
    /// Of what as many threads, just before, read from memory.
    pub(crate) of_read: f64,
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
    let shares: Vec<Share> = contributions.values().map(|part| part.share).collect();
    let deltas = contributions.values().map(|part| in_memory(&part.file, &layout)).collect();
    let deltas = Deltas::InMemory(deltas);
    let files = Deltas::InFiles(contributions.values().map(|part| &part.file).collect(), layout.header().len() as u64);
    let reading = Reading::of(if runs > 1 { layout.bytes() as usize } else { 1 << 20 });
    // In turns, so that a change of the machine's pace meets all of them.
    let once = || {
        let (_, wall_s, cpu_s) = merged();
        let of = |deltas: &Deltas<'_>| {
            [1, 2].map(|threads| {
                let read = reading.gib_s(threads);
                let gib_s = kernel(deltas, &shares, layout.values(), threads);
                Kernel { gib_s, of_read: gib_s / read }
            })
        };
        (wall_s, cpu_s, [of(&deltas), of(&files)])
    };
    let each: Vec<_> = (0..runs).map(|_| once()).collect();
    let kernel = |from: usize| {
        [0, 1].map(|threads| Kernel {
            gib_s: median(each.iter().map(|(.., kernels)| kernels[from][threads].gib_s)),
            of_read: median(each.iter().map(|(.., kernels)| kernels[from][threads].of_read)),
        })
    };
    Merged {
        case,
        bytes: layout.bytes() * (case.sites as u64 + 2),
        wall_s: median(each.iter().map(|(wall_s, ..)| *wall_s)),
        cpu_s: median(each.iter().map(|(_, cpu_s, _)| *cpu_s)),
        kernel: kernel(0),
        from_files: kernel(1),
    }
}

fn in_memory(file: &File, layout: &Layout) -> Vec<f32> {
    let mut delta = vec![0.0_f32; layout.values() as usize];
    file.read_exact_at(bytemuck::cast_slice_mut(&mut delta), layout.header().len() as u64).expect("a delta");
    delta
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

/// The deltas of all sites.
enum Deltas<'a> {
    InMemory(Vec<Vec<f32>>),
    /// With the bytes before their values.
    InFiles(Vec<&'a File>, u64),
}

/// How quickly every delta is added up and divided, by so many threads, each with a part of the values.
fn kernel(deltas: &Deltas<'_>, shares: &[Share], values: u64, threads: usize) -> f64 {
    let cut = |thread: usize| values * thread as u64 / threads as u64;
    let one = |thread: usize| {
        let (values, begun) = (cut(thread)..cut(thread + 1), thread_cpu_seconds());
        fold(deltas, shares, values.clone());
        let bytes = 4 * (values.end - values.start) * shares.len() as u64;
        bytes as f64 / (1_u64 << 30) as f64 / (thread_cpu_seconds() - begun)
    };
    thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|thread| scope.spawn(move || one(thread))).collect();
        all.into_iter().map(|thread| thread.join().expect("added up")).sum()
    })
}

fn fold(deltas: &Deltas<'_>, shares: &[Share], values: std::ops::Range<u64>) {
    let mut sums = Sums::default();
    let mut tiles = vec![vec![0.0_f32; TILE]; shares.len()];
    for begin in values.clone().step_by(TILE) {
        let width = (values.end - begin).min(TILE as u64) as usize;
        let these: Vec<&[f32]> = match deltas {
            Deltas::InMemory(deltas) => deltas.iter().map(|delta| &delta[begin as usize..][..width]).collect(),
            Deltas::InFiles(files, header) => {
                let read = |(file, tile): (&&File, &'_ mut Vec<f32>)| {
                    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut tile[..width]);
                    file.read_exact_at(bytes, header + 4 * begin).expect("a tile");
                };
                files.iter().zip(&mut tiles).for_each(read);
                tiles.iter().map(|tile| &tile[..width]).collect()
            }
        };
        sums.reset(width);
        sums.add(&these.into_iter().zip(shares.iter().copied()).collect::<Vec<_>>()).expect("small values");
        std::hint::black_box(sums.means());
    }
}
