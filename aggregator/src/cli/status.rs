//! `aggregator status`: how the federation stands, once or over and over.

use std::io::IsTerminal;
use std::thread;
use std::time::Duration;

use clap::Args;

use super::acting::{Acting, Desk, State, store};
use super::{Failure, Json, print, print_json, text};
use crate::clock::wall;
use crate::status;

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
    let mut read: Box<dyn FnMut() -> Result<status::Status, Failure>> = match acting.desk(state)? {
        Desk::Here(folder) => {
            let store = store(&folder)?;
            Box::new(move || Ok(status::read(&store, wall())?))
        }
        Desk::There(mut remote) => Box::new(move || Ok(remote.status()?)),
    };
    loop {
        let status = read()?;
        if json.json {
            print_json(&status)?;
        } else {
            let clear = if watch && std::io::stdout().is_terminal() { "\u{1b}[2J\u{1b}[H" } else { "" };
            print(&format!("{clear}{}", text::status(&status)))?;
        }
        if !watch {
            return Ok(());
        }
        thread::sleep(Duration::from_secs(1));
    }
}
