//! The wish that a trainer end before its round is trained: its agent has ended or its site's hours have, or the system says so. It
//! ends with the step it is at, and a checkpoint; where that takes too long, with the checkpoint before.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use std::{fmt, process};

use super::TrainerError;
use super::progress::Progress;
use crate::durable;
use crate::job::JobFolder;

/// Longest a trainer may take to end with a checkpoint once it is asked to: a step of the largest network on a slow machine, and
/// its file. Most take a second.
pub const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// Exit code of a trainer that did not end in time: of one that is ended by a signal, as shells tell it.
const NOT_IN_TIME: i32 = 143;

/// Whether to stop.
#[derive(Clone)]
pub struct Stop(Arc<dyn Fn() -> bool + Send + Sync>);

impl Default for Stop {
    /// Never.
    fn default() -> Self {
        Self::when(|| false)
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stop").field(&self.is_wished()).finish()
    }
}

impl Stop {
    /// As soon as that is so: it is asked before every step, and where something long follows.
    pub fn when(wished: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(wished))
    }

    /// A wish that SIGTERM and Ctrl-C express, and the end of standard input as well if a parent holds the other end of it for as
    /// long as this process is wanted.
    pub fn heard(with_parent: bool) -> Self {
        let wished = Arc::<AtomicBool>::default();
        let heard = Arc::clone(&wished);
        thread::spawn(move || {
            if signalled().is_ok() {
                wish(&heard);
            }
        });
        if with_parent {
            let heard = Arc::clone(&wished);
            thread::spawn(move || {
                let mut byte = [0];
                // Whatever it is, an end or an error: nobody is there.
                let ended = io::stdin().read(&mut byte);
                drop(ended);
                wish(&heard);
            });
        }
        Self::when(move || wished.load(Ordering::Relaxed))
    }

    /// Whether it is wished for.
    pub fn is_wished(&self) -> bool {
        (self.0)()
    }

    /// The end of training if it is wished for, after `step` steps of the round of which the checkpoint on disk holds `kept`.
    pub(super) fn after(
        &self,
        step: u64,
        kept: u64,
        folder: &JobFolder,
        progress: &mut Progress,
        checkpoint: impl FnOnce() -> Vec<u8>,
    ) -> Result<(), TrainerError> {
        if !self.is_wished() {
            return Ok(());
        }
        if step > kept {
            progress.sync()?;
            durable::write(&folder.checkpoint(), &checkpoint())?;
        }
        Err(TrainerError::Stopped { step })
    }
}

/// Wishes it, and ends this process where that is not heard in time.
fn wish(wished: &AtomicBool) {
    wished.store(true, Ordering::Relaxed);
    thread::sleep(ENDS_WITHIN);
    process::exit(NOT_IN_TIME);
}

/// Returns at SIGTERM or SIGINT.
fn signalled() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        }
    })
}
