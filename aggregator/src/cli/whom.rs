//! Whom a command is about: a site, or a person in an office.

use clap::Args;
use common::{Holder, Office, Person, PersonId, SiteId};

use super::Failure;

#[derive(Debug, Args)]
pub(super) struct Whom {
    #[command(flatten)]
    who: Who,
    /// The site of an administrator.
    #[arg(long, value_name = "SITE", requires = "administrator")]
    of: Option<SiteId>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Who {
    /// The site's name: 1 to 32 of a-z, 0-9 and '-'.
    site: Option<SiteId>,
    /// A person who plans and starts runs, invites, revokes, and signs plans.
    #[arg(long, value_name = "NAME")]
    coordinator: Option<PersonId>,
    /// A person who answers for one site, which `--of` names: sees how it stands, and may revoke it.
    #[arg(long, value_name = "NAME", requires = "of")]
    administrator: Option<PersonId>,
    /// A person who sees how the federation stands and what happened, and changes nothing.
    #[arg(long, value_name = "NAME")]
    observer: Option<PersonId>,
}

impl Whom {
    /// The holder that is meant.
    pub(super) fn holder(self) -> Result<Holder, Failure> {
        let Self { who: Who { site, coordinator, administrator, observer }, of } = self;
        let person = |name, office| Holder::Person(Person { name, office });
        let all = [
            site.map(Holder::Site),
            coordinator.map(|name| person(name, Office::Coordinator)),
            administrator.zip(of).map(|(name, site)| person(name, Office::Administrator(site))),
            observer.map(|name| person(name, Office::Observer)),
        ];
        let named = all.into_iter().flatten().next();
        named.ok_or_else(|| {
            Failure::Usage("name a site, or --coordinator, --observer, or --administrator with --of <site>".to_owned())
        })
    }
}

/// How a holder is typed after a verb.
pub(super) fn typed(holder: &Holder) -> String {
    match holder {
        Holder::Site(site) => site.to_string(),
        Holder::Person(Person { name, office: Office::Coordinator }) => format!("--coordinator {name}"),
        Holder::Person(Person { name, office: Office::Administrator(site) }) => {
            format!("--administrator {name} --of {site}")
        }
        Holder::Person(Person { name, office: Office::Observer }) => format!("--observer {name}"),
    }
}
