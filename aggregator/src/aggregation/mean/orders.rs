//! Whatever the tile and whatever the order, the merge of files is the same to the byte.

use std::collections::BTreeMap;
use std::io::{Read, Seek, Write};

use common::NamedTensors;

use super::*;
use crate::aggregation::fedavg::FedAvg;

const VALUES: usize = 257;

fn weights(value: impl Fn(usize) -> f32) -> NamedTensors {
    let mut weights = NamedTensors::new();
    weights.insert("a", vec![100], (0..100).map(&value).collect());
    weights.insert("b", vec![VALUES - 100], (100..VALUES).map(&value).collect());
    weights
}

fn stored(weights: &NamedTensors) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&weights.to_safetensors()).unwrap();
    file
}

#[test]
fn no_order_of_six_sites_and_no_tile_changes_a_byte() {
    let base = weights(|place| place as f32 / 77.0);
    let layout = Layout::of(&base.signature()).unwrap();
    let deltas: Vec<_> = (0..6).map(|site| weights(|place| ((place * (site + 3)) % 101) as f32 / 13.0 - 3.5)).collect();
    let mut models = Vec::new();
    for (turn, tile) in [1, 2, 7, 64, 99, 100, 101, 255, 256, 257, 258, 4096].into_iter().enumerate() {
        // Sites are read in the order of their names: another name is another place. 5 and 6 have no common factor.
        let part = |(site, delta): (usize, &NamedTensors)| {
            let place = (site * if turn % 2 == 0 { 1 } else { 5 } + turn) % 6;
            let (file, share) = (stored(delta), Share(100_000 + site as u32));
            let contribution = Contribution { file, digest: delta.digest(), share, partial: None, checked: None };
            (format!("site-{place}").parse().unwrap(), contribution)
        };
        let contributions: BTreeMap<SiteId, Contribution> = deltas.iter().enumerate().map(part).collect();
        let shares: Vec<Share> = contributions.values().map(|part| part.share).collect();
        let (file, base_digest, contributions) = (stored(&base), base.digest(), &contributions);
        let what = Merge { layout: &layout, base: &file, base_digest, contributions, states: &[] };
        let mut out = tempfile::tempfile().unwrap();
        in_tiles_of(tile, 1 + turn % 3, &FedAvg, &How::Shares(&shares), &what, &mut out, &mut []).unwrap();
        let mut model = Vec::new();
        out.rewind().unwrap();
        out.read_to_end(&mut model).unwrap();
        models.push(model);
    }
    assert!(models.iter().all(|model| *model == models[0]));
}
