use dicom_core::VR;
use dicom_dictionary_std::{tags, uids};

use super::*;
use crate::dicom::support::{Image, SHORT_AXIS, along_axis, element, item, sequence};
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
fn unnamed_long_axis_planes_are_told_apart_by_the_stack_they_cross() {
    let unnamed = Image { description: "Cine".into(), ..Image::new() };
    let [rows, columns] = [0, 3].map(|at| std::array::from_fn::<f64, 3, _>(|i| SHORT_AXIS[at + i]));
    let axis = along_axis(1.0);
    // Degrees in the short-axis slice from its rows, which run from the septum to the side wall, slightly to the back.
    let plane = |(series, degrees): (u32, f64)| {
        let (sin, cos) = degrees.to_radians().sin_cos();
        let across: [f64; 3] = std::array::from_fn(|i| cos * rows[i] + sin * columns[i]);
        let orientation = [across[0], across[1], across[2], axis[0], axis[1], axis[2]];
        Image { series, orientation, ..unnamed.clone() }
    };
    let mut images = stack(&Image { series: 9, ..unnamed.clone() }, 8);
    images.extend([(1, 0.0), (2, 75.0), (3, 125.0)].map(plane));
    let catalogue = catalogue(&found(&images));
    let plane_of = |number: u32| {
        let image = images.iter().position(|image| image.series == number).unwrap();
        let shows = |series: &&Series| series.slices.iter().flat_map(|slice| &slice.frames).any(|f| f.image == image);
        catalogue.series.iter().find(shows).unwrap().plane
    };
    let told = [9, 1, 2, 3].map(plane_of);
    let expected = [Plane::Sax, Plane::FourChamber, Plane::TwoChamber, Plane::ThreeChamber];
    assert_eq!(told, expected.map(|plane| (plane, Rule::Geometry)));
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
fn phase_images_are_left_out_and_real_ones_are_another_series_than_their_magnitude() {
    let phase = Image { instance: 2, image_type: "ORIGINAL\\PRIMARY\\P", ..Image::new() };
    let real = Image { instance: 3, image_type: "ORIGINAL\\PRIMARY\\R", ..Image::new() };
    let catalogue = catalogue(&found(&[Image::new(), phase, real]));
    assert_eq!(catalogue.skipped, [(1, SkipReason::NotMagnitude)]);
    assert_eq!(catalogue.series.len(), 2);
    assert_ne!(catalogue.series[0].key, catalogue.series[1].key);
}

#[test]
fn a_phase_sensitive_reconstruction_is_used_although_its_type_names_phase_as_well() {
    let psir = Image { image_type: "DERIVED\\PRIMARY\\P\\PSIR", ..Image::new() };
    assert_eq!(catalogue(&found(&[psir])).skipped, []);
}

/// An enhanced image of so many frames, each with a frame type and an inversion time of its own.
fn enhanced(frames: &[(Option<&str>, f64)]) -> Image {
    let groups = frames.iter().map(|(component, ms)| {
        let kind = component.map(|component| {
            let stated = item(vec![element(tags::COMPLEX_IMAGE_COMPONENT, VR::CS, component)]);
            sequence(tags::MR_IMAGE_FRAME_TYPE_SEQUENCE, vec![stated])
        });
        let times = item(vec![element(tags::INVERSION_TIMES, VR::FD, *ms)]);
        item(kind.into_iter().chain([sequence(tags::MR_MODIFIER_SEQUENCE, vec![times])]).collect())
    });
    let mut image = Image { frames: frames.len() as u32, class: uids::ENHANCED_MR_IMAGE_STORAGE, ..Image::new() };
    image.image_type = "ORIGINAL\\PRIMARY\\CARDIAC\\NONE";
    image.pixels = image.pixels.repeat(frames.len());
    image.extra.push(sequence(tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE, groups.collect()));
    image.with(tags::COMPLEX_IMAGE_COMPONENT, VR::CS, "MIXED")
}

#[test]
fn the_phase_frames_of_a_mixed_enhanced_image_do_not_get_into_its_cine() {
    let image = enhanced(&[(Some("MAGNITUDE"), 0.0), (Some("PHASE"), 0.0), (Some("MAGNITUDE"), 0.0), (None, 0.0)]);
    let catalogue = catalogue(&found(&[image]));
    assert_eq!(catalogue.skipped, [(0, SkipReason::NotMagnitude)]);
    let frames: Vec<u32> = catalogue.series[0].slices[0].frames.iter().map(|frame| frame.frame).collect();
    assert_eq!((catalogue.series.len(), frames), (1, vec![0, 2]));
}

#[test]
fn the_inversion_times_of_an_enhanced_images_frames_are_read() {
    let image =
        Image { description: String::new(), ..enhanced(&[100.0, 180.0, 260.0].map(|ms| (Some("MAGNITUDE"), ms))) };
    assert_eq!(sequences(&[image]), [(Sequence::Other, Rule::Inversion)]);
}

#[test]
fn an_enhanced_image_of_late_enhancement_is_told_by_its_agent_and_inversion_times() {
    let mut image = Image { description: String::new(), ..enhanced(&[(Some("REAL"), 300.0), (Some("REAL"), 300.0)]) };
    assert_eq!(sequences(&[image.clone()]), [(Sequence::Other, Rule::Undecided)]);
    let agent = item(vec![element(tags::CODE_MEANING, VR::LO, "agent")]);
    image.extra.push(sequence(tags::CONTRAST_BOLUS_AGENT_SEQUENCE, vec![agent]));
    assert_eq!(sequences(&[image]), [(Sequence::Lge, Rule::Inversion)]);
}

fn sequences(images: &[Image]) -> Vec<(Sequence, Rule)> {
    catalogue(&found(images)).series.iter().map(|series| series.sequence).collect()
}

#[test]
fn an_unnamed_stack_of_late_enhancement_whose_inversion_time_steps_from_slice_to_slice_stays_one() {
    let unnamed = Image { description: String::new(), ..Image::new() };
    let unnamed = unnamed.with(tags::CONTRAST_BOLUS_AGENT, VR::LO, "agent");
    let stepping = (0..8_u32).zip(stack(&unnamed, 8));
    let images: Vec<Image> = stepping
        .map(|(slice, image)| image.with(tags::INVERSION_TIME, VR::DS, (300 + 10 * slice).to_string()))
        .collect();
    assert_eq!(sequences(&images), [(Sequence::Lge, Rule::Inversion)]);
}

#[test]
fn a_static_stack_named_for_its_technique_is_no_cine() {
    let named =
        |description: &str, manufacturer| Image { description: description.into(), manufacturer, ..Image::new() };
    for image in [named("t1_trufi_singleshot_tra", "SIEMENS"), named("Axial FIESTA", "GE MEDICAL SYSTEMS")] {
        assert_eq!(sequences(&stack(&image, 4)), [(Sequence::Other, Rule::Undecided)]);
        let phases: Vec<Image> = (1..9).map(|instance| Image { instance, ..image.clone() }).collect();
        assert_eq!(sequences(&phases), [(Sequence::Cine, Rule::VendorName)]);
    }
}

#[test]
fn a_copy_of_an_image_is_used_once() {
    let catalogue = catalogue(&found(&[Image::new(), Image::new()]));
    assert_eq!(catalogue.skipped, [(1, SkipReason::Duplicate)]);
    assert_eq!(catalogue.series[0].slices[0].frames.len(), 1);
}

#[test]
fn images_that_share_a_uid_but_not_patient_series_place_or_time_are_faults_and_no_copies() {
    let uid = |image: Image| image.with(tags::SOP_INSTANCE_UID, VR::UI, "2.25.7");
    let others = [
        Image { patient: "PATIENT-2", ..Image::new() },
        Image { series: 2, ..Image::new() },
        Image { position: along_axis(10.0), ..Image::new() },
        Image { trigger: Some(30.0), ..Image::new() },
    ];
    for other in others {
        let catalogue = catalogue(&found(&[uid(Image::new()), uid(other)]));
        assert_eq!(catalogue.skipped, [(1, SkipReason::ReusedUid)]);
        assert!(SkipReason::ReusedUid.is_fault());
    }
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

#[test]
fn slices_whose_names_lost_their_numbers_are_all_kept() {
    let named = Image { description: "CINE_segmented_SAX_b".into(), ..Image::new() };
    let slices: Vec<Image> = (1..).zip(stack(&named, 3)).map(|(series, image)| Image { series, ..image }).collect();
    let catalogue = catalogue(&found(&slices));
    assert_eq!((catalogue.series.len(), catalogue.skipped), (3, vec![]));
}

#[test]
fn a_series_of_more_shapes_than_any_scanner_gives_one_is_left_out_and_the_others_stay() {
    let [one, other] = &found(&[Image::new(), Image { series: 2, ..Image::new() }])[..] else { panic!("two images") };
    let of = |shapes: usize| {
        let shaped = |shape: usize| {
            let mut image = one.clone();
            image.header.instance.0[..8].copy_from_slice(&(shape as u64).to_le_bytes());
            image.header.frames[0].spacing = [1.0 + shape as f64, 1.0];
            image
        };
        let images: Vec<FoundImage> = std::iter::once(other.clone()).chain((0..shapes).map(shaped)).collect();
        let catalogue = catalogue(&images);
        (catalogue.series.len(), catalogue.skipped)
    };
    assert_eq!(of(MOST_PARTS), (MOST_PARTS + 1, vec![]));
    let skipped = (1..=MOST_PARTS + 1).map(|place| (place, SkipReason::Damaged)).collect();
    assert_eq!(of(MOST_PARTS + 1), (1, skipped));
}
