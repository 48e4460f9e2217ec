//! Sums of floats that depend on where values are, and not on how they are cut into tiles: value `i` goes to lane `i % 8`,
//! each lane is added up from the first value to the last, and in the end the lanes. The compiler adds eight at once.

const LANES: usize = 8;

/// The dot product of two lists of values, which come piece by piece.
#[derive(Clone, Debug, Default)]
pub(super) struct Dot([f64; LANES]);

impl Dot {
    /// Takes in the next piece of both; it begins with value `first` of all.
    pub(super) fn add<A: Copy + Into<f64>, B: Copy + Into<f64>>(&mut self, first: u64, left: &[A], right: &[B]) {
        let lane = (first % LANES as u64) as usize;
        // Up to the first lane, then all lanes at once, then what is left over.
        let head = ((LANES - lane) % LANES).min(left.len());
        let ((head_left, left), (head_right, right)) = (left.split_at(head), right.split_at(head));
        add(&mut self.0[lane..], head_left, head_right);
        let ((left, rest_left), (right, rest_right)) = (left.as_chunks::<LANES>(), right.as_chunks::<LANES>());
        // Products and sums are each rounded, on the widest vectors as on none: the bits are the same.
        self.0 = pulp::Arch::new().dispatch(Added { to: self.0, left, right });
        add(&mut self.0, rest_left, rest_right);
    }

    /// What it has come to.
    pub(super) fn sum(&self) -> f64 {
        self.0.iter().sum()
    }
}

/// Sums with groups of products added. A type and no closure: only so is it sure to be compiled into the function that has
/// vector instructions.
struct Added<'a, A, B> {
    to: [f64; LANES],
    left: &'a [[A; LANES]],
    right: &'a [[B; LANES]],
}

impl<A: Copy + Into<f64>, B: Copy + Into<f64>> pulp::NullaryFnOnce for Added<'_, A, B> {
    type Output = [f64; LANES];

    #[inline(always)]
    fn call(self) -> [f64; LANES] {
        let mut sums = self.to;
        for (left, right) in self.left.iter().zip(self.right) {
            add(&mut sums, left, right);
        }
        sums
    }
}

#[inline(always)]
fn add<A: Copy + Into<f64>, B: Copy + Into<f64>>(sums: &mut [f64], left: &[A], right: &[B]) {
    for ((sum, &left), &right) in sums.iter_mut().zip(left).zip(right) {
        *sum += left.into() * right.into();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_do_not_show_in_the_sum(values in prop::collection::vec(-1.0_f32..1.0, 0..100), cuts in prop::collection::vec(0_usize..100, 0..6)) {
            let squares: Vec<f64> = values.iter().map(|&value| f64::from(value) * 0.1).collect();
            let mut whole = Dot::default();
            whole.add(0, &values, &squares);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(values.len())).chain([0, values.len()]).collect();
            cuts.sort_unstable();
            let mut pieces = Dot::default();
            cuts.windows(2).for_each(|cut| pieces.add(cut[0] as u64, &values[cut[0]..cut[1]], &squares[cut[0]..cut[1]]));
            prop_assert_eq!(pieces.sum().to_bits(), whole.sum().to_bits());
            let plain: f64 = values.iter().zip(&squares).map(|(&left, right)| f64::from(left) * right).sum();
            prop_assert!((whole.sum() - plain).abs() < 1e-12);
        }
    }
}
