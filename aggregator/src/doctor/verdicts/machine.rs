//! This machine: clock, room, memory, open files, how fast its disk is.

use std::time::Duration;

use common::check::Check;
use common::machine::bytes;

/// Memory of a server: it does not grow with the sites, nor with the model.
const MEMORY: u64 = 512 << 20;
/// Open files beside connections and updates: the database, its log, logs.
const FILES: u64 = 64;
/// Longest that a disk should take to have bytes durable: an update waits for some of that before it is acknowledged.
const SLOW: Duration = Duration::from_millis(100);

/// This machine's clock against what it wrote itself: milliseconds that the newest word is in the future.
pub(in crate::doctor) fn clock(ahead_ms: u64, words: usize) -> Check {
    match ahead_ms {
        ahead @ 60_000.. => {
            let found = format!("it was set back: a record is {} s in the future", ahead / 1000);
            Check::failure("clock", found, "set this machine's clock by NTP: certificates and invitations go by it")
        }
        _ => Check::ok("clock", format!("not before its own records ({words} sites heard); sites hold theirs to it")),
    }
}

/// What a running run has on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::doctor) struct Stored {
    pub(in crate::doctor) model_bytes: u64,
    /// Of the largest that a site may send.
    pub(in crate::doctor) update_bytes: u64,
    pub(in crate::doctor) sites: usize,
    /// Rounds that were merged.
    pub(in crate::doctor) merged: u32,
    pub(in crate::doctor) planned: u32,
}

impl Stored {
    /// Bytes of the updates of so many rounds, but of no more than `most`.
    fn updates(&self, rounds: u32, most: u32) -> u64 {
        let of_round = self.update_bytes.saturating_mul(self.sites as u64);
        of_round.saturating_mul(rounds.min(most).into())
    }

    /// Bytes of what is to come. Beside the kept rounds and the open one, one more lies on the disk until it is written over.
    fn to_come(&self, keep: u32) -> u64 {
        let rounds = keep.saturating_add(2) - self.merged.min(keep.saturating_add(1));
        let left = self.planned.saturating_sub(self.merged);
        // The model of each round stays; and one that is being made, and a server's momentum with its successor.
        let models = self.model_bytes.saturating_mul(u64::from(left) + 3);
        models.saturating_add(self.updates(rounds, left))
    }
}

/// The spool, against the updates that running runs have there together: of the open round and of those that are kept.
pub(in crate::doctor) fn spool(running: &[Stored], keep: u32, permitted: u64) -> Check {
    let updates = running.iter().map(|run| run.updates(keep.saturating_add(1), run.planned));
    let need = updates.fold(0, u64::saturating_add);
    let found = format!("updates may take {}, and those of running rounds take {}", bytes(permitted), bytes(need));
    match need > permitted {
        true => {
            let remedy = "raise `max_spool_bytes` in aggregator.toml, or lower `keep_updates_of_rounds`, and start the server again: a round \
                          whose updates find no room has no end";
            Check::failure("spool", found, remedy)
        }
        false => Check::ok("spool", found),
    }
}

/// Room on the disk, against what running runs will have there beside what there is.
pub(in crate::doctor) fn disk(free: Option<u64>, running: &[Stored], keep: u32) -> Check {
    let need = running.iter().map(|run| run.to_come(keep)).fold(1 << 30, u64::saturating_add);
    match free {
        None => Check::warning("disk", "the room is not known", "does the state folder exist?"),
        Some(free) if free < need => {
            let remedy = "free some room, or lower `keep_updates_of_rounds`; uploads are refused when the disk is full";
            Check::failure("disk", format!("{} free, and running rounds need {}", bytes(free), bytes(need)), remedy)
        }
        Some(free) => Check::ok("disk", format!("{} free, and running rounds need {}", bytes(free), bytes(need))),
    }
}

/// Time in which the disk has some bytes durable.
pub(in crate::doctor) fn sync(took: Result<Duration, &str>) -> Check {
    let name = "disk speed";
    match took {
        Err(why) => {
            let remedy = "see to the disk and to who owns the state folder: the server writes there all the time";
            Check::failure(name, "nothing can be written to the state folder", remedy).here(why)
        }
        Ok(took) if took > SLOW => {
            let remedy =
                "every acknowledgement waits for it: put the state folder on a local disk, and on no network share";
            Check::warning(name, format!("an fsync takes {} ms", took.as_millis()), remedy)
        }
        Ok(took) => Check::ok(name, format!("an fsync takes {:.1} ms", took.as_secs_f64() * 1e3)),
    }
}

/// Memory that is free.
pub(in crate::doctor) fn memory(free: Option<u64>) -> Check {
    let remedy = "end other programs, or move the server: the system ends what finds no memory";
    match free {
        None => Check::warning("memory", "how much is free is not known on this system", remedy),
        Some(free) if free < MEMORY => Check::warning(
            "memory",
            format!("{} free, and a server should have {}", bytes(free), bytes(MEMORY)),
            remedy,
        ),
        Some(free) => Check::ok("memory", format!("{} free, and a server should have {}", bytes(free), bytes(MEMORY))),
    }
}

/// Open files that the system permits, against connections and the updates of the largest cohort, which a merge has open together.
pub(in crate::doctor) fn open_files(permitted: Option<u64>, connections: usize, cohort: usize) -> Check {
    let need = (connections + cohort) as u64 + FILES;
    let remedy = "raise the hard limit (`ulimit -Hn`; `LimitNOFILE=` of a service): `serve` takes what it may; or lower `max_connections`";
    match permitted {
        None => Check::warning("open files", "how many the system permits is not known", remedy),
        Some(permitted) if permitted < need => {
            Check::failure("open files", format!("{permitted} permitted, and {need} may be needed"), remedy)
        }
        Some(permitted) => Check::ok("open files", format!("{permitted} permitted, and {need} may be needed")),
    }
}
