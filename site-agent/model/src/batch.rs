//! A batch of crops, its parts, and the step that theirs come to.

use std::ops::Range;

use crate::ModelError;
use crate::training::StepOutput;

/// A batch of crops, normalized, on the host; each `[batch, channels, side, side]`, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct CropBatch {
    /// Images.
    pub batch: usize,
    /// Channels.
    pub channels: usize,
    /// Side of a global crop.
    pub global_side: usize,
    /// Side of a local crop.
    pub local_side: usize,
    /// The two global crops.
    pub global: [Vec<f32>; 2],
    /// The local crops.
    pub local: Vec<Vec<f32>>,
}

impl CropBatch {
    /// Refuses crops that do not hold what their sides say.
    pub(crate) fn checked(&self) -> Result<(), ModelError> {
        let globals = self.global.iter().map(|crop| ("a global crop", self.global_side, crop));
        let locals = self.local.iter().map(|crop| ("a local crop", self.local_side, crop));
        for (what, side, values) in globals.chain(locals) {
            let expected = self.batch * self.channels * side * side;
            if values.len() != expected {
                return Err(ModelError::Crops { what, expected, found: values.len() });
            }
        }
        Ok(())
    }

    /// The values of each crop: the global ones, then the local ones.
    pub fn into_values(self) -> Vec<Vec<f32>> {
        self.global.into_iter().chain(self.local).collect()
    }
}

/// The values of some images of a crop, `[batch, width]`.
pub(crate) fn of_part<'a>(crop: &'a [f32], batch: usize, width: usize, part: &Range<usize>) -> &'a [f32] {
    debug_assert_eq!(crop.len(), batch * width);
    &crop[part.start * width..part.end * width]
}

/// The step of a batch from those of its parts, each with its fraction of the images: the loss is a mean over images, and so
/// is its gradient.
pub(crate) fn accumulated(parts: impl Iterator<Item = (f64, StepOutput)>) -> StepOutput {
    let mut whole = StepOutput::default();
    for (fraction, part) in parts {
        if fraction == 1.0 {
            return part;
        }
        whole.loss += fraction * part.loss;
        for (name, gradient) in part.gradients {
            let sums = whole.gradients.entry(name).or_insert_with(|| vec![0.0; gradient.len()]);
            sums.iter_mut().zip(&gradient).for_each(|(sum, value)| *sum += fraction as f32 * value);
        }
        whole.entropy += fraction * part.entropy;
        for (whole, part) in [(&mut whole.mean_logits, part.mean_logits), (&mut whole.mean_taught, part.mean_taught)] {
            whole.resize(part.len(), 0.0);
            whole.iter_mut().zip(part).for_each(|(sum, value)| *sum += fraction * value);
        }
        #[cfg(test)]
        {
            whole.teacher_logits.extend(part.teacher_logits);
            whole.student_logits.extend(part.student_logits);
        }
    }
    whole
}
