//! A federation's state folder, made by the operator's commands, and its server.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use certs::invitation::Invitation;
use common::SiteId;
use serde_json::Value;

use crate::model::{Case, Tape};
use crate::process::Process;

/// The program that is measured.
const AGGREGATOR: &str = env!("CARGO_BIN_EXE_aggregator");

/// A state folder that is served.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    folder: tempfile::TempDir,
}

pub(crate) fn site_name(site: usize) -> SiteId {
    format!("site-{site:02}").parse().expect("a name")
}

/// Patients at a site: every site has another share.
pub(crate) fn subjects(site: usize) -> u32 {
    20 + 5 * site as u32
}

impl Server {
    /// A federation without a run, served.
    pub(crate) fn start(within: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("round-").tempdir_in(within).expect("a folder");
        let state = folder.path().join("state");
        operate(&state, &["init", "--federation", "bench", "--address", "127.0.0.1:1"]);
        let (process, address) = serve(folder.path(), "127.0.0.1:0");
        Self { process, address, folder }
    }

    /// Kills the process, starts another one at the same address, and waits until it listens.
    pub(crate) fn killed_and_started_again(&mut self) {
        self.process.child().kill().expect("the process is ours");
        self.process.child().wait().expect("the process is ours");
        let address = self.address.to_string();
        (self.process, self.address) = serve(self.folder.path(), &address);
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Where a site keeps its key.
    pub(crate) fn key_path(&self, site: &SiteId) -> PathBuf {
        self.folder.path().join(format!("{site}.key"))
    }

    pub(crate) fn invite(&self, site: &SiteId) -> Invitation {
        let told = operate(&self.state(), &["invite", &site.to_string(), "--json"]);
        let told: Value = serde_json::from_str(&told).expect("JSON");
        told["invitation"].as_str().expect("an invitation").parse().expect("an invitation")
    }

    /// Starts a run of so many rounds; the sites are enrolled.
    pub(crate) fn start_run(&self, case: Case, rounds: usize, tape: &Tape) {
        let (plan, model) = (self.folder.path().join("plan.toml"), self.folder.path().join("first.safetensors"));
        let sites: Vec<_> = (0..case.sites).map(|site| site_name(site).to_string()).collect();
        let text = format!(
            "run = \"bench\"\n[training]\nsteps_per_round = 10\nepoch_steps = 10\nbatch_size = 8\n[rounds]\ncount = {rounds}\n\
             sites = {sites:?}\nquorum = {}\ndeadline_s = 600\n{}",
            case.sites,
            case.size.network()
        );
        fs::write(&plan, text).expect("the plan");
        fs::write(&model, [case.layout().header(), &tape.first_model()].concat()).expect("the first model");
        let path = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
        operate(&self.state(), &["run", "start", &path(&plan), "--first-model", &path(&model)]);
    }
}

/// A server of the state below a folder, once it listens.
fn serve(folder: &Path, listen: &str) -> (Process, SocketAddr) {
    let ready = folder.join("address");
    // There is none before the first start.
    drop(fs::remove_file(&ready));
    let mut command = Command::new(AGGREGATOR);
    command.arg("serve").arg("--listen").arg(listen).arg("--ready-file").arg(&ready);
    command.arg("--state").arg(folder.join("state")).env("RUST_LOG", "warn").stdout(Stdio::null());
    let mut process = Process::start(&mut command);
    while !ready.exists() {
        let ended = process.child().try_wait().expect("the process is ours");
        assert!(ended.is_none(), "the aggregator ended before it listened: {ended:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    let address = fs::read_to_string(&ready).expect("the address");
    (process, address.parse().expect("an address"))
}

fn operate(state: &Path, words: &[&str]) -> String {
    let output = Command::new(AGGREGATOR).args(words).arg("--state").arg(state).output().expect("the aggregator runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "aggregator {words:?}: {error}");
    String::from_utf8(output.stdout).expect("text")
}
