//! The system calls by which anything becomes durable, taken over: these functions stand before the C library's in this
//! program, for the standard library and for SQLite alike. Nothing happens but in a process that
//! arms a disk.
//!
//! Variadic `open` is taken with its mode, which lies in the same register on the machines that this is built for; where it
//! is not given, it is not used.

#![expect(
    unsafe_code,
    reason = "functions of the C library are replaced by their own names, and called by their numbers"
)]

use std::ffi::{CStr, OsStr, c_char, c_int, c_long, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::disk::{self, Call, Verdict};

/// Ends this process as `kill -9` does, and a power cut.
pub(super) fn die() -> ! {
    loop {
        // SAFETY: no memory is touched, and there is no way back.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
}

/// Does what the disk says: lets the call happen and tells it how it went, or answers an error in its place.
fn judged(call: Option<Call>, act: impl FnOnce() -> c_long) -> c_long {
    let Some(call) = call else { return act() };
    match disk::before(&call) {
        Verdict::Happens => {
            let answer = act();
            disk::after(&call, answer >= 0);
            answer
        }
        Verdict::Fails(error) => {
            // SAFETY: this thread's own error number.
            unsafe { *libc::__errno_location() = error };
            -1
        }
    }
}

fn path_of(path: *const c_char) -> PathBuf {
    // SAFETY: callers of the C library's functions give a string that ends.
    let path = unsafe { CStr::from_ptr(path) };
    PathBuf::from(OsStr::from_bytes(path.to_bytes()))
}

fn file_of(file: c_int) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{file}")).ok()
}

/// A call on a path, if a disk judges it.
fn at(path: *const c_char, call: impl FnOnce(PathBuf) -> Call) -> Option<Call> {
    disk::judges().then(|| call(path_of(path))).filter(Call::is_below_the_disk)
}

/// A call on an open file, if a disk judges it.
fn on(file: c_int, call: impl FnOnce(PathBuf) -> Call) -> Option<Call> {
    let path = if disk::judges() { file_of(file) } else { None };
    path.map(call).filter(Call::is_below_the_disk)
}

fn open_file(path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int {
    let makes = flags & libc::O_CREAT != 0;
    let empties = flags & libc::O_TRUNC != 0;
    let call = if makes || empties { at(path, |path| Call::Open { is_new: !path.exists(), path }) } else { None };
    // SAFETY: the caller's arguments, as they are.
    judged(call, || unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode) }) as c_int
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn open(path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int {
    open_file(path, flags, mode)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn open64(path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int {
    open_file(path, flags, mode)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn write(file: c_int, bytes: *const c_void, count: usize) -> isize {
    let call = on(file, |path| Call::Write { path, count });
    let some = call.as_ref().map_or(count, |_| disk::some_of(count));
    // SAFETY: the caller's arguments, or fewer of its bytes.
    judged(call, || unsafe { libc::syscall(libc::SYS_write, file, bytes, some) }) as isize
}

fn write_at(file: c_int, bytes: *const c_void, count: usize, offset: i64) -> isize {
    let call = on(file, |path| Call::Write { path, count });
    let some = call.as_ref().map_or(count, |_| disk::some_of(count));
    // SAFETY: the caller's arguments, or fewer of its bytes.
    judged(call, || unsafe { libc::syscall(libc::SYS_pwrite64, file, bytes, some, offset) }) as isize
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn pwrite(file: c_int, bytes: *const c_void, count: usize, offset: i64) -> isize {
    write_at(file, bytes, count, offset)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn pwrite64(file: c_int, bytes: *const c_void, count: usize, offset: i64) -> isize {
    write_at(file, bytes, count, offset)
}

fn cut(file: c_int, length: i64) -> c_int {
    let call = on(file, |path| Call::Cut { path });
    // SAFETY: the caller's arguments.
    judged(call, || unsafe { libc::syscall(libc::SYS_ftruncate, file, length) }) as c_int
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn ftruncate(file: c_int, length: i64) -> c_int {
    cut(file, length)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn ftruncate64(file: c_int, length: i64) -> c_int {
    cut(file, length)
}

fn sync(file: c_int, number: c_long) -> c_int {
    let call = on(file, |path| Call::Sync { path });
    // SAFETY: the caller's argument.
    judged(call, || unsafe { libc::syscall(number, file) }) as c_int
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn fsync(file: c_int) -> c_int {
    sync(file, libc::SYS_fsync)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn fdatasync(file: c_int) -> c_int {
    sync(file, libc::SYS_fdatasync)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    let call = at(from, |from| Call::Rename { from, to: path_of(to) });
    // SAFETY: the caller's arguments.
    judged(call, || unsafe { libc::syscall(libc::SYS_renameat2, libc::AT_FDCWD, from, libc::AT_FDCWD, to, 0) }) as c_int
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn unlink(path: *const c_char) -> c_int {
    let call = at(path, |path| Call::Remove { path });
    // SAFETY: the caller's argument.
    judged(call, || unsafe { libc::syscall(libc::SYS_unlinkat, libc::AT_FDCWD, path, 0) }) as c_int
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn mkdir(path: *const c_char, mode: libc::mode_t) -> c_int {
    let call = at(path, |path| Call::MakeFolder { path }).filter(|call| !call.path().exists());
    // SAFETY: the caller's arguments.
    judged(call, || unsafe { libc::syscall(libc::SYS_mkdirat, libc::AT_FDCWD, path, mode) }) as c_int
}
