//! What is measured of a task at one hospital, where the right answer is known: the readers' own masks, and marks moved aside.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use common::Task;
use common::plan::ImagePlan;
use common::task::Metric;
use data::{FrameCache, FrameGrid, FrameRef, IntakeOptions, Labels, SiteSecret, Workers};
use site_agent::tasks::{Answer, Example, Examples, Measured, Said, built_in, measure};
use tests::phantom::{self, SiteSpec, SiteTruth};

/// The site's secret.
const SECRET: [u8; 32] = [7; 32];

fn task(name: &str) -> Task {
    built_in().into_iter().find(|task| task.name.as_str() == name).unwrap()
}

/// Fine enough images for volumes: three patients, indexed in this process.
struct Fine {
    _folder: tempfile::TempDir,
    truth: SiteTruth,
    cache: FrameCache,
    labels: Labels,
}

impl Fine {
    fn with(spec: &SiteSpec) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let truth = phantom::write_site(spec, 5, folder.path(), &|_| {}).unwrap();
        let (secret, images, cache) = (SiteSecret::new(SECRET), ImagePlan::default(), folder.path().join("cache"));
        let options = IntakeOptions::new(cache.clone(), images.clone(), secret.clone(), Workers::InProcess);
        data::index(&phantom::dicom_folder(folder.path()), &options, &mut |_| {}).unwrap();
        let cache = FrameCache::open(&cache, &images).unwrap();
        let labels = Labels::open(&phantom::labels_folder(folder.path()), &secret).unwrap();
        Self { _folder: folder, truth, cache, labels }
    }

    /// What is measured of a network that says `say` of each example.
    fn measured(&self, task: &Task, say: impl Fn(&Examples, &Example) -> Said) -> Measured {
        let examples = Examples::of(task, &self.cache, Some(&self.labels)).unwrap();
        let asked: Vec<&Example> = examples.all.iter().collect();
        let said: Vec<Said> = asked.iter().map(|example| say(&examples, example)).collect();
        measure(task, &self.cache, &examples, &asked, &said, Some(1)).unwrap()
    }

    /// The mask of an example's slice as the reader drew it, moved to the right by so many pixels.
    fn drawn(&self, examples: &Examples, example: &Example, right: usize) -> Said {
        let FrameRef { series, slice, phase } = example.frames[0];
        let own = examples.masks.iter().find(|mask| (mask.series, mask.phase) == (series, phase)).unwrap();
        let (pixels, columns) =
            (own.slices[slice as usize].as_ref().unwrap(), self.cache.series()[series as usize].matrix[1]);
        let mut moved = vec![0; pixels.len()];
        let columns = columns as usize;
        for (place, class) in pixels.iter().enumerate().filter(|(place, _)| place % columns + right < columns) {
            moved[place + right] = *class;
        }
        Said::Pixels(moved)
    }
}

/// A metric of the whole task or of a part.
fn value(measured: &Measured, metric: Metric, of: Option<&str>) -> f64 {
    let found = measured.values.iter().find(|value| value.metric == metric && value.of.as_deref() == of);
    found.unwrap_or_else(|| panic!("{metric} of {of:?}: {measured}")).value
}

#[test]
fn the_readers_own_masks_have_a_dice_of_one_and_the_volumes_of_the_heart() {
    let site = Fine::with(&SiteSpec::a(3));
    let task = task("cine-sax-segmentation");
    let own = site.measured(&task, |examples, example| site.drawn(examples, example, 0));
    for structure in [None, Some("LV"), Some("myocardium"), Some("RV")] {
        assert_eq!(value(&own, Metric::Dice, structure), 1.0);
        assert_eq!(value(&own, Metric::Hd95, structure), 0.0);
    }
    assert!(own.agreements.iter().all(|agreement| agreement.pairs.iter().all(|[truth, found]| truth == found)));
    let pairs = |measured: &Measured, quantity: &str| {
        let of = measured.agreements.iter().find(|agreement| agreement.quantity == quantity);
        let mut pairs = of.unwrap_or_else(|| panic!("{quantity}: {measured}")).pairs.clone();
        pairs.sort_by(|a, b| a[0].total_cmp(&b[0]));
        pairs
    };
    // Pseudonyms have another order than patients: by size. The bounds are what half a slice, and pixels that the border
    // cuts, come to on this grid.
    let sorted = |of: fn(&tests::phantom::SubjectTruth) -> f64| {
        let mut values: Vec<f64> = site.truth.subjects.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let close = |quantity: &str, stated: Vec<f64>, bound: &dyn Fn(f64) -> f64| {
        let pairs = pairs(&own, quantity);
        assert_eq!(pairs.len(), stated.len());
        for ([_, found], stated) in pairs.iter().zip(&stated) {
            assert!((found - stated).abs() < bound(*stated), "{quantity}: {found} for {stated}");
        }
    };
    close("LV EDV, mL", sorted(|subject| subject.edv_ml), &|stated| 0.06 * stated);
    close("LV ESV, mL", sorted(|subject| subject.esv_ml), &|stated| 0.2 * stated);
    close("LV EF, %", sorted(|subject| subject.ef_percent), &|_| 8.0);

    // Moved aside nothing gets larger or smaller, but it overlaps less, and no border lies farther off than it was moved.
    let pixels = 3;
    let aside = site.measured(&task, |examples, example| site.drawn(examples, example, pixels));
    let record = site.cache.series().iter().find(|record| record.plane == data::Plane::Sax).unwrap();
    let far = pixels as f64 * record.spacing_mm[1];
    let (dice, hd95) = (value(&aside, Metric::Dice, Some("LV")), value(&aside, Metric::Hd95, Some("LV")));
    assert!((0.5..0.99).contains(&dice) && hd95 > 0.0 && hd95 <= far + 1e-9, "{dice} {hd95} {far}");
    assert!(value(&aside, Metric::Dice, Some("myocardium")) < dice, "a thin wall overlaps least");
    for quantity in ["LV EDV, mL", "LV ESV, mL", "LV EF, %", "LV mass, g"] {
        assert_eq!(pairs(&aside, quantity), pairs(&own, quantity), "{quantity}");
    }
}

#[test]
fn a_maps_myocardium_has_a_time_in_milliseconds_and_a_missed_landmark_its_distance_on_the_slice() {
    let site = Fine::with(&SiteSpec::a(2));
    let maps = task("mapping-sax-segmentation");
    let own = site.measured(&maps, |examples, example| site.drawn(examples, example, 0));
    let t1 = own.agreements.iter().find(|agreement| agreement.quantity == "T1 of the myocardium, ms").unwrap();
    assert!(t1.pairs.iter().all(|[truth, found]| truth == found && (900.0..1250.0).contains(truth)), "{t1:?}");
    let aside = site.measured(&maps, |examples, example| site.drawn(examples, example, 2));
    // Blood, whose T1 is longer, and lung, whose is shorter, come under the wall.
    assert!(aside.agreements[0].bias.abs() > 20.0, "{aside}");

    let landmarks = task("landmarks");
    let off = |[down, right]: [f64; 2]| {
        site.measured(&landmarks, |_, example| {
            let record = &site.cache.series()[example.frames[0].series as usize];
            let grid = FrameGrid::new(record.matrix, record.spacing_mm, site.cache.images());
            let Answer::Places(places) = &example.answer else { panic!("no places") };
            let moved = |place: [f64; 2]| {
                let [row, column] = grid.to_native(place);
                [row + down / record.spacing_mm[0], column + right / record.spacing_mm[1]]
            };
            Said::Places(places.iter().map(|place| place.map_or([0.0; 2], moved)).collect())
        })
    };
    for (step, mm) in [([0.0, 0.0], 0.0), ([3.0, 4.0], 5.0), ([-6.0, 8.0], 10.0)] {
        let found = off(step);
        assert!((value(&found, Metric::Distance, None) - mm).abs() < 1e-9, "{step:?}: {found}");
        assert!((value(&found, Metric::Distance, Some("apex")) - mm).abs() < 1e-9, "{step:?}: {found}");
    }
    assert_eq!([[0.0, 4.9], [0.0, 5.1]].map(|step| value(&off(step), Metric::Within5Mm, None)), [1.0, 0.0]);
}
