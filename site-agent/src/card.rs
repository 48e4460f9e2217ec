//! The model card that travels with an exported backbone (Mitchell et al. 2019): what it is, how it was made, what not
//! to do with it.

use common::{NamedTensors, PlanDraft};

/// The card of a backbone that a run of `plan` made. It names sites as a count only.
pub fn model_card(plan: &PlanDraft, backbone: &NamedTensors) -> String {
    let (model, images, training) = (&plan.model, &plan.images, &plan.training);
    let sites = plan.rounds.sites.len();
    format!(
        "---
library_name: safetensors
tags: [cardiac-mri, self-supervised, dino, federated-learning]
---

# CMR foundation model, run `{run}`

A Vision Transformer backbone, pretrained by self-distillation (DINO, Caron et al. 2021) on cardiac MR frames of {sites}
sites that never shared an image: federated averaging of student, teacher and center.

| | |
|---|---|
| file | `model.safetensors`: the teacher's backbone, {tensors} tensors, {values} values, published DINO key names |
| SHA-256 | `{digest}` |
| input | {channels} channel(s), {image} x {image} pixels, patch {patch} |
| network | dim {dim}, depth {depth}, heads {heads}, MLP ratio {ratio}, LayerNorm eps 1e-6, exact GELU |
| preprocessing | resampled to {spacing} mm, clipped to percentiles {low} to {high} of the series, scaled to 0..1, then minus {mean} over {std} |
| training | {rounds} rounds of {steps} steps a site, batch {batch}, {prototypes} prototypes |

## Intended use
Features for research on cardiac MR: probing, finetuning, retrieval. **Not a medical device**, and not evaluated for
clinical decisions.

## Limits
Self-supervised features carry the biases of the sites' scanners and patients. Weights trained on personal data are not
anonymous by themselves; share them as the sites agreed.
",
        run = plan.run,
        tensors = backbone.signature().len(),
        values = backbone.signature().value_count(),
        digest = backbone.digest(),
        channels = backbone.get("patch_embed.proj.weight").map_or(model.in_channels, |weight| weight.shape[1]),
        image = model.image_size,
        patch = model.patch_size,
        dim = model.dim,
        depth = model.depth,
        heads = model.heads,
        ratio = model.mlp_ratio,
        spacing = images.spacing_mm,
        low = images.low_percentile,
        high = images.high_percentile,
        mean = images.mean,
        std = images.std,
        rounds = plan.rounds.count,
        steps = training.steps_per_round,
        batch = training.batch_size,
        prototypes = model.head.prototypes,
    )
}
