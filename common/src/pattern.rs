//! Names as a person writes them: `*` stands for any characters, also none.

use serde::{Deserialize, Serialize};

/// A name is on the list if one of the patterns matches the whole of it. An empty list matches nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Patterns(Vec<String>);

impl Patterns {
    /// Every name.
    pub fn all() -> Self {
        Self(vec!["*".to_owned()])
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The patterns, as they are written.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// The first pattern that matches none of these names.
    pub fn unused(&self, names: &[&str]) -> Option<&str> {
        self.iter().find(|pattern| !names.iter().any(|name| matches(pattern, name)))
    }

    /// Whether a name is on the list.
    pub fn match_name(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern, name))
    }
}

/// The first part must begin the name and the last end it; those between are found in their order, each as early as can be.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(inner) = name.strip_prefix(first).and_then(|name| name.strip_suffix(last)) else { return false };
    let found = middle.split('*').try_fold(inner, |left, part| Some(&left[left.find(part)? + part.len()..]));
    found.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters_and_the_rest_for_itself() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("*", "student.x", true),
            ("student.*", "student.backbone.norm", true),
            ("student.*", "teacher.backbone.norm", false),
            ("student.*", "xstudent.", false),
            ("*.norm", "student.norm", true),
            ("*.norm", "student.norm.bias", false),
            ("a*b*c", "a-b-c", true),
            ("a*b*c", "a-c-b-c", true),
            ("a*b*c", "a-c", false),
            ("ab*ba", "aba", false),
            ("a**c", "ac", true),
            ("center", "center", true),
            ("center", "centers", false),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
        assert!(!Patterns::default().match_name("anything"));
        let two = Patterns(vec!["a*".to_owned(), "b*".to_owned()]);
        assert_eq!(two.unused(&["ab", "ac"]), Some("b*"));
        assert_eq!(two.unused(&["ab", "bc"]), None);
    }
}
