//! The model card that travels with an exported backbone (Mitchell et al. 2019): what it is, how it was made, what not
//! to do with it.

use common::plan::Exchange;
use common::{Digest, PlanDraft};

/// Where a backbone is from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A run of the plan; whose backbone it is.
    Run(&'static str),
    /// A file of this name, of which nothing else is known.
    File(String),
}

/// What a card says of the exported file.
#[derive(Clone, Debug)]
pub struct Card {
    /// Where the backbone is from.
    pub origin: Origin,
    /// The file's name.
    pub file: String,
    /// Whose tensor names it has, in words.
    pub layout: &'static str,
    /// The file's SHA-256.
    pub digest: Digest,
    /// Its tensors.
    pub tensors: usize,
    /// Values in all of them together.
    pub values: usize,
}

/// The plan's rule for merging, as a person writes it in a plan.
fn rule(plan: &PlanDraft) -> String {
    toml::Value::try_from(plan.aggregation.strategy).expect("a rule is a table of a name and numbers").to_string()
}

/// The card of a backbone of the network of `plan`. It names sites as a count only, and of a run only what that run's
/// plan says.
pub fn model_card(plan: &PlanDraft, card: &Card) -> String {
    let (model, images, training) = (&plan.model, &plan.images, &plan.training);
    let preprocessing = format!(
        "resampled to {} mm, clipped to percentiles {} to {} of the series, scaled to 0..1, then minus {} over {}",
        images.spacing_mm, images.low_percentile, images.high_percentile, images.mean, images.std
    );
    let (title, story, tags, whose, rows) = match &card.origin {
        Origin::Run(network) => (
            format!("CMR foundation model, run `{}`", plan.run),
            format!(
                "A Vision Transformer backbone, pretrained by self-distillation (DINO, Caron et al. 2021) on cardiac MR \
                 frames of {}\nsites that never shared an image: {} merged after each round.",
                plan.rounds.sites.len(),
                match plan.aggregation.exchange {
                    Exchange::All => "student, teacher and center were",
                    Exchange::Student => "the student alone was",
                }
            ),
            "cardiac-mri, self-supervised, dino, federated-learning",
            format!("the {network}'s backbone"),
            format!(
                "| preprocessing | {preprocessing} |\n| training | {} rounds of {} steps a site, batch {}, {} prototypes |\n\
                 | merging | `{}` |",
                plan.rounds.count,
                training.steps_per_round,
                training.batch_size,
                model.head.prototypes,
                rule(plan)
            ),
        ),
        Origin::File(name) => (
            format!("Vision Transformer backbone, from `{name}`"),
            "Taken over from a file that is not a model of a run. What it was trained on, and how its images were prepared, \
             is that\nfile's to say."
                .to_owned(),
            "vision-transformer",
            "a backbone".to_owned(),
            "| preprocessing | that of the file it was taken from |".to_owned(),
        ),
    };
    format!(
        "---
library_name: safetensors
tags: [{tags}]
---

# {title}

{story}

| | |
|---|---|
| file | `{file}`: {whose}, {tensors} tensors, {values} values, {layout} |
| SHA-256 | `{digest}` |
| input | {channels} channel(s), {image} x {image} pixels, patch {patch} |
| network | dim {dim}, depth {depth}, heads {heads}, MLP ratio {ratio}, LayerNorm eps 1e-6, exact GELU |
{rows}

## Intended use
Features for research on cardiac MR: probing, finetuning, retrieval. **Not a medical device**, and not evaluated for
clinical decisions.

## Limits
Self-supervised features carry the biases of the sites' scanners and patients. Weights trained on personal data are not
anonymous by themselves; share them as the sites agreed.
",
        file = card.file,
        tensors = card.tensors,
        values = card.values,
        layout = card.layout,
        digest = card.digest,
        channels = model.in_channels,
        image = model.image_size,
        patch = model.patch_size,
        dim = model.dim,
        depth = model.depth,
        heads = model.heads,
        ratio = model.mlp_ratio,
    )
}

#[cfg(test)]
mod tests {
    use common::plan::Strategy;

    use super::*;

    #[test]
    fn a_runs_card_says_what_was_merged_and_how() {
        let mut plan: PlanDraft = toml::from_str(include_str!("../../tests/plans/story.toml")).unwrap();
        let card = Card {
            origin: Origin::Run("teacher"),
            layout: "published DINO key names",
            file: "model.safetensors".to_owned(),
            digest: Digest::of(b"model"),
            tensors: 1,
            values: 2,
        };
        let text = model_card(&plan, &card);
        assert!(
            text.contains("student, teacher and center were merged") && text.contains("rule = \"fed-avg\""),
            "{text}"
        );
        plan.aggregation.exchange = Exchange::Student;
        plan.aggregation.strategy = Strategy::Nesterov { learning_rate: 0.7, momentum: 0.9 };
        let text = model_card(&plan, &card);
        assert!(text.contains("the student alone was merged"), "{text}");
        assert!(text.contains("rule = \"nesterov\"") && text.contains("momentum = 0.9"), "{text}");
    }
}
