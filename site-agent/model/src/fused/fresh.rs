//! New values, cleared by the threads that fill them: memory that is fresh from the system costs as much as it holds, and one
//! thread alone would pay for all.

use std::mem::MaybeUninit;

use rayon::prelude::*;

/// `count` values, `part` of them at a time, each part beside an item of `beside`. `fill` is given zeros.
///
/// # Panics
/// If there are not as many items as parts.
pub(super) fn made<T: Send>(
    count: usize,
    part: usize,
    beside: impl IndexedParallelIterator<Item = T>,
    fill: impl Fn(&mut [f32], T) + Sync,
) -> Vec<f32> {
    begun(|room| room.fill(MaybeUninit::new(0.0)), count, part, beside, fill)
}

/// The same; `fill` is given rows that are `row`, the last perhaps not whole.
pub(super) fn made_of<T: Send>(
    row: &[f32],
    count: usize,
    part: usize,
    beside: impl IndexedParallelIterator<Item = T>,
    fill: impl Fn(&mut [f32], T) + Sync,
) -> Vec<f32> {
    let rows = |room: &mut [MaybeUninit<f32>]| {
        for room in room.chunks_mut(row.len()) {
            room.iter_mut().zip(row).for_each(|(room, value)| *room = MaybeUninit::new(*value));
        }
    };
    begun(rows, count, part, beside, fill)
}

/// The same; a part is what `begin` has written, which is all of it.
fn begun<T: Send>(
    begin: impl Fn(&mut [MaybeUninit<f32>]) + Sync,
    count: usize,
    part: usize,
    beside: impl IndexedParallelIterator<Item = T>,
    fill: impl Fn(&mut [f32], T) + Sync,
) -> Vec<f32> {
    assert_eq!(beside.len(), count.div_ceil(part), "an item for each part");
    let mut values = Vec::with_capacity(count);
    let room = &mut values.spare_capacity_mut()[..count];
    room.par_chunks_mut(part).zip(beside).for_each(|(room, item)| {
        begin(room);
        #[expect(unsafe_code, reason = "both that begin a part write all of it: this module calls it with no others")]
        fill(unsafe { std::slice::from_raw_parts_mut(room.as_mut_ptr().cast(), room.len()) }, item);
    });
    #[expect(unsafe_code, reason = "there are as many items as parts, so that every part was written")]
    unsafe {
        values.set_len(count);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_filled_beside_its_item_and_what_is_left_is_zero() {
        for (count, part) in [(1_usize, 1_usize), (10, 3), (4096, 64), (7, 100)] {
            let items = count.div_ceil(part);
            let values = made(count, part, (0..items).into_par_iter(), |part, item| part[0] = item as f32 + 1.0);
            let expected: Vec<_> =
                (0..count).map(|place| if place % part == 0 { (place / part + 1) as f32 } else { 0.0 }).collect();
            assert_eq!(values, expected, "{count} by {part}");
        }
    }

    #[test]
    fn what_is_filled_begins_as_rows_that_were_given() {
        let values = made_of(&[1.0, 2.0], 10, 4, (0..3).into_par_iter(), |part, item| part[0] += item as f32);
        assert_eq!(values, [1.0, 2.0, 1.0, 2.0, 2.0, 2.0, 1.0, 2.0, 3.0, 2.0]);
    }

    #[test]
    #[should_panic(expected = "an item for each part")]
    fn parts_without_an_item_are_not_left_unwritten() {
        made(10, 3, [0; 3].into_par_iter(), |_, _| ());
    }
}
