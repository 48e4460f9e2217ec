//! What a server optimizer is: the mean delta of a round in, the change of the model out, and a state kept between rounds.

use common::plan::Adaptive;

/// A rule that turns the mean delta into the model's change, value by value. Pure: the same means and states give the same
/// bits, however they are cut into tiles.
pub(super) trait Server: Sync {
    /// What each state's values are before the first round; empty if the rule keeps none.
    fn first_states(&self) -> Vec<f32>;

    /// Turns `changes`, which come in as the mean delta, into what is added to the model, and moves the states on.
    fn step(&self, changes: &mut [f64], states: &mut [&mut [f32]]);
}

/// One state, moved on value by value.
pub(super) fn each(changes: &mut [f64], states: &mut [&mut [f32]], step: impl Fn(f64, &mut f32) -> f64) {
    let [state] = states else { unreachable!("the rule keeps one state") };
    changes.iter_mut().zip(state.iter_mut()).for_each(|(change, state)| *change = step(*change, state));
}

/// What the adaptive rules of Reddi et al. 2021 (Algorithm 2) share: all but how the second moment `v` goes on from the
/// square of the mean delta. `m <- beta1 * m + (1 - beta1) * mean; w <- w + learning_rate * m / (sqrt(v) + tau)`.
pub(super) fn adaptive(
    Adaptive { learning_rate, beta1, tau, .. }: Adaptive,
    changes: &mut [f64],
    states: &mut [&mut [f32]],
    second_moment: impl Fn(f64, f64) -> f64,
) {
    let [first, second] = states else { unreachable!("the rule keeps two states") };
    for (change, (first, second)) in changes.iter_mut().zip(first.iter_mut().zip(second.iter_mut())) {
        let mean = *change;
        let m = beta1 * f64::from(*first) + (1.0 - beta1) * mean;
        let v = second_moment(f64::from(*second), mean * mean);
        (*first, *second) = (m as f32, v as f32);
        *change = learning_rate * m / (v.sqrt() + tau);
    }
}

/// Their states before the first round: `m` at 0, `v` at `tau^2`.
pub(super) fn first_moments(Adaptive { tau, .. }: Adaptive) -> Vec<f32> {
    vec![0.0, (tau * tau) as f32]
}
