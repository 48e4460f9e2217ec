//! A hospital's HTTP proxy: CONNECT with a password, and connections that it cuts when they rest. Threads on loopback.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// A proxy that runs until the program ends.
#[derive(Clone, Debug)]
pub struct Proxy {
    address: SocketAddr,
    tunnels: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
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
    /// Starts it.
    pub fn start(rules: Rules) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let proxy = Self { address: listener.local_addr()?, tunnels: Arc::default(), refused: Arc::default() };
        let counts = proxy.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (counts, rules) = (counts.clone(), rules.clone());
                // A client that goes away ends its own tunnel.
                thread::spawn(move || drop(counts.serve(client, &rules)));
            }
        });
        Ok(proxy)
    }

    /// host:port.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Tunnels that it gave.
    pub fn tunnels(&self) -> usize {
        self.tunnels.load(Ordering::Relaxed)
    }

    /// Requests without the right credentials.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    fn serve(&self, client: TcpStream, rules: &Rules) -> io::Result<()> {
        let mut reader = BufReader::new(client.try_clone()?);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let mut client = client;
        if !head.contains(&format!("\r\nProxy-Authorization: Basic {}\r\n", rules.credentials)) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n");
        }
        let target = head.split(' ').nth(1).unwrap_or_default();
        let Ok(server) = TcpStream::connect(target) else {
            return client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n");
        };
        self.tunnels.fetch_add(1, Ordering::Relaxed);
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
        let (from_client, from_server) = (client.try_clone()?, server.try_clone()?);
        let idle = rules.idle;
        thread::spawn(move || drop(pump(from_server, client, idle)));
        pump(from_client, server, idle)
    }
}

/// Passes bytes on until one side ends or nothing comes for `idle`; then both sides are cut.
fn pump(mut from: TcpStream, mut to: TcpStream, idle: Duration) -> io::Result<()> {
    from.set_read_timeout(Some(idle))?;
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        to.write_all(&buffer[..read])?;
    }
    // Either may be gone already.
    drop(from.shutdown(Shutdown::Both));
    drop(to.shutdown(Shutdown::Both));
    Ok(())
}
