//! What lies in the state folder.

use certs::authority::LEAF_DAYS;
use common::check::Check;
use common::{Digest, RunId};

use super::DAY_S;
use crate::authority::seconds;
use crate::clock::Stamp;

/// The state folder's mode: who may write there may coordinate.
pub(in crate::doctor) fn folder(mode: Option<u32>) -> Check {
    match mode {
        None => Check::failure(
            "state folder",
            "it cannot be looked at",
            "name it by --state, or make it by `aggregator init`",
        ),
        Some(mode) if mode & 0o022 != 0 => {
            let found = format!("it has mode {mode:o}: others may write there, and so coordinate");
            Check::failure("state folder", found, "`chmod go-w` it")
        }
        Some(mode) if mode & 0o055 != 0 => {
            Check::warning("state folder", format!("it has mode {mode:o}: others may look into it"), "`chmod 700` it")
        }
        Some(mode) => Check::ok("state folder", format!("mode {mode:o}")),
    }
}

/// aggregator.toml.
pub(in crate::doctor) fn settings(wrong: Option<&str>) -> Check {
    match wrong {
        None => Check::ok("settings", "aggregator.toml is read"),
        Some(wrong) => Check::failure(
            "settings",
            "aggregator.toml cannot be used",
            "correct it; the other checks go by the defaults",
        )
        .here(wrong),
    }
}

/// Keys, each with its mode; none if it is not there.
pub(in crate::doctor) fn keys(modes: &[(&'static str, Option<u32>)]) -> Check {
    for (name, mode) in modes {
        match mode {
            None => {
                let remedy = "restore it from a backup: sites know this federation by its keys alone, and no new one takes their place";
                return Check::failure("keys", format!("{name} is not there"), remedy);
            }
            Some(mode) if mode & 0o077 != 0 => {
                let remedy = format!("`chmod 600` {name}; if others did read the CA's key, make a new federation");
                return Check::failure("keys", format!("{name} has mode {mode:o}: others may read it"), remedy);
            }
            Some(_) => {}
        }
    }
    Check::ok("keys", "the CA's and the server's are for their owner alone")
}

/// The CA's certificate: when it ends, and with it every other.
pub(in crate::doctor) fn authority(not_after_s: Result<i64, &str>, now: Stamp) -> Check {
    let name = "CA certificate";
    let again = "make a new federation before it ends, and enrol the sites there";
    match not_after_s.map(|until| (until - seconds(now)).div_euclid(DAY_S)) {
        Err(why) => Check::failure(name, "it cannot be read", "restore authority/ca.crt from a backup").here(why),
        Ok(..0) => Check::failure(name, "it has expired, or this machine's clock is ahead", again),
        Ok(days @ 0..90) => Check::warning(name, format!("{days} days left"), again),
        Ok(days) => Check::ok(name, format!("{days} days left")),
    }
}

/// The CA that takes the place of the one there is, with the members that do not know it yet; none if there is none.
pub(in crate::doctor) fn next_authority(waiting: Result<Option<&[String]>, &str>) -> Check {
    let name = "next CA";
    match waiting {
        Err(why) => Check::not_yet(name, "the CA cannot be read: see the keys and its certificate").here(why),
        Ok(None) => Check::ok(name, "none takes the place of the one there is"),
        Ok(Some([])) => Check::warning(
            name,
            "it is there, and every member knows it",
            "end the old one: `aggregator authority switch`",
        ),
        Ok(Some(waiting)) => {
            let remedy = format!(
                "agents of sites must run, persons type `aggregator renew --as <folder>`; then `aggregator authority switch`. Who is off \
                 for {LEAF_DAYS} days is invited again"
            );
            Check::warning(name, format!("it is there, and these do not know it yet: {}", waiting.join(", ")), remedy)
        }
    }
}

/// state.db.
pub(in crate::doctor) fn database(wrong: Option<&str>) -> Check {
    match wrong {
        None => {
            Check::ok("database", "its trees are sound, every row is as its seal says, and the ledger as its chain")
        }
        Some(wrong) => {
            Check::failure("database", "it cannot be used as it is", "the words below say what to do").here(wrong)
        }
    }
}

/// Why the ledger is not known to hold.
pub(in crate::doctor) enum Unheld {
    /// What the aggregator signs with cannot be read.
    NoKey(String),
    /// What of it does not hold.
    Broken(String),
}

/// The ledger: its entries, and the heads of it that sites signed.
pub(in crate::doctor) fn ledger(held: Result<(u64, usize), &Unheld>) -> Check {
    match held {
        Ok((entries, heads)) => {
            Check::ok("ledger", format!("{entries} entries hold, and with them {heads} heads that sites signed"))
        }
        Err(Unheld::NoKey(why)) => {
            Check::not_yet("ledger", "the signing key cannot be read: see the keys").here(why.as_str())
        }
        Err(Unheld::Broken(why)) => {
            let remedy = "keep the state folder as it is, and find out who changed it; a backup that holds shows from which entry on";
            Check::failure("ledger", "it does not hold", remedy).here(why.as_str())
        }
    }
}

/// Blobs that runs go on from.
pub(in crate::doctor) fn blobs(missing: &[(RunId, Digest)]) -> Check {
    let list =
        || missing.iter().map(|(run, digest)| format!("{} of {run}", digest.short())).collect::<Vec<_>>().join(", ");
    match missing {
        [] => Check::ok("blobs", "what running rounds need is there"),
        _ => {
            let remedy = "restore the folder blobs/ from a backup; an update that is lost for good ends its round at the deadline, and a model \
                          is made again while the server runs, if the updates that it came of are kept";
            Check::failure("blobs", format!("missing, cut short or changed: {}", list()), remedy)
        }
    }
}

/// The folder of blobs, if it cannot be looked into.
pub(in crate::doctor) fn no_blobs(why: &str) -> Check {
    let remedy = "see to the folder blobs/: it must be there, and be this user's";
    Check::failure("blobs", "the folder cannot be looked into", remedy).here(why)
}
