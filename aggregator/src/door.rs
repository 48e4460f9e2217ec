//! Which of those who were turned away the ledger tells of. An entry stays for ever, and anybody may be refused as often as they
//! like: so each kind of refusal is told once in an hour, of strangers a few alone, and the rest is counted.
//!
//! A value: what it hears and when are arguments, what is to be entered comes out. A start of the server begins anew.

use std::collections::BTreeSet;

use common::{Digest, Holder, Refusal};

use crate::clock::Stamp;
use crate::ledger::{Event, Subject};

/// Refusals of whoever has no certificate that an hour tells of. A member's are as many as there are things to ask.
const OF_STRANGERS: usize = 16;
const HOUR_MS: u64 = 60 * 60 * 1000;

/// Somebody who was turned away. Names, digests and words of this program: nothing of what was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TurnedAway {
    /// Whoever wanted to enrol.
    Enrolling {
        /// As whom: what was claimed, and proved by nothing.
        holder: Holder,
        /// Digest of the key for which a certificate was asked, if it could be read.
        request: Option<Digest>,
        /// The refusal's code.
        code: &'static str,
        /// What is wrong with the invitation or the proof.
        because: String,
    },
    /// Whoever called for something that is not theirs to ask.
    Calling {
        /// Who the certificate says it is; nobody without one.
        who: Option<Holder>,
        /// What was asked: in the words of the table of permissions, where it is a matter of that.
        deed: &'static str,
        /// The refusal's code.
        code: &'static str,
    },
}

impl TurnedAway {
    /// Whoever wanted to enrol, if that was refused for what was asked and not for what failed here.
    pub fn enrolling(holder: &Holder, request: Option<Digest>, refusal: &Refusal) -> Option<Self> {
        let because = match refusal {
            Refusal::Token(why) => why.clone(),
            Refusal::Signature(why) => (*why).to_owned(),
            // Its words tell what was sent.
            Refusal::Malformed(_) => "the signing request is not understood".to_owned(),
            _ => return None,
        };
        Some(Self::Enrolling { holder: holder.clone(), request, code: refusal.code(), because })
    }

    /// Whoever called with a certificate that counts no more, for whatever it was.
    pub fn without_standing(who: Holder, refusal: &Refusal) -> Self {
        Self::Calling { who: Some(who), deed: "call with a certificate that counts no more", code: refusal.code() }
    }

    fn is_strangers(&self) -> bool {
        matches!(self, Self::Enrolling { .. } | Self::Calling { who: None, .. })
    }

    /// What is the same when it happens again.
    fn kind(&self) -> Kind {
        match self {
            Self::Enrolling { holder, code, because, .. } => (Some(holder.clone()), code, because.clone()),
            Self::Calling { who, deed, code } => (who.clone(), code, (*deed).to_owned()),
        }
    }
}

type Kind = (Option<Holder>, &'static str, String);

/// What is to be entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Telling {
    /// One who was turned away.
    Of(TurnedAway),
    /// How many more were in an hour that is over.
    Further {
        /// So many.
        times: u64,
        /// Since when.
        since_ms: u64,
    },
}

impl Telling {
    /// As the ledger says it.
    pub fn event(&self) -> Event<'_> {
        match self {
            Self::Of(TurnedAway::Enrolling { holder, request, code, because }) => {
                Event::EnrolmentRefused { who: Subject::of(holder), request: *request, code, because }
            }
            Self::Of(TurnedAway::Calling { who, deed, code }) => {
                Event::CallRefused { who: who.as_ref().map(Subject::of), deed, code }
            }
            Self::Further { times, since_ms } => Event::FurtherRefusals { times: *times, since_ms: *since_ms },
        }
    }
}

/// Those who were turned away in this hour, and what is still to be entered.
#[derive(Clone, Debug, Default)]
pub struct Door {
    hour: u64,
    told: BTreeSet<Kind>,
    strangers: usize,
    further: u64,
    due: Vec<Telling>,
}

impl Door {
    /// Somebody was turned away.
    pub fn hears(&mut self, turned_away: TurnedAway, now: Stamp) {
        self.begin_hour(now);
        let is_full = turned_away.is_strangers() && self.strangers == OF_STRANGERS;
        if is_full || !self.told.insert(turned_away.kind()) {
            self.further += 1;
            return;
        }
        self.strangers += usize::from(turned_away.is_strangers());
        self.due.push(Telling::Of(turned_away));
    }

    /// What is to be entered now, in the order in which it happened.
    pub fn take_due(&mut self, now: Stamp) -> Vec<Telling> {
        self.begin_hour(now);
        std::mem::take(&mut self.due)
    }

    /// What could not be entered: it is due again, before whatever came since.
    pub fn put_back(&mut self, mut earlier: Vec<Telling>) {
        earlier.append(&mut self.due);
        self.due = earlier;
    }

    fn begin_hour(&mut self, now: Stamp) {
        let hour = now.0 / HOUR_MS;
        if hour == self.hour {
            return;
        }
        if self.further > 0 {
            self.due.push(Telling::Further { times: self.further, since_ms: self.hour * HOUR_MS });
        }
        (self.hour, self.strangers, self.further) = (hour, 0, 0);
        self.told.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(text: &str) -> Holder {
        text.parse().unwrap()
    }

    fn calling(who: Option<&str>, deed: &'static str) -> TurnedAway {
        TurnedAway::Calling { who: who.map(holder), deed, code: "not-permitted" }
    }

    fn enrolling(who: &str, why: &str) -> TurnedAway {
        TurnedAway::enrolling(&holder(who), None, &Refusal::Token(why.to_owned())).unwrap()
    }

    #[test]
    fn each_kind_of_refusal_is_told_once_in_an_hour_and_the_rest_is_counted_when_the_hour_is_over() {
        let (mut door, now) = (Door::default(), Stamp(7 * HOUR_MS));
        for _ in 0..1000 {
            door.hears(calling(Some("aalst"), "start a run"), now);
            door.hears(calling(Some("aalst"), "sign a plan"), now);
            door.hears(calling(Some("bergen"), "start a run"), now);
        }
        let told = [("aalst", "start a run"), ("aalst", "sign a plan"), ("bergen", "start a run")];
        let told = told.map(|(who, deed)| Telling::Of(calling(Some(who), deed)));
        assert_eq!(door.take_due(now), told);
        assert_eq!(door.take_due(Stamp(now.0 + HOUR_MS - 1)), []);
        let further = Telling::Further { times: 2997, since_ms: now.0 };
        let again = calling(Some("aalst"), "start a run");
        door.hears(again.clone(), Stamp(now.0 + HOUR_MS));
        assert_eq!(door.take_due(Stamp(now.0 + HOUR_MS)), [further, Telling::Of(again)]);
        assert_eq!(door.take_due(Stamp(now.0 + 9 * HOUR_MS)), [], "an hour in which all were told has no more to say");
    }

    #[test]
    fn strangers_fill_no_ledger_and_take_no_place_of_the_members() {
        let (mut door, now) = (Door::default(), Stamp(HOUR_MS));
        for number in 0..10_000 {
            door.hears(enrolling(&format!("site-{number}"), "expired"), now);
        }
        door.hears(calling(None, "start a run"), now);
        door.hears(calling(Some("aalst"), "start a run"), now);
        let told = door.take_due(now);
        assert_eq!(told.len(), OF_STRANGERS + 1);
        assert_eq!(told.last(), Some(&Telling::Of(calling(Some("aalst"), "start a run"))));
        assert!(door.told.len() <= OF_STRANGERS + 1, "its memory is bounded as well");
        let further = 10_001 - OF_STRANGERS as u64;
        assert_eq!(door.take_due(Stamp(2 * HOUR_MS)), [Telling::Further { times: further, since_ms: HOUR_MS }]);
    }

    #[test]
    fn what_could_not_be_entered_is_due_again_in_its_order() {
        let (mut door, now) = (Door::default(), Stamp(0));
        door.hears(enrolling("aalst", "expired"), now);
        let early = door.take_due(now);
        door.hears(enrolling("bergen", "used already"), now);
        door.put_back(early);
        let told = door.take_due(now);
        assert_eq!(told, [enrolling("aalst", "expired"), enrolling("bergen", "used already")].map(Telling::Of));
    }

    #[test]
    fn what_failed_here_is_nobodys_refusal_and_what_was_sent_is_not_repeated() {
        let of = |refusal: Refusal| TurnedAway::enrolling(&holder("aalst"), None, &refusal);
        assert_eq!(of(Refusal::DiskFull), None);
        assert_eq!(of(Refusal::Unavailable), None);
        let told = format!("{:?}", of(Refusal::Malformed("the signing request: CN=Jane Doe".to_owned())).unwrap());
        assert!(told.contains("not understood") && !told.contains("Jane"), "{told}");
    }
}
