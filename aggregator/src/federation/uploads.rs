//! Updates on their way in: announced, received in chunks, checked, stored, acknowledged; exactly once.
//!
//! ```text
//! begin ─▶ chunk … ─▶ finish: check ─▶ fsync ─▶ rename to the digest ─▶ fsync folder ─▶ one transaction ─▶ acknowledge
//! ```
//!
//! Whatever is repeated, because an answer was lost or a process died, has the same effect and the same answer. After a
//! restart only bytes that were synced and noted count.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use certs::signing::verifies;
use common::signed::{Attestation, SignedHead, countersigned_statement, update_statement};
use common::{Digest, Refusal, SiteId, UpdateManifest};
use proto::CHUNK_BYTES;

use super::acceptance::{max_norm, not_open, require_acceptable, takes, update_layout};
use super::received::{Received, part_name};
use super::{Federation, Live, LiveRun, OpenError, refusal};
use crate::allowance::{OF_A_KIND, Repeated};
use crate::layout::Layout;
use crate::ledger::Event;
use crate::round::{Heard, Word};
use crate::run::RunEvent;
use crate::store::{Details, UpdateKey};

/// How far an upload has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadState {
    /// Where the next chunk belongs.
    pub next_offset: u64,
    /// The update is stored; nothing is left to do.
    pub acknowledged: bool,
}

/// An update on its way. Its bytes are locked while they are written or checked; nobody waits for that.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) manifest: UpdateManifest,
    pub(super) layout: Arc<Layout>,
    /// The plan's bound on the delta's L2 norm.
    pub(super) max_norm: f64,
    bytes: Mutex<Received>,
}

/// Bytes of chunks that all sites together should have on their way, and the least of one site: a chunk is in memory whole.
const CHUNKS_TOGETHER: usize = 4 << 20;
const LEAST_CHUNK: u32 = 128 << 10;

impl Federation {
    /// Announces an update, or asks how far it has come.
    pub fn begin_upload(&self, site: &SiteId, manifest: UpdateManifest) -> Result<UploadState, Refusal> {
        if manifest.site != *site {
            return Err(Refusal::SpeaksForAnother { peer: site.clone(), claimed: manifest.site });
        }
        self.require_attested(&manifest)?;
        let key = UpdateKey::of(&manifest);
        let mut live = self.live();
        let run = invited(&mut live, &key)?;
        if run.open().is_some_and(|(_, round)| round.roll().is_some_and(|roll| roll.get(site) == Some(&Word::Revoked)))
        {
            return Err(Refusal::Conflict { site: site.clone(), round: key.round });
        }
        if let Some(stored) = self.stored(&key)? {
            require_same(&key, stored, manifest.blob)?;
            return Ok(UploadState { next_offset: manifest.bytes, acknowledged: true });
        }
        let layout = update_layout(run, &manifest)?;
        require_acceptable(run, &manifest, &layout)?;
        let max_norm = max_norm(run, &layout);
        drop(live);
        let upload = self.announce(&key, manifest, layout, max_norm)?;
        let next_offset = self.held(&key, &upload)?.count;
        Ok(UploadState { next_offset, acknowledged: false })
    }

    /// Holds the manifest of an enrolled site to its signature, and what it signed of the ledger to the ledger.
    fn require_attested(&self, manifest: &UpdateManifest) -> Result<(), Refusal> {
        let key = self.admitted.borrow().signing_key(&manifest.site);
        let Some(key) = key else { return Ok(()) };
        let Some(Attestation { ledger, signature }) = manifest.attestation else {
            return Err(Refusal::Signature("it is not signed"));
        };
        let Some(SignedHead { head, signature: countersignature }) = ledger else {
            return Err(Refusal::Signature("the ledger's head, which came with the round, is not countersigned"));
        };
        if !verifies(key, &update_statement(&self.name, manifest, Some(head)), signature) {
            return Err(Refusal::Signature("its signature is not of the site's key over this very update"));
        }
        if !verifies(key, &countersigned_statement(&self.name, &manifest.site, head), countersignature) {
            return Err(Refusal::Signature("the ledger's head is not countersigned with the site's key"));
        }
        // A run has begun, so that there is an entry.
        let line = self.store.ledger(head.entries.saturating_sub(1), 1).map_err(refusal)?.pop();
        match line.is_some_and(|line| line.ends_with(&head.digest.to_string())) {
            true => Ok(()),
            false => Err(Refusal::Signature("it names another ledger than this aggregator's")),
        }
    }

    /// Takes the next bytes of an announced update. Bytes that are here already are not written again.
    pub fn upload_chunk(
        &self,
        key: &UpdateKey,
        blob: Digest,
        offset: u64,
        data: &[u8],
    ) -> Result<UploadState, Refusal> {
        let upload = self.announced(key, blob, offset)?;
        let mut received = self.held(key, &upload)?;
        let (end, bytes) = (offset.saturating_add(data.len() as u64), upload.manifest.bytes);
        if data.is_empty() || end > bytes {
            let why = format!("a chunk of {} bytes at offset {offset}, in a file of {bytes}", data.len());
            return Err(Refusal::Malformed(why));
        }
        if end > received.count {
            if offset != received.count {
                return Err(Refusal::Offset { expected: received.count, found: offset });
            }
            self.append(key, &mut received, data)?;
        }
        Ok(UploadState { next_offset: received.count, acknowledged: false })
    }

    /// Checks, stores and acknowledges an update whose bytes are all here.
    pub fn finish_upload(&self, key: &UpdateKey, blob: Digest) -> Result<Digest, Refusal> {
        invited(&mut self.live(), key)?;
        if let Some(stored) = self.stored(key)? {
            return require_same(key, stored, blob);
        }
        let upload = self.announced(key, blob, 0)?;
        // From here to the acknowledgement: what is held is replaced, forgotten and written by nobody else.
        let mut received = self.held(key, &upload)?;
        if received.count != upload.manifest.bytes {
            return Err(Refusal::Offset { expected: received.count, found: upload.manifest.bytes });
        }
        // Signed when it was announced; by now the site may have enrolled with another key.
        let signed = self.require_attested(&upload.manifest);
        let checked = match signed.and_then(|()| self.check(&upload, &mut received)) {
            Ok(checked) => checked,
            Err(refusal) => {
                if !refusal.is_transient() {
                    self.refuse(key, &upload, &refusal);
                }
                return Err(refusal);
            }
        };
        self.give_its_name(&upload, &mut received)?;
        self.checked().insert(blob, checked);
        if let Err(refusal) = self.acknowledge(key, &upload) {
            match &refusal {
                transient if transient.is_transient() => {}
                Refusal::Signature(_) => self.refuse(key, &upload, &refusal),
                _ => self.drop_upload(key, &upload),
            }
            return Err(refusal);
        }
        // Held, it is still the one of its key.
        self.uploads().remove(key);
        Ok(blob)
    }

    /// Tells of an update that cannot count, and forgets it.
    fn refuse(&self, key: &UpdateKey, upload: &Arc<Upload>, refusal: &Refusal) {
        tracing::warn!(site = %key.site, run = %key.run, round = %key.round, %refusal, "update refused");
        let (run, round, site, blob) = (&key.run, key.round, &key.site, upload.manifest.blob);
        let refused = Event::UpdateRefused { run, round, site, blob, code: refusal.code() };
        if self.allows(&site.into(), Repeated::RefusedUpdate(run.clone(), round), OF_A_KIND)
            && let Err(error) = self.store.enter(&refused, self.clock.wall())
        {
            tracing::warn!(%error, "the refusal could not be entered into the ledger");
        }
        self.drop_upload(key, upload);
    }

    /// How large the next chunk of an upload should be, with so many on their way.
    pub fn chunk_bytes(&self) -> u32 {
        // Asked where nobody may wait: who holds the uploads may be waiting for the disk, and how many they were is as good.
        if let Ok(uploads) = self.uploads.try_lock() {
            self.uploading.store(uploads.len(), Ordering::Relaxed);
        }
        chunk_bytes(self.uploading.load(Ordering::Relaxed))
    }

    /// Goes on with uploads that a restart interrupted; forgets those whose round is over.
    pub(super) fn resume_uploads(&self) -> Result<(), OpenError> {
        let mut live = self.live();
        let mut uploads = self.uploads();
        for record in self.store.uploads()? {
            let key = UpdateKey::of(&record.manifest);
            let run = live.run(&key.run).filter(|run| takes(run, key.round));
            let layout = run.and_then(|run| {
                let layout = update_layout(run, &record.manifest).ok()?;
                let max_norm = max_norm(run, &layout);
                Some((layout, max_norm))
            });
            let Some((layout, max_norm)) = layout else {
                self.store.forget_upload(&key, &mut |blob| self.remove_blob(blob))?;
                continue;
            };
            let received = self.resume_file(&record.manifest, record.durable)?;
            tracing::info!(site = %key.site, run = %key.run, round = %key.round, bytes = received.count, "upload goes on");
            let upload = Upload { manifest: record.manifest, layout, max_norm, bytes: Mutex::new(received) };
            uploads.insert(key, Arc::new(upload));
        }
        let names: Vec<_> = uploads.values().map(|upload| part_name(&upload.manifest)).collect();
        self.blobs.sweep(|name| names.iter().any(|live| live == name))?;
        Ok(())
    }

    /// Forgets uploads whose round no longer takes updates.
    pub(super) fn forget_late_uploads(&self, live: &Live) {
        let is_late = |key: &UpdateKey| !live.runs.iter().any(|run| *run.id() == key.run && takes(run, key.round));
        // One whose bytes are locked is being checked: the round itself refuses it, and it is forgotten there.
        let idle = |upload: &Upload| upload.try_lock().is_some();
        let late: Vec<_> = {
            let mut uploads = self.uploads();
            uploads.extract_if(.., |key, upload| is_late(key) && idle(upload)).collect()
        };
        for (key, upload) in late {
            tracing::info!(site = %key.site, run = %key.run, round = %key.round, "upload came too late");
            self.forget(&key, &upload.manifest);
        }
    }

    /// Forgets uploads of sites that may no longer send. One whose bytes are being written is forgotten the next time.
    pub(super) fn forget_uploads_of(&self, revoked: &[SiteId]) {
        let ended: Vec<_> = {
            let mut uploads = self.uploads();
            let is_over =
                |key: &UpdateKey, upload: &Arc<Upload>| revoked.contains(&key.site) && upload.try_lock().is_some();
            uploads.extract_if(.., |key, upload| is_over(key, upload)).collect()
        };
        for (key, upload) in ended {
            tracing::warn!(site = %key.site, run = %key.run, round = %key.round, "an upload of a revoked site is forgotten");
            self.forget(&key, &upload.manifest);
        }
    }

    fn uploads(&self) -> MutexGuard<'_, BTreeMap<UpdateKey, Arc<Upload>>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Digest of the acknowledged update of a key.
    fn stored(&self, key: &UpdateKey) -> Result<Option<Digest>, Refusal> {
        Ok(self.store.update(key).map_err(refusal)?.map(|update| update.manifest.blob))
    }

    /// The upload of this announcement: the one that is on its way, or a new one in the place of any other.
    fn announce(
        &self,
        key: &UpdateKey,
        manifest: UpdateManifest,
        layout: Arc<Layout>,
        max_norm: f64,
    ) -> Result<Arc<Upload>, Refusal> {
        let mut uploads = self.uploads();
        if let Some(upload) = uploads.get(key).map(Arc::clone) {
            if upload.manifest.blob == manifest.blob {
                return Ok(upload);
            }
            // Held, it is being checked, and may be about to count.
            let _idle = upload.try_lock().ok_or(Refusal::Unavailable)?;
            uploads.remove(key);
            self.forget(key, &upload.manifest);
        }
        let received = self.begin_file(&manifest, &layout)?;
        let upload = Arc::new(Upload { manifest, layout, max_norm, bytes: Mutex::new(received) });
        uploads.insert(key.clone(), Arc::clone(&upload));
        Ok(upload)
    }

    /// The bytes of an upload for this call alone, if it is still the one of its key. A second call does not wait: it would
    /// hold a thread that others need, and its site may ask again.
    fn held<'a>(&self, key: &UpdateKey, upload: &'a Arc<Upload>) -> Result<MutexGuard<'a, Received>, Refusal> {
        let received = upload.try_lock().ok_or(Refusal::Unavailable)?;
        match is_current(&self.uploads(), key, upload) {
            true => Ok(received),
            false => Err(Refusal::Offset { expected: 0, found: received.count }),
        }
    }

    /// The announced upload that a call speaks of.
    fn announced(&self, key: &UpdateKey, blob: Digest, offset: u64) -> Result<Arc<Upload>, Refusal> {
        let mut live = self.live();
        let run = invited(&mut live, key)?;
        if !takes(run, key.round) {
            return Err(not_open(run, key.round));
        }
        drop(live);
        let found = self.uploads().get(key).filter(|upload| upload.manifest.blob == blob).map(Arc::clone);
        // After a restart, or when another update took its place: begin again, and go on from there.
        found.ok_or(Refusal::Offset { expected: 0, found: offset })
    }

    fn acknowledge(&self, key: &UpdateKey, upload: &Upload) -> Result<(), Refusal> {
        let word = Word::Reported(upload.manifest.blob);
        let heard = Heard { site: key.site.clone(), round: key.round, word };
        let mut live = self.live();
        // The site may have enrolled with another key while the file was checked. While the runs are locked nobody enrols, so that
        // the entry is written under the key that it is held to.
        self.require_attested(&upload.manifest)?;
        let run = invited(&mut live, key)?;
        Ok(self.decide(run, RunEvent::Heard(heard), Details::Update(&upload.manifest))?)
    }

    /// Ends an upload that cannot count.
    fn drop_upload(&self, key: &UpdateKey, upload: &Arc<Upload>) {
        let mut uploads = self.uploads();
        // Locked until it is forgotten: the same update, announced anew, has the same file and row.
        if is_current(&uploads, key, upload) {
            uploads.remove(key);
            self.forget(key, &upload.manifest);
        }
    }

    /// Forgets an upload, and its bytes if nothing else names them. What cannot be removed is only room.
    fn forget(&self, key: &UpdateKey, manifest: &UpdateManifest) {
        let forgotten = self.store.forget_upload(key, &mut |blob| self.remove_blob(blob));
        self.blobs.remove_part(&part_name(manifest));
        if let Err(error) = forgotten {
            tracing::warn!(site = %key.site, %error, "an upload could not be forgotten; it takes room");
        }
    }
}

impl Upload {
    /// The bytes, unless another call holds them.
    fn try_lock(&self) -> Option<MutexGuard<'_, Received>> {
        match self.bytes.try_lock() {
            Ok(received) => Some(received),
            // Bytes count only after they are written: a panic in between left the count as it was.
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// The more uploads, the smaller their chunks: memory does not grow with the sites until there are very many.
fn chunk_bytes(uploads: usize) -> u32 {
    let each = u32::try_from(CHUNKS_TOGETHER / uploads.max(1)).unwrap_or(u32::MAX);
    each.clamp(LEAST_CHUNK, CHUNK_BYTES as u32)
}

/// Whether an upload is the one of its key: another announcement may have taken its place.
fn is_current(uploads: &BTreeMap<UpdateKey, Arc<Upload>>, key: &UpdateKey, upload: &Arc<Upload>) -> bool {
    uploads.get(key).is_some_and(|current| Arc::ptr_eq(current, upload))
}

fn invited<'a>(live: &'a mut Live, key: &UpdateKey) -> Result<&'a mut LiveRun, Refusal> {
    live.run_of(&key.run, &key.site).ok_or_else(|| Refusal::UnknownRun(key.run.clone()))
}

fn require_same(key: &UpdateKey, stored: Digest, asked: Digest) -> Result<Digest, Refusal> {
    if stored == asked {
        return Ok(stored);
    }
    tracing::warn!(site = %key.site, run = %key.run, round = %key.round, %stored, %asked, "a second update was refused");
    Err(Refusal::Conflict { site: key.site.clone(), round: key.round })
}

#[cfg(test)]
pub(super) mod tests {
    use certs::signing::SigningKey;
    use common::signed::ledger_statement;
    use common::{Meters, NamedTensors, PlanDraft, RoundNumber};

    use super::*;
    use crate::audit::{AggregatorLedger, audit};
    use crate::clock::{Stamp, SystemClock};
    use crate::federation::Limits;
    use crate::ledger::Actor;
    use crate::store::{Blobs, FederationRecord, Issued, SqliteStore, Store};

    pub(in crate::federation) fn weights(value: f32) -> NamedTensors {
        let mut weights = NamedTensors::new();
        weights.insert("w", vec![8], vec![value; 8]);
        weights
    }

    /// A federation with a run of the site a, and what a would announce of two updates.
    pub(in crate::federation) fn house(state: &std::path::Path) -> (Federation, [UpdateManifest; 2]) {
        let record =
            FederationRecord { name: "test".parse().unwrap(), address: "localhost:1".to_owned(), created_at: Stamp(0) };
        let store = SqliteStore::create(state, &record).unwrap();
        let draft: PlanDraft = toml::from_str(
            "run = \"run\"\n[training]\nsteps_per_round = 1\nepoch_steps = 1\nbatch_size = 2\n\
             [rounds]\ncount = 1\nsites = [\"a\"]\nquorum = 1\ndeadline_s = 60\n",
        )
        .unwrap();
        let model = weights(0.0);
        let plan = draft.with_first_model(model.signature(), model.digest());
        Blobs::open(state).unwrap().put(&model.to_safetensors()).unwrap();
        store.start_run(&plan, None, &crate::ledger::Actor::StateFolder, Stamp(0), &mut || Ok(())).unwrap();
        let limits = Limits { spool_bytes: 1 << 20, keep_updates_of_rounds: 2 };
        let federation = Federation::open(state, limits, Arc::new(SystemClock::new())).unwrap();
        let manifest = |value| UpdateManifest {
            run: plan.run().clone(),
            round: RoundNumber(1),
            site: "a".parse().unwrap(),
            plan: plan.digest(),
            base: plan.first_model,
            blob: weights(value).digest(),
            bytes: weights(value).to_safetensors().len() as u64,
            subjects: 10,
            heads: BTreeMap::new(),
            examples: 0,
            steps: 1,
            meters: Meters::default(),
            attestation: None,
        };
        (federation, [manifest(0.5), manifest(0.25)])
    }

    #[test]
    fn while_an_update_is_being_checked_nobody_waits_for_it_and_no_other_takes_its_place() {
        let state = tempfile::tempdir().unwrap();
        let (federation, [first, second]) = house(state.path());
        let (site, key) = (first.site.clone(), UpdateKey::of(&first));
        federation.begin_upload(&site, first.clone()).unwrap();
        let bytes = weights(0.5).to_safetensors();
        federation.upload_chunk(&key, first.blob, 0, &bytes).unwrap();
        let upload = Arc::clone(&federation.uploads()[&key]);
        // What a call that finishes it holds, from its check to its acknowledgement.
        let checking = federation.held(&key, &upload).unwrap();
        assert_eq!(federation.begin_upload(&site, second.clone()), Err(Refusal::Unavailable));
        assert_eq!(federation.begin_upload(&site, first.clone()), Err(Refusal::Unavailable));
        assert_eq!(federation.upload_chunk(&key, first.blob, 0, &bytes), Err(Refusal::Unavailable));
        assert_eq!(federation.finish_upload(&key, first.blob), Err(Refusal::Unavailable));
        drop(checking);
        assert_eq!(federation.finish_upload(&key, first.blob), Ok(first.blob));
        assert!(federation.merge_frozen(), "what was acknowledged is there");
    }

    #[test]
    fn a_call_whose_upload_was_replaced_meanwhile_writes_and_acknowledges_nothing() {
        let state = tempfile::tempdir().unwrap();
        let (federation, [first, second]) = house(state.path());
        let key = UpdateKey::of(&first);
        federation.begin_upload(&first.site.clone(), first).unwrap();
        let replaced = Arc::clone(&federation.uploads()[&key]);
        federation.begin_upload(&second.site.clone(), second).unwrap();
        assert!(matches!(federation.held(&key, &replaced), Err(Refusal::Offset { expected: 0, .. })));
        federation.drop_upload(&key, &replaced);
        assert_eq!(federation.uploads().len(), 1, "the newer one is left alone");
    }

    #[test]
    fn an_update_whose_site_enrols_with_another_key_while_it_is_checked_is_refused_and_the_ledger_holds() {
        let state = tempfile::tempdir().unwrap();
        let (federation, [manifest, _]) = house(state.path());
        let [first, second] = ["first", "second"].map(|name| SigningKey::create(&state.path().join(name)).unwrap());
        let (aggregator, holder) =
            (SigningKey::create(&state.path().join("own")).unwrap(), manifest.site.clone().into());
        let enrols = |key: &SigningKey, serial: &str| {
            let (token, now) = (Digest::of(serial.as_bytes()), federation.clock.wall());
            let issued = || {
                Ok(Issued {
                    certificate_pem: serial.to_owned(),
                    serial: serial.to_owned(),
                    expires_at: Stamp(u64::MAX >> 2),
                    signing_key: Some(key.verifying()),
                    signing_certificate: None,
                    anchors: Digest::of(b"ca"),
                })
            };
            let store = &federation.store;
            store.invite(token, &holder, &Actor::StateFolder, now, Stamp(u64::MAX >> 2)).unwrap();
            store.redeem(token, &holder, token, now, &mut || issued()).unwrap();
        };
        enrols(&first, "01");
        federation.refresh().unwrap();
        let head = federation.store.ledger_head().unwrap();
        let told = SignedHead { head, signature: aggregator.sign(&ledger_statement(&federation.name, head)) };
        let attestation = Some(first.attest(&federation.name, &manifest, Some(&told)));
        let manifest = UpdateManifest { attestation, ..manifest };
        let (key, bytes) = (UpdateKey::of(&manifest), weights(0.5).to_safetensors());
        federation.begin_upload(&manifest.site.clone(), manifest.clone()).unwrap();
        federation.upload_chunk(&key, manifest.blob, 0, &bytes).unwrap();
        let upload = Arc::clone(&federation.uploads()[&key]);
        // Checked, and about to be acknowledged.
        enrols(&second, "02");
        federation.refresh().unwrap();
        assert!(matches!(federation.acknowledge(&key, &upload), Err(Refusal::Signature(_))));
        assert!(matches!(federation.finish_upload(&key, manifest.blob), Err(Refusal::Signature(_))));
        assert!(federation.store.update(&key).unwrap().is_none() && federation.uploads().is_empty());
        let (lines, end) = (federation.store.ledger(0, 100).unwrap(), federation.store.ledger_head().unwrap());
        assert!(lines.last().unwrap().contains("update-refused"), "{lines:?}");
        let ledger = AggregatorLedger { federation: federation.name.clone(), key: aggregator.verifying(), lines, end };
        audit(&ledger, &[]).unwrap();
    }

    #[test]
    fn chunks_are_whole_for_few_sites_and_smaller_for_many_and_no_site_is_left_with_nothing() {
        assert_eq!([0, 1, 4].map(chunk_bytes), [CHUNK_BYTES as u32; 3]);
        assert_eq!([8, 32, 1000].map(chunk_bytes), [512 << 10, 128 << 10, 128 << 10]);
    }

    #[test]
    fn who_is_admitted_is_known_while_the_runs_are_locked() {
        let state = tempfile::tempdir().unwrap();
        let (federation, [manifest, _]) = house(state.path());
        let _live = federation.live();
        assert!(federation.admits(&manifest.site, "01").is_err());
    }
}
