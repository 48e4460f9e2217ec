//! From a cache to batches: who is drawn, and what the crops hold.

use std::collections::BTreeMap;

use common::plan::{CropPlan, ImagePlan};
use data::{
    CropMaker, FrameCache, FrameRef, IntakeOptions, Level, NothingToSample, Plane, Sampler, Sequence, SiteSecret,
    Split, Workers, frames_for_evaluation, index, shown_frame, whole_frames,
};

use crate::support::{Image, short_axis_cine};

const SIDE: usize = 16;

/// One subject with a cine of 3 x 8 frames and a single four-chamber frame, two with one frame each.
fn site() -> (tempfile::TempDir, FrameCache) {
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    let mut all = short_axis_cine(&Image::new(), 3, 8);
    all.push(Image { series: 2, description: "Cine 4ch".into(), ..Image::new() });
    all.push(Image { series: 3, study: 2, patient: "PATIENT-2", ..Image::new() });
    all.push(Image { series: 4, study: 3, patient: "PATIENT-3", ..Image::new() });
    for (place, image) in all.iter().enumerate() {
        image.write(&images.join(place.to_string()));
    }
    let plan = ImagePlan {
        frame_size: SIDE,
        low_percentile: 0.0,
        high_percentile: 100.0,
        mean: 0.5,
        std: 0.25,
        ..ImagePlan::default()
    };
    let options =
        IntakeOptions::new(folder.path().join("cache"), plan.clone(), SiteSecret::new([7; 32]), Workers::InProcess);
    index(&images, &options, &mut |_| {}).unwrap();
    let cache = FrameCache::open(&options.cache, &plan).unwrap();
    (folder, cache)
}

/// No augmentation at all: the whole frame, unchanged.
fn plain() -> CropPlan {
    CropPlan {
        global_scale: [1.0, 1.0],
        local_count: 0,
        flip: 0.0,
        jitter: 0.0,
        blur: [0.0; 3],
        noise: 0.0,
        ..CropPlan::default()
    }
}

#[test]
fn subjects_come_equally_often_however_many_frames_they_have() {
    let (_folder, cache) = site();
    let sampler = Sampler::new(&cache, &cache.subjects()).unwrap();
    let mut subjects = BTreeMap::new();
    let mut views = BTreeMap::new();
    for seed in 0..200 {
        for frame in sampler.batch(seed, 15) {
            let record = &cache.series()[frame.series as usize];
            *subjects.entry(record.subject).or_insert(0) += 1;
            if record.slices.len() == 3 || record.plane == Plane::FourChamber {
                *views.entry(record.plane).or_insert(0) += 1;
            }
        }
    }
    assert!(subjects.values().all(|count| *count == 1000), "{subjects:?}");
    // The subject with 24 cine frames and one four-chamber frame: its series come equally often.
    assert!((400..600).contains(&views[&Plane::FourChamber]), "{views:?}");
}

#[test]
fn a_batch_is_a_function_of_its_seed() {
    let (_folder, cache) = site();
    let sampler = Sampler::new(&cache, &cache.subjects()).unwrap();
    assert_eq!(sampler.batch(5, 32), sampler.batch(5, 32));
    assert_ne!(sampler.batch(5, 32), sampler.batch(6, 32));
}

/// What was drawn when this was written: a draw that a clock, a thread or a hash table has a part in would differ.
#[test]
fn the_draw_of_a_seed_is_the_same_on_every_thread_and_every_day() {
    let (_folder, cache) = site();
    let sampler = Sampler::new(&cache, &cache.subjects()).unwrap();
    let drawn = || sampler.batch(5, 8).iter().map(|frame| (frame.series, frame.slice, frame.phase)).collect::<Vec<_>>();
    let expected = [(0, 0, 0), (1, 0, 0), (2, 0, 0), (2, 0, 0), (1, 0, 0), (0, 0, 0), (3, 1, 3), (1, 0, 0)];
    assert_eq!(drawn(), expected);
    std::thread::scope(|scope| {
        let others: Vec<_> = (0..4).map(|_| scope.spawn(drawn)).collect();
        others.into_iter().for_each(|other| assert_eq!(other.join().unwrap(), expected));
    });
}

#[test]
fn held_out_subjects_are_never_drawn() {
    let (_folder, cache) = site();
    let split = Split::new(&cache.subjects(), 0.4);
    let sampler = Sampler::new(&cache, split.training()).unwrap();
    for frame in sampler.batch(1, 500) {
        assert!(!split.held_out().contains(&cache.series()[frame.series as usize].subject));
    }
    assert_eq!(Sampler::new(&cache, &[]).unwrap_err(), NothingToSample { subjects: 0 });
}

#[test]
fn without_augmentation_a_crop_is_the_normalised_frame() {
    let (_folder, cache) = site();
    let maker = CropMaker::new(&plain(), cache.images(), SIDE, 3);
    let frames: Vec<FrameRef> = cache.frames().take(2).collect();
    let batch = maker.batch(&cache, &frames, 1).unwrap();
    assert_eq!(batch.crops.len(), 2);
    let crops = &batch.crops[1];
    assert_eq!((crops.count, crops.channels, crops.side, crops.values.len()), (2, 3, SIDE, 2 * 3 * SIDE * SIDE));
    for (place, frame) in frames.iter().enumerate() {
        let expected: Vec<f32> =
            cache.pixels(*frame).unwrap().to_vec().iter().map(|value| (value - 0.5) / 0.25).collect();
        for channel in 0..3 {
            let found = &crops.values[(place * 3 + channel) * SIDE * SIDE..][..SIDE * SIDE];
            assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-4));
        }
    }
    assert_eq!(whole_frames(&cache, &frames, SIDE, 3).unwrap(), crops.values, "as the evaluation sees them");
}

#[test]
fn a_certain_flip_is_the_mirror_image() {
    let (_folder, cache) = site();
    let frames: Vec<FrameRef> = cache.frames().take(1).collect();
    let straight = CropMaker::new(&plain(), cache.images(), SIDE, 1).batch(&cache, &frames, 1).unwrap();
    let flipped =
        CropMaker::new(&CropPlan { flip: 1.0, ..plain() }, cache.images(), SIDE, 1).batch(&cache, &frames, 1).unwrap();
    let rows = straight.crops[0].values.chunks(SIDE).zip(flipped.crops[0].values.chunks(SIDE));
    for (row, mirrored) in rows {
        assert!(row.iter().eq(mirrored.iter().rev()));
    }
}

#[test]
fn crops_are_the_same_on_any_number_of_threads_and_differ_from_each_other() {
    let (_folder, cache) = site();
    let plan = CropPlan { local_count: 3, local_size: 8, ..CropPlan::default() };
    let maker = CropMaker::new(&plan, cache.images(), SIDE, 1);
    let frames: Vec<FrameRef> = cache.frames().collect();
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| maker.batch(&cache, &frames, 11).unwrap())
    };
    let one = with(1);
    assert_eq!(one, with(5));
    assert_eq!(one.crops.iter().map(|crops| crops.side).collect::<Vec<_>>(), [16, 16, 8, 8, 8]);
    assert_ne!(one.crops[0].values, one.crops[1].values);
    assert_ne!(one, maker.batch(&cache, &frames, 12).unwrap());
    // In the memory of a batch of another size, and in that of one of its own.
    for other in [maker.batch(&cache, &frames[..1], 12), maker.batch(&cache, &frames, 12)].map(Result::unwrap) {
        let used = other.crops.into_iter().map(|crops| crops.values).collect();
        assert_eq!(one, maker.batch_in(used, &cache, &frames, 11).unwrap());
    }
    // A frame's crops do not depend on the frames behind it.
    let alone = maker.batch(&cache, &frames[..1], 11).unwrap();
    assert_eq!(alone.crops[4].values, one.crops[4].values[..64]);
    assert!(one.crops.iter().flat_map(|crops| &crops.values).all(|value| (-2.001..=2.001).contains(value)));
}

#[test]
fn frames_for_evaluation_are_spread_over_the_cycle_and_labelled() {
    let (_folder, cache) = site();
    let frames = frames_for_evaluation(&cache, &cache.subjects(), 2);
    assert_eq!(frames.len(), 3 * 2 + 3);
    let of_cine: Vec<_> = frames
        .iter()
        .filter(|frame| cache.series()[frame.frame.series as usize].slices.len() == 3)
        .map(|frame| (frame.frame.slice, frame.frame.phase, frame.level.unwrap()))
        .collect();
    use Level::{Apex, Base, Mid};
    assert_eq!(of_cine, [(0, 0, Base), (0, 4, Base), (1, 0, Mid), (1, 4, Mid), (2, 0, Apex), (2, 4, Apex)]);
    assert!(frames.iter().all(|frame| frame.sequence == Sequence::Cine));
    assert!(frames_for_evaluation(&cache, &[], 2).is_empty());
}

#[test]
fn a_shown_frame_is_gray_bytes_of_the_asked_size() {
    let (_folder, cache) = site();
    let frame = cache.frames().next().unwrap();
    let picture = shown_frame(&cache, frame, 64).unwrap();
    assert_eq!(picture.len(), 64 * 64);
    assert_eq!(picture.iter().max(), Some(&255));
}
