//! From files to a cache: what is found, how it is ordered and named, and what a second run does again.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use crate::site::Site;
use crate::support::{Image, along_axis, archive, element, item, sequence, short_axis_cine};
use common::plan::{CropPlan, ImagePlan};
use data::{
    CacheError, CropMaker, FrameCache, IntakeError, IntakeReport, Level, Plane, Rule, Sequence, SiteSecret, index,
    shown_frame, whole_frames,
};
use dicom_core::VR;
use dicom_dictionary_std::{tags, uids};

/// The modality value at the first acquired row of each frame, in the order of the cache. The 16 x 12 frame lies in the
/// middle of the 16 x 16 grid, two rows down.
fn markers(cache: &FrameCache) -> Vec<u32> {
    cache
        .frames()
        .map(|frame| {
            let [low, high] = cache.series()[frame.series as usize].window;
            let fraction = f64::from(cache.pixels(frame).unwrap().to_vec()[2 * 16 + 8]);
            (low + fraction * (high - low)).round() as u32
        })
        .collect()
}

#[test]
fn a_hospital_export_becomes_frames_in_the_order_of_slices_and_phases() {
    let site = Site::new();
    site.write_all("a/deep/er", &short_axis_cine(&Image::new(), 4, 5));
    let report = site.index().unwrap();
    assert_eq!((report.subjects, report.studies, report.series, report.frames), (1, 1, 1, 20));
    let cache = site.cache();
    let expected: Vec<u32> = (0..4).flat_map(|slice| (0..5).map(move |phase| slice * 100 + phase)).collect();
    assert_eq!(markers(&cache), expected);
    let record = &cache.series()[0];
    assert_eq!((record.sequence, record.plane), (Sequence::Cine, Plane::Sax));
    let levels: Vec<_> = record.slices.iter().map(|slice| slice.level.unwrap()).collect();
    assert_eq!(levels, [Level::Base, Level::Mid, Level::Mid, Level::Apex]);
    cache.verify().unwrap();
}

#[test]
fn without_names_timing_tells_the_cine_and_geometry_the_planes() {
    let site = Site::new();
    let silent = Image { description: String::new(), manufacturer: "", ..Image::new() };
    site.write_all("sax", &short_axis_cine(&silent, 6, 3));
    // A plane that holds the axis, with its normal towards the head: four-chamber.
    let axis = along_axis(1.0);
    let four = Image { series: 2, orientation: [0.0, 0.0, 0.0, axis[0], axis[1], axis[2]], ..silent.clone() };
    let across = {
        // In the plane: the axis and a horizontal direction across it.
        let length = (axis[0] * axis[0] + axis[1] * axis[1]).sqrt();
        [axis[1] / length, -axis[0] / length, 0.0]
    };
    let orientation = [across[0], across[1], across[2], axis[0], axis[1], axis[2]];
    for phase in 0..3 {
        let image = Image { orientation, instance: phase + 1, trigger: Some(f64::from(phase) * 40.0), ..four.clone() };
        site.write(&format!("lax/{phase}"), &image.marked(phase as u16));
    }
    site.index().unwrap();
    let cache = site.cache();
    let mut found: Vec<_> =
        cache.series().iter().map(|s| (s.plane, s.plane_rule, s.sequence, s.sequence_rule)).collect();
    found.sort();
    let cine = |plane| (plane, Rule::Geometry, Sequence::Cine, Rule::Timing);
    assert_eq!(found, [cine(Plane::Sax), cine(Plane::FourChamber)]);
}

#[test]
fn uk_biobank_archives_are_read_in_place() {
    let site = Site::new();
    let mut entries: Vec<(String, Vec<u8>)> = Vec::new();
    let mut table = "filename,patientid,seriesid,series discription,date\n".to_owned();
    for slice in 0..3_u32 {
        for phase in 0..4_u32 {
            let name = format!("{slice}{phase}.dcm");
            let description = format!("CINE_segmented_SAX_b{}", slice + 1);
            table += &format!("{name},x,y,{description},Aug 30, 2015\n");
            // The third slice's headers have no description: the manifest tells.
            let description = if slice == 2 { String::new() } else { description };
            let image = Image { series: 10 + slice, description, patient: "", ..Image::new() };
            let image = Image {
                instance: phase + 1,
                position: along_axis(f64::from(slice) * 10.0),
                trigger: Some(f64::from(phase) * 20.0),
                ..image.marked((slice * 100 + phase) as u16)
            };
            entries.push((name, image.bytes()));
        }
    }
    // The second slice was repeated: the later series is used.
    let again = Image { series: 20, series_number: 9, description: "CINE_segmented_SAX_b2".into(), ..Image::new() };
    let again = Image { patient: "", position: along_axis(10.0), ..again.marked(777) };
    entries.push(("again.dcm".into(), again.bytes()));
    let inline = Image { series: 30, description: "InlineVF_Results".into(), ..Image::new() };
    entries.push(("inline.dcm".into(), inline.bytes()));
    entries.push(("manifest.cvs".into(), table.into_bytes()));
    let listed: Vec<(&str, Vec<u8>)> = entries.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    archive(&site.images().join("1234567_20209_2_0.zip"), &listed);

    let report = site.index().unwrap();
    assert_eq!((report.files, report.subjects, report.series, report.frames), (1, 1, 3, 9));
    let cache = site.cache();
    let mut found: Vec<_> = cache.series().iter().map(|s| (s.slices[0].level.unwrap(), s.plane_rule)).collect();
    found.sort();
    let named = Rule::UkBiobankName;
    assert_eq!(found, [(Level::Base, named), (Level::Mid, named), (Level::Apex, named)]);
    let mut seen = markers(&cache);
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 200, 201, 202, 203, 777]);
    let counts: Vec<_> = report.skipped.iter().map(|skip| (skip.reason.as_str(), skip.count)).collect();
    assert_eq!(counts, [("inline-result", 1), ("superseded", 4)]);
    assert!(site.ledger().contains("\"entry\":\"inline.dcm\""), "{}", site.ledger());
    let before = cache.subjects();

    // The archive bore another participant's number.
    fs::rename(site.images().join("1234567_20209_2_0.zip"), site.images().join("7654321_20209_2_0.zip")).unwrap();
    let report = site.index().unwrap();
    assert_eq!((report.new_series, report.unchanged_series, report.frames), (3, 0, 9));
    let anew = Site::new();
    archive(&anew.images().join("7654321_20209_2_0.zip"), &listed);
    anew.index().unwrap();
    assert_eq!(site.cache().subjects(), anew.cache().subjects());
    assert_ne!(site.cache().subjects(), before);
}

#[test]
fn a_t1_map_keeps_its_milliseconds() {
    let site = Site::new();
    let name = "ShMOLLI_192i_SAX_b2s_SAX_b2s_SAX_b2s_T1MAP".to_owned();
    let map = Image { description: name, slope: Some("2"), intercept: Some("-100"), ..Image::new() };
    site.write("map.dcm", &map.marked(500));
    site.index().unwrap();
    let cache = site.cache();
    let record = &cache.series()[0];
    assert_eq!((record.sequence, record.plane), (Sequence::T1Map, Plane::Sax));
    assert_eq!(markers(&cache), [900], "500 x 2 - 100 ms");
    assert_eq!(record.window[1], 1900.0);
}

#[test]
fn an_enhanced_image_is_ordered_and_rescaled_frame_by_frame() {
    let site = Site::new();
    let mut image = Image { frames: 4, class: uids::ENHANCED_MR_IMAGE_STORAGE, spacing: None, ..Image::new() };
    // Stored in the order of time, slices interleaved; each frame has a slope of its own.
    let places = [(10.0, 0.0, 1.0), (0.0, 0.0, 2.0), (10.0, 30.0, 4.0), (0.0, 30.0, 1.0)];
    image.pixels =
        (0..4_u16).flat_map(|frame| (0..12 * 16).map(move |i| if i < 16 { 100 + frame } else { i * 2 })).collect();
    let text = |value: f64| value.to_string();
    let groups = places.map(|(mm, ms, slope)| {
        let position = along_axis(mm).map(text).join("\\");
        item(vec![
            sequence(
                tags::PLANE_POSITION_SEQUENCE,
                vec![item(vec![element(tags::IMAGE_POSITION_PATIENT, VR::DS, position)])],
            ),
            sequence(
                tags::CARDIAC_SYNCHRONIZATION_SEQUENCE,
                vec![item(vec![element(tags::NOMINAL_CARDIAC_TRIGGER_DELAY_TIME, VR::FD, ms)])],
            ),
            sequence(
                tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE,
                vec![item(vec![
                    element(tags::RESCALE_SLOPE, VR::DS, text(slope)),
                    element(tags::RESCALE_INTERCEPT, VR::DS, "0"),
                ])],
            ),
        ])
    });
    image.extra.push(sequence(tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE, groups.into()));
    let measures = vec![item(vec![element(tags::PIXEL_SPACING, VR::DS, "1\\1")])];
    let shared = item(vec![sequence(tags::PIXEL_MEASURES_SEQUENCE, measures)]);
    image.extra.push(sequence(tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE, vec![shared]));
    site.write("enhanced.dcm", &image);
    let report = site.index().unwrap();
    assert_eq!((report.files, report.frames), (1, 4));
    assert_eq!(markers(&site.cache()), [2 * 101, 103, 100, 4 * 102]);
}

#[test]
fn a_series_with_several_orientations_is_cut() {
    let site = Site::new();
    let named = Image { description: "CINE_segmented_LAX".into(), ..Image::new() };
    for (number, orientation) in
        [[1.0, 0.0, 0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]]
            .iter()
            .enumerate()
    {
        let image = Image { instance: number as u32 + 1, orientation: *orientation, ..named.clone() };
        site.write(&format!("{number}"), &image);
    }
    assert_eq!(site.index().unwrap().series, 3);
}

#[test]
fn a_second_run_reads_only_what_changed() {
    let site = Site::new();
    site.write_all("one", &short_axis_cine(&Image::new(), 3, 2));
    let other = Image { series: 2, description: "Cine 4ch".into(), ..Image::new() };
    site.write("two/a.dcm", &other.clone().marked(1));
    site.write("two/b.dcm", &Image { instance: 2, ..other.clone().marked(2) });
    let first = site.index().unwrap();
    assert_eq!((first.new_series, first.unchanged_series), (2, 0));
    let before = fs::read(frames_file(&site)).unwrap();

    let again = site.index().unwrap();
    assert_eq!((again.new_series, again.unchanged_series, again.frames), (0, 2, 8));
    assert_eq!(fs::read(frames_file(&site)).unwrap(), before, "nothing is written twice");

    site.write("two/c.dcm", &Image { instance: 3, ..other.marked(3) });
    let grown = site.index().unwrap();
    assert_eq!((grown.new_series, grown.unchanged_series, grown.frames), (1, 1, 9));

    fs::remove_dir_all(site.images().join("one")).unwrap();
    let shrunk = site.index().unwrap();
    assert_eq!((shrunk.new_series, shrunk.removed_series, shrunk.frames), (0, 1, 3));
    assert_eq!(markers(&site.cache()), [1, 2, 3]);
}

fn frames_file(site: &Site) -> PathBuf {
    let is_frames = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("frames-");
    let mut folders = fs::read_dir(&site.options.cache).unwrap().map(|entry| entry.unwrap().path()).filter(is_frames);
    let files = fs::read_dir(folders.next().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    // The newest: a compaction leaves the one before until the next run.
    files.filter(|path| path.extension().is_some_and(|end| end == "bin")).max().unwrap()
}

#[test]
fn a_source_beside_another_keeps_the_others_series() {
    let site = Site::new();
    site.write("a/1", &Image::new());
    site.write("b/1", &Image { series: 2, patient: "PATIENT-2", ..Image::new() });
    for source in ["a", "b"] {
        index(&site.images().join(source), &site.options, &mut |_| {}).unwrap();
    }
    assert_eq!(site.cache().subjects().len(), 2);
    // The folder around both adds nothing: the series are here already.
    let around = site.index().unwrap();
    assert_eq!((around.new_series, around.unchanged_series, around.frames), (0, 2, 2));
}

#[test]
fn a_kill_while_writing_costs_nothing_but_the_work_since_the_last_flush() {
    let site = Site::new();
    site.write_all("one", &short_axis_cine(&Image::new(), 3, 2));
    site.write_all("two", &short_axis_cine(&Image { series: 2, ..Image::new() }, 2, 2));
    site.index().unwrap();
    let expected = markers(&site.cache());
    let mapped = site.cache();
    let frames = frames_file(&site);
    let series_log = frames.with_file_name("series.log");
    let headers_log = site.options.cache.join("headers.log");
    for log in [&series_log, &headers_log] {
        let whole = fs::read(log).unwrap();
        for cut in (0..whole.len()).step_by(97) {
            fs::write(log, &whole[..cut]).unwrap();
            // Frames of a series whose record was lost, half of one more among them.
            let mut torn = fs::read(&frames).unwrap();
            torn.extend_from_slice(&[0xab; 700]);
            fs::write(&frames, &torn).unwrap();
            site.index().unwrap();
            let cache = site.cache();
            assert_eq!(markers(&cache), expected, "{} cut at {cut}", log.display());
            cache.verify().unwrap();
            let length = fs::metadata(&frames).unwrap().len();
            assert!(length >= torn.len() as u64, "a cut would end a reader that has mapped the file");
            mapped.verify().unwrap();
        }
        fs::write(log, &whole).unwrap();
    }
}

#[test]
fn an_intake_that_is_stopped_anywhere_goes_on_to_the_same_cache() {
    let site = |folders: &[u32]| {
        let site = Site::new();
        for &series in folders {
            site.write_all(&format!("of-{series}"), &short_axis_cine(&Image { series, ..Image::new() }, 2, 2));
        }
        site
    };
    let undisturbed = site(&[1, 2, 3]);
    undisturbed.index().unwrap();
    let expected = markers(&undisturbed.cache());
    // After so many words of progress: 12 files and 3 series, and one word before each kind.
    for words in 1..=14 {
        let site = site(&[1, 2, 3]);
        let stopped = Arc::clone(&site.options.stopped);
        let mut heard = 0;
        let told = index(&site.images(), &site.options, &mut |_| {
            heard += 1;
            stopped.store(heard >= words, Ordering::SeqCst);
        });
        assert!(matches!(told, Err(IntakeError::Stopped)), "after {words} words: {told:?}");
        assert_eq!(heard, words, "nothing is read after that");
        let kept = fs::metadata(site.options.cache.join("headers.log")).unwrap().len();
        assert_eq!(kept > 0, words > 1, "what was read until then is written down");
        stopped.store(false, Ordering::SeqCst);
        site.index().unwrap();
        assert_eq!(markers(&site.cache()), expected, "stopped after {words} words");
    }
}

#[test]
fn a_compaction_keeps_every_sources_frames_and_those_that_a_reader_has_mapped() {
    let site = Site::new();
    let many = Image { frames: 1100, pixels: Image::new().pixels.repeat(1100), ..Image::new() };
    site.write("a/1", &many);
    site.write_all("b", &short_axis_cine(&Image { series: 2, patient: "PATIENT-2", ..Image::new() }, 2, 3));
    let source = |name: &str| index(&site.images().join(name), &site.options, &mut |_| {}).unwrap();
    source("a");
    assert_eq!(source("b").cache_frames, 1106);
    let mapped = site.cache();
    site.write("a/1", &Image::new().marked(777));
    assert_eq!(source("a").cache_frames, 7);
    let expected = markers(&site.cache());
    let (before, frame) = (frames_file(&site), 2 * 16 * 16);
    assert_eq!(fs::metadata(&before).unwrap().len(), 1107 * frame);
    // A kill in the middle of a compaction leaves these.
    fs::write(before.with_file_name("series.new"), "torn").unwrap();
    fs::write(before.with_file_name("frames-1.bin"), "torn").unwrap();

    assert_eq!(source("b").unchanged_series, 1);
    assert_eq!(fs::metadata(frames_file(&site)).unwrap().len(), 7 * frame);
    assert!(before.exists(), "a reader of the log that was replaced may be about to open it");
    assert_eq!(markers(&site.cache()), expected);
    site.cache().verify().unwrap();
    assert_eq!(source("a").unchanged_series, 1);
    assert!(!before.exists());
    mapped.verify().unwrap();
}

#[test]
fn a_compaction_that_cannot_be_made_leaves_nothing_behind_and_the_index_goes_on_without_it() {
    let site = Site::new();
    let many = Image { frames: 1100, pixels: Image::new().pixels.repeat(1100), ..Image::new() };
    site.write("a/1", &many);
    site.index().unwrap();
    site.write("a/1", &Image::new().marked(777));
    site.index().unwrap();
    let before = frames_file(&site);
    let taken = before.with_file_name("frames-1.bin");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("file"), "").unwrap();
    for _ in 0..2 {
        assert_eq!(site.index().unwrap().unchanged_series, 1);
        assert_eq!(markers(&site.cache()), [777]);
        assert!(!before.with_file_name("series.new").exists());
    }
    fs::remove_dir_all(&taken).unwrap();
    site.index().unwrap();
    assert_eq!((frames_file(&site), markers(&site.cache())), (taken, vec![777]));
}

#[test]
fn paths_that_differ_in_bytes_that_are_no_text_or_in_a_space_are_files_of_their_own() {
    let site = Site::new();
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let names: [&[u8]; 4] = [b"M\xfcller/IM1", b"M\xf6ller/IM1", b"IM1", b"IM1 "];
    let patients = ["PATIENT-1", "PATIENT-2", "PATIENT-3", "PATIENT-4"];
    for ((series, name), patient) in (1..).zip(names).zip(patients) {
        let path = site.images().join(OsStr::from_bytes(name));
        Image { series, patient, ..Image::new() }.write(&path);
        fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    }
    let report = site.index().unwrap();
    assert_eq!((report.new_series, report.unchanged_series), (4, 0));
    let subjects = site.cache().subjects();
    assert_eq!(subjects.len(), 4);
    let report = site.index().unwrap();
    assert_eq!((report.new_series, report.unchanged_series), (0, 4));
    assert_eq!(site.cache().subjects(), subjects);
}

#[test]
fn a_log_that_the_disk_damaged_is_named_and_nothing_is_dropped() {
    let site = Site::new();
    for series in 1..4 {
        site.write(&format!("{series}"), &Image { series, ..Image::new() });
    }
    site.index().unwrap();
    let frames = frames_file(&site);
    let log = frames.with_file_name("series.log");
    let mut damaged = fs::read(&log).unwrap();
    damaged[100] ^= 1;
    fs::write(&log, &damaged).unwrap();
    let length = fs::metadata(&frames).unwrap().len();
    assert!(matches!(site.index(), Err(IntakeError::Cache(CacheError::Damaged { .. }))));
    let opened = FrameCache::open(&site.options.cache, &site.options.images);
    assert!(matches!(opened, Err(CacheError::Damaged { .. })));
    assert_eq!(fs::metadata(&frames).unwrap().len(), length);
    assert_eq!(fs::read(&log).unwrap(), damaged);
}

#[test]
fn halves_of_a_series_in_two_sources_are_both_kept() {
    let site = Site::new();
    for (number, image) in short_axis_cine(&Image::new(), 2, 3).iter().enumerate() {
        site.write(&format!("{}/{number}", if number < 3 { "a" } else { "b" }), image);
    }
    for source in ["a", "b", "a", "b"] {
        index(&site.images().join(source), &site.options, &mut |_| {}).unwrap();
    }
    let mut found = markers(&site.cache());
    found.sort_unstable();
    assert_eq!(found, [0, 1, 2, 100, 101, 102]);
}

#[test]
fn a_series_too_large_for_this_process_is_left_out_until_the_limit_permits_it() {
    let mut site = Site::new();
    site.write("small", &Image { series: 2, ..Image::new() });
    site.write("large", &Image { frames: 100, pixels: Image::new().pixels.repeat(100), ..Image::new() });
    // The grid holds 16 x 16 floats a frame.
    site.options.limits.series_bytes = 99 * 1024;
    site.options.tolerance = 0.5;
    let report = site.index().unwrap();
    assert_eq!((report.frames, report.faults), (1, 1));
    assert!(site.ledger().contains("102400 bytes are more than the limit of 101376"), "{}", site.ledger());
    site.options.limits.series_bytes = 100 * 1024;
    let report = site.index().unwrap();
    assert_eq!((report.frames, report.new_series, report.faults), (101, 1, 0));
}

#[test]
fn frames_that_the_disk_lost_or_changed_are_known() {
    let site = Site::new();
    site.write("1", &Image::new());
    site.write("2", &Image { series: 2, ..Image::new().marked(500) });
    site.index().unwrap();
    let file = frames_file(&site);
    let whole = fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[100] ^= 1;
    fs::write(&file, &flipped).unwrap();
    let cache = site.cache();
    assert!(matches!(cache.verify(), Err(CacheError::Damaged { .. })));
    // Nobody has to ask for that: whoever draws the frame is told, and the other one is as it was.
    let maker = CropMaker::new(&CropPlan::default(), cache.images(), 16, 1);
    let (changed, sound): (Vec<_>, Vec<_>) = cache.frames().partition(|frame| cache.pixels(*frame).is_err());
    assert_eq!((changed.len(), sound.len()), (1, 1));
    for (frame, is_sound) in [(changed[0], false), (sound[0], true)] {
        let drawn = [
            cache.pixels(frame).map(drop),
            maker.batch(&cache, &[frame], 1).map(drop),
            whole_frames(&cache, &[frame], 16, 1).map(drop),
            shown_frame(&cache, frame, 16).map(drop),
        ];
        for (how, drawn) in drawn.into_iter().enumerate() {
            assert!(if is_sound { drawn.is_ok() } else { matches!(drawn, Err(CacheError::Damaged { .. })) }, "{how}");
        }
    }
    fs::write(&file, &whole[..whole.len() - 1]).unwrap();
    let opened = FrameCache::open(&site.options.cache, &site.options.images);
    assert!(matches!(opened, Err(CacheError::Damaged { .. })));
}

#[test]
fn another_plan_or_secret_is_named_and_indexing_again_builds_for_the_plan() {
    let mut site = Site::new();
    site.write("1", &Image::new());
    let none = FrameCache::open(&site.options.cache, &site.options.images);
    assert!(matches!(none, Err(CacheError::NotBuilt { .. })));
    site.index().unwrap();
    site.options.images.spacing_mm = 2.0;
    let other = FrameCache::open(&site.options.cache, &site.options.images).err().unwrap();
    assert!(other.to_string().contains("run `site-agent index` again"), "{other}");
    site.index().unwrap();
    assert_eq!(site.cache().frame_count(), 1);
    site.options.secret = SiteSecret::new([8; 32]);
    assert!(matches!(site.index(), Err(IntakeError::Cache(CacheError::OtherSecret { .. }))));
}

#[test]
fn mean_and_deviation_are_applied_later_and_need_no_other_cache() {
    let site = Site::new();
    site.write("1", &Image::new());
    site.index().unwrap();
    let images = ImagePlan { mean: 0.1, std: 0.9, ..site.options.images.clone() };
    assert_eq!(FrameCache::open(&site.options.cache, &images).unwrap().images().mean, 0.1);
}

#[test]
fn a_folder_without_images_says_what_is_missing() {
    let site = Site::new();
    let empty = site.index().unwrap_err();
    assert!(matches!(empty, IntakeError::Empty { .. }), "{empty}");
    assert!(empty.to_string().contains("put the exported DICOM folders"), "{empty}");

    fs::write(site.images().join("notes.txt"), "no image").unwrap();
    let none = site.index().unwrap_err();
    assert!(none.to_string().contains("none of the 1 files") && none.to_string().contains("1 not-dicom"), "{none}");

    let missing = index(Path::new("/no/such/folder"), &site.options, &mut |_| {}).unwrap_err();
    assert!(missing.to_string().contains("/no/such/folder"), "{missing}");
}

#[test]
fn too_many_faults_are_an_error_that_holds_the_report() {
    let mut site = Site::new();
    site.write("good.dcm", &Image::new());
    for name in ["cut1.dcm", "cut2.dcm"] {
        let bytes = Image { series: 2, ..Image::new() }.bytes();
        fs::write(site.images().join(name), &bytes[..bytes.len() - 50]).unwrap();
    }
    // A text file beside the images is no fault.
    fs::write(site.images().join("README"), "x").unwrap();
    let error = site.index().unwrap_err();
    let IntakeError::TooManyFaults { report, .. } = &error else { panic!("{error}") };
    assert_eq!((report.faults, report.frames), (2, 1));
    let told = "2 of 3 images and 2 of 3 files are faulty, more than the permitted 10.0 %";
    assert!(error.to_string().contains(told), "{error}");
    assert!(site.ledger().contains("export it again"));
    site.options.tolerance = 0.7;
    assert_eq!(site.index().unwrap().faults, 2);
}

#[test]
fn a_refused_sources_frames_do_not_stay_and_the_others_do() {
    let mut site = Site::new();
    site.write("good/1", &Image { series: 2, patient: "PATIENT-2", ..Image::new() });
    site.write("bad/1", &Image::new());
    let cut = Image { series: 3, ..Image::new() }.bytes();
    fs::write(site.images().join("bad/2.dcm"), &cut[..cut.len() - 50]).unwrap();
    let source = |site: &Site, name: &str| index(&site.images().join(name), &site.options, &mut |_| {});
    assert_eq!(source(&site, "good").unwrap().cache_frames, 1);
    let error = source(&site, "bad").unwrap_err();
    let IntakeError::TooManyFaults { report, .. } = &error else { panic!("{error}") };
    assert_eq!((report.frames, report.cache_frames), (1, 1));
    assert_eq!(site.cache().frame_count(), 1);
    site.options.tolerance = 0.5;
    assert_eq!(source(&site, "bad").unwrap().cache_frames, 2);
    assert_eq!(site.cache().subjects().len(), 2);
}

#[test]
fn lost_archives_count_as_the_files_they_are_beside_one_of_many_frames() {
    let site = Site::new();
    site.write("many", &Image { frames: 1000, pixels: Image::new().pixels.repeat(1000), ..Image::new() });
    site.write("one", &Image { series: 2, ..Image::new() });
    let whole = site.images().join("1.zip");
    archive(&whole, &[("a.dcm", Image { series: 3, ..Image::new() }.bytes())]);
    let bytes = fs::read(&whole).unwrap();
    fs::write(&whole, &bytes[..bytes.len() - 30]).unwrap();
    fs::write(site.images().join("2.zip"), "").unwrap();
    let error = site.index().unwrap_err();
    assert!(error.to_string().contains("2 of 1003 images and 2 of 4 files are faulty"), "{error}");
}

#[test]
fn the_ledger_holds_the_lines_of_every_source() {
    let site = Site::new();
    for (number, name) in (1..).zip(["a", "b"]) {
        site.write(&format!("{name}/good"), &Image { series: number, ..Image::new() });
        site.write(
            &format!("{name}/{name}.ct"),
            &Image { modality: "CT", class: uids::CT_IMAGE_STORAGE, ..Image::new() },
        );
    }
    let source = |name: &str| index(&site.images().join(name), &site.options, &mut |_| {}).unwrap();
    assert_eq!((source("a").cache_frames, source("b").cache_frames, source("a").cache_frames), (1, 2, 2));
    let mut files: Vec<String> = site.ledger().lines().map(|line| line.split('"').nth(7).unwrap().to_owned()).collect();
    files.sort();
    assert_eq!(files, ["a.ct", "b.ct"]);
    fs::remove_file(site.images().join("a/a.ct")).unwrap();
    source("a");
    assert!(site.ledger().contains("b.ct") && !site.ledger().contains("a.ct"));
}

#[test]
fn the_ledger_names_the_entry_whose_pixels_cannot_be_read() {
    let mut site = Site::new();
    site.options.tolerance = 1.0;
    site.options.limits.series_bytes = 0;
    archive(&site.images().join("x.zip"), &[("deep/a.dcm", Image::new().bytes())]);
    assert!(matches!(site.index(), Err(IntakeError::NoImages { .. })));
    assert!(site.ledger().contains(r#""entry":"deep/a.dcm""#), "{}", site.ledger());
}

#[test]
fn nothing_that_names_a_patient_gets_into_the_cache_or_the_report() {
    let site = Site::new();
    let image = Image { patient: "CANARY-ID", description: "Cine SAX CANARY^DESCRIPTION".into(), ..Image::new() };
    let image = image.with(tags::INSTITUTION_NAME, VR::LO, "CANARY HOSPITAL").with(
        tags::IMAGE_COMMENTS,
        VR::LT,
        "CANARY comment",
    );
    site.write("a.dcm", &image);
    let report = site.index().unwrap();
    assert!(!report.to_string().contains("CANARY"));
    let mut folders = vec![site.options.cache.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = fs::read(&path).unwrap();
            for secret in ["CANARY", "19450508", "1.2.826.0.1.3680043"] {
                let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                assert!(!found, "{} holds {secret}", path.display());
            }
        }
    }
}

#[test]
fn a_report_reads_as_a_table_and_as_json() {
    let site = Site::new();
    site.write_all("one", &short_axis_cine(&Image::new(), 3, 2));
    site.write("ct.dcm", &Image { modality: "CT", class: uids::CT_IMAGE_STORAGE, series: 5, ..Image::new() });
    let report = site.index().unwrap();
    let table = report.to_string();
    assert!(table.contains("cine      SAX              1         1         6"), "{table}");
    assert!(table.contains("not-mr                     1  nothing: only MR images are used"), "{table}");
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<IntakeReport>(&json).unwrap(), report);
}

#[test]
fn two_indexers_do_not_write_one_cache() {
    let site = Site::new();
    site.write("1", &Image::new());
    let mut busy = None;
    index(&site.images(), &site.options, &mut |_| {
        busy = Some(site.index());
    })
    .unwrap();
    assert!(matches!(busy, Some(Err(IntakeError::Cache(CacheError::Busy { .. })))));
}

#[test]
fn a_cache_of_another_version_says_so_and_indexing_makes_it_again() {
    let site = Site::new();
    site.write_all("a", &short_axis_cine(&Image::new(), 3, 4));
    site.index().unwrap();
    let frames =
        |cache: &FrameCache| cache.frames().map(|frame| cache.pixels(frame).unwrap().to_vec()).collect::<Vec<_>>();
    let before = frames(&site.cache());
    let logs = [site.options.cache.join("headers.log"), series_log(&site.options.cache)];
    for log in &logs {
        let mut bytes = fs::read(log).unwrap();
        // u32 length, magic, name, then the version; of every record.
        let mut at = 0;
        while at < bytes.len() {
            bytes[at + 16] -= 1;
            at += 4 + u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize;
        }
        fs::write(log, bytes).unwrap();
    }
    let opened = FrameCache::open(&site.options.cache, &site.options.images);
    let error = opened.err().unwrap();
    assert!(matches!(error, CacheError::OtherVersion { .. }) && error.to_string().contains("index` again"), "{error}");
    let report = site.index().unwrap();
    assert_eq!((report.new_series, report.unchanged_series), (1, 0));
    assert_eq!(frames(&site.cache()), before);
    assert_eq!(site.index().unwrap().unchanged_series, 1);
}

fn series_log(cache: &Path) -> PathBuf {
    let folders = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path());
    folders.filter(|path| path.is_dir()).map(|path| path.join("series.log")).find(|path| path.exists()).unwrap()
}
