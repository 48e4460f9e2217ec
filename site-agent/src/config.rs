//! The site's own settings: `site-agent.toml`. What is written is checked once; nothing in a plan can widen it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::Digest;
use common::policy::SitePolicy;
use common::privacy::SUBJECTS_ROUNDED_TO;
use model::{DeviceChoice, Precision};
use serde::{Deserialize, Serialize};

use crate::durable::{self, DiskError};
use crate::network::{ChannelMode, NetworkConfig};

/// `site-agent.toml`, unknown keys refused. Every key has a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where training runs: `cpu`, `cuda` or `cuda:<n>`.
    pub device: String,
    /// In what a training step multiplies: `f32`, or `bf16` for a GPU.
    pub precision: Precision,
    /// Threads of the trainer; 0 for one a core.
    pub threads: usize,
    /// Images whose gradients are computed at a time in pretraining; 0 for a whole batch. Less memory, the same step to float error. A run
    /// that finetunes computes a task's batch whole.
    pub micro_batch: usize,
    /// Niceness of the trainer, 0 to 19: above 0 it yields to whatever else runs here.
    pub nice: u8,
    /// Seconds between two reports to the aggregator.
    pub report_every_s: f64,
    /// Fraction of subjects kept out of training, for evaluation.
    pub held_out: f64,
    /// The folder of this site's labels (labels.toml and its tables), for runs that finetune; none if it has no labels.
    pub labels: Option<PathBuf>,
    /// The way to the aggregator.
    pub network: NetworkConfig,
    /// Settings of the DICOM intake.
    pub intake: IntakeConfig,
    /// What may leave this site.
    pub policy: SitePolicy,
}

/// Settings of the DICOM intake.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IntakeConfig {
    /// Parser processes beside each other.
    pub workers: usize,
    /// Address space of each, in MiB: a hostile file cannot take more.
    pub memory_mib: u64,
    /// Fraction of files that may be skipped before the site declines to train.
    pub tolerance: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            device: "cpu".to_owned(),
            precision: Precision::F32,
            threads: 0,
            micro_batch: 0,
            nice: 0,
            report_every_s: 1.0,
            held_out: 0.25,
            labels: None,
            network: NetworkConfig::default(),
            intake: IntakeConfig::default(),
            policy: SitePolicy::default(),
        }
    }
}

impl Default for IntakeConfig {
    fn default() -> Self {
        Self { workers: 2, memory_mib: 1024, tolerance: 0.5 }
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The disk said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Not TOML, or a key or type that is not ours. The line itself is not repeated: it may hold a proxy's password.
    #[error("{path}, line {line}: {why}")]
    Content {
        /// The file.
        path: String,
        /// The line.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// A proxy that cannot be used.
    #[error("{path}: {source}")]
    Proxy {
        /// The file.
        path: String,
        /// What is wrong.
        source: certs::proxy::ProxyUrlError,
    },
    /// A device that nobody knows.
    #[error("{path}: {source}")]
    Device {
        /// The file.
        path: String,
        /// What is wrong, with what is known.
        source: model::ModelError,
    },
    /// A value outside its bounds.
    #[error("{path}: {key} is {value}, but must be {bound}")]
    OutOfBounds {
        /// The file.
        path: String,
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
        /// What is permitted.
        bound: &'static str,
    },
}

/// Slower, and a transfer's pieces would take longer than an answer is waited for.
const SLOWEST_MB_S: f64 = 0.01;

impl Config {
    /// The settings in `path`, or the defaults if there is no such file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let Some(bytes) = durable::read_if_there(path)? else { return Ok(Self::default()) };
        let text = String::from_utf8_lossy(&bytes);
        let told = || path.display().to_string();
        let wrong = |error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            ConfigError::Content {
                path: told(),
                line: before.matches('\n').count() + 1,
                why: error.message().to_owned(),
            }
        };
        let config: Self = toml::from_str::<Self>(&text).map_err(wrong)?.below(path.parent().unwrap_or(Path::new("")));
        config.network.check().map_err(|source| ConfigError::Proxy { path: told(), source })?;
        if config.network.inspection_roots.is_some() && config.network.channel == ChannelMode::Mutual {
            return Err(ConfigError::OutOfBounds {
                path: told(),
                key: "network.inspection_roots",
                value: "set".to_owned(),
                bound: "left out, unless `channel` is \"signed\": mutual TLS is never opened on the way",
            });
        }
        if let Err(source) = config.device.parse::<DeviceChoice>() {
            return Err(ConfigError::Device { path: told(), source });
        }
        let cap = |written: Option<f64>| written.unwrap_or(f64::INFINITY);
        let (up, down) = (cap(config.policy.max_upload_mb_s), cap(config.policy.max_download_mb_s));
        let noise = config.policy.min_noise_multiplier;
        let checks = [
            ("report_every_s", config.report_every_s, (0.05..=60.0).contains(&config.report_every_s), "0.05 to 60"),
            ("held_out", config.held_out, (0.0..=0.9).contains(&config.held_out), "0 to 0.9"),
            ("nice", f64::from(config.nice), config.nice <= 19, "0 to 19"),
            ("threads", config.threads as f64, config.threads <= 1024, "0 to 1024"),
            ("micro_batch", config.micro_batch as f64, config.micro_batch <= 4096, "0 to 4096"),
            ("intake.workers", config.intake.workers as f64, (1..=64).contains(&config.intake.workers), "1 to 64"),
            ("intake.memory_mib", config.intake.memory_mib as f64, config.intake.memory_mib >= 128, "128 or more"),
            ("intake.tolerance", config.intake.tolerance, (0.0..=1.0).contains(&config.intake.tolerance), "0 to 1"),
            (
                "policy.max_delta_norm",
                config.policy.max_delta_norm,
                config.policy.max_delta_norm > 0.0,
                "a number above 0",
            ),
            (
                "policy.min_subjects",
                f64::from(config.policy.min_subjects),
                config.policy.min_subjects >= SUBJECTS_ROUNDED_TO,
                "5 or more: a count of fewer would tell of persons",
            ),
            ("policy.min_noise_multiplier", noise, (0.0..=1000.0).contains(&noise), "0 to 1000"),
            ("policy.max_upload_mb_s", up, up >= SLOWEST_MB_S, "0.01 or more; leave it out for no cap"),
            ("policy.max_download_mb_s", down, down >= SLOWEST_MB_S, "0.01 or more; leave it out for no cap"),
        ];
        match checks.into_iter().find(|(_, _, holds, _)| !holds) {
            Some((key, value, _, bound)) => {
                Err(ConfigError::OutOfBounds { path: told(), key, value: value.to_string(), bound })
            }
            None => Ok(config),
        }
    }

    /// The same with every path counted from a folder, unless it is whole: a service is started elsewhere than commands are typed.
    fn below(mut self, folder: &Path) -> Self {
        let paths = [&mut self.labels, &mut self.network.proxy_roots, &mut self.network.inspection_roots];
        paths.into_iter().flatten().for_each(|path| *path = folder.join(&path));
        self
    }

    /// Time between two reports.
    pub fn report_every(&self) -> Duration {
        Duration::from_secs_f64(self.report_every_s)
    }
}

/// What a person at this site indexed or imported, so that a plan with another grid can read it again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sources(pub Vec<Source>);

/// A source of images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Source {
    /// A folder of DICOM files, or a zip.
    Dicom(PathBuf),
    /// The folder of a public data set.
    Public {
        /// Its name: [`data::DataSet::name`].
        dataset: String,
        /// Where it is.
        folder: PathBuf,
    },
}

impl Source {
    /// Where it is.
    pub fn path(&self) -> &Path {
        match self {
            Self::Dicom(path) | Self::Public { folder: path, .. } => path,
        }
    }
}

impl Sources {
    /// The sources recorded in `path`.
    pub fn read(path: &Path) -> Result<Self, DiskError> {
        let bytes = durable::read_if_there(path)?;
        bytes.map_or(Ok(Self::default()), |bytes| {
            serde_json::from_slice(&bytes).map_err(|error| durable::told("read", path)(error.into()))
        })
    }

    /// Adds a source, if it is new.
    pub fn add(&mut self, source: Source) {
        if !self.0.contains(&source) {
            self.0.push(source);
        }
    }

    /// Records them in `path`.
    pub fn write(&self, path: &Path) -> Result<(), DiskError> {
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| durable::told("write", path)(error.into()))?;
        durable::write(path, &bytes)
    }

    /// Tells one list from another.
    pub fn digest(&self) -> Digest {
        // Paths are whole: none begins as a data set's name does.
        let told = |source: &Source| match source {
            Source::Dicom(path) => path.as_os_str().as_encoded_bytes().to_vec(),
            Source::Public { dataset, folder } => {
                [dataset.as_bytes(), b":", folder.as_os_str().as_encoded_bytes()].concat()
            }
        };
        Digest::of(&self.0.iter().map(told).collect::<Vec<_>>().join(&b'\0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_file_holds_the_defaults() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("site-agent.example.toml");
        assert_eq!(Config::read(&example).unwrap(), Config::default());
    }

    #[test]
    fn a_path_counts_from_the_folder_of_the_settings_wherever_a_command_is_typed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("site-agent.toml");
        let written =
            "labels = 'labels'\n[network]\nchannel = 'signed'\nproxy_roots = '../p.pem'\ninspection_roots = '/i.pem'";
        std::fs::write(&path, written).unwrap();
        let config = Config::read(&path).unwrap();
        assert_eq!(config.labels, Some(folder.path().join("labels")));
        assert_eq!(config.network.proxy_roots, Some(folder.path().join("../p.pem")));
        assert_eq!(config.network.inspection_roots, Some("/i.pem".into()));
    }

    #[test]
    fn a_list_of_folders_of_an_earlier_version_is_read_and_has_the_digest_it_had() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sources.json");
        std::fs::write(&path, r#"["/data/cmr", "/data/more.zip"]"#).unwrap();
        let mut sources = Sources::read(&path).unwrap();
        assert_eq!(sources.digest(), Digest::of(b"/data/cmr\0/data/more.zip"));
        let acdc = Source::Public { dataset: "acdc".to_owned(), folder: "/data/acdc".into() };
        sources.add(acdc.clone());
        sources.add(acdc);
        sources.write(&path).unwrap();
        assert_eq!(Sources::read(&path).unwrap(), sources);
        assert_eq!((sources.0.len(), sources.0[2].path()), (3, Path::new("/data/acdc")));
    }

    #[test]
    fn an_unknown_key_and_a_value_out_of_bounds_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("site-agent.toml");
        std::fs::write(&path, "devise = \"cpu\"").unwrap();
        assert!(Config::read(&path).unwrap_err().to_string().contains("devise"));
        std::fs::write(&path, "nice = 1\n[network]\nproxxy = \"http://user:secret@proxy:1\"").unwrap();
        let told = Config::read(&path).unwrap_err().to_string();
        assert!(told.contains("line 3: unknown field `proxxy`") && !told.contains("secret"), "{told}");
        std::fs::write(&path, "[network]\nproxy = \"user:secret@proxy:1\"").unwrap();
        let told = Config::read(&path).unwrap_err().to_string();
        assert!(told.contains("a proxy is written as http://host:port") && !told.contains("secret"), "{told}");
        std::fs::write(&path, "[network]\ninspection_roots = \"/ca.pem\"").unwrap();
        let told = Config::read(&path).unwrap_err().to_string();
        assert!(told.contains("network.inspection_roots is set") && told.contains("`channel` is \"signed\""), "{told}");
        std::fs::write(&path, "[network]\nchannel = \"open\"").unwrap();
        let told = Config::read(&path).unwrap_err().to_string();
        assert!(told.contains("unknown variant `open`, expected `mutual` or `signed`"), "{told}");
        std::fs::write(&path, "[network]\nchannel = \"signed\"\ninspection_roots = \"/ca.pem\"").unwrap();
        assert_eq!(Config::read(&path).unwrap().network.channel, ChannelMode::Signed);
        std::fs::write(&path, "device = \"gpu\"").unwrap();
        assert!(Config::read(&path).unwrap_err().to_string().contains("use cpu, cuda or cuda:<n>"));
        std::fs::write(&path, "[policy]\nhours = \"8 to 6\"").unwrap();
        assert!(Config::read(&path).unwrap_err().to_string().contains("20:00-06:00 +02:00"));
        std::fs::write(&path, "[policy]\nmin_subjects = 4").unwrap();
        let told = Config::read(&path).unwrap_err().to_string();
        assert!(told.contains("policy.min_subjects") && told.contains("5 or more"), "{told}");
        std::fs::write(&path, "[policy]\nmax_upload_mb_s = 0.0").unwrap();
        assert!(Config::read(&path).unwrap_err().to_string().contains("policy.max_upload_mb_s is 0, but must be 0.01"));
        std::fs::write(&path, "held_out = 1.5").unwrap();
        assert!(Config::read(&path).unwrap_err().to_string().contains("held_out is 1.5, but must be 0 to 0.9"));
    }
}
