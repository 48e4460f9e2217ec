//! Weights as names, shapes and numbers: all that the aggregator ever knows of a model.
//!
//! The file form is safetensors (little-endian f32), with tensors in the order of their names. The same weights are
//! always the same bytes, so a model's SHA-256 names it.

use std::collections::BTreeMap;
use std::ops::Range;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::ids::Digest;

/// Values in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Extent of each axis.
    pub shape: Vec<usize>,
    /// As many values as the product of `shape`.
    pub values: Vec<f32>,
}

/// Tensors by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NamedTensors(BTreeMap<String, Tensor>);

/// Names and shapes, in the order of the names: what two parties must agree on before they exchange numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(String, Vec<usize>)>", into = "Vec<(String, Vec<usize>)>")]
pub struct Signature(BTreeMap<String, Vec<usize>>);

/// Why weights were refused.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum WeightsError {
    /// A name that is empty, too long, repeated, not printable ASCII, or no tensor's.
    #[error(
        "tensor name {0:?} is refused: names are distinct, 1 to 128 characters of letters, digits, '.', '_' and '-', and not \
         {METADATA}, which safetensors keeps for itself"
    )]
    Name(String),
    /// A size that no model of ours has.
    #[error("tensor {name} of shape {shape:?} is refused: at most 8 axes and {MAX_VALUES} values in all")]
    Size {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// The tensors are not those that were agreed.
    #[error("tensor {name}: expected {expected}, found {found}")]
    Differs {
        /// The first tensor that differs.
        name: String,
        /// What was agreed.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A value that is NaN or infinite.
    #[error("tensor {name} holds {value} at position {position}: only finite values are accepted")]
    NotFinite {
        /// The tensor.
        name: String,
        /// Index into its values.
        position: usize,
        /// The value, as text, because NaN equals nothing.
        value: String,
    },
    /// Not a safetensors file of f32.
    #[error("not a safetensors file of 32-bit floats: {0}")]
    Format(String),
}

/// What is no tensor in a header of safetensors.
const METADATA: &str = "__metadata__";

/// Values in all tensors of a model together: 2^31, or 8 GiB.
pub const MAX_VALUES: usize = 1 << 31;

/// Whether a tensor may be called so.
pub fn is_tensor_name(name: &str) -> bool {
    let permitted = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=128).contains(&name.len()) && name.bytes().all(permitted) && name != METADATA
}

impl Signature {
    /// A signature of these names and shapes.
    pub fn new(specs: impl IntoIterator<Item = (String, Vec<usize>)>) -> Result<Self, WeightsError> {
        let mut all = BTreeMap::new();
        let mut total = 0_usize;
        for (name, shape) in specs {
            if !is_tensor_name(&name) || all.contains_key(&name) {
                return Err(WeightsError::Name(name.chars().take(128).collect()));
            }
            let size = shape.iter().try_fold(1_usize, |size, &axis| size.checked_mul(axis));
            match size.and_then(|size| total.checked_add(size)) {
                Some(sum) if sum <= MAX_VALUES && shape.len() <= 8 => total = sum,
                _ => return Err(WeightsError::Size { name, shape }),
            }
            all.insert(name, shape);
        }
        Ok(Self(all))
    }

    /// Names and shapes, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.0.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()))
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// The tensors whose name is `wanted`.
    pub fn filtered(&self, wanted: impl Fn(&str) -> bool) -> Self {
        let some = self.0.iter().filter(|(name, _)| wanted(name));
        Self(some.map(|(name, shape)| (name.clone(), shape.clone())).collect())
    }

    /// The values of the tensors whose name is `wanted`: runs without a gap, counted over all tensors.
    pub fn runs_of(&self, wanted: impl Fn(&str) -> bool) -> Vec<Range<u64>> {
        let (mut begin, mut runs) = (0, Vec::<Range<u64>>::new());
        for (name, shape) in self.iter() {
            let end = begin + shape.iter().product::<usize>() as u64;
            match runs.last_mut() {
                _ if !wanted(name) => {}
                Some(last) if last.end == begin => last.end = end,
                _ => runs.push(begin..end),
            }
            begin = end;
        }
        runs
    }

    /// Values in all tensors together.
    pub fn value_count(&self) -> usize {
        self.0.values().map(|shape| shape.iter().product::<usize>()).sum()
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses any other signature, naming the first tensor that differs.
    pub fn require(&self, found: &Signature) -> Result<(), WeightsError> {
        let told =
            |shape: Option<&[usize]>| shape.map_or("no such tensor".to_owned(), |shape| format!("shape {shape:?}"));
        let names = self.0.keys().chain(found.0.keys());
        match names.filter(|name| self.0.get(*name) != found.0.get(*name)).min() {
            None => Ok(()),
            Some(name) => Err(WeightsError::Differs {
                name: name.clone(),
                expected: told(self.shape(name)),
                found: told(found.shape(name)),
            }),
        }
    }
}

impl TryFrom<Vec<(String, Vec<usize>)>> for Signature {
    type Error = WeightsError;
    fn try_from(specs: Vec<(String, Vec<usize>)>) -> Result<Self, WeightsError> {
        Self::new(specs)
    }
}

impl From<Signature> for Vec<(String, Vec<usize>)> {
    fn from(signature: Signature) -> Self {
        signature.0.into_iter().collect()
    }
}

impl NamedTensors {
    /// No tensors yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tensor, or replaces the one of that name.
    ///
    /// # Panics
    /// If `values` are not as many as `shape` says: that is a mistake in the program, not in its input.
    pub fn insert(&mut self, name: impl Into<String>, shape: Vec<usize>, values: Vec<f32>) {
        let name = name.into();
        assert_eq!(shape.iter().product::<usize>(), values.len(), "values of tensor {name}");
        self.0.insert(name, Tensor { shape, values });
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    /// Tensors in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Tensors in the order of their names, values changeable.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut [f32])> {
        self.0.iter_mut().map(|(name, tensor)| (name.as_str(), tensor.values.as_mut_slice()))
    }

    /// Names and shapes.
    pub fn signature(&self) -> Signature {
        Signature(self.0.iter().map(|(name, tensor)| (name.clone(), tensor.shape.clone())).collect())
    }

    /// The tensors whose name begins with `prefix`, without it.
    pub fn under(&self, prefix: &str) -> NamedTensors {
        let strip = |(name, tensor): (&String, &Tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone()));
        Self(self.0.iter().filter_map(strip).collect())
    }

    /// The tensors whose name is `wanted`.
    pub fn filtered(mut self, wanted: impl Fn(&str) -> bool) -> NamedTensors {
        self.0.retain(|name, _| wanted(name));
        self
    }

    /// These tensors, with `prefix` put before each name.
    pub fn prefixed(self, prefix: &str) -> NamedTensors {
        Self(self.0.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect())
    }

    /// All tensors of both; those of `other` replace those of the same name.
    pub fn joined(mut self, other: NamedTensors) -> NamedTensors {
        self.0.extend(other.0);
        self
    }

    /// With the tensors of `other` in the place of those of the same name and shape; its other tensors do not count.
    pub fn replaced_by(mut self, other: NamedTensors) -> NamedTensors {
        for (name, tensor) in other.0 {
            if let Some(own) = self.0.get_mut(&name).filter(|own| own.shape == tensor.shape) {
                *own = tensor;
            }
        }
        self
    }

    /// `self - base`, tensor by tensor: the delta of a round.
    pub fn minus(mut self, base: &NamedTensors) -> Result<NamedTensors, WeightsError> {
        base.signature().require(&self.signature())?;
        for (tensor, base) in self.0.values_mut().zip(base.0.values()) {
            tensor.values.iter_mut().zip(&base.values).for_each(|(value, base)| *value -= base);
        }
        Ok(self)
    }

    /// With the values of `other`'s tensors added to those of the same name and size; its other tensors do not count.
    pub fn plus(mut self, other: &NamedTensors) -> NamedTensors {
        for (name, tensor) in &mut self.0 {
            if let Some(more) = other.get(name).filter(|more| more.shape == tensor.shape) {
                tensor.values.iter_mut().zip(&more.values).for_each(|(value, more)| *value += more);
            }
        }
        self
    }

    /// L2 norm over all tensors together, in f64 in the order of the names.
    pub fn l2_norm(&self) -> f64 {
        let squares = self.0.values().flat_map(|tensor| &tensor.values).map(|&value| f64::from(value).powi(2));
        squares.sum::<f64>().sqrt()
    }

    /// Refuses NaN and infinities, naming the first.
    pub fn require_finite(&self) -> Result<(), WeightsError> {
        for (name, tensor) in self.iter() {
            if let Some(position) = tensor.values.iter().position(|value| !value.is_finite()) {
                let value = tensor.values[position].to_string();
                return Err(WeightsError::NotFinite { name: name.to_owned(), position, value });
            }
        }
        Ok(())
    }

    /// The safetensors file of these weights, with no metadata.
    pub fn to_safetensors(&self) -> Vec<u8> {
        self.to_safetensors_with(None)
    }

    /// The safetensors file of these weights, with `metadata` in its header.
    pub fn to_safetensors_with(&self, metadata: Option<BTreeMap<String, String>>) -> Vec<u8> {
        let bytes: Vec<_> = self.iter().map(|(_, tensor)| little_endian(&tensor.values)).collect();
        let views = self.iter().zip(&bytes).map(|((name, tensor), bytes)| {
            let view =
                TensorView::new(Dtype::F32, tensor.shape.clone(), bytes).expect("as many bytes as the shape says");
            (name, view)
        });
        let metadata = metadata.map(|entries| entries.into_iter().collect());
        safetensors::serialize(views, metadata).expect("tensor names are distinct")
    }

    /// Reads a safetensors file whose tensors are all f32. Metadata is ignored.
    pub fn from_safetensors(file: &[u8]) -> Result<Self, WeightsError> {
        let parsed = SafeTensors::deserialize(file).map_err(|error| WeightsError::Format(error.to_string()))?;
        let specs = parsed.iter().map(|(name, view)| (name.to_owned(), view.shape().to_vec()));
        Signature::new(specs)?;
        let mut tensors = Self::new();
        for (name, view) in parsed.iter() {
            if view.dtype() != Dtype::F32 {
                return Err(WeightsError::Format(format!("tensor {name} is {:?}", view.dtype())));
            }
            let (words, _) = view.data().as_chunks::<4>();
            tensors.insert(name, view.shape().to_vec(), words.iter().map(|&word| f32::from_le_bytes(word)).collect());
        }
        Ok(tensors)
    }

    /// SHA-256 of the safetensors file without metadata.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.to_safetensors())
    }
}

impl IntoIterator for NamedTensors {
    type Item = (String, Tensor);
    type IntoIter = std::collections::btree_map::IntoIter<String, Tensor>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<(String, Tensor)> for NamedTensors {
    fn from_iter<I: IntoIterator<Item = (String, Tensor)>>(tensors: I) -> Self {
        let mut all = Self::new();
        tensors.into_iter().for_each(|(name, tensor)| all.insert(name, tensor.shape, tensor.values));
        all
    }
}

fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights() -> NamedTensors {
        let mut weights = NamedTensors::new();
        weights.insert("b.weight", vec![2, 2], vec![1.0, 2.0, 3.0, 4.0]);
        weights.insert("a.bias", vec![3], vec![0.5, -0.5, 0.25]);
        weights
    }

    #[test]
    fn weights_read_back_what_was_written_to_the_bit() {
        let mut weights = weights();
        weights.insert("odd", vec![2], vec![f32::MIN_POSITIVE / 3.0, -0.0]);
        let file = weights.to_safetensors();
        let again = NamedTensors::from_safetensors(&file).unwrap();
        assert_eq!(again, weights);
        assert_eq!(again.to_safetensors(), file);
    }

    #[test]
    fn the_first_tensor_that_differs_is_named() {
        let mut other = weights();
        other.insert("b.weight", vec![4], vec![0.0; 4]);
        let error = weights().signature().require(&other.signature()).unwrap_err();
        assert_eq!(error.to_string(), "tensor b.weight: expected shape [2, 2], found shape [4]");
    }

    #[test]
    fn a_name_that_a_file_could_not_hold_is_refused() {
        for name in ["", "a b", "caf\u{e9}", "__metadata__"] {
            let told = Signature::new([(name.to_owned(), vec![1])]).unwrap_err().to_string();
            assert!(told.starts_with(&format!("tensor name {name:?} is refused")), "{told}");
        }
    }

    #[test]
    fn a_delta_is_the_difference_and_nan_is_named_with_its_place() {
        let delta = weights().minus(&weights()).unwrap();
        assert_eq!(delta.l2_norm(), 0.0);
        let mut bad = weights();
        bad.insert("a.bias", vec![3], vec![0.0, f32::NAN, 0.0]);
        let told = bad.require_finite().unwrap_err().to_string();
        assert!(told.contains("a.bias holds NaN at position 1"), "{told}");
    }

    #[test]
    fn only_tensors_that_are_there_are_added_to() {
        let mut owed = NamedTensors::new();
        owed.insert("a.bias", vec![3], vec![1.0; 3]);
        owed.insert("b.weight", vec![4], vec![1.0; 4]);
        owed.insert("gone", vec![1], vec![1.0]);
        let sum = weights().plus(&owed);
        assert_eq!(sum.get("a.bias").unwrap().values, [1.5, 0.5, 1.25]);
        assert_eq!(
            (sum.get("b.weight"), sum.get("gone")),
            (weights().get("b.weight"), None),
            "another shape is another tensor"
        );
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let file = weights().to_safetensors();
        for length in 0..file.len() {
            assert!(NamedTensors::from_safetensors(&file[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn a_signature_larger_than_memory_is_refused_before_anything_is_allocated() {
        let huge = Signature::new([("x".to_owned(), vec![usize::MAX, 2])]);
        assert!(matches!(huge, Err(WeightsError::Size { .. })));
    }
}
