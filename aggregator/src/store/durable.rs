//! Making bytes durable. A failed fsync ends the process: the kernel may have dropped the pages, and a second fsync would
//! report success over lost data. After a restart, only what was safe counts.

use std::fs::File;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
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
    // Where neither can be written, the process ends all the same: a panic would end only this call, and whoever made it may ask
    // again and be told that all is well.
    let words = "Stopping: start again when the disk is sound; only what is safe counts.";
    let _ = writeln!(io::stderr(), "aggregator: {what}: {error}. {words}");
    let log = || tracing::error!(what, %error, "the disk did not keep what was written; stopping, so that nothing false is acknowledged");
    let _ = catch_unwind(AssertUnwindSafe(log));
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
    use std::process::{Command, Output, Stdio};

    use super::*;

    const CHILD: &str = "A_FAILED_FSYNC_ENDS_THE_PROCESS";
    const ABORTED: i32 = 6;

    #[test]
    fn a_failed_fsync_ends_the_process_at_once_and_says_why() {
        if std::env::var_os(CHILD).is_some() {
            // This one panics when it cannot be written to.
            tracing_subscriber::fmt().with_writer(io::stderr).init();
            // A device that cannot be synced.
            let path = Path::new("/dev/null");
            sync_file(&File::open(path).unwrap(), path);
            return;
        }
        let name = "store::durable::tests::a_failed_fsync_ends_the_process_at_once_and_says_why";
        let child = |stderr: Stdio| -> Output {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", name, "--nocapture"]).env(CHILD, "1").stdout(Stdio::null()).stderr(stderr);
            child.spawn().unwrap().wait_with_output().unwrap()
        };
        let told = child(Stdio::piped());
        assert_eq!(told.status.signal(), Some(ABORTED));
        assert!(String::from_utf8_lossy(&told.stderr).contains("fsync of /dev/null"));
        // Other systems have no disk that is always full.
        if cfg!(target_os = "linux") && Path::new("/dev/full").exists() {
            let full = File::options().write(true).open("/dev/full").unwrap();
            assert_eq!(child(full.into()).status.signal(), Some(ABORTED), "nor where it can say nothing");
        }
    }
}
