//! The operator's command line. The verbs work on the state folder; who may write there may coordinate.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

pub use exit::Failure;

mod authority;
mod doctor;
mod exit;
mod init;
mod invite;
mod ledger;
mod model;
mod revoke;
mod run;
mod serve;
mod status;
mod text;

/// Coordinates a federation: enrols sites, runs rounds, merges their updates, publishes models.
///
/// A federation lives in one state folder. `init` makes it, `serve` serves it, and every other verb reads or writes it
/// directly, whether a server runs or not: the folder's permissions are the operator's authentication.
///
/// Exit codes: 0 done; 1 the machine failed; 2 the command line is not understood; 3 refused as asked; 4 the folder is
/// served by another aggregator; 5 a check of the doctor's failed.
#[derive(Debug, Parser)]
#[command(name = "aggregator", version, propagate_version = true)]
pub struct Cli {
    /// Write the log as JSON, one object a line. The log goes to the standard error; RUST_LOG sets its detail.
    #[arg(long, global = true)]
    log_json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a new federation: its certificate authority, the server's certificate, the settings.
    Init(init::Init),
    /// Serve the federation until interrupted.
    Serve(serve::Serve),
    /// Invite a site: prints an invitation, to be handed to that hospital. Earlier unused ones of the site expire.
    Invite(invite::Invite),
    /// Start and list runs.
    #[command(subcommand)]
    Run(run::RunVerb),
    /// Show how the federation stands: sites, rounds, meters, who was left out and why.
    Status(status::StatusArguments),
    /// Let another CA take the place of the federation's, with the work going on.
    #[command(subcommand)]
    Authority(authority::AuthorityVerb),
    /// Show, check and export the ledger: who was let in and out, who took part in what, what came of it.
    #[command(subcommand)]
    Ledger(ledger::LedgerVerb),
    /// Take a round's model out of the state folder.
    Model(model::Model),
    /// Look at everything that must be well (state folder, keys, database, sites, blobs, server), and say what to do where it
    /// is not.
    Doctor(doctor::Doctor),
    /// Revoke a site's certificate and its unused invitations: its next call is refused.
    Revoke(revoke::Revoke),
}

#[derive(Debug, Args)]
struct State {
    /// The federation's state folder.
    #[arg(long = "state", value_name = "DIR", env = "AGGREGATOR_STATE")]
    folder: PathBuf,
}

#[derive(Debug, Args)]
struct Json {
    /// Print JSON, for scripts.
    #[arg(long)]
    json: bool,
}

impl Cli {
    /// Does what the command line asks.
    pub fn run(self) -> ExitCode {
        start_log(self.log_json);
        let done = match self.verb {
            Verb::Init(arguments) => init::init(arguments),
            Verb::Serve(arguments) => serve::serve(arguments),
            Verb::Invite(arguments) => invite::invite(arguments),
            Verb::Run(verb) => run::run(verb),
            Verb::Status(arguments) => status::status(arguments),
            Verb::Authority(verb) => authority::authority(verb),
            Verb::Ledger(verb) => ledger::ledger(verb),
            Verb::Model(arguments) => model::model(arguments),
            Verb::Doctor(arguments) => doctor::doctor(arguments),
            Verb::Revoke(arguments) => revoke::revoke(arguments),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                eprintln!("aggregator: {failure}");
                failure.code()
            }
        }
    }
}

fn start_log(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json {
        log.json().init();
    } else {
        log.with_ansi(std::io::stderr().is_terminal()).with_target(false).init();
    }
}

fn print(text: &impl Display) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = write!(out, "{text}").and_then(|()| out.flush());
    written.map_err(|error| Failure::failed("the standard output", error))
}

fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::failed("writing JSON", error))?;
    print(&format!("{text}\n"))
}
