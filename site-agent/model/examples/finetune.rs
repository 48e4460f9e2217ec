//! Times a step of finetuning: `cargo run --example finetune -- [demo|small] [sequence|cine-sax-segmentation] [steps]`.
//!
//! `demo` is the demo's network on batches of 8; `small` is ViT-S/8 on batches of 2. Images are as large as the task has them:
//! the network's, or twice that for a segmentation of the demo's.

use std::time::Instant;

use common::plan::ModelPlan;
use common::task::TaskKind;
use common::{PlanDraft, Task};
use model::{Answers, DeviceChoice, Finetuner, TaskImages};

type Told = Box<dyn std::error::Error>;

fn main() -> Result<(), Told> {
    let mut arguments = std::env::args().skip(1);
    let which = arguments.next().unwrap_or_else(|| "demo".to_owned());
    let task = task(&arguments.next().unwrap_or_else(|| "cine-sax-segmentation".to_owned()))?;
    let steps: u64 = arguments.next().map_or(Ok(20), |steps| steps.parse())?;
    let (plan, count, side) = sizes(&which, &task)?;
    let backbone = model::initial_weights(&plan, 1).under("teacher.backbone.");
    let tasks = std::slice::from_ref(&task);
    let weights = Finetuner::first_weights(&plan, tasks, &backbone, 2)?;
    let mut network = Finetuner::new(&plan, tasks, &DeviceChoice::Cpu, weights, false)?;
    // Any values do: time does not depend on them.
    let value = |place: usize| ((place * 7919) % 1000) as f32 / 250.0 - 2.0;
    let values = (0..count * plan.in_channels * side * side).map(value).collect();
    let images = TaskImages { values, count, side, group: 1 };
    let classes = task.classes.len();
    let answers = match task.kind {
        TaskKind::Segmentation => {
            Answers::Masks((0..count * side * side).map(|place| (place / 50 % (classes + 1)) as u8).collect())
        }
        _ => Answers::Classes((0..count).map(|image| image % classes).collect()),
    };
    let mut seconds = Vec::new();
    for step in 0..steps {
        let began = Instant::now();
        network.step(&task, &images, &answers, step)?;
        seconds.push(began.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let (fastest, median) = (seconds[0], seconds[seconds.len() / 2]);
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().split(' ').next());
    println!("peak memory {} MiB", peak.ok_or("no VmHWM in /proc/self/status")?.parse::<u64>()? >> 10);
    println!("{which}, {}: fastest {fastest:.4} s, median {median:.4} s a step", task.name);
    Ok(())
}

fn task(name: &str) -> Result<Task, Told> {
    let declared = match name {
        "sequence" => include_str!("../../tasks/sequence.toml"),
        "cine-sax-segmentation" => include_str!("../../tasks/cine-sax-segmentation.toml"),
        other => return Err(format!("{other:?}: sequence or cine-sax-segmentation").into()),
    };
    Ok(toml::from_str(declared)?)
}

fn sizes(which: &str, task: &Task) -> Result<(ModelPlan, usize, usize), Told> {
    match which {
        "demo" => {
            let demo: PlanDraft = toml::from_str(include_str!("../../../tests/plans/demo.toml"))?;
            let side = demo.model.image_size * task.input.scale;
            Ok((ModelPlan { drop_path: 0.0, ..demo.model }, 8, side))
        }
        "small" => Ok((ModelPlan { drop_path: 0.0, ..ModelPlan::default() }, 2, 224)),
        other => Err(format!("{other:?}: demo or small").into()),
    }
}
