//! Looks at this machine and at what lies in the state folder. Thin: what it means is in [`super::verdicts`].

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use common::check::Check;
use common::plan::ImagePlan;
use common::privacy::SUBJECTS_ROUNDED_TO;
use common::{Digest, Plan, machine};
use data::{FrameCache, Split, SpotCheck};

use super::verdicts;
use crate::config::{Config, Source, Sources};
use crate::enrol::EnrolError;
use crate::hands::Hands;
use crate::home::Home;
use crate::journal::Journal;
use crate::ledger::Ledger;
use crate::runs::Runs;
use crate::standing;
use crate::{approvals, clock, enrol, images, plan_words, switch, training};

/// Files of each source that are looked at.
const SAMPLE: usize = 24;
/// Bytes of frames that are read to hold them to their checksums.
const MOST_READ: u64 = 4 << 30;

/// What this site permits, and who it is.
pub(super) fn permissions(home: &Home, config: &Config) -> Vec<Check> {
    let enrolled = match enrol::enrolled(home) {
        Ok(who) => Ok(Some((who.site.to_string(), who.federation.to_string()))),
        Err(EnrolError::NotYet) => Ok(None),
        Err(error) => Err(error.to_string()),
    };
    let is_enrolled = !matches!(enrolled, Ok(None));
    let mode = |path: &Path| fs::metadata(path).ok().map(|file| file.permissions().mode() & 0o777);
    // A ledger that does not hold is a finding of its own check; here it only says how runs stand.
    let runs = Runs::of(&Ledger::at(home.ledger())).unwrap_or_default();
    let still = standing::still(switch::is_stopped(home), config.policy.hours, clock::wall());
    vec![
        verdicts::policy(&config.policy),
        verdicts::standing(still, config.policy.hours),
        plans(home, config, &runs),
        verdicts::rounds(runs.latest()),
        verdicts::enrolment(enrolled),
        verdicts::keys(
            is_enrolled,
            images::has_caches(home),
            &[
                ("site.key", mode(&home.identity().join("site.key"))),
                ("signing.key", mode(&home.identity().join("signing.key"))),
                ("secret.key", mode(&images::secret_path(home))),
            ],
        ),
        verdicts::private(mode(home.root()), mode(&home.images())),
        verdicts::journal(Journal::open(&home.journal()).err().map(|error| error.to_string()).as_deref()),
        verdicts::ledger(Ledger::at(home.ledger()).verify(|_, _| {}).map(|head| head.entries).map_err(told)),
    ]
}

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn plans(home: &Home, config: &Config, runs: &Runs) -> Check {
    let both = approvals::announced(home)
        .map_err(told)
        .and_then(|known| Ok((known, approvals::approved(home).map_err(told)?)));
    let (known, approved) = match both {
        Ok(both) => both,
        Err(why) => return verdicts::unread_plans(&why),
    };
    let (over, open): (Vec<_>, Vec<_>) = known.iter().partition(|(_, plan)| runs.end(plan.run()).is_some());
    let waiting = open.iter().filter(|(digest, _)| !approved.contains(digest)).map(|(digest, _)| digest.short());
    let objects = |digest: &Digest, plan: &Plan| {
        // Who signed, if that can be read: otherwise nobody.
        let signers = Hands::under(home, *digest).unwrap_or_default().signers;
        !plan_words::objections(&config.policy, plan, &signers).is_empty()
    };
    let refused = open.iter().filter(|(digest, plan)| objects(digest, plan)).count();
    verdicts::approvals(known.len(), over.len(), &waiting.collect::<Vec<_>>(), refused)
}

/// Room, memory, device, and whether the trainer starts.
pub(super) fn machine(home: &Home, config: &Config, program: &Path) -> Vec<Check> {
    // Plans that cannot be read are a finding of their own check; here they only say how large a model is.
    let plans = approvals::announced(home).unwrap_or_default();
    let largest = plans.iter().map(|(_, plan): &(Digest, Plan)| plan.signature.value_count() as u64 * 4).max();
    // A model of the published size, until a plan is known: student and teacher of ViT-S/8, and both heads.
    let model = largest.unwrap_or(200_000_000);
    let driver = fs::read_to_string("/proc/driver/nvidia/version").ok().and_then(|text| driver_version(&text));
    let step = training::try_device(program, config, Duration::from_secs(120));
    vec![
        // The model and its successor, a checkpoint with both networks and AdamW's moments, what is kept, the delta twice.
        verdicts::disk(free_bytes(home.root()), model * 10 + (1 << 30)),
        // Both networks, gradients, moments, the round's start, and activations of a batch.
        verdicts::memory(memory_available(), model * 8 + (1 << 30)),
        verdicts::parser(data::holds_files()),
        verdicts::gpu(&config.device, config.precision, cfg!(feature = "cuda"), driver.as_deref()),
        verdicts::trainer(&config.device, step.as_ref().map(|took| *took).map_err(String::as_str)),
    ]
}

/// Sources, a sample of their files, caches and labels.
pub(super) fn images(home: &Home, config: &Config, program: &Path) -> Vec<Check> {
    // A list that cannot be read is no empty one.
    let (sources, unread_list) = match images::sources(home) {
        Ok(sources) => (sources, None),
        Err(error) => (Sources::default(), Some(error.to_string())),
    };
    let unreadable = |source: &&Source| {
        let path = source.path();
        if path.is_dir() { fs::read_dir(path).map(drop) } else { fs::File::open(path).map(drop) }.is_err()
    };
    let lost: Vec<String> =
        sources.0.iter().filter(unreadable).map(|source| source.path().display().to_string()).collect();
    let look = |source: &Source| match source {
        Source::Dicom(path) => Some(images::spot_check(home, path, &config.intake, program, SAMPLE).map_err(told)),
        Source::Public { .. } => None,
    };
    let sample = sources.0.iter().filter_map(look).collect::<Result<Vec<_>, String>>();
    let sample = sample.map(|looks| looks.into_iter().reduce(SpotCheck::and));
    let unread = |path: &Path| fs::read(path).err().map(|error| format!("{}: {error}", path.display()));
    let labels = config.labels.as_ref().map(|folder| unread(&folder.join("labels.toml")));
    let (caches, training) = caches(home, config.held_out);
    vec![
        match unread_list {
            Some(why) => verdicts::unread_sources(&why),
            None => verdicts::sources(sources.0.len(), &lost),
        },
        match sample {
            Ok(sample) => verdicts::sample(sample.as_ref(), config.intake.tolerance),
            Err(why) => verdicts::no_sample(&why),
        },
        caches,
        verdicts::subjects(training, config.policy.min_subjects.max(SUBJECTS_ROUNDED_TO)),
        verdicts::labels(labels.is_some(), labels.as_ref().and_then(Option::as_deref)),
    ]
}

/// The caches of every grid that a plan here asks, and of the default one; and the subjects to train on, where there are fewest.
fn caches(home: &Home, held_out: f64) -> (Check, Option<usize>) {
    // As in `machine`: which grids there are.
    let plans = approvals::announced(home).unwrap_or_default();
    let mut grids: Vec<ImagePlan> = plans.into_iter().map(|(_, plan)| plan.draft.images).collect();
    grids.push(ImagePlan::default());
    let mut folders: Vec<_> = grids.into_iter().map(|grid| (images::cache_folder(home, &grid), grid)).collect();
    folders.sort_by(|(one, _), (other, _)| one.cmp(other));
    folders.dedup_by(|(one, _), (other, _)| one == other);
    folders.retain(|(folder, _)| folder.is_dir());
    let (mut frames, mut read, mut wrong) = (0, true, Vec::new());
    let mut training = None;
    for (folder, grid) in &folders {
        let sound = FrameCache::open(folder, grid).and_then(|cache| {
            frames += cache.frame_count();
            let subjects = Split::of(&cache, held_out).training().len();
            training = Some(training.map_or(subjects, |fewest: usize| fewest.min(subjects)));
            let bytes = cache.frame_count() * 2 * (grid.frame_size as u64).pow(2);
            read &= bytes <= MOST_READ;
            if bytes <= MOST_READ { cache.verify() } else { Ok(()) }
        });
        wrong.extend(sound.err().map(|error| error.to_string()));
    }
    (verdicts::caches(folders.len(), frames, read, &wrong), training)
}

/// Of the file system that holds a folder, or its nearest ancestor that is there.
fn free_bytes(folder: &Path) -> Option<u64> {
    let folder = std::path::absolute(folder).ok()?;
    let there = folder.ancestors().find(|folder| folder.exists())?;
    let found = rustix::fs::statvfs(there).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

fn memory_available() -> Option<u64> {
    machine::available_memory(&fs::read_to_string("/proc/meminfo").ok()?)
}

/// `NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue ...`: the first word of digits and dots.
fn driver_version(text: &str) -> Option<String> {
    let words = text.lines().next()?.split_whitespace();
    let mut versions = words.filter(|word| word.contains('.') && word.bytes().all(|b| b.is_ascii_digit() || b == b'.'));
    versions.next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drivers_version_is_the_word_of_digits_and_dots() {
        let text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version:  gcc";
        assert_eq!(driver_version(text).as_deref(), Some("550.54.15"));
        assert_eq!(driver_version("nothing"), None);
    }

    #[test]
    fn the_room_of_a_folder_that_is_not_there_yet_is_that_of_the_one_it_will_be_in() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_bytes(&folder.path().join("a/b/c")).is_some_and(|free| free > 0));
        assert!(memory_available().is_some());
    }
}
