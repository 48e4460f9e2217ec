//! A hospital behind its proxy: enrolled, trained and reported through it, whatever it cuts.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tests::federation::Federation;
use tests::programs::Process;
use tests::proxy::{Proxy, Rules};
use tests::story::{self, SITES};

/// base64 of `user:hidden-word`.
const CREDENTIALS: &str = "dXNlcjpoaWRkZW4td29yZA==";

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
    story::prepare(root);
    let mut federation = Federation::open(root).unwrap();
    federation.start_aggregator().unwrap();
    story::start_run(&federation, root).unwrap();
    // Shorter than the pause between two reports, so that every report finds its connection cut.
    let proxy = Proxy::start(Rules { credentials: CREDENTIALS, idle: Duration::from_millis(500) }).unwrap();

    let invitation = federation.invite("newcomer").unwrap();
    federation.write_settings("newcomer", &format!("[network]\nproxy = 'http://{}'", proxy.address())).unwrap();
    let told = federation.at_site("newcomer", &["enrol", &invitation]).unwrap_err().to_string();
    assert!(told.contains("asks for credentials: write them as http://user:password@host:port"), "{told}");
    assert_eq!((proxy.tunnels(), proxy.refused() > 0), (0, true));
    federation
        .write_settings("newcomer", &format!("[network]\nproxy = 'http://user:hidden-word@{}'", proxy.address()))
        .unwrap();
    federation.at_site("newcomer", &["enrol", &invitation]).unwrap();
    assert_eq!(proxy.tunnels(), 1);

    federation
        .write_settings(SITES[0], &format!("[network]\nproxy = 'http://user:hidden-word@{}'", proxy.address()))
        .unwrap();
    SITES.iter().try_for_each(|site| federation.start_agent(site)).unwrap();
    let run = story::finished(&mut federation).unwrap();
    assert_eq!(run["state"], "finished", "{run:#}");
    for round in run["rounds"].as_array().unwrap() {
        assert_eq!(round["sites"].as_array().unwrap().len(), SITES.len(), "{round:#}");
    }
    assert!(proxy.tunnels() > 4, "{} tunnels: it was cut, and asked for another, again and again", proxy.tunnels());
    says_nowhere(root, &["hidden-word", CREDENTIALS]);
}

/// A real proxy, if this machine has one: `apt-get install tinyproxy`.
#[test]
fn a_run_goes_through_tinyproxy() {
    let Ok(true) = Command::new("tinyproxy").arg("-v").stdout(Stdio::null()).status().map(|status| status.success())
    else {
        eprintln!("skipped: tinyproxy is not installed here (`apt-get install tinyproxy`)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    story::prepare(root);
    let mut federation = Federation::open(root).unwrap();
    federation.start_aggregator().unwrap();
    story::start_run(&federation, root).unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let aggregators_port = federation.address().rsplit(':').next().unwrap().to_owned();
    let written = format!(
        "Port {}\nListen 127.0.0.1\nTimeout 600\nBasicAuth user hidden-word\nConnectPort {aggregators_port}\nLogLevel Connect\n",
        free.port()
    );
    let path = root.join("tinyproxy.conf");
    fs::write(&path, written).unwrap();
    let log = root.join("tinyproxy.log");
    let mut proxy =
        Process::start("tinyproxy", Path::new("tinyproxy"), &["-d", "-c", &path.display().to_string()], &log).unwrap();
    federation.write_settings(SITES[0], &format!("[network]\nproxy = 'http://user:hidden-word@{free}'")).unwrap();
    SITES.iter().try_for_each(|site| federation.start_agent(site)).unwrap();
    let run = story::finished(&mut federation).unwrap();
    assert_eq!(run["state"], "finished", "{run:#}");
    assert!(proxy.ended().is_none());
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.contains("CONNECT"), "{said}");
}
