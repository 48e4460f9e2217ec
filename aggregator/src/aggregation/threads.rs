//! Work that is divided among threads.

use std::num::NonZero;
use std::thread;

use rayon::prelude::*;

/// Threads that a merge works on, at most: sites are not many, and the disk is one.
const MOST: usize = 8;

/// As many as this machine has, up to a few.
pub(super) fn available() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get).min(MOST)
}

/// Does work that is divided again and again on one of the threads that it is divided among: none is begun or woken for its own
/// share.
pub(super) fn among<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}

/// Does the work on each, all at once; what came of each, in their order.
pub(super) fn each<T: Send, R: Send>(all: &mut [T], work: impl Fn(&mut T) -> R + Send + Sync) -> Vec<R> {
    all.par_iter_mut().with_max_len(1).map(work).collect()
}
