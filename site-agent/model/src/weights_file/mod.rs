//! Files of weights that other programs wrote: safetensors, and the checkpoints of PyTorch's `torch.save`.
//!
//! What the bytes begin with decides which it is; a file's name decides nothing. Whatever the floats were, they become
//! f32. Nothing in a file is run: `pickle` builds plain values, under bounds, and `torch` makes tensors of them.

mod element;
mod pickle;
mod torch;

use common::weights::WeightsError;
use common::{NamedTensors, Signature};
use safetensors::{Dtype, SafeTensors};

use element::Element;
pub use pickle::PickleError;
pub use torch::TorchError;

/// Bytes in a file of weights: 8 GiB, four times a ViT-L with its optimizer's moments.
pub const MAX_BYTES: u64 = 8 << 30;

/// Why a file's tensors cannot be read.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum FileError {
    /// More bytes than any model of ours has.
    #[error("the file has {bytes} bytes, more than the {MAX_BYTES} that are read: keep the network's weights alone")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// Neither of the formats.
    #[error(
        "the file is neither safetensors nor a checkpoint of torch.save: it begins with the bytes {first:02x?}; give a \
         file that safetensors or PyTorch 1.6 or later has written"
    )]
    Unknown {
        /// Its first bytes, at most eight.
        first: Vec<u8>,
    },
    /// What PyTorch wrote before it wrote zip archives.
    #[error(
        "the file is a checkpoint in {form}, which torch.save wrote before PyTorch 1.6 and which is not read: load it with \
         torch.load in a newer PyTorch and save it again with torch.save"
    )]
    Legacy {
        /// The format.
        form: &'static str,
    },
    /// A damaged safetensors file.
    #[error("not a whole safetensors file: {0}; copy it again")]
    Safetensors(String),
    /// Values that are no floats, or floats of another width.
    #[error("tensor {name} has elements of type {dtype}: F16, BF16, F32 and F64 are read; convert it, or leave it out")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its type, as safetensors names it.
        dtype: String,
    },
    /// Names or sizes that no model of ours has.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A checkpoint of PyTorch that is damaged, or made of something else than plain tensors.
    #[error(transparent)]
    Torch(#[from] TorchError),
}

/// The tensors of a file, as f32, under the names that the file gives them: a name inside another is joined to it by a
/// dot (`teacher.backbone.cls_token`). Of a checkpoint of PyTorch, tensors of integers and the optimizer are left out.
pub fn read(file: &[u8]) -> Result<NamedTensors, FileError> {
    let bytes = file.len() as u64;
    if bytes > MAX_BYTES {
        return Err(FileError::TooLarge { bytes });
    }
    match Format::of(file) {
        Some(Format::Safetensors) => from_safetensors(file),
        Some(Format::Zip) => torch::read(file),
        Some(Format::Legacy(form)) => Err(FileError::Legacy { form }),
        None => Err(FileError::Unknown { first: file.iter().take(8).copied().collect() }),
    }
}

/// What a file looks like.
enum Format {
    Safetensors,
    Zip,
    Legacy(&'static str),
}

impl Format {
    fn of(file: &[u8]) -> Option<Format> {
        // safetensors: eight bytes of length, then a JSON object. A pickle of protocol 2 and later begins with 0x80 and
        // the protocol, and has no brace there.
        match file {
            [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Some(Format::Zip),
            [_, _, _, _, _, _, _, _, b'{', ..] => Some(Format::Safetensors),
            [0x80, 2..=5, ..] => Some(Format::Legacy("the pickle format")),
            _ if file.get(257..262) == Some(b"ustar") => Some(Format::Legacy("the tar format")),
            _ => None,
        }
    }
}

fn from_safetensors(file: &[u8]) -> Result<NamedTensors, FileError> {
    let parsed = SafeTensors::deserialize(file).map_err(|error| FileError::Safetensors(error.to_string()))?;
    Signature::new(parsed.iter().map(|(name, view)| (name.to_owned(), view.shape().to_vec())))?;
    let mut tensors = NamedTensors::new();
    for (name, view) in parsed.iter() {
        let element = match view.dtype() {
            Dtype::F16 => Element::F16,
            Dtype::BF16 => Element::Bf16,
            Dtype::F32 => Element::F32,
            Dtype::F64 => Element::F64,
            other => return Err(FileError::Dtype { name: name.to_owned(), dtype: format!("{other:?}") }),
        };
        let count = view.data().len() / element.width();
        tensors.insert(name, view.shape().to_vec(), element.floats(view.data(), 0, &[(count, 1)]));
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use safetensors::tensor::TensorView;

    use super::*;

    fn file(dtype: Dtype, shape: &[usize], bytes: &[u8]) -> Vec<u8> {
        safetensors::serialize([("a", TensorView::new(dtype, shape.to_vec(), bytes).unwrap())], None).unwrap()
    }

    #[test]
    fn safetensors_of_any_floats_are_read_as_32_bits() {
        let halves = [0x00, 0x3e, 0x00, 0xc0]; // 1.5, -2
        let brains = [0xc0, 0x3f, 0x00, 0xc0];
        let singles: Vec<u8> = [1.5_f32, -2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let doubles: Vec<u8> = [1.5_f64, -2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let all: [(Dtype, &[u8]); 4] =
            [(Dtype::F16, &halves), (Dtype::BF16, &brains), (Dtype::F32, &singles), (Dtype::F64, &doubles)];
        for (dtype, bytes) in all {
            let tensors = read(&file(dtype, &[2, 1], bytes)).unwrap();
            let tensor = tensors.get("a").unwrap();
            assert_eq!(
                (tensor.shape.as_slice(), tensor.values.as_slice()),
                (&[2, 1][..], &[1.5, -2.0][..]),
                "{dtype:?}"
            );
        }
    }

    #[test]
    fn safetensors_of_anything_else_are_refused_by_tensor_and_type() {
        let words = read(&file(Dtype::I64, &[1], &[0; 8])).unwrap_err().to_string();
        assert!(words.contains("tensor a has elements of type I64: F16, BF16, F32 and F64 are read"), "{words}");
        let cut = file(Dtype::F32, &[1], &[0; 4]);
        assert!(matches!(read(&cut[..cut.len() - 1]), Err(FileError::Safetensors(_))));
    }

    #[test]
    fn a_format_that_is_not_read_is_named_with_what_to_do() {
        let words = |file: &[u8]| read(file).unwrap_err().to_string();
        // The first bytes of torch.save(..., _use_new_zipfile_serialization=False).
        let pickle = words(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.");
        assert!(pickle.contains("the pickle format") && pickle.contains("save it again with torch.save"), "{pickle}");
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        assert!(words(&tar).contains("the tar format"));
        let other = words(b"\x89HDF\r\n\x1a\n");
        assert!(other.contains("begins with the bytes [89, 48, 44, 46, 0d, 0a, 1a, 0a]"), "{other}");
        assert!(words(b"").contains("begins with the bytes []"));
    }

    proptest! {
        #[test]
        fn bytes_that_mean_nothing_are_refused(
            first in proptest::sample::select(vec![&b""[..], b"PK\x03\x04", b"PK\x05\x06", b"\x80\x02", b"\x20\0\0\0\0\0\0\0{"]),
            rest in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            prop_assert!(read(&[first, &rest].concat()).is_err());
        }
    }
}
