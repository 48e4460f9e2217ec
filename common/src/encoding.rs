//! How an update's values are written: as they are, or smaller.
//!
//! An encoding is deterministic and knows its error. It works block by block, each tensor cut from its first value on, so that
//! a reader needs one block in memory and any party can tell the length of a file from its signature:
//!
//! | encoding | a block of values | bytes | error of a value |
//! |---|---|---|---|
//! | `f32` | any | 4 each | none |
//! | `bf16` | any | 2 each | at most 2^-8 of it |
//! | `f16` | any | 2 each | at most 2^-11 of it, or 2^-25 |
//! | `int8` | 256 | a scale, and 1 each | at most half a scale: the block's largest magnitude over 254 |
//! | `top-k` | 65536 | 6 for each that is kept | what is not kept; the site adds it to its next update (Stich et al. 2018) |
//!
//! A file is a safetensors header and the blocks in the order of the tensors' names. `f32`, `bf16` and `f16` are tensors of these
//! types; the others are bytes, and the header's metadata says of which encoding.

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use crate::weights::{NamedTensors, Signature};

/// How the values of an update are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Encoding {
    /// As they are.
    #[default]
    F32,
    /// Rounded to the nearest bfloat16, ties to even.
    Bf16,
    /// Rounded to the nearest half-precision value, ties to even.
    F16,
    /// Multiples of a scale a block, from -127 to 127 (Dettmers et al. 2022).
    Int8,
    /// The largest magnitudes alone, this fraction of each block, rounded up; of equal ones those that come first.
    TopK(f64),
}

/// Bytes that are not blocks of an encoding.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EncodingError {
    /// Too few or too many bytes.
    #[error("{found} bytes, but {expected} values take {bytes} in this encoding")]
    Length {
        /// Bytes found.
        found: usize,
        /// Values expected.
        expected: usize,
        /// What they take.
        bytes: usize,
    },
    /// A block that no encoder writes.
    #[error("a block that no encoder writes: {0}")]
    Block(&'static str),
}

/// Values of a block that is written value by value: any number would do.
const PLAIN: usize = 1 << 14;
/// Values of a block of scaled bytes.
const SCALED: usize = 256;
/// Values of a block of which the largest are kept: their places fit into 16 bits.
const SPARSE: usize = 1 << 16;

impl Encoding {
    /// Values of a block; the last one of a tensor may have fewer.
    pub fn block_values(self) -> usize {
        match self {
            Self::F32 | Self::Bf16 | Self::F16 => PLAIN,
            Self::Int8 => SCALED,
            Self::TopK(_) => SPARSE,
        }
    }

    /// Bytes of a block of so many values.
    pub fn block_bytes(self, values: usize) -> usize {
        match self {
            Self::F32 => 4 * values,
            Self::Bf16 | Self::F16 => 2 * values,
            Self::Int8 => 4 + values,
            Self::TopK(fraction) => 6 * kept(fraction, values),
        }
    }

    /// Bytes of a tensor of so many values.
    pub fn tensor_bytes(self, values: usize) -> usize {
        let (block, rest) = (self.block_values(), values % self.block_values());
        let last = if rest > 0 { self.block_bytes(rest) } else { 0 };
        values / block * self.block_bytes(block) + last
    }

    /// Bytes of every file of a signature.
    pub fn file_bytes(self, signature: &Signature) -> u64 {
        let values = signature.iter().map(|(_, shape)| self.tensor_bytes(shape.iter().product()) as u64);
        self.header(signature).len() as u64 + values.sum::<u64>()
    }

    /// Whether what an update loses is to be added to the next one.
    pub fn has_residual(self) -> bool {
        matches!(self, Self::TopK(_))
    }

    /// The name of the type in a header, and bytes of a value of that type.
    fn dtype(self) -> (&'static str, usize) {
        match self {
            Self::F32 => ("F32", 4),
            Self::Bf16 => ("BF16", 2),
            Self::F16 => ("F16", 2),
            Self::Int8 | Self::TopK(_) => ("U8", 1),
        }
    }

    /// How every file of a signature begins: the header's length and its text, as the safetensors format has them.
    pub fn header(self, signature: &Signature) -> Vec<u8> {
        let (dtype, size) = self.dtype();
        let mut entries = Vec::with_capacity(signature.len() + 1);
        if let Self::Int8 | Self::TopK(_) = self {
            let told = if self == Self::Int8 { "int8" } else { "top-k" };
            entries.push(format!("\"__metadata__\":{{\"encoding\":\"{told}\"}}"));
        }
        let mut begin = 0_u64;
        for (name, shape) in signature.iter() {
            let bytes = self.tensor_bytes(shape.iter().product()) as u64;
            let axes: Vec<_> = match size {
                1 => vec![bytes.to_string()],
                _ => shape.iter().map(usize::to_string).collect(),
            };
            let end = begin + bytes;
            // Names are of letters, digits, '.', '_' and '-': nothing to escape.
            entries.push(format!(
                "\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":[{}],\"data_offsets\":[{begin},{end}]}}",
                axes.join(",")
            ));
            begin = end;
        }
        let mut text = format!("{{{}}}", entries.join(",")).into_bytes();
        text.resize(text.len().next_multiple_of(8), b' ');
        let mut header = (text.len() as u64).to_le_bytes().to_vec();
        header.append(&mut text);
        header
    }

    /// Appends a block to `bytes`.
    pub fn encode_block(self, values: &[f32], bytes: &mut Vec<u8>) {
        match self {
            Self::F32 => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            Self::Bf16 => bytes.extend(values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes())),
            Self::F16 => bytes.extend(values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes())),
            Self::Int8 => scaled(values, bytes),
            Self::TopK(fraction) => sparse(values, kept(fraction, values.len()), bytes),
        }
    }

    /// Appends the `values` values of a block to `decoded`.
    pub fn decode_block(self, bytes: &[u8], values: usize, decoded: &mut Vec<f32>) -> Result<(), EncodingError> {
        let expected = self.block_bytes(values);
        if bytes.len() != expected {
            return Err(EncodingError::Length { found: bytes.len(), expected: values, bytes: expected });
        }
        match self {
            Self::F32 => decoded.extend(bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word))),
            Self::Bf16 => {
                decoded.extend(bytes.as_chunks::<2>().0.iter().map(|word| bf16::from_le_bytes(*word).to_f32()));
            }
            Self::F16 => decoded.extend(bytes.as_chunks::<2>().0.iter().map(|word| f16::from_le_bytes(*word).to_f32())),
            Self::Int8 => {
                let Some((scale, steps)) = bytes.split_first_chunk::<4>() else {
                    return Err(EncodingError::Block("it has no scale"));
                };
                let scale = f32::from_le_bytes(*scale);
                if !(scale.is_finite() && scale >= 0.0) {
                    return Err(EncodingError::Block("its scale is no finite number of 0 or more"));
                }
                if steps.contains(&0x80) {
                    return Err(EncodingError::Block("it holds -128, which no encoder writes"));
                }
                decoded.extend(steps.iter().map(|step| f32::from(step.cast_signed()) * scale));
            }
            Self::TopK(_) => {
                let (places, kept) = bytes.split_at(bytes.len() / 3);
                let first = decoded.len();
                decoded.resize(first + values, 0.0);
                let mut next = 0;
                for (place, value) in places.as_chunks::<2>().0.iter().zip(kept.as_chunks::<4>().0) {
                    let place = usize::from(u16::from_le_bytes(*place));
                    if place < next || place >= values {
                        return Err(EncodingError::Block("its places do not rise, or lie outside"));
                    }
                    decoded[first + place] = f32::from_le_bytes(*value);
                    next = place + 1;
                }
            }
        }
        Ok(())
    }

    /// The file of these tensors.
    pub fn encode(self, tensors: &NamedTensors) -> Vec<u8> {
        let mut file = self.header(&tensors.signature());
        for (_, tensor) in tensors.iter() {
            tensor.values.chunks(self.block_values()).for_each(|block| self.encode_block(block, &mut file));
        }
        file
    }

    /// The tensors of a file of this signature.
    pub fn decode(self, file: &[u8], signature: &Signature) -> Result<NamedTensors, EncodingError> {
        let header = self.header(signature);
        let Some(mut left) = file.strip_prefix(&header[..]) else {
            return Err(EncodingError::Block("the file's header is another"));
        };
        let mut tensors = NamedTensors::new();
        for (name, shape) in signature.iter() {
            let count = shape.iter().product();
            let mut values = Vec::with_capacity(count);
            while values.len() < count {
                let some = (count - values.len()).min(self.block_values());
                let bytes = self.block_bytes(some);
                let block =
                    left.get(..bytes).ok_or(EncodingError::Length { found: left.len(), expected: some, bytes })?;
                self.decode_block(block, some, &mut values)?;
                left = &left[bytes..];
            }
            tensors.insert(name, shape.to_vec(), values);
        }
        if left.is_empty() { Ok(tensors) } else { Err(EncodingError::Block("bytes follow the last one")) }
    }
}

/// How many of a block's values are kept.
fn kept(fraction: f64, values: usize) -> usize {
    ((fraction * values as f64).ceil() as usize).clamp(1, values.max(1)).min(values)
}

fn scaled(values: &[f32], bytes: &mut Vec<u8>) {
    let most = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let scale = most / 127.0;
    bytes.extend(scale.to_le_bytes());
    // A scale that has become 0 stands for values that are 0, or so small that nothing is left of them.
    let step = |value: f32| if scale > 0.0 { (value / scale).round().clamp(-127.0, 127.0) as i8 } else { 0 };
    bytes.extend(values.iter().map(|value| step(*value).cast_unsigned()));
}

fn sparse(values: &[f32], count: usize, bytes: &mut Vec<u8>) {
    let mut places: Vec<u16> = (0..=u16::MAX).take(values.len()).collect();
    let magnitude = |place: &u16| values[usize::from(*place)].abs();
    if count < places.len() {
        // Of equal magnitudes the one that comes first: an order in which no two are equal.
        places.select_nth_unstable_by(count, |a, b| magnitude(b).total_cmp(&magnitude(a)).then(a.cmp(b)));
        places.truncate(count);
    }
    places.sort_unstable();
    bytes.extend(places.iter().flat_map(|place| place.to_le_bytes()));
    bytes.extend(places.iter().flat_map(|place| values[usize::from(*place)].to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Encoding; 5] = [Encoding::F32, Encoding::Bf16, Encoding::F16, Encoding::Int8, Encoding::TopK(0.1)];

    fn there_and_back(encoding: Encoding, values: &[f32]) -> Vec<f32> {
        let mut tensors = NamedTensors::new();
        tensors.insert("w", vec![values.len()], values.to_vec());
        let file = encoding.encode(&tensors);
        let header = encoding.header(&tensors.signature()).len();
        assert_eq!(file.len(), header + encoding.tensor_bytes(values.len()));
        assert_eq!(file, encoding.encode(&tensors), "the same values are the same bytes");
        encoding.decode(&file, &tensors.signature()).unwrap().get("w").unwrap().values.clone()
    }

    /// Half a scale, and what single precision rounds twice on the way, of up to 127 steps: when a value is counted in steps, and
    /// when steps are a value again.
    fn half_a_step(most: f32) -> f32 {
        most / 127.0 * (0.5 + 2.0 * 127.0 * f32::EPSILON / 2.0) * (1.0 + f32::EPSILON)
    }

    #[test]
    fn a_value_midway_between_two_steps_comes_back_as_one_of_them() {
        // 126.5 steps but for what is rounded: the farthest that a value is from what comes back.
        let values = [-1.940_046_2, 1.947_714_4];
        let back = there_and_back(Encoding::Int8, &values);
        let apart = (back[0] - values[0]).abs();
        assert!(values[1] / 254.0 < apart && apart <= half_a_step(values[1]), "{apart}");
    }

    proptest! {
        #[test]
        fn each_encoding_keeps_every_value_within_its_bound(
            values in prop::collection::vec(-8.0_f32..8.0, 1..700),
            tiny in -40_i32..0,
        ) {
            let values: Vec<f32> = values.into_iter().map(|value| value * 2.0_f32.powi(tiny)).collect();
            prop_assert_eq!(&there_and_back(Encoding::F32, &values), &values);
            for (encoding, relative, absolute) in
                [(Encoding::Bf16, 2.0_f32.powi(-8), 0.0), (Encoding::F16, 2.0_f32.powi(-11), 2.0_f32.powi(-25))]
            {
                for (back, value) in there_and_back(encoding, &values).iter().zip(&values) {
                    prop_assert!((back - value).abs() <= (relative * value.abs()).max(absolute), "{:?} {} {}", encoding, value, back);
                }
            }
            for (back, values) in there_and_back(Encoding::Int8, &values).chunks(SCALED).zip(values.chunks(SCALED)) {
                let most = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
                for (back, value) in back.iter().zip(values) {
                    prop_assert!((back - value).abs() <= half_a_step(most), "{} {}", value, back);
                }
            }
        }

        #[test]
        fn of_top_k_the_largest_come_back_as_they_were_and_the_others_as_nothing(
            values in prop::collection::vec(-8.0_f32..8.0, 1..700),
        ) {
            let back = there_and_back(Encoding::TopK(0.1), &values);
            let kept = values.len().div_ceil(10);
            let mut magnitudes: Vec<f32> = values.iter().map(|value| value.abs()).collect();
            magnitudes.sort_by(|a, b| b.total_cmp(a));
            for (back, value) in back.iter().zip(&values) {
                let is_large = value.abs() >= magnitudes[kept - 1];
                prop_assert!(*back == if is_large { *value } else { 0.0 }, "{} {}", value, back);
            }
        }
    }

    #[test]
    fn blocks_are_cut_within_a_tensor_and_zeros_and_ties_are_decided() {
        let long: Vec<f32> = (0..SPARSE + 300).map(|place| (place % 7) as f32 - 3.0).collect();
        for encoding in ALL {
            assert_eq!(there_and_back(encoding, &long).len(), long.len(), "{encoding:?}");
            assert_eq!(there_and_back(encoding, &[0.0; 300]), [0.0; 300], "{encoding:?}");
        }
        assert_eq!(there_and_back(Encoding::TopK(0.5), &[1.0, -1.0, 1.0, 1.0]), [1.0, -1.0, 0.0, 0.0]);
        assert_eq!(there_and_back(Encoding::TopK(1.0), &long), long);
        let after = there_and_back(Encoding::TopK(0.01), &long);
        assert_eq!(
            after.iter().filter(|value| **value != 0.0).count(),
            656 + 3,
            "a hundredth of each block, rounded up"
        );
    }

    #[test]
    fn a_file_cut_or_lengthened_anywhere_and_a_block_that_no_encoder_writes_are_refused() {
        let mut tensors = NamedTensors::new();
        tensors.insert("a", vec![2, 3], vec![0.5; 6]);
        tensors.insert("b", vec![300], (0..300).map(|place| place as f32 / 64.0).collect());
        let signature = tensors.signature();
        for encoding in ALL {
            let file = encoding.encode(&tensors);
            assert!(
                (0..file.len()).all(|length| encoding.decode(&file[..length], &signature).is_err()),
                "{encoding:?}"
            );
            assert!(encoding.decode(&[&file[..], b"x"].concat(), &signature).is_err(), "{encoding:?}");
        }
        let block = |encoding: Encoding, bytes: &[u8], values| {
            let mut decoded = Vec::new();
            encoding.decode_block(bytes, values, &mut decoded).map(|()| decoded)
        };
        let scale = |scale: f32, step: u8| [&scale.to_le_bytes()[..], &[step]].concat();
        assert!(block(Encoding::Int8, &scale(f32::NAN, 1), 1).is_err());
        assert!(block(Encoding::Int8, &scale(-1.0, 1), 1).is_err());
        assert!(block(Encoding::Int8, &scale(1.0, 0x80), 1).is_err());
        assert_eq!(block(Encoding::Int8, &scale(1.0, 0x81), 1).unwrap(), [-127.0]);
        let places = |first: u16, second: u16| {
            [&first.to_le_bytes()[..], &second.to_le_bytes(), &1.0_f32.to_le_bytes(), &2.0_f32.to_le_bytes()].concat()
        };
        assert_eq!(block(Encoding::TopK(1.0), &places(0, 1), 2).unwrap(), [1.0, 2.0]);
        assert!(block(Encoding::TopK(1.0), &places(1, 1), 2).is_err());
        assert!(block(Encoding::TopK(1.0), &places(0, 2), 2).is_err());
    }

    #[test]
    fn files_of_native_types_are_read_by_safetensors() {
        let mut tensors = NamedTensors::new();
        tensors.insert("a", vec![2, 3], vec![0.5; 6]);
        tensors.insert("b", vec![300], vec![0.25; 300]);
        assert_eq!(Encoding::F32.encode(&tensors), tensors.to_safetensors());
        for encoding in ALL {
            let file = encoding.encode(&tensors);
            let read = safetensors::SafeTensors::deserialize(&file).unwrap();
            assert_eq!(read.len(), 2, "{encoding:?}");
        }
    }
}
