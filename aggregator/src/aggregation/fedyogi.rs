//! FedYogi (Reddi et al. 2021): `v <- v - (1 - beta2) * mean^2 * sign(v - mean^2)`, and the step of [`adaptive`].

use common::plan::Adaptive;

use super::server::{Server, adaptive, first_moments};

/// The model moves by a running mean of mean deltas, each value over its own spread.
pub(super) struct FedYogi(pub(super) Adaptive);

impl Server for FedYogi {
    fn first_states(&self) -> Vec<f32> {
        first_moments(self.0)
    }

    fn step(&self, changes: &mut [f64], states: &mut [&mut [f32]]) {
        let Adaptive { beta2, .. } = self.0;
        adaptive(self.0, changes, states, |v, square| v - (1.0 - beta2) * square * sign(v - square));
    }
}

/// Of 0 it is 0, unlike the standard library's.
fn sign(value: f64) -> f64 {
    if value == 0.0 { 0.0 } else { value.signum() }
}
