//! Where the federation's authority and the server's key lie in the state folder, and what is signed with them.

use std::fs;
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

/// The authority of a state folder, with the next one if one takes its place.
pub fn load(state: &Path, federation: &FederationName) -> Result<Authority, CertsError> {
    let next = load_next(state, federation)?;
    Ok(Authority::load(&folder(state), federation)?.followed_by(next))
}

/// The authority that takes the place of the one there is, if one does.
pub fn load_next(state: &Path, federation: &FederationName) -> Result<Option<Authority>, CertsError> {
    settle(state)?;
    next(state).join("ca.crt").exists().then(|| Authority::load(&next(state), federation)).transpose()
}

/// Makes the authority that takes the place of the one there is; refuses if one does already.
pub fn begin_next(state: &Path, federation: &FederationName, now: Stamp) -> Result<Authority, CertsError> {
    Authority::create(&next(state), federation, seconds(now))
}

/// Puts the next authority in the place of the one there is, whose key is removed.
pub fn switch(state: &Path) -> Result<(), CertsError> {
    rename(&next(state), &aside(state))?;
    settle(state)
}

/// Makes up for a switch that was cut short: from the moment when the next authority was put aside, it is the one.
fn settle(state: &Path) -> Result<(), CertsError> {
    if !aside(state).exists() {
        return Ok(());
    }
    if folder(state).exists() {
        let told = |source| CertsError::Disk { what: "remove", path: folder(state).display().to_string(), source };
        fs::remove_dir_all(folder(state)).map_err(told)?;
    }
    rename(&aside(state), &folder(state))
}

fn rename(from: &Path, to: &Path) -> Result<(), CertsError> {
    let told = |source| CertsError::Disk { what: "rename", path: from.display().to_string(), source };
    fs::rename(from, to).map_err(told)?;
    let parent = to.parent().unwrap_or(Path::new("."));
    fs::File::open(parent).and_then(|folder| folder.sync_all()).map_err(told)
}

/// The authority of the folder, if it is another one than this, or has another one beside it; its leaves live as long.
pub fn changed(state: &Path, authority: &Authority) -> Result<Option<Authority>, CertsError> {
    let found = load(state, authority.federation())?;
    Ok((found.anchors() != authority.anchors()).then(|| found.with_leaves_of(authority.leaf_s())))
}

/// Whether the authority of the folder is another one than this, or has another one beside it.
pub fn has_changed(state: &Path, authority: &Authority) -> bool {
    load(state, authority.federation()).is_ok_and(|found| found.anchors() != authority.anchors())
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
    certs::tls::server_config(&issued.certificate_pem, &authority.anchors_pem(), &key)
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
    SigningKey::load_or_create(&signing_key_path(state))
}

/// The same, for whoever only looks: an error if there is none.
pub fn existing_signing_key(state: &Path) -> Result<SigningKey, CertsError> {
    SigningKey::load(&signing_key_path(state))
}

fn signing_key_path(state: &Path) -> PathBuf {
    state.join("signing.key")
}

fn next(state: &Path) -> PathBuf {
    folder(state).join("next")
}

fn aside(state: &Path) -> PathBuf {
    state.join("authority.next")
}

fn server_key(state: &Path) -> PathBuf {
    state.join("server.key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_that_is_cut_short_is_made_up_for() {
        let federation = "cmr".parse().unwrap();
        for cut in 0..4 {
            let state = tempfile::tempdir().unwrap();
            let old = create(state.path(), &federation, Stamp(0)).unwrap();
            assert!(!has_changed(state.path(), &old));
            let next_one = begin_next(state.path(), &federation, Stamp(0)).unwrap();
            assert!(begin_next(state.path(), &federation, Stamp(0)).is_err(), "there is one already");
            let both = load(state.path(), &federation).unwrap();
            assert!(has_changed(state.path(), &old) && !has_changed(state.path(), &both));
            assert_eq!(both.anchors_pem(), format!("{}{}", old.certificate_pem(), next_one.certificate_pem()));
            if cut == 0 {
                switch(state.path()).unwrap();
            } else {
                rename(&next(state.path()), &aside(state.path())).unwrap();
                if cut > 1 {
                    fs::remove_file(folder(state.path()).join("ca.key")).unwrap();
                }
                if cut > 2 {
                    fs::remove_dir_all(folder(state.path())).unwrap();
                }
            }
            let now = load(state.path(), &federation).unwrap();
            assert_eq!(now.anchors_pem(), next_one.certificate_pem(), "cut {cut}");
            assert!(!aside(state.path()).exists());
        }
    }

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
