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

/// Bytes that are read at a time where they are not values.
const TILE: usize = 256 << 10;
/// A site scales in 32-bit floats, which rounds each value by at most 2^-23 of itself; a norm is accepted up to this
/// fraction above the bound.
const NORM_SLACK: f64 = 1e-6;

/// Holds a file to its digest, its layout, the bound on its values and the bound on its L2 norm.
///
/// Damage on the way comes first: a file with another digest is told so, whatever else is wrong with it.
pub fn inspect(file: &File, layout: &Layout, announced: Digest, max_norm: f64) -> Result<(), Fault> {
    let length = file.metadata()?.len();
    let mut read = Read { file, offset: 0, digest: DigestBuilder::default(), bytes: Vec::new() };
    let checked = if length == layout.bytes() {
        content(&mut read, layout)?
    } else {
        Err(format!("it has {length} bytes, but the plan's tensors take {}", layout.bytes()))
    };
    // What is wrong with a file is told only of the bytes that were announced.
    while read.offset < length {
        read.next(usize::try_from(length - read.offset).map_or(TILE, |left| left.min(TILE)))?;
    }
    let found = read.digest.finish();
    if found != announced {
        return Err(Fault::Digest { found });
    }
    match checked {
        Ok(norm) => too_long(norm, max_norm).map_or(Ok(()), |why| Err(Fault::Content(why))),
        Err(why) => Err(Fault::Content(why)),
    }
}

/// A file, read from its first byte on; every byte counts for the digest.
struct Read<'a> {
    file: &'a File,
    offset: u64,
    digest: DigestBuilder,
    bytes: Vec<u8>,
}

impl Read<'_> {
    fn next(&mut self, bytes: usize) -> io::Result<&[u8]> {
        self.bytes.resize(bytes, 0);
        self.file.read_exact_at(&mut self.bytes, self.offset)?;
        self.digest.update(&self.bytes);
        self.offset += bytes as u64;
        Ok(&self.bytes)
    }
}

/// The L2 norm of a file's values, or why they cannot be merged.
fn content(read: &mut Read<'_>, layout: &Layout) -> io::Result<Result<f64, String>> {
    let header = read.next(layout.header().len())?;
    if header != layout.header() {
        return Ok(Err(layout.difference(header)));
    }
    let (encoding, mut squares, mut first) = (layout.encoding(), 0.0, 0_u64);
    let mut values = Vec::new();
    for count in layout.blocks() {
        values.clear();
        let block = read.next(encoding.block_bytes(count))?;
        if let Err(error) = encoding.decode_block(block, count, &mut values) {
            let (tensor, position) = layout.place(first);
            return Ok(Err(format!("tensor {tensor}, from position {position} on: {error}")));
        }
        let (is_mergeable, more) = looked_over(&values);
        if !is_mergeable {
            return Ok(Err(out_of_bounds(&values, first, layout)));
        }
        squares += more;
        first += count as u64;
    }
    Ok(Ok(squares.sqrt()))
}

/// NaN is not.
#[inline(always)]
fn can_be_merged(value: f32) -> bool {
    value.abs() <= MAX_MAGNITUDE
}

/// Whether all values can be merged, and the sum of their squares: without a branch and in lanes, so that it becomes vector
/// instructions.
fn looked_over(values: &[f32]) -> (bool, f64) {
    const LANES: usize = 16;
    let (groups, rest) = values.as_chunks::<LANES>();
    pulp::Arch::new().dispatch(|| {
        let (mut outside, mut squares) = ([0_u64; LANES], [0.0_f64; LANES]);
        let mut look = |values: &[f32]| {
            for ((outside, square), &value) in outside.iter_mut().zip(&mut squares).zip(values) {
                *outside |= u64::from(!can_be_merged(value));
                *square += f64::from(value).powi(2);
            }
        };
        groups.iter().for_each(|group| look(group));
        look(rest);
        (outside.iter().all(|&outside| outside == 0), squares.iter().sum())
    })
}

/// What is wrong with a tile of which some value cannot be merged.
fn out_of_bounds(values: &[f32], first: u64, layout: &Layout) -> String {
    let position = values.iter().take_while(|&&value| can_be_merged(value)).count();
    let value = values[position];
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

    use common::{Encoding, NamedTensors};

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
    fn in_every_encoding_sound_updates_pass_and_what_cannot_be_merged_is_named() {
        let good = weights((0..70_000).map(|value| value as f32 / 10_000.0).collect());
        let mut bad = good.clone();
        bad.insert("w", vec![70_000], vec![8.5; 70_000]);
        for encoding in [Encoding::Bf16, Encoding::F16, Encoding::Int8, Encoding::TopK(0.1)] {
            let layout = Layout::encoded(&good.signature(), encoding).unwrap();
            let check = |tensors: &NamedTensors| {
                let bytes = encoding.encode(tensors);
                assert_eq!(bytes.len() as u64, layout.bytes());
                inspect(&file(&bytes), &layout, Digest::of(&bytes), ANY)
            };
            check(&good).unwrap();
            let fault = check(&bad).unwrap_err();
            assert!(fault.to_string().contains("tensor w holds 8.5"), "{encoding:?}: {fault}");
            let mut torn = encoding.encode(&good);
            let place = layout.header().len() + encoding.tensor_bytes(2);
            torn[place..place + 4].copy_from_slice(&[0xff; 4]);
            let fault = inspect(&file(&torn), &layout, Digest::of(&torn), ANY).unwrap_err();
            assert!(matches!(&fault, Fault::Content(told) if told.contains("tensor w")), "{encoding:?}: {fault}");
        }
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
