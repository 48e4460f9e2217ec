//! What people ask of a federation, whoever carries it here: the commands that work on the state folder, or a person's call over
//! the network ([`calls`]; [`remote`] is the other end). Both do the same things by the same functions, and the ledger says who
//! asked.

use std::path::Path;
use std::time::Duration;

use certs::CertsError;
use certs::authority::Authority;
use certs::invitation::Invitation;
use common::ledger::{self, Broken};
use common::words::is_obeyed;
use common::{Digest, Holder, Plan, Refusal, RunId, SiteId};
use serde::Serialize;

use crate::authority;
use crate::clock::Stamp;
use crate::ledger::{Actor, Event};
use crate::run::ABORTED;
use crate::store::{FederationRecord, Revoked, RunRecord, RunState, Store, StoreError, Wish};

pub mod calls;
pub mod first_model;
pub mod folder;
pub mod remote;
mod seen;

/// Time within which an invitation must be used.
const VALID: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest reason for an abort, in bytes.
const REASON: usize = 200;
/// Lines of the ledger that are read from the store at a time.
const AT_ONCE: u64 = 1024;

/// Why something cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// Not host:port.
    #[error("{0:?} is not an address: host:port is expected")]
    Address(String),
    /// The server's certificate is for other hosts.
    #[error(
        "the server's certificate does not name {0}: add it to `names` in aggregator.toml in the state folder, and restart the \
         server"
    )]
    UnnamedHost(String),
    /// Nothing to revoke.
    #[error("{0} has no certificate that counts and no open invitation: `aggregator status` lists who is enrolled")]
    NothingToRevoke(Holder),
    /// No such run.
    #[error("there is no run {0}: `aggregator run list`")]
    NoRun(RunId),
    /// A run that has ended, or is about to.
    #[error("run {run} is over: {how}")]
    Over {
        /// The run.
        run: RunId,
        /// How it ended.
        how: String,
    },
    /// Nothing stands still that could go on.
    #[error("run {run} is not paused: {state}")]
    NotPaused {
        /// The run.
        run: RunId,
        /// How it stands.
        state: &'static str,
    },
    /// It stands still already.
    #[error("run {0} is paused already: `aggregator run resume {0}` lets it go on")]
    Paused(RunId),
    /// A reason that is none, or too long.
    #[error("--because has {0} bytes, but must have 1 to {REASON}")]
    Reason(usize),
    /// A reason that is no line of text.
    #[error("--because holds {0:?}, but must be one line of text: others read it in their terminals")]
    Obeyed(char),
    /// A plan that needs fewer signatures than this federation asks for.
    #[error(
        "the plan asks for {found} signatures of coordinators, but `signatures` in aggregator.toml is {least}: write \
         `signatures = {least}` at the plan's beginning"
    )]
    TooFewSignatures {
        /// The plan's.
        found: u32,
        /// The federation's.
        least: u32,
    },
    /// A model that is larger than all updates together may be.
    #[error("the plan's model has {bytes} bytes, but `max_spool_bytes` in aggregator.toml is {room}: raise it there")]
    NoRoom {
        /// The model's.
        bytes: u64,
        /// The settings'.
        room: u64,
    },
    /// Another CA takes the place of the federation's already.
    #[error("a next CA is there already: `aggregator authority show`, then `switch`")]
    NextAuthority,
    /// No other CA takes its place.
    #[error("there is no next CA: make one with `aggregator authority next`")]
    NoNextAuthority,
    /// The ledger does not hold.
    #[error("the aggregator's ledger does not hold: {0}")]
    Ledger(#[from] Broken),
    /// The certificate authority.
    #[error("the certificate authority: {0}")]
    Certs(#[from] CertsError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DeskError> for Refusal {
    fn from(error: DeskError) -> Self {
        match error {
            DeskError::NoRun(run) => Self::UnknownRun(run),
            DeskError::Store(StoreError::Full) => Self::DiskFull,
            DeskError::Store(error @ StoreError::RunExists(_)) => Self::Refused(error.to_string()),
            DeskError::Store(_) | DeskError::Certs(_) | DeskError::Ledger(_) => {
                tracing::error!(%error, "what a person asked for failed");
                Self::Unavailable
            }
            error => Self::Refused(error.to_string()),
        }
    }
}

/// An invitation, with what is told along with it.
#[derive(Clone, Debug, Serialize)]
pub struct Invited {
    /// Who is invited, if it is a site.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<SiteId>,
    /// Who is invited, if it is a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub person: Option<common::Person>,
    /// The line.
    pub invitation: String,
    /// Where the aggregator is reached.
    pub address: String,
    /// The CA's fingerprint.
    pub authority_fingerprint: Digest,
    /// Until when it can be used.
    pub expires_at: Stamp,
    /// Earlier unused ones that have expired.
    pub earlier_expired: usize,
}

impl Invited {
    /// The line that `invitation` is, as it is told.
    pub fn of(invitation: &Invitation, expires_at: Stamp, earlier_expired: usize) -> Self {
        Self {
            site: invitation.holder.site().cloned(),
            person: invitation.holder.person().cloned(),
            invitation: invitation.to_string(),
            address: invitation.address.clone(),
            authority_fingerprint: invitation.authority,
            expires_at,
            earlier_expired,
        }
    }
}

/// Who asks, and when.
#[derive(Clone, Debug)]
pub struct Asking {
    /// Who.
    pub by: Actor,
    /// When.
    pub now: Stamp,
}

/// Makes an invitation for a holder, who reaches the aggregator at `address`, or where everybody does.
pub fn invite(
    store: &dyn Store,
    authority: &Authority,
    names: &[String],
    holder: Holder,
    address: Option<String>,
    asking: &Asking,
) -> Result<Invited, DeskError> {
    let FederationRecord { name, address: usual, .. } = store.federation()?;
    let address = address.unwrap_or(usual);
    let host = authority::host(&address).ok_or_else(|| DeskError::Address(address.clone()))?;
    if !names.iter().any(|name| name == host) {
        return Err(DeskError::UnnamedHost(host.to_owned()));
    }
    let invitation = Invitation::new(name, address, holder, authority.fingerprint()?)?;
    let expires_at = asking.now.after(VALID);
    let earlier = store.invite(invitation.token.digest()?, &invitation.holder, &asking.by, asking.now, expires_at)?;
    Ok(Invited::of(&invitation, expires_at, earlier))
}

/// Ends a holder's certificate and open invitations.
pub fn revoke(store: &dyn Store, holder: &Holder, asking: &Asking) -> Result<Revoked, DeskError> {
    let revoked = store.revoke(holder, &asking.by, asking.now)?;
    match revoked {
        Revoked { certificate: false, invitations: 0 } => Err(DeskError::NothingToRevoke(holder.clone())),
        revoked => Ok(revoked),
    }
}

/// Makes the CA that takes the place of the federation's. The ledger has it before a member can: one that was announced and did
/// not come is asked for again, and none is taken over unsaid.
pub fn announce_authority(store: &dyn Store, state: &Path, asking: &Asking) -> Result<(), DeskError> {
    let federation = store.federation()?.name;
    let held = authority::hold(state)?;
    let (before, None) = held.read(&federation)? else { return Err(DeskError::NextAuthority) };
    let next = held.prepare_next(&federation, asking.now)?.fingerprint()?;
    let announced = Event::AuthorityAnnounced { authority: before.fingerprint()?, next, by: &asking.by };
    store.enter(&announced, asking.now)?;
    Ok(held.begin_next()?)
}

/// Puts the next CA in the place of the federation's, of whose members these do not know it. The ledger has it first: one that
/// was asked for and did not happen is asked for again, and none takes another's place unsaid.
pub fn switch_authority(
    store: &dyn Store,
    state: &Path,
    shut_out: &[Holder],
    asking: &Asking,
) -> Result<(), DeskError> {
    let federation = store.federation()?.name;
    let held = authority::hold(state)?;
    let (before, Some(next)) = held.read(&federation)? else { return Err(DeskError::NoNextAuthority) };
    let (before, next) = (before.fingerprint()?, next.fingerprint()?);
    let switched = Event::AuthoritySwitched { before, authority: next, shut_out, by: &asking.by };
    store.enter(&switched, asking.now)?;
    Ok(held.switch()?)
}

/// Something that is asked of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Its rounds are to stand still.
    Pause,
    /// They are to go on.
    Resume,
    /// It is to end, for this reason.
    Abort(String),
}

/// Writes down what is asked of a run that goes on; a running server heeds it within a second, another one when it starts.
pub fn ask(store: &dyn Store, run: &RunId, wanted: &Wanted, asking: &Asking) -> Result<(), DeskError> {
    loop {
        // Nothing asked yet is nothing asked.
        let before = store.wishes()?.remove(run).unwrap_or_default();
        let wish = wish(store, run, &before, wanted)?;
        // Of two who ask at the same time, the later one asks with the other's wish before it.
        if store.wish(run, &before, &wish, &asking.by, asking.now)? {
            return Ok(());
        }
    }
}

/// What is asked of a run once this is wanted as well.
fn wish(store: &dyn Store, run: &RunId, before: &Wish, wanted: &Wanted) -> Result<Wish, DeskError> {
    let over = |how: String| Err(DeskError::Over { run: run.clone(), how });
    let state = match (record(store, run)?.state, &before.abort) {
        (RunState::Finished, _) => return over("all its rounds are merged".to_owned()),
        (RunState::Failed { because }, _) => return over(because),
        // A server has not heeded it yet.
        (RunState::Running | RunState::Awaiting, Some(because)) => return over(format!("{ABORTED}{because}")),
        (RunState::Running, None) => "it is running",
        (RunState::Awaiting, None) => "it awaits signatures",
    };
    match wanted {
        Wanted::Pause if before.paused => Err(DeskError::Paused(run.clone())),
        Wanted::Resume if !before.paused => Err(DeskError::NotPaused { run: run.clone(), state }),
        Wanted::Pause => Ok(Wish { paused: true, ..before.clone() }),
        Wanted::Resume => Ok(Wish { paused: false, ..before.clone() }),
        Wanted::Abort(because) => Ok(Wish { abort: Some(reason(because)?), ..before.clone() }),
    }
}

/// A reason as it is written down: all sites and persons read it.
fn reason(because: &str) -> Result<String, DeskError> {
    let because = because.trim();
    if !(1..=REASON).contains(&because.len()) {
        return Err(DeskError::Reason(because.len()));
    }
    because
        .chars()
        .find(|c| is_obeyed(*c))
        .map_or_else(|| Ok(because.to_owned()), |obeyed| Err(DeskError::Obeyed(obeyed)))
}

/// A run as it is written down.
pub fn record(store: &dyn Store, run: &RunId) -> Result<RunRecord, DeskError> {
    let (found, damaged): (Vec<_>, Vec<_>) = store.runs(0)?.into_iter().partition(Result::is_ok);
    let found = found.into_iter().flatten().find(|record| record.plan.run() == run);
    match (found, damaged.into_iter().find_map(Result::err)) {
        (Some(record), _) => Ok(record),
        // It may be the one that is asked for.
        (None, Some(error)) => Err(error.into()),
        (None, None) => Err(DeskError::NoRun(run.clone())),
    }
}

/// Holds a plan to the signatures that this federation asks for.
pub fn require_signatures(plan: &Plan, least: u32) -> Result<(), DeskError> {
    let found = plan.draft.signatures;
    if found < least { Err(DeskError::TooFewSignatures { found, least }) } else { Ok(()) }
}

/// Holds a model's length to the room that the settings have for all updates together.
pub fn require_room(bytes: u64, room: u64) -> Result<(), DeskError> {
    if bytes > room { Err(DeskError::NoRoom { bytes, room }) } else { Ok(()) }
}

/// Sites of a plan that are still to enrol.
pub fn not_enrolled(store: &dyn Store, plan: &Plan) -> Result<Vec<SiteId>, DeskError> {
    let enrolled: Vec<SiteId> = store.sites()?.into_iter().filter(|site| !site.revoked).map(|site| site.site).collect();
    Ok(plan.draft.rounds.sites.iter().filter(|site| !enrolled.contains(site)).cloned().collect())
}

/// All lines of the ledger, held to their chain and to where it is noted to end; and that end.
pub fn ledger(store: &dyn Store) -> Result<(Vec<String>, ledger::Head), DeskError> {
    let (lines, end) = lines(store)?;
    ledger::verify(lines.iter().map(String::as_str), &[end], |_, _| {})?;
    Ok((lines, end))
}

/// The ledger's lines up to where it ends just now, and that end, which is read first: others append to it meanwhile.
pub(crate) fn lines(store: &dyn Store) -> Result<(Vec<String>, ledger::Head), StoreError> {
    let end = store.ledger_head()?;
    let mut lines = Vec::new();
    loop {
        let left = end.entries.saturating_sub(lines.len() as u64);
        let some = store.ledger(lines.len() as u64, left.min(AT_ONCE))?;
        if some.is_empty() {
            return Ok((lines, end));
        }
        lines.extend(some);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_a_line_of_text_that_no_terminal_obeys() {
        assert_eq!(reason(" the wrong plan\n").unwrap(), "the wrong plan");
        for because in ["all is well\nrun story: finished", "a\u{1b}[2Jb", "a\u{9b}b", "a\u{202e}b"] {
            let refused = reason(because).unwrap_err().to_string();
            assert!(refused.contains("must be one line of text") && !refused.contains(is_obeyed), "{refused:?}");
        }
        assert!(matches!(reason(&"a".repeat(REASON + 1)), Err(DeskError::Reason(_))));
    }
}
