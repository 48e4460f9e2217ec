//! Whether the ledgers of a federation hold, each by itself and one against the other; and if not, whose does not, and from which
//! entry on. A pure function of their lines: it works offline, on copies.
//!
//! Each side's ledger holds what the other signed of it. The aggregator's has heads that sites countersigned with their updates:
//! who writes it anew lacks their keys. A site's has heads that the aggregator signed with each round: who writes that one anew
//! cannot lay the blame on the aggregator.

use std::collections::BTreeMap;
use std::fmt;

use certs::signing::verifies;
use common::ledger::{self, Broken, Entry, Fault, Head};
use common::signed::{Attestation, SignedHead, VerifyingKey, countersigned_statement, ledger_statement};
use common::{FederationName, SiteId};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The aggregator's ledger.
#[derive(Clone, Debug)]
pub struct AggregatorLedger {
    /// The federation.
    pub federation: FederationName,
    /// The aggregator's key.
    pub key: VerifyingKey,
    /// All lines.
    pub lines: Vec<String>,
    /// Where it is noted, or signed, to end.
    pub end: Head,
}

/// A site's ledger.
#[derive(Clone, Debug)]
pub struct SiteLedger {
    /// How people call it.
    pub name: String,
    /// All lines.
    pub lines: Vec<String>,
    /// Where it is noted to end, if that came along.
    pub end: Option<Head>,
}

/// Whose ledger it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Party {
    /// The aggregator's.
    Aggregator,
    /// A site's, as people call it.
    Site(String),
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aggregator => f.write_str("the aggregator's ledger"),
            Self::Site(name) => write!(f, "the site's ledger {name}"),
        }
    }
}

/// The ledger that does not hold, and its first entry that does not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{whose} does not hold: {broken}")]
pub struct Blamed {
    /// Whose it is.
    pub whose: Party,
    /// Which entry, and why.
    pub broken: Broken,
}

/// What holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Audited {
    /// The last entry of the aggregator's.
    pub head: Head,
    /// Heads of it that sites countersigned, or hold in the aggregator's hand.
    pub told: usize,
}

/// Holds all ledgers.
pub fn audit(aggregator: &AggregatorLedger, sites: &[SiteLedger]) -> Result<Audited, Blamed> {
    let blamed = |broken| Blamed { whose: Party::Aggregator, broken };
    let of_site = |site: &SiteLedger| {
        let whose = Party::Site(site.name.clone());
        move |broken| Blamed { whose, broken }
    };
    // Each by itself; then what each tells of the other.
    let entries = held(&aggregator.lines, &[aggregator.end]).map_err(blamed)?;
    let of_sites: Vec<_> = sites
        .iter()
        .map(|site| held(&site.lines, site.end.as_slice()).map_err(of_site(site)))
        .collect::<Result<_, _>>()?;
    let mut told = countersigned(aggregator, &entries).map_err(blamed)?;
    for (site, entries) in sites.iter().zip(&of_sites) {
        told.extend(told_by_the_aggregator(aggregator, entries).map_err(of_site(site))?);
    }
    let head = ledger::verify(lines(&aggregator.lines), &told, |_, _| {}).map_err(blamed)?;
    Ok(Audited { head, told: told.len() })
}

/// The entries of a ledger that holds by itself, and ends where it must.
fn held(text: &[String], known: &[Head]) -> Result<Vec<Entry>, Broken> {
    let mut entries = Vec::new();
    ledger::verify(lines(text), known, |entry, _| entries.push(entry.clone()))?;
    Ok(entries)
}

fn lines(lines: &[String]) -> impl Iterator<Item = &str> {
    lines.iter().map(String::as_str)
}

/// The heads that sites countersigned, by the keys that they enrolled with. Each update of a site that has such a key has one: an
/// aggregator takes none without it, so whoever writes the ledger anew cannot leave it out. A site without a key signs nothing.
fn countersigned(aggregator: &AggregatorLedger, entries: &[Entry]) -> Result<Vec<Head>, Broken> {
    #[derive(Deserialize)]
    struct Enrolled {
        site: Option<SiteId>,
        signing_key: Option<VerifyingKey>,
    }
    #[derive(Deserialize)]
    struct Stored {
        site: SiteId,
        attestation: Option<Attestation>,
    }
    let mut keys = BTreeMap::new();
    each(entries, |entry, kind| {
        if kind == "enrolled" {
            let Enrolled { site, signing_key } = read(entry)?;
            // One that enrols once more signs with what it enrols with then.
            if let Some(site) = site {
                keys.insert(site, signing_key);
            }
        }
        if kind != "update-stored" {
            return Ok(None);
        }
        let Stored { site, attestation } = read(entry)?;
        let key = keys.get(&site).copied().flatten();
        match (key, attestation.and_then(|it| it.ledger)) {
            (None, None) => Ok(None),
            (Some(key), Some(SignedHead { head, signature }))
                if verifies(key, &countersigned_statement(&aggregator.federation, &site, head), signature) =>
            {
                Ok(Some(head))
            }
            (Some(_), None) => Err(Fault::Unsigned(format!(
                "site {site}, which enrolled with a signing key and whose hand is not there"
            ))),
            (_, Some(_)) => Err(Fault::Unsigned(format!("site {site}, with the key that it enrolled with"))),
        }
    })
}

/// The heads that a site was told with its rounds.
fn told_by_the_aggregator(aggregator: &AggregatorLedger, entries: &[Entry]) -> Result<Vec<Head>, Broken> {
    #[derive(Deserialize)]
    struct Accepted {
        ledger: Option<SignedHead>,
    }
    each(entries, |entry, kind| {
        if kind != "round-accepted" {
            return Ok(None);
        }
        let Accepted { ledger: Some(SignedHead { head, signature }) } = read(entry)? else { return Ok(None) };
        match verifies(aggregator.key, &ledger_statement(&aggregator.federation, head), signature) {
            true => Ok(Some(head)),
            false => Err(Fault::Unsigned("the aggregator".to_owned())),
        }
    })
}

/// The heads that `tells` finds in entries, by their kinds.
fn each(
    entries: &[Entry],
    mut tells: impl FnMut(&Entry, &str) -> Result<Option<Head>, Fault>,
) -> Result<Vec<Head>, Broken> {
    let heads = entries.iter().filter_map(|entry| {
        let kind = entry.event["kind"].as_str().ok_or_else(|| Fault::Malformed("its event has no kind".to_owned()));
        let told = kind.and_then(|kind| tells(entry, kind));
        told.map_err(|fault| Broken { entry: entry.entry, fault }).transpose()
    });
    heads.collect()
}

/// An event as far as it is needed. One that is chained well and cannot be read was not written by these programs.
fn read<E: DeserializeOwned>(entry: &Entry<Value>) -> Result<E, Fault> {
    serde_json::from_value(entry.event.clone()).map_err(|error| Fault::Malformed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use certs::signing::SigningKey;
    use serde_json::json;

    use super::*;

    const ENTRIES: usize = 1000;

    /// A federation of one site whose ledgers have a thousand entries each, some of which tell of the other.
    struct House {
        aggregator_key: SigningKey,
        site_key: SigningKey,
        aggregator: AggregatorLedger,
        site: SiteLedger,
    }

    fn chained(events: &[Value]) -> (Vec<String>, Head) {
        events.iter().fold((Vec::new(), Head::EMPTY), |(mut lines, head), event| {
            let (line, next) = ledger::line(head, 1_790_000_000_000, event);
            lines.push(line);
            (lines, next)
        })
    }

    fn events(lines: &[String]) -> Vec<Value> {
        let event = |line: &String| serde_json::from_str::<Entry>(line.split_once('\t').unwrap().0).unwrap().event;
        lines.iter().map(event).collect()
    }

    impl House {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let key = |name: &str| SigningKey::create(&folder.path().join(name)).unwrap();
            let (aggregator_key, site_key) = (key("aggregator"), key("site"));
            let federation: FederationName = "cmr".parse().unwrap();
            let site: SiteId = "aalst".parse().unwrap();
            let enrolled = json!({ "kind": "enrolled", "site": site, "signing_key": site_key.verifying() });
            let (mut events, mut accepted) = (vec![enrolled], Vec::new());
            let mut heads = vec![Head::EMPTY];
            let mut head = ledger::line(Head::EMPTY, 1_790_000_000_000, &events[0]).1;
            heads.push(head);
            while events.len() < ENTRIES {
                // Every fourth entry is an update, made when the one three before it was the last.
                let event = if events.len() % 4 == 3 {
                    let seen = heads[events.len() - 2];
                    let signature = aggregator_key.sign(&ledger_statement(&federation, seen));
                    accepted.push(json!({ "kind": "round-accepted", "ledger": SignedHead { head: seen, signature } }));
                    let signature = site_key.sign(&countersigned_statement(&federation, &site, seen));
                    let ledger = Some(SignedHead { head: seen, signature });
                    let attestation = Attestation { ledger, signature };
                    json!({ "kind": "update-stored", "site": site, "attestation": attestation })
                } else {
                    accepted.push(json!({ "kind": "declined", "round": events.len() }));
                    json!({ "kind": "joined", "site": site, "round": events.len() })
                };
                events.push(event);
                head = ledger::line(head, 1_790_000_000_000, &events[events.len() - 1]).1;
                heads.push(head);
            }
            let (lines, end) = chained(&events);
            let (of_site, its_end) = chained(&accepted);
            let key = aggregator_key.verifying();
            Self {
                aggregator_key,
                site_key,
                aggregator: AggregatorLedger { federation, key, lines, end },
                site: SiteLedger { name: "aalst".to_owned(), lines: of_site, end: Some(its_end) },
            }
        }

        fn audited(&self) -> Result<Audited, Blamed> {
            audit(&self.aggregator, std::slice::from_ref(&self.site))
        }

        /// Whom it blames, and from which entry on, when these are one party's lines.
        fn blames(&self, whose: &Party, lines: Vec<String>) -> Option<(Party, u64)> {
            let (mut aggregator, mut site) = (self.aggregator.clone(), self.site.clone());
            match whose {
                Party::Aggregator => aggregator.lines = lines,
                Party::Site(_) => site.lines = lines,
            }
            audit(&aggregator, &[site]).err().map(|blamed| (blamed.whose, blamed.broken.entry))
        }

        fn lines(&self, whose: &Party) -> &[String] {
            match whose {
                Party::Aggregator => &self.aggregator.lines,
                Party::Site(_) => &self.site.lines,
            }
        }
    }

    fn parties() -> [Party; 2] {
        [Party::Aggregator, Party::Site("aalst".to_owned())]
    }

    /// As a file is read: lines, lossily.
    fn lines_of(bytes: &[u8]) -> Vec<String> {
        String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect()
    }

    #[test]
    fn every_change_to_either_ledger_of_a_thousand_entries_is_laid_to_whose_it_is_and_to_its_entry() {
        let house = House::new();
        assert_eq!(house.audited().unwrap().head, house.aggregator.end);
        let mut changes = 0;
        for whose in parties() {
            let lines = house.lines(&whose).to_vec();
            // A step that meets every kind of entry, and every bit and place of a line in turn.
            for place in (0..lines.len() - 1).step_by(7) {
                let at_place = Some((whose.clone(), place as u64 + 1));
                let line = lines[place].as_bytes();
                for (at, bit) in [(place * 31 % line.len(), place % 8), (line.len() - 1, place % 8), (0, 7)] {
                    let mut file = lines.join("\n").into_bytes();
                    let begin: usize = lines[..place].iter().map(|line| line.len() + 1).sum();
                    file[begin + at] ^= 1 << bit;
                    assert_eq!(house.blames(&whose, lines_of(&file)), at_place, "byte {at}, bit {bit}");
                }
                let mut without = lines.clone();
                without.remove(place);
                assert_eq!(house.blames(&whose, without), at_place, "left out");
                let mut twice = lines.clone();
                twice.insert(place, lines[place].clone());
                let after = Some((whose.clone(), place as u64 + 2));
                assert_eq!(house.blames(&whose, twice), after, "put in twice");
                let mut swapped = lines.clone();
                swapped.swap(place, lines.len() - 1);
                assert_eq!(house.blames(&whose, swapped), at_place, "swapped with the last");
                assert_eq!(house.blames(&whose, lines[..place].to_vec()), at_place, "cut off");
                let mut joined = lines.join("\n").into_bytes();
                let newline = lines[..=place].iter().map(|line| line.len() + 1).sum::<usize>() - 1;
                joined[newline] = b' ';
                assert_eq!(house.blames(&whose, lines_of(&joined)), at_place, "run together with the next");
                changes += 8;
            }
        }
        println!("{changes} changes to two ledgers of {ENTRIES} entries were found and laid to their party and entry");
        assert!(changes > 2_000);
    }

    #[test]
    fn an_aggregator_that_writes_its_ledger_anew_lacks_the_hands_of_the_sites() {
        let house = House::new();
        let mut events = events(&house.aggregator.lines);
        events[500]["round"] = json!(7_000);
        let (lines, end) = chained(&events);
        // The heads that sites countersigned are left as they were: they are of another ledger.
        let anew = AggregatorLedger { lines, end, ..house.aggregator.clone() };
        let alone = audit(&anew, &[]).unwrap_err();
        assert_eq!((alone.whose, alone.broken.fault), (Party::Aggregator, Fault::Rewritten));
        // Or they are made to fit, without the site's key.
        let mut head = Head::EMPTY;
        let mut heads = vec![head];
        let mut forged = Vec::new();
        for (place, mut event) in events.into_iter().enumerate() {
            if place > 500 && event["kind"] == "update-stored" {
                let seen = heads[place - 2];
                event["attestation"]["ledger"]["head"] = json!(seen);
            }
            let (line, next) = ledger::line(head, 1_790_000_000_000, &event);
            forged.push(line);
            head = next;
            heads.push(head);
        }
        let anew = AggregatorLedger { lines: forged, end: head, ..house.aggregator.clone() };
        let alone = audit(&anew, &[]).unwrap_err();
        assert_eq!((&alone.whose, alone.broken.entry), (&Party::Aggregator, 504), "{alone}");
        assert!(alone.to_string().contains("not signed by site aalst"), "{alone}");
    }

    #[test]
    fn a_hand_of_a_site_that_enrolled_with_a_key_cannot_be_left_out_of_a_ledger_that_is_written_anew() {
        let house = House::new();
        for left_out in [json!(null), json!({ "ledger": null, "signature": "00".repeat(64) })] {
            let mut events = events(&house.aggregator.lines);
            for event in events.iter_mut().skip(500).filter(|event| event["kind"] == "update-stored") {
                event["attestation"] = left_out.clone();
            }
            let (lines, end) = chained(&events);
            let anew = AggregatorLedger { lines, end, ..house.aggregator.clone() };
            let alone = audit(&anew, &[]).unwrap_err();
            assert_eq!((&alone.whose, alone.broken.entry), (&Party::Aggregator, 504), "{alone}");
            assert!(alone.to_string().contains("site aalst, which enrolled with a signing key"), "{alone}");
        }
    }

    #[test]
    fn a_site_signs_nothing_until_it_enrols_with_a_key() {
        let house = House::new();
        let enrolled = |key: Option<VerifyingKey>| json!({ "kind": "enrolled", "site": "aalst", "signing_key": key });
        let stored = json!({ "kind": "update-stored", "site": "aalst", "attestation": null });
        let others = json!({ "kind": "update-stored", "site": "bergen", "attestation": null });
        let audited = |events: &[Value]| {
            let (lines, end) = chained(events);
            audit(&AggregatorLedger { lines, end, ..house.aggregator.clone() }, &[]).map(|held| held.told)
        };
        let mut history = vec![stored.clone(), enrolled(None), stored.clone()];
        assert_eq!(audited(&history), Ok(0));
        history.extend([enrolled(Some(house.site_key.verifying())), others]);
        assert_eq!(audited(&history), Ok(0), "its key is not another site's");
        history.push(stored);
        assert_eq!(audited(&history).unwrap_err().broken.entry, 6);
    }

    #[test]
    fn a_site_that_writes_its_ledger_anew_cannot_lay_the_blame_on_the_aggregator() {
        let house = House::new();
        let mut events = events(&house.site.lines);
        let place = events.iter().position(|event| event["kind"] == "round-accepted").unwrap();
        let false_head = Head { entries: 2, digest: common::Digest::of(b"another history") };
        for (signature, key) in [("its own", &house.site_key), ("the aggregator's", &house.aggregator_key)] {
            let signature_of_it = key.sign(&ledger_statement(&house.aggregator.federation, false_head));
            events[place]["ledger"] = json!(SignedHead { head: false_head, signature: signature_of_it });
            let (lines, end) = chained(&events);
            let anew = SiteLedger { lines, end: Some(end), ..house.site.clone() };
            let blamed = audit(&house.aggregator, &[anew]).unwrap_err();
            match signature {
                "its own" => {
                    assert_eq!(blamed.whose, Party::Site("aalst".to_owned()));
                    assert_eq!(blamed.broken.entry, place as u64 + 1);
                }
                // What the aggregator signed and does not hold is the aggregator's fault.
                _ => assert_eq!((blamed.whose, blamed.broken.entry), (Party::Aggregator, 2)),
            }
        }
    }

    #[test]
    fn what_tells_of_the_other_ledger_and_cannot_be_read_is_named_and_not_passed_over() {
        let mut house = House::new();
        let odd = json!({ "kind": "round-accepted", "ledger": { "head": "two" } });
        (house.site.lines, house.site.end) = {
            let (lines, end) = chained(&[json!({ "kind": "joined" }), odd]);
            (lines, Some(end))
        };
        let blamed = house.audited().unwrap_err();
        assert_eq!((blamed.broken.entry, blamed.whose), (2, Party::Site("aalst".to_owned())));
        let (lines, end) = chained(&[json!({ "ledger": null })]);
        (house.site.lines, house.site.end) = (lines, Some(end));
        assert!(house.audited().unwrap_err().to_string().contains("its event has no kind"));
    }
}
