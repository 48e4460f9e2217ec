//! What measured facts mean. Pure functions: a fact in, a check with its remedy out.

use certs::authority::LEAF_DAYS;
use certs::probe::Shown;
use common::check::Check;
use common::{Digest, RunId};

use crate::authority::seconds;
use crate::clock::Stamp;
use crate::status::{RunPhase, Status};

const DAY_S: i64 = 86_400;
/// Days before a site's certificate ends from which on it is told.
const ENDS_SOON: i64 = LEAF_DAYS / 3;

/// The state folder's mode: who may write there may coordinate.
pub(super) fn folder(mode: Option<u32>) -> Check {
    match mode {
        None => Check::failure(
            "state folder",
            "it cannot be looked at",
            "name it by --state, or make it by `aggregator init`",
        ),
        Some(mode) if mode & 0o022 != 0 => {
            let found = format!("it has mode {mode:o}: others may write there, and so coordinate");
            Check::failure("state folder", found, "`chmod go-w` it")
        }
        Some(mode) if mode & 0o055 != 0 => {
            Check::warning("state folder", format!("it has mode {mode:o}: others may look into it"), "`chmod 700` it")
        }
        Some(mode) => Check::ok("state folder", format!("mode {mode:o}")),
    }
}

/// aggregator.toml.
pub(super) fn settings(wrong: Option<&str>) -> Check {
    match wrong {
        None => Check::ok("settings", "aggregator.toml is read"),
        Some(wrong) => Check::failure(
            "settings",
            "aggregator.toml cannot be used",
            "correct it; the other checks go by the defaults",
        )
        .here(wrong),
    }
}

/// Keys, each with its mode; none if it is not there.
pub(super) fn keys(modes: &[(&'static str, Option<u32>)]) -> Check {
    for (name, mode) in modes {
        match mode {
            None => {
                let remedy = "restore it from a backup: sites trust this federation by its CA's key alone";
                return Check::failure("keys", format!("{name} is not there"), remedy);
            }
            Some(mode) if mode & 0o077 != 0 => {
                let remedy = format!("`chmod 600` {name}; if others did read the CA's key, make a new federation");
                return Check::failure("keys", format!("{name} has mode {mode:o}: others may read it"), remedy);
            }
            Some(_) => {}
        }
    }
    Check::ok("keys", "the CA's and the server's are for their owner alone")
}

/// The CA's certificate: when it ends, and with it every other.
pub(super) fn authority(not_after_s: Result<i64, &str>, now: Stamp) -> Check {
    let name = "CA certificate";
    let again = "make a new federation before it ends, and enrol the sites there";
    match not_after_s.map(|until| (until - seconds(now)).div_euclid(DAY_S)) {
        Err(why) => Check::failure(name, "it cannot be read", "restore authority/ca.crt from a backup").here(why),
        Ok(..0) => Check::failure(name, "it has expired, or this machine's clock is ahead", again),
        Ok(days @ 0..90) => Check::warning(name, format!("{days} days left"), again),
        Ok(days) => Check::ok(name, format!("{days} days left")),
    }
}

/// state.db.
pub(super) fn database(wrong: Option<&str>) -> Check {
    match wrong {
        None => {
            Check::ok("database", "its trees are sound, every row is as its seal says, and the ledger as its chain")
        }
        Some(wrong) => {
            Check::failure("database", "it cannot be used as it is", "the words below say what to do").here(wrong)
        }
    }
}

/// Enrolled sites, each with the days that its certificate is good for.
pub(super) fn sites(days: &[(String, i64)], revoked: usize) -> Check {
    let of = format!("{} enrolled, {revoked} revoked", days.len() + revoked);
    let soon: Vec<String> =
        days.iter().filter(|(_, days)| *days < ENDS_SOON).map(|(site, days)| format!("{site} ({days} days)")).collect();
    match (days, soon.as_slice()) {
        ([], _) if revoked == 0 => Check::not_yet("sites", "none is enrolled yet: `aggregator invite <site>`"),
        (_, []) => Check::ok("sites", format!("{of}; no certificate ends within {ENDS_SOON} days")),
        (_, soon) => {
            let remedy = "are their agents running, and do they reach this aggregator? If not in time: `aggregator invite <site>`";
            Check::warning("sites", format!("{of}; certificates that end soon: {}", soon.join(", ")), remedy)
        }
    }
}

/// Blobs that runs go on from.
pub(super) fn blobs(missing: &[(RunId, Digest)]) -> Check {
    let list =
        || missing.iter().map(|(run, digest)| format!("{} of {run}", digest.short())).collect::<Vec<_>>().join(", ");
    match missing {
        [] => Check::ok("blobs", "what running rounds need is there"),
        _ => {
            let remedy = "restore the folder blobs/ from a backup; an update that is lost for good ends its round at the deadline";
            Check::failure("blobs", format!("missing or cut short: {}", list()), remedy)
        }
    }
}

/// The folder of blobs, if it cannot be looked into.
pub(super) fn no_blobs(why: &str) -> Check {
    let remedy = "see to the folder blobs/: it must be there, and be this user's";
    Check::failure("blobs", format!("the folder cannot be looked into: {why}"), remedy)
}

/// How the runs stand.
pub(super) fn runs(status: &Status) -> Check {
    let running: Vec<_> = status.runs.iter().filter(|run| run.state == RunPhase::Running).collect();
    let wait = running.iter().flat_map(|run| {
        let waiting = run.sites.iter().filter(|(_, said)| {
            said.as_ref().is_some_and(|said| said.phase == "awaiting-approval" || said.declined.is_some())
        });
        waiting.map(|(site, _)| format!("{site} in {}", run.run))
    });
    let wait: Vec<String> = wait.collect();
    let stuck: Vec<String> =
        running.iter().filter_map(|run| Some(format!("{}: {}", run.run, run.because.as_ref()?))).collect();
    let found = format!("{} of {} running", running.len(), status.runs.len());
    match (stuck.as_slice(), wait.as_slice()) {
        ([], []) => Check::ok("runs", found),
        ([], wait) => {
            let remedy = "`aggregator status` says why; a person at the site decides";
            Check::warning("runs", format!("{found}; awaiting approval or declining: {}", wait.join(", ")), remedy)
        }
        (stuck, _) => {
            Check::failure("runs", format!("{found}; {}", stuck.join("; ")), "`aggregator status` shows more")
        }
    }
}

/// This machine's clock against what it wrote itself: milliseconds that the newest word is in the future.
pub(super) fn clock(ahead_ms: u64, words: usize) -> Check {
    match ahead_ms {
        ahead @ 60_000.. => {
            let found = format!("it was set back: a record is {} s in the future", ahead / 1000);
            Check::failure("clock", found, "set this machine's clock by NTP: certificates and invitations go by it")
        }
        _ => Check::ok("clock", format!("not before its own records ({words} sites heard); sites hold theirs to it")),
    }
}

/// Room on the disk, against what rounds with models of so many bytes take.
pub(super) fn disk(free: Option<u64>, model_bytes: u64) -> Check {
    let gb = |bytes: u64| format!("{:.1} GB", bytes as f64 / 1e9);
    // A model and its successor, a server's momentum, and the updates of sixteen sites.
    let need = model_bytes * 20 + (1 << 30);
    match free {
        None => Check::warning("disk", "the room is not known", "does the state folder exist?"),
        Some(free) if free < need => {
            let remedy = "free some room, or lower `keep_updates_of_rounds`; uploads are refused when the disk is full";
            Check::failure("disk", format!("{} free, and running rounds need {}", gb(free), gb(need)), remedy)
        }
        Some(free) => Check::ok("disk", format!("{} free, and running rounds need {}", gb(free), gb(need))),
    }
}

/// Who answers where this aggregator listens.
pub(super) fn server(shown: Result<&[Shown], &str>, authority: Option<&str>, now: Stamp) -> Check {
    let name = "server";
    match (shown, authority) {
        (Err(why), _) => {
            Check::failure(name, "nobody answers on the settings' `listen`", "start it: `aggregator serve`").here(why)
        }
        (Ok([leaf, ..]), Some(authority)) if leaf.issuer == authority => {
            match (leaf.not_after_s - seconds(now)).div_euclid(DAY_S) {
                ..0 => Check::failure(
                    name,
                    "answers with a certificate that has expired",
                    "start it again: it takes a new one",
                ),
                days => {
                    Check::ok(name, format!("answers; its certificate has {days} days left, and is renewed by itself"))
                }
            }
        }
        (Ok(_), _) => {
            let remedy = "another program or federation has that port: change `listen` in aggregator.toml";
            Check::failure(name, "who answers on `listen` has no certificate of this federation", remedy)
        }
    }
}

/// The address that stands in invitations, from here.
pub(super) fn outside(address: &str, reached: Result<(), &str>) -> Check {
    match reached {
        Ok(()) => Check::ok("address", format!("{address} answers")),
        Err(why) => {
            let remedy = "sites come by that address: is it forwarded to `listen`? Some networks do not let it be reached from inside";
            Check::warning("address", format!("{address} does not answer from here"), remedy).here(why)
        }
    }
}

#[cfg(test)]
mod tests {
    use common::check::Outcome::{self, Failure, NotYet, Ok as Fine, Warning};

    use super::*;

    #[test]
    fn each_verdict_follows_from_its_facts_and_whatever_is_not_well_has_a_remedy() {
        let now = Stamp(1_800_000_000_000);
        let until = |days: i64| seconds(now) + days * DAY_S + 60;
        let leaf = |issuer: &str, days: i64| {
            [Shown { subject: "s".into(), issuer: issuer.into(), not_before_s: 0, not_after_s: until(days) }]
        };
        let days =
            |list: &[(&str, i64)]| list.iter().map(|(site, days)| ((*site).to_owned(), *days)).collect::<Vec<_>>();
        let lost = [("run".parse().unwrap(), Digest::of(b"model"))];
        let table: Vec<(Check, Outcome, &str)> = vec![
            (folder(None), Failure, "cannot"),
            (folder(Some(0o700)), Fine, "700"),
            (folder(Some(0o750)), Warning, "look into it"),
            (folder(Some(0o720)), Failure, "others may write"),
            (settings(None), Fine, ""),
            (settings(Some("x")), Failure, ""),
            (keys(&[("ca.key", Some(0o600)), ("server.key", Some(0o600))]), Fine, ""),
            (keys(&[("ca.key", Some(0o640)), ("server.key", Some(0o600))]), Failure, "ca.key has mode 640"),
            (keys(&[("ca.key", Some(0o600)), ("server.key", None)]), Failure, "server.key is not there"),
            (authority(Ok(until(1000)), now), Fine, "1000 days"),
            (authority(Ok(until(10)), now), Warning, "10 days"),
            (authority(Ok(until(-1)), now), Failure, "expired"),
            (authority(Err("x"), now), Failure, "cannot be read"),
            (database(None), Fine, ""),
            (database(Some("x")), Failure, ""),
            (sites(&[], 0), NotYet, "none"),
            (sites(&days(&[("a", 29)]), 1), Fine, "2 enrolled, 1 revoked"),
            (sites(&days(&[("a", 29), ("b", 9)]), 0), Warning, "b (9 days)"),
            (blobs(&[]), Fine, ""),
            (blobs(&lost), Failure, "of run"),
            (clock(0, 0), Fine, ""),
            (clock(59_000, 2), Fine, ""),
            (clock(3_600_000, 2), Failure, "3600 s in the future"),
            (disk(None, 0), Warning, ""),
            (disk(Some(1 << 30), 100_000_000), Failure, "rounds need 3.1 GB"),
            (disk(Some(1 << 40), 100_000_000), Fine, "3.1 GB"),
            (server(Err("refused"), Some("ca"), now), Failure, "nobody answers"),
            (server(Ok(&leaf("ca", 50)), Some("ca"), now), Fine, "50 days"),
            (server(Ok(&leaf("ca", -1)), Some("ca"), now), Failure, "expired"),
            (server(Ok(&leaf("other", 50)), Some("ca"), now), Failure, "no certificate of this federation"),
            (outside("a:1", Ok(())), Fine, "a:1 answers"),
            (outside("a:1", Err("x")), Warning, "does not answer"),
        ];
        for (check, outcome, part) in table {
            assert_eq!(check.outcome, outcome, "{check:?}");
            assert!(check.found.contains(part), "{part:?} is missing from {check:?}");
            assert_eq!(check.remedy.is_some(), matches!(outcome, Warning | Failure), "{check:?}");
        }
    }
}
