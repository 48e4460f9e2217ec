//! The heart of one subject, as a function from a place (mm) and a phase of the cycle to a tissue.
//!
//! Heart coordinates: `w` runs along the left ventricle's long axis from the mitral plane at end-diastole (0) to the
//! apex; `u` points to the right ventricle, `v` to the inferior wall. The left ventricle is half an ellipsoid whose
//! myocardial volume is conserved, so that walls thicken as the cavity shrinks; the base descends in systole. An infarct
//! stays where it was at end-diastole, and the rest of the wall moves the more: the volumes are as stated all the same.

use std::f64::consts::{PI, TAU};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::chest::Chest;

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
    /// The core of a scar that contrast agent hardly reaches.
    NoReflow,
    RvBlood,
    RvWall,
    LeftAtrium,
    RightAtrium,
    AtrialWall,
    Aorta,
}

impl Tissue {
    /// Every tissue, at its place in the enumeration.
    pub(crate) const ALL: [Self; 18] = [
        Self::Air,
        Self::Fat,
        Self::Muscle,
        Self::Lung,
        Self::Liver,
        Self::Bone,
        Self::Vessel,
        Self::LvBlood,
        Self::Papillary,
        Self::Myocardium,
        Self::Scar,
        Self::NoReflow,
        Self::RvBlood,
        Self::RvWall,
        Self::LeftAtrium,
        Self::RightAtrium,
        Self::AtrialWall,
        Self::Aorta,
    ];
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
    /// How much of the ventricle stands still: moments of the scar's stillness over the cavity.
    still: [f64; 2],
    chest: Chest,
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

impl Scar {
    /// How far from the middle of the wedge an angle is, radians.
    fn apart(&self, angle: f64) -> f64 {
        let turn = (angle - self.angle).rem_euclid(TAU);
        turn.min(TAU - turn)
    }

    /// Scar, or its core, at an angle, a place in the wall (0 inner, 1 outer) and a place along the axis.
    fn at(&self, angle: f64, place: f64, along: f64) -> Option<Tissue> {
        let apart = self.apart(angle);
        let thick =
            if self.midwall { (place - 0.5).abs() < self.transmurality / 2.0 } else { place < self.transmurality };
        if apart >= self.half_width || !(self.from..self.to).contains(&along) || !thick {
            return None;
        }
        // Where no blood flowed again: inside the large infarcts, under their inner surface.
        let core = !self.midwall
            && self.transmurality > 0.75
            && apart < 0.5 * self.half_width
            && (0.15..0.55).contains(&place)
            && (self.from + 0.12..self.to - 0.12).contains(&along);
        Some(if core { Tissue::NoReflow } else { Tissue::Scar })
    }

    /// How still the wall stands, 0 to 1: an infarct hardly moves, and tethers what is next to it.
    fn stillness(&self, angle: f64, along: f64) -> f64 {
        let edge = |inside: f64, width: f64| (0.5 + inside / width).clamp(0.0, 1.0);
        if self.midwall {
            return 0.0;
        }
        0.95 * edge(self.half_width - self.apart(angle), 0.4)
            * edge(along - self.from, 0.15)
            * edge(self.to - along, 0.15)
    }
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
        let heart = Self {
            disease,
            length,
            edv,
            esv: edv * (1.0 - fraction),
            descent: if fraction > 0.5 { about(13.0, 1.5) } else { about(7.0, 1.5) },
            myocardium,
            septal: if disease == Disease::Hcm { about(5.0, 1.5) } else { about(1.0, 0.4) },
            rv_width: if disease == Disease::Arv { about(44.0, 3.0) } else { about(31.0, 3.0) },
            scar,
            still: scar.map_or([0.0; 2], still),
            chest: Chest::new([about(165.0, 15.0), about(112.0, 10.0)], about(16.0, 7.0)),
        };
        let chest = heart.chest.around(heart.at(0.0).lattice(4.0));
        Self { chest, ..heart }
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
        let cosine = |x: f64| 0.5 - 0.5 * (PI * x.clamp(0.0, 1.0)).cos();
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
        let length = self.length - base;
        let resting = (self.edv * 1000.0 * 1.5 / (PI * self.length)).sqrt();
        let inner = self.moving_radius(resting, self.volume(phase) * 1000.0 / length);
        let thickness = 6.5 + (self.myocardium / 20.0).min(8.0);
        let outer_length = length + thickness * 0.8;
        let filled = half_ellipsoid(inner, length) + self.myocardium;
        let outer = (filled * 1000.0 * 1.5 / (PI * outer_length)).sqrt();
        Beat { heart: self, base, length, resting, inner, outer, outer_length, contraction: Self::contraction(phase) }
    }

    /// The radius at the base of the wall that moves, so that the cavity has `volume` (mm³ for each mm of its length).
    /// Where stillness is `s`, the cavity's radius is `(1 - s) moving + s resting`: its volume is quadratic in `moving`.
    fn moving_radius(&self, resting: f64, volume: f64) -> f64 {
        let [first, second] = self.still;
        let a = 2.0 / 3.0 * PI - first + second / 2.0;
        let b = resting * (first - second);
        let c = resting * resting * second / 2.0 - volume;
        (-b + (b * b - 4.0 * a * c).sqrt()) / (2.0 * a)
    }
}

/// Integrals of a scar's stillness and of its square over angle and long axis, weighted as half an ellipsoid is wide.
fn still(scar: Scar) -> [f64; 2] {
    const STEPS: usize = 120;
    let middle = |index: usize| (index as f64 + 0.5) / STEPS as f64;
    let cell = TAU / (STEPS * STEPS) as f64;
    let mut sums = [0.0; 2];
    for (along, turn) in (0..STEPS).flat_map(|along| (0..STEPS).map(move |turn| (middle(along), middle(turn)))) {
        let stillness = scar.stillness(turn * TAU, along);
        let weight = cell * (1.0 - along * along);
        sums = [sums[0] + weight * stillness, sums[1] + weight * stillness * stillness];
    }
    sums
}

/// Volume of half an ellipsoid of revolution, mL from mm.
fn half_ellipsoid(radius: f64, length: f64) -> f64 {
    2.0 / 3.0 * PI * radius * radius * length / 1000.0
}

/// A heart at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beat<'a> {
    heart: &'a Heart,
    base: f64,
    length: f64,
    /// Radius of the cavity at its base: at end-diastole, and now where the wall moves.
    resting: f64,
    inner: f64,
    outer: f64,
    outer_length: f64,
    contraction: f64,
}

/// Where the right ventricle is cut at one depth: an ellipse around the septum, on the side of positive `u`.
struct RightOutline {
    middle: f64,
    half: f64,
    tall: f64,
}

impl RightOutline {
    /// Below 1 inside the ellipse that is `margin` mm wider.
    fn level(&self, u: f64, v: f64, margin: f64) -> f64 {
        ((u - self.middle) / (self.half + margin)).powi(2) + (v / (self.tall + margin)).powi(2)
    }
}

/// Fat on the right side of the heart, mm; the left has less.
const FAT: f64 = 3.0;

impl Beat<'_> {
    /// The tissue at heart coordinates `[u, v, w]`, which is at `place` in the patient's axes (left, posterior, superior).
    /// All in mm from the middle of the mitral plane.
    pub(crate) fn tissue(&self, at: [f64; 3], place: [f64; 3]) -> Tissue {
        self.heart_tissue(at).unwrap_or_else(|| match self.heart.chest.tissue(place) {
            Tissue::Lung | Tissue::Liver | Tissue::Muscle if self.is_fat(at) => Tissue::Fat,
            tissue => tissue,
        })
    }

    /// The tissue of the heart itself, if there is one.
    pub(crate) fn heart_tissue(&self, [u, v, w]: [f64; 3]) -> Option<Tissue> {
        let near = (-65.0..self.heart.length + 20.0).contains(&w) && self.is_near(u, v, 0.0);
        if !near {
            None
        } else if w >= self.base {
            self.ventricles(u, v, w - self.base)
        } else {
            self.atria(u, v, w - self.base)
        }
    }

    /// Inside a cylinder that holds the heart and a margin: most places are not, and are told so at little cost.
    fn is_near(&self, u: f64, v: f64, margin: f64) -> bool {
        let half = (self.outer + self.heart.rv_width + 75.0) / 2.0 + margin;
        (u - self.heart.rv_width / 2.0).powi(2) + v * v < half * half
    }

    /// Radius of the left ventricle's inner and outer outline, mm, at a depth below the mitral plane and an angle.
    fn left_outlines(&self, depth: f64, angle: f64) -> (f64, f64) {
        let taper = |length: f64| (1.0 - (depth / length).powi(2)).max(0.0);
        let (inner_taper, outer_taper) = (taper(self.length), taper(self.outer_length));
        let stillness = self.heart.scar.map_or(0.0, |scar| scar.stillness(angle, depth / self.length));
        let inner = self.inner + stillness * (self.resting - self.inner);
        // The wall that stands still keeps its area as well.
        let area = self.outer.powi(2) * outer_taper + (inner.powi(2) - self.inner.powi(2)) * inner_taper;
        // The septum is thicker than the free wall.
        let septal = self.heart.septal * (0.5 + 0.5 * angle.cos());
        (inner * inner_taper.sqrt(), area.sqrt() + septal * outer_taper.sqrt())
    }

    /// The right ventricle's outline; it ends before the apex.
    fn right_outline(&self, depth: f64) -> Option<RightOutline> {
        let reach = 0.84 * self.length;
        (depth < reach).then(|| {
            let narrow = (1.0 - (depth / reach).powi(2)).sqrt() * (1.0 - 0.28 * self.contraction);
            let outer = self.outer * (1.0 - (depth / self.outer_length).powi(2)).sqrt();
            let half = (outer + self.heart.rv_width * narrow) / 2.0 + 4.0;
            RightOutline { middle: half - 8.0, half, tall: (self.outer + 1.0) * narrow.max(0.2) }
        })
    }

    fn ventricles(&self, u: f64, v: f64, depth: f64) -> Option<Tissue> {
        let (around, angle) = (u.hypot(v), v.atan2(u));
        let (inner, outer) = self.left_outlines(depth, angle);
        if around < inner {
            return Some(self.cavity(u, v, depth, inner));
        }
        if around < outer {
            let place = (around - inner) / (outer - inner).max(1e-6);
            let scar = self.heart.scar.and_then(|scar| scar.at(angle, place, depth / self.length));
            return Some(scar.unwrap_or(Tissue::Myocardium));
        }
        let right = self.right_outline(depth).filter(|_| u > 0.0)?;
        if right.level(u, v, 0.0) < 1.0 {
            Some(Tissue::RvBlood)
        } else {
            (right.level(u, v, 3.0) < 1.0).then_some(Tissue::RvWall)
        }
    }

    /// The cavity, with two papillary muscles in its middle third: at four and at eight o'clock of a short axis that
    /// shows the right ventricle on the left.
    fn cavity(&self, u: f64, v: f64, depth: f64, inner: f64) -> Tissue {
        let from_middle = (depth / self.length - 0.5) * 6.0;
        let radius = 4.0 * (1.0 - from_middle.powi(2)).max(0.0).sqrt();
        let papillary = |angle: f64| {
            let middle = (inner - 6.5).max(0.55 * inner);
            (u - middle * angle.cos()).hypot(v - middle * angle.sin()) < radius
        };
        if papillary(2.62) || papillary(0.62) { Tissue::Papillary } else { Tissue::LvBlood }
    }

    /// The atria and the aorta's root, `above` being negative.
    fn atria(&self, u: f64, v: f64, above: f64) -> Option<Tissue> {
        let fill = 1.0 + 0.12 * self.contraction;
        let left = |margin: f64| Self::ellipsoid([u, v, above], LEFT_ATRIUM, fill, margin);
        let right = |margin: f64| Self::ellipsoid([u, v, above], RIGHT_ATRIUM, fill, margin);
        let aorta = |margin: f64| (u - 14.0 + 0.25 * above).hypot(v + 20.0 - 0.5 * above) < 13.0 + margin;
        if aorta(0.0) {
            Some(Tissue::Aorta)
        } else if above < -1.5 && left(0.0) {
            Some(Tissue::LeftAtrium)
        } else if above < -1.5 && right(0.0) {
            Some(Tissue::RightAtrium)
        } else {
            (aorta(2.5) || left(2.5) || right(2.5)).then_some(Tissue::AtrialWall)
        }
    }

    fn ellipsoid(place: [f64; 3], [center, half]: [[f64; 3]; 2], fill: f64, margin: f64) -> bool {
        (0..3).map(|i| ((place[i] - center[i]) / (half[i] * fill + margin)).powi(2)).sum::<f64>() < 1.0
    }

    /// Fat on the ventricles, and in the groove between them and the atria.
    fn is_fat(&self, [u, v, w]: [f64; 3]) -> bool {
        if !self.is_near(u, v, FAT) {
            return false;
        }
        let depth = w - self.base;
        if depth < 0.0 {
            let fill = 1.0 + 0.12 * self.contraction;
            let groove = FAT + 9.0 * (-depth * depth / 150.0).exp();
            let near = |atrium| Self::ellipsoid([u, v, depth], atrium, fill, groove);
            return near(LEFT_ATRIUM) || near(RIGHT_ATRIUM);
        }
        let groove = 3.0 * (-depth * depth / 150.0).exp();
        let (thin, length) = (FAT / 2.0 + groove, self.outer_length + FAT);
        let left = (self.outer + thin) * (1.0 - (depth / length).powi(2)).max(0.0).sqrt();
        let right = || self.right_outline(depth).is_some_and(|right| right.level(u, v, 3.0 + FAT + groove) < 1.0);
        u.hypot(v) < left || u > 0.0 && right()
    }

    /// Where the right ventricle's outline meets the left one's, at a depth: in front (`side` -1) or below (`side` 1).
    pub(crate) fn insertion(&self, depth: f64, side: f64) -> Option<[f64; 3]> {
        let right = self.right_outline(depth)?;
        let at = |angle: f64| {
            let (_, outer) = self.left_outlines(depth, angle * side);
            [outer * angle.cos(), outer * angle.sin() * side]
        };
        let (mut inside, mut outside) = (0.0, PI / 2.0);
        for _ in 0..40 {
            let angle = (inside + outside) / 2.0;
            let [u, v] = at(angle);
            if right.level(u, v, 0.0) < 1.0 { inside = angle } else { outside = angle }
        }
        let [u, v] = at(inside);
        Some([u, v, self.base + depth])
    }

    /// Radius of the mitral annulus, mm, on the septal side (`angle` 0) or another, and where it is along the axis.
    pub(crate) fn annulus(&self, angle: f64) -> [f64; 3] {
        let (radius, _) = self.left_outlines(0.0, angle);
        [radius * angle.cos(), radius * angle.sin(), self.base]
    }

    /// Places of the heart, `step` mm apart, in its own coordinates.
    fn lattice(&self, step: f64) -> impl Iterator<Item = [f64; 3]> {
        let count = (130.0 / step) as i32;
        let range = move || (-count..=count).map(move |index| f64::from(index) * step);
        range()
            .flat_map(move |u| range().flat_map(move |v| range().map(move |w| [u, v, w])))
            .filter(|place| self.heart_tissue(*place).is_some())
    }
}

/// Middle and half axes of the atria, mm; the third coordinate is that below the base.
const LEFT_ATRIUM: [[f64; 3]; 2] = [[-3.0, 4.0, -20.0], [25.0, 26.0, 25.0]];
const RIGHT_ATRIUM: [[f64; 3]; 2] = [[44.0, 8.0, -18.0], [23.0, 26.0, 24.0]];

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::super::planes;
    use super::*;

    const DISEASES: [Disease; 5] = [Disease::Nor, Disease::Minf, Disease::Dcm, Disease::Hcm, Disease::Arv];

    fn drawn(count: u64) -> impl Iterator<Item = Heart> {
        (0..count).flat_map(|seed| DISEASES.map(|disease| Heart::draw(disease, &mut ChaCha8Rng::seed_from_u64(seed))))
    }

    #[test]
    fn the_cavity_that_is_drawn_has_the_volume_that_is_stated() {
        let moments = |heart: Heart| [(heart.clone(), 0.0, heart.edv), (heart.clone(), END_SYSTOLE, heart.esv)];
        for (heart, phase, stated) in drawn(3).flat_map(moments) {
            let beat = heart.at(phase);
            let blood =
                |place: &[f64; 3]| matches!(beat.heart_tissue(*place), Some(Tissue::LvBlood | Tissue::Papillary));
            let volume = beat.lattice(1.5).filter(blood).count() as f64 * 1.5_f64.powi(3) / 1000.0;
            assert!((volume - stated).abs() / stated < 0.03, "{:?}: {volume} {stated}", heart.disease);
        }
    }

    #[test]
    fn a_heart_lies_within_the_ribs_all_through_the_beat() {
        for heart in drawn(24) {
            let outside = |phase: f64| {
                let places = heart.at(phase).lattice(3.5).map(planes::in_patient).collect::<Vec<_>>();
                places.into_iter().any(|place| {
                    heart.chest.level(place, 0.0) >= 1.0
                        || matches!(heart.chest.tissue(place), Tissue::Bone | Tissue::Vessel)
                })
            };
            assert!(![0.0, 0.2, END_SYSTOLE].into_iter().any(outside), "{heart:?}");
        }
    }

    #[test]
    fn an_infarct_stands_still_while_the_wall_across_moves() {
        for heart in (0..20).map(|seed| Heart::draw(Disease::Minf, &mut ChaCha8Rng::seed_from_u64(seed))) {
            let Some(scar) = heart.scar else { panic!("an infarct has a scar") };
            let middle = (scar.from + scar.to) / 2.0;
            let moved = |angle: f64| {
                let inner = |phase: f64| {
                    let beat = heart.at(phase);
                    beat.left_outlines(middle * beat.length, angle).0
                };
                1.0 - inner(END_SYSTOLE) / inner(0.0)
            };
            assert!(moved(scar.angle) < 0.03 && moved(scar.angle + PI) > 0.12, "{heart:?}");
        }
    }

    #[test]
    fn papillary_muscles_lie_at_four_and_eight_o_clock_in_the_middle_third() {
        let heart = Heart::draw(Disease::Nor, &mut ChaCha8Rng::seed_from_u64(2));
        let beat = heart.at(0.0);
        let muscles: Vec<_> =
            beat.lattice(1.0).filter(|place| beat.heart_tissue(*place) == Some(Tissue::Papillary)).collect();
        let third = heart.length / 3.0;
        assert!(muscles.iter().all(|[_, _, w]| (third..=2.0 * third).contains(w)));
        // On the face of a clock with the right ventricle at nine; `u` points there, `v` to six.
        let hour = |[u, v, _]: &[f64; 3]| (-u).atan2(-v).rem_euclid(TAU) / TAU * 12.0;
        let near = |wanted: f64| muscles.iter().filter(|place| (hour(place) - wanted).abs() < 1.0).count();
        assert!(near(4.0) > 200 && near(8.0) > 200 && near(4.0) + near(8.0) == muscles.len());
    }

    #[test]
    fn the_cycle_begins_full_and_is_emptiest_at_end_systole() {
        let heart = Heart::draw(Disease::Dcm, &mut ChaCha8Rng::seed_from_u64(5));
        assert!((heart.volume(0.0) - heart.edv).abs() < 1e-9 && (heart.volume(END_SYSTOLE) - heart.esv).abs() < 1e-9);
        assert!((0..100).all(|i| heart.volume(f64::from(i) / 100.0) >= heart.esv - 1e-9));
        assert!((heart.volume(0.999) - heart.edv).abs() / heart.edv < 0.02);
    }
}
