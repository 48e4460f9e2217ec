//! Who is let in, and what is waited for from whom.

use common::check::Check;
use common::{RunId, SiteId};

use super::DAY_S;
use crate::status::{RunPhase, Status};

/// An agent that runs says something every few seconds.
const SILENT_MS: u64 = 60 * 60 * 1000;

/// Enrolled sites, each with the seconds that its certificate is still good for, of so many that certificates live. An agent renews its
/// own when a third of them is left.
pub(in crate::doctor) fn sites(left_s: &[(String, i64)], life_s: i64, revoked: usize) -> Check {
    let of = format!("{} enrolled, {revoked} revoked", left_s.len() + revoked);
    let soon = left_s.iter().filter(|(_, left)| *left < life_s / 3);
    let soon: Vec<String> = soon.map(|(site, left)| format!("{site} ({} days)", left.div_euclid(DAY_S))).collect();
    match (left_s, soon.as_slice()) {
        ([], _) if revoked == 0 => Check::not_yet("sites", "none is enrolled yet: `aggregator invite <site>`"),
        (_, []) => Check::ok("sites", format!("{of}; each certificate has a third of its life left, or more")),
        (_, soon) => {
            let remedy = "are their agents running, and do they reach this aggregator? If not in time: `aggregator invite <site>`";
            Check::warning("sites", format!("{of}; certificates that end soon: {}", soon.join(", ")), remedy)
        }
    }
}

/// Enrolled persons, each with the seconds that the certificate is still good for.
pub(in crate::doctor) fn persons(left_s: &[(String, i64)], revoked: usize) -> Check {
    let of = format!("{} enrolled, {revoked} revoked", left_s.len() + revoked);
    let over: Vec<&str> = left_s.iter().filter(|(_, left)| *left < 0).map(|(person, _)| person.as_str()).collect();
    match over.as_slice() {
        _ if left_s.is_empty() => {
            Check::ok("persons", format!("{of}; whoever may write to the state folder coordinates"))
        }
        [] => Check::ok("persons", format!("{of}; every certificate counts")),
        over => {
            let remedy = "who typed no command for so long is invited again (`aggregator invite`), or has left: `aggregator revoke`";
            Check::warning("persons", format!("{of}; certificates that have expired: {}", over.join(", ")), remedy)
        }
    }
}

/// Members against the connections that the settings permit: each needs one.
pub(in crate::doctor) fn connections(members: usize, permitted: usize) -> Check {
    let found = format!("{members} members are let in, and {permitted} connections are permitted");
    match members > permitted {
        true => Check::failure(
            "connections",
            found,
            "raise `max_connections` in aggregator.toml, and start the server again",
        ),
        false => Check::ok("connections", found),
    }
}

/// How the runs stand.
pub(in crate::doctor) fn runs(status: &Status) -> Check {
    let running: Vec<_> = status.runs.iter().filter(|run| run.state == RunPhase::Running).collect();
    let wait = running.iter().flat_map(|run| {
        let waiting = run.sites.iter().filter(|(_, said)| {
            said.as_ref().is_some_and(|said| said.phase == "awaiting-approval" || said.declined.is_some())
        });
        waiting.map(|(site, _)| format!("{site} in {}", run.run))
    });
    let wait: Vec<String> = wait.collect();
    let stuck: Vec<_> = running.iter().filter_map(|run| Some((run.run.as_str(), run.because.as_deref()?))).collect();
    let found = format!("{} of {} running", running.len(), status.runs.len());
    match (stuck.as_slice(), wait.as_slice()) {
        ([], []) => Check::ok("runs", found),
        ([], wait) => {
            let remedy = "`aggregator status` says why; a person at the site decides";
            Check::warning("runs", format!("{found}; awaiting approval or declining: {}", wait.join(", ")), remedy)
        }
        (stuck, _) => {
            let runs: Vec<&str> = stuck.iter().map(|(run, _)| *run).collect();
            // Why may name files.
            let why: Vec<String> = stuck.iter().map(|(run, because)| format!("{run}: {because}")).collect();
            Check::failure(
                "runs",
                format!("{found}; what cannot go on: {}", runs.join(", ")),
                "`aggregator status` shows more",
            )
            .here(why.join("; "))
        }
    }
}

/// A running run, with those of its sites that are not let in.
pub(in crate::doctor) struct Cohort {
    pub(in crate::doctor) run: RunId,
    pub(in crate::doctor) sites: usize,
    pub(in crate::doctor) quorum: usize,
    /// Never enrolled, or revoked.
    pub(in crate::doctor) outside: Vec<SiteId>,
}

/// Whether those who are let in are enough for the quorums of running runs.
pub(in crate::doctor) fn cohorts(running: &[Cohort]) -> Check {
    let name = "cohorts";
    let told = |of: &Cohort| {
        let sites: Vec<&str> = of.outside.iter().map(|site| site.as_str()).collect();
        format!("{} of {} in {}, whose quorum is {}: {}", sites.len(), of.sites, of.run, of.quorum, sites.join(", "))
    };
    let lacking: Vec<String> = running.iter().filter(|of| !of.outside.is_empty()).map(told).collect();
    let found = format!("not let in are {}", lacking.join("; "));
    match running.iter().any(|of| of.sites - of.outside.len() < of.quorum) {
        true => Check::failure(
            name,
            found,
            "`aggregator invite <site>` each of them: without a quorum no round begins; or `aggregator run abort`, and a run without them",
        ),
        false if lacking.is_empty() => Check::ok(name, "every site of a running run is let in"),
        false => Check::warning(
            name,
            found,
            "`aggregator invite <site>`, or let the run go on without: they are left out of its rounds",
        ),
    }
}

/// Coordinators whose signatures count, against those that the settings ask for; and plans that wait for some, each with how many
/// it has and needs.
pub(in crate::doctor) fn signatures(coordinators: usize, least: u32, waiting: &[(RunId, usize, u32)]) -> Check {
    let name = "signatures";
    let list =
        || waiting.iter().map(|(run, have, need)| format!("{run} has {have} of {need}")).collect::<Vec<_>>().join(", ");
    match waiting {
        _ if coordinators < least as usize => {
            let found =
                format!("a plan must ask for {least}, and {coordinators} coordinators are let in: no run can begin");
            Check::failure(name, found, "`aggregator invite --coordinator <name>`")
        }
        [] => Check::ok(name, format!("no plan waits for one; a plan must ask for {least} or more")),
        _ => {
            let remedy =
                "another coordinator reads and signs: `aggregator run show <run> --as <folder>`, then `run sign`";
            Check::warning(name, list(), remedy)
        }
    }
}

/// Sites that running rounds wait for, each with the milliseconds since it last said something, if it ever did.
pub(in crate::doctor) fn silence(awaited: &[(&SiteId, Option<u64>)]) -> Check {
    let silent = awaited.iter().filter(|(_, ms)| ms.is_none_or(|ms| ms > SILENT_MS));
    let silent: Vec<String> = silent
        .map(|(site, ms)| match ms {
            None => format!("{site} (never heard)"),
            Some(ms) => format!("{site} ({} h)", ms / SILENT_MS),
        })
        .collect();
    match (awaited.len(), silent.as_slice()) {
        (0, _) => Check::ok("silence", "no running round waits for anybody"),
        (of, []) => Check::ok("silence", format!("{of} sites of running rounds, all heard within the hour")),
        (of, silent) => {
            let remedy = "telephone hospital IT: does the agent run? `site-agent doctor` there says more";
            let found = format!("{} of {of} sites of running rounds: {}", silent.len(), silent.join(", "));
            Check::warning("silence", found, remedy)
        }
    }
}
