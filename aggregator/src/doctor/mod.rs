//! `aggregator doctor`: looks at the state folder, the certificates, the members, this machine and the server, and says what to do
//! where something is not well. It changes nothing, whether a server runs or not; how fast the disk is, it measures by a file that it
//! removes again.
//!
//! ```text
//! probe (thin: disk, network) ─▶ measured facts ─▶ verdicts (pure) ─▶ checks ─▶ table, JSON, bundle
//! ```
//!
//! What a check found may be sent to others: numbers, words of this program, names of members, runs and digests. What names a path,
//! a host or a file of this machine is in [`Check::here`], and is in no bundle.

mod bundle;
mod local;
mod network;
mod stored;
mod verdicts;

use std::path::Path;

use common::check::Check;

use crate::clock::Stamp;
use crate::config::{Config, ConfigError};

pub use bundle::write as write_bundle;

/// Looks at everything, `now`.
pub async fn examine(state: &Path, config: Result<Config, ConfigError>, now: Stamp) -> Vec<Check> {
    let wrong = config.as_ref().err().map(ToString::to_string);
    let config = config.unwrap_or_default();
    let authority = local::authority(state);
    let stored = stored::read(state, now);
    let read = stored.as_ref().ok();
    let mut checks = local::files(state, wrong.as_deref(), &authority, now);
    checks.extend(stored::checks(state, &config, stored.as_ref(), now));
    checks.extend(local::machine(state, &config, read.map_or(&[], |read| &read.stored)));
    checks.extend(network::checks(&config, authority.ok().as_ref(), read.map(|read| &read.status), now).await);
    checks
}
