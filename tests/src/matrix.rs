//! The communication matrix as the guide for hospital IT has it, read from its table; and what the system lists of the programs at
//! work.

use std::collections::BTreeSet;

use anyhow::Context as _;

use crate::federation::{AGGREGATOR, Federation};
use crate::programs;

const GUIDE: &str = include_str!("../../docs/it-guide.md");

/// Who opens a connection, seen from the program that a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The program.
    Outbound,
    /// Somebody else.
    Inbound,
}

/// The port at the other end of an outbound connection, or at this end of an inbound one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// The federation's one.
    Federation,
    /// The one of a proxy that is set.
    Proxy,
    /// No connection at all.
    None,
}

/// A row of the matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Who opens it.
    pub direction: Direction,
    /// From where.
    pub source: String,
    /// Where to.
    pub destination: String,
    /// Which port.
    pub port: Port,
}

impl Row {
    /// The program that the row is about.
    fn program(&self) -> &str {
        match self.direction {
            Direction::Outbound => &self.source,
            Direction::Inbound => &self.destination,
        }
    }
}

/// The rows of the guide's table.
pub fn documented() -> anyhow::Result<Vec<Row>> {
    read(GUIDE)
}

fn read(guide: &str) -> anyhow::Result<Vec<Row>> {
    let cells = |line: &str| -> Vec<String> {
        let line = line.trim().trim_matches('|');
        line.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    let (_, section) = guide.split_once("## Communication matrix").context("the guide has a communication matrix")?;
    let mut lines = section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let head = cells(lines.next().context("a table")?);
    anyhow::ensure!(head[..4] == ["direction", "source", "destination", "port"], "its columns are {head:?}");
    let rows = lines.skip(1).map(|line| {
        let [direction, source, destination, port, ..] = &cells(line)[..] else { anyhow::bail!("a short row: {line}") };
        let direction = match direction.as_str() {
            "outbound" => Direction::Outbound,
            "inbound" => Direction::Inbound,
            other => anyhow::bail!("{other} is no direction"),
        };
        let port = match port.as_str() {
            "none" => Port::None,
            "the proxy's" => Port::Proxy,
            // The one that `aggregator init` writes; a federation at another says so in its invitations.
            port if port.parse() == Ok(aggregator::config::Config::default().listen.port()) => Port::Federation,
            other => anyhow::bail!("{other} is not the federation's port"),
        };
        Ok(Row { direction, source: source.clone(), destination: destination.clone(), port })
    });
    rows.collect()
}

/// Ports that a program may use in a direction, by the matrix.
fn permitted(rows: &[Row], program: &str, direction: Direction, federation: u16, proxy: Option<u16>) -> BTreeSet<u16> {
    let of_program = rows.iter().filter(|row| row.program() == program && row.direction == direction);
    let ports: Vec<Port> = of_program.map(|row| row.port).collect();
    assert!(!ports.is_empty(), "the matrix says nothing of {program}, {direction:?}");
    match proxy {
        // A proxy that is set is the only way.
        Some(proxy) if ports.contains(&Port::Proxy) => BTreeSet::from([proxy]),
        _ if ports.contains(&Port::Federation) => BTreeSet::from([federation]),
        _ => BTreeSet::new(),
    }
}

/// Holds every program at work, and a trainer where there is one, to the matrix: what it says is open and nothing else. `proxy` is
/// the port of the proxy that a site is behind, if it is behind one.
///
/// # Panics
/// If something else is open, or something of it is not.
pub fn hold(federation: &Federation, proxy: impl Fn(&str) -> Option<u16>) {
    let rows = documented().expect("the guide's matrix");
    let port: u16 = federation.address().rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port");
    for (name, process) in federation.processes() {
        let program = if name == AGGREGATOR { "aggregator" } else { "site-agent" };
        let sockets = programs::sockets(process).expect("the system's list of sockets");
        let listening: BTreeSet<u16> =
            sockets.iter().filter(|socket| socket.listens).map(|socket| socket.local_port).collect();
        // What arrived at a listener has its port at this end.
        let opened = sockets.iter().filter(|socket| !socket.listens && !listening.contains(&socket.local_port));
        let opened: BTreeSet<u16> = opened.map(|socket| socket.remote_port).collect();
        let may = |direction| permitted(&rows, program, direction, port, proxy(&name));
        assert_eq!(listening, may(Direction::Inbound), "{name} listens: {sockets:?}");
        assert_eq!(opened, may(Direction::Outbound), "{name} is connected: {sockets:?}");
        if let Some(trainer) = programs::child(process, "train") {
            assert!(permitted(&rows, "the trainer", Direction::Outbound, port, None).is_empty());
            assert!(permitted(&rows, "the trainer", Direction::Inbound, port, None).is_empty());
            // It may end while it is looked at.
            assert!(programs::sockets(trainer).unwrap_or_default().is_empty(), "the trainer of {name}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guides_matrix_says_which_port_each_program_uses_and_that_nothing_comes_in_at_a_hospital() {
        let rows = documented().unwrap();
        let may = |program: &str, direction, proxy| permitted(&rows, program, direction, 9, proxy);
        assert_eq!(may("site-agent", Direction::Outbound, None), BTreeSet::from([9]));
        assert_eq!(may("site-agent", Direction::Outbound, Some(3128)), BTreeSet::from([3128]));
        assert_eq!(may("site-agent", Direction::Inbound, Some(3128)), BTreeSet::new());
        assert_eq!(may("aggregator", Direction::Inbound, None), BTreeSet::from([9]));
        assert_eq!(may("aggregator", Direction::Outbound, None), BTreeSet::new());
    }

    #[test]
    fn a_matrix_with_another_port_or_an_odd_direction_is_not_read() {
        for (from, to) in [("| 4433 |", "| 4434 |"), ("| outbound |", "| sideways |"), ("| source |", "| from |")] {
            assert!(GUIDE.contains(from), "{from}");
            assert!(read(&GUIDE.replacen(from, to, 1)).is_err(), "{to}");
        }
    }
}
