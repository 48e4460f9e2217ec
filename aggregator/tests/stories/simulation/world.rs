//! A federation as a queue of events: calls and answers on their way, time, and everything that goes wrong. One thread, one
//! seed, no clock: the same seed is the same history.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use common::{Directive, RoundNumber};

use super::call::{Answer, Call, Reply, Server};
use super::dice::Dice;
use super::ledger::Ledger;
use super::site::Site;
use super::value::DEADLINE;

/// How much goes wrong, each in a thousand; a history draws its own, so that some have none of one kind and much of another.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    lost: u64,
    repeated: u64,
    slow: u64,
    replayed: u64,
    server_dies: u64,
    dies_inside: u64,
    site_dies: u64,
    disk_lost: u64,
    partitions: u64,
    jumps: u64,
    stalls: u64,
    rots: u64,
}

impl Faults {
    pub(crate) fn drawn(dice: &mut Dice) -> Self {
        let mut draw = |most: u64| match dice.below(3) {
            0 => 0,
            1 => most / 8,
            _ => dice.below(most + 1),
        };
        Self {
            lost: draw(250),
            repeated: draw(300),
            slow: draw(300),
            replayed: draw(200),
            server_dies: draw(60),
            dies_inside: draw(120),
            site_dies: draw(40),
            disk_lost: draw(10),
            partitions: draw(30),
            jumps: draw(15),
            stalls: draw(15),
            rots: draw(40),
        }
    }
}

/// How often what happened: a simulator that no longer does what it says tells so by a zero here.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) rounds: u64,
    pub(crate) failed: u64,
    pub(crate) calls: u64,
    pub(crate) refused: u64,
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) replayed: u64,
    pub(crate) server_died: u64,
    pub(crate) died_inside: u64,
    pub(crate) site_died: u64,
    pub(crate) disks_lost: u64,
    pub(crate) partitions: u64,
    pub(crate) jumps: u64,
    pub(crate) stalls: u64,
    pub(crate) rotted: u64,
    pub(crate) left_out: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: Self) {
        for (own, other) in self.all_mut().into_iter().zip(other.all()) {
            *own += other;
        }
    }

    pub(crate) fn all(mut self) -> [u64; 16] {
        self.all_mut().map(|count| *count)
    }

    fn all_mut(&mut self) -> [&mut u64; 16] {
        let Self { rounds, failed, calls, refused, lost, repeated, replayed, server_died, .. } = self;
        let Self { died_inside, site_died, disks_lost, partitions, jumps, stalls, rotted, left_out, .. } = self;
        [
            rounds,
            failed,
            calls,
            refused,
            lost,
            repeated,
            replayed,
            server_died,
            died_inside,
            site_died,
            disks_lost,
            partitions,
            jumps,
            stalls,
            rotted,
            left_out,
        ]
    }
}

/// What is going to happen.
#[derive(Debug)]
enum Happening {
    /// A call reaches the server.
    Arrives { site: usize, call: u64, what: Box<Call> },
    /// An answer reaches the site.
    Answered { site: usize, call: u64, reply: Reply },
    /// A site acts.
    Wakes(usize),
    /// A site no longer waits for an answer.
    GivesUp { site: usize, call: u64 },
    /// The server's loops run.
    Ticks,
    /// The server is started again.
    Starts,
}

/// What is to happen, by its time; of two at the same time, what was decided on first.
#[derive(Debug)]
struct Entry {
    at: u64,
    order: u64,
    what: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// When nothing goes wrong any more: from here on a run must come to its end.
const CALM: u64 = 900_000;
const TICK: u64 = 1_000;
const PATIENCE: u64 = 8_000;
/// Calls that the network remembers, to deliver them again much later.
const REMEMBERED: usize = 64;

#[derive(Debug)]
pub(crate) struct World<S> {
    pub(crate) server: S,
    sites: Vec<Site>,
    /// The call that each site waits for.
    waiting: Vec<Option<u64>>,
    /// Until when no message of a site comes through.
    cut_off: Vec<u64>,
    ledger: Ledger,
    faults: Faults,
    dice: Dice,
    queue: BinaryHeap<Reverse<Entry>>,
    old: Vec<(usize, Call)>,
    now: u64,
    order: u64,
    is_up: bool,
    stalled_until: u64,
    pub(crate) counts: Counts,
    trace: bool,
}

impl<S: Server> World<S> {
    pub(crate) fn new(server: S, sites: Vec<Site>, ledger: Ledger, faults: Faults, dice: Dice, trace: bool) -> Self {
        let count = sites.len();
        let mut world = Self {
            server,
            sites,
            waiting: vec![None; count],
            cut_off: vec![0; count],
            ledger,
            faults,
            dice,
            queue: BinaryHeap::new(),
            old: Vec::new(),
            now: 0,
            order: 0,
            is_up: true,
            stalled_until: 0,
            counts: Counts::default(),
            trace,
        };
        (0..count).for_each(|site| world.schedule(site as u64 * 100, Happening::Wakes(site)));
        world.schedule(TICK, Happening::Ticks);
        world
    }

    /// Lets it happen, to the end of the run; says what went wrong.
    pub(crate) fn play(&mut self, rounds: u32, attempts: u32) -> Result<(), String> {
        // After the calm every attempt takes a deadline at most, and a round is begun within a few seconds.
        let end = CALM + u64::from(rounds * attempts + 1) * (2 * DEADLINE);
        while let Some(Reverse(Entry { at, what, .. })) = self.queue.pop() {
            self.server.pass(at - self.now);
            self.now = at;
            if self.trace {
                eprintln!("{at:>8} {what:?}");
            }
            self.happens(what)?;
            self.look()?;
            if let Some(how) = self.server.over() {
                return self.judge(how, rounds);
            }
            if self.now > end {
                return Err(format!("the run has not ended {} s after the last fault", (self.now - CALM) / 1000));
            }
        }
        Err("nothing happens any more".to_owned())
    }

    fn judge(&mut self, how: Result<common::Digest, String>, rounds: u32) -> Result<(), String> {
        match how {
            Err(_) => self.counts.failed += 1,
            Ok(model) if model == self.ledger.model() && self.ledger.rounds() == rounds => {}
            Ok(model) => {
                return Err(format!("it ended with {model} after {} of {rounds} rounds", self.ledger.rounds()));
            }
        }
        Ok(())
    }

    /// Holds what was written since the last look to the books.
    fn look(&mut self) -> Result<(), String> {
        if let Some(why) = self.server.broken() {
            return Err(why);
        }
        for closed in self.server.closed(self.ledger.rounds() as usize) {
            self.ledger.closed(&closed)?;
            self.counts.rounds += 1;
            self.counts.left_out += closed.left_out.len() as u64;
        }
        Ok(())
    }

    fn schedule(&mut self, after: u64, what: Happening) {
        self.order += 1;
        self.queue.push(Reverse(Entry { at: self.now + after, order: self.order, what }));
    }

    /// Whether something goes wrong that does so many times in a thousand.
    fn fault(&mut self, of: impl Fn(&Faults) -> u64) -> bool {
        let times = of(&self.faults);
        self.now < CALM && self.dice.per_mille(times)
    }

    fn happens(&mut self, what: Happening) -> Result<(), String> {
        match what {
            Happening::Wakes(site) => self.wakes(site),
            Happening::Arrives { site, call, what } => return self.arrives(site, call, *what),
            Happening::Answered { site, call, reply } => self.answered(site, call, reply),
            Happening::GivesUp { site, call } => {
                if self.waiting[site] == Some(call) {
                    self.waiting[site] = None;
                    self.sites[site].gives_up_waiting();
                    self.schedule(100, Happening::Wakes(site));
                }
            }
            Happening::Ticks => return self.ticks(),
            Happening::Starts => {
                self.is_up = true;
                self.server.restart();
            }
        }
        Ok(())
    }

    fn wakes(&mut self, site: usize) {
        if self.waiting[site].is_some() {
            return;
        }
        if self.fault(|faults| faults.site_dies) {
            self.counts.site_died += 1;
            self.sites[site].dies();
        }
        if self.fault(|faults| faults.disk_lost) {
            self.counts.disks_lost += 1;
            self.sites[site].loses_its_disk();
        }
        if self.fault(|faults| faults.partitions) {
            self.counts.partitions += 1;
            self.cut_off[site] = self.now + self.dice.within(1_000, 150_000);
        }
        let mut made = Vec::new();
        let what = self.sites[site].asks(self.now, &mut self.dice, &mut made);
        made.iter().for_each(|(round, update)| self.ledger.made(site, *round, update));
        self.order += 1;
        let call = self.order;
        self.waiting[site] = Some(call);
        self.schedule(PATIENCE, Happening::GivesUp { site, call });
        if self.fault(|faults| faults.replayed) && !self.old.is_empty() {
            self.counts.replayed += 1;
            let (from, old) = self.old[self.dice.index(self.old.len())].clone();
            let delay = self.delay();
            self.schedule(delay, Happening::Arrives { site: from, call: 0, what: Box::new(old) });
        }
        let place = self.dice.index(REMEMBERED);
        match self.old.get_mut(place) {
            Some(old) => *old = (site, what.clone()),
            None => self.old.push((site, what.clone())),
        }
        if self.fault(|faults| faults.repeated) {
            self.counts.repeated += 1;
            let delay = self.delay();
            self.schedule(delay, Happening::Arrives { site, call, what: Box::new(what.clone()) });
        }
        if self.comes_through(site) {
            let delay = self.delay();
            self.schedule(delay, Happening::Arrives { site, call, what: Box::new(what) });
        }
    }

    /// How long a message takes; now and then so long that others overtake it, and its sender gives up.
    fn delay(&mut self) -> u64 {
        if self.fault(|faults| faults.slow) { self.dice.within(1_000, 40_000) } else { self.dice.within(5, 300) }
    }

    fn comes_through(&mut self, site: usize) -> bool {
        let lost = self.fault(|faults| faults.lost) || (self.cut_off[site] > self.now && self.now < CALM);
        self.counts.lost += u64::from(lost);
        !lost
    }

    fn arrives(&mut self, site: usize, call: u64, what: Call) -> Result<(), String> {
        if !self.is_up {
            self.counts.lost += 1;
            return Ok(());
        }
        self.counts.calls += 1;
        if self.fault(|faults| faults.dies_inside) {
            let steps = self.dice.below(4) as u32;
            self.server.light_fuse(steps);
        }
        let about = match &what {
            Call::Finish { key, blob } => Some((key.round, *blob)),
            Call::Begin(manifest) => Some((manifest.round, manifest.blob)),
            Call::Report(_) | Call::Chunk { .. } => None,
        };
        let id = self.sites[site].id.clone();
        let Ok(reply) = self.server.hear(&id, what) else {
            self.counts.died_inside += 1;
            self.goes_down();
            return Ok(());
        };
        match (&reply, about) {
            (Ok(Answer::Stored(digest)), Some((round, _))) => self.ledger.acknowledged(site, round, *digest)?,
            (Ok(Answer::Upload(state)), Some((round, digest))) if state.acknowledged => {
                self.ledger.acknowledged(site, round, digest)?;
            }
            (Ok(Answer::Directive(Directive::Train(work))), _) => {
                // A round that was merged with this very call is in the books before its answer is judged.
                self.look()?;
                self.ledger.told_to_train(RoundNumber(work.round.0), work.base)?;
            }
            (Err(_), _) => self.counts.refused += 1,
            _ => {}
        }
        if self.comes_through(site) {
            let delay = self.delay();
            self.schedule(delay, Happening::Answered { site, call, reply });
        }
        Ok(())
    }

    fn answered(&mut self, site: usize, call: u64, reply: Reply) {
        if self.waiting[site] != Some(call) {
            return;
        }
        self.waiting[site] = None;
        let asks_again = match &reply {
            Ok(Answer::Directive(_)) | Err(_) => self.dice.within(500, 4_000),
            Ok(_) => self.dice.within(1, 500),
        };
        self.sites[site].hears(reply, self.now, &mut self.dice);
        self.schedule(asks_again, Happening::Wakes(site));
    }

    fn ticks(&mut self) -> Result<(), String> {
        self.schedule(TICK, Happening::Ticks);
        if self.fault(|faults| faults.jumps) && self.is_up {
            // The clock runs ahead: deadlines are early.
            self.counts.jumps += 1;
            let ahead = self.dice.within(1_000, 90_000);
            self.server.pass(ahead);
        }
        if self.fault(|faults| faults.stalls) {
            // The machine stands still: deadlines are late.
            self.counts.stalls += 1;
            self.stalled_until = self.now + self.dice.within(1_000, 60_000);
        }
        if self.fault(|faults| faults.rots) {
            let chance = self.dice.roll() >> 1;
            if let Some(digest) = self.server.rot(chance) {
                self.counts.rotted += 1;
                self.ledger.rotted(digest);
            }
        }
        if !self.is_up || self.stalled_until > self.now {
            return Ok(());
        }
        if self.fault(|faults| faults.server_dies) {
            self.counts.server_died += 1;
            self.goes_down();
            return Ok(());
        }
        if self.fault(|faults| faults.dies_inside) {
            let steps = self.dice.below(6) as u32;
            self.server.light_fuse(steps);
        }
        let merges = self.dice.per_mille(500);
        let lived = self.server.tick().and_then(|()| if merges { self.server.merge() } else { Ok(()) });
        if lived.is_err() {
            self.counts.died_inside += 1;
            self.goes_down();
            return Ok(());
        }
        self.server.note();
        Ok(())
    }

    fn goes_down(&mut self) {
        self.is_up = false;
        let down = self.dice.within(200, 20_000);
        self.schedule(down, Happening::Starts);
    }
}
