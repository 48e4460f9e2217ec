//! How much of the ledger one member may fill. An entry stays for ever, and a member may change its word, send what is refused and
//! renew its certificate as often as it likes: each of these has so many entries in an hour, and no more.
//!
//! A value, as [`crate::door`] is, to which the rest is told. A start of the server begins anew.

use std::collections::BTreeMap;

use common::{Holder, RoundNumber, RunId};

use crate::clock::Stamp;

/// Entries of one kind that a member has in an hour, unless its certificates live for seconds. An agent that works has a handful.
pub const OF_A_KIND: u32 = 128;
const HOUR_MS: u64 = 60 * 60 * 1000;

/// What a member may have entered again and again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Repeated {
    /// Another word than its last one about a round. Its first one, and its update, are entered once.
    Word(RunId, RoundNumber),
    /// An update of a round that is refused when all of it is there.
    RefusedUpdate(RunId, RoundNumber),
    /// Another certificate.
    Renewal,
}

impl Repeated {
    /// As the ledger says what was turned away.
    pub fn words(&self) -> &'static str {
        match self {
            Self::Word(..) => "change its word about a round again",
            Self::RefusedUpdate(..) => "send an update that is refused again",
            Self::Renewal => "renew a certificate again",
        }
    }
}

/// What members had entered in this hour.
#[derive(Clone, Debug, Default)]
pub struct Allowance {
    hour: u64,
    had: BTreeMap<(Holder, Repeated), u32>,
}

impl Allowance {
    /// Whether one more is entered, of so many in an hour.
    pub fn takes(&mut self, who: &Holder, what: Repeated, most: u32, now: Stamp) -> bool {
        let hour = now.0 / HOUR_MS;
        if hour != self.hour {
            self.hour = hour;
            self.had.clear();
        }
        let had = self.had.entry((who.clone(), what)).or_default();
        let takes = *had < most;
        *had += u32::from(takes);
        takes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_has_so_many_entries_of_a_kind_in_an_hour_and_takes_none_from_another() {
        let (mut allowance, now) = (Allowance::default(), Stamp(7 * HOUR_MS));
        let [a, b] = ["a", "b"].map(|site| site.parse::<Holder>().unwrap());
        let word = |round| Repeated::Word("run".parse().unwrap(), RoundNumber(round));
        let mut taken = |who: &Holder, what: &Repeated, now| {
            (0..1000).filter(|_| allowance.takes(who, what.clone(), OF_A_KIND, now)).count() as u32
        };
        assert_eq!(taken(&a, &Repeated::Renewal, now), OF_A_KIND);
        assert_eq!(taken(&a, &Repeated::Renewal, Stamp(now.0 + HOUR_MS - 1)), 0);
        for (who, what) in [(&b, Repeated::Renewal), (&a, word(1)), (&a, word(2))] {
            assert_eq!(taken(who, &what, now), OF_A_KIND, "{what:?}");
        }
        assert_eq!(taken(&a, &Repeated::Renewal, Stamp(now.0 + HOUR_MS)), OF_A_KIND);
    }
}
