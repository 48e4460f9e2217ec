//! A run, and every call by which it reaches the disk: the server's own files and SQLite's. Each fails once; at each the
//! disk is full for a while; before each the process is killed, and before each the power is cut, which loses whatever was not
//! synced. Nothing that was acknowledged is lost, and the run ends with the same model and the same files. The stories begin when the
//! second of its three rounds is to be merged, and with that the first one's updates are no longer kept: two of the last round's
//! are written over those two, and the third to a file of its own.
//!
//! That syncs are needed is told as well: where those of one kind are left out, some power cut shows it.
//!
//! The aggregator of these stories is a process of its own, this program again, whose system calls are judged (`calls.rs`) by
//! a disk (`disk.rs`). What comes just after a call comes just before the next.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use aggregator::clock::Stamp;
use aggregator::federation::{Federation, Limits};
use aggregator::status::{self, RoundStatus, RunPhase, RunStatus};
use aggregator::store::{SqliteStore, Store, StoreError, UpdateKey};
use common::{Decline, Digest, Directive, NamedTensors, Phase, Progress, Refusal, RoundNumber};

use self::disk::{Disk, Fault, LeftOut};
use crate::bench::{Bench, HandClock, ROOMY, manifest, run_id, site_id, weights};

mod calls;
#[expect(clippy::module_inception, reason = "the disk, of the stories about disks")]
mod disk;

/// A file beside the state folder: its aggregator does nothing but write a long log.
const LONG_LOG: &str = "long-log";
const STORY: &str = "STORY_ON_A_DISK";
const PROCESS: &str = "disk::the_process_of_these_stories";
const SITES: [&str; 3] = ["a", "b", "c"];
const ROUNDS: u32 = 3;
const LIMITS: Limits = Limits { keep_updates_of_rounds: 1, ..ROOMY };
const ABORTED: Option<i32> = Some(6);
const KILLED: Option<i32> = Some(9);

/// The folder of a story's aggregator, and beside it what the sites know; and what it began as.
struct Place(tempfile::TempDir, Arc<Bench>);

/// What is made once for all who hold it at a time, and goes with the last of them: a static value is never dropped, and
/// would leave its folder behind.
fn shared<T>(held: &Mutex<Weak<T>>, make: impl FnOnce() -> T) -> Arc<T> {
    let mut held = held.lock().unwrap();
    held.upgrade().unwrap_or_else(|| {
        let made = Arc::new(make());
        *held = Arc::downgrade(&made);
        made
    })
}

/// A federation whose second round is to be merged. In the first one a site declined.
fn begun() -> Bench {
    let mut bench = Bench::with_run(60, 2, ROUNDS, 1);
    bench.limits = LIMITS;
    bench.restart();
    bench.says("c", Phase::Declined(Decline::TooFewImages));
    for (round, sites) in [(1, &SITES[..2]), (2, &SITES)] {
        for (index, site) in sites.iter().enumerate() {
            bench.reports(site, &delta(index, round)).unwrap();
        }
        if round == 1 {
            bench.merge();
        }
    }
    bench.closed()
}

impl Place {
    fn new() -> Self {
        static BEGUN: Mutex<Weak<Bench>> = Mutex::new(Weak::new());
        let begun = shared(&BEGUN, begun);
        let place = Self(tempfile::tempdir_in(begun.path().parent().unwrap()).unwrap(), begun);
        copy(&place.1.path(), &place.state());
        place
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    /// Lets an aggregator live there until the run is over, or until it dies of its disk.
    fn lives(&self, at: usize, fault: Fault) -> Output {
        self.lives_without(ALL_SYNCED, at, fault)
    }

    /// The same, where syncs of what has this name are left out.
    fn lives_without(&self, what: &str, at: usize, fault: Fault) -> Output {
        let kind = match fault {
            Fault::None => "none".to_owned(),
            Fault::Fails => "fails".to_owned(),
            Fault::Full(more) => more.to_string(),
            Fault::Killed => "killed".to_owned(),
            Fault::PowerCut => "power-cut".to_owned(),
            Fault::Torn => "torn".to_owned(),
        };
        let told = format!("{at} {kind} {what} {}", self.0.path().display());
        let program = std::env::current_exe().unwrap();
        let mut command = Command::new(program);
        command.args(["--exact", PROCESS, "--nocapture"]).env(STORY, told).output().unwrap()
    }

    /// What is left when all is over: how the run ended, its model, who was in its rounds, and the names of all files.
    fn end(&self) -> End {
        let run = told(&self.state()).unwrap();
        let in_round = |round: &RoundStatus| round.sites.iter().map(|part| part.site.to_string()).collect();
        let mut files = Vec::new();
        list(&self.state(), &mut files);
        files.sort();
        End { state: run.state, model: run.model.to_string(), sites: run.rounds.iter().map(in_round).collect(), files }
    }

    /// Whether the next life goes on, or tidies up what could not be removed, and all ends as if nothing had happened.
    fn recovers(&self, expected: &End) -> Result<(), String> {
        let next = self.lives(0, Fault::None);
        if !next.status.success() {
            return Err(format!("the next life: {}", String::from_utf8_lossy(&next.stderr)));
        }
        let end = self.end();
        if end == *expected { Ok(()) } else { Err(format!("{end:?}, and not {expected:?}")) }
    }
}

#[derive(Debug, PartialEq)]
struct End {
    state: RunPhase,
    model: String,
    sites: Vec<Vec<String>>,
    files: Vec<String>,
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

/// The files below a folder by name, with those that have not the bytes of their name told apart.
fn list(folder: &Path, files: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        match (entry.path().is_dir(), name.parse::<Digest>()) {
            (true, _) => list(&entry.path(), files),
            (_, Ok(digest)) if Digest::of(&fs::read(entry.path()).unwrap()) != digest => {
                files.push(format!("not {name}"))
            }
            // What SQLite keeps beside its file while it is open is its own affair.
            _ if name.starts_with("state.db-") => {}
            _ => files.push(name),
        }
    }
}

fn told(state: &Path) -> Result<RunStatus, StoreError> {
    let run = status::read(&SqliteStore::open(state)?, Stamp(0))?.runs.into_iter().next();
    run.ok_or_else(|| StoreError::Damaged("the run is gone".to_owned()))
}

#[test]
fn what_stories_begin_with_is_made_once_and_is_gone_when_the_last_of_them_is() {
    let held = Mutex::new(Weak::new());
    let [first, second] = [0, 1].map(|_| shared(&held, || tempfile::tempdir().unwrap()));
    let path = first.path().to_owned();
    assert_eq!(second.path(), path);
    drop(first);
    assert!(path.exists());
    drop(second);
    assert!(!path.exists());
    assert_ne!(shared(&held, || tempfile::tempdir().unwrap()).path(), path);
}

/// The other side of [`Place::lives`]; by itself, nothing.
#[test]
fn the_process_of_these_stories() {
    let Ok(story) = std::env::var(STORY) else { return };
    let [at, kind, without, folder] = story.splitn(4, ' ').collect::<Vec<_>>().try_into().unwrap();
    let fault = match kind {
        "none" => Fault::None,
        "fails" => Fault::Fails,
        "killed" => Fault::Killed,
        "power-cut" => Fault::PowerCut,
        "torn" => Fault::Torn,
        more => Fault::Full(more.parse().unwrap()),
    };
    let (folder, state) = (Path::new(folder), Path::new(folder).join("state"));
    let log_only = folder.join(LONG_LOG).exists();
    let leaves_out: LeftOut = SYNCED.iter().find(|(what, _)| *what == without).map_or(|_| false, |(_, is_it)| *is_it);
    disk::arm(Disk::below(&state, at.parse().unwrap(), fault, leaves_out));
    if log_only {
        write_a_long_log(&state)
    } else {
        live(folder, &state)
    }
    disk::calls().iter().for_each(|call| println!("call {call}"));
}

/// A server and its sites, until the run is over. Whatever answers an error is asked again.
fn live(folder: &Path, state: &Path) {
    let clock = Arc::new(HandClock::default());
    let (mut federation, mut trouble) = (None, None);
    for turn in 0..200 {
        let start = || Federation::open(state, LIMITS, clock.clone());
        let living = match federation.take().map_or_else(start, Ok) {
            Ok(living) => living,
            Err(error) => {
                trouble = Some(error);
                continue;
            }
        };
        if let Ok(run) = told(state) {
            require_acknowledged(folder, state);
            if run.state != RunPhase::Running {
                return println!("closing after {}", disk::calls().len());
            }
            match turn % 4 {
                0 => _ = living.merge_frozen(),
                index => _ = one_turn(&living, &run, folder, index),
            }
            living.tick();
            living.note_time();
        }
        federation = Some(living);
    }
    panic!("the run did not end; what kept the folder from being opened last: {trouble:?}");
}

/// Says so much, a word a commit, that SQLite's log becomes long.
fn write_a_long_log(state: &Path) {
    let store = SqliteStore::open(state).unwrap();
    for time in 100..400 {
        // No page of it is what it was.
        store.note_trouble(&run_id(), Some(&time.to_string().repeat(6000))).unwrap();
    }
    println!("closing after {}", disk::calls().len());
}

/// What the site of an index has learnt in a round.
fn delta(index: usize, round: u32) -> NamedTensors {
    weights(60, |place| (place * (index + 2)) as f32 / 500.0 / round as f32)
}

fn one_turn(federation: &Federation, run: &RunStatus, folder: &Path, index: usize) -> Result<(), Refusal> {
    let site = SITES[index - 1];
    let Directive::Train(work) = federation.report(&site_id(site), &Progress::idle())? else { return Ok(()) };
    let joined = Progress { work: Some((run_id(), work.round)), phase: Phase::Training, ..Progress::idle() };
    federation.report(&site_id(site), &joined)?;
    if run.open.as_ref().is_none_or(|open| open.round != work.round) {
        return Ok(());
    }
    let delta = delta(index - 1, work.round.0);
    let (manifest, bytes) = (manifest(run, site, &delta), delta.to_safetensors());
    let key = UpdateKey::of(&manifest);
    let begun = federation.begin_upload(&site_id(site), manifest.clone())?;
    let mut offset = begun.next_offset as usize;
    while offset < bytes.len() {
        let end = bytes.len().min(offset + 200);
        offset = federation.upload_chunk(&key, manifest.blob, offset as u64, &bytes[offset..end])?.next_offset as usize;
    }
    let blob = federation.finish_upload(&key, manifest.blob)?;
    // What a site believes from here on: not on the aggregator's disk.
    let mut believed = File::options().create(true).append(true).open(folder.join("believed")).unwrap();
    writeln!(believed, "{} {site} {blob}", work.round).unwrap();
    Ok(())
}

/// Whatever a site was told is stored, is.
fn require_acknowledged(folder: &Path, state: &Path) {
    let believed = fs::read_to_string(folder.join("believed")).unwrap_or_default();
    let Ok(store) = SqliteStore::open(state) else { return };
    for line in believed.lines() {
        let [round, site, blob] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let key = UpdateKey { run: run_id(), round: RoundNumber(round.parse().unwrap()), site: site_id(site) };
        let Ok(found) = store.update(&key) else { return };
        let found = found.map(|update| update.manifest.blob.to_string());
        assert_eq!(found.as_deref(), Some(blob), "{site} was told that its update is stored");
    }
}

/// The calls of a life that nothing disturbs, up to the end of the run and then while the store is closed.
fn undisturbed(place: &Place) -> (Vec<String>, usize) {
    let output = place.lives(0, Fault::None);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let calls: Vec<String> = text.lines().filter_map(|line| line.strip_prefix("call ")).map(str::to_owned).collect();
    let closing = text.lines().find_map(|line| line.strip_prefix("closing after ")?.parse().ok());
    (calls, closing.unwrap())
}

/// Tells the story once for each call that it concerns, two beside each other. `dies` says whether the process may end as it
/// did; then another one goes on.
fn at_every_call(
    fault: Fault,
    concerns: impl Fn(&str) -> bool + Sync,
    dies: impl Fn(&str, Option<i32>) -> bool + Sync,
) {
    let place = Place::new();
    let ((calls, closing), expected) = (undisturbed(&place), place.end());
    require_all_well(&expected);
    let (next, told) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::SeqCst);
            let Some(call) = calls.get(at) else { return };
            if !concerns(call) {
                continue;
            }
            let place = Place::new();
            let first = place.lives(at, fault);
            let words = String::from_utf8_lossy(&first.stderr);
            let ended = || format!("{fault:?} at call {at}, {call}: {:?}\n{words}", first.status);
            // SQLite tidies up when it is closed, and looks at no answer: nothing is acknowledged any more.
            let is_passed_over = fault == Fault::Fails && at >= closing && first.status.success();
            assert!(disk::dealt(&place.state()).exists(), "it was not come to: {}", ended());
            assert!(is_passed_over || dies(call, first.status.signal()), "{}", ended());
            assert!(first.status.signal().is_some() || first.status.success(), "{}", ended());
            place.recovers(&expected).unwrap_or_else(|why| panic!("after {}\n{why}", ended()));
            told.fetch_add(1, Ordering::SeqCst);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    });
    let mut kinds = BTreeMap::<&str, usize>::new();
    calls.iter().for_each(|call| *kinds.entry(call.split(' ').next().unwrap_or_default()).or_default() += 1);
    println!("{fault:?} at {} of {} calls: {kinds:?}", told.into_inner(), calls.len());
    assert!(calls.len() > 100 && kinds["sync"] > 20, "{kinds:?}");
}

fn require_all_well(end: &End) {
    let sites =
        [&SITES[..2], &SITES, &SITES].map(|sites| sites.iter().map(|site| site.to_string()).collect::<Vec<_>>());
    assert_eq!((&end.state, &end.sites[..]), (&RunPhase::Finished, &sites[..]));
}

fn is_sync(call: &str) -> bool {
    call.starts_with("sync ")
}

#[test]
fn whichever_call_fails_the_run_ends_with_the_same_model_and_a_failed_sync_ends_the_process() {
    // The state folder is synced by us, and once more by SQLite, which does not look at the answer.
    let dies = |call: &str, how: Option<i32>| {
        how == if is_sync(call) { ABORTED } else { None } || (call == "sync state" && how.is_none())
    };
    at_every_call(Fault::Fails, |_| true, dies);
}

#[test]
fn whenever_the_disk_is_full_nothing_is_acknowledged_that_is_not_stored_and_it_goes_on_when_there_is_room() {
    at_every_call(Fault::Full(0), |call| !is_sync(call), |_, how| how.is_none());
    at_every_call(Fault::Full(30), |call| !is_sync(call), |_, how| how.is_none());
}

#[test]
fn killed_before_whichever_call_the_next_process_ends_the_run_with_the_same_model() {
    at_every_call(Fault::Killed, |_| true, |_, how| how == KILLED);
}

#[test]
fn whenever_the_power_is_cut_nothing_that_was_acknowledged_is_lost_and_the_run_ends_with_the_same_model() {
    at_every_call(Fault::PowerCut, |_| true, |_, how| how == KILLED);
}

/// Where the power must be cut to show that syncs of this kind were left out; none if nowhere.
fn shown_at(what: &'static str, calls: &[String], expected: &End) -> Option<usize> {
    let (next, found) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
    let work = || {
        while found.load(Ordering::SeqCst) == usize::MAX {
            let at = next.fetch_add(1, Ordering::SeqCst);
            if at >= calls.len() {
                return;
            }
            let place = Place::new();
            let first = place.lives_without(what, at, Fault::PowerCut);
            assert_eq!(first.status.signal(), KILLED, "{what:?} at {at}: {first:?}");
            if let Err(why) = place.recovers(expected) {
                println!("{what:?}, at {at}, {}: {why}", calls[at]);
                found.fetch_min(at, Ordering::SeqCst);
            }
        }
    };
    std::thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(work))));
    Some(found.into_inner()).filter(|at| *at < calls.len())
}

/// What is synced. But for the database: SQLite keeps its log until that is synced, and does not sync that the log is gone. And but for
/// the folder of unfinished files: without the name of an upload's file its bytes are sent again, which is no loss.
const SYNCED: [(&str, LeftOut); 6] = [
    ("state-folder", |path| path.is_empty()),
    ("log", |path| path == ["state.db-wal"]),
    ("upload", |path| matches!(path, ["tmp", name] if !name.ends_with(".model.part"))),
    ("model", |path| matches!(path, ["tmp", name] if name.ends_with(".model.part"))),
    ("folder-of-folders", |path| path == ["blobs"]),
    ("folder-of-blobs", |path| matches!(path, ["blobs", _])),
];
/// Stands for none of them.
const ALL_SYNCED: &str = "-";

#[test]
fn syncs_of_whichever_kind_that_are_left_out_are_shown_by_some_power_cut() {
    let place = Place::new();
    let ((calls, _), expected) = (undisturbed(&place), place.end());
    for (what, _) in SYNCED {
        assert!(shown_at(what, &calls, &expected).is_some(), "no power cut shows that the {what} is not synced");
    }
}

#[test]
fn killed_in_the_middle_of_whichever_write_the_next_process_ends_the_run_with_the_same_model() {
    at_every_call(Fault::Torn, |call| call.starts_with("write "), |_, how| how == KILLED);
}

#[test]
fn a_sync_that_fails_while_the_log_is_moved_into_the_database_ends_the_process() {
    let place = || {
        let place = Place::new();
        File::create(place.0.path().join(LONG_LOG)).unwrap();
        place
    };
    let (calls, closing) = undisturbed(&place());
    let calls = &calls[..closing];
    // The first thing that is written to the database itself, and what was synced before and after.
    let moves = calls.iter().position(|call| call == "write state.db").unwrap();
    let log = calls[..moves].iter().rposition(|call| call == "sync state.db-wal").unwrap();
    let database = moves + calls[moves..].iter().position(|call| call == "sync state.db").unwrap();
    for at in [log, database] {
        let output = place().lives(at, Fault::Fails);
        assert_eq!(output.status.signal(), ABORTED, "{} at {at}: {output:?}", calls[at]);
    }
}
