//! The line at the end of a terminal that tells how it goes, beside what a command prints.

use std::io::{IsTerminal, Stderr, Write, stderr};

use rustix::termios::tcgetwinsize;

/// As wide as a terminal is that does not tell.
const COLUMNS: usize = 80;

/// One line of the standard error, written over and over. An output that is no terminal is told of trouble alone.
pub(super) struct Line {
    terminal: Option<Stderr>,
    is_in_trouble: bool,
}

impl Line {
    pub(super) fn new(is_wanted: bool) -> Self {
        Self { terminal: Some(stderr()).filter(|stderr| is_wanted && stderr.is_terminal()), is_in_trouble: false }
    }

    /// Shows how it goes.
    pub(super) fn show(&mut self, text: &str) {
        self.is_in_trouble = false;
        self.write_over(text);
    }

    /// Shows why nothing can be told just now; where there is no terminal, once until it goes on.
    pub(super) fn trouble(&mut self, why: &str) {
        self.write_over(why);
        if self.terminal.is_none() && !self.is_in_trouble {
            let _ = writeln!(stderr(), "{why}; asked again every second");
        }
        self.is_in_trouble = true;
    }

    pub(super) fn clear(&mut self) {
        self.show("");
    }

    /// As much of a text as a line has room for: what wraps could not be written over.
    fn write_over(&mut self, text: &str) {
        if let Some(terminal) = &mut self.terminal {
            let columns = tcgetwinsize(&*terminal).map_or(0, |size| usize::from(size.ws_col));
            let text = clipped(text, if columns == 0 { COLUMNS } else { columns });
            // Where it cannot be shown, nobody misses it.
            let _ = write!(terminal, "\r\u{1b}[K{text}").and_then(|()| terminal.flush());
        }
    }
}

/// The first line of a text, in fewer characters than there are columns: a terminal wraps in its last one.
fn clipped(text: &str, columns: usize) -> String {
    let text = text.lines().next().unwrap_or_default();
    let room = columns.saturating_sub(1);
    if text.chars().count() <= room {
        return text.to_owned();
    }
    let mut text: String = text.chars().take(room.saturating_sub(1)).collect();
    text.push('…');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_never_reaches_the_column_at_which_a_terminal_wraps() {
        assert_eq!(clipped("round 1", 8), "round 1");
        assert_eq!(clipped("round 1", 7), "round…");
        assert_eq!(clipped("Aorta – größer", 8), "Aorta …");
        assert_eq!(clipped("one\nand another", 80), "one");
        assert_eq!(clipped("", 1), "");
    }
}
