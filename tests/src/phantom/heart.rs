//! The heart of one subject, as a function from a place (mm) and a phase of the cycle to a tissue.
//!
//! Heart coordinates: `w` runs along the left ventricle's long axis from the mitral plane at end-diastole (0) to the
//! apex; `u` points to the right ventricle, `v` to the inferior wall. The left ventricle is half an ellipsoid whose
//! myocardial volume is conserved, so that walls thicken as the cavity shrinks; the base descends in systole.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// What a subject has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Disease {
    /// Healthy.
    Nor,
    /// An infarct: a scar, and a wall that moves less.
    Minf,
    /// Dilated cardiomyopathy: wide and weak.
    Dcm,
    /// Hypertrophic cardiomyopathy: thick septum, small cavity.
    Hcm,
    /// Arrhythmogenic right ventricle: wide right ventricle.
    Arv,
}

/// What is at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tissue {
    Air,
    Fat,
    Muscle,
    Lung,
    Liver,
    Bone,
    Vessel,
    LvBlood,
    Papillary,
    Myocardium,
    Scar,
    RvBlood,
    RvWall,
    LeftAtrium,
    RightAtrium,
    AtrialWall,
    Aorta,
}

/// One subject's heart.
#[derive(Clone, Debug)]
pub(crate) struct Heart {
    pub(crate) disease: Disease,
    /// Long axis of the cavity at end-diastole, mm.
    pub(crate) length: f64,
    /// End-diastolic and end-systolic volume of the left ventricle, mL.
    pub(crate) edv: f64,
    pub(crate) esv: f64,
    /// Descent of the base at end-systole, mm.
    descent: f64,
    /// Volume of the myocardium, mL.
    myocardium: f64,
    /// Extra thickness of the septum, mm.
    septal: f64,
    /// Width of the right ventricle beside the septum, mm.
    rv_width: f64,
    scar: Option<Scar>,
    /// Half axes of the chest, mm.
    chest: [f64; 2],
    fat_rim: f64,
}

/// A wedge of scar.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Scar {
    /// Middle and half width of the wedge, radians around the long axis; 0 is the septum.
    pub(crate) angle: f64,
    pub(crate) half_width: f64,
    /// Fraction of the wall's thickness from the inner side; or a mid-wall stripe.
    pub(crate) transmurality: f64,
    pub(crate) midwall: bool,
    /// From and to, as fractions of the long axis.
    pub(crate) from: f64,
    pub(crate) to: f64,
}

/// Phase of the cycle at end-systole.
pub(crate) const END_SYSTOLE: f64 = 0.37;

impl Heart {
    /// A subject of a disease, drawn from `rng`.
    pub(crate) fn draw(disease: Disease, rng: &mut ChaCha8Rng) -> Self {
        let mut about = |middle: f64, spread: f64| middle + spread * (rng.random::<f64>() * 2.0 - 1.0);
        let length = about(86.0, 6.0);
        let (diameter, wall, fraction) = match disease {
            Disease::Nor | Disease::Arv => (about(50.0, 4.0), about(9.0, 1.2), about(0.61, 0.05)),
            Disease::Minf => (about(55.0, 4.0), about(8.5, 1.0), about(0.37, 0.06)),
            Disease::Dcm => (about(66.0, 4.0), about(7.2, 0.7), about(0.25, 0.06)),
            Disease::Hcm => (about(45.0, 3.0), about(14.0, 1.5), about(0.70, 0.05)),
        };
        let edv = half_ellipsoid(diameter / 2.0, length);
        let myocardium = half_ellipsoid(diameter / 2.0 + wall, length + wall) - edv;
        let scar = match disease {
            Disease::Minf => Some(Scar {
                angle: [0.3, 2.2, 4.2][(about(1.5, 1.5) as usize).min(2)],
                half_width: about(0.75, 0.35),
                transmurality: about(0.65, 0.3),
                midwall: false,
                from: about(0.2, 0.1),
                to: about(0.85, 0.1),
            }),
            Disease::Hcm | Disease::Dcm => Some(Scar {
                angle: about(0.0, 0.5),
                half_width: about(0.5, 0.2),
                transmurality: 0.3,
                midwall: true,
                from: 0.1,
                to: about(0.6, 0.1),
            }),
            Disease::Nor | Disease::Arv => None,
        };
        Self {
            disease,
            length,
            edv,
            esv: edv * (1.0 - fraction),
            descent: if fraction > 0.5 { about(13.0, 1.5) } else { about(7.0, 1.5) },
            myocardium,
            septal: if disease == Disease::Hcm { about(5.0, 1.5) } else { about(1.0, 0.4) },
            rv_width: if disease == Disease::Arv { about(44.0, 3.0) } else { about(31.0, 3.0) },
            scar,
            chest: [about(165.0, 15.0), about(112.0, 10.0)],
            fat_rim: about(16.0, 7.0),
        }
    }

    /// Ejection fraction, 0 to 1.
    pub(crate) fn ejection_fraction(&self) -> f64 {
        1.0 - self.esv / self.edv
    }

    pub(crate) fn scar(&self) -> Option<Scar> {
        self.scar
    }

    /// 0 at end-diastole, 1 at end-systole: a raised-cosine fall, then an early and a late filling.
    fn contraction(phase: f64) -> f64 {
        let cosine = |x: f64| 0.5 - 0.5 * (std::f64::consts::PI * x.clamp(0.0, 1.0)).cos();
        if phase <= END_SYSTOLE {
            cosine(phase / END_SYSTOLE)
        } else {
            1.0 - 0.75 * cosine((phase - END_SYSTOLE) / 0.25) - 0.25 * cosine((phase - 0.80) / 0.18)
        }
    }

    /// Volume of the left ventricle's cavity, mL.
    pub(crate) fn volume(&self, phase: f64) -> f64 {
        self.edv - (self.edv - self.esv) * Self::contraction(phase)
    }

    /// Where the mitral plane is along the long axis, mm.
    pub(crate) fn base(&self, phase: f64) -> f64 {
        self.descent * Self::contraction(phase)
    }

    /// The heart at one moment: what does not depend on the place.
    pub(crate) fn at(&self, phase: f64) -> Beat<'_> {
        let base = self.base(phase);
        let volume = self.volume(phase);
        let length = self.length - base;
        let radius = (volume * 1000.0 * 1.5 / (std::f64::consts::PI * length)).sqrt();
        let thickness = 6.5 + (self.myocardium / 20.0).min(8.0);
        let outer_length = length + thickness * 0.8;
        let outer = ((volume + self.myocardium) * 1000.0 * 1.5 / (std::f64::consts::PI * outer_length)).sqrt();
        Beat { heart: self, base, length, radius, outer, outer_length, contraction: Self::contraction(phase) }
    }
}

/// Volume of half an ellipsoid of revolution, mL from mm.
fn half_ellipsoid(radius: f64, length: f64) -> f64 {
    2.0 / 3.0 * std::f64::consts::PI * radius * radius * length / 1000.0
}

/// A heart at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beat<'a> {
    heart: &'a Heart,
    base: f64,
    length: f64,
    radius: f64,
    outer: f64,
    outer_length: f64,
    contraction: f64,
}

impl Beat<'_> {
    /// The tissue at heart coordinates `[u, v, w]`, or at chest coordinates `chest` if it is outside the heart. All in mm
    /// from the middle of the mitral plane; `chest` is in the patient's axes (left, posterior, superior).
    pub(crate) fn tissue(&self, [u, v, w]: [f64; 3], chest: [f64; 3]) -> Tissue {
        self.ventricles(u, v, w).or_else(|| self.atria(u, v, w)).unwrap_or_else(|| self.around(u, v, w, chest))
    }

    fn ventricles(&self, u: f64, v: f64, w: f64) -> Option<Tissue> {
        let depth = w - self.base;
        if depth < 0.0 {
            return None;
        }
        let around = (v * v + u * u).sqrt();
        let taper = |length: f64| (1.0 - (depth / length).powi(2)).max(0.0).sqrt();
        let (inner, mut outer) = (self.radius * taper(self.length), self.outer * taper(self.outer_length));
        let angle = v.atan2(u);
        // The septum is thicker than the free wall.
        outer += self.heart.septal * (0.5 + 0.5 * angle.cos()) * taper(self.outer_length);
        if around < inner {
            return Some(self.cavity(u, v, depth, inner));
        }
        if around < outer {
            let place = (around - inner) / (outer - inner).max(1e-6);
            return Some(if self.is_scar(angle, place, depth / self.length) {
                Tissue::Scar
            } else {
                Tissue::Myocardium
            });
        }
        // The right ventricle: an ellipse around the septum, without the left one; it ends before the apex.
        let reach = 0.84 * self.length;
        if depth < reach {
            let narrow = (1.0 - (depth / reach).powi(2)).sqrt() * (1.0 - 0.28 * self.contraction);
            let width = self.heart.rv_width * narrow;
            let (half, tall) = ((self.outer + width) / 2.0 + 4.0, (self.outer + 7.0) * narrow.max(0.2));
            let shape = |margin: f64| ((u - half + 8.0) / (half + margin)).powi(2) + (v / (tall + margin)).powi(2);
            if u > 0.0 && shape(0.0) < 1.0 {
                return Some(Tissue::RvBlood);
            }
            if u > 0.0 && shape(3.0) < 1.0 {
                return Some(Tissue::RvWall);
            }
        }
        None
    }

    /// The cavity, with two papillary muscles in its middle third.
    fn cavity(&self, u: f64, v: f64, depth: f64, inner: f64) -> Tissue {
        let middle = (0.28..0.62).contains(&(depth / self.length));
        let papillary = |angle: f64| {
            let (pu, pv) = (0.66 * inner * angle.cos(), 0.66 * inner * angle.sin());
            (u - pu).hypot(v - pv) < 3.6
        };
        if middle && (papillary(2.3) || papillary(-2.1)) { Tissue::Papillary } else { Tissue::LvBlood }
    }

    fn is_scar(&self, angle: f64, place: f64, along: f64) -> bool {
        self.heart.scar.is_some_and(|scar| {
            let turn = (angle - scar.angle).rem_euclid(std::f64::consts::TAU);
            let apart = turn.min(std::f64::consts::TAU - turn);
            let thick =
                if scar.midwall { (place - 0.5).abs() < scar.transmurality / 2.0 } else { place < scar.transmurality };
            apart < scar.half_width && (scar.from..scar.to).contains(&along) && thick
        })
    }

    fn atria(&self, u: f64, v: f64, w: f64) -> Option<Tissue> {
        let above = w - self.base;
        let fill = 1.0 + 0.12 * self.contraction;
        let ellipsoid = |center: [f64; 3], half: [f64; 3], margin: f64| {
            let term = |x: f64, c: f64, h: f64| ((x - c) / (h * fill + margin)).powi(2);
            term(u, center[0], half[0]) + term(v, center[1], half[1]) + term(above, center[2], half[2])
        };
        let aorta = |margin: f64| above < 8.0 && (u - 14.0 + 0.25 * above).hypot(v + 20.0) < 13.0 + margin;
        let (left, right) = (([-3.0, 4.0, -22.0], [24.0, 24.0, 24.0]), ([44.0, 10.0, -20.0], [23.0, 26.0, 25.0]));
        if above < 0.0 && aorta(0.0) {
            Some(Tissue::Aorta)
        } else if above < -1.5 && ellipsoid(left.0, left.1, 0.0) < 1.0 {
            Some(Tissue::LeftAtrium)
        } else if above < -1.5 && ellipsoid(right.0, right.1, 0.0) < 1.0 {
            Some(Tissue::RightAtrium)
        } else if above < 0.0
            && (aorta(2.5) || ellipsoid(left.0, left.1, 2.5) < 1.0 || ellipsoid(right.0, right.1, 2.5) < 1.0)
        {
            Some(Tissue::AtrialWall)
        } else {
            None
        }
    }

    /// Everything around the heart, in the patient's axes.
    fn around(&self, u: f64, v: f64, w: f64, [left, posterior, superior]: [f64; 3]) -> Tissue {
        // The middle of the chest is to the right of the heart and behind it.
        let (x, y) = (left + 45.0, posterior - 22.0);
        let [half_x, half_y] = self.heart.chest;
        let inside = |margin: f64| (x / (half_x - margin)).powi(2) + (y / (half_y - margin)).powi(2) < 1.0;
        let rim = self.heart.fat_rim;
        if !inside(0.0) {
            return Tissue::Air;
        }
        if !inside(rim) {
            return Tissue::Fat;
        }
        if x.hypot(y - 72.0) < 19.0 {
            return Tissue::Bone;
        }
        if (x - 22.0).hypot(y - 50.0) < 11.0 {
            return Tissue::Vessel;
        }
        if !inside(rim + 16.0) {
            return Tissue::Muscle;
        }
        // Fat on the heart, thicker at the groove between atria and ventricles.
        let groove = 5.0 + 5.0 * (-(w - self.base).powi(2) / 200.0).exp();
        let (reach, tall) = (self.outer + self.heart.rv_width + groove, self.outer + 9.0 + groove);
        let near = ((u - 16.0) / reach).powi(2) + (v / tall).powi(2) + ((w - 30.0) / (68.0 + groove)).powi(2);
        if near < 1.0 {
            return Tissue::Fat;
        }
        // The liver under the right dome of the diaphragm, the stomach's wall under the left.
        let dome = -62.0 - 0.0035 * (x + 40.0).powi(2) - 0.003 * y * y;
        if superior < dome {
            return if x < 40.0 { Tissue::Liver } else { Tissue::Muscle };
        }
        Tissue::Lung
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn the_cavity_that_is_drawn_has_the_volume_that_is_stated() {
        let heart = Heart::draw(Disease::Nor, &mut ChaCha8Rng::seed_from_u64(2));
        for (phase, stated) in [(0.0, heart.edv), (END_SYSTOLE, heart.esv)] {
            let beat = heart.at(phase);
            let step = 1.5_f64;
            let range = || (-30..30).map(|i| f64::from(i) * step);
            let along = || (0..70).map(|i| f64::from(i) * step);
            let blood =
                |[u, v, w]: [f64; 3]| matches!(beat.ventricles(u, v, w), Some(Tissue::LvBlood | Tissue::Papillary));
            let count = along()
                .flat_map(|w| range().flat_map(move |u| range().map(move |v| [u, v, w])))
                .filter(|p| blood(*p))
                .count();
            let volume = count as f64 * step.powi(3) / 1000.0;
            assert!((volume - stated).abs() / stated < 0.03, "{volume} {stated}");
        }
        assert!((0.5..0.7).contains(&heart.ejection_fraction()));
    }

    #[test]
    fn the_cycle_begins_full_and_is_emptiest_at_end_systole() {
        let heart = Heart::draw(Disease::Dcm, &mut ChaCha8Rng::seed_from_u64(5));
        assert!((heart.volume(0.0) - heart.edv).abs() < 1e-9 && (heart.volume(END_SYSTOLE) - heart.esv).abs() < 1e-9);
        assert!((0..100).all(|i| heart.volume(f64::from(i) / 100.0) >= heart.esv - 1e-9));
        assert!((heart.volume(0.999) - heart.edv).abs() / heart.edv < 0.02);
    }
}
