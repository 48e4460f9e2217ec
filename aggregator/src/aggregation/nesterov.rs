//! Nesterov's momentum as DiLoCo has it outside (Douillard et al. 2023; PyTorch's SGD):
//! `v <- momentum * v + mean; w <- w + learning_rate * (mean + momentum * v)`.

use super::server::{Server, each};

/// The model moves by a look ahead along a running sum of mean deltas.
pub(super) struct Nesterov {
    pub(super) learning_rate: f64,
    pub(super) momentum: f64,
}

impl Server for Nesterov {
    fn first_states(&self) -> Vec<f32> {
        vec![0.0]
    }

    fn step(&self, changes: &mut [f64], states: &mut [&mut [f32]]) {
        each(changes, states, |mean, velocity| {
            let v = self.momentum * f64::from(*velocity) + mean;
            *velocity = v as f32;
            self.learning_rate * (mean + self.momentum * v)
        });
    }
}
