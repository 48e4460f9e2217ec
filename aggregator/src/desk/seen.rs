//! What of the federation's status the administrator of one site may see. A pure function.

use common::SiteId;

use crate::round::without_names;
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
