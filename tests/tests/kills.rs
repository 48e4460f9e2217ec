//! `kill -9` at random instants, of the real aggregator and of real agents with their trainers: five rounds of three sites end
//! with the same models and the same record as if nothing had happened.
//!
//! A seed draws who dies and when; it is printed. What the instants met is read from what the dead left on disk, and counted.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use common::Digest;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use site_agent::journal::Journal;
use tests::federation::{AGGREGATOR, Federation};
use tests::story::{self, THREE, WITHIN};

/// Kills of one run: while they go on it gets nowhere fast, and then it comes to its end.
const KILLS_OF_A_RUN: usize = 30;
/// Longest an instant waits for what it is aimed at; for a merge, of which there is one a round, longer.
const AIMED_FOR: Duration = Duration::from_millis(600);
const AIMED_AT_A_MERGE_FOR: Duration = Duration::from_secs(3);

/// What an instant is aimed at. Any moment at all is nearly always one of training; what takes a millisecond is waited for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Aim {
    Anywhere,
    Aggregator(&'static str),
    Site(&'static str),
}

const AIMS: [Aim; 14] = [
    Aim::Anywhere,
    Aim::Anywhere,
    Aim::Anywhere,
    Aim::Anywhere,
    Aim::Aggregator(STARTING),
    Aim::Aggregator(RECEIVING),
    Aim::Aggregator(RECEIVING),
    Aim::Aggregator(MERGING),
    Aim::Aggregator(MERGING),
    Aim::Site(CHECKPOINTING),
    Aim::Site(ENDING),
    Aim::Site(SEALING),
    Aim::Site(SENDING),
    Aim::Site(REPORTED),
];

// Of the aggregator.
const STARTING: &str = "starting";
const RECEIVING: &str = "receiving an update";
const MERGING: &str = "merging";
const WAITING: &str = "waiting for sites";

// Of a site.
const FETCHING: &str = "fetching";
const TRAINING_AFRESH: &str = "training, no checkpoint yet";
const CHECKPOINTING: &str = "writing a checkpoint";
const TRAINING: &str = "training";
const ENDING: &str = "writing the trainer's result";
const SEALING: &str = "sealing";
const SENDING: &str = "sending";
const REPORTED: &str = "reported";

/// How many instants met what.
type Met = BTreeMap<String, usize>;

/// A federation that is killed over and over.
struct Story {
    federation: Federation,
    root: PathBuf,
    dice: ChaCha8Rng,
    met: Met,
    processes: usize,
}

impl Story {
    /// A copy of the prepared federation, at work.
    fn begin(prepared: &Path, name: &str, seed: u64) -> Self {
        let root = prepared.with_file_name(name);
        story::copy(prepared, &root).unwrap();
        let mut federation = Federation::open(&root).unwrap();
        federation.start_aggregator().unwrap();
        story::start_run_at(&federation, &root, &THREE).unwrap();
        THREE.iter().try_for_each(|site| federation.start_agent(site)).unwrap();
        Self { federation, root, dice: ChaCha8Rng::seed_from_u64(seed), met: Met::new(), processes: 0 }
    }

    /// Kills up to so many times while the run goes on; says how often.
    fn kill_up_to(&mut self, most: usize) -> usize {
        for killed in 0..most {
            if !self.wait_for_an_instant() {
                return killed;
            }
        }
        most
    }

    /// Waits for the next instant, kills and starts again what it meets; false if the run is over.
    fn wait_for_an_instant(&mut self) -> bool {
        let aim = AIMS[self.dice.random_range(0..AIMS.len())];
        // Mostly short, so that what starts again is met as well; at times so long that the run gets somewhere.
        let longest = 10 << self.dice.random_range(0..8);
        let wait = Duration::from_millis(self.dice.random_range(0..longest));
        let aimed_for = if aim == Aim::Aggregator(MERGING) { AIMED_AT_A_MERGE_FOR } else { AIMED_FOR };
        let late = Duration::from_micros(self.dice.random_range(0..400));
        let began = Instant::now();
        while began.elapsed() < wait || (began.elapsed() < wait + aimed_for && !self.is_met(aim)) {
            self.federation.check().unwrap();
            // The instant is what is drawn: nothing is waited for that another process does.
            thread::park_timeout(Duration::from_micros(300));
        }
        thread::park_timeout(late);
        let at_work: Vec<&str> = THREE.into_iter().filter(|site| self.federation.is_at_work(site)).collect();
        if at_work.is_empty() {
            return false;
        }
        let one = match aim {
            Aim::Site(phase) => at_work.iter().find(|site| self.site_is(site) == phase).copied(),
            _ => None,
        };
        let one = one.unwrap_or(at_work[self.dice.random_range(0..at_work.len())]);
        let everybody: Vec<&str> = at_work.iter().copied().chain([AGGREGATOR]).collect();
        let victims = match (aim, self.dice.random_range(0..10)) {
            (_, 0 | 1) => everybody,
            (Aim::Aggregator(_), _) | (Aim::Anywhere, 2..=5) => vec![AGGREGATOR],
            _ => vec![one],
        };
        self.kill(&victims);
        true
    }

    fn is_met(&self, aim: Aim) -> bool {
        match aim {
            Aim::Anywhere => true,
            Aim::Aggregator(phase) => self.aggregator_is() == phase,
            Aim::Site(phase) => THREE.iter().any(|site| self.site_is(site) == phase),
        }
    }

    fn kill(&mut self, victims: &[&str]) {
        self.processes += self.federation.kill_at_once(victims).unwrap();
        for victim in victims {
            // The dead do not move: what is on disk is where they were.
            let met = match *victim {
                AGGREGATOR => format!("aggregator: {}", self.aggregator_is()),
                site => format!("site: {}", self.site_is(site)),
            };
            *self.met.entry(met).or_default() += 1;
        }
        *self.met.entry(format!("together: {}", victims.len())).or_default() += 1;
        for victim in victims {
            match *victim {
                AGGREGATOR => self.federation.begin_aggregator().unwrap(),
                site => self.federation.start_agent(site).unwrap(),
            }
        }
    }

    fn aggregator_is(&self) -> &'static str {
        let names = entries(&self.federation.aggregator_state().join("tmp"));
        let part = |is_model: bool| names.iter().any(|name| name.ends_with(".model.part") == is_model);
        match () {
            () if !self.federation.is_listening() => STARTING,
            () if part(true) => MERGING,
            () if part(false) => RECEIVING,
            () => WAITING,
        }
    }

    fn site_is(&self, site: &str) -> &'static str {
        let home = self.federation.site_state(site);
        let jobs = home.join("jobs/story");
        let Some(last) = entries(&jobs).into_iter().max() else { return FETCHING };
        let has = |name: &str| jobs.join(&last).join(name).exists();
        let round = last.split('-').next().and_then(|round| round.parse::<u32>().ok());
        let journal = Journal::open(&home.join("journal")).unwrap();
        let record = journal.run(&"story".parse().unwrap());
        let sealed = record.and_then(|record| Some(record.sealed.as_ref()?.round.0));
        let acknowledged = record.and_then(|record| Some(record.acknowledged.as_ref()?.round.0));
        match () {
            () if acknowledged == round => REPORTED,
            () if sealed == round => SENDING,
            () if has("result.json") => SEALING,
            () if has("delta.safetensors.part") || has("delta.safetensors") => ENDING,
            () if has("checkpoint.safetensors.part") => CHECKPOINTING,
            () if has("checkpoint.safetensors") => TRAINING,
            () => TRAINING_AFRESH,
        }
    }

    /// The record of the run when it is over.
    fn ended(&mut self) -> Value {
        let ended = self.federation.wait_until("the end of the run", WITHIN, |federation| {
            let run = story::run(federation)?;
            Ok(run["state"] != "running" && federation.is_listening())
        });
        ended.unwrap();
        let run = story::run(&self.federation).unwrap();
        for model in story::models(&run) {
            let path = self.federation.aggregator_state().join("blobs").join(&model[..2]).join(&model);
            assert_eq!(Digest::of(&fs::read(path).unwrap()).to_string(), model, "the bytes of a round's model");
        }
        record(&run)
    }
}

/// Of a run's status what must not depend on who died when: all but times.
fn record(run: &Value) -> Value {
    let mut rounds = run["rounds"].clone();
    for round in rounds.as_array_mut().unwrap() {
        round.as_object_mut().unwrap().remove("took_ms");
    }
    serde_json::json!({
        "plan": run["plan"], "state": run["state"], "because": run["because"], "first_model": run["first_model"],
        "model": run["model"], "rounds": rounds,
    })
}

/// Where two records differ, and how.
fn differences(one: &Value, other: &Value, at: &str) -> Vec<String> {
    let below = |pairs: Vec<(String, &Value, &Value)>| {
        pairs.into_iter().flat_map(|(key, one, other)| differences(one, other, &format!("{at}/{key}"))).collect()
    };
    match (one, other) {
        (Value::Object(one), Value::Object(other)) if one.keys().eq(other.keys()) => {
            below(one.iter().map(|(key, value)| (key.clone(), value, &other[key])).collect())
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            let pairs = one.iter().zip(other).enumerate();
            below(pairs.map(|(index, (one, other))| (index.to_string(), one, other)).collect())
        }
        _ if one == other => Vec::new(),
        _ => vec![format!("{at}: {one} undisturbed, {other} after the kills")],
    }
}

fn entries(folder: &Path) -> Vec<String> {
    let found = fs::read_dir(folder).into_iter().flatten().flatten();
    found.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Kills so many times in all, in as many runs as that takes; each must end with the record of one that nobody disturbed.
fn killed(kills: usize, seed: u64) -> Met {
    println!("{kills} kills from seed {seed}");
    let began = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    let prepared = folder.path().join("prepared");
    story::prepare_with(&prepared, story::KILLS, &THREE);
    for site in THREE {
        // An agent that waits for the next report is killed in vain; one thread, because three trainers share the machine.
        let settings = "report_every_s = 0.05\nthreads = 1\n";
        fs::write(prepared.join("sites").join(site).join("site-agent.toml"), settings).unwrap();
    }
    let undisturbed = Story::begin(&prepared, "undisturbed", seed).ended();
    assert_eq!((undisturbed["state"].as_str(), undisturbed["rounds"].as_array().unwrap().len()), (Some("finished"), 5));

    println!("undisturbed, after {} s", began.elapsed().as_secs());
    let (mut met, mut processes, mut left, mut runs) = (Met::new(), 0, kills, 0);
    while left > 0 {
        runs += 1;
        let (before, since) = (left, Instant::now());
        let mut story = Story::begin(&prepared, "killed", seed + runs);
        left -= story.kill_up_to(left.min(KILLS_OF_A_RUN));
        let record = story.ended();
        let differ = differences(&undisturbed, &record, "");
        assert!(differ.is_empty(), "run {runs} of seed {seed}, which met {:#?}:\n{}", story.met, differ.join("\n"));
        story.met.into_iter().for_each(|(what, times)| *met.entry(what).or_default() += times);
        processes += story.processes;
        drop(story.federation);
        fs::remove_dir_all(story.root).unwrap();
        println!("run {runs}: {} kills in {} s, {left} left", before - left, since.elapsed().as_secs());
    }
    println!("{kills} kills of {processes} processes in {runs} runs of 5 rounds of 3 sites, all with the same record:");
    met.iter().for_each(|(what, times)| println!("{times:6} {what}"));
    met
}

fn require_met(met: &Met, aggregator: &[&str], site: &[&str]) {
    let phases = aggregator.iter().map(|phase| format!("aggregator: {phase}"));
    for phase in phases.chain(site.iter().map(|phase| format!("site: {phase}"))) {
        assert!(met.contains_key(&phase), "no instant met {phase}: {met:#?}");
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn sixty_kills_at_random_instants_end_in_the_same_models_and_the_same_record() {
    let met = killed(60, number("KILLS_SEED", 1));
    require_met(&met, &[RECEIVING, WAITING], &[TRAINING, SENDING, REPORTED]);
}

#[test]
#[ignore = "half an hour: see docs/testing.md"]
fn a_thousand_kills_at_random_instants_end_in_the_same_models_and_the_same_record() {
    let met = killed(number("KILLS", 1000) as usize, number("KILLS_SEED", 2));
    let site = [FETCHING, TRAINING_AFRESH, CHECKPOINTING, TRAINING, ENDING, SEALING, SENDING, REPORTED];
    require_met(&met, &[STARTING, RECEIVING, MERGING, WAITING], &site);
}
