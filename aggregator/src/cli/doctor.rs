//! `aggregator doctor`: whether all is well, and what to do where it is not.

use clap::Args;
use common::check;
use serde_json::json;

use super::{Failure, Json, State, print, print_json};
use crate::clock::wall;
use crate::config::Config;
use crate::doctor;

/// Of which federation.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    json: Json,
}

pub(super) fn doctor(Doctor { state, json }: Doctor) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed("starting", error))?;
    let folder = state.folder()?;
    let config = Config::of_state(&folder);
    let checks = runtime.block_on(doctor::examine(&folder, config, wall()));
    let failed = check::failures(&checks);
    if json.json {
        print_json(&json!({ "failures": failed, "checks": checks }))?;
    } else {
        print(&check::table(&checks))?;
    }
    if failed == 0 { Ok(()) } else { Err(Failure::Unwell(failed)) }
}
