//! What features know, asked across sites as well as within one.
//!
//! Weighted k-NN on frozen CLS features (k = 20, temperature 0.07). The class of a frame is its sequence, its plane and the
//! level of its slice. In *consortium* the training subjects of all training sites vote on the held-out subjects of every
//! site; in *within*, only those of the same site; in *few*, three subjects of each site.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use common::{NamedTensors, PlanDraft};
use data::{FrameCache, LabelledFrame, Split, SubjectKey, frames_for_evaluation, whole_frames};
use model::{Backbone, DeviceChoice, knn, meters};
use serde::{Deserialize, Serialize};
use site_agent::evaluate::{NEIGHBORS, TEMPERATURE};

use super::arm::{TRAINING_SITES, UNSEEN_SITE};
use super::hospitals;

/// Subjects of each site that vote in *few*.
const FEW: usize = 3;

/// What was measured of one backbone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// Accuracy by site asked: all training sites vote.
    pub consortium: BTreeMap<String, f64>,
    /// Accuracy by site asked: the same site votes.
    pub within: BTreeMap<String, f64>,
    /// Accuracy by site asked: three subjects of each training site vote.
    pub few: BTreeMap<String, f64>,
    /// Frames asked by site.
    pub images: BTreeMap<String, usize>,
    /// Accuracy of a k-NN that tells the site of a held-out frame; by chance, one in three.
    pub site_probe: f64,
    /// RankMe of all frames asked.
    pub rank_me: f64,
}

struct Part {
    site: &'static str,
    class: Vec<String>,
    subject: Vec<SubjectKey>,
    features: Vec<Vec<f32>>,
}

/// Measures a backbone with published names; `held_out` is the fraction of subjects that no training sees.
pub fn measure(plan: &PlanDraft, backbone: &NamedTensors, folder: &Path, held_out: f64) -> anyhow::Result<Measures> {
    let backbone = Backbone::load(&plan.model, &DeviceChoice::Cpu, backbone)?;
    let part = |site: &'static str, asked: bool| -> anyhow::Result<Part> {
        let cache = FrameCache::open(&hospitals::cache(folder, site), &plan.images)?;
        let split = Split::new(&cache.subjects(), if site == UNSEEN_SITE { 1.0 } else { held_out });
        let subjects = if asked { split.held_out() } else { split.training() };
        let frames = frames_for_evaluation(&cache, subjects, 4);
        let mut features = Vec::with_capacity(frames.len());
        for some in frames.chunks(64) {
            let refs: Vec<_> = some.iter().map(|frame| frame.frame).collect();
            let (side, channels) = (plan.model.image_size, plan.model.in_channels);
            features.extend(backbone.features(&whole_frames(&cache, &refs, side, channels)?, some.len(), side)?);
        }
        let class = frames.iter().map(class).collect();
        Ok(Part { site, class, subject: frames.iter().map(|frame| frame.subject).collect(), features })
    };
    let voters = TRAINING_SITES.iter().map(|site| part(site, false)).collect::<Result<Vec<_>, _>>()?;
    let asked = TRAINING_SITES.iter().chain([&UNSEEN_SITE]).map(|site| part(site, true));
    let asked = asked.collect::<Result<Vec<_>, _>>()?;

    let names: BTreeSet<&String> = voters.iter().chain(&asked).flat_map(|part| &part.class).collect();
    let places: BTreeMap<&String, usize> = names.into_iter().zip(0..).collect();
    let index = |class: &String| places[class];
    let accuracy = |bank: &[(&Vec<f32>, usize)], asked: &Part| {
        let (features, labels): (Vec<Vec<f32>>, Vec<usize>) =
            bank.iter().map(|&(feature, label)| (feature.clone(), label)).unzip();
        let found = knn::predict(&features, &labels, &asked.features, NEIGHBORS, TEMPERATURE, places.len());
        let right = found.iter().zip(&asked.class).filter(|(found, class)| **found == index(class)).count();
        right as f64 / asked.class.len().max(1) as f64
    };
    let bank = |part: &'_ Part, few: bool| -> Vec<usize> {
        let subjects: BTreeSet<_> = part.subject.iter().collect();
        let voting: BTreeSet<_> = subjects.into_iter().take(if few { FEW } else { usize::MAX }).collect();
        (0..part.class.len()).filter(|&place| voting.contains(&part.subject[place])).collect()
    };
    let votes = |few: bool| -> Vec<(&Vec<f32>, usize)> {
        let of = |part| bank(part, few).into_iter().map(move |place: usize| (part, place));
        voters.iter().flat_map(of).map(|(part, place)| (&part.features[place], index(&part.class[place]))).collect()
    };
    let (all, few) = (votes(false), votes(true));
    let mut measures = Measures::default();
    for part in &asked {
        let site = part.site.to_owned();
        measures.images.insert(site.clone(), part.class.len());
        measures.consortium.insert(site.clone(), accuracy(&all, part));
        measures.few.insert(site.clone(), accuracy(&few, part));
        if let Some(own) = voters.iter().find(|voters| voters.site == part.site) {
            let own: Vec<_> = own.features.iter().zip(own.class.iter().map(index)).collect();
            measures.within.insert(site, accuracy(&own, part));
        }
    }
    measures.site_probe = site_probe(&voters, &asked);
    let every: Vec<Vec<f32>> = asked.iter().flat_map(|part| part.features.clone()).collect();
    measures.rank_me = meters::rank_me(&every);
    Ok(measures)
}

fn site_probe(voters: &[Part], asked: &[Part]) -> f64 {
    let of = |parts: &[Part]| -> (Vec<Vec<f32>>, Vec<usize>) {
        let labelled = parts.iter().enumerate().filter(|(_, part)| part.site != UNSEEN_SITE);
        labelled.flat_map(|(site, part)| part.features.iter().map(move |feature| (feature.clone(), site))).unzip()
    };
    let ((bank, labels), (features, truth)) = (of(voters), of(asked));
    let found = knn::predict(&bank, &labels, &features, NEIGHBORS, TEMPERATURE, voters.len());
    found.iter().zip(&truth).filter(|(found, truth)| found == truth).count() as f64 / truth.len().max(1) as f64
}

fn class(frame: &LabelledFrame) -> String {
    match frame.level {
        Some(level) => format!("{} {} {level}", frame.sequence, frame.plane),
        None => format!("{} {}", frame.sequence, frame.plane),
    }
}
