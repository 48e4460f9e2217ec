//! What a site permits holds, whatever the plan asks, and the coordinator sees by which rule.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use common::policy::Hours;
use serde_json::Value;
use site_agent::clock::{self, Moment};
use site_agent::job::JobFolder;
use tests::federation::{Federation, FederationError};
use tests::story::{self, SITES, WITHIN};

const MINUTES_OF_A_DAY: u32 = 24 * 60;

/// Hours of twelve, of which this minute is in the middle, or as far from as can be.
fn hours_at(minute: u32, open: bool) -> String {
    let begin = (minute + if open { 18 * 60 } else { 6 * 60 }) % MINUTES_OF_A_DAY;
    let end = (begin + 12 * 60) % MINUTES_OF_A_DAY;
    format!("{:02}:{:02}-{:02}:{:02}", begin / 60, begin % 60, end / 60, end % 60)
}

fn hours(open: bool) -> String {
    hours_at(clock::wall().minute_of_day(), open)
}

/// A site counts the rounds of a day: a midnight in the middle of a story would permit more of them. One that is near is
/// let pass.
fn in_a_day_that_lasts() {
    while clock::wall().minute_of_day() >= MINUTES_OF_A_DAY - 3 {
        thread::park_timeout(Duration::from_secs(1));
    }
}

#[test]
fn hours_that_are_closed_begin_in_just_below_six_hours_at_whatever_minute_they_are_asked_for() {
    for minute in 0..MINUTES_OF_A_DAY {
        let [open, closed] = [true, false].map(|open| hours_at(minute, open).parse::<Hours>().unwrap());
        for passed in 0..5 {
            assert!(open.are_open(minute + passed), "{open} at {minute}");
            assert_eq!(closed.opens_in(minute + passed), 6 * 60 - passed, "{closed} at {minute}");
        }
    }
}

#[test]
fn a_site_declines_by_rule_what_it_does_not_permit_rests_outside_its_hours_and_takes_part_when_both_allow() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    in_a_day_that_lasts();
    story::prepare(root);
    let mut federation = Federation::open(root).unwrap();
    federation.start_aggregator().unwrap();
    story::start_run(&federation, root).unwrap();

    federation.write_settings(SITES[0], "[policy]\ntensors = ['student.*']").unwrap();
    federation.write_settings(SITES[1], &format!("[policy]\nhours = '{}'", hours(false))).unwrap();
    SITES.iter().try_for_each(|site| federation.start_agent(site)).unwrap();
    let said = |run: &Value, site: &str, what: &str| run["sites"][site][what].as_str().unwrap_or_default().to_owned();
    federation
        .wait_until("both sites' words", WITHIN, |federation| {
            let run = story::run(federation)?;
            let declines = said(&run, SITES[0], "declined") == "policy-tensors";
            Ok(declines && said(&run, SITES[1], "phase") == "outside-hours")
        })
        .unwrap();
    let run = story::run(&federation).unwrap();
    let eta = run["sites"][SITES[1]]["eta_ms"].as_u64().unwrap();
    assert!((5 * 3_600_000..=6 * 3_600_000).contains(&eta), "its hours begin in five to six hours: {eta} ms");
    assert_eq!(run["open"]["joined"].as_array().unwrap().len(), 0, "{run:#}");
    let told = federation.coordinator(&["status"]).unwrap();
    assert!(told.contains("the site's policy keeps one of the run's tensors (tensors)"), "{told}");
    for site in SITES {
        assert!(
            !federation.site_state(site).join("models").exists(),
            "nothing of a plan that is not permitted is fetched"
        );
        assert!(!federation.has_trainer(site));
    }
    let log = fs::read_to_string(federation.log(SITES[0])).unwrap();
    assert!(log.contains("the run sends the tensor center, which `policy.tensors` does not permit"), "{log}");

    // One asks for more subjects than it has, and hears it before it trains; the other permits one round today.
    let again = |federation: &mut Federation, site: &str, policy: &str| {
        federation.kill_agent(site);
        federation.write_settings(site, &format!("[policy]\n{policy}")).unwrap();
        federation.start_agent(site).unwrap();
    };
    again(&mut federation, SITES[0], "max_rounds_a_day = 1");
    again(&mut federation, SITES[1], "min_subjects = 50");
    let declines = |site: &'static str, rule: &'static str| {
        move |federation: &Federation| Ok(said(&story::run(federation)?, site, "declined") == rule)
    };
    federation.wait_until("too few subjects", WITHIN, declines(SITES[1], "policy-subjects")).unwrap();
    let jobs = fs::read_dir(federation.site_state(SITES[1]).join("jobs/story")).unwrap();
    let steps = jobs.map(|job| fs::read(job.unwrap().path().join("progress.jsonl")).unwrap_or_default().len());
    assert_eq!(steps.sum::<usize>(), 0, "not a step is trained of what would not leave");
    let log = fs::read_to_string(federation.log(SITES[1])).unwrap();
    assert!(log.contains("subjects for the backbone, but `policy.min_subjects` is 50"), "{log}");
    again(&mut federation, SITES[1], "min_subjects = 5");
    federation.wait_until("a round too many", WITHIN, declines(SITES[0], "policy-rounds-a-day")).unwrap();
    let begun = |federation: &Federation| -> Value {
        serde_json::from_slice(&fs::read(federation.site_state(SITES[0]).join("begun.json")).unwrap()).unwrap()
    };
    assert_eq!(begun(&federation).as_array().unwrap().len(), 1, "{:#}", begun(&federation));
    assert_eq!(story::models(&story::run(&federation).unwrap()).len(), 1);

    SITES.iter().for_each(|site| federation.kill_agent(site));
    federation.write_settings(SITES[0], "[policy]\nmax_rounds_a_day = 3").unwrap();
    // A third of a model a second both ways, of which one second's worth may pass at once: two seconds a model at least.
    let bytes = fs::metadata(root.join("first-model.safetensors")).unwrap().len();
    let cap = bytes as f64 / 3e6;
    let policy = format!("max_upload_mb_s = {cap}\nmax_download_mb_s = {cap}\nhours = '{}'", hours(true));
    federation.write_settings(SITES[1], &format!("[policy]\n{policy}")).unwrap();
    let began = Instant::now();
    SITES.iter().try_for_each(|site| federation.start_agent(site)).unwrap();
    let run = story::finished(&mut federation).unwrap();
    // Up after rounds 2 and 3; down before round 3 at least, as the model of round 2 may be there.
    assert!(began.elapsed() > Duration::from_secs(6), "three models passed the cap within {:?}", began.elapsed());
    assert_eq!((run["state"].as_str(), story::models(&run).len()), (Some("finished"), 3), "{run:#}");
    assert_eq!(begun(&federation).as_array().unwrap().len(), 3, "each round of the run is begun once");
}

/// Hours that began an hour ago, and end when the next minute does that is a quarter of one away.
fn ending_hours() -> String {
    let now = clock::wall();
    let (minute, end) = (now.minute_of_day() + 1440 - 60, Moment(now.0 + 15 + 59).minute_of_day());
    format!("{:02}:{:02}-{:02}:{:02}", minute / 60 % 24, minute % 60, end / 60, end % 60)
}

#[test]
fn a_trainer_whose_hours_end_writes_a_checkpoint_of_its_last_step_and_goes_on_from_it_when_they_begin_again() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let site = SITES[0];
    let plan = include_str!("../plans/story.toml")
        .replace("steps_per_round = 300", "steps_per_round = 200000")
        .replace("checkpoint_every_steps = 20", "checkpoint_every_steps = 200000")
        .replace(r#"sites = ["site-a", "site-c"]"#, r#"sites = ["site-a"]"#)
        .replace("quorum = 2", "quorum = 1")
        .replace("deadline_s = 120", "deadline_s = 3600");
    story::prepare_with(root, &plan, &[site]);
    let mut federation = Federation::open(root).unwrap();
    federation.start_aggregator().unwrap();
    story::start_run_at(&federation, root, &[site]).unwrap();
    federation.write_settings(site, &format!("[policy]\nhours = '{}'", ending_hours())).unwrap();
    federation.start_agent(site).unwrap();
    federation.wait_until("a trainer", WITHIN, |federation| Ok(federation.has_trainer(site))).unwrap();
    let phase = |federation: &Federation| -> Result<String, FederationError> {
        Ok(story::run(federation)?["sites"][site]["phase"].as_str().unwrap_or_default().to_owned())
    };
    let ended = |federation: &Federation| Ok(!federation.has_trainer(site) && phase(federation)? == "outside-hours");
    federation.wait_until("the end of the hours", WITHIN, ended).unwrap();

    let jobs = fs::read_dir(federation.site_state(site).join("jobs/story")).unwrap();
    let job = JobFolder::at(jobs.into_iter().next().unwrap().unwrap().path());
    let last = job.last_step().unwrap().unwrap().step;
    let said = fs::read_to_string(job.log()).unwrap();
    assert!(last > 0 && said.contains(&format!("stopped after step {last} of the round, with a checkpoint")), "{said}");
    assert!(job.checkpoint().exists());
    // The hours begin again.
    federation.kill_agent(site);
    federation.write_settings(site, &format!("[policy]\nhours = '{}'", hours(true))).unwrap();
    federation.start_agent(site).unwrap();
    let further = |_: &Federation| Ok(job.last_step().is_ok_and(|line| line.is_some_and(|line| line.step > last)));
    federation.wait_until("a further step", WITHIN, further).unwrap();
    let said = fs::read_to_string(job.log()).unwrap();
    assert!(said.contains("going on from the checkpoint") && said.contains(&format!("step={last}")), "{said}");

    // An agent that the system stops ends its trainer as gently.
    federation.stop_agent(site).unwrap();
    let said = fs::read_to_string(job.log()).unwrap();
    assert_eq!(said.matches("of the round, with a checkpoint").count(), 2, "{said}");
}

/// The run's name is in the plan as well, so a run of another name is the same plan but for one byte.
#[test]
fn a_plan_with_one_changed_byte_awaits_another_approval_and_the_coordinator_sees_where() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    story::prepare(root);
    let mut federation = Federation::open(root).unwrap();
    federation.start_aggregator().unwrap();
    let first = story::start_run(&federation, root).unwrap();
    let site = SITES[1];
    federation.start_lasting_agent(site).unwrap();
    let jobs = federation.site_state(site).join("jobs/story");
    federation.wait_until("the site in the round", WITHIN, |_| Ok(jobs.exists())).unwrap();

    federation.coordinator(&["run", "abort", "story", "--because", "the plan changes"]).unwrap();
    let written = fs::read_to_string(story::plan(root)).unwrap();
    fs::write(story::plan(root), written.replace("run = \"story\"", "run = \"storz\"")).unwrap();
    let second = federation.start_run(site, &story::plan(root)).unwrap();
    let phase = |federation: &Federation| -> Result<String, FederationError> {
        let status = federation.status()?;
        let run = status["runs"].as_array().into_iter().flatten().find(|run| run["run"] == "storz").cloned();
        Ok(run.unwrap_or_default()["sites"][site]["phase"].as_str().unwrap_or_default().to_owned())
    };
    let awaits = |federation: &Federation| Ok(phase(federation)? == "awaiting-approval");
    federation.wait_until("the wait for an approval", WITHIN, awaits).unwrap();
    let told = federation.coordinator(&["status"]).unwrap();
    assert!(told.lines().any(|line| line.contains(site) && line.contains("awaiting-approval")), "{told}");
    assert!(!federation.has_trainer(site), "nothing trains without");

    let told = federation.at_site(site, &["plans"]).unwrap();
    let changed = format!("(run story, {}), 1 settings changed:", &first[..12]);
    for part in [
        &changed,
        "run was story, and is storz",
        "3 rounds of 300 steps",
        "AWAITS APPROVAL",
        "what is sent: the change of student",
    ] {
        assert!(told.contains(part), "{part:?} is missing from:\n{told}");
    }
    let unknown = federation.at_site(site, &["approve", "0123456789"]).unwrap_err().to_string();
    assert!(unknown.contains("no plan that was announced to this site begins with 0123456789"), "{unknown}");
    federation.at_site(site, &["approve", &second[..8]]).unwrap();
    // A round of so small a network may be over between two reports.
    let trains =
        |federation: &Federation| Ok(matches!(phase(federation)?.as_str(), "training" | "sending" | "reported"));
    federation.wait_until("the site in the round of the approved plan", WITHIN, trains).unwrap();
}
