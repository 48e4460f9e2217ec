//! Sites whose messages are signed, over connections that show no certificate: a run, a revocation, and calls that do not count.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use aggregator::clock::wall;
use aggregator::identity::{Places, STRANGERS};
use aggregator::ledger::Actor;
use aggregator::status;
use aggregator::store::Store;
use bytes::Bytes;
use certs::keys::{CallKey, Key, nonce};
use certs::message::headers::{self, Head};
use certs::message::{Talk, sealed};
use common::message::{CLOCK_SKEW_S, Call, Part};
use common::signed::Nonce;
use common::{Digest, Directive, Progress};
use http::{HeaderMap, Request};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use prost::Message;
use proto::convert::digest_bytes;
use proto::{CHUNK_BYTES, wire};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::{Service, ServiceExt};

use crate::bench::{holder, site_id, weights};
use crate::house::{House, WITHIN, channel, code};

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_signs_its_messages_is_in_every_call_what_one_with_mutual_tls_is() {
    let mut house = House::new();
    house.start();
    let (mut a, mut b) = (house.signed_site("a").await, house.site("b").await);
    house.start_run(&["a", "b"], 1);
    for site in [&mut a, &mut b] {
        let work = site.work(1).await;
        let request = wire::GetPlanRequest { plan: digest_bytes(work.plan) };
        let plan = site.client.get_plan(request).await.unwrap().into_inner();
        assert_eq!(Digest::of(&plan.canonical), work.plan);
        let base = site.download(work.base, 0).await.unwrap();
        assert_eq!((Digest::of(&base), base.len() > 2 * CHUNK_BYTES), (work.base, true));
        site.send(&work, &weights(600_000, |_| 0.25)).await.unwrap();
    }
    let refused = a.download(Digest::of(b"nothing"), 0).await.unwrap_err();
    assert_eq!(code(&refused), "unknown-blob", "a refusal is what it is");
    a.site = site_id("b");
    assert_eq!(code(&a.report(Progress::idle()).await.unwrap_err()), "speaks-for-another");
    a.site = site_id("a");
    a.told(|directive| matches!(directive, Directive::Finished { .. }).then_some(())).await;

    // Renewed, the old certificate ends when the new one is used.
    let key = Key::create(&house.key_path("a-next")).unwrap();
    let certificate = a.renew(&key).await.unwrap();
    let mut renewed = house.signed_holder("a", &key, &certificate);
    renewed.report(Progress::idle()).await.unwrap();
    let refused = async { while !a.report(Progress::idle()).await.is_err_and(|status| code(&status) == "revoked") {} };
    timeout(WITHIN, refused).await.expect("the old certificate ends");
    // The server is started again under them.
    house.stop().await;
    house.start();
    renewed.report(Progress::idle()).await.unwrap();
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_cuts_a_signed_upload_and_a_signed_download_in_their_middle() {
    let mut house = House::new();
    house.start();
    house.start_run(&["a", "b", "c"], 1);
    let [mut a, mut b] = [house.site("a").await, house.signed_site("b").await];
    // Two sites in one connection: only one of them is cut off.
    let ((key_b, of_b), (key_c, of_c)) = (house.enrolled("d").await, house.enrolled("c").await);
    let shared = house.stranger();
    let mut d = house.signed_over("d", &key_b, &of_b.certificate_pem, shared.clone());
    let mut c = house.signed_over("c", &key_c, &of_c.certificate_pem, shared);
    d.report(Progress::idle()).await.unwrap();
    let poison = weights(600_000, |_| 7.0);
    let work = c.work(1).await;
    for site in [&mut a, &mut b, &mut c] {
        site.joins(&work).await;
    }
    let (manifest, bytes, mut download) = c.half_way(&work, &poison).await;

    house.store().revoke(&holder("c"), &Actor::StateFolder, wall()).unwrap();
    let refused = async {
        while !c.chunk(&manifest, 0, bytes[..1000].to_vec()).await.is_err_and(|status| code(&status) == "revoked") {}
    };
    timeout(WITHIN, refused).await.expect("the upload ends");
    let cut = async {
        loop {
            match download.message().await {
                Ok(Some(_)) => {}
                Ok(None) => break "it was read to its end".to_owned(),
                Err(status) => break code(&status).to_owned(),
            }
        }
    };
    assert_eq!(timeout(WITHIN, cut).await.expect("the download ends"), "revoked");
    d.report(Progress::idle()).await.unwrap();

    let small = weights(600_000, |_| 0.25);
    a.send(&work, &small).await.unwrap();
    b.send(&work, &small).await.unwrap();
    let run = status::read(&house.store(), wall()).unwrap();
    assert!(run.runs[0].rounds.is_empty() && house.store().uploads().unwrap().is_empty());
    house.stop().await;
}

/// A site's hand, for calls that no agent makes.
struct ByHand {
    key: CallKey,
    certificate: Vec<u8>,
    incarnation: Nonce,
}

const REPORT: &str = "/cmrfed.v1.Federation/Report";

impl ByHand {
    fn of(key: &Key, certificate_pem: &str) -> Self {
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).unwrap().to_vec();
        Self { key: key.for_calls().unwrap(), certificate, incarnation: Nonce([0; 16]) }
    }

    fn call(&self) -> Call {
        Call {
            method: REPORT.to_owned(),
            nonce: nonce().unwrap(),
            incarnation: self.incarnation,
            time_s: wall().seconds(),
            certificate: Digest::of(&self.certificate),
        }
    }

    /// The headers and the body of a report of this site's.
    fn report(&self, call: Call, site: &str) -> (HeaderMap, Bytes) {
        let talk = Talk { federation: "wired".parse().unwrap(), call: call.clone() };
        let signature = self.key.sign(&talk.statement(Part::Call, b"")).unwrap();
        let mut into = HeaderMap::new();
        headers::write(&Head { call, certificate: self.certificate.clone(), signature }, &mut into);
        let content = wire::ReportRequest { site: site.to_owned(), phase: 1, ..wire::ReportRequest::default() };
        (into, sealed::request(&talk, &self.key, &content.encode_to_vec()).unwrap())
    }

    /// Learns under which start the aggregator is called.
    async fn learns(&mut self, channel: &Channel) {
        let (code, answer) = sent(channel, self.report(self.call(), "a")).await;
        assert_eq!(code, "incarnation");
        self.incarnation = answer[headers::INCARNATION].to_str().unwrap().parse().unwrap();
    }
}

/// Sends a request as it is; the code of its refusal, or "counts", and the answer's status.
async fn sent(channel: &Channel, (headers, body): (HeaderMap, Bytes)) -> (String, HeaderMap) {
    sent_as(channel, headers, Body::new(Full::new(body))).await
}

async fn sent_as(channel: &Channel, headers: HeaderMap, body: Body) -> (String, HeaderMap) {
    let mut request = Request::post(REPORT).body(body).unwrap();
    *request.headers_mut() = headers;
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    let answer = channel.clone().ready().await.unwrap().call(request).await.unwrap();
    let mut status = answer.headers().clone();
    let collected = answer.into_body().collect().await.unwrap();
    status.extend(collected.trailers().cloned().unwrap_or_default());
    let code = status.get("cmrfed-refusal").map_or("counts", |code| code.to_str().unwrap());
    (code.to_owned(), status)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_call_counts_once_in_its_time_and_as_it_was_signed_and_no_other_way() {
    let mut house = House::new();
    house.start();
    let ((key, a), (_, b)) = (house.enrolled("a").await, house.enrolled("b").await);
    let mut hand = ByHand::of(&key, &a.certificate_pem);
    let channel = house.stranger();
    hand.learns(&channel).await;
    let now = wall().seconds();
    let at = |time_s| Call { time_s, ..hand.call() };
    let good = hand.report(hand.call(), "a");
    assert_eq!(sent(&channel, good.clone()).await.0, "counts");
    assert_eq!(sent(&channel, good.clone()).await.0, "replayed");
    assert_eq!(sent(&house.stranger(), good.clone()).await.0, "replayed", "over another connection as well");
    // Times at the bounds, and a second beyond; the test may take a few seconds.
    assert_eq!(sent(&channel, hand.report(at(now - CLOCK_SKEW_S + 60), "a")).await.0, "counts");
    let (late, told) = sent(&channel, hand.report(at(now - CLOCK_SKEW_S - 1), "a")).await;
    let told = told["grpc-message"].to_str().unwrap().replace("%20", " ");
    assert!(late == "clock" && told.contains("s behind the aggregator's, and 300 s are permitted"), "{told}");
    assert_eq!(sent(&channel, hand.report(at(now + CLOCK_SKEW_S + 60), "a")).await.0, "clock");
    assert_eq!(sent(&channel, hand.report(at(u64::MAX), "a")).await.0, "clock");

    // Every byte of the body, a part of it, and more than it.
    let whole = hand.report(hand.call(), "a").1.len();
    for place in 0..whole {
        let (headers, body) = hand.report(hand.call(), "a");
        let mut changed = body.to_vec();
        changed[place] ^= 1;
        let (code, _) = sent(&channel, (headers, changed.into())).await;
        assert!(code != "counts", "byte {place}");
    }
    for bytes in [0, 4, 5, whole - 1] {
        let (headers, body) = hand.report(hand.call(), "a");
        assert_eq!(sent(&channel, (headers, body.slice(..bytes))).await.0, "altered", "{bytes} bytes");
    }
    let (headers, body) = hand.report(hand.call(), "a");
    assert_eq!(sent(&channel, (headers, [&body[..], &body].concat().into())).await.0, "altered");

    // A head in the place of another: every header of it is another's.
    let certificate_b = CertificateDer::from_pem_slice(b.certificate_pem.as_bytes()).unwrap().to_vec();
    let other = ByHand { certificate: certificate_b, ..ByHand::of(&key, &b.certificate_pem) };
    let other = ByHand { incarnation: hand.incarnation, ..other };
    assert_eq!(sent(&channel, other.report(other.call(), "b")).await.0, "altered", "the certificate of another's key");
    for name in [headers::CERTIFICATE, headers::CALL, headers::SIGNATURE] {
        let ((mut headers, body), (others, _)) = (hand.report(hand.call(), "a"), other.report(other.call(), "b"));
        headers.insert(&name, others[&name].clone());
        assert_eq!(sent(&channel, (headers, body)).await.0, "altered", "{name}");
        let (mut headers, body) = hand.report(hand.call(), "a");
        headers.remove(&name);
        assert_eq!(sent(&channel, (headers, body)).await.0, "altered", "without {name}");
    }
    // The body of one call under the head of another.
    let ((headers, _), (_, body)) = (hand.report(hand.call(), "a"), hand.report(hand.call(), "a"));
    assert_eq!(sent(&channel, (headers, body)).await.0, "altered");
    // Another method's call.
    let elsewhere = Call { method: "/cmrfed.v1.Federation/Renew".to_owned(), ..hand.call() };
    assert_eq!(sent(&channel, hand.report(elsewhere, "a")).await.0, "altered");
    // Nothing of a signature at all: nobody calls, over a connection in which a site has called.
    let (_, body) = hand.report(hand.call(), "a");
    assert_eq!(sent(&channel, (HeaderMap::new(), body)).await.0, "unidentified");
    // A certificate of another CA.
    let foreign = tempfile::tempdir().unwrap();
    let federation = "wired".parse().unwrap();
    let ca = certs::authority::Authority::create(foreign.path(), &federation, wall().seconds() as i64).unwrap();
    let issued = ca.issue_site(&key.csr_pem().unwrap(), &site_id("a"), wall().seconds() as i64).unwrap();
    let foreign = ByHand { incarnation: hand.incarnation, ..ByHand::of(&key, &issued.certificate_pem) };
    assert_eq!(sent(&channel, foreign.report(foreign.call(), "a")).await.0, "certificate");
    // One that has expired.
    let old = house.authority.issue_site(&key.csr_pem().unwrap(), &site_id("a"), 1_000_000).unwrap();
    let old = ByHand { incarnation: hand.incarnation, ..ByHand::of(&key, &old.certificate_pem) };
    assert_eq!(sent(&channel, old.report(old.call(), "a")).await.0, "certificate");
    // The aggregator's own.
    let names = ["127.0.0.1".to_owned()];
    let own = house.authority.issue_aggregator(&key.csr_pem().unwrap(), &names, wall().seconds() as i64).unwrap();
    let own = ByHand { incarnation: hand.incarnation, ..ByHand::of(&key, &own.certificate_pem) };
    assert_eq!(sent(&channel, own.report(own.call(), "a")).await.0, "certificate");
    // One that the CA made, and no site was told of.
    let unknown = house.authority.issue_site(&key.csr_pem().unwrap(), &site_id("a"), wall().seconds() as i64).unwrap();
    let unknown = ByHand { incarnation: hand.incarnation, ..ByHand::of(&key, &unknown.certificate_pem) };
    let (headers, body) = unknown.report(unknown.call(), "a");
    for _ in 0..2 {
        // Nor is it remembered: so nobody without a certificate that counts has what the site called forgotten, and refused.
        assert_eq!(sent(&channel, (headers.clone(), body.clone())).await.0, "revoked");
    }

    // A call of before, after the aggregator was started again.
    let kept = hand.report(hand.call(), "a");
    house.stop().await;
    house.start();
    let channel = house.stranger();
    assert_eq!(sent(&channel, kept).await.0, "incarnation");
    hand.learns(&channel).await;
    assert_eq!(sent(&channel, hand.report(hand.call(), "a")).await.0, "counts");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_call_over_a_connection_with_a_certificate_is_refused_whosever_that_is() {
    let mut house = House::new();
    house.start();
    let ((key_a, a), (key_b, b)) = (house.enrolled("a").await, house.enrolled("b").await);
    let hand = ByHand::of(&key_a, &a.certificate_pem);
    for (key, certificate_pem) in [(&key_b, &b.certificate_pem), (&key_a, &a.certificate_pem)] {
        let (federation, ca) = (house.authority.federation(), house.authority.certificate_pem());
        let tls = certs::tls::site_config(federation, certificate_pem, ca, key).unwrap();
        let channel = channel(house.address, tls);
        let (code, told) = sent(&channel, hand.report(hand.call(), "a")).await;
        assert_eq!(code, "altered");
        assert!(told["grpc-message"].to_str().unwrap().contains("has%20a%20certificate%20besides"), "{told:?}");
    }
    house.stop().await;
}

/// A body whose pieces come when they are sent.
struct Slow(mpsc::Receiver<Bytes>);

impl http_body::Body for Slow {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_call_that_takes_longer_than_a_stranger_may_stay_comes_to_its_end() {
    let mut house = House::new();
    house.places = Places::new(8).with_strangers_for(Duration::from_secs(1));
    house.start();
    let (key, a) = house.enrolled("a").await;
    let mut hand = ByHand::of(&key, &a.certificate_pem);
    let channel = house.stranger();
    hand.learns(&channel).await;
    let (headers, body) = hand.report(hand.call(), "a");
    let (pieces, slow) = mpsc::channel(1);
    let calling = {
        let channel = channel.clone();
        tokio::spawn(async move { sent_as(&channel, headers, Body::new(Slow(slow))).await.0 })
    };
    pieces.send(body.slice(..10)).await.unwrap();
    // Who came later, and says nothing, is shown the door: that is longer than a stranger may stay.
    let pin = house.authority.fingerprint().unwrap();
    let tls = certs::tls::enrolment_config(house.authority.federation(), pin).unwrap();
    let mut silent = certs::connect::connect(&house.address.to_string(), tls).await.unwrap();
    let ended = async { while silent.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {} };
    timeout(WITHIN, ended).await.expect("a stranger's time is over");
    pieces.send(body.slice(10..)).await.unwrap();
    drop(pieces);
    assert_eq!(timeout(WITHIN, calling).await.expect("an answer").unwrap(), "counts");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_strangers_keep_no_site_out_that_signs_its_messages() {
    let mut house = House::new();
    house.start();
    let mut member = house.signed_site("a").await;
    let mut before = house.signed_site("b").await;
    before.report(Progress::idle()).await.unwrap();
    let pin = house.authority.fingerprint().unwrap();
    let tls = certs::tls::enrolment_config(house.authority.federation(), pin).unwrap();
    let mut idle = Vec::new();
    for _ in 0..2 * STRANGERS {
        idle.push(certs::connect::connect(&house.address.to_string(), Arc::clone(&tls)).await);
    }
    // Its connection is made only now, and the other's is there yet.
    member.report(Progress::idle()).await.unwrap();
    before.report(Progress::idle()).await.unwrap();
    drop(idle);
    house.stop().await;
}
