//! Making bytes durable. A failed fsync ends the process: the kernel may have dropped the pages, and a second fsync would
//! report success over lost data. After a restart, only what was safe counts.

use std::fs::File;
use std::io;
use std::path::Path;

/// Waits until a file's bytes are on the disk.
pub(crate) fn sync_file(file: &File, what: &Path) {
    or_abort(file.sync_all(), what);
}

/// Waits until a folder's entries (new, renamed, removed) are on the disk.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    let opened = File::open(folder)?;
    or_abort(opened.sync_all(), folder);
    Ok(())
}

/// Ends the process at once, saying why.
pub(crate) fn abort(what: &str, error: &dyn std::fmt::Display) -> ! {
    tracing::error!(what, %error, "the disk did not keep what was written; stopping, so that nothing false is acknowledged");
    // The log may not reach anyone before the end; the standard error does.
    eprintln!("aggregator: {what}: {error}. Stopping: start again when the disk is sound; only what is safe counts.");
    std::process::abort()
}

/// Whether the disk, or the quota on it, is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn or_abort(synced: io::Result<()>, what: &Path) {
    if let Err(error) = synced {
        abort(&format!("fsync of {}", what.display()), &error);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    const CHILD: &str = "A_FAILED_FSYNC_ENDS_THE_PROCESS";
    const ABORTED: i32 = 6;

    #[test]
    fn a_failed_fsync_ends_the_process_at_once_and_says_why() {
        if std::env::var_os(CHILD).is_some() {
            // A device that cannot be synced.
            let path = Path::new("/dev/null");
            sync_file(&File::open(path).unwrap(), path);
            return;
        }
        let name = "store::durable::tests::a_failed_fsync_ends_the_process_at_once_and_says_why";
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert_eq!(child.status.signal(), Some(ABORTED));
        assert!(String::from_utf8_lossy(&child.stderr).contains("fsync of /dev/null"));
    }
}
