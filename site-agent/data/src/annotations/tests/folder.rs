//! A folder of labels as a whole: its tables, its classes, where its masks lie.

use super::*;

#[test]
fn classes_are_places_in_the_list_and_empty_cells_say_nothing() {
    let site = Site::new();
    site.text("classes.csv", "disease,subject,note\nHCM,PATIENT-1,a\n,PATIENT-2,b\n");
    let labels = Labels::open(&site.labels(), &secret()).unwrap();
    let classes = labels.classes("disease", &names(&["NOR", "HCM"])).unwrap();
    assert_eq!(classes, BTreeMap::from([(SubjectKey::of(&secret(), "PATIENT-1"), 1)]));
    let error = labels.classes("disease", &names(&["NOR"])).unwrap_err();
    assert!(error.to_string().contains("line 2") && error.to_string().contains("none of NOR"), "{error}");
    assert!(matches!(labels.classes("age", &[]), Err(LabelError::NoColumn { .. })));
    assert!(matches!(labels.masks(&site.cache, |_| true, &[]), Err(LabelError::NoTable { .. })));
    labels.check(&site.cache).unwrap();
    site.text("classes.csv", "subject,disease\nPATIENT-1,HCM\nPATIENT-7,\n");
    let error = Labels::open(&site.labels(), &secret()).unwrap().check(&site.cache).unwrap_err();
    assert!(matches!(&error, LabelError::UnknownSubject { at } if at.line == 3), "{error}");
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(Labels::open(empty.path(), &secret()), Err(LabelError::NoTables { .. })));
}

#[test]
fn a_subject_is_called_as_any_of_the_tables_calls_it() {
    let site = Site::new();
    site.text("classes.csv", "disease,subject\nHCM,PATIENT-1\n");
    site.text("landmarks.csv", "subject,series,phase,landmark,x_mm,y_mm,z_mm\n\"PATIENT, 2\",1.2,0,apex,0,0,0\n");
    let called = Labels::open(&site.labels(), &secret()).unwrap().identifiers(&secret()).unwrap();
    let pair = |identifier: &str| (SubjectKey::of(&secret(), identifier), identifier.to_owned());
    assert_eq!(called, BTreeMap::from([pair("PATIENT-1"), pair("PATIENT, 2")]));
}

#[test]
fn a_folder_of_labels_is_checked_whole() {
    let site = Site::new();
    site.volume(
        "m.nii.gz",
        [1, 1, 1],
        slice_affine(&Placement::new(ORIGIN, SHORT_AXIS).unwrap(), SPACING, 1.0),
        vec![0],
    );
    let check = |rows: &str| {
        site.text("masks.csv", &format!("subject,series,phase,file\n{rows}\n"));
        Labels::open(&site.labels(), &secret()).unwrap().check(&site.cache)
    };
    check(&row("0", "m.nii.gz")).unwrap();
    let error = check(&row("0", "n.nii.gz")).unwrap_err();
    assert!(matches!(&error, LabelError::Mask { at, .. } if at.line == 2), "{error}");
    assert!(matches!(check(&format!("PATIENT-1,{},0,m.nii.gz", uid(8))), Err(LabelError::UnknownSeries { .. })));
}

#[test]
fn masks_may_lie_in_another_folder_that_labels_toml_names() {
    let site = Site::new();
    let (_, record) = site.record(1);
    let elsewhere = tempfile::tempdir().unwrap();
    let values = Volume { dims: [COLUMNS, ROWS, SLICES, 1], affine: stack_affine(record).unwrap(), values: drawn() };
    write_nifti(&elsewhere.path().join("m.nii.gz"), &values).unwrap();
    let error = site.rows(&row("0", "m.nii.gz")).unwrap_err();
    assert!(matches!(error, LabelError::Mask { source: NiftiError::Disk { .. }, .. }), "{error}");
    let text = fs::read_to_string(site.labels().join("labels.toml")).unwrap();
    site.text("labels.toml", &format!("masks = {:?}\n{text}", elsewhere.path()));
    assert_eq!(site.rows(&row("0", "m.nii.gz")).unwrap()[0].slices, expected());
    assert!(Labels::open(&site.labels(), &secret()).unwrap().check(&site.cache).is_ok());
}

#[test]
fn a_series_that_says_nothing_of_its_place_takes_no_label() {
    let image = Image { position: [f64::from(1 << 20), 0.0, 0.0], spacing: Some(SPACING), ..Image::new() };
    let site = Site::of(&[image], 24);
    let placement = Placement::new(ORIGIN, SHORT_AXIS).unwrap();
    site.volume("m.nii.gz", [COLUMNS, ROWS, 1], slice_affine(&placement, SPACING, 8.0), vec![1; ROWS * COLUMNS]);
    assert!(matches!(site.rows(&row("", "m.nii.gz")), Err(LabelError::NotPlaced { .. })));
    let line = |name: &str| format!("PATIENT-1,{},,{name},0,0,0", uid(1));
    let placed = site.landmarks(&format!("{}\n{}", line("apex"), line("insertion")));
    assert!(matches!(placed, Err(LabelError::NotPlaced { .. })));
}
