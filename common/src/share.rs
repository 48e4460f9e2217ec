//! Shares: how much each site's update counts in the mean.
//!
//! A share is proportional to `subjects^alpha` and capped. Not image counts: cine frames are near-duplicates, and a
//! cohort of healthy volunteers would drown the clinics.

use std::collections::BTreeMap;

use crate::ids::SiteId;

/// An averaging weight as an integer, so that sums of weighted updates are exact: at most 2^20.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Share(pub u32);

/// The largest share. All shares of a round add up to about this.
pub const WHOLE: u32 = 1 << 20;

impl Share {
    /// The share as a fraction of `total`.
    pub fn of(self, total: u64) -> f64 {
        f64::from(self.0) / total as f64
    }
}

/// The shares of a cohort, from its subjects (or its images, if the plan says so): proportional to `subjects^alpha`, none above
/// `cap` of the whole.
///
/// What a capped site loses is spread over the others in proportion. With so few sites that the cap cannot hold
/// (`cap * sites < 1`), shares are equal. Every site gets at least one part in 2^20.
pub fn shares(subjects: &BTreeMap<SiteId, u32>, alpha: f64, cap: f64) -> BTreeMap<SiteId, Share> {
    let raw: Vec<f64> = subjects.values().map(|&count| f64::from(count.max(1)).powf(alpha)).collect();
    let capped = capped(&raw, cap);
    let whole = |fraction: f64| Share(((fraction * f64::from(WHOLE)).round() as u32).clamp(1, WHOLE));
    subjects.keys().cloned().zip(capped.into_iter().map(whole)).collect()
}

/// Fractions proportional to `raw` that add up to 1, none above `cap` where that is possible.
fn capped(raw: &[f64], cap: f64) -> Vec<f64> {
    let count = raw.len() as f64;
    if cap * count <= 1.0 {
        return vec![1.0 / count; raw.len()];
    }
    let mut at_cap = vec![false; raw.len()];
    loop {
        let spread_over: f64 = raw.iter().zip(&at_cap).filter(|(_, capped)| !**capped).map(|(value, _)| value).sum();
        let left = 1.0 - cap * at_cap.iter().filter(|capped| **capped).count() as f64;
        let fraction = |value: f64, capped: bool| if capped { cap } else { left * value / spread_over };
        let fractions: Vec<f64> = raw.iter().zip(&at_cap).map(|(&value, &capped)| fraction(value, capped)).collect();
        let over =
            fractions.iter().zip(&at_cap).position(|(&fraction, &capped)| !capped && fraction > cap * (1.0 + 1e-12));
        match over {
            Some(site) => at_cap[site] = true,
            None => return fractions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixed_point::MAX_SITES;

    fn cohort(subjects: &[u32]) -> BTreeMap<SiteId, u32> {
        let id = |i: usize| format!("site-{i}").parse().unwrap();
        subjects.iter().enumerate().map(|(i, &count)| (id(i), count)).collect()
    }

    fn fractions(subjects: &[u32], alpha: f64, cap: f64) -> Vec<f64> {
        shares(&cohort(subjects), alpha, cap).values().map(|share| share.of(u64::from(WHOLE))).collect()
    }

    #[test]
    fn a_biobank_of_a_hundred_times_the_subjects_counts_ten_times_as_much_and_no_more_than_half() {
        let uncapped = fractions(&[10_000, 100, 100], 0.5, 1.0);
        assert!((uncapped[0] / uncapped[1] - 10.0).abs() < 1e-3);
        let capped = fractions(&[10_000, 100, 100], 0.5, 0.5);
        assert!((capped[0] - 0.5).abs() < 1e-5 && (capped[1] - 0.25).abs() < 1e-5);
    }

    #[test]
    fn the_shares_of_the_largest_cohort_add_up_to_less_than_two_wholes() {
        let odd: Vec<u32> =
            (0..MAX_SITES as u32).map(|site| if site == 7 { 1_000_000 } else { 1 + site % 3 }).collect();
        for subjects in [vec![1; MAX_SITES], odd] {
            for cap in [1e-6, 0.5, 1.0] {
                let all = shares(&cohort(&subjects), 1.0, cap);
                let sum: u64 = all.values().map(|share| u64::from(share.0)).sum();
                assert!(all.values().all(|share| share.0 >= 1) && sum < 2 * u64::from(WHOLE), "{cap}: {sum}");
            }
        }
    }

    #[test]
    fn the_cap_holds_also_for_the_site_that_inherits() {
        let capped = fractions(&[1000, 900, 1], 1.0, 0.4);
        assert!(capped.iter().all(|&share| share <= 0.4 + 1e-5), "{capped:?}");
        assert!((capped.iter().sum::<f64>() - 1.0).abs() < 1e-5);
    }

    #[test]
    fn too_few_sites_for_the_cap_count_equally_and_one_site_is_the_whole() {
        assert_eq!(fractions(&[1000, 1], 0.5, 0.5), [0.5, 0.5]);
        assert_eq!(fractions(&[7], 0.5, 0.5), [1.0]);
    }
}
