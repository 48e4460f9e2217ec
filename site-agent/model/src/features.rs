//! A backbone at work: CLS features and attention of whole images.

use common::NamedTensors;
use common::Signature;
use common::plan::ModelPlan;

use crate::compute::Compute;
use crate::device::DeviceChoice;
use crate::vit::Images;
use crate::{ModelError, names};

/// A backbone on a device, with published key names.
pub struct Backbone {
    plan: ModelPlan,
    weights: NamedTensors,
    device: Box<dyn Compute>,
}

impl Backbone {
    /// The backbone of these weights, refused by name if they are not the plan's.
    pub fn load(plan: &ModelPlan, device: &DeviceChoice, weights: &NamedTensors) -> Result<Self, ModelError> {
        Signature::new(names::backbone(plan))?.require(&weights.signature())?;
        Ok(Self { plan: plan.clone(), weights: weights.clone(), device: device.open()? })
    }

    /// CLS features after the final norm, one row an image. `images` is `[count, channels, side, side]`.
    pub fn features(&self, images: &[f32], count: usize, side: usize) -> Result<Vec<Vec<f32>>, ModelError> {
        let flat = self.device.features(&self.plan, &self.weights, self.checked(images, count, side)?);
        Ok(flat.chunks_exact(self.plan.dim).map(<[f32]>::to_vec).collect())
    }

    /// Attention of the CLS token to the patches in the last block, one row a head. `image` is `[channels, side, side]`.
    pub fn cls_attention(&self, image: &[f32], side: usize) -> Result<Vec<Vec<f32>>, ModelError> {
        let flat = self.device.attention(&self.plan, &self.weights, self.checked(image, 1, side)?);
        let patches = (side / self.plan.patch_size).pow(2);
        Ok(flat.chunks_exact(patches).map(<[f32]>::to_vec).collect())
    }

    fn checked<'a>(&self, values: &'a [f32], count: usize, side: usize) -> Result<Images<'a>, ModelError> {
        let expected = count * self.plan.in_channels * side * side;
        if values.len() == expected && side.is_multiple_of(self.plan.patch_size) {
            Ok(Images { values, count, side })
        } else {
            Err(ModelError::Crops { what: "an image", expected, found: values.len() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init;

    #[test]
    fn attention_is_a_distribution_and_features_do_not_depend_on_the_batch() {
        let plan = ModelPlan { dim: 16, depth: 2, heads: 2, image_size: 16, ..ModelPlan::default() };
        let weights = init::initial_weights(&plan, 1).under("teacher.backbone.");
        let backbone = Backbone::load(&plan, &DeviceChoice::Cpu, &weights).unwrap();
        let images: Vec<f32> = (0..3 * 256).map(|i| (i as f32 * 0.37).sin()).collect();
        let all = backbone.features(&images, 3, 16).unwrap();
        for (row, image) in all.iter().zip(images.chunks(256)) {
            let alone = &backbone.features(image, 1, 16).unwrap()[0];
            assert!(row.iter().zip(alone).all(|(a, b)| (a - b).abs() < 1e-4));
            let mean = row.iter().sum::<f32>() / 16.0;
            assert!(mean.abs() < 1e-4, "the final norm centers features");
        }
        let attention = backbone.cls_attention(&images[..256], 16).unwrap();
        assert_eq!((attention.len(), attention[0].len()), (2, 4));
        assert!(attention.iter().all(|head| head.iter().sum::<f32>() < 1.0 && head.iter().all(|value| *value > 0.0)));
        assert!(backbone.features(&images, 2, 16).is_err());
    }
}
