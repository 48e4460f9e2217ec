//! Times the DINO step and its parts' throughput on this machine: `cargo run --example step -- [demo|small] [steps]`.
//!
//! `demo` is the demo's network and crops; `small` is ViT-S/8 at 2 x 224 + 4 x 96 pixels with one image a step.

use std::time::Instant;

use common::PlanDraft;
use model::{CropBatch, DeviceChoice, Trainer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let which = arguments.next().unwrap_or_else(|| "demo".to_owned());
    let steps: u64 = arguments.next().map_or(Ok(20), |steps| steps.parse())?;
    let plan = plan(&which)?;
    let crops = crops(&plan);
    let weights = model::initial_weights(&plan.model, 1);
    let mut trainer = Trainer::new(&plan, &DeviceChoice::Cpu, &weights)?;
    drop(weights);
    let mut seconds = Vec::new();
    for step in 0..steps {
        let began = Instant::now();
        let report = trainer.step(&crops, step, step)?;
        seconds.push(began.elapsed().as_secs_f64());
        if step == 0 || step + 1 == steps {
            println!("step {step}: loss {:.5}, {:.3} s", report.loss, seconds[seconds.len() - 1]);
        }
    }
    seconds.sort_by(f64::total_cmp);
    let (fastest, median) = (seconds[0], seconds[seconds.len() / 2]);
    let images = plan.training.batch_size as f64;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().split(' ').next());
    println!("peak memory {} MiB", peak.ok_or("no VmHWM in /proc/self/status")?.parse::<u64>()? >> 10);
    println!("{which}: fastest {fastest:.4} s, median {median:.4} s a step; {:.1} images/s", images / median);
    Ok(())
}

fn plan(which: &str) -> Result<PlanDraft, Box<dyn std::error::Error>> {
    let demo = include_str!("../../../tests/plans/demo.toml");
    let mut plan: PlanDraft = toml::from_str(demo)?;
    if which == "small" {
        plan.model = common::plan::ModelPlan::default();
        plan.model.head.prototypes = 4096;
        plan.crops.local_count = 4;
        plan.crops.local_size = 96;
        plan.training.batch_size = 2;
    }
    Ok(plan)
}

/// Any values do: time does not depend on them.
fn crops(plan: &PlanDraft) -> CropBatch {
    let (batch, channels) = (plan.training.batch_size, plan.model.in_channels);
    let crop = |side: usize, seed: usize| {
        let value = |i: usize| ((i * 7919 + seed * 104_729) % 1000) as f32 / 250.0 - 2.0;
        (0..batch * channels * side * side).map(value).collect::<Vec<_>>()
    };
    let (global_side, local_side) = (plan.model.image_size, plan.crops.local_size);
    CropBatch {
        batch,
        channels,
        global_side,
        local_side,
        global: [crop(global_side, 1), crop(global_side, 2)],
        local: (0..plan.crops.local_count).map(|i| crop(local_side, 3 + i)).collect(),
    }
}
