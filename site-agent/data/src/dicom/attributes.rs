//! Single attributes of a parsed data set, as text or as numbers.

use dicom_core::Tag;
use dicom_object::InMemDicomObject;

/// An element's text, without padding.
pub(super) fn text(object: &InMemDicomObject, tag: Tag) -> Option<String> {
    let value = object.get(tag)?.to_str().ok()?;
    Some(value.trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned())
}

/// An element's values, separated by backslashes, in upper case.
pub(super) fn words(object: &InMemDicomObject, tag: Tag) -> Vec<String> {
    text(object, tag).unwrap_or_default().split('\\').map(|word| word.trim().to_uppercase()).collect()
}

/// An element's finite numbers.
pub(super) fn numbers(object: &InMemDicomObject, tag: Tag) -> Option<Vec<f64>> {
    let values = object.get(tag)?.to_multi_float64().ok()?;
    (!values.is_empty() && values.iter().all(|value| value.is_finite())).then_some(values)
}

/// An element's first number.
pub(super) fn number(object: &InMemDicomObject, tag: Tag) -> Option<f64> {
    numbers(object, tag).map(|values| values[0])
}

/// An element's first number, if it is whole.
pub(super) fn whole(object: &InMemDicomObject, tag: Tag) -> Option<i32> {
    let value = number(object, tag)?;
    (value.fract() == 0.0 && value.abs() < f64::from(i32::MAX)).then_some(value as i32)
}
