//! Who has which values of a model: runs of tensors that the same sites sent, with the same shares.

use std::ops::Range;

use common::share::Share;

use super::Contribution;
use crate::layout::Layout;

/// A run of the model's values.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Segment {
    /// Counted over all tensors.
    pub(super) values: Range<u64>,
    /// How much each site counts here, in the order of the sites; none for one that did not send these tensors.
    pub(super) shares: Vec<Option<Share>>,
}

impl Segment {
    /// What the shares add up to; 0 where no site sent anything.
    pub(super) fn total(&self) -> u64 {
        self.shares.iter().flatten().map(|share| u64::from(share.0)).sum()
    }
}

/// The segments of a model, in their order and without a gap. `shares` are those in tensors of no head.
pub(super) fn segments(whole: &Layout, sites: &[&Contribution], shares: &[Share]) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    let mut begin = 0;
    for (name, shape) in whole.signature().iter() {
        let end = begin + shape.iter().product::<usize>() as u64;
        let each = sites.iter().zip(shares).map(|(site, share)| share_in(site, name, *share));
        let shares: Vec<_> = each.collect();
        match segments.last_mut() {
            Some(last) if last.shares == shares => last.values.end = end,
            _ => segments.push(Segment { values: begin..end, shares }),
        }
        begin = end;
    }
    segments
}

fn share_in(site: &Contribution, name: &str, share: Share) -> Option<Share> {
    let Some(partial) = &site.partial else { return Some(share) };
    partial.layout.signature().shape(name)?;
    let head = partial.heads.iter().find(|(prefix, _)| name.starts_with(*prefix));
    Some(head.map_or(share, |(_, share)| *share))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use common::{Digest, Signature};

    use super::super::Partial;
    use super::*;

    fn layout(names: &[&str]) -> Layout {
        Layout::of(&Signature::new(names.iter().map(|name| ((*name).to_owned(), vec![3]))).unwrap()).unwrap()
    }

    fn contribution(partial: Option<Partial>) -> Contribution {
        let file = tempfile::tempfile().unwrap();
        Contribution { file, digest: Digest::of(b""), share: Share(1), partial, checked: None }
    }

    #[test]
    fn tensors_that_the_same_sites_sent_with_the_same_shares_are_one_run() {
        let all = ["backbone.a", "backbone.b", "heads.cine.w", "heads.lge.b", "heads.lge.w"];
        let heads = BTreeMap::from([("heads.lge.".to_owned(), Share(9))]);
        let lge = contribution(Some(Partial { layout: layout(&["backbone.a", "backbone.b", all[3], all[4]]), heads }));
        let whole = contribution(None);
        let found = segments(&layout(&all), &[&whole, &lge], &[Share(2), Share(5)]);
        let of = |values, shares: [Option<u32>; 2]| Segment {
            values,
            shares: shares.map(|share| share.map(Share)).to_vec(),
        };
        assert_eq!(found, [of(0..6, [Some(2), Some(5)]), of(6..9, [Some(2), None]), of(9..15, [Some(2), Some(9)])]);
        assert_eq!(found[1].total(), 2);
    }
}
