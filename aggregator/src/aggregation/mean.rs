//! The exact mean of a round's deltas, `sum(share * delta) / sum(share)`, and the next model from it.
//!
//! The sum is of integers ([`common::fixed_point`]), so the order of sites, tiles, threads and arrivals cannot change a bit
//! of the result: the sites are divided among threads, each adds up its own, and then those sums are added. Every file is
//! read once, from its first byte to its last; its digest is held against the stored one on the way, so a rotten disk cannot
//! reach a model.

use std::fs::File;
use std::ops::Range;

use common::fixed_point::{Sums, require_in_range};
use common::share::Share;
use common::{Digest, SiteId};

use super::lanes::Dot;
use super::segments::{Segment, segments};
use super::server::Server;
use super::threads;
use super::tiles::{Sink, Source, Whose};
use super::{Contribution, Drift, Merge, MergeError, Merged};
use crate::layout::Layout;

/// Values of all files that are in memory together: 4 MiB, however many sites there are.
const VALUES_AT_ONCE: usize = 1 << 20;
/// Values of one file in a tile, at most.
const TILE: usize = 1 << 16;

/// What is made of the deltas of all sites.
pub(super) enum How<'a> {
    /// Their mean by these shares, in the order of the sites; at least one is above 0.
    Shares(&'a [Share]),
    /// Each value from its values at the sites, which may be put in another order. Shares do not count.
    EachCoordinate(&'a (dyn Fn(&mut [f64]) -> f64 + Sync)),
}

/// Merges the contributions into the next model's file, and the server's next states into theirs.
///
/// # Panics
/// If there is no contribution: a round without updates is not merged. If there are not as many files for states as the
/// server has.
pub(super) fn merge(
    server: &dyn Server,
    how: &How<'_>,
    merge: &Merge<'_>,
    out: &mut File,
    states: &mut [File],
) -> Result<Merged, MergeError> {
    let values = (VALUES_AT_ONCE / merge.contributions.len().max(1)).min(TILE);
    threads::among(|| in_tiles_of(values, threads::available(), server, how, merge, out, states))
}

/// The merge with so many values to a tile, on so many threads. The bits do not depend on either.
fn in_tiles_of(
    values: usize,
    threads: usize,
    server: &dyn Server,
    how: &How<'_>,
    merge: &Merge<'_>,
    out: &mut File,
    states: &mut [File],
) -> Result<Merged, MergeError> {
    let Merge { layout, base, base_digest, contributions, states: before } = merge;
    let first = server.first_states();
    assert_eq!(first.len(), states.len(), "a file for each state of the server's");
    let shares = match how {
        How::Shares(shares) => shares.to_vec(),
        How::EachCoordinate(_) => vec![Share(1); contributions.len()],
    };
    let total: u64 = shares.iter().map(|share| u64::from(share.0)).sum();
    let segments = segments(layout, &contributions.values().collect::<Vec<_>>(), &shares);
    let sites = contributions.iter().zip(&shares).enumerate();
    let sites = sites.map(|(place, ((site, part), share))| Site::new(place, site, part, *share, layout));
    let mut groups = Group::of(sites.collect(), threads);
    let mut base = Source::new(Whose::Model, base, *base_digest, layout);
    let mut before: Vec<_> =
        before.iter().map(|state| Source::new(Whose::Server, &state.file, state.digest, layout)).collect();
    let mut out = Sink::new("the next model", out);
    let mut after: Vec<_> =
        states.iter_mut().map(|file| Sink::new("the server optimizer's next state", file)).collect();
    out.write(layout.header())?;
    after.iter_mut().try_for_each(|state| state.write(layout.header()))?;

    // Teacher and center are what they are by following the student: a momentum of their own would lead them elsewhere.
    let students = layout.signature().runs_of(|name| name.starts_with(STUDENT));
    // Drift is the student's as well: a center moves with each batch, and when steps become small it is all that does.
    let measured = if students.is_empty() { layout.signature().runs_of(|_| true) } else { students.clone() };
    let (mut means, mut at_sites) = (Vec::with_capacity(values), Vec::with_capacity(contributions.len()));
    let mut mean_squares = Dot::default();
    let mut now = vec![Vec::with_capacity(values); first.len()];
    for (segment, total, begin, width) in tiles_of(&segments, values) {
        base.next_tile(width)?;
        threads::each(&mut groups, |group| group.add(segment, width)).into_iter().collect::<Result<(), _>>()?;
        means.clear();
        match how {
            // No update holds these tensors.
            _ if total == 0 => means.resize(width, 0.0),
            How::Shares(_) => means.extend(averaged(&mut groups)?.into_iter().map(f64::from)),
            How::EachCoordinate(rule) => means.extend((0..width).map(|value| {
                at_sites.clear();
                at_sites.extend(groups.iter().flat_map(|group| group.having(segment)).map(|site| site.value(value)));
                rule(&mut at_sites)
            })),
        }
        let measured: Vec<_> =
            measured.iter().map(|run| within(run, begin, width)).filter(|run| !run.is_empty()).collect();
        threads::each(&mut groups, |group| group.measure(segment, begin, &means, &measured));
        for run in measured {
            mean_squares.add(begin + run.start as u64, &means[run.clone()], &means[run]);
        }
        for (state, first) in now.iter_mut().zip(&first) {
            state.clear();
            state.resize(width, *first);
        }
        for (state, source) in now.iter_mut().zip(&mut before) {
            state.copy_from_slice(source.next_tile(width)?);
        }
        if !first.is_empty() {
            for run in students.iter().map(|run| within(run, begin, width)) {
                let mut states: Vec<&mut [f32]> = now.iter_mut().map(|state| &mut state[run.clone()]).collect();
                server.step(&mut means[run], &mut states);
            }
        }
        for (weight, change) in base.tile.iter_mut().zip(&means) {
            // What does not change stays as it is to the bit, a negative zero as well.
            if *change != 0.0 {
                *weight = (f64::from(*weight) + change) as f32;
            }
        }
        out.write_values(&base.tile)?;
        after.iter_mut().zip(&now).try_for_each(|(sink, state)| sink.write_values(state))?;
    }
    base.require_digest()?;
    before.iter().try_for_each(Source::require_digest)?;
    let norm = mean_squares.sum().sqrt();
    let drift = |site: Site<'_>| {
        site.source.require_digest()?;
        let own = site.squares.sum().sqrt();
        let cosine = if own > 0.0 && norm > 0.0 { site.product.sum() / (own * norm) } else { 0.0 };
        Ok((site.name.clone(), Drift { share: site.share, fraction: site.share.of(total), norm: own, cosine }))
    };
    let sites = groups.into_iter().flat_map(|group| group.sites).map(drift).collect::<Result<_, MergeError>>()?;
    let states: Vec<Digest> = after.into_iter().map(Sink::finish).collect();
    Ok(Merged { model: out.finish(), norm, sites, states })
}

/// The tiles of all segments: each with its segment, the sum of the shares there, its first value, and its width.
fn tiles_of(segments: &[Segment], values: usize) -> impl Iterator<Item = (&Segment, u64, u64, usize)> {
    segments.iter().flat_map(move |segment| {
        let (total, end) = (segment.total(), segment.values.end);
        let width = move |begin: u64| usize::try_from(end - begin).map_or(values, |left| left.min(values));
        segment.values.clone().step_by(values).map(move |begin| (segment, total, begin, width(begin)))
    })
}

/// What the names of the student's tensors begin with.
const STUDENT: &str = "student.";

/// The part of a run of values that is in the tile of `width` values from `begin`, counted from there.
fn within(run: &Range<u64>, begin: u64, width: usize) -> Range<usize> {
    let place = |value: u64| usize::try_from(value.saturating_sub(begin)).map_or(width, |place| place.min(width));
    place(run.start)..place(run.end)
}

/// Sites whose deltas one thread reads and adds up.
struct Group<'a> {
    sites: Vec<Site<'a>>,
    sums: Sums,
}

impl<'a> Group<'a> {
    /// The sites in as many groups as there are threads, as even as can be, in their order.
    fn of(mut sites: Vec<Site<'a>>, threads: usize) -> Vec<Self> {
        let mut groups = Vec::new();
        for left in (1..=threads.clamp(1, sites.len().max(1))).rev() {
            let rest = sites.split_off(sites.len() / left);
            groups.push(Self { sites: std::mem::replace(&mut sites, rest), sums: Sums::default() });
        }
        groups
    }

    /// The sites that sent the values of a segment.
    fn having(&self, segment: &Segment) -> impl Iterator<Item = &Site<'a>> {
        self.sites.iter().filter(|site| segment.shares[site.place].is_some())
    }

    /// Reads the next tile of every site that sent it, and adds them up.
    fn add(&mut self, segment: &Segment, width: usize) -> Result<(), MergeError> {
        self.sums.reset(width);
        let having = |site: &Site<'_>| segment.shares[site.place];
        for site in self.sites.iter_mut().filter(|site| having(site).is_some()) {
            site.source.next_tile(width)?;
        }
        let deltas = self.sites.iter().filter_map(|site| Some((site.source.tile.as_slice(), having(site)?)));
        let Err(error) = self.sums.add(&deltas.collect::<Vec<_>>()) else { return Ok(()) };
        for site in self.sites.iter_mut().filter(|site| having(site).is_some()) {
            if let Err(source) = require_in_range(&site.source.tile) {
                // Such a value was refused when the update came in: most likely the disk has changed it since.
                while !site.source.next_tile(width)?.is_empty() {}
                site.source.require_digest()?;
                return Err(MergeError::Value { site: site.name.clone(), source });
            }
        }
        Err(MergeError::Sum(error))
    }

    /// Takes runs of the tile at hand into the meters of the sites that sent it.
    fn measure(&mut self, segment: &Segment, begin: u64, means: &[f64], runs: &[Range<usize>]) {
        for site in self.sites.iter_mut().filter(|site| segment.shares[site.place].is_some()) {
            for run in runs {
                let (first, delta) = (begin + run.start as u64, &site.source.tile[run.clone()]);
                site.squares.add(first, delta, delta);
                site.product.add(first, delta, &means[run.clone()]);
            }
        }
    }
}

/// The means by the sums of all groups.
fn averaged(groups: &mut [Group<'_>]) -> Result<Vec<f32>, MergeError> {
    let [first, others @ ..] = groups else { return Ok(Vec::new()) };
    others.iter().try_for_each(|other| first.sums.join(&other.sums)).map_err(MergeError::Sum)?;
    Ok(first.sums.means())
}

/// One site's delta while it is being merged.
struct Site<'a> {
    /// Among all sites.
    place: usize,
    name: &'a SiteId,
    share: Share,
    source: Source<'a>,
    /// The delta with itself.
    squares: Dot,
    /// The delta with the mean.
    product: Dot,
}

impl<'a> Site<'a> {
    fn new(place: usize, name: &'a SiteId, part: &'a Contribution, share: Share, layout: &'a Layout) -> Self {
        let source = Source::of_site(name, part, layout);
        Self { place, name, share, source, squares: Dot::default(), product: Dot::default() }
    }

    fn value(&self, place: usize) -> f64 {
        f64::from(self.source.tile[place])
    }
}

#[cfg(test)]
mod orders;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{Read, Seek, Write};
    use std::os::unix::fs::FileExt;

    use common::share::WHOLE;
    use common::{Encoding, NamedTensors};
    use proptest::prelude::*;

    use super::*;
    use crate::aggregation::fedavg::FedAvg;
    use crate::aggregation::{Damage, Partial};

    fn weights(values: &[f32]) -> NamedTensors {
        let mut weights = NamedTensors::new();
        let cut = values.len() / 3;
        weights.insert("a", vec![cut], values[..cut].to_vec());
        weights.insert("b.c", vec![1, values.len() - cut], values[cut..].to_vec());
        weights
    }

    fn file(weights: &NamedTensors) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&weights.to_safetensors()).unwrap();
        file
    }

    fn contribution(delta: &NamedTensors, share: u32) -> Contribution {
        Contribution { file: file(delta), digest: delta.digest(), share: Share(share), partial: None, checked: None }
    }

    fn merged(
        base: &NamedTensors,
        parts: &BTreeMap<SiteId, Contribution>,
        tile: usize,
    ) -> Result<(Merged, Vec<u8>), MergeError> {
        let layout = Layout::of(&base.signature()).unwrap();
        let stored = file(base);
        let (base_digest, contributions) = (base.digest(), parts);
        let merge = Merge { layout: &layout, base: &stored, base_digest, contributions, states: &[] };
        let mut out = tempfile::tempfile().unwrap();
        let shares: Vec<Share> = parts.values().map(|part| part.share).collect();
        let merged = in_tiles_of(tile, 1 + tile % 4, &FedAvg, &How::Shares(&shares), &merge, &mut out, &mut [])?;
        let mut bytes = Vec::new();
        out.rewind().unwrap();
        out.read_to_end(&mut bytes).unwrap();
        Ok((merged, bytes))
    }

    fn site(index: usize) -> SiteId {
        format!("site-{index:02}").parse().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_model_is_that_of_a_wide_integer_oracle_and_no_order_tile_or_thread_changes_a_bit(
            base in prop::collection::vec(-2.0_f32..2.0, 40),
            deltas in prop::collection::vec((prop::collection::vec(-8.0_f32..=8.0, 40), 1..=WHOLE), 1..=9),
            turn in 0_usize..9,
            tile in 1_usize..64,
        ) {
            // Sites fold in the order of their names: another name is another place in the order.
            let named = |turn: usize| -> BTreeMap<SiteId, Contribution> {
                let place = |index| site((index + turn) % deltas.len());
                deltas.iter().enumerate().map(|(index, (delta, share))| (place(index), contribution(&weights(delta), *share))).collect()
            };
            let model = weights(&base);
            let (one, bytes) = merged(&model, &named(0), 7).unwrap();
            let (two, other) = merged(&model, &named(turn), tile).unwrap();
            prop_assert_eq!(&bytes, &other);
            prop_assert_eq!(one.model, two.model);
            prop_assert_eq!(one.model, Digest::of(&bytes));

            let total: i128 = deltas.iter().map(|(_, share)| i128::from(*share)).sum();
            let oracle: Vec<f32> = (0..40).map(|place| {
                let sum: i128 = deltas.iter().map(|(delta, share)| {
                    (f64::from(delta[place]) * 2.0_f64.powi(32)).round() as i128 * i128::from(*share)
                }).sum();
                // The nearest f32 to sum / (total * 2^32): f64 division of integers below 2^53 is near enough to check
                // against, and the mean itself is checked to the last bit in common::fixed_point.
                let mean = (sum as f64 / total as f64 / 2.0_f64.powi(32)) as f32;
                (f64::from(base[place]) + f64::from(mean)) as f32
            }).collect();
            let found = NamedTensors::from_safetensors(&bytes).unwrap();
            prop_assert_eq!(found.to_safetensors(), bytes.clone(), "the bytes are those of to_safetensors");
            for (found, wanted) in found.iter().flat_map(|(_, t)| t.values.clone()).zip(oracle) {
                prop_assert!((found - wanted).abs() <= wanted.abs() * f32::EPSILON, "{} {}", found, wanted);
            }
        }
    }

    #[test]
    fn a_head_is_the_mean_over_the_sites_that_sent_it_and_what_nobody_sent_stays_to_the_bit() {
        let tensors = |all: &[(&str, f32)]| {
            let mut weights = NamedTensors::new();
            all.iter().for_each(|(name, value)| weights.insert(*name, vec![5], vec![*value; 5]));
            weights
        };
        let names = ["backbone.w", "heads.cine.w", "heads.lge.w", "heads.views.w"];
        let base = tensors(&names.map(|name| (name, -0.0)));
        let part = |all: &[(&str, f32)], share, heads: &[(&str, u32)]| {
            let delta = tensors(all);
            let heads = heads.iter().map(|(prefix, share)| ((*prefix).to_owned(), Share(*share))).collect();
            let partial = Some(Partial { layout: Layout::of(&delta.signature()).unwrap(), heads });
            Contribution { partial, ..contribution(&delta, share) }
        };
        let parts = BTreeMap::from([
            (site(0), part(&[(names[0], 1.0), (names[1], 4.0)], 3, &[("heads.cine.", 1)])),
            (site(1), part(&[(names[0], -1.0), (names[2], 2.0)], 1, &[("heads.lge.", 3)])),
            (site(2), part(&[(names[1], 8.0), (names[2], 6.0)], 9, &[("heads.cine.", 3), ("heads.lge.", 1)])),
        ]);
        for tile in [1, 4, 7, 1000] {
            let (_, bytes) = merged(&base, &parts, tile).unwrap();
            let next = NamedTensors::from_safetensors(&bytes).unwrap();
            let bits =
                |name: &str| next.get(name).unwrap().values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            let all = |value: f32| vec![value.to_bits(); 5];
            assert_eq!(names.map(bits), [all(0.5), all(7.0), all(3.0), all(-0.0)], "tiles of {tile}");
        }
    }

    #[test]
    fn encoded_deltas_are_merged_as_what_they_stand_for_whatever_the_tiles() {
        let delta =
            |turn: usize| weights(&(0..70_000).map(|place| ((place * turn) % 97) as f32 / 64.0).collect::<Vec<_>>());
        let base = weights(&vec![0.5; 70_000]);
        for encoding in [Encoding::Bf16, Encoding::F16, Encoding::Int8, Encoding::TopK(0.2)] {
            let layout = || Layout::encoded(&base.signature(), encoding).unwrap();
            let both = |turn: usize| {
                let file_of = encoding.encode(&delta(turn));
                let plain = encoding.decode(&file_of, &base.signature()).unwrap();
                let mut stored = tempfile::tempfile().unwrap();
                stored.write_all(&file_of).unwrap();
                let partial = Some(Partial { layout: layout(), heads: BTreeMap::new() });
                let encoded = Contribution {
                    file: stored,
                    digest: Digest::of(&file_of),
                    share: Share(3),
                    partial,
                    checked: None,
                };
                (encoded, contribution(&plain, 3))
            };
            let (encoded, plain): (BTreeMap<_, _>, BTreeMap<_, _>) = (1..=3)
                .map(|turn| {
                    let (encoded, plain) = both(turn);
                    ((site(turn), encoded), (site(turn), plain))
                })
                .unzip();
            let (_, expected) = merged(&base, &plain, 1 << 16).unwrap();
            for tile in [1000, 1 << 16] {
                assert_eq!(merged(&base, &encoded, tile).unwrap().1, expected, "{encoding:?}, tiles of {tile}");
            }
        }
    }

    #[test]
    fn drift_is_told_by_norm_and_cosine() {
        let parts = BTreeMap::from([
            (site(0), contribution(&weights(&[1.0, 0.0, 0.0]), 10)),
            (site(1), contribution(&weights(&[0.0, 1.0, 0.0]), 10)),
            (site(2), contribution(&weights(&[0.0, 0.0, 0.0]), 10)),
        ]);
        let (merged, _) = merged(&weights(&[0.0; 3]), &parts, 2).unwrap();
        assert!((merged.norm - 2.0_f64.sqrt() / 3.0).abs() < 1e-7);
        let drift = merged.sites[&site(0)];
        assert!((drift.norm - 1.0).abs() < 1e-12 && (drift.cosine - 0.5_f64.sqrt()).abs() < 1e-7);
        assert_eq!((merged.sites[&site(2)].norm, merged.sites[&site(2)].cosine), (0.0, 0.0));
        assert!((drift.fraction - 1.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn a_file_that_rotted_on_disk_never_reaches_a_model() {
        let (base, delta) = (weights(&[1.0; 9]), weights(&[0.5; 9]));
        let last = delta.to_safetensors().len() as u64 - 1;
        for place in 0..=last {
            let parts = BTreeMap::from([(site(0), contribution(&delta, 1))]);
            let rotten = &parts[&site(0)].file;
            let mut byte = [0];
            rotten.read_exact_at(&mut byte, place).unwrap();
            rotten.write_all_at(&[byte[0] ^ 1], place).unwrap();
            let error = merged(&base, &parts, 4).unwrap_err();
            assert!(matches!(&error, MergeError::Update { site: whose, .. } if *whose == site(0)), "{error}");
        }
    }

    #[test]
    fn a_file_cut_short_is_an_error_and_no_panic() {
        let parts = BTreeMap::from([(site(0), contribution(&weights(&[0.5; 9]), 1))]);
        parts[&site(0)].file.set_len(20).unwrap();
        let error = merged(&weights(&[1.0; 9]), &parts, 4).unwrap_err();
        assert!(matches!(error, MergeError::Update { damage: Damage::Short(_), .. }), "{error}");
    }
}
