//! So many at a time for each: no single holder takes what is for all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts what each holder has, up to a bound.
#[derive(Debug)]
pub struct Quota<K> {
    each: usize,
    held: Arc<Mutex<BTreeMap<K, usize>>>,
}

/// One of a holder's places; dropping it gives it back.
#[derive(Debug)]
pub struct Held<K: Ord> {
    holder: K,
    held: Arc<Mutex<BTreeMap<K, usize>>>,
}

impl<K: Ord + Clone> Quota<K> {
    /// So many for each holder.
    pub fn new(each: usize) -> Self {
        Self { each, held: Arc::default() }
    }

    /// One more for this holder, unless it has all of its own.
    pub fn take(&self, holder: K) -> Option<Held<K>> {
        let mut held = lock(&self.held);
        let count = held.entry(holder.clone()).or_default();
        if *count >= self.each {
            return None;
        }
        *count += 1;
        Some(Held { holder, held: Arc::clone(&self.held) })
    }
}

impl<K> Clone for Quota<K> {
    fn clone(&self) -> Self {
        Self { each: self.each, held: Arc::clone(&self.held) }
    }
}

impl<K: Ord> Drop for Held<K> {
    fn drop(&mut self) {
        let mut held = lock(&self.held);
        if let Some(count) = held.get_mut(&self.holder) {
            *count -= 1;
            // Holders come and go: who has nothing takes no memory.
            if *count == 0 {
                held.remove(&self.holder);
            }
        }
    }
}

fn lock<K>(held: &Mutex<BTreeMap<K, usize>>) -> MutexGuard<'_, BTreeMap<K, usize>> {
    // A count is changed by one step that cannot panic.
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_that_has_all_of_its_own_keeps_nobody_else_out_and_leaves_no_trace() {
        let quota = Quota::new(2);
        let (first, second) = (quota.take("a").unwrap(), quota.take("a").unwrap());
        assert!(quota.take("a").is_none());
        let other = quota.take("b").unwrap();
        drop(first);
        let third = quota.clone().take("a").unwrap();
        drop((second, third, other));
        assert!(lock(&quota.held).is_empty());
    }
}
