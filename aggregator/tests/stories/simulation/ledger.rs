//! What must hold, whatever happens, kept by somebody who sees every site and every answer, and shares no code with what is
//! checked.
//!
//! Why the sum tells all: in hexadecimal, its digit `i` is how often site `i` was counted, and no digit can carry, because no
//! site is counted sixteen times before another check fails (places 1 to 3 count the updates, their rounds and variants).

use std::collections::{BTreeMap, BTreeSet};

use common::{Digest, RoundNumber, SiteId};

use super::call::Closed;
use super::update::{MOST_SITES, Made, counted};
use crate::oracle::moved;

/// The books.
#[derive(Debug)]
pub(crate) struct Ledger {
    sites: Vec<SiteId>,
    quorum: usize,
    /// Every update that was ever made, by its digest: whose, of which round, and its values.
    made: BTreeMap<Digest, (usize, RoundNumber, [f32; 4])>,
    acknowledged: BTreeMap<(RoundNumber, usize), Digest>,
    rotten: BTreeSet<Digest>,
    rounds: u32,
    model: Digest,
    values: Vec<f32>,
}

impl Ledger {
    pub(crate) fn new(sites: Vec<SiteId>, quorum: usize, model: Digest, values: Vec<f32>) -> Self {
        let (made, acknowledged, rotten) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { sites, quorum, made, acknowledged, rotten, rounds: 0, model, values }
    }

    pub(crate) fn made(&mut self, site: usize, round: RoundNumber, update: &Made) {
        self.made.insert(update.digest, (site, round, update.values));
    }

    pub(crate) fn rotted(&mut self, digest: Digest) {
        self.rotten.insert(digest);
    }

    /// Rounds that were merged.
    pub(crate) fn rounds(&self) -> u32 {
        self.rounds
    }

    pub(crate) fn model(&self) -> Digest {
        self.model
    }

    /// A site hears that an update is stored, or the answer is on its way and gets lost.
    pub(crate) fn acknowledged(&mut self, site: usize, round: RoundNumber, digest: Digest) -> Result<(), String> {
        match self.acknowledged.insert((round, site), digest) {
            Some(first) if first != digest => {
                Err(format!("site {site}, round {round}: {first} and {digest} were both acknowledged"))
            }
            _ => Ok(()),
        }
    }

    /// A site is told to start from a model.
    pub(crate) fn told_to_train(&self, round: RoundNumber, base: Digest) -> Result<(), String> {
        if round.0 == self.rounds + 1 && base == self.model {
            return Ok(());
        }
        Err(format!(
            "told to train round {round} from {base}, after {} rounds that came to {}",
            self.rounds, self.model
        ))
    }

    /// A round was merged.
    pub(crate) fn closed(&mut self, closed: &Closed) -> Result<(), String> {
        let round = closed.round;
        let wrong = |what: String| Err(format!("round {round}: {what}"));
        if round.0 != self.rounds + 1 || closed.base != self.model {
            return wrong(format!(
                "merged into {}, after {} rounds that came to {}",
                closed.base, self.rounds, self.model
            ));
        }
        if closed.reports.len() < self.quorum {
            return wrong(format!("{} updates were merged, below the quorum of {}", closed.reports.len(), self.quorum));
        }
        let mut deltas = Vec::new();
        let mut expected = [0_u8; MOST_SITES];
        for (site, digest) in &closed.reports {
            let Some(place) = self.sites.iter().position(|known| known == site) else {
                return wrong(format!("{site} is not of the cohort"));
            };
            match self.made.get(digest) {
                Some((of, at, values)) if (*of, *at) == (place, round) => deltas.push(*values),
                other => return wrong(format!("{site} is merged with an update of {other:?}")),
            }
            if let Some(first) = self.acknowledged.get(&(round, place)).filter(|first| *first != digest) {
                return wrong(format!("{site} is merged with {digest}, but was told that {first} counts"));
            }
            expected[place] += 1;
        }
        let mut known: Vec<&SiteId> = closed.reports.iter().map(|(site, _)| site).chain(&closed.left_out).collect();
        known.sort();
        if known != self.sites.iter().collect::<Vec<_>>() {
            return wrong(format!("not everybody is accounted for, once: {known:?}"));
        }
        for ((_, site), digest) in self.acknowledged.iter().filter(|((at, _), _)| *at == round) {
            if expected[*site] == 0 && !self.rotten.contains(digest) {
                return wrong(format!("{} was told that its update counts, and it does not", self.sites[*site]));
            }
        }
        if let Some(sums) = &closed.sums {
            let unit = 1_i64 << 32;
            let whole =
                |place: usize, scale: f32| deltas.iter().map(|delta| (delta[place] * scale) as i64).sum::<i64>();
            let wanted = [unit * whole(1, 1.0), unit / 2 * whole(2, 2.0), unit / 4 * whole(3, 4.0)];
            if counted(sums[0]) != expected || sums[1..] != wanted {
                return wrong(format!(
                    "sites were counted {:?} times, not {expected:?}; {sums:?} {wanted:?}",
                    counted(sums[0])
                ));
            }
        }
        // All subjects are the same, and so are the shares, whatever they are.
        let share = ((1 << 20) as f64 / deltas.len() as f64).round() as u32;
        let next: Vec<f32> =
            (0..4).map(|place| moved(self.values[place], deltas.iter().map(|delta| (delta[place], share)))).collect();
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        if bits(&next) != bits(&closed.values) {
            return wrong(format!("the model is {:?}, by integers it is {next:?}", closed.values));
        }
        self.rounds += 1;
        self.model = closed.model;
        self.values = next;
        Ok(())
    }
}
