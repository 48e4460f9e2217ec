//! A hospital whose proxy opens all TLS: what its site's signed messages hold against whoever sits in that proxy, and that
//! nothing else is different.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use aggregator::store::{SqliteStore, Store};
use base64::Engine;
use certs::credentials::Credentials;
use common::{Assignment, Digest, Directive, Meters, NamedTensors, Phase, Progress, UpdateManifest};
use http::{HeaderMap, HeaderName, HeaderValue};
use site_agent::config::Config;
use site_agent::enrol::Member;
use site_agent::home::Home;
use site_agent::link::{Link, LinkError};
use tests::federation::Federation;
use tests::inspector::{Inspector, Passing};
use tests::story;
use tokio::runtime::Runtime;

const BEHIND: &str = "site-a";
const BESIDE: &str = "site-c";
const SIGNATURE: HeaderName = HeaderName::from_static("cmrfed-signature");

/// A federation at work, with an inspector before one of its sites, which are not enrolled yet. Its model is some chunks long.
struct Scene {
    folder: tempfile::TempDir,
    federation: Federation,
    inspector: Inspector,
    runtime: Runtime,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut federation = Federation::create(folder.path()).unwrap();
        federation.start_aggregator().unwrap();
        let roots = folder.path().join("corporate.pem");
        let inspector = Inspector::start("demo", &federation.aggregator_state(), roots).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { folder, federation, inspector, runtime }
    }

    /// Both sites are enrolled, the one through the inspector, and a run is started.
    fn with_run() -> Self {
        let scene = Self::new();
        scene.federation.write_settings(BEHIND, &scene.inspector.settings()).unwrap();
        [BEHIND, BESIDE].iter().try_for_each(|site| scene.federation.enrol(site)).unwrap();
        let plan = include_str!("../plans/story.toml").replace("dim = 16", "dim = 128");
        fs::write(story::plan(scene.folder.path()), plan).unwrap();
        scene.federation.start_run(BEHIND, &story::plan(scene.folder.path())).unwrap();
        scene
    }

    fn home(&self) -> Home {
        Home::at(self.federation.site_state(BEHIND))
    }

    fn member(&self, site: &str) -> Member {
        let home = Home::at(self.federation.site_state(site));
        Member::of(&home, &Config::read(&home.config()).unwrap().network).unwrap()
    }

    fn link(&self, member: &Member) -> Link {
        let _inside = self.runtime.enter();
        member.link().unwrap()
    }

    /// Asks until the run that was started is noticed.
    fn work(&self, link: &mut Link) -> Assignment {
        let began = Instant::now();
        loop {
            match self.runtime.block_on(link.report(Progress::idle())).unwrap() {
                Directive::Train(work) => return work,
                other => assert!(began.elapsed() < story::WITHIN, "no work: {other:?}"),
            }
        }
    }

    /// All that the aggregator knows, but for what time it is.
    fn state(&self) -> String {
        let store = SqliteStore::open(&self.federation.aggregator_state()).unwrap();
        let run = &self.federation.status().unwrap()["runs"][0];
        format!("{:?} {:#} {}", store.uploads().unwrap(), run["open"]["joined"], run["rounds"])
    }
}

/// What an update of this site's would be, and its file.
fn update(member: &Member, work: &Assignment, folder: &Path) -> (UpdateManifest, std::path::PathBuf) {
    let first = fs::read(folder.join("first-model.safetensors")).unwrap();
    let mut delta = NamedTensors::from_safetensors(&first).unwrap();
    delta.iter_mut().for_each(|(_, values)| values.fill(0.001));
    let bytes = delta.to_safetensors();
    let manifest = UpdateManifest {
        run: work.run.clone(),
        round: work.round,
        site: member.enrolled.site.clone(),
        plan: work.plan,
        base: work.base,
        blob: Digest::of(&bytes),
        bytes: bytes.len() as u64,
        subjects: 10,
        heads: BTreeMap::new(),
        examples: 0,
        steps: 300,
        meters: Meters { loss: 3.0, teacher_entropy: 1.0, batch_entropy: 2.0, rank_me: 9.0 },
        attestation: None,
    };
    let attestation = Some(member.attest(&manifest, work.ledger.as_deref()));
    let path = folder.join(format!("update-{}", member.enrolled.site));
    fs::write(&path, bytes).unwrap();
    (UpdateManifest { attestation, ..manifest }, path)
}

fn nothing(_: &mut Passing) {}

/// Does something to the calls of one method.
fn of(method: &'static str, mut deed: impl FnMut(&mut Passing) + Send + 'static) -> impl FnMut(&mut Passing) + Send {
    move |passing| {
        if passing.path.ends_with(method) {
            deed(passing);
        }
    }
}

fn flip(bytes: &mut [u8], place: usize) {
    bytes[place] ^= 1;
}

type Deed = (&'static str, Box<dyn Fn(&mut Passing) + Send + Sync>);

fn deed(name: &'static str, deed: impl Fn(&mut Passing) + Send + Sync + 'static) -> Deed {
    (name, Box::new(deed))
}

fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
}

#[test]
fn whatever_an_inspector_changes_in_a_request_is_refused_by_name_and_changes_nothing() {
    let scene = Scene::with_run();
    let (member, others) = (scene.member(BEHIND), scene.member(BESIDE));
    let mut link = scene.link(&member);
    let work = scene.work(&mut link);
    let joined = Progress { work: Some((work.run.clone(), work.round)), phase: Phase::Training, ..Progress::idle() };
    scene.runtime.block_on(link.report(joined)).unwrap();
    let (manifest, file) = update(&member, &work, scene.folder.path());
    let other_certificate = fs::read_to_string(scene.federation.site_state(BESIDE).join("identity/site.crt")).unwrap();
    let other_certificate: String =
        other_certificate.lines().filter(|line| !line.starts_with("-----")).collect::<Vec<_>>().concat();
    let altered = "the aggregator refused (altered)";
    let unsigned = "cmrfed-signature is missing from the answer's status";
    // What is answered is the answer to what was asked: to another call than the site's.
    let of_another = "the signature of the answer's status does not hold";
    let deeds = [
        (deed("a byte of a message", |call| flip(&mut call.messages[0], 0)), altered),
        (
            deed("a byte of a signature", |call| call.messages[0].last_mut().into_iter().for_each(|byte| *byte ^= 1)),
            altered,
        ),
        (deed("no message", |call| call.messages.clear()), altered),
        (deed("a message twice", |call| call.messages.push(call.messages[0].clone())), altered),
        (
            deed("a message without its signature", |call| {
                let length = call.messages[0].len() - 65;
                call.messages[0].truncate(length);
            }),
            altered,
        ),
        (deed("another call", |call| call.path = "/cmrfed.v1.Federation/FinishUpload".to_owned()), of_another),
        (
            deed("another's certificate", move |call| set(&mut call.headers, "cmrfed-certificate", &other_certificate)),
            of_another,
        ),
        (
            deed("another time", |call| {
                let told = call.headers["cmrfed-call"].to_str().unwrap().to_owned();
                set(&mut call.headers, "cmrfed-call", &told.replace(' ', " 0"));
            }),
            unsigned,
        ),
        (deed("no signature of the head", |call| drop(call.headers.remove(SIGNATURE))), unsigned),
        (
            deed("nothing signed at all", |call| {
                for name in ["cmrfed-certificate", "cmrfed-call", "cmrfed-signature"] {
                    call.headers.remove(name);
                }
                let length = call.messages[0].len() - 65;
                call.messages[0].truncate(length);
            }),
            unsigned,
        ),
    ];
    let before = scene.state();
    for ((name, deed), expected) in deeds {
        scene.inspector.meddle(of("/BeginUpload", deed), nothing);
        let told = scene.runtime.block_on(link.send(&manifest, &file)).unwrap_err();
        assert!(told.to_string().contains(expected) && told.is_transient(), "{name}: {told}");
        assert!(told.to_string().contains("tell hospital IT"), "{name}: {told}");
        assert_eq!(scene.state(), before, "{name}");
    }
    // In the middle of the upload: its first chunk is there, and the second is changed.
    let mut chunks = 0;
    let second = of("/UploadChunk", move |call| {
        chunks += 1;
        if chunks == 2 {
            flip(&mut call.messages[0], 1000);
        }
    });
    scene.inspector.meddle(second, nothing);
    let told = scene.runtime.block_on(link.send(&manifest, &file)).unwrap_err();
    assert_eq!(told.refusal(), Some("altered"), "{told}");

    // A call that counted, once more; and an old one after the aggregator was started again.
    scene.inspector.rest();
    let (upload, _) =
        scene.inspector.seen().into_iter().rev().find(|(call, _)| call.path.ends_with("/UploadChunk")).unwrap();
    let address = scene.federation.address().to_owned();
    let before = scene.state();
    let report = scene.inspector.seen().into_iter().find(|(call, _)| call.path.ends_with("/Report")).unwrap().0;
    let code = |answer: &Passing| answer.headers.get("cmrfed-refusal").map(|code| code.to_str().unwrap().to_owned());
    for (call, expected) in [(&report, "incarnation"), (&upload, "replayed")] {
        let answer = scene.inspector.again(&address, call).unwrap();
        assert_eq!(code(&answer).as_deref(), Some(expected));
    }
    assert_eq!(scene.state(), before);
    scene.runtime.block_on(link.send(&manifest, &file)).unwrap();
    let mut scene = scene;
    scene.federation.kill_aggregator();
    scene.federation.start_aggregator().unwrap();
    let before = scene.state();
    let newest =
        scene.inspector.seen().into_iter().rev().find(|(call, _)| call.path.ends_with("/FinishUpload")).unwrap().0;
    assert_eq!(code(&scene.inspector.again(&address, &newest).unwrap()).as_deref(), Some("incarnation"));
    assert_eq!(scene.state(), before);

    // The update is the very one that counts, and the round ends with it.
    let mut beside = scene.link(&others);
    let work = scene.work(&mut beside);
    let (manifest, file) = update(&others, &work, scene.folder.path());
    scene.runtime.block_on(beside.send(&manifest, &file)).unwrap();
    scene
        .federation
        .wait_until("the round's end", story::WITHIN, |federation| {
            Ok(!story::models(&story::run(federation)?).is_empty())
        })
        .unwrap();
}

#[test]
fn whatever_an_inspector_changes_in_an_answer_is_not_believed() {
    let scene = Scene::with_run();
    let mut link = scene.link(&scene.member(BEHIND));
    let work = scene.work(&mut link);
    let earlier = scene.inspector.seen().into_iter().rev().find(|(call, _)| call.path.ends_with("/Report")).unwrap().1;
    let target = scene.folder.path().join("model.safetensors");
    let trailers = |answer: &mut Passing| answer.trailers.take().unwrap_or_default();
    let signature = "the signature of a message does not hold";
    let status = "the signature of the answer's status does not hold";
    let (of_earlier, status_of_earlier) = (earlier.clone(), earlier.trailers.clone());
    let deeds = [
        (deed("a byte of a message", |answer| flip(&mut answer.messages[0], 0)), signature),
        (deed("an earlier answer", move |answer| answer.messages.clone_from(&of_earlier.messages)), signature),
        (deed("all of an earlier answer", move |answer| *answer = earlier.clone()), signature),
        (deed("an earlier status", move |answer| answer.trailers.clone_from(&status_of_earlier)), status),
        (deed("no message", |answer| answer.messages.clear()), status),
        (deed("a message twice", |answer| answer.messages.push(answer.messages[0].clone())), signature),
        (deed("no status", |answer| answer.trailers = None), "it stops before its signed end"),
        (
            deed("a status without a signature", |answer| {
                answer.trailers.as_mut().unwrap().remove(SIGNATURE);
            }),
            "cmrfed-signature is missing",
        ),
        (deed("a status of another kind", |answer| set(answer.trailers.as_mut().unwrap(), "grpc-status", "7")), status),
        (
            deed("a refusal that ends an agent", |answer| {
                set(answer.trailers.as_mut().unwrap(), "cmrfed-refusal", "revoked");
            }),
            status,
        ),
        (
            deed("a forged refusal in the answer's place", move |answer| {
                let signed = trailers(answer);
                answer.messages.clear();
                answer.headers.extend(signed);
                set(&mut answer.headers, "grpc-status", "7");
                set(&mut answer.headers, "cmrfed-refusal", "revoked");
            }),
            status,
        ),
        (
            deed("a page of the proxy's", |answer| {
                answer.status = 403;
                answer.messages.clear();
                answer.trailers = None;
                set(&mut answer.headers, "content-type", "text/html");
            }),
            "it is an answer of HTTP status 403",
        ),
    ];
    for ((name, deed), expected) in deeds {
        scene.inspector.meddle(nothing, of("/Report", deed));
        let told = scene.runtime.block_on(link.report(Progress::idle())).unwrap_err();
        assert!(matches!(&told, LinkError::Altered(why) if why.contains(expected)), "{name}: {told}");
        assert!(told.is_transient() && told.to_string().contains("tell hospital IT"), "{name}: {told}");
    }
    // A refusal that is made to look like none, and one for another.
    for (name, value) in [("grpc-status", "0"), ("cmrfed-refusal", "revoked")] {
        scene.inspector.meddle(nothing, of("/GetPlan", move |answer| set(&mut answer.headers, name, value)));
        let told = scene.runtime.block_on(link.ping()).unwrap_err();
        assert!(told.to_string().contains(status), "{told}");
    }
    // A stream of several messages: none is moved, repeated, left out or cut off.
    let streams = [
        (deed("two in each other's place", |answer| answer.messages.swap(1, 2)), signature),
        (deed("one left out", |answer| drop(answer.messages.remove(1))), signature),
        (deed("one twice", |answer| answer.messages.insert(1, answer.messages[1].clone())), signature),
        (deed("the last cut off", |answer| drop(answer.messages.pop())), status),
        (
            deed("the end cut off", |answer| {
                answer.messages.pop();
                answer.trailers = None;
            }),
            "it stops before its signed end",
        ),
    ];
    for ((name, deed), expected) in streams {
        scene.inspector.meddle(nothing, of("/Download", deed));
        let told = scene.runtime.block_on(link.fetch_model(work.base, work.base_bytes, &target)).unwrap_err();
        assert!(told.to_string().contains(expected), "{name}: {told}");
        assert!(!target.exists(), "{name}");
        // What came before it is kept, as of any download: begin anew, so that the messages are as many.
        fs::remove_file(target.with_added_extension("part")).unwrap();
    }
    scene.inspector.rest();
    scene.runtime.block_on(link.fetch_model(work.base, work.base_bytes, &target)).unwrap();
    let (_, answer) =
        scene.inspector.seen().into_iter().rev().find(|(call, _)| call.path.ends_with("/Download")).unwrap();
    assert!(answer.messages.len() >= 4, "{} messages", answer.messages.len());
}

#[test]
fn an_invitation_passes_an_inspector_who_learns_nothing_to_enrol_with_and_puts_no_key_of_his_own_in_the_aggregators_place()
 {
    let scene = Scene::new();
    let (federation, inspector) = (&scene.federation, &scene.inspector);
    let invitation = federation.invite(BEHIND).unwrap();
    let enrol = || federation.at_site(BEHIND, &["enrol", &invitation]).map_err(|error| error.to_string());
    // As it is without the settings: nobody is believed, and what to do is said.
    federation.write_settings(BEHIND, &format!("[network]\nproxy = 'http://{}'", inspector.address())).unwrap();
    let told = enrol().unwrap_err();
    assert!(
        told.contains("is not signed by this federation's CA") && told.contains("`channel = \"signed\"`"),
        "{told}"
    );
    // A proxy that speaks an older HTTP inside is no way, and is told as what it is.
    let old = scene.folder.path().join("old.pem");
    let old = Inspector::speaking(&[], "demo", &federation.aggregator_state(), old).unwrap();
    federation.write_settings(BEHIND, &old.settings()).unwrap();
    let told = enrol().unwrap_err();
    assert!(told.contains("does not speak HTTP/2") && told.contains("gRPC"), "{told}");
    federation.write_settings(BEHIND, &inspector.settings()).unwrap();

    let state = federation.aggregator_state();
    let key = aggregator::authority::signing_key(&state).unwrap().verifying();
    inspector.meddle(
        nothing,
        of("/Enrol", move |answer| {
            let place = answer.messages[0].windows(32).position(|bytes| bytes == key.0).unwrap();
            flip(&mut answer.messages[0], place);
        }),
    );
    let told = enrol().unwrap_err();
    assert!(told.contains("the answer is not vouched for by the CA that the invitation names"), "{told}");
    assert!(!scene.home().identity().join("federation.json").exists());
    // The invitation is used by now, for this site's key alone: the same request gets the same answer.
    let keys: Vec<Vec<u8>> =
        ["site.key", "next.key"].iter().filter_map(|name| fs::read(scene.home().identity().join(name)).ok()).collect();
    assert_eq!(keys.len(), 1, "no certificate was taken");
    inspector.meddle(
        of("/Enrol", |call| {
            let length = call.messages[0].len();
            flip(&mut call.messages[0], length - 1);
        }),
        nothing,
    );
    let told = enrol().unwrap_err();
    assert!(told.contains("the aggregator refused (token)"), "{told}");
    inspector.rest();
    enrol().unwrap();

    let bytes = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(invitation.strip_prefix("cmrfed1.").unwrap()).unwrap();
    let token = &bytes[..32];
    for passed in inspector.seen().iter().flat_map(|(call, answer)| call.messages.iter().chain(&answer.messages)) {
        assert!(!passed.windows(32).any(|bytes| bytes == token), "the invitation's secret went by");
    }
    let private = |name: &str| scalar(&fs::read_to_string(scene.home().identity().join(name)).unwrap());
    let mut keys = vec![private("site.key"), private("signing.key")];
    // Renewed through it as well.
    let member = scene.member(BEHIND);
    let before = member.validity().unwrap();
    let certificate = || fs::read(Credentials::at(scene.home().identity()).certificate_path()).unwrap();
    let first = certificate();
    scene.runtime.block_on(member.renew(&mut scene.link(&member))).unwrap();
    assert!(certificate() != first && member.validity().unwrap().not_after_s >= before.not_after_s);
    scene.runtime.block_on(scene.link(&member).ping()).unwrap();
    // Of all that passed, nothing held a private key: neither the first one, nor the one it was renewed for, nor what signs.
    keys.push(private("site.key"));
    assert!(keys[0] != keys[2], "renewed for a new key");
    for passed in inspector.seen().iter().flat_map(|(call, answer)| call.messages.iter().chain(&answer.messages)) {
        for key in &keys {
            assert!(!passed.windows(32).any(|bytes| bytes == key), "a private key went by");
            let in_letters = base64::prelude::BASE64_STANDARD.encode(&key[..30]);
            assert!(!passed.windows(40).any(|bytes| bytes == in_letters.as_bytes()), "a private key went by");
        }
    }
}

/// The secret number of a private key in PKCS #8: 32 bytes in an octet string of their own.
fn scalar(pem: &str) -> Vec<u8> {
    let text: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = base64::prelude::BASE64_STANDARD.decode(text).unwrap();
    let place = der.windows(2).position(|bytes| bytes == [4, 32]).unwrap();
    der[place + 2..place + 34].to_vec()
}
