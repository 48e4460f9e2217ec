//! `site-agent export`: a backbone for other programs, with its card.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use common::Digest;
use model::{export, import};

use super::weights::{OfPlan, fitted_backbone, read_weights};
use super::{Json, print, print_json, read_draft};
use crate::card::{self, Card, Origin};
use crate::durable;

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// A model of a run, or a backbone with the names of DINO, timm or Hugging Face.
    model: PathBuf,
    #[command(flatten)]
    of: OfPlan,
    /// Where to write the backbone; a model card is written beside.
    #[arg(long)]
    out: PathBuf,
    /// Whose tensor names to write.
    #[arg(long, value_enum, default_value_t)]
    layout: Layout,
    /// Channels of the images it is for, 1 or 3: a patch embedding of one channel is spread over three, one of three
    /// is summed. Without it, as many as the plan's.
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(["1", "3"]))]
    channels: Option<String>,
    #[command(flatten)]
    json: Json,
}

/// Whose tensor names an exported backbone has.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Layout {
    /// DINO's, which timm loads too.
    #[default]
    Published,
    /// Those of transformers' ViTModel; config.json is written beside. It loads a folder, so name the file
    /// model.safetensors.
    HuggingFace,
}

impl Layout {
    fn words(self) -> &'static str {
        match self {
            Layout::Published => "published DINO key names",
            Layout::HuggingFace => "key names of Hugging Face's `ViTModel` without pooler (`config.json` beside)",
        }
    }
}

pub(super) fn export(args: &ExportArgs) -> anyhow::Result<()> {
    let mut draft = read_draft(&args.of.plan)?;
    let weights = read_weights(&args.model)?;
    for written in [&args.out, &args.out.with_extension("md"), &args.out.with_file_name("config.json")] {
        let is_read = |read: &PathBuf| is_same_file(read, written);
        if let Some(read) = [&args.model, &args.of.plan].into_iter().find(|read| is_read(read)) {
            anyhow::bail!(
                "{} is what is read, and would be written over: name another file with --out",
                read.display()
            );
        }
    }
    let network = args.of.network(&draft);
    let of_a_run = import::holds_a_run(&weights, draft.aggregation.exchange);
    if of_a_run {
        // The card will say that this plan made it.
        let agreed = model::signature(&draft.model, draft.aggregation.exchange)
            .map(|signature| signature.require(&weights.signature()))?;
        agreed.with_context(|| {
            format!("{} is not a model of the plan {}", args.model.display(), args.of.plan.display())
        })?;
    }
    if let Some(channels) = &args.channels {
        draft.model.in_channels = channels.parse()?;
    }
    let backbone = fitted_backbone(&args.model, &weights, &draft.model, network)?;
    let (weights, metadata) = match args.layout {
        Layout::Published => (backbone, None),
        Layout::HuggingFace => {
            let export::HuggingFace { weights, config } = export::hugging_face(&backbone, &draft.model)?;
            durable::write(&args.out.with_file_name("config.json"), config.as_bytes())?;
            // Without it, transformers takes the file for one that it cannot read.
            (weights, Some([("format".to_owned(), "pt".to_owned())].into()))
        }
    };
    let file = weights.to_safetensors_with(metadata);
    let (digest, tensors) = (Digest::of(&file), weights.signature().len());
    durable::write(&args.out, &file)?;
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let origin = if of_a_run { Origin::Run(network.word()) } else { Origin::File(name(&args.model)) };
    let card = card::model_card(
        &draft,
        &Card {
            origin,
            layout: args.layout.words(),
            file: name(&args.out),
            digest,
            tensors,
            values: weights.signature().value_count(),
        },
    );
    durable::write(&args.out.with_extension("md"), card.as_bytes())?;
    if args.json.json {
        return print_json(&serde_json::json!({ "path": args.out, "tensors": tensors, "sha256": digest }));
    }
    print(&format!("backbone with {tensors} tensors written to {}\n", args.out.display()))
}

/// Whether two paths are one file that is there.
fn is_same_file(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}
