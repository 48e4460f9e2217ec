//! The codes that masks are written in, one for each class, and the `labels.toml` that says so beside them.

use toml::{Table, Value};

use super::codes::Codes;

/// What the values of masks are that a program writes: 0 is background.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskCodes {
    /// Of each class, in the order it was asked for.
    values: Vec<i64>,
    codes: Table,
    within: Table,
}

impl MaskCodes {
    /// The place of each class, from 1: for masks that follow nobody's codes.
    pub fn by_place(classes: &[String]) -> Self {
        let values: Vec<i64> = (1..).take(classes.len()).collect();
        let codes = classes.iter().cloned().zip(values.iter().map(|value| Value::from(*value))).collect();
        Self { values, codes, within: Table::new() }
    }

    /// Those of a site, the least of a class that has several there; the first class without one is the error.
    pub(super) fn of_site<'a>(site: &Codes, classes: &'a [String]) -> Result<Self, &'a str> {
        let least = |class: &'a String| site.of_class(class).next().ok_or(class.as_str());
        let values = classes.iter().map(least).collect::<Result<_, _>>()?;
        let written = |class: &String| match site.of_class(class).collect::<Vec<_>>()[..] {
            [one] => Value::from(one),
            ref several => Value::from(several.to_vec()),
        };
        let codes = site.classes().into_iter().map(|class| (class.clone(), written(&class))).collect();
        let within = site.within().iter().map(|(class, whole)| (class.clone(), whole.as_str().into())).collect();
        Ok(Self { values, codes, within })
    }

    /// The value of the class in a place from 1, and of 0 the background's.
    ///
    /// # Panics
    /// If there is no such class.
    pub fn value(&self, place: u8) -> i64 {
        place.checked_sub(1).map_or(0, |place| self.values[usize::from(place)])
    }

    /// The largest of them.
    pub fn largest(&self) -> i64 {
        self.values.iter().copied().max().unwrap_or(0)
    }

    /// As `labels.toml` of a folder with such masks; of a site, with every code that it has.
    pub fn text(&self) -> String {
        let within = if self.within.is_empty() { String::new() } else { format!("\n[within]\n{}", self.within) };
        format!("# What the values of the masks in this folder mean; 0 is background.\n[codes]\n{}{within}", self.codes)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn read(text: &str) -> Codes {
        Codes::parse(Path::new("labels.toml"), text).unwrap()
    }

    #[test]
    fn what_is_written_of_codes_reads_back_as_the_same_classes() {
        let classes = names(&["LV", "no-reflow", "left \"ear\" = 3", "RV"]);
        let written = MaskCodes::by_place(&classes);
        let map = read(&written.text()).of(&classes).unwrap();
        for place in 0..=4 {
            assert_eq!((written.value(place), map.place(f32::from(place))), (i64::from(place), Some(place)));
        }
        assert_eq!(written.largest(), 4);
    }

    #[test]
    fn a_site_reads_its_own_codes_back_whatever_was_asked_of_them_and_of_several_the_least_is_written() {
        let site = "[codes]\nLV = 500\nmyocardium = [205, 200]\nRV = 600\nscar = 2221\nno-reflow = 9\n\
                    [within]\nscar = \"myocardium\"\nno-reflow = \"scar\"\n";
        let heart = names(&["LV", "myocardium", "RV"]);
        let written = MaskCodes::of_site(&read(site), &heart).unwrap();
        assert_eq!([0, 1, 2, 3].map(|place| written.value(place)), [0, 500, 200, 600]);
        for classes in [&heart, &names(&["scar", "myocardium"])] {
            let (before, after) = (read(site).of(classes).unwrap(), read(&written.text()).of(classes).unwrap());
            for value in [0.0, 9.0, 200.0, 205.0, 500.0, 600.0, 2221.0, 1.0] {
                assert_eq!(after.place(value), before.place(value), "{value} of {classes:?}");
            }
        }
        // A folder takes the masks of all tasks of a site: its codes are the same for each.
        assert_eq!(written.text(), MaskCodes::of_site(&read(site), &names(&["scar"])).unwrap().text());
        assert_eq!(MaskCodes::of_site(&read(site), &names(&["LV", "LA", "RA"])), Err("LA"));
    }
}
