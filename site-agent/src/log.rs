//! The log of a program at a hospital: what may be in it, and where it goes.
//!
//! A message is a constant; what varies is a field, and only events all of whose fields are on a list are written. Of other crates
//! only those that move bytes over a network are heard, and only their warnings: whoever parses an image is never heard.

use std::io::{self, IsTerminal};

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry};

/// The fields that may be logged. None holds anything of an image, a subject or a file of theirs.
pub const FIELDS: [&str; 36] = [
    // The constant text.
    "message",
    // Names and digests that the federation gave: of a site, a run, a plan, a model, a task, a person's signature.
    "model",
    "plan",
    "run",
    "task",
    // Numbers: places in a run, counts of five or more or of files, sizes, times.
    "best",
    "bytes",
    "examples",
    "frames",
    "held_out",
    "least",
    "left_s",
    "loss",
    "metric",
    "most",
    "of",
    "round",
    "step",
    "trained_s",
    "training",
    "until",
    "validation",
    "value",
    "waited_s",
    // Words of a closed list, of a setting, or of this program: a reason, a rule, an error that is typed where it arises and says of
    // files below an image folder no more than how many, a column's name.
    "because",
    "change",
    "detail",
    "error",
    "hours",
    "left_out",
    "missing",
    "reason",
    "why",
    // Where: an address of the federation's, a path below the agent's own state folder.
    "address",
    "path",
    // Of a panic or a task that ended: what this program says.
    "panicked",
];

/// This project's own crates.
const OWN: [&str; 6] = ["site_agent", "data", "model", "certs", "common", "proto"];

/// Crates whose warnings are heard: they see names of hosts, and bytes under TLS.
const HEARD: [&str; 5] = ["h2", "hyper", "hyper_util", "rustls", "tonic"];

/// Writes events to the standard error from now on: what `RUST_LOG` asks for, or else from `info` on.
pub fn begin(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = io::stderr().is_terminal();
    Registry::default().with(filter).with(written(json, colours, io::stderr)).init();
}

fn written<S, W>(json: bool, colours: bool, to: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(to).with_target(false).with_ansi(colours);
    let permitted = filter_fn(may_be_written);
    if json { lines.json().with_filter(permitted).boxed() } else { lines.with_filter(permitted).boxed() }
}

/// Whether an event of this place in a program may be written.
fn may_be_written(event: &Metadata<'_>) -> bool {
    let root = event.target().split("::").next().unwrap_or_default();
    if OWN.contains(&root) {
        return event.fields().iter().all(|field| FIELDS.contains(&field.name()));
    }
    HEARD.contains(&root) && *event.level() <= Level::WARN
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_event_with_a_field_that_is_not_on_the_list_is_not_written_nor_is_one_of_a_crate_that_parses() {
        for json in [false, true] {
            let page = Page::default();
            let own = page.clone();
            let subscriber = Registry::default().with(written(json, false, move || own.clone()));
            tracing::subscriber::with_default(subscriber, || {
                tracing::info!(round = 3, "kept");
                tracing::error!(round = 3, patient = "Doe", "lost by its field");
                tracing::error!(target: "dicom_object::file", "lost: Doe");
                tracing::warn!(target: "h2::codec", frame = "reset", "heard");
                tracing::info!(target: "h2::codec", frame = "data", "lost by its level");
            });
            let written = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
            assert_eq!(written.lines().count(), 2, "{written}");
            assert!(written.contains("kept") && written.contains("heard"), "{written}");
            assert!(!written.contains("Doe") && !written.contains("lost"), "{written}");
        }
    }

    fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }

    /// The arguments of a macro's call, from behind its opening parenthesis.
    fn arguments(text: &str) -> Vec<String> {
        let (mut all, mut one, mut depth, mut quoted, mut before) = (Vec::new(), String::new(), 0, false, ' ');
        for character in text.chars() {
            match character {
                '"' if before != '\\' => quoted = !quoted,
                '(' | '[' | '{' if !quoted => depth += 1,
                ')' if !quoted && depth == 0 => break,
                ')' | ']' | '}' if !quoted => depth -= 1,
                _ => {}
            }
            before = character;
            match character {
                ',' if !quoted && depth == 0 => all.push(std::mem::take(&mut one)),
                _ => one.push(character),
            }
        }
        all.push(one);
        all.into_iter().map(|argument| argument.trim().to_owned()).filter(|argument| !argument.is_empty()).collect()
    }

    /// The fields of a call, as `tracing` names them.
    fn field(argument: &str) -> &str {
        let name = argument.split(" = ").next().unwrap_or_default();
        name.trim_start_matches(['%', '?'])
    }

    #[test]
    fn every_event_of_a_program_at_a_site_has_a_constant_message_and_fields_of_the_list_and_every_field_of_it_is_used()
    {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = Vec::new();
        for of in ["src", "data/src", "model/src", "../certs/src", "../common/src", "../proto/src"] {
            sources(&here.join(of), &mut files);
        }
        let (mut calls, mut used) = (0, vec!["message"]);
        let texts: Vec<(PathBuf, String)> =
            files.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect();
        for (path, text) in &texts {
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            for level in ["error", "warn", "info", "debug", "trace"] {
                let call = format!("tracing::{level}!(");
                for (place, _) in text.match_indices(&call) {
                    calls += 1;
                    let arguments = arguments(&text[place + call.len()..]);
                    let (message, fields) = arguments.split_last().unwrap();
                    let told = format!("{}: {arguments:?}", path.display());
                    assert!(message.starts_with('"') && !message.contains(['{', '}']), "no constant message: {told}");
                    for field in fields.iter().map(|argument| field(argument)) {
                        let name = FIELDS.iter().find(|name| **name == field);
                        used.extend(name);
                        assert!(name.is_some(), "{field} is not on the list of what may be logged: {told}");
                    }
                }
            }
        }
        assert!(calls > 30, "{calls} calls");
        let unused: Vec<_> = FIELDS.iter().filter(|name| !used.contains(name)).collect();
        assert!(unused.is_empty(), "on the list, and of no event: {unused:?}");
    }
}
