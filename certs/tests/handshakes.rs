//! Who gets through, by real handshakes on loopback.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use certs::acceptor::{HANDSHAKE_WITHIN, HANDSHAKES, HANDSHAKES_OF_ONE};
use certs::authority::{Authority, LEAF_DAYS};
use certs::connect::{ConnectError, connect};
use certs::identity::{Peer, Role};
use certs::keys::Key;
use certs::{acceptor, tls};
use common::{Digest, FederationName, SiteId};
use rustls::{ClientConfig, HandshakeKind, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsConnector;
use tokio_stream::StreamExt;

/// A time in 2020, in seconds since 1970: leaves made then have expired.
const LONG_AGO: i64 = 1_600_000_000;

fn now() -> i64 {
    i64::try_from(rustls::pki_types::UnixTime::now().as_secs()).unwrap()
}

/// A federation whose server tells who connected.
struct House {
    folder: tempfile::TempDir,
    federation: FederationName,
    authority: Authority,
    address: SocketAddr,
    peers: mpsc::Receiver<Option<Peer>>,
}

/// The aggregator's side, with a certificate of this authority.
fn server(authority: &Authority, key: &Key, made_at: i64) -> Arc<ServerConfig> {
    let leaf = authority.issue_aggregator(&key.csr_pem().unwrap(), &["127.0.0.1".to_owned()], made_at).unwrap();
    tls::server_config(&leaf.certificate_pem, authority.certificate_pem(), key).unwrap()
}

impl House {
    async fn new(name: &str, made_at: i64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let federation: FederationName = name.parse().unwrap();
        let authority = Authority::create(&folder.path().join("ca"), &federation, made_at).unwrap();
        let config = server(&authority, &Key::create(&folder.path().join("server.key")).unwrap(), made_at);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut arriving = Box::pin(acceptor::connections(listener, config, federation.clone()));
        let (send, peers) = mpsc::channel(8);
        tokio::spawn(async move {
            while let Some(Ok(mut connection)) = arriving.next().await {
                send.send(connection.peer().cloned()).await.unwrap();
                connection.write_all(b"hello").await.unwrap();
            }
        });
        Self { folder, federation, authority, address, peers }
    }

    fn key(&self, name: &str) -> Key {
        Key::create(&self.folder.path().join(name)).unwrap()
    }

    fn site(&self, site: &str, made_at: i64) -> Arc<ClientConfig> {
        let (key, site): (_, SiteId) = (self.key(site), site.parse().unwrap());
        let leaf = self.authority.issue_site(&key.csr_pem().unwrap(), &site, made_at).unwrap();
        tls::site_config(&self.federation, &leaf.certificate_pem, self.authority.certificate_pem(), &key).unwrap()
    }

    /// Connects, and reads the greeting: TLS 1.3 tells a refused client only when it reads.
    async fn greeted(&self, config: Arc<ClientConfig>) -> Result<(), String> {
        let mut stream = connect(&self.address.to_string(), config).await.map_err(|error| error.to_string())?;
        let mut greeting = [0; 5];
        stream.read_exact(&mut greeting).await.map(drop).map_err(|error| error.to_string())
    }
}

#[tokio::test]
async fn an_enrolled_site_is_known_by_its_certificate_and_a_stranger_is_nobody() {
    let mut house = House::new("cmr", now()).await;
    house.greeted(house.site("aalst", now())).await.unwrap();
    let peer = house.peers.recv().await.unwrap().unwrap();
    assert_eq!(peer.identity.role, Role::Site("aalst".parse().unwrap()));
    let pin = house.authority.fingerprint().unwrap();
    house.greeted(tls::enrolment_config(&house.federation, pin).unwrap()).await.unwrap();
    assert_eq!(house.peers.recv().await.unwrap(), None);
}

#[tokio::test]
async fn a_certificate_of_another_authority_or_past_its_life_is_refused_and_the_remedy_is_told() {
    let (house, other) = (House::new("cmr", now()).await, House::new("cmr", now()).await);
    // Trusts this house's server, but shows a certificate of the other's CA.
    let (key, site) = (house.key("mixed"), "aalst".parse().unwrap());
    let foreign = other.authority.issue_site(&key.csr_pem().unwrap(), &site, now()).unwrap();
    let mixed =
        tls::site_config(&house.federation, &foreign.certificate_pem, house.authority.certificate_pem(), &key).unwrap();
    assert!(house.greeted(mixed).await.is_err());
    assert!(house.greeted(house.site("late", LONG_AGO)).await.is_err());
    let told = connect(&house.address.to_string(), other.site("bergen", now())).await.unwrap_err();
    assert!(matches!(told, ConnectError::NotTheAggregator { .. }), "{told}");
    assert!(told.to_string().contains("not signed by this federation's CA"), "{told}");
}

#[tokio::test]
async fn an_aggregator_whose_certificate_does_not_count_now_is_no_impostor_and_clocks_are_named() {
    let old = House::new("cmr", LONG_AGO).await;
    let told = connect(&old.address.to_string(), old.site("aalst", LONG_AGO)).await.unwrap_err();
    assert!(matches!(told, ConnectError::Clock { .. }) && told.to_string().contains("set the clock"), "{told}");
}

#[tokio::test]
async fn a_site_that_enrols_accepts_only_the_authority_that_its_invitation_pins() {
    let house = House::new("cmr", now()).await;
    let wrong = tls::enrolment_config(&house.federation, Digest::of(b"another")).unwrap();
    assert!(house.greeted(wrong).await.unwrap_err().contains("not signed by this federation's CA"));
    let pin = house.authority.fingerprint().unwrap();
    let elsewhere = tls::enrolment_config(&"other".parse().unwrap(), pin).unwrap();
    assert!(house.greeted(elsewhere).await.unwrap_err().contains("not of this federation's aggregator"));
}

#[tokio::test]
async fn a_site_cannot_serve_and_an_aggregator_cannot_call() {
    let house = House::new("cmr", now()).await;
    let key = house.key("posing");
    let leaf = house.authority.issue_site(&key.csr_pem().unwrap(), &"aalst".parse().unwrap(), now()).unwrap();
    let posing = tls::server_config(&leaf.certificate_pem, house.authority.certificate_pem(), &key).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut arriving = Box::pin(acceptor::connections(listener, posing, house.federation.clone()));
    tokio::spawn(async move { while arriving.next().await.is_some() {} });
    assert!(matches!(connect(&address, house.site("bergen", now())).await, Err(ConnectError::NotTheAggregator { .. })));

    let leaf = house.authority.issue_aggregator(&key.csr_pem().unwrap(), &[], now()).unwrap();
    let calling =
        tls::site_config(&house.federation, &leaf.certificate_pem, house.authority.certificate_pem(), &key).unwrap();
    assert!(house.greeted(calling).await.is_err());
}

#[tokio::test]
async fn a_second_connection_is_verified_as_the_first_was() {
    let mut house = House::new("cmr", now()).await;
    let config = house.site("aalst", now());
    for _ in 0..2 {
        let mut stream = connect(&house.address.to_string(), Arc::clone(&config)).await.unwrap();
        // What a server sends for a resumption arrives before the greeting.
        stream.read_exact(&mut [0; 5]).await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        let peer = house.peers.recv().await.unwrap().unwrap();
        assert!((now()..=now() + LEAF_DAYS * 24 * 60 * 60).contains(&peer.expires_at_s));
    }
}

// Other systems have only one address of the loopback network.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_address_with_too_many_handshakes_gives_up_its_oldest_and_keeps_no_other_out() {
    let house = House::new("cmr", now()).await;
    let begun = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..HANDSHAKES + 10 {
        silent.push(TcpStream::connect(house.address).await.unwrap());
    }
    // Connected from another address of the loopback network.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let tcp = socket.connect(house.address).await.unwrap();
    let shaken = TlsConnector::from(house.site("aalst", now())).connect("127.0.0.1".try_into().unwrap(), tcp).await;
    shaken.unwrap().read_exact(&mut [0; 5]).await.unwrap();
    let mut last = silent.pop().unwrap();
    assert!(is_waiting(&mut last).await, "nobody's time limit had to pass");
    for dropped in &mut silent[..HANDSHAKES + 10 - HANDSHAKES_OF_ONE] {
        assert_eq!(dropped.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }
    assert!(begun.elapsed() < HANDSHAKE_WITHIN, "dropped at once");
}

/// Whether nothing has come of a connection, not even its end.
async fn is_waiting(tcp: &mut TcpStream) -> bool {
    std::future::poll_fn(|cx| {
        let mut one = [0; 1];
        Poll::Ready(tcp.poll_peek(cx, &mut ReadBuf::new(&mut one)).is_pending())
    })
    .await
}

#[tokio::test]
async fn a_member_gets_in_from_an_address_of_which_many_are_silent_and_many_say_a_byte() {
    let house = House::new("cmr", now()).await;
    let mut talking = TcpStream::connect(house.address).await.unwrap();
    talking.write_all(&[0x16]).await.unwrap();
    let mut others = Vec::new();
    // More than half of them are silent: they give way to each other, and not who has said something.
    for _ in 0..3 * HANDSHAKES_OF_ONE {
        others.push(TcpStream::connect(house.address).await.unwrap());
    }
    house.greeted(house.site("aalst", now())).await.unwrap();
    assert!(is_waiting(&mut talking).await);
    // One is silent for long, while many say a byte and no more.
    let mut slow = TcpStream::connect(house.address).await.unwrap();
    for _ in 0..3 * HANDSHAKES_OF_ONE {
        let mut other = TcpStream::connect(house.address).await.unwrap();
        other.write_all(&[0x16]).await.unwrap();
        others.push(other);
    }
    house.greeted(house.site("bergen", now())).await.unwrap();
    assert!(is_waiting(&mut slow).await);
    drop(others);
}

#[tokio::test]
async fn a_port_is_free_again_as_soon_as_its_connections_are_no_longer_awaited() {
    let house = House::new("cmr", now()).await;
    let config = server(&house.authority, &house.key("again"), now());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut arriving = Box::pin(acceptor::connections(listener, config, house.federation.clone()));
    let site = house.site("aalst", now());
    let name = address.to_string();
    let (arrived, connected) = tokio::join!(arriving.next(), connect(&name, site));
    drop((arrived, connected));
    drop(arriving);
    TcpListener::bind(address).await.unwrap();
}

#[tokio::test]
async fn whoever_is_in_the_middle_of_a_handshake_when_no_more_are_let_in_is_served_to_the_end() {
    let house = House::new("cmr", now()).await;
    let config = server(&house.authority, &house.key("again"), now());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (end, mut ended) = watch::channel(());
    let until = async move { drop(ended.changed().await) };
    let arriving = acceptor::connections(listener, config, house.federation.clone()).until(until);
    let mut arriving = Box::pin(arriving);
    let slow = TcpStream::connect(address).await.unwrap();
    // Connections are taken in order: when the second is there, the first is in its handshake.
    let name = address.to_string();
    let (second, _) = tokio::join!(arriving.next(), connect(&name, house.site("bergen", now())));
    second.unwrap().unwrap();
    drop(end);
    let greeted = async {
        let shaken = TlsConnector::from(house.site("aalst", now())).connect("127.0.0.1".try_into().unwrap(), slow);
        shaken.await.unwrap().read_exact(&mut [0; 5]).await
    };
    let served = async {
        let mut connection = arriving.next().await.unwrap().unwrap();
        connection.write_all(b"hello").await.unwrap();
        (connection, arriving.next().await.is_none())
    };
    let (greeted, (_, is_the_last)) = tokio::join!(greeted, served);
    greeted.unwrap();
    assert!(is_the_last, "no handshake is under way");
    assert!(TcpStream::connect(address).await.is_err(), "nobody new is let in");
}

#[tokio::test]
async fn plain_text_and_silence_delay_nobody() {
    let mut house = House::new("cmr", now()).await;
    let silent = TcpStream::connect(house.address).await.unwrap();
    let mut plain = TcpStream::connect(house.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    house.greeted(house.site("aalst", now())).await.unwrap();
    assert!(house.peers.recv().await.unwrap().is_some());
    let mut answer = Vec::new();
    // An alert and the end, or the end alone; never an answer in plain text.
    let ended = plain.read_to_end(&mut answer).await;
    assert!(ended.is_err() || !answer.starts_with(b"HTTP"));
    drop(silent);
}

#[tokio::test]
async fn what_a_request_wishes_for_is_ignored() {
    let house = House::new("cmr", now()).await;
    let pair = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["aggregator.example.org".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let wish = params.serialize_request(&pair).unwrap();
    let made = now();
    let issued = house.authority.issue_site(&wish.pem().unwrap(), &"aalst".parse().unwrap(), made).unwrap();
    let text = issued.certificate_pem;
    let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes()).unwrap();
    let leaf = pem.parse_x509().unwrap();
    assert!(!leaf.is_ca());
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth, "the purpose is the CA's to say");
    let peer = Peer::of_caller(&pem.contents, &house.federation).unwrap();
    assert_eq!(peer.identity.role, Role::Site("aalst".parse().unwrap()));
    assert_eq!((peer.serial, peer.expires_at_s), (issued.serial, made + LEAF_DAYS * 24 * 60 * 60));
    assert!(!pem.contents.windows(11).any(|window| window == b"example.org"));
}

#[tokio::test]
async fn who_says_nothing_is_let_go_when_the_time_of_a_handshake_is_over() {
    let house = House::new("cmr", now()).await;
    let mut silent = TcpStream::connect(house.address).await.unwrap();
    let began = Instant::now();
    let ended = silent.read(&mut [0; 1]).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let took = began.elapsed();
    assert!(took >= HANDSHAKE_WITHIN.mul_f64(0.9) && took < HANDSHAKE_WITHIN * 4, "{took:?}");
}

#[tokio::test]
async fn a_site_that_signs_its_messages_accepts_the_aggregator_and_whom_its_hospitals_ca_vouches_for_and_shows_no_certificate()
 {
    let (mut house, mut proxy) = (House::new("cmr", now()).await, House::new("corporate", now()).await);
    let other = House::new("another", now()).await;
    let (federation, ca) = (house.federation.clone(), house.authority.certificate_pem().to_owned());
    let config = |roots: Option<&str>| tls::signed_config(&federation, &ca, roots).unwrap();
    let roots = proxy.authority.certificate_pem().to_owned();
    house.greeted(config(Some(&roots))).await.unwrap();
    assert_eq!(house.peers.recv().await.unwrap(), None);
    proxy.greeted(config(Some(&roots))).await.unwrap();
    assert_eq!(proxy.peers.recv().await.unwrap(), None);
    house.greeted(config(None)).await.unwrap();
    // Nobody else: without the hospital's CA, with another's, and under another name.
    assert!(proxy.greeted(config(None)).await.unwrap_err().contains("`channel = \"signed\"`"));
    assert!(other.greeted(config(Some(&roots))).await.is_err());
    let by_name = format!("localhost:{}", proxy.address.port());
    assert!(matches!(connect(&by_name, config(Some(&roots))).await, Err(ConnectError::NotTheAggregator { .. })));
    // The same before it is enrolled.
    let pin = house.authority.fingerprint().unwrap();
    let enrolling = |roots| tls::signed_enrolment_config(&federation, pin, roots).unwrap();
    house.greeted(enrolling(Some(&roots))).await.unwrap();
    proxy.greeted(enrolling(Some(&roots))).await.unwrap();
    assert!(proxy.greeted(enrolling(None)).await.is_err());
}
