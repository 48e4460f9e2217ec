//! Where the federation's authority and the server's key lie in the state folder, and what is signed with them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use certs::CertsError;
use certs::authority::Authority;
use certs::keys::Key;
use certs::lock::Lock;
use certs::signing::SigningKey;
use common::FederationName;

use crate::clock::Stamp;

/// Makes the authority and the server's key of a new federation.
pub fn create(state: &Path, federation: &FederationName, now: Stamp) -> Result<Authority, CertsError> {
    let authority = Authority::create(&folder(state), federation, seconds(now))?;
    Key::create(&server_key(state))?;
    SigningKey::load_or_create(&signing_key_path(state))?;
    Ok(authority)
}

/// The authority of a state folder, with the next one if one takes its place.
pub fn load(state: &Path, federation: &FederationName) -> Result<Authority, CertsError> {
    let (authority, next) = read(state, federation)?;
    Ok(authority.followed_by(next))
}

/// Both of them. Readers wait for nobody, because what is put aside is whole; only if a switch beside them moves what they read do
/// they wait for its end.
fn read(state: &Path, federation: &FederationName) -> Result<(Authority, Option<Authority>), CertsError> {
    settle_unless_held(state)?;
    read_once(state, federation).or_else(|error| match hold(state) {
        Ok(_held) => read_once(state, federation),
        Err(_) => Err(error),
    })
}

/// Both as they stand; an error if a switch moved them meanwhile.
fn read_once(state: &Path, federation: &FederationName) -> Result<(Authority, Option<Authority>), CertsError> {
    let place = if aside(state).exists() { aside(state) } else { folder(state) };
    // This one first: once it has taken the other one's place, it is not the next of it.
    let is_there = next(state).join("ca.crt").exists();
    let next = is_there.then(|| Authority::load(&next(state), federation)).transpose()?;
    let authority = Authority::load(&place, federation)?;
    match next.as_ref().is_some_and(|next| next.certificate_pem() == authority.certificate_pem()) {
        true => Err(CertsError::Malformed {
            what: "the federation's authority",
            why: "another one took its place just now".to_owned(),
        }),
        false => Ok((authority, next)),
    }
}

/// The right to change the authority of a state folder: of one command at a time.
#[derive(Debug)]
pub struct Held {
    state: PathBuf,
    _lock: Lock,
}

/// Takes that right, after whoever has it, and makes up for a switch that was cut short.
pub fn hold(state: &Path) -> Result<Held, CertsError> {
    let held = Held { _lock: Lock::wait(&lock(state))?, state: state.to_owned() };
    held.settle()?;
    Ok(held)
}

/// Makes up for a switch that was cut short, unless somebody who holds the authority is at it: then it is read as it stands.
fn settle_unless_held(state: &Path) -> Result<(), CertsError> {
    if !aside(state).exists() && !ended(state).exists() {
        return Ok(());
    }
    match Lock::take(&lock(state))? {
        Some(lock) => Held { _lock: lock, state: state.to_owned() }.settle(),
        None => Ok(()),
    }
}

impl Held {
    /// The authority, and the one that takes its place, if one does. [`load`] would wait for who holds it.
    pub fn read(&self, federation: &FederationName) -> Result<(Authority, Option<Authority>), CertsError> {
        read_once(&self.state, federation)
    }

    /// Makes the authority that is to take the place of the one there is, where nobody sees it yet.
    pub fn prepare_next(&self, federation: &FederationName, now: Stamp) -> Result<Authority, CertsError> {
        // What was cut short here was seen by nobody.
        remove(&prepared(&self.state))?;
        Authority::create(&prepared(&self.state), federation, seconds(now))
    }

    /// Shows the one that was prepared, whole; refuses if another one takes the place of the one there is already.
    pub fn begin_next(&self) -> Result<(), CertsError> {
        // A key alone: earlier versions made the two where they are seen, and could be cut short between them.
        if !next(&self.state).join("ca.crt").exists() {
            remove(&next(&self.state))?;
        }
        rename(&prepared(&self.state), &next(&self.state))
    }

    /// Puts the next authority in the place of the one there is, whose key is removed.
    pub fn switch(&self) -> Result<(), CertsError> {
        rename(&next(&self.state), &aside(&self.state))?;
        self.settle()
    }

    /// From the moment when the next authority was put aside, it is the one. What is looked at here is looked at under the lock:
    /// who saw it put aside earlier may come when all is done. Removed is what another one stands in the place of, and by a name
    /// that no authority in use has.
    fn settle(&self) -> Result<(), CertsError> {
        let (folder, aside, ended) = (folder(&self.state), aside(&self.state), ended(&self.state));
        if folder.exists() {
            remove(&ended)?;
        }
        if !aside.exists() {
            return Ok(());
        }
        if folder.exists() {
            rename(&folder, &ended)?;
        }
        rename(&aside, &folder)?;
        remove(&ended)
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), CertsError> {
    let told = |source| CertsError::Disk { what: "rename", path: from.display().to_string(), source };
    fs::rename(from, to).and_then(|()| sync_above(to)).map_err(told)
}

/// Removes a folder with all that is in it, if it is there.
fn remove(path: &Path) -> Result<(), CertsError> {
    if !path.exists() {
        return Ok(());
    }
    let told = |source| CertsError::Disk { what: "remove", path: path.display().to_string(), source };
    fs::remove_dir_all(path).and_then(|()| sync_above(path)).map_err(told)
}

fn sync_above(path: &Path) -> io::Result<()> {
    fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
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

/// The key that models and ledgers are signed with. It is made with the federation and never again: sites train from no model that
/// another one signed.
pub fn signing_key(state: &Path) -> Result<SigningKey, CertsError> {
    let path = signing_key_path(state);
    SigningKey::load(&path).map_err(|error| match error {
        CertsError::Disk { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            CertsError::KeyIsLost { path: path.display().to_string() }
        }
        error => error,
    })
}

fn signing_key_path(state: &Path) -> PathBuf {
    state.join("signing.key")
}

fn next(state: &Path) -> PathBuf {
    folder(state).join("next")
}

/// Where the next one is made.
fn prepared(state: &Path) -> PathBuf {
    folder(state).join("next.part")
}

/// The next one on its way to the place of the one there is.
fn aside(state: &Path) -> PathBuf {
    state.join("authority.next")
}

/// The one there was, on its way to be removed.
fn ended(state: &Path) -> PathBuf {
    state.join("authority.ended")
}

fn lock(state: &Path) -> PathBuf {
    state.join("authority.lock")
}

fn server_key(state: &Path) -> PathBuf {
    state.join("server.key")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(state: &Path, federation: &FederationName) -> Authority {
        let held = hold(state).unwrap();
        let next = held.prepare_next(federation, Stamp(0)).unwrap();
        held.begin_next().unwrap();
        next
    }

    #[test]
    fn a_switch_that_is_cut_short_is_made_up_for() {
        let federation = "cmr".parse().unwrap();
        // Cut after so many of: the next one put aside, the old one taken away, the next one in its place, half of the old one
        // removed. An earlier version removed the old one where it was, first its key: that is 5 and 6.
        for cut in 0..7 {
            let state = tempfile::tempdir().unwrap();
            let state = state.path();
            let old = create(state, &federation, Stamp(0)).unwrap();
            assert!(!has_changed(state, &old));
            let next_one = begin(state, &federation);
            let again = hold(state).unwrap();
            again.prepare_next(&federation, Stamp(0)).unwrap();
            assert!(again.begin_next().is_err(), "there is one already");
            drop(again);
            let both = load(state, &federation).unwrap();
            assert!(has_changed(state, &old) && !has_changed(state, &both));
            assert_eq!(both.anchors_pem(), format!("{}{}", old.certificate_pem(), next_one.certificate_pem()));
            if cut == 0 {
                hold(state).unwrap().switch().unwrap();
            } else {
                rename(&next(state), &aside(state)).unwrap();
            }
            if (2..5).contains(&cut) {
                rename(&folder(state), &ended(state)).unwrap();
            }
            if (3..5).contains(&cut) {
                rename(&aside(state), &folder(state)).unwrap();
            }
            if cut == 4 {
                fs::remove_file(ended(state).join("ca.key")).unwrap();
            }
            if cut > 4 {
                fs::remove_file(folder(state).join("ca.key")).unwrap();
            }
            if cut > 5 {
                fs::remove_dir_all(folder(state)).unwrap();
            }
            let now = load(state, &federation).unwrap();
            assert_eq!(now.anchors_pem(), next_one.certificate_pem(), "cut {cut}");
            assert!(!aside(state).exists() && !ended(state).exists(), "cut {cut}");
        }
    }

    #[test]
    fn whoever_reads_while_a_switch_is_under_way_sees_the_next_one_and_leaves_the_work_to_the_command() {
        let federation = "cmr".parse().unwrap();
        let state = tempfile::tempdir().unwrap();
        let state = state.path();
        create(state, &federation, Stamp(0)).unwrap();
        let next_one = begin(state, &federation);
        let held = hold(state).unwrap();
        rename(&next(state), &aside(state)).unwrap();
        assert_eq!(load(state, &federation).unwrap().anchors_pem(), next_one.certificate_pem());
        assert!(held.read(&federation).unwrap().1.is_none());
        assert!(aside(state).exists() && folder(state).exists(), "the reader moved and removed nothing");
        held.settle().unwrap();
        // Who saw it put aside comes when all is done.
        held.settle().unwrap();
        assert_eq!(load(state, &federation).unwrap().anchors_pem(), next_one.certificate_pem());
    }

    #[test]
    fn readers_beside_many_switches_always_find_an_authority_that_is_whole() {
        let federation = "cmr".parse().unwrap();
        let state = tempfile::tempdir().unwrap();
        let state = state.path();
        create(state, &federation, Stamp(0)).unwrap();
        let over = std::sync::atomic::AtomicBool::new(false);
        let mut last = None;
        std::thread::scope(|scope| {
            let reads = || {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    let found = load(state, &federation).unwrap();
                    let next = found.anchors_pem().replacen(found.certificate_pem(), "", 1);
                    assert_ne!(next, found.certificate_pem(), "one that takes its own place");
                }
            };
            let readers: Vec<_> = (0..4).map(|_| scope.spawn(reads)).collect();
            for _ in 0..40 {
                last = Some(begin(state, &federation));
                hold(state).unwrap().switch().unwrap();
            }
            over.store(true, std::sync::atomic::Ordering::Relaxed);
            readers.into_iter().for_each(|reader| reader.join().unwrap());
        });
        let found = load(state, &federation).unwrap();
        assert_eq!(found.anchors_pem(), last.unwrap().certificate_pem());
    }

    #[test]
    fn a_next_one_that_was_cut_short_is_seen_by_nobody_and_is_made_again() {
        let federation = "cmr".parse().unwrap();
        let state = tempfile::tempdir().unwrap();
        let state = state.path();
        let old = create(state, &federation, Stamp(0)).unwrap();
        // Cut before it was shown; and, of an earlier version, between the key and the certificate.
        hold(state).unwrap().prepare_next(&federation, Stamp(0)).unwrap();
        Key::create(&next(state).join("ca.key")).unwrap();
        assert!(!has_changed(state, &old));
        let next_one = begin(state, &federation);
        let found = hold(state).unwrap().read(&federation).unwrap().1.unwrap();
        assert_eq!(found.certificate_pem(), next_one.certificate_pem());
        assert!(!prepared(state).exists());
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
