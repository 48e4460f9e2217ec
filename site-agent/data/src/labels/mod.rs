//! What a series shows: its sequence and its plane, by the first rule that can tell.
//!
//! ```text
//! description -> timing (cine) -> inversion time, image type -> scanning sequence, contrast -> geometry
//! ```
//!
//! The text of a description is free and may name a person: it is read in [`names`], where the file is parsed, and
//! only what it decided leaves that place. Which rule decided is kept with every label.

mod geometry;
mod names;

use std::fmt;

use serde::{Deserialize, Serialize};

pub(crate) use geometry::{is_oblique, level_along, long_axis_plane, slice_axis, toward_apex};
pub use names::Vendor;
pub(crate) use names::{Exclusion, Names, read_names};

/// The kind of MR sequence, as the foundation model's downstream tasks distinguish them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sequence {
    /// Frames over the cardiac cycle, balanced SSFP or spoiled.
    Cine,
    /// Late gadolinium enhancement: inversion recovery, magnitude or phase-sensitive.
    Lge,
    /// A map of T1, in milliseconds.
    T1Map,
    /// Anything else acquired: scouts, flow, tagging, perfusion, T2.
    Other,
}

impl Sequence {
    /// All of them, in the order of every table.
    pub const ALL: [Self; 4] = [Self::Cine, Self::Lge, Self::T1Map, Self::Other];
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cine => "cine",
            Self::Lge => "LGE",
            Self::T1Map => "T1 map",
            Self::Other => "other",
        })
    }
}

/// The imaging plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Plane {
    /// Short axis.
    Sax,
    /// Two-chamber long axis.
    TwoChamber,
    /// Three-chamber long axis.
    ThreeChamber,
    /// Four-chamber long axis.
    FourChamber,
    /// Any other.
    Other,
    /// Through the left ventricle's outflow tract, across the three-chamber plane. The last one: caches number them in this
    /// order.
    Lvot,
}

impl Plane {
    /// All of them, in the order of every table.
    pub const ALL: [Self; 6] =
        [Self::Sax, Self::TwoChamber, Self::ThreeChamber, Self::FourChamber, Self::Lvot, Self::Other];
}

impl fmt::Display for Plane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Sax => "SAX",
            Self::TwoChamber => "2CH",
            Self::ThreeChamber => "3CH",
            Self::FourChamber => "4CH",
            Self::Lvot => "LVOT",
            Self::Other => "other",
        })
    }
}

/// Where along the left ventricle a short-axis slice lies: thirds of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// The third at the valves.
    Base,
    /// The middle third.
    Mid,
    /// The third at the apex.
    Apex,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Base => "base",
            Self::Mid => "mid",
            Self::Apex => "apex",
        })
    }
}

/// What decided a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// UK Biobank's own series names.
    UkBiobankName,
    /// A vendor's protocol name in SeriesDescription or ProtocolName.
    VendorName,
    /// Words of the field in SeriesDescription or ProtocolName.
    FreeText,
    /// CardiacNumberOfImages above 1, or several distinct trigger times at one position.
    Timing,
    /// InversionTime or ImageType.
    Inversion,
    /// ScanningSequence and ContrastBolusAgent.
    Contrast,
    /// A stack of parallel slices, or the angle to one.
    Geometry,
    /// No rule could tell.
    Undecided,
    /// A public data set, all of whose images are of one kind.
    DataSet,
}

/// What a series' tags say beyond its name.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Evidence {
    /// The largest CardiacNumberOfImages (0018,1090).
    pub cardiac_images: Option<u32>,
    /// The most distinct trigger times (0018,1060) at one slice position.
    pub distinct_triggers: usize,
    /// The most frames at one slice position.
    pub phases: usize,
    /// The most distinct values of InversionTime (0018,0082) above 0 at one slice position.
    pub inversion_times: usize,
    /// A name holds a word for balanced SSFP, and which table told.
    pub technique: Option<Rule>,
    /// The pixels are times.
    pub milliseconds: bool,
    /// ImageType names a T1 map.
    pub t1_map_type: bool,
    /// ImageType names a phase-sensitive reconstruction.
    pub psir_type: bool,
    /// ScanningSequence (0018,0020) holds IR.
    pub inversion_recovery: bool,
    /// ContrastBolusAgent (0018,0010) is filled.
    pub contrast_agent: bool,
}

/// The sequence of a series: its name first, then what its tags say.
pub(crate) fn sequence_of(named: Option<(Sequence, Rule)>, evidence: &Evidence) -> (Sequence, Rule) {
    if let Some(named) = named {
        return named;
    }
    let inverted = evidence.inversion_times > 0;
    let timed_recovery = evidence.milliseconds && (inverted || evidence.inversion_recovery);
    if evidence.t1_map_type || timed_recovery {
        return (Sequence::T1Map, Rule::Inversion);
    }
    // Images at many inversion times are the making of a map, or the search for the time that nulls the myocardium.
    if evidence.inversion_times > 2 {
        return (Sequence::Other, Rule::Inversion);
    }
    let cyclic = evidence.cardiac_images.is_some_and(|n| n > 1) || evidence.distinct_triggers > 1;
    // Static images are made with the same techniques as cines: the word tells nothing of a single phase.
    if let Some(rule) = evidence.technique.filter(|_| cyclic || evidence.phases > 1) {
        return (Sequence::Cine, rule);
    }
    if cyclic {
        return (Sequence::Cine, Rule::Timing);
    }
    if evidence.psir_type || (inverted && evidence.contrast_agent) {
        return (Sequence::Lge, Rule::Inversion);
    }
    if evidence.inversion_recovery && evidence.contrast_agent {
        return (Sequence::Lge, Rule::Contrast);
    }
    if inverted && evidence.inversion_recovery {
        return (Sequence::Lge, Rule::Inversion);
    }
    (Sequence::Other, Rule::Undecided)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_wins_over_timing_and_timing_over_inversion() {
        let evidence =
            Evidence { cardiac_images: Some(25), inversion_times: 1, contrast_agent: true, ..Default::default() };
        let named = Some((Sequence::Lge, Rule::FreeText));
        assert_eq!(sequence_of(named, &evidence), (Sequence::Lge, Rule::FreeText));
        assert_eq!(sequence_of(None, &evidence), (Sequence::Cine, Rule::Timing));
        let still = Evidence { cardiac_images: Some(1), distinct_triggers: 1, ..evidence };
        assert_eq!(sequence_of(None, &still), (Sequence::Lge, Rule::Inversion));
    }

    #[test]
    fn frames_at_many_inversion_times_are_neither_cine_nor_late_enhancement() {
        let molli =
            Evidence { inversion_times: 8, inversion_recovery: true, distinct_triggers: 8, ..Evidence::default() };
        assert_eq!(sequence_of(None, &molli), (Sequence::Other, Rule::Inversion));
    }

    #[test]
    fn a_word_for_a_technique_makes_a_cine_of_several_phases_and_of_a_single_one_nothing() {
        let several = Evidence { technique: Some(Rule::VendorName), phases: 25, ..Evidence::default() };
        assert_eq!(sequence_of(None, &several), (Sequence::Cine, Rule::VendorName));
        let single = Evidence { phases: 1, ..several };
        assert_eq!(sequence_of(None, &single), (Sequence::Other, Rule::Undecided));
        let scout = Evidence { inversion_times: 25, ..several };
        assert_eq!(sequence_of(None, &scout), (Sequence::Other, Rule::Inversion));
    }

    #[test]
    fn an_unnamed_map_in_milliseconds_of_an_inversion_recovery_is_a_t1_map() {
        let map = Evidence { milliseconds: true, inversion_recovery: true, ..Evidence::default() };
        assert_eq!(sequence_of(None, &map), (Sequence::T1Map, Rule::Inversion));
        let t2 = Evidence { inversion_recovery: false, ..map };
        assert_eq!(sequence_of(None, &t2), (Sequence::Other, Rule::Undecided));
    }

    #[test]
    fn frames_at_several_trigger_times_are_a_cine_without_any_name() {
        let evidence = Evidence { distinct_triggers: 20, ..Default::default() };
        assert_eq!(sequence_of(None, &evidence), (Sequence::Cine, Rule::Timing));
        assert_eq!(sequence_of(None, &Evidence::default()), (Sequence::Other, Rule::Undecided));
    }

    #[test]
    fn a_map_in_milliseconds_is_a_t1_map_by_its_image_type() {
        let evidence = Evidence { t1_map_type: true, inversion_times: 1, ..Default::default() };
        assert_eq!(sequence_of(None, &evidence), (Sequence::T1Map, Rule::Inversion));
    }
}
