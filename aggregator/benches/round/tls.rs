//! The limit of a round: its bytes both ways over as many connections, with the same TLS and nothing above it.
//!
//! The far side is a process of its own, as the aggregator is. It sends a connection as many bytes as it is asked for, and
//! takes as many back.

use std::io::BufRead;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use aggregator::clock::wall;
use aggregator::store::{SqliteStore, Store};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::{TlsAcceptor, server};

use crate::process::Process;

/// Bytes to a call of TLS: as many as rustls holds, four records.
const AT_ONCE: usize = 64 << 10;

/// Connections to the far side, which hold.
pub(crate) struct Limit {
    process: Process,
    connections: Vec<TlsStream<TcpStream>>,
}

/// What it took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Took {
    pub(crate) wall_s: f64,
    pub(crate) server_cpu_s: f64,
}

impl Limit {
    /// A far side with the keys of this state folder, and a connection for each site.
    pub(crate) async fn start(state: &Path, sites: &[Arc<ClientConfig>]) -> Self {
        let own = std::env::current_exe().expect("this program's path");
        let mut command = Command::new(own);
        let mut process = Process::start(command.arg("--tls-peer").arg(state).stdout(Stdio::piped()));
        let mut line = String::new();
        let stdout = process.child().stdout.take().expect("it is piped");
        std::io::BufReader::new(stdout).read_line(&mut line).expect("the address");
        let mut connections = Vec::new();
        for site in sites {
            let connected = certs::connect::connect(line.trim(), Arc::clone(site)).await;
            connections.push(connected.expect("a connection"));
        }
        Self { process, connections }
    }

    /// So many bytes to each site, and then back.
    pub(crate) async fn measure(&mut self, bytes: u64) -> Took {
        let (begun, cpu) = (Instant::now(), self.process.cpu_seconds());
        let mut under_way = JoinSet::new();
        for mut connection in self.connections.drain(..) {
            under_way.spawn(async move {
                connection.write_u64(bytes).await.expect("asked");
                take(&mut connection, bytes).await;
                give(&mut connection, bytes).await;
                connection.read_u8().await.expect("thanked");
                connection
            });
        }
        self.connections = under_way.join_all().await;
        let wall_s = begun.elapsed().as_secs_f64();
        Took { wall_s, server_cpu_s: self.process.cpu_seconds() - cpu }
    }
}

async fn take(stream: &mut (impl AsyncReadExt + Unpin), bytes: u64) {
    let (mut buffer, mut left) = (vec![0; AT_ONCE], bytes);
    while left > 0 {
        let read = stream.read(&mut buffer[..left.min(AT_ONCE as u64) as usize]).await.expect("bytes");
        assert!(read > 0, "the other side hung up");
        left -= read as u64;
    }
}

async fn give(stream: &mut (impl AsyncWriteExt + Unpin), bytes: u64) {
    let (buffer, mut left) = (vec![7; AT_ONCE], bytes);
    while left > 0 {
        let some = left.min(AT_ONCE as u64);
        stream.write_all(&buffer[..some as usize]).await.expect("bytes");
        left -= some;
    }
    stream.flush().await.expect("bytes");
}

/// The far side: says where it listens, and serves until it is killed.
pub(crate) fn serve(state: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let record = SqliteStore::open(state).and_then(|store| store.federation()).expect("a federation");
        let authority = aggregator::authority::load(state, &record.name).expect("its authority");
        let names = ["127.0.0.1".to_owned()];
        let config = aggregator::authority::server_config(state, &authority, &names, wall()).expect("a certificate");
        let acceptor = TlsAcceptor::from(config);
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a port");
        println!("{}", listener.local_addr().expect("an address"));
        loop {
            let (tcp, _) = listener.accept().await.expect("a connection");
            tcp.set_nodelay(true).expect("an option of TCP");
            let acceptor = acceptor.clone();
            tokio::spawn(async move { far_side(acceptor.accept(tcp).await.expect("a handshake")).await });
        }
    });
}

async fn far_side(mut stream: server::TlsStream<TcpStream>) {
    while let Ok(bytes) = stream.read_u64().await {
        give(&mut stream, bytes).await;
        take(&mut stream, bytes).await;
        stream.write_u8(1).await.expect("thanks");
        stream.flush().await.expect("thanks");
    }
}
