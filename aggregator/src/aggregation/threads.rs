//! Work that is divided among threads.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::thread;

/// Threads that a merge works on, at most: sites are not many, and the disk is one.
const MOST: usize = 8;

/// As many as this machine has, up to a few.
pub(super) fn available() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get).min(MOST)
}

/// Does the work on each, all at once; what came of each, in their order.
pub(super) fn each<T: Send, R: Send>(all: &mut [T], work: impl Fn(&mut T) -> R + Sync) -> Vec<R> {
    let Some((last, others)) = all.split_last_mut() else { return Vec::new() };
    let work = &work;
    thread::scope(|scope| {
        let others: Vec<_> = others.iter_mut().map(|one| scope.spawn(move || work(one))).collect();
        let last = work(last);
        let others = others.into_iter().map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        others.chain([last]).collect()
    })
}
