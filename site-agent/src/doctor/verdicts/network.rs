//! The way to the aggregator, and who answers there.

use std::net::IpAddr;
use std::time::Duration;

use certs::probe::Shown;
use common::check::Check;
use common::machine::bytes;

use super::DAY_S;
use crate::clock::Moment;
use crate::network::ChannelMode;

/// Seconds that a certificate is still good for, and those of its whole life.
fn left_of(certificate: &Shown, now: Moment) -> (i64, i64) {
    (certificate.not_after_s - now.0.cast_signed(), certificate.not_after_s - certificate.not_before_s)
}

/// The site's own certificate: when it ends. The agent renews it when a third of its life is left.
pub(in crate::doctor) fn certificate(own: Option<Result<&Shown, &str>>, now: Moment) -> Check {
    let name = "certificate";
    let again =
        "see that the agent runs and reaches the aggregator; once it has ended, enrol again with a new invitation";
    match own {
        None => Check::not_yet(name, "this site has none yet"),
        Some(Err(_)) => Check::failure(name, "site.crt cannot be read", "restore it from a backup, or enrol again"),
        Some(Ok(own)) => match left_of(own, now) {
            (..0, _) => Check::failure(name, "it has expired, or this machine's clock is ahead", again),
            (left, life) if left < life / 3 => Check::warning(name, format!("{} days left", left / DAY_S), again),
            (left, _) => Check::ok(name, format!("{} days left", left / DAY_S)),
        },
    }
}

/// The way to the aggregator.
pub(in crate::doctor) fn proxy(proxy: Result<Option<(&str, &str)>, &str>) -> Check {
    match proxy {
        Ok(None) => Check::ok("proxy", "none: the connection goes straight to the aggregator"),
        Ok(Some((source, address))) => Check::ok("proxy", format!("one is used, as {source} says")).here(address),
        Err(wrong) => {
            let remedy = "write http://user:password@host:port in HTTPS_PROXY, or as `proxy` under `[network]`";
            Check::failure("proxy", "the proxy's address cannot be used", remedy).here(wrong)
        }
    }
}

/// The aggregator's name.
pub(in crate::doctor) fn resolution(is_via_proxy: bool, found: Option<Result<Vec<IpAddr>, String>>) -> Check {
    let name = "name resolution";
    match found {
        None => Check::not_yet(name, "no aggregator is known yet"),
        Some(Ok(addresses)) if !addresses.is_empty() => {
            Check::ok(name, format!("{} addresses", addresses.len())).here(format!("{addresses:?}"))
        }
        Some(_) if is_via_proxy => Check::ok(name, "the name is not known here; the proxy looks it up"),
        Some(found) => {
            let remedy = "ask IT whether this machine's DNS may look the aggregator's name up, or add it to /etc/hosts";
            let check = Check::failure(name, "the aggregator's name stands for no address", remedy);
            match found {
                Err(why) => check.here(why),
                Ok(_) => check,
            }
        }
    }
}

/// A connection without TLS.
pub(in crate::doctor) fn reach(took: Option<Result<Duration, &str>>) -> Check {
    match took {
        None => Check::not_yet("reach", "no aggregator is known yet"),
        Some(Ok(took)) => Check::ok("reach", format!("connected in {} ms", took.as_millis())),
        Some(Err(why)) => {
            let remedy = "ask IT to permit an outbound connection to the aggregator's host and port, or name a proxy (HTTPS_PROXY)";
            Check::failure("reach", "the aggregator's port is not reached", remedy).here(why)
        }
    }
}

/// What the settings say of whoever opens TLS on the way.
pub(in crate::doctor) enum Inspection {
    /// Nobody may.
    NotPermitted,
    /// Messages are signed, and no CA is named.
    NoRoots,
    /// Messages are signed, and the CAs that are named vouch for who answers; or why not.
    Vouched(Result<(), String>),
}

/// The CA of this site's enrolment.
#[derive(Clone, Copy)]
pub(in crate::doctor) struct Authority<'a> {
    pub(in crate::doctor) name: &'a str,
    /// Whether its key is under the certificate that was shown, and not its name alone.
    pub(in crate::doctor) is_issuer: bool,
}

/// A certificate that is not of this federation's CA: what the settings make of it.
fn opened(leaf: &Shown, authority: &str, inspection: Inspection) -> Check {
    let name = "TLS chain";
    let other = if leaf.issuer == authority { ", another one of that name" } else { "" };
    let here = format!("{} issued by {}{other}, and not by {authority}", leaf.subject, leaf.issuer);
    let found = "the certificate is not issued by this federation's CA";
    match inspection {
        Inspection::NotPermitted => {
            let remedy = "TLS is opened on the way, or this is another server: have the aggregator's host and port exempted from TLS \
                          inspection; where that is not granted, write `channel = \"signed\"` and `inspection_roots` under \
                          `[network]`; the agent sends nothing until then";
            Check::failure(name, found, remedy).here(here)
        }
        Inspection::NoRoots => {
            let remedy = "name the PEM file of the CA that issues it as `inspection_roots` under `[network]`, if it is your \
                          hospital's; the agent sends nothing until then";
            Check::failure(name, found, remedy).here(here)
        }
        Inspection::Vouched(Ok(())) => {
            let told = "TLS is opened on the way, by whom `inspection_roots` permits: every message is signed, and may be read there";
            Check::ok(name, told).here(here)
        }
        Inspection::Vouched(Err(why)) => {
            let remedy = "`inspection_roots` must hold the CA that issues what the proxy shows for the aggregator's name, and the proxy \
                          must speak TLS 1.3 and HTTP/2; the agent sends nothing until then";
            let found = "the certificate is issued neither by this federation's CA nor by `inspection_roots`, or does not count";
            Check::failure(name, found, remedy).here(format!("{here}; {why}"))
        }
    }
}

/// Who answers, by the certificates that it shows, held to the CA of this site's enrolment.
pub(in crate::doctor) fn chain(
    shown: Option<Result<&[Shown], &str>>,
    authority: Option<Authority<'_>>,
    inspection: Inspection,
    now: Moment,
) -> Check {
    let name = "TLS chain";
    let (shown, authority) = match (shown, authority) {
        (Some(Ok(shown)), Some(authority)) => (shown, authority),
        (Some(Err(why)), _) => {
            let remedy =
                "something on the way ends TLS, or nothing there speaks TLS 1.3: is the address the aggregator's?";
            return Check::failure(name, "no certificate was shown", remedy).here(why);
        }
        _ => return Check::not_yet(name, "no aggregator is known yet"),
    };
    let Some(leaf) = shown.first() else {
        return Check::failure(name, "no certificate was shown", "is the address the aggregator's?");
    };
    if !authority.is_issuer {
        return opened(leaf, authority.name, inspection);
    }
    if now.0.cast_signed() < leaf.not_before_s {
        let remedy = "set this machine's clock: the aggregator's certificate begins to count in the future";
        return Check::failure(name, "issued by this federation's CA, and not valid yet", remedy);
    }
    let (left, life) = left_of(leaf, now);
    let days = left.div_euclid(DAY_S);
    match left {
        ..0 => Check::failure(
            name,
            "issued by this federation's CA, and expired",
            "tell the coordinator: `aggregator` must renew it",
        ),
        // The server takes a new one at half of its life.
        _ if left < life / 5 * 2 => {
            Check::warning(name, format!("issued by this federation's CA, {days} days left"), "tell the coordinator")
        }
        _ => Check::ok(name, format!("issued by this federation's CA ({}), {days} days left", authority.name)),
    }
}

/// Codes of refusals of a call's signatures, and not of its site.
const FAULTS_OF_SIGNED_CALLS: [&str; 6] = ["certificate", "altered", "replayed", "clock", "incarnation", "crowded"];

/// A call: the round trip, or the stable code of a refusal, or why there is no answer.
pub(in crate::doctor) fn link(answer: Option<Result<Duration, (Option<&str>, &str)>>, channel: ChannelMode) -> Check {
    let name = "aggregator";
    let by = if channel == ChannelMode::Signed { ", by signed messages" } else { "" };
    match answer {
        None => Check::not_yet(name, "this site is not enrolled yet"),
        Some(Ok(took)) if took > Duration::from_secs(2) => {
            let remedy = "a slow line or a busy aggregator; reports still arrive";
            Check::warning(name, format!("answers this site in {} ms{by}", took.as_millis()), remedy)
        }
        Some(Ok(took)) => Check::ok(name, format!("answers this site in {} ms{by}", took.as_millis())),
        Some(Err((Some(code), why))) if FAULTS_OF_SIGNED_CALLS.contains(&code) => {
            let remedy = "the words say what is wrong with the call, and what to do: it was made, and did not count";
            Check::failure(name, format!("refuses this site's signed call ({code})"), remedy).here(why)
        }
        Some(Err((Some(code), why))) => {
            let remedy =
                "the coordinator sees why: ask whether this site was revoked, then enrol again with a new invitation";
            Check::failure(name, format!("refuses this site ({code})"), remedy).here(why)
        }
        Some(Err((None, why))) => {
            let remedy = "see the checks before this one; if they are well, ask the coordinator whether the aggregator is running";
            Check::failure(name, "does not answer", remedy).here(why)
        }
    }
}

/// This machine's clock against the aggregator's: seconds that it is ahead.
pub(in crate::doctor) fn clock(ahead_s: Option<i64>) -> Check {
    let remedy = "set this machine's clock by NTP: certificates and the policy's hours go by it";
    match ahead_s {
        None => Check::not_yet("clock", "nothing to hold it to: the aggregator did not tell its time"),
        Some(ahead @ -5..=5) => Check::ok("clock", format!("as the aggregator's, within {} s", ahead.abs().max(1))),
        Some(ahead) => {
            let found = format!("{} s {} the aggregator's", ahead.abs(), if ahead > 0 { "ahead of" } else { "behind" });
            if ahead.abs() < 300 {
                Check::warning("clock", found, remedy)
            } else {
                Check::failure("clock", found, remedy)
            }
        }
    }
}

/// How fast bytes come, and what that means for a round that moves so many.
pub(in crate::doctor) fn bandwidth(measured: Option<(u64, Duration)>, a_round: Option<u64>) -> Check {
    let name = "bandwidth";
    let Some((moved, took)) = measured.filter(|(moved, took)| *moved > 0 && !took.is_zero()) else {
        return Check::not_yet(name, "nothing to measure it with: no plan is here yet, or its first model is gone");
    };
    let rate = moved as f64 / took.as_secs_f64();
    let minutes = a_round.map(|bytes| bytes as f64 / rate / 60.0);
    let told = minutes
        .map_or(String::new(), |minutes| format!("; {minutes:.1} min of transfer a round, if sending is as fast"));
    let found = format!("{:.2} MB/s from the aggregator, over {}{told}", rate / 1e6, bytes(moved));
    match minutes {
        Some(minutes) if minutes > 60.0 => Check::warning(
            name,
            found,
            "ask the coordinator for a smaller encoding (`aggregation.encoding`) or a longer deadline",
        ),
        _ => Check::ok(name, found),
    }
}
