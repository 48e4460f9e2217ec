//! `aggregator status`: how the federation stands, once or over and over.

use std::io::IsTerminal;
use std::thread;
use std::time::Duration;

use clap::Args;

use super::acting::{Acting, Desk, State, store};
use super::terminal::Line;
use super::{Failure, Json, print, print_json, text};
use crate::clock::wall;
use crate::desk::remote::Remote;
use crate::status::{self, Status};
use crate::store::SqliteStore;

/// Time between two looks of who watches, or waits.
pub(super) const LOOKED_EVERY: Duration = Duration::from_secs(1);

/// How to show it.
#[derive(Debug, Args)]
pub(super) struct StatusArguments {
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    json: Json,
    /// Show it again every second, until interrupted.
    #[arg(long)]
    watch: bool,
}

pub(super) fn status(arguments: StatusArguments, acting: &Acting) -> Result<(), Failure> {
    let StatusArguments { state, json, watch } = arguments;
    let mut source = Source::of(acting.desk(state)?)?;
    let mut line = Line::new(watch);
    let mut is_shown = false;
    loop {
        match source.status() {
            // What was shown last stays, and beneath it why it does.
            Err(Failure::Failed(why)) if is_shown && source.is_afar() => line.trouble(&why),
            Err(failure) => return Err(failure),
            Ok(status) => {
                line.clear();
                if json.json {
                    print_json(&status)?;
                } else {
                    let clear = if watch && std::io::stdout().is_terminal() { "\u{1b}[2J\u{1b}[H" } else { "" };
                    print(&format!("{clear}{}", text::status(&status)))?;
                }
                is_shown = watch;
            }
        }
        if !watch {
            return Ok(());
        }
        thread::sleep(LOOKED_EVERY);
    }
}

/// Where the status is read, again and again.
pub(super) enum Source {
    /// In the state folder.
    Here(Box<SqliteStore>),
    /// At the aggregator.
    There {
        /// Through this connection.
        remote: Box<Remote>,
        /// Which has failed, and is made anew.
        failed: bool,
    },
}

impl Source {
    pub(super) fn of(desk: Desk) -> Result<Self, Failure> {
        Ok(match desk {
            Desk::Here(folder) => Self::Here(Box::new(store(&folder)?)),
            Desk::There(remote) => Self::There { remote, failed: false },
        })
    }

    /// Whether what fails may be well again by itself: the network, or an aggregator that starts again.
    pub(super) fn is_afar(&self) -> bool {
        matches!(self, Self::There { .. })
    }

    pub(super) fn status(&mut self) -> Result<Status, Failure> {
        match self {
            Self::Here(store) => Ok(status::read(&**store, wall())?),
            Self::There { remote, failed } => {
                // A certificate that is to be renewed is when a connection is made.
                if *failed || remote.is_to_be_renewed() {
                    remote.reopen()?;
                }
                let told = remote.status();
                *failed = told.is_err();
                Ok(told?)
            }
        }
    }
}
