//! `site-agent doctor`: looks at everything that must be well, and says what to do where it is not.

use std::path::PathBuf;

use clap::Args;
use common::check;

use super::{Json, print, print_json, runtime, say};
use crate::config::{Config, ConfigError};
use crate::doctor;
use crate::home::Home;

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Write a zip for whoever helps as well: the checks without paths, hosts and words of this site, the settings without
    /// paths and passwords, versions. It holds no patient data.
    #[arg(long, value_name = "FILE.zip")]
    bundle: Option<PathBuf>,
    #[command(flatten)]
    json: Json,
}

/// Some checks failed: [`DOCTOR_FAILED`](crate::cli::DOCTOR_FAILED).
#[derive(Debug, thiserror::Error)]
#[error("{0} checks failed: each says what to do")]
pub(super) struct Failed(usize);

pub(super) fn doctor(home: &Home, config: Result<Config, ConfigError>, args: &DoctorArgs) -> anyhow::Result<()> {
    let program = std::env::current_exe()?;
    // Of settings that cannot be read the checks say why.
    let settings = config.as_ref().ok().cloned();
    let checks = runtime()?.block_on(doctor::examine(home, config, &program));
    if args.json.json {
        print_json(&serde_json::json!({ "failures": check::failures(&checks), "checks": checks }))?;
    } else {
        print(&check::table(&checks))?;
    }
    if let Some(path) = &args.bundle {
        let held = doctor::write_bundle(path, &checks, settings.as_ref(), home)?;
        let path = path.display();
        say(&format!("{path} holds {held}: no image, no path, no log; read it before you send it"));
    }
    match check::failures(&checks) {
        0 => Ok(()),
        failed => Err(Failed(failed).into()),
    }
}
