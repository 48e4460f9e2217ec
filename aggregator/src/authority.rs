//! Where the federation's authority and the server's key lie in the state folder, and what is signed with them.

use std::path::{Path, PathBuf};

use certs::CertsError;
use certs::authority::Authority;
use certs::keys::Key;
use certs::signing::SigningKey;
use common::FederationName;

use crate::clock::Stamp;

/// Makes the authority and the server's key of a new federation.
pub fn create(state: &Path, federation: &FederationName, now: Stamp) -> Result<Authority, CertsError> {
    let authority = Authority::create(&folder(state), federation, seconds(now))?;
    Key::create(&server_key(state))?;
    signing_key(state)?;
    Ok(authority)
}

/// The authority of a state folder.
pub fn load(state: &Path, federation: &FederationName) -> Result<Authority, CertsError> {
    Authority::load(&folder(state), federation)
}

/// The server's side of TLS, with a certificate that is made now for the names that sites reach it by.
pub fn server_config(
    state: &Path,
    authority: &Authority,
    names: &[String],
    now: Stamp,
) -> Result<std::sync::Arc<tokio_rustls::rustls::ServerConfig>, CertsError> {
    let key = Key::load(&server_key(state))?;
    let issued = authority.issue_aggregator(&key.csr_pem()?, names, seconds(now))?;
    certs::tls::server_config(&issued.certificate_pem, authority.certificate_pem(), &key)
}

/// Seconds since 1970, as certificates count.
pub(crate) fn seconds(stamp: Stamp) -> i64 {
    i64::try_from(stamp.seconds()).unwrap_or(i64::MAX)
}

/// The same the other way.
pub(crate) fn stamp(seconds: i64) -> Stamp {
    Stamp(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}

/// The host of `host:port`, without the brackets of an IPv6 address; none if it is not of that form.
pub fn host(address: &str) -> Option<&str> {
    let (host, port) = address.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    is_host(bare).then_some(bare)
}

/// Whether this is a host name or an address, as a certificate names it.
pub fn is_host(name: &str) -> bool {
    let permitted = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_name = !name.is_empty() && name.chars().all(permitted);
    is_name || name.parse::<std::net::Ipv6Addr>().is_ok()
}

fn folder(state: &Path) -> PathBuf {
    state.join("authority")
}

/// The key that models and ledgers are signed with: made when it is first needed.
pub fn signing_key(state: &Path) -> Result<SigningKey, CertsError> {
    SigningKey::load_or_create(&state.join("signing.key"))
}

fn server_key(state: &Path) -> PathBuf {
    state.join("server.key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (address, expected) in [
            ("aggregator.example.org:4433", Some("aggregator.example.org")),
            ("10.0.0.7:1", Some("10.0.0.7")),
            ("[::1]:4433", Some("::1")),
            ("aggregator", None),
            (":4433", None),
            ("host:port", None),
            ("a b:1", None),
            ("host:70000", None),
        ] {
            assert_eq!(host(address), expected, "{address}");
        }
    }
}
