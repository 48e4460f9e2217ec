//! Who may do what, as one table: a row for each deed, with the call that it arrives by, and a column for each kind of caller.
//! What is not in it is refused. The story in `tests/stories/persons.rs` makes every call of it as everybody.
//!
//! A call whose message says how far it goes (whom to invite, whom to revoke) has a row for each. [`permits_call`] is asked before
//! a byte of a call is read, [`permit`] once it is known what is asked.

use common::{Holder, Office, Refusal, SiteId};

/// Something that can be asked of the aggregator over the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    /// Exchange an invitation for a certificate.
    Enrol,
    /// Say how a site goes, and hear what to do.
    Report,
    /// Fetch a plan, to train under it.
    GetPlan,
    /// Fetch a model.
    Download,
    /// Announce an update.
    BeginUpload,
    /// Send a piece of an update.
    UploadChunk,
    /// End an update.
    FinishUpload,
    /// Take a site's new certificate.
    Renew,
    /// Say what a site measured.
    ReportScores,
    /// See how the federation stands.
    ReadStatus,
    /// Read the ledger.
    ReadLedger,
    /// Read a run's plan.
    ReadPlan,
    /// Start a run.
    StartRun,
    /// Sign a plan.
    SignPlan,
    /// Let a run stand still.
    PauseRun,
    /// Let a run go on.
    ResumeRun,
    /// End a run.
    AbortRun,
    /// Invite a site.
    InviteSite,
    /// Invite the administrator of a site.
    InviteAdministrator,
    /// Invite an observer.
    InviteObserver,
    /// Invite a coordinator.
    InviteCoordinator,
    /// Revoke a site.
    RevokeSite,
    /// Revoke a person.
    RevokePerson,
    /// Take a person's new certificate.
    RenewPerson,
}

impl Deed {
    /// Inviting somebody.
    pub fn invite(holder: &Holder) -> Self {
        match holder {
            Holder::Site(_) => Self::InviteSite,
            Holder::Person(person) => match person.office {
                Office::Coordinator => Self::InviteCoordinator,
                Office::Administrator(_) => Self::InviteAdministrator,
                Office::Observer => Self::InviteObserver,
            },
        }
    }

    /// What is done, in the table's words.
    pub fn words(self) -> &'static str {
        TABLE.iter().find(|row| row.deed == self).unwrap_or(&UNKNOWN).words
    }

    /// Revoking somebody.
    pub fn revoke(holder: &Holder) -> Self {
        match holder {
            Holder::Site(_) => Self::RevokeSite,
            Holder::Person(_) => Self::RevokePerson,
        }
    }
}

/// How far a kind of caller may go in a deed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// Not at all.
    No,
    /// Where it is about the caller's own site.
    OwnSite,
    /// Whatever it is about.
    Yes,
}

/// A kind of caller: a column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A connection without a certificate.
    Nobody,
    /// A site's agent.
    Site,
    /// A coordinator.
    Coordinator,
    /// The administrator of a site.
    Administrator,
    /// An observer.
    Observer,
}

impl Kind {
    /// All columns, in the table's order.
    pub const ALL: [Self; 5] = [Self::Nobody, Self::Site, Self::Coordinator, Self::Administrator, Self::Observer];

    /// The kind of a caller.
    pub fn of(caller: Option<&Holder>) -> Self {
        match caller {
            None => Self::Nobody,
            Some(Holder::Site(_)) => Self::Site,
            Some(Holder::Person(person)) => match person.office {
                Office::Coordinator => Self::Coordinator,
                Office::Administrator(_) => Self::Administrator,
                Office::Observer => Self::Observer,
            },
        }
    }

    fn several(self) -> &'static str {
        match self {
            Self::Nobody => "whoever has no certificate yet",
            Self::Site => "sites",
            Self::Coordinator => "coordinators",
            Self::Administrator => "administrators",
            Self::Observer => "observers",
        }
    }
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What is done.
    pub deed: Deed,
    /// The call that it arrives by.
    pub call: &'static str,
    /// In words, after "may".
    pub words: &'static str,
    /// What each kind of caller may, in the order of [`Kind::ALL`].
    pub grants: [Grant; 5],
}

impl Row {
    /// What a kind of caller may.
    pub fn grant(&self, kind: Kind) -> Grant {
        let place = Kind::ALL.iter().position(|other| *other == kind);
        place.map_or(Grant::No, |place| self.grants[place])
    }

    /// Who may, for people.
    fn may(&self) -> String {
        let of = |kind: &Kind| match self.grant(*kind) {
            Grant::No => None,
            Grant::Yes => Some(kind.several().to_owned()),
            Grant::OwnSite if *kind == Kind::Administrator => Some("administrators of that very site".to_owned()),
            Grant::OwnSite => Some(kind.several().to_owned()),
        };
        let all: Vec<String> = Kind::ALL.iter().filter_map(of).collect();
        match all.is_empty() {
            true => "whoever may write to the aggregator's state folder, with --state there".to_owned(),
            false => all.join(", "),
        }
    }

    fn refusal(&self, caller: Option<&Holder>) -> Refusal {
        caller.map_or(Refusal::Unidentified, |who| Refusal::NotPermitted {
            who: who.clone(),
            deed: self.words,
            may: self.may(),
        })
    }
}

const fn row(deed: Deed, call: &'static str, words: &'static str, grants: [Grant; 5]) -> Row {
    Row { deed, call, words, grants }
}

const N: Grant = Grant::No;
const O: Grant = Grant::OwnSite;
const Y: Grant = Grant::Yes;

/// The table. The columns are nobody, site, coordinator, administrator (of a site), observer.
#[rustfmt::skip]
pub const TABLE: &[Row] = &[
    row(Deed::Enrol,               "/cmrfed.v1.Enrolment/Enrol",          "enrol",                             [Y, N, N, N, N]),
    row(Deed::Report,              "/cmrfed.v1.Federation/Report",        "report as a site",                  [N, O, N, N, N]),
    row(Deed::GetPlan,             "/cmrfed.v1.Federation/GetPlan",       "fetch a plan as a site",            [N, O, N, N, N]),
    row(Deed::Download,            "/cmrfed.v1.Federation/Download",      "fetch a model",                     [N, O, N, N, N]),
    row(Deed::BeginUpload,         "/cmrfed.v1.Federation/BeginUpload",   "send an update",                    [N, O, N, N, N]),
    row(Deed::UploadChunk,         "/cmrfed.v1.Federation/UploadChunk",   "send an update",                    [N, O, N, N, N]),
    row(Deed::FinishUpload,        "/cmrfed.v1.Federation/FinishUpload",  "send an update",                    [N, O, N, N, N]),
    row(Deed::Renew,               "/cmrfed.v1.Federation/Renew",         "renew a site's certificate",        [N, O, N, N, N]),
    row(Deed::ReportScores,        "/cmrfed.v1.Federation/ReportScores",  "send scores",                       [N, O, N, N, N]),
    row(Deed::ReadStatus,          "/cmrfed.v1.Coordination/ReadStatus",  "see how the federation stands",     [N, N, Y, O, Y]),
    row(Deed::ReadLedger,          "/cmrfed.v1.Coordination/ReadLedger",  "read the federation's ledger",      [N, N, Y, N, Y]),
    row(Deed::ReadPlan,            "/cmrfed.v1.Coordination/ReadPlan",    "read the plan of a run",            [N, N, Y, O, Y]),
    row(Deed::StartRun,            "/cmrfed.v1.Coordination/StartRun",    "start a run",                       [N, N, Y, N, N]),
    row(Deed::SignPlan,            "/cmrfed.v1.Coordination/SignPlan",    "sign a plan",                       [N, N, Y, N, N]),
    row(Deed::PauseRun,            "/cmrfed.v1.Coordination/PauseRun",    "pause a run",                       [N, N, Y, N, N]),
    row(Deed::ResumeRun,           "/cmrfed.v1.Coordination/ResumeRun",   "let a run go on",                   [N, N, Y, N, N]),
    row(Deed::AbortRun,            "/cmrfed.v1.Coordination/AbortRun",    "end a run",                         [N, N, Y, N, N]),
    row(Deed::InviteSite,          "/cmrfed.v1.Coordination/Invite",      "invite a site",                     [N, N, Y, N, N]),
    row(Deed::InviteAdministrator, "/cmrfed.v1.Coordination/Invite",      "invite the administrator of a site", [N, N, Y, N, N]),
    row(Deed::InviteObserver,      "/cmrfed.v1.Coordination/Invite",      "invite an observer",                [N, N, Y, N, N]),
    // Over the network nobody: a coordinator who could invite another could be both, and sign twice.
    row(Deed::InviteCoordinator,   "/cmrfed.v1.Coordination/Invite",      "invite a coordinator",              [N, N, N, N, N]),
    row(Deed::RevokeSite,          "/cmrfed.v1.Coordination/Revoke",      "revoke a site",                     [N, N, Y, O, N]),
    row(Deed::RevokePerson,        "/cmrfed.v1.Coordination/Revoke",      "revoke a person",                   [N, N, Y, N, N]),
    row(Deed::RenewPerson,         "/cmrfed.v1.Coordination/RenewPerson", "renew a person's certificate",      [N, N, Y, Y, Y]),
];

/// What a call asks, in the words of its first row.
pub fn deed_of(call: &str) -> &'static str {
    TABLE.iter().find(|row| row.call == call).unwrap_or(&UNKNOWN).words
}

/// Whether a caller may make this call for anything at all.
pub fn permits_call(call: &str, caller: Option<&Holder>) -> Result<(), Refusal> {
    let kind = Kind::of(caller);
    let rows: Vec<&Row> = TABLE.iter().filter(|row| row.call == call).collect();
    match rows.first() {
        _ if rows.iter().any(|row| row.grant(kind) != Grant::No) => Ok(()),
        Some(row) => Err(row.refusal(caller)),
        None => Err(UNKNOWN.refusal(caller)),
    }
}

/// Whether a caller may do this, of this site if it is about one.
pub fn permit(deed: Deed, caller: Option<&Holder>, of: Option<&SiteId>) -> Result<(), Refusal> {
    let row = TABLE.iter().find(|row| row.deed == deed).unwrap_or(&UNKNOWN);
    let own = caller.and_then(own_site);
    match row.grant(Kind::of(caller)) {
        Grant::Yes => Ok(()),
        Grant::OwnSite if own.is_some() && own == of => Ok(()),
        Grant::OwnSite | Grant::No => Err(row.refusal(caller)),
    }
}

/// The site that a caller is, or is of.
pub fn own_site(caller: &Holder) -> Option<&SiteId> {
    match caller {
        Holder::Site(site) => Some(site),
        Holder::Person(person) => match &person.office {
            Office::Administrator(site) => Some(site),
            Office::Coordinator | Office::Observer => None,
        },
    }
}

/// What stands for a call that the table does not name.
const UNKNOWN: Row = row(Deed::Enrol, "", "make a call that is not in the table of permissions", [N, N, N, N, N]);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn holder(text: &str) -> Holder {
        text.parse().unwrap()
    }

    #[test]
    fn the_table_names_every_call_that_the_wire_has_and_no_other_and_every_deed_once() {
        let declared: BTreeSet<&str> = proto::CALLS.iter().copied().collect();
        let named: BTreeSet<&str> = TABLE.iter().map(|row| row.call).collect();
        assert_eq!(named, declared, "a call without a row is refused to everybody: give it one");
        let deeds: BTreeSet<Deed> = TABLE.iter().map(|row| row.deed).collect();
        assert_eq!(deeds.len(), TABLE.len(), "a deed has one row");
    }

    #[test]
    fn a_call_that_the_table_does_not_name_is_refused_to_everybody() {
        let callers =
            [None, Some("aalst"), Some("coordinator/alice"), Some("administrator/aalst/carol"), Some("observer/eve")];
        for caller in callers {
            let caller = caller.map(holder);
            let refused = permits_call("/cmrfed.v1.Coordination/Format", caller.as_ref()).unwrap_err();
            assert_eq!(refused.code(), if caller.is_some() { "not-permitted" } else { "unidentified" });
        }
    }

    #[test]
    fn an_administrator_goes_as_far_as_its_own_site_and_no_further() {
        let (carol, aalst, bergen) =
            (holder("administrator/aalst/carol"), "aalst".parse().unwrap(), "bergen".parse().unwrap());
        assert!(permit(Deed::RevokeSite, Some(&carol), Some(&aalst)).is_ok());
        let refused = permit(Deed::RevokeSite, Some(&carol), Some(&bergen)).unwrap_err().to_string();
        assert_eq!(
            refused,
            "administrator carol of aalst may not revoke a site: that is for coordinators, administrators of that very site"
        );
        assert!(permit(Deed::RevokeSite, Some(&carol), None).is_err(), "what is of no site is not its own");
        assert!(permit(Deed::RevokePerson, Some(&carol), Some(&aalst)).is_err());
    }

    #[test]
    fn no_coordinator_makes_another() {
        let alice = holder("coordinator/alice");
        assert!(permits_call("/cmrfed.v1.Coordination/Invite", Some(&alice)).is_ok());
        let told = permit(Deed::invite(&holder("coordinator/bob")), Some(&alice), None).unwrap_err().to_string();
        assert!(told.contains("may not invite a coordinator") && told.contains("--state"), "{told}");
        assert!(permit(Deed::invite(&holder("observer/bob")), Some(&alice), None).is_ok());
    }
}
