//! A site that hangs, and one behind a line of a byte a second: neither delays a round of a quorum past its deadline, both are
//! named, and what they send too late is refused.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aggregator::clock::wall;
use aggregator::status;
use common::Phase;
use proto::convert::digest_bytes;
use proto::wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};

use crate::bench::{plan_draft, weights};
use crate::house::{House, at_work, code};

const DEADLINE: Duration = Duration::from_secs(2);
/// Longest that a round may take past its deadline, its merge and the question for the next one with it.
const PAST_THE_DEADLINE: Duration = Duration::from_secs(2);
const SITES: [&str; 4] = ["a", "b", "hung", "slow"];

/// A line to the aggregator that passes a byte a second, once it is told to.
async fn line(aggregator: SocketAddr, is_slow: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((site, _)) = listener.accept().await {
            let is_slow = Arc::clone(&is_slow);
            let (mut from_aggregator, mut to_aggregator) = TcpStream::connect(aggregator).await?.into_split();
            let (mut from_site, mut to_site) = site.into_split();
            tokio::spawn(async move { copy(&mut from_aggregator, &mut to_site).await });
            tokio::spawn(async move {
                let mut bytes = vec![0; 16 << 10];
                loop {
                    let most = if is_slow.load(Ordering::SeqCst) { 1 } else { bytes.len() };
                    let read = from_site.read(&mut bytes[..most]).await?;
                    to_aggregator.write_all(&bytes[..read]).await?;
                    match read {
                        0 => return Ok::<_, std::io::Error>(()),
                        1 => tokio::time::sleep(Duration::from_secs(1)).await,
                        _ => {}
                    }
                }
            });
        }
        Ok::<_, std::io::Error>(())
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_site_and_one_at_a_byte_a_second_delay_no_round_past_its_deadline_and_are_named() {
    let mut house = House::new();
    house.start();
    let mut draft = plan_draft("run", &SITES, 2, 2, 1);
    draft.rounds.deadline_s = DEADLINE.as_secs();
    house.start_run_of(draft);
    let is_slow = Arc::new(AtomicBool::new(false));
    let by_way_of = line(house.address, Arc::clone(&is_slow)).await;
    let (mut a, mut b, mut hung) = (house.site("a").await, house.site("b").await, house.site("hung").await);
    let mut slow = house.site_by_way_of("slow", by_way_of).await;
    let work = a.work(1).await;
    let delta = weights(600_000, |place| (place % 100) as f32 / 1e3);
    let bytes = delta.to_safetensors();

    // Both announce their update and send a part of it; then one says nothing more, and the other a byte a second.
    let began = Instant::now();
    let mut announced = Vec::new();
    for site in [&mut hung, &mut slow] {
        site.report(at_work(Phase::Sending, &work)).await.unwrap();
        let manifest = site.manifest(&work, &delta);
        site.client.begin_upload(wire::UpdateManifest::from(&manifest)).await.unwrap();
        site.chunk(&manifest, 0, bytes[..1000].to_vec()).await.unwrap();
        announced.push(manifest);
    }
    is_slow.store(true, Ordering::SeqCst);
    let (manifest, rest) = (announced.remove(1), bytes[1000..300_000].to_vec());
    let trickle = tokio::spawn(async move { slow.chunk(&manifest, 1000, rest).await });
    a.send(&work, &delta).await.unwrap();
    b.send(&work, &delta).await.unwrap();

    let next = a.work(2).await;
    let took = began.elapsed();
    println!("a round with a deadline of {DEADLINE:?} took {took:?}");
    assert!(took >= DEADLINE && took < DEADLINE + PAST_THE_DEADLINE, "{took:?}");
    let run = status::read(&house.store(), wall()).unwrap().runs.remove(0);
    let told: Vec<_> = run.rounds[0].left_out.iter().map(|it| (it.site.as_str(), it.reason.as_str())).collect();
    assert_eq!(told, [("hung", "did not report in time"), ("slow", "did not report in time")]);

    // Awake again, the hung site goes on where it was, is refused, and is in the next round.
    let late = hung.chunk(&announced[0], 1000, bytes[1000..2000].to_vec()).await.unwrap_err();
    assert_eq!(code(&late), "round-not-open");
    let (run, round) = (work.run.to_string(), work.round.0);
    let finish = wire::FinishUploadRequest { run, round, blob: digest_bytes(announced[0].blob) };
    assert_eq!(code(&hung.client.finish_upload(finish).await.unwrap_err()), "round-not-open");
    for site in [&mut a, &mut b, &mut hung] {
        site.send(&next, &delta).await.unwrap();
    }
    trickle.abort();
    // Without a farewell: it would wait for the slow call.
}
