//! Words that came from elsewhere, on their way to a person: a terminal obeys some characters instead of showing them.

/// Whether a character is no part of a line of text: a terminal or an editor obeys it, breaks the line or turns the order of others.
pub fn is_obeyed(c: char) -> bool {
    let breaks = matches!(c, '\u{2028}' | '\u{2029}');
    let turns = matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || breaks || turns
}

/// The same words as one line, with a mark in the place of whatever is no part of it.
pub fn plain(words: &str) -> String {
    words.chars().map(|c| if is_obeyed(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_shown_as_a_mark_and_all_else_as_it_is() {
        let obeyed = ['\n', '\r', '\t', '\u{1b}', '\u{7f}', '\u{9b}', '\u{2028}', '\u{202e}', '\u{2067}'];
        for c in obeyed {
            assert_eq!(plain(&format!("a{c}b")), "a\u{fffd}b", "{c:?}");
        }
        let words = "Füllung: 5 µm² – „gut“, 心, -1.5e-3";
        assert_eq!(plain(words), words);
    }
}
