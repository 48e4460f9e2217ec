//! What SeriesDescription and ProtocolName say, by tables of patterns on tokens.
//!
//! A text is lowered and cut at everything that is not a letter or a digit; a number followed by a word for "chamber"
//! is joined to `4ch`. A pattern is a row of tokens that stand beside each other; `*` at a token's end or start stands for
//! any letters. The tables of the vendor come before those of the others, free text last.

use serde::{Deserialize, Serialize};

use super::{Plane, Rule, Sequence};

/// Who made the scanner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Vendor {
    /// Siemens Healthineers.
    Siemens,
    /// Philips.
    Philips,
    /// GE HealthCare.
    Ge,
    /// Canon, formerly Toshiba.
    Canon,
    /// Any other, or not stated.
    Other,
}

impl Vendor {
    /// From Manufacturer (0008,0070).
    pub fn of(manufacturer: &str) -> Self {
        let lower = manufacturer.to_lowercase();
        let has = |word: &str| lower.contains(word);
        if has("siemens") {
            Self::Siemens
        } else if has("philips") {
            Self::Philips
        } else if has("canon") || has("toshiba") {
            Self::Canon
        } else if lower.starts_with("ge ") || lower == "ge" || has("general electric") {
            Self::Ge
        } else {
            Self::Other
        }
    }
}

/// Series that are not images of a heart although they are MR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Exclusion {
    /// Results that the scanner drew over images, with text burned in (UK Biobank's InlineVF).
    InlineResult,
    /// Fit parameters and other maps that are not T1.
    DerivedMap,
}

/// What the names of a series say. Nothing of their text is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Names {
    /// The sequence, and the table that told.
    pub sequence: Option<(Sequence, Rule)>,
    /// A word for balanced SSFP, in the table that told: cines are made so, and static images as well.
    pub technique: Option<Rule>,
    /// The plane, and the table that told.
    pub plane: Option<(Plane, Rule)>,
    /// Whether the series is to be left out.
    pub exclusion: Option<Exclusion>,
    /// Named as UK Biobank names its series, one for each slice or plane: a repetition replaces the earlier one.
    pub one_per_name: bool,
}

/// Reads the names of a series: SeriesDescription first, then ProtocolName.
pub(crate) fn read_names(vendor: Vendor, texts: &[&str]) -> Names {
    let texts: Vec<Vec<String>> = texts.iter().map(|text| tokens(text)).collect();
    let exclusion = texts.iter().find_map(|text| EXCLUSIONS.iter().find(|row| holds(text, row.0)).map(|row| row.1));
    let own: &[&Table] = match vendor {
        Vendor::Siemens => &[&UK_BIOBANK, &NO_VIEW, &SIEMENS, &FREE_TEXT, &PHILIPS, &GE],
        Vendor::Philips => &[&NO_VIEW, &PHILIPS, &FREE_TEXT, &SIEMENS, &GE],
        Vendor::Ge => &[&NO_VIEW, &GE, &FREE_TEXT, &SIEMENS, &PHILIPS],
        Vendor::Canon | Vendor::Other => &[&UK_BIOBANK, &NO_VIEW, &FREE_TEXT, &SIEMENS, &PHILIPS, &GE],
    };
    let sequence = texts.iter().find_map(|text| first(own, text, |table| table.sequences));
    let technique = texts.iter().find_map(|text| first(own, text, |table| table.techniques)).map(|(_, rule)| rule);
    let plane = texts.iter().find_map(|text| first(own, text, |table| table.planes));
    let one_per_name = plane.is_some_and(|(_, rule)| rule == Rule::UkBiobankName)
        && texts.first().is_some_and(|text| ends_with_slice_or_chamber(text));
    Names { sequence, technique, plane, exclusion, one_per_name }
}

type Rows<T> = &'static [(&'static [&'static str], T)];

/// The names one source gives to its series. The first row that holds decides.
struct Table {
    rule: Rule,
    sequences: Rows<Sequence>,
    techniques: Rows<()>,
    planes: Rows<Plane>,
}

fn first<T: Copy + 'static>(tables: &[&Table], text: &[String], rows: impl Fn(&Table) -> Rows<T>) -> Option<(T, Rule)> {
    tables.iter().find_map(|table| rows(table).iter().find(|row| holds(text, row.0)).map(|row| (row.1, table.rule)))
}

const EXCLUSIONS: Rows<Exclusion> = &[
    (&["inlinevf*"], Exclusion::InlineResult),
    (&["inline", "vf"], Exclusion::InlineResult),
    (&["*fitparams*"], Exclusion::DerivedMap),
    (&["fit", "params"], Exclusion::DerivedMap),
];

/// UK Biobank, fields 20207 to 20214.
const UK_BIOBANK: Table = Table {
    rule: Rule::UkBiobankName,
    sequences: &[
        (&["cine", "tagging"], Sequence::Other),
        (&["flow", "250"], Sequence::Other),
        (&["shmolli", "*", "*t1map*"], Sequence::T1Map),
        (&["shmolli"], Sequence::Other),
        (&["cine", "segmented"], Sequence::Cine),
    ],
    techniques: &[],
    planes: &[
        (&["cine", "segmented", "sax"], Plane::Sax),
        (&["cine", "segmented", "lax", "2ch"], Plane::TwoChamber),
        (&["cine", "segmented", "lax", "3ch"], Plane::ThreeChamber),
        (&["cine", "segmented", "lax", "4ch"], Plane::FourChamber),
        (&["cine", "segmented", "lvot"], Plane::Lvot),
        (&["cine", "segmented", "ao"], Plane::Other),
        (&["cine", "tagging", "*", "sax"], Plane::Sax),
        (&["flow", "250"], Plane::Other),
        (&["shmolli", "*", "sax"], Plane::Sax),
    ],
};

/// Series that show something else, whatever sequence they were made with.
const NO_VIEW: Table = Table {
    rule: Rule::FreeText,
    sequences: &[
        (&["*scout*"], Sequence::Other),
        (&["survey*"], Sequence::Other),
        (&["*locali*"], Sequence::Other),
        (&["loc"], Sequence::Other),
        (&["haste"], Sequence::Other),
        (&["cine", "ir"], Sequence::Other),
        (&["ir", "cine"], Sequence::Other),
        (&["look", "locker"], Sequence::Other),
        (&["looklocker*"], Sequence::Other),
        (&["*tagging*"], Sequence::Other),
        (&["flow"], Sequence::Other),
        (&["*perf*"], Sequence::Other),
        (&["t2map*"], Sequence::Other),
        (&["t2", "map*"], Sequence::Other),
        (&["t2star*"], Sequence::Other),
        (&["stir"], Sequence::Other),
    ],
    techniques: &[],
    planes: &[],
};

const SIEMENS: Table = Table {
    rule: Rule::VendorName,
    sequences: &[
        (&["molli", "*", "t1map*"], Sequence::T1Map),
        (&["t1map*"], Sequence::T1Map),
        (&["*psir*"], Sequence::Lge),
        (&["tfi", "ir"], Sequence::Lge),
        (&["de", "*", "psir"], Sequence::Lge),
    ],
    techniques: &[(&["trufi*"], ()), (&["truefisp*"], ())],
    planes: &[],
};

const PHILIPS: Table = Table {
    rule: Rule::VendorName,
    sequences: &[(&["psir*"], Sequence::Lge), (&["ir", "tfe"], Sequence::Lge)],
    techniques: &[
        (&["btfe"], ()),
        (&["sbtfe"], ()),
        (&["b", "tfe"], ()),
        (&["s", "btfe"], ()),
        (&["bffe"], ()),
        (&["b", "ffe"], ()),
    ],
    planes: &[(&["sa"], Plane::Sax)],
};

const GE: Table = Table {
    rule: Rule::VendorName,
    sequences: &[
        (&["mde"], Sequence::Lge),
        (&["psmde"], Sequence::Lge),
        (&["smart1map"], Sequence::T1Map),
        (&["fastcine*"], Sequence::Cine),
    ],
    techniques: &[(&["fiesta"], ()), (&["2dfiesta*"], ())],
    planes: &[],
};

/// The field's own words, in English, with the German, French and Spanish ones that exports hold.
const FREE_TEXT: Table = Table {
    rule: Rule::FreeText,
    sequences: &[
        (&["t1map*"], Sequence::T1Map),
        (&["t1", "map*"], Sequence::T1Map),
        (&["*molli*", "*", "map*"], Sequence::T1Map),
        (&["*molli*"], Sequence::Other),
        (&["sasha"], Sequence::Other),
        (&["lge"], Sequence::Lge),
        (&["*lge*"], Sequence::Lge),
        (&["late", "enh*"], Sequence::Lge),
        (&["late", "gad*"], Sequence::Lge),
        (&["delayed", "enh*"], Sequence::Lge),
        (&["mde"], Sequence::Lge),
        (&["psir*"], Sequence::Lge),
        (&["viab*"], Sequence::Lge),
        (&["rehaussement", "tardif"], Sequence::Lge),
        (&["realce", "tardio"], Sequence::Lge),
        (&["*cine*"], Sequence::Cine),
        (&["function*"], Sequence::Cine),
        (&["funktion*"], Sequence::Cine),
    ],
    techniques: &[(&["bssfp"], ()), (&["ssfp"], ())],
    planes: &[
        (&["*4ch"], Plane::FourChamber),
        (&["4ch*"], Plane::FourChamber),
        (&["*3ch"], Plane::ThreeChamber),
        (&["3ch*"], Plane::ThreeChamber),
        (&["*2ch"], Plane::TwoChamber),
        (&["2ch*"], Plane::TwoChamber),
        // After the chambers: a three-chamber view shows the tract as well, and is often called by both.
        (&["*lvot"], Plane::Lvot),
        (&["lvot*"], Plane::Lvot),
        (&["outflow", "tract"], Plane::Lvot),
        (&["hla"], Plane::FourChamber),
        (&["vla"], Plane::TwoChamber),
        (&["sax*"], Plane::Sax),
        (&["*sax"], Plane::Sax),
        (&["short", "ax*"], Plane::Sax),
        (&["shortaxis"], Plane::Sax),
        (&["sa"], Plane::Sax),
        (&["kurzachse*"], Plane::Sax),
        (&["kurze", "achse"], Plane::Sax),
        (&["petit", "axe"], Plane::Sax),
        (&["eje", "corto"], Plane::Sax),
    ],
};

/// Lower-case runs of letters and digits, with "4 chamber" joined to "4ch".
fn tokens(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).take(64);
    let mut tokens: Vec<String> = Vec::new();
    for word in words {
        let word: String = word.chars().take(64).collect();
        match tokens.last_mut().and_then(|last| chamber_number(last).map(|number| (last, number))) {
            Some((last, number)) if is_chamber(&word) => *last = format!("{number}ch"),
            _ => tokens.push(match leading_number(&word) {
                Some((number, rest)) if is_chamber(rest) => format!("{number}ch"),
                _ => word,
            }),
        }
    }
    tokens
}

fn chamber_number(token: &str) -> Option<char> {
    match token {
        "2" | "two" | "zwei" | "dos" | "deux" => Some('2'),
        "3" | "three" | "drei" | "tres" | "trois" => Some('3'),
        "4" | "four" | "vier" | "cuatro" | "quatre" => Some('4'),
        _ => None,
    }
}

fn leading_number(token: &str) -> Option<(char, &str)> {
    let words = [("2", '2'), ("3", '3'), ("4", '4'), ("zwei", '2'), ("drei", '3'), ("vier", '4')];
    words.iter().find_map(|(word, number)| token.strip_prefix(word).map(|rest| (*number, rest)))
}

fn is_chamber(word: &str) -> bool {
    matches!(word, "ch" | "kb" | "cav" | "chambers")
        || ["chamber", "kammer", "cavit", "cámara", "camara"].iter().any(|stem| word.starts_with(stem))
}

/// Whether the tokens hold the pattern's somewhere, side by side. A lone `*` stands for any number of tokens.
fn holds(tokens: &[String], pattern: &[&str]) -> bool {
    (0..tokens.len()).any(|start| begins(&tokens[start..], pattern))
}

fn begins(tokens: &[String], pattern: &[&str]) -> bool {
    match pattern {
        [] => true,
        ["*", rest @ ..] => (0..=tokens.len()).any(|skipped| begins(&tokens[skipped..], rest)),
        [one, rest @ ..] => tokens.first().is_some_and(|token| fits(token, one)) && begins(&tokens[1..], rest),
    }
}

fn fits(token: &str, pattern: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(rest), Some(_)) => token.contains(rest.trim_end_matches('*')),
        (Some(end), None) => token.ends_with(end),
        (None, Some(start)) => token.starts_with(start),
        (None, None) => token == pattern,
    }
}

/// `..._b4`, `..._4Ch`: UK Biobank's names for one slice or one plane, as against its "mixed" series. A `b` without a number may be any slice.
fn ends_with_slice_or_chamber(tokens: &[String]) -> bool {
    let is_number = |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit());
    tokens.last().is_some_and(|last| last.ends_with("ch") || last.strip_prefix('b').is_some_and(is_number))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name whose only word for a sequence is one for a technique.
    #[track_caller]
    fn says_how(vendor: Vendor, text: &str, plane: Option<Plane>) {
        says(vendor, text, None, plane);
        assert!(read_names(vendor, &[text]).technique.is_some(), "{text}");
    }

    #[track_caller]
    fn says(vendor: Vendor, text: &str, sequence: Option<Sequence>, plane: Option<Plane>) {
        let names = read_names(vendor, &[text]);
        assert_eq!((names.sequence.map(|s| s.0), names.plane.map(|p| p.0)), (sequence, plane), "{text}");
    }

    #[test]
    fn uk_biobank_names_are_read() {
        use Vendor::Siemens as S;
        let cine = Some(Sequence::Cine);
        says(S, "CINE_segmented_SAX_b4", cine, Some(Plane::Sax));
        says(S, "CINE_segmented_SAX_b", cine, Some(Plane::Sax));
        says(S, "CINE_segmented_LAX_2Ch", cine, Some(Plane::TwoChamber));
        says(S, "CINE_segmented_LAX_3Ch", cine, Some(Plane::ThreeChamber));
        says(S, "CINE_segmented_LAX_4Ch", cine, Some(Plane::FourChamber));
        says(S, "CINE_segmented_LAX", cine, None);
        says(S, "CINE_segmented_LVOT", cine, Some(Plane::Lvot));
        says(S, "CINE_segmented_Ao_dist", cine, Some(Plane::Other));
        says(S, "cine_tagging_3sl_SAX_b1s", Some(Sequence::Other), Some(Plane::Sax));
        says(S, "flow_250_tp_AoV_bh_ePAT@c_MAG", Some(Sequence::Other), Some(Plane::Other));
        says(S, "ShMOLLI_192i_SAX_b2s", Some(Sequence::Other), Some(Plane::Sax));
        says(S, "ShMOLLI_192i_SAX_b2s_SAX_b2s_SAX_b2s_T1MAP", Some(Sequence::T1Map), Some(Plane::Sax));
        let fit = read_names(S, &["ShMOLLI_192i_SAX_b2s_SAX_b2s_FITPARAMS"]);
        assert_eq!(fit.exclusion, Some(Exclusion::DerivedMap));
        assert_eq!(read_names(S, &["InlineVF_Results"]).exclusion, Some(Exclusion::InlineResult));
        assert!(read_names(S, &["CINE_segmented_SAX_b4"]).one_per_name);
        assert!(!read_names(S, &["CINE_segmented_SAX"]).one_per_name);
        assert!(!read_names(S, &["CINE_segmented_SAX_b"]).one_per_name);
    }

    #[test]
    fn names_seen_at_hospitals_are_read() {
        use Vendor::{Canon, Ge, Other, Philips, Siemens};
        let (cine, lge) = (Some(Sequence::Cine), Some(Sequence::Lge));
        says(Philips, "PSIR_TFE SA", lge, Some(Plane::Sax));
        says(Ge, "FIESTA CINE 4ch", cine, Some(Plane::FourChamber));
        says(Ge, "MDE SAX", lge, Some(Plane::Sax));
        says(Siemens, "cine_4ch", cine, Some(Plane::FourChamber));
        says(Other, "4CH_Function", cine, Some(Plane::FourChamber));
        says(Siemens, "trufi_cine_sax_bh", cine, Some(Plane::Sax));
        says(Siemens, "trufi_localizer", Some(Sequence::Other), None);
        says(Siemens, "T1_MOLLI_5(3)3_SAX", Some(Sequence::Other), Some(Plane::Sax));
        says(Canon, "Cine short axis", cine, Some(Plane::Sax));
        says(Other, "Late enhancement 2 chamber", lge, Some(Plane::TwoChamber));
        says(Other, "Cine Vierkammerblick", cine, Some(Plane::FourChamber));
        says(Other, "LGE kurze Achse", lge, Some(Plane::Sax));
        says(Siemens, "T1Map_MOLLI_SAX", Some(Sequence::T1Map), Some(Plane::Sax));
        says(Siemens, "localizer", Some(Sequence::Other), None);
        says(Philips, "Survey BTFE", Some(Sequence::Other), None);
        says(Other, "", None, None);
    }

    #[test]
    fn words_for_a_technique_do_not_name_a_sequence() {
        use Vendor::{Ge, Other, Philips, Siemens};
        says_how(Philips, "B-TFE_4CH", Some(Plane::FourChamber));
        says_how(Philips, "sBTFE SA", Some(Plane::Sax));
        says_how(Other, "SSFP 4-ch", Some(Plane::FourChamber));
        says_how(Siemens, "t1_trufi_singleshot_tra", None);
        says_how(Ge, "Axial FIESTA", None);
        says_how(Ge, "FIESTA SAX", Some(Plane::Sax));
    }

    #[test]
    fn the_search_for_an_inversion_time_is_no_cine() {
        let other = Some(Sequence::Other);
        for name in
            ["Cine IR", "CINE_IR_sax", "IR cine SAX", "Look-Locker SAX", "LookLocker", "TI scout", "TI_Scout_tfi"]
        {
            for vendor in [Vendor::Siemens, Vendor::Philips, Vendor::Ge, Vendor::Other] {
                assert_eq!(read_names(vendor, &[name]).sequence.map(|told| told.0), other, "{vendor:?}: {name}");
            }
        }
    }

    #[test]
    fn the_rule_tells_which_table_decided() {
        assert_eq!(read_names(Vendor::Siemens, &["CINE_segmented_SAX_b4"]).sequence.unwrap().1, Rule::UkBiobankName);
        assert_eq!(read_names(Vendor::Philips, &["B-TFE_4CH"]).technique.unwrap(), Rule::VendorName);
        assert_eq!(read_names(Vendor::Canon, &["Cine 4ch"]).sequence.unwrap().1, Rule::FreeText);
    }

    #[test]
    fn a_hostile_description_costs_no_time() {
        let long = "sax ".repeat(100_000);
        assert_eq!(tokens(&long).len(), 64);
        read_names(Vendor::Other, &[&long, &"*".repeat(1 << 20)]);
    }
}
