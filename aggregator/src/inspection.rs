//! What an uploaded file must be before it counts: the announced bytes, of the plan's tensors, all values mergeable, and
//! over all tensors together no longer than `privacy.max_delta_norm` of the plan. Sites scale down to that bound; it is held
//! here as well, because a site that does not could move the model alone.
//!
//! One pass over the file, a tile at a time. It knows the layout and the bounds; it does not know who sent it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use common::Digest;
use common::fixed_point::MAX_MAGNITUDE;
use common::ids::DigestBuilder;

use crate::layout::Layout;

/// Why a file is refused.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The disk said no.
    #[error("the file cannot be read: {0}")]
    Io(#[from] io::Error),
    /// Other bytes than were announced.
    #[error("the file has digest {found}")]
    Digest {
        /// What its bytes have.
        found: Digest,
    },
    /// The announced bytes, but not an update of this plan.
    #[error("{0}")]
    Content(String),
}

/// Bytes that are read at a time; a multiple of a value's.
const TILE: usize = 256 << 10;
/// A site scales in 32-bit floats, which rounds each value by at most 2^-23 of itself; a norm is accepted up to this
/// fraction above the bound.
const NORM_SLACK: f64 = 1e-6;

/// Holds a file to its digest, its layout, the bound on its values and the bound on its L2 norm.
///
/// Damage on the way comes first: a file with another digest is told so, whatever else is wrong with it.
pub fn inspect(file: &File, layout: &Layout, announced: Digest, max_norm: f64) -> Result<(), Fault> {
    let length = file.metadata()?.len();
    let header_bytes = layout.header().len();
    let mut digest = DigestBuilder::default();
    let mut content = None;
    let mut squares = 0.0;
    if length == layout.bytes() {
        let mut header = vec![0; header_bytes];
        file.read_exact_at(&mut header, 0)?;
        digest.update(&header);
        if header != layout.header() {
            content = Some(layout.difference(&header));
        }
    } else {
        content = Some(format!("it has {length} bytes, but the plan's tensors take {}", layout.bytes()));
    }
    let mut offset = if length == layout.bytes() { header_bytes as u64 } else { 0 };
    let mut tile = vec![0; TILE];
    while offset < length {
        let read = usize::try_from(length - offset).map_or(TILE, |left| left.min(TILE));
        file.read_exact_at(&mut tile[..read], offset)?;
        digest.update(&tile[..read]);
        if content.is_none() {
            let (words, _) = tile[..read].as_chunks::<4>();
            let (is_mergeable, more) = looked_over(words);
            squares += more;
            if !is_mergeable {
                content = Some(out_of_bounds(words, (offset - header_bytes as u64) / 4, layout));
            }
        }
        offset += read as u64;
    }
    let found = digest.finish();
    match content.or_else(|| too_long(squares.sqrt(), max_norm)) {
        _ if found != announced => Err(Fault::Digest { found }),
        Some(content) => Err(Fault::Content(content)),
        None => Ok(()),
    }
}

/// NaN is not.
#[inline(always)]
fn can_be_merged(word: [u8; 4]) -> bool {
    f32::from_le_bytes(word).abs() <= MAX_MAGNITUDE
}

/// Whether all values can be merged, and the sum of their squares: without a branch and in lanes, so that it becomes vector
/// instructions.
fn looked_over(words: &[[u8; 4]]) -> (bool, f64) {
    const LANES: usize = 16;
    let (groups, rest) = words.as_chunks::<LANES>();
    pulp::Arch::new().dispatch(|| {
        let (mut outside, mut squares) = ([0_u64; LANES], [0.0_f64; LANES]);
        let mut look = |words: &[[u8; 4]]| {
            for ((outside, square), &word) in outside.iter_mut().zip(&mut squares).zip(words) {
                *outside |= u64::from(!can_be_merged(word));
                *square += f64::from(f32::from_le_bytes(word)).powi(2);
            }
        };
        groups.iter().for_each(|group| look(group));
        look(rest);
        (outside.iter().all(|&outside| outside == 0), squares.iter().sum())
    })
}

/// What is wrong with a tile of which some value cannot be merged.
fn out_of_bounds(words: &[[u8; 4]], first: u64, layout: &Layout) -> String {
    let position = words.iter().position(|&word| !can_be_merged(word)).unwrap_or_default();
    let value = f32::from_le_bytes(words[position]);
    let (tensor, position) = layout.place(first + position as u64);
    format!(
        "tensor {tensor} holds {value} at position {position}: only finite values between -{MAX_MAGNITUDE} and \
         {MAX_MAGNITUDE} are merged"
    )
}

fn too_long(norm: f64, bound: f64) -> Option<String> {
    (norm > bound * (1.0 + NORM_SLACK)).then(|| {
        format!(
            "its L2 norm over all tensors is {norm}, above the {bound} of the plan's `privacy.max_delta_norm`: the site's \
             privacy pipeline scales down to that; update the site agent"
        )
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use common::NamedTensors;

    use super::*;

    const ANY: f64 = f64::MAX;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn weights(values: Vec<f32>) -> NamedTensors {
        let mut weights = NamedTensors::new();
        weights.insert("a", vec![2], vec![0.5, -0.5]);
        weights.insert("w", vec![values.len()], values);
        weights
    }

    #[test]
    fn the_announced_bytes_of_the_agreed_tensors_pass() {
        let update = weights((0..200_000).map(|value| value as f32 / 100_000.0).collect());
        let layout = Layout::of(&update.signature()).unwrap();
        inspect(&file(&update.to_safetensors()), &layout, update.digest(), ANY).unwrap();
    }

    #[test]
    fn what_cannot_be_merged_is_named_with_tensor_and_position() {
        let good = weights(vec![0.0; 100_000]);
        let layout = Layout::of(&good.signature()).unwrap();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 8.000_001, -9.0] {
            let mut values = vec![0.0; 100_000];
            values[99_999] = bad;
            let update = weights(values);
            let fault = inspect(&file(&update.to_safetensors()), &layout, update.digest(), ANY).unwrap_err();
            assert!(matches!(&fault, Fault::Content(told) if told.contains("tensor w")), "{fault}");
            assert!(fault.to_string().contains("position 99999"), "{fault}");
        }
        let short = weights(vec![0.0; 99]);
        let fault = inspect(&file(&short.to_safetensors()), &layout, short.digest(), ANY).unwrap_err();
        assert!(matches!(fault, Fault::Content(_)), "{fault}");
    }

    #[test]
    fn a_delta_longer_than_the_plans_bound_is_refused_and_one_at_the_bound_passes() {
        // Several tiles, and two tensors.
        let update = weights(vec![0.125; 200_000]);
        let layout = Layout::of(&update.signature()).unwrap();
        let (file, norm) = (file(&update.to_safetensors()), update.l2_norm());
        for bound in [norm, norm * 1.001, norm * (1.0 - 0.5 * NORM_SLACK)] {
            inspect(&file, &layout, update.digest(), bound).unwrap();
        }
        let fault = inspect(&file, &layout, update.digest(), norm * 0.999).unwrap_err();
        assert!(matches!(&fault, Fault::Content(told) if told.contains("privacy.max_delta_norm")), "{fault}");
    }

    #[test]
    fn one_flipped_bit_anywhere_is_other_bytes_than_announced() {
        let update = weights(vec![0.25; 40]);
        let layout = Layout::of(&update.signature()).unwrap();
        let bytes = update.to_safetensors();
        for place in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[place] ^= 1;
            let fault = inspect(&file(&flipped), &layout, update.digest(), ANY).unwrap_err();
            assert!(matches!(fault, Fault::Digest { .. }), "byte {place}: {fault}");
        }
    }
}
