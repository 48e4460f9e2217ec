//! Every certificate that must not get through, in both directions, by real handshakes on loopback: what is wrong with it, and what
//! the person at either end is told.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use certs::connect::{connect, explained};
use certs::identity::Peer;
use certs::keys::Key;
use certs::{acceptor, tls};
use common::FederationName;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::client::ResolvesClientCert;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;

const WITHIN: Duration = Duration::from_secs(30);
const HOST: &str = "127.0.0.1";
const SITE: &str = "spiffe://cmr/site/aalst";
const AGGREGATOR: &str = "spiffe://cmr/aggregator";

/// Where certificates are crafted by hand, as a forger would.
struct Forge {
    folder: tempfile::TempDir,
    federation: FederationName,
    authority: Ca,
    other: Ca,
}

struct Ca {
    pem: String,
    key: KeyPair,
}

impl Ca {
    fn new(name: &str, from: i32, to: i32) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.subject_alt_names = vec![uri("spiffe://cmr")];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        Self { pem: params.self_signed(&key).unwrap().pem(), key }
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_ca_cert_pem(&self.pem, &self.key).unwrap()
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

/// A leaf as this federation's CA makes it, but for what a case changes.
#[derive(Clone)]
struct Leaf {
    names: Vec<SanType>,
    purposes: Vec<ExtendedKeyUsagePurpose>,
    years: (i32, i32),
    is_ca: IsCa,
}

impl Leaf {
    fn site() -> Self {
        Self::of(vec![uri(SITE)], ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn aggregator() -> Self {
        Self::of(vec![uri(AGGREGATOR), host()], ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn of(names: Vec<SanType>, purpose: ExtendedKeyUsagePurpose) -> Self {
        Self { names, purposes: vec![purpose], years: (2020, 2090), is_ca: IsCa::ExplicitNoCa }
    }

    fn named(names: Vec<SanType>, as_it: &Self) -> Self {
        Self { names, ..as_it.clone() }
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.subject_alt_names = self.names.clone();
        params.extended_key_usages = self.purposes.clone();
        (params.not_before, params.not_after) = (date_time_ymd(self.years.0, 1, 1), date_time_ymd(self.years.1, 1, 1));
        params.is_ca = self.is_ca;
        params
    }

    fn signed(&self, key: &KeyPair, ca: &Ca) -> String {
        self.params().signed_by(key, &ca.issuer()).unwrap().pem()
    }
}

fn host() -> SanType {
    SanType::IpAddress(HOST.parse().unwrap())
}

/// What a peer presents: certificates, the first of which is its own, and the key it signs the handshake with.
struct Presented {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

impl Presented {
    fn new(pems: &[&str], key: KeyPair) -> Self {
        let chain = pems.iter().map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).collect();
        Self { chain, key }
    }

    /// Without rustls's own check that the key is the certificate's.
    fn certified(&self) -> Arc<CertifiedKey> {
        let key = PrivateKeyDer::Pkcs8(self.key.serialize_der().into());
        Arc::new(CertifiedKey::new(self.chain.clone(), ring::sign::any_supported_type(&key).unwrap()))
    }
}

#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Always {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl Forge {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            federation: "cmr".parse().unwrap(),
            authority: Ca::new("cmr certificate authority", 2020, 2090),
            other: Ca::new("cmr certificate authority", 2020, 2090),
        }
    }

    /// A key in a file, as the programs load it.
    fn key(&self, pair: &KeyPair) -> Key {
        let path: PathBuf = self.folder.path().join(format!("{}.key", rand_name()));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap();
        file.write_all(pair.serialize_pem().as_bytes()).unwrap();
        Key::load(&path).unwrap()
    }

    /// The configuration of the real site, with another certificate put in.
    fn client(&self, presented: &Presented) -> Arc<ClientConfig> {
        let own = KeyPair::generate().unwrap();
        let leaf = Leaf::site().signed(&own, &self.authority);
        let config = tls::site_config(&self.federation, &leaf, &self.authority.pem, &self.key(&own)).unwrap();
        let mut config = ClientConfig::clone(&config);
        config.client_auth_cert_resolver = Arc::new(Always(presented.certified()));
        Arc::new(config)
    }

    /// The configuration of the real aggregator, with another certificate put in.
    fn server(&self, presented: &Presented) -> Arc<ServerConfig> {
        let own = KeyPair::generate().unwrap();
        let leaf = Leaf::aggregator().signed(&own, &self.authority);
        let config = tls::server_config(&leaf, &self.authority.pem, &self.key(&own)).unwrap();
        let mut config = ServerConfig::clone(&config);
        config.cert_resolver = Arc::new(Always(presented.certified()));
        Arc::new(config)
    }

    fn honest_server(&self) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let leaf = Leaf::aggregator().signed(&key, &self.authority);
        self.server(&Presented::new(&[&leaf, &self.authority.pem], key))
    }

    fn honest_client(&self) -> Arc<ClientConfig> {
        let key = KeyPair::generate().unwrap();
        let leaf = Leaf::site().signed(&key, &self.authority);
        self.client(&Presented::new(&[&leaf], key))
    }

    /// Certificates that are wrong whoever presents them, for a leaf that would be right.
    fn wrong(&self, right: &Leaf, other_role: &Leaf) -> Vec<(&'static str, Presented)> {
        let fresh = || KeyPair::generate().unwrap();
        let by = |leaf: &Leaf, ca: &Ca| {
            let key = fresh();
            Presented::new(&[&leaf.signed(&key, ca)], key)
        };
        let ours = |leaf: &Leaf| by(leaf, &self.authority);
        let named = |first: &str| {
            let mut names = right.names.clone();
            names[0] = uri(first);
            ours(&Leaf::named(names, right))
        };
        let for_purpose = |purpose| ours(&Leaf { purposes: vec![purpose], ..right.clone() });
        let mut cases = vec![
            ("of another CA of the same name", by(right, &self.other)),
            ("expired", ours(&Leaf { years: (2020, 2021), ..right.clone() })),
            ("not valid yet", ours(&Leaf { years: (2080, 2090), ..right.clone() })),
            ("for the other purpose", ours(&Leaf { purposes: other_role.purposes.clone(), ..right.clone() })),
            ("of the other role", ours(other_role)),
            (
                "of the other role, for this purpose",
                ours(&Leaf {
                    names: other_role.names.iter().chain(&right.names[1..]).cloned().collect(),
                    ..right.clone()
                }),
            ),
            ("of another federation", named(&right_uri(right).replace("//cmr/", "//other/"))),
            ("without a federation", named(&right_uri(right).replace("//cmr/", "///"))),
            ("of another scheme", named(&right_uri(right).replace("spiffe:", "https:"))),
            ("with a longer path", named(&format!("{}/more", right_uri(right)))),
            ("with a name in capitals", named("spiffe://cmr/SITE/Aalst")),
            ("of a site that could be a path", named("spiffe://cmr/site/..%2f")),
            ("of the authority itself", named("spiffe://cmr")),
            ("with two identities", {
                let mut names = right.names.clone();
                names.push(uri("spiffe://cmr/site/bergen"));
                ours(&Leaf::named(names, right))
            }),
            ("with the same identity twice", {
                let mut names = right.names.clone();
                names.push(names[0].clone());
                ours(&Leaf::named(names, right))
            }),
            ("for any purpose", for_purpose(ExtendedKeyUsagePurpose::Any)),
            ("for signing programs", for_purpose(ExtendedKeyUsagePurpose::CodeSigning)),
            ("for electronic mail", for_purpose(ExtendedKeyUsagePurpose::EmailProtection)),
            ("for time stamps", for_purpose(ExtendedKeyUsagePurpose::TimeStamping)),
            (
                "for both purposes",
                ours(&Leaf {
                    purposes: [right.purposes.as_slice(), other_role.purposes.as_slice()].concat(),
                    ..right.clone()
                }),
            ),
            ("for no purpose", ours(&Leaf { purposes: Vec::new(), ..right.clone() })),
            ("that ends before it begins", ours(&Leaf { years: (2090, 2020), ..right.clone() })),
            ("with a port", named(&right_uri(right).replace("//cmr/", "//cmr:443/"))),
            ("with somebody at the federation", named(&right_uri(right).replace("//cmr/", "//root@cmr/"))),
            ("with a question", named(&format!("{}?as=coordinator", right_uri(right)))),
            ("with a fragment", named(&format!("{}#coordinator", right_uri(right)))),
            ("with a slash at its end", named(&format!("{}/", right_uri(right)))),
            ("with an empty step", named(&right_uri(right).replace("//cmr/", "//cmr//"))),
            ("of a federation in capitals", named(&right_uri(right).replace("//cmr/", "//CMR/"))),
            ("of a site without a name", named("spiffe://cmr/site/")),
            ("of a site whose name is too long", named(&format!("spiffe://cmr/site/{}", "a".repeat(300)))),
            ("of a site whose name ends in a zero byte", named("spiffe://cmr/site/aalst\0")),
            ("of an office that there is not", named("spiffe://cmr/root/alice")),
            ("whose identity is a host's name", {
                let mut names = right.names.clone();
                names[0] = dns(&right_uri(right));
                ours(&Leaf::named(names, right))
            }),
            ("whose identity is an address of electronic mail", {
                let mut names = right.names.clone();
                names[0] = SanType::Rfc822Name(right_uri(right).as_str().try_into().unwrap());
                ours(&Leaf::named(names, right))
            }),
            ("without an identity", {
                let mut names = right.names[1..].to_vec();
                names.push(dns("aalst.example.org"));
                ours(&Leaf::named(names, right))
            }),
        ];
        // Signed by itself.
        let key = fresh();
        let alone = right.params().self_signed(&key).unwrap().pem();
        cases.push(("signed by itself", Presented::new(&[&alone], key)));
        // The CA's certificate, in the hands of who has its key.
        let key = KeyPair::from_pem(&self.authority.key.serialize_pem()).unwrap();
        cases.push(("the CA's own", Presented::new(&[&self.authority.pem], key)));
        // Signed by another leaf, which comes along.
        let (between, key) = (fresh(), fresh());
        let signer = right.signed(&between, &self.authority);
        let under = Ca { pem: signer.clone(), key: between };
        let below = right.params().signed_by(&key, &Issuer::new(right.params(), &under.key)).unwrap().pem();
        cases.push(("signed by a leaf", Presented::new(&[&below, &signer], key)));
        // A CA below the CA, which must have none.
        let (between, key) = (fresh(), fresh());
        let lower = Leaf { is_ca: IsCa::Ca(BasicConstraints::Unconstrained), ..right.clone() };
        let lower_pem = lower.signed(&between, &self.authority);
        let below = right.params().signed_by(&key, &Issuer::new(lower.params(), &between)).unwrap().pem();
        cases.push(("signed by a CA below the CA", Presented::new(&[&below, &lower_pem], key)));
        // A leaf that says it is a CA.
        cases.push(("that may sign others", ours(&lower)));
        // A true certificate without its key.
        let leaf = right.signed(&fresh(), &self.authority);
        cases.push(("without its key", Presented::new(&[&leaf], fresh())));
        // A byte of the signature is another one.
        let mut spoilt = ours(right);
        let mut der = spoilt.chain[0].to_vec();
        let last = der.len() - 1;
        der[last] ^= 1;
        spoilt.chain[0] = der.into();
        cases.push(("with a spoilt signature", spoilt));
        // A byte of its name is another one.
        let mut spoilt = ours(right);
        let mut der = spoilt.chain[0].to_vec();
        let place = der.windows(12).position(|window| window.starts_with(b"spiffe://cmr")).unwrap();
        der[place + 10] ^= 1;
        spoilt.chain[0] = der.into();
        cases.push(("with a spoilt name", spoilt));
        // The signature of another one.
        let (mut spoilt, another) = (ours(right), ours(right));
        let mut der = spoilt.chain[0].to_vec();
        let (at, from) = (der.len() - 32, another.chain[0].len() - 32);
        der[at..].copy_from_slice(&another.chain[0][from..]);
        spoilt.chain[0] = der.into();
        cases.push(("with half of another's signature", spoilt));
        // Something that must be understood, and is not.
        let key = fresh();
        let mut params = right.params();
        let mut unknown = rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
        unknown.set_criticality(true);
        params.custom_extensions.push(unknown);
        let strange = params.signed_by(&key, &self.authority.issuer()).unwrap().pem();
        cases.push(("with an unknown condition", Presented::new(&[&strange], key)));
        let whole = ours(right).chain[0].to_vec();
        for (what, bytes) in [
            ("that is none", vec![0x30, 0x03, 1, 2, 3]),
            ("that is cut short", whole[..whole.len() / 2].to_vec()),
            ("with a byte too many", [whole.clone(), vec![0]].concat()),
            ("in letters", b"-----BEGIN CERTIFICATE-----".to_vec()),
            ("of sixty thousand bytes", vec![0x30; 60_000]),
        ] {
            let mut spoilt = ours(right);
            spoilt.chain[0] = bytes.into();
            cases.push((what, spoilt));
        }
        cases
    }
}

fn right_uri(leaf: &Leaf) -> String {
    match &leaf.names[0] {
        SanType::URI(uri) => uri.to_string(),
        _ => unreachable!("the first name is the identity"),
    }
}

fn rand_name() -> String {
    KeyPair::generate().unwrap().public_key_raw()[1..17].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A real acceptor that greets whom it lets in, and tells who that was.
struct Acceptor {
    address: SocketAddr,
    peers: mpsc::Receiver<Option<Peer>>,
}

impl Acceptor {
    async fn new(config: Arc<ServerConfig>, federation: FederationName) -> Self {
        let listener = TcpListener::bind((HOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut arriving = Box::pin(acceptor::connections(listener, config, federation));
        let (send, peers) = mpsc::channel(64);
        tokio::spawn(async move {
            while let Some(Ok(mut connection)) = arriving.next().await {
                send.send(connection.peer().cloned()).await.unwrap();
                drop(connection.write_all(b"hello").await);
            }
        });
        Self { address, peers }
    }

    /// Whether a client gets its greeting, or what it is told.
    async fn greets(&self, config: Arc<ClientConfig>) -> Result<(), String> {
        let whole = async {
            let mut stream = connect(&self.address.to_string(), config).await.map_err(|error| error.to_string())?;
            // TLS 1.3 tells a client that it is refused only when it reads.
            let read = stream.read_exact(&mut [0; 5]).await;
            read.map(drop).map_err(|error| explained(&error).unwrap_or_else(|| error.to_string()))
        };
        tokio::time::timeout(WITHIN, whole).await.expect("an answer in time")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_with_a_wrong_certificate_gets_nowhere_and_is_told_what_to_do() {
    let forge = Forge::new();
    let mut server = Acceptor::new(forge.honest_server(), forge.federation.clone()).await;
    server.greets(forge.honest_client()).await.unwrap();
    assert!(server.peers.recv().await.unwrap().is_some());
    let mut cases = forge.wrong(&Leaf::site(), &Leaf::of(vec![uri(AGGREGATOR)], ExtendedKeyUsagePurpose::ServerAuth));
    let key = KeyPair::generate().unwrap();
    let leaf = Leaf::site().signed(&key, &forge.authority);
    cases.push(("with the CA's own beside it", Presented::new(&[&leaf, &forge.authority.pem], key)));
    let count = cases.len();
    assert!(count >= 40, "{count} cases");
    for (what, presented) in cases {
        let told = server.greets(forge.client(&presented)).await;
        let told = told.expect_err(&format!("a site's certificate {what} got through"));
        assert!(
            told.contains("refuses this certificate") && told.contains("enrol again"),
            "a certificate {what}: {told}"
        );
    }
    // None of them was anybody, and the next honest one still is.
    assert!(server.peers.try_recv().is_err());
    server.greets(forge.honest_client()).await.unwrap();
    println!("{count} certificates of sites were refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregator_with_a_wrong_certificate_hears_nothing_of_a_site() {
    let forge = Forge::new();
    let right = Leaf::aggregator();
    let mut cases = forge.wrong(&right, &Leaf::of(vec![uri(SITE), host()], ExtendedKeyUsagePurpose::ClientAuth));
    let named = |names: Vec<SanType>| {
        let key = KeyPair::generate().unwrap();
        Presented::new(&[&Leaf::named(names, &right).signed(&key, &forge.authority)], key)
    };
    cases.push(("for another host", named(vec![uri(AGGREGATOR), dns("aggregator.example.org")])));
    cases.push(("for another address", named(vec![uri(AGGREGATOR), SanType::IpAddress("10.0.0.1".parse().unwrap())])));
    cases.push(("for no host", named(vec![uri(AGGREGATOR)])));
    let count = cases.len();
    assert!(count >= 40, "{count} cases");
    // Whose certificate merely does not count now may be the aggregator, and this machine's clock wrong.
    let mut of_time = Vec::new();
    for (what, presented) in cases {
        let server = Acceptor::new(forge.server(&presented), forge.federation.clone()).await;
        let told = server.greets(forge.honest_client()).await;
        let told = told.expect_err(&format!("an aggregator's certificate {what} was believed"));
        if told.contains("set the clock") {
            of_time.push(what);
            continue;
        }
        assert!(told.contains("is not this federation's aggregator"), "a certificate {what}: {told}");
        assert!(told.contains("by telephone"), "a certificate {what}: {told}");
    }
    assert_eq!(of_time, ["expired", "not valid yet", "that ends before it begins"]);
    println!("{count} certificates of aggregators were refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_enrols_believes_no_chain_that_only_shows_the_pinned_authority() {
    let forge = Forge::new();
    let pin = certs::authority::fingerprint(&forge.authority.pem).unwrap();
    let enrols = || tls::enrolment_config(&forge.federation, pin).unwrap();
    let right = Leaf::aggregator();
    let chain = |ca: &Ca, along: &[&str]| {
        let key = KeyPair::generate().unwrap();
        let leaf = right.signed(&key, ca);
        let mut pems = vec![leaf.as_str()];
        pems.extend(along);
        Presented::new(&pems, key)
    };
    let (ours, theirs) = (&forge.authority, &forge.other);
    let cases = [
        ("of another CA, with the pinned one beside it", chain(theirs, &[&ours.pem])),
        ("of another CA, with both beside it", chain(theirs, &[&theirs.pem, &ours.pem])),
        ("of another CA", chain(theirs, &[&theirs.pem])),
        ("of the pinned CA, which does not come along", chain(ours, &[])),
    ];
    for (what, presented) in cases {
        let server = Acceptor::new(forge.server(&presented), forge.federation.clone()).await;
        let told = server.greets(enrols()).await.expect_err(what);
        assert!(told.contains("is not this federation's aggregator"), "{what}: {told}");
    }
    let mut server = Acceptor::new(forge.server(&chain(ours, &[&ours.pem])), forge.federation.clone()).await;
    server.greets(enrols()).await.unwrap();
    assert_eq!(server.peers.recv().await.unwrap(), None, "who enrols is nobody yet");
}

/// A TLS 1.2 ClientHello: version 3.3 and no extension that offers 1.3.
fn hello_of_tls_1_2() -> Vec<u8> {
    let suites: [u8; 6] = [0xc0, 0x2f, 0xc0, 0x2b, 0x00, 0x9c];
    let groups: [u8; 8] = [0x00, 0x0a, 0x00, 0x04, 0x00, 0x02, 0x00, 0x17];
    let schemes: [u8; 10] = [0x00, 0x0d, 0x00, 0x06, 0x00, 0x04, 0x04, 0x03, 0x04, 0x01];
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, suites.len() as u8]);
    body.extend(suites);
    body.extend([1, 0]);
    body.extend([0, (groups.len() + schemes.len()) as u8]);
    body.extend(groups.iter().chain(&schemes));
    let mut hello = vec![0x16, 3, 1, 0, body.len() as u8 + 4, 1, 0, 0, body.len() as u8];
    hello.extend(body);
    hello
}

#[tokio::test(flavor = "multi_thread")]
async fn older_tls_plain_text_and_noise_are_answered_with_an_alert_or_nothing() {
    let forge = Forge::new();
    let server = Acceptor::new(forge.honest_server(), forge.federation.clone()).await;
    let older = hello_of_tls_1_2();
    let noise = vec![0x5a; 600];
    for (what, bytes) in [
        ("TLS 1.2", older.as_slice()),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".as_slice()),
        ("HTTP/2 in plain text", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice()),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n".as_slice()),
        ("noise", &noise),
        ("an alert", &[0x15, 3, 3, 0, 2, 2, 40]),
        ("a record that is too long", &[0x16, 3, 1, 0xff, 0xff]),
    ] {
        let mut tcp = TcpStream::connect(server.address).await.unwrap();
        tcp.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(WITHIN, tcp.read_to_end(&mut answer)).await.expect("an end in time");
        assert!(ended.is_err() || answer.is_empty() || answer[0] == 0x15, "{what}: {answer:?}");
        if what == "TLS 1.2" {
            assert_eq!(answer[5..7], [2, 70], "a fatal alert: protocol_version");
        }
    }
    // Another application's TLS, and a silent peer beside all of it.
    let silent = TcpStream::connect(server.address).await.unwrap();
    let mut other = ClientConfig::clone(&forge.honest_client());
    other.alpn_protocols = vec![b"http/1.1".to_vec()];
    server.greets(Arc::new(other)).await.unwrap_err();
    server.greets(forge.honest_client()).await.unwrap();
    drop(silent);
}

/// What OpenSSL's own client hears, if this machine has it.
async fn openssl(address: SocketAddr, words: &[&str]) -> Option<(bool, String)> {
    let mut command = tokio::process::Command::new("openssl");
    command.args(["s_client", "-connect", &address.to_string(), "-brief"]).args(words);
    let output = command.stdin(std::process::Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(WITHIN, output).await.expect("an end in time").ok()?;
    let said = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn openssls_client_gets_no_older_tls_and_is_nobody_without_a_certificate() {
    let forge = Forge::new();
    let mut server = Acceptor::new(forge.honest_server(), forge.federation.clone()).await;
    for older in ["-tls1", "-tls1_1", "-tls1_2"] {
        let Some((shook_hands, said)) = openssl(server.address, &[older, "-cipher", "ALL:@SECLEVEL=0"]).await else {
            eprintln!("skipped: openssl is not installed here (`apt-get install openssl`)");
            return;
        };
        assert!(!shook_hands && !said.contains("CONNECTION ESTABLISHED"), "{older}: {said}");
    }
    assert!(server.peers.try_recv().is_err());
    let (_, said) = openssl(server.address, &["-tls1_3"]).await.unwrap();
    assert!(said.contains("CONNECTION ESTABLISHED") && said.contains("TLSv1.3"), "{said}");
    assert_eq!(server.peers.recv().await.unwrap(), None, "a peer without a certificate is nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_speaks_neither_older_tls_nor_plain_text_with_whoever_answers() {
    let forge = Forge::new();
    // A ServerHello of TLS 1.2, as an appliance that inspects TLS may send it.
    let mut hello = vec![3, 3];
    hello.extend([9; 32]);
    hello.extend([0, 0xc0, 0x2f, 0]);
    let mut older = vec![0x16, 3, 3, 0, hello.len() as u8 + 4, 2, 0, 0, hello.len() as u8];
    older.extend(hello);
    for (what, answer) in [
        ("TLS 1.2", older),
        ("HTTP", b"HTTP/1.1 403 Forbidden\r\n\r\n<html>blocked</html>".to_vec()),
        ("nothing", Vec::new()),
        ("a refusal", vec![0x15, 3, 3, 0, 2, 2, 40]),
    ] {
        let listener = TcpListener::bind((HOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut heard = [0; 1024];
            drop(tcp.read(&mut heard).await);
            drop(tcp.write_all(&answer).await);
        });
        let told = connect(&address, forge.honest_client()).await.expect_err(what).to_string();
        assert!(told.contains(&address), "{what}: {told}");
    }
}
