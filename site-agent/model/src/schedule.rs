//! DINO's schedules on the run's global step clock. Every site reads them at the same step.

use common::PlanDraft;

/// The values of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Learning rate.
    pub learning_rate: f64,
    /// Weight decay of matrices.
    pub weight_decay: f64,
    /// Momentum of the teacher.
    pub teacher_momentum: f64,
    /// Temperature of the teacher.
    pub teacher_temperature: f64,
    /// Whether the head's last layer is frozen.
    pub last_layer_frozen: bool,
}

impl Schedule {
    /// The values at `step` of the global clock.
    pub fn at(plan: &PlanDraft, step: u64) -> Self {
        let training = &plan.training;
        let (step, total) = (step as usize, plan.total_steps());
        let epoch = step / training.epoch_steps;
        let peak = training.learning_rate * training.batch_size as f64 / 256.0;
        let warmup = training.warmup_epochs * training.epoch_steps;
        let [decay, decay_end] = training.weight_decay;
        let [momentum, momentum_end] = training.teacher_momentum;
        let [first, last] = training.teacher_temperature;
        Self {
            learning_rate: cosine(peak, training.min_learning_rate, total, warmup, step),
            weight_decay: cosine(decay, decay_end, total, 0, step),
            teacher_momentum: cosine(momentum, momentum_end, total, 0, step),
            teacher_temperature: warm(first, last, training.teacher_temperature_warmup_epochs, epoch),
            last_layer_frozen: epoch < training.freeze_last_layer_epochs,
        }
    }
}

/// The published cosine schedule: `warmup` steps from 0 to `base` (both included), then from `base` towards `last`, which
/// is never reached.
pub fn cosine(base: f64, last: f64, total: usize, warmup: usize, step: usize) -> f64 {
    if step < warmup {
        return if warmup == 1 { 0.0 } else { base * step as f64 / (warmup - 1) as f64 };
    }
    let (place, length) = ((step - warmup) as f64, total.saturating_sub(warmup).max(1) as f64);
    last + 0.5 * (base - last) * (1.0 + (std::f64::consts::PI * place / length).cos())
}

/// The published warm-up of the teacher's temperature: `linspace(first, last, epochs)`, then `last`.
fn warm(first: f64, last: f64, epochs: usize, epoch: usize) -> f64 {
    match epochs {
        0 => last,
        1 if epoch == 0 => first,
        _ if epoch >= epochs => last,
        _ => first + (last - first) * epoch as f64 / (epochs - 1) as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedules_agree_with_the_published_code() {
        // Ten epochs of five steps; values of the published `cosine_scheduler`.
        let close = |found: f64, published: f64| assert!((found - published).abs() < 1e-8, "{found} {published}");
        let rate = |step| cosine(5e-4, 1e-6, 50, 10, step);
        for (step, value) in [
            (0, 0.0),
            (1, 5.555_555_56e-5),
            (4, 2.222_222_22e-4),
            (9, 5e-4),
            (10, 5e-4),
            (11, 4.992_308_75e-4),
            (30, 2.505e-4),
            (49, 1.769_125_23e-6),
        ] {
            close(rate(step), value);
        }
        for (step, value) in [(1, 0.040_355_19), (10, 0.074_376_94), (25, 0.22), (49, 0.399_644_81)] {
            close(cosine(0.04, 0.4, 50, 0, step), value);
        }
        for (step, value) in [(1, 0.996_003_95), (10, 0.996_381_97), (25, 0.998), (49, 0.999_996_05)] {
            close(cosine(0.996, 1.0, 50, 0, step), value);
        }
        for (epoch, value) in [(0, 0.04), (1, 0.07), (2, 0.07)] {
            close(warm(0.04, 0.07, 2, epoch), value);
        }
    }
    #[test]
    fn a_plans_values_go_where_the_published_code_puts_them() {
        // Ten epochs of five steps, two of warm-up and one with a frozen last layer; 512 images are two times the published unit.
        let plan: PlanDraft = serde_json::from_value(serde_json::json!({
            "run": "test",
            "training": {
                "steps_per_round": 25, "epoch_steps": 5, "batch_size": 512, "learning_rate": 2.5e-4, "min_learning_rate": 1e-6,
                "warmup_epochs": 2, "weight_decay": [0.04, 0.4], "teacher_momentum": [0.996, 1.0],
                "teacher_temperature": [0.04, 0.07], "teacher_temperature_warmup_epochs": 2, "freeze_last_layer_epochs": 1
            },
            "rounds": { "count": 2, "sites": ["a"], "quorum": 1, "deadline_s": 1 }
        }))
        .unwrap();
        for (step, rate, decay, momentum, temperature, frozen) in [
            (1, 5.555_555_56e-5, 0.040_355_19, 0.996_003_95, 0.04, true),
            (4, 2.222_222_22e-4, 0.045_655_03, 0.996_062_83, 0.04, true),
            (10, 5e-4, 0.074_376_94, 0.996_381_97, 0.07, false),
            (49, 1.769_125_23e-6, 0.399_644_81, 0.999_996_05, 0.07, false),
        ] {
            let now = Schedule::at(&plan, step);
            for (what, found, published) in [
                ("learning rate", now.learning_rate, rate),
                ("weight decay", now.weight_decay, decay),
                ("momentum", now.teacher_momentum, momentum),
                ("temperature", now.teacher_temperature, temperature),
            ] {
                assert!((found - published).abs() < 1e-8, "{what} of step {step}: {found} {published}");
            }
            assert_eq!(now.last_layer_frozen, frozen, "step {step}");
        }
    }
}
