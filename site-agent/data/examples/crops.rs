//! Times drawing frames and making their crops from a frame cache, for comparison with other programs:
//! `crops CACHE SETTINGS [batches]`.
//!
//! CACHE is a cache's folder (`images/cache-…` of an agent's state). SETTINGS is a JSON file with `image_size`,
//! `in_channels`, `batch_size`, and a plan's `images` and `crops`; a key of these two that is left out has its default.
//! Prints one line of JSON: images (frames) a second, the mean, deviation and digest of the first batches' values, and
//! the settings in full. `RAYON_NUM_THREADS` sets the threads. `scripts/crops_peer.py` calls this.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use common::Digest;
use common::plan::{CropPlan, ImagePlan};
use data::{CropMaker, FrameCache, Sampler};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Settings {
    image_size: usize,
    in_channels: usize,
    batch_size: usize,
    #[serde(default)]
    images: ImagePlan,
    #[serde(default)]
    crops: CropPlan,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (cache, settings, batches) = match arguments.as_slice() {
        [cache, settings] => (cache, settings, 16),
        [cache, settings, batches] => (cache, settings, batches.parse()?),
        _ => return Err("give a cache's folder, a file of settings, and perhaps how many batches".into()),
    };
    let settings: Settings = serde_json::from_slice(&std::fs::read(settings)?)?;
    let cache = FrameCache::open(Path::new(cache), &settings.images)?;
    let sampler = Sampler::new(&cache, &cache.subjects())?;
    let maker = CropMaker::new(&settings.crops, &settings.images, settings.image_size, settings.in_channels);
    let batch = |seed| maker.batch(&cache, &sampler.batch(seed, settings.batch_size), seed);

    // The first batches start the threads and page the cache in; what they hold shows that it is the same work.
    let first = (0..4).map(batch).collect::<Result<Vec<_>, _>>()?;
    let first: Vec<f32> = first.into_iter().flat_map(|batch| batch.crops).flat_map(|crops| crops.values).collect();
    let digest = Digest::of(&first.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
    let mean_of =
        |f: &dyn Fn(f64) -> f64| first.iter().map(|value| f(f64::from(*value))).sum::<f64>() / first.len() as f64;
    let mean = mean_of(&|value| value);
    let deviation = mean_of(&|value| (value - mean).powi(2)).sqrt();

    let began = Instant::now();
    let mut used = Vec::new();
    for seed in 0..batches {
        let made = maker.batch_in(used, &cache, &sampler.batch(seed, settings.batch_size), seed)?;
        used = std::hint::black_box(made).crops.into_iter().map(|crops| crops.values).collect();
    }
    let images_per_s = batches as f64 * settings.batch_size as f64 / began.elapsed().as_secs_f64();
    let told = serde_json::json!({
        "images_per_s": images_per_s, "mean": mean, "deviation": deviation, "digest": digest.to_string(),
        "settings": settings,
    });
    println!("{told}");
    Ok(())
}
