//! What happens to bytes that were right, for the properties that share it.

use proptest::sample::Index;

/// Says a part again, and cuts off an end.
pub(crate) fn repeat_and_cut(bytes: &mut Vec<u8>, twice: Option<(Index, Index)>, cut: Option<Index>) {
    if let Some((from, to)) = twice {
        let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
        let again = bytes[from.min(to)..from.max(to)].to_vec();
        bytes.splice(to..to, again);
    }
    if let Some(cut) = cut {
        bytes.truncate(cut.index(bytes.len() + 1));
    }
}
