//! A hospital's HTTP proxy on loopback: one of ours, which asks for a password, cuts connections that rest and may be spoken to over
//! TLS; and Debian's tinyproxy, where it is installed.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::corporate::Corporate;
use crate::programs::Process;

/// Longest that a client takes to say what it wants.
const ASKED_WITHIN: Duration = Duration::from_secs(10);

/// A proxy at work in threads of this process; it ends when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    counts: Arc<Counts>,
    runtime: Option<Runtime>,
}

#[derive(Debug, Default)]
struct Counts {
    tunnels: AtomicUsize,
    refused: AtomicUsize,
}

/// What it asks and bears.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The `Basic` credentials that it asks for, in base64.
    pub credentials: &'static str,
    /// A tunnel through which nothing goes for so long is cut.
    pub idle: Duration,
}

impl Proxy {
    /// Starts one that is spoken to in plain HTTP.
    pub fn start(rules: Rules) -> anyhow::Result<Self> {
        Self::begin(rules, None)
    }

    /// Starts one that is spoken to over TLS, with a certificate of that CA for the address that it listens on.
    pub fn over_tls(rules: Rules, corporate: &Corporate) -> anyhow::Result<Self> {
        Self::begin(rules, Some(TlsAcceptor::from(corporate.shown_for("127.0.0.1", &[])?)))
    }

    fn begin(rules: Rules, tls: Option<TlsAcceptor>) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let (address, counts) = (listener.local_addr()?, Arc::<Counts>::default());
        let counting = Arc::clone(&counts);
        runtime.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (counts, rules, tls) = (Arc::clone(&counting), rules.clone(), tls.clone());
                // A client that goes away, or believes no certificate, ends its own tunnel.
                tokio::spawn(async move {
                    match tls {
                        None => serve(tcp, &counts, &rules).await,
                        Some(tls) => serve(tls.accept(tcp).await?, &counts, &rules).await,
                    }
                });
            }
        });
        Ok(Self { address, counts, runtime: Some(runtime) })
    }

    /// host:port.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Tunnels that it gave.
    pub fn tunnels(&self) -> usize {
        self.counts.tunnels.load(Ordering::Relaxed)
    }

    /// Requests without the right credentials.
    pub fn refused(&self) -> usize {
        self.counts.refused.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(mut client: impl AsyncRead + AsyncWrite + Unpin, counts: &Counts, rules: &Rules) -> io::Result<()> {
    let (target, head) = asked(&mut client).await?;
    if !head.contains(&format!("\r\nProxy-Authorization: Basic {}\r\n", rules.credentials)) {
        counts.refused.fetch_add(1, Ordering::Relaxed);
        let answer = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n";
        client.write_all(answer).await?;
        return client.shutdown().await;
    }
    let Ok(server) = TcpStream::connect(&target).await else {
        client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await?;
        return client.shutdown().await;
    };
    counts.tunnels.fetch_add(1, Ordering::Relaxed);
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    let ((from_client, to_client), (from_server, to_server)) = (split(client), split(server));
    // Where one direction ends, both are cut.
    tokio::select! {
        ended = pump(from_client, to_server, rules.idle) => ended,
        ended = pump(from_server, to_client, rules.idle) => ended,
    }
}

/// Passes bytes on until the sender ends or nothing comes for `idle`.
async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, idle: Duration) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read) = timeout(idle, from.read(&mut buffer)).await {
        let read = read?;
        if read == 0 {
            break;
        }
        to.write_all(&buffer[..read]).await?;
        to.flush().await?;
    }
    Ok(())
}

/// Where a CONNECT leads (host:port), and its whole head.
pub(crate) async fn asked(client: &mut (impl AsyncRead + Unpin)) -> io::Result<(String, String)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(ASKED_WITHIN, client.read_u8()).await??);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut words = head.split(' ');
    match (words.next(), words.next()) {
        (Some("CONNECT"), Some(target)) => Ok((target.to_owned(), head)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Debian's tinyproxy, which asks for the password `hidden-word` of `user`; it is killed when this is dropped.
#[derive(Debug)]
pub struct Tinyproxy {
    address: SocketAddr,
    log: PathBuf,
    process: Process,
}

impl Tinyproxy {
    /// Whether this machine has it.
    pub fn is_installed() -> bool {
        let answer = Command::new("tinyproxy").arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status();
        answer.is_ok_and(|status| status.success())
    }

    /// Starts it in `folder`, for tunnels to that port alone; it cuts those through which nothing goes for so many seconds.
    pub fn start(folder: &Path, to_port: u16, idle_s: u32) -> anyhow::Result<Self> {
        let address = StdListener::bind("127.0.0.1:0")?.local_addr()?;
        let (settings, log) = (folder.join("tinyproxy.conf"), folder.join("tinyproxy.log"));
        let written = format!(
            "Port {}\nListen 127.0.0.1\nTimeout {idle_s}\nBasicAuth user hidden-word\nConnectPort {to_port}\nLogLevel Info\n",
            address.port()
        );
        fs::write(&settings, written).with_context(|| settings.display().to_string())?;
        let arguments = ["-d", "-c", &settings.display().to_string()];
        let mut process = Process::start("tinyproxy", Path::new("tinyproxy"), &arguments, &log)?;
        let began = Instant::now();
        while StdStream::connect(address).is_err() {
            process.check()?;
            anyhow::ensure!(began.elapsed() < ASKED_WITHIN, "tinyproxy does not listen: {}", process.last_words());
            thread::park_timeout(Duration::from_millis(20));
        }
        Ok(Self { address, log, process })
    }

    /// host:port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it wrote of its work; an error if it has ended.
    pub fn said(&mut self) -> anyhow::Result<String> {
        self.process.check()?;
        anyhow::ensure!(self.process.ended().is_none(), "tinyproxy has ended");
        fs::read_to_string(&self.log).with_context(|| self.log.display().to_string())
    }
}
