//! `site-agent predict`: what a finetuned network says of this site's subjects.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, ValueEnum};
use data::{FrameCache, Split};
use model::Finetuner;

use super::{Json, print, print_json};
use crate::config::Config;
use crate::home::Home;
use crate::images;
use crate::tasks::{self, Finetuned, FinetunedFolder};

#[derive(Debug, Args)]
pub(super) struct PredictArgs {
    /// The folder of a finetuning that has ended.
    #[arg(long)]
    finetuned: PathBuf,
    /// The folder to write into. It shows images and is for this site alone.
    #[arg(long)]
    out: PathBuf,
    /// Of whom.
    #[arg(long, value_enum, default_value_t = Whom::HeldOut)]
    of: Whom,
    #[command(flatten)]
    json: Json,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Whom {
    /// The subjects that no training saw.
    HeldOut,
    /// All subjects of this site.
    All,
}

pub(super) fn predict(home: &Home, config: &Config, args: &PredictArgs) -> anyhow::Result<()> {
    let (told, cache, network) = open(home, config, &args.finetuned)?;
    let split = Split::new(&cache.subjects(), config.held_out);
    let all = cache.subjects();
    let subjects = match args.of {
        Whom::HeldOut => split.held_out(),
        Whom::All => &all,
    };
    let shape = (told.model.image_size * told.task.input.scale, told.model.in_channels);
    let written = tasks::predict(&told.task, &cache, &network, shape, subjects, &args.out)?;
    if args.json.json {
        return print_json(&serde_json::json!({
            "subjects": written.subjects, "masks": written.masks, "rows": written.rows, "unplaced": written.unplaced,
        }));
    }
    let unplaced = match written.unplaced {
        0 => String::new(),
        some => format!("; {some} series are no evenly spaced stack, and NIfTI cannot hold them"),
    };
    print(&format!(
        "{} subjects: {} masks and {} rows in {}{unplaced}. Research use only, not for diagnosis.\n",
        written.subjects,
        written.masks,
        written.rows,
        args.out.display()
    ))
}

/// A finetuning that has ended, the frames of its grid, and its network.
pub(super) fn open(
    home: &Home,
    config: &Config,
    folder: &std::path::Path,
) -> anyhow::Result<(Finetuned, FrameCache, Finetuner)> {
    let finetuned = FinetunedFolder::at(folder);
    let Some(told) = finetuned.finetuned()? else {
        bail!(
            "{} holds no finetuning that has ended: run `site-agent finetune --out` on it to its end",
            folder.display()
        );
    };
    let Some(cache) = images::cache_for(home, &told.images)? else {
        bail!("no images on this finetuning's grid: `site-agent index <folder|zip> --plan <its plan>` first");
    };
    let cache = FrameCache::open(&cache, &told.images)?;
    let device = config.device.parse()?;
    let network = Finetuner::new(&told.model, &told.task, &device, finetuned.weights()?, true)?;
    Ok((told, cache, network))
}
