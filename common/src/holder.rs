//! Who may hold a certificate that calls: a site's agent, or a person in an office.
//!
//! A holder has one text, which stands in invitations, certificates, rows and ledgers: `aalst`, `coordinator/alice`,
//! `administrator/aalst/carol`, `observer/eve`. One person may hold several offices, each with a key and a certificate of its own.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{IdError, PersonId, SiteId};

/// What a person is in the federation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Office {
    /// Plans and starts runs, invites and revokes; signs plans.
    Coordinator,
    /// Answers for one site: sees how it stands, and may take it out.
    Administrator(SiteId),
    /// Sees how the federation stands and what happened in it, and changes nothing.
    Observer,
}

/// A person in an office.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Person {
    /// What the person is called.
    pub name: PersonId,
    /// What the person is.
    pub office: Office,
}

/// A site's agent, or a person.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Holder {
    /// A site's agent.
    Site(SiteId),
    /// A person.
    Person(Person),
}

/// Why a text names no holder.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HolderError {
    /// One of its names is none.
    #[error(transparent)]
    Id(#[from] IdError),
    /// An office that there is not.
    #[error(
        "{0:?} is no site and no person in an office: write a site's name, coordinator/<name>, administrator/<site>/<name> or \
         observer/<name>"
    )]
    Office(String),
}

impl Person {
    /// A coordinator.
    pub fn coordinator(name: PersonId) -> Self {
        Self { name, office: Office::Coordinator }
    }

    /// Whether this is a coordinator.
    pub fn is_coordinator(&self) -> bool {
        self.office == Office::Coordinator
    }

    /// In words, for people.
    pub fn told(&self) -> String {
        match &self.office {
            Office::Coordinator => format!("coordinator {}", self.name),
            Office::Administrator(site) => format!("administrator {} of {site}", self.name),
            Office::Observer => format!("observer {}", self.name),
        }
    }
}

impl Holder {
    /// The site, if it is one.
    pub fn site(&self) -> Option<&SiteId> {
        match self {
            Self::Site(site) => Some(site),
            Self::Person(_) => None,
        }
    }

    /// The person, if it is one.
    pub fn person(&self) -> Option<&Person> {
        match self {
            Self::Site(_) => None,
            Self::Person(person) => Some(person),
        }
    }

    /// In words, for people.
    pub fn told(&self) -> String {
        match self {
            Self::Site(site) => format!("site {site}"),
            Self::Person(person) => person.told(),
        }
    }
}

impl From<SiteId> for Holder {
    fn from(site: SiteId) -> Self {
        Self::Site(site)
    }
}

impl From<&SiteId> for Holder {
    fn from(site: &SiteId) -> Self {
        Self::Site(site.clone())
    }
}

impl From<Person> for Holder {
    fn from(person: Person) -> Self {
        Self::Person(person)
    }
}

impl fmt::Display for Person {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.office {
            Office::Coordinator => write!(f, "coordinator/{}", self.name),
            Office::Administrator(site) => write!(f, "administrator/{site}/{}", self.name),
            Office::Observer => write!(f, "observer/{}", self.name),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Site(site) => site.fmt(f),
            Self::Person(person) => person.fmt(f),
        }
    }
}

impl fmt::Debug for Person {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Person {
    type Err = HolderError;
    fn from_str(text: &str) -> Result<Self, HolderError> {
        let parts: Vec<&str> = text.split('/').collect();
        let (name, office) = match parts[..] {
            ["coordinator", name] => (name, Office::Coordinator),
            ["administrator", site, name] => (name, Office::Administrator(site.parse()?)),
            ["observer", name] => (name, Office::Observer),
            _ => return Err(HolderError::Office(text.chars().take(160).collect())),
        };
        Ok(Self { name: name.parse()?, office })
    }
}

impl FromStr for Holder {
    type Err = HolderError;
    fn from_str(text: &str) -> Result<Self, HolderError> {
        if text.contains('/') { text.parse().map(Self::Person) } else { Ok(Self::Site(text.parse()?)) }
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = HolderError;
            fn try_from(text: String) -> Result<Self, HolderError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    };
}

as_text!(Person);
as_text!(Holder);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_reads_back_what_it_prints_and_no_site_can_be_written_as_a_person() {
        for text in ["aalst", "coordinator/alice", "administrator/aalst/carol", "observer/eve", "coordinator"] {
            assert_eq!(text.parse::<Holder>().unwrap().to_string(), text);
        }
        assert!(matches!("coordinator".parse(), Ok(Holder::Site(_))), "a site may be called so");
        for bad in [
            "",
            "coordinator/",
            "coordinator/A",
            "coordinator/a/b",
            "administrator/carol",
            "administrator/../carol",
            "root/alice",
            "site/aalst",
            "observer/eve/",
        ] {
            assert!(bad.parse::<Holder>().is_err(), "{bad}");
        }
    }
}
