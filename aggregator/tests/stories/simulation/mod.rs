//! Exactly once, by simulation: sites whose updates tell on the sum, a network that loses, repeats, delays and replays, an
//! aggregator and sites that die anywhere, clocks that jump, disks that rot. Ten thousands of runs, each from a seed.
//!
//! The aggregator is either a [`value`] around the real run, round and fixed-point fold, or the [`real`] one with its files
//! and its database. A seed that fails is named, and
//!
//! ```sh
//! SIMULATION_SEED=123 cargo test --test stories simulation::replay -- --nocapture
//! ```
//!
//! plays it again, event by event. `SIMULATION_ROUNDS` sets how many rounds `a_hundred_thousand_rounds...` plays.

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::Plan;

use call::Server;
use dice::Dice;
use ledger::Ledger;
use planted::Bug;
use real::Real;
use site::Site;
use update::{MOST_SITES, tensors};
use value::Value;
use world::{Counts, Faults, World};

use crate::bench::plan_draft;
use crate::faults::Lie;

mod call;
pub(crate) mod dice;
mod disk;
mod ledger;
mod planted;
mod real;
mod site;
mod update;
mod value;
mod world;

/// A federation of some seed.
struct Cast {
    plan: Plan,
    sites: Vec<Site>,
    faults: Faults,
    dice: Dice,
}

const FIRST: [f32; 4] = [0.0, 0.125, -3.0, 1.5];

fn cast(seed: u64) -> Cast {
    let mut dice = Dice::seeded(seed);
    let count = dice.within(1, MOST_SITES as u64) as usize;
    let quorum = dice.within(1, count as u64) as usize;
    let (rounds, attempts) = (dice.within(1, 4) as u32, dice.within(1, 3) as u32);
    let names: Vec<String> = (0..count).map(|site| format!("site-{site}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut draft = plan_draft("run", &names, quorum, rounds, attempts);
    // The shell in memory passes over it: that a round may wait for somebody changes nothing of what must hold.
    draft.rounds.grace_s = [0, 20, 50][seed as usize % 3];
    let model = tensors(&FIRST);
    let plan = draft.with_first_model(model.signature(), model.digest());
    let mut sites: Vec<Site> = (0..count).map(Site::new).collect();
    for site in &mut sites {
        site.declines = if dice.per_mille(300) { dice.below(600) } else { 0 };
        site.garbles = if dice.per_mille(200) { dice.below(100) } else { 0 };
    }
    Cast { plan, sites, faults: Faults::drawn(&mut dice), dice }
}

/// Plays one history to its end; says what happened, or what went wrong.
fn played<S: Server>(seed: u64, trace: bool, server: impl FnOnce(&Plan, &[f32]) -> S) -> Result<Counts, String> {
    let Cast { plan, sites, faults, dice } = cast(seed);
    let rounds = &plan.draft.rounds;
    let ids = sites.iter().map(|site| site.id.clone()).collect();
    let ledger = Ledger::new(ids, rounds.quorum, plan.first_model, FIRST.to_vec());
    let mut world = World::new(server(&plan, &FIRST), sites, ledger, faults, dice, trace);
    let (count, attempts) = (rounds.count, rounds.attempts);
    match catch_unwind(AssertUnwindSafe(|| world.play(count, attempts))) {
        Ok(ended) => ended.map(|()| world.counts),
        Err(panic) => {
            let told = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(format!("a panic: {}", told.unwrap_or("without a word")))
        }
    }
}

fn as_a_value(seed: u64, trace: bool, bug: Option<Bug>) -> Result<Counts, String> {
    played(seed, trace, |plan, first| Value::new(plan.clone(), first, bug))
}

/// Plays histories from a seed on until so many rounds were merged; nothing may go wrong in any.
fn rounds_from(first_seed: u64, rounds: u64) -> (u64, Counts) {
    let (mut seed, mut all) = (first_seed, Counts::default());
    while all.rounds < rounds {
        match as_a_value(seed, false, None) {
            Ok(counts) => all.add(counts),
            Err(why) => panic!(
                "seed {seed}: {why}\nreplay: SIMULATION_SEED={seed} cargo test --test stories \
                 simulation::replay -- --nocapture"
            ),
        }
        seed += 1;
    }
    (seed - first_seed, all)
}

/// Rounds in the suite: about ten seconds on one core.
const ROUNDS_IN_THE_SUITE: u64 = 15_000;

#[test]
fn whatever_gets_lost_comes_twice_or_dies_every_site_counts_exactly_once() {
    let (histories, counts) = rounds_from(1, ROUNDS_IN_THE_SUITE);
    println!("{histories} histories: {counts:?}");
    // Everything that is said to happen did.
    assert!(counts.all().iter().all(|&count| count > histories / 100), "{counts:?}");
}

#[test]
#[ignore = "minutes: run it with `cargo test --test stories hundred_thousand -- --ignored --nocapture`"]
fn a_hundred_thousand_rounds_have_no_wrong_sum() {
    let rounds = std::env::var("SIMULATION_ROUNDS").map_or(100_000, |text| text.parse().expect("a number of rounds"));
    let (histories, counts) = rounds_from(1_000_000, rounds);
    println!("{histories} histories: {counts:?}");
}

#[test]
fn the_same_seed_is_the_same_history() {
    for seed in 0..50 {
        let all = |_| as_a_value(seed, false, None).map(Counts::all);
        assert_eq!(all(()), all(()), "seed {seed}");
    }
}

/// Does nothing unless it is told a seed.
#[test]
fn replay() {
    let Ok(seed) = std::env::var("SIMULATION_SEED") else { return };
    let seed = seed.parse().expect("a seed");
    println!("{:?}", as_a_value(seed, true, None).expect("a history without a fault"));
}

/// The real aggregator, in fewer histories: its disk is one.
#[test]
fn the_real_aggregator_counts_every_site_exactly_once_in_the_same_histories() {
    let mut all = Counts::default();
    for seed in 1..=HISTORIES_OF_THE_REAL_ONE {
        let counts = played(seed, false, |plan, first| Real::new(plan, first, None));
        all.add(counts.unwrap_or_else(|why| panic!("seed {seed}: {why}")));
    }
    println!("{all:?}");
    assert!(all.rounds > 0 && all.server_died > 0 && all.died_inside > 0 && all.rotted > 0, "{all:?}");
}

const HISTORIES_OF_THE_REAL_ONE: u64 = 20;

/// The first history, from a seed on, in which the real aggregator with a store that lies does something wrong.
fn shown_of_the_real_one(lie: Lie, first_seed: u64) {
    let found = (first_seed..first_seed + 60)
        .find_map(|seed| Some((seed, played(seed, false, |plan, first| Real::new(plan, first, Some(lie))).err()?)));
    let (seed, why) = found.unwrap_or_else(|| panic!("{lie:?} is not noticed"));
    println!("{lie:?}: seed {seed}: {why}");
}

#[test]
fn a_store_that_says_it_wrote_a_report_and_did_not_is_caught() {
    shown_of_the_real_one(Lie::SaysItWroteAReport, 3);
}

#[test]
fn a_store_that_forgets_who_was_retired_is_caught() {
    shown_of_the_real_one(Lie::ForgetsWhoWasRetired, 16);
}

#[test]
fn a_store_that_forgets_the_roll_is_caught() {
    shown_of_the_real_one(Lie::ForgetsTheRoll, 1);
}

#[test]
fn a_store_that_loses_the_deadline_is_caught() {
    shown_of_the_real_one(Lie::LosesTheDeadline, 16);
}
