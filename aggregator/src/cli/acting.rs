//! Where a command works: on the state folder, on the aggregator's machine; or as a person, from anywhere, with `--as`.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::clock::wall;
use crate::desk::Asking;
use crate::desk::remote::Remote;
use crate::ledger::Actor;
use crate::store::SqliteStore;

/// What stands for `--state`.
const VARIABLE: &str = "AGGREGATOR_STATE";

/// The state folder, for commands on the aggregator's machine.
#[derive(Clone, Debug, Args)]
pub(super) struct State {
    /// The federation's state folder, on the aggregator's machine; AGGREGATOR_STATE in the environment stands for it. With `--as`
    /// it is not needed.
    #[arg(long = "state", value_name = "DIR")]
    folder: Option<PathBuf>,
}

impl State {
    /// The folder.
    pub(super) fn folder(self) -> Result<PathBuf, Failure> {
        let named = self.folder.or_else(|| std::env::var_os(VARIABLE).map(PathBuf::from));
        named.ok_or_else(|| {
            Failure::Usage(format!(
                "name the federation's state folder with --state or {VARIABLE}, or your own folder with --as"
            ))
        })
    }

    /// Whether a folder is typed.
    pub(super) fn is_typed(&self) -> bool {
        self.folder.is_some()
    }
}

/// Where a command works.
pub(super) enum Desk {
    /// In this state folder.
    Here(PathBuf),
    /// At the aggregator, as a person.
    There(Box<Remote>),
}

/// The person's folder of `--as`, if there is one.
#[derive(Clone, Debug)]
pub(super) struct Acting(pub(super) Option<PathBuf>);

impl Acting {
    /// Where a command works that works in both places.
    pub(super) fn desk(&self, state: State) -> Result<Desk, Failure> {
        match &self.0 {
            Some(_) if state.is_typed() => Err(Failure::Usage(
                "--as works from anywhere, --state in the state folder: name one of the two".to_owned(),
            )),
            Some(folder) => Ok(Desk::There(Box::new(Remote::open(folder)?))),
            None => Ok(Desk::Here(state.folder()?)),
        }
    }

    /// Refuses `--as` for a command that works on the state folder alone.
    pub(super) fn nobody(&self, verb: &str) -> Result<(), Failure> {
        match &self.0 {
            None => Ok(()),
            Some(_) => Err(Failure::Usage(format!(
                "`aggregator {verb}` works on the state folder alone: type it on the aggregator's machine, with --state and without --as"
            ))),
        }
    }
}

/// The store of a state folder.
pub(super) fn store(folder: &std::path::Path) -> Result<SqliteStore, Failure> {
    Ok(SqliteStore::open(folder)?)
}

/// Whoever may write to the state folder asks, now.
pub(super) fn asking() -> Asking {
    Asking { by: Actor::StateFolder, now: wall() }
}
