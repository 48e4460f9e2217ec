//! The real programs, built once and found by what cargo says, and child processes that end with their owner.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

/// Where the two programs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// The aggregator.
    pub aggregator: PathBuf,
    /// The site agent.
    pub site_agent: PathBuf,
}

/// Why a program could not be built, started or did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// cargo could not build the programs.
    #[error("cargo could not build the programs:\n{0}")]
    Build(String),
    /// A program could not be started.
    #[error("{program} could not be started: {source}")]
    Start {
        /// The program.
        program: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A program said no.
    #[error("`{command}` ended with {status}:\n{words}")]
    Failed {
        /// What was run.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        words: String,
    },
}

impl Programs {
    /// Builds the programs with the profile this program was built with, and asks cargo where they are.
    pub fn build() -> Result<Self, ProgramError> {
        static BUILT: OnceLock<Result<Programs, String>> = OnceLock::new();
        BUILT.get_or_init(|| build().map_err(|error| error.to_string())).clone().map_err(ProgramError::Build)
    }
}

fn build() -> Result<Programs, ProgramError> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let mut command = Command::new(&cargo);
    command.args(["build", "--locked", "--workspace", "--bins", "--message-format=json-render-diagnostics"]);
    command.arg("--manifest-path").arg(workspace).stdin(Stdio::null());
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    if cfg!(feature = "cuda") {
        command.args(["--features", "tests/cuda"]);
    }
    let start = |source| ProgramError::Start { program: "cargo".to_owned(), source };
    let output = command.output().map_err(start)?;
    if !output.status.success() {
        return Err(ProgramError::Build(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    let found: BTreeMap<String, PathBuf> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| {
            let name = message["target"]["name"].as_str()?.to_owned();
            Some((name, PathBuf::from(message["executable"].as_str()?)))
        })
        .collect();
    let at = |name: &str| {
        found.get(name).cloned().ok_or_else(|| ProgramError::Build(format!("cargo built no program named {name}")))
    };
    Ok(Programs { aggregator: at("aggregator")?, site_agent: at("site-agent")? })
}

/// Variables that a program is started with, beside those of this one.
pub type Environment = BTreeMap<String, String>;

/// What would tell the programs of proxies, of the detail of their logs and of their folders.
const TELLING: [&str; 7] =
    ["HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "RUST_LOG", "AGGREGATOR_STATE", "SITE_AGENT_STATE"];

/// A program with its arguments and variables. It is told by those alone: a test goes no way that the machine chooses, and reads logs
/// of the detail that it asked for.
fn command(program: &Path, arguments: &[&str], environment: &Environment) -> Command {
    let mut command = Command::new(program);
    for name in TELLING {
        command.env_remove(name);
    }
    command.args(arguments).envs(environment).stdin(Stdio::null());
    command
}

/// Runs a program to its end and returns what it wrote to its standard output.
pub fn run(program: &Path, arguments: &[&str]) -> Result<String, ProgramError> {
    run_in(&Environment::new(), program, arguments)
}

/// The same in an environment.
pub fn run_in(environment: &Environment, program: &Path, arguments: &[&str]) -> Result<String, ProgramError> {
    let told = || {
        let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy();
        format!("{name} {}", arguments.join(" "))
    };
    let output = command(program, arguments, environment).output();
    let output = output.map_err(|source| ProgramError::Start { program: told(), source })?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let words = [output.stdout, output.stderr].map(|words| String::from_utf8_lossy(&words).into_owned()).concat();
        Err(ProgramError::Failed { command: told(), status: output.status, words })
    }
}

/// Runs a program to its end and returns all that it wrote, to either output, however it ended.
pub fn said_in(environment: &Environment, program: &Path, arguments: &[&str]) -> Result<String, ProgramError> {
    let start = |source| ProgramError::Start { program: program.display().to_string(), source };
    let output = command(program, arguments, environment).output().map_err(start)?;
    Ok([output.stdout, output.stderr].map(|words| String::from_utf8_lossy(&words).into_owned()).concat())
}

/// Every text that a zip of a program's holds, with the names of its files.
pub fn texts(zip: &Path) -> io::Result<String> {
    let mut zip = zip::ZipArchive::new(File::open(zip)?)?;
    let mut all = String::new();
    for place in 0..zip.len() {
        let mut file = zip.by_index(place)?;
        all += &format!("{}\n", file.name()?);
        file.read_to_string(&mut all)?;
    }
    Ok(all)
}

/// Processes at work in the background. Whoever ends this program holds the lock and never lets go of it: none is started after.
static AT_WORK: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn at_work() -> MutexGuard<'static, BTreeSet<u32>> {
    AT_WORK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on a SIGTERM or SIGINT to this program alone asks its processes in the background to end as well, as Ctrl-C in a terminal asks
/// all of them: no value is dropped then.
pub fn end_with_their_owner() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal as hears};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Heard of from here on, and not only when the thread comes to it.
    let (mut asked, mut interrupted) = {
        let _inside = runtime.enter();
        (hears(SignalKind::terminate())?, hears(SignalKind::interrupt())?)
    };
    let ends = move || {
        let number = runtime.block_on(async {
            tokio::select! {
                _ = asked.recv() => libc::SIGTERM,
                _ = interrupted.recv() => libc::SIGINT,
            }
        });
        let at_work = at_work();
        let ids: Vec<u32> = at_work.iter().copied().collect();
        // Who has ended by itself meanwhile cannot be asked, which is as good.
        drop(signal("-TERM", &ids));
        // As a shell tells of a program that a signal ended.
        std::process::exit(128 + number)
    };
    thread::Builder::new().name("signals".to_owned()).spawn(ends).map(drop)
}

/// A program at work in the background. It is killed when this value is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program with its output appended to `log`.
    pub fn start(name: &str, program: &Path, arguments: &[&str], log: &Path) -> Result<Self, ProgramError> {
        Self::start_in(&Environment::new(), name, program, arguments, log)
    }

    /// The same in an environment.
    pub fn start_in(
        environment: &Environment,
        name: &str,
        program: &Path,
        arguments: &[&str],
        log: &Path,
    ) -> Result<Self, ProgramError> {
        let told = |source| ProgramError::Start { program: name.to_owned(), source };
        fs::create_dir_all(log.parent().unwrap_or(Path::new("."))).map_err(told)?;
        let out = File::options().create(true).append(true).open(log).map_err(told)?;
        let err = out.try_clone().map_err(told)?;
        let mut command = command(program, arguments, environment);
        let mut at_work = at_work();
        let child = command.stdout(out).stderr(err).spawn().map_err(told)?;
        at_work.insert(child.id());
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        // Another process may get its number from here on.
        let mut at_work = at_work();
        let ended = self.child.try_wait().ok().flatten();
        if ended.is_some() {
            at_work.remove(&self.id());
        }
        ended
    }

    /// An error with its last words, if it has ended without success.
    pub fn check(&mut self) -> Result<(), ProgramError> {
        match self.ended() {
            Some(status) if !status.success() => {
                Err(ProgramError::Failed { command: self.name.clone(), status, words: self.last_words() })
            }
            _ => Ok(()),
        }
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Asks it to end, as the system does before it stops a machine, and waits until it has.
    pub fn terminate(&mut self) -> io::Result<()> {
        signal("-TERM", &[self.id()])?;
        self.wait().map(drop)
    }

    fn wait(&mut self) -> io::Result<ExitStatus> {
        let ended = self.child.wait();
        at_work().remove(&self.id());
        ended
    }

    /// Kills it at once, as `kill -9` and a power cut do.
    pub fn kill(&mut self) {
        // A process that has ended by itself cannot be killed, which is as good.
        let killed = self.child.kill();
        drop(killed);
        let reaped = self.wait();
        drop(reaped);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A child of the process `parent` that was started with the verb `verb`.
pub fn child(parent: u32, verb: &str) -> Option<u32> {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process may end while it is looked at.
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let of_parent = status
            .lines()
            .any(|line| line.strip_prefix("PPid:").is_some_and(|found| found.trim().parse() == Ok(parent)));
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if of_parent && line.split(|&byte| byte == 0).nth(1) == Some(verb.as_bytes()) {
            return Some(id);
        }
    }
    None
}

/// Kills processes at one instant as `kill -9` does. One that has ended by itself is as good.
pub fn kill(ids: &[u32]) -> io::Result<()> {
    signal("-KILL", ids)
}

/// Sends a signal, for example `-STOP`, to processes at one instant.
pub fn signal(signal: &str, ids: &[u32]) -> io::Result<()> {
    let ids = ids.iter().map(u32::to_string);
    Command::new("kill").arg(signal).args(ids).stderr(Stdio::null()).status().map(drop)
}

/// Kills a child of the process `parent` that was started with the verb `verb`. False if there is none.
pub fn kill_child(parent: u32, verb: &str) -> io::Result<bool> {
    let Some(id) = child(parent, verb) else { return Ok(false) };
    Ok(Command::new("kill").arg("-9").arg(id.to_string()).status()?.success())
}

/// A TCP socket of a process, as the system lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// This end's port.
    pub local_port: u16,
    /// The other end's port; 0 if there is none.
    pub remote_port: u16,
    /// Whether it waits for connections.
    pub listens: bool,
}

/// The TCP sockets that a process holds (Linux).
pub fn sockets(process: u32) -> io::Result<Vec<Socket>> {
    let mut held = Vec::new();
    for entry in fs::read_dir(format!("/proc/{process}/fd"))? {
        // A descriptor may be closed while it is looked at.
        let Ok(target) = fs::read_link(entry?.path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        held.extend(target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')).map(str::to_owned));
    }
    let mut sockets = Vec::new();
    for table in ["tcp", "tcp6"] {
        for line in fs::read_to_string(format!("/proc/{process}/net/{table}"))?.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, local, remote, state, _, _, _, _, _, inode, ..] = fields[..] else { continue };
            let port = |address: &str| {
                address.rsplit_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok()).unwrap_or(0)
            };
            if held.iter().any(|held| held == inode) {
                sockets.push(Socket { local_port: port(local), remote_port: port(remote), listens: state == "0A" });
            }
        }
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn a_program_hears_of_the_detail_of_its_log_from_whoever_starts_it_and_not_from_the_machine() {
        let of = |environment: &Environment, name: &str| {
            let command = command(Path::new("program"), &[], environment);
            let found = command.get_envs().find(|(found, _)| *found == OsStr::new(name));
            found.map(|(_, value)| value.map(OsStr::to_owned))
        };
        for name in TELLING {
            assert_eq!(of(&Environment::new(), name), Some(None), "{name} is not inherited");
        }
        let asked = Environment::from([("RUST_LOG".to_owned(), "trace".to_owned())]);
        assert_eq!(of(&asked, "RUST_LOG"), Some(Some("trace".into())));
        assert_eq!(of(&asked, "AGGREGATOR_STATE"), Some(None));
    }
}
