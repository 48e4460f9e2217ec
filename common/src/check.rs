//! What a program's doctor asks, and what it finds: a check, as a value, and all of them as a table.

use serde::Serialize;

/// One question, and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it is.
    pub outcome: Outcome,
    /// What was found, in numbers and in words of this program.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// What was found, with paths, hosts and words of others: for whoever sits at this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub here: Option<String>,
}

/// How a check ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// It cannot be looked at yet: something before it is missing.
    NotYet,
    /// It works, but not for long, or not well.
    Warning,
    /// It does not work.
    Failure,
}

impl Check {
    /// All is well.
    pub fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Ok, found: found.into(), remedy: None, here: None }
    }

    /// Nothing to look at yet.
    pub fn not_yet(name: &'static str, found: impl Into<String>) -> Self {
        Self { outcome: Outcome::NotYet, ..Self::ok(name, found) }
    }

    /// It works, but not for long, or not well.
    pub fn warning(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { outcome: Outcome::Warning, remedy: Some(remedy.into()), ..Self::ok(name, found) }
    }

    /// It does not work.
    pub fn failure(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { outcome: Outcome::Failure, ..Self::warning(name, found, remedy) }
    }

    /// The same, with words for whoever sits at this machine.
    pub fn here(self, here: impl Into<String>) -> Self {
        Self { here: Some(here.into()), ..self }
    }

    /// The same without what is this place's own.
    pub fn to_send(&self) -> Self {
        Self { here: None, ..self.clone() }
    }
}

/// How many failed.
pub fn failures(checks: &[Check]) -> usize {
    checks.iter().filter(|check| check.outcome == Outcome::Failure).count()
}

/// A line a check; its remedy, and what is of this place alone, on lines of their own.
pub fn table(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.chars().count()).max().unwrap_or_default();
    let mut text = String::new();
    for check in checks {
        let word = match check.outcome {
            Outcome::Ok => "ok",
            Outcome::NotYet => "not yet",
            Outcome::Warning => "WARNING",
            Outcome::Failure => "FAILURE",
        };
        text += &format!("{:<width$}  {word:<7}  {}\n", check.name, check.found);
        for (sign, more) in [("", &check.here), ("->", &check.remedy)] {
            if let Some(more) = more {
                text += &format!("{:<width$}  {sign:>7}  {more}\n", "");
            }
        }
    }
    let warnings = checks.iter().filter(|check| check.outcome == Outcome::Warning).count();
    text + &format!("{} checks, {warnings} warnings, {} failures\n", checks.len(), failures(checks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_a_line_with_its_remedy_below_it() {
        let checks = [Check::ok("disk", "much"), Check::failure("key files", "open", "chmod 600").here("/etc")];
        let expected = "disk       ok       much\n\
                        key files  FAILURE  open\n                    /etc\n                ->  chmod 600\n\
                        2 checks, 0 warnings, 1 failures\n";
        assert_eq!(table(&checks), expected);
        assert_eq!((failures(&checks), checks[1].to_send().here), (1, None));
    }
}
