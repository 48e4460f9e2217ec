//! The kill switch: a file in the state folder. While it is there nothing trains and nothing is sent.
//!
//! A file, so that it works when the aggregator, the network and this program do not: `touch site-state/stopped` does the same.

use crate::durable::{self, DiskError};
use crate::home::Home;

/// Stops the agent of a state folder, and one that is started later. True if it was not stopped before.
pub fn stop(home: &Home) -> Result<bool, DiskError> {
    let path = home.stopped();
    if is_stopped(home) {
        return Ok(false);
    }
    let words = "A person at this site stopped the agent: nothing trains and nothing is sent until `site-agent resume`, or until \
                 this file is removed.\n";
    durable::write(&path, words.as_bytes())?;
    Ok(true)
}

/// Lets the agent go on. True if it was stopped.
pub fn resume(home: &Home) -> Result<bool, DiskError> {
    let path = home.stopped();
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(durable::told("remove", &path)(error)),
    }
}

/// Whether the agent is stopped. A folder that cannot be looked into counts as stopped.
pub fn is_stopped(home: &Home) -> bool {
    home.stopped().try_exists().unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_is_a_file_that_anyone_who_may_write_here_can_make_and_remove() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path());
        assert!(!is_stopped(&home) && !resume(&home).unwrap());
        assert!(stop(&home).unwrap() && !stop(&home).unwrap() && is_stopped(&home));
        assert!(resume(&home).unwrap() && !is_stopped(&home));
        std::fs::write(home.stopped(), "").unwrap();
        assert!(is_stopped(&home));
    }
}
