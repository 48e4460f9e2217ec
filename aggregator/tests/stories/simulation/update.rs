//! Updates that tell on the sum. A site's delta has four values:
//!
//! | place | value | what its sum tells |
//! |---|---|---|
//! | 0 | `16^site * 2^-32` | a hexadecimal digit for each site: how often it was counted |
//! | 1 | 1 | how many updates were counted |
//! | 2 | `round / 2` | whether all were of this round |
//! | 3 | `variant / 4` | which of a site's updates of this round, if it made several |

use common::{Digest, NamedTensors, RoundNumber};

/// Most sites of a simulated cohort: digits of the sum.
pub(crate) const MOST_SITES: usize = 8;

/// A delta as it was made.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) values: [f32; 4],
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
}

impl Made {
    pub(crate) fn of(site: usize, round: RoundNumber, variant: u32) -> Self {
        let power = 2.0_f32.powi(4 * site as i32 - 32);
        let values = [power, 1.0, round.0 as f32 / 2.0, variant as f32 / 4.0];
        let bytes = tensors(&values).to_safetensors();
        Self { values, digest: Digest::of(&bytes), bytes }
    }
}

/// The weights of these values.
pub(crate) fn tensors(values: &[f32]) -> NamedTensors {
    let mut weights = NamedTensors::new();
    weights.insert("w", vec![values.len()], values.to_vec());
    weights
}

/// The values at the end of a file of [`tensors`], whatever is before them.
pub(crate) fn values_of(bytes: &[u8]) -> Vec<f32> {
    let (words, _) = bytes[bytes.len().saturating_sub(16)..].as_chunks::<4>();
    words.iter().map(|&word| f32::from_le_bytes(word)).collect()
}

/// How often each site is in a sum of place 0 that was divided by the share of each.
pub(crate) fn counted(sum: i64) -> [u8; MOST_SITES] {
    std::array::from_fn(|site| ((sum >> (4 * site)) & 15) as u8)
}
