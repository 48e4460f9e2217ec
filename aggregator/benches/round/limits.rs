//! What the machine could do at best: memory, SHA-256, disk. Rates of threads are by their own processor time, so that other
//! work on the machine does not count; of the disk, by the clock.

use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::Instant;

use common::Digest;
use serde::Serialize;

use crate::process::thread_cpu_seconds;
use crate::report::median;

/// Bytes per second, in GiB.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Limits {
    /// Memory read by one thread, and by two at once.
    pub(crate) read: [f64; 2],
    /// Memory copied; every byte counts once.
    pub(crate) copy: [f64; 2],
    /// SHA-256.
    pub(crate) sha256: [f64; 2],
    /// A file written in pieces of 8 MiB, each synced.
    pub(crate) synced: f64,
}

const GIB: f64 = (1_u64 << 30) as f64;
/// Larger than a cache that one program has to itself.
const MEMORY: usize = 256 << 20;
const SYNCED: usize = 8 << 20;
/// What stays in a core's cache.
const IN_CACHE: usize = 256 << 10;
const TIMES: usize = 3;

/// Measures them; on less memory if only to see that it works.
pub(crate) fn measure(folder: &Path, in_earnest: bool) -> Limits {
    let bytes = if in_earnest { MEMORY } else { MEMORY / 32 };
    let memory = || vec![1_u64; bytes / 8];
    let both = |work: &dyn Fn(usize) -> f64| [work(1), work(2)];
    let reading = Reading::of(bytes);
    let read = |threads| reading.gib_s(threads);
    let pair = || (memory(), memory());
    let copy = |threads| {
        rate(threads, &mut pair.clone(), &|(from, to): &mut (Vec<u64>, Vec<u64>)| to.copy_from_slice(from)) / 2.0
    };
    let text = || vec![1_u8; bytes];
    // In cache, as files are digested: a piece at a time, just after it was read.
    let digested = |text: &mut Vec<u8>| {
        for _ in 0..text.len() / IN_CACHE {
            black_box(Digest::of(black_box(&text[..IN_CACHE])));
        }
    };
    let sha256 = |threads| rate(threads, &mut text.clone(), &digested);
    Limits { read: both(&read), copy: both(&copy), sha256: both(&sha256), synced: synced(folder, bytes / 4) }
}

/// Memory to be read, again and again.
pub(crate) struct Reading([Vec<u64>; 2]);

impl Reading {
    /// So many bytes for each of two threads.
    pub(crate) fn of(bytes: usize) -> Self {
        Self([1, 2].map(|thread| vec![thread; bytes / 8]))
    }

    /// GiB that one or two threads at once read per second of their processor time, the median of some times.
    pub(crate) fn gib_s(&self, threads: usize) -> f64 {
        let mut threads = self.0.iter().take(threads);
        rate(threads.len(), &mut || threads.next().expect("memory for each"), &|from: &mut &Vec<u64>| sum(from))
    }
}

/// GiB of `T` that threads at once get through per second, the median of some times.
fn rate<T: Size + Send, U>(threads: usize, make: &mut dyn FnMut() -> T, work: &(dyn Fn(&mut T) -> U + Sync)) -> f64 {
    let mut each: Vec<T> = (0..threads).map(|_| make()).collect();
    let one = |one: &mut T| {
        let begun = thread_cpu_seconds();
        drop(black_box(work(black_box(one))));
        one.bytes() as f64 / GIB / (thread_cpu_seconds() - begun)
    };
    let mut once = || {
        thread::scope(|scope| {
            let all: Vec<_> = each.iter_mut().map(|it| scope.spawn(|| one(it))).collect();
            all.into_iter().map(|thread| thread.join().expect("measured")).sum::<f64>()
        })
    };
    once();
    median((0..TIMES).map(|_| once()))
}

/// How much there is to get through.
trait Size {
    fn bytes(&self) -> usize;
}

impl<T> Size for Vec<T> {
    fn bytes(&self) -> usize {
        size_of_val(self.as_slice())
    }
}

impl<T> Size for &Vec<T> {
    fn bytes(&self) -> usize {
        size_of_val(self.as_slice())
    }
}

impl<T> Size for (Vec<T>, Vec<T>) {
    fn bytes(&self) -> usize {
        self.0.bytes() + self.1.bytes()
    }
}

/// Reads every word, on several sums at once so that none waits for the last.
fn sum(words: &[u64]) -> u64 {
    let (groups, _) = words.as_chunks::<16>();
    let mut sums = [0_u64; 16];
    for group in groups {
        sums.iter_mut().zip(group).for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

fn synced(folder: &Path, bytes: usize) -> f64 {
    let piece = vec![1_u8; SYNCED.min(bytes)];
    let once = || {
        let mut file = tempfile::tempfile_in(folder).expect("a file");
        let begun = Instant::now();
        for _ in 0..bytes / piece.len() {
            file.write_all(&piece).expect("written");
            file.sync_all().expect("synced");
        }
        bytes as f64 / GIB / begun.elapsed().as_secs_f64()
    };
    median((0..TIMES).map(|_| once()))
}
