//! Weights for other programs: grayscale patch embeddings to three channels and back, and the Hugging Face layout.

use common::plan::ModelPlan;
use common::{NamedTensors, Signature};

use crate::{ModelError, hugging_face, names};

pub(crate) const PATCH: &str = "patch_embed.proj.weight";

/// A backbone as Hugging Face's `ViTModel` (without pooler) has it, and its `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct HuggingFace {
    /// The weights, for `model.safetensors`.
    pub weights: NamedTensors,
    /// The configuration, for `config.json` beside.
    pub config: String,
}

/// The plan's backbone in the Hugging Face layout, refused by name if it is not the plan's.
pub fn hugging_face(backbone: &NamedTensors, plan: &ModelPlan) -> Result<HuggingFace, ModelError> {
    Signature::new(names::backbone(plan))?.require(&backbone.signature())?;
    Ok(HuggingFace { weights: hugging_face::renamed(backbone), config: hugging_face::config(plan) })
}

/// A backbone for images of this many channels, 1 or 3: summed, spread, or left as it is.
pub fn with_channels(backbone: NamedTensors, channels: usize) -> Result<NamedTensors, ModelError> {
    match (backbone.get(PATCH).map(|tensor| tensor.shape.as_slice()), channels) {
        (Some(&[_, found, _, _]), _) if found == channels => Ok(backbone),
        (_, 3) => spread_channels(backbone),
        _ => sum_channels(backbone),
    }
}

/// A backbone whose one-channel patch embedding is spread over three channels, a third each: the same output for an
/// image whose channels are equal.
pub fn spread_channels(backbone: NamedTensors) -> Result<NamedTensors, ModelError> {
    convert(backbone, 1, 3, |pixels, _| pixels.iter().map(|value| value / 3.0).collect::<Vec<_>>().repeat(3))
}

/// A backbone whose three-channel patch embedding is summed into one: the same output for an image whose channels are
/// equal.
pub fn sum_channels(backbone: NamedTensors) -> Result<NamedTensors, ModelError> {
    convert(backbone, 3, 1, |pixels, area| (0..area).map(|i| (0..3).map(|c| pixels[c * area + i]).sum()).collect())
}

fn convert(
    mut backbone: NamedTensors,
    from: usize,
    to: usize,
    kernel: impl Fn(&[f32], usize) -> Vec<f32>,
) -> Result<NamedTensors, ModelError> {
    let tensor = backbone.get(PATCH).cloned();
    let found = tensor.as_ref().map_or("no such tensor".to_owned(), |tensor| format!("shape {:?}", tensor.shape));
    match tensor {
        Some(tensor) if tensor.shape.len() == 4 && tensor.shape[1] == from => {
            let area = tensor.shape[2] * tensor.shape[3];
            let values = tensor.values.chunks_exact(from * area).flat_map(|pixels| kernel(pixels, area)).collect();
            backbone.insert(PATCH, vec![tensor.shape[0], to, tensor.shape[2], tensor.shape[3]], values);
            Ok(backbone)
        }
        _ => Err(common::weights::WeightsError::Differs {
            name: PATCH.to_owned(),
            expected: format!("{from} channel(s)"),
            found,
        }
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use common::plan::ModelPlan;

    use super::*;
    use crate::{Backbone, DeviceChoice, init};

    #[test]
    fn a_spread_backbone_sees_the_same_in_three_equal_channels() {
        let plan = ModelPlan { dim: 16, depth: 1, heads: 2, image_size: 16, ..ModelPlan::default() };
        let gray = init::initial_weights(&plan, 2).under("student.backbone.");
        let color = spread_channels(gray.clone()).unwrap();
        let image: Vec<f32> = (0..256).map(|i| (i as f32 * 0.11).cos()).collect();
        let one = Backbone::load(&plan, &DeviceChoice::Cpu, &gray).unwrap().features(&image, 1, 16).unwrap();
        let plan = ModelPlan { in_channels: 3, ..plan };
        let three =
            Backbone::load(&plan, &DeviceChoice::Cpu, &color).unwrap().features(&image.repeat(3), 1, 16).unwrap();
        assert!(one[0].iter().zip(&three[0]).all(|(a, b)| (a - b).abs() < 1e-5));
        let back = sum_channels(color.clone()).unwrap();
        let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6;
        assert!(back.get(PATCH).unwrap().values.iter().zip(&gray.get(PATCH).unwrap().values).all(close));
        assert!(spread_channels(color).is_err());
    }
}
