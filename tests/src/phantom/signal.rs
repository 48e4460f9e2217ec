//! What a tissue looks like in each sequence, in units of the brightest; T1 maps in milliseconds.
//!
//! One table of relaxation times serves all sequences: what a stronger field does to T1 reaches each of them.

use std::f64::consts::LN_2;

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

/// What a phase-sensitive image adds to the signed signal, so that it can be stored without a sign.
pub(crate) const PSIR_OFFSET: f64 = 0.4;

/// The signal of a tissue, signed for inversion recovery. `field` scales T1 (1 at 1.5 T).
pub(crate) fn signal(sequence: Sequence, tissue: Tissue, field: f64) -> f64 {
    let Some(relaxation) = relaxation(tissue) else { return 0.0 };
    let t1 = relaxation.t1 * field;
    match sequence {
        Sequence::Cine => relaxation.density * (relaxation.t2 / t1).sqrt(),
        Sequence::Lge | Sequence::Psir => {
            relaxation.density * (1.0 - 2.0 * (-inversion_ms(field) / enhanced(relaxation, field)).exp())
        }
        // No T1 is fitted where there is no signal.
        Sequence::T1Map if relaxation.density < 0.5 => 0.0,
        Sequence::T1Map => t1,
    }
}

/// The inversion time that nulls normal myocardium after contrast, ms.
pub(crate) fn inversion_ms(field: f64) -> f64 {
    relaxation(Tissue::Myocardium).map_or(0.0, |myocardium| LN_2 * enhanced(myocardium, field))
}

/// How a tissue relaxes.
#[derive(Clone, Copy)]
struct Relaxation {
    /// Native, at 1.5 T, ms.
    t1: f64,
    t2: f64,
    /// What contrast agent adds to 1 / T1 ten minutes after it was given, 1/s.
    uptake: f64,
    /// Water, or rather protons that give a signal.
    density: f64,
}

/// T1 ten minutes after contrast agent, ms.
fn enhanced(tissue: Relaxation, field: f64) -> f64 {
    1.0 / (1.0 / (tissue.t1 * field) + tissue.uptake / 1000.0)
}

/// At 1.5 T, contrast agent brings T1 to 450 ms in myocardium, 320 ms in blood and 270 ms in scar.
fn relaxation(tissue: Tissue) -> Option<Relaxation> {
    let (t1, t2, uptake, density) = match tissue {
        Tissue::Air => return None,
        Tissue::Lung => (1100.0, 40.0, 0.9, 0.12),
        Tissue::Fat => (280.0, 85.0, 0.0, 1.0),
        Tissue::Muscle => (980.0, 36.0, 1.0, 1.0),
        Tissue::Bone => (550.0, 40.0, 0.6, 0.8),
        Tissue::Liver => (580.0, 45.0, 0.85, 1.0),
        Tissue::LvBlood
        | Tissue::RvBlood
        | Tissue::LeftAtrium
        | Tissue::RightAtrium
        | Tissue::Aorta
        | Tissue::Vessel => (1550.0, 250.0, 2.48, 1.0),
        Tissue::Myocardium | Tissue::Papillary | Tissue::RvWall | Tissue::AtrialWall => (960.0, 50.0, 1.18, 1.0),
        Tissue::Scar => (1070.0, 58.0, 2.77, 1.0),
        Tissue::NoReflow => (1070.0, 58.0, 1.15, 1.0),
    };
    Some(Relaxation { t1, t2, uptake, density })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blood_is_brighter_than_myocardium_in_cine_as_their_relaxation_says() {
        for field in [1.0, 1.1] {
            let of = |tissue| signal(Sequence::Cine, tissue, field);
            let ratio = of(Tissue::LvBlood) / of(Tissue::Myocardium);
            assert!((ratio - 1.75).abs() < 0.03, "{ratio}");
        }
        assert!(signal(Sequence::Cine, Tissue::LvBlood, 1.1) < signal(Sequence::Cine, Tissue::LvBlood, 1.0));
    }

    #[test]
    fn late_enhancement_nulls_myocardium_and_shows_scar_then_blood_at_any_field() {
        for field in [1.0, 1.1] {
            let of = |tissue| signal(Sequence::Lge, tissue, field);
            assert!(of(Tissue::Myocardium).abs() < 1e-9);
            assert!((of(Tissue::Scar) - 0.37).abs() < 0.03 && (of(Tissue::LvBlood) - 0.25).abs() < 0.03);
            assert!(of(Tissue::NoReflow).abs() < 0.1);
        }
        assert!((inversion_ms(1.0) - 312.0).abs() < 2.0 && inversion_ms(1.1) > 320.0);
    }

    #[test]
    fn a_map_holds_native_t1_of_the_field() {
        let of = |tissue, field| signal(Sequence::T1Map, tissue, field);
        assert!((of(Tissue::Myocardium, 1.1) - 1056.0).abs() < 1.0);
        assert!((of(Tissue::Scar, 1.0) - of(Tissue::Myocardium, 1.0) - 110.0).abs() < 21.0);
        assert!(of(Tissue::Lung, 1.0) < 1e-9);
    }
}
