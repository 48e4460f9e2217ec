//! A worker process as this process sees it: asked, waited for, and replaced when it ends.
//!
//! A worker that ends, says nothing in time, or says something that is no answer, is killed. The request is tried once more with
//! a fresh one, since the fault may lie in what the old one did before; then the file is skipped.

use std::ffi::OsString;
use std::io::{self, BufReader, BufWriter};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::protocol::{Bounds, Request, Response, read_message, write_message};
use super::{Content, Parser, Span};
use crate::dicom::{ImageHeader, standard_uid};
use crate::keys::SiteSecret;
use crate::limits::IntakeLimits;
use crate::skip::SkipReason;

/// Requests after which a worker is replaced, well before its processor time is used up.
const LIFE: u32 = 2000;

/// Longest that a worker takes to begin.
const BEGINS_WITHIN: Duration = Duration::from_secs(60);
/// Of a worker that does not.
const UNHELD: &str =
    "it ended before it could be asked: the source is gone, or the kernel lets it not be held to that (seccomp)";

/// How often a wait for an answer looks whether the intake is to stop.
const LOOKS_EVERY: Duration = Duration::from_millis(100);

/// Reads files in a child process.
pub(crate) struct Remote {
    program: PathBuf,
    args: Vec<OsString>,
    secret: SiteSecret,
    limits: IntakeLimits,
    source: PathBuf,
    stopped: Arc<AtomicBool>,
    worker: Option<Worker>,
}

struct Worker {
    child: Child,
    input: BufWriter<ChildStdin>,
    /// What the next answer may be; nothing is read before it is asked for.
    expected: SyncSender<Bounds>,
    answers: Receiver<io::Result<Answer>>,
    served: u32,
}

/// The number of the request it answers, the answer, and its values.
type Answer = (u32, Response, Vec<f32>);

/// How a worker failed a request.
enum Failure {
    Ended,
    TooSlow,
    /// The intake is to stop.
    Stopped,
}

impl Remote {
    /// Starts `program` with `args` for a worker of this source; it must call [`super::worker_main`]. Once `stopped` is set no answer
    /// of it counts.
    pub(crate) fn start(
        program: &Path,
        args: &[OsString],
        secret: SiteSecret,
        limits: IntakeLimits,
        source: &Path,
        stopped: &Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let (program, args, stopped) = (program.to_owned(), args.to_vec(), Arc::clone(stopped));
        let mut remote = Self { program, args, secret, limits, source: source.to_owned(), stopped, worker: None };
        remote.worker = Some(remote.begin()?);
        Ok(remote)
    }

    fn begin(&self) -> io::Result<Worker> {
        let mut child = Command::new(&self.program)
            .args(&self.args)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let (expected, asked) = sync_channel(1);
        let (sender, answers) = sync_channel(1);
        // Ends with the worker: when its output ends, or when nobody asks or waits for answers any more.
        thread::spawn(move || {
            let mut output = BufReader::new(output);
            for bounds in asked {
                let answer = read_message(&mut output, bounds);
                let last = answer.is_err();
                if sender.send(answer).is_err() || last {
                    return;
                }
            }
        });
        let mut worker = Worker { child, input: BufWriter::new(input), expected, answers, served: 0 };
        let begin = Request::Begin { secret: self.secret.to_hex(), limits: self.limits, source: bytes(&self.source) };
        worker.expected.send(begin.bounds()).map_err(|_| io::ErrorKind::BrokenPipe)?;
        write_message(&mut worker.input, 0, &begin, &[])?;
        match worker.answer(BEGINS_WITHIN, &self.stopped) {
            Ok(Ok((0, Response::Begun, _))) => Ok(worker),
            _ => Err(io::Error::other(UNHELD)),
        }
    }

    fn ask(&mut self, request: &Request) -> Result<(Response, Vec<f32>), SkipReason> {
        if self.worker.as_ref().is_some_and(|worker| worker.served >= LIFE) {
            self.worker = None;
        }
        loop {
            if self.worker.is_none() {
                self.worker = Some(self.begin().map_err(|_| SkipReason::ParserCrashed)?);
            }
            let Some(worker) = &mut self.worker else { return Err(SkipReason::ParserCrashed) };
            match worker.ask(request, &self.limits, &self.stopped) {
                Ok(answer) => return Ok(answer),
                Err(failure) => {
                    let fresh = worker.served == 0;
                    self.worker = None;
                    match failure {
                        Failure::TooSlow => return Err(SkipReason::ParserLimit),
                        // Whoever hears this is stopped as well, and takes no word of it.
                        Failure::Stopped => return Err(SkipReason::ParserCrashed),
                        Failure::Ended if fresh => return Err(SkipReason::ParserCrashed),
                        Failure::Ended => {}
                    }
                }
            }
        }
    }
}

impl Worker {
    fn ask(
        &mut self,
        request: &Request,
        limits: &IntakeLimits,
        stopped: &AtomicBool,
    ) -> Result<(Response, Vec<f32>), Failure> {
        let number = self.served + 1;
        self.expected.send(request.bounds()).map_err(|_| Failure::Ended)?;
        write_message(&mut self.input, number, request, &[]).map_err(|_| Failure::Ended)?;
        match self.answer(limits.request_time(), stopped)? {
            Ok((answered, response, values)) if answered == number => {
                self.served = number;
                Ok((response, values))
            }
            Ok(_) | Err(_) => Err(Failure::Ended),
        }
    }

    /// Waits for the next answer, with an eye on whether anybody still wants it.
    fn answer(&self, within: Duration, stopped: &AtomicBool) -> Result<io::Result<Answer>, Failure> {
        let asked = Instant::now();
        loop {
            if stopped.load(Ordering::SeqCst) {
                return Err(Failure::Stopped);
            }
            let left = within.saturating_sub(asked.elapsed());
            match self.answers.recv_timeout(left.min(LOOKS_EVERY)) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Disconnected) => return Err(Failure::Ended),
                Err(RecvTimeoutError::Timeout) if left.is_zero() => return Err(Failure::TooSlow),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended by itself: there is nothing more to do then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Parser for Remote {
    fn open(&mut self, path: &Path) -> Result<Content, SkipReason> {
        match self.ask(&Request::Open { path: bytes(path) })?.0 {
            Response::Header(header) => Ok(Content::Image(header)),
            Response::Archive(entries) => Ok(Content::Archive(entries)),
            other => Err(reason(other)),
        }
    }

    fn header(&mut self, path: &Path, entry: u32) -> Result<Box<ImageHeader>, SkipReason> {
        match self.ask(&Request::Header { path: bytes(path), entry })?.0 {
            Response::Header(header) => Ok(header),
            other => Err(reason(other)),
        }
    }

    fn syntax(&mut self, path: &Path, entry: Option<u32>) -> Result<String, SkipReason> {
        match self.ask(&Request::Syntax { path: bytes(path), entry })?.0 {
            Response::Syntax(uid) => Ok(standard_uid(&uid)),
            other => Err(reason(other)),
        }
    }

    fn frames(&mut self, path: &Path, span: Span) -> Result<Vec<f32>, SkipReason> {
        match self.ask(&Request::Frames { path: bytes(path), span })? {
            (Response::Frames, values) if values.len() == span.values() => Ok(values),
            (other, _) => Err(reason(other)),
        }
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// An answer to another question is as good as none.
fn reason(response: Response) -> SkipReason {
    match response {
        Response::Skip(reason) => reason,
        _ => SkipReason::ParserCrashed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of a request to a worker that says this, whatever it is asked.
    fn outcome_of(number: u32) -> SkipReason {
        let folder = tempfile::tempdir().unwrap();
        let said = folder.path().join("said");
        let mut answer = Vec::new();
        write_message(&mut answer, 0, &Response::Begun, &[]).unwrap();
        write_message(&mut answer, number, &Response::Skip(SkipReason::NotMr), &[]).unwrap();
        std::fs::write(&said, answer).unwrap();
        let script = format!("cat {}; exec cat > /dev/null", said.display());
        let args = ["-c".into(), script.into()];
        let secret = SiteSecret::new([1; 32]);
        let (shell, limits) = (Path::new("/bin/sh"), IntakeLimits::default());
        let mut remote = Remote::start(shell, &args, secret, limits, folder.path(), &Arc::default()).unwrap();
        remote.open(Path::new("/a")).unwrap_err()
    }

    #[test]
    fn an_answer_to_another_request_is_none() {
        assert_eq!(outcome_of(1), SkipReason::NotMr);
        assert_eq!(outcome_of(2), SkipReason::ParserCrashed);
    }
}
