//! Arithmetic on the widest vectors that a processor has.

/// Runs `work`, compiled for the widest vector instructions of this processor. Only what is inlined profits: the closure and
/// what it calls must be marked so.
///
/// Rust neither reorders nor joins operations on floats, so that the bits are the same on every processor.
#[inline]
pub fn wide<R, F: FnMut() -> R>(work: F) -> R {
    pulp::Arch::new().dispatch(Work(work))
}

/// A closure that is called where it is, by reference: as `FnOnce` it would be called through a function of its own, which the
/// compiler may leave without vector instructions.
struct Work<F>(F);

impl<R, F: FnMut() -> R> pulp::NullaryFnOnce for Work<F> {
    type Output = R;

    #[inline(always)]
    fn call(mut self) -> R {
        (self.0)()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_worked_out_on_wide_vectors_comes_back() {
        let values: Vec<f32> = (0..100).map(|value| value as f32).collect();
        let sum = wide(
            #[inline(always)]
            || values.iter().sum::<f32>(),
        );
        assert_eq!(sum, 4950.0);
    }
}
