//! A ledger: lines of text, each of which names the digest of the line before. Whoever knows a later line knows that none before
//! it was changed, left out or put elsewhere.
//!
//! A line is JSON and, after a tab, the SHA-256 of that JSON:
//!
//! ```text
//! {"entry":7,"time_ms":1790000000000,"before":"<digest of entry 6>","event":{"kind":"site-enrolled",...}}<TAB><digest>
//! ```
//!
//! `entry` counts from 1; the first one's `before` is 64 zeros. What an event says is the writer's business; this module knows
//! the chain alone. The digest beside the JSON tells which of two lines was changed.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::Digest;
use crate::words::plain;

/// How far a ledger goes: so many entries, and the digest of the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Entries so far.
    pub entries: u64,
    /// The last one's digest; zeros if there is none.
    pub digest: Digest,
}

impl Head {
    /// Of a ledger without entries.
    pub const EMPTY: Self = Self { entries: 0, digest: Digest([0; 32]) };
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.entries, self.digest)
    }
}

/// One line, read back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry<E = Value> {
    /// Its number, from 1.
    pub entry: u64,
    /// When it was written: milliseconds since 1970, by the writer's clock.
    pub time_ms: u64,
    /// Digest of the entry before.
    pub before: Digest,
    /// What happened.
    pub event: E,
}

/// The first line that does not hold, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry {entry}: {fault}")]
pub struct Broken {
    /// Where it stands in the ledger, from 1.
    pub entry: u64,
    /// What is wrong.
    pub fault: Fault,
}

/// What can be wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not a line of a ledger.
    #[error("it is not a line of a ledger: {0}")]
    Malformed(String),
    /// Its text does not have the digest beside it.
    #[error("its text was changed after it was written: it does not have the digest that stands beside it")]
    Changed,
    /// Another number than its place has.
    #[error("it says that it is entry {0}: entries before it were left out, put in, or put elsewhere")]
    Misplaced(u64),
    /// It follows another entry than the one that stands before it.
    #[error("it follows another entry than the one before it: one of the two was written anew")]
    Unchained,
    /// The ledger ends before it.
    #[error("it is missing: the ledger was {0} entries long")]
    Missing(u64),
    /// It tells how far the other side's ledger goes, without the signature of who must have signed that.
    #[error(
        "the head of the aggregator's ledger that it tells is not signed by {0}: it was written by somebody else, or later"
    )]
    Unsigned(String),
    /// Known to be another one.
    #[error("it is not the one that was there before: the ledger was written anew from here on, or earlier")]
    Rewritten,
}

/// The line of an event that follows `head`, and the head with it.
pub fn line(head: Head, time_ms: u64, event: &impl Serialize) -> (String, Head) {
    let entry = Entry { entry: head.entries + 1, time_ms, before: head.digest, event };
    // Events are text, numbers and maps by name. One that could not be written must not become an entry that says nothing.
    let text = serde_json::to_string(&entry).expect("an event is writable as JSON");
    let digest = Digest::of(text.as_bytes());
    (format!("{text}\t{digest}"), Head { entries: entry.entry, digest })
}

/// The next line of a ledger, held to the head before it; and the head with it.
pub fn follow(head: Head, line: &str) -> Result<(Entry, Head), Broken> {
    let place = head.entries + 1;
    let broken = |fault| Broken { entry: place, fault };
    let malformed = |why: &str| broken(Fault::Malformed(why.to_owned()));
    let (text, told) = line.split_once('\t').ok_or_else(|| malformed("no digest stands beside it"))?;
    let digest = Digest::of(text.as_bytes());
    if told != digest.to_string() {
        return Err(broken(Fault::Changed));
    }
    let entry: Entry = serde_json::from_str(text).map_err(|error| malformed(&error.to_string()))?;
    if entry.entry != place {
        return Err(broken(Fault::Misplaced(entry.entry)));
    }
    if entry.before != head.digest {
        return Err(broken(Fault::Unchained));
    }
    Ok((entry, Head { entries: place, digest }))
}

/// The head that a ledger's last line makes, by itself: its digest is checked, what stands before it is not.
pub fn head_of(line: &str) -> Result<Head, Broken> {
    let entry = |text: &str| serde_json::from_str::<Entry>(text).ok();
    let (text, _) = line.split_once('\t').unwrap_or((line, ""));
    let before =
        entry(text).map_or(Head::EMPTY, |entry| Head { entries: entry.entry.saturating_sub(1), digest: entry.before });
    Ok(follow(before, line)?.1)
}

/// When a line says that it was written, in milliseconds since 1970; nothing of it is checked.
pub fn time_of(line: &str) -> Option<u64> {
    let text = line.split_once('\t').map_or(line, |(text, _)| text);
    serde_json::from_str::<Entry>(text).ok().map(|entry| entry.time_ms)
}

/// Holds a whole ledger to its chain, and to heads of it that others knew; gives `each` every entry.
pub fn verify<'a>(
    lines: impl IntoIterator<Item = &'a str>,
    known: &[Head],
    mut each: impl FnMut(&Entry, Head),
) -> Result<Head, Broken> {
    let mut head = Head::EMPTY;
    for line in lines {
        let (entry, next) = follow(head, line)?;
        head = next;
        if known.iter().any(|known| known.entries == head.entries && known.digest != head.digest) {
            return Err(Broken { entry: head.entries, fault: Fault::Rewritten });
        }
        each(&entry, head);
    }
    match known.iter().map(|known| known.entries).max() {
        Some(entries) if entries > head.entries => {
            Err(Broken { entry: head.entries + 1, fault: Fault::Missing(entries) })
        }
        _ => Ok(head),
    }
}

/// In one line: number, time in UTC, what happened; digests by their first digits. Some of it are words of others, or of who changed a
/// ledger that does not hold.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.event["kind"].as_str().unwrap_or("?");
        write!(f, "{:>5}  {}  {:<20}", self.entry, time(self.time_ms), plain(kind))?;
        let fields = self.event.as_object().into_iter().flatten();
        let told = fields.filter(|(name, value)| *name != "kind" && !value.is_null());
        told.into_iter().try_for_each(|(name, value)| f.write_str(&plain(&field(name, value))))
    }
}

fn field(name: &str, value: &Value) -> String {
    match value {
        // By site: digests of reports, why somebody was left out, parts of the mean.
        Value::Object(inner) if name == "reports" || name == "left_out" || name == "shares" => {
            let each: Vec<String> = inner.iter().map(|(site, value)| format!("{site}:{}", short(value))).collect();
            format!(" {name}=[{}]", each.join(" "))
        }
        Value::Object(_) => format!(" {name}=yes"),
        value => format!(" {name}={}", short(value)),
    }
}

fn short(value: &Value) -> String {
    match value {
        Value::String(text) if text.len() == 64 && text.is_ascii() => text[..12].to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => format!("{:.3}", number.as_f64().unwrap_or(f64::NAN)),
        value => value.to_string(),
    }
}

/// Milliseconds since 1970 as `2026-11-25 20:15:04`, UTC.
fn time(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

/// The Gregorian date of a day since 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    // Counted from 1 March of year 0, so that the leap day is the last of its year.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let (day, month) = (of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_line_that_says_who_was_left_out_and_why() {
        let event = serde_json::json!({
            "kind": "round-closed", "round": 2, "reports": { "a": "ab".repeat(32) }, "left_out": { "b": "revoked" }, "note": null,
        });
        let entry = Entry { entry: 7, time_ms: 0, before: Digest([0; 32]), event };
        let told = entry.to_string();
        assert!(told.contains("round-closed         left_out=[b:revoked] reports=[a:abababababab] round=2"), "{told}");
    }

    #[test]
    fn an_entry_is_one_line_whatever_others_wrote_into_it() {
        let obeyed = "\u{1b}[2J\n\u{9b}A";
        let event = serde_json::json!({
            "kind": obeyed, "because": obeyed, obeyed: [obeyed], "left_out": { obeyed: obeyed }, "digest": "\u{1b}".repeat(64),
        });
        let told = Entry { entry: 7, time_ms: 0, before: Digest([0; 32]), event }.to_string();
        assert!(told.contains("because=\u{fffd}[2J") && !told.contains(char::is_control), "{told:?}");
    }

    #[test]
    fn times_are_told_in_utc() {
        assert_eq!(time(0), "1970-01-01 00:00:00");
        assert_eq!(time(951_782_399_999), "2000-02-28 23:59:59");
        assert_eq!(time(951_782_400_000), "2000-02-29 00:00:00");
        assert_eq!(time(1_795_637_704_000), "2026-11-25 20:15:04");
    }

    /// A ledger of so many entries.
    fn ledger(entries: u64) -> (Vec<String>, Head) {
        let mut head = Head::EMPTY;
        let mut lines = Vec::new();
        for entry in 0..entries {
            let event = serde_json::json!({ "kind": "counted", "number": entry * 7, "site": "aalst" });
            let (line, next) = line(head, 1_790_000_000_000 + entry, &event);
            lines.push(line);
            head = next;
        }
        (lines, head)
    }

    fn broken(lines: &[String], known: Head) -> Option<u64> {
        verify(lines.iter().map(String::as_str), &[known], |_, _| {}).err().map(|broken| broken.entry)
    }

    #[test]
    fn every_changed_byte_of_a_thousand_entries_is_found_in_its_entry() {
        let (lines, head) = ledger(1000);
        assert_eq!(verify(lines.iter().map(String::as_str), &[head], |_, _| {}), Ok(head));
        let mut heads = vec![Head::EMPTY];
        for line in &lines {
            heads.push(follow(heads[heads.len() - 1], line).unwrap().1);
        }
        let mut flips = 0_u64;
        for (place, line) in lines.iter().enumerate() {
            for at in 0..line.len() {
                let mut changed = line.clone().into_bytes();
                changed[at] ^= 1 << (at % 7);
                // What is not text any more is not read as a line at all.
                let found = String::from_utf8(changed).map(|changed| follow(heads[place], &changed));
                assert!(!matches!(found, Ok(Ok(_))), "entry {place}, byte {at}");
                flips += 1;
            }
        }
        assert!(flips > 200_000, "{flips}");
    }

    #[test]
    fn what_is_left_out_put_elsewhere_written_anew_or_cut_off_is_found_where_it_was() {
        let (lines, head) = ledger(1000);
        for place in 0..lines.len() - 1 {
            let mut without = lines.clone();
            without.remove(place);
            assert_eq!(broken(&without, head), Some(place as u64 + 1));
            let mut swapped = lines.clone();
            swapped.swap(place, place + 1);
            assert_eq!(broken(&swapped, head), Some(place as u64 + 1));
        }
        for kept in 0..lines.len() {
            assert_eq!(broken(&lines[..kept], head), Some(kept as u64 + 1), "cut off after {kept}");
        }
        // One entry written anew with a digest of its own: the next one does not follow it.
        let mut forged = lines.clone();
        let before = follow_to(&lines, 500);
        forged[500] = line(before, 0, &serde_json::json!({ "kind": "counted", "number": 1 })).0;
        assert_eq!(broken(&forged, head), Some(502));
        // And all that follow it: whoever knows a head knows better.
        let mut anew = lines[..500].to_vec();
        let mut last = before;
        for _ in 500..1000 {
            let (line, next) = line(last, 0, &serde_json::json!({ "kind": "counted", "number": 1 }));
            anew.push(line);
            last = next;
        }
        assert_eq!(broken(&anew, head), Some(1000));
        assert_eq!(broken(&anew, follow_to(&lines, 501)), Some(501));
        assert_eq!(
            broken(&anew, last),
            None,
            "without a head, a ledger that was written anew as a whole cannot be told"
        );
    }

    fn follow_to(lines: &[String], entries: usize) -> Head {
        lines[..entries].iter().fold(Head::EMPTY, |head, line| follow(head, line).unwrap().1)
    }
}
