//! The operator's command line. The verbs work on the state folder, and who may write there may coordinate; what people do in an
//! office works from their own machines as well, with `--as`.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use acting::{Acting, State};

pub use exit::Failure;

mod acting;
mod authority;
mod doctor;
mod enrol;
mod exit;
mod init;
mod invite;
mod ledger;
mod model;
mod revoke;
mod run;
mod serve;
mod status;
mod terminal;
mod text;
mod wait;
mod whom;

/// Coordinates a federation: enrols sites, runs rounds, merges their updates, publishes models.
///
/// A federation lives in one state folder. `init` makes it, `serve` serves it, and every other verb reads or writes it
/// directly, whether a server runs or not: the folder's permissions are the operator's authentication.
///
/// A person who was invited enrols with `enrol <invitation> --as <folder>` on a machine of their own, and types `status`, `run`,
/// `invite`, `revoke` and `ledger` there with `--as <folder>`: they go to the running server, as far as the person's office goes.
///
/// Exit codes: 0 done; 1 the machine failed; 2 the command line is not understood; 3 refused as asked; 4 the folder is
/// served by another aggregator; 5 a check of the doctor's failed; of `run wait`, 6 the run is finished and sites were left out of its
/// rounds, 7 it is not over yet, 8 it failed or was aborted.
#[derive(Debug, Parser)]
#[command(name = "aggregator", version, propagate_version = true)]
pub struct Cli {
    /// Write the log as JSON, one object a line. The log goes to the standard error; RUST_LOG sets its detail.
    #[arg(long, global = true)]
    log_json: bool,
    /// A folder of your own that you enrolled into: the command goes to the running server, in your name.
    #[arg(long = "as", value_name = "DIR", global = true)]
    acting: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a new federation: its certificate authority, the server's key, the settings. `serve` makes the server's certificate.
    Init(init::Init),
    /// Serve the federation until interrupted.
    Serve(serve::Serve),
    /// Invite a site or a person: prints an invitation, to be handed over as a key would be. Earlier unused ones expire.
    Invite(invite::Invite),
    /// Join a federation as a person: makes your keys in the folder of `--as`, and gets a certificate with an invitation.
    Enrol(enrol::Enrol),
    /// Take a new certificate now, as a person (`--as`). Every command does so by itself when two thirds of the old one's life are
    /// over; this is for when the federation's CA changes.
    Renew(Json),
    /// Start, sign, list, pause and end runs.
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
    /// Revoke the certificate and unused invitations of a site or a person: the next call is refused.
    Revoke(revoke::Revoke),
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
        if SystemTime::UNIX_EPOCH.elapsed().is_err() {
            say(&"aggregator: this machine's clock stands before 1970: set it, best by NTP");
            return ExitCode::FAILURE;
        }
        match act(self.verb, &Acting(self.acting)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                say(&format!("aggregator: {failure}"));
                failure.code()
            }
        }
    }
}

fn act(verb: Verb, acting: &Acting) -> Result<(), Failure> {
    match verb {
        Verb::Init(arguments) => acting.nobody("init").and_then(|()| init::init(arguments)),
        Verb::Serve(arguments) => acting.nobody("serve").and_then(|()| serve::serve(arguments)),
        Verb::Invite(arguments) => invite::invite(arguments, acting),
        Verb::Enrol(arguments) => enrol::enrol(arguments, acting),
        Verb::Renew(json) => enrol::renew(&json, acting),
        Verb::Run(verb) => run::run(verb, acting),
        Verb::Status(arguments) => status::status(arguments, acting),
        Verb::Authority(verb) => acting.nobody("authority").and_then(|()| authority::authority(verb)),
        Verb::Ledger(verb) => ledger::ledger(verb, acting),
        Verb::Model(arguments) => acting.nobody("model").and_then(|()| model::model(arguments)),
        Verb::Doctor(arguments) => acting.nobody("doctor").and_then(|()| doctor::doctor(arguments)),
        Verb::Revoke(arguments) => revoke::revoke(arguments, acting),
    }
}

fn start_log(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A line that cannot be written, on a full disk for example, would be told of where it cannot be told either: by a panic.
    let log = log.log_internal_errors(false);
    if json {
        log.json().init();
    } else {
        log.with_ansi(std::io::stderr().is_terminal()).with_target(false).init();
    }
}

/// Says something to whoever types, on the standard error. Where that cannot be written, a command ends with its own code all the same.
fn say(words: &impl Display) {
    let _ = writeln!(std::io::stderr(), "{words}");
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
