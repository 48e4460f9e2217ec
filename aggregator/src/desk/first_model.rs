//! A run's first model as it arrives in pieces: held to the plan's layout, to finite values and to its digest, a piece at a time.
//! It knows no file and no wire.

use common::Digest;
use common::ids::DigestBuilder;

use crate::layout::Layout;

/// What has arrived so far.
#[derive(Debug)]
pub struct FirstModel<'a> {
    layout: &'a Layout,
    digest: DigestBuilder,
    bytes: u64,
    /// The beginning of a value whose rest is still to come.
    begun: Vec<u8>,
    header: Vec<u8>,
    odd: Option<String>,
}

/// Why a file is not a plan's first model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotThisModel {
    /// Its length.
    #[error(
        "the first model has {found} bytes or more, but the plan's tensors take {expected}: send the file of this very plan"
    )]
    Length {
        /// By the plan.
        expected: u64,
        /// That arrived.
        found: u64,
    },
    /// What is in it.
    #[error("the first model cannot be used: {0}; make it with `site-agent init-model`")]
    Content(String),
    /// Its digest.
    #[error("the first model has digest {found}, but the plan names {expected}: send the file of this very plan")]
    Digest {
        /// By the plan.
        expected: Digest,
        /// Of what arrived.
        found: Digest,
    },
}

impl<'a> FirstModel<'a> {
    /// Of this layout; nothing has arrived.
    pub fn of(layout: &'a Layout) -> Self {
        let (digest, begun, header) = (DigestBuilder::default(), Vec::new(), Vec::new());
        Self { layout, digest, bytes: 0, begun, header, odd: None }
    }

    /// Takes the next bytes in.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), NotThisModel> {
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
        let expected = self.layout.bytes();
        if self.bytes > expected {
            return Err(NotThisModel::Length { expected, found: self.bytes });
        }
        let missing = self.layout.header().len() - self.header.len();
        let (of_header, values) = bytes.split_at(missing.min(bytes.len()));
        self.header.extend_from_slice(of_header);
        if self.header.len() == self.layout.header().len() && missing > 0 && self.header != self.layout.header() {
            self.odd = Some(self.layout.difference(&self.header));
        }
        self.begun.extend_from_slice(values);
        let whole = self.begun.len() / 4 * 4;
        let is_finite = |value: &[u8]| f32::from_le_bytes([value[0], value[1], value[2], value[3]]).is_finite();
        if self.odd.is_none() && !self.begun[..whole].chunks_exact(4).all(is_finite) {
            self.odd = Some("it holds a value that is not a finite number".to_owned());
        }
        self.begun.drain(..whole);
        self.odd.clone().map_or(Ok(()), |why| Err(NotThisModel::Content(why)))
    }

    /// Whether it is all here, and the model that the plan names.
    pub fn finish(self, expected: Digest) -> Result<(), NotThisModel> {
        let length = self.layout.bytes();
        if self.bytes != length {
            return Err(NotThisModel::Length { expected: length, found: self.bytes });
        }
        let found = self.digest.finish();
        if found == expected { Ok(()) } else { Err(NotThisModel::Digest { expected, found }) }
    }
}

#[cfg(test)]
mod tests {
    use common::NamedTensors;

    use super::*;

    fn model(last: f32) -> NamedTensors {
        let mut model = NamedTensors::new();
        model.insert("center", vec![1, 3], vec![0.0, 1.0, last]);
        model
    }

    fn arrives(bytes: &[u8], at_once: usize, expected: Digest) -> Result<(), NotThisModel> {
        let layout = Layout::of(&model(0.0).signature()).unwrap();
        let mut arriving = FirstModel::of(&layout);
        bytes.chunks(at_once).try_for_each(|piece| arriving.take(piece))?;
        arriving.finish(expected)
    }

    #[test]
    fn a_model_is_taken_in_pieces_of_any_size_and_only_if_it_is_the_plans() {
        let bytes = model(0.5).to_safetensors();
        let digest = Digest::of(&bytes);
        for at_once in [1, 3, 4, 7, 1000] {
            assert_eq!(arrives(&bytes, at_once, digest), Ok(()));
            let cut = &bytes[..bytes.len() - 1];
            assert!(matches!(arrives(cut, at_once, digest), Err(NotThisModel::Length { .. })));
            let long = [&bytes[..], b"x"].concat();
            assert!(matches!(arrives(&long, at_once, digest), Err(NotThisModel::Length { .. })));
            let odd = model(f32::NAN).to_safetensors();
            assert!(matches!(arrives(&odd, at_once, Digest::of(&odd)), Err(NotThisModel::Content(_))));
            let mut other = bytes.clone();
            other[10] ^= 1;
            assert!(matches!(arrives(&other, at_once, Digest::of(&other)), Err(NotThisModel::Content(_))));
            let another = model(0.25).to_safetensors();
            assert!(matches!(arrives(&another, at_once, digest), Err(NotThisModel::Digest { .. })));
        }
    }
}
