use std::sync::Arc;
use std::time::{Duration, Instant};
use aggregator::clock::wall;
use aggregator::store::{SqliteStore, Store, Blobs};
use bytes::Bytes;
use common::*;
use hyper_util::rt::TokioIo;
use proto::convert::{Announced, digest_bytes};
use proto::wire::{self, enrolment_client::EnrolmentClient, federation_client::FederationClient};
use proto::{CHUNK_BYTES, MESSAGE_BYTES};
use tonic::transport::{Channel, Endpoint, Uri};
fn channel(address: String, tls: Arc<tokio_rustls::rustls::ClientConfig>) -> Channel {
    Endpoint::from_static("http://a").initial_stream_window_size(4u32<<20).initial_connection_window_size(8u32<<20).connect_with_connector_lazy(tower::service_fn(move |_: Uri| { let (a, t) = (address.clone(), tls.clone()); async move { certs::connect::connect(&a, t).await.map(TokioIo::new) } }))
}
#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (state, address, n, rounds, pid): (_, _, usize, u32, u32) = (std::path::PathBuf::from(&args[1]), args[2].clone(), args[3].parse().unwrap(), args[4].parse().unwrap(), args[5].parse().unwrap());
    let values: usize = args[6].parse().unwrap();
    let names: Vec<String> = (0..n).map(|i| format!("s{i}")).collect();
    let mut model = NamedTensors::new();
    for i in 0..150 { model.insert(format!("t{i:03}"), vec![values / 150], (0..values / 150).map(|p| p as f32 * 1e-6).collect()); }
    let store = SqliteStore::open(&state).unwrap();
    let fed = store.federation().unwrap();
    let authority = aggregator::authority::load(&state, &fed.name).unwrap();
    let text = format!("run = \"load\"\n[training]\nsteps_per_round = 10\nepoch_steps = 10\nbatch_size = 4\n[rounds]\ncount = {rounds}\nsites = {names:?}\nquorum = {n}\ndeadline_s = 6000\n");
    let draft: PlanDraft = toml::from_str(&text).unwrap();
    let bytes0 = model.to_safetensors();
    let plan = draft.with_first_model(model.signature(), Digest::of(&bytes0));
    let blobs = Blobs::open(&state).unwrap();
    store.start_run(&plan, wall(), &mut || { blobs.put(&bytes0).unwrap(); Ok(()) }).unwrap();
    let stat = |k: &str| -> String { std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap().lines().find(|l| l.starts_with(k)).unwrap().to_owned() };
    let cpu = || -> f64 { let s = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap(); let f: Vec<&str> = s.rsplit(')').next().unwrap().split_whitespace().collect(); (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) / 100.0 };
    let mut clients = Vec::new();
    std::fs::create_dir_all(state.join("k")).unwrap();
    for name in &names {
        let inv = certs::invitation::Invitation::new(fed.name.clone(), address.clone(), name.parse().unwrap(), authority.fingerprint().unwrap()).unwrap();
        store.invite(inv.token.digest(), &name.parse().unwrap(), wall().after(Duration::from_secs(600))).unwrap();
        let key = certs::keys::Key::create(&state.join("k").join(name)).unwrap();
        let t = certs::tls::enrolment_config(&fed.name, inv.authority).unwrap();
        let r = EnrolmentClient::new(channel(address.clone(), t)).enrol(wire::EnrolRequest { site: name.clone(), token: Bytes::copy_from_slice(inv.token.as_bytes()), csr_pem: key.csr_pem().unwrap() }).await.unwrap().into_inner();
        let tls = certs::tls::site_config(&fed.name, &r.certificate_pem, &r.authority_pem, &key).unwrap();
        clients.push((name.parse::<SiteId>().unwrap(), FederationClient::new(channel(address.clone(), tls)).max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES)));
    }
    let files: Vec<Arc<Vec<u8>>> = (0..n).map(|i| { let mut d = model.clone(); d.iter_mut().for_each(|(_, v)| v.iter_mut().for_each(|x| *x = *x * 0.01 + i as f32 * 1e-3)); Arc::new(d.to_safetensors()) }).collect();
    println!("model {} bytes; idle {} {}", bytes0.len(), stat("VmRSS"), stat("VmHWM"));
    let mut last_base = None;
    for round in 1..=rounds {
        let (t0, c0) = (Instant::now(), cpu());
        let mut tasks = Vec::new();
        for (i, (site, client)) in clients.iter().enumerate() {
            let (site, mut client, file) = (site.clone(), client.clone(), files[i].clone());
            tasks.push(tokio::spawn(async move {
                let work = loop {
                    let d: Directive = client.report(wire::ReportRequest::from(Announced { site: site.clone(), value: Progress::idle() })).await.unwrap().into_inner().try_into().unwrap();
                    if let Directive::Train(w) = d && w.round.0 == round { break w; }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                };
                let t = Instant::now();
                let mut s = client.download(wire::DownloadRequest { blob: digest_bytes(work.base), offset: 0 }).await.unwrap().into_inner();
                let mut got = 0; while let Some(c) = s.message().await.unwrap() { got += c.data.len() as u64; }
                assert_eq!(got, work.base_bytes);
                let down = t.elapsed();
                let m = UpdateManifest { run: work.run.clone(), round: work.round, site, plan: work.plan, base: work.base, blob: Digest::of(&file), bytes: file.len() as u64, subjects: 10, steps: 10, meters: Meters { loss: 1.0, ..Default::default() } };
                let mut off = client.begin_upload(wire::UpdateManifest::from(&m)).await.unwrap().into_inner().next_offset as usize;
                let t = Instant::now();
                while off < file.len() { let end = file.len().min(off + CHUNK_BYTES);
                    off = client.upload_chunk(wire::UploadChunkRequest { run: m.run.to_string(), round, blob: digest_bytes(m.blob), offset: off as u64, data: Bytes::copy_from_slice(&file[off..end]) }).await.unwrap().into_inner().next_offset as usize; }
                let up = t.elapsed(); let t = Instant::now();
                client.finish_upload(wire::FinishUploadRequest { run: m.run.to_string(), round, blob: digest_bytes(m.blob) }).await.unwrap();
                (work.base, down, up, t.elapsed())
            }));
        }
        let mut line = String::new();
        for t in tasks { let (b, d, u, f) = t.await.unwrap(); last_base = Some(b); line += &format!(" [down {:.2} up {:.2} fin {:.2}]", d.as_secs_f64(), u.as_secs_f64(), f.as_secs_f64()); }
        let t_up = t0.elapsed().as_secs_f64();
        loop { let s = aggregator::status::read(&store, wall()).unwrap().runs.pop().unwrap(); if s.rounds.len() as u32 >= round { break; } tokio::time::sleep(Duration::from_millis(10)).await; }
        println!("round {round}: wall {:.2} s (transfers {t_up:.2}), server cpu {:.2} s, {} {}", t0.elapsed().as_secs_f64(), cpu() - c0, stat("VmRSS"), stat("VmHWM"));
        if round == 1 { println!("{}", &line[..line.len().min(400)]); }
    }
    let _ = last_base;
}
