//! Asks who answers where this federation is to be found. Thin: what it means is in [`super::verdicts`].

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use certs::probe::{self, Shown};
use certs::proxy::Route;
use certs::{connect, tls};
use common::check::Check;
use tokio::time::timeout;

use super::local::{Authority, told};
use super::verdicts::{self, Silent};
use crate::clock::Stamp;
use crate::config::Config;
use crate::status::Status;

/// Longest that the server's answer is waited for.
const WITHIN: Duration = Duration::from_secs(15);

/// Who answers on `listen` and at the address in invitations.
pub(super) async fn checks(
    config: &Config,
    authority: Option<&Authority>,
    status: Option<&Status>,
    now: Stamp,
) -> Vec<Check> {
    let listening = shown(&here(config.listen)).await;
    // No TLS there is not yet nobody there.
    let is_taken = listening.is_err() && within(probe::reach(&here(config.listen), &Route::Direct)).await.is_ok();
    let silent = if is_taken { Silent::Taken } else { Silent::Free };
    let is_ours = |leaf: &Shown| authority.is_some_and(|authority| leaf.is_issued_by(&authority.pem));
    let answer = listening.as_deref().map(|shown| shown.first().filter(|leaf| is_ours(leaf)));
    let server = verdicts::server(answer.map_err(|why| silent(why)), now);
    let (Some(status), Some(authority)) = (status, authority) else {
        let first = |name| Check::not_yet(name, "the database and the CA must be readable first");
        return vec![server, first("address"), first("handshake")];
    };
    let reached = shown(&status.address).await;
    let answers = reached.is_ok();
    let shaken = if answers { handshake(status, authority).await } else { Err(String::new()) };
    vec![
        server,
        verdicts::outside(&status.address, reached.map(drop).as_ref().map_err(String::as_str).copied()),
        verdicts::handshake(answers, shaken.as_ref().map(|took| *took).map_err(String::as_str)),
    ]
}

/// An address that leads from this machine to whoever listens there.
fn here(listen: SocketAddr) -> String {
    let host = match listen.ip() {
        ip if ip.is_unspecified() => IpAddr::from(Ipv4Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(host, listen.port()).to_string()
}

/// As whoever enrols, who knows the CA's fingerprint alone.
async fn handshake(status: &Status, authority: &Authority) -> Result<Duration, String> {
    let config = tls::enrolment_config(&status.federation, authority.fingerprint).map_err(told)?;
    let began = Instant::now();
    within(connect::connect_via(&status.address, config, &Route::Direct)).await?;
    Ok(began.elapsed())
}

async fn shown(address: &str) -> Result<Vec<Shown>, String> {
    within(probe::shown(address, &Route::Direct)).await
}

async fn within<T>(asked: impl Future<Output = Result<T, connect::ConnectError>>) -> Result<T, String> {
    match timeout(WITHIN, asked).await {
        Ok(answer) => answer.map_err(told),
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).to_string()),
    }
}
