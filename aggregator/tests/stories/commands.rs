//! What a coordinator types, and what comes back: the real program, its JSON and its exit codes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use aggregator::authority;
use aggregator::config::Config;
use aggregator::desk::remote::{Remote, RemoteError};
use aggregator::ledger::Actor;
use aggregator::status::{RunPhase, Status};
use aggregator::store::{SqliteStore, Store};
use certs::invitation::Invitation;
use common::Digest;
use serde_json::{Value, json};

use crate::bench::{holder, issued, spoil, weights};

const PROGRAM: &str = env!("CARGO_BIN_EXE_aggregator");

struct Desk {
    folder: tempfile::TempDir,
}

/// The program, which is told by the words alone what it is to do: nothing of it comes from the environment of the tests.
fn program() -> Command {
    let mut program = Command::new(PROGRAM);
    for name in ["HTTPS_PROXY", "https_proxy", "RUST_LOG", "AGGREGATOR_STATE"] {
        program.env_remove(name);
    }
    program.stdin(Stdio::null());
    program
}

/// A server that ends with its owner.
struct Server(Child);

impl Server {
    /// Asks it to end; its exit code.
    fn ended(mut self) -> Option<i32> {
        assert!(Command::new("kill").arg(self.0.id().to_string()).status().unwrap().success());
        self.0.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Desk {
    fn new() -> Self {
        Self::at("127.0.0.1:4433", "127.0.0.1:0")
    }

    /// A federation at an address that is free, so that persons find its server.
    fn reachable() -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        Self::at(&address, &address)
    }

    fn at(address: &str, listen: &str) -> Self {
        let desk = Self { folder: tempfile::tempdir().unwrap() };
        let init = ["init", "--federation", "typed", "--address", address, "--listen", listen];
        assert_eq!(desk.types(&init).status.code(), Some(0));
        desk
    }

    /// Types a command in this folder, beside whatever folders persons have there.
    fn beside(&self, words: &[&str]) -> Output {
        program().args(words).current_dir(self.folder.path()).output().unwrap()
    }

    /// Lets a site in that has no agent.
    fn let_in(&self, site: &str) {
        let store = SqliteStore::open(&self.path("fed")).unwrap();
        let (token, now) = (Digest::of(b"token"), aggregator::clock::wall());
        store.invite(token, &holder(site), &Actor::StateFolder, now, now.after(Duration::from_secs(60))).unwrap();
        store.redeem(token, &holder(site), token, now, &mut || Ok(issued("01"))).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn types(&self, words: &[&str]) -> Output {
        let state = self.path("fed");
        program().args(words).arg("--state").arg(state).output().unwrap()
    }

    fn json(&self, words: &[&str]) -> Value {
        let output = self.types(words);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The exit code, and what was said.
    fn refused(&self, words: &[&str]) -> (i32, String) {
        let output = self.types(words);
        assert!(output.stdout.is_empty());
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    fn write_plan(&self, text: &str) -> String {
        let path = self.path("plan.toml");
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn write_model(&self, values: usize) -> String {
        let path = self.path("first.safetensors");
        fs::write(&path, weights(values, |_| 0.5).to_safetensors()).unwrap();
        path.display().to_string()
    }

    fn serve(&self) -> Server {
        self.serve_telling(Stdio::null())
    }

    /// A server, with its log.
    fn serve_telling(&self, log: Stdio) -> Server {
        let mut serve = program();
        serve.args(["serve", "--log-json"]).arg("--state").arg(self.path("fed"));
        let serve = serve.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut server = Server(serve.spawn().unwrap());
        // It says so, or its output ends with it.
        let mut said = String::new();
        BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert!(said.starts_with("listening on "), "{said:?}");
        server
    }
}

const PLAN: &str = "run = \"typed\"\n[training]\nsteps_per_round = 1\nepoch_steps = 1\nbatch_size = 2\n[rounds]\ncount = 1\n\
                    sites = [\"a\"]\nquorum = 1\ndeadline_s = 60\n\
                    [model]\nimage_size = 1\npatch_size = 1\ndim = 1\ndepth = 1\nheads = 1\nmlp_ratio = 1.0\n\
                    [model.head]\nhidden = 1\nbottleneck = 1\nprototypes = 2\n[aggregation]\nexchange = \"student\"\n";

/// Values of its first model: of the smallest network there is.
const MODEL: usize = 33;

#[test]
fn a_federation_is_made_once_and_keys_are_for_the_operator_alone() {
    use std::os::unix::fs::PermissionsExt;
    let desk = Desk::new();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&desk.path("fed")), 0o700);
    assert_eq!(mode(&desk.path("fed/authority/ca.key")), 0o600);
    assert_eq!(mode(&desk.path("fed/server.key")), 0o600);
    let key = fs::read(desk.path("fed/authority/ca.key")).unwrap();
    let (code, told) = desk.refused(&["init", "--federation", "other", "--address", "127.0.0.1:1"]);
    assert!(code == 3 && told.contains("nothing was changed"), "{told}");
    assert_eq!(fs::read(desk.path("fed/authority/ca.key")).unwrap(), key);
    let elsewhere = desk.path("elsewhere").display().to_string();
    let bad =
        program().args(["init", "--federation", "x", "--address", "no port", "--state", &elsewhere]).output().unwrap();
    assert_eq!(bad.status.code(), Some(3));
    assert!(!desk.path("elsewhere").exists());
}

#[test]
fn an_init_that_had_no_room_for_its_settings_leaves_none_and_is_typed_again() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("fed").display().to_string();
    let init =
        ["init", "--federation", "typed", "--address", "127.0.0.1:4433", "--listen", "127.0.0.1:4400", "--state"];
    // No file may have a byte: the system says no to the first one, as a full disk does.
    let mut full = Command::new("sh");
    full.args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$@\"", "sh", PROGRAM]).args(init).arg(&state);
    let output = full.output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && told.contains("aggregator.toml"), "{told}");
    assert_eq!(fs::read_dir(&state).unwrap().count(), 0, "nothing is left there");
    assert!(program().args(init).arg(&state).output().unwrap().status.success());
    let settings = fs::read_to_string(Path::new(&state).join("aggregator.toml")).unwrap();
    assert!(settings.contains("listen = \"127.0.0.1:4400\""), "{settings}");
}

#[test]
fn an_invitation_pins_the_authority_and_names_an_address_that_the_certificate_has() {
    let desk = Desk::new();
    let invited = desk.json(&["invite", "aalst", "--json"]);
    let life = invited["expires_at"].as_u64().unwrap() - aggregator::clock::wall().0;
    assert!(life <= 24 * 60 * 60 * 1000, "a day at most: {life} ms");
    let invitation: Invitation = invited["invitation"].as_str().unwrap().parse().unwrap();
    assert_eq!(invitation.authority.to_string(), invited["authority_fingerprint"]);
    assert_eq!((invitation.address.as_str(), invitation.holder.to_string().as_str()), ("127.0.0.1:4433", "aalst"));
    let (code, told) = desk.refused(&["invite", "aalst", "--address", "elsewhere:1"]);
    assert!(code == 3 && told.contains("`names`"), "{told}");
    assert_eq!(desk.refused(&["invite", "../x"]).0, 2);
}

#[test]
fn a_leaked_invitation_is_taken_back_and_a_new_one_replaces_it() {
    let desk = Desk::new();
    assert_eq!(desk.json(&["invite", "aalst", "--json"])["earlier_expired"], 0);
    assert_eq!(desk.json(&["invite", "aalst", "--json"])["earlier_expired"], 1);
    let revoked = desk.json(&["revoke", "aalst", "--json"]);
    assert_eq!((&revoked["revoked"], &revoked["invitations_expired"]), (&Value::from(false), &Value::from(1)));
    let (code, told) = desk.refused(&["revoke", "aalst"]);
    assert!(code == 3 && told.contains("no certificate that counts and no open invitation"), "{told}");
}

#[test]
fn what_is_no_plan_or_no_model_starts_no_run_and_is_told_by_name() {
    let desk = Desk::new();
    let (plan, model) = (desk.write_plan(PLAN), desk.write_model(MODEL));
    let missing = desk.path("missing").display().to_string();
    let start = |plan: &str, model: &str| desk.refused(&["run", "start", plan, "--first-model", model]);
    assert!(matches!(start(&missing, &model), (3, told) if told.contains("missing")));
    assert!(matches!(start(&plan, &missing), (3, told) if told.contains("missing")));
    assert!(matches!(start(&plan, &plan), (3, told) if told.contains("not a safetensors file")));
    let with = |change: &str| desk.write_plan(&PLAN.replace("batch_size = 2", change));
    assert!(matches!(start(&with("batch_size = 1"), &model), (3, told) if told.contains("batch_size is 1")));
    assert!(matches!(start(&with("batch_size = 2\ntypo = 3"), &model), (3, told) if told.contains("typo")));
    let mut broken = weights(MODEL, |_| 0.5);
    broken.insert("center", vec![3], vec![0.0, f32::NAN, 0.0]);
    fs::write(desk.path("nan"), broken.to_safetensors()).unwrap();
    let nan = desk.path("nan").display().to_string();
    let plan = desk.write_plan(PLAN);
    assert!(matches!(start(&plan, &nan), (3, told) if told.contains("center holds NaN")));

    let large = desk.write_model(2 * MODEL);
    let refused = start(&plan, &large);
    assert!(matches!(&refused, (3, told) if told.contains("has 66 values") && told.contains("has 33")), "{refused:?}");
    desk.write_model(MODEL);

    let started = desk.json(&["run", "start", &plan, "--first-model", &model, "--json"]);
    assert_eq!(started["not_enrolled"][0], "a");
    assert!(matches!(start(&plan, &model), (3, told) if told.contains("there is a run typed already")));
    let runs = desk.json(&["run", "list", "--json"]);
    assert_eq!((runs.as_array().unwrap().len(), &runs[0]["plan"]), (1, &started["plan"]));
}

#[test]
fn a_model_that_is_larger_than_all_updates_together_may_be_starts_no_run() {
    let desk = Desk::new();
    let settings = desk.path("fed/aggregator.toml");
    let written = fs::read_to_string(&settings).unwrap();
    let spool = |bytes: u32| {
        let lines = written.lines().map(|line| match line.starts_with("max_spool_bytes") {
            true => format!("max_spool_bytes = {bytes}\n"),
            false => format!("{line}\n"),
        });
        fs::write(&settings, lines.collect::<String>()).unwrap();
    };
    // Each prototype is a direction and a length.
    let plan = desk.write_plan(&PLAN.replace("prototypes = 2", "prototypes = 200000"));
    let model = desk.write_model(MODEL + 2 * 199_998);
    let start = ["run", "start", &plan, "--first-model", &model];
    let bytes = fs::metadata(&model).unwrap().len();
    spool(1 << 20);
    let (code, told) = desk.refused(&start);
    assert!(code == 3 && told.contains(&format!("has {bytes} bytes, but `max_spool_bytes`")), "{code}: {told}");
    spool(1 << 21);
    assert!(desk.types(&start).status.success());
}

#[test]
fn what_is_asked_of_a_run_that_does_not_stand_so_is_refused_with_its_state_and_not_in_the_ledger() {
    let desk = Desk::new();
    let (plan, model) = (desk.write_plan(PLAN), desk.write_model(MODEL));
    desk.json(&["run", "start", &plan, "--first-model", &model, "--json"]);
    let asked = |words: &[&str], told: &str| {
        let (code, said) = desk.refused(&[&["run"], words].concat());
        assert!(code == 3 && said.contains(told), "{words:?}: {code}: {said}");
    };
    let does = |words: &[&str]| assert!(desk.types(&[&["run"], words].concat()).status.success(), "{words:?}");
    asked(&["resume", "typed"], "run typed is not paused: it is running");
    does(&["pause", "typed"]);
    asked(&["pause", "typed"], "run typed is paused already");
    does(&["resume", "typed"]);
    does(&["abort", "typed", "--because", "a mistake"]);
    // No server has heeded that yet.
    for verb in ["resume", "pause"] {
        asked(&[verb, "typed"], "run typed is over: aborted by the coordinator: a mistake");
    }
    asked(&["abort", "typed", "--because", "again"], "is over");
    let entries = desk.json(&["ledger", "show", "--json"]);
    let entered = entries.as_array().unwrap().iter().filter(|entry| entry["event"]["kind"] == "asked").count();
    assert_eq!(entered, 3, "{entries}");
}

#[test]
fn who_waits_for_a_run_hears_by_exit_code_that_it_is_not_over_and_from_afar_that_it_was_aborted() {
    let desk = Desk::reachable();
    let (plan, model) = (desk.write_plan(PLAN), desk.write_model(MODEL));
    desk.json(&["run", "start", &plan, "--first-model", &model, "--json"]);
    assert!(matches!(desk.refused(&["run", "wait", "other"]), (3, told) if told.contains("no run other")));
    let waited = desk.types(&["run", "wait", "typed", "--within-s", "0"]);
    let [told, said] = [waited.stdout, waited.stderr].map(|text| String::from_utf8(text).unwrap());
    assert_eq!((waited.status.code(), told.as_str()), (Some(7), "run typed: running, 0 of 1 rounds done\n"), "{said}");
    assert!(said.contains("run typed is not over yet: running, 0 of 1 rounds done; round 1: gathering"), "{said}");

    let _server = desk.serve();
    let invited = desk.json(&["invite", "--observer", "eve", "--json"]);
    assert!(desk.beside(&["enrol", invited["invitation"].as_str().unwrap(), "--as", "eve"]).status.success());
    let mut waits = program();
    waits.args(["run", "wait", "typed", "--as", "eve", "--json"]).current_dir(desk.folder.path());
    let waits = waits.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    assert!(desk.types(&["run", "abort", "typed", "--because", "a mistake"]).status.success());
    let waited = waits.wait_with_output().unwrap();
    let said = String::from_utf8(waited.stderr).unwrap();
    assert_eq!(waited.status.code(), Some(8), "{said}");
    assert!(said.contains("run typed is over before its last round: aborted by the coordinator: a mistake"), "{said}");
    let told: Value = serde_json::from_slice(&waited.stdout).unwrap();
    assert_eq!((&told["state"], &told["rounds"], &told["left_out"]), (&json!("failed"), &json!(0), &json!([])));
}

#[test]
fn a_model_whose_file_is_gone_is_told_by_its_own_path() {
    let desk = Desk::new();
    let (plan, model) = (desk.write_plan(PLAN), desk.write_model(MODEL));
    let started = desk.json(&["run", "start", &plan, "--first-model", &model, "--json"]);
    let digest = started["first_model"].as_str().unwrap();
    fs::remove_file(desk.path("fed/blobs").join(&digest[..2]).join(digest)).unwrap();
    let out = desk.path("model.safetensors").display().to_string();
    let (code, told) = desk.refused(&["model", "--run", "typed", "--out", &out]);
    assert!(code == 1 && told.contains(digest) && told.contains("backup"), "{told}");
}

#[test]
fn a_run_whose_row_was_changed_by_the_disk_is_told_as_damaged_and_not_as_none() {
    let desk = Desk::new();
    let (plan, model) = (desk.write_plan(PLAN), desk.write_model(MODEL));
    desk.json(&["run", "start", &plan, "--first-model", &model, "--json"]);
    spoil(&desk.path("fed"), "runs", |database| {
        database.execute("UPDATE runs SET plan = x'00'", []).unwrap();
    });
    let out = desk.path("model.safetensors").display().to_string();
    for words in [&["model", "--run", "typed", "--out", &out][..], &["run", "list"], &["run", "list", "--json"]] {
        let listed = desk.types(words);
        let [told, said] = [listed.stdout, listed.stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(listed.status.code() == Some(1) && said.contains("damaged"), "{words:?}: {said}");
        assert!(["", "[]"].contains(&told.trim()), "{words:?}: {told}");
    }
}

#[test]
fn a_model_whose_file_was_changed_by_the_disk_is_not_exported() {
    let desk = Desk::new();
    let (plan, model) = (desk.write_plan(PLAN), desk.write_model(MODEL));
    let started = desk.json(&["run", "start", &plan, "--first-model", &model, "--json"]);
    let digest = started["first_model"].as_str().unwrap();
    let path = desk.path("fed/blobs").join(&digest[..2]).join(digest);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let out = desk.path("model.safetensors");
    let (code, told) = desk.refused(&["model", "--run", "typed", "--out", &out.display().to_string()]);
    assert!(code == 1 && told.contains(digest) && told.contains("backup"), "{told}");
    assert!(!out.exists() && !out.with_added_extension("part").exists());
}

#[test]
fn a_running_server_keeps_the_folder_and_sees_what_is_typed_beside_it() {
    let desk = Desk::new();
    let mut server = desk.serve();
    assert!(matches!(desk.refused(&["serve"]), (4, told) if told.contains("another aggregator")));
    let (plan, model) = (desk.write_plan(PLAN), desk.write_model(MODEL));
    desk.json(&["run", "start", &plan, "--first-model", &model, "--json"]);
    let status: Status = serde_json::from_value(desk.json(&["status", "--json"])).unwrap();
    let run = &status.runs[0];
    assert_eq!((run.state, run.model), (RunPhase::Running, run.first_model));
    assert_eq!(desk.json(&["status", "--json"]), serde_json::to_value(&status).unwrap());
    let text = String::from_utf8(desk.types(&["status"]).stdout).unwrap();
    assert!(text.contains("run typed: running, 0 of 1 rounds done") && text.contains("not seen yet"), "{text}");

    let out = desk.path("model.safetensors").display().to_string();
    desk.json(&["model", "--run", "typed", "--out", &out, "--json"]);
    assert_eq!(fs::read(&out).unwrap(), fs::read(&model).unwrap());
    assert!(matches!(desk.refused(&["model", "--run", "typed", "--round", "1", "--out", &out]), (3, _)));
    assert!(matches!(desk.refused(&["model", "--run", "other", "--out", &out]), (3, _)));
    let nowhere = desk.path("no/folder").display().to_string();
    let (_, told) = desk.refused(&["model", "--run", "typed", "--out", &nowhere]);
    assert!(told.contains("no/folder") && told.contains("--out"), "{told}");

    // kill -9, and up again on the same folder.
    server.0.kill().unwrap();
    server.0.wait().unwrap();
    assert_eq!(desk.serve().ended(), Some(0), "SIGTERM is a graceful end");
}

// Other systems have no disk that is always full.
#[cfg(target_os = "linux")]
#[test]
fn a_standard_error_that_takes_nothing_ends_no_server_and_no_command_with_another_code() {
    if !Path::new("/dev/full").exists() {
        println!("NOT RUN: there is no /dev/full");
        return;
    }
    let desk = Desk::reachable();
    let full = || Stdio::from(fs::File::options().write(true).open("/dev/full").unwrap());
    let server = desk.serve_telling(full());
    let found: Value = serde_json::from_slice(&desk.types(&["doctor", "--json"]).stdout).unwrap();
    let handshake = found["checks"].as_array().unwrap().iter().find(|check| check["name"] == "handshake").unwrap();
    assert_eq!(handshake["outcome"], "ok", "{handshake}");
    assert_eq!(server.ended(), Some(0));
    let mut refused = Command::new(PROGRAM);
    refused.args(["model", "--run", "nope", "--out", "nowhere", "--state"]).arg(desk.path("fed"));
    assert_eq!(refused.stderr(full()).status().unwrap().code(), Some(3));
}

#[test]
fn a_signing_key_that_is_lost_is_asked_for_and_no_other_one_takes_its_place() {
    let desk = Desk::new();
    let (key, out) = (desk.path("fed/signing.key"), desk.path("out").display().to_string());
    fs::remove_file(&key).unwrap();
    // Neither would there be a server with the key: it cannot say where it listens.
    for words in [
        &["serve", "--ready-file", "/no/folder/ready"][..],
        &["ledger", "verify"],
        &["ledger", "export", "--out", &out],
    ] {
        let (code, told) = desk.refused(words);
        let is_told = told.contains("fed/signing.key is not there: restore it from a backup");
        assert!(code == 1 && is_told && !key.exists(), "{words:?}: {code}: {told}");
    }
    let found: Value = serde_json::from_slice(&desk.types(&["doctor", "--json"]).stdout).unwrap();
    let outcome = |name: &str| {
        let checks = found["checks"].as_array().unwrap().iter();
        checks.filter(|check| check["name"] == name).map(|check| check["outcome"].clone()).collect::<Vec<_>>()
    };
    assert_eq!((outcome("keys"), outcome("ledger")), (vec![json!("failure")], vec![json!("not-yet")]), "{found}");
}

/// The words of a command as a shell would take them: quoted ones are one, and what follows a `#` is a comment.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for letter in line.split(" #").next().unwrap_or(line).chars() {
        match letter {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty())),
            letter => word.push(letter),
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}

#[test]
fn every_command_of_the_runbook_does_what_it_says() {
    let desk = Desk::reachable();
    let plan = desk.write_plan(&PLAN.replace("\"typed\"", "\"pretrain-1\""));
    let model = desk.write_model(MODEL);
    desk.json(&["run", "start", &plan, "--first-model", &model, "--json"]);
    // Else the run would have no quorum, and the doctor would not be content.
    desk.let_in("a");
    // The plan and the model of the second run, which the page starts.
    desk.write_plan(&PLAN.replace("run = \"typed\"", "run = \"pretrain-2\"\nsignatures = 2"));
    fs::copy(model, desk.path("first-model.safetensors")).unwrap();
    let _server = desk.serve();
    let text = include_str!("../../../docs/runbook.md");
    let blocks = text.split("```").filter_map(|block| block.strip_prefix("sh\n"));
    let commands: Vec<Vec<String>> = blocks.flat_map(str::lines).map(words).collect();
    assert!(commands.len() >= 35, "{commands:?}");
    let mut invitation = String::new();
    for mut command in commands {
        assert_eq!(command.remove(0), "aggregator");
        // No round has been merged here.
        command.iter_mut().filter(|word| *word == "7").for_each(|word| *word = "0".to_owned());
        // What was printed last is what is handed over.
        command.iter_mut().filter(|word| *word == "cmrfed1.…").for_each(|word| word.clone_from(&invitation));
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        if let ["authority", "next", ..] = words[..] {
            // It has no agent that would hear of that.
            assert!(desk.types(&["revoke", "a"]).status.success());
        }
        let done = desk.beside(&words);
        assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
        let told = String::from_utf8(done.stdout).unwrap();
        invitation =
            told.lines().map(str::trim).find(|line| line.starts_with("cmrfed1.")).map_or(invitation, str::to_owned);
        if let ["renew", "--as", whose] = words[..] {
            assert!(told.contains("which is known here now"), "{told}");
            let waiting = desk.json(&["authority", "show", "--json"])["waiting_for"].to_string();
            assert!(!waiting.contains(whose), "{whose} typed it once: {waiting}");
        }
    }
}

#[test]
fn a_change_of_the_ca_is_in_the_ledger_with_both_fingerprints_and_whom_it_shut_out() {
    let desk = Desk::new();
    desk.let_in("aalst");
    let fingerprint = || desk.json(&["authority", "show", "--json"])["fingerprint"].clone();
    assert!(matches!(desk.refused(&["authority", "switch"]), (3, told) if told.contains("there is no next CA")));
    let before = fingerprint();
    desk.json(&["authority", "next", "--json"]);
    assert!(matches!(desk.refused(&["authority", "next"]), (3, told) if told.contains("a next CA is there already")));
    assert!(matches!(desk.refused(&["authority", "switch"]), (3, told) if told.contains("aalst would be shut out")));
    desk.json(&["authority", "switch", "--force", "--json"]);
    let after = fingerprint();
    assert_ne!(before, after);
    let entries = desk.json(&["ledger", "show", "--json"]);
    let events: Vec<&Value> = entries.as_array().unwrap().iter().map(|entry| &entry["event"]).collect();
    let [announced, switched] = events[events.len() - 2..] else { panic!("{events:?}") };
    let by = "the state folder";
    assert_eq!(
        [announced, switched],
        [
            &json!({ "kind": "authority-announced", "authority": before, "next": after, "by": by }),
            &json!({ "kind": "authority-switched", "before": before, "authority": after, "shut_out": ["aalst"], "by": by }),
        ]
    );
    let told = String::from_utf8(desk.types(&["ledger", "show"]).stdout).unwrap();
    assert!(told.contains("authority-switched") && told.contains("shut_out=[\"aalst\"]"), "{told}");
    desk.json(&["ledger", "verify", "--json"]);
}

#[test]
fn a_next_ca_that_cannot_be_entered_in_the_ledger_is_shown_to_nobody_and_is_made_when_it_is_typed_again() {
    let desk = Desk::new();
    let database = rusqlite::Connection::open(desk.path("fed/state.db")).unwrap();
    let full = "CREATE TRIGGER full BEFORE INSERT ON ledger BEGIN SELECT RAISE(ABORT, 'no room'); END";
    database.execute_batch(full).unwrap();
    assert_eq!(desk.types(&["authority", "next"]).status.code(), Some(1));
    database.execute_batch("DROP TRIGGER full").unwrap();
    assert_eq!(desk.json(&["authority", "show", "--json"])["next"], false);
    desk.json(&["authority", "next", "--json"]);
    let entries = desk.json(&["ledger", "show", "--json"]);
    let announced = &entries.as_array().unwrap().last().unwrap()["event"];
    let federation = "typed".parse().unwrap();
    let next = authority::hold(&desk.path("fed")).unwrap().read(&federation).unwrap().1.unwrap();
    assert_eq!(announced["next"], json!(next.fingerprint().unwrap()));
}

#[test]
fn what_keeps_a_command_from_its_work_is_named_and_not_taken_for_something_else() {
    let desk = Desk::reachable();
    // A folder that nobody can look into, root neither.
    std::os::unix::fs::symlink("loop", desk.path("loop")).unwrap();
    let looks = desk.beside(&["status", "--state", "loop"]);
    let told = String::from_utf8(looks.stderr).unwrap();
    assert!(looks.status.code() == Some(3) && told.contains("loop cannot be read: "), "{told}");
    assert!(told.contains("--as") && !told.contains("aggregator init"), "{told}");
    let serves = desk.beside(&["serve", "--state", "fed", "--ready-file", "no/folder"]);
    let told = String::from_utf8(serves.stderr).unwrap();
    assert!(serves.status.code() == Some(1) && told.contains("--ready-file, no/folder, cannot be written"), "{told}");
    // A program that is no aggregator, on its port: it hangs up on everybody.
    let settings = Config::of_state(&desk.path("fed")).unwrap();
    let other = TcpListener::bind(settings.listen).unwrap();
    thread::spawn(move || other.incoming().for_each(drop));
    let looks = desk.types(&["doctor", "--json"]);
    let found: Value = serde_json::from_slice(&looks.stdout).unwrap();
    let checks = found["checks"].as_array().unwrap();
    let server = checks.iter().find(|check| check["name"] == "server").unwrap();
    assert!(server["found"].as_str().unwrap().starts_with("something that does not answer as this server"), "{server}");
}

#[test]
fn a_command_works_in_the_state_folder_or_as_a_person_and_says_which_it_cannot() {
    let desk = Desk::reachable();
    let _server = desk.serve();
    let refused = |words: &[&str]| {
        let output = desk.beside(words);
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let invited = desk.json(&["invite", "--coordinator", "alice", "--json"]);
    assert_eq!(invited["person"], "coordinator/alice");
    let enrol = ["enrol", invited["invitation"].as_str().unwrap(), "--as", "alice"];
    let told = String::from_utf8(desk.beside(&enrol).stdout).unwrap();
    assert!(told.contains("you are coordinator alice of federation typed"), "{told}");
    use std::os::unix::fs::PermissionsExt;
    for (name, expected) in [("alice", 0o700), ("alice/person.key", 0o600), ("alice/signing.key", 0o600)] {
        let mode = fs::metadata(desk.path(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, expected, "{name}");
    }
    // Anywhere on the line, and the very same answer as in the folder.
    let far = desk.beside(&["--as", "alice", "status", "--json"]);
    let far: Value = serde_json::from_slice(&far.stdout).unwrap();
    assert_eq!(far, desk.json(&["status", "--json"]));
    let table: &[(&[&str], i32, &str)] = &[
        (&["status"], 2, "--state or AGGREGATOR_STATE"),
        (&["status", "--state", "fed", "--as", "alice"], 2, "name one of the two"),
        (&["doctor", "--as", "alice"], 2, "on the aggregator's machine"),
        (&["authority", "show", "--as", "alice"], 2, "on the aggregator's machine"),
        (&["run", "sign", "typed"], 2, "a coordinator's own key"),
        (&["run", "sign", "typed", "--state", "fed"], 2, "is signed by a person"),
        (&["run", "sign", "typed", "--state", "fed", "--as", "alice"], 2, "leave out --state"),
        (&["enrol", "cmrfed1.x"], 2, "--as"),
        (&["status", "--as", "nobody"], 3, "`aggregator enrol <invitation> --as nobody`"),
        (&["enrol", "hello", "--as", "bob"], 3, "not an invitation"),
        (&["invite", "--administrator", "carol", "--as", "alice"], 2, "--of"),
        (&["invite", "aalst", "--observer", "eve", "--as", "alice"], 2, "cannot be used with"),
        (&["invite", "--coordinator", "bob", "--as", "alice"], 3, "may not invite a coordinator"),
        (&["run", "show", "typed", "--as", "alice"], 3, "no run typed"),
        (&["revoke", "bergen", "--as", "alice"], 3, "no certificate that counts"),
    ];
    for (words, code, said) in table {
        let (found, told) = refused(words);
        assert!(found == *code && told.contains(said), "{words:?}: {found}: {told}");
    }
    // Another office of the same person is another folder.
    let other = desk.json(&["invite", "--observer", "alice", "--json"]);
    let (code, told) = refused(&["enrol", other["invitation"].as_str().unwrap(), "--as", "alice"]);
    assert!(code == 3 && told.contains("is enrolled as coordinator alice"), "{told}");
    desk.json(&["revoke", "--coordinator", "alice", "--json"]);
    let cut = loop {
        let (code, told) = refused(&["status", "--as", "alice"]);
        if code == 3 {
            break told;
        }
    };
    assert!(cut.contains("coordinator alice is revoked"), "{cut}");
}

#[test]
fn whoever_types_commands_has_a_certificate_that_renews_itself_until_it_is_over() {
    let desk = Desk::reachable();
    let settings = desk.path("fed/aggregator.toml");
    let written = fs::read_to_string(&settings).unwrap().replace("life_s = 2592000", "life_s = 12");
    fs::write(&settings, written).unwrap();
    let _server = desk.serve();
    let invited = desk.json(&["invite", "--observer", "eve", "--json"]);
    assert!(desk.beside(&["enrol", invited["invitation"].as_str().unwrap(), "--as", "eve"]).status.success());
    let serial = || desk.json(&["status", "--json"])["persons"][0]["serial"].clone();
    let (first, key) = (serial(), fs::read(desk.path("eve/person.key")).unwrap());
    while serial() == first {
        let answer = desk.beside(&["status", "--as", "eve"]);
        assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    }
    assert_ne!(fs::read(desk.path("eve/person.key")).unwrap(), key, "a new certificate is for a new key");
    assert!(!desk.path("eve/next.key").exists());
}

#[test]
fn an_invitation_whose_answer_could_not_be_kept_is_typed_again() {
    let desk = Desk::reachable();
    let _server = desk.serve();
    let invited = desk.json(&["invite", "--observer", "eve", "--json"]);
    let enrol = ["enrol", invited["invitation"].as_str().unwrap(), "--as", "eve"];
    // Where who this is would be written first.
    let odd = desk.path("eve/federation.json.part");
    fs::create_dir_all(&odd).unwrap();
    assert_eq!(desk.beside(&enrol).status.code(), Some(1));
    assert_eq!(desk.json(&["status", "--json"])["persons"][0]["person"], "observer/eve", "the invitation is used");
    fs::remove_dir(&odd).unwrap();
    let again = desk.beside(&enrol);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert!(desk.beside(&["status", "--as", "eve"]).status.success());
}

#[test]
fn a_command_whose_certificate_another_one_renewed_meanwhile_goes_on_with_the_new_one() {
    let desk = Desk::reachable();
    let _server = desk.serve();
    let invited = desk.json(&["invite", "--observer", "eve", "--json"]);
    assert!(desk.beside(&["enrol", invited["invitation"].as_str().unwrap(), "--as", "eve"]).status.success());
    let open = || Remote::open(&desk.path("eve")).unwrap();
    // All three know the first certificate.
    let (mut asks, mut renews, mut renews_too) = (open(), open(), open());
    assert!(renews.renew().unwrap().unused.is_none());
    let eve = asks.status().unwrap().persons.remove(0);
    assert_eq!((eve.person.to_string().as_str(), eve.revoked), ("observer/eve", false));
    assert!(renews_too.renew().unwrap().unused.is_none());
    let mut many: Vec<Remote> = (0..4).map(|_| open()).collect();
    thread::scope(|scope| {
        let renewing: Vec<_> = many.iter_mut().map(|remote| scope.spawn(|| remote.renew().map(drop))).collect();
        renewing.into_iter().for_each(|renewed| renewed.join().unwrap().unwrap());
    });
    // What was revoked by somebody is no renewal.
    let mut revoked = open();
    assert!(desk.types(&["revoke", "--observer", "eve"]).status.success());
    let code = loop {
        if let Err(RemoteError::Refused { code, .. }) = revoked.status() {
            break code;
        }
    };
    assert_eq!(code, "revoked");
}

#[test]
fn a_plan_that_asks_for_fewer_signatures_than_the_settings_starts_nothing_here_or_from_afar() {
    let desk = Desk::reachable();
    let settings = desk.path("fed/aggregator.toml");
    let written = fs::read_to_string(&settings).unwrap().replace("signatures = 0", "signatures = 2");
    fs::write(&settings, written).unwrap();
    let _server = desk.serve();
    let invited = desk.json(&["invite", "--coordinator", "alice", "--json"]);
    assert!(desk.beside(&["enrol", invited["invitation"].as_str().unwrap(), "--as", "alice"]).status.success());
    let (plan, model) = (desk.write_plan(PLAN), desk.write_model(MODEL));
    let (code, told) = desk.refused(&["run", "start", &plan, "--first-model", &model]);
    assert!(code == 3 && told.contains("asks for 0 signatures") && told.contains("`signatures = 2`"), "{told}");
    let far = desk.beside(&["run", "start", &plan, "--first-model", &model, "--as", "alice"]);
    let told = String::from_utf8(far.stderr).unwrap();
    assert!(far.status.code() == Some(3) && told.contains("asks for 0 signatures"), "{told}");
    let plan = desk.write_plan(&format!("signatures = 2\n{PLAN}"));
    let started = desk.json(&["run", "start", &plan, "--first-model", &model, "--json"]);
    assert_eq!((&started["signatures"], &started["signatures_needed"]), (&Value::from(0), &Value::from(2)));
    let told = String::from_utf8(desk.types(&["run", "list"]).stdout).unwrap();
    assert!(told.contains("AWAITS SIGNATURES, 0 of 2"), "{told}");
    assert!(desk.beside(&["run", "sign", "typed", "--as", "alice"]).status.success());
    let told = String::from_utf8(desk.types(&["status"]).stdout).unwrap();
    assert!(told.contains("AWAITS SIGNATURES, 1 of 2") && told.contains("signed by alice"), "{told}");
    assert!(told.contains("coordinator alice"), "{told}");
}
