//! What an uploaded file must be before it counts: the announced bytes, of the plan's tensors, all values mergeable, and
//! over all tensors together no longer than `privacy.max_delta_norm` of the plan. Sites scale down to that bound; it is held
//! here as well, because a site that does not could move the model alone.
//!
//! One pass over the bytes, as they come or from a file. It knows the layout and the bounds; it does not know who sent them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use common::fixed_point::MAX_MAGNITUDE;
use common::ids::DigestBuilder;
use common::refusal::UpdateFault;
use common::{Digest, Encoding};

use crate::checksum::{Checksum, Checksummer};
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
    #[error("{1}")]
    Content(UpdateFault, String),
}

/// Bytes that are read at a time.
const TILE: usize = 256 << 10;
/// A site scales in 32-bit floats, which rounds each value by at most 2^-23 of itself; a norm is accepted up to this
/// fraction above the bound.
const NORM_SLACK: f64 = 1e-6;

/// Holds a file to its digest, its layout, the bound on its values and the bound on its L2 norm; its checksum.
pub fn inspect(file: &File, layout: &Arc<Layout>, announced: Digest, max_norm: f64) -> Result<Checksum, Fault> {
    let length = file.metadata()?.len();
    let (mut inspector, mut bytes, mut offset) = (Inspector::new(Arc::clone(layout)), Vec::new(), 0);
    while offset < length {
        bytes.resize(usize::try_from(length - offset).map_or(TILE, |left| left.min(TILE)), 0);
        file.read_exact_at(&mut bytes, offset)?;
        inspector.feed(&bytes);
        offset += bytes.len() as u64;
    }
    inspector.finish(announced, max_norm)
}

/// A look at a file of a layout whose bytes come piece by piece, from the first one on.
#[derive(Debug)]
pub struct Inspector {
    layout: Arc<Layout>,
    digest: DigestBuilder,
    checksum: Checksummer,
    /// Bytes that have come.
    count: u64,
    /// The first of the part that is not whole yet.
    waiting: Vec<u8>,
    /// What the next whole part is.
    next: Part,
    /// Blocks that follow it, each as its values.
    blocks: Blocks,
    /// Values that were looked at, the sum of their squares, and what is wrong with the first that is.
    values: u64,
    squares: f64,
    fault: Option<(UpdateFault, String)>,
}

/// Values of each block.
struct Blocks(Box<dyn Iterator<Item = usize> + Send>);

impl std::fmt::Debug for Blocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Blocks")
    }
}

#[derive(Clone, Copy, Debug)]
enum Part {
    Header,
    /// A block of so many values.
    Block(usize),
    /// Nothing may follow.
    End,
}

impl Inspector {
    /// Nothing of it has come.
    pub fn new(layout: Arc<Layout>) -> Self {
        let blocks = Blocks(Box::new(layout.blocks()));
        Self {
            layout,
            digest: DigestBuilder::default(),
            checksum: Checksummer::default(),
            count: 0,
            waiting: Vec::new(),
            next: Part::Header,
            blocks,
            values: 0,
            squares: 0.0,
            fault: None,
        }
    }

    /// Takes the next bytes in.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        self.digest.update(bytes);
        self.checksum.update(bytes);
        self.count += bytes.len() as u64;
        // After the first fault only the digest counts.
        while self.fault.is_none() && !bytes.is_empty() {
            let whole = self.next_bytes(bytes.len());
            if self.waiting.is_empty() && bytes.len() >= whole {
                let (part, rest) = bytes.split_at(whole);
                self.take(part);
                bytes = rest;
                continue;
            }
            let (more, rest) = bytes.split_at(bytes.len().min(whole - self.waiting.len()));
            self.waiting.extend_from_slice(more);
            bytes = rest;
            if self.waiting.len() == whole {
                let mut part = std::mem::take(&mut self.waiting);
                self.take(&part);
                part.clear();
                self.waiting = part;
            }
        }
    }

    /// Bytes of the next part, if so many are at hand: plain values make a block wherever they are cut.
    fn next_bytes(&self, at_hand: usize) -> usize {
        match self.next {
            Part::Header => self.layout.header().len(),
            Part::Block(values) if self.layout.encoding() == Encoding::F32 => {
                if self.waiting.is_empty() {
                    4 * values.min(at_hand / 4).max(1)
                } else {
                    4
                }
            }
            Part::Block(values) => self.layout.encoding().block_bytes(values),
            Part::End => usize::MAX,
        }
    }

    fn take(&mut self, part: &[u8]) {
        let block = match self.next {
            Part::Header => {
                if part != self.layout.header() {
                    self.fault = Some((self.layout.fault(part), self.layout.difference(part)));
                }
                0
            }
            Part::Block(values) => {
                let taken = if self.layout.encoding() == Encoding::F32 { part.len() / 4 } else { values };
                self.look(part, taken);
                values - taken
            }
            Part::End => 0,
        };
        self.next = match block {
            0 => self.blocks.0.next().map_or(Part::End, Part::Block),
            left => Part::Block(left),
        };
    }

    fn look(&mut self, part: &[u8], values: usize) {
        let (words, encoding) = (part.as_chunks().0, self.layout.encoding());
        let decoded = match encoding {
            Encoding::F32 => None,
            _ => {
                let mut decoded = Vec::with_capacity(values);
                if let Err(error) = encoding.decode_block(part, values, &mut decoded) {
                    let (tensor, position) = self.layout.place(self.values);
                    let why = format!("tensor {tensor}, from position {position} on: {error}");
                    self.fault = Some((UpdateFault::Block, why));
                    return;
                }
                Some(decoded)
            }
        };
        let (is_mergeable, squares) = match &decoded {
            None => looked_over(words, |word| f32::from_le_bytes(*word)),
            Some(decoded) => looked_over(decoded, |value| *value),
        };
        if !is_mergeable {
            let decoded = decoded.unwrap_or_else(|| words.iter().map(|word| f32::from_le_bytes(*word)).collect());
            self.fault = Some(out_of_bounds(&decoded, self.values, &self.layout));
        }
        self.squares += squares;
        self.values += values as u64;
    }

    /// Once all has come: whether it is what was announced, and no longer than the bound on its L2 norm; its checksum.
    ///
    /// Damage on the way comes first: bytes of another digest are told so, whatever else is wrong with them.
    pub fn finish(self, announced: Digest, max_norm: f64) -> Result<Checksum, Fault> {
        let found = self.digest.finish();
        if found != announced {
            return Err(Fault::Digest { found });
        }
        let (count, expected) = (self.count, self.layout.bytes());
        let miscounted = (count != expected)
            .then(|| (UpdateFault::Length, format!("it has {count} bytes, but the plan's tensors take {expected}")));
        match miscounted.or(self.fault).or_else(|| too_long(self.squares.sqrt(), max_norm)) {
            None => Ok(self.checksum.finish()),
            Some((fault, why)) => Err(Fault::Content(fault, why)),
        }
    }
}

/// NaN is not.
#[inline(always)]
fn can_be_merged(value: f32) -> bool {
    value.abs() <= MAX_MAGNITUDE
}

/// Whether all values can be merged, and the sum of their squares.
fn looked_over<T>(values: &[T], read: impl Fn(&T) -> f32 + Copy) -> (bool, f64) {
    let (largest, squares) = pulp::Arch::new().dispatch(Look { values, read });
    // What has no sign is ordered as its bits are, NaN above all.
    (largest <= MAX_MAGNITUDE.to_bits(), squares)
}

/// The bits of the largest magnitude and the sum of squares: without a branch and in lanes, so that it becomes vector
/// instructions. A type and no closure: only so is it sure to be compiled into the function that has them.
struct Look<'a, T, F> {
    values: &'a [T],
    read: F,
}

impl<T, F: Fn(&T) -> f32 + Copy> pulp::NullaryFnOnce for Look<'_, T, F> {
    type Output = (u32, f64);

    #[inline(always)]
    fn call(self) -> (u32, f64) {
        const LANES: usize = 16;
        let (groups, rest) = self.values.as_chunks::<LANES>();
        let (mut largest, mut squares) = ([0_u32; LANES], [0.0_f64; LANES]);
        for group in groups {
            for ((largest, square), value) in largest.iter_mut().zip(&mut squares).zip(group) {
                let value = (self.read)(value);
                *largest = (*largest).max(value.abs().to_bits());
                *square += f64::from(value) * f64::from(value);
            }
        }
        for ((largest, square), value) in largest.iter_mut().zip(&mut squares).zip(rest) {
            let value = (self.read)(value);
            *largest = (*largest).max(value.abs().to_bits());
            *square += f64::from(value) * f64::from(value);
        }
        (largest.into_iter().max().unwrap_or(0), squares.iter().sum())
    }
}

/// What is wrong with a tile of which some value cannot be merged.
fn out_of_bounds(values: &[f32], first: u64, layout: &Layout) -> (UpdateFault, String) {
    let position = values.iter().take_while(|&&value| can_be_merged(value)).count();
    let value = values[position];
    let (tensor, position) = layout.place(first + position as u64);
    let why = format!(
        "tensor {tensor} holds {value} at position {position}: only finite values between -{MAX_MAGNITUDE} and \
         {MAX_MAGNITUDE} are merged"
    );
    (if value.is_finite() { UpdateFault::Magnitude } else { UpdateFault::NotFinite }, why)
}

fn too_long(norm: f64, bound: f64) -> Option<(UpdateFault, String)> {
    (norm > bound * (1.0 + NORM_SLACK)).then(|| {
        let why = format!(
            "its L2 norm over all tensors is {norm}, above the {bound} of the plan's `privacy.max_delta_norm`: the site's \
             privacy pipeline scales down to that; update the site agent"
        );
        (UpdateFault::Norm, why)
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
        let layout = Arc::new(Layout::of(&update.signature()).unwrap());
        inspect(&file(&update.to_safetensors()), &layout, update.digest(), ANY).unwrap();
    }

    #[test]
    fn what_cannot_be_merged_is_named_with_tensor_and_position() {
        let good = weights(vec![0.0; 100_000]);
        let layout = Arc::new(Layout::of(&good.signature()).unwrap());
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 8.000_001, -9.0] {
            let mut values = vec![0.0; 100_000];
            values[99_999] = bad;
            let update = weights(values);
            let fault = inspect(&file(&update.to_safetensors()), &layout, update.digest(), ANY).unwrap_err();
            assert!(matches!(&fault, Fault::Content(_, told) if told.contains("tensor w")), "{fault}");
            assert!(fault.to_string().contains("position 99999"), "{fault}");
        }
        let short = weights(vec![0.0; 99]);
        let fault = inspect(&file(&short.to_safetensors()), &layout, short.digest(), ANY).unwrap_err();
        assert!(matches!(fault, Fault::Content(UpdateFault::Length, _)), "{fault}");
    }

    #[test]
    fn a_delta_longer_than_the_plans_bound_is_refused_and_one_at_the_bound_passes() {
        // Several tiles, and two tensors.
        let update = weights(vec![0.125; 200_000]);
        let layout = Arc::new(Layout::of(&update.signature()).unwrap());
        let (file, norm) = (file(&update.to_safetensors()), update.l2_norm());
        for bound in [norm, norm * 1.001, norm * (1.0 - 0.5 * NORM_SLACK)] {
            inspect(&file, &layout, update.digest(), bound).unwrap();
        }
        let fault = inspect(&file, &layout, update.digest(), norm * 0.999).unwrap_err();
        assert!(matches!(&fault, Fault::Content(_, told) if told.contains("privacy.max_delta_norm")), "{fault}");
    }

    #[test]
    fn in_every_encoding_sound_updates_pass_and_what_cannot_be_merged_is_named() {
        let good = weights((0..70_000).map(|value| value as f32 / 10_000.0).collect());
        let mut bad = good.clone();
        bad.insert("w", vec![70_000], vec![8.5; 70_000]);
        for encoding in [Encoding::Bf16, Encoding::F16, Encoding::Int8, Encoding::TopK(0.1)] {
            let layout = Arc::new(Layout::encoded(&good.signature(), encoding).unwrap());
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
            assert!(matches!(&fault, Fault::Content(_, told) if told.contains("tensor w")), "{encoding:?}: {fault}");
        }
    }

    #[test]
    fn however_the_bytes_are_cut_what_is_found_is_the_same() {
        let good = weights((0..70_000).map(|value| value as f32 / 10_000.0).collect());
        let mut bad = good.clone();
        bad.iter_mut().for_each(|(name, values)| {
            if name == "w" {
                values[69_000] = -8.5
            }
        });
        for encoding in [Encoding::F32, Encoding::F16, Encoding::Int8, Encoding::TopK(0.1)] {
            let layout = Arc::new(Layout::encoded(&good.signature(), encoding).unwrap());
            for (tensors, passes) in [(&good, true), (&bad, false)] {
                let bytes = encoding.encode(tensors);
                let whole = inspect(&file(&bytes), &layout, Digest::of(&bytes), ANY);
                for cut in [1, 3, 4097, 65_536, 300_000] {
                    let mut inspector = Inspector::new(Arc::clone(&layout));
                    bytes.chunks(cut).for_each(|piece| inspector.feed(piece));
                    match (inspector.finish(Digest::of(&bytes), ANY), &whole) {
                        (Ok(one), Ok(other)) => assert!(one == *other && passes, "{encoding:?} by {cut}"),
                        (Err(one), Err(other)) => {
                            assert_eq!(one.to_string(), other.to_string(), "{encoding:?} by {cut}")
                        }
                        (one, other) => panic!("{encoding:?} by {cut}: {one:?}, but whole {other:?}"),
                    }
                }
                assert_eq!(whole.is_ok(), passes, "{encoding:?}");
            }
            let bytes = [encoding.encode(&good), vec![0; 9]].concat();
            let mut longer = Inspector::new(Arc::clone(&layout));
            bytes.chunks(5000).for_each(|piece| longer.feed(piece));
            let fault = longer.finish(Digest::of(&bytes), ANY).unwrap_err().to_string();
            assert!(fault.contains("bytes, but the plan's tensors take"), "{fault}");
        }
    }

    #[test]
    fn one_flipped_bit_anywhere_is_other_bytes_than_announced() {
        let update = weights(vec![0.25; 40]);
        let layout = Arc::new(Layout::of(&update.signature()).unwrap());
        let bytes = update.to_safetensors();
        for place in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[place] ^= 1;
            let fault = inspect(&file(&flipped), &layout, update.digest(), ANY).unwrap_err();
            assert!(matches!(fault, Fault::Digest { .. }), "byte {place}: {fault}");
        }
    }
}
