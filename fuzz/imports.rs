//! A file of weights that another program wrote, as `site-agent init-model --from` takes it: it is read or refused, and what was
//! read and is written, is read again as the same.
//!
//! For `cargo fuzz`, and for the properties of `site-agent/model/tests/imports.rs`.

use common::NamedTensors;
use model::weights_file;

/// A file of safetensors or of `torch.save`.
pub(crate) fn import(bytes: &[u8]) {
    if let Ok(tensors) = weights_file::read(bytes) {
        let written = tensors.to_safetensors();
        let again = weights_file::read(&written).expect("what was written is read");
        assert_eq!(again.to_safetensors(), written);
        assert!(NamedTensors::from_safetensors(&written).is_ok() || !all_finite(&tensors));
    }
}

fn all_finite(tensors: &NamedTensors) -> bool {
    tensors.iter().all(|(_, tensor)| tensor.values.iter().all(|value| value.is_finite()))
}
