//! Kernels compiled for a GPU, kept in the user's cache folder: the first step of a program would wait most of a minute for
//! them again each time.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Once;

use common::ids::DigestBuilder;
use cubecl::config::cache::CacheConfig;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

/// Has what is compiled from here on kept, once for the process; where there is no folder for it nothing is.
pub(crate) fn keep() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Some(folder) = caches().and_then(|caches| made(&caches).ok()) {
            let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
            config.compilation.cache.get_or_insert(CacheConfig::File(folder));
            CubeClRuntimeConfig::set(config);
        }
    });
}

/// The user's cache folder (XDG Base Directory Specification 0.8).
fn caches() -> Option<PathBuf> {
    let absolute = |value: OsString| Some(PathBuf::from(value)).filter(|path| path.is_absolute());
    let of_home = || Some(absolute(std::env::var_os("HOME")?)?.join(".cache"));
    std::env::var_os("XDG_CACHE_HOME").and_then(absolute).or_else(of_home)
}

/// The folder for this program's kernels: another program, or another build of it, may have others under the same names.
/// Nobody but its user may write there what a GPU is given to run.
fn made(caches: &Path) -> io::Result<PathBuf> {
    let mut program = File::open(std::env::current_exe()?)?;
    let (mut digest, mut piece) = (DigestBuilder::default(), vec![0; 1 << 20]);
    loop {
        match program.read(&mut piece)? {
            0 => break,
            count => digest.update(&piece[..count]),
        }
    }
    let all = caches.join("cmr-federation/kernels");
    fs::create_dir_all(caches)?;
    let folder = all.join(digest.finish().short());
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn kernels_are_kept_where_nobody_else_may_write() {
        let caches = tempfile::tempdir().unwrap();
        let folder = made(caches.path()).unwrap();
        assert_eq!(made(caches.path()).unwrap(), folder, "the same program finds its kernels again");
        for folder in [&folder, folder.parent().unwrap()] {
            assert_eq!(fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700, "{folder:?}");
        }
    }
}
