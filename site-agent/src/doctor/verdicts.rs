//! What measured facts mean. Pure functions: a fact in, a check with its remedy out.

use std::net::IpAddr;
use std::time::Duration;

use certs::authority::LEAF_DAYS;
use certs::probe::Shown;
use common::check::Check;
use common::policy::{Purpose, SitePolicy};
use data::SpotCheck;

use crate::clock::Moment;
use crate::plan_words::bytes;
use crate::standing::Still;

const DAY_S: i64 = 86_400;
/// Days before a leaf ends from which on it is told: whoever renews it should have by then.
const ENDS_SOON: i64 = LEAF_DAYS / 3;

/// The settings file: whether it is there, and what is wrong with it.
pub(super) fn settings(is_there: bool, wrong: Option<&str>) -> Check {
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
pub(super) fn policy(policy: &SitePolicy) -> Check {
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
pub(super) fn standing(still: Option<Still>, hours: Option<common::policy::Hours>) -> Check {
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
pub(super) fn enrolment(enrolled: Result<(&str, &str), &str>) -> Check {
    match enrolled {
        Ok((site, federation)) => Check::ok("enrolment", format!("{site} in {federation}")),
        Err(_) => Check::not_yet("enrolment", "this site is not enrolled yet: `site-agent enrol <invitation>`"),
    }
}

/// Files that hold a key or a secret, each with its mode; none if it is not there.
pub(super) fn keys(modes: &[(&'static str, Option<u32>)]) -> Check {
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

/// The site's own certificate: when it ends.
pub(super) fn certificate(not_after_s: Option<Result<i64, &str>>, now: Moment) -> Check {
    let name = "certificate";
    let again =
        "see that the agent runs and reaches the aggregator; once it has ended, enrol again with a new invitation";
    match not_after_s {
        None => Check::not_yet(name, "this site has none yet"),
        Some(Err(_)) => Check::failure(name, "site.crt cannot be read", "restore it from a backup, or enrol again"),
        Some(Ok(until)) => match (until - now.0.cast_signed()).div_euclid(DAY_S) {
            ..0 => Check::failure(name, "it has expired, or this machine's clock is ahead", again),
            days @ 0..ENDS_SOON => Check::warning(name, format!("{days} days left"), again),
            days => Check::ok(name, format!("{days} days left")),
        },
    }
}

/// The way to the aggregator.
pub(super) fn proxy(proxy: Result<Option<(&str, &str)>, &str>) -> Check {
    match proxy {
        Ok(None) => Check::ok("proxy", "none: the connection goes straight to the aggregator"),
        Ok(Some((source, address))) => Check::ok("proxy", format!("one is used, as {source} says")).here(address),
        Err(wrong) => {
            let remedy = "write http://user:password@host:port in HTTPS_PROXY, or as `proxy` under `[network]`";
            Check::failure("proxy", "the proxy's address cannot be used", remedy).here(wrong)
        }
    }
}

/// The aggregator's name.
pub(super) fn resolution(is_via_proxy: bool, found: Option<Result<Vec<IpAddr>, String>>) -> Check {
    let name = "name resolution";
    match found {
        None => Check::not_yet(name, "no aggregator is known yet"),
        Some(Ok(addresses)) if !addresses.is_empty() => {
            Check::ok(name, format!("{} addresses", addresses.len())).here(format!("{addresses:?}"))
        }
        Some(_) if is_via_proxy => Check::ok(name, "the name is not known here; the proxy looks it up"),
        Some(found) => {
            let remedy = "ask IT whether this machine's DNS may look the aggregator's name up, or add it to /etc/hosts";
            let check = Check::failure(name, "the aggregator's name stands for no address", remedy);
            match found {
                Err(why) => check.here(why),
                Ok(_) => check,
            }
        }
    }
}

/// A connection without TLS.
pub(super) fn reach(took: Option<Result<Duration, &str>>) -> Check {
    match took {
        None => Check::not_yet("reach", "no aggregator is known yet"),
        Some(Ok(took)) => Check::ok("reach", format!("connected in {} ms", took.as_millis())),
        Some(Err(why)) => {
            let remedy = "ask IT to permit an outbound connection to the aggregator's host and port, or name a proxy (HTTPS_PROXY)";
            Check::failure("reach", "the aggregator's port is not reached", remedy).here(why)
        }
    }
}

/// Who answers, by the certificates that it shows, held to the CA of this site's enrolment.
pub(super) fn chain(shown: Option<Result<&[Shown], &str>>, authority: Option<&str>, now: Moment) -> Check {
    let name = "TLS chain";
    let (shown, authority) = match (shown, authority) {
        (Some(Ok(shown)), Some(authority)) => (shown, authority),
        (Some(Err(why)), _) => {
            let remedy =
                "something on the way ends TLS, or nothing there speaks TLS 1.3: is the address the aggregator's?";
            return Check::failure(name, "no certificate was shown", remedy).here(why);
        }
        _ => return Check::not_yet(name, "no aggregator is known yet"),
    };
    let Some(leaf) = shown.first() else {
        return Check::failure(name, "no certificate was shown", "is the address the aggregator's?");
    };
    if leaf.issuer != authority {
        let remedy = "TLS is inspected on the way, or this is another server: have the aggregator's host and port exempted from TLS \
                      inspection; the agent sends nothing until then";
        let found = "the certificate is not issued by this federation's CA";
        return Check::failure(name, found, remedy)
            .here(format!("{} issued by {}, and not by {authority}", leaf.subject, leaf.issuer));
    }
    let now = now.0.cast_signed();
    if now < leaf.not_before_s {
        let remedy = "set this machine's clock: the aggregator's certificate begins to count in the future";
        return Check::failure(name, "issued by this federation's CA, and not valid yet", remedy);
    }
    match (leaf.not_after_s - now).div_euclid(DAY_S) {
        ..0 => Check::failure(
            name,
            "issued by this federation's CA, and expired",
            "tell the coordinator: `aggregator` must renew it",
        ),
        days @ 0..5 => {
            Check::warning(name, format!("issued by this federation's CA, {days} days left"), "tell the coordinator")
        }
        days => Check::ok(name, format!("issued by this federation's CA ({authority}), {days} days left")),
    }
}

/// A call over mutual TLS: the round trip, or the stable code of a refusal, or why there is no answer.
pub(super) fn link(answer: Option<Result<Duration, (Option<&str>, &str)>>) -> Check {
    let name = "aggregator";
    match answer {
        None => Check::not_yet(name, "this site is not enrolled yet"),
        Some(Ok(took)) if took > Duration::from_secs(2) => {
            let remedy = "a slow line or a busy aggregator; reports still arrive";
            Check::warning(name, format!("answers this site in {} ms", took.as_millis()), remedy)
        }
        Some(Ok(took)) => Check::ok(name, format!("answers this site in {} ms", took.as_millis())),
        Some(Err((Some(code), why))) => {
            let remedy =
                "the coordinator sees why: ask whether this site was revoked, then enrol again with a new invitation";
            Check::failure(name, format!("refuses this site ({code})"), remedy).here(why)
        }
        Some(Err((None, why))) => {
            let remedy = "see the checks before this one; if they are well, ask the coordinator whether the aggregator is running";
            Check::failure(name, "does not answer", remedy).here(why)
        }
    }
}

/// This machine's clock against the aggregator's: seconds that it is ahead.
pub(super) fn clock(ahead_s: Option<i64>) -> Check {
    let remedy = "set this machine's clock by NTP: certificates and the policy's hours go by it";
    match ahead_s {
        None => Check::not_yet("clock", "nothing to hold it to: the aggregator did not tell its time"),
        Some(ahead @ -5..=5) => Check::ok("clock", format!("as the aggregator's, within {} s", ahead.abs().max(1))),
        Some(ahead) => {
            let found = format!("{} s {} the aggregator's", ahead.abs(), if ahead > 0 { "ahead of" } else { "behind" });
            if ahead.abs() < 300 {
                Check::warning("clock", found, remedy)
            } else {
                Check::failure("clock", found, remedy)
            }
        }
    }
}

/// How fast bytes come, and what that means for a round that moves so many.
pub(super) fn bandwidth(measured: Option<(u64, Duration)>, a_round: Option<u64>) -> Check {
    let name = "bandwidth";
    let Some((moved, took)) = measured.filter(|(moved, took)| *moved > 0 && !took.is_zero()) else {
        return Check::not_yet(name, "nothing to measure it with: no plan is here yet, or its first model is gone");
    };
    let rate = moved as f64 / took.as_secs_f64();
    let minutes = a_round.map(|bytes| bytes as f64 / rate / 60.0);
    let told = minutes
        .map_or(String::new(), |minutes| format!("; {minutes:.1} min of transfer a round, if sending is as fast"));
    let found = format!("{:.2} MB/s from the aggregator, over {}{told}", rate / 1e6, bytes(moved));
    match minutes {
        Some(minutes) if minutes > 60.0 => Check::warning(
            name,
            found,
            "ask the coordinator for a smaller encoding (`aggregation.encoding`) or a longer deadline",
        ),
        _ => Check::ok(name, found),
    }
}

/// Room in the state folder, against what a run needs.
pub(super) fn disk(free: Option<u64>, need: u64) -> Check {
    match free {
        None => Check::warning(
            "disk",
            "the room in the state folder is not known",
            "does the folder exist, and may this user look into it?",
        ),
        Some(free) if free < need => {
            let remedy = "free some room, or move the state folder to a larger disk";
            Check::failure("disk", format!("{} free, and a run needs {}", bytes(free), bytes(need)), remedy)
        }
        Some(free) if free < need.saturating_mul(2) => Check::warning(
            "disk",
            format!("{} free, and a run needs {}", bytes(free), bytes(need)),
            "another run may not find room",
        ),
        Some(free) => Check::ok("disk", format!("{} free, and a run needs {}", bytes(free), bytes(need))),
    }
}

/// Memory that is free, against what a trainer needs.
pub(super) fn memory(free: Option<u64>, need: u64) -> Check {
    let remedy = "end other programs, or set `micro_batch` in site-agent.toml: less memory, the same step";
    match free {
        None => Check::warning("memory", "how much is free is not known on this system", remedy),
        Some(free) if free < need => {
            Check::warning("memory", format!("{} free, and training needs about {}", bytes(free), bytes(need)), remedy)
        }
        Some(free) => Check::ok("memory", format!("{} free, and training needs about {}", bytes(free), bytes(need))),
    }
}

/// The device that the settings name, whether this build can use a GPU, and the version of the NVIDIA driver.
pub(super) fn gpu(device: &str, is_built_for_cuda: bool, driver: Option<&str>) -> Check {
    let has = driver.map_or("no NVIDIA driver is loaded".to_owned(), |version| format!("NVIDIA driver {version}"));
    match (device.starts_with("cuda"), is_built_for_cuda, driver) {
        (false, _, None) => Check::ok("GPU", format!("not used (device = \"{device}\"); {has}")),
        (false, _, Some(_)) => {
            let remedy = "with `device = \"cuda\"` and a build for CUDA it would train there";
            Check::ok("GPU", format!("not used (device = \"{device}\"), though there is one: {has}; {remedy}"))
        }
        (true, false, _) => {
            let remedy = "install the build with `--features site-agent/cuda`, or set `device = \"cpu\"`";
            Check::failure(
                "GPU",
                format!("device = \"{device}\", but this program is built for the CPU alone; {has}"),
                remedy,
            )
        }
        (true, true, None) => {
            let remedy = "install NVIDIA's driver, and in a container pass the GPU in (`--gpus all`)";
            Check::failure("GPU", format!("device = \"{device}\", but {has}"), remedy)
        }
        (true, true, Some(_)) => Check::ok("GPU", format!("device = \"{device}\"; {has}")),
    }
}

/// A step of a tiny network in a child process, on the configured device.
pub(super) fn trainer(device: &str, step: Result<Duration, &str>) -> Check {
    match step {
        Ok(took) => {
            Check::ok("trainer", format!("starts on {device}; began and took a step in {:.1} s", took.as_secs_f64()))
        }
        Err(why) => {
            let remedy = "see the check of the GPU; `device = \"cpu\"` trains on every machine, slowly";
            Check::failure("trainer", format!("does not start on {device}"), remedy).here(why)
        }
    }
}

/// Recorded sources, and those that cannot be read.
pub(super) fn sources(recorded: usize, unreadable: &[String]) -> Check {
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

/// A look at a few files.
pub(super) fn sample(look: Option<&SpotCheck>, tolerance: f64) -> Check {
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
pub(super) fn caches(caches: usize, frames: u64, was_read: bool, wrong: &[String]) -> Check {
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
            format!("{frames} frames; too many to read them all here, and each is checked when it is opened"),
        ),
    }
}

/// The folder of labels.
pub(super) fn labels(is_set: bool, wrong: Option<&str>) -> Check {
    match (is_set, wrong) {
        (false, _) => Check::ok("labels", "none are set: this site takes part in no finetuning"),
        (true, None) => Check::ok("labels", "the folder is there, with its labels.toml"),
        (true, Some(wrong)) => {
            let remedy = "mount the folder, or correct `labels` in site-agent.toml";
            Check::failure("labels", "the folder, or its labels.toml, cannot be read", remedy).here(wrong)
        }
    }
}

/// Plans that wait for a person, and approved ones that the policy does not permit, by their short digests.
pub(super) fn approvals(known: usize, waiting: &[String], refused: usize) -> Check {
    match (waiting, refused) {
        ([first, ..], _) => {
            let remedy = format!("read it with `site-agent plans`, then `site-agent approve {first}`");
            Check::warning("plans", format!("{} of {known} await the approval of a person here", waiting.len()), remedy)
        }
        ([], 1..) => {
            let remedy = "`site-agent plans` says by which rule; the policy is this site's to change";
            Check::warning("plans", format!("{refused} of {known} are declined by this site's policy"), remedy)
        }
        ([], 0) if known == 0 => Check::ok("plans", "none was announced to this site yet"),
        ([], 0) => Check::ok("plans", format!("{known} known, all approved")),
    }
}

/// The record of what was acknowledged.
pub(super) fn journal(wrong: Option<&str>) -> Check {
    match wrong {
        None => Check::ok("journal", "can be read"),
        Some(wrong) => {
            let remedy =
                "move the file `journal` away to start over: rounds that were acknowledged are not counted twice";
            Check::failure("journal", "cannot be read", remedy).here(wrong)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use common::check::Outcome::{self, Failure, NotYet, Ok as Fine, Warning};

    const NOW: Moment = Moment(1_800_000_000);

    fn shown(issuer: &str, from: i64, until: i64) -> Shown {
        let now = NOW.0.cast_signed();
        Shown {
            subject: "s".into(),
            issuer: issuer.into(),
            not_before_s: now + from * DAY_S,
            not_after_s: now + until * DAY_S,
        }
    }

    fn looked(decoded: usize, faulty: usize) -> SpotCheck {
        SpotCheck {
            files: 100,
            looked_at: 10,
            decoded,
            faulty,
            syntaxes: BTreeMap::from([("JPEG 2000".into(), 10)]),
            ..SpotCheck::default()
        }
    }

    #[test]
    fn each_verdict_follows_from_its_facts_and_whatever_is_not_well_has_a_remedy() {
        let until = |days: i64| certificate(Some(Ok(NOW.0.cast_signed() + days * DAY_S + 60)), NOW);
        let ms = Duration::from_millis;
        let mine = || Some("our CA");
        let (ours, theirs) = ([shown("our CA", -1, 90)], [shown("Proxy Inspection CA", -1, 90)]);
        let (young, old, ending) = ([shown("our CA", 1, 90)], [shown("our CA", -9, -1)], [shown("our CA", -9, 3)]);
        let strict: SitePolicy = SitePolicy { purposes: vec![], ..SitePolicy::default() };
        let hours = Some("20:00-06:00".parse().unwrap());
        let resting = Some(Still::OutsideHours { opens_in: ms(60_000) });
        let lost = ["/mnt/gone".to_owned()];
        let table: Vec<(Check, Outcome, &str)> = vec![
            (settings(true, None), Fine, "is read"),
            (settings(false, None), Fine, "defaults"),
            (settings(true, Some("line 3")), Failure, "cannot be used"),
            (policy(&SitePolicy::default()), Fine, "permits pretraining and finetuning; 5 subjects"),
            (policy(&strict), Warning, "permits ;"),
            (standing(None, None), Fine, "every hour"),
            (standing(Some(Still::Stopped), hours), Warning, "stopped"),
            (standing(resting, hours), Fine, "begin in 0 h 1 min"),
            (standing(None, hours), Fine, "within"),
            (enrolment(Ok(("aalst", "cmr"))), Fine, "aalst in cmr"),
            (enrolment(Err("")), NotYet, "enrol <invitation>"),
            (keys(&[("site.key", None)]), NotYet, "none yet"),
            (keys(&[("site.key", Some(0o600)), ("secret.key", Some(0o600))]), Fine, "site.key and secret.key"),
            (keys(&[("site.key", Some(0o600)), ("secret.key", Some(0o640))]), Failure, "secret.key has mode 640"),
            (certificate(None, NOW), NotYet, "none"),
            (certificate(Some(Err("x")), NOW), Failure, "cannot be read"),
            (until(29), Fine, "29 days"),
            (until(ENDS_SOON - 1), Warning, "9 days"),
            (until(-1), Failure, "expired"),
            (proxy(Ok(None)), Fine, "none"),
            (proxy(Ok(Some(("HTTPS_PROXY", "http://p:1")))), Fine, "as HTTPS_PROXY says"),
            (proxy(Err("x")), Failure, "cannot be used"),
            (resolution(false, None), NotYet, ""),
            (resolution(false, Some(Ok(vec!["10.0.0.1".parse().unwrap()]))), Fine, "1 addresses"),
            (resolution(false, Some(Err("no such name".into()))), Failure, "no address"),
            (resolution(true, Some(Err("no such name".into()))), Fine, "the proxy looks it up"),
            (reach(None), NotYet, ""),
            (reach(Some(Ok(ms(7)))), Fine, "7 ms"),
            (reach(Some(Err("refused"))), Failure, "not reached"),
            (chain(None, None, NOW), NotYet, ""),
            (chain(Some(Err("x")), mine(), NOW), Failure, "no certificate"),
            (chain(Some(Ok(&[])), mine(), NOW), Failure, "no certificate"),
            (chain(Some(Ok(&ours)), mine(), NOW), Fine, "our CA), 90 days"),
            (chain(Some(Ok(&theirs)), mine(), NOW), Failure, "not issued by this federation's CA"),
            (chain(Some(Ok(&young)), mine(), NOW), Failure, "not valid yet"),
            (chain(Some(Ok(&old)), mine(), NOW), Failure, "expired"),
            (chain(Some(Ok(&ending)), mine(), NOW), Warning, "3 days"),
            (link(None), NotYet, ""),
            (link(Some(Ok(ms(12)))), Fine, "12 ms"),
            (link(Some(Ok(ms(2500)))), Warning, "2500 ms"),
            (link(Some(Err((Some("revoked"), "w")))), Failure, "refuses this site (revoked)"),
            (link(Some(Err((None, "w")))), Failure, "does not answer"),
            (clock(None), NotYet, ""),
            (clock(Some(0)), Fine, "within 1 s"),
            (clock(Some(-90)), Warning, "90 s behind"),
            (clock(Some(3600)), Failure, "3600 s ahead of"),
            (bandwidth(None, None), NotYet, ""),
            (
                bandwidth(Some((2_000_000, ms(1000))), Some(120_000_000)),
                Fine,
                "2.00 MB/s from the aggregator, over 2000.0 kB; 1.0 min",
            ),
            (bandwidth(Some((1000, ms(1000))), Some(120_000_000)), Warning, "0.00 MB/s"),
            (disk(None, 1), Warning, "not known"),
            (disk(Some(50_000_000), 60_000_000), Failure, "50.0 MB free, and a run needs 60.0 MB"),
            (disk(Some(70_000_000), 60_000_000), Warning, "70.0 MB"),
            (disk(Some(700_000_000), 60_000_000), Fine, "700.0 MB"),
            (memory(None, 1), Warning, "not known"),
            (memory(Some(1), 2), Warning, "needs about"),
            (memory(Some(2), 2), Fine, ""),
            (gpu("cpu", false, None), Fine, "not used"),
            (gpu("cpu", false, Some("550.1")), Fine, "550.1"),
            (gpu("cuda:0", false, Some("550.1")), Failure, "built for the CPU"),
            (gpu("cuda:0", true, None), Failure, "no NVIDIA driver"),
            (gpu("cuda:0", true, Some("550.1")), Fine, "driver 550.1"),
            (trainer("cpu", Ok(ms(1234))), Fine, "1.2 s"),
            (trainer("cpu", Err("out of memory")), Failure, "does not start"),
            (sources(0, &[]), NotYet, ""),
            (sources(2, &[]), Fine, "2 recorded"),
            (sources(2, &lost), Failure, "1 of 2"),
            (sample(None, 0.5), NotYet, ""),
            (
                sample(Some(&looked(9, 1)), 0.5),
                Fine,
                "9 of 10 images looked at were decoded (of 100 files); transfer syntaxes: JPEG 2000 10",
            ),
            (sample(Some(&looked(0, 0)), 0.5), Failure, "0 of 10"),
            (sample(Some(&looked(4, 6)), 0.5), Failure, "4 of 10"),
            (caches(0, 0, true, &[]), NotYet, ""),
            (caches(1, 900, true, &[]), Fine, "900 frames, each"),
            (caches(1, 900, false, &[]), Fine, "too many"),
            (caches(1, 0, true, &lost), Failure, "1 of 1"),
            (labels(false, None), Fine, "none"),
            (labels(true, None), Fine, "is there"),
            (labels(true, Some("x")), Failure, "cannot be read"),
            (approvals(0, &[], 0), Fine, "none"),
            (approvals(2, &["abc".to_owned()], 0), Warning, "1 of 2 await"),
            (approvals(2, &[], 1), Warning, "declined by this site's policy"),
            (approvals(2, &[], 0), Fine, "all approved"),
            (journal(None), Fine, ""),
            (journal(Some("x")), Failure, ""),
        ];
        for (check, outcome, part) in table {
            assert_eq!(check.outcome, outcome, "{check:?}");
            assert!(check.found.contains(part), "{part:?} is missing from {check:?}");
            assert_eq!(check.remedy.is_some(), matches!(outcome, Warning | Failure), "{check:?}");
        }
    }

    #[test]
    fn what_is_sent_names_no_path_host_or_words_of_others() {
        let told = [
            settings(true, Some("CANARY")),
            proxy(Ok(Some(("HTTPS_PROXY", "http://CANARY:1")))),
            proxy(Err("CANARY")),
            resolution(false, Some(Err("CANARY".into()))),
            reach(Some(Err("CANARY"))),
            chain(Some(Ok(&[shown("CANARY", -1, 1)])), Some("our CA"), NOW),
            link(Some(Err((None, "CANARY")))),
            trainer("cpu", Err("CANARY")),
            sources(1, &["/CANARY".to_owned()]),
            caches(1, 0, true, &["CANARY".to_owned()]),
            labels(true, Some("CANARY")),
            journal(Some("CANARY")),
        ];
        for check in told {
            assert!(format!("{check:?}").contains("CANARY"), "{check:?}");
            assert!(!format!("{:?}", check.to_send()).contains("CANARY"), "{check:?}");
        }
    }
}
