//! Regular expressions: of the whole text, in time linear in it.
//!
//! Bytes, and ASCII classes: so a pattern of some characters is not a table of
//! all of Unicode. What it compiles to is bounded.

use regex::bytes::{Regex, RegexBuilder};

/// Of one pattern, compiled; and of what it keeps between two questions.
const MAX_SIZE: usize = 64 << 10;
const MAX_LENGTH: usize = 4_096;

/// One of the whole text. The error is a sentence.
pub(super) fn compile(pattern: &str) -> Result<Regex, String> {
    if pattern.len() > MAX_LENGTH {
        return Err(format!("the pattern is longer than {MAX_LENGTH} bytes"));
    }
    // By itself first: it must not end the group that it is put into.
    build(pattern)?;
    build(&format!(r"\A(?:{pattern})\z"))
}

/// Why it is none.
pub(crate) fn check(pattern: &str) -> Result<(), String> {
    compile(pattern).map(drop)
}

fn build(pattern: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(pattern)
        .unicode(false)
        .size_limit(MAX_SIZE)
        .dfa_size_limit(MAX_SIZE)
        .nest_limit(50)
        .build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "the pattern is too large when compiled".to_owned(),
        error => {
            // The last line says what; those before show where, in a drawing.
            let text = error.to_string();
            text.lines().last().unwrap_or_default().trim().to_owned()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_of_the_whole_text() {
        let pattern = compile("/a|/b[0-9]+").expect("a pattern");
        for (text, holds) in [
            ("/a", true),
            ("/b12", true),
            ("/ab", false),
            ("x/a", false),
            ("/a\n", false),
        ] {
            assert_eq!(pattern.is_match(text.as_bytes()), holds, "{text:?}");
        }
    }

    #[test]
    fn what_is_none_or_too_large_or_ends_its_group_is_refused() {
        for pattern in [
            "(",
            "a)|(b",
            "(?x) a # comment",
            "a{1000}{1000}",
            "(?=a)",
            r"(a)\1",
        ] {
            assert!(check(pattern).is_err(), "{pattern}");
        }
        assert!(check(&"a".repeat(MAX_LENGTH + 1)).is_err());
        assert!(check("/ünïcode/.*").is_ok());
    }

    /// Backtracking would take minutes.
    #[test]
    fn a_pattern_that_blows_up_elsewhere_takes_linear_time() {
        let pattern = compile("(a+)+(b|c)+x").expect("a pattern");
        assert!(!pattern.is_match("a".repeat(20_000).as_bytes()));
    }
}
