//! A federation is the training that it stands for: the identities, through the real trainer and the real merge.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};

use aggregator::aggregation::{self, Contribution, Merge};
use aggregator::layout::Layout;
use common::plan::{Exchange, Optimizer};
use common::share::Share;
use common::{Digest, NamedTensors, PlanDraft};
use model::{CropBatch, DeviceChoice, Trainer};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const BATCH: usize = 4;

fn plan(steps_per_round: usize) -> PlanDraft {
    let mut plan: PlanDraft = toml::from_str(include_str!("../plans/story.toml")).unwrap();
    plan.training.steps_per_round = steps_per_round;
    plan.training.batch_size = BATCH;
    plan.model.drop_path = 0.0;
    plan
}

/// Crops that a seed draws: what they show does not matter here.
fn crops(plan: &PlanDraft, seed: u64) -> CropBatch {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (global_side, local_side, channels) = (plan.model.image_size, plan.crops.local_size, plan.model.in_channels);
    let mut crop = |side: usize| -> Vec<f32> {
        (0..BATCH * channels * side * side).map(|_| rng.random::<f32>() * 2.0 - 1.0).collect()
    };
    let global = [crop(global_side), crop(global_side)];
    let local = (0..plan.crops.local_count).map(|_| crop(local_side)).collect();
    CropBatch { batch: BATCH, channels, global_side, local_side, global, local }
}

/// The batches of two sites as one.
fn pooled(one: &CropBatch, other: &CropBatch) -> CropBatch {
    let both = |one: &Vec<f32>, other: &Vec<f32>| [one.as_slice(), other].concat();
    CropBatch {
        batch: one.batch + other.batch,
        global: [0, 1].map(|crop| both(&one.global[crop], &other.global[crop])),
        local: one.local.iter().zip(&other.local).map(|(one, other)| both(one, other)).collect(),
        ..one.clone()
    }
}

fn stored(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// What the aggregator makes of what the sites trained, each with the same share.
fn merged(plan: &PlanDraft, base: &NamedTensors, trained: &[NamedTensors]) -> NamedTensors {
    let layout = Layout::of(&base.signature()).unwrap();
    let delta = |(site, trained): (usize, &NamedTensors)| {
        let bytes = trained.clone().minus(base).unwrap().to_safetensors();
        let (file, digest) = (stored(&bytes), Digest::of(&bytes));
        let contribution = Contribution { file, digest, share: Share(1), partial: None, checked: None };
        (format!("site-{site}").parse().unwrap(), contribution)
    };
    let contributions: BTreeMap<_, _> = trained.iter().enumerate().map(delta).collect();
    let (file, base_digest) = (stored(&base.to_safetensors()), base.digest());
    let what = Merge { layout: &layout, base: &file, base_digest, contributions: &contributions, states: &[] };
    let mut out = tempfile::tempfile().unwrap();
    aggregation::merge(plan.aggregation.strategy, &what, &mut out, &mut []).unwrap();
    let mut bytes = Vec::new();
    out.rewind().unwrap();
    out.read_to_end(&mut bytes).unwrap();
    NamedTensors::from_safetensors(&bytes).unwrap()
}

/// The same weights on the merge's grid of 2^-32 around `base`, by its definition.
fn on_the_grid(mut weights: NamedTensors, base: &NamedTensors) -> NamedTensors {
    for ((_, values), (_, base)) in weights.iter_mut().zip(base.iter()) {
        for (value, base) in values.iter_mut().zip(&base.values) {
            let steps = (f64::from(*value - base) * 2.0_f64.powi(32)).round();
            let delta = (steps / 2.0_f64.powi(32)) as f32;
            *value = (f64::from(*base) + f64::from(delta)) as f32;
        }
    }
    weights
}

#[test]
fn one_site_alone_over_five_rounds_is_one_unbroken_training_to_the_last_bit() {
    for exchange in [Exchange::All, Exchange::Student] {
        let (rounds, steps) = (5, 4);
        let mut plan = plan(steps);
        plan.model.drop_path = 0.1;
        plan.aggregation.exchange = exchange;
        let first = model::travelling(model::initial_weights(&plan.model, 1), exchange);
        let step = |trainer: &mut Trainer, clock: u64| {
            trainer.step(&crops(&plan, clock), clock, clock).unwrap();
        };

        // By rounds: a trainer a round, which knows the merged model and what stayed at its site.
        let (mut model, mut kept) = (first.clone(), None::<Vec<u8>>);
        for round in 0..rounds {
            let mut trainer = match &kept {
                None => Trainer::new(&plan, &DeviceChoice::Cpu, &model).unwrap(),
                Some(kept) => Trainer::with_kept(&plan, &DeviceChoice::Cpu, &model, kept).unwrap(),
            };
            (0..steps as u64).for_each(|clock| step(&mut trainer, round * steps as u64 + clock));
            model = merged(&plan, &model, &[model::travelling(trainer.weights(), exchange)]);
            kept = Some(trainer.kept());
        }

        // Unbroken: one trainer, which only rounds what travels to the merge's grid where a round ends.
        let mut trainer = Trainer::new(&plan, &DeviceChoice::Cpu, &first).unwrap();
        let mut base = first;
        for clock in 0..rounds * steps as u64 {
            step(&mut trainer, clock);
            if (clock + 1) % steps as u64 == 0 {
                base = on_the_grid(model::travelling(trainer.weights(), exchange), &base);
                trainer.replace(&base).unwrap();
            }
        }
        assert_eq!(model.digest(), base.digest(), "{exchange:?}");
        assert_eq!(kept.unwrap(), trainer.kept(), "{exchange:?}");
    }
}

#[test]
fn two_sites_of_one_plain_step_a_round_are_the_pooled_training() {
    let mut plan = plan(1);
    plan.training.optimizer = Optimizer::Sgd;
    (plan.training.clip_gradient, plan.training.koleo) = (0.0, 0.0);
    plan.training.learning_rate = 0.05;
    plan.training.warmup_epochs = 0;
    plan.training.teacher_momentum = [0.9, 0.9];
    let first = model::initial_weights(&plan.model, 2);
    let mut central = Trainer::new(&plan, &DeviceChoice::Cpu, &first).unwrap();
    let mut federated = first.clone();
    for round in 0..4_u64 {
        let batches = [2 * round, 2 * round + 1].map(|seed| crops(&plan, seed));
        let trained = batches.each_ref().map(|batch| {
            let mut trainer = Trainer::new(&plan, &DeviceChoice::Cpu, &federated).unwrap();
            trainer.step(batch, round, 0).unwrap();
            trainer.weights()
        });
        federated = merged(&plan, &federated, &trained);
        let [one, other] = &batches;
        central.step(&pooled(one, other), round, 0).unwrap();
    }
    let (found, expected) = (federated, central.weights());
    let moved = expected.clone().minus(&first).unwrap().l2_norm();
    let apart = found.minus(&expected).unwrap().l2_norm();
    assert!(moved > 1e-2 && apart < 1e-4 * moved, "moved {moved}, apart {apart}");
}

#[test]
fn a_site_held_to_the_rounds_start_takes_the_same_first_step_and_ends_nearer_to_it() {
    let first = model::initial_weights(&plan(1).model, 1);
    let after = |proximal: f64, steps: u64| {
        let mut plan = plan(20);
        (plan.training.optimizer, plan.training.proximal) = (Optimizer::Sgd, proximal);
        (plan.training.learning_rate, plan.training.warmup_epochs) = (6.4, 0);
        let mut trainer = Trainer::new(&plan, &DeviceChoice::Cpu, &first).unwrap().held_to(&first);
        for clock in 0..steps {
            trainer.step(&crops(&plan, clock), clock, clock).unwrap();
        }
        trainer.weights().minus(&first).unwrap().under("student.")
    };
    // At the start there is nothing to be pulled back from.
    assert_eq!(after(1.0, 1), after(0.0, 1));
    let (free, held) = (after(0.0, 20).l2_norm(), after(5.0, 20).l2_norm());
    assert!(held < 0.9 * free, "{held} {free}");
}
