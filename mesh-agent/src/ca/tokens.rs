//! Which nodes are about to be left without a join token.

use std::collections::BTreeMap;

use super::token::Token;

/// Nodes with a series of their own.
const MAX_SERIES: usize = 1_000;
/// Nodes that are named in a sentence.
const NAMED: usize = 3;
/// So long after its end a token is still news: later the node is gone, or known.
const NEWS: u64 = 24 * 3600;

/// The token of each node that ends last: what counts, as a node that was given
/// another one does not need the first.
fn newest(tokens: &[Token]) -> BTreeMap<&str, &Token> {
    let mut newest: BTreeMap<&str, &Token> = BTreeMap::new();
    for token in tokens.iter().filter(|t| !t.revoked) {
        let of_node = newest.entry(&token.node).or_insert(token);
        if token.expires > of_node.expires {
            *of_node = token;
        }
    }
    newest
}

/// For each node, when its last token ends, in seconds since 1970.
pub(super) fn ends(tokens: &[Token]) -> Vec<(String, u64)> {
    let newest = newest(tokens).into_iter().take(MAX_SERIES);
    newest.map(|(n, t)| (n.to_owned(), t.expires)).collect()
}

/// Nodes that have certificates and whose last token ends soon, or has ended;
/// the first to end, and their names.
pub(super) fn ending(
    tokens: &[Token],
    has_certificates: impl Fn(&str) -> bool,
    now: u64,
) -> Option<(u64, String)> {
    // A node's certificates may have come by an earlier token of it.
    let is_used = |node: &str| {
        tokens
            .iter()
            .any(|t| t.node == node && has_certificates(&t.id))
    };
    let mut found: Vec<_> = newest(tokens)
        .into_iter()
        .filter(|(_, t)| t.life().is_ending(now) && now < t.expires.saturating_add(NEWS))
        .filter(|(node, _)| is_used(node))
        .map(|(node, token)| (token.expires, node))
        .collect();
    found.sort_unstable();
    let (first, _) = *found.first()?;
    let named: Vec<_> = found.iter().take(NAMED).map(|(_, node)| *node).collect();
    let mut names = named.join(", ");
    if let more @ 1.. = found.len() - named.len() {
        names.push_str(&format!(" and {more} more"));
    }
    Some((first, names))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600;

    fn token(node: &str, days: u64) -> Token {
        Token::new(node.to_owned(), vec![], 0, days * DAY).0
    }

    #[test]
    fn a_node_whose_last_token_ends_is_named_and_one_that_has_another_is_not() {
        let tokens = [
            token("a", 30),
            token("b", 30),
            token("b", 60),
            token("c", 30),
        ];
        let unused = tokens[3].id.clone();
        let at = |day| ending(&tokens, |id| id != unused, day * DAY);
        assert_eq!(at(26), None);
        assert_eq!(at(27), Some((30 * DAY, "a".to_owned())));
        assert_eq!(at(30), Some((30 * DAY, "a".to_owned())), "it has ended");
        assert_eq!(at(31), None, "it is no news any more");
        assert_eq!(at(59), Some((60 * DAY, "b".to_owned())));
        assert_eq!(ends(&tokens)[1], ("b".to_owned(), 60 * DAY));
    }

    #[test]
    fn many_are_one_sentence_and_a_revoked_one_is_none() {
        let mut tokens: Vec<_> = (0..9).map(|n| token(&format!("n{n}"), 30)).collect();
        tokens[0].revoked = true;
        let (_, names) = ending(&tokens, |_| true, 29 * DAY).expect("some");
        assert_eq!(names, "n1, n2, n3 and 5 more");
        assert_eq!(ends(&tokens).len(), 8);
    }
}
