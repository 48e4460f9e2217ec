//! No order of arrival changes a bit of a model; the bits are those of wide integers; and no sum can overflow.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};

use aggregator::aggregation::{Contribution, Merge, MergeError, merge};
use aggregator::layout::Layout;
use common::fixed_point::{FULL_SHARES, FixedPointError, MAX_MAGNITUDE, Sums, mean, quantize};
use common::plan::Strategy;
use common::share::{Share, WHOLE};
use common::{Digest, NamedTensors, SiteId};

use crate::bench::weights;
use crate::oracle::{moved, quantized};
use crate::simulation::dice::Dice;

/// A delta's value: of every size that training has, both zeros, the smallest number there is and the largest that is merged.
fn value(dice: &mut Dice) -> f32 {
    const ODD: [f32; 8] = [0.0, -0.0, MAX_MAGNITUDE, -MAX_MAGNITUDE, f32::from_bits(1), 1e-20, 7.999_999_5, -1.0];
    match dice.below(8) {
        0 => ODD[dice.index(ODD.len())],
        _ => {
            let size = 2.0_f32.powi(dice.within(0, 40) as i32 - 38);
            (dice.below(1 << 24) as f32 / (1 << 23) as f32 - 1.0) * size
        }
    }
}

/// Deltas of some sites, each with its share; the first is the whole, so that the widest sums are among them.
fn deltas(sites: usize, values: usize, dice: &mut Dice) -> Vec<(Vec<f32>, Share)> {
    let share =
        |site: usize, dice: &mut Dice| Share(if site == 0 { WHOLE } else { dice.within(1, WHOLE.into()) as u32 });
    (0..sites).map(|site| ((0..values).map(|_| value(dice)).collect(), share(site, dice))).collect()
}

/// The bits of the means of some deltas, folded in this order.
fn folded<'a>(deltas: impl IntoIterator<Item = &'a (Vec<f32>, Share)>, values: usize) -> Vec<u32> {
    // One by one, and all at once: as they come, and as a merge does it.
    let deltas: Vec<(&[f32], Share)> = deltas.into_iter().map(|(delta, share)| (delta.as_slice(), *share)).collect();
    let (mut sums, mut together) = (Sums::new(values), Sums::new(values));
    deltas.iter().for_each(|delta| sums.add(&[*delta]).unwrap());
    together.add(&deltas).unwrap();
    assert_eq!(sums.integers(), together.integers());
    let total = deltas.iter().map(|(_, share)| u64::from(share.0)).sum();
    sums.integers().iter().map(|&sum| mean(sum, total).to_bits()).collect()
}

/// The bits that they must have.
fn by_wide_integers(deltas: &[(Vec<f32>, Share)], values: usize) -> Vec<u32> {
    let of = |place: usize| moved(0.0, deltas.iter().map(|(delta, share)| (delta[place], share.0)));
    (0..values).map(|place| of(place).to_bits()).collect()
}

/// Every order of some things.
fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let shorter = orders(count - 1);
    let with = |order: &Vec<usize>, place: usize| {
        let mut order = order.clone();
        order.insert(place, count - 1);
        order
    };
    shorter.iter().flat_map(|order| (0..count).map(move |place| with(order, place))).collect()
}

#[test]
fn all_720_orders_of_six_sites_give_the_bits_of_wide_integers() {
    const VALUES: usize = 1000;
    let deltas = deltas(6, VALUES, &mut Dice::seeded(720));
    let expected = by_wide_integers(&deltas, VALUES);
    let all = orders(6);
    assert_eq!(all.len(), 720);
    for order in all {
        assert_eq!(folded(order.iter().map(|&site| &deltas[site]), VALUES), expected, "{order:?}");
    }
}

#[test]
fn ten_thousand_random_orders_of_thirty_two_sites_give_the_bits_of_wide_integers() {
    const VALUES: usize = 64;
    let mut dice = Dice::seeded(32);
    let mut deltas = deltas(FULL_SHARES, VALUES, &mut dice);
    let expected = by_wide_integers(&deltas, VALUES);
    for order in 0..10_000 {
        dice.shuffle(&mut deltas);
        assert_eq!(folded(&deltas, VALUES), expected, "order {order}");
    }
}

#[test]
fn every_value_is_quantized_as_its_bits_say() {
    let mut dice = Dice::seeded(1);
    for _ in 0..200_000 {
        let value = value(&mut dice);
        assert_eq!(quantize(value).map(i128::from), Ok(quantized(value)), "{value}");
    }
}

/// A cohort of the plan's largest size, every share the whole, every value the largest: 61 bits of 64.
#[test]
fn the_widest_sum_that_a_plan_permits_has_three_bits_to_spare_and_beyond_it_the_sum_is_refused_and_never_wraps() {
    let most = quantize(MAX_MAGNITUDE).unwrap();
    assert_eq!(most, 1 << 35);
    let widest = i128::from(most) * i128::from(WHOLE) * FULL_SHARES as i128;
    assert_eq!(widest, 1 << 60);
    assert!(widest * 7 < i128::from(i64::MAX), "seven times that would still fit");
    for sign in [1.0, -1.0] {
        let delta = [sign * MAX_MAGNITUDE; 3];
        let mut sums = Sums::new(3);
        for _ in 0..FULL_SHARES {
            sums.add(&[(&delta, Share(WHOLE))]).unwrap();
        }
        assert_eq!(i128::from(sums.integers()[2]), widest * sign as i128);
        assert_eq!(mean(sums.integers()[2], FULL_SHARES as u64 * u64::from(WHOLE)), sign * MAX_MAGNITUDE);

        // Just beyond: a value a place larger; a part of the whole more than there is room for, alone or from another thread.
        let beyond = sign * MAX_MAGNITUDE.next_up();
        assert!(matches!(Sums::new(1).add(&[(&[beyond], Share(1))]), Err(FixedPointError::OutOfRange { .. })));
        let mut other = Sums::new(3);
        other.add(&[(&delta, Share(1))]).unwrap();
        assert_eq!(other.join(&sums), Err(FixedPointError::Overflow));
        assert_eq!(sums.add(&[(&delta, Share(1))]), Err(FixedPointError::Overflow));
        assert_eq!(Sums::new(1).add(&[(&[sign], Share(u32::MAX))]), Err(FixedPointError::Overflow));
        let all = [(delta.as_slice(), Share(WHOLE)); FULL_SHARES + 1];
        assert_eq!(Sums::new(3).add(&all), Err(FixedPointError::Overflow));
    }
}

fn stored(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn merged(base: &NamedTensors, parts: &BTreeMap<SiteId, Contribution>) -> Result<Vec<u8>, MergeError> {
    let (bytes, layout) = (base.to_safetensors(), Layout::of(&base.signature()).unwrap());
    let file = stored(&bytes);
    let (base_digest, states) = (Digest::of(&bytes), &[][..]);
    let what = Merge { layout: &layout, base: &file, base_digest, contributions: parts, states };
    let mut out = tempfile::tempfile().unwrap();
    let merged = merge(Strategy::FedAvg {}, &what, &mut out, &mut [])?;
    let mut model = Vec::new();
    out.rewind().unwrap();
    out.read_to_end(&mut model).unwrap();
    assert_eq!(Digest::of(&model), merged.model);
    Ok(model)
}

/// Sites are read in the order of their names: another name is another place.
#[test]
fn files_merged_in_random_orders_are_the_same_model_to_the_byte_and_that_of_wide_integers() {
    for (sites, values, orders) in [(6, 70_003, 12), (FULL_SHARES, 33_001, 4)] {
        let mut dice = Dice::seeded(sites as u64);
        let deltas = deltas(sites, values, &mut dice);
        let base = weights(values, |place| (place as f32 - 1000.0) / 777.0);
        let mut places: Vec<usize> = (0..sites).collect();
        let mut models = Vec::new();
        for _ in 0..orders {
            dice.shuffle(&mut places);
            let part = |(place, (delta, share)): (&usize, &(Vec<f32>, Share))| {
                let bytes = weights(values, |value| delta[value]).to_safetensors();
                let (file, digest) = (stored(&bytes), Digest::of(&bytes));
                let site: SiteId = format!("site-{place:02}").parse().unwrap();
                (site, Contribution { file, digest, share: *share, partial: None, checked: None })
            };
            models.push(merged(&base, &places.iter().zip(&deltas).map(part).collect()).unwrap());
        }
        assert!(models.iter().all(|model| *model == models[0]));
        let model = NamedTensors::from_safetensors(&models[0]).unwrap();
        let all = |weights: &NamedTensors| weights.iter().flat_map(|(_, it)| it.values.clone()).collect::<Vec<_>>();
        for (place, (found, base)) in all(&model).into_iter().zip(all(&base)).enumerate() {
            let expected = moved(base, deltas.iter().map(|(delta, share)| (delta[place], share.0)));
            assert_eq!(found.to_bits(), expected.to_bits(), "value {place}: {found} {expected}");
        }
    }
}

/// Through the files as well: the widest cohort merges, and a value beyond the bound, however it got into a file that has its
/// digest, is an error that names the site.
#[test]
fn the_widest_cohort_merges_from_files_and_a_value_beyond_is_named() {
    let values = 10;
    let base = weights(values, |_| 1.0);
    let parts = |last: f32| -> BTreeMap<SiteId, Contribution> {
        let part = |site: usize| {
            let delta = weights(values, |_| if site == FULL_SHARES - 1 { last } else { MAX_MAGNITUDE });
            let bytes = delta.to_safetensors();
            let (file, digest) = (stored(&bytes), Digest::of(&bytes));
            let contribution = Contribution { file, digest, share: Share(WHOLE), partial: None, checked: None };
            (format!("site-{site:02}").parse().unwrap(), contribution)
        };
        (0..FULL_SHARES).map(part).collect()
    };
    let model = NamedTensors::from_safetensors(&merged(&base, &parts(MAX_MAGNITUDE)).unwrap()).unwrap();
    assert!(model.iter().all(|(_, tensor)| tensor.values.iter().all(|value| *value == 1.0 + MAX_MAGNITUDE)));
    for beyond in [MAX_MAGNITUDE.next_up(), f32::NAN, f32::INFINITY] {
        let error = merged(&base, &parts(beyond)).unwrap_err();
        assert!(matches!(&error, MergeError::Value { site, .. } if site.as_str() == "site-31"), "{error}");
    }
}
