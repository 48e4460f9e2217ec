//! The bytes of an upload that are here: in a file among the unfinished ones, written over one that is no longer needed where there is
//! such a one, until they are held to what was announced and stored under their digest.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard, PoisonError};

use common::{Digest, Refusal, UpdateManifest};

use super::uploads::Upload;
use super::{Federation, io_refusal, refusal};
use crate::checksum::Checksum;
use crate::inspection::{Fault, Inspector, inspect};
use crate::layout::Layout;
use crate::store::{StoreError, UpdateKey, durable};

/// The bytes of an upload that are here.
#[derive(Debug)]
pub(super) struct Received {
    place: Place,
    pub(super) count: u64,
    /// How many of them survive a power cut.
    durable: u64,
    /// What was seen of them as they came; none if this process did not see all of them, or has looked at the end already.
    inspector: Option<Box<Inspector>>,
}

#[derive(Debug)]
enum Place {
    /// Among the unfinished files.
    Part(File, PathBuf),
    /// Among the blobs already: an earlier attempt got that far, or another site sent the same bytes.
    Blob,
}

/// Bytes between two syncs of an upload.
const SYNC_EVERY: u64 = 8 << 20;
impl Federation {
    fn is_stored_whole(&self, manifest: &UpdateManifest) -> bool {
        self.blobs.length(manifest.blob) == Some(manifest.bytes)
    }

    /// Begins an upload's file, if there is room for it; none of its bytes has come.
    pub(super) fn begin_file(&self, manifest: &UpdateManifest, layout: &Arc<Layout>) -> Result<Received, Refusal> {
        if !self.store.begin_upload(manifest, self.limits.spool_bytes).map_err(refusal)? {
            let (site, limit) = (&manifest.site, self.limits.spool_bytes);
            tracing::error!(%site, limit, "no room for an upload: raise `max_spool_bytes`");
            return Err(Refusal::DiskFull);
        }
        if self.is_stored_whole(manifest) {
            return Ok(Received::whole(manifest));
        }
        let made = match self.spare_for(&part_name(manifest)) {
            Some(spare) => Ok(spare),
            None => {
                let opened = self.blobs.open_part(&part_name(manifest));
                opened.and_then(|(file, path)| file.set_len(0).map(|()| (file, path)))
            }
        };
        let (file, path) = made.map_err(|error| io_refusal("making an upload's file", &error))?;
        let inspector = Some(Box::new(Inspector::new(Arc::clone(layout))));
        Ok(Received { place: Place::Part(file, path), count: 0, durable: 0, inspector })
    }

    /// Goes on with the bytes that survived a restart.
    pub(super) fn resume_file(&self, manifest: &UpdateManifest, durable: u64) -> io::Result<Received> {
        if self.is_stored_whole(manifest) {
            // A power cut while it got its name among the blobs may have left it the old one as well.
            self.blobs.remove_part(&part_name(manifest));
            return Ok(Received::whole(manifest));
        }
        let (file, path) = self.blobs.open_part(&part_name(manifest))?;
        let durable = durable.min(file.metadata()?.len());
        file.set_len(durable)?;
        Ok(Received { place: Place::Part(file, path), count: durable, durable, inspector: None })
    }

    /// A file that was set aside, by the name of an upload's. What is in it counts no more than what is in a new one: nothing.
    fn spare_for(&self, name: &str) -> Option<(File, PathBuf)> {
        let spare = self.spares().pop()?;
        let taken = self.blobs.take_spare(spare, name);
        let unusable = |error: &io::Error| {
            tracing::debug!(%spare, %error, "a file that was set aside cannot be used");
            self.blobs.remove_spare(spare);
        };
        // A new file is as good.
        taken.inspect_err(unusable).ok()
    }

    /// Takes the next bytes in.
    pub(super) fn append(&self, key: &UpdateKey, received: &mut Received, data: &[u8]) -> Result<(), Refusal> {
        let Place::Part(file, path) = &received.place else { return Ok(()) };
        file.write_all_at(data, received.count).map_err(|error| {
            self.remove_spares();
            io_refusal("writing an upload", &error)
        })?;
        received.count += data.len() as u64;
        if let Some(inspector) = &mut received.inspector {
            inspector.feed(data);
        }
        if received.count - received.durable >= SYNC_EVERY {
            durable::sync_file(file, path);
            self.store.note_durable(key, received.count).map_err(refusal)?;
            received.durable = received.count;
        }
        Ok(())
    }

    /// Holds the bytes, which are all here, to what was announced and to the plan: by what was seen as they came, or by the file.
    pub(super) fn check(&self, upload: &Upload, received: &mut Received) -> Result<Checksum, Refusal> {
        let announced = upload.manifest.blob;
        received.cut().map_err(|error| io_refusal("ending an upload's file", &error))?;
        let checked = match (&received.place, received.inspector.take()) {
            // What was seen as it came must be what lies there now.
            (Place::Part(file, _), Some(inspector)) => {
                inspector.finish(announced, upload.max_norm).and_then(|checked| {
                    match Checksum::of_file(file)? == checked {
                        true => Ok(checked),
                        false => inspect(file, &upload.layout, announced, upload.max_norm),
                    }
                })
            }
            (Place::Part(file, _), None) => inspect(file, &upload.layout, announced, upload.max_norm),
            (Place::Blob, _) => {
                let opened = self.blobs.open_blob(announced).map_err(Fault::from);
                opened.and_then(|file| inspect(&file, &upload.layout, announced, upload.max_norm))
            }
        };
        checked.map_err(|fault| match fault {
            Fault::Io(error) => io_refusal("checking an upload", &error),
            Fault::Digest { found } => {
                if matches!(received.place, Place::Blob) {
                    self.remove_rotten(announced, found);
                }
                Refusal::Corrupt { expected: announced, found }
            }
            Fault::Content(fault, why) => Refusal::Update(fault, why),
        })
    }

    /// Removes a stored file that no longer has the bytes of its name: whoever needs it is better off without, and the same
    /// update, sent again, takes its place. Left there, it would be found again and again.
    fn remove_rotten(&self, blob: Digest, found: Digest) {
        tracing::error!(%blob, %found, "a stored file has other bytes than its name says, and is removed: see to the disk");
        if let Err(error) = self.remove_blob(blob) {
            tracing::error!(%error, "it could not be removed");
        }
    }

    /// Stores the bytes under their digest.
    pub(super) fn give_its_name(&self, upload: &Upload, received: &mut Received) -> Result<(), Refusal> {
        if let Place::Part(file, path) = &received.place {
            durable::sync_file(file, path);
            let adopted = self.blobs.adopt(path, upload.manifest.blob);
            adopted.map_err(|error| io_refusal("storing an update", &error))?;
            received.place = Place::Blob;
        }
        Ok(())
    }

    fn spares(&self) -> MutexGuard<'_, Vec<Digest>> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the file of an update that is no longer needed for one of the next round's; removes it if that cannot be.
    pub(super) fn set_aside(&self, blob: Digest) -> Result<(), StoreError> {
        match self.blobs.set_aside(blob) {
            Ok(is_there) => {
                self.checked().remove(&blob);
                self.spares().extend(is_there.then_some(blob));
                Ok(())
            }
            Err(error) => {
                tracing::debug!(%blob, %error, "an update could not be set aside");
                self.remove_blob(blob)
            }
        }
    }

    /// Removes the files that nothing was written over.
    pub(super) fn remove_spares(&self) {
        let spares = std::mem::take(&mut *self.spares());
        spares.into_iter().for_each(|spare| self.blobs.remove_spare(spare));
    }
}

impl Received {
    fn whole(manifest: &UpdateManifest) -> Self {
        Self { place: Place::Blob, count: manifest.bytes, durable: manifest.bytes, inspector: None }
    }

    /// Leaves no more in the file than has come: it may have held something longer before.
    fn cut(&self) -> io::Result<()> {
        match &self.place {
            Place::Part(file, _) if file.metadata()?.len() > self.count => file.set_len(self.count),
            _ => Ok(()),
        }
    }
}

/// The name of an upload's unfinished file: labels hold no dot, so no two announcements share one.
pub(super) fn part_name(manifest: &UpdateManifest) -> String {
    let UpdateManifest { run, round, site, blob, .. } = manifest;
    format!("{run}.{round}.{site}.{blob}")
}

#[cfg(test)]
mod tests {
    use super::super::uploads::tests::{house, weights};
    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn a_file_that_was_set_aside_is_written_over_and_nothing_of_it_is_left_or_counts() {
        let state = tempfile::tempdir().unwrap();
        let (federation, [first, second]) = house(state.path());
        let (bytes, key) = (weights(0.5).to_safetensors(), UpdateKey::of(&first));
        let spare = |more: usize| {
            // Of the very bytes that will come, so that any of them would pass.
            let blob = federation.blobs.put(&[&bytes[..], &vec![7; more]].concat()).unwrap();
            federation.set_aside(blob).unwrap();
            assert!(federation.blobs.length(blob).is_none() && federation.spares().len() == 1);
        };
        spare(1000);
        let begun = federation.begin_upload(&first.site, first.clone()).unwrap();
        assert_eq!((begun.next_offset, begun.acknowledged, federation.spares().len()), (0, false, 0));
        assert!(federation.finish_upload(&key, first.blob).is_err(), "what was in the file has not come");
        federation.upload_chunk(&key, first.blob, 0, &bytes[..10]).unwrap();
        // Another announcement takes its place, and another spare.
        spare(0);
        federation.begin_upload(&second.site, second.clone()).unwrap();
        spare(1000);
        let begun = federation.begin_upload(&first.site, first.clone()).unwrap();
        assert_eq!(begun.next_offset, 0);
        federation.upload_chunk(&key, first.blob, 0, &bytes).unwrap();
        assert_eq!(federation.finish_upload(&key, first.blob), Ok(first.blob));
        assert_eq!(std::fs::read(federation.blobs.path(first.blob)).unwrap(), bytes);
        assert_eq!(std::fs::read_dir(state.path().join("tmp")).unwrap().count(), 0);
        assert!(federation.merge_frozen(), "what was acknowledged is there");
    }

    #[test]
    fn after_a_crash_what_was_in_a_file_before_the_upload_is_gone() {
        let state = tempfile::tempdir().unwrap();
        let (federation, [first, _]) = house(state.path());
        let (bytes, limits) = (weights(0.5).to_safetensors(), federation.limits);
        for _ in 0..2 {
            federation.set_aside(federation.blobs.put(&bytes).unwrap()).unwrap();
            federation.spares().truncate(1);
        }
        federation.begin_upload(&first.site, first.clone()).unwrap();
        drop(federation);
        let federation = Federation::open(state.path(), limits, Arc::new(SystemClock::new())).unwrap();
        assert_eq!(federation.begin_upload(&first.site, first.clone()).unwrap().next_offset, 0);
        let part = state.path().join("tmp").join(format!("{}.part", part_name(&first)));
        assert_eq!(std::fs::metadata(part).unwrap().len(), 0);
        assert_eq!(std::fs::read_dir(state.path().join("tmp")).unwrap().count(), 1, "spares are swept");
    }
}
