//! `site-agent init-model`: the first model of a run.

use std::path::PathBuf;

use clap::Args;

use super::weights::{Which, fitted_backbone, read_weights};
use super::{Json, print, print_json, read_draft};
use crate::trainer;

#[derive(Debug, Args)]
pub(super) struct InitModelArgs {
    /// The plan, as the coordinator wrote it (TOML).
    plan: PathBuf,
    /// Start from the backbone in this file (safetensors, or a .pth of PyTorch 1.6 or later, with the names of DINO, timm or
    /// Hugging Face, or a model of a run); the heads stay at their random initialisation.
    #[arg(long)]
    from: Option<PathBuf>,
    /// Whose backbone, if the file of --from holds both.
    #[arg(long, value_enum, default_value_t, requires = "from")]
    network: Which,
    /// Where to write the model.
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    json: Json,
}

pub(super) fn init_model(args: &InitModelArgs) -> anyhow::Result<()> {
    let draft = read_draft(&args.plan)?;
    let fitted = |from: &PathBuf| fitted_backbone(from, &read_weights(from)?, &draft.model, args.network);
    let backbone = args.from.as_ref().map(fitted).transpose()?;
    let digest = trainer::first_model(&draft, backbone.as_ref(), &args.out)?;
    if args.json.json {
        return print_json(&serde_json::json!({ "model": digest, "path": args.out }));
    }
    print(&format!("first model {digest}\nwritten to {}\n", args.out.display()))
}

#[cfg(test)]
mod tests {
    use common::NamedTensors;

    use super::*;

    const CHECKPOINT: &[u8] = include_bytes!("../../model/tests/fixtures/dino_tiny.pth");
    const NETWORK: &[u8] = include_bytes!("../../model/tests/fixtures/timm_tiny.safetensors");

    #[test]
    fn a_run_starts_from_a_checkpoint_of_pytorch_whatever_its_name_ends_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mut plan: toml::Table = include_str!("../../../tests/plans/story.toml").parse().unwrap();
        let model = plan["model"].as_table_mut().unwrap();
        for (key, value) in [("dim", 16), ("depth", 2), ("heads", 2), ("image_size", 32), ("patch_size", 8)] {
            model.insert(key.to_owned(), value.into());
        }
        std::fs::write(path("plan.toml"), plan.to_string()).unwrap();
        let first = |file: &[u8], network: Which| {
            std::fs::write(path("weights"), file).unwrap();
            let (from, out) = (Some(path("weights")), path("first.safetensors"));
            init_model(&InitModelArgs { plan: path("plan.toml"), from, network, out, json: Json { json: true } })?;
            Ok::<_, anyhow::Error>(NamedTensors::from_safetensors(&std::fs::read(path("first.safetensors"))?)?)
        };
        let published = first(NETWORK, Which::Teacher).unwrap();
        assert_eq!(first(CHECKPOINT, Which::Teacher).unwrap(), published);
        assert_ne!(first(CHECKPOINT, Which::Student).unwrap(), published);
        let refused = format!("{:#}", first(&CHECKPOINT[..5000], Which::Teacher).unwrap_err());
        assert!(refused.contains("weights: the checkpoint's zip archive is damaged"), "{refused}");
    }
}
