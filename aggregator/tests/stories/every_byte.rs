//! Every byte that is stored, changed by the disk, one at a time: it is noticed and named, or it changes nothing. Nothing is ever
//! loaded as something else.
//!
//! What happens, exactly:
//!
//! | where the byte is | what happens |
//! |---|---|
//! | an acknowledged update | the merge leaves the site out as damaged; the others are merged, if they are a quorum |
//! | the model that a round starts from | handed out to nobody, made again from the updates that it came of; a run's first one is named until it is restored, and the round's time stands still |
//! | the server's state | the merge stops and names it; restored, it goes on |
//! | an upload in progress | `corrupt`: nothing is acknowledged, the upload starts over |
//! | a stored update that is sent again | `corrupt`, and the file is removed: sent once more, the update is sound |
//! | a model that a site fetches | the site holds it to its digest and fetches it again, and then the aggregator does so too |
//! | a model that the coordinator exports | the export fails and writes no file |
//! | a row of the database | an error that names the row; a run that is damaged is left aside |
//! | the rest of the database file | SQLite's own check, when it is opened; or nobody reads it |

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aggregator::clock::{Clock, Stamp};
use aggregator::ledger::Actor;
use aggregator::status::RunPhase;
use aggregator::store::{Blobs, Issued, RoundState, SignatureRecord, SqliteStore, Store, StoreError};
use common::plan::Strategy;
use common::score::MeasuredOn;
use common::signed::{Ed25519, VerifyingKey};
use common::task::Metric;
use common::{Decline, Digest, Phase, Refusal, RoundNumber, Score, TaskName};
use rusqlite::types::Value;

use crate::bench::{Bench, holder, plan_draft, run_id, site_id, weights};
use crate::simulation::dice::Dice;

/// Values of the models here: small, so that every byte has its turn.
const VALUES: usize = 8;

fn delta(site: usize) -> common::NamedTensors {
    weights(VALUES, |place| (place + 1) as f32 / 16.0 * (site + 1) as f32)
}

fn all_report(bench: &Bench) {
    for (index, site) in ["a", "b", "c"].into_iter().enumerate() {
        bench.reports(site, &delta(index)).unwrap();
    }
}

/// Changes one byte of a file, by a mask that depends on the place.
fn flip(path: &Path, place: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[place] ^= mask(place);
    fs::write(path, bytes).unwrap();
}

/// Not 0, and every bit in some place.
fn mask(place: usize) -> u8 {
    (Dice::seeded(place as u64).below(255) + 1) as u8
}

/// A folder as it was.
struct Frozen(BTreeMap<PathBuf, Vec<u8>>);

impl Frozen {
    fn of(folder: &Path) -> Self {
        let mut files = BTreeMap::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => drop(files.insert(path.clone(), fs::read(path).unwrap())),
                }
            }
        }
        Self(files)
    }

    fn thaw(&self, folder: &Path) {
        for path in Self::of(folder).0.keys().filter(|path| !self.0.contains_key(*path)) {
            fs::remove_file(path).unwrap();
        }
        self.0.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    }
}

#[test]
fn no_byte_of_an_acknowledged_update_can_change_and_be_merged() {
    let without_a = Bench::with_run(VALUES, 2, 1, 1);
    without_a.says("a", Phase::Declined(Decline::DiskFull));
    without_a.reports("b", &delta(1)).unwrap();
    without_a.reports("c", &delta(2)).unwrap();
    without_a.merge();

    let bench = Bench::with_run(VALUES, 2, 1, 1);
    all_report(&bench);
    let path = Blobs::open(&bench.path()).unwrap().path(delta(0).digest());
    let mut bench = bench.closed();
    let (folder, frozen) = (bench.path(), Frozen::of(&bench.path()));
    for place in 0..fs::read(&path).unwrap().len() {
        bench = bench.closed();
        frozen.thaw(&folder);
        flip(&path, place);
        bench.restart();
        bench.merge();
        bench.merge();
        let run = bench.run();
        assert_eq!((run.state, run.model), (RunPhase::Finished, without_a.run().model), "byte {place}");
        let left_out = &run.rounds[0].left_out;
        assert!(left_out.len() == 1 && left_out[0].site == site_id("a") && left_out[0].reason.contains("damaged"));
    }
}

/// Flips every byte of a file that a merge reads, and sees that it stops and names it; then restores it, and merges.
fn no_byte_of(path: &Path, bench: &Bench, told: &str) {
    let before = bench.run().model;
    for place in 0..fs::read(path).unwrap().len() {
        flip(path, place);
        assert!(!bench.federation().merge_frozen(), "byte {place} of {told}");
        let run = bench.run();
        let because = run.because.unwrap();
        assert!(because.contains(told) && because.contains("backup") && run.model == before, "byte {place}: {because}");
        flip(path, place);
    }
    bench.merge();
    assert_eq!(bench.run().because, None);
}

#[test]
fn no_byte_of_the_first_model_or_of_the_servers_state_can_change_and_be_merged() {
    let bench = Bench::quick();
    let mut draft = plan_draft("run", &["a", "b", "c"], 2, 2, 1);
    draft.aggregation.strategy = Strategy::FedAvgM { learning_rate: 0.7, momentum: 0.9 };
    bench.start_run(draft, VALUES);
    let blobs = Blobs::open(&bench.path()).unwrap();
    all_report(&bench);
    no_byte_of(&blobs.path(bench.run().first_model), &bench, "first model is damaged");
    all_report(&bench);
    let rounds = bench.store().rounds(&run_id()).unwrap();
    let state = rounds.iter().find_map(|round| match &round.state {
        RoundState::Closed(_, merged) => merged.states.first().copied(),
        _ => None,
    });
    no_byte_of(&blobs.path(state.unwrap()), &bench, "the server optimizer's state is damaged");
    assert_eq!(bench.run().state, RunPhase::Finished);
}

/// The server that took the bytes in holds them to its checksum when it merges, and not to their digest again.
#[test]
fn an_update_that_changes_between_its_acknowledgement_and_the_merge_is_left_out_by_the_server_that_took_it() {
    let bytes = delta(0).to_safetensors().len();
    for place in (0..bytes).step_by(bytes / 7) {
        let bench = Bench::with_run(VALUES, 2, 1, 1);
        let digests = ["a", "b", "c"].map(|site| {
            let number = usize::from(site.as_bytes()[0] - b'a');
            bench.reports(site, &delta(number)).unwrap()
        });
        flip(&Blobs::open(&bench.path()).unwrap().path(digests[0]), place);
        bench.merge();
        bench.merge();
        let run = bench.run();
        let left_out = &run.rounds[0].left_out;
        assert!(left_out.len() == 1 && left_out[0].reason.contains("damaged"), "byte {place}: {left_out:?}");
        assert_eq!(run.rounds[0].sites.len(), 2, "byte {place}");
    }
}

#[test]
fn no_byte_of_an_upload_in_progress_can_change_and_be_acknowledged() {
    let bench = Bench::with_run(VALUES, 1, 1, 1);
    let (manifest, bytes) = (bench.manifest("a", &delta(0)), delta(0).to_safetensors());
    for place in 0..bytes.len() {
        bench.send(&manifest, &bytes, 64, bytes.len()).unwrap();
        let part = fs::read_dir(bench.path().join("tmp")).unwrap().next().unwrap().unwrap().path();
        flip(&part, place);
        let refusal = bench.finish(&manifest).unwrap_err();
        assert!(matches!(refusal, Refusal::Corrupt { .. }), "byte {place}: {refusal}");
        assert_eq!(bench.begin(&manifest).unwrap().next_offset, 0, "byte {place}: it starts over");
        assert!(bench.store_is_untouched(), "byte {place}");
    }
    bench.reports("a", &delta(0)).unwrap();
}

/// A file that is here already, of another site's update or of the same site's before a crash, is not sent again. When it has
/// rotted it must neither be acknowledged nor be in the way.
#[test]
fn no_byte_of_a_stored_file_can_change_and_be_acknowledged_and_sent_once_more_the_update_is_sound() {
    let bench = Bench::with_run(VALUES, 1, 1, 1);
    let (manifest, bytes) = (bench.manifest("b", &delta(0)), delta(0).to_safetensors());
    bench.reports("a", &delta(0)).unwrap();
    let path = Blobs::open(&bench.path()).unwrap().path(manifest.blob);
    let mut bench = bench.closed();
    let (folder, frozen) = (bench.path(), Frozen::of(&bench.path()));
    for place in 0..bytes.len() {
        bench = bench.closed();
        frozen.thaw(&folder);
        flip(&path, place);
        bench.restart();
        assert_eq!(bench.begin(&manifest).unwrap().next_offset, manifest.bytes, "byte {place}: it is here already");
        let refusal = bench.finish(&manifest).unwrap_err();
        assert!(matches!(refusal, Refusal::Corrupt { .. }), "byte {place}: {refusal}");
        bench.send(&manifest, &bytes, 64, bytes.len()).unwrap();
        assert_eq!(bench.finish(&manifest), Ok(manifest.blob), "byte {place}");
    }
    bench.reports("c", &delta(2)).unwrap();
    bench.merge();
    assert_eq!(bench.run().rounds[0].sites.len(), 3, "the same bytes mended what was damaged");
}

/// A store with rows in every table.
fn furnished() -> Bench {
    let bench = Bench::with_run(VALUES, 2, 3, 2);
    bench.start_run(plan_draft("other", &["a", "b"], 1, 1, 1), VALUES);
    let (store, now) = (bench.store(), bench.clock.wall());
    let token = |name: &str| Digest::of(name.as_bytes());
    store.invite(token("used"), &holder("a"), &Actor::StateFolder, now, now.after(Duration::from_secs(9))).unwrap();
    let issued = || {
        Ok(Issued {
            certificate_pem: "a certificate".to_owned(),
            serial: "0a".to_owned(),
            expires_at: Stamp(9),
            signing_key: None,
            signing_certificate: None,
            anchors: Digest::of(b"ca"),
        })
    };
    store.redeem(token("used"), &holder("a"), token("request"), now, &mut { issued }).unwrap();
    store.invite(token("expired"), &holder("b"), &Actor::StateFolder, now, now).unwrap();
    all_report(&bench);
    bench.merge();
    bench.says("c", Phase::Declined(Decline::TooFewImages));
    bench.joins("b");
    bench.reports("a", &delta(0)).unwrap();
    let manifest = bench.manifest("b", &delta(1));
    bench.send(&manifest, &delta(1).to_safetensors(), 64, 100).unwrap();
    bench.federation().note_time();
    let task = TaskName::try_from("cine".to_owned()).unwrap();
    let score = Score { task, metric: Metric::Dice, on: MeasuredOn::Validation, value: 0.8125, subjects: 25 };
    store.note_scores(&run_id(), manifest.base, &site_id("a"), &[score], now).unwrap();
    store.note_trouble(&run_id(), Some("nothing")).unwrap();
    let signature = SignatureRecord {
        coordinator: "alice".parse().unwrap(),
        key: VerifyingKey([1; 32]),
        signature: Ed25519([2; 64]),
        certificate_pem: "a certificate".to_owned(),
        signed_at: now,
        counted: true,
    };
    store.sign(&run_id(), token("plan"), &signature).unwrap();
    bench.closed()
}

/// All that the aggregator can read of its store, as text: a line for each question.
fn everything(store: &SqliteStore) -> Vec<Result<String, StoreError>> {
    fn told<T: Debug>(found: Result<T, StoreError>) -> Result<String, StoreError> {
        found.map(|found| format!("{found:?}"))
    }
    let token = |name: &str| Digest::of(name.as_bytes());
    let redeem = |name: &str, site: &str| {
        // As it would be issued; nothing is written.
        let mut issue = || Err(StoreError::RunExists(run_id()));
        match store.redeem(token(name), &holder(site), token("request"), Stamp(u64::MAX >> 3), &mut issue) {
            Err(StoreError::RunExists(_)) => Ok("issued".to_owned()),
            // That it is not accepted is no damage, and is what must not change.
            Err(StoreError::Token(why)) => Ok(why.to_owned()),
            other => told(other),
        }
    };
    let mut all = vec![told(store.federation()), told(store.members()), told(store.uploads()), told(store.progress())];
    all.extend([redeem("used", "a"), redeem("expired", "b")]);
    match store.runs(0) {
        Ok(runs) => all.extend(runs.into_iter().map(told)),
        Err(error) => all.push(Err(error)),
    }
    for run in [run_id(), "other".parse().unwrap()] {
        let rounds = store.rounds(&run);
        for attempt in rounds.iter().flatten().map(|round| round.attempt) {
            all.push(told(store.roll(&run, attempt)));
        }
        all.push(told(rounds));
        all.extend((1..=3).map(|round| told(store.updates(&run, RoundNumber(round)))));
        all.push(told(store.scores(&run)));
        all.push(told(store.signatures(&run)));
    }
    all
}

/// Whether what is read now is what was read before, or an error says that it is not.
fn noticed_or_harmless(folder: &Path, before: &[String]) -> Result<bool, String> {
    let Ok(store) = SqliteStore::open(folder) else { return Ok(true) };
    let now = everything(&store);
    let mut noticed = false;
    for line in &now {
        match line {
            Err(_) => noticed = true,
            Ok(line) if before.contains(line) => {}
            Ok(line) => return Err(format!("read as something else: {line}")),
        }
    }
    if !noticed && now.len() != before.len() {
        return Err(format!("{} answers in the place of {}", now.len(), before.len()));
    }
    Ok(noticed)
}

fn undamaged(bench: &Bench) -> Vec<String> {
    everything(&bench.store()).into_iter().map(Result::unwrap).collect()
}

/// Values that are one byte or bit away from this one.
fn neighbors(value: &Value) -> Vec<Value> {
    let flipped = |bytes: &[u8]| -> Vec<Vec<u8>> {
        let one = |place: usize| {
            let mut bytes = bytes.to_vec();
            // Stays ASCII, so that what is read back is text.
            bytes[place] ^= 1 << (place % 7);
            bytes
        };
        (0..bytes.len()).map(one).collect()
    };
    match value {
        Value::Null => vec![Value::Integer(0), Value::Text(String::new())],
        Value::Integer(number) => (0..63).map(|bit| Value::Integer(number ^ 1 << bit)).collect(),
        Value::Real(_) => Vec::new(),
        Value::Blob(bytes) => flipped(bytes).into_iter().map(Value::Blob).collect(),
        Value::Text(text) => {
            let texts =
                flipped(text.as_bytes()).into_iter().map(|bytes| Value::Text(String::from_utf8(bytes).unwrap()));
            texts.chain([Value::Text(String::new())]).collect()
        }
    }
}

/// Columns that no index holds; a key that changes shows in the indexes, in the test below.
const COLUMNS: &str = "SELECT name FROM pragma_table_info(?1) WHERE pk = 0 AND name <> 'run'";

#[test]
fn no_byte_of_any_row_can_change_and_be_read_as_something_else() {
    let bench = furnished();
    let before = undamaged(&bench);
    let tables = [
        "federation",
        "members",
        "progress",
        "rounds",
        "runs",
        "scores",
        "signatures",
        "tokens",
        "updates",
        "uploads",
        "words",
    ];
    let (mut changed, mut named) = (0, 0);
    for table in tables {
        // Opened before the triggers are away: its schema is checked once.
        let store = bench.store();
        bench.spoil(table, |database| {
            let texts = |sql: &str| -> Vec<String> {
                let mut statement = database.prepare(sql).unwrap();
                statement.query_map([table], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
            };
            let columns = texts(COLUMNS);
            let rows = texts(&format!("SELECT CAST(rowid AS TEXT) FROM {table} WHERE ?1 <> ''"));
            assert!(!rows.is_empty(), "no row in {table}");
            for (row, column) in rows.iter().flat_map(|row| columns.iter().map(move |column| (row, column))) {
                let (set, get) = (
                    format!("UPDATE {table} SET {column} = ?1 WHERE rowid = {row}"),
                    format!("SELECT {column} FROM {table} WHERE rowid = {row}"),
                );
                let value: Value = database.query_row(&get, [], |row| row.get(0)).unwrap();
                for other in neighbors(&value) {
                    // A column that holds no such value, null or of another type, cannot be made to here.
                    if database.execute(&set, [&other]).is_err() {
                        continue;
                    }
                    changed += 1;
                    let mut is_named = false;
                    for line in everything(&store) {
                        match line {
                            Err(StoreError::Damaged(told)) => is_named |= told.contains(&format!("a row of {table}")),
                            Err(error) => panic!("{table}.{column} = {other:?}: {error}"),
                            Ok(line) => assert!(before.contains(&line), "{table}.{column} = {other:?}: {line}"),
                        }
                    }
                    assert!(is_named, "{table}.{column} = {other:?} is not noticed");
                    named += 1;
                }
                assert_eq!(database.execute(&set, [&value]).unwrap(), 1);
            }
        });
    }
    println!("{named} of {changed} changed values were named with their row");
    assert!(named > 3_000);
    assert_eq!(undamaged(&bench), before);
}

/// Flips bytes of the database file, and counts those that were noticed and those that are of no matter.
fn flipped_in_the_file(wanted: impl Fn(usize, u8) -> bool) -> [usize; 2] {
    let bench = furnished();
    let before = undamaged(&bench);
    let file = |name: &str| bench.path().join(name);
    let whole = fs::read(file("state.db")).unwrap();
    let mut counts = [0, 0];
    for (place, byte) in whole.iter().enumerate().filter(|(place, byte)| wanted(*place, **byte)) {
        let mut bytes = whole.clone();
        bytes[place] = byte ^ mask(place);
        ["state.db-wal", "state.db-shm"].iter().for_each(|name| drop(fs::remove_file(file(name))));
        fs::write(file("state.db"), bytes).unwrap();
        match noticed_or_harmless(&bench.path(), &before) {
            Ok(noticed) => counts[usize::from(!noticed)] += 1,
            Err(why) => panic!("byte {place} of {}: {why}", whole.len()),
        }
    }
    println!("{} bytes: {} noticed, {} of no matter", whole.len(), counts[0], counts[1]);
    counts
}

#[test]
fn no_byte_of_the_database_file_can_change_and_make_it_another_one() {
    // Of what is not empty, every so many.
    let [noticed, harmless] = flipped_in_the_file(|place, byte| byte != 0 && place % 13 == 5);
    assert!(noticed > harmless, "{noticed} {harmless}");
}

#[test]
#[ignore = "minutes: `cargo test --test stories truly_no_byte -- --ignored --nocapture`"]
fn truly_no_byte_of_the_database_file_can_change_and_make_it_another_one() {
    flipped_in_the_file(|_, _| true);
}

#[test]
fn a_row_that_the_disk_changed_is_not_sealed_anew_by_the_next_write() {
    let bench = Bench::with_run(VALUES, 2, 1, 2);
    bench.joins("a");
    bench.joins("b");
    bench.spoil("rounds", |database| {
        assert_eq!(database.execute("UPDATE rounds SET base = 'f' || substr(base, 2)", []), Ok(1));
    });
    // It would be changed by the end of the round.
    bench.clock.pass(Duration::from_secs(60));
    bench.federation().tick();
    let told = bench.store().rounds(&run_id()).unwrap_err().to_string();
    assert!(told.contains("a row of rounds (run run, round 1, attempt 1) does not hold what was written"), "{told}");
}
