//! `site-agent predict`: what a finetuned network says of this site's subjects.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use data::{Split, SubjectKey};

use super::{Json, finetuned, print, print_json};
use crate::config::Config;
use crate::home::Home;
use crate::images;
use crate::tasks::{self, FinetunedFolder};

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
    /// The folder of this site's labels: masks are written in the codes of its labels.toml. Without, a class's code is its
    /// place in the task, from 1. Either way labels.toml beside the masks says which. With it subjects.csv says who is
    /// behind each pseudonym, for this user of this site alone.
    #[arg(long)]
    labels: Option<PathBuf>,
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
    let (told, cache, network) = finetuned::open(home, config, &args.finetuned)?;
    let split = Split::new(&cache.subjects(), config.held_out);
    let all = cache.subjects();
    let subjects = match args.of {
        Whom::HeldOut => {
            let folder = FinetunedFolder::at(&args.finetuned);
            let whom: BTreeSet<SubjectKey> = split.held_out().iter().copied().collect();
            if let Some(learnt) = finetuned::learnt(&folder, &told)? {
                learnt.require_unseen(&whom, &cache, folder.path())?;
            }
            split.held_out()
        }
        Whom::All => &all,
    };
    let labels = finetuned::open_labels(home, &cache, args.labels.as_deref())?;
    let shape = (told.model.image_size * told.task.input.scale, told.model.in_channels);
    let written = tasks::predict(&told.task, &cache, &network, shape, subjects, labels.as_ref(), &args.out)?;
    let named = match &labels {
        Some(labels) => {
            let identifiers = labels.identifiers(&images::secret(home)?)?;
            Some(tasks::write_pseudonyms(&args.out, subjects, &identifiers)?)
        }
        None => None,
    };
    if args.json.json {
        return print_json(&serde_json::json!({
            "subjects": written.subjects, "masks": written.masks, "rows": written.rows, "unplaced": written.unplaced,
            "named": named,
        }));
    }
    let unplaced = match written.unplaced {
        0 => String::new(),
        some => format!("; {some} series are no evenly spaced stack, and NIfTI cannot hold them"),
    };
    let codes = match written.masks {
        0 => "",
        _ => "; labels.toml there says which value of the masks is which structure",
    };
    let named = named.map_or_else(String::new, |named| {
        format!("; subjects.csv there names {named} patients: it is for this user alone and never leaves the site")
    });
    print(&format!(
        "{} subjects: {} masks and {} rows in {}{codes}{named}{unplaced}. Research use only, not for diagnosis.\n",
        written.subjects,
        written.masks,
        written.rows,
        args.out.display()
    ))
}
