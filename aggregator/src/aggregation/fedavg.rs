//! FedAvg (McMahan et al. 2017): `w <- w + mean`.

use super::server::Server;

/// The model moves by the mean delta.
pub(super) struct FedAvg;

impl Server for FedAvg {
    fn first_states(&self) -> Vec<f32> {
        Vec::new()
    }

    fn step(&self, _: &mut [f64], _: &mut [&mut [f32]]) {}
}
