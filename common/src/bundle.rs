//! What a program's doctor hands to whoever helps: some texts by name, in a zip. This module knows which names such a file may have and
//! what is told if there is none; the programs write it.

use std::io;
use std::path::{Path, PathBuf};

use crate::check::Check;

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
}

/// A bundle: files by name, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle(Vec<(&'static str, String)>);

impl Bundle {
    /// What the doctor found, without what is this place's own ([`Check::to_send`]).
    pub fn of(checks: &[Check]) -> Self {
        let sent: Vec<Check> = checks.iter().map(Check::to_send).collect();
        Self(vec![("doctor.json", serde_json::to_string_pretty(&sent).unwrap_or_default())])
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

    /// Has `write` put it into a file of that name.
    pub fn write_to(&self, path: &Path, write: impl FnOnce(&Path, &Self) -> io::Result<()>) -> Result<(), BundleError> {
        if path.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("zip")) {
            return Err(BundleError::NotZip(path.to_owned()));
        }
        write(path, self).map_err(|source| BundleError::Io { path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_written_to_a_name_of_a_zip_alone_and_holds_no_word_that_is_of_this_place() {
        let checks = [Check::failure("disk", "full", "free some room").here("/mnt/CANARY")];
        let bundle = Bundle::of(&checks).with("versions.json", "{}");
        assert_eq!(bundle.names(), "doctor.json, versions.json");
        assert!(bundle.files().all(|(_, text)| !text.contains("CANARY")));
        assert!(bundle.files().any(|(_, text)| text.contains("free some room")));
        let mut written = Vec::new();
        bundle
            .write_to(Path::new("help.ZIP"), |path, bundle| {
                written.push((path.to_owned(), bundle.names()));
                Ok(())
            })
            .unwrap();
        assert_eq!(written, [(PathBuf::from("help.ZIP"), bundle.names())]);
        let not_written = bundle.write_to(Path::new("help.txt"), |_, _| panic!("it is no zip"));
        assert!(matches!(not_written, Err(BundleError::NotZip(_))));
        let told = bundle.write_to(Path::new("a.zip"), |_, _| Err(io::ErrorKind::AlreadyExists.into()));
        assert!(told.unwrap_err().to_string().contains("not there yet"));
    }
}
