//! Who answers where this federation is to be found.

use std::time::Duration;

use certs::probe::Shown;
use common::check::Check;

use super::DAY_S;
use crate::authority::seconds;
use crate::clock::Stamp;

/// Why no certificate is shown at an address.
#[derive(Clone, Copy, Debug)]
pub(in crate::doctor) enum Silent<'a> {
    /// Nobody has the port.
    Free(&'a str),
    /// Something has it, and does not speak as the server does.
    Taken(&'a str),
}

/// Who answers where this aggregator listens: the certificate that is shown there, if this federation's CA issued it.
pub(in crate::doctor) fn server(shown: Result<Option<&Shown>, Silent<'_>>, now: Stamp) -> Check {
    let name = "server";
    match shown {
        Err(Silent::Free(why)) => {
            Check::failure(name, "nobody answers on the settings' `listen`", "start it: `aggregator serve`").here(why)
        }
        Err(Silent::Taken(why)) => {
            let remedy = "end the program that has that port, or change `listen` in aggregator.toml; if it is this server, it hangs: \
                          start it again";
            Check::failure(name, "something that does not answer as this server has the port of `listen`", remedy)
                .here(why)
        }
        Ok(Some(leaf)) => match (leaf.not_after_s - seconds(now)).div_euclid(DAY_S) {
            ..0 => Check::failure(
                name,
                "answers with a certificate that has expired",
                "start it again: it takes a new one",
            ),
            days => Check::ok(name, format!("answers; its certificate has {days} days left, and is renewed by itself")),
        },
        Ok(None) => {
            let remedy = "another program or federation has that port: change `listen` in aggregator.toml";
            Check::failure(name, "who answers on `listen` has no certificate of this federation", remedy)
        }
    }
}

/// The address that stands in invitations, from here.
pub(in crate::doctor) fn outside(address: &str, reached: Result<(), &str>) -> Check {
    match reached {
        Ok(()) => Check::ok("address", "the one in invitations answers").here(address),
        Err(why) => {
            let remedy = "sites come by that address: is it forwarded to `listen`? Some networks do not let it be reached from inside";
            Check::warning("address", "the one in invitations does not answer from here", remedy)
                .here(format!("{address}: {why}"))
        }
    }
}

/// A whole handshake at that address, as somebody who enrols makes it.
pub(in crate::doctor) fn handshake(answers: bool, shaken: Result<Duration, &str>) -> Check {
    let name = "handshake";
    match (answers, shaken) {
        (false, _) => Check::not_yet(name, "nobody answers at the address in invitations"),
        (true, Ok(took)) => Check::ok(
            name,
            format!("TLS 1.3, as this federation's CA vouches for, in {:.0} ms", took.as_secs_f64() * 1e3),
        ),
        (true, Err(why)) => {
            let remedy = "who enrols is refused as well: does `names` in aggregator.toml hold that host, and does something open TLS on the way?";
            Check::failure(
                name,
                "who answers at the address in invitations does not prove to be this federation's",
                remedy,
            )
            .here(why)
        }
    }
}
