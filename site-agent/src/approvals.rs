//! Which plans a person at this site approved, by their digests, in the order in which that was.

use common::{Digest, Plan};

use crate::durable::{self, DiskError};
use crate::home::Home;

/// The plans that a person at this site approved, the last one last.
pub fn approved(home: &Home) -> Result<Vec<Digest>, DiskError> {
    let path = home.approvals();
    let bytes = durable::read_if_there(&path)?;
    bytes.map_or(Ok(Vec::new()), |bytes| {
        serde_json::from_slice(&bytes).map_err(|error| durable::told("read", &path)(error.into()))
    })
}

/// Records a person's approval of a plan.
pub fn approve(home: &Home, plan: Digest) -> Result<(), DiskError> {
    let path = home.approvals();
    // Two people who approve at the same time approve both.
    let _lock = durable::lock_beside(&path)?;
    let mut all = approved(home)?;
    all.retain(|known| *known != plan);
    all.push(plan);
    let bytes = serde_json::to_vec_pretty(&all).map_err(|error| durable::told("write", &path)(error.into()))?;
    durable::write(&path, &bytes)
}

/// The plans that this site has heard of, by their digests.
pub fn announced(home: &Home) -> anyhow::Result<Vec<(Digest, Plan)>> {
    let mut known = Vec::new();
    for entry in std::fs::read_dir(home.plans()).into_iter().flatten() {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // Not approved.json, and not who signed.
        let Some(digest) = name.strip_suffix(".json").and_then(|name| name.parse::<Digest>().ok()) else { continue };
        known.push((digest, Plan::from_kept_bytes(&durable::read(&home.plan(digest))?, digest)?));
    }
    known.sort_by_key(|(digest, _)| *digest);
    Ok(known)
}

/// Why what was typed approves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOne {
    /// Neither a digest nor its beginning.
    #[error(
        "{0:?} is no digest of a plan: type the 64 hexadecimal digits that `site-agent plans` shows, or the first {FEWEST} or more"
    )]
    NotADigest(String),
    /// The beginning of none.
    #[error(
        "no plan that was announced to this site begins with {0}: compare it with `site-agent plans`; a plan that is yet to come \
         is approved by all 64 digits, which the coordinator reads out"
    )]
    Unknown(String),
    /// The beginning of several.
    #[error("{typed} is the beginning of {} plans: type more digits of one of\n{}", .of.len(), list(.of))]
    Ambiguous {
        /// What was typed.
        typed: String,
        /// The plans.
        of: Vec<Digest>,
    },
}

/// Digits without which nothing is approved: fewer are typed by accident.
const FEWEST: usize = 8;

fn list(of: &[Digest]) -> String {
    of.iter().map(|digest| format!("  {digest}")).collect::<Vec<_>>().join("\n")
}

/// The plan that a person means: all of its digits, or the beginning of exactly one that was announced.
pub fn meant(typed: &str, announced: &[Digest]) -> Result<Digest, NotOne> {
    if let Ok(digest) = typed.parse() {
        return Ok(digest);
    }
    let begins = typed.to_ascii_lowercase();
    if !(FEWEST..64).contains(&typed.len()) || !begins.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(NotOne::NotADigest(typed.chars().take(80).collect()));
    }
    let of: Vec<Digest> = announced.iter().copied().filter(|digest| digest.to_string().starts_with(&begins)).collect();
    match of[..] {
        [one] => Ok(one),
        [] => Err(NotOne::Unknown(begins)),
        _ => Err(NotOne::Ambiguous { typed: begins, of }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_approval_is_remembered_by_the_whole_digest_and_the_last_one_is_last() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path());
        assert!(approved(&home).unwrap().is_empty());
        let (plan, another) = (Digest::of(b"plan"), Digest::of(b"another"));
        [plan, another, plan].into_iter().try_for_each(|digest| approve(&home, digest)).unwrap();
        assert_eq!(approved(&home).unwrap(), [another, plan]);
        assert!(!approved(&home).unwrap().contains(&Digest::of(b"plan ")), "one changed byte needs another approval");
    }

    #[test]
    fn of_approvals_at_the_same_time_none_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path());
        let plans: Vec<Digest> = (0..8u8).map(|plan| Digest::of(&[plan])).collect();
        std::thread::scope(|scope| {
            for plan in &plans {
                scope.spawn(|| approve(&home, *plan).unwrap());
            }
        });
        let mut all = approved(&home).unwrap();
        all.sort();
        let mut plans = plans;
        plans.sort();
        assert_eq!(all, plans);
    }

    #[test]
    fn a_beginning_approves_the_one_plan_that_it_is_of_and_nothing_else() {
        let twins = [
            Digest([7; 32]),
            Digest({
                let mut twin = [7; 32];
                twin[31] = 8;
                twin
            }),
        ];
        let all = [Digest::of(b"plan"), twins[0], twins[1]];
        assert_eq!(meant(&all[0].to_string()[..8], &all), Ok(all[0]));
        assert_eq!(meant(&all[0].to_string()[..20].to_uppercase(), &all), Ok(all[0]));
        assert_eq!(meant(&twins[1].to_string(), &all), Ok(twins[1]));
        let future = Digest::of(b"a plan that is yet to come");
        assert_eq!(meant(&future.to_string(), &all), Ok(future));
        let told = |typed: &str| meant(typed, &all).unwrap_err().to_string();
        assert!(told(&future.to_string()[..12]).contains("compare it with `site-agent plans`"));
        let ambiguous = told(&twins[0].to_string()[..10]);
        assert!(ambiguous.contains("2 plans") && ambiguous.contains(&twins[1].to_string()), "{ambiguous}");
        for wrong in ["", "07", "0707070", "not hexadecimal", &"0".repeat(65)] {
            assert!(told(wrong).contains("64 hexadecimal digits"), "{wrong}");
        }
    }
}
