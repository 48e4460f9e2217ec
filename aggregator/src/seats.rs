//! Connections without a certificate: a stranger's at first; then of whichever sites make signed calls in it, each with a place of
//! its own. More sites than one are in a connection where a hospital's proxy puts them into it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use certs::identity::Peer;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::clock::Stamp;
use crate::federation::Admitted;
use crate::identity::{Place, Places, STRANGERS, life_left};

/// Longest that a connection of signed calls keeps its places without one. An agent calls every minute at the least.
pub const QUIET: Duration = Duration::from_secs(120);

/// Whose a connection is.
#[derive(Clone, Debug)]
pub enum Seat {
    /// The holder's of the certificate that the handshake verified.
    Of(Peer),
    /// Nobody's by the handshake.
    Unnamed(Arc<Unnamed>),
}

impl Seat {
    /// Who it is by the handshake.
    pub fn peer(&self) -> Option<&Peer> {
        if let Self::Of(peer) = self { Some(peer) } else { None }
    }

    /// How long it may stay beyond the time that it was given.
    pub(crate) fn stays(&self, wall: Stamp) -> Option<Duration> {
        match self {
            // Until its certificate expires, and not longer.
            Self::Of(_) => None,
            Self::Unnamed(seat) => seat.stays(Instant::now(), wall),
        }
    }
}

/// The connections of strangers, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Strangers(Mutex<VecDeque<Weak<Unnamed>>>);

impl Strangers {
    /// One more; the oldest gives way, if there are too many. To let new ones wait would leave it to the silent who gets in.
    pub(crate) fn come(&self) -> Arc<Unnamed> {
        let mut all = lock(&self.0);
        all.retain(|seat| seat.upgrade().is_some_and(|seat| seat.is_strangers()));
        while all.len() >= STRANGERS
            && let Some(oldest) = all.pop_front()
        {
            if oldest.upgrade().is_some_and(|oldest| oldest.gives_way()) {
                tracing::info!(
                    most = STRANGERS,
                    "a connection was ended: it is the oldest of too many without a certificate"
                );
            }
        }
        let seat = Arc::new(Unnamed::default());
        all.push_back(Arc::downgrade(&seat));
        seat
    }
}

/// A connection without a certificate.
#[derive(Debug, Default)]
pub struct Unnamed {
    inside: Mutex<Inside>,
    give_way: Notify,
}

#[derive(Debug, Default)]
struct Inside {
    claims: BTreeMap<String, Claim>,
    under_way: usize,
    last_call: Option<Instant>,
    gave_way: bool,
}

/// A site in a connection, with the certificate that it used last.
#[derive(Debug)]
struct Claim {
    peer: Peer,
    /// Its calls that are under way, and when the last one ended.
    under_way: usize,
    last_call: Option<Instant>,
    _place: Place,
}

impl Claim {
    /// Whether it is to keep its place: others' calls keep the connection, and a site that comes back in another one needs it there.
    fn is_in_use(&self, now: Instant) -> bool {
        self.under_way > 0 || self.last_call.is_some_and(|last| now.saturating_duration_since(last) < QUIET)
    }
}

/// A signed call that is under way: its connection stays, if its certificate counts.
#[derive(Debug)]
pub struct UnderWay(Option<(Arc<Unnamed>, String)>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Some((seat, name)) = &self.0 else { return };
        let (mut inside, now) = (lock(&seat.inside), Instant::now());
        inside.under_way -= 1;
        inside.last_call = Some(now);
        if let Some(claim) = inside.claims.get_mut(name) {
            claim.under_way -= 1;
            claim.last_call = Some(now);
        }
    }
}

impl Unnamed {
    /// A verified call of this peer's begins: if its certificate counts, it has a place here from now on. None if all are taken. One
    /// that does not count is heard, to be told so, and takes and keeps nothing: its holder's places are for the one that does.
    pub(crate) fn begin(self: &Arc<Self>, peer: &Peer, places: &Places, admitted: &Admitted) -> Option<UnderWay> {
        self.begin_at(Instant::now(), peer, places, admitted)
    }

    fn begin_at(self: &Arc<Self>, now: Instant, peer: &Peer, places: &Places, admitted: &Admitted) -> Option<UnderWay> {
        let mut inside = lock(&self.inside);
        if inside.gave_way {
            return None;
        }
        if !stands(peer, admitted) {
            return Some(UnderWay(None));
        }
        let name = peer.identity.uri();
        inside.claims.retain(|held, claim| *held == name || claim.is_in_use(now));
        let claim = match inside.claims.entry(name.clone()) {
            Entry::Occupied(held) => held.into_mut(),
            Entry::Vacant(free) => {
                let place = places.place(&peer.identity)?;
                free.insert(Claim { peer: peer.clone(), under_way: 0, last_call: None, _place: place })
            }
        };
        claim.peer = peer.clone();
        claim.under_way += 1;
        inside.under_way += 1;
        Some(UnderWay(Some((Arc::clone(self), name))))
    }

    fn is_strangers(&self) -> bool {
        let inside = lock(&self.inside);
        inside.claims.is_empty() && !inside.gave_way
    }

    /// Ends, unless a site has a place in it by now.
    fn gives_way(&self) -> bool {
        let mut inside = lock(&self.inside);
        inside.gave_way |= inside.claims.is_empty();
        if inside.gave_way {
            self.give_way.notify_one();
        }
        inside.gave_way
    }

    /// As long as a call is under way or was not long ago, and a certificate of its sites' has not expired.
    fn stays(&self, now: Instant, wall: Stamp) -> Option<Duration> {
        let inside = lock(&self.inside);
        let life = inside.claims.values().map(|claim| life_left(claim.peer.expires_at_s, wall)).max()?;
        let quiet = inside.last_call.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        let rest = if inside.under_way > 0 { QUIET } else { QUIET.saturating_sub(quiet) };
        Some(life.min(rest)).filter(|longer| !longer.is_zero())
    }

    /// Whether certificates that counted here count no more, and none of another does.
    fn is_shut_out(&self, admitted: &Admitted) -> bool {
        let inside = lock(&self.inside);
        !inside.claims.is_empty() && !inside.claims.values().any(|claim| stands(&claim.peer, admitted))
    }
}

/// Whether a peer's certificate counts.
pub(crate) fn stands(peer: &Peer, admitted: &Admitted) -> bool {
    // Whose certificates are not in the list of members are held to it nowhere.
    peer.identity.role.holder().is_none_or(|holder| admitted.stands(&holder, &peer.serial).is_some())
}

/// Completes when a connection without a certificate is to end: it gives way, or its sites' certificates count no more.
pub(crate) async fn given_up(seat: Seat, mut admitted: watch::Receiver<Admitted>) {
    let Seat::Unnamed(seat) = seat else { return std::future::pending().await };
    loop {
        tokio::select! {
            () = seat.give_way.notified() => return,
            changed = admitted.changed() => {
                if changed.is_err() {
                    return seat.give_way.notified().await;
                }
                if seat.is_shut_out(&admitted.borrow_and_update()) {
                    tracing::warn!("a connection of signed calls is cut: the certificates of its sites count no more");
                    return;
                }
            }
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counts and names are changed by steps that cannot panic.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use certs::identity::{PeerIdentity, Role};
    use common::{Digest, Holder};

    use super::*;
    use crate::identity::CONNECTIONS_OF_ONE;
    use crate::store::MemberRecord;

    fn peer(site: &str) -> Peer {
        let identity = PeerIdentity { federation: "cmr".parse().unwrap(), role: Role::Site(site.parse().unwrap()) };
        Peer { identity, serial: "01".to_owned(), expires_at_s: 1_000 }
    }

    fn record(site: &str) -> MemberRecord {
        MemberRecord {
            holder: Holder::Site(site.parse().unwrap()),
            serial: "01".to_owned(),
            expires_at: Stamp(1_000_000),
            renewal: None,
            enrolled_at: Stamp(0),
            revoked: false,
            signing_key: None,
            signing_certificate: None,
            anchors: Digest::of(b"ca"),
            renewal_anchors: None,
        }
    }

    fn of(sites: &[&str]) -> Admitted {
        Admitted::of(sites.iter().map(|site| record(site)).collect())
    }

    #[test]
    fn the_oldest_stranger_gives_way_to_a_new_one_and_no_member_does() {
        let (strangers, places, admitted) = (Strangers::default(), Places::new(8), of(&["a", "b"]));
        let (member, oldest) = (strangers.come(), strangers.come());
        let call = member.begin(&peer("a"), &places, &admitted).unwrap();
        let others: Vec<_> = (2..=STRANGERS).map(|_| strangers.come()).collect();
        assert!(oldest.is_strangers() && others.iter().all(|other| other.is_strangers()));
        let newest = strangers.come();
        assert!(!oldest.is_strangers() && newest.is_strangers() && others.iter().all(|other| other.is_strangers()));
        assert!(oldest.begin(&peer("b"), &places, &admitted).is_none(), "who gave way does not come back");
        assert!(member.begin(&peer("a"), &places, &admitted).is_some());
        drop(call);
    }

    #[test]
    fn a_connection_of_signed_calls_stays_while_they_come_and_no_longer_than_a_certificate() {
        let (strangers, places, admitted) = (Strangers::default(), Places::new(8), of(&["a", "b"]));
        let (seat, now, wall) = (strangers.come(), Instant::now(), Stamp(0));
        assert_eq!(seat.stays(now, wall), None, "a stranger's time is not longer than it is");
        let call = seat.begin(&peer("a"), &places, &admitted).unwrap();
        assert_eq!(seat.stays(now + 10 * QUIET, wall), Some(QUIET));
        assert_eq!(seat.stays(now, Stamp(990_000)), Some(Duration::from_secs(10)));
        assert_eq!(seat.stays(now, Stamp(1_000_000)), None, "it has expired");
        drop(call);
        assert!(seat.stays(Instant::now(), wall).is_some());
        assert_eq!(seat.stays(Instant::now() + QUIET, wall), None);
    }

    #[test]
    fn a_site_that_is_quiet_in_connections_of_others_has_its_places_elsewhere() {
        let (strangers, places, admitted) = (Strangers::default(), Places::new(64), of(&["a", "b"]));
        let shared: Vec<_> = (0..CONNECTIONS_OF_ONE).map(|_| strangers.come()).collect();
        let (own, later) = (strangers.come(), Instant::now() + QUIET + Duration::from_secs(1));
        let calls = |site: &str, now| -> Vec<UnderWay> {
            shared.iter().map(|seat| seat.begin_at(now, &peer(site), &places, &admitted).unwrap()).collect()
        };
        let uploads = calls("a", Instant::now());
        drop(calls("b", later));
        assert!(own.begin(&peer("a"), &places, &admitted).is_none(), "its calls are under way there");
        drop(uploads);
        drop(calls("b", Instant::now()));
        assert!(own.begin(&peer("a"), &places, &admitted).is_none(), "nor is it quiet yet");
        drop(calls("b", later));
        assert!(own.begin(&peer("a"), &places, &admitted).is_some());
    }

    #[test]
    fn a_connection_ends_when_certificates_counted_in_it_and_none_does_any_more() {
        let (strangers, places) = (Strangers::default(), Places::new(8));
        let (seat, nobody) = (strangers.come(), Admitted::default());
        assert!(!seat.is_shut_out(&nobody), "a stranger is not cut by a revocation");
        let calls = [("a", of(&["a", "b"])), ("b", of(&["a", "b"]))]
            .map(|(site, admitted)| seat.begin(&peer(site), &places, &admitted).unwrap());
        assert!(!seat.is_shut_out(&of(&["b"])), "one of its sites is there yet");
        assert!(seat.is_shut_out(&nobody));
        drop(calls);
        // Who never counted is heard, and told so by every call.
        let unheard = strangers.come();
        let _call = unheard.begin(&peer("c"), &places, &nobody).unwrap();
        assert!(!unheard.is_shut_out(&nobody));
    }

    #[test]
    fn a_certificate_that_does_not_count_is_heard_in_a_strangers_seat_and_takes_no_place_of_its_site() {
        let (strangers, places, admitted) = (Strangers::default(), Places::new(64), of(&["a", "b"]));
        let old = Peer { serial: "00".to_owned(), ..peer("a") };
        let held: Vec<_> = (0..=CONNECTIONS_OF_ONE).map(|_| strangers.come()).collect();
        let heard: Vec<_> = held.iter().map(|seat| seat.begin(&old, &places, &admitted).unwrap()).collect();
        assert!(held.iter().all(|seat| seat.is_strangers() && seat.stays(Instant::now(), Stamp(0)).is_none()));
        let own = strangers.come();
        let call = own.begin(&peer("a"), &places, &admitted);
        assert!(call.is_some(), "its site has its places");
        // Nor does it change what its site has in the same connection.
        drop((own.begin(&old, &places, &admitted), call, heard));
        assert!(!own.is_shut_out(&admitted) && own.stays(Instant::now(), Stamp(0)).is_some());
    }

    #[test]
    fn a_site_has_no_more_connections_by_signed_calls_than_by_handshakes() {
        let (strangers, places, admitted) = (Strangers::default(), Places::new(100), of(&["a", "b"]));
        let most = crate::identity::CONNECTIONS_OF_ONE;
        let seats: Vec<_> = (0..=most).map(|_| strangers.come()).collect();
        let begun: Vec<_> = seats.iter().map(|seat| seat.begin(&peer("a"), &places, &admitted)).collect();
        assert_eq!(begun.iter().flatten().count(), most);
        // Another site in the same connection has its own.
        assert!(seats[0].begin(&peer("b"), &places, &admitted).is_some());
        drop((begun, seats));
        assert!(strangers.come().begin(&peer("a"), &places, &admitted).is_some());
    }
}
