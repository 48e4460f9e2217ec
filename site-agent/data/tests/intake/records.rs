//! What the cache keeps of a series beside its pixels.

use dicom_core::VR;
use dicom_dictionary_std::{tags, uids};

use crate::site::Site;
use crate::support::{Image, along_axis, element, item, sequence, short_axis_cine};

#[test]
fn where_each_slice_lies_and_how_far_apart_they_are_is_kept() {
    let site = Site::new();
    let template = Image::new().with(tags::SLICE_THICKNESS, VR::DS, "8");
    let cine = short_axis_cine(&template.clone().with(tags::SPACING_BETWEEN_SLICES, VR::DS, "-10"), 3, 2);
    site.write_all("cine", &cine);
    site.write("lone", &Image { series: 2, position: [1.5, -2.0, 3.25], ..template });
    let measures = item(vec![
        element(tags::PIXEL_SPACING, VR::DS, "1\\1"),
        element(tags::SLICE_THICKNESS, VR::DS, "6"),
        element(tags::SPACING_BETWEEN_SLICES, VR::DS, "7.5"),
    ]);
    let groups = vec![item(vec![sequence(tags::PIXEL_MEASURES_SEQUENCE, vec![measures])])];
    let mut enhanced = Image { series: 3, class: uids::ENHANCED_MR_IMAGE_STORAGE, ..Image::new() };
    enhanced.extra.push(sequence(tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE, groups));
    site.write("enhanced", &enhanced);
    site.index().unwrap();
    let cache = site.cache();
    let mut steps: Vec<_> = cache.series().iter().map(|record| record.slice_step_mm).collect();
    steps.sort_by(|a, b| a.partial_cmp(b).unwrap());
    assert_eq!(steps, [Some(7.5), Some(8.0), Some(10.0)], "between slices, else their thickness");
    for record in cache.series() {
        let origins: Vec<_> = record.slices.iter().map(|slice| slice.placement.unwrap().origin).collect();
        let expected: Vec<[f64; 3]> = match record.slice_step_mm {
            Some(10.0) => (0..3).map(|slice| along_axis(f64::from(slice) * 10.0)).collect(),
            Some(8.0) => vec![[1.5, -2.0, 3.25]],
            _ => vec![[0.0; 3]],
        };
        for (origin, expected) in origins.iter().zip(&expected) {
            assert!(origin.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{origins:?}");
        }
        assert_eq!(origins.len(), expected.len());
    }
}

#[test]
fn a_cached_fraction_goes_back_to_its_modality_value_also_where_low_is_bright() {
    for photometric in ["MONOCHROME2", "MONOCHROME1"] {
        let site = Site::new();
        site.write("1", &Image { photometric, slope: Some("2"), intercept: Some("-50"), ..Image::new().marked(700) });
        site.index().unwrap();
        let cache = site.cache();
        let (record, pixels) = (&cache.series()[0], cache.pixels(cache.frames().next().unwrap()).unwrap().to_vec());
        assert!(
            (record.modality_value(f64::from(pixels[2 * 16 + 8])) - (2.0 * 700.0 - 50.0)).abs() < 0.05,
            "{photometric}"
        );
    }
}
