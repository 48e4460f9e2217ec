//! Files named by what is in them: `blobs/<aa>/<sha256>`, never changed once there; and `tmp/`, for what is on its way.
//!
//! A blob appears by a rename after its bytes are durable, so whoever finds the name finds the whole file. Which blobs are
//! wanted is the store's business, not this module's.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use common::Digest;
use common::ids::DigestBuilder;

use super::durable;

/// The blobs of one state folder.
#[derive(Clone, Debug)]
pub struct Blobs {
    root: PathBuf,
}

impl Blobs {
    /// The blobs below a state folder, as they are.
    pub fn at(state: &Path) -> Self {
        Self { root: state.to_owned() }
    }

    /// Whether they can be looked at.
    pub fn look(&self) -> io::Result<()> {
        fs::read_dir(self.folder()).map(drop)
    }

    /// The blobs below a state folder; makes the folders.
    pub fn open(state: &Path) -> io::Result<Self> {
        let blobs = Self::at(state);
        for folder in [blobs.folder(), blobs.tmp()] {
            fs::create_dir_all(&folder)?;
        }
        durable::sync_folder(state)?;
        Ok(blobs)
    }

    /// Where a blob is, if it is here.
    pub fn path(&self, digest: Digest) -> PathBuf {
        let name = digest.to_string();
        self.folder().join(&name[..2]).join(name)
    }

    /// Opens a blob to read.
    pub fn open_blob(&self, digest: Digest) -> io::Result<File> {
        File::open(self.path(digest))
    }

    /// Length of a blob, if it is here.
    pub fn length(&self, digest: Digest) -> Option<u64> {
        fs::metadata(self.path(digest)).ok().map(|found| found.len())
    }

    /// Stores some bytes, durably.
    pub fn put(&self, bytes: &[u8]) -> io::Result<Digest> {
        let digest = Digest::of(bytes);
        let beside = self.unfinished(&format!("put-{}-{digest}", std::process::id()));
        let mut file = File::create(&beside)?;
        // A sweep spares what is locked; a process that dies lets go.
        file.lock()?;
        file.write_all(bytes)?;
        durable::sync_file(&file, &beside);
        self.adopt(&beside, digest)?;
        Ok(digest)
    }

    /// Gives a finished, synced file its name among the blobs, durably.
    pub fn adopt(&self, finished: &Path, digest: Digest) -> io::Result<()> {
        let path = self.path(digest);
        let folder = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder)?;
        fs::rename(finished, &path)?;
        // The outer folder always: one that is there may have been made just before a power cut, or by another program.
        [folder, &self.folder(), &self.tmp()].into_iter().try_for_each(durable::sync_folder)
    }

    /// What is wrong with a blob, if anything: its bytes are read and held to its digest.
    pub fn what_is_wrong_with(&self, blob: Digest) -> Option<String> {
        let mut digest = DigestBuilder::default();
        match self.open_blob(blob).and_then(|mut file| io::copy(&mut file, &mut digest)) {
            Ok(_) if digest.clone().finish() == blob => None,
            Ok(_) => Some(format!("it has digest {} now", digest.finish())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some("its file is gone".to_owned()),
            Err(error) => Some(format!("it cannot be read: {error}")),
        }
    }

    /// Tells the system that it need not keep a blob in memory any longer: it is read seldom from now on, and then from the disk.
    /// Where the system does not take the hint, nothing is lost.
    pub fn let_go_of_memory(&self, digest: Digest) {
        #[cfg(target_os = "linux")]
        if let Ok(file) = self.open_blob(digest) {
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        }
    }

    /// Removes a blob that nothing names any more, durably: once that is written down, nobody looks for it again, and one
    /// that a power cut brought back would stay for ever. One that is not here is as good.
    ///
    /// Its room is given back when what is returned is dropped, by the system if this process dies: of a large file that takes
    /// a while, in which nothing need wait.
    pub fn remove(&self, digest: Digest) -> io::Result<Option<File>> {
        let path = self.path(digest);
        // Of one that cannot be opened the room is given back here, at once.
        let removed = File::open(&path).ok();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Err(_) => Ok(None),
            Ok(()) => durable::sync_folder(path.parent().unwrap_or(&self.root)).map(|()| removed),
        }
    }

    /// Takes a blob that nothing names any more out of the blobs, durably, for an upload to be written over: the system need
    /// find no room for it then, in memory or on the disk. False if it is not here.
    pub fn set_aside(&self, digest: Digest) -> io::Result<bool> {
        let path = self.path(digest);
        match fs::rename(&path, self.unfinished(&spare(digest))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Err(_) => Ok(false),
            Ok(()) => durable::sync_folder(path.parent().unwrap_or(&self.root)).map(|()| true),
        }
    }

    /// Opens what was set aside as an upload's file. Its bytes are still there, to be written over; the name is durable.
    pub fn take_spare(&self, digest: Digest, name: &str) -> io::Result<(File, PathBuf)> {
        fs::rename(self.unfinished(&spare(digest)), self.unfinished(name))?;
        let opened = self.open_part(name)?;
        durable::sync_folder(&self.tmp())?;
        Ok(opened)
    }

    /// Removes what was set aside.
    pub fn remove_spare(&self, digest: Digest) {
        self.remove_part(&spare(digest));
    }

    /// A new file for a merged model, with its path; an older one of that name is emptied.
    pub fn begin_file(&self, name: &str) -> io::Result<(File, PathBuf)> {
        let path = self.unfinished(name);
        let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path)?;
        Ok((file, path))
    }

    /// Opens an upload's file to go on with it, or makes it. Its name is durable afterwards.
    pub fn open_part(&self, name: &str) -> io::Result<(File, PathBuf)> {
        let path = self.unfinished(name);
        let is_new = !path.exists();
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
        if is_new {
            durable::sync_folder(&self.tmp())?;
        }
        Ok((file, path))
    }

    /// Removes an upload's file. One that is not here is as good.
    pub fn remove_part(&self, name: &str) {
        if let Err(error) = fs::remove_file(self.unfinished(name))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(name, %error, "an unfinished file could not be removed; it takes room until the next start");
        }
    }

    /// Removes unfinished files of this server's earlier life and of commands that were killed, but for those that `keep`
    /// names.
    pub fn sweep(&self, keep: impl Fn(&str) -> bool) -> io::Result<()> {
        for entry in fs::read_dir(self.tmp())? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            if let Some(stem) = name.strip_suffix(".part")
                && !keep(stem)
                && !self.is_being_stored(stem)
            {
                self.remove_part(stem);
            }
        }
        Ok(())
    }

    /// Whether another program is storing this file right now.
    fn is_being_stored(&self, name: &str) -> bool {
        name.starts_with("put-") && File::open(self.unfinished(name)).is_ok_and(|file| file.try_lock().is_err())
    }

    fn folder(&self) -> PathBuf {
        self.root.join("blobs")
    }

    fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    fn unfinished(&self, name: &str) -> PathBuf {
        self.tmp().join(format!("{name}.part"))
    }
}

/// The name of a file that was set aside. No upload's has this form, and a sweep removes it.
fn spare(digest: Digest) -> String {
    format!("spare-{digest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_found_under_its_digest_and_only_whole() {
        let state = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(state.path()).unwrap();
        let digest = blobs.put(b"weights").unwrap();
        assert_eq!(fs::read(blobs.path(digest)).unwrap(), b"weights");
        assert_eq!(blobs.length(digest), Some(7));
        assert_eq!(blobs.length(Digest::of(b"other")), None);
        assert_eq!(fs::read_dir(state.path().join("tmp")).unwrap().count(), 0);
        blobs.let_go_of_memory(digest);
        assert_eq!(fs::read(blobs.path(digest)).unwrap(), b"weights");
        let removed = blobs.remove(digest).unwrap();
        assert!(removed.is_some() && !blobs.path(digest).exists());
        assert!(blobs.remove(digest).unwrap().is_none());
    }

    #[test]
    fn a_sweep_spares_live_uploads_and_what_another_program_is_storing_and_removes_what_the_dead_left() {
        let state = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(state.path()).unwrap();
        for name in ["live", "stray", "put-1-dead"] {
            blobs.open_part(name).unwrap();
        }
        let (storing, _) = blobs.open_part("put-2-live").unwrap();
        storing.lock().unwrap();
        blobs.sweep(|name| name == "live").unwrap();
        let mut left: Vec<_> =
            fs::read_dir(state.path().join("tmp")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["live.part", "put-2-live.part"]);
    }
}
