//! Whole rounds against a real server, in turns with the limit.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use aggregator::layout::Layout;
use common::RoundNumber;
use common::ids::DigestBuilder;
use common::share::shares;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::model::{Case, Tape, value};
use crate::oracle;
use crate::server::{Server, site_name, subjects};
use crate::sites::{Next, Ready, Site};
use crate::tls::{Limit, Took};

/// Rounds of one case.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) case: Case,
    pub(crate) tensors: usize,
    pub(crate) model_bytes: u64,
    pub(crate) rounds: Vec<Round>,
    /// Of the server, over all its rounds.
    pub(crate) peak_mib: f64,
}

/// A round, and the limit just before it.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Round {
    /// From the first site that fetches the model to the next model at hand.
    pub(crate) wall_s: f64,
    /// Until the last update was acknowledged.
    pub(crate) exchanged_s: f64,
    pub(crate) server_cpu_s: f64,
    /// Both ways, below TLS.
    pub(crate) wire_bytes: u64,
    pub(crate) tls_wall_s: f64,
    pub(crate) tls_server_cpu_s: f64,
}

/// A federation in the middle of a run.
struct House {
    case: Case,
    layout: Layout,
    tape: Tape,
    server: Server,
    sites: Vec<Site>,
    next: Next,
    measured: Vec<Round>,
}

/// Time between two questions whether the next model is there.
const ASKED_EVERY: Duration = Duration::from_millis(5);
/// Values that are held to the oracle.
const SAMPLED: usize = 4099;

pub(crate) fn measure(cases: &[Case], runs: usize, folder: &Path) -> Vec<Measured> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut houses = Vec::new();
        for &case in cases {
            houses.push(House::begin(case, runs + 1, folder).await);
        }
        let first = &houses[0];
        let sites: Vec<_> = first.sites.iter().map(|site| site.tls.clone()).collect();
        let mut limit = Limit::start(&first.server.state(), &sites).await;
        // The first round warms both up, and is left out.
        for _ in 0..=runs {
            for house in &mut houses {
                let took = limit.measure(house.layout.bytes()).await;
                house.round(took).await;
            }
        }
        let mut measured = Vec::new();
        for house in houses {
            measured.push(house.end().await);
        }
        measured
    })
}

impl House {
    async fn begin(case: Case, rounds: usize, folder: &Path) -> Self {
        let layout = case.layout();
        let tape = Tape::of(layout.values() as usize);
        let server = Server::start(folder);
        let mut sites = Vec::new();
        for site in 0..case.sites {
            sites.push(Site::enrol(&server, site).await);
        }
        server.start_run(case, rounds, &tape);
        let next = after(&mut sites[0], 0).await;
        Self { case, layout, tape, server, sites, next, measured: Vec::new() }
    }

    async fn round(&mut self, limit: Took) {
        let Next::Work(work) = &self.next else { panic!("the run ended early") };
        let ready: Vec<_> =
            self.sites.iter().map(|site| site.prepare(work.clone(), &self.layout, &self.tape)).collect();
        let round = work.round;
        let (wire, cpu, begun) = (self.wire_bytes(), self.server.process.cpu_seconds(), Instant::now());
        self.take_part(ready).await;
        let exchanged_s = begun.elapsed().as_secs_f64();
        self.next = after(&mut self.sites[0], round.0).await;
        self.measured.push(Round {
            wall_s: begun.elapsed().as_secs_f64(),
            exchanged_s,
            server_cpu_s: self.server.process.cpu_seconds() - cpu,
            wire_bytes: self.wire_bytes() - wire,
            tls_wall_s: limit.wall_s,
            tls_server_cpu_s: limit.server_cpu_s,
        });
    }

    async fn take_part(&self, ready: Vec<Ready>) {
        let mut under_way = JoinSet::new();
        for (site, ready) in self.sites.iter().zip(ready) {
            let mut site = site.clone();
            under_way.spawn(async move { site.take_part(&ready).await });
        }
        under_way.join_all().await;
    }

    fn wire_bytes(&self) -> u64 {
        self.sites.iter().map(|site| site.wire.bytes()).sum()
    }

    /// Holds the last model to its digest and to the oracle.
    async fn end(mut self) -> Measured {
        let Next::Over { model, bytes } = self.next else { panic!("the run goes on") };
        let (mut digest, mut file) = (DigestBuilder::default(), Vec::with_capacity(bytes as usize));
        let each = |chunk: &[u8]| {
            digest.update(chunk);
            file.extend_from_slice(chunk);
        };
        self.sites[0].fetch(model, each).await;
        assert_eq!(digest.finish(), model, "the last model's digest");
        self.require_exact(&file[self.layout.header().len()..]);
        Measured {
            case: self.case,
            tensors: self.layout.signature().len(),
            model_bytes: self.layout.bytes(),
            rounds: self.measured.split_off(1),
            peak_mib: self.server.process.peak_mib(),
        }
    }

    fn require_exact(&self, last: &[u8]) {
        let values = self.layout.values() as usize;
        let rounds = 1..=self.measured.len() as u32;
        let all = (0..self.case.sites).map(|site| (site_name(site), subjects(site))).collect::<BTreeMap<_, _>>();
        // The plan's defaults.
        let shares: Vec<u32> = shares(&all, 0.5, 0.5).values().map(|share| share.0).collect();
        let first = self.tape.first_model();
        for place in (0..values).step_by((values / SAMPLED).max(1)).chain([values - 1]) {
            let expected = rounds.clone().fold(value(&first, place), |base, round| {
                let delta = |(site, &share)| (value(&self.tape.delta(RoundNumber(round), site), place), share);
                oracle::merged(base, &shares.iter().enumerate().map(delta).collect::<Vec<_>>())
            });
            assert_eq!(value(last, place).to_bits(), expected.to_bits(), "value {place} of the last model");
        }
    }
}

async fn after(site: &mut Site, round: u32) -> Next {
    loop {
        if let Some(next) = site.after(round).await {
            return next;
        }
        tokio::time::sleep(ASKED_EVERY).await;
    }
}
