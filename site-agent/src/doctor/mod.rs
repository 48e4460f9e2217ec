//! `site-agent doctor`: what hospital IT asks before it calls for help, and what whoever helps asks first.
//!
//! ```text
//! probe (thin: disk, network, child processes) ─▶ measured facts ─▶ verdicts (pure) ─▶ checks ─▶ table, JSON, bundle
//! ```
//!
//! What a check found may be sent to others: it is made of numbers, of words of this program, and of names that the coordinator
//! knows anyway. What names a path, a file or a host of this hospital's is in [`Check::here`], and is in no bundle.

mod bundle;
mod local;
mod network;
mod verdicts;

use std::time::Duration;

use common::check::Check;

use crate::config::{Config, ConfigError};
use crate::home::Home;

pub use bundle::write as write_bundle;

/// Longest that a check of the network waits.
const NETWORK_WITHIN: Duration = Duration::from_secs(25);

/// Looks at everything. A settings file that cannot be read is a finding; the rest is looked at with the defaults then.
pub async fn examine(home: &Home, config: Result<Config, ConfigError>, program: &std::path::Path) -> Vec<Check> {
    let settings =
        verdicts::settings(home.config().exists(), config.as_ref().err().map(ToString::to_string).as_deref());
    let config = config.unwrap_or_default();
    let mut checks = vec![settings];
    checks.extend(local::permissions(home, &config));
    checks.extend(network::checks(home, &config).await);
    checks.extend(local::machine(home, &config, program));
    checks.extend(local::images(home, &config, program));
    checks
}
