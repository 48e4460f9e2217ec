//! A federation in a temporary folder, with a clock that a test moves by hand.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aggregator::clock::{Clock, Stamp, wall};
use aggregator::federation::{Federation, Limits, UploadState};
use aggregator::ledger::Actor;
use aggregator::status::{self, RunStatus, Status};
use aggregator::store::sqlite::SqliteStore;
use aggregator::store::{Blobs, FederationRecord, Issued, Store, UpdateKey, Wish};
use common::{
    Digest, Directive, Holder, Meters, NamedTensors, Phase, Plan, PlanDraft, Progress, Refusal, RoundNumber, RunId,
    SiteId, UpdateManifest,
};

/// Time that passes when a test says so.
#[derive(Debug, Default)]
pub(crate) struct HandClock(Mutex<Duration>);

impl HandClock {
    pub(crate) fn pass(&self, duration: Duration) {
        *self.0.lock().unwrap() += duration;
    }
}

impl Clock for HandClock {
    fn elapsed(&self) -> Duration {
        *self.0.lock().unwrap()
    }

    fn wall(&self) -> Stamp {
        Stamp(1_700_000_000_000).after(self.elapsed())
    }
}

pub(crate) const ROOMY: Limits = Limits { spool_bytes: 1 << 30, keep_updates_of_rounds: 2 };

/// Values of a model that is no burden to memory.
const MOST_QUICK: usize = 1000;

pub(crate) struct Bench {
    pub(crate) clock: Arc<HandClock>,
    pub(crate) limits: Limits,
    folder: tempfile::TempDir,
    federation: Option<Federation>,
}

/// A model of two tensors, `values` in all.
pub(crate) fn weights(values: usize, value: impl Fn(usize) -> f32) -> NamedTensors {
    let mut weights = NamedTensors::new();
    weights.insert("backbone.weight", vec![values - 3], (0..values - 3).map(&value).collect());
    weights.insert("center", vec![1, 3], (values - 3..values).map(&value).collect());
    weights
}

pub(crate) fn plan_draft(run: &str, sites: &[&str], quorum: usize, rounds: u32, attempts: u32) -> PlanDraft {
    let text = format!(
        "run = {run:?}\n[training]\nsteps_per_round = 10\nepoch_steps = 10\nbatch_size = 4\n\
         [rounds]\ncount = {rounds}\nsites = {sites:?}\nquorum = {quorum}\ndeadline_s = 60\nattempts = {attempts}\n\
         [aggregation]\nshare_cap = 1.0\n"
    );
    toml::from_str(&text).unwrap()
}

/// What a site would announce of a delta for the open round of a run.
pub(crate) fn manifest(run: &RunStatus, site: &str, delta: &NamedTensors) -> UpdateManifest {
    let open = run.open.as_ref().expect("an open round");
    let bytes = delta.to_safetensors();
    UpdateManifest {
        run: run_id(),
        round: open.round,
        site: site_id(site),
        plan: run.plan,
        base: open.base,
        blob: Digest::of(&bytes),
        bytes: bytes.len() as u64,
        subjects: 10,
        heads: BTreeMap::new(),
        examples: 0,
        steps: 10,
        meters: Meters { loss: 5.0, teacher_entropy: 1.5, batch_entropy: 3.0, rank_me: 12.0 },
        attestation: None,
    }
}

impl Bench {
    /// A federation without a run.
    pub(crate) fn empty() -> Self {
        Self::in_folder(tempfile::tempdir().unwrap())
    }

    /// The same in memory where there is such a folder: no power is cut here, and a story of a thousand restarts need not wait
    /// for a disk. For small models alone.
    pub(crate) fn quick() -> Self {
        const MEMORY: &str = "/dev/shm";
        Self::in_folder(tempfile::tempdir_in(MEMORY).or_else(|_| tempfile::tempdir()).unwrap())
    }

    fn in_folder(folder: tempfile::TempDir) -> Self {
        let record =
            FederationRecord { name: "test".parse().unwrap(), address: "localhost:1".to_owned(), created_at: Stamp(0) };
        SqliteStore::create(folder.path(), &record).unwrap();
        let bench = Self { clock: Arc::default(), limits: ROOMY, folder, federation: None };
        bench.reopened()
    }

    /// A federation with one run of the sites a, b and c, whose model has `values` values.
    pub(crate) fn with_run(values: usize, quorum: usize, rounds: u32, attempts: u32) -> Self {
        let bench = if values <= MOST_QUICK { Self::quick() } else { Self::empty() };
        bench.start_run(plan_draft("run", &["a", "b", "c"], quorum, rounds, attempts), values);
        bench
    }

    pub(crate) fn start_run(&self, draft: PlanDraft, values: usize) -> Plan {
        self.start_run_of(draft, &weights(values, |place| place as f32 / 1024.0))
    }

    pub(crate) fn start_run_of(&self, draft: PlanDraft, model: &NamedTensors) -> Plan {
        draft.check().unwrap();
        let plan = draft.with_first_model(model.signature(), model.digest());
        let blobs = Blobs::open(self.folder.path()).unwrap();
        blobs.put(&model.to_safetensors()).unwrap();
        self.store().start_run(&plan, None, &Actor::StateFolder, self.clock.wall(), &mut || Ok(())).unwrap();
        self.federation().refresh().unwrap();
        plan
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// The store as another program sees it.
    pub(crate) fn store(&self) -> SqliteStore {
        SqliteStore::open(self.folder.path()).unwrap()
    }

    /// The coordinator asks something of a run, in the place of what was asked before.
    pub(crate) fn wishes(&self, run: &RunId, wish: &Wish) {
        let before = self.store().wishes().unwrap().remove(run).unwrap_or_default();
        assert!(self.store().wish(run, &before, wish, &Actor::StateFolder, wall()).unwrap());
    }

    pub(crate) fn federation(&self) -> &Federation {
        self.federation.as_ref().unwrap()
    }

    /// The process dies where it stands and is started again.
    pub(crate) fn reopened(mut self) -> Self {
        self.restart();
        self
    }

    /// The folder without a server.
    pub(crate) fn closed(mut self) -> Self {
        drop(self.federation.take());
        self
    }

    pub(crate) fn restart(&mut self) {
        drop(self.federation.take());
        self.federation = Some(Federation::open(self.folder.path(), self.limits, self.clock.clone()).unwrap());
    }

    pub(crate) fn status(&self) -> Status {
        status::read(&self.store(), self.clock.wall()).unwrap()
    }

    pub(crate) fn run(&self) -> RunStatus {
        self.status().runs.remove(0)
    }

    pub(crate) fn joins(&self, site: &str) -> Directive {
        self.says(site, Phase::Training)
    }

    /// The site reports a phase of the round that is open.
    pub(crate) fn says(&self, site: &str, phase: Phase) -> Directive {
        let open = self.run().open.map_or(RoundNumber(0), |open| open.round);
        let progress = Progress { work: Some((run_id(), open)), phase, ..Progress::idle() };
        self.federation().report(&site_id(site), &progress).unwrap()
    }

    /// What a site would announce of this delta for the open round.
    pub(crate) fn manifest(&self, site: &str, delta: &NamedTensors) -> UpdateManifest {
        manifest(&self.run(), site, delta)
    }

    pub(crate) fn begin(&self, manifest: &UpdateManifest) -> Result<UploadState, Refusal> {
        self.federation().begin_upload(&manifest.site.clone(), manifest.clone())
    }

    /// Sends the bytes from where the aggregator is, in chunks of `chunk`, up to `until`.
    pub(crate) fn send(
        &self,
        manifest: &UpdateManifest,
        bytes: &[u8],
        chunk: usize,
        until: usize,
    ) -> Result<u64, Refusal> {
        let mut offset = self.begin(manifest)?.next_offset;
        while (offset as usize) < until {
            let end = until.min(offset as usize + chunk);
            let data = &bytes[offset as usize..end];
            let key = UpdateKey::of(manifest);
            offset = self.federation().upload_chunk(&key, manifest.blob, offset, data)?.next_offset;
        }
        Ok(offset)
    }

    pub(crate) fn finish(&self, manifest: &UpdateManifest) -> Result<Digest, Refusal> {
        self.federation().finish_upload(&UpdateKey::of(manifest), manifest.blob)
    }

    /// A whole report: announced, sent, acknowledged.
    pub(crate) fn reports(&self, site: &str, delta: &NamedTensors) -> Result<Digest, Refusal> {
        let manifest = self.manifest(site, delta);
        let bytes = delta.to_safetensors();
        if !self.begin(&manifest)?.acknowledged {
            self.send(&manifest, &bytes, 1 << 20, bytes.len())?;
        }
        self.finish(&manifest)
    }

    pub(crate) fn merge(&self) {
        assert!(self.federation().merge_frozen(), "{:?}", self.run().because);
    }

    /// As [`spoil`].
    pub(crate) fn spoil(&self, table: &str, change: impl FnOnce(&rusqlite::Connection)) {
        spoil(self.folder.path(), table, change);
    }

    /// The values of a stored blob.
    pub(crate) fn blob(&self, digest: Digest) -> NamedTensors {
        let path = Blobs::open(self.folder.path()).unwrap().path(digest);
        NamedTensors::from_safetensors(&std::fs::read(path).unwrap()).unwrap()
    }
}

/// A certificate that no authority made: the store asks nothing of it.
pub(crate) fn issued(serial: &str) -> Issued {
    Issued {
        certificate_pem: format!("certificate {serial}"),
        serial: serial.to_owned(),
        expires_at: Stamp(u64::MAX >> 2),
        signing_key: None,
        signing_certificate: None,
        anchors: Digest::of(b"ca"),
    }
}

/// Enrols a site, without a key to sign with.
pub(crate) fn enrol(bench: &Bench, site: &str, serial: &str) {
    let (token, site, now) = (Digest::of(serial.as_bytes()), site_id(site), bench.clock.wall());
    bench.store().invite(token, &Holder::from(&site), &Actor::StateFolder, now, Stamp(u64::MAX >> 2)).unwrap();
    bench.store().redeem(token, &Holder::from(&site), token, now, &mut || Ok(issued(serial))).unwrap();
    bench.federation().refresh().unwrap();
}

pub(crate) fn site_id(site: &str) -> SiteId {
    site.parse().unwrap()
}

pub(crate) fn holder(text: &str) -> Holder {
    text.parse().unwrap()
}

pub(crate) fn run_id() -> RunId {
    "run".parse().unwrap()
}

/// Changes rows of a table as a disk would: past the seals.
pub(crate) fn spoil(state: &Path, table: &str, change: impl FnOnce(&rusqlite::Connection)) {
    let database = rusqlite::Connection::open(state.join("state.db")).unwrap();
    database.execute_batch("PRAGMA ignore_check_constraints = ON; PRAGMA foreign_keys = OFF;").unwrap();
    let triggers: Vec<(String, String)> = {
        let sql = "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1";
        let mut statement = database.prepare(sql).unwrap();
        let found = statement.query_map([table], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        found.collect::<Result<_, _>>().unwrap()
    };
    assert!(!triggers.is_empty(), "no table {table}");
    triggers.iter().for_each(|(name, _)| database.execute_batch(&format!("DROP TRIGGER {name}")).unwrap());
    change(&database);
    triggers.iter().for_each(|(_, sql)| database.execute_batch(sql).unwrap());
}
