//! Looks at the way to the aggregator and at who answers there. Thin: what it means is in [`super::verdicts`].

use std::future::Future;
use std::time::{Duration, Instant};

use certs::connect::ConnectError;
use certs::probe::{self, Shown};
use certs::proxy::Route;
use common::check::Check;
use common::{Digest, Plan};
use tokio::time::timeout;

use super::NETWORK_WITHIN;
use super::verdicts::{self, Authority, Inspection};
use crate::approvals;
use crate::clock;
use crate::config::Config;
use crate::enrol::{self, Enrolled};
use crate::home::Home;
use crate::link::{Link, LinkError};
use crate::network::ChannelMode;
use crate::plan_words;

/// Models that are asked for: the aggregator serves the one that a run is at.
const MOST_ASKED: usize = 8;

/// From the certificate on disk to megabytes a second, in the order in which one depends on the other.
pub(super) async fn checks(home: &Home, config: &Config) -> Vec<Check> {
    let now = clock::wall();
    let pem = |name: &str| std::fs::read_to_string(home.identity().join(name)).ok();
    let of_pem = |pem: String| Shown::of_pem(&pem).map_err(|error| error.to_string());
    let own = pem("site.crt").map(of_pem);
    let own = own.as_ref().map(|shown| shown.as_ref().map_err(String::as_str));
    let certificate = verdicts::certificate(own, now);
    let Ok(enrolled) = enrol::enrolled(home) else {
        let proxy = proxy_check(config, "aggregator.invalid:443");
        let unknown = [
            verdicts::resolution(false, None),
            verdicts::reach(None),
            verdicts::chain(None, None, Inspection::NotPermitted, now),
        ];
        let silent =
            [verdicts::link(None, config.network.channel), verdicts::clock(None), verdicts::bandwidth(None, None)];
        return [certificate, proxy].into_iter().chain(unknown).chain(silent).collect();
    };
    let address = enrolled.address.as_str();
    let mut checks = vec![certificate, proxy_check(config, address)];
    let Ok(route) = config.network.route(address) else { return checks };
    let is_via_proxy = matches!(route, Route::Via(_));

    let found = within(async { probe::resolve(address).await.map_err(|error| error.to_string()) }).await;
    let found = found.map(|addresses| addresses.iter().map(std::net::SocketAddr::ip).collect::<Vec<_>>());
    checks.push(verdicts::resolution(is_via_proxy, Some(found)));

    let began = Instant::now();
    let reached = within(told(probe::reach(address, &route))).await.map(|()| began.elapsed());
    checks.push(verdicts::reach(Some(reached.as_ref().map(|took| *took).map_err(String::as_str))));

    let shown = within(told(probe::shown(address, &route))).await;
    let authorities = pem("authority.crt").unwrap_or_default();
    let authority = Shown::of_pem(&authorities).ok().map(|authority| authority.subject);
    let leaf = shown.as_ref().ok().and_then(|shown| shown.first());
    let is_issuer = leaf.is_some_and(|leaf| leaf.is_issued_by(&authorities));
    let authority = authority.as_deref().map(|name| Authority { name, is_issuer });
    let as_seen = shown.as_ref().map(Vec::as_slice).map_err(String::as_str);
    let vouched = match config.network.channel {
        ChannelMode::Mutual => Inspection::NotPermitted,
        ChannelMode::Signed if config.network.inspection_roots.is_none() => Inspection::NoRoots,
        ChannelMode::Signed => Inspection::Vouched(within(inspected(home, config, address)).await),
    };
    checks.push(verdicts::chain(Some(as_seen), authority, vouched, now));

    checks.extend(over_the_link(home, config, &enrolled).await);
    checks
}

/// Whether whoever answers shows what the settings permit.
async fn inspected(home: &Home, config: &Config, address: &str) -> Result<(), String> {
    let way = enrol::way(home, &config.network).map_err(|error| error.to_string())?;
    told(certs::connect::connect_via(address, way.tls, &way.route)).await.map(drop)
}

fn proxy_check(config: &Config, address: &str) -> Check {
    match config.network.route(address) {
        Ok(Route::Direct) => verdicts::proxy(Ok(None)),
        Ok(Route::Via(proxy)) => verdicts::proxy(Ok(Some((config.network.source(), &proxy.url().to_string())))),
        Err(error) => verdicts::proxy(Err(&error.to_string())),
    }
}

/// What only an enrolled site may ask.
async fn over_the_link(home: &Home, config: &Config, enrolled: &Enrolled) -> Vec<Check> {
    let mode = config.network.channel;
    let link = enrol::way(home, &config.network).map_err(|error| error.to_string());
    let link = link
        .and_then(|way| Link::new(enrolled.site.clone(), &enrolled.address, way).map_err(|error| error.to_string()));
    let mut link = match link {
        Ok(link) => link.under(&config.policy, home),
        Err(why) => {
            let silent = verdicts::link(Some(Err((None, &why))), mode);
            return vec![silent, verdicts::clock(None), verdicts::bandwidth(None, None)];
        }
    };
    // The first call opens the connection; the second is the round trip.
    let first = timeout(NETWORK_WITHIN, link.ping()).await.unwrap_or_else(|_| Err(LinkError::Unreachable(late())));
    let answer = match first {
        Ok(_) => timeout(NETWORK_WITHIN, link.ping()).await.unwrap_or_else(|_| Err(LinkError::Unreachable(late()))),
        failed => failed,
    };
    let now = clock::wall();
    match answer {
        Err(error) => {
            let told = verdicts::link(Some(Err((error.refusal(), &error.to_string()))), mode);
            vec![told, verdicts::clock(None), verdicts::bandwidth(None, None)]
        }
        Ok(answer) => {
            let theirs = answer.date.as_deref().and_then(clock::of_http_date);
            let ahead = theirs.map(|theirs| now.0.cast_signed() - theirs.0.cast_signed());
            vec![verdicts::link(Some(Ok(answer.took)), mode), verdicts::clock(ahead), bandwidth(home, &mut link).await]
        }
    }
}

/// Fetches the beginning of a model that the aggregator has, and throws it away: the newest that is here, or a plan's first.
async fn bandwidth(home: &Home, link: &mut Link) -> Check {
    // Plans that cannot be read are a finding of their own check; here they only say what there is to fetch.
    let plans = approvals::announced(home).unwrap_or_default();
    let a_round = plans.iter().map(|(_, plan): &(Digest, Plan)| plan_words::meaning(plan));
    let a_round = a_round.map(|means| means.fetched_bytes + means.sent_bytes).max();
    let here = std::fs::read_dir(home.models()).into_iter().flatten().flatten();
    let here = here.filter_map(|file| file.path().file_stem()?.to_str()?.parse::<Digest>().ok());
    for model in here.chain(plans.iter().map(|(_, plan)| plan.first_model)).take(MOST_ASKED) {
        let measured = timeout(NETWORK_WITHIN, link.measure(model, Duration::from_secs(3))).await;
        if let Ok(Ok(measured)) = measured {
            return verdicts::bandwidth(Some(measured), a_round);
        }
    }
    verdicts::bandwidth(None, None)
}

async fn told<T>(asked: impl Future<Output = Result<T, ConnectError>>) -> Result<T, String> {
    asked.await.map_err(|error| error.to_string())
}

async fn within<T>(asked: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    timeout(NETWORK_WITHIN, asked).await.unwrap_or_else(|_| Err(late()))
}

fn late() -> String {
    format!("no answer within {} s", NETWORK_WITHIN.as_secs())
}
