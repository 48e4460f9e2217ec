//! What a tissue looks like in each sequence, in units of the brightest; T1 maps in milliseconds.

use super::heart::Tissue;

/// A pulse sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Sequence {
    /// Balanced steady-state free precession, over the cycle.
    Cine,
    /// Late gadolinium enhancement, inversion recovery, magnitude.
    Lge,
    /// The same, phase-sensitive.
    Psir,
    /// Native T1 map.
    T1Map,
}

/// The signal of a tissue. `field` scales T1 (1 at 1.5 T).
pub(crate) fn signal(sequence: Sequence, tissue: Tissue, field: f64) -> f64 {
    match sequence {
        Sequence::Cine => bssfp(tissue),
        Sequence::Lge => recovery(tissue).abs(),
        Sequence::Psir => recovery(tissue) + 0.35,
        Sequence::T1Map => t1(tissue) * field,
    }
}

/// bSSFP is proportional to sqrt(T2 / T1).
fn bssfp(tissue: Tissue) -> f64 {
    match tissue {
        Tissue::Air => 0.0,
        Tissue::Lung => 0.025,
        Tissue::Fat => 0.55,
        Tissue::Muscle => 0.17,
        Tissue::Bone => 0.20,
        Tissue::Liver => 0.28,
        Tissue::LvBlood | Tissue::RvBlood | Tissue::LeftAtrium | Tissue::RightAtrium => 0.42,
        Tissue::Aorta | Tissue::Vessel => 0.40,
        Tissue::Myocardium | Tissue::Papillary | Tissue::RvWall | Tissue::AtrialWall => 0.20,
        Tissue::Scar => 0.22,
    }
}

/// Inversion recovery with the myocardium nulled: `1 - 2 exp(-TI / T1)` after contrast.
fn recovery(tissue: Tissue) -> f64 {
    let t1 = match tissue {
        Tissue::Air => return 0.0,
        Tissue::Lung => return 0.02,
        Tissue::Fat => 260.0,
        Tissue::Muscle | Tissue::Bone => 500.0,
        Tissue::Liver => 390.0,
        Tissue::LvBlood | Tissue::RvBlood | Tissue::LeftAtrium | Tissue::RightAtrium => 330.0,
        Tissue::Aorta | Tissue::Vessel => 330.0,
        Tissue::Myocardium | Tissue::Papillary | Tissue::RvWall | Tissue::AtrialWall => 450.0,
        Tissue::Scar => 235.0,
    };
    let nulling = std::f64::consts::LN_2 * 450.0;
    1.0 - 2.0 * (-nulling / t1).exp()
}

fn t1(tissue: Tissue) -> f64 {
    match tissue {
        Tissue::Air | Tissue::Lung => 0.0,
        Tissue::Fat => 290.0,
        Tissue::Muscle => 900.0,
        Tissue::Bone => 600.0,
        Tissue::Liver => 580.0,
        Tissue::LvBlood | Tissue::RvBlood | Tissue::LeftAtrium | Tissue::RightAtrium => 1550.0,
        Tissue::Aorta | Tissue::Vessel => 1550.0,
        Tissue::Myocardium | Tissue::Papillary | Tissue::RvWall | Tissue::AtrialWall => 960.0,
        Tissue::Scar => 1085.0,
    }
}
