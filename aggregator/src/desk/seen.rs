//! What of the federation's status the administrator of one site may see. A pure function.

use common::SiteId;

use crate::status::Status;

impl Status {
    /// What the administrator of one site may see: that site, the runs that invite it, and its own part in them. What is told of
    /// several sites together is left out, because with two of them it would tell of the other.
    pub fn seen_by_site(mut self, site: &SiteId) -> Self {
        self.sites.retain(|enrolled| enrolled.site == *site);
        self.persons.clear();
        self.damaged_runs.clear();
        self.runs.retain(|run| run.sites.contains_key(site));
        for run in &mut self.runs {
            run.because = run.because.take().map(|because| without_names(because, run.sites.keys(), site));
            run.sites.retain(|other, _| other == site);
            run.scores.iter_mut().for_each(|scores| scores.sites.retain(|other, _| other == site));
            run.tasks.iter_mut().for_each(|task| task.best = None);
            if let Some(open) = &mut run.open {
                open.joined.retain(|other| other == site);
                open.reported.retain(|other| other == site);
                open.declined.retain(|other, _| other == site);
                open.expected_in_ms.retain(|other, _| other == site);
            }
            for round in &mut run.rounds {
                round.sites.retain(|part| part.site == *site);
                round.left_out.retain(|left_out| left_out.site == *site);
                (round.meters, round.delta_norm) = (None, None);
                // How far the merge is its own: of two sites the rest is the other's, subjects and update.
                for part in &mut round.sites {
                    (part.share, part.share_parts, part.cosine) = (None, None, None);
                }
                round.alarms.clear();
            }
        }
        self
    }
}

/// Why a run does not go on, as it is told to one of its sites: unless that names another of them.
pub(crate) fn without_names<'a>(
    because: String,
    sites: impl Iterator<Item = &'a SiteId> + Clone,
    own: &SiteId,
) -> String {
    let is_name = |word: &str| sites.clone().any(|site| site != own && site.as_str() == word);
    let mut words = because.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    if words.any(is_name) { "for a reason that names other sites: ask the coordinator".to_owned() } else { because }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_unless_it_names_another_site() {
        let sites = ["aalst", "bergen", "c"].map(|site| site.parse::<SiteId>().unwrap());
        let told = |because: &str| without_names(because.to_owned(), sites.iter(), &sites[0]);
        assert_eq!(told("left out: aalst: declined"), "left out: aalst: declined", "its own it may hear");
        assert_eq!(told("aborted by the coordinator: a scanner"), "aborted by the coordinator: a scanner");
        for naming in ["left out: bergen: declined", "the update of c is damaged", "c"] {
            assert!(told(naming).contains("ask the coordinator") && !told(naming).contains("declined"));
        }
    }
}
