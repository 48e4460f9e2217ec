//! Where every value of a weights file is, known from the signature alone.
//!
//! The same weights are always the same bytes ([`common::encoding`]): a header that the signature determines, then all values
//! in the order of the tensors' names, block by block. So a file is checked, read and written a tile at a time, and no model is
//! ever whole in memory. This module knows no file.

use common::refusal::UpdateFault;
use common::{Encoding, Signature};
use serde_json::Value;

/// Longest header that is accepted.
pub const MAX_HEADER: usize = 1 << 20;

/// The bytes of a weights file, up to its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    signature: Signature,
    encoding: Encoding,
    header: Vec<u8>,
}

/// A signature whose files have a header above the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a header of {0} bytes is too long: at most {MAX_HEADER} are accepted; use fewer tensors or shorter names")]
pub struct HeaderTooLong(usize);

impl Layout {
    /// The layout of every file of this signature whose values are as they are: models, and states of the server.
    pub fn of(signature: &Signature) -> Result<Self, HeaderTooLong> {
        Self::encoded(signature, Encoding::F32)
    }

    /// The layout of every file of this signature in an encoding.
    pub fn encoded(signature: &Signature, encoding: Encoding) -> Result<Self, HeaderTooLong> {
        let header = encoding.header(signature);
        if header.len() > MAX_HEADER {
            return Err(HeaderTooLong(header.len()));
        }
        Ok(Self { signature: signature.clone(), encoding, header })
    }

    /// How its values are written.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Values of each block after the header, in the order of the file.
    pub fn blocks(&self) -> impl Iterator<Item = usize> + use<> {
        let block = self.encoding.block_values();
        let sizes: Vec<usize> = self.signature.iter().map(|(_, shape)| shape.iter().product()).collect();
        let of_tensor = move |size: usize| (0..size).step_by(block).map(move |begin| (size - begin).min(block));
        sizes.into_iter().flat_map(of_tensor)
    }

    /// Names and shapes.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Length and text of the header: how every file of this signature begins.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Length of the file.
    pub fn bytes(&self) -> u64 {
        let tensors = self.signature.iter().map(|(_, shape)| self.encoding.tensor_bytes(shape.iter().product()) as u64);
        self.header.len() as u64 + tensors.sum::<u64>()
    }

    /// Values in all tensors together.
    pub fn values(&self) -> u64 {
        self.signature.value_count() as u64
    }

    /// The tensor of a value, and its position in that tensor.
    pub fn place(&self, value: u64) -> (&str, u64) {
        let mut left = value;
        for (name, shape) in self.signature.iter() {
            let size = shape.iter().product::<usize>() as u64;
            if left < size {
                return (name, left);
            }
            left -= size;
        }
        ("past the last tensor", left)
    }

    /// Of which kind what is wrong with a file is that begins with `found`, and not with the header of this layout.
    pub fn fault(&self, found: &[u8]) -> UpdateFault {
        let (Some(own), Some(found)) = (read_header(&self.header), read_header(found)) else {
            return UpdateFault::Header;
        };
        let is_tensor = |name: &&String| *name != METADATA;
        let has_all = |of: &Entries, those: &Entries| those.keys().filter(is_tensor).all(|name| of.contains_key(name));
        let differs = |key: &str| {
            own.iter().filter(|(name, _)| is_tensor(name)).any(|(name, entry)| entry[key] != found[name][key])
        };
        if !(has_all(&own, &found) && has_all(&found, &own)) {
            UpdateFault::Names
        } else if differs("dtype") || own.get(METADATA).is_some_and(|told| found.get(METADATA) != Some(told)) {
            UpdateFault::Dtype
        } else if differs("shape") {
            UpdateFault::Shape
        } else {
            UpdateFault::Layout
        }
    }

    /// Why a file that begins with `found` is not of this layout, for people.
    pub fn difference(&self, found: &[u8]) -> String {
        if self.encoding != Encoding::F32 {
            return format!("it does not begin with the header of the plan's encoding, {:?}", self.encoding);
        }
        let Some(signature) = read_signature(found) else {
            return "it does not begin with a safetensors header of 32-bit floats".to_owned();
        };
        match self.signature.require(&signature) {
            Err(error) => error.to_string(),
            Ok(()) => "its tensors are right, but not laid out in the order of their names without metadata".to_owned(),
        }
    }
}

/// What a header holds beside tensors.
const METADATA: &str = "__metadata__";

type Entries = serde_json::Map<String, Value>;

/// The entries of a foreign header.
fn read_header(file: &[u8]) -> Option<Entries> {
    let length = u64::from_le_bytes(*file.first_chunk()?);
    let text = file.get(8..usize::try_from(length).ok()?.checked_add(8)?)?;
    match serde_json::from_slice(text).ok()? {
        Value::Object(entries) => Some(entries),
        _ => None,
    }
}

/// The signature that a foreign header states; only used to tell what is wrong with it.
fn read_signature(file: &[u8]) -> Option<Signature> {
    let entries = read_header(file)?;
    let spec = |(name, entry): (&String, &Value)| {
        let axes = entry["shape"].as_array()?.iter().map(|axis| usize::try_from(axis.as_u64()?).ok());
        (entry["dtype"] == "F32").then_some(())?;
        Some((name.clone(), axes.collect::<Option<Vec<_>>>()?))
    };
    let specs: Option<Vec<_>> = entries.iter().filter(|(name, _)| *name != METADATA).map(spec).collect();
    Signature::new(specs?).ok()
}

#[cfg(test)]
mod tests {
    use common::NamedTensors;
    use proptest::prelude::*;

    use super::*;

    fn weights(specs: &[(String, Vec<usize>)]) -> NamedTensors {
        let mut weights = NamedTensors::new();
        for (name, shape) in specs {
            let size = shape.iter().product::<usize>();
            weights.insert(name.clone(), shape.clone(), (0..size).map(|value| value as f32).collect());
        }
        weights
    }

    proptest! {
        #[test]
        fn the_header_is_the_one_that_safetensors_writes(
            specs in prop::collection::btree_map("[A-Za-z0-9._-]{1,20}", prop::collection::vec(0_usize..5, 0..4), 0..12)
        ) {
            let specs: Vec<_> = specs.into_iter().collect();
            let weights = weights(&specs);
            let (file, layout) = (weights.to_safetensors(), Layout::of(&weights.signature()).unwrap());
            prop_assert_eq!(&file[..layout.header().len()], layout.header());
            prop_assert_eq!(file.len() as u64, layout.bytes());
        }
    }

    #[test]
    fn a_value_is_told_by_its_tensor_and_position() {
        let layout = Layout::of(&weights(&[("a".into(), vec![2, 2]), ("b".into(), vec![3])]).signature()).unwrap();
        assert_eq!(layout.place(3), ("a", 3));
        assert_eq!(layout.place(4), ("b", 0));
    }

    #[test]
    fn what_is_wrong_with_a_foreign_header_is_told() {
        let layout = Layout::of(&weights(&[("a".into(), vec![4])]).signature()).unwrap();
        let told = |file: &[u8]| layout.difference(file);
        assert!(told(&weights(&[("a".into(), vec![2, 2])]).to_safetensors()).contains("expected shape [4]"));
        assert!(told(&weights(&[("b".into(), vec![4])]).to_safetensors()).contains("no such tensor"));
        assert!(told(b"GIF89a").contains("does not begin"));
        assert!(told(&u64::MAX.to_le_bytes()).contains("does not begin"));
        let metadata = Some([("k".to_owned(), "v".to_owned())].into());
        let described = weights(&[("a".into(), vec![4])]).to_safetensors_with(metadata);
        assert!(told(&described).contains("without metadata"));
        assert_eq!(layout.fault(&described), UpdateFault::Layout);
        assert_eq!(layout.fault(b"GIF89a"), UpdateFault::Header);
    }
}
