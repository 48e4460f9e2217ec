//! What a site permits holds, whatever the plan asks, and the coordinator sees by which rule.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::fs;

use serde_json::Value;
use site_agent::clock;
use tests::federation::Federation;
use tests::story::{self, SITES, WITHIN};

fn settings(federation: &Federation, site: &str, written: &str) {
    fs::write(federation.site_state(site).join("site-agent.toml"), written).unwrap();
}

/// Hours of twelve, of which now is in the middle, or as far from as can be.
fn hours(open: bool) -> String {
    let hour = clock::wall().minute_of_day() / 60 + if open { 18 } else { 6 };
    format!("{:02}:00-{:02}:00", hour % 24, (hour + 12) % 24)
}

#[test]
fn a_site_declines_by_rule_what_it_does_not_permit_rests_outside_its_hours_and_takes_part_when_both_allow() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    story::prepare(root);
    let mut federation = Federation::open(root).unwrap();
    federation.start_aggregator().unwrap();
    story::start_run(&federation, root).unwrap();

    settings(&federation, SITES[0], "[policy]\ntensors = ['student.*']");
    settings(&federation, SITES[1], &format!("[policy]\nhours = '{}'", hours(false)));
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

    SITES.iter().for_each(|site| federation.kill_agent(site));
    settings(&federation, SITES[0], "[policy]\nmax_rounds_a_day = 3");
    settings(&federation, SITES[1], &format!("[policy]\nmax_upload_mb_s = 0.5\nhours = '{}'", hours(true)));
    SITES.iter().try_for_each(|site| federation.start_agent(site)).unwrap();
    let run = story::finished(&mut federation).unwrap();
    assert_eq!((run["state"].as_str(), story::models(&run).len()), (Some("finished"), 3), "{run:#}");
    let begun: Value =
        serde_json::from_slice(&fs::read(federation.site_state(SITES[0]).join("begun.json")).unwrap()).unwrap();
    assert_eq!(begun.as_array().unwrap().len(), 3, "each round of the run is begun once: {begun:#}");
}
