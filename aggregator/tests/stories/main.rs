//! Stories of one aggregator: what sites send, what dies, what comes out.

#[cfg(test)]
mod alarms;
#[cfg(test)]
mod bench;
#[cfg(test)]
mod chaos;
#[cfg(test)]
mod commands;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod deadlines;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod encodings;
#[cfg(test)]
mod every_byte;
#[cfg(test)]
mod exactly_once;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod finetuning;
#[cfg(test)]
mod floods;
#[cfg(test)]
mod foreign_bytes;
#[cfg(test)]
mod house;
#[cfg(test)]
mod idle;
#[cfg(test)]
mod invitations;
#[cfg(test)]
mod ledger;
#[cfg(test)]
mod membership;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod orders;
#[cfg(test)]
mod own_tensors;
#[cfg(test)]
mod pauses;
#[cfg(test)]
mod persons;
#[cfg(test)]
mod queue;
#[cfg(test)]
mod refusal_table;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod restarts;
#[cfg(test)]
mod signatures;
#[cfg(test)]
mod signed;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod stragglers;
#[cfg(test)]
mod swarm;
#[cfg(test)]
mod wire;
