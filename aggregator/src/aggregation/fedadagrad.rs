//! FedAdagrad (Reddi et al. 2021, Algorithm 2): `m <- beta1 * m + (1 - beta1) * mean; v <- v + mean^2;
//! w <- w + learning_rate * m / (sqrt(v) + tau)`, with `v` at `tau^2` first.

use common::plan::Adaptive;

use super::server::{Server, each2};

/// The model moves by a running mean of mean deltas, each value over its own spread.
pub(super) struct FedAdagrad(pub(super) Adaptive);

impl Server for FedAdagrad {
    fn first_states(&self) -> Vec<f32> {
        vec![0.0, (self.0.tau * self.0.tau) as f32]
    }

    fn step(&self, changes: &mut [f64], states: &mut [&mut [f32]]) {
        let Adaptive { learning_rate, beta1, tau, .. } = self.0;
        each2(changes, states, |mean, first, second| {
            let m = beta1 * f64::from(*first) + (1.0 - beta1) * mean;
            let v = f64::from(*second);
            let v = v + mean * mean;
            (*first, *second) = (m as f32, v as f32);
            learning_rate * m / (v.sqrt() + tau)
        });
    }
}
