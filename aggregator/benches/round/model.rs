//! Models of the published shapes, and deltas from a seed.

use aggregator::layout::Layout;
use bytes::Bytes;
use clap::ValueEnum;
use common::ids::DigestBuilder;
use common::{Digest, RoundNumber, Signature};
use serde::Serialize;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) sites: usize,
    pub(crate) size: Size,
    pub(crate) pieces: usize,
}

/// A model's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
pub(crate) enum Size {
    /// ViT-S/8: 21 670 272 parameters in 150 tensors.
    #[value(name = "21.7M")]
    #[serde(rename = "21.7M")]
    Backbone,
    /// With DINO's head of 65 536 prototypes: 44 022 400 parameters in 158 tensors.
    #[value(name = "44M")]
    #[serde(rename = "44M")]
    Full,
    /// To see that this program works.
    #[value(name = "small")]
    #[serde(rename = "small")]
    Small,
}

impl Size {
    /// A plan's network of this size, of which the student travels.
    pub(crate) fn network(self) -> String {
        let (dim, depth) = if matches!(self, Self::Small) { (64, 2) } else { (384, 12) };
        let head = match self {
            Self::Full => "prototypes = 65536",
            Self::Small | Self::Backbone => "hidden = 1\nbottleneck = 1\nprototypes = 2",
        };
        format!(
            "[model]\nimage_size = 224\npatch_size = 8\nin_channels = 3\ndim = {dim}\ndepth = {depth}\nheads = 1\n\
             [model.head]\n{head}\n[aggregation]\nexchange = \"student\"\n"
        )
    }
}

impl Case {
    /// Names and shapes.
    pub(crate) fn signature(self) -> Signature {
        let mut tensors = match self.size {
            Size::Small => backbone(64, 2),
            Size::Backbone | Size::Full => backbone(384, 12),
        };
        if self.size == Size::Full {
            tensors.extend(head(384));
        }
        let named = tensors.into_iter().map(|(name, shape)| (format!("student.{name}"), shape));
        let specs = match self.pieces {
            1 => named.collect(),
            pieces => named.flat_map(|(name, shape)| cut(&name, &shape, pieces)).collect::<Vec<_>>(),
        };
        Signature::new(specs).expect("names and shapes are within the bounds")
    }

    pub(crate) fn layout(self) -> Layout {
        Layout::of(&self.signature()).expect("the header is short enough")
    }
}

/// The tensors of a Vision Transformer with patches of 8 for images of 224 with three channels.
fn backbone(dim: usize, depth: usize) -> Vec<(String, Vec<usize>)> {
    let linear = |name: &str, out: usize, into: usize| {
        [(format!("{name}.weight"), vec![out, into]), (format!("{name}.bias"), vec![out])]
    };
    let norm = |name: &str| [(format!("{name}.weight"), vec![dim]), (format!("{name}.bias"), vec![dim])];
    let mut tensors = vec![
        ("backbone.cls_token".to_owned(), vec![1, 1, dim]),
        ("backbone.pos_embed".to_owned(), vec![1, 28 * 28 + 1, dim]),
        ("backbone.patch_embed.proj.weight".to_owned(), vec![dim, 3, 8, 8]),
        ("backbone.patch_embed.proj.bias".to_owned(), vec![dim]),
    ];
    for block in (0..depth).map(|block| format!("backbone.blocks.{block}")) {
        tensors.extend(norm(&format!("{block}.norm1")));
        tensors.extend(linear(&format!("{block}.attn.qkv"), 3 * dim, dim));
        tensors.extend(linear(&format!("{block}.attn.proj"), dim, dim));
        tensors.extend(norm(&format!("{block}.norm2")));
        tensors.extend(linear(&format!("{block}.mlp.fc1"), 4 * dim, dim));
        tensors.extend(linear(&format!("{block}.mlp.fc2"), dim, 4 * dim));
    }
    tensors.extend(norm("backbone.norm"));
    tensors
}

/// The tensors of DINO's head.
fn head(dim: usize) -> Vec<(String, Vec<usize>)> {
    let (hidden, bottleneck, prototypes) = (2048, 256, 65_536);
    let named = [
        ("head.mlp.0.weight", vec![hidden, dim]),
        ("head.mlp.0.bias", vec![hidden]),
        ("head.mlp.2.weight", vec![hidden, hidden]),
        ("head.mlp.2.bias", vec![hidden]),
        ("head.mlp.4.weight", vec![bottleneck, hidden]),
        ("head.mlp.4.bias", vec![bottleneck]),
        ("head.last_layer.weight_g", vec![prototypes, 1]),
        ("head.last_layer.weight_v", vec![prototypes, bottleneck]),
    ];
    named.map(|(name, shape)| (name.to_owned(), shape)).into()
}

fn cut(name: &str, shape: &[usize], pieces: usize) -> Vec<(String, Vec<usize>)> {
    let values: usize = shape.iter().product();
    let begin = |piece: usize| values * piece / pieces;
    (0..pieces).map(|piece| (format!("{name}.{piece:04}"), vec![begin(piece + 1) - begin(piece)])).collect()
}

/// A tape of values from a seed. The delta of each site in each round begins at another place of it, so that no two are
/// the same, and none is made or stored apart.
#[derive(Clone, Debug)]
pub(crate) struct Tape {
    values: usize,
    bytes: Bytes,
}

/// Values between the places of two deltas.
const STRIDE: usize = 61;
/// Deltas that a tape has; a round takes 32.
const DELTAS: usize = 32 * 64;

impl Tape {
    /// A tape for deltas of so many values.
    pub(crate) fn of(values: usize) -> Self {
        let mut state = 0x5eed_u64;
        let all = (0..values + STRIDE * DELTAS).flat_map(|_| small(next(&mut state)).to_le_bytes());
        Self { values, bytes: all.collect::<Vec<_>>().into() }
    }

    /// The values of a site's delta, as a file has them.
    pub(crate) fn delta(&self, round: RoundNumber, site: usize) -> Bytes {
        let place = 4 * STRIDE * ((round.0 as usize * 32 + site) % DELTAS);
        self.bytes.slice(place..place + 4 * self.values)
    }

    /// The values of the first model.
    pub(crate) fn first_model(&self) -> Bytes {
        self.bytes.slice(self.bytes.len() - 4 * self.values..)
    }
}

/// The digest of a file with this header.
pub(crate) fn digest(layout: &Layout, values: &[u8]) -> Digest {
    let mut digest = DigestBuilder::default();
    digest.update(layout.header());
    digest.update(values);
    digest.finish()
}

/// One value of a file's values.
pub(crate) fn value(values: &[u8], place: usize) -> f32 {
    f32::from_le_bytes(values[4 * place..][..4].try_into().expect("four bytes"))
}

/// SplitMix64 (Steele, Lea and Flood 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut bits = *state;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Between -0.01 and 0.01, as steps of training are.
fn small(bits: u64) -> f32 {
    ((bits >> 40) as f32 / 8_388_608.0 - 1.0) / 100.0
}
