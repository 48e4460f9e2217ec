//! The Federation harness: one aggregator and its sites as real processes on loopback, over real mutual TLS.
//!
//! It owns ports, folders and processes. It types the commands that a coordinator and hospital IT would type, and reads
//! their `--json` answers; nothing reaches around the programs, but for the secret of a phantom's subjects.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aggregator::store::{SqliteStore, StoreError};
use common::Digest;
use serde_json::Value;

use crate::programs::{self, Environment, Process, ProgramError, Programs, run, run_in, said_in};

/// What the aggregator is called among the processes.
pub const AGGREGATOR: &str = "aggregator";

/// One federation in one folder.
#[derive(Debug)]
pub struct Federation {
    root: PathBuf,
    programs: Programs,
    address: String,
    aggregator: Option<Process>,
    agents: BTreeMap<String, Process>,
    environments: BTreeMap<String, Environment>,
}

/// Why the federation does not work.
#[derive(Debug, thiserror::Error)]
pub enum FederationError {
    /// A program failed.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// What the aggregator has stored cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The disk or the network said no.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// A program's JSON is not what was expected.
    #[error("{command} printed something else than expected: {text}")]
    Unexpected {
        /// What was run.
        command: &'static str,
        /// What it printed.
        text: String,
    },
    /// What was waited for did not happen.
    #[error("{what} did not happen within {seconds} s; last words:\n{words}")]
    TooLate {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
        /// The end of the logs.
        words: String,
    },
}

impl Federation {
    /// A new federation in `root`: its CA and its aggregator, which is not started yet.
    pub fn create(root: &Path) -> Result<Self, FederationError> {
        Self::create_at(root, free_address()?)
    }

    /// A new federation in `root` that says it is reached at `address`.
    pub fn create_at(root: &Path, address: String) -> Result<Self, FederationError> {
        let federation = Self::at(root, address)?;
        let state = federation.aggregator_state();
        let address = federation.address.clone();
        fs::create_dir_all(root)?;
        fs::write(root.join("address"), &address)?;
        federation.coordinator(&["init", "--federation", "demo", "--address", &address, "--listen", &address])?;
        debug_assert!(state.exists());
        Ok(federation)
    }

    /// The federation that was created in `root` before, or a new one where none was, or one that was cut short: nobody is a member of
    /// that.
    pub fn open_or_create(root: &Path) -> Result<Self, FederationError> {
        let state = root.join("aggregator");
        match SqliteStore::open(&state).map(drop) {
            Ok(()) => Self::open(root),
            Err(StoreError::NoFederation(_) | StoreError::HalfMade { .. }) => {
                if state.exists() {
                    fs::remove_dir_all(state)?;
                }
                Self::create(root)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A federation that was created in `root` before.
    pub fn open(root: &Path) -> Result<Self, FederationError> {
        Self::at(root, fs::read_to_string(root.join("address"))?.trim().to_owned())
    }

    fn at(root: &Path, address: String) -> Result<Self, FederationError> {
        let programs = Programs::build()?;
        Ok(Self {
            root: root.to_owned(),
            programs,
            address,
            aggregator: None,
            agents: BTreeMap::new(),
            environments: BTreeMap::new(),
        })
    }

    /// Starts this program from now on in the place of the site agent's.
    pub fn use_site_agent(&mut self, program: PathBuf) {
        self.programs.site_agent = program;
    }

    /// The end of a program's log.
    pub fn last_words(&self, name: &str) -> String {
        let log = fs::read_to_string(self.log(name)).unwrap_or_default();
        log.lines().rev().take(20).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Where the aggregator is reached.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The aggregator's state folder.
    pub fn aggregator_state(&self) -> PathBuf {
        self.root.join("aggregator")
    }

    /// A site's state folder.
    pub fn site_state(&self, site: &str) -> PathBuf {
        self.root.join("sites").join(site)
    }

    /// Writes a site's settings, as a person there would.
    pub fn write_settings(&self, site: &str, written: &str) -> std::io::Result<()> {
        fs::create_dir_all(self.site_state(site))?;
        fs::write(self.site_state(site).join("site-agent.toml"), written)
    }

    /// Starts a site's programs with this variable from now on.
    pub fn set_variable(&mut self, site: &str, name: &str, value: &str) {
        self.environments.entry(site.to_owned()).or_default().insert(name.to_owned(), value.to_owned());
    }

    /// Starts a site's programs without any variable of its own from now on.
    pub fn clear_variables(&mut self, site: &str) {
        self.environments.remove(site);
    }

    fn environment(&self, site: &str) -> Environment {
        self.environments.get(site).cloned().unwrap_or_default()
    }

    /// A process's log.
    pub fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    /// Types a command of the coordinator's.
    pub fn coordinator(&self, arguments: &[&str]) -> Result<String, ProgramError> {
        let state = self.aggregator_state().display().to_string();
        run(&self.programs.aggregator, &[arguments, &["--state", &state]].concat())
    }

    /// Types a command of the coordinator's program that needs no state folder.
    pub fn coordinator_alone(&self, arguments: &[&str]) -> Result<String, ProgramError> {
        run(&self.programs.aggregator, arguments)
    }

    /// Types a command of one site's.
    pub fn at_site(&self, site: &str, arguments: &[&str]) -> Result<String, ProgramError> {
        let state = self.site_state(site).display().to_string();
        run_in(&self.environment(site), &self.programs.site_agent, &[&["--state", &state], arguments].concat())
    }

    /// Types a command of one site's, and returns all that it says, however it ends.
    pub fn said_at_site(&self, site: &str, arguments: &[&str]) -> Result<String, ProgramError> {
        let state = self.site_state(site).display().to_string();
        said_in(&self.environment(site), &self.programs.site_agent, &[&["--state", &state], arguments].concat())
    }

    /// Starts the aggregator, and waits until it listens.
    pub fn start_aggregator(&mut self) -> Result<(), FederationError> {
        self.begin_aggregator()?;
        self.wait_until("the aggregator listening", Duration::from_secs(30), |federation| Ok(federation.is_listening()))
    }

    /// Starts the aggregator, and does not wait.
    pub fn begin_aggregator(&mut self) -> Result<(), FederationError> {
        let ready = self.ready_file();
        if ready.exists() {
            fs::remove_file(&ready)?;
        }
        let (state, ready_text) = (self.aggregator_state().display().to_string(), ready.display().to_string());
        let arguments = ["serve", "--state", &state, "--listen", &self.address, "--ready-file", &ready_text];
        let log = self.log("aggregator");
        self.aggregator = Some(Process::start("aggregator", &self.programs.aggregator, &arguments, &log)?);
        Ok(())
    }

    /// Whether the aggregator that was started last has come as far as to listen.
    pub fn is_listening(&self) -> bool {
        self.ready_file().exists()
    }

    fn ready_file(&self) -> PathBuf {
        self.root.join("ready")
    }

    /// Invites and enrols a site, as the coordinator and hospital IT do.
    pub fn enrol(&self, site: &str) -> Result<(), FederationError> {
        let invitation = self.invite(site)?;
        self.at_site(site, &["enrol", &invitation, "--json"])?;
        Ok(())
    }

    /// Gives a site the secret under which it names its subjects, so that the same seed holds out the same subjects. A
    /// real site draws its own.
    pub fn seed_secret(&self, site: &str, seed: u64) -> std::io::Result<()> {
        let path = self.site_state(site).join("images/secret.key");
        if path.exists() {
            return Ok(());
        }
        // As an agent makes it: pixels and names of files are to come.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(self.site_state(site).join("images"))?;
        let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(Digest::of(format!("{site} {seed}").as_bytes()).to_string().as_bytes())
    }

    /// A new invitation for a site.
    pub fn invite(&self, site: &str) -> Result<String, FederationError> {
        let text = self.coordinator(&["invite", site, "--json"])?;
        let unexpected = || FederationError::Unexpected { command: "aggregator invite", text: text.clone() };
        let answer: Value = serde_json::from_str(&text).map_err(|_| unexpected())?;
        Ok(answer["invitation"].as_str().ok_or_else(unexpected)?.to_owned())
    }

    /// Makes the plan's first model at `site` and starts the run; returns the plan's digest.
    pub fn start_run(&self, site: &str, plan: &Path) -> Result<String, FederationError> {
        let first = plan.with_file_name("first-model.safetensors").display().to_string();
        let plan = plan.display().to_string();
        self.at_site(site, &["init-model", &plan, "--out", &first])?;
        let text = self.coordinator(&["run", "start", &plan, "--first-model", &first, "--json"])?;
        let unexpected = || FederationError::Unexpected { command: "aggregator run start", text: text.clone() };
        let answer: Value = serde_json::from_str(&text).map_err(|_| unexpected())?;
        Ok(answer["plan"].as_str().ok_or_else(unexpected)?.to_owned())
    }

    /// Starts a site's agent; it works until a run has finished, or failed.
    pub fn start_agent(&mut self, site: &str) -> Result<(), FederationError> {
        self.start_agent_with(site, &["--until-finished"])
    }

    fn start_agent_with(&mut self, site: &str, more: &[&str]) -> Result<(), FederationError> {
        let state = self.site_state(site).display().to_string();
        let arguments = [&["--state", &state, "run"], more].concat();
        let (environment, log) = (self.environment(site), self.log(site));
        let agent = Process::start_in(&environment, site, &self.programs.site_agent, &arguments, &log)?;
        self.agents.insert(site.to_owned(), agent);
        Ok(())
    }

    /// Starts a site's agent; it works from run to run, also where one fails.
    pub fn start_lasting_agent(&mut self, site: &str) -> Result<(), FederationError> {
        self.start_agent_with(site, &[])
    }

    /// Waits until a site's agent has ended by itself, and says how.
    pub fn end_of_agent(&mut self, site: &str, within: Duration) -> Result<Option<i32>, FederationError> {
        let began = Instant::now();
        while self.is_at_work(site) {
            if began.elapsed() > within {
                let (what, words) = (format!("the end of {site}'s agent"), self.last_words(site));
                return Err(FederationError::TooLate { what, seconds: within.as_secs(), words });
            }
            thread::park_timeout(Duration::from_millis(100));
        }
        let ended = self.agents.remove(site).and_then(|mut agent| agent.ended());
        Ok(ended.and_then(|status| status.code()))
    }

    /// Kills the aggregator as `kill -9` does.
    pub fn kill_aggregator(&mut self) {
        if let Some(mut aggregator) = self.aggregator.take() {
            aggregator.kill();
        }
    }

    /// Kills a site's agent as `kill -9` does.
    pub fn kill_agent(&mut self, site: &str) {
        if let Some(mut agent) = self.agents.remove(site) {
            agent.kill();
        }
    }

    /// Asks a site's agent to end, as the system does, and waits until it has.
    pub fn stop_agent(&mut self, site: &str) -> std::io::Result<()> {
        self.agents.remove(site).map_or(Ok(()), |mut agent| agent.terminate())
    }

    /// Kills the aggregator, agents, or several of them at one instant, as `kill -9` does: agents with their trainers. Says
    /// how many processes that were.
    pub fn kill_at_once(&mut self, names: &[&str]) -> std::io::Result<usize> {
        let mut victims = Vec::new();
        for name in names {
            victims.extend(if *name == AGGREGATOR { self.aggregator.take() } else { self.agents.remove(*name) });
        }
        let of = |agent: &Process| programs::child(agent.id(), "train").into_iter().chain([agent.id()]);
        let agents = if names == [AGGREGATOR] { Vec::new() } else { victims.iter().flat_map(of).collect() };
        if !agents.is_empty() {
            programs::kill(&agents)?;
        }
        victims.iter_mut().for_each(Process::kill);
        Ok(agents.len().max(victims.len()))
    }

    /// Sends a signal, for example `-STOP`, to a site's agent and to its trainer.
    pub fn signal(&self, site: &str, signal: &str) -> std::io::Result<()> {
        let Some(agent) = self.agents.get(site) else { return Ok(()) };
        let ids: Vec<u32> = [agent.id()].into_iter().chain(programs::child(agent.id(), "train")).collect();
        programs::signal(signal, &ids)
    }

    /// Whether a site's agent is started and has not ended by itself.
    pub fn is_at_work(&mut self, site: &str) -> bool {
        self.agents.get_mut(site).is_some_and(|agent| agent.ended().is_none())
    }

    /// Kills a site's trainer as `kill -9` does, and leaves its agent alone. False if it has none just now.
    pub fn kill_trainer(&self, site: &str) -> std::io::Result<bool> {
        let Some(agent) = self.agents.get(site) else { return Ok(false) };
        programs::kill_child(agent.id(), "train")
    }

    /// Whether a site has a trainer at work.
    pub fn has_trainer(&self, site: &str) -> bool {
        self.agents.get(site).is_some_and(|agent| programs::child(agent.id(), "train").is_some())
    }

    /// Process ids of all programs at work, by name.
    pub fn processes(&self) -> Vec<(String, u32)> {
        let agents = self.agents.iter().map(|(site, agent)| (site.clone(), agent.id()));
        agents.chain(self.aggregator.iter().map(|process| ("aggregator".to_owned(), process.id()))).collect()
    }

    /// `aggregator status --json`.
    pub fn status(&self) -> Result<Value, FederationError> {
        let text = self.coordinator(&["status", "--json"])?;
        serde_json::from_str(&text).map_err(|_| FederationError::Unexpected { command: "aggregator status", text })
    }

    /// Fails with its last words if a program has ended without success.
    pub fn check(&mut self) -> Result<(), ProgramError> {
        self.agents.values_mut().chain(self.aggregator.as_mut()).try_for_each(Process::check)
    }

    /// Waits until something holds, looking about ten times a second, and fails early if a program has died.
    pub fn wait_until(
        &mut self,
        what: &str,
        within: Duration,
        mut holds: impl FnMut(&Self) -> Result<bool, FederationError>,
    ) -> Result<(), FederationError> {
        let began = Instant::now();
        while !holds(self)? {
            self.check()?;
            if began.elapsed() > within {
                let words = self.aggregator.iter().chain(self.agents.values()).map(Process::last_words);
                let words = words.collect::<Vec<_>>().join("\n--\n");
                return Err(FederationError::TooLate { what: what.to_owned(), seconds: within.as_secs(), words });
            }
            // Other processes are waited for: their state is looked at, not assumed after a time.
            thread::park_timeout(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// An address on loopback that nobody listens on, below the ports that the system gives to outgoing connections: a client
/// must not be given it while its server is down.
fn free_address() -> std::io::Result<String> {
    const FIRST: u32 = 18_000;
    const COUNT: u32 = 12_000;
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(101);
    for _ in 0..COUNT {
        let port = FIRST + start.wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let address = format!("127.0.0.1:{port}");
        if TcpListener::bind(&address).is_ok() {
            return Ok(address);
        }
    }
    Err(std::io::ErrorKind::AddrNotAvailable.into())
}
