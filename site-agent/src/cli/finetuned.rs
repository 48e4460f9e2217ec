//! What the verbs of clinical tasks open: frames, labels, a finetuning that has ended.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, bail};
use common::Task;
use common::plan::ImagePlan;
use data::{FrameCache, Labels, Split, SubjectKey};
use model::Finetuner;

use crate::config::Config;
use crate::home::Home;
use crate::images;
use crate::tasks::{Examples, Finetuned, FinetunedFolder, Learnt};

/// The site's frames on a grid; `plan` is how a person names the plan that has it.
pub(super) fn open_cache(home: &Home, config: &Config, grid: &ImagePlan, plan: &str) -> anyhow::Result<FrameCache> {
    let Some(cache) = images::cache_for(home, grid, &config.intake)? else {
        bail!("no images on this plan's grid: `site-agent index <folder|zip> --plan {plan}` first");
    };
    Ok(FrameCache::open(&cache, grid)?)
}

/// The site's labels, if a folder is named: every subject and series that they name is among the images.
pub(super) fn open_labels(home: &Home, cache: &FrameCache, folder: Option<&Path>) -> anyhow::Result<Option<Labels>> {
    let Some(folder) = folder else { return Ok(None) };
    let labels = Labels::open(folder, &images::secret(home)?).context("in the site's labels")?;
    labels.check(cache).context("in the site's labels")?;
    Ok(Some(labels))
}

/// The examples of a task here; what of the labels is not among them is said.
pub(super) fn examples(task: &Task, cache: &FrameCache, labels: Option<&Labels>) -> anyhow::Result<Examples> {
    let examples = Examples::of(task, cache, labels)?;
    if let Some(left_out) = examples.left_out {
        tracing::warn!(task = %task.name, %left_out, "not all that is here can be used");
    }
    Ok(examples)
}

/// Refuses a task of whose labelled subjects none is held out: what is trained could not be measured.
pub(super) fn require_held_out(
    home: &Home,
    config: &Config,
    cache: &FrameCache,
    (task, examples): (&Task, &Examples),
) -> anyhow::Result<()> {
    let labelled: BTreeSet<SubjectKey> = examples.all.iter().map(|example| example.subject).collect();
    if labelled.is_empty() {
        bail!("only 0 of this site's subjects are labelled for the task {}: label or index more subjects", task.name);
    }
    if Split::new(&cache.subjects(), config.held_out).held_out().iter().any(|subject| labelled.contains(subject)) {
        return Ok(());
    }
    bail!(
        "none of this site's {} labelled subjects is held out to be measured (held_out is {}): raise held_out in {}, or \
         label or index more subjects",
        labelled.len(),
        config.held_out,
        home.config().display()
    )
}

/// Whom of this site a model has learnt from. Where that is not written down it is said: nothing but `held_out` keeps those who
/// trained it apart.
pub(super) fn learnt(folder: &FinetunedFolder, told: &Finetuned) -> anyhow::Result<Option<Learnt>> {
    let learnt = folder.learnt()?;
    if learnt.is_none() {
        tracing::warn!(task = %told.task.name, "whom of this site the model learnt from is not written down: that nobody measured is among them rests on `held_out`, which must not have been raised since");
    }
    Ok(learnt)
}

/// A finetuning that has ended, the frames of its grid, and its network.
pub(super) fn open(home: &Home, config: &Config, folder: &Path) -> anyhow::Result<(Finetuned, FrameCache, Finetuner)> {
    let finetuned = FinetunedFolder::at(folder);
    let Some(told) = finetuned.finetuned()? else {
        bail!(
            "{} holds no finetuning that has ended: run `site-agent finetune --out` on it to its end",
            folder.display()
        );
    };
    let cache = open_cache(home, config, &told.images, "<the finetuning's plan>")?;
    let device = config.device.parse()?;
    let network = Finetuner::new(&told.model, std::slice::from_ref(&told.task), &device, finetuned.weights()?, true)?;
    Ok((told, cache, network))
}
