//! Merging a round's updates into the next model, from files to a file.
//!
//! Updates and models are files of one [`Layout`], or of a part of it; they are read a tile at a time, the same tile of
//! every site, so that memory does not grow with the model or with the sites. Which rule merges is the plan's choice.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;

use common::fixed_point::FixedPointError;
use common::plan::Strategy;
use common::share::Share;
use common::{Digest, SiteId};
use serde::{Deserialize, Serialize};

use crate::checksum::Checksum;
use crate::layout::Layout;
use distances::Distances;
use mean::How;
use server::Server;

mod distances;
mod fedadagrad;
mod fedadam;
mod fedavg;
mod fedavgm;
mod fedyogi;
mod geometric_median;
mod krum;
mod lanes;
mod mean;
mod median;
mod nesterov;
mod segments;
mod server;
mod threads;
mod tiles;
mod trimmed_mean;

/// One site's delta, as it is stored.
#[derive(Debug)]
pub struct Contribution {
    /// Its file.
    pub file: File,
    /// The digest that its bytes had when they were acknowledged.
    pub digest: Digest,
    /// How much it counts; in tensors of no head, if it is partial.
    pub share: Share,
    /// What its file holds, if that is not every tensor of the model as it is.
    pub partial: Option<Partial>,
    /// The checksum that its bytes had, if this process took their digest as they came: that need not be taken again.
    pub checked: Option<Checksum>,
}

/// A delta of some of the model's tensors, since a site sends the heads it has labels for, or one that is encoded.
#[derive(Debug)]
pub struct Partial {
    /// Layout of its file.
    pub layout: Layout,
    /// What the names of each head's tensors begin with, and how much the site counts in them.
    pub heads: BTreeMap<String, Share>,
}

impl Contribution {
    /// Layout of its file, in a merge of models of `whole`.
    fn layout<'a>(&'a self, whole: &'a Layout) -> &'a Layout {
        self.partial.as_ref().map_or(whole, |partial| &partial.layout)
    }
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
    /// L2 norm of the merged delta, over the student's tensors (over all where none is called so).
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
    /// Its share; in tensors of no head, if its delta is partial.
    pub share: Share,
    /// Its share as a fraction of all.
    pub fraction: f64,
    /// L2 norm of its delta, over the student's tensors, or over all that it holds where none is called so.
    pub norm: f64,
    /// Cosine of its delta to the merged delta, over the same; 0 if either is 0.
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
    #[error(
        "the round's first model is damaged: {0}; unless it can be made again, restore that blob from a backup, and the merge goes on"
    )]
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
    /// Shares that the sum has no room for: no cohort that a plan permits has so many.
    #[error("the round's updates cannot be added up: {0}")]
    Sum(FixedPointError),
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
    let own: Vec<Share> = merge.contributions.values().map(|part| part.share).collect();
    let of = |shares: &[Share], out: &mut File, states: &mut [File]| {
        mean::merge(server(strategy).as_ref(), &How::Shares(shares), merge, out, states)
    };
    let each = |rule: &(dyn Fn(&mut [f64]) -> f64 + Sync), out: &mut File| {
        mean::merge(&fedavg::FedAvg, &How::EachCoordinate(rule), merge, out, &mut [])
    };
    match strategy {
        Strategy::CoordinateMedian {} => each(&median::median, out),
        Strategy::TrimmedMean { fraction } => each(&|values| trimmed_mean::trimmed_mean(values, fraction), out),
        Strategy::Krum { faulty } => of(&krum::shares(&Distances::of(merge)?, faulty, 1), out, states),
        Strategy::MultiKrum { faulty, keep } => of(&krum::shares(&Distances::of(merge)?, faulty, keep), out, states),
        Strategy::GeometricMedian {} => of(&geometric_median::shares(&Distances::of(merge)?, &own), out, states),
        Strategy::FedAvg {}
        | Strategy::FedAvgM { .. }
        | Strategy::Nesterov { .. }
        | Strategy::FedAdam(_)
        | Strategy::FedYogi(_)
        | Strategy::FedAdagrad(_) => of(&own, out, states),
    }
}

fn server(strategy: Strategy) -> Box<dyn Server> {
    match strategy {
        Strategy::FedAvgM { learning_rate, momentum } => Box::new(fedavgm::FedAvgM { learning_rate, momentum }),
        Strategy::Nesterov { learning_rate, momentum } => Box::new(nesterov::Nesterov { learning_rate, momentum }),
        Strategy::FedAdam(adaptive) => Box::new(fedadam::FedAdam(adaptive)),
        Strategy::FedYogi(adaptive) => Box::new(fedyogi::FedYogi(adaptive)),
        Strategy::FedAdagrad(adaptive) => Box::new(fedadagrad::FedAdagrad(adaptive)),
        Strategy::FedAvg {}
        | Strategy::CoordinateMedian {}
        | Strategy::TrimmedMean { .. }
        | Strategy::Krum { .. }
        | Strategy::MultiKrum { .. }
        | Strategy::GeometricMedian {} => Box::new(fedavg::FedAvg),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use common::NamedTensors;
    use common::plan::Adaptive;

    use super::*;

    const SITES: [(&str, u32); 5] = [("a", 4), ("b", 2), ("c", 1), ("d", 3), ("e", 2)];

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
        let first = weights(name, vec![1.0, -0.5, 0.25, 0.0]).to_safetensors();
        let (model, _) = (0..5).fold((first, Vec::new()), |(model, states), round| {
            merged(strategy, name, &model, &states, |site| delta(round, site))
        });
        NamedTensors::from_safetensors(&model).unwrap().get(name).unwrap().values.clone()
    }

    fn after_a_round(strategy: Strategy, name: &str, from: &[f32], delta: impl Fn(usize) -> Vec<f32>) -> Vec<f32> {
        let (model, _) = merged(strategy, name, &weights(name, from.to_vec()).to_safetensors(), &[], delta);
        NamedTensors::from_safetensors(&model).unwrap().get(name).unwrap().values.clone()
    }

    /// The next model's file, and the rule's next states with their digests.
    fn merged(
        strategy: Strategy,
        name: &str,
        model: &[u8],
        states: &[(Vec<u8>, Digest)],
        delta: impl Fn(usize) -> Vec<f32>,
    ) -> (Vec<u8>, Vec<(Vec<u8>, Digest)>) {
        let layout = Layout::of(&NamedTensors::from_safetensors(model).unwrap().signature()).unwrap();
        let part = |(site, (name_of_site, share)): (usize, (&str, u32))| {
            let bytes = weights(name, delta(site)).to_safetensors();
            let (file, digest) = (stored(&bytes), Digest::of(&bytes));
            (
                name_of_site.parse().unwrap(),
                Contribution { file, digest, share: Share(share), partial: None, checked: None },
            )
        };
        let contributions = SITES.into_iter().enumerate().map(part).collect();
        let before: Vec<_> =
            states.iter().map(|(bytes, digest)| ServerState { file: stored(bytes), digest: *digest }).collect();
        let (base, base_digest) = (stored(model), Digest::of(model));
        let what = Merge { layout: &layout, base: &base, base_digest, contributions: &contributions, states: &before };
        let mut out = tempfile::tempfile().unwrap();
        let mut after: Vec<File> = (0..state_count(strategy)).map(|_| tempfile::tempfile().unwrap()).collect();
        let merged = merge(strategy, &what, &mut out, &mut after).unwrap();
        let model = content(&out);
        assert_eq!(merged.model, Digest::of(&model));
        let states: Vec<_> = after.iter().map(content).zip(merged.states).collect();
        assert!(states.iter().all(|(bytes, digest)| Digest::of(bytes) == *digest));
        (model, states)
    }

    const ADAPTIVE: Adaptive = Adaptive { learning_rate: 0.1, beta1: 0.9, beta2: 0.99, tau: 0.01 };

    #[test]
    fn each_rule_is_that_of_pytorch_or_of_its_paper_over_five_rounds() {
        // Printed by aggregator/scripts/server_rules.py.
        let (learning_rate, momentum) = (0.7, 0.9);
        for (strategy, expected) in [
            (Strategy::FedAvg {}, [1.01041667, -0.528645833, 0.268229167, -0.00651041667]),
            (Strategy::FedAvgM { learning_rate, momentum }, [0.986102174, -0.530213294, 0.294668112, -0.0384739323]),
            (Strategy::Nesterov { learning_rate, momentum }, [0.994783624, -0.547244048, 0.302961717, -0.0391838307]),
            (Strategy::FedAdam(ADAPTIVE), [0.9901285, -0.521456277, 0.281205123, -0.0269883636]),
            (Strategy::FedYogi(ADAPTIVE), [0.990112195, -0.521372676, 0.281011295, -0.0268535148]),
            (Strategy::FedAdagrad(ADAPTIVE), [0.994044728, -0.513366737, 0.26674367, -0.0141086557]),
            (Strategy::CoordinateMedian {}, [1.0, -0.53125, 0.265625, -0.015625]),
            (Strategy::TrimmedMean { fraction: 0.3 }, [1.0, -0.526041667, 0.255208333, -0.00520833333]),
            (Strategy::Krum { faulty: 1 }, [1.09375, -0.53125, 0.265625, -0.109375]),
            (Strategy::MultiKrum { faulty: 1, keep: 3 }, [1.04166667, -0.526041667, 0.213541667, -0.046875]),
            (Strategy::GeometricMedian {}, [1.03466162, -0.550794223, 0.293606475, -0.0423742083]),
        ] {
            for (found, expected) in after_five_rounds(strategy, "student.w").into_iter().zip(expected) {
                assert!((f64::from(found) - expected).abs() < 1e-6, "{strategy:?}: {found} {expected}");
            }
        }
    }

    #[test]
    fn one_wild_site_of_five_moves_the_mean_and_not_the_robust_rules() {
        let honest = |site: usize| (0..4).map(|place| 0.01 * (site + place) as f32).collect::<Vec<_>>();
        let wild = vec![7.0, -7.0, 7.0, -7.0];
        let moved = |strategy| {
            let delta = |site| if site == 1 { wild.clone() } else { honest(site) };
            let next = after_a_round(strategy, "student.w", &[0.0; 4], delta);
            next.into_iter().fold(0.0_f32, |most, value| most.max(value.abs()))
        };
        assert!(moved(Strategy::FedAvg {}) > 0.5);
        for strategy in [
            Strategy::CoordinateMedian {},
            Strategy::TrimmedMean { fraction: 0.2 },
            Strategy::Krum { faulty: 1 },
            Strategy::MultiKrum { faulty: 1, keep: 3 },
            Strategy::GeometricMedian {},
        ] {
            assert!(moved(strategy) < 0.1, "{strategy:?}: {}", moved(strategy));
        }
    }

    #[test]
    fn drift_is_measured_over_the_students_tensors_alone() {
        let delta = |of_student: f32, of_center: f32| {
            let mut delta = weights("student.w", vec![of_student; 4]);
            delta.insert("center", vec![1, 2], vec![of_center; 2]);
            delta
        };
        let base = delta(0.0, 0.0);
        let layout = Layout::of(&base.signature()).unwrap();
        let part = |(site, delta): (&str, NamedTensors)| {
            let bytes = delta.to_safetensors();
            let (file, digest) = (stored(&bytes), Digest::of(&bytes));
            let contribution = Contribution { file, digest, share: Share(1), partial: None, checked: None };
            (site.parse().unwrap(), contribution)
        };
        let contributions = [("a", delta(0.5, 3.0)), ("b", delta(0.5, -3.0))].map(part).into();
        let bytes = base.to_safetensors();
        let (file, base_digest) = (stored(&bytes), Digest::of(&bytes));
        let what = Merge { layout: &layout, base: &file, base_digest, contributions: &contributions, states: &[] };
        let merged = merge(Strategy::FedAvg {}, &what, &mut tempfile::tempfile().unwrap(), &mut []).unwrap();
        assert!((merged.norm - 1.0).abs() < 1e-9, "{}", merged.norm);
        assert!(
            merged.sites.values().all(|drift| (drift.norm - 1.0).abs() < 1e-9 && (drift.cosine - 1.0).abs() < 1e-9)
        );
    }

    #[test]
    fn teacher_and_center_follow_the_mean_whatever_the_rule() {
        let plain = after_five_rounds(Strategy::FedAvg {}, "teacher.w");
        assert_eq!(after_five_rounds(Strategy::Nesterov { learning_rate: 0.7, momentum: 0.9 }, "teacher.w"), plain);
        assert_eq!(after_five_rounds(Strategy::FedAdam(ADAPTIVE), "center"), plain);
    }
}
