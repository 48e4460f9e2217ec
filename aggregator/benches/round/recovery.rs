//! How long a server that was killed takes until it answers again, with a round's updates on its disk: acknowledged, on their
//! way, and being merged.

use std::path::Path;
use std::time::{Duration, Instant};

use common::RoundNumber;
use serde_json::{Value, json};

use crate::model::{Case, Tape};
use crate::server::Server;
use crate::sites::{Next, Site};

/// Kills a server whose round has updates of all sites but one acknowledged and that one here but not finished, and once more
/// in the middle of the merge; measures until it listens, and until a site that connects anew has its answer.
pub(crate) fn measure(case: Case, folder: &Path) -> Value {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let layout = case.layout();
        let tape = Tape::of(layout.values() as usize);
        let mut server = Server::start(folder);
        let mut sites = Vec::new();
        for site in 0..case.sites {
            sites.push(Site::enrol(&server, site).await);
        }
        server.start_run(case, 1, &tape);
        let Next::Work(work) = next(&mut sites[0], 0).await else { panic!("the run is over") };
        let (last, others) = sites.split_last_mut().expect("a site");
        for site in others {
            let ready = site.prepare(work.clone(), &layout, &tape);
            site.send(&ready).await;
        }
        let ready = last.prepare(work.clone(), &layout, &tape);
        last.send_unfinished(&ready).await;
        let pending = killed(&mut server, last).await;

        let received = last.begin(&ready).await;
        // What was synced is there: of a small model nothing, of others all but the last 8 MiB.
        assert!(!received.acknowledged && received.next_offset + (8 << 20) >= layout.bytes(), "{received:?}");
        last.send_rest(&ready, received.next_offset).await;
        last.finish(&ready).await;
        let merging = killed(&mut server, last).await;
        let began = Instant::now();
        let Next::Over { .. } = next(last, RoundNumber(1).0).await else { panic!("the run goes on") };
        json!({
            "sites": case.sites, "parameters": case.size, "bytes_on_disk": layout.bytes() * case.sites as u64,
            "with_updates_pending": pending, "while_merging": merging, "merged_after_s": began.elapsed().as_secs_f64(),
        })
    })
}

async fn killed(server: &mut Server, site: &mut Site) -> Value {
    let began = Instant::now();
    server.killed_and_started_again();
    let listening = began.elapsed();
    site.is_answered().await;
    let told = |time: Duration| time.as_secs_f64();
    eprintln!(
        "killed and started again: listening after {:.3} s, answering after {:.3} s",
        told(listening),
        told(began.elapsed())
    );
    json!({ "listening_s": told(listening), "answering_s": told(began.elapsed()) })
}

async fn next(site: &mut Site, round: u32) -> Next {
    loop {
        if let Some(next) = site.after(round).await {
            return next;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
