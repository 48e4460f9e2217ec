//! The metrics against MONAI, scikit-learn, SciPy and NumPy: cases and answers are in `oracle.json`.

use std::cell::RefCell;

use serde_json::Value;

use super::agreement::Pairs;
use super::classification::{Confusion, Roc, auc_one_vs_rest};
use super::distance::Distances;
use super::surface::{Hausdorff, hausdorff_95};
use super::{bootstrap, cardiac, overlap};

/// How far an answer may be off, of its own size or of 1 if that is more.
const TOLERANCE: f64 = 1e-6;

fn cases(of: &str) -> Vec<Value> {
    let mut all: Value = serde_json::from_str(include_str!("oracle.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_value(all[of].take()).unwrap();
    assert!(cases.len() >= 10, "{of}");
    cases
}

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn assert_near(found: Option<f64>, expected: &Value, what: &str) {
    match (found, expected.as_f64()) {
        (Some(a), Some(b)) => assert!((a - b).abs() <= TOLERANCE * b.abs().max(1.0), "{what}: {a}, expected {b}"),
        (found, expected) => assert_eq!(found, expected, "{what}"),
    }
}

fn assert_all_near(found: impl IntoIterator<Item = Option<f64>>, expected: &Value, what: &str) {
    let found: Vec<_> = found.into_iter().collect();
    assert_eq!(found.len(), expected.as_array().unwrap().len(), "{what}");
    found.iter().zip(expected.as_array().unwrap()).for_each(|(found, expected)| assert_near(*found, expected, what));
}

#[test]
fn dice_and_hd95_are_those_of_monai() {
    for case in cases("masks") {
        let map = |name: &str| -> Vec<u8> { case[name].as_str().unwrap().bytes().map(|digit| digit - b'0').collect() };
        let (truth, found) = (map("truth"), map("found"));
        let dice = overlap::dice(&truth, &found, 4).unwrap();
        assert_all_near(dice.iter().copied(), &case["dice"], "dice");
        for class in 0..4_u8 {
            let [truth, found] =
                [&truth, &found].map(|map| map.iter().map(|label| *label == class).collect::<Vec<_>>());
            let hd = hausdorff_95(&truth, &found, read(&case["dims"]), read(&case["spacing_mm"])).unwrap();
            assert_near(hd.mm(), &case["hd95_scipy"][usize::from(class)], "HD95 of SciPy");
            assert_near(hd.mm(), &case["hd95_monai"][usize::from(class)], "HD95 of MONAI");
            assert_eq!(hd == Hausdorff::BothEmpty, dice[usize::from(class)].is_none());
        }
    }
}

#[test]
fn classification_is_that_of_scikit_learn() {
    for case in cases("classification") {
        let classes: usize = read(&case["classes"]);
        let truth: Vec<usize> = read(&case["truth"]);
        let confusion = Confusion::new(&truth, &read::<Vec<usize>>(&case["found"]), classes).unwrap();
        assert_eq!(confusion.counts(), read::<Vec<Vec<u64>>>(&case["confusion"]));
        assert_near(confusion.accuracy(), &case["accuracy"], "accuracy");
        assert_near(confusion.balanced_accuracy(), &case["balanced_accuracy"], "balanced accuracy");
        assert_near(confusion.f1_macro(), &case["f1_macro"], "F1");
        assert_near(confusion.matthews(), &case["matthews"], "MCC");
        assert_all_near((0..classes).map(|class| confusion.sensitivity(class)), &case["sensitivity"], "sensitivity");
        assert_all_near((0..classes).map(|class| confusion.specificity(class)), &case["specificity"], "specificity");
        let auc = auc_one_vs_rest(&truth, &read::<Vec<f64>>(&case["scores"]), classes).unwrap();
        assert_near(auc, &case["auc_one_vs_rest"], "AUC, one against the rest");
    }
}

#[test]
fn the_roc_curve_is_that_of_scikit_learn_and_its_area_that_of_mann_and_whitney() {
    for case in cases("roc") {
        let roc = Roc::new(&read::<Vec<bool>>(&case["truth"]), &read::<Vec<f64>>(&case["scores"])).unwrap();
        assert_near(roc.auc(), &case["auc"], "AUC");
        assert_near(roc.auc(), &case["mann_whitney"], "U");
        let points = roc.points().unwrap();
        assert_eq!(points[0].threshold, f64::INFINITY);
        assert_all_near(points[1..].iter().map(|point| Some(point.threshold)), &case["thresholds"], "threshold");
        assert_all_near(points.iter().map(|point| Some(point.false_positive_rate)), &case["fpr"], "FPR");
        assert_all_near(points.iter().map(|point| Some(point.true_positive_rate)), &case["tpr"], "TPR");
    }
}

#[test]
fn agreement_is_that_of_numpy_and_scipy() {
    for case in cases("agreement") {
        let pairs = Pairs::new(&read::<Vec<f64>>(&case["truth"]), &read::<Vec<f64>>(&case["found"])).unwrap();
        assert_near(pairs.bias(), &case["bias"], "bias");
        assert_near(pairs.deviation(), &case["deviation"], "deviation");
        assert_all_near(pairs.limits().unwrap().map(Some), &case["limits"], "limits");
        assert_near(pairs.mean_absolute_error(), &case["mean_absolute_error"], "mean absolute error");
        assert_near(pairs.pearson(), &case["pearson"], "Pearson");
        assert_near(pairs.coefficient_of_variation(), &case["coefficient_of_variation"], "coefficient of variation");
    }
}

#[test]
fn landmark_distances_are_those_of_numpy() {
    for case in cases("landmarks") {
        let points = |name: &str| -> Vec<[f64; 3]> { read(&case[name]) };
        let distances = Distances::new(&points("truth"), &points("found"), read(&case["spacing_mm"])).unwrap();
        assert_all_near(distances.mm().iter().copied().map(Some), &case["mm"], "mm");
        assert_near(distances.mean_mm(), &case["mean"], "mean");
        assert_near(distances.median_mm(), &case["median"], "median");
        assert_near(distances.fraction_near(), &case["near"], "near");
    }
}

#[test]
fn cardiac_measures_are_those_of_numpy() {
    for case in cases("cardiac") {
        let [diastole, systole, myocardium, scar]: [usize; 4] = read(&case["voxels"]);
        let ml = |voxels| cardiac::volume_ml(voxels, read(&case["voxel_mm3"]));
        assert_all_near([ml(diastole), ml(systole)].map(Some), &case["ml"], "mL");
        let fraction = cardiac::ejection_fraction_percent(ml(diastole), ml(systole));
        assert_near(fraction, &case["ejection_fraction"], "ejection fraction");
        assert_near(Some(cardiac::myocardial_mass_g(ml(myocardium))), &case["mass_g"], "mass");
        assert_near(cardiac::scar_percent(scar, myocardium), &case["scar_percent"], "scar");
        let mean = cardiac::mean_under_mask(&read::<Vec<f32>>(&case["map"]), &read::<Vec<bool>>(&case["mask"]));
        assert_near(mean.unwrap(), &case["map_mean"], "map");
    }
}

#[test]
fn the_bootstrap_draws_and_answers_as_its_replay_in_numpy() {
    for case in cases("bootstrap") {
        let subjects: Vec<Vec<f64>> = read(&case["subjects"]);
        let rounds: Vec<Vec<usize>> = read(&case["drawn"]);
        let drawn = RefCell::new(Vec::new());
        let interval = bootstrap::interval(subjects.len(), read(&case["seed"]), rounds.len(), |groups| {
            drawn.borrow_mut().push(groups.to_vec());
            super::mean(groups.iter().flat_map(|group| subjects[*group].iter().copied()))
        });
        assert_eq!(drawn.into_inner(), rounds);
        assert_all_near(interval.unwrap().map(Some), &case["interval"], "interval");
    }
}
