//! Merging a round's updates into the next model, from files to a file.
//!
//! Updates and models are files of one [`Layout`]; they are read a tile at a time, the same tile of
//! every site, so that memory does not grow with the model or with the sites. Which rule merges is the plan's choice.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;

use common::fixed_point::FixedPointError;
use common::plan::Strategy;
use common::share::Share;
use common::{Digest, SiteId};
use serde::{Deserialize, Serialize};

use crate::layout::Layout;
use server::Server;

pub mod fedadagrad;
pub mod fedadam;
pub mod fedavg;
pub mod fedavgm;
pub mod fedyogi;
mod mean;
pub mod nesterov;
mod server;
mod tiles;

/// One site's delta, as it is stored.
#[derive(Debug)]
pub struct Contribution {
    /// Its file.
    pub file: File,
    /// The digest that its bytes had when they were acknowledged.
    pub digest: Digest,
    /// How much it counts.
    pub share: Share,
}

/// A state of the server's optimizer after the last round, as it is stored.
#[derive(Debug)]
pub struct ServerState {
    /// Its file.
    pub file: File,
    /// The digest that its bytes had when they were stored.
    pub digest: Digest,
}

/// What is merged into what.
#[derive(Debug)]
pub struct Merge<'a> {
    /// Layout of every file here.
    pub layout: &'a Layout,
    /// The model that the round started from.
    pub base: &'a File,
    /// The digest of that file.
    pub base_digest: Digest,
    /// The deltas, one or more.
    pub contributions: &'a BTreeMap<SiteId, Contribution>,
    /// The rule's states after the last round; none in a run's first.
    pub states: &'a [ServerState],
}

/// What came of a merge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Merged {
    /// Digest of the next model's file.
    pub model: Digest,
    /// L2 norm of the merged delta, over all tensors.
    pub norm: f64,
    /// How each site went along.
    pub sites: BTreeMap<SiteId, Drift>,
    /// Digests of the files of the rule's states.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<Digest>,
}

/// How far one site moved, and whether with the others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// Its share.
    pub share: Share,
    /// Its share as a fraction of all.
    pub fraction: f64,
    /// L2 norm of its delta, over all tensors.
    pub norm: f64,
    /// Cosine of its delta to the merged delta; 0 if either is 0.
    pub cosine: f64,
}

/// What became of a stored file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It is gone.
    #[error("its file {0} is gone")]
    Gone(Digest),
    /// It has other bytes.
    #[error("its file {expected} has digest {found} now")]
    Changed {
        /// What it had when it was stored.
        expected: Digest,
        /// What it has.
        found: Digest,
    },
    /// It is shorter than its tensors.
    #[error("its file {0} was cut short")]
    Short(Digest),
}

/// Why updates were not merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// The disk said no.
    #[error("{what}: {source}; see to the disk below the state folder, and the merge goes on")]
    Io {
        /// What was being read or written.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The model that the round starts from no longer has the bytes that were stored.
    #[error("the round's first model is damaged: {0}; restore that blob from a backup, and the merge goes on")]
    Base(Damage),
    /// A state of the server's optimizer no longer has the bytes that were stored.
    #[error("the server optimizer's state is damaged: {0}; restore that blob from a backup, and the merge goes on")]
    State(Damage),
    /// A site's update no longer has the bytes that were stored.
    #[error("the update of {site} is damaged: {damage}")]
    Update {
        /// Whose.
        site: SiteId,
        /// What is wrong.
        damage: Damage,
    },
    /// Values that the sum has no room for.
    #[error("the update of {site} cannot be merged: {source}")]
    Value {
        /// Whose.
        site: SiteId,
        /// Why.
        source: FixedPointError,
    },
}

/// How many states a rule keeps from round to round, each a file of the model's layout.
pub fn state_count(strategy: Strategy) -> usize {
    server(strategy).first_states().len()
}

/// Merges by the plan's rule: writes the next model to `out`, and the rule's next states to `states`.
///
/// # Panics
/// If there is no contribution, or not [`state_count`] files in `states`.
pub fn merge(strategy: Strategy, merge: &Merge<'_>, out: &mut File, states: &mut [File]) -> Result<Merged, MergeError> {
    mean::merge(server(strategy).as_ref(), merge, out, states)
}

fn server(strategy: Strategy) -> Box<dyn Server> {
    match strategy {
        Strategy::FedAvg {} => Box::new(fedavg::FedAvg),
        Strategy::FedAvgM { learning_rate, momentum } => Box::new(fedavgm::FedAvgM { learning_rate, momentum }),
        Strategy::Nesterov { learning_rate, momentum } => Box::new(nesterov::Nesterov { learning_rate, momentum }),
        Strategy::FedAdam(adaptive) => Box::new(fedadam::FedAdam(adaptive)),
        Strategy::FedYogi(adaptive) => Box::new(fedyogi::FedYogi(adaptive)),
        Strategy::FedAdagrad(adaptive) => Box::new(fedadagrad::FedAdagrad(adaptive)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use common::NamedTensors;
    use common::plan::Adaptive;

    use super::*;

    const SITES: [(&str, u32); 3] = [("a", 4), ("b", 2), ("c", 1)];

    fn weights(name: &str, values: Vec<f32>) -> NamedTensors {
        let mut weights = NamedTensors::new();
        weights.insert(name, vec![values.len()], values);
        weights
    }

    fn stored(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn content(mut file: &File) -> Vec<u8> {
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// As in `scripts/server_rules.py`.
    fn delta(round: usize, site: usize) -> Vec<f32> {
        (0..4).map(|place| (((7 * round + 3 * site + 5 * place) % 11) as f32 - 5.0) / 64.0).collect()
    }

    /// Five rounds from the script's first weights. Between two rounds nothing is kept but files.
    fn after_five_rounds(strategy: Strategy, name: &str) -> Vec<f32> {
        let mut model = weights(name, vec![1.0, -0.5, 0.25, 0.0]).to_safetensors();
        let layout = Layout::of(&NamedTensors::from_safetensors(&model).unwrap().signature()).unwrap();
        let mut states: Vec<(Vec<u8>, Digest)> = Vec::new();
        for round in 0..5 {
            let part = |(site, (name_of_site, share)): (usize, (&str, u32))| {
                let bytes = weights(name, delta(round, site)).to_safetensors();
                let (file, digest) = (stored(&bytes), Digest::of(&bytes));
                (name_of_site.parse().unwrap(), Contribution { file, digest, share: Share(share) })
            };
            let contributions = SITES.into_iter().enumerate().map(part).collect();
            let before: Vec<_> =
                states.iter().map(|(bytes, digest)| ServerState { file: stored(bytes), digest: *digest }).collect();
            let (base, base_digest) = (stored(&model), Digest::of(&model));
            let what =
                Merge { layout: &layout, base: &base, base_digest, contributions: &contributions, states: &before };
            let mut out = tempfile::tempfile().unwrap();
            let mut after: Vec<File> = (0..state_count(strategy)).map(|_| tempfile::tempfile().unwrap()).collect();
            let merged = merge(strategy, &what, &mut out, &mut after).unwrap();
            model = content(&out);
            assert_eq!(merged.model, Digest::of(&model));
            states = after.iter().map(content).zip(merged.states).collect();
            assert!(states.iter().all(|(bytes, digest)| Digest::of(bytes) == *digest));
        }
        NamedTensors::from_safetensors(&model).unwrap().get(name).unwrap().values.clone()
    }

    const ADAPTIVE: Adaptive = Adaptive { learning_rate: 0.1, beta1: 0.9, beta2: 0.99, tau: 0.01 };

    #[test]
    fn each_rule_is_that_of_pytorch_or_of_its_paper_over_five_rounds() {
        // Printed by aggregator/scripts/server_rules.py.
        let (learning_rate, momentum) = (0.7, 0.9);
        for (strategy, expected) in [
            (Strategy::FedAvg {}, [1.02678571, -0.573660714, 0.296875, 0.0200892857]),
            (Strategy::FedAvgM { learning_rate, momentum }, [0.979027656, -0.600670156, 0.366802187, -0.0121429688]),
            (Strategy::Nesterov { learning_rate, momentum }, [0.999874891, -0.642165641, 0.387934469, 0.00313382812]),
            (Strategy::FedAdam(ADAPTIVE), [0.985269511, -0.568458165, 0.331005045, -0.00815243758]),
            (Strategy::FedYogi(ADAPTIVE), [0.985161072, -0.567904845, 0.330434767, -0.0081589406]),
            (Strategy::FedAdagrad(ADAPTIVE), [0.993957116, -0.52464515, 0.283445106, -0.000593554844]),
        ] {
            for (found, expected) in after_five_rounds(strategy, "student.w").into_iter().zip(expected) {
                assert!((f64::from(found) - expected).abs() < 1e-6, "{strategy:?}: {found} {expected}");
            }
        }
    }

    #[test]
    fn teacher_and_center_follow_the_mean_whatever_the_rule() {
        let plain = after_five_rounds(Strategy::FedAvg {}, "teacher.w");
        assert_eq!(after_five_rounds(Strategy::Nesterov { learning_rate: 0.7, momentum: 0.9 }, "teacher.w"), plain);
        assert_eq!(after_five_rounds(Strategy::FedAdam(ADAPTIVE), "center"), plain);
    }
}
