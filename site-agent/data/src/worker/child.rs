//! The worker process: puts limits on itself, then answers requests until its input ends.
//!
//! It can neither write files nor leave a core dump, and the kernel lets it do little beside reading its source
//! ([`super::sandbox`]). Its standard error is closed, because what a parser prints about a file may hold the file's values.

use std::ffi::OsString;
use std::io::{self, BufReader, BufWriter, stdin, stdout};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::ExitCode;

use rlimit::Resource;

use super::protocol::{Bounds, Request, Response, read_message, write_message};
use super::{Content, Examiner, Parser, sandbox};
use crate::keys::SiteSecret;
use crate::limits::IntakeLimits;

/// Runs the worker over standard input and output.
pub fn worker_main() -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve() -> io::Result<()> {
    let (mut input, mut output) = (BufReader::new(stdin().lock()), BufWriter::new(stdout().lock()));
    let (number, Request::Begin { secret, limits, source }, _) = read_message(&mut input, Bounds::REQUEST)? else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let secret = SiteSecret::from_hex(&secret).ok_or(io::ErrorKind::InvalidData)?;
    confine(&limits)?;
    sandbox::enter(&path(source))?;
    write_message(&mut output, number, &Response::Begun, &[])?;
    let mut examiner = Examiner::new(secret, limits);
    loop {
        let (number, request) = match read_message(&mut input, Bounds::REQUEST) {
            Ok((number, request, _)) => (number, request),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let (response, payload) = answer(&mut examiner, request)?;
        write_message(&mut output, number, &response, &payload)?;
    }
}

fn answer(examiner: &mut Examiner, request: Request) -> io::Result<(Response, Vec<f32>)> {
    let answered = match request {
        Request::Begin { .. } => return Err(io::ErrorKind::InvalidData.into()),
        Request::Open { path: file } => examiner.open(&path(file)).map(|content| match content {
            Content::Image(header) => (Response::Header(header), Vec::new()),
            Content::Archive(entries) => (Response::Archive(entries), Vec::new()),
        }),
        Request::Header { path: file, entry } => {
            examiner.header(&path(file), entry).map(|header| (Response::Header(header), Vec::new()))
        }
        Request::Syntax { path: file, entry } => {
            examiner.syntax(&path(file), entry).map(|uid| (Response::Syntax(uid), Vec::new()))
        }
        Request::Frames { path: file, span } => {
            examiner.frames(&path(file), span).map(|values| (Response::Frames, values))
        }
    };
    Ok(answered.unwrap_or_else(|reason| (Response::Skip(reason), Vec::new())))
}

fn path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

/// Bounds this process for the rest of its life.
fn confine(limits: &IntakeLimits) -> io::Result<()> {
    let memory = address_space().saturating_add(limits.worker_memory);
    bound(Resource::AS, memory)?;
    bound(Resource::CPU, limits.worker_cpu_s)?;
    bound(Resource::FSIZE, 0)?;
    bound(Resource::CORE, 0)?;
    bound(Resource::NOFILE, 32)
}

/// A limit that is stricter already stays: nobody may raise it.
fn bound(resource: Resource, most: u64) -> io::Result<()> {
    let most = most.min(resource.get_hard()?);
    resource.set(most, most)
}

/// Address space this process already has, in bytes: a large program maps much that it never touches.
fn address_space() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split_whitespace().next()?.parse::<u64>().ok());
    pages.map_or(1 << 30, |pages| pages.saturating_mul(4096))
}
