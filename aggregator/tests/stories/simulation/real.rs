//! The real aggregator in the simulated world: its files, its database, its clock moved by hand. It dies between any two
//! writes of its store.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aggregator::clock::Stamp;
use aggregator::federation::Federation;
use aggregator::status::{self, RunPhase, RunStatus};
use aggregator::store::{Blobs, RoundState, SqliteStore, Store};
use common::{Digest, NamedTensors, Plan, SiteId};

use super::call::{Answer, Call, Closed, Died, Reply, Server};
use super::update::{tensors, values_of};
use crate::bench::{Bench, ROOMY, run_id};
use crate::faults::{Fault, Faulty, Lie};

/// The write that the process dies of, counted from its start; far away unless a fuse is lit.
const LAST: usize = 1 << 40;

pub(crate) struct Real {
    bench: Bench,
    federation: Option<Federation>,
    /// The store as another program sees it.
    store: SqliteStore,
    writes: Arc<AtomicUsize>,
    lie: Option<Lie>,
}

impl Real {
    pub(crate) fn new(plan: &Plan, first: &[f32], lie: Option<Lie>) -> Self {
        let bench = Bench::quick();
        assert_eq!(bench.start_run_of(plan.draft.clone(), &tensors(first)), *plan);
        let (store, writes) = (bench.store(), Arc::default());
        let mut real = Self { bench: bench.closed(), federation: None, store, writes, lie };
        real.restart();
        real
    }

    fn run(&self) -> RunStatus {
        status::read(&self.store, Stamp(0)).unwrap().runs.remove(0)
    }

    fn alive<T>(&self, work: impl FnOnce(&Federation) -> T) -> Result<T, Died> {
        let federation = self.federation.as_ref().ok_or(Died)?;
        catch_unwind(AssertUnwindSafe(|| work(federation))).map_err(|died| {
            assert_eq!(died.downcast_ref(), Some(&"dead"));
            Died
        })
    }
}

impl Server for Real {
    fn hear(&mut self, site: &SiteId, call: Call) -> Result<Reply, Died> {
        self.alive(|federation| match call {
            Call::Report(progress) => federation.report(site, &progress).map(Answer::Directive),
            Call::Begin(manifest) => federation.begin_upload(site, manifest).map(Answer::Upload),
            Call::Chunk { key, blob, offset, data } => {
                federation.upload_chunk(&key, blob, offset, &data).map(Answer::Upload)
            }
            Call::Finish { key, blob } => federation.finish_upload(&key, blob).map(Answer::Stored),
        })
    }

    fn pass(&mut self, milliseconds: u64) {
        self.bench.clock.pass(Duration::from_millis(milliseconds));
    }

    fn tick(&mut self) -> Result<(), Died> {
        self.alive(Federation::tick)
    }

    fn note(&mut self) {
        let _noted = self.alive(Federation::note_time);
    }

    fn merge(&mut self) -> Result<(), Died> {
        self.alive(|federation| _ = federation.merge_frozen())
    }

    fn light_fuse(&mut self, steps: u32) {
        self.writes.store(LAST - steps as usize, Ordering::SeqCst);
    }

    fn restart(&mut self) {
        drop(self.federation.take());
        self.writes.store(0, Ordering::SeqCst);
        let path = self.bench.path();
        let store = SqliteStore::open(&path).unwrap();
        let faulty = Faulty { store, writes: self.writes.clone(), fails_at: LAST, fault: Fault::Crash, lie: self.lie };
        let opened = Federation::with_store(&path, Box::new(faulty), ROOMY, self.bench.clock.clone());
        self.federation = Some(opened.unwrap());
    }

    fn rot(&mut self, chance: u64) -> Option<Digest> {
        let open = self.run().open?.round;
        let updates = self.store.updates(&run_id(), open).unwrap();
        let stored: Vec<_> = updates.values().filter(|update| !update.retired).collect();
        let digest = stored.get(chance as usize % stored.len().max(1))?.manifest.blob;
        let path = Blobs::open(&self.bench.path()).unwrap().path(digest);
        let mut bytes = std::fs::read(&path).ok()?;
        let place = bytes.len() - 1 - (chance as usize >> 8) % 12;
        bytes[place] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        Some(digest)
    }

    fn closed(&self, skip: usize) -> Vec<Closed> {
        let rounds = self.store.rounds(&run_id()).unwrap();
        let closed = rounds.into_iter().filter_map(|round| match round.state {
            RoundState::Closed(outcome, merged) => {
                let path = Blobs::open(&self.bench.path()).unwrap().path(merged.model);
                let bytes = std::fs::read(path).unwrap();
                assert_eq!(NamedTensors::from_safetensors(&bytes).unwrap().digest(), merged.model);
                Some(Closed {
                    round: round.attempt.round,
                    base: round.attempt.base,
                    model: merged.model,
                    reports: outcome.reports.into_iter().collect(),
                    left_out: outcome.left_out.into_keys().collect(),
                    values: values_of(&bytes),
                    sums: None,
                })
            }
            _ => None,
        });
        closed.skip(skip).collect()
    }

    fn over(&self) -> Option<Result<Digest, String>> {
        let run = self.run();
        match run.state {
            RunPhase::Running | RunPhase::AwaitingSignatures => None,
            RunPhase::Finished => Some(Ok(run.model)),
            RunPhase::Failed => Some(Err(run.because.unwrap_or_default())),
        }
    }

    fn broken(&self) -> Option<String> {
        None
    }
}
