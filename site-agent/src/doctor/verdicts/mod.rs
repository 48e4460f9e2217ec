//! What measured facts mean. Pure functions: a fact in, a check with its remedy out.

mod images;
mod machine;
mod network;
mod site;

pub(super) use images::{caches, labels, no_sample, sample, sources, subjects, unread_sources};
pub(super) use machine::{disk, gpu, memory, parser, trainer};
pub(super) use network::{Authority, Inspection, bandwidth, certificate, chain, clock, link, proxy, reach, resolution};
pub(super) use site::{
    approvals, enrolment, journal, keys, ledger, policy, private, rounds, settings, standing, unread_plans,
};

const DAY_S: i64 = 86_400;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use certs::probe::Shown;
    use common::check::Check;
    use common::check::Outcome::{self, Failure, NotYet, Ok as Fine, Warning};
    use common::policy::SitePolicy;
    use common::{Decline, RoundNumber};
    use data::SpotCheck;
    use model::Precision;

    use super::*;
    use crate::clock::Moment;
    use crate::network::ChannelMode::{Mutual, Signed};
    use crate::runs::{End, Part, RunHere};
    use crate::standing::Still;

    use super::Inspection::{NoRoots, NotPermitted, Vouched};

    const NOW: Moment = Moment(1_800_000_000);

    fn shown(issuer: &str, from: i64, until: i64) -> Shown {
        let now = NOW.0.cast_signed();
        Shown {
            subject: "s".into(),
            issuer: issuer.into(),
            not_before_s: now + from * DAY_S,
            not_after_s: now + until * DAY_S + 60,
            der: vec![],
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
        let own = |age: i64, left: i64| certificate(Some(Ok(&shown("our CA", -age, left))), NOW);
        let ms = Duration::from_millis;
        let [mine, not_mine] = [true, false].map(|is_issuer| Some(Authority { name: "our CA", is_issuer }));
        let (ours, theirs) = ([shown("our CA", -1, 90)], [shown("Proxy Inspection CA", -1, 90)]);
        let (young, old, ending) = ([shown("our CA", 1, 90)], [shown("our CA", -9, -1)], [shown("our CA", -27, 3)]);
        let (brief, spent) = ([shown("our CA", -1, 6)], [shown("our CA", -5, 2)]);
        let strict: SitePolicy = SitePolicy { purposes: vec![], ..SitePolicy::default() };
        let hours = Some("20:00-06:00".parse().unwrap());
        let resting = Some(Still::OutsideHours { opens_in: ms(60_000) });
        let lost = ["/mnt/gone".to_owned()];
        let run = "pretrain".parse().unwrap();
        let here = |part: Option<Part>, end| RunHere { last: part.map(|part| (RoundNumber(4), part)), end };
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
            (enrolment(Ok(Some(("aalst".into(), "cmr".into())))), Fine, "aalst in cmr"),
            (enrolment(Ok(None)), NotYet, "enrol <invitation>"),
            (enrolment(Err("torn".into())), Failure, "cannot be read"),
            (keys(false, false, &[("site.key", None)]), NotYet, "none yet"),
            (
                keys(true, true, &[("site.key", Some(0o600)), ("secret.key", Some(0o600))]),
                Fine,
                "site.key and secret.key",
            ),
            (
                keys(true, true, &[("site.key", Some(0o600)), ("secret.key", Some(0o640))]),
                Failure,
                "secret.key has mode 640",
            ),
            (keys(true, false, &[("site.key", Some(0o600)), ("secret.key", None)]), Fine, "site.key with mode 600"),
            (keys(true, true, &[("site.key", Some(0o600)), ("secret.key", None)]), Failure, "secret.key is not there"),
            (keys(false, true, &[("secret.key", None)]), Failure, "secret.key is not there"),
            (
                keys(true, true, &[("signing.key", None), ("site.key", Some(0o600))]),
                Failure,
                "signing.key is not there",
            ),
            (private(Some(0o755), None), NotYet, "no images"),
            (private(Some(0o755), Some(0o700)), Fine, "nobody else"),
            (private(Some(0o700), Some(0o755)), Fine, "nobody else"),
            (private(Some(0o755), Some(0o755)), Failure, "mode 755"),
            (ledger(Ok(7)), Fine, "7 entries"),
            (ledger(Err("entry 3".into())), Failure, "does not hold"),
            (unread_plans("x"), Failure, "cannot be read"),
            (unread_sources("x"), Failure, "cannot be read"),
            (no_sample("x"), Failure, "could be looked at"),
            (certificate(None, NOW), NotYet, "none"),
            (certificate(Some(Err("x")), NOW), Failure, "cannot be read"),
            (own(1, 29), Fine, "29 days"),
            (own(20, 10), Fine, "10 days"),
            (own(21, 9), Warning, "9 days"),
            (own(0, 7), Fine, "7 days"),
            (own(6, 1), Warning, "1 days"),
            (own(31, -1), Failure, "expired"),
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
            (chain(None, None, NotPermitted, NOW), NotYet, ""),
            (chain(Some(Err("x")), mine, NotPermitted, NOW), Failure, "no certificate"),
            (chain(Some(Ok(&[])), mine, NotPermitted, NOW), Failure, "no certificate"),
            (chain(Some(Ok(&ours)), mine, NotPermitted, NOW), Fine, "our CA), 90 days"),
            (chain(Some(Ok(&theirs)), not_mine, NotPermitted, NOW), Failure, "not issued by this federation's CA"),
            (chain(Some(Ok(&young)), mine, NotPermitted, NOW), Failure, "not valid yet"),
            (chain(Some(Ok(&old)), mine, NotPermitted, NOW), Failure, "expired"),
            (chain(Some(Ok(&ending)), mine, NotPermitted, NOW), Warning, "3 days"),
            (chain(Some(Ok(&brief)), mine, NotPermitted, NOW), Fine, "6 days"),
            (chain(Some(Ok(&spent)), mine, NotPermitted, NOW), Warning, "2 days"),
            (chain(Some(Ok(&ours)), mine, NoRoots, NOW), Fine, "our CA), 90 days"),
            // Any CA may have that name.
            (chain(Some(Ok(&ours)), not_mine, NotPermitted, NOW), Failure, "not issued by this federation's CA"),
            (chain(Some(Ok(&theirs)), not_mine, NoRoots, NOW), Failure, "not issued by this federation's CA"),
            (
                chain(Some(Ok(&theirs)), not_mine, Vouched(Ok(())), NOW),
                Fine,
                "every message is signed, and may be read",
            ),
            (chain(Some(Ok(&theirs)), not_mine, Vouched(Err("x".into())), NOW), Failure, "nor by `inspection_roots`"),
            (link(None, Mutual), NotYet, ""),
            (link(Some(Ok(ms(12))), Mutual), Fine, "12 ms"),
            (link(Some(Ok(ms(12))), Signed), Fine, "12 ms, by signed messages"),
            (link(Some(Ok(ms(2500))), Mutual), Warning, "2500 ms"),
            (link(Some(Err((Some("revoked"), "w"))), Mutual), Failure, "refuses this site (revoked)"),
            (link(Some(Err((Some("clock"), "w"))), Signed), Failure, "refuses this site's signed call (clock)"),
            (link(Some(Err((None, "w"))), Mutual), Failure, "does not answer"),
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
            (parser(false), Warning, "no Landlock"),
            (parser(true), Fine, "nothing else"),
            (gpu("cpu", Precision::F32, false, None), Fine, "not used"),
            (gpu("cpu", Precision::F32, false, Some("550.1")), Fine, "550.1"),
            (gpu("cpu", Precision::Bf16, false, None), Warning, "makes the CPU slower"),
            (gpu("cuda:0", Precision::Bf16, true, Some("550.1")), Fine, "\"bf16\"; NVIDIA driver"),
            (gpu("cuda:0", Precision::F32, false, Some("550.1")), Failure, "built for the CPU"),
            (gpu("cuda:0", Precision::F32, true, None), Failure, "no NVIDIA driver"),
            (gpu("cuda:0", Precision::F32, true, Some("550.1")), Fine, "driver 550.1"),
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
            (approvals(0, 0, &[], 0), Fine, "none"),
            (approvals(3, 1, &["abc".to_owned()], 0), Warning, "1 of 2 await"),
            (approvals(2, 0, &[], 1), Warning, "declined here"),
            (approvals(2, 0, &[], 0), Fine, "all approved"),
            (approvals(2, 2, &[], 0), Fine, "2 known, of runs that are over"),
            (rounds(None), NotYet, "no part"),
            (rounds(Some((&run, &here(None, Some(End::Finished))))), Fine, "its last model is here"),
            (rounds(Some((&run, &here(None, Some(End::Failed("why".into())))))), Fine, "before its last round"),
            (
                rounds(Some((&run, &here(Some(Part::Acknowledged), None)))),
                Fine,
                "round 4 of run pretrain: its update is",
            ),
            (rounds(Some((&run, &here(Some(Part::Declined(Decline::DiskFull)), None)))), Warning, "disk is full"),
            (
                rounds(Some((&run, &here(Some(Part::Declined(Decline::PolicyRoundsADay)), None)))),
                Fine,
                "after midnight, UTC",
            ),
            (subjects(None, 5), NotYet, ""),
            (subjects(Some(4), 5), Warning, "fewer than 5"),
            (subjects(Some(5), 5), Fine, "5 or more"),
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
        let run = "pretrain".parse().unwrap();
        let not_mine = Some(Authority { name: "our CA", is_issuer: false });
        let told = [
            settings(true, Some("CANARY")),
            proxy(Ok(Some(("HTTPS_PROXY", "http://CANARY:1")))),
            proxy(Err("CANARY")),
            resolution(false, Some(Err("CANARY".into()))),
            reach(Some(Err("CANARY"))),
            chain(Some(Ok(&[shown("CANARY", -1, 1)])), not_mine, NotPermitted, NOW),
            link(Some(Err((None, "CANARY"))), Signed),
            chain(Some(Ok(&[shown("CANARY", -1, 1)])), not_mine, Vouched(Err("CANARY".into())), NOW),
            trainer("cpu", Err("CANARY")),
            sources(1, &["/CANARY".to_owned()]),
            caches(1, 0, true, &["CANARY".to_owned()]),
            labels(true, Some("CANARY")),
            journal(Some("CANARY")),
            ledger(Err("CANARY".into())),
            enrolment(Err("CANARY".into())),
            unread_plans("CANARY"),
            unread_sources("CANARY"),
            no_sample("CANARY"),
            rounds(Some((&run, &RunHere { last: None, end: Some(End::Failed("CANARY".into())) }))),
        ];
        for check in told {
            assert!(format!("{check:?}").contains("CANARY"), "{check:?}");
            assert!(!format!("{:?}", check.to_send()).contains("CANARY"), "{check:?}");
        }
    }
}
