//! Seeds: `H(run, round, site, step, purpose)`, so that the same run draws the same numbers wherever it is replayed.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::ids::{DigestBuilder, RoundNumber, RunId, SiteId};

/// What is being seeded, from the widest to the narrowest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedScope<'a> {
    /// The plan's seed.
    pub plan_seed: u64,
    /// The run.
    pub run: &'a RunId,
    /// The round.
    pub round: RoundNumber,
    /// The site.
    pub site: &'a SiteId,
}

impl SeedScope<'_> {
    /// The seed of one step for one purpose (`"sampler"`, `"crops"`, `"drop-path"`): SHA-256, first eight bytes.
    pub fn seed(&self, step: u64, purpose: &str) -> u64 {
        let mut digest = DigestBuilder::default();
        for part in [self.run.as_str(), self.site.as_str(), purpose] {
            digest.update(&(part.len() as u64).to_le_bytes());
            digest.update(part.as_bytes());
        }
        for number in [self.plan_seed, u64::from(self.round.0), step] {
            digest.update(&number.to_le_bytes());
        }
        let bytes = digest.finish().0;
        u64::from_le_bytes(std::array::from_fn(|i| bytes[i]))
    }

    /// A generator for one step and purpose. ChaCha8: the same stream on every platform and in every version.
    pub fn rng(&self, step: u64, purpose: &str) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(self.seed(step, purpose))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_scope_changes_the_seed() {
        let (run, other_run, site, other_site): (RunId, RunId, SiteId, SiteId) =
            ("a".parse().unwrap(), "b".parse().unwrap(), "a".parse().unwrap(), "b".parse().unwrap());
        let scope = SeedScope { plan_seed: 1, run: &run, round: RoundNumber(1), site: &site };
        let seeds = [
            scope.seed(0, "crops"),
            scope.seed(1, "crops"),
            scope.seed(0, "sampler"),
            SeedScope { plan_seed: 2, ..scope.clone() }.seed(0, "crops"),
            SeedScope { run: &other_run, ..scope.clone() }.seed(0, "crops"),
            SeedScope { round: RoundNumber(2), ..scope.clone() }.seed(0, "crops"),
            SeedScope { site: &other_site, ..scope.clone() }.seed(0, "crops"),
        ];
        assert_eq!(std::collections::BTreeSet::from(seeds).len(), seeds.len());
        assert_eq!(scope.seed(7, "crops"), scope.clone().seed(7, "crops"));
    }
}
