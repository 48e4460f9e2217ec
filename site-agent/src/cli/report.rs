//! `site-agent report`: one page on finished finetunings.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;

use super::{finetuned, print};
use crate::config::Config;
use crate::durable;
use crate::home::Home;
use crate::report::{self, Audience, Report, Run, Shown, TaskRuns};

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Folders of finetunings that have ended and were measured; those that differ by the seed alone are one arm.
    #[arg(required = true)]
    finetuned: Vec<PathBuf>,
    /// The page to write (HTML).
    #[arg(long)]
    out: PathBuf,
    /// What the page is of: a site, a vendor.
    #[arg(long, default_value = "Clinical tasks")]
    title: String,
    /// Draw subjects, and tell exact counts and values of single subjects. Such a page stays at the site; without, it holds
    /// nothing of a single subject.
    #[arg(long)]
    with_images: bool,
    /// The folder of this site's labels, for the pictures.
    #[arg(long, requires = "with_images")]
    labels: Option<PathBuf>,
}

pub(super) fn report(home: &Home, config: &Config, args: &ReportArgs) -> anyhow::Result<()> {
    let runs: Vec<Run> = args.finetuned.iter().map(|folder| report::read_run(folder)).collect::<Result<_, _>>()?;
    let tasks = report::grouped(runs)?;
    let (audience, shown) = match args.with_images {
        true => (Audience::Site, pictures(home, config, args, &tasks)?),
        false => (Audience::Elsewhere, BTreeMap::new()),
    };
    let report = Report { title: args.title.clone(), audience, tasks, shown };
    durable::write(&args.out, report::page(&report).as_bytes())?;
    let of = match audience {
        Audience::Site => "It contains images: keep it at this site.",
        Audience::Elsewhere => "It holds no image and nothing of a single subject.",
    };
    print(&format!("{} task(s) in {}. {of}\n", report.tasks.len(), args.out.display()))
}

/// For each task the subjects of its leading arm, by the lowest seed.
fn pictures(
    home: &Home,
    config: &Config,
    args: &ReportArgs,
    tasks: &[TaskRuns],
) -> anyhow::Result<BTreeMap<usize, Vec<Shown>>> {
    let mut shown = BTreeMap::new();
    for (place, task) in tasks.iter().enumerate() {
        let Some(leading) = task.leading() else { continue };
        let run = task.arms[leading].first();
        let (told, cache, network) = finetuned::open(home, config, &run.folder)?;
        let labels = finetuned::open_labels(home, &cache, args.labels.as_deref())?;
        let examples = finetuned::examples(&told.task, &cache, labels.as_ref())?;
        shown.insert(place, report::draw(run, &cache, &examples, config.held_out, &network)?);
    }
    Ok(shown)
}
