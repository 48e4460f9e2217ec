//! What the kernel lets a worker do once it has its orders: read files of its source, and answer.
//!
//! Both walls list what is permitted. Landlock lets it open files beneath the source, for reading. A filter of system calls lets
//! it read, write to what is open, and manage its memory and threads: no socket, no program, no other process, no name of a
//! file made, changed or removed. What is not listed fails as on a kernel that has no such call, so that the C library takes an
//! older one where it knows one.

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod walls {
    use std::collections::BTreeMap;
    use std::io;
    use std::path::Path;

    use landlock::{
        ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
        RulesetCreated, RulesetCreatedAttr, Scope,
    };
    use seccompiler::SeccompCmpArgLen::{Dword, Qword};
    use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
    use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompFilter, SeccompRule};

    /// What is asked of Landlock: of an older kernel as much of it as that has.
    const WANTED: ABI = ABI::V6;

    /// Puts both walls around the calling thread, and around what it starts, for good. The source's may be one file.
    pub(crate) fn enter(source: &Path) -> io::Result<()> {
        files(source)?;
        let program = calls().map_err(io::Error::other)?;
        seccompiler::apply_filter(&program).map_err(io::Error::other)
    }

    /// Whether this kernel can hold a worker to the files of its source.
    pub fn holds_files() -> bool {
        let least = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        least.handle_access(AccessFs::from_all(ABI::V1)).and_then(Ruleset::create).is_ok()
    }

    fn files(source: &Path) -> io::Result<()> {
        let beneath = PathBeneath::new(PathFd::new(source).map_err(io::Error::other)?, AccessFs::ReadFile);
        let held = Ruleset::default()
            .handle_access(AccessFs::from_all(WANTED))
            .and_then(|rules| rules.handle_access(AccessNet::from_all(WANTED)))
            .and_then(|rules| rules.scope(Scope::from_all(WANTED)))
            .and_then(Ruleset::create)
            .and_then(|rules| rules.add_rule(beneath))
            .and_then(RulesetCreated::restrict_self);
        held.map(drop).map_err(io::Error::other)
    }

    fn calls() -> Result<BpfProgram, seccompiler::BackendError> {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALWAYS.iter().map(|call| (*call, Vec::new())).collect();
        #[cfg(target_arch = "x86_64")]
        {
            rules.extend([libc::SYS_stat, libc::SYS_lstat, libc::SYS_time].map(|call| (call, Vec::new())));
            rules.insert(libc::SYS_open, vec![if_all([argument(1, Dword, MaskedEq(WRITING), 0)])?]);
        }
        rules.insert(libc::SYS_openat, vec![if_all([argument(2, Dword, MaskedEq(WRITING), 0)])?]);
        rules.insert(
            libc::SYS_fcntl,
            vec![
                if_all([argument(1, Dword, Eq, libc::F_GETFD as u64)])?,
                if_all([argument(1, Dword, Eq, libc::F_GETFL as u64)])?,
            ],
        );
        // A thread, and no process: that would have time of its own.
        let thread = libc::CLONE_THREAD as u64;
        rules.insert(libc::SYS_clone, vec![if_all([argument(0, Qword, MaskedEq(thread), thread)])?]);
        // Its own limits, to look at.
        rules.insert(libc::SYS_prlimit64, vec![if_all([argument(0, Dword, Eq, 0), argument(2, Qword, Eq, 0)])?]);
        // How it aborts.
        let own = u64::from(std::process::id());
        rules.insert(libc::SYS_tgkill, vec![if_all([argument(0, Dword, Eq, own)])?]);
        let (otherwise, arch) = (SeccompAction::Errno(libc::ENOSYS as u32), std::env::consts::ARCH.try_into()?);
        SeccompFilter::new(rules, otherwise, SeccompAction::Allow, arch)?.try_into()
    }

    /// Flags of a file that is not only read.
    const WRITING: u64 = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_TMPFILE) as u64;

    type Condition = (u8, SeccompCmpArgLen, SeccompCmpOp, u64);

    fn argument(place: u8, length: SeccompCmpArgLen, compared: SeccompCmpOp, value: u64) -> Condition {
        (place, length, compared, value)
    }

    fn if_all<const N: usize>(conditions: [Condition; N]) -> Result<SeccompRule, seccompiler::BackendError> {
        let made = conditions
            .into_iter()
            .map(|(place, length, compared, value)| seccompiler::SeccompCondition::new(place, length, compared, value));
        SeccompRule::new(made.collect::<Result<_, _>>()?)
    }

    const ALWAYS: &[i64] = &[
        // Files that are open, and what is known of others.
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_pread64,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_lseek,
        libc::SYS_close,
        libc::SYS_fstat,
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_fadvise64,
        // Memory.
        libc::SYS_brk,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        // Threads.
        libc::SYS_futex,
        libc::SYS_set_robust_list,
        libc::SYS_get_robust_list,
        libc::SYS_rseq,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_membarrier,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_exit,
        libc::SYS_exit_group,
        // Signals to itself, as a stack that overflows is found.
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_restart_syscall,
        // Time, and keys of hash maps.
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_gettimeofday,
        libc::SYS_getrandom,
    ];
}

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod walls {
    use std::io;
    use std::path::Path;

    /// There are none: the limits of the process are all.
    pub(crate) fn enter(_: &Path) -> io::Result<()> {
        Ok(())
    }

    /// It cannot.
    pub fn holds_files() -> bool {
        false
    }
}

pub(super) use walls::enter;
pub use walls::holds_files;

#[cfg(all(test, target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use std::fs::{self, File};
    use std::io::Read;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixStream;
    use std::process::Command;
    use std::thread;

    use super::*;

    #[test]
    fn a_worker_reads_its_source_and_nothing_else_and_reaches_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let [source, state] = ["source", "state"].map(|name| folder.path().join(name));
        [&source, &state].into_iter().for_each(|folder| fs::create_dir(folder).unwrap());
        let (image, key, link) = (source.join("IM1"), state.join("site.key"), source.join("IM2"));
        fs::write(&image, b"image").unwrap();
        fs::write(&key, b"key").unwrap();
        std::os::unix::fs::symlink(&key, &link).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, files) = (listener.local_addr().unwrap(), holds_files());
        // The walls stand around a thread and what it starts.
        let inside = thread::spawn(move || {
            enter(&source).unwrap();
            let mut read = String::new();
            File::open(&image).unwrap().read_to_string(&mut read).unwrap();
            assert_eq!(read, "image");
            assert_eq!(fs::metadata(&image).unwrap().len(), 5);
            assert_eq!(thread::spawn(|| vec![1_u8; 1 << 20].len()).join().unwrap(), 1 << 20);
            if files {
                assert!(File::open(&key).is_err(), "another file of the same user");
                assert!(File::open(&link).is_err(), "a link to it");
            } else {
                println!("NOT RUN: this kernel cannot hold a worker to the files of its source");
            }
            assert!(File::options().append(true).open(&image).is_err());
            assert!(File::create(source.join("new")).is_err());
            assert!(fs::remove_file(&image).is_err());
            assert!(fs::rename(&image, source.join("moved")).is_err());
            assert!(fs::create_dir(source.join("folder")).is_err());
            assert!(fs::set_permissions(&image, fs::metadata(&image).unwrap().permissions()).is_err());
            assert!(TcpStream::connect(address).is_err());
            assert!(UdpSocket::bind("127.0.0.1:0").is_err());
            assert!(UnixStream::pair().is_err());
            assert!(Command::new("/bin/true").status().is_err());
            // Also in what it starts.
            thread::spawn(move || assert!(TcpStream::connect(address).is_err())).join().unwrap();
        });
        inside.join().unwrap();
        assert!(!folder.path().join("source/new").exists() && folder.path().join("source/IM1").exists());
        assert!(TcpStream::connect(address).is_ok(), "nobody else is held");
    }

    #[test]
    fn a_source_that_is_one_archive_is_the_one_file_that_a_worker_reads() {
        if !holds_files() {
            println!("NOT RUN: this kernel cannot hold a worker to the files of its source");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let [archive, beside] = ["a.zip", "b.zip"].map(|name| folder.path().join(name));
        [&archive, &beside].into_iter().for_each(|file| fs::write(file, b"zip").unwrap());
        let inside = thread::spawn(move || {
            enter(&archive).unwrap();
            assert_eq!(fs::read(&archive).unwrap(), b"zip");
            assert!(File::open(&beside).is_err());
        });
        inside.join().unwrap();
    }
}
