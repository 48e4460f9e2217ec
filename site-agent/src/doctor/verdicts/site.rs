//! Who this site is, what it permits, and what it has written down.

use common::check::Check;
use common::policy::{Purpose, SitePolicy};
use common::{Decline, RunId};

use crate::runs::{End, Part, RunHere};
use crate::standing::Still;

/// The secret under which subjects are named.
const SECRET: &str = "secret.key";

/// The settings file: whether it is there, and what is wrong with it.
pub(in crate::doctor) fn settings(is_there: bool, wrong: Option<&str>) -> Check {
    match (is_there, wrong) {
        (_, Some(wrong)) => {
            let remedy =
                "correct that line; site-agent.example.toml shows every setting. The other checks go by the defaults";
            Check::failure("settings", "site-agent.toml cannot be used", remedy).here(wrong)
        }
        (true, None) => Check::ok("settings", "site-agent.toml is read"),
        (false, None) => Check::ok("settings", "no site-agent.toml: the defaults count"),
    }
}

/// The policy, in words.
pub(in crate::doctor) fn policy(policy: &SitePolicy) -> Check {
    let purposes = policy.purposes.iter().map(|purpose| purpose.name()).collect::<Vec<_>>().join(" and ");
    let or_any = |limit: Option<String>| limit.unwrap_or_else(|| "no limit".to_owned());
    let cap = |mb_s: Option<f64>| or_any(mb_s.map(|mb_s| format!("{mb_s} MB/s")));
    let effect = format!(
        "permits {purposes}; {} subjects, {} steps and batches of {} or more; tensors {}, tasks {}; rounds a day: {}; up: {}, down: {}; \
         scores {}",
        policy.min_subjects,
        policy.min_steps,
        policy.min_batch_size,
        list(&policy.tensors),
        list(&policy.tasks),
        or_any(policy.max_rounds_a_day.map(|most| most.to_string())),
        cap(policy.max_upload_mb_s),
        cap(policy.max_download_mb_s),
        if policy.scores { "may leave" } else { "stay" },
    );
    let nothing = policy.purposes.is_empty() || policy.max_rounds_a_day == Some(0);
    let no_task = policy.purposes == [Purpose::Finetuning] && list(&policy.tasks) == "[]";
    if nothing || no_task || list(&policy.tensors) == "[]" {
        let remedy =
            "as it is written no plan is permitted: add to `policy.purposes`, `tasks`, `tensors` or `max_rounds_a_day`";
        return Check::warning("policy", effect, remedy);
    }
    Check::ok("policy", effect)
}

/// As the settings write it.
fn list(patterns: &common::policy::Patterns) -> String {
    serde_json::to_string(patterns).unwrap_or_default()
}

/// The switch and the hours.
pub(in crate::doctor) fn standing(still: Option<Still>, hours: Option<common::policy::Hours>) -> Check {
    match (still, hours) {
        (Some(Still::Stopped), _) => {
            let remedy = "`site-agent resume` lets it go on";
            Check::warning("switch and hours", "a person at this site stopped the agent", remedy)
        }
        (Some(Still::OutsideHours { opens_in }), Some(hours)) => {
            let minutes = opens_in.as_secs() / 60;
            let found =
                format!("outside this site's hours ({hours}), which begin in {} h {} min", minutes / 60, minutes % 60);
            Check::ok("switch and hours", found)
        }
        (_, Some(hours)) => Check::ok("switch and hours", format!("within this site's hours ({hours})")),
        (_, None) => Check::ok("switch and hours", "not stopped; trains at every hour"),
    }
}

/// Enrolment: in which federation, as whom.
pub(in crate::doctor) fn enrolment(enrolled: Result<Option<(String, String)>, String>) -> Check {
    match enrolled {
        Ok(Some((site, federation))) => Check::ok("enrolment", format!("{site} in {federation}")),
        Ok(None) => Check::not_yet("enrolment", "this site is not enrolled yet: `site-agent enrol <invitation>`"),
        Err(why) => {
            let remedy = "restore `identity/` from a backup, or enrol again with a new invitation";
            Check::failure("enrolment", "what was written at enrolment cannot be read", remedy).here(why)
        }
    }
}

/// Files that hold a key or a secret, each with its mode; none if it is not there. An enrolled site has all but the secret, which the
/// first images make: whoever has a cache has that.
pub(in crate::doctor) fn keys(is_enrolled: bool, has_images: bool, modes: &[(&'static str, Option<u32>)]) -> Check {
    let is_lost =
        |(name, mode): &&(&str, Option<u32>)| mode.is_none() && if *name == SECRET { has_images } else { is_enrolled };
    if let Some((name, _)) = modes.iter().find(is_lost) {
        let remedy = match *name {
            SECRET => {
                "restore `images/secret.key` from a backup: with another one every subject is somebody else, and `images/cache-*` is of \
                 no use"
            }
            _ => "restore `identity/` from a backup, or enrol again with a new invitation",
        };
        return Check::failure("key files", format!("{name} is not there"), remedy);
    }
    let there: Vec<_> = modes.iter().filter_map(|(name, mode)| Some((*name, (*mode)?))).collect();
    if there.is_empty() {
        return Check::not_yet("key files", "there is none yet: enrolment makes the first one");
    }
    match there.iter().find(|(_, mode)| mode & 0o077 != 0) {
        Some((name, mode)) => {
            let found = format!("{name} has mode {mode:o}: others may read it");
            Check::failure("key files", found, format!("`chmod 600` it; if others did read it, enrol again ({name})"))
        }
        None => Check::ok(
            "key files",
            format!("{} with mode 600", there.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" and ")),
        ),
    }
}

/// The modes of the state folder and of the folder of images in it, if there is one: pixels and names of files are there.
pub(in crate::doctor) fn private(state: Option<u32>, images: Option<u32>) -> Check {
    let Some((state, images)) = state.zip(images) else {
        return Check::not_yet("private files", "there are none: no images were read");
    };
    if state & 0o011 == 0 || images & 0o055 == 0 {
        return Check::ok("private files", "nobody else on this machine may look into images/");
    }
    let found = format!(
        "others may look into images/ (mode {images:o}, in a folder of mode {state:o}): frames and names of files"
    );
    Check::failure(
        "private files",
        found,
        "`chmod -R go= ` the state folder; the agent itself writes for its own user alone",
    )
}

/// Plans of runs that are not over: how many wait for a person, by their short digests, and how many the policy does not permit.
pub(in crate::doctor) fn approvals(known: usize, over: usize, waiting: &[String], refused: usize) -> Check {
    let open = known - over;
    match (waiting, refused) {
        ([first, ..], _) => {
            let remedy = format!("read it with `site-agent plans`, then `site-agent approve {first}`");
            Check::warning("plans", format!("{} of {open} await the approval of a person here", waiting.len()), remedy)
        }
        ([], 1..) => {
            let remedy = "`site-agent plans` says by which rule; the policy is this site's to change";
            Check::warning("plans", format!("{refused} of {open} are declined here"), remedy)
        }
        ([], 0) if known == 0 => Check::ok("plans", "none was announced to this site yet"),
        ([], 0) if open == 0 => Check::ok("plans", format!("{known} known, of runs that are over")),
        ([], 0) => Check::ok("plans", format!("{open} known, all approved; {over} of runs that are over")),
    }
}

/// The part that this site had last in a round.
pub(in crate::doctor) fn rounds(latest: Option<(&RunId, &RunHere)>) -> Check {
    let name = "last round";
    let (run, round, part) = match latest {
        None => return Check::not_yet(name, "this site has had no part in any yet"),
        Some((run, RunHere { end: Some(End::Finished), .. })) => {
            return Check::ok(name, format!("run {run} is finished, and its last model is here"));
        }
        Some((run, RunHere { end: Some(End::Failed(because)), .. })) => {
            return Check::ok(name, format!("run {run} is over before its last round")).here(because);
        }
        Some((run, RunHere { last: None, .. })) => return Check::ok(name, format!("none yet of run {run}")),
        Some((run, RunHere { last: Some((round, part)), .. })) => (run, round, part),
    };
    let told = match part {
        Part::Accepted => "accepted",
        Part::Sealed => "trained, and its update is sealed",
        Part::Acknowledged => "its update is acknowledged",
        Part::Declined(reason) => {
            let found = format!("round {round} of run {run} was declined: {reason}");
            return match remedy(*reason) {
                Some(remedy) => Check::warning(name, found, remedy),
                None => Check::ok(name, format!("{found}; it goes on after midnight, UTC")),
            };
        }
    };
    Check::ok(name, format!("round {round} of run {run}: {told}"))
}

/// What a person here may do about a round that was declined; none where a day did all that this site's policy permits.
fn remedy(declined: Decline) -> Option<&'static str> {
    Some(match declined {
        Decline::PolicyRoundsADay => return None,
        Decline::PlanNotApproved => "`site-agent plans`, then `site-agent approve`",
        Decline::PlanDiffers => "ask the coordinator: the plan that was sent is not the one that was announced",
        Decline::TooFewImages => "index more images with `site-agent index`, or the folders that the plan's grid needs",
        Decline::TooManySkipped => {
            "`images/cache-*/skipped.jsonl` tells each file's reason; `intake.tolerance` is how many may be unreadable"
        }
        Decline::TrainingFailed => {
            "the log tells what the trainer said last; the checks of memory, device and trainer are below"
        }
        Decline::Withheld => "the log tells which filter withheld the update",
        Decline::DiskFull => "make room where the state folder is: the round is tried again ten minutes later",
        Decline::NoLabels => "set `labels` in site-agent.toml; the log tells what is wrong with those that are there",
        Decline::PolicyPurposes
        | Decline::PolicyTasks
        | Decline::PolicyBatchSize
        | Decline::PolicySteps
        | Decline::PolicyTensors
        | Decline::PolicyNoise
        | Decline::PolicySignatures => {
            "the policy in site-agent.toml is this site's to change, and `site-agent plans` names the rule"
        }
        Decline::PolicySubjects => {
            "index more images, or look at `policy.min_subjects` and `held_out` in site-agent.toml"
        }
        Decline::Stopped => "`site-agent resume` lets it go on",
        Decline::Lineage => {
            "keep the ledger, and ask the coordinator: the model does not come from where it is said to"
        }
        Decline::Architecture => "a later version of this program may have that network",
    })
}

/// Plans or approvals that cannot be read.
pub(in crate::doctor) fn unread_plans(why: &str) -> Check {
    let remedy =
        "restore `plans/` from a backup, or remove what is damaged there: plans are fetched again, and approved again";
    Check::failure("plans", "plans or approvals cannot be read", remedy).here(why)
}

/// The ledger, held to its chain: so many entries.
pub(in crate::doctor) fn ledger(entries: Result<u64, String>) -> Check {
    match entries {
        Ok(entries) => Check::ok("ledger", format!("{entries} entries, each as the next one says")),
        Err(why) => {
            let remedy = "keep the file, and find out who changed it: `site-agent ledger verify` names the entry";
            Check::failure("ledger", "does not hold", remedy).here(why)
        }
    }
}

/// The record of what was acknowledged.
pub(in crate::doctor) fn journal(wrong: Option<&str>) -> Check {
    match wrong {
        None => Check::ok("journal", "can be read"),
        Some(wrong) => {
            let remedy =
                "move the file `journal` away to start over: rounds that were acknowledged are not counted twice";
            Check::failure("journal", "cannot be read", remedy).here(wrong)
        }
    }
}
