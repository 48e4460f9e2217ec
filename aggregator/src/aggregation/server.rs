//! What a server optimizer is: the mean delta of a round in, the change of the model out, and a state kept between rounds.

/// A rule that turns the mean delta into the model's change, value by value. Pure: the same means and states give the same
/// bits, however they are cut into tiles.
pub(super) trait Server {
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

/// Two states, moved on value by value.
pub(super) fn each2(changes: &mut [f64], states: &mut [&mut [f32]], step: impl Fn(f64, &mut f32, &mut f32) -> f64) {
    let [first, second] = states else { unreachable!("the rule keeps two states") };
    let states = first.iter_mut().zip(second.iter_mut());
    changes.iter_mut().zip(states).for_each(|(change, (first, second))| *change = step(*change, first, second));
}
