//! A cache of several sources: what of another is kept, what two of them hold, and what is of several patients.

use std::fs;
use std::path::{Path, PathBuf};

use data::{IntakeOptions, IntakeReport, Listed, SkipCount, Split, SubjectKey, index};

use crate::site::Site;
use crate::support::{Image, short_axis_cine};

fn write(folder: &Path, series: u32, patient: &'static str) {
    for (place, image) in short_axis_cine(&Image { series, patient, ..Image::new() }, 2, 3).iter().enumerate() {
        image.write(&folder.join(place.to_string()));
    }
}

/// Reads some folders in their order, as all that there are.
fn read(site: &Site, folders: &[PathBuf]) -> Vec<IntakeReport> {
    let listed = Some(folders.iter().cloned().map(Listed::Dicom).collect());
    let options = IntakeOptions { listed, ..site.options.clone() };
    folders.iter().map(|folder| index(folder, &options, &mut |_| {}).unwrap()).collect()
}

fn folders<const N: usize>(site: &Site, names: [&str; N]) -> [PathBuf; N] {
    names.map(|name| site.folder.path().join(name))
}

fn subjects(site: &Site) -> usize {
    site.cache().subjects().len()
}

#[test]
fn what_is_of_no_listed_source_is_forgotten_before_anything_is_read() {
    let site = Site::new();
    let [wrong, right] = folders(&site, ["wrong", "right"]);
    write(&wrong.join("x"), 1, "SOMEBODY-ELSE");
    write(&right.join("y"), 2, "PATIENT-1");
    // As an intake leaves it that was killed, or a source that was taken off the list.
    index(&wrong, &site.options, &mut |_| {}).unwrap();
    // A copy of it is here as well: that counts as what is here, and not as what the other holds.
    write(&right.join("x"), 1, "SOMEBODY-ELSE");
    let report = &read(&site, std::slice::from_ref(&right))[0];
    assert_eq!((report.cache_frames, subjects(&site)), (12, 2));
    fs::remove_dir_all(right.join("x")).unwrap();
    let report = &read(&site, &[right])[0];
    assert_eq!((report.cache_frames, subjects(&site)), (6, 1));
}

#[test]
fn a_study_that_is_moved_from_one_source_to_another_is_not_lost_whichever_is_read_first() {
    for names in [["archive", "incoming"], ["incoming", "archive"]] {
        let site = Site::new();
        let both = folders(&site, names);
        let [archive, incoming] = folders(&site, ["archive", "incoming"]);
        write(&archive.join("x"), 1, "PATIENT-1");
        write(&incoming.join("y"), 2, "PATIENT-2");
        read(&site, &both);
        fs::rename(incoming.join("y"), archive.join("y")).unwrap();
        write(&incoming.join("z"), 3, "PATIENT-3");
        for _ in 0..2 {
            read(&site, &both);
            assert_eq!((subjects(&site), site.cache().frame_count()), (3, 18), "{names:?}");
        }
    }
}

#[test]
fn what_two_sources_hold_is_there_once_whichever_had_it_first() {
    let site = Site::new();
    let [one, other] = folders(&site, ["one", "other"]);
    write(&one.join("x"), 1, "PATIENT-1");
    write(&other.join("y"), 2, "PATIENT-2");
    let both = [one.clone(), other.clone()];
    read(&site, &both);
    fs::create_dir(one.join("y")).unwrap();
    for file in fs::read_dir(other.join("y")).unwrap() {
        let path = file.unwrap().path();
        // With the file's times, as a copy that keeps them has.
        fs::hard_link(&path, one.join("y").join(path.file_name().unwrap())).unwrap();
    }
    for _ in 0..2 {
        read(&site, &both);
        assert_eq!((subjects(&site), site.cache().frame_count()), (2, 12));
    }
}

#[test]
fn a_series_of_several_patients_is_left_out_by_name() {
    let site = Site::new();
    let cine = short_axis_cine(&Image::new(), 2, 3);
    for (place, image) in cine.into_iter().enumerate() {
        // The number of an emergency, corrected in the middle of the examination.
        let patient = if place < 2 { "UNKNOWN-17" } else { "PATIENT-1" };
        site.write(&place.to_string(), &Image { patient, ..image });
    }
    site.write("z", &Image { series: 2, instance: 1, ..Image::new() });
    let report = site.index().unwrap_err();
    assert!(report.to_string().contains("6 of 7 images"), "{report}");
    assert_eq!(site.ledger().matches("several-patients").count(), 6);
    assert!(site.ledger().contains("PatientID was corrected"), "{}", site.ledger());
}

#[test]
fn images_whose_gray_is_inverted_are_a_part_of_their_own() {
    let site = Site::new();
    for (place, image) in short_axis_cine(&Image::new(), 2, 3).into_iter().enumerate() {
        let photometric = if place == 0 { "MONOCHROME1" } else { "MONOCHROME2" };
        site.write(&place.to_string(), &Image { photometric, ..image });
    }
    let report = site.index().unwrap();
    assert_eq!((report.series, report.frames), (2, 6));
    let cache = site.cache();
    let windows: Vec<bool> = cache.series().iter().map(|series| series.window[0] < series.window[1]).collect();
    assert!(windows.contains(&true) && windows.contains(&false), "{windows:?}");
    let skipped: Vec<SkipCount> = report.skipped;
    assert!(skipped.is_empty());
}

#[test]
fn who_shows_the_very_pixels_of_somebody_held_out_is_not_trained_on() {
    const PATIENTS: [&str; 6] = ["A", "B", "C", "D", "E", "F"];
    const AGAIN: [&str; 6] = ["A2", "B2", "C2", "D2", "E2", "F2"];
    let site = Site::new();
    for (place, (patient, again)) in PATIENTS.into_iter().zip(AGAIN).enumerate() {
        let (series, marker) = (2 * place as u32 + 1, 100 * place as u16 + 7);
        for (series, patient) in [(series, patient), (series + 1, again)] {
            site.write(patient, &Image { series, patient, ..Image::new() }.marked(marker));
        }
    }
    site.index().unwrap();
    let cache = site.cache();
    let twin = |subject: &SubjectKey| {
        let of =
            |subject: &SubjectKey| cache.series().iter().find(|series| series.subject == *subject).unwrap().pixels();
        *cache.subjects().iter().find(|other| *other != subject && of(other) == of(subject)).unwrap()
    };
    let (plain, split) = (Split::new(&cache.subjects(), 0.4), Split::of(&cache, 0.4));
    assert_eq!(split.held_out(), plain.held_out());
    assert!(!split.training().is_empty() && split.training().len() < plain.training().len());
    assert!(split.training().iter().all(|subject| split.training().contains(&twin(subject))));
}
