//! The maps that are declared, and words of a command line. Whole folders are imported in the stories between programs.

use super::*;
use crate::annotations::Codes;

#[test]
fn every_declared_map_is_one_that_labels_toml_can_hold_and_acdc_swaps_the_ventricles_of_the_others() {
    let told = DataSet::ALL.map(|dataset| {
        let codes = Codes::parse(Path::new(dataset.name()), dataset.codes()).unwrap();
        (codes.told(), codes.whole_classes())
    });
    assert_eq!(told[0].0, "RV = 1, myocardium = 2, LV = 3");
    assert_eq!(told[1].0, "LV = 1, myocardium = 2, RV = 3");
    assert_eq!(told[2].0, told[1].0);
    assert_eq!(told[3].0, "LV = 1, myocardium = 2, scar = 3, no-reflow = 4");
    assert_eq!(told[3].1, ["LV", "myocardium"]);
}

#[test]
fn a_data_set_is_named_as_the_command_line_names_it_and_another_word_is_refused_with_those_there_are() {
    for dataset in DataSet::ALL {
        assert_eq!(dataset.name().parse(), Ok(dataset));
    }
    let error = "ukbb".parse::<DataSet>().unwrap_err();
    assert!(error.contains("\"ukbb\"") && error.contains("acdc, mnms, mnms2, emidec"), "{error}");
}

#[test]
fn the_classes_of_diagnoses_are_those_of_the_tasks() {
    assert_eq!(DataSet::Acdc.class_of("RV"), Some("ARV"));
    assert_eq!(DataSet::Mnms.class_of("LVNC"), None);
    // A dilated left ventricle is no dilated cardiomyopathy without an ejection fraction.
    assert_eq!(DataSet::Mnms2.class_of("LV"), None);
    assert_eq!((DataSet::Emidec.class_of("P"), DataSet::Emidec.class_of("N")), (Some("yes"), Some("no")));
}
