//! Transfers over real TLS through a proxy that cuts the connection at seeded byte counts: each goes on from where it was, no
//! more than one chunk is sent again for a cut, and what is acknowledged counts once.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use aggregator::clock::wall;
use aggregator::status;
use aggregator::store::Store;
use common::{Assignment, Digest, Directive, NamedTensors, RoundNumber, UpdateManifest};
use proto::convert::digest_bytes;
use proto::wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tonic::Status;

use crate::bench::{run_id, site_id, weights};
use crate::house::{House, Site, WITHIN, code};
use crate::simulation::dice::Dice;

/// One direction of all connections through the proxy.
#[derive(Debug, Default)]
struct Line {
    /// Bytes that came through.
    passed: u64,
    /// Counts at which the connection is cut, the nearest last.
    cuts: Vec<u64>,
    cut: usize,
    records: Records,
}

/// The TLS records (RFC 8446, 5.1) of a direction that one connection passed through.
#[derive(Debug, Default)]
struct Records {
    /// What has come of a record's head: its type, a version, and its length in two bytes.
    head: Vec<u8>,
    /// Bytes that are still to come of the record.
    left: usize,
    lengths: Vec<usize>,
}

impl Records {
    fn see(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let here = self.left.min(bytes.len());
                (self.left, bytes) = (self.left - here, &bytes[here..]);
                continue;
            }
            self.head.push(*first);
            bytes = rest;
            if let [_, _, _, high, low] = self.head[..] {
                self.left = usize::from(high) << 8 | usize::from(low);
                self.lengths.push(self.left);
                self.head.clear();
            }
        }
    }
}

impl Line {
    /// How many of these bytes come through, and whether the connection is cut then.
    fn takes(&mut self, bytes: usize) -> (usize, bool) {
        let most = self.cuts.last().map_or(u64::MAX, |cut| cut - self.passed);
        let taken = bytes.min(usize::try_from(most).unwrap_or(usize::MAX));
        self.passed += taken as u64;
        let is_cut = self.cuts.pop_if(|cut| *cut == self.passed).is_some();
        self.cut += usize::from(is_cut);
        (taken, is_cut)
    }
}

/// Two lines between sites and an aggregator. A cut drops both sockets of a connection where they stand.
#[derive(Clone, Debug)]
struct Proxy {
    address: SocketAddr,
    up: Arc<Mutex<Line>>,
    down: Arc<Mutex<Line>>,
}

impl Proxy {
    async fn before(aggregator: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = Self { address, up: Arc::default(), down: Arc::default() };
        let lines = proxy.clone();
        tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((site, _)) = listener.accept().await {
                let lines = lines.clone();
                connections.spawn(async move { lines.connection(site, aggregator).await });
            }
        });
        proxy
    }

    async fn connection(self, site: TcpStream, aggregator: SocketAddr) -> io::Result<()> {
        let (from_site, to_site) = site.into_split();
        let (from_aggregator, to_aggregator) = TcpStream::connect(aggregator).await?.into_split();
        // Whichever ends first takes the other with it.
        tokio::select! {
            ended = pass(from_site, to_aggregator, &self.up) => ended,
            ended = pass(from_aggregator, to_site, &self.down) => ended,
        }
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, line: &Mutex<Line>) -> io::Result<()> {
    let mut bytes = vec![0; 16 << 10];
    loop {
        let read = from.read(&mut bytes).await?;
        let (taken, is_cut) = {
            let mut line = line.lock().unwrap();
            line.records.see(&bytes[..read]);
            line.takes(read)
        };
        to.write_all(&bytes[..taken]).await?;
        if read == 0 || is_cut {
            return Ok(());
        }
    }
}

/// Where a line is cut: so many times in the next `bytes`, at seeded places.
fn cut(line: &Mutex<Line>, times: u64, bytes: u64, seed: u64) {
    let (mut dice, mut line) = (Dice::seeded(seed), line.lock().unwrap());
    let (from, every) = (line.passed, bytes / times);
    line.cuts = (0..times).rev().map(|time| from + time * every + dice.within(1, every - 1)).collect();
    line.cut = 0;
}

/// Bytes of a chunk: many to an update of this size.
const CHUNK: usize = 64 << 10;
const VALUES: usize = 600_000;
const CUTS: u64 = 20;
/// What a connection costs besides: TLS, HTTP/2 and the call that asks how far the upload is.
const CONNECTION: u64 = 8 << 10;

/// What an upload took.
#[derive(Debug, Default)]
struct Took {
    /// Times it was broken off.
    broken: usize,
    /// Bytes that were sent again, for each time.
    again: Vec<u64>,
}

/// Sends an update as an agent does: after whatever goes wrong with the connection, it asks how far it is and goes on.
async fn uploads(site: &mut Site, manifest: &UpdateManifest, bytes: &[u8]) -> Took {
    let (mut took, mut sent) = (Took::default(), 0);
    loop {
        match upload(site, manifest, bytes, &mut sent, &mut took.again).await {
            Ok(()) => return took,
            // A call that was broken off may not have let go of the upload yet.
            Err(status) if code(&status) == "unavailable" => {}
            Err(status) => {
                assert_eq!(code(&status), "no refusal", "{status}");
                took.broken += 1;
            }
        }
    }
}

async fn upload(
    site: &mut Site,
    manifest: &UpdateManifest,
    bytes: &[u8],
    sent: &mut u64,
    again: &mut Vec<u64>,
) -> Result<(), Status> {
    let state = site.client.begin_upload(wire::UpdateManifest::from(manifest)).await?.into_inner();
    let mut offset = state.next_offset;
    again.push(sent.saturating_sub(offset));
    while (offset as usize) < bytes.len() {
        let end = bytes.len().min(offset as usize + CHUNK);
        *sent = (*sent).max(end as u64);
        offset = site.chunk(manifest, offset, bytes[offset as usize..end].to_vec()).await?.next_offset;
    }
    let (run, round) = (manifest.run.to_string(), manifest.round.0);
    let finish = wire::FinishUploadRequest { run, round, blob: digest_bytes(manifest.blob) };
    let stored = site.client.finish_upload(finish).await?.into_inner();
    assert_eq!(stored.blob, digest_bytes(manifest.blob));
    Ok(())
}

/// A run of one site that reaches the aggregator through a proxy, and what the site is to do.
async fn behind_a_proxy() -> (House, Proxy, Site, Assignment) {
    let mut house = House::new();
    house.start();
    house.start_run(&["a"], 1);
    let proxy = Proxy::before(house.address).await;
    let mut site = house.site_by_way_of("a", proxy.address).await;
    let work = site.work(1).await;
    (house, proxy, site, work)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_cut_twenty_times_sends_one_chunk_again_for_each_and_counts_once() {
    let (mut house, proxy, mut site, work) = behind_a_proxy().await;
    let delta = weights(VALUES, |place| (place % 1000) as f32 / 1000.0);
    let (manifest, bytes) = (site.manifest(&work, &delta), delta.to_safetensors());
    let before = proxy.up.lock().unwrap().passed;
    cut(&proxy.up, CUTS, bytes.len() as u64, 20);
    let took = tokio::time::timeout(4 * WITHIN, uploads(&mut site, &manifest, &bytes)).await.expect("an end in time");
    let (passed, times) = {
        let up = proxy.up.lock().unwrap();
        (up.passed - before, up.cut as u64)
    };
    println!("{} bytes took {passed} through {times} cuts; again: {:?}", bytes.len(), took.again);
    assert_eq!(times, CUTS);
    assert!(took.again.iter().all(|again| *again <= CHUNK as u64), "{took:?}");
    assert!(passed <= bytes.len() as u64 + CUTS * (CHUNK as u64 + CONNECTION) + CONNECTION, "{passed}");

    // Said again, it is the same answer; and it is stored once.
    uploads(&mut site, &manifest, &bytes).await;
    let finished = |directive| match directive {
        Directive::Finished { model, .. } => Some(model),
        _ => None,
    };
    let model = site.told(finished).await;
    assert_eq!(house.store().updates(&run_id(), RoundNumber(1)).unwrap().keys().collect::<Vec<_>>(), [&site_id("a")]);
    let run = status::read(&house.store(), wall()).unwrap().runs.remove(0);
    assert_eq!((run.rounds[0].sites.len(), run.model), (1, model));

    // The model, fetched through a line that is cut as often.
    cut(&proxy.down, CUTS, bytes.len() as u64, 21);
    let before = proxy.down.lock().unwrap().passed;
    let (file, broken) =
        tokio::time::timeout(4 * WITHIN, downloads(&mut site, model, bytes.len())).await.expect("in time");
    let (passed, times) = {
        let down = proxy.down.lock().unwrap();
        (down.passed - before, down.cut as u64)
    };
    println!("{} bytes took {passed} through {times} cuts, {broken} downloads broken off", bytes.len());
    assert_eq!((Digest::of(&file), times), (model, CUTS));
    assert!(passed <= bytes.len() as u64 + CUTS * (IN_FLIGHT + CONNECTION) + CONNECTION, "{passed}");
    let (first, last) = (weights(VALUES, |place| place as f32 / 1e6), NamedTensors::from_safetensors(&file).unwrap());
    for ((_, first), ((_, last), (_, delta))) in first.iter().zip(last.iter().zip(delta.iter())) {
        for (place, last) in last.values.iter().enumerate() {
            assert!((last - first.values[place] - delta.values[place]).abs() < 1e-6, "value {place}");
        }
    }
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_comes_in_whole_tls_records_of_which_none_is_for_a_frames_head() {
    let (mut house, proxy, mut site, work) = behind_a_proxy().await;
    let before = proxy.down.lock().unwrap().records.lengths.len();
    let model = site.download(work.base, 0).await.unwrap();
    assert_eq!(Digest::of(&model), work.base);
    let lengths = proxy.down.lock().unwrap().records.lengths.split_off(before);
    // A head of HTTP/2 is 9 bytes, and TLS 1.3 adds 17 to what it seals. A few messages are as short, and end a call.
    let (heads, whole) = (lengths.iter().filter(|length| **length <= 9 + 17).count(), model.len() / (16 << 10));
    println!("{} bytes in {} records, {heads} of them as short as a frame's head", model.len(), lengths.len());
    assert!(whole > 100, "{whole} records are too few to tell");
    assert!(heads <= 5 && lengths.len() <= whole + whole / 4, "{heads} of {} records hold a head alone", lengths.len());
    house.stop().await;
}

/// Bytes of a chunk of a download: a cut takes what was here of one.
const IN_FLIGHT: u64 = 256 << 10;

/// Fetches a blob as an agent does: what is here is kept, and the next request goes on from there.
async fn downloads(site: &mut Site, blob: Digest, length: usize) -> (Vec<u8>, usize) {
    let (mut bytes, mut broken) = (Vec::new(), 0);
    while bytes.len() < length {
        if let Err(status) = download(site, blob, &mut bytes).await {
            assert_eq!(code(&status), "no refusal", "{status}");
            broken += 1;
        }
    }
    (bytes, broken)
}

async fn download(site: &mut Site, blob: Digest, bytes: &mut Vec<u8>) -> Result<(), Status> {
    let request = wire::DownloadRequest { blob: digest_bytes(blob), offset: bytes.len() as u64, end: 0 };
    let mut chunks = site.client.download(request).await?.into_inner();
    while let Some(chunk) = chunks.message().await? {
        assert_eq!(chunk.offset, bytes.len() as u64);
        bytes.extend_from_slice(&chunk.data);
    }
    Ok(())
}
