//! Backbones that other programs saved: DINO's checkpoints, timm's and Hugging Face's files.
//!
//! What a name begins with (`module.`, `student.`, `backbone.`, `vit.`) is found, not assumed: it is whatever stands
//! before `cls_token`.

use common::plan::{Exchange, ModelPlan};
use common::{NamedTensors, Tensor};

use crate::hugging_face::Layout;
use crate::names::{self, STUDENT, TEACHER};
use crate::{ModelError, export, init, position};

/// Tensors that a backbone's features do not depend on: classifiers, the pooler, what masked patches are replaced by.
const IGNORED: [&str; 5] = ["head.", "classifier.", "pooler.", "mask_token", "embeddings.mask_token"];
/// The position embedding.
const PLACES: &str = "pos_embed";

/// One of the two networks of self-distillation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// The network that is trained.
    Student,
    /// Its moving average, which is what is used.
    Teacher,
}

impl Network {
    fn word(self) -> &'static str {
        match self {
            Network::Student => "student",
            Network::Teacher => "teacher",
        }
    }

    /// The network that a name says it belongs to.
    fn of(prefix: &str) -> Option<Network> {
        let network = |segment| [Network::Student, Network::Teacher].into_iter().find(|one| one.word() == segment);
        prefix.split('.').find_map(network)
    }
}

/// A backbone with published key names, and what was changed to fit it to the plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// The tensors that the plan's backbone has.
    pub backbone: NamedTensors,
    /// Each change of numbers, in words; none if they are the file's.
    pub changes: Vec<String>,
}

/// Why a file's backbone is not the plan's. Tensors are named as the file names them.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ImportError {
    /// Nothing looks like a Vision Transformer.
    #[error(
        "no backbone is in this file: none of its {count} tensors is named cls_token or embeddings.cls_token{}; give \
         the weights of a Vision Transformer with the names of DINO, timm or Hugging Face", example(.first)
    )]
    NoBackbone {
        /// Tensors in the file.
        count: usize,
        /// The first of them.
        first: Option<String>,
    },
    /// Only the other network is there.
    #[error("the file holds the backbone of the {found} ({place}*), not of the {wanted}: ask for the {found}'s")]
    OtherNetwork {
        /// What was asked for.
        wanted: &'static str,
        /// What is there.
        found: &'static str,
        /// What its names begin with.
        place: String,
    },
    /// More than one backbone could be meant.
    #[error("the file holds more than one backbone ({first}* and {second}*): keep the tensors of one of them")]
    Ambiguous {
        /// What the names of one begin with.
        first: String,
        /// What the names of another begin with.
        second: String,
    },
    /// A tensor is not there.
    #[error("tensor {name}: the plan's network has shape {expected:?}, the file has no such tensor; {REMEDY}")]
    Missing {
        /// The tensor.
        name: String,
        /// Its shape in the plan's network.
        expected: Vec<usize>,
    },
    /// A tensor has another shape.
    #[error("tensor {name}: the plan's network has shape {expected:?}, the file has {found:?}; {REMEDY}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape in the plan's network.
        expected: Vec<usize>,
        /// Its shape in the file.
        found: Vec<usize>,
    },
    /// A tensor that the plan's network lacks, so that features would not be the file's.
    #[error("tensor {name}: the plan's network has no such tensor, the file has shape {found:?}; {REMEDY}")]
    Unexpected {
        /// The tensor.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
    },
    /// A position embedding of something else than a class token and a square of patches.
    #[error(
        "tensor {name} of shape {found:?} is not a class token and a square grid of patches: only square images' position \
         embeddings are resampled; the plan's network has shape {expected:?}"
    )]
    Grid {
        /// The tensor.
        name: String,
        /// Its shape in the plan's network.
        expected: Vec<usize>,
        /// Its shape in the file.
        found: Vec<usize>,
    },
}

const REMEDY: &str =
    "set dim, depth, heads, patch_size and mlp_ratio of the plan's [model] to those of the file's network";

fn example(name: &Option<String>) -> String {
    name.as_ref().map_or_else(String::new, |name| format!(" (the first is {name})"))
}

/// The backbone of `wanted` among `tensors`, as the plan's network has it, with published key names.
pub fn backbone(tensors: NamedTensors, plan: &ModelPlan, wanted: Network) -> Result<NamedTensors, ModelError> {
    imported(&tensors, plan, wanted).map(|imported| imported.backbone)
}

/// As [`backbone`], and what was changed to fit it to the plan.
///
/// The number of heads leaves no trace in a file, so a plan that has another one is not noticed.
pub fn imported(tensors: &NamedTensors, plan: &ModelPlan, wanted: Network) -> Result<Imported, ModelError> {
    let (prefix, layout) = place(tensors, wanted)?;
    let group = tensors.under(&prefix);
    let mut taken = NamedTensors::new();
    for (name, expected) in names::backbone(plan) {
        let joined = joined(&group, &name, expected, layout, &prefix)?;
        taken.insert(name, joined.shape, joined.values);
    }
    let known: Vec<String> = names::backbone(plan).iter().flat_map(|(name, _)| layout.parts(name)).collect();
    let unknown = |name: &str| {
        !known.iter().any(|known| known == name) && !IGNORED.iter().any(|ignored| name.starts_with(ignored))
    };
    if let Some((name, tensor)) = group.iter().find(|(name, _)| unknown(name)) {
        return Err(ImportError::Unexpected { name: format!("{prefix}{name}"), found: tensor.shape.clone() }.into());
    }
    taken.require_finite()?;
    fitted(taken, plan)
}

/// Whether these are the weights of a run of this program, of any plan with that exchange, rather than some other program's.
pub fn holds_a_run(tensors: &NamedTensors, exchange: Exchange) -> bool {
    let has = |network: &str| tensors.get(&format!("{network}head.last_layer.weight_v")).is_some();
    match exchange {
        Exchange::All => has(STUDENT) && has(TEACHER) && tensors.get(names::CENTER).is_some(),
        Exchange::Student => has(STUDENT) && tensors.iter().all(|(name, _)| name.starts_with(STUDENT)),
    }
}

/// The first weights of a run that starts from a backbone: it is the student's and the teacher's; the head is drawn from
/// `seed`, as in [`initial_weights`](crate::initial_weights).
pub fn first_weights(plan: &ModelPlan, seed: u64, backbone: &NamedTensors) -> Result<NamedTensors, ModelError> {
    init::backbone_signature(plan)?.require(&backbone.signature())?;
    let of = |network: &str| backbone.clone().prefixed(names::BACKBONE).prefixed(network);
    Ok(init::initial_weights(plan, seed).joined(of(STUDENT)).joined(of(TEACHER)))
}

/// Where the wanted backbone is: what its names begin with, and whose names they are.
fn place(tensors: &NamedTensors, wanted: Network) -> Result<(String, Layout), ImportError> {
    let places: Vec<(String, Layout)> = tensors.iter().filter_map(|(name, _)| Layout::at(name)).collect();
    let of = |network| places.iter().filter(move |(prefix, _)| Network::of(prefix) == network);
    let named = [Network::Student, Network::Teacher].into_iter().find(|&network| of(Some(network)).next().is_some());
    let mut candidates = match named {
        None => of(None),
        Some(_) => of(Some(wanted)),
    };
    match (candidates.next(), candidates.next(), named) {
        (Some(only), None, _) => Ok(only.clone()),
        (Some((first, _)), Some((second, _)), _) => {
            Err(ImportError::Ambiguous { first: first.clone(), second: second.clone() })
        }
        (None, _, Some(other)) => Err(ImportError::OtherNetwork {
            wanted: wanted.word(),
            found: other.word(),
            place: of(Some(other)).next().map_or_else(String::new, |(prefix, _)| prefix.clone()),
        }),
        (None, _, None) => Err(ImportError::NoBackbone {
            count: tensors.iter().count(),
            first: tensors.iter().next().map(|(name, _)| name.to_owned()),
        }),
    }
}

/// A published tensor, from the one or three of the file that it is made of. Channels and places stay the file's.
fn joined(
    group: &NamedTensors,
    name: &str,
    mut expected: Vec<usize>,
    layout: Layout,
    prefix: &str,
) -> Result<Tensor, ImportError> {
    let parts = layout.parts(name);
    let mut part = expected.clone();
    part[0] /= parts.len();
    let mut values = Vec::new();
    for source in parts {
        let told = || format!("{prefix}{source}");
        let tensor = group.get(&source).ok_or_else(|| ImportError::Missing { name: told(), expected: part.clone() })?;
        match (name, tensor.shape.as_slice()) {
            (export::PATCH, &[_, channels @ (1 | 3), _, _]) => part[1] = channels,
            (PLACES, &[1, places, dim]) if dim == part[2] => {
                if side(places).is_none() {
                    return Err(ImportError::Grid { name: told(), expected: part, found: tensor.shape.clone() });
                }
                part[1] = places;
            }
            _ => {}
        }
        if tensor.shape != part {
            return Err(ImportError::Shape { name: told(), expected: part, found: tensor.shape.clone() });
        }
        values.extend_from_slice(&tensor.values);
    }
    expected[1..].copy_from_slice(&part[1..]);
    Ok(Tensor { shape: expected, values })
}

/// Patches along a side, where `places` are a class token and a square of patches.
fn side(places: usize) -> Option<usize> {
    let patches = places.checked_sub(1)?;
    Some(patches.isqrt()).filter(|side| *side > 0 && side * side == patches)
}

/// A backbone with the plan's channels and image size.
fn fitted(taken: NamedTensors, plan: &ModelPlan) -> Result<Imported, ModelError> {
    let extent = |name: &str| taken.get(name).map_or(0, |tensor| tensor.shape[1]);
    let (channels, from) = (extent(export::PATCH), side(extent(PLACES)).unwrap_or(0));
    let to = plan.image_size / plan.patch_size;
    let mut changes = Vec::new();
    if channels != plan.in_channels {
        let how = if channels == 3 { "summed into" } else { "spread over" };
        changes.push(format!("the patch embedding of {channels} channel(s) was {how} {}", plan.in_channels));
    }
    let mut backbone = export::with_channels(taken, plan.in_channels)?;
    if let (Some(matrix), Some(table)) = (position::resampling(from, to), backbone.get(PLACES).cloned()) {
        changes.push(format!("the position embedding of {from} x {from} patches was resampled to {to} x {to}"));
        backbone.insert(PLACES, vec![1, to * to + 1, plan.dim], resampled(&table.values, &matrix, plan.dim, from));
    }
    Ok(Imported { backbone, changes })
}

/// The class token's embedding, and the patches' on another grid.
fn resampled(table: &[f32], matrix: &[f32], dim: usize, from: usize) -> Vec<f32> {
    let (class, grid) = table.split_at(dim);
    let rows = matrix.chunks_exact(from * from).flat_map(|weights| {
        let value = move |column: usize| {
            let terms = weights.iter().zip(grid.chunks_exact(dim));
            terms.map(|(&weight, row)| f64::from(weight) * f64::from(row[column])).sum::<f64>() as f32
        };
        (0..dim).map(value)
    });
    class.iter().copied().chain(rows).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backbone, DeviceChoice, initial_weights, weights_file};

    /// A network of timm's with images and its features of them; `scripts/interchange.py fixture` writes it.
    const TIMM: &[u8] = include_bytes!("../tests/fixtures/timm_tiny.safetensors");
    /// A checkpoint of DINO's code, of which the teacher's backbone is that network and the student's is twice that.
    const DINO: &[u8] = include_bytes!("../tests/fixtures/dino_tiny.pth");

    fn plan() -> ModelPlan {
        let mut plan = ModelPlan { dim: 16, depth: 2, heads: 2, image_size: 32, ..ModelPlan::default() };
        (plan.head.hidden, plan.head.bottleneck, plan.head.prototypes) = (8, 4, 6);
        plan
    }

    /// Another backbone for each seed.
    fn published(plan: &ModelPlan, seed: u64) -> NamedTensors {
        initial_weights(plan, seed).under("student.backbone.")
    }

    fn features(plan: &ModelPlan, backbone: &NamedTensors, image: &[f32], side: usize) -> Vec<f32> {
        Backbone::load(plan, &DeviceChoice::Cpu, backbone).unwrap().features(image, 1, side).unwrap().concat()
    }

    fn refusal(tensors: NamedTensors, plan: &ModelPlan) -> String {
        backbone(tensors, plan, Network::Teacher).unwrap_err().to_string()
    }

    #[test]
    fn a_network_that_timm_saved_has_timms_features() {
        let (file, plan) = (weights_file::read(TIMM).unwrap(), plan());
        let (images, expected) = (file.get("images").unwrap(), file.get("features").unwrap());
        let imported = imported(&file, &plan, Network::Teacher).unwrap();
        assert!(imported.changes.is_empty());
        let network = Backbone::load(&plan, &DeviceChoice::Cpu, &imported.backbone).unwrap();
        let found = network.features(&images.values, images.shape[0], 32).unwrap().concat();
        let differences = found.iter().zip(&expected.values).map(|(ours, theirs)| (ours - theirs).abs());
        let largest = differences.fold(0.0, f32::max);
        assert!(found.len() == expected.values.len() && largest < 1e-4, "{largest}");
    }

    #[test]
    fn a_checkpoint_that_dinos_code_saved_has_the_features_of_the_network_that_it_was_made_of() {
        let (file, plan) = (weights_file::read(DINO).unwrap(), plan());
        let of = |network| imported(&file, &plan, network).unwrap();
        let (student, teacher) = (of(Network::Student), of(Network::Teacher));
        assert!(student.changes.is_empty() && teacher.changes.is_empty());
        let timm = weights_file::read(TIMM).unwrap();
        let published = backbone(timm.clone(), &plan, Network::Teacher).unwrap();
        assert_eq!(teacher.backbone, published);
        let images = &timm.get("images").unwrap().values[..32 * 32];
        assert_eq!(features(&plan, &teacher.backbone, images, 32), features(&plan, &published, images, 32));
        for ((name, twice), (_, once)) in student.backbone.iter().zip(published.iter()) {
            assert!(twice.values.iter().zip(&once.values).all(|(twice, once)| *twice == 2.0 * once), "{name}");
        }
        assert!(!holds_a_run(&file, Exchange::All));
    }

    #[test]
    fn a_published_checkpoint_gives_the_network_that_was_asked_for_whatever_its_names_begin_with() {
        let plan = plan();
        let (one, other) = (published(&plan, 1), published(&plan, 2));
        let mut head = NamedTensors::new();
        head.insert("head.mlp.0.weight", vec![1, 16], vec![0.0; 16]);
        head.insert("head.last_layer.weight_g", vec![3, 1], vec![1.0; 3]);
        let mut loss = NamedTensors::new();
        loss.insert("dino_loss.center", vec![1, 3], vec![0.0; 3]);
        let network = |backbone: &NamedTensors| backbone.clone().prefixed("backbone.").joined(head.clone());
        let checkpoint =
            network(&one).prefixed("student.module.").joined(network(&other).prefixed("teacher.")).joined(loss);
        assert_eq!(backbone(checkpoint.clone(), &plan, Network::Student).unwrap(), one);
        assert_eq!(backbone(checkpoint, &plan, Network::Teacher).unwrap(), other);
        for prefix in ["", "module."] {
            let file = network(&one).prefixed(prefix);
            assert_eq!(backbone(file, &plan, Network::Teacher).unwrap(), one, "{prefix}backbone.");
            let file = one.clone().joined(head.clone()).prefixed(prefix);
            assert_eq!(backbone(file, &plan, Network::Teacher).unwrap(), one, "{prefix}");
        }
        let run = initial_weights(&plan, 3);
        assert!(holds_a_run(&run, Exchange::All) && !holds_a_run(&one, Exchange::All));
        let student = crate::travelling(run.clone(), Exchange::Student);
        assert!(holds_a_run(&student, Exchange::Student) && !holds_a_run(&run, Exchange::Student));
        assert_eq!(backbone(run, &plan, Network::Teacher).unwrap(), published(&plan, 3));
    }

    #[test]
    fn a_backbone_in_the_hugging_face_layout_comes_back_to_the_same_bits() {
        let plan = plan();
        let ours = published(&plan, 4);
        let theirs = export::hugging_face(&ours, &plan).unwrap();
        assert_eq!(theirs.weights.get("encoder.layer.1.attention.attention.key.weight").unwrap().shape, [16, 16]);
        let qkv = &ours.get("blocks.1.attn.qkv.weight").unwrap().values;
        let key = &theirs.weights.get("encoder.layer.1.attention.attention.key.weight").unwrap().values;
        assert_eq!(key, &qkv[256..512]);
        // A classifier's file puts the backbone under `vit.` and its own layers beside it.
        let mut layers = theirs.weights.clone().prefixed("vit.");
        layers.insert("classifier.weight", vec![2, 16], vec![0.0; 32]);
        layers.insert("vit.pooler.dense.bias", vec![16], vec![0.0; 16]);
        // That of a masked training has what stands for a masked patch.
        layers.insert("vit.embeddings.mask_token", vec![1, 1, 16], vec![0.0; 16]);
        for file in [theirs.weights, layers] {
            let file = NamedTensors::from_safetensors(&file.to_safetensors()).unwrap();
            assert_eq!(backbone(file, &plan, Network::Teacher).unwrap().to_safetensors(), ours.to_safetensors());
        }
        assert!(export::hugging_face(&ours, &ModelPlan { depth: 1, ..plan }).is_err());
    }

    #[test]
    fn a_tensor_that_does_not_fit_is_named_as_the_file_names_it_with_both_shapes() {
        let plan = plan();
        let ours = published(&plan, 5);
        let without = |name: &str, tensors: &NamedTensors| -> NamedTensors {
            let kept = tensors.iter().filter(|(other, _)| *other != name);
            kept.map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect()
        };
        let file = without("blocks.1.mlp.fc1.weight", &ours).prefixed("teacher.backbone.");
        let words = refusal(file, &plan);
        assert!(words.contains("teacher.backbone.blocks.1.mlp.fc1.weight: the plan's network has shape [64, 16]"));
        let words = refusal(ours.clone(), &ModelPlan { dim: 32, ..plan.clone() });
        assert!(words.contains("has shape [1, 1, 32], the file has [1, 1, 16]; set dim"), "{words}");
        let words = refusal(ours.clone(), &ModelPlan { depth: 1, ..plan.clone() });
        assert!(words.contains("blocks.1.attn.proj.bias") && words.contains("no such tensor"), "{words}");
        let theirs = export::hugging_face(&ours, &plan).unwrap().weights;
        let words = refusal(without("encoder.layer.0.attention.attention.value.bias", &theirs), &plan);
        assert!(words.contains("encoder.layer.0.attention.attention.value.bias: the plan's network has shape [16]"));
        let mut oblong = ours.clone();
        oblong.insert("pos_embed", vec![1, 13, 16], vec![0.0; 208]);
        assert!(refusal(oblong, &plan).contains("pos_embed of shape [1, 13, 16] is not a class token and a square"));
        let mut infinite = ours;
        infinite.insert("norm.bias", vec![16], vec![f32::INFINITY; 16]);
        assert!(refusal(infinite, &plan).contains("norm.bias holds inf"));
    }

    #[test]
    fn a_file_without_the_backbone_asked_for_is_refused_with_what_it_holds() {
        let plan = plan();
        let ours = published(&plan, 6);
        let words = refusal(ours.clone().prefixed("student.module.backbone."), &plan);
        assert!(words.contains("the student (student.module.backbone.*), not of the teacher"), "{words}");
        let words = refusal(ours.clone().prefixed("a.").joined(ours.prefixed("b.")), &plan);
        assert!(words.contains("a.* and b.*"), "{words}");
        let mut convolution = NamedTensors::new();
        convolution.insert("conv1.weight", vec![1], vec![0.0]);
        assert!(refusal(convolution, &plan).contains("none of its 1 tensors"));
        assert!(refusal(NamedTensors::new(), &plan).contains("none of its 0 tensors"));
    }

    #[test]
    fn a_color_network_sees_gray_images_as_equal_channels_and_a_gray_one_the_other_way() {
        let (gray, color) = (plan(), ModelPlan { in_channels: 3, ..plan() });
        let image: Vec<f32> = (0..32 * 32).map(|i| (i as f32 * 0.13).sin()).collect();
        for (from, to) in [(&color, &gray), (&gray, &color)] {
            let file = published(from, 7);
            let fitted = imported(&file, to, Network::Teacher).unwrap();
            assert_eq!(fitted.changes.len(), 1);
            let before = features(from, &file, &image.repeat(from.in_channels), 32);
            let after = features(to, &fitted.backbone, &image.repeat(to.in_channels), 32);
            assert!(before.iter().zip(&after).all(|(before, after)| (before - after).abs() < 1e-5));
        }
    }

    #[test]
    fn a_network_of_another_image_size_has_the_features_that_it_would_have_at_the_plans() {
        let (large, small) = (plan(), ModelPlan { image_size: 24, ..plan() });
        let file = published(&large, 8);
        let fitted = imported(&file, &small, Network::Teacher).unwrap();
        assert_eq!(fitted.changes, ["the position embedding of 4 x 4 patches was resampled to 3 x 3"]);
        let image: Vec<f32> = (0..24 * 24).map(|i| (i as f32 * 0.17).sin()).collect();
        let (before, after) = (features(&large, &file, &image, 24), features(&small, &fitted.backbone, &image, 24));
        assert!(before.iter().zip(&after).all(|(before, after)| (before - after).abs() < 1e-5));
    }

    #[test]
    fn a_run_starts_from_a_backbone_with_a_random_head() {
        let plan = plan();
        let ours = published(&plan, 9);
        let (first, random) = (first_weights(&plan, 10, &ours).unwrap(), initial_weights(&plan, 10));
        assert_eq!(first.signature(), random.signature());
        for network in ["student.", "teacher."] {
            assert_eq!(first.under(&format!("{network}backbone.")), ours);
            assert_eq!(first.under(&format!("{network}head.")), random.under(&format!("{network}head.")));
        }
        assert!(first_weights(&ModelPlan { depth: 1, ..plan }, 10, &ours).is_err());
    }
}
