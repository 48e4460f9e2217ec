//! Updates that are written smaller: the same protocol, fewer bytes.

use common::plan::Exchange;
use common::{Digest, Encoding, Refusal, UpdateManifest};

use crate::bench::{Bench, plan_draft, weights};

#[test]
fn in_each_encoding_updates_come_in_survive_a_restart_and_become_the_mean_of_what_they_stand_for() {
    let delta = |turn: usize| weights(70_000, |place| (((place * turn) % 97) as f32 - 48.0) / 64.0);
    for (encoding, at_most) in [
        (Encoding::F32, 1.0),
        (Encoding::Bf16, 0.51),
        (Encoding::F16, 0.51),
        (Encoding::Int8, 0.26),
        (Encoding::TopK(0.1), 0.16),
    ] {
        let mut bench = Bench::empty();
        let mut draft = plan_draft("run", &["a", "b"], 2, 1, 1);
        draft.aggregation.encoding = encoding;
        if encoding.has_residual() {
            draft.aggregation.exchange = Exchange::Student;
        }
        let plan = bench.start_run(draft, 70_000);
        let mut stand_for = Vec::new();
        for (turn, site) in (1..).zip(["a", "b"]) {
            let file = encoding.encode(&delta(turn));
            let plain = delta(turn).to_safetensors();
            assert!(file.len() as f64 <= plain.len() as f64 * at_most, "{encoding:?}: {} bytes", file.len());
            let (blob, bytes) = (Digest::of(&file), file.len() as u64);
            let manifest = UpdateManifest { blob, bytes, ..bench.manifest(site, &delta(turn)) };
            if encoding != Encoding::F32 {
                let refused = bench.begin(&UpdateManifest {
                    blob: Digest::of(&plain),
                    bytes: plain.len() as u64,
                    ..manifest.clone()
                });
                assert!(
                    matches!(&refused, Err(Refusal::Update(_, why)) if why.contains("bytes were announced")),
                    "{refused:?}"
                );
            }
            bench.send(&manifest, &file, 10_000, file.len() / 2).unwrap();
            bench.restart();
            bench.send(&manifest, &file, 10_000, file.len()).unwrap();
            bench.finish(&manifest).unwrap();
            stand_for.push(encoding.decode(&file, &plan.signature).unwrap());
        }
        bench.merge();
        let run = bench.run();
        let (first, last) = (bench.blob(run.first_model), bench.blob(run.model));
        for (name, tensor) in last.iter() {
            for (place, value) in tensor.values.iter().enumerate() {
                let of = |tensors: &common::NamedTensors| tensors.get(name).unwrap().values[place];
                let mean = (of(&stand_for[0]) + of(&stand_for[1])) / 2.0;
                assert!((value - of(&first) - mean).abs() < 1e-5, "{encoding:?}, {name} at {place}");
            }
        }
    }
}
