//! Maps of codes that are not those of their masks.

use super::*;

#[test]
fn another_data_sets_codes_are_refused_with_a_drawing_and_what_to_write() {
    let side = 40_u16;
    let pixels: Vec<u16> = (0..side * side).collect();
    let image = Image { rows: side, columns: side, pixels, position: ORIGIN, ..Image::new() };
    let site = Site::of(&[image], 24);
    let (_, record) = site.record(1);
    assert_eq!(record.plane, Plane::Sax);
    // As ACDC writes it: 1 is the right ventricle, 3 the left.
    let at = |place: usize| {
        let (y, x) = ((place / 40) as f64 - 20.0, (place % 40) as f64 - 24.0);
        match (y.hypot(x), y.hypot(x + 9.0)) {
            (r, _) if r < 7.0 => 3,
            (r, _) if r < 10.5 => 2,
            (_, r) if r < 12.0 && x < 0.0 => 1,
            _ => 0,
        }
    };
    site.volume("m.nii.gz", [40, 40, 1], stack_affine(record).unwrap(), (0..1600).map(at).collect());
    site.text("masks.csv", &format!("subject,series,phase,file\n{}\n", row("", "m.nii.gz")));
    let text = site.masks(&["LV", "myocardium", "RV"]).unwrap_err().to_string();
    for part in ["RV enclosed by myocardium", "LLm", "mRR", "LV = 3, myocardium = 2, RV = 1", "line 2"] {
        assert!(text.contains(part), "{text}");
    }
    site.text("labels.toml", "[codes]\nLV = 3\nmyocardium = 2\nRV = 1\n");
    let masks = site.masks(&["LV", "myocardium", "RV"]).unwrap();
    let inside = masks[0].slices.iter().flatten().flatten().filter(|class| **class == 1).count();
    assert!(inside > 0, "what was called RV is LV now");
}

#[test]
fn codes_are_checked_where_a_site_has_masks_of_the_long_axis_alone() {
    let pixels: Vec<u16> = (0..1600).collect();
    let image =
        Image { rows: 40, columns: 40, pixels, position: ORIGIN, description: "cine 4ch".into(), ..Image::new() };
    let site = Site::of(&[image], 24);
    let (_, record) = site.record(1);
    assert_eq!(record.plane, Plane::FourChamber);
    // A horseshoe around one ventricle, the other beside it; as ACDC writes them.
    let at = |place: usize| {
        let (y, x) = ((place / 40) as f64 - 28.0, (place % 40) as f64 - 24.0);
        match ((x / 6.0).hypot(y / 18.0), (x / 9.0).hypot(y / 21.0), ((x + 10.0) / 11.0).hypot(y / 16.0)) {
            _ if y > 0.0 => 0,
            (lv, _, _) if lv < 1.0 => 3,
            (_, wall, _) if wall < 1.0 => 2,
            (_, _, rv) if rv < 1.0 && x < 0.0 => 1,
            _ => 0,
        }
    };
    site.volume("m.nii.gz", [40, 40, 1], stack_affine(record).unwrap(), (0..1600).map(at).collect());
    site.text("masks.csv", &format!("subject,series,phase,file\n{}\n", row("", "m.nii.gz")));
    let text = site.masks(&["LV", "myocardium", "RV"]).unwrap_err().to_string();
    for part in ["RV enclosed by myocardium", "LV = 3, myocardium = 2, RV = 1", "line 2"] {
        assert!(text.contains(part), "{text}");
    }
    site.text("labels.toml", "[codes]\nLV = 3\nmyocardium = 2\nRV = 1\n");
    assert_eq!(site.masks(&["LV", "myocardium", "RV"]).unwrap().len(), 1);
}
