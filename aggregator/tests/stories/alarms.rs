//! A site that goes astray is named where the coordinator looks, and merged all the same.

use std::process::Command;

use aggregator::alarms::AlarmKind;

use crate::bench::{Bench, weights};

#[test]
fn a_collapsed_site_is_named_in_the_status_of_its_round_and_counts_all_the_same() {
    let bench = Bench::with_run(100, 3, 2, 1);
    let delta = weights(100, |place| place as f32 / 777.0);
    for round in 1..=2 {
        for site in ["a", "c"] {
            bench.reports(site, &delta).unwrap();
        }
        let mut manifest = bench.manifest("b", &delta);
        if round == 2 {
            manifest.meters.teacher_entropy = manifest.meters.batch_entropy - 0.005;
        }
        let bytes = delta.to_safetensors();
        bench.send(&manifest, &bytes, 1 << 20, bytes.len()).unwrap();
        bench.finish(&manifest).unwrap();
        bench.merge();
    }
    let rounds = bench.run().rounds;
    assert_eq!(rounds[0].alarms, []);
    let named: Vec<_> = rounds[1].alarms.iter().map(|alarm| (alarm.site.as_str(), alarm.kind)).collect();
    assert_eq!(named, [("b", AlarmKind::Collapse)]);
    assert_eq!(rounds[1].sites.len(), 3);

    let state = bench.path();
    let status =
        Command::new(env!("CARGO_BIN_EXE_aggregator")).arg("status").arg("--state").arg(state).output().unwrap();
    let text = String::from_utf8(status.stdout).unwrap();
    assert!(text.contains("ALARM        b collapses: its teacher's output holds 0.005 nats"), "{text}");
    assert_eq!(text.matches("ALARM").count(), 1, "{text}");
}
