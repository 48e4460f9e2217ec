//! `site-agent model`: a run's last model as this site has it.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use common::{NamedTensors, RunId};

use super::{Json, print, print_json};
use crate::durable;
use crate::home::Home;
use crate::job::JobFolder;
use crate::journal::Journal;

#[derive(Debug, Args)]
pub(super) struct ModelArgs {
    /// The run, once it is finished.
    #[arg(long)]
    run: RunId,
    /// Where to write the model.
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    json: Json,
}

pub(super) fn last_model(home: &Home, args: &ModelArgs) -> anyhow::Result<()> {
    let journal = Journal::open(&home.journal())?;
    let run = journal.run(&args.run);
    let last = run.and_then(|run| run.finished).with_context(|| {
        format!(
            "the run {} has no last model at this site: it is not finished, or this site was not in it; `site-agent plans` lists \
             the runs that are known here",
            args.run
        )
    })?;
    let told = || format!("the last model of {}", args.run);
    let merged = NamedTensors::from_safetensors(&durable::read(&home.model(last))?).with_context(told)?;
    let sealed = run.and_then(|run| run.sealed.as_ref());
    let folder = sealed.map(|sealed| JobFolder::at(home.job(&args.run, sealed.round, sealed.base)));
    let own = folder.map(|folder| durable::read_if_there(&folder.local())).transpose()?.flatten();
    let (weights, kept) = match own {
        Some(file) => {
            let own = NamedTensors::from_safetensors(&file).context("the tensors that the plan keeps here")?;
            let kept = own.signature().len();
            (merged.replaced_by(own), kept)
        }
        None => (merged, 0),
    };
    durable::write(&args.out, &weights.to_safetensors())?;
    let digest = weights.digest();
    if args.json.json {
        return print_json(&serde_json::json!({ "path": args.out, "merged": last, "kept": kept, "sha256": digest }));
    }
    let own = if kept == 0 { String::new() } else { format!(", with {kept} tensors that are this site's own") };
    print(&format!("the last model of {} is {}{own}\n", args.run, args.out.display()))
}
