//! What comes from elsewhere, in one line.

/// Longest text that is shown of anybody else's.
const MAX: usize = 400;

/// Without anything that begins a line, or moves a terminal.
pub(crate) fn line(text: &str) -> String {
    let shown = text.chars().take(MAX);
    shown
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
