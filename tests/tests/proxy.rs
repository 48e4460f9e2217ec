//! A hospital behind its proxy: enrolled, trained and reported through it, whatever it cuts.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use tests::corporate::Corporate;
use tests::federation::Federation;
use tests::matrix;
use tests::proxy::{Proxy, Rules, Tinyproxy};
use tests::story::{self, SITES, WITHIN};

/// base64 of `user:hidden-word`.
const CREDENTIALS: &str = "dXNlcjpoaWRkZW4td29yZA==";

/// The story's federation with its aggregator at work, in `root`.
fn at_work(root: &Path) -> Federation {
    story::prepare(root);
    let mut federation = Federation::open(root).unwrap();
    federation.start_aggregator().unwrap();
    federation
}

/// Whose every round ended with all sites in it.
fn ends_with_everybody_in_every_round(federation: &mut Federation) {
    let run = story::finished(federation).unwrap();
    assert_eq!(run["state"], "finished", "{run:#}");
    for round in run["rounds"].as_array().unwrap() {
        assert_eq!(round["sites"].as_array().unwrap().len(), SITES.len(), "{round:#}");
    }
}

/// Whose programs have all ended, so that nothing below its folder changes any more.
fn at_rest(mut federation: Federation) {
    for site in SITES {
        assert_eq!(federation.end_of_agent(site, WITHIN).unwrap(), Some(0), "{site}");
    }
    federation.kill_aggregator();
}

/// No file below says the password, but for the settings in which a person wrote it.
fn says_nowhere(folder: &Path, words: &[&str]) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            says_nowhere(&entry, words);
        } else if !entry.ends_with("site-agent.toml") {
            let bytes = fs::read(&entry).unwrap();
            for word in words {
                assert!(
                    !bytes.windows(word.len()).any(|part| part == word.as_bytes()),
                    "{} says {word}",
                    entry.display()
                );
            }
        }
    }
}

#[test]
fn a_run_goes_through_a_proxy_that_asks_for_a_password_and_cuts_what_rests() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let mut federation = at_work(root);
    story::start_run(&federation, root).unwrap();
    // Shorter than the pause between two reports, so that every report finds its connection cut.
    let proxy = Proxy::start(Rules { credentials: CREDENTIALS, idle: Duration::from_millis(500) }).unwrap();

    let invitation = federation.invite("newcomer").unwrap();
    federation.write_settings("newcomer", &format!("[network]\nproxy = 'http://{}'", proxy.address())).unwrap();
    let told = federation.at_site("newcomer", &["enrol", &invitation]).unwrap_err().to_string();
    assert!(told.contains("asks for credentials: write them as http://user:password@host:port"), "{told}");
    assert_eq!((proxy.tunnels(), proxy.refused() > 0), (0, true));
    let settings = format!("[network]\nproxy = 'http://user:hidden-word@{}'", proxy.address());
    federation.write_settings("newcomer", &settings).unwrap();
    federation.at_site("newcomer", &["enrol", &invitation]).unwrap();
    assert_eq!(proxy.tunnels(), 1);

    federation.write_settings(SITES[0], &settings).unwrap();
    SITES.iter().try_for_each(|site| federation.start_agent(site)).unwrap();
    ends_with_everybody_in_every_round(&mut federation);
    assert!(proxy.tunnels() > 4, "{} tunnels: it was cut, and asked for another, again and again", proxy.tunnels());
    at_rest(federation);
    says_nowhere(root, &["hidden-word", CREDENTIALS]);
}

#[test]
fn a_proxy_that_is_spoken_to_over_tls_is_known_by_the_corporate_root_that_the_settings_name_and_by_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let root = &folder.path().join("federation");
    let mut federation = at_work(root);
    story::start_run(&federation, root).unwrap();
    let (roots, others) = (folder.path().join("corporate.pem"), folder.path().join("other.pem"));
    let corporate = Corporate::new("Corporate Proxy CA", &roots).unwrap();
    Corporate::new("Another CA", &others).unwrap();
    let rules = Rules { credentials: CREDENTIALS, idle: Duration::from_secs(60) };
    let proxy = Proxy::over_tls(rules, &corporate).unwrap();
    let url = format!("https://user:hidden-word@{}", proxy.address());
    let settings = |known_by: Option<&Path>| {
        let known_by = known_by.map_or(String::new(), |path| format!("proxy_roots = '{}'\n", path.display()));
        format!("[network]\nproxy = '{url}'\n{known_by}")
    };

    let invitation = federation.invite("newcomer").unwrap();
    for (known_by, expected) in
        [(None, "name the CA's PEM file as `proxy_roots`"), (Some(&*others), "cannot be trusted: ")]
    {
        federation.write_settings("newcomer", &settings(known_by)).unwrap();
        let told = federation.at_site("newcomer", &["enrol", &invitation]).unwrap_err().to_string();
        assert!(told.contains(expected) && told.contains("`proxy_roots`"), "{told}");
        assert_eq!((proxy.tunnels(), proxy.refused()), (0, 0), "it was told nothing: not whom it is for, no password");
    }
    federation.write_settings("newcomer", &settings(Some(&roots))).unwrap();
    federation.at_site("newcomer", &["enrol", &invitation]).unwrap();
    assert_eq!(proxy.tunnels(), 1);

    // One site by its settings, the other by the environment, whose proxy is known by the settings' root.
    federation.write_settings(SITES[0], &settings(Some(&roots))).unwrap();
    federation.write_settings(SITES[1], &format!("[network]\nproxy_roots = '{}'", roots.display())).unwrap();
    federation.set_variable(SITES[1], "HTTPS_PROXY", &url);
    SITES.iter().try_for_each(|site| federation.start_agent(site)).unwrap();
    federation.wait_until("a trainer at work", WITHIN, |federation| Ok(federation.has_trainer(SITES[0]))).unwrap();
    let port = proxy.address().rsplit_once(':').unwrap().1.parse().unwrap();
    matrix::hold(&federation, |_| Some(port));
    ends_with_everybody_in_every_round(&mut federation);
    let found = examined(&federation, SITES[0], "proxy");
    assert!(found.contains(&format!("https://{}", proxy.address())) && !found.contains("hidden-word"), "{found}");
    at_rest(federation);
    says_nowhere(root, &["hidden-word", CREDENTIALS]);
}

/// What a site's doctor found in one of its checks, with the words that are of that machine alone.
fn examined(federation: &Federation, site: &str, name: &str) -> String {
    let told: serde_json::Value =
        serde_json::from_str(&federation.at_site(site, &["doctor", "--json"]).unwrap()).unwrap();
    let check = told["checks"].as_array().unwrap().iter().find(|check| check["name"] == name).cloned().unwrap();
    assert_eq!(check["outcome"], "ok", "{check:#}");
    format!("{} {}", check["found"].as_str().unwrap(), check["here"].as_str().unwrap_or_default())
}

/// Seconds after which tinyproxy cuts what rests.
const CUT_AFTER_S: u32 = 2;

/// Through a real proxy, which `.ci/run` installs.
#[test]
fn agents_go_by_what_the_environment_says_through_tinyproxy_which_asks_for_a_password_and_cuts_what_rests() {
    if !Tinyproxy::is_installed() {
        let is_demanded = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        assert!(!is_demanded, "tinyproxy is not installed, and CI is set: `apt-get install tinyproxy`");
        eprintln!("skipped: tinyproxy is not installed here (`apt-get install tinyproxy`)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let mut federation = at_work(root);
    story::start_run(&federation, root).unwrap();
    let port = federation.address().rsplit(':').next().unwrap().parse().unwrap();
    let mut proxy = Tinyproxy::start(root, port, CUT_AFTER_S).unwrap();

    let invitation = federation.invite("newcomer").unwrap();
    let refused =
        |federation: &Federation| federation.at_site("newcomer", &["enrol", &invitation]).unwrap_err().to_string();
    let at = proxy.address();
    federation.set_variable("newcomer", "https_proxy", &format!("http://{at}"));
    let told = refused(&federation);
    assert!(told.contains("asks for credentials") && told.contains("HTTPS_PROXY"), "{told}");
    federation.set_variable("newcomer", "https_proxy", &format!("http://user:wrong-word@{at}"));
    let told = refused(&federation);
    assert!(told.contains("asks for other credentials") && !told.contains("wrong-word"), "{told}");
    // Where nobody answers: taken, since the environment says so, and not taken where it exempts the aggregator's host.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    federation.clear_variables("newcomer");
    federation.set_variable("newcomer", "HTTPS_PROXY", &nobody.to_string());
    federation.set_variable("newcomer", "NO_PROXY", "example.org, 10.0.0.0/8");
    let told = refused(&federation);
    assert!(told.contains(&format!("the proxy http://{nobody} does not answer")), "{told}");
    federation.set_variable("newcomer", "NO_PROXY", "example.org, 127.0.0.0/8");
    federation.at_site("newcomer", &["enrol", &invitation]).unwrap();

    // Reports are further apart than what the proxy bears: each finds its connection cut.
    federation.write_settings(SITES[0], &format!("report_every_s = {}\n", CUT_AFTER_S + 1)).unwrap();
    federation.set_variable(SITES[0], "HTTPS_PROXY", &format!("user:hidden-word@{at}"));
    federation.set_variable(SITES[0], "NO_PROXY", "example.org");
    federation.set_variable(SITES[1], "HTTPS_PROXY", &nobody.to_string());
    federation.set_variable(SITES[1], "NO_PROXY", "127.0.0.1");
    SITES.iter().try_for_each(|site| federation.start_agent(site)).unwrap();
    federation.wait_until("a trainer at work", WITHIN, |federation| Ok(federation.has_trainer(SITES[0]))).unwrap();
    matrix::hold(&federation, |name| (name == SITES[0]).then_some(at.port()));
    ends_with_everybody_in_every_round(&mut federation);
    let said = proxy.said().unwrap();
    let (tunnels, cut) = (said.matches("CONNECT 127.0.0.1:").count(), said.matches("Idle Timeout").count());
    assert!(tunnels > 3 && cut > 2, "{tunnels} tunnels, {cut} of them cut:\n{said}");
    let state = federation.site_state(SITES[0]);
    at_rest(federation);
    says_nowhere(&state, &["hidden-word"]);
    says_nowhere(&root.join("logs"), &["hidden-word"]);
}
