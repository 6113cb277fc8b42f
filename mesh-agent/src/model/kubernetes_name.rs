//! What objects of Kubernetes may be called, by RFC 1123: the one place of the rule.

/// As namespaces are called.
#[must_use]
pub(crate) fn is_label(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let edges = !text.starts_with('-') && !text.ends_with('-');
    (1..=63).contains(&text.len()) && edges && text.bytes().all(allowed)
}

/// As most other objects are.
#[must_use]
pub(crate) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_has_small_letters_digits_and_dashes_between() {
        for good in ["a", "mesh-system", "0", &"a".repeat(63)] {
            assert!(is_label(good) && is_subdomain(good), "{good:?}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a_b",
            "a b",
            "a/b",
            "a\n",
            "\u{e4}",
            &"a".repeat(64),
        ] {
            assert!(!is_label(bad) && !is_subdomain(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_subdomain_is_of_labels() {
        assert!(is_subdomain("root.ca.v2") && !is_label("root.ca.v2"));
        for bad in ["a..b", ".a", "a.", &["a"; 128].join(".")] {
            assert!(!is_subdomain(bad), "{bad:?}");
        }
    }
}
