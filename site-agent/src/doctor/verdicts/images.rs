//! Images and labels, and what was made of them.

use common::check::Check;
use data::SpotCheck;

/// Recorded sources, and those that cannot be read.
pub(in crate::doctor) fn sources(recorded: usize, unreadable: &[String]) -> Check {
    match (recorded, unreadable) {
        (0, _) => Check::not_yet("image folders", "none yet: `site-agent index <folder|zip>`"),
        (_, []) => Check::ok("image folders", format!("{recorded} recorded, all readable")),
        (_, lost) => {
            let remedy =
                "mount the share, or give the agent's user the right to read it; `images/sources.json` lists them";
            Check::failure("image folders", format!("{} of {recorded} cannot be read", lost.len()), remedy)
                .here(lost.join("; "))
        }
    }
}

/// A list of sources that cannot be read.
pub(in crate::doctor) fn unread_sources(why: &str) -> Check {
    let remedy = "restore `images/sources.json` from a backup, or remove it and `site-agent index` the folders again";
    Check::failure("image folders", "the list of them cannot be read", remedy).here(why)
}

/// A look that could not be taken.
pub(in crate::doctor) fn no_sample(why: &str) -> Check {
    Check::failure("image sample", "no file could be looked at", "see the check of the image folders").here(why)
}

/// A look at a few files.
pub(in crate::doctor) fn sample(look: Option<&SpotCheck>, tolerance: f64) -> Check {
    let name = "image sample";
    let Some(look) = look.filter(|look| look.looked_at > 0) else {
        return Check::not_yet(name, "no DICOM source is recorded");
    };
    let list = |counts: Vec<String>| if counts.is_empty() { "none".to_owned() } else { counts.join(", ") };
    let syntaxes = list(look.syntaxes.iter().map(|(name, count)| format!("{name} {count}")).collect());
    let skipped = list(look.skipped.iter().map(|(code, count)| format!("{code} {count}")).collect());
    let found = format!(
        "{} of {} images looked at were decoded (of {} files); transfer syntaxes: {syntaxes}; skipped: {skipped}",
        look.decoded, look.looked_at, look.files
    );
    let faulty = look.faulty as f64 / look.looked_at as f64;
    match (look.decoded, faulty > tolerance) {
        (0, _) => Check::failure(
            name,
            found,
            "is this the folder of MR images? `site-agent index` lists each file's reason in skipped.jsonl",
        ),
        (_, true) => Check::failure(
            name,
            found,
            "more is unreadable than `intake.tolerance` permits: see skipped.jsonl for each file's reason",
        ),
        (_, false) => Check::ok(name, found),
    }
}

/// Caches of frames: how many frames are sound, and what is wrong.
pub(in crate::doctor) fn caches(caches: usize, frames: u64, was_read: bool, wrong: &[String]) -> Check {
    match (caches, wrong) {
        (_, [_, ..]) => {
            let remedy = "remove the folder `images/cache-*` that is named, and `site-agent index` again: the images themselves are untouched";
            Check::failure("frame cache", format!("{} of {caches} caches cannot be used", wrong.len()), remedy)
                .here(wrong.join("; "))
        }
        (0, []) => Check::not_yet("frame cache", "none yet: `site-agent index` makes it"),
        (_, []) if was_read => Check::ok("frame cache", format!("{frames} frames, each as its checksum says")),
        (_, []) => Check::ok(
            "frame cache",
            format!("{frames} frames; too many to read them all here, and each is checked whenever it is drawn"),
        ),
    }
}

/// Subjects to train on, of the cache that has fewest, and how many the policy asks for. Exact counts stay here.
pub(in crate::doctor) fn subjects(training: Option<usize>, least: u32) -> Check {
    let name = "subjects";
    let Some(training) = training else {
        return Check::not_yet(name, "no images were read");
    };
    if u32::try_from(training).is_ok_and(|training| training < least) {
        let found = format!("fewer than {least} to train on, so that every round is declined");
        let remedy = "index more images, or look at `policy.min_subjects` and `held_out` in site-agent.toml";
        return Check::warning(name, found, remedy).here(format!("{training} subjects"));
    }
    Check::ok(name, format!("{least} or more to train on, as `policy.min_subjects` asks"))
        .here(format!("{training} subjects"))
}

/// The folder of labels.
pub(in crate::doctor) fn labels(is_set: bool, wrong: Option<&str>) -> Check {
    match (is_set, wrong) {
        (false, _) => Check::ok("labels", "none are set: this site takes part in no finetuning"),
        (true, None) => Check::ok("labels", "the folder is there, with its labels.toml"),
        (true, Some(wrong)) => {
            let remedy = "mount the folder, or correct `labels` in site-agent.toml";
            Check::failure("labels", "the folder, or its labels.toml, cannot be read", remedy).here(wrong)
        }
    }
}
