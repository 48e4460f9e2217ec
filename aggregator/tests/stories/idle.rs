//! Five thousand connections that say nothing, from eighty addresses or from the members' own: members neither notice, nor wait to
//! get in.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::Progress;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;

use crate::house::House;

const SILENT: usize = 5000;
/// Fewer of one address than give way to each other.
const OF_ONE: usize = 63;
/// Longest a call may take, and the first one of a member that connects anew.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);
const LET_IN_WITHIN: Duration = Duration::from_secs(3);

async fn silent(aggregator: SocketAddr, from: fn(usize) -> Ipv4Addr, came: Arc<Semaphore>) -> Vec<TcpStream> {
    let mut all = Vec::new();
    for index in 0..SILENT {
        let socket = TcpSocket::new_v4().unwrap();
        let from = from(index);
        socket.bind(SocketAddr::from((from, 0))).unwrap();
        all.push(socket.connect(aggregator).await.unwrap());
        came.add_permits(1);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_idle_strangers_delay_no_member() {
    delay_no_member(|index| Ipv4Addr::new(127, 0, 1, 1 + (index / OF_ONE) as u8)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_idle_strangers_from_the_members_own_address_delay_no_member() {
    delay_no_member(|_| Ipv4Addr::LOCALHOST).await;
}

async fn delay_no_member(from: fn(usize) -> Ipv4Addr) {
    // Both ends of each connection may be open in this process.
    rlimit::increase_nofile_limit(3 * SILENT as u64).unwrap();
    let mut house = House::new();
    house.start();
    let (mut inside, mut outside) = (house.site("a").await, house.site("b").await);
    inside.report(Progress::idle()).await.unwrap();
    let (address, came) = (house.address, Arc::new(Semaphore::new(0)));
    let coming = tokio::spawn(silent(address, from, Arc::clone(&came)));
    // In the middle of them: whoever has to queue behind those that are here already waits for a long time.
    drop(came.acquire_many(SILENT as u32 / 4).await.unwrap());
    let mut longest = Duration::ZERO;
    for _ in 0..100 {
        let asked = Instant::now();
        inside.report(Progress::idle()).await.unwrap();
        longest = longest.max(asked.elapsed());
    }
    // It has enrolled over another connection, and connects with its first call.
    let came = Instant::now();
    outside.report(Progress::idle()).await.unwrap();
    let let_in = came.elapsed();
    let strangers = coming.await.unwrap().len();
    println!(
        "beside {strangers} idle connections: longest of 100 calls {longest:?}, a new member let in after {let_in:?}"
    );
    assert!(longest < ANSWERED_WITHIN && let_in < LET_IN_WITHIN, "{longest:?}, {let_in:?}");
}
