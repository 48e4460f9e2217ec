//! Who goes astray, told from the meters of one merged round: a site that collapses, or one that drifts from the others.
//!
//! Pure. Nothing is done to a site that is named: its update was merged, its share is the plan's; a person decides. A bound
//! is wide enough that honest sites of unlike hospitals do not meet it (`docs/results/learning.md` has the rounds it was
//! held to).

use common::{Meters, SiteId};
use serde::{Deserialize, Serialize};

/// Information of the teacher's output about the image, in nats, below which it says nothing of the image.
const LEAST_INFORMATION: f64 = 0.02;
/// The same, as a fraction of the median of the other sites.
const LEAST_INFORMATION_OF_OTHERS: f64 = 0.2;
/// RankMe, as a fraction of the median of the other sites.
const LEAST_RANK_OF_OTHERS: f64 = 0.5;
/// The norm of a delta, as a multiple of the median of the other sites.
const MOST_NORM_OF_OTHERS: f64 = 4.0;
/// Cosine of a delta to the merged one.
const LEAST_COSINE: f64 = 0.0;

/// What was measured of one site in a round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// How its training went.
    pub meters: Meters,
    /// L2 norm of its delta.
    pub norm: f64,
    /// Cosine of its delta to the merged one.
    pub cosine: f64,
}

/// A site that goes astray.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    /// Which.
    pub site: SiteId,
    /// How.
    pub kind: AlarmKind,
    /// What was measured.
    pub value: f64,
    /// The bound that it is on the wrong side of.
    pub bound: f64,
}

/// How a site goes astray.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlarmKind {
    /// The teacher says the same of every image, be it all prototypes or one.
    Collapse,
    /// Features use few directions.
    DimensionalCollapse,
    /// The delta points away from the merged one.
    Opposed,
    /// The delta is far longer than the others'.
    Runaway,
}

impl std::fmt::Display for Alarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { site, kind, value, bound } = self;
        match kind {
            AlarmKind::Collapse => write!(
                f,
                "{site} collapses: its teacher's output holds {value:.3} nats about an image, less than {bound:.3}; look at its \
                 images, and at its log"
            ),
            AlarmKind::DimensionalCollapse => {
                write!(
                    f,
                    "{site} loses directions: RankMe {value:.1}, less than {bound:.1}; look at the mix of its images"
                )
            }
            AlarmKind::Opposed => {
                write!(
                    f,
                    "{site} pulls away: cosine {value:.2} to the merged delta, less than {bound:.2}; shorten the rounds"
                )
            }
            AlarmKind::Runaway => {
                write!(
                    f,
                    "{site} runs away: its delta's norm is {value:.2}, more than {bound:.2}; look at its images and log"
                )
            }
        }
    }
}

/// Names those who go astray, in the order of the sites.
pub fn alarms(round: &[(SiteId, Measured)]) -> Vec<Alarm> {
    let mut found = Vec::new();
    for (site, own) in round {
        let others =
            |of: fn(&Measured) -> f64| median(round.iter().filter(|(other, _)| other != site).map(|(_, one)| of(one)));
        // A number that cannot be written as JSON would hide the whole status from whoever reads it.
        let mut raise = |kind, value: f64, bound: f64| {
            if value.is_finite() && bound.is_finite() {
                found.push(Alarm { site: site.clone(), kind, value, bound });
            }
        };
        let bound =
            others(information).map_or(0.0, |others| LEAST_INFORMATION_OF_OTHERS * others).max(LEAST_INFORMATION);
        if information(own) < bound {
            raise(AlarmKind::Collapse, information(own), bound);
        }
        // A site with too few frames to be held to others by it has measured none.
        let ranked = |one: &Measured| one.meters.rank_me > 0.0;
        let ranks = round.iter().filter(|(other, one)| other != site && ranked(one)).map(|(_, one)| one.meters.rank_me);
        if let Some(bound) = median(ranks).map(|others| LEAST_RANK_OF_OTHERS * others)
            && ranked(own)
            && own.meters.rank_me < bound
        {
            raise(AlarmKind::DimensionalCollapse, own.meters.rank_me, bound);
        }
        if round.len() > 1 && own.cosine < LEAST_COSINE {
            raise(AlarmKind::Opposed, own.cosine, LEAST_COSINE);
        }
        if let Some(bound) = others(|one| one.norm).map(|others| MOST_NORM_OF_OTHERS * others)
            && own.norm > bound
        {
            raise(AlarmKind::Runaway, own.norm, bound);
        }
    }
    found
}

/// What the teacher's output tells of the image, in nats: the entropy of its mean over a batch less its mean entropy. Both
/// ways to collapse, to all prototypes and to one, bring it to 0.
fn information(measured: &Measured) -> f64 {
    measured.meters.batch_entropy - measured.meters.teacher_entropy
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(teacher_entropy: f64, batch_entropy: f64, rank_me: f64) -> Measured {
        Measured { meters: Meters { loss: 2.0, teacher_entropy, batch_entropy, rank_me }, norm: 1.0, cosine: 0.7 }
    }

    fn named(round: &[Measured]) -> Vec<(String, AlarmKind)> {
        let round: Vec<_> =
            ["a", "b", "c"].iter().zip(round).map(|(site, one)| (site.parse().unwrap(), *one)).collect();
        alarms(&round).into_iter().map(|alarm| (alarm.site.to_string(), alarm.kind)).collect()
    }

    #[test]
    fn both_ways_to_collapse_are_named_and_unlike_sites_are_not() {
        let honest = [measured(1.5, 2.9, 40.0), measured(2.4, 3.3, 28.0), measured(0.8, 2.2, 33.0)];
        assert_eq!(named(&honest), []);
        let collapsed = |meters| named(&[honest[0], meters, honest[2]]);
        let alarm = [("b".to_owned(), AlarmKind::Collapse)];
        assert_eq!(collapsed(measured(4.158, 4.159, 28.0)), alarm);
        assert_eq!(collapsed(measured(0.001, 0.004, 28.0)), alarm);
    }

    #[test]
    fn a_cohort_that_collapses_together_is_named_as_a_whole() {
        let uniform = measured(4.155, 4.159, 20.0);
        assert_eq!(named(&[uniform; 3]).len(), 3);
    }

    #[test]
    fn a_site_of_few_directions_one_that_pulls_away_and_one_that_runs_away_are_named() {
        let honest = measured(1.5, 2.9, 40.0);
        let with = |change: fn(&mut Measured)| {
            let mut one = honest;
            change(&mut one);
            named(&[honest, honest, one])
        };
        let alarm = |kind| vec![("c".to_owned(), kind)];
        assert_eq!(with(|one| one.meters.rank_me = 12.0), alarm(AlarmKind::DimensionalCollapse));
        assert_eq!(with(|one| one.cosine = -0.2), alarm(AlarmKind::Opposed));
        assert_eq!(with(|one| one.norm = 9.0), alarm(AlarmKind::Runaway));
    }

    #[test]
    fn a_site_with_too_few_frames_for_rank_me_is_held_to_no_other_by_it_and_no_other_to_it() {
        let ranked = |rank_me: [f64; 3]| named(&rank_me.map(|rank_me| measured(1.5, 2.9, rank_me)));
        assert_eq!(ranked([40.0, 36.0, 0.0]), []);
        assert_eq!(ranked([12.0, 0.0, 0.0]), []);
        assert_eq!(ranked([0.0, 40.0, 12.0]), [("c".to_owned(), AlarmKind::DimensionalCollapse)]);
    }

    /// Rounds of runs of the demo (20 and 30 rounds) and of the learning experiment (its arm `injected-uniform`).
    fn recorded(rounds: &str) -> Vec<Vec<(SiteId, Measured)>> {
        let mut by_round = std::collections::BTreeMap::<(String, u32), Vec<(SiteId, Measured)>>::new();
        for line in rounds.lines().skip(1) {
            let fields: Vec<&str> = line.split(',').collect();
            let number = |place: usize| fields[place].parse::<f64>().unwrap();
            let meters =
                Meters { loss: number(3), teacher_entropy: number(4), batch_entropy: number(5), rank_me: number(6) };
            let measured = Measured { meters, norm: number(7), cosine: number(8) };
            let round = (fields[0].to_owned(), fields[1].parse().unwrap());
            by_round.entry(round).or_default().push((fields[2].parse().unwrap(), measured));
        }
        by_round.into_values().collect()
    }

    #[test]
    fn sixty_five_clean_rounds_of_unlike_hospitals_raise_no_alarm() {
        let rounds = recorded(include_str!("../tests/fixtures/clean_rounds.csv"));
        assert_eq!((rounds.len(), rounds.iter().flatten().count()), (65, 195));
        for (round, sites) in rounds.iter().enumerate() {
            assert_eq!(alarms(sites), [], "round {round}");
        }
    }

    #[test]
    fn a_site_that_began_to_collapse_is_named_in_that_round_and_in_every_one_after() {
        let rounds = recorded(include_str!("../tests/fixtures/collapsing_rounds.csv"));
        assert!(rounds.len() >= 4, "{}", rounds.len());
        for (round, sites) in rounds.iter().enumerate() {
            let found: Vec<_> = alarms(sites).into_iter().map(|alarm| (alarm.site.to_string(), alarm.kind)).collect();
            assert_eq!(found, [("b".to_owned(), AlarmKind::Collapse)], "round {round} of the fault");
        }
    }

    #[test]
    fn one_site_alone_is_held_to_no_other() {
        assert_eq!(named(&[measured(1.5, 2.9, 1.0)]), []);
        assert_eq!(named(&[measured(4.158, 4.159, 1.0)]).len(), 1);
    }
}
