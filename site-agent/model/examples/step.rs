//! Times the DINO step on this machine, or holds a device's losses to the CPU's.
//!
//! ```text
//! cargo run --example step -- [demo|small|published] [steps] [device] [precision]
//! cargo run --example step -- [demo|small|published] [steps] [device] [precision] losses
//! ```
//!
//! `demo` is the demo's network and crops; `small` is ViT-S/8 at 2 x 224 + 4 x 96 pixels with two images a step; `published` is
//! ViT-S/8 at 2 x 224 + 8 x 96 with 65,536 prototypes and 16 images a step. `losses` takes the same steps on the CPU in single
//! precision, and prints both losses. A GPU needs `--features model/cuda`.

use std::time::Instant;

use common::PlanDraft;
use model::{CropBatch, DeviceChoice, Precision, Trainer};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |place: usize, default: &'static str| arguments.get(place).map_or(default, String::as_str);
    let (which, steps): (&str, u64) = (argument(0, "demo"), argument(1, "20").parse()?);
    let (device, precision): (DeviceChoice, Precision) = (argument(2, "cpu").parse()?, argument(3, "f32").parse()?);
    let plan = plan(which)?;
    match argument(4, "times") {
        "losses" => losses(&plan, steps, &device, precision),
        _ => times(which, &plan, steps, &device, precision),
    }
}

fn trainer(plan: &PlanDraft, device: &DeviceChoice, precision: Precision) -> Result<Trainer, Failure> {
    Ok(Trainer::new(plan, device, &model::initial_weights(&plan.model, 1))?.in_precision(precision)?)
}

fn times(
    which: &str,
    plan: &PlanDraft,
    steps: u64,
    device: &DeviceChoice,
    precision: Precision,
) -> Result<(), Failure> {
    let crops = crops(plan, 0);
    let mut trainer = trainer(plan, device, precision)?;
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
    let rate = images / median;
    println!("{which}, {device}, {precision}: fastest {fastest:.4} s, median {median:.4} s a step; {rate:.1} images/s");
    Ok(())
}

/// The losses of the same steps on the CPU in single precision and on the device, and how far they are apart.
fn losses(plan: &PlanDraft, steps: u64, device: &DeviceChoice, precision: Precision) -> Result<(), Failure> {
    let mut both = [trainer(plan, &DeviceChoice::Cpu, Precision::F32)?, trainer(plan, device, precision)?];
    println!("step  cpu, f32  {device}, {precision}");
    let (mut sum, mut most) = (0.0, 0.0_f64);
    for step in 0..steps {
        let crops = crops(plan, step as usize % 8);
        let [of_cpu, of_device] = both.each_mut().map(|trainer| trainer.step(&crops, step, step));
        let (of_cpu, of_device) = (of_cpu?.loss, of_device?.loss);
        let apart = (of_cpu - of_device).abs();
        (sum, most) = (sum + apart, most.max(apart));
        if step % 10 == 0 || step + 1 == steps {
            println!("{step:4}  {of_cpu:8.5}  {of_device:8.5}");
        }
    }
    println!("apart: {:.5} nats in the mean, {most:.5} at most", sum / steps as f64);
    Ok(())
}

fn plan(which: &str) -> Result<PlanDraft, Failure> {
    let demo = include_str!("../../../tests/plans/demo.toml");
    let mut plan: PlanDraft = toml::from_str(demo)?;
    if which != "demo" {
        let (locals, batch, prototypes) = match which {
            "small" => (4, 2, 4096),
            "published" => (8, 16, 65_536),
            _ => return Err(format!("{which:?} is no size: use demo, small or published").into()),
        };
        plan.model = common::plan::ModelPlan::default();
        plan.model.head.prototypes = prototypes;
        plan.crops.local_count = locals;
        plan.crops.local_size = 96;
        plan.training.batch_size = batch;
    }
    Ok(plan)
}

/// Any values do: time does not depend on them.
fn crops(plan: &PlanDraft, batch_seed: usize) -> CropBatch {
    let (batch, channels) = (plan.training.batch_size, plan.model.in_channels);
    let crop = |side: usize, seed: usize| {
        let value = |i: usize| ((i * 7919 + (seed + 31 * batch_seed) * 104_729) % 1000) as f32 / 250.0 - 2.0;
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
