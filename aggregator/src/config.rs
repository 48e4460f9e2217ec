//! The server's settings: a TOML file in the state folder, every key optional, unknown keys refused.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::authority;
use crate::federation::Limits;
use crate::store::FederationRecord;

/// What `aggregator init` writes, and what the documentation shows.
pub const EXAMPLE: &str = include_str!("../aggregator.example.toml");

/// The settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// Bytes that uploads and stored updates may take together.
    pub max_spool_bytes: u64,
    /// Merged rounds whose updates stay on disk while the run goes on, for audit.
    pub keep_updates_of_rounds: u32,
    /// Connections of sites at a time.
    pub max_connections: usize,
    /// Life of certificates, in seconds.
    pub certificate_life_s: u32,
    /// Signatures of coordinators that a plan must ask for (its own `signatures`) to be started here.
    pub signatures: u32,
    /// Further host names and addresses in the server's certificate.
    pub names: Vec<String>,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path} cannot be read: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file is not understood.
    #[error("{path}: {message}")]
    Toml {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        message: String,
    },
    /// A value outside its bounds.
    #[error("{path}: {key} is {value}, but must be {bound}")]
    OutOfBounds {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// The value as written.
        value: String,
        /// What is permitted.
        bound: &'static str,
    },
}

/// Most connections that may be permitted: more than a process has open files.
const MAX_CONNECTIONS: usize = 1 << 16;

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 4433)),
            max_spool_bytes: 64 << 30,
            keep_updates_of_rounds: 2,
            max_connections: 256,
            certificate_life_s: 30 * 24 * 60 * 60,
            signatures: 0,
            names: Vec::new(),
        }
    }
}

impl Config {
    /// The settings in a state folder.
    pub fn path(state: &Path) -> PathBuf {
        state.join("aggregator.toml")
    }

    /// Reads a file of settings.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path);
        let text = text.map_err(|source| ConfigError::Io { path: path.to_owned(), source })?;
        let config: Self = toml::from_str(&text)
            .map_err(|error| ConfigError::Toml { path: path.to_owned(), message: error.to_string() })?;
        config.check(path)?;
        Ok(config)
    }

    /// Holds every value to its bounds.
    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let within = |key, value: String, holds: bool, bound| match holds {
            true => Ok(()),
            false => Err(ConfigError::OutOfBounds { path: path.to_owned(), key, value, bound }),
        };
        let (spool, connections) = (self.max_spool_bytes, self.max_connections);
        let range = 1 << 20..=i64::MAX as u64;
        within(
            "max_spool_bytes",
            spool.to_string(),
            range.contains(&spool),
            "1048576 (1 MiB) or more, and below 2^63",
        )?;
        let range = 1..=MAX_CONNECTIONS;
        within("max_connections", connections.to_string(), range.contains(&connections), "1 to 65536")?;
        let life = self.certificate_life_s;
        let range = 5..=366 * 24 * 60 * 60;
        within("certificate_life_s", life.to_string(), range.contains(&life), "5 to 31622400 (366 days)")?;
        let signatures = self.signatures;
        within("signatures", signatures.to_string(), signatures <= 16, "0 to 16")?;
        self.names.iter().try_for_each(|name| {
            let bound = "host names and addresses without a port, for example \"aggregator.example.org\"";
            within("names", format!("{name:?}"), authority::is_host(name), bound)
        })
    }

    /// Reads the state folder's file of settings, if there is one.
    pub fn of_state(state: &Path) -> Result<Self, ConfigError> {
        let path = Self::path(state);
        if path.exists() { Self::read(&path) } else { Ok(Self::default()) }
    }

    /// Every name in the server's certificate: the one in invitations, then the further ones.
    pub fn names(&self, federation: &FederationRecord) -> Vec<String> {
        let first = authority::host(&federation.address).map(str::to_owned);
        first.into_iter().chain(self.names.iter().cloned()).collect()
    }

    /// What the server may take.
    pub fn limits(&self) -> Limits {
        Limits { spool_bytes: self.max_spool_bytes, keep_updates_of_rounds: self.keep_updates_of_rounds }
    }
}

/// The example with another address to listen on: what `aggregator init` writes.
pub fn example_listening_on(listen: SocketAddr) -> String {
    let line = |line: &str| match line.starts_with("listen = ") {
        true => format!("listen = \"{listen}\""),
        false => line.to_owned(),
    };
    EXAMPLE.lines().map(line).collect::<Vec<_>>().join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_states_every_key_with_its_default() {
        let table: toml::Table = EXAMPLE.parse().unwrap();
        assert_eq!(table.len(), 7, "every key is shown");
        assert_eq!(toml::from_str::<Config>(EXAMPLE).unwrap(), Config::default());
        assert_eq!(toml::from_str::<Config>("").unwrap(), Config::default());
    }

    #[test]
    fn what_init_writes_is_the_example_with_its_address() {
        let listen = "127.0.0.1:7".parse().unwrap();
        let written: Config = toml::from_str(&example_listening_on(listen)).unwrap();
        assert_eq!(written, Config { listen, ..Config::default() });
    }

    #[test]
    fn a_value_out_of_bounds_is_named_with_its_bound_and_starts_nothing() {
        let folder = tempfile::tempdir().unwrap();
        for (written, told) in [
            ("max_connections = 0", "max_connections is 0, but must be 1 to 65536"),
            ("max_connections = 9000000000000000000", "max_connections is 9000000000000000000"),
            ("max_spool_bytes = 0", "max_spool_bytes is 0"),
            ("certificate_life_s = 1", "certificate_life_s is 1, but must be 5 to"),
            ("signatures = 17", "signatures is 17, but must be 0 to 16"),
            ("names = [\"ok.example.org\", \"aggregator:4433\"]", "names is \"aggregator:4433\""),
            ("names = [\"\"]", "without a port"),
        ] {
            fs::write(Config::path(folder.path()), written).unwrap();
            let error = Config::of_state(folder.path()).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
        fs::write(Config::path(folder.path()), "names = [\"::1\", \"10.0.0.7\", \"a_b.example.org\"]").unwrap();
        Config::of_state(folder.path()).unwrap();
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = Config::path(folder.path());
        fs::write(&path, "lissten = \"0.0.0.0:1\"").unwrap();
        assert!(Config::of_state(folder.path()).unwrap_err().to_string().contains("lissten"));
    }
}
