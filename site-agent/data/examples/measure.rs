//! Measures intake and crops on this machine: `cargo run -p data --example measure -- WORKER`.
//!
//! WORKER is the program that parses, for example `target/debug/intake-worker`; without it files are parsed in this
//! process. The images are noise of the sizes that the three demo sites have.

use std::path::{Path, PathBuf};
use std::time::Instant;

use common::plan::{CropPlan, ImagePlan};
use data::{CropMaker, FrameCache, IntakeOptions, Sampler, SiteSecret, Workers, index, whole_frames};

#[path = "../tests/intake/support.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "made for tests, which use the rest of it")]
mod support;

use support::{Image, short_axis_cine};

fn main() {
    let worker = std::env::args_os().nth(1).map(PathBuf::from);
    let workers = || match &worker {
        Some(program) => Workers::Processes { program: program.clone(), args: Vec::new(), count: 2 },
        None => Workers::InProcess,
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (rows, columns) in [(180, 208), (512, 512)] {
        let images = folder.path().join(format!("images-{rows}"));
        let count = write_images(&images, rows, columns);
        let cache = folder.path().join(format!("cache-{rows}"));
        let options = IntakeOptions::new(cache, ImagePlan::default(), SiteSecret::new([7; 32]), workers());
        for run in ["first", "second"] {
            let start = Instant::now();
            let report = index(&images, &options, &mut |_| {}).expect("an intake");
            let seconds = start.elapsed().as_secs_f64();
            assert_eq!(report.frames, count);
            println!("intake {rows} x {columns}, {run} run: {count} images, {:.0} images/s", count as f64 / seconds);
        }
    }
    let cache = FrameCache::open(&folder.path().join("cache-180"), &ImagePlan::default()).expect("a cache");
    crops(&cache, "published (2 x 224 + 8 x 96)", &CropPlan::default(), 224);
    crops(&cache, "small (2 x 48 + 2 x 24)", &CropPlan { local_count: 2, local_size: 24, ..CropPlan::default() }, 48);
    let frames: Vec<_> = cache.frames().take(256).collect();
    let start = Instant::now();
    whole_frames(&cache, &frames, 224, 1).expect("frames as they were written");
    println!("whole frames at 224: {:.0} frames/s", 256.0 / start.elapsed().as_secs_f64());
}

fn write_images(folder: &Path, rows: u16, columns: u16) -> u64 {
    let template = Image { rows, columns, spacing: Some([1.8, 1.8]), ..Image::new() };
    let mut count = 0;
    for series in 0..4 {
        for image in short_axis_cine(&Image { series, ..template.clone() }, 10, 25) {
            image.write(&folder.join(format!("{count}.dcm")));
            count += 1;
        }
    }
    count
}

fn crops(cache: &FrameCache, name: &str, plan: &CropPlan, image_size: usize) {
    let sampler = Sampler::new(cache, &cache.subjects()).expect("frames");
    let maker = CropMaker::new(plan, cache.images(), image_size, 1);
    let (batches, size) = (8, 32);
    let start = Instant::now();
    for seed in 0..batches {
        maker.batch(cache, &sampler.batch(seed, size), seed).expect("frames as they were written");
    }
    let frames = batches as f64 * size as f64 / start.elapsed().as_secs_f64();
    println!("crops {name}: {frames:.0} frames/s, {:.0} crops/s", frames * (2 + plan.local_count) as f64);
}
