use super::*;
use crate::dicom::support::{Image, along_axis};
use crate::dicom::{MemorySource, Substitutes, read_header};
use crate::keys::SiteSecret;
use crate::limits::IntakeLimits;

fn found(images: &[Image]) -> Vec<FoundImage> {
    let (limits, secret) = (IntakeLimits::default(), SiteSecret::new([1; 32]));
    let header = |image: &Image| {
        read_header(&mut MemorySource(image.bytes()), &limits, &secret, Substitutes::default()).unwrap()
    };
    let found = |(file, image)| FoundImage { file, entry: None, stamp: Digest([0; 32]), header: header(image) };
    images.iter().enumerate().map(found).collect()
}

fn stack(template: &Image, slices: u32) -> Vec<Image> {
    let slice = |i: u32| Image { instance: i + 1, position: along_axis(f64::from(i) * 10.0), ..template.clone() };
    (0..slices).map(slice).collect()
}

fn planes(images: &[Image]) -> Vec<(Plane, Rule)> {
    catalogue(&found(images)).series.iter().map(|series| series.plane).collect()
}

#[test]
fn six_parallel_slices_are_a_short_axis_stack_and_five_of_several_series_are_not() {
    let unnamed = Image { description: "Cine".into(), ..Image::new() };
    assert_eq!(planes(&stack(&unnamed, 6)), [(Plane::Sax, Rule::Geometry)]);
    let apart = |slices| -> Vec<Image> {
        let series = stack(&unnamed, slices).into_iter();
        (1..).zip(series).map(|(series, image)| Image { series, ..image }).collect()
    };
    assert!(planes(&apart(6)).iter().all(|plane| *plane == (Plane::Sax, Rule::Geometry)));
    assert!(planes(&apart(5)).iter().all(|plane| *plane == (Plane::Other, Rule::Undecided)));
}

#[test]
fn an_axial_stack_is_not_short_axis() {
    let axial = Image { description: "Cine".into(), orientation: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0], ..Image::new() };
    let slice = |i: u32| Image { instance: i + 1, position: [0.0, 0.0, f64::from(i) * 8.0], ..axial.clone() };
    let images: Vec<Image> = (0..12).map(slice).collect();
    assert_eq!(planes(&images), [(Plane::Other, Rule::Undecided)]);
}

#[test]
fn a_lone_map_is_placed_by_the_cine_stack_of_its_study() {
    let mut images = stack(&Image::new(), 9);
    let map = Image { series: 2, description: "T1 map SAX".into(), ..Image::new() };
    images.push(Image { position: along_axis(41.0), ..map.clone() });
    let far = Image { series: 3, position: along_axis(300.0), ..map };
    images.push(far);
    let catalogue = catalogue(&found(&images));
    let mut levels: Vec<_> = catalogue
        .series
        .iter()
        .filter(|series| series.sequence.0 == Sequence::T1Map)
        .map(|series| series.slices[0].level)
        .collect();
    levels.sort();
    assert_eq!(levels, [None, Some(Level::Mid)], "one in the middle, one outside of the stack");
}

#[test]
fn two_slices_have_no_levels() {
    let catalogue = catalogue(&found(&stack(&Image::new(), 2)));
    assert!(catalogue.series[0].slices.iter().all(|slice| slice.level.is_none()));
}

#[test]
fn frames_without_trigger_times_are_in_the_order_of_their_numbers() {
    let numbers = [3, 1, 2];
    let images: Vec<Image> = numbers.map(|instance| Image { instance, ..Image::new() }).into();
    let catalogue = catalogue(&found(&images));
    let order: Vec<usize> = catalogue.series[0].slices[0].frames.iter().map(|frame| frame.image).collect();
    assert_eq!(order, [1, 2, 0]);
    // One frame without a trigger time spoils them all: numbers decide then.
    let timed = |instance: u32, trigger| Image { instance, trigger, ..Image::new() };
    let catalogue = super::catalogue(&found(&[timed(2, Some(5.0)), timed(1, None), timed(3, Some(1.0))]));
    let order: Vec<usize> = catalogue.series[0].slices[0].frames.iter().map(|frame| frame.image).collect();
    assert_eq!(order, [1, 0, 2]);
}

#[test]
fn phase_images_are_another_series_than_their_magnitude() {
    let phase = Image { instance: 2, image_type: "ORIGINAL\\PRIMARY\\P", ..Image::new() };
    let catalogue = catalogue(&found(&[Image::new(), phase]));
    assert_eq!(catalogue.series.len(), 2);
    assert_ne!(catalogue.series[0].key, catalogue.series[1].key);
}

#[test]
fn a_copy_of_an_image_is_used_once() {
    let catalogue = catalogue(&found(&[Image::new(), Image::new()]));
    assert_eq!(catalogue.skipped, [(1, SkipReason::Duplicate)]);
    assert_eq!(catalogue.series[0].slices[0].frames.len(), 1);
}

#[test]
fn content_changes_with_order_and_file_but_not_with_labels() {
    let content = |images: &[Image]| catalogue(&found(images)).series[0].content;
    let one = content(&stack(&Image::new(), 3));
    assert_eq!(one, content(&stack(&Image { description: "other".into(), ..Image::new() }, 3)));
    assert_ne!(one, content(&stack(&Image::new(), 4)));
    let mut touched = found(&stack(&Image::new(), 3));
    touched[1].stamp = Digest([1; 32]);
    assert_ne!(one, catalogue(&touched).series[0].content);
}
