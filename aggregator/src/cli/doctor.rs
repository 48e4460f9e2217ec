//! `aggregator doctor`: whether all is well, and what to do where it is not.

use std::path::PathBuf;

use clap::Args;
use common::check;
use serde_json::json;

use super::{Failure, Json, State, print, print_json, say};
use crate::clock::wall;
use crate::config::Config;
use crate::doctor;

/// Of which federation.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// Write a zip for whoever helps as well: the checks without paths and hosts of this machine, the settings without addresses,
    /// versions, how the runs stand. It holds no key and no invitation.
    #[arg(long, value_name = "FILE.zip")]
    bundle: Option<PathBuf>,
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    json: Json,
}

pub(super) fn doctor(Doctor { bundle, state, json }: Doctor) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed("starting", error))?;
    let folder = state.folder()?;
    let config = Config::of_state(&folder);
    // Of settings that cannot be read the checks say why.
    let settings = config.as_ref().ok().cloned();
    let checks = runtime.block_on(doctor::examine(&folder, config, wall()));
    let failed = check::failures(&checks);
    if json.json {
        print_json(&json!({ "failures": failed, "checks": checks }))?;
    } else {
        print(&check::table(&checks))?;
    }
    if let Some(path) = bundle {
        let held =
            doctor::write_bundle(&path, &checks, settings.as_ref(), &folder, wall()).map_err(Failure::refused)?;
        let path = path.display();
        say(&format!("{path} holds {held}: no key, no host, no path, no log; read it before you send it"));
    }
    if failed == 0 { Ok(()) } else { Err(Failure::Unwell(failed)) }
}
