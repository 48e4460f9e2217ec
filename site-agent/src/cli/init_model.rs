//! `site-agent init-model`: the first model of a run.

use std::path::PathBuf;

use clap::Args;
use common::Digest;
use model::import;

use super::weights::{Which, fitted_backbone, read_weights};
use super::{Json, print, print_json, read_draft};
use crate::{durable, trainer};

#[derive(Debug, Args)]
pub(super) struct InitModelArgs {
    /// The plan, as the coordinator wrote it (TOML).
    plan: PathBuf,
    /// Start student and teacher from the backbone in this file (safetensors with the names of DINO, timm or Hugging
    /// Face); the head stays at its random initialisation.
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
    let digest = match &args.from {
        None => trainer::first_model(&draft, &args.out)?,
        Some(from) => {
            let backbone = fitted_backbone(from, &read_weights(from)?, &draft.model, args.network)?;
            let file = import::first_weights(&draft.model, draft.seed, &backbone)?.to_safetensors();
            durable::write(&args.out, &file)?;
            Digest::of(&file)
        }
    };
    if args.json.json {
        return print_json(&serde_json::json!({ "model": digest, "path": args.out }));
    }
    print(&format!("first model {digest}\nwritten to {}\n", args.out.display()))
}
