//! A site's disk fails, fills up, loses its power or takes its process with it, at every call by which the agent and its
//! trainer reach it: started again, the site comes to the same updates, each round counts it once, and the site's ledger misses nothing.
//!
//! This program is the site's agent as well, and its trainer: then its system calls are judged, as in
//! `aggregator/tests/stories/disk/`. So it is no list of tests, but a program that tells its stories one after the other: a
//! few in the suite, and all of them with `-- --ignored`.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::federation::Federation;
use tests::story::{self, WITHIN};

use self::disk::{Disk, Fault};

#[path = "../../aggregator/tests/stories/disk/calls.rs"]
mod calls;
#[path = "../../aggregator/tests/stories/disk/disk.rs"]
mod disk;

const NAME: &str = "whatever_a_sites_disk_does_the_site_started_again_comes_to_the_same_updates";
const SITE: &str = "site-a";
/// Calls of one role and fault in the suite.
const SAMPLED: usize = 2;

/// Whose disk it is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    Agent,
    Trainer,
}

impl Role {
    fn file(self, state: &Path, what: &str) -> PathBuf {
        state.with_extension(format!("{what}-{self:?}"))
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("--state") => return judged(Role::Agent, Path::new(&arguments[1])),
        // The job lies in <state>/jobs/<run>/<round>.
        Some("train") => return judged(Role::Trainer, Path::new(&arguments[2]).ancestors().nth(3).unwrap()),
        Some("--list") => println!("{NAME}: test"),
        _ => {
            let words: Vec<_> = arguments.iter().filter(|word| !word.starts_with("--")).collect();
            if words.is_empty() || words.iter().any(|word| NAME.contains(word.as_str())) {
                tell(arguments.iter().any(|word| word == "--ignored"));
            }
        }
    }
    ExitCode::SUCCESS
}

/// Lives as the site's agent or its trainer, the first of which has its calls judged.
fn judged(role: Role, state: &Path) -> ExitCode {
    let orders = role.file(state, "judged");
    let told = fs::read_to_string(&orders).unwrap_or_default();
    if let Some((at, kind)) = told.split_once(' ') {
        // Taken: whoever comes next is left alone.
        fs::remove_file(&orders).unwrap();
        let fault = [Fault::None, Fault::Fails, Fault::Full(3), Fault::Killed, Fault::PowerCut];
        let fault = fault.into_iter().find(|fault| format!("{fault:?}") == kind).unwrap();
        disk::arm(Disk::below(state, at.parse().unwrap(), fault, |_| false));
    }
    let ended = site_agent::cli::main();
    let calls: Vec<String> = disk::calls().iter().map(ToString::to_string).collect();
    if !calls.is_empty() {
        fs::write(role.file(state, "calls"), calls.join("\n")).unwrap();
    }
    ended
}

/// What a site's ledger tells of its rounds and runs, however often. That a round was declined, or a line cut short, is so of one disk alone.
fn ledger(state: &Path) -> BTreeSet<String> {
    let text = site_agent::ledger::text_of(&state.join("ledger")).unwrap();
    let events = text.lines().map(|line| {
        let entry: Value = serde_json::from_str(line.split('\t').next().unwrap()).unwrap();
        ["kind", "run", "round"].map(|field| entry["event"][field].to_string()).join(" ")
    });
    events.filter(|event| !["declined", "torn-tail"].iter().any(|kind| event.contains(kind))).collect()
}

/// A run in which the site's disk does something once.
struct Told {
    record: Value,
    /// What its process did, if it ended by itself.
    calls: Vec<String>,
    /// Whether it came as far as to the call.
    is_dealt: bool,
}

fn told(prepared: &Path, name: &str, role: Role, at: usize, fault: Fault) -> Told {
    let root = prepared.with_file_name(name);
    story::copy(prepared, &root).unwrap();
    let mut federation = Federation::open(&root).unwrap();
    federation.start_aggregator().unwrap();
    story::start_run_at(&federation, &root, &[SITE]).unwrap();
    federation.use_site_agent(std::env::current_exe().unwrap());
    let state = federation.site_state(SITE);
    fs::write(role.file(&state, "judged"), format!("{at} {fault:?}")).unwrap();
    let (began, mut started, mut starts) = (Instant::now(), Instant::now(), 1);
    federation.start_agent(SITE).unwrap();
    loop {
        let goes_on = began.elapsed() < WITHIN && starts < 5;
        assert!(goes_on, "{fault:?} at call {at} of the {role:?}, {starts} starts:\n{}", federation.last_words(SITE));
        thread::park_timeout(Duration::from_millis(50));
        let run = story::run(&federation).unwrap();
        let is_over = || ledger(&state).iter().any(|event| event.contains("run-finished"));
        if run["state"] == "finished" && !federation.is_at_work(SITE) && is_over() {
            break;
        }
        // Somebody at the site sees to the disk, and starts the agent again. What one that just started will say is not known.
        let declines = run["sites"][SITE]["phase"] == "declined" && started.elapsed() > Duration::from_secs(2);
        if declines || !federation.is_at_work(SITE) {
            federation.kill_agent(SITE);
            federation.start_agent(SITE).unwrap();
            (started, starts) = (Instant::now(), starts + 1);
        }
    }
    let run = story::run(&federation).unwrap();
    let mut rounds = run["rounds"].clone();
    rounds.as_array_mut().unwrap().iter_mut().for_each(|round| _ = round.as_object_mut().unwrap().remove("took_ms"));
    let calls = fs::read_to_string(role.file(&state, "calls")).unwrap_or_default();
    let is_dealt = disk::dealt(&state).exists();
    let ledger = ledger(&state);
    drop(federation);
    fs::remove_dir_all(root).unwrap();
    let record = serde_json::json!([run["state"], run["model"], rounds, ledger]);
    Told { record, calls: calls.lines().map(str::to_owned).collect(), is_dealt }
}

fn tell(all: bool) {
    let folder = tempfile::tempdir().unwrap();
    let prepared = folder.path().join("prepared");
    let plan = story::KILLS
        .replace("steps_per_round = 40", "steps_per_round = 15")
        .replace("every_steps = 4", "every_steps = 5");
    let plan = plan.replace("count = 5", "count = 2").replace("quorum = 3", "quorum = 1");
    story::prepare_with(&prepared, &plan.replace(r#"["site-a", "site-b", "site-c"]"#, r#"["site-a"]"#), &[SITE]);
    fs::write(prepared.join("sites").join(SITE).join("site-agent.toml"), "report_every_s = 0.05\nthreads = 1\n")
        .unwrap();
    for role in [Role::Trainer, Role::Agent] {
        let Told { record: undisturbed, calls, .. } = told(&prepared, "undisturbed", role, 0, Fault::None);
        assert!(calls.len() > 20, "{role:?}: {calls:?}");
        let step = if all { 1 } else { calls.len().div_ceil(SAMPLED) };
        for (index, fault) in [Fault::Fails, Fault::Full(3), Fault::Killed, Fault::PowerCut].into_iter().enumerate() {
            if std::env::var("SITE_DISK").is_ok_and(|only| only != format!("{role:?} {fault:?}")) {
                continue;
            }
            let first = if all { 0 } else { (index * 7) % step };
            let (mut stories, mut not_reached) = (0, 0);
            for at in (first..calls.len()).step_by(step) {
                let told = told(&prepared, "disturbed", role, at, fault);
                assert_eq!(told.record, undisturbed, "{fault:?} at call {at} of the {role:?}, {}", calls[at]);
                // How often a progress is looked at depends on the time, and with it how many calls there are.
                assert!(told.is_dealt || told.calls.len() <= at, "{fault:?} at call {at} of the {role:?} never struck");
                *if told.is_dealt { &mut stories } else { &mut not_reached } += 1;
            }
            let (all, missed) = (calls.len(), format!("{not_reached} were not reached"));
            println!("{fault:?} at {stories} of the {all} calls of the {role:?}: the same record; {missed}");
            assert!(stories > 0, "{fault:?} never struck the {role:?}");
        }
    }
    println!("test {NAME} ... ok");
}
