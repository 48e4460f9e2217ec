//! FedAdagrad (Reddi et al. 2021): `v <- v + mean^2`, and the step of [`adaptive`].

use common::plan::Adaptive;

use super::server::{Server, adaptive, first_moments};

/// The model moves by a running mean of mean deltas, each value over its own spread.
pub(super) struct FedAdagrad(pub(super) Adaptive);

impl Server for FedAdagrad {
    fn first_states(&self) -> Vec<f32> {
        first_moments(self.0)
    }

    fn step(&self, changes: &mut [f64], states: &mut [&mut [f32]]) {
        adaptive(self.0, changes, states, |v, square| v + square);
    }
}
