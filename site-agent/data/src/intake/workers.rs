//! The crew that parses: so many threads, each with its own parser.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;

use super::{IntakeError, IntakeOptions};
use crate::cache::CacheError;
use crate::keys::{PathKey, SiteSecret};
use crate::limits::IntakeLimits;
use crate::worker::{Examiner, Parser, Remote};

/// Who parses files.
#[derive(Clone, Debug)]
pub enum Workers {
    /// This process. Only for files one trusts, and for tests.
    InProcess,
    /// Child processes under limits.
    Processes {
        /// The program; it must call [`crate::worker::worker_main`].
        program: PathBuf,
        /// Its arguments.
        args: Vec<OsString>,
        /// How many at a time.
        count: usize,
    },
}

/// Starts parsers and hands them work.
pub(super) struct Crew<'a> {
    workers: &'a Workers,
    secret: &'a SiteSecret,
    limits: IntakeLimits,
    source: &'a Path,
    asked_to_stop: &'a Arc<AtomicBool>,
}

/// Why a piece of work ended the intake.
pub(super) enum Stop {
    Cache(CacheError),
    NoWorker(std::io::Error),
    Asked,
}

impl<'a> Crew<'a> {
    /// For the files of one source.
    pub(super) fn new(options: &'a IntakeOptions, source: &'a Path) -> Self {
        let IntakeOptions { workers, secret, limits, stopped, .. } = options;
        Self { workers, secret, limits: *limits, source, asked_to_stop: stopped }
    }

    /// What is permitted.
    pub(super) fn limits(&self) -> &IntakeLimits {
        &self.limits
    }

    /// The pseudonym of a path below the source.
    pub(super) fn path_key(&self, below: &Path) -> PathKey {
        PathKey::of(self.secret, below)
    }

    /// Does `work` on each of `count` pieces, and hands each result to `finish`, here, as it comes.
    pub(super) fn each<T: Send>(
        &self,
        count: usize,
        work: impl Fn(&mut dyn Parser, usize) -> T + Sync,
        mut finish: impl FnMut(usize, T) -> Result<(), CacheError>,
    ) -> Result<(), IntakeError> {
        let threads = match self.workers {
            Workers::InProcess => 1,
            Workers::Processes { count, .. } => (*count).clamp(1, 64),
        };
        let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
        let outcome = thread::scope(|scope| {
            let (sender, results) = sync_channel::<Result<(usize, T), Stop>>(threads);
            for _ in 0..threads.min(count) {
                let (sender, next, stopped, work) = (sender.clone(), &next, &stopped, &work);
                scope.spawn(move || {
                    let mut parser = match self.parser() {
                        Ok(parser) => parser,
                        Err(error) => {
                            let asked = self.asked_to_stop.load(Ordering::SeqCst);
                            let stop = if asked { Stop::Asked } else { Stop::NoWorker(error) };
                            // Nobody listens any more if another thread failed first.
                            let _ = sender.send(Err(stop));
                            return;
                        }
                    };
                    while !stopped.load(Ordering::Relaxed) {
                        let piece = next.fetch_add(1, Ordering::Relaxed);
                        if piece >= count || sender.send(Ok((piece, work(&mut *parser, piece)))).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            let outcome = results.iter().try_for_each(|result| {
                let (piece, value) = result?;
                // Looked at after the piece came: one that was cut short, because of this, is never taken for a whole one.
                if self.asked_to_stop.load(Ordering::SeqCst) {
                    return Err(Stop::Asked);
                }
                finish(piece, value).map_err(Stop::Cache)
            });
            stopped.store(true, Ordering::Relaxed);
            outcome
        });
        outcome.map_err(|stop| match (stop, self.workers) {
            (Stop::Cache(error), _) => IntakeError::Cache(error),
            (Stop::Asked, _) => IntakeError::Stopped,
            (Stop::NoWorker(error), Workers::Processes { program, .. }) => {
                IntakeError::NoWorker { program: program.clone(), error }
            }
            (Stop::NoWorker(error), Workers::InProcess) => IntakeError::NoWorker { program: PathBuf::new(), error },
        })
    }

    fn parser(&self) -> std::io::Result<Box<dyn Parser>> {
        Ok(match self.workers {
            Workers::InProcess => Box::new(Examiner::new(self.secret.clone(), self.limits)),
            Workers::Processes { program, args, .. } => {
                let (secret, limits) = (self.secret.clone(), self.limits);
                Box::new(Remote::start(program, args, secret, limits, self.source, self.asked_to_stop)?)
            }
        })
    }
}
