//! Hostile files stay outside: what a worker process refuses, and what it dies of, costs one file.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::support::{Image, archive, short_axis_cine};
use common::plan::ImagePlan;
use data::{FrameCache, IntakeError, IntakeOptions, IntakeReport, SiteSecret, Workers, index};

struct Site {
    folder: tempfile::TempDir,
    options: IntakeOptions,
}

impl Site {
    fn with(workers: Workers) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let images = ImagePlan { frame_size: 16, ..ImagePlan::default() };
        let cache = folder.path().join("cache");
        let mut options = IntakeOptions::new(cache, images, SiteSecret::new([7; 32]), workers);
        options.tolerance = 1.0;
        fs::create_dir(folder.path().join("images")).unwrap();
        Self { folder, options }
    }

    /// Two worker processes.
    fn new() -> Self {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_intake-worker"));
        Self::with(Workers::Processes { program, args: Vec::new(), count: 2 })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("images").join(name)
    }

    fn index(&self) -> Result<IntakeReport, IntakeError> {
        index(&self.path(""), &self.options, &mut |_| {})
    }

    fn skipped(&self) -> Vec<(String, u64)> {
        let report = self.index().unwrap();
        report.skipped.into_iter().map(|skip| (skip.reason, skip.count)).collect()
    }
}

fn skip(reason: &str, count: u64) -> (String, u64) {
    (reason.to_owned(), count)
}

/// A run-length encoded image whose fragment claims 2^32 - 1 segments: the decoder asks for 16 GiB at once.
fn greedy() -> Vec<u8> {
    let image = Image { syntax: "1.2.840.10008.1.2.1", series: 50, ..Image::new() };
    let bytes = image.bytes();
    let syntax = bytes.windows(19).position(|window| window == b"1.2.840.10008.1.2.1").unwrap();
    let pixels = bytes.windows(6).position(|window| window == b"\xe0\x7f\x10\0OW").unwrap();
    let mut file = bytes[..pixels].to_vec();
    file[syntax + 18] = b'\0'; // 1.2.840.10008.1.2.
    file[syntax..syntax + 20].copy_from_slice(b"1.2.840.10008.1.2.5\0");
    file.extend_from_slice(b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\0\0\0\0\xfe\xff\0\xe0\x40\0\0\0");
    file.extend_from_slice(&[0xff; 4]);
    file.resize(file.len() + 60, 0);
    file.extend_from_slice(b"\xfe\xff\xdd\xe0\0\0\0\0");
    file
}

#[test]
fn two_workers_find_what_this_process_finds() {
    let (outside, inside) = (Site::new(), Site::with(Workers::InProcess));
    for site in [&outside, &inside] {
        for (place, image) in short_axis_cine(&Image::new(), 3, 4).iter().enumerate() {
            image.write(&site.path(&format!("a/{place}.dcm")));
        }
        let member = Image { series: 2, description: "CINE_segmented_LAX_4Ch".into(), ..Image::new() };
        archive(&site.path("7_20208_2_0.zip"), &[("a.dcm", member.bytes())]);
    }
    let (one, two) = (outside.index().unwrap(), inside.index().unwrap());
    assert_eq!(one, two);
    let open = |site: &Site| FrameCache::open(&site.options.cache, &site.options.images).unwrap();
    let (one, two) = (open(&outside), open(&inside));
    let frames =
        |cache: &FrameCache| cache.frames().map(|frame| cache.pixels(frame).unwrap().to_vec()).collect::<Vec<_>>();
    assert_eq!(frames(&one), frames(&two));
}

#[test]
fn a_file_that_kills_its_parser_costs_only_itself() {
    let site = Site::new();
    for (place, image) in short_axis_cine(&Image::new(), 3, 2).iter().enumerate() {
        image.write(&site.path(&format!("good/{place}")));
    }
    for name in ["a-greedy.dcm", "z-greedy.dcm"] {
        fs::write(site.path(name), greedy()).unwrap();
    }
    let report = site.index().unwrap();
    assert_eq!(report.frames, 6);
    let counts: Vec<_> = report.skipped.iter().map(|skip| (skip.reason.as_str(), skip.count)).collect();
    // One of the two is a copy of the other.
    assert_eq!(counts, [("duplicate", 1), ("parser-crashed", 1)]);
    assert_eq!(site.index().unwrap().frames, 6, "and again");
}

#[test]
fn a_file_that_claims_4_gib_is_refused_by_name() {
    let site = Site::new();
    Image::new().write(&site.path("good"));
    let mut bytes = Image { series: 2, ..Image::new() }.bytes();
    bytes.resize(10_000, 0);
    let place = bytes.windows(6).position(|window| window == b"\xe0\x7f\x10\0OW").unwrap();
    bytes[place + 8..place + 12].copy_from_slice(&0xffff_fffe_u32.to_le_bytes());
    fs::write(site.path("bomb.dcm"), bytes).unwrap();
    assert_eq!(site.skipped(), [skip("truncated", 1)]);
    let ledger = fs::read_to_string(site.options.cache.join("skipped.jsonl")).unwrap();
    assert!(ledger.contains("bomb.dcm") && ledger.contains("claims 4294967294 bytes"), "{ledger}");
}

#[test]
fn an_archive_with_a_path_that_leaves_it_is_refused_as_a_whole_and_writes_nothing() {
    let site = Site::new();
    Image::new().write(&site.path("good"));
    let bytes = Image { series: 2, ..Image::new() }.bytes();
    archive(&site.path("slip.zip"), &[("fine.dcm", bytes.clone()), ("../../escaped.dcm", bytes.clone())]);
    archive(&site.path("root.zip"), &[("/tmp/escaped.dcm", bytes)]);
    assert_eq!(site.skipped(), [skip("escaping-path", 2)]);
    assert!(!site.folder.path().join("escaped.dcm").exists() && !Path::new("/tmp/escaped.dcm").exists());
}

#[test]
fn a_link_in_an_archive_and_a_link_in_a_folder_are_not_followed() {
    let site = Site::new();
    Image::new().write(&site.path("good"));
    let mut writer = zip::ZipWriter::new(fs::File::create(site.path("link.zip")).unwrap());
    writer.add_symlink("a.dcm", "/etc/passwd", zip::write::SimpleFileOptions::default()).unwrap();
    writer.finish().unwrap();
    let elsewhere = site.folder.path().join("elsewhere");
    Image { series: 9, ..Image::new() }.write(&elsewhere.join("a.dcm"));
    std::os::unix::fs::symlink(&elsewhere, site.path("linked")).unwrap();
    let report = site.index().unwrap();
    assert_eq!(report.frames, 1);
    let counts: Vec<_> = report.skipped.iter().map(|skip| (skip.reason.as_str(), skip.count)).collect();
    assert_eq!(counts, [("archived-link", 1), ("symbolic-link", 1)]);
}

#[test]
fn an_entry_that_expands_a_hundredfold_is_refused_and_the_others_are_read() {
    let site = Site::new();
    let good = Image::new().bytes();
    archive(&site.path("bomb.zip"), &[("bomb.dcm", vec![0; 32 << 20]), ("good.dcm", good)]);
    assert_eq!(site.index().unwrap().frames, 1);
    assert_eq!(site.skipped(), [skip("expansion", 1)]);
}

#[test]
fn an_archive_within_an_archive_is_a_fault_with_a_remedy() {
    let site = Site::new();
    archive(&site.path("inner.zip"), &[("b.dcm", Image { series: 2, ..Image::new() }.bytes())]);
    let inner = fs::read(site.path("inner.zip")).unwrap();
    fs::remove_file(site.path("inner.zip")).unwrap();
    let beside = ("__MACOSX/._inner.zip", vec![0, 5, 22, 7]);
    archive(&site.path("outer.zip"), &[("a.dcm", Image::new().bytes()), ("inner.zip", inner), beside]);
    let report = site.index().unwrap();
    assert_eq!((report.images, report.faults), (1, 1));
    let ledger = fs::read_to_string(site.options.cache.join("skipped.jsonl")).unwrap();
    assert!(ledger.contains("archived-archive") && ledger.contains("unpack the outer archive"), "{ledger}");
}

#[test]
fn a_worker_that_may_use_less_than_its_limits_permit_keeps_to_that() {
    let worker = format!("ulimit -v 1000000; exec {}", env!("CARGO_BIN_EXE_intake-worker"));
    let args = vec!["-c".into(), worker.into()];
    let mut site = Site::with(Workers::Processes { program: "/bin/sh".into(), args, count: 1 });
    site.options.limits.worker_memory = 2 << 30;
    Image::new().write(&site.path("a"));
    assert_eq!(site.index().unwrap().frames, 1);
}

#[test]
fn an_archive_that_is_cut_short_is_named() {
    let site = Site::new();
    Image::new().write(&site.path("good"));
    archive(&site.path("cut.zip"), &[("a.dcm", Image { series: 2, ..Image::new() }.bytes())]);
    let whole = fs::read(site.path("cut.zip")).unwrap();
    fs::write(site.path("cut.zip"), &whole[..whole.len() - 30]).unwrap();
    assert_eq!(site.skipped(), [skip("damaged-archive", 1)]);
}

#[test]
fn limits_hold_for_files_archives_and_images() {
    let mut site = Site::new();
    Image::new().write(&site.path("good"));
    fs::write(site.path("large.dcm"), vec![0; 50_000]).unwrap();
    let entries: Vec<(String, Vec<u8>)> = (0..30).map(|i| (format!("{i}.dcm"), vec![b'x'; 1000])).collect();
    let listed: Vec<(&str, Vec<u8>)> = entries.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    archive(&site.path("many.zip"), &listed);
    site.options.limits.file_bytes = 40_000;
    site.options.limits.archive_bytes = 20_000;
    assert_eq!(site.skipped(), [skip("too-large", 2)]);
    // With room for both they are looked at again, although they have not changed.
    site.options.limits.file_bytes = 400_000;
    site.options.limits.archive_bytes = 400_000;
    assert_eq!(site.skipped(), [skip("damaged", 31)]);
}

#[test]
fn an_archive_of_more_frames_than_are_permitted_is_left_out_and_the_others_are_read() {
    let mut site = Site::new();
    Image::new().write(&site.path("good"));
    let many = Image { frames: 4, pixels: Image::new().pixels.repeat(4), ..Image::new() };
    let entry = |series: u32| Image { series, ..many.clone() }.bytes();
    archive(&site.path("many.zip"), &[("a.dcm", entry(2)), ("b.dcm", entry(3)), ("c.dcm", entry(4))]);
    site.options.limits.archive_frames = 11;
    assert_eq!(site.index().unwrap().frames, 1);
    assert_eq!(site.skipped(), [skip("too-many-frames", 1)]);
    site.options.limits.archive_frames = 12;
    assert_eq!(site.index().unwrap().frames, 13);
}

#[test]
fn a_worker_that_cannot_start_is_named_with_the_remedy() {
    let program = PathBuf::from("/no/such/worker");
    let site = Site::with(Workers::Processes { program, args: Vec::new(), count: 2 });
    Image::new().write(&site.path("good"));
    let error = site.index().unwrap_err();
    assert!(error.to_string().contains("/no/such/worker cannot be started"), "{error}");
}

#[test]
fn a_worker_that_does_not_begin_is_named_and_no_file_is_blamed() {
    let site = Site::with(Workers::Processes { program: "/bin/true".into(), args: Vec::new(), count: 2 });
    Image::new().write(&site.path("good"));
    let error = site.index().unwrap_err();
    assert!(error.to_string().contains("/bin/true cannot be started: it ended before it could be asked"), "{error}");
}

#[test]
fn a_worker_that_talks_nonsense_or_says_nothing_is_replaced_and_the_file_left_out() {
    // It begins as one does, and goes on as it likes.
    let begun = r#"printf 'CMRw\000\000\000\000\007\000\000\000\000\000\000\000"Begun"'"#;
    for (then, reason) in [("cat", "parser-crashed"), ("sleep 60", "parser-limit")] {
        let args = vec!["-c".into(), format!("{begun}; exec {then}").into()];
        let mut site = Site::with(Workers::Processes { program: "/bin/sh".into(), args, count: 1 });
        site.options.limits.request_s = if reason == "parser-limit" { 0 } else { 30 };
        Image::new().write(&site.path("a"));
        let error = site.index().unwrap_err();
        assert!(error.to_string().contains(&format!("1 {reason}")), "{error}");
    }
}

#[test]
fn a_worker_that_says_nothing_keeps_no_intake_that_is_to_stop_and_its_file_is_not_blamed() {
    let workers = Workers::Processes { program: "/bin/sleep".into(), args: vec!["60".into()], count: 2 };
    let mut site = Site::with(workers);
    Image::new().write(&site.path("a"));
    site.options.stopped.store(true, Ordering::SeqCst);
    let began = Instant::now();
    assert!(matches!(site.index(), Err(IntakeError::Stopped)));
    assert!(began.elapsed() < Duration::from_secs(10), "one request may take {} s", site.options.limits.request_s);
    site.options.stopped.store(false, Ordering::SeqCst);
    site.options.workers = Workers::InProcess;
    assert_eq!(site.index().unwrap().frames, 1);
}

#[test]
fn an_unreadable_file_is_left_out_and_read_once_it_can_be() {
    let site = Site::new();
    Image::new().write(&site.path("good"));
    let folder = site.path("gone");
    // A file that is gone between the walk and the reading cannot be made in a test; a broken link is as unreadable.
    std::os::unix::fs::symlink("/no/such/file", &folder).unwrap();
    assert_eq!(site.skipped(), [skip("symbolic-link", 1)]);
    fs::remove_file(&folder).unwrap();
    Image { series: 2, ..Image::new() }.write(&site.path("gone"));
    assert_eq!(site.index().unwrap().frames, 2);
}

#[test]
fn what_macos_leaves_beside_each_image_is_no_image_and_no_fault() {
    let mut site = Site::new();
    site.options.tolerance = 0.1;
    for (place, image) in short_axis_cine(&Image::new(), 1, 3).iter().enumerate() {
        image.write(&site.path(&format!("IM{place}.dcm")));
        fs::write(site.path(&format!("._IM{place}.dcm")), [0, 5, 22, 7]).unwrap();
    }
    fs::write(site.path("._export.zip"), [0, 5, 22, 7]).unwrap();
    let beside = ("__MACOSX/._IM9.dcm", vec![0, 5, 22, 7]);
    archive(&site.path("export.zip"), &[("IM9.dcm", Image { series: 9, ..Image::new() }.bytes()), beside]);
    let report = site.index().unwrap();
    assert_eq!((report.images, report.faults), (4, 0));
}
