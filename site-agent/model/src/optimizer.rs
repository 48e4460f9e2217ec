//! AdamW (Loshchilov and Hutter 2019) as PyTorch computes it, in DINO's two groups, and the teacher's moving average.
//!
//! Matrices are decayed, biases and 1-D tensors are not; `pos_embed` and `cls_token` have three axes, so they are. One
//! pass over each tensor on the host: clip, decay, moments, step, and the teacher's average. Tensors are moved beside each other
//! on all threads; no value depends on how many there are.

use std::collections::BTreeMap;
use std::ops::Range;

use common::{NamedTensors, wide};
use rayon::prelude::*;

use crate::fused::Factors;
use crate::schedule::Schedule;

const BETA1: f64 = 0.9;
/// Decay of the second moment in DINO's training.
pub(crate) const BETA2: f64 = 0.999;
pub(crate) const EPS: f64 = 1e-8;

/// AdamW's state of one tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Moment {
    /// Steps this tensor has taken: fewer than the run's if it was frozen.
    pub(crate) steps: u64,
    pub(crate) first: Vec<f32>,
    pub(crate) second: Vec<f32>,
}

/// The state of all tensors, by name. A tensor that never had a gradient has none.
pub(crate) type Moments = BTreeMap<String, Moment>;

/// One step of plain gradient descent on every tensor that has a gradient; it keeps no state.
pub(crate) fn descend(student: &mut NamedTensors, gradients: &BTreeMap<String, Vec<f32>>, now: &Schedule, clip: f64) {
    let decayed: Vec<bool> = student.iter().map(|(name, tensor)| is_decayed(name, &tensor.shape)).collect();
    for ((name, values), decayed) in student.iter_mut().zip(decayed) {
        let Some(gradient) = gradients.get(name) else { continue };
        let (rate, factor) = (now.learning_rate as f32, clip_factor(gradient, clip));
        let kept = (1.0 - now.learning_rate * if decayed { now.weight_decay } else { 0.0 }) as f32;
        let pairs = values.iter_mut().zip(gradient);
        pairs.for_each(|(value, gradient)| *value = *value * kept - rate * factor * gradient);
    }
}

/// Matrices are decayed, and what has three axes; biases and 1-D tensors are not.
pub(crate) fn is_decayed(name: &str, shape: &[usize]) -> bool {
    shape.len() > 1 && !name.ends_with(".bias")
}

/// How AdamW moves one tensor in one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct AdamW {
    /// Learning rate.
    pub(crate) rate: f64,
    /// Decay of the values, if they are decayed.
    pub(crate) weight_decay: f64,
    /// Decay of the second moment.
    pub(crate) beta2: f64,
    /// What the gradient is multiplied with: clipping.
    pub(crate) factor: f32,
}

/// One step of DINO's AdamW on every tensor that has a gradient. The teacher follows all of them in the same pass.
pub(crate) fn step(
    student: &mut NamedTensors,
    teacher: &mut NamedTensors,
    moments: &mut Moments,
    gradients: &BTreeMap<String, Vec<f32>>,
    now: &Schedule,
    clip: f64,
) {
    let (rate, weight_decay) = (now.learning_rate, now.weight_decay);
    let how =
        |_: &str, gradient: &[f32]| AdamW { rate, weight_decay, beta2: BETA2, factor: clip_factor(gradient, clip) };
    pass(student, moments, gradients, how, Some((teacher, now.teacher_momentum)));
}

/// One step of AdamW on every tensor that has a gradient, each as `how` says of its name and gradient.
pub(crate) fn step_with(
    weights: &mut NamedTensors,
    moments: &mut Moments,
    gradients: &BTreeMap<String, Vec<f32>>,
    how: impl Fn(&str, &[f32]) -> AdamW + Sync,
) {
    pass(weights, moments, gradients, how, None);
}

/// One pass over all tensors: AdamW on those that have a gradient, and a teacher that follows by this momentum.
fn pass(
    weights: &mut NamedTensors,
    moments: &mut Moments,
    gradients: &BTreeMap<String, Vec<f32>>,
    how: impl Fn(&str, &[f32]) -> AdamW + Sync,
    teacher: Option<(&mut NamedTensors, f64)>,
) {
    let decayed: BTreeMap<String, bool> =
        weights.iter().map(|(name, tensor)| (name.to_owned(), is_decayed(name, &tensor.shape))).collect();
    for name in gradients.keys().filter(|name| decayed.contains_key(*name)) {
        moments.entry(name.clone()).or_default();
    }
    let mut states: BTreeMap<&str, &mut Moment> =
        moments.iter_mut().map(|(name, moment)| (name.as_str(), moment)).collect();
    let (teacher, momentum) = teacher.map_or((None, 0.0), |(teacher, momentum)| (Some(teacher), momentum));
    let mut teachers: BTreeMap<&str, &mut [f32]> = teacher.into_iter().flat_map(NamedTensors::iter_mut).collect();
    let all: Vec<_> = weights
        .iter_mut()
        .map(|(name, values)| {
            let moved = gradients.get(name).zip(states.remove(name));
            (name, values, moved, teachers.remove(name))
        })
        .collect();
    all.into_par_iter().for_each(|(name, values, moved, mut teacher)| {
        let moved = moved.map(|(gradient, moment)| {
            let how = how(name, gradient);
            (gradient, moment, AdamW { weight_decay: if decayed[name] { how.weight_decay } else { 0.0 }, ..how })
        });
        let mut followed = |part: Range<usize>, values: &[f32]| {
            if let Some(teacher) = &mut teacher {
                drawn(&mut teacher[part], values, momentum);
            }
        };
        match moved {
            Some((gradient, moment, how)) => update(values, gradient, moment, how, followed),
            None => followed(0..values.len(), values),
        }
    });
}

/// The factor that holds the gradient of all tensors together to a bound.
pub(crate) fn global_clip_factor(gradients: &BTreeMap<String, Vec<f32>>, clip: f64) -> f32 {
    let squares: f64 = gradients.values().map(|gradient| squares(gradient)).sum();
    (clip / (squares.sqrt() + 1e-6)).min(1.0) as f32
}

/// The factor that holds a tensor's gradient to the bound: the published clipping is per tensor, not over all.
fn clip_factor(gradient: &[f32], clip: f64) -> f32 {
    if clip == 0.0 {
        return 1.0;
    }
    (clip / (squares(gradient).sqrt() + 1e-6)).min(1.0) as f32
}

/// The sum of squares, in lanes: one after the other, each addition would wait for the one before.
fn squares(values: &[f32]) -> f64 {
    const LANES: usize = 16;
    let (groups, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0_f64; LANES];
    wide(
        #[inline(always)]
        || {
            for group in groups {
                sums.iter_mut().zip(group).for_each(|(sum, &value)| *sum += f64::from(value) * f64::from(value));
            }
        },
    );
    sums.iter_mut().zip(rest).for_each(|(sum, &value)| *sum += f64::from(value) * f64::from(value));
    sums.iter().sum()
}

/// What a step does to a tensor that takes it as the `steps`-th of its own.
pub(crate) fn factors(how: AdamW, steps: u64, clip: f64, momentum: f64) -> Factors {
    let AdamW { rate, weight_decay, beta2, .. } = how;
    let steps = i32::try_from(steps).unwrap_or(i32::MAX);
    Factors {
        clip,
        kept: 1.0 - rate * weight_decay,
        step_size: rate / (1.0 - BETA1.powi(steps)),
        second_scale: (1.0 - beta2.powi(steps)).sqrt(),
        beta1: BETA1,
        beta2,
        momentum,
    }
}

/// Values that are moved, and then followed, while they are in the cache.
const BLOCK: usize = 4096;

/// Moves a tensor. `then` is told of each part that was moved: which values, and what they are now.
fn update(
    values: &mut [f32],
    gradient: &[f32],
    moment: &mut Moment,
    how: AdamW,
    mut then: impl FnMut(Range<usize>, &[f32]),
) {
    let AdamW { beta2, factor, .. } = how;
    moment.first.resize(values.len(), 0.0);
    moment.second.resize(values.len(), 0.0);
    moment.steps += 1;
    let Factors { kept, step_size, second_scale, .. } = factors(how, moment.steps, 0.0, 0.0);
    let (kept, step_size, second_scale) = (kept as f32, step_size as f32, second_scale as f32);
    // Subtracted in f64: 1 - 0.999 in f32 is wrong in the fifth digit.
    let (taken1, beta2, taken2, eps) = ((1.0 - BETA1) as f32, beta2 as f32, (1.0 - beta2) as f32, EPS as f32);
    let blocks = values.chunks_mut(BLOCK).zip(gradient.chunks(BLOCK));
    let state = moment.first.chunks_mut(BLOCK).zip(moment.second.chunks_mut(BLOCK));
    for (place, ((values, gradient), (first, second))) in blocks.zip(state).enumerate() {
        wide(
            #[inline(always)]
            || {
                let state = first.iter_mut().zip(second.iter_mut());
                for ((value, gradient), (first, second)) in values.iter_mut().zip(gradient).zip(state) {
                    let gradient = gradient * factor;
                    *first += (gradient - *first) * taken1;
                    *second = *second * beta2 + gradient * gradient * taken2;
                    *value = *value * kept - step_size * *first / (second.sqrt() / second_scale + eps);
                }
            },
        );
        then(place * BLOCK..place * BLOCK + values.len(), values);
    }
}

/// The teacher follows the student: `teacher = m * teacher + (1 - m) * student`, over all tensors.
pub(crate) fn follow(teacher: &mut NamedTensors, student: &NamedTensors, momentum: f64) {
    let tensors: Vec<_> = teacher.iter_mut().zip(student.iter()).collect();
    tensors.into_par_iter().for_each(|((_, teacher), (_, student))| drawn(teacher, &student.values, momentum));
}

/// Values drawn to others: `m` of what they were, and the rest of these.
fn drawn(values: &mut [f32], to: &[f32], momentum: f64) {
    let (kept, taken) = (momentum as f32, (1.0 - momentum) as f32);
    wide(
        #[inline(always)]
        || values.iter_mut().zip(to).for_each(|(value, to)| *value = *value * kept + to * taken),
    );
}

/// The center follows the mean of the teacher's raw logits, `[K]`.
pub(crate) fn follow_center(center: &mut [f32], mean: &[f64], momentum: f64) {
    for (center, mean) in center.iter_mut().zip(mean) {
        *center = (f64::from(*center) * momentum + mean * (1.0 - momentum)) as f32;
    }
}

/// Adds the gradient of the proximal term, `proximal / 2 * |weights - start|^2`, of every tensor that has a gradient.
pub(crate) fn pull(
    gradients: &mut BTreeMap<String, Vec<f32>>,
    weights: &NamedTensors,
    start: &NamedTensors,
    proximal: f64,
) {
    let proximal = proximal as f32;
    for (name, gradient) in gradients {
        let Some((weights, start)) = weights.get(name).zip(start.get(name)) else { continue };
        let moved = weights.values.iter().zip(&start.values);
        gradient.iter_mut().zip(moved).for_each(|(value, (weight, start))| *value += proximal * (weight - start));
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn now(learning_rate: f64, weight_decay: f64) -> Schedule {
        let (teacher_momentum, teacher_temperature) = (1.0, 0.04);
        Schedule { learning_rate, weight_decay, teacher_momentum, teacher_temperature, last_layer_frozen: false }
    }

    #[test]
    fn position_and_cls_are_decayed_and_biases_and_norms_are_not() {
        let mut student = NamedTensors::new();
        for (name, shape) in
            [("backbone.pos_embed", vec![1, 1, 1]), ("backbone.norm.weight", vec![1]), ("a.bias", vec![1])]
        {
            student.insert(name, shape, vec![1.0]);
        }
        let gradients = student.iter().map(|(name, _)| (name.to_owned(), vec![0.0])).collect();
        step(&mut student, &mut NamedTensors::new(), &mut Moments::new(), &gradients, &now(0.1, 0.5), 3.0);
        let value = |name: &str| student.get(name).unwrap().values[0];
        assert!((value("backbone.pos_embed") - 0.95).abs() < 1e-6);
        assert_eq!((value("backbone.norm.weight"), value("a.bias")), (1.0, 1.0));
    }

    #[test]
    fn a_tensor_without_a_gradient_neither_moves_nor_gets_a_state() {
        let mut student = NamedTensors::new();
        student.insert("frozen", vec![1, 1], vec![1.0]);
        let mut moments = Moments::new();
        step(&mut student, &mut NamedTensors::new(), &mut moments, &BTreeMap::new(), &now(0.1, 0.5), 3.0);
        assert!(moments.is_empty() && student.get("frozen").unwrap().values == [1.0]);
    }

    #[test]
    fn the_first_step_is_the_learning_rate_in_the_gradients_direction() {
        let mut student = NamedTensors::new();
        student.insert("w.bias", vec![2], vec![0.0, 0.0]);
        let gradients = BTreeMap::from([("w.bias".to_owned(), vec![3.0, -0.01])]);
        step(&mut student, &mut NamedTensors::new(), &mut Moments::new(), &gradients, &now(0.1, 0.0), 0.0);
        let values = &student.get("w.bias").unwrap().values;
        assert!((values[0] + 0.1).abs() < 1e-5 && (values[1] - 0.1).abs() < 1e-5);
    }

    /// A tensor of the reference, in double precision.
    #[derive(Clone)]
    struct Reference {
        value: Vec<f64>,
        first: Vec<f64>,
        second: Vec<f64>,
        teacher: Vec<f64>,
    }

    #[test]
    fn steps_and_the_teachers_average_in_one_pass_are_those_of_double_precision() {
        // One tensor within a block, one over several with a remainder, and one that is frozen.
        let shapes = [("w", vec![7, 11], true), ("wide", vec![3, BLOCK], true), ("still", vec![2, BLOCK + 1], false)];
        let mut rng = ChaCha8Rng::seed_from_u64(6);
        let mut random = |count: usize| (0..count).map(|_| rng.random::<f32>() - 0.5).collect::<Vec<_>>();
        let (mut student, mut teacher) = (NamedTensors::new(), NamedTensors::new());
        let mut reference = BTreeMap::new();
        for (name, shape, _) in &shapes {
            let count = shape.iter().product();
            let (values, taught) = (random(count), random(count));
            let double = |values: &[f32]| values.iter().map(|value| f64::from(*value)).collect::<Vec<_>>();
            let zeros = vec![0.0; count];
            let (value, teacher_value) = (double(&values), double(&taught));
            let of = Reference { value, first: zeros.clone(), second: zeros, teacher: teacher_value };
            reference.insert(*name, of);
            student.insert(*name, shape.clone(), values);
            teacher.insert(*name, shape.clone(), taught);
        }
        let mut moments = Moments::new();
        for count in 1..=5 {
            let now = Schedule { teacher_momentum: 0.9, ..now(1e-2, 0.1) };
            let gradients: BTreeMap<String, Vec<f32>> = shapes
                .iter()
                .filter(|(.., moves)| *moves)
                .map(|(name, shape, _)| ((*name).to_owned(), random(shape.iter().product())))
                .collect();
            step(&mut student, &mut teacher, &mut moments, &gradients, &now, 0.5);
            for (name, of) in &mut reference {
                if let Some(gradient) = gradients.get(*name) {
                    let norm = gradient.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
                    let factor = (0.5 / (norm + 1e-6)).min(1.0);
                    for (place, gradient) in gradient.iter().enumerate() {
                        let gradient = f64::from(*gradient) * factor;
                        of.first[place] = 0.9 * of.first[place] + 0.1 * gradient;
                        of.second[place] = 0.999 * of.second[place] + 0.001 * gradient * gradient;
                        let (first, second) = (of.first[place] / (1.0 - 0.9_f64.powi(count)), of.second[place]);
                        let second = second / (1.0 - 0.999_f64.powi(count));
                        of.value[place] -= 1e-2 * 0.1 * of.value[place];
                        of.value[place] -= 1e-2 * first / (second.sqrt() + 1e-8);
                    }
                }
                of.teacher
                    .iter_mut()
                    .zip(&of.value)
                    .for_each(|(teacher, value)| *teacher = 0.9 * *teacher + 0.1 * value);
            }
        }
        for (name, of) in &reference {
            for (found, expected) in [(&student, &of.value), (&teacher, &of.teacher)] {
                for (found, expected) in found.get(name).unwrap().values.iter().zip(expected) {
                    assert!((f64::from(*found) - expected).abs() < 1e-6, "{name}: {found} {expected}");
                }
            }
        }
        assert!(!moments.contains_key("still"), "a frozen tensor has no state");
    }

    #[test]
    fn clipping_holds_each_tensor_to_its_own_bound() {
        assert!((clip_factor(&[3.0, 4.0], 3.0) - 0.6).abs() < 1e-6);
        assert_eq!(clip_factor(&[0.3, 0.4], 3.0), 1.0);
        assert_eq!(clip_factor(&[30.0], 0.0), 1.0);
    }

    #[test]
    fn the_proximal_terms_gradient_points_from_the_start_to_the_weights_and_is_nothing_there() {
        let tensors = |value: f32| {
            let mut tensors = NamedTensors::new();
            tensors.insert("w", vec![2], vec![value, 1.0]);
            tensors
        };
        let pulled = |weights: &NamedTensors, proximal: f64| {
            let mut gradients = BTreeMap::from([("w".to_owned(), vec![0.5, 0.5])]);
            pull(&mut gradients, weights, &tensors(1.0), proximal);
            gradients.remove("w").unwrap()
        };
        assert_eq!(pulled(&tensors(1.0), 0.1), [0.5, 0.5]);
        assert_eq!(pulled(&tensors(3.0), 0.25), [1.0, 0.5]);
    }
}
