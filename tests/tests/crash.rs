//! Whatever dies, and whenever: started again, the federation ends with the same bits as if nothing had happened.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tests::federation::{Federation, FederationError};
use tests::programs;
use tests::story::{self, SITES, THREE, WITHIN};

/// Tells one story on a copy of the prepared federation, and returns the digests of its models.
fn told(
    prepared: &Path,
    name: &str,
    happens: impl FnOnce(&mut Federation) -> Result<(), FederationError>,
) -> Vec<String> {
    let root = prepared.with_file_name(name);
    story::copy(prepared, &root).unwrap();
    let mut federation = Federation::open(&root).unwrap();
    federation.start_aggregator().unwrap();
    story::start_run(&federation, &root).unwrap();
    SITES.iter().try_for_each(|site| federation.start_agent(site)).unwrap();
    happens(&mut federation).unwrap();
    let run = story::finished(&mut federation).unwrap();
    assert_eq!(run["state"], "finished", "{run:#}");
    for round in run["rounds"].as_array().unwrap() {
        assert_eq!(round["sites"].as_array().unwrap().len(), SITES.len(), "{round:#}");
    }
    story::models(&run)
}

#[test]
fn a_killed_aggregator_and_a_killed_agent_go_on_to_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    let prepared = folder.path().join("prepared");
    story::prepare(&prepared);

    let undisturbed = told(&prepared, "undisturbed", |_| Ok(()));
    assert_eq!(undisturbed.len(), 3);

    let aggregator_killed = told(&prepared, "aggregator-killed", |federation| {
        for round in 0..2 {
            federation.wait_until("a site at work", WITHIN, |federation| at_work_after(federation, round))?;
            federation.kill_aggregator();
            federation.start_aggregator()?;
        }
        Ok(())
    });
    assert_eq!(aggregator_killed, undisturbed, "the aggregator was killed");

    let agent_killed = told(&prepared, "agent-killed", |federation| {
        in_mid_training(federation, |federation| {
            federation.kill_agent(SITES[0]);
            Ok(true)
        })?;
        federation.start_agent(SITES[0])?;
        goes_on(federation)
    });
    assert_eq!(agent_killed, undisturbed, "an agent was killed, with its trainer");

    let trainer_killed = told(&prepared, "trainer-killed", |federation| {
        in_mid_training(federation, |federation| Ok(federation.kill_trainer(SITES[0])?))?;
        goes_on(federation)
    });
    assert_eq!(trainer_killed, undisturbed, "a trainer was killed under its agent");

    let stopped = told(&prepared, "stopped", |federation| {
        // An agent that looks at its switch more often than a round takes.
        federation.kill_agent(SITES[0]);
        fs::write(federation.site_state(SITES[0]).join("site-agent.toml"), "report_every_s = 0.05")?;
        federation.start_agent(SITES[0])?;
        in_mid_training(federation, |federation| {
            federation.at_site(SITES[0], &["stop"])?;
            federation.wait_until("the site's word that it is stopped", WITHIN, |federation| {
                let progress = &story::run(federation)?["sites"][SITES[0]];
                let declined = progress["declined"] == "stopped" || progress["phase"] == "reported";
                Ok(declined && !federation.has_trainer(SITES[0]))
            })?;
            // A trainer that was done just before waits with its result: the next round is another try.
            let caught = in_the_middle(&federation.site_state(SITES[0]).join("jobs"));
            if !caught {
                federation.at_site(SITES[0], &["resume"])?;
            }
            Ok(caught)
        })?;
        // An agent that is started again stays stopped, and one that is resumed goes on by itself.
        federation.kill_agent(SITES[0]);
        federation.start_agent(SITES[0])?;
        federation.at_site(SITES[0], &["resume"])?;
        goes_on(federation)
    });
    assert_eq!(stopped, undisturbed, "a person at a site stopped its agent for a while");

    let paused = told(&prepared, "paused", |federation| {
        in_mid_training(federation, |federation| {
            federation.coordinator(&["run", "pause", "story"])?;
            Ok(true)
        })?;
        let within = Duration::from_secs(10);
        federation.wait_until("every site freed", within, |federation| {
            Ok(!SITES.iter().any(|site| federation.has_trainer(site)))
        })?;
        federation.coordinator(&["run", "resume", "story"])?;
        Ok(())
    });
    assert_eq!(paused, undisturbed, "the coordinator let the run stand still");
}

#[test]
fn a_site_that_is_stopped_delays_no_round_past_its_deadline_is_named_and_is_in_the_next_one() {
    const DEADLINE: Duration = Duration::from_secs(5);
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("stopped");
    let plan = story::KILLS.replace("quorum = 3", "quorum = 2").replace("deadline_s = 3600", "deadline_s = 5");
    // Long enough that everybody has joined before anybody is done.
    story::prepare_with(&root, &plan.replace("steps_per_round = 40", "steps_per_round = 150"), &THREE);
    let mut federation = Federation::open(&root).unwrap();
    federation.start_aggregator().unwrap();
    story::start_run_at(&federation, &root, &THREE).unwrap();
    THREE.iter().try_for_each(|site| federation.start_agent(site)).unwrap();
    federation.wait_until("a trainer", WITHIN, |federation| Ok(federation.has_trainer(THREE[2]))).unwrap();
    // It has joined, because its trainer is started after that; who stops it here stops both.
    federation.signal(THREE[2], "-STOP").unwrap();
    let stopped = Instant::now();
    let closed = |federation: &Federation| Ok(!story::models(&story::run(federation)?).is_empty());
    federation.wait_until("the end of the round", WITHIN, closed).unwrap();
    let took = stopped.elapsed();
    println!("stopped in a round with a deadline of {DEADLINE:?}, which ended {took:?} later");
    assert!(took < DEADLINE + Duration::from_secs(2), "{took:?}");
    let run = story::run(&federation).unwrap();
    let left_out = &run["rounds"][0]["left_out"];
    assert_eq!((&left_out[0]["site"], &left_out[0]["reason"]), (&THREE[2].into(), &"did not report in time".into()));
    federation.signal(THREE[2], "-CONT").unwrap();
    let whole = |federation: &Federation| {
        let rounds = story::run(federation)?["rounds"].clone();
        Ok(rounds.as_array().unwrap().iter().any(|round| round["left_out"].as_array().unwrap().is_empty()))
    };
    federation.wait_until("a round with everybody", WITHIN, whole).unwrap();
}

#[test]
fn a_run_that_is_paused_or_aborted_frees_a_site_in_the_middle_of_a_transfer_and_its_agent_says_so() {
    const FREE: Duration = Duration::from_secs(10);
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("transfers");
    let plan = include_str!("../plans/story.toml")
        .replace("steps_per_round = 300", "steps_per_round = 20")
        .replace("prototypes = 32", "prototypes = 4096");
    story::prepare_with(&root, &plan, &SITES);
    let mut federation = Federation::open(&root).unwrap();
    federation.start_aggregator().unwrap();
    story::start_run(&federation, &root).unwrap();
    // A site that reports seldom, behind a line on which a model takes much longer than it may take to be free.
    let site = SITES[0];
    let bytes = fs::metadata(root.join("first-model.safetensors")).unwrap().len();
    assert!(bytes > 200_000, "{bytes} bytes pass in no time");
    let slow = "report_every_s = 12\n[policy]\nmax_download_mb_s = 0.01\nmax_upload_mb_s = 0.01\n";
    federation.write_settings(site, slow).unwrap();
    SITES.iter().try_for_each(|site| federation.start_agent(site)).unwrap();
    let log = federation.log(site);
    let let_go = |_: &Federation| Ok(fs::read_to_string(&log)?.contains("the transfer is no longer asked for"));

    let models = federation.site_state(site).join("models");
    let is_part = |path: &Path| path.extension().is_some_and(|ending| ending == "part");
    let files = || fs::read_dir(&models).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    federation.wait_until("a download", WITHIN, |_| Ok(files().iter().any(|file| is_part(file)))).unwrap();
    federation.coordinator(&["run", "pause", "story"]).unwrap();
    federation.wait_until("an end of the download", FREE, let_go).unwrap();
    let left = files();
    assert!(left.iter().all(|file| is_part(file)), "what is not whole counts for nothing: {left:?}");

    federation.coordinator(&["run", "resume", "story"]).unwrap();
    let sends = |federation: &Federation| Ok(story::run(federation)?["sites"][site]["phase"] == "sending");
    federation.wait_until("an upload", WITHIN, sends).unwrap();
    federation.coordinator(&["run", "abort", "story", "--because", "a mistake"]).unwrap();
    // What works for this run alone ends, in the middle of an upload and with nothing to do, and names it.
    for site in SITES {
        assert_eq!(federation.end_of_agent(site, FREE).unwrap(), Some(8));
        let told = federation.last_words(site);
        assert!(told.contains("run story failed: aborted by the coordinator: a mistake"), "{told}");
    }
}

#[test]
fn an_update_that_the_aggregator_lost_after_it_acknowledged_it_is_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("lost");
    let plan = include_str!("../plans/story.toml")
        .replace("steps_per_round = 300", "steps_per_round = 20")
        .replace("count = 3", "count = 1");
    story::prepare_with(&root, &plan, &SITES);
    let mut federation = Federation::open(&root).unwrap();
    federation.start_aggregator().unwrap();
    story::start_run(&federation, &root).unwrap();
    federation.kill_aggregator();
    let (state, before) = (federation.aggregator_state(), root.join("before"));
    story::copy(&state, &before).unwrap();

    federation.start_aggregator().unwrap();
    federation.start_agent(SITES[0]).unwrap();
    let reported = |federation: &Federation| Ok(story::run(federation)?["sites"][SITES[0]]["phase"] == "reported");
    federation.wait_until("an acknowledged update", WITHIN, reported).unwrap();
    // All that was written since is lost, the ledger's end with it.
    federation.kill_aggregator();
    fs::remove_dir_all(&state).unwrap();
    story::copy(&before, &state).unwrap();
    federation.start_aggregator().unwrap();
    federation.start_agent(SITES[1]).unwrap();
    let run = story::finished(&mut federation).unwrap();
    assert_eq!(run["rounds"][0]["sites"].as_array().unwrap().len(), SITES.len(), "{run:#}");
    federation.at_site(SITES[0], &["ledger", "verify"]).unwrap();
}

/// Waits until a trainer has a checkpoint and is not done, and does `harm` then.
fn in_mid_training(
    federation: &mut Federation,
    mut harm: impl FnMut(&mut Federation) -> Result<bool, FederationError>,
) -> Result<(), FederationError> {
    loop {
        let jobs = federation.site_state(SITES[0]).join("jobs");
        federation.wait_until("a checkpoint", WITHIN, |_| Ok(in_the_middle(&jobs)))?;
        if harm(federation)? {
            return Ok(());
        }
    }
}

/// Whether a job has a checkpoint and no result.
fn in_the_middle(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).exists();
    has("checkpoint.safetensors") && !has("result.json") || below(folder).any(|folder| in_the_middle(&folder))
}

/// Waits until a trainer says that it goes on from a checkpoint: the same bits from the start would prove less.
fn goes_on(federation: &mut Federation) -> Result<(), FederationError> {
    fn said(folder: &Path) -> bool {
        let log = fs::read_to_string(folder.join("trainer.log")).unwrap_or_default();
        log.contains("going on from the checkpoint") || below(folder).any(|folder| said(&folder))
    }
    let jobs = federation.site_state(SITES[0]).join("jobs");
    federation.wait_until("a trainer that goes on", WITHIN, |_| Ok(said(&jobs)))
}

fn below(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_dir())
}

/// Whether so many rounds are closed and a site trains or sends.
fn at_work_after(federation: &Federation, rounds: usize) -> Result<bool, FederationError> {
    let run = story::run(federation)?;
    let busy = |site: &str| matches!(run["sites"][site]["phase"].as_str(), Some("training" | "sending" | "reported"));
    Ok(story::models(&run).len() >= rounds && SITES.iter().any(|site| busy(site)))
}

#[test]
fn a_federation_that_was_cut_short_while_it_was_made_is_made_anew_and_a_whole_one_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (root, key) = (folder.path(), folder.path().join("aggregator/authority/ca.key"));
    fs::write(root.join("address"), "127.0.0.1:1").unwrap();
    Federation::open_or_create(root).unwrap();
    // Cut after its keys, and in the middle of its database.
    for cut in
        [|state: &Path| fs::remove_file(state.join("state.db")), |state: &Path| fs::write(state.join("state.db"), "")]
    {
        let made = fs::read(&key).unwrap();
        cut(&root.join("aggregator")).unwrap();
        let mut federation = Federation::open_or_create(root).unwrap();
        assert_ne!(fs::read(&key).unwrap(), made);
        federation.start_aggregator().unwrap();
    }
    let made = fs::read(&key).unwrap();
    Federation::open_or_create(root).unwrap();
    assert_eq!(fs::read(&key).unwrap(), made);
}

const OWNER: &str = "OWNER_OF_A_FEDERATION";

/// Owns an aggregator in a process of its own, which waits for whoever asks it to end; by itself, nothing.
#[test]
fn the_owner_of_a_federation() {
    let Ok(root) = std::env::var(OWNER) else { return };
    programs::end_with_their_owner().unwrap();
    let mut federation = Federation::create(Path::new(&root)).unwrap();
    federation.start_aggregator().unwrap();
    println!("\n{}", federation.address());
    std::io::stdout().flush().unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn an_owner_that_is_asked_to_end_leaves_no_program_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut owner = Command::new(std::env::current_exe().unwrap());
    owner.args(["--exact", "the_owner_of_a_federation", "--nocapture"]).env(OWNER, folder.path());
    let mut owner = owner.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(owner.stdout.take().unwrap()).lines();
    let address = said.find_map(|line| line.ok().filter(|line| line.starts_with("127.0.0.1:"))).unwrap();
    TcpStream::connect(&address).unwrap();
    programs::signal("-TERM", &[owner.id()]).unwrap();
    assert_eq!(owner.wait().unwrap().code(), Some(128 + 15));
    let began = Instant::now();
    while TcpStream::connect(&address).is_ok() {
        assert!(began.elapsed() < Duration::from_secs(10), "the aggregator is still there");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}
