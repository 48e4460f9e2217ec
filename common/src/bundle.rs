//! What a program's doctor hands to whoever helps: some texts by name, as a zip. Bytes alone: the programs write them.

use std::io::{self, Cursor, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::check::Check;

/// What stands for settings that cannot be read: defaults would be told as if they were this place's.
pub const NO_SETTINGS: &str = "# the settings cannot be read: doctor.json says why\n";

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Another kind of file.
    #[error("{0}: a bundle is a zip: give it a name that ends in .zip")]
    NotZip(PathBuf),
    /// It cannot be written.
    #[error(
        "cannot write {path}: {source}; name a file that is not there yet, in a folder that this user may write to"
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// One of its texts cannot be made.
    #[error("{name} of the bundle cannot be written: {why}; please report this")]
    Text {
        /// Which.
        name: &'static str,
        /// What is wrong.
        why: String,
    },
}

/// A bundle: files by name, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle(Vec<(&'static str, String)>);

impl Bundle {
    /// What the doctor found, without what is this place's own ([`Check::to_send`]).
    pub fn of(checks: &[Check]) -> Result<Self, BundleError> {
        let sent: Vec<Check> = checks.iter().map(Check::to_send).collect();
        Self(Vec::new()).with_json("doctor.json", &sent)
    }

    /// The same with a value as JSON.
    pub fn with_json(self, name: &'static str, value: &impl Serialize) -> Result<Self, BundleError> {
        let text = serde_json::to_string_pretty(value);
        Ok(self.with(name, text.map_err(|error| BundleError::Text { name, why: error.to_string() })?))
    }

    /// The same with another file.
    pub fn with(mut self, name: &'static str, text: impl Into<String>) -> Self {
        self.0.push((name, text.into()));
        self
    }

    /// Its files.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(name, text)| (*name, text.as_str()))
    }

    /// The names of what it holds, to be told to whoever sends it.
    pub fn names(&self) -> String {
        self.0.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    /// Has `write` put it into a new file of that name, as a zip.
    pub fn write_to(&self, path: &Path, write: impl FnOnce(&Path, &[u8]) -> io::Result<()>) -> Result<(), BundleError> {
        if path.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("zip")) {
            return Err(BundleError::NotZip(path.to_owned()));
        }
        let written = self.zipped().and_then(|bytes| write(path, &bytes));
        written.map_err(|source| BundleError::Io { path: path.to_owned(), source })
    }

    fn zipped(&self) -> io::Result<Vec<u8>> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, text) in self.files() {
            zip.start_file(name, SimpleFileOptions::default())?;
            zip.write_all(text.as_bytes())?;
        }
        Ok(zip.finish()?.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_bundle_is_written_to_a_name_of_a_zip_alone_and_holds_no_word_that_is_of_this_place() {
        let checks = [Check::failure("disk", "full", "free some room").here("/mnt/CANARY")];
        let bundle = Bundle::of(&checks).unwrap().with("versions.json", "{}");
        assert_eq!(bundle.names(), "doctor.json, versions.json");
        assert!(bundle.files().all(|(_, text)| !text.contains("CANARY")));
        assert!(bundle.files().any(|(_, text)| text.contains("free some room")));
        let mut written = Vec::new();
        bundle
            .write_to(Path::new("help.ZIP"), |path, bytes| {
                written.push((path.to_owned(), bytes.to_vec()));
                Ok(())
            })
            .unwrap();
        let [(path, bytes)] = &written[..] else { panic!("written once") };
        assert_eq!(path, Path::new("help.ZIP"));
        let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
        let mut text = String::new();
        zip.by_name("versions.json").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!((zip.len(), text.as_str()), (2, "{}"));
        let not_written = bundle.write_to(Path::new("help.txt"), |_, _| panic!("it is no zip"));
        assert!(matches!(not_written, Err(BundleError::NotZip(_))));
        let told = bundle.write_to(Path::new("a.zip"), |_, _| Err(io::ErrorKind::AlreadyExists.into()));
        assert!(told.unwrap_err().to_string().contains("not there yet"));
    }

    #[test]
    fn a_text_that_cannot_be_made_is_an_error_and_no_empty_file() {
        let odd = std::collections::BTreeMap::from([((1, 2), 3)]);
        let told = Bundle::of(&[]).unwrap().with_json("odd.json", &odd).unwrap_err().to_string();
        assert!(told.starts_with("odd.json of the bundle cannot be written"), "{told}");
    }
}
