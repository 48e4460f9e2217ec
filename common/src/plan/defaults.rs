//! What stands where a plan says nothing: in its optimizer and schedules the published values of DINO (Caron et al. 2021,
//! `main_dino.py`).

use super::draft::{
    AggregationPlan, CropPlan, Exchange, HeadPlan, ImagePlan, Init, ModelPlan, PrivacyPlan, ShareBy, Strategy,
};
use crate::encoding::Encoding;
use crate::pattern::Patterns;

/// A plan with every setting, its default, and what it does: what a coordinator begins with.
pub const EXAMPLE: &str = include_str!("../../plan.example.toml");

impl Default for ModelPlan {
    fn default() -> Self {
        Self {
            image_size: 224,
            patch_size: 8,
            in_channels: 1,
            dim: 384,
            depth: 12,
            heads: 6,
            mlp_ratio: 4.0,
            drop_path: 0.1,
            init: Init::Published,
            head: HeadPlan::default(),
        }
    }
}

impl Default for HeadPlan {
    fn default() -> Self {
        Self { hidden: 2048, bottleneck: 256, prototypes: 8192, norm_last_layer: true }
    }
}

impl Default for ImagePlan {
    fn default() -> Self {
        Self { frame_size: 256, spacing_mm: 1.0, low_percentile: 0.95, high_percentile: 99.5, mean: 0.449, std: 0.226 }
    }
}

impl Default for CropPlan {
    fn default() -> Self {
        Self {
            global_scale: [0.4, 1.0],
            local_count: 8,
            local_size: 96,
            local_scale: [0.05, 0.4],
            flip: 0.5,
            jitter: 0.8,
            brightness: 0.4,
            contrast: 0.4,
            gamma: 0.2,
            blur: [1.0, 0.1, 0.5],
            blur_sigma: [0.1, 2.0],
            noise: 0.02,
        }
    }
}

impl Default for AggregationPlan {
    fn default() -> Self {
        Self {
            strategy: Strategy::FedAvg {},
            share_by: ShareBy::Subjects,
            share_alpha: 0.5,
            share_cap: 0.5,
            exchange: Exchange::All,
            keep_local: Patterns::default(),
            encoding: Encoding::F32,
        }
    }
}

impl Default for PrivacyPlan {
    fn default() -> Self {
        Self { max_delta_norm: 1000.0, noise_multiplier: 0.0 }
    }
}

pub(super) fn learning_rate() -> f64 {
    5e-4
}
pub(super) fn min_learning_rate() -> f64 {
    1e-6
}
pub(super) fn warmup_epochs() -> usize {
    10
}
pub(super) fn weight_decay() -> [f64; 2] {
    [0.04, 0.4]
}
pub(super) fn teacher_momentum() -> [f64; 2] {
    [0.996, 1.0]
}
pub(super) fn student_temperature() -> f64 {
    0.1
}
pub(super) fn teacher_temperature() -> [f64; 2] {
    [0.04, 0.04]
}
pub(super) fn center_momentum() -> f64 {
    0.9
}
pub(super) fn clip_gradient() -> f64 {
    3.0
}
pub(super) fn freeze_last_layer_epochs() -> usize {
    1
}
pub(super) fn checkpoint_every_steps() -> usize {
    50
}
pub(super) fn attempts() -> u32 {
    3
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::plan::PlanDraft;

    fn written(draft: &PlanDraft) -> Value {
        serde_json::to_value(draft).unwrap()
    }

    /// The settings of a plan, by section and name.
    fn settings(value: &Value, section: &str) -> BTreeSet<String> {
        let Value::Object(of) = value else { return BTreeSet::from([section.to_owned()]) };
        // A rule's own settings, and an encoding's, are those of one rule or encoding.
        if section.ends_with("strategy") || section.ends_with("encoding") {
            return BTreeSet::from([section.to_owned()]);
        }
        of.iter().flat_map(|(name, value)| settings(value, &format!("{section}.{name}"))).collect()
    }

    #[test]
    fn the_example_holds_every_setting_with_its_default() {
        let example: PlanDraft = toml::from_str(EXAMPLE).unwrap();
        example.check().unwrap();
        assert_eq!(example.remarks(), Vec::<String>::new());
        let rounds = &example.rounds;
        let required = serde_json::json!({
            "run": example.run,
            "training": { "steps_per_round": 200, "epoch_steps": 200, "batch_size": 64 },
            "rounds": { "count": rounds.count, "sites": rounds.sites, "quorum": rounds.quorum, "deadline_s": rounds.deadline_s },
        });
        assert_eq!(example, serde_json::from_value(required).unwrap(), "what may be left out has another default");
        // Some settings are written only where they are not the default.
        let mut all = example;
        (all.signatures, all.training.proximal, all.rounds.grace_s) = (1, 1.0, 1);
        (all.privacy.noise_multiplier, all.aggregation.share_by) = (1.0, ShareBy::Examples);
        (all.aggregation.keep_local, all.aggregation.encoding) =
            (serde_json::from_str(r#"["*"]"#).unwrap(), Encoding::Int8);
        let there: toml::Value = toml::from_str(EXAMPLE).unwrap();
        let there = settings(&serde_json::to_value(there).unwrap(), "");
        assert_eq!(there, settings(&written(&all), ""));
        assert!(EXAMPLE.contains("# [finetuning]\n# frozen_backbone = false\n"));
    }

    #[test]
    fn every_rule_that_the_example_names_is_a_rule() {
        let rules =
            EXAMPLE.split("{ rule = ").skip(1).map(|rest| format!("rule = {}", rest.split('}').next().unwrap()));
        let rules: Vec<Strategy> = rules.map(|rule| toml::from_str(&rule.replace(", ", "\n")).unwrap()).collect();
        let names: BTreeSet<&str> = rules.iter().map(Strategy::name).collect();
        assert_eq!(names.len(), 9, "{names:?}");
        assert!(["fed-yogi", "fed-adagrad"].iter().all(|name| EXAMPLE.contains(name)));
    }
}
