//! `labels.toml`: which codes of the masks mean what.
//!
//! ```toml
//! masks = "/data/acdc"    # where the files of masks.csv lie, if not in the folder of this file
//!
//! [codes]
//! LV = 1
//! myocardium = 2
//! RV = 3
//! scar = [6, 7]
//!
//! [within]
//! scar = "myocardium"     # where nobody asks for scar, it counts as myocardium
//! ```
//!
//! Data sets disagree (ACDC has 1 for RV, M&Ms for LV): there is no default.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::LabelError;
use super::tables::read_text;

/// Bytes that such a file may have.
const LIMIT: u64 = 1 << 20;
/// Classes that a mask's byte can tell, beside background.
const MOST_CLASSES: usize = 255;

/// What the codes of a site's masks mean.
#[derive(Debug, Default)]
pub(crate) struct Codes {
    file: PathBuf,
    /// Where the files of `masks.csv` lie, if the file says so.
    masks: Option<PathBuf>,
    /// Class by code.
    classes: BTreeMap<i64, String>,
    within: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    masks: Option<PathBuf>,
    codes: BTreeMap<String, WrittenCodes>,
    #[serde(default)]
    within: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a code is a whole number, or a list of them")]
enum WrittenCodes {
    One(i64),
    Several(Vec<i64>),
}

impl Codes {
    /// Reads the file; one that is not there has no codes.
    pub(crate) fn read(file: &Path) -> Result<Self, LabelError> {
        match read_text(file, LIMIT)? {
            Some(text) => Self::parse(file, &text).map_err(|what| LabelError::Codes { file: file.to_owned(), what }),
            None => Ok(Self { file: file.to_owned(), ..Self::default() }),
        }
    }

    /// What such a file's text says, or what is wrong with it.
    pub(crate) fn parse(file: &Path, text: &str) -> Result<Self, String> {
        let written: Written = toml::from_str(text).map_err(|error| {
            format!("{error}write [codes] with lines such as `LV = 1` or `scar = [6, 7]`, and [within] with lines such as `scar = \"myocardium\"`")
        })?;
        let mut classes = BTreeMap::new();
        for (class, codes) in written.codes {
            let codes = match codes {
                WrittenCodes::One(code) => vec![code],
                WrittenCodes::Several(codes) => codes,
            };
            if codes.is_empty() {
                return Err(format!("{class:?} has no code: give it one, or remove the line"));
            }
            for code in codes {
                // Whole numbers up to here are exact in a 32-bit float.
                if !(1..=1 << 24).contains(&code) {
                    return Err(format!("{class:?} has code {code}: codes are 1 to {}, and 0 is background", 1 << 24));
                }
                if let Some(other) = classes.insert(code, class.clone()) {
                    return Err(format!(
                        "code {code} stands for {other:?} and for {class:?}: let it stand for one of them"
                    ));
                }
            }
        }
        for (class, whole) in &written.within {
            for name in [class, whole] {
                if !classes.values().any(|held| held == name) {
                    return Err(format!("[within] names {name:?}, which has no code: add it under [codes]"));
                }
            }
            let mut outer = whole;
            for _ in 0..written.within.len() {
                if let Some(next) = written.within.get(outer) {
                    outer = next;
                }
            }
            if written.within.contains_key(outer) {
                return Err(format!("[within] has {class:?} within itself: remove one of the lines"));
            }
        }
        if let Some(folder) = written.masks.as_ref().filter(|folder| !folder.is_absolute()) {
            return Err(format!("masks is {folder:?}: write the whole path, from the root of the disk"));
        }
        Ok(Self { file: file.to_owned(), masks: written.masks, classes, within: written.within })
    }

    /// For each code its class's place in `classes` plus 1, or 0: a class that nobody asks for counts as what it lies
    /// within, or as background.
    pub(super) fn of(&self, classes: &[String]) -> Result<CodeMap, LabelError> {
        let bad = |what| Err(LabelError::Codes { file: self.file.clone(), what });
        if classes.len() > MOST_CLASSES {
            return bad(format!("{} classes were asked for: ask for at most {MOST_CLASSES}", classes.len()));
        }
        for class in classes {
            if !self.classes.values().any(|held| held == class) {
                return Err(self.no_code(class));
            }
        }
        let place = |class: &String| {
            let mut class = class;
            loop {
                match (classes.iter().position(|wanted| wanted == class), self.within.get(class)) {
                    (Some(place), _) => return place as u8 + 1, // at most 255
                    (None, Some(whole)) => class = whole,
                    (None, None) => return 0,
                }
            }
        };
        Ok(CodeMap { places: self.classes.iter().map(|(code, class)| (*code, place(class))).collect() })
    }

    /// A class's codes, the least first.
    pub(super) fn of_class(&self, class: &str) -> impl Iterator<Item = i64> {
        self.classes.iter().filter(move |(_, held)| *held == class).map(|(code, _)| *code)
    }

    /// What each class lies within, if within another.
    pub(super) fn within(&self) -> &BTreeMap<String, String> {
        &self.within
    }

    /// That a class has no code here.
    pub(super) fn no_code(&self, class: &str) -> LabelError {
        let (file, class) = (self.file.clone(), class.to_owned());
        LabelError::NoCode { file, class, known: listed(self.classes.values()) }
    }

    /// Where the files of `masks.csv` lie, if the file says so.
    pub(crate) fn masks(&self) -> Option<&Path> {
        self.masks.as_deref()
    }

    /// Whether any code stands for a class.
    pub(super) fn has(&self, class: &str) -> bool {
        self.classes.values().any(|held| held == class)
    }

    /// Every class, in the order of the codes.
    pub(super) fn classes(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for class in self.classes.values() {
            if !all.contains(class) {
                all.push(class.clone());
            }
        }
        all
    }

    /// Those that lie within no other.
    pub(crate) fn whole_classes(&self) -> Vec<String> {
        self.classes().into_iter().filter(|class| !self.within.contains_key(class)).collect()
    }

    /// Every class with its codes, as they are written.
    pub(crate) fn told(&self) -> String {
        listed(self.classes().iter().map(|class| self.line(class, class)))
    }

    /// How a class is written: `LV = 1`, or `scar = [6, 7]`, with the codes of another class if those are its own.
    pub(super) fn line(&self, class: &str, codes_of: &str) -> String {
        let codes: Vec<String> =
            self.classes.iter().filter(|(_, held)| *held == codes_of).map(|(code, _)| code.to_string()).collect();
        match codes.as_slice() {
            [one] => format!("{class} = {one}"),
            several => format!("{class} = [{}]", several.join(", ")),
        }
    }
}

/// What becomes of each value of a mask.
#[derive(Clone, Debug)]
pub(super) struct CodeMap {
    places: BTreeMap<i64, u8>,
}

impl CodeMap {
    /// What a value becomes; none if it is no code.
    pub(super) fn place(&self, value: f32) -> Option<u8> {
        if value == 0.0 {
            return Some(0);
        }
        // A NaN has a fraction that is not 0.
        (value.fract() == 0.0).then_some(value as i64).and_then(|code| self.places.get(&code)).copied()
    }

    /// The codes there are.
    pub(super) fn listed(&self) -> String {
        listed(self.places.keys())
    }
}

/// Names, one after another; nothing twice.
pub(super) fn listed<T: ToString>(names: impl Iterator<Item = T>) -> String {
    let mut all: Vec<String> = Vec::new();
    for name in names.map(|name| name.to_string()) {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Codes, String> {
        Codes::parse(Path::new("labels.toml"), text)
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    const HEART: &str = "[codes]\nLV = 500\nmyocardium = [200, 205]\nRV = 600\nscar = 2221\nno-reflow = 2222\n\
                         [within]\nscar = \"myocardium\"\nno-reflow = \"scar\"\n";

    #[test]
    fn a_class_that_nobody_asks_for_counts_as_what_it_lies_within_or_as_background() {
        let codes = parsed(HEART).unwrap();
        let places = |classes: &[&str]| {
            let map = codes.of(&names(classes)).unwrap();
            [500.0, 200.0, 205.0, 600.0, 2221.0, 2222.0].map(|code| map.place(code).unwrap())
        };
        assert_eq!(places(&["LV", "myocardium", "RV"]), [1, 2, 2, 3, 2, 2]);
        assert_eq!(places(&["scar", "myocardium"]), [0, 2, 2, 0, 1, 1]);
        assert_eq!(places(&["RV"]), [0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn only_the_codes_that_are_written_have_a_meaning() {
        let map = parsed(HEART).unwrap().of(&names(&["LV"])).unwrap();
        assert_eq!(map.place(0.0), Some(0));
        for value in [1.0, 500.5, -500.0, f32::NAN, f32::INFINITY, 1e30] {
            assert_eq!(map.place(value), None, "{value}");
        }
    }

    #[test]
    fn a_file_that_contradicts_itself_is_refused_with_what_to_write() {
        for (text, says) in [
            ("[codes]\nLV = 1\nRV = 1\n", "code 1 stands for"),
            ("[codes]\nLV = 0\n", "0 is background"),
            ("[codes]\nLV = -1\n", "codes are 1 to"),
            ("[codes]\nLV = []\n", "has no code"),
            ("[codes]\nLV = \"one\"\n", "a code is a whole number, or a list of them"),
            ("[codes]\nLV = 1\n[extra]\n", "unknown field"),
            ("LV = 1\n", "such as `LV = 1`"),
            ("[codes]\nLV = 1\n[within]\nscar = \"LV\"\n", "\"scar\", which has no code"),
            ("[codes]\na = 1\nb = 2\n[within]\na = \"b\"\nb = \"a\"\n", "within itself"),
            ("[codes]\na = 1\n[within]\na = \"a\"\n", "within itself"),
            ("masks = \"here\"\n[codes]\na = 1\n", "masks is \"here\": write the whole path"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_class_without_a_code_is_refused_by_name() {
        let error = parsed(HEART).unwrap().of(&names(&["LV", "LA"])).unwrap_err().to_string();
        assert!(
            error.contains("no code for the class \"LA\"") && error.contains("it has myocardium, LV, RV"),
            "{error}"
        );
    }
}
