//! Where slices lie in the patient, and what that says about plane and level.
//!
//! DICOM patient coordinates: +x to the patient's left, +y to the back, +z to the head (PS3.3 C.7.6.2.1.1). The left
//! ventricle's long axis runs from the valves to the apex leftwards, forwards and down: (+, -, -).

use super::{Level, Plane};
use crate::geometry::{Vector, cross, dot, unit};

/// Direction from base to apex in most people; only its sign along a stack is used.
const TOWARD_APEX: Vector = [0.6, -0.5, -0.6];

/// The normal of ImageOrientationPatient's row and column directions; none if they do not span a plane.
pub(crate) fn slice_axis(orientation: &[f64; 6]) -> Option<Vector> {
    let [a, b, c, d, e, f] = *orientation;
    unit(cross([a, b, c], [d, e, f]))
}

/// Not along the body's axes: a heart's short axis never is, scouts and axial stacks are.
pub(crate) fn is_oblique(axis: Vector) -> bool {
    axis.iter().all(|part| part.abs() < 0.95)
}

/// The axis, turned so that it points from base to apex.
pub(crate) fn toward_apex(axis: Vector) -> Vector {
    if dot(axis, TOWARD_APEX) < 0.0 { axis.map(|x| -x) } else { axis }
}

/// The third of a stack in which a position lies; `stack` is its lowest and highest position toward the apex, in mm.
pub(crate) fn level_along(position: f64, stack: [f64; 2]) -> Option<Level> {
    let [base, apex] = stack;
    let fraction = (position - base) / (apex - base);
    if !fraction.is_finite() {
        return None;
    }
    // Positions are written with few digits: a slice on a third's edge belongs to the middle.
    Some(if fraction < 1.0 / 3.0 - 1e-6 {
        Level::Base
    } else if fraction <= 2.0 / 3.0 + 1e-6 {
        Level::Mid
    } else {
        Level::Apex
    })
}

/// The long-axis plane with this normal, given the short-axis stack's axis: none if it is not a long-axis plane.
///
/// A long-axis plane holds the ventricle's axis, so its normal is across it. The four-chamber plane has its normal
/// nearest to the head. From there, turning as a right-handed screw does on its way to the apex, the two-chamber plane
/// comes after some 75 degrees and the three-chamber plane after some 125, before the four-chamber plane comes again.
pub(crate) fn long_axis_plane(normal: Vector, short_axis: Vector) -> Option<Plane> {
    let axis = toward_apex(short_axis);
    if dot(normal, axis).abs() > 0.35 {
        return None;
    }
    let head = [0.0, 0.0, 1.0];
    let up = unit([0, 1, 2].map(|i| head[i] - dot(head, axis) * axis[i]))?;
    let side = cross(axis, up);
    // A normal and its opposite are one plane: 0 to 180.
    let turned = dot(normal, side).atan2(dot(normal, up)).to_degrees().rem_euclid(180.0);
    // Half-way between the planes.
    Some(match turned {
        40.0..100.0 => Plane::TwoChamber,
        100.0..150.0 => Plane::ThreeChamber,
        _ => Plane::FourChamber,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_normal_is_the_cross_product_of_rows_and_columns() {
        assert_eq!(slice_axis(&[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]), Some([0.0, 0.0, 1.0]));
        assert_eq!(slice_axis(&[1.0, 0.0, 0.0, 1.0, 0.0, 0.0]), None);
        assert_eq!(slice_axis(&[f64::NAN; 6]), None);
    }

    #[test]
    fn the_axis_points_to_the_left_the_front_and_down_whichever_way_the_slices_were_stacked() {
        let axis = unit([0.6, -0.5, -0.6]).unwrap();
        assert_eq!(toward_apex(axis), axis);
        assert_eq!(toward_apex(axis.map(|x| -x)), axis);
    }

    #[test]
    fn a_stack_is_cut_in_thirds() {
        let levels: Vec<_> = (0..9).map(|i| level_along(f64::from(i), [0.0, 8.0]).unwrap()).collect();
        use Level::{Apex, Base, Mid};
        assert_eq!(levels, [Base, Base, Base, Mid, Mid, Mid, Apex, Apex, Apex]);
        assert_eq!(level_along(3.0, [3.0, 3.0]), None);
    }

    #[test]
    fn long_axis_planes_are_told_apart_by_the_angle_around_the_axis() {
        let axis = unit([0.6, -0.5, -0.6]).unwrap();
        let up = unit([0, 1, 2].map(|i| [0.0, 0.0, 1.0][i] - dot([0.0, 0.0, 1.0], axis) * axis[i])).unwrap();
        let side = cross(axis, up);
        let turned = |degrees: f64| {
            let (sin, cos) = degrees.to_radians().sin_cos();
            [0, 1, 2].map(|i| cos * up[i] + sin * side[i])
        };
        assert_eq!(long_axis_plane(turned(10.0), axis), Some(Plane::FourChamber));
        assert_eq!(long_axis_plane(turned(-20.0), axis), Some(Plane::FourChamber));
        assert_eq!(long_axis_plane(turned(75.0), axis), Some(Plane::TwoChamber));
        assert_eq!(long_axis_plane(turned(90.0), axis), Some(Plane::TwoChamber));
        assert_eq!(long_axis_plane(turned(-55.0), axis), Some(Plane::ThreeChamber));
        assert_eq!(long_axis_plane(axis, axis), None, "a short-axis slice is no long-axis plane");
    }

    /// The planes as they are prescribed on a short-axis slice: through the right ventricle's free wall, through the
    /// front and the bottom wall, and through the outflow tract.
    #[test]
    fn the_planes_of_hearts_in_several_positions_are_told_apart_whichever_way_their_normals_point() {
        for (axis, right) in [
            ([0.62, -0.58, -0.528], [-0.75, -0.6, 0.2]),
            ([0.7, -0.6, -0.35], [-0.75, -0.6, 0.2]),
            ([0.62, -0.58, -0.528], [-0.75, -0.5, -0.05]),
            ([0.55, -0.55, -0.63], [-0.75, -0.6, 0.3]),
        ] {
            let axis = unit(axis).unwrap();
            let ventricle = unit([0, 1, 2].map(|i| right[i] - dot(right, axis) * axis[i])).unwrap();
            let bottom = cross(axis, ventricle);
            let planes = [(7.0, Plane::FourChamber), (77.0, Plane::TwoChamber), (-54.0, Plane::ThreeChamber)];
            for (degrees, plane) in planes {
                let (sin, cos) = f64::to_radians(degrees).sin_cos();
                let across = [0, 1, 2].map(|i| cos * ventricle[i] + sin * bottom[i]);
                let normal = cross(across, axis);
                assert_eq!(long_axis_plane(normal, axis), Some(plane), "{axis:?}");
                assert_eq!(long_axis_plane(normal.map(|x| -x), axis.map(|x| -x)), Some(plane), "{axis:?}");
            }
        }
    }
}
