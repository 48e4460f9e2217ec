//! Through proxies of every temper, on loopback: the session inside is with this federation's aggregator or with nobody.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use certs::authority::Authority;
use certs::connect::connect_via;
use certs::keys::Key;
use certs::proxy::{Proxy, Route};
use certs::{acceptor, probe, tls};
use common::FederationName;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_stream::StreamExt;

fn now() -> i64 {
    i64::try_from(rustls::pki_types::UnixTime::now().as_secs()).unwrap()
}

/// An authority, with a server of its own that greets whoever shakes hands.
struct House {
    folder: tempfile::TempDir,
    federation: FederationName,
    authority: Authority,
    address: SocketAddr,
    server: Arc<ServerConfig>,
}

impl House {
    async fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let federation: FederationName = name.parse().unwrap();
        let authority = Authority::create(&folder.path().join("ca"), &federation, now()).unwrap();
        let key = Key::create(&folder.path().join("server.key")).unwrap();
        let leaf = authority.issue_aggregator(&key.csr_pem().unwrap(), &["127.0.0.1".to_owned()], now()).unwrap();
        let server = tls::server_config(&leaf.certificate_pem, authority.certificate_pem(), &key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut arriving = Box::pin(acceptor::connections(listener, Arc::clone(&server), federation.clone()));
        tokio::spawn(async move {
            while let Some(Ok(mut connection)) = arriving.next().await {
                connection.write_all(b"hello").await.unwrap();
            }
        });
        Self { folder, federation, authority, address, server }
    }

    fn site(&self) -> Arc<ClientConfig> {
        let key = Key::create(&self.folder.path().join("site.key")).unwrap();
        let leaf = self.authority.issue_site(&key.csr_pem().unwrap(), &"aalst".parse().unwrap(), now()).unwrap();
        tls::site_config(&self.federation, &leaf.certificate_pem, self.authority.certificate_pem(), &key).unwrap()
    }

    fn roots(&self) -> PathBuf {
        let path = self.folder.path().join("roots.pem");
        std::fs::write(&path, self.authority.certificate_pem()).unwrap();
        path
    }
}

/// A proxy, and how many tunnels it has given.
struct Door {
    address: SocketAddr,
    tunnels: Arc<AtomicUsize>,
}

/// What a proxy does with a request.
#[derive(Clone, Copy)]
enum Temper {
    /// Gives a tunnel to whoever shows this.
    Wants(Option<&'static str>),
    /// Says this, whatever it is asked, and hangs up.
    Says(&'static str),
}

impl Door {
    /// A proxy that speaks TLS first, if it is given a server's side of it.
    async fn new(temper: Temper, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, tunnels) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&tunnels);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (count, tls) = (Arc::clone(&count), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(client, temper, &count).await,
                        Some(tls) => match TlsAcceptor::from(tls).accept(client).await {
                            Ok(client) => serve(client, temper, &count).await,
                            Err(_) => None,
                        },
                    }
                });
            }
        });
        Self { address, tunnels }
    }

    fn route(&self, scheme: &str, login: &str, roots: Option<PathBuf>) -> Route {
        let url = format!("{scheme}://{login}{}", self.address).parse().unwrap();
        Route::Via(Arc::new(Proxy::new(url, roots.as_deref()).unwrap()))
    }
}

async fn serve(
    client: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    temper: Temper,
    tunnels: &AtomicUsize,
) -> Option<()> {
    let mut client = BufReader::new(client);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        client.read_until(b'\n', &mut head).await.ok().filter(|read| *read > 0)?;
    }
    let head = String::from_utf8(head).unwrap();
    let wanted = match temper {
        Temper::Says(words) => {
            client.write_all(words.as_bytes()).await.ok()?;
            return client.shutdown().await.ok();
        }
        Temper::Wants(wanted) => wanted,
    };
    if wanted.is_some_and(|wanted| !head.contains(&format!("\r\nProxy-Authorization: Basic {wanted}\r\n"))) {
        let words = b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"door\"\r\n\r\n";
        return client.write_all(words).await.ok();
    }
    let target = head.split(' ').nth(1)?;
    let mut server = TcpStream::connect(target).await.ok()?;
    tunnels.fetch_add(1, Ordering::Relaxed);
    client.write_all(b"HTTP/1.1 200 Connection established\r\nVia: door\r\n\r\n").await.ok()?;
    copy_bidirectional(&mut client, &mut server).await.ok().map(drop)
}

async fn greeted(house: &House, config: Arc<ClientConfig>, route: &Route) -> Result<(), String> {
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let mut stream = connect_via(&house.address.to_string(), config, route).await.map_err(|error| told(&error))?;
    let mut greeting = [0; 5];
    stream.read_exact(&mut greeting).await.map(drop).map_err(|error| told(&error))
}

/// base64 of `user:p@ss`.
const USER: &str = "dXNlcjpwQHNz";

#[tokio::test]
async fn a_session_goes_through_a_proxy_plain_or_over_tls_with_and_without_credentials() {
    let (house, hospital) = (House::new("cmr").await, House::new("hospital").await);
    let site = house.site();
    let roots = || Some(hospital.roots());
    for (wants, scheme, login) in [
        (None, "http", ""),
        (None, "http", "user:p%40ss@"),
        (Some(USER), "http", "user:p%40ss@"),
        (Some(USER), "https", "user:p%40ss@"),
    ] {
        let tls = (scheme == "https").then(|| Arc::clone(&hospital.server));
        let door = Door::new(Temper::Wants(wants), tls).await;
        greeted(&house, Arc::clone(&site), &door.route(scheme, login, roots())).await.unwrap();
        assert_eq!(door.tunnels.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test]
async fn a_proxy_that_gives_no_tunnel_is_told_with_its_remedy_and_never_with_the_password() {
    let house = House::new("cmr").await;
    let other = House::new("other").await;
    let (site, roots) = (house.site(), other.roots());
    let long = Box::leak(format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(20_000)).into_boxed_str());
    let table: [(Temper, &str, &str, &str); 12] = [
        (Temper::Wants(Some(USER)), "http", "", "asks for credentials: write them as http://user:password@host:port"),
        (Temper::Wants(Some(USER)), "http", "user:p%40sS@", "other credentials than it was given"),
        (
            Temper::Says("HTTP/1.1 401 Unauthorized\r\n\r\n"),
            "http",
            "user:p%40sS@",
            "other credentials than it was given",
        ),
        (
            Temper::Says("HTTP/1.1 403 Forbidden\r\n\r\n"),
            "http",
            "user:p%40sS@",
            "(403): ask its administrators to permit CONNECT",
        ),
        (Temper::Says("HTTP/1.1 502 Bad Gateway\r\n\r\n"), "http", "", "cannot reach"),
        (Temper::Says("SSH-2.0-OpenSSH_9.2\r\n"), "http", "", "its answer is not HTTP"),
        (Temper::Says(""), "http", "user:p%40sS@", "hangs up without an answer"),
        (Temper::Says("HTTP/1.1 200"), "http", "", "in the middle of its answer"),
        (Temper::Says("HTTP/1.1 hello\r\n\r\n"), "http", "", "no status"),
        (Temper::Says(long), "http", "", "has no end"),
        // A tunnel that ends at something else than the aggregator.
        (Temper::Says("HTTP/1.1 200 OK\r\n\r\nGIF89a"), "http", "user:p%40sS@", ""),
        (Temper::Wants(None), "https", "user:p%40sS@", "cannot be trusted"),
    ];
    for (temper, scheme, login, part) in table {
        let tls = (scheme == "https").then(|| Arc::clone(&house.server));
        let door = Door::new(temper, tls).await;
        let told =
            greeted(&house, Arc::clone(&site), &door.route(scheme, login, Some(roots.clone()))).await.unwrap_err();
        assert!(told.contains(part), "{part:?} is missing from: {told}");
        assert!(!told.contains("p@sS") && !told.contains("p%40sS") && !told.contains("dXNl"), "{told}");
        assert_eq!(door.tunnels.load(Ordering::Relaxed), 0);
    }
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let route = Route::Via(Arc::new(Proxy::new(format!("http://{nobody}").parse().unwrap(), None).unwrap()));
    let told = greeted(&house, site, &route).await.unwrap_err();
    assert!(told.contains("the proxy http://127.0.0.1") && told.contains("does not answer"), "{told}");
    let told = Proxy::new("https://proxy:1".parse().unwrap(), None).unwrap_err().to_string();
    assert!(told.contains("proxy_roots"), "{told}");
}

/// Who ends TLS on the way shows a certificate of its own: the session is refused, and a look shows by whom.
#[tokio::test]
async fn who_inspects_tls_on_the_way_is_refused_and_shown() {
    let (house, inspector) = (House::new("cmr").await, House::new("inspector").await);
    let address = inspector.address.to_string();
    let told = connect_via(&address, house.site(), &Route::Direct).await.err().unwrap().to_string();
    assert!(told.contains("not signed by this federation's CA"), "{told}");
    let shown = probe::shown(&address, &Route::Direct).await.unwrap();
    assert_eq!(shown[0].issuer, "CN=inspector certificate authority");
    let door = Door::new(Temper::Wants(None), None).await;
    let shown = probe::shown(&house.address.to_string(), &door.route("http", "", None)).await.unwrap();
    assert_eq!(shown[0].issuer, "CN=cmr certificate authority");
    assert_eq!(probe::Shown::of_pem(house.authority.certificate_pem()).unwrap().subject, shown[0].issuer);
    assert!(shown[0].not_before_s < now() && shown[0].not_after_s > now());
}
