//! What the documents tell to type is what the programs take: every command that those of the root folder and of `docs/` name, in a block
//! or in a sentence. And the tests that `docs/testing.md` names are tests, in the files that it names.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::fs;
use std::path::{Path, PathBuf};

use aggregator::cli::Cli;
use clap::error::ErrorKind;
use clap::{Command, CommandFactory};

/// What stands for `<digest>`, `<folder>` and `…`: one of them is what is asked for there.
const STAND_INS: [&str; 5] =
    ["aalst", "7", "help.zip", "127.0.0.1:4433", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"];

/// The documents of the root folder and of `docs/`, without the folders below.
fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let is_document = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "md");
    let inside = |folder: PathBuf| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(is_document);
    let all: Vec<PathBuf> = inside(root.clone()).chain(inside(root.join("docs"))).collect();
    assert!(all.len() >= 8, "{all:?}");
    all
}

/// The commands of the two programs that a text names: lines of its blocks, and code in its sentences, over the ends of lines.
fn commands(text: &str) -> Vec<String> {
    // A line that goes on in the next one.
    let text = text.replace("\\\n", " ");
    let parts: Vec<&str> = text.split("```").collect();
    let blocks = parts.iter().skip(1).step_by(2).flat_map(|block| block.lines()).map(str::to_owned);
    let sentences = parts.iter().step_by(2).flat_map(|prose| prose.split('`').skip(1).step_by(2));
    let sentences = sentences.map(|code| code.split_whitespace().collect::<Vec<_>>().join(" "));
    let is_command = |line: &String| line.starts_with("aggregator ") || line.starts_with("site-agent ");
    blocks.chain(sentences).filter(is_command).collect()
}

/// The words as a shell takes them: quoted ones are one, and a comment is none.
fn words(line: &str) -> Vec<String> {
    let line = line.split(" #").next().unwrap_or(line);
    let (mut words, mut is_quoted) = (vec![String::new()], false);
    for letter in line.chars() {
        match letter {
            '"' | '\'' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(String::new()),
            letter => words.last_mut().unwrap().push(letter),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Why a program does not take a command. One that is named by its verb alone, without what the verb needs, is understood.
fn refused(command: &Command, line: &str) -> Option<String> {
    let written = words(line);
    let is_open = |word: &String| word.contains('<') && word.contains('>') || word.contains('…');
    let filled = |stand_in: &str| -> Vec<String> {
        written.iter().map(|word| if is_open(word) { stand_in.to_owned() } else { word.clone() }).collect()
    };
    let mut last = None;
    for stand_in in STAND_INS {
        let filled = filled(stand_in);
        // An option that is named without its value.
        for with_value in [filled.clone(), [filled, vec![stand_in.to_owned()]].concat()] {
            match command.clone().try_get_matches_from(with_value) {
                Ok(_) => return None,
                Err(error) => match error.kind() {
                    ErrorKind::MissingRequiredArgument
                    | ErrorKind::MissingSubcommand
                    | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                    | ErrorKind::DisplayHelp
                    | ErrorKind::DisplayVersion => return None,
                    _ => last = last.or(Some(error.to_string())),
                },
            }
        }
    }
    last
}

fn refused_by_its_program(line: &str) -> Option<String> {
    let command = if line.starts_with("aggregator ") { Cli::command() } else { site_agent::cli::command() };
    refused(&command, line)
}

#[test]
fn every_command_that_a_document_names_is_one_that_its_program_takes() {
    let (mut named, mut wrong) = (0, Vec::new());
    for path in documents() {
        for line in commands(&fs::read_to_string(&path).unwrap()) {
            named += 1;
            let why = refused_by_its_program(&line);
            wrong.extend(why.map(|why| format!("{}: `{line}`: {why}", path.display())));
        }
    }
    println!("{named} commands are named");
    assert!(named >= 100, "{named} commands");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_verb_an_option_or_a_value_that_there_is_not_is_found_wherever_it_is_named() {
    let text = "Type `aggregator\n  statsu`, or\n```sh\nsite-agent index /data \\\n  --plan plan.toml   # a comment\nsite-agent doctor --bundel x\n```\n\
                then `aggregator run sign <run> --as <folder>`, `site-agent approve <digest>`, `aggregator invite` and `cargo test`.";
    let named = commands(text);
    assert_eq!(
        named,
        [
            "site-agent index /data    --plan plan.toml   # a comment",
            "site-agent doctor --bundel x",
            "aggregator statsu",
            "aggregator run sign <run> --as <folder>",
            "site-agent approve <digest>",
            "aggregator invite",
        ]
    );
    let refused: Vec<bool> = named.iter().map(|line| refused_by_its_program(line).is_some()).collect();
    assert_eq!(refused, [false, true, true, false, false, false]);
}

/// The sources below a folder: each with the modules that its path names, and its text.
fn sources(root: &Path, folder: &Path, found: &mut Vec<(Vec<String>, String)>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() && entry.file_name().is_some_and(|name| name != "target" && name != ".git") {
            sources(root, &entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            let path = entry.strip_prefix(root).unwrap().with_extension("");
            let modules = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            found.push((modules, fs::read_to_string(&entry).unwrap()));
        }
    }
}

/// The tests that a text names in code: by a name that is a sentence, after the file's or its folder's where that is named as well.
fn named_tests(text: &str) -> Vec<(Option<String>, String)> {
    let named = |code: &str| {
        let (path, name) = code.rsplit_once("::").map_or((None, code), |(path, name)| (Some(path), name));
        let is_word = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
        let is_sentence = name.matches('_').count() >= 3 && name.chars().all(is_word);
        let file = path.and_then(|path| path.split("::").next()).map(str::to_owned);
        is_sentence.then(|| (file, name.to_owned()))
    };
    text.split('`').skip(1).step_by(2).filter_map(named).collect()
}

/// Whether there is a test of this name, in the file if one is named: a function, or a line of a table that a macro makes functions of.
fn is_there(sources: &[(Vec<String>, String)], file: Option<&str>, name: &str) -> bool {
    let (function, row) = (format!("fn {name}("), format!("\n    {name}: "));
    let is_of = |modules: &[String]| file.is_none_or(|file| modules.iter().any(|module| module == file));
    sources.iter().any(|(modules, text)| is_of(modules) && (text.contains(&function) || text.contains(&row)))
}

#[test]
fn every_test_that_the_document_of_tests_names_is_there_and_where_it_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut all = Vec::new();
    sources(&root, &root, &mut all);
    let named = named_tests(&fs::read_to_string(root.join("docs/testing.md")).unwrap());
    assert!(named.len() >= 20 && named.iter().filter(|(file, _)| file.is_some()).count() >= 3, "{named:?}");
    let missing: Vec<_> = named.iter().filter(|(file, name)| !is_there(&all, file.as_deref(), name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn a_test_that_is_named_in_another_file_than_its_own_is_missed() {
    let text = "As in `round::tests::a_round_of_two_ends`, `a_round_of_two_ends` and `a_file.rs`, not in `Word::Lost`.";
    let (file, name) = ("round".to_owned(), "a_round_of_two_ends".to_owned());
    assert_eq!(named_tests(text), [(Some(file), name.clone()), (None, name.clone())]);
    let sources = [(vec!["src".to_owned(), "round".to_owned()], "fn a_round_of_two_ends() {}".to_owned())];
    assert!(is_there(&sources, None, &name) && is_there(&sources, Some("round"), &name));
    assert!(!is_there(&sources, Some("run"), &name) && !is_there(&sources, None, "a_round_of_three_ends"));
}
