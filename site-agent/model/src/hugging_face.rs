//! The names that Hugging Face's `ViTModel` gives to the published tensors, and its configuration.

use common::NamedTensors;
use common::plan::ModelPlan;

use crate::names;

/// Published names and Hugging Face's, outside the blocks: what a name begins with.
const OUTSIDE: [(&str, &str); 4] = [
    ("cls_token", "embeddings.cls_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
    ("norm.", "layernorm."),
];
/// The same, in a block.
const INSIDE: [(&str, &str); 5] = [
    ("norm1.", "layernorm_before."),
    ("norm2.", "layernorm_after."),
    ("attn.proj.", "attention.output.dense."),
    ("mlp.fc1.", "intermediate.dense."),
    ("mlp.fc2.", "output.dense."),
];

/// Whose names a file's tensors have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// DINO's, which are timm's.
    Published,
    /// Those of `transformers`.
    HuggingFace,
}

impl Layout {
    /// If `name` is a class token's: what stands before a backbone's names, and whose names they are.
    pub(crate) fn at(name: &str) -> Option<(String, Layout)> {
        let layouts = [("embeddings.cls_token", Layout::HuggingFace), ("cls_token", Layout::Published)];
        let before = |(suffix, layout)| Some((name.strip_suffix(suffix)?, layout));
        let (prefix, layout) = layouts.into_iter().find_map(before)?;
        (prefix.is_empty() || prefix.ends_with('.')).then(|| (prefix.to_owned(), layout))
    }

    /// The tensors in this layout that a published one consists of, stacked along its first axis.
    pub(crate) fn parts(self, published: &str) -> Vec<String> {
        match self {
            Layout::Published => vec![published.to_owned()],
            Layout::HuggingFace => parts(published),
        }
    }
}

fn parts(published: &str) -> Vec<String> {
    let renamed = |name: &str, table: &[(&str, &str)]| {
        let rest = |&(ours, theirs): &(&str, &str)| Some(format!("{theirs}{}", name.strip_prefix(ours)?));
        table.iter().find_map(rest).unwrap_or_else(|| name.to_owned())
    };
    let Some((block, inside)) = published.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) else {
        return vec![renamed(published, &OUTSIDE)];
    };
    let layer = format!("encoder.layer.{block}");
    match inside.strip_prefix("attn.qkv.") {
        Some(kind) => ["query", "key", "value"].map(|part| format!("{layer}.attention.attention.{part}.{kind}")).into(),
        None => vec![format!("{layer}.{}", renamed(inside, &INSIDE))],
    }
}

/// A backbone with Hugging Face's names: query, key and value apart.
pub(crate) fn renamed(backbone: &NamedTensors) -> NamedTensors {
    let mut renamed = NamedTensors::new();
    for (name, tensor) in backbone.iter() {
        let parts = parts(name);
        let mut shape = tensor.shape.clone();
        shape[0] /= parts.len();
        for (part, values) in parts.iter().zip(tensor.values.chunks_exact(tensor.values.len() / parts.len())) {
            renamed.insert(part, shape.clone(), values.to_vec());
        }
    }
    renamed
}

/// The configuration beside the weights. `layer_norm_eps` is the published 1e-6, where their own default is 1e-12.
pub(crate) fn config(plan: &ModelPlan) -> String {
    let config = serde_json::json!({
        "architectures": ["ViTModel"],
        "attention_probs_dropout_prob": 0.0,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": plan.dim,
        "image_size": plan.image_size,
        "initializer_range": 0.02,
        "intermediate_size": names::mlp_hidden(plan),
        "layer_norm_eps": 1e-6,
        "model_type": "vit",
        "num_attention_heads": plan.heads,
        "num_channels": plan.in_channels,
        "num_hidden_layers": plan.depth,
        "patch_size": plan.patch_size,
        "qkv_bias": true,
        "torch_dtype": "float32",
    });
    format!("{config:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init;

    #[test]
    fn names_and_configuration_are_those_of_their_vit_model() {
        let plan = ModelPlan { image_size: 16, dim: 16, depth: 1, heads: 2, ..ModelPlan::default() };
        let published = init::initial_weights(&plan, 1).under("teacher.backbone.");
        let theirs = renamed(&published);
        // As `ViTModel(ViTConfig(num_hidden_layers=1), add_pooling_layer=False).state_dict()` lists them.
        let mut expected = vec![
            "embeddings.cls_token".to_owned(),
            "embeddings.patch_embeddings.projection.bias".to_owned(),
            "embeddings.patch_embeddings.projection.weight".to_owned(),
            "embeddings.position_embeddings".to_owned(),
            "layernorm.bias".to_owned(),
            "layernorm.weight".to_owned(),
        ];
        for layer in [
            "attention.attention.key",
            "attention.attention.query",
            "attention.attention.value",
            "attention.output.dense",
            "intermediate.dense",
            "layernorm_after",
            "layernorm_before",
            "output.dense",
        ] {
            expected.extend(["bias", "weight"].map(|kind| format!("encoder.layer.0.{layer}.{kind}")));
        }
        expected.sort();
        let mut found: Vec<String> = theirs.iter().map(|(name, _)| name.to_owned()).collect();
        found.sort();
        assert_eq!(found, expected);
        // Theirs normalizes before attention by `layernorm_before`, and before the perceptron by `layernorm_after`.
        let mut marked = published.clone();
        let pairs = [
            ("blocks.0.norm1.weight", "encoder.layer.0.layernorm_before.weight"),
            ("blocks.0.norm2.weight", "encoder.layer.0.layernorm_after.weight"),
            ("blocks.0.mlp.fc1.bias", "encoder.layer.0.intermediate.dense.bias"),
            ("blocks.0.mlp.fc2.bias", "encoder.layer.0.output.dense.bias"),
            ("blocks.0.attn.proj.bias", "encoder.layer.0.attention.output.dense.bias"),
        ];
        for (mark, (ours, _)) in pairs.iter().enumerate() {
            let of = marked.iter_mut().find(|(name, _)| name == ours).expect("a tensor of that name");
            of.1.fill(mark as f32 + 7.0);
        }
        let theirs = renamed(&marked);
        for (mark, (_, name)) in pairs.iter().enumerate() {
            assert_eq!(theirs.get(name).unwrap().values[0], mark as f32 + 7.0, "{name}");
        }
        // The packed rows are query, key and value, in this order.
        let packed = &published.get("blocks.0.attn.qkv.weight").unwrap().values;
        for (part, values) in ["query", "key", "value"].iter().zip(packed.chunks_exact(packed.len() / 3)) {
            let name = format!("encoder.layer.0.attention.attention.{part}.weight");
            assert_eq!(renamed(&published).get(&name).unwrap().values, values, "{name}");
        }
        let config: serde_json::Value = serde_json::from_str(&config(&plan)).unwrap();
        for (key, value) in [
            ("layer_norm_eps", serde_json::json!(1e-6)),
            ("hidden_size", 16.into()),
            ("intermediate_size", 64.into()),
            ("num_attention_heads", 2.into()),
            ("num_hidden_layers", 1.into()),
            ("image_size", 16.into()),
            ("patch_size", 8.into()),
            ("num_channels", 1.into()),
            ("qkv_bias", true.into()),
            ("hidden_act", "gelu".into()),
        ] {
            assert_eq!(config[key], value, "{key}");
        }
    }
}
