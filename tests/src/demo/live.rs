//! Live progress in the terminal: one line a site, from what the aggregator knows.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;

/// Lines that follow a run: the rounds, and each site.
#[derive(Debug)]
pub struct Live {
    rounds: ProgressBar,
    sites: Vec<(String, ProgressBar)>,
    plain: bool,
    told: u64,
    /// Rounds that were closed when this began: a resumed run did them before.
    before: Option<u64>,
    /// Rounds that are closed, and after what time here the last of them was seen to be.
    closed: (u64, Duration),
}

impl Live {
    /// Lines for these sites and so many rounds.
    pub fn new(sites: &[&str], rounds: u64) -> Self {
        let all = MultiProgress::new();
        let style = |template| ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = all.add(ProgressBar::new(rounds));
        bar.set_style(style("  round  [{bar:24}] {pos}/{len}  {elapsed} elapsed, {msg}"));
        let line = |site: &&str| {
            let bar = all.add(ProgressBar::new(1));
            bar.set_style(style("  {prefix:8} [{bar:24}] {msg}"));
            bar.set_prefix((*site).to_owned());
            ((*site).to_owned(), bar)
        };
        let sites = sites.iter().map(line).collect();
        Self {
            rounds: bar,
            sites,
            plain: !std::io::stderr().is_terminal(),
            told: 0,
            before: None,
            closed: (0, Duration::ZERO),
        }
    }

    /// Shows the run as `aggregator status --json` tells it.
    pub fn show(&mut self, run: &Value) {
        let closed = run["rounds"]
            .as_array()
            .map_or(0, |rounds| rounds.iter().filter(|round| !round["model"].is_null()).count());
        if self.before.is_none() || self.closed.0 != closed as u64 {
            self.closed = (closed as u64, self.rounds.elapsed());
        }
        self.before.get_or_insert(closed as u64);
        self.rounds.set_position(closed as u64);
        self.rounds.set_message(self.left());
        for (name, bar) in &self.sites {
            let site = &run["sites"][name.as_str()];
            let (done, total) = (site["done"].as_u64().unwrap_or(0), site["total"].as_u64().unwrap_or(0));
            bar.set_length(total.max(1));
            bar.set_position(done);
            bar.set_message(told(site, done, total));
        }
        if self.plain {
            self.tell_round(run, closed as u64);
        }
    }

    /// Where no terminal shows the lines: one line for every round that closed.
    fn tell_round(&mut self, run: &Value, closed: u64) {
        if closed == 0 || self.told == closed {
            return;
        }
        self.told = closed;
        let newest = run["rounds"].as_array().and_then(|all| all.iter().rfind(|round| !round["model"].is_null()));
        let site = |site: &Value| {
            let number = |key: &str| site[key].as_f64().unwrap_or(f64::NAN);
            let name = site["site"].as_str().unwrap_or_default();
            format!("{name} loss {:.3} entropy {:.3}", number("loss"), number("teacher_entropy"))
        };
        let sites: Vec<_> =
            newest.and_then(|round| round["sites"].as_array()).into_iter().flatten().map(site).collect();
        let of = self.rounds.length().unwrap_or(closed);
        eprintln!("  round {closed} of {of}: {}; {}", sites.join(", "), self.left());
    }

    /// Time to the last round.
    fn left(&self) -> String {
        let (closed, at) = self.closed;
        let seen = closed.saturating_sub(self.before.unwrap_or(0));
        let open = self.rounds.length().unwrap_or(closed).saturating_sub(closed);
        left(seen, at, open, self.rounds.elapsed()).map_or_else(
            || "time left not known yet".to_owned(),
            |left| format!("{}:{:02} left", left.as_secs() / 60, left.as_secs() % 60),
        )
    }

    /// Clears the lines.
    pub fn finish(&self) {
        self.sites.iter().for_each(|(_, bar)| bar.finish_and_clear());
        self.rounds.finish_and_clear();
    }
}

/// Time to the last of the open rounds, if every round takes as long as the mean of the `seen` ones that closed within `closed`. What
/// has passed since is of the first open one, which is over at once if it takes longer.
fn left(seen: u64, closed: Duration, open: u64, elapsed: Duration) -> Option<Duration> {
    let each = (seen > 0).then(|| closed.div_f64(seen as f64))?;
    Some(each.mul_f64(open as f64).saturating_sub(elapsed.saturating_sub(closed).min(each)))
}

fn told(site: &Value, done: u64, total: u64) -> String {
    let phase = site["phase"].as_str().unwrap_or("not seen yet");
    let mut words = phase.to_owned();
    if let (Some(loss), Some(entropy)) = (site["loss"].as_f64(), site["teacher_entropy"].as_f64()) {
        words += &format!("  step {done}/{total}  loss {loss:.3}  entropy {entropy:.3}");
    }
    if let Some(milliseconds) = site["eta_ms"].as_u64() {
        words += &format!("  {} s left", milliseconds.div_ceil(1000));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_falls_while_a_round_is_open_and_never_climbs() {
        let seconds = Duration::from_secs;
        let after = |elapsed| left(1, seconds(8), 29, seconds(elapsed)).unwrap();
        assert_eq!([8, 12, 16].map(after), [232, 228, 224].map(seconds));
        // A round that takes longer than those before says no more of the others than that it is not over.
        assert_eq!(after(60), seconds(224));
        assert_eq!(left(2, seconds(16), 0, seconds(17)), Some(seconds(0)));
        assert_eq!(left(0, seconds(0), 30, seconds(5)), None);
    }
}
