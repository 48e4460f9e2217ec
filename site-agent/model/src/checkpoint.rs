//! Checkpoints and what a site keeps between rounds, as safetensors: weights, AdamW's moments with the steps each tensor
//! took, and the clock.

use common::NamedTensors;

use crate::ModelError;
use crate::optimizer::{Moment, Moments};

const WEIGHTS: &str = "weights.";
const FIRST: &str = "first.";
const SECOND: &str = "second.";
const STEPS: &str = "steps.";
const CLOCK: &str = "clock";

/// The bytes of a checkpoint.
pub(crate) fn write(weights: &NamedTensors, moments: &Moments, clock: u64) -> Vec<u8> {
    let mut all = moment_tensors(moments).joined(weights.clone().prefixed(WEIGHTS));
    all.insert(CLOCK, vec![2], count(clock));
    all.to_safetensors()
}

/// The bytes of what stays at a site between two rounds: moments, and those of the weights that do not travel.
pub(crate) fn write_kept(stayed: NamedTensors, moments: &Moments) -> Vec<u8> {
    moment_tensors(moments).joined(stayed.prefixed(WEIGHTS)).to_safetensors()
}

/// Weights, moments and clock of a checkpoint.
pub(crate) fn read(file: &[u8]) -> Result<(NamedTensors, Moments, u64), ModelError> {
    let all = NamedTensors::from_safetensors(file)?;
    let clock = all.get(CLOCK).and_then(|tensor| counted(&tensor.values));
    let clock = clock.ok_or_else(|| ModelError::Checkpoint("it has no clock".to_owned()))?;
    Ok((all.under(WEIGHTS), moments_of(&all)?, clock))
}

/// What stayed at a site: weights that do not travel, and moments.
pub(crate) fn read_kept(file: &[u8]) -> Result<(NamedTensors, Moments), ModelError> {
    let all = NamedTensors::from_safetensors(file)?;
    Ok((all.under(WEIGHTS), moments_of(&all)?))
}

/// Refuses moments of another network.
pub(crate) fn checked(moments: Moments, student: &NamedTensors) -> Result<Moments, ModelError> {
    for (name, moment) in &moments {
        let size = student.get(name).map(|tensor| tensor.values.len());
        if size != Some(moment.first.len()) || size != Some(moment.second.len()) {
            return Err(ModelError::Checkpoint(format!("its moments of {name} are of another network")));
        }
    }
    Ok(moments)
}

fn moment_tensors(moments: &Moments) -> NamedTensors {
    let mut all = NamedTensors::new();
    for (name, moment) in moments {
        all.insert(format!("{FIRST}{name}"), vec![moment.first.len()], moment.first.clone());
        all.insert(format!("{SECOND}{name}"), vec![moment.second.len()], moment.second.clone());
        all.insert(format!("{STEPS}{name}"), vec![2], count(moment.steps));
    }
    all
}

fn moments_of(all: &NamedTensors) -> Result<Moments, ModelError> {
    let mut moments = Moments::new();
    for (name, steps) in all.under(STEPS).iter() {
        let values = |kind: &str| all.get(&format!("{kind}{name}")).map(|tensor| tensor.values.clone());
        let moment = counted(&steps.values).zip(values(FIRST)).zip(values(SECOND));
        let ((steps, first), second) =
            moment.ok_or_else(|| ModelError::Checkpoint(format!("its moments of {name} are not whole")))?;
        moments.insert(name.to_owned(), Moment { steps, first, second });
    }
    Ok(moments)
}

/// A count as two f32 of 24 bits each: exact up to 2^48.
fn count(value: u64) -> Vec<f32> {
    vec![(value & 0xff_ffff) as f32, ((value >> 24) & 0xff_ffff) as f32]
}

fn counted(values: &[f32]) -> Option<u64> {
    let [low, high] = values else { return None };
    Some(*low as u64 | (*high as u64) << 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_reads_back_exactly() {
        for value in [0, 1, 0xff_ffff, 0x100_0000, 123_456_789_012] {
            assert_eq!(counted(&count(value)), Some(value));
        }
    }

    #[test]
    fn moments_of_another_network_are_refused() {
        let moments = Moments::from([("w".to_owned(), Moment { steps: 3, first: vec![1.0], second: vec![2.0] })]);
        let mut student = NamedTensors::new();
        student.insert("w", vec![1], vec![0.0]);
        let mut stayed = NamedTensors::new();
        stayed.insert("center", vec![1, 2], vec![0.5, 0.25]);
        let (read_back, kept) = read_kept(&write_kept(stayed.clone(), &moments)).unwrap();
        assert_eq!((read_back, checked(kept.clone(), &student).unwrap()), (stayed, moments));
        student.insert("w", vec![2], vec![0.0; 2]);
        assert!(matches!(checked(kept, &student), Err(ModelError::Checkpoint(_))));
    }
}
