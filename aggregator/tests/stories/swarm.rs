//! A thousand sites over real mutual TLS: nothing fails, and no call of control waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aggregator::clock::wall;
use aggregator::status;
use common::{Assignment, Directive, Progress, RoundNumber};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::bench::{plan_draft, weights};
use crate::house::{House, Site};

const SITES: usize = 1000;
const ROUNDS: u32 = 3;
/// Values of the model.
const VALUES: usize = 10_000;
/// Calls under way at a time: more than a thousand agents have that report every two seconds.
const AT_ONCE: usize = 64;
/// Strangers who enrol at a time: fewer than have places.
const ENROLLING: usize = 16;
/// 99 of 100 calls of control are answered within this.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);

fn name(site: usize) -> String {
    format!("site-{site:04}")
}

/// Runs `work` for all sites, so many at a time; their values in any order.
async fn each<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    at_once: usize,
    work: impl IntoIterator<Item = F>,
) -> Vec<T> {
    let (places, mut all) = (Arc::new(Semaphore::new(at_once)), JoinSet::new());
    for one in work {
        let place = Arc::clone(&places).acquire_owned().await.unwrap();
        all.spawn(async move {
            let done = one.await;
            drop(place);
            done
        });
    }
    all.join_all().await
}

/// A site's part of a round, and how long each call of control took.
async fn take_part(mut site: Site, number: usize, round: u32) -> (Site, Vec<Duration>) {
    let mut took = Vec::new();
    let asked = Instant::now();
    let work = match site.report(Progress::idle()).await.unwrap() {
        Directive::Train(work) => work,
        other => panic!("site {number} is told {other:?}"),
    };
    took.push(asked.elapsed());
    assert_eq!(work.round, RoundNumber(round));
    let model = site.download(work.base, 0).await.unwrap();
    assert_eq!(model.len() as u64, work.base_bytes);
    took.extend(send(&mut site, &work, number).await);
    (site, took)
}

async fn send(site: &mut Site, work: &Assignment, number: usize) -> [Duration; 2] {
    let delta = weights(VALUES, |place| ((place + number) % 64) as f32 / 4096.0);
    let began = Instant::now();
    let manifest = site.manifest(work, &delta);
    site.begin(&manifest).await.unwrap();
    let begun = began.elapsed();
    site.chunk(&manifest, 0, delta.to_safetensors()).await.unwrap();
    let finishing = Instant::now();
    site.finish(&manifest).await.unwrap();
    [begun, finishing.elapsed()]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_sites_take_part_in_three_rounds_without_an_error_and_no_call_of_control_waits() {
    // Both ends of each connection are in this process, and each update that is merged is an open file.
    rlimit::increase_nofile_limit(4 * SITES as u64).unwrap();
    let mut house = House::of_places(SITES + 8);
    house.start();
    let names: Vec<String> = (0..SITES).map(name).collect();
    let house = Arc::new(house);
    let enrolling = names.iter().cloned().map(|name| {
        let house = Arc::clone(&house);
        async move { house.site(&name).await }
    });
    let began = Instant::now();
    let mut sites = each(ENROLLING, enrolling).await;
    let enrolled = began.elapsed();
    sites.sort_by(|one, other| one.site.cmp(&other.site));
    let invited: Vec<&str> = names.iter().map(String::as_str).collect();
    house.start_run_with(plan_draft("run", &invited, SITES, ROUNDS, 1), VALUES);

    let (mut took, mut rounds) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        // One of them asks until the round is open; a thousand that ask would only keep it from opening.
        sites[0].work(round).await;
        let began = Instant::now();
        let parts = sites.drain(..).enumerate().map(|(number, site)| take_part(site, number, round));
        for (site, calls) in each(AT_ONCE, parts).await {
            sites.push(site);
            took.extend(calls);
        }
        sites.sort_by(|one, other| one.site.cmp(&other.site));
        rounds.push(began.elapsed());
    }
    let finished = |directive| matches!(directive, Directive::Finished { .. }).then_some(());
    sites[0].told(finished).await;
    took.sort();
    let [median, p99, longest] = [took.len() / 2, took.len() * 99 / 100, took.len() - 1].map(|place| took[place]);
    println!(
        "{SITES} sites enrolled in {enrolled:.1?}; rounds {rounds:.1?}; of {} calls of control half took {median:.1?}, 99 of 100 \
         {p99:.1?}, the longest {longest:.1?}",
        took.len()
    );
    assert_eq!(took.len(), 3 * SITES * ROUNDS as usize);
    assert!(p99 < ANSWERED_WITHIN, "{p99:?}");
    let run = status::read(&house.store(), wall()).unwrap().runs.remove(0);
    assert!(run.rounds.iter().all(|round| round.sites.len() == SITES && round.model.is_some()));
}
