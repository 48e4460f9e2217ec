//! What measured facts mean. Pure functions: a fact in, a check with its remedy out.

mod files;
mod machine;
mod members;
mod network;

pub(super) use files::{Unheld, authority, blobs, database, folder, keys, ledger, next_authority, no_blobs, settings};
pub(super) use machine::{Stored, clock, disk, memory, open_files, spool, sync};
pub(super) use members::{Cohort, cohorts, connections, persons, runs, signatures, silence, sites};
pub(super) use network::{Silent, handshake, outside, server};

const DAY_S: i64 = 86_400;

#[cfg(test)]
mod tests {
    use common::check::Check;
    use common::check::Outcome::{self, Failure, NotYet, Ok as Fine, Warning};

    use std::time::Duration;

    use certs::probe::Shown;
    use common::{Digest, RunId, SiteId};

    use super::*;
    use crate::authority::seconds;
    use crate::clock::Stamp;

    const HOUR_MS: u64 = 3_600_000;

    #[test]
    fn each_verdict_follows_from_its_facts_and_whatever_is_not_well_has_a_remedy() {
        let now = Stamp(1_800_000_000_000);
        let until = |days: i64| seconds(now) + days * DAY_S + 60;
        let leaf = |days: i64| Shown {
            subject: "s".into(),
            issuer: "ca".into(),
            not_before_s: 0,
            not_after_s: until(days),
            der: vec![],
        };
        let left = |list: &[(&str, i64)]| {
            list.iter().map(|(site, days)| ((*site).to_owned(), days * DAY_S)).collect::<Vec<_>>()
        };
        let run = || "run".parse::<RunId>().unwrap();
        let lost = [(run(), Digest::of(b"model"))];
        let waiting = ["aalst".to_owned()];
        let (site, other): (SiteId, SiteId) = ("aalst".parse().unwrap(), "bergen".parse().unwrap());
        let of_sites = |sites: usize, merged: u32| {
            [Stored { model_bytes: 100_000_000, update_bytes: 100_000_000, sites, merged, planned: 10 }]
        };
        let cohort = |quorum: usize, outside: &[&SiteId]| {
            let outside = outside.iter().map(|site| (*site).clone()).collect();
            Cohort { run: run(), sites: 2, quorum, outside }
        };
        let (quick, slow) = (Duration::from_millis(3), Duration::from_millis(300));
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
            (sites(&[], 30 * DAY_S, 0), NotYet, "none"),
            (sites(&left(&[("a", 29)]), 30 * DAY_S, 1), Fine, "2 enrolled, 1 revoked"),
            (sites(&left(&[("a", 29), ("b", 9)]), 30 * DAY_S, 0), Warning, "b (9 days)"),
            (sites(&left(&[("a", 6), ("b", 3)]), 7 * DAY_S, 0), Fine, "2 enrolled"),
            (sites(&left(&[("a", 6), ("b", 2)]), 7 * DAY_S, 0), Warning, "b (2 days)"),
            (blobs(&[]), Fine, ""),
            (blobs(&lost), Failure, "of run"),
            (clock(0, 0), Fine, ""),
            (clock(59_000, 2), Fine, ""),
            (clock(3_600_000, 2), Failure, "3600 s in the future"),
            (disk(None, &[], 2), Warning, ""),
            (disk(Some(1 << 30), &of_sites(4, 0), 2), Failure, "rounds need 3973.7 MB"),
            (disk(Some(1 << 40), &of_sites(4, 0), 2), Fine, "3973.7 MB"),
            (disk(Some(1 << 40), &of_sites(40, 0), 2), Fine, "18.4 GB"),
            // What is kept is there by then.
            (disk(Some(1 << 40), &of_sites(40, 3), 2), Fine, "6073.7 MB"),
            (disk(Some(1 << 40), &of_sites(40, 9), 2), Fine, "5473.7 MB"),
            (spool(&[], 2, 1 << 20), Fine, ""),
            (
                spool(&of_sites(40, 0), 2, 12_000_000_000),
                Fine,
                "take 12.0 GB, and those of running rounds take 12.0 GB",
            ),
            (spool(&of_sites(40, 0), 2, 11_999_999_999), Failure, "running rounds take 12.0 GB"),
            // The defaults, and updates of 690 MB.
            (
                spool(&[Stored { update_bytes: 690_000_000, ..of_sites(40, 0)[0].clone() }], 2, 64 << 30),
                Failure,
                "82.8 GB",
            ),
            (cohorts(&[]), Fine, "every site"),
            (cohorts(&[cohort(2, &[])]), Fine, "every site"),
            (cohorts(&[cohort(1, &[&site])]), Warning, "not let in are 1 of 2 in run, whose quorum is 1: aalst"),
            (cohorts(&[cohort(1, &[]), cohort(2, &[&site])]), Failure, "1 of 2 in run, whose quorum is 2: aalst"),
            (cohorts(&[cohort(1, &[&site, &other])]), Failure, "2 of 2 in run, whose quorum is 1: aalst, bergen"),
            (server(Err(Silent::Free("refused")), now), Failure, "nobody answers"),
            (server(Err(Silent::Taken("no TLS")), now), Failure, "something that does not answer as this server"),
            (server(Ok(Some(&leaf(50))), now), Fine, "50 days"),
            (server(Ok(Some(&leaf(-1))), now), Failure, "expired"),
            (server(Ok(None), now), Failure, "no certificate of this federation"),
            (next_authority(Err("x")), NotYet, "cannot be read"),
            (next_authority(Ok(None)), Fine, "none"),
            (next_authority(Ok(Some(&[]))), Warning, "every member knows it"),
            (next_authority(Ok(Some(&waiting))), Warning, "do not know it yet: aalst"),
            (ledger(Ok((12, 3))), Fine, "12 entries hold, and with them 3 heads"),
            (ledger(Err(&Unheld::Broken("entry 7".to_owned()))), Failure, "does not hold"),
            (ledger(Err(&Unheld::NoKey("gone".to_owned()))), NotYet, "see the keys"),
            (persons(&[], 0), Fine, "the state folder"),
            (persons(&left(&[("coordinator alice", 3)]), 1), Fine, "2 enrolled, 1 revoked"),
            (persons(&left(&[("coordinator alice", -1)]), 0), Warning, "expired: coordinator alice"),
            (connections(256, 256), Fine, ""),
            (connections(257, 256), Failure, "257 members are let in, and 256"),
            (signatures(0, 0, &[]), Fine, "no plan waits"),
            (signatures(1, 2, &[]), Failure, "no run can begin"),
            (signatures(2, 2, &[(run(), 1, 2)]), Warning, "run has 1 of 2"),
            (silence(&[]), Fine, "waits for anybody"),
            (silence(&[(&site, Some(HOUR_MS))]), Fine, "1 sites of running rounds, all heard"),
            (
                silence(&[(&site, Some(2 * HOUR_MS + 1)), (&other, Some(0))]),
                Warning,
                "1 of 2 sites of running rounds: aalst (2 h)",
            ),
            (silence(&[(&site, None)]), Warning, "aalst (never heard)"),
            (sync(Ok(quick)), Fine, "3.0 ms"),
            (sync(Ok(slow)), Warning, "300 ms"),
            (sync(Err("read-only")), Failure, "nothing can be written"),
            (memory(None), Warning, ""),
            (memory(Some(100 << 20)), Warning, "104.9 MB free"),
            (memory(Some(8 << 30)), Fine, "8589.9 MB free"),
            (open_files(None, 256, 8), Warning, ""),
            (open_files(Some(327), 256, 8), Failure, "327 permitted, and 328"),
            (open_files(Some(328), 256, 8), Fine, ""),
            (handshake(false, Err("x")), NotYet, "nobody answers"),
            (handshake(true, Ok(quick)), Fine, "in 3 ms"),
            (handshake(true, Err("x")), Failure, "does not prove"),
            (outside("a:1", Ok(())), Fine, "answers"),
            (outside("a:1", Err("x")), Warning, "does not answer"),
        ];
        for (check, outcome, part) in table {
            assert_eq!(check.outcome, outcome, "{check:?}");
            assert!(check.found.contains(part), "{part:?} is missing from {check:?}");
            assert_eq!(check.remedy.is_some(), matches!(outcome, Warning | Failure), "{check:?}");
        }
    }
}
