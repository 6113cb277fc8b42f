//! A consistent hash by cookie: whoever has none gets one, and so comes back to the
//! endpoint that it was given.

use crate::balance::Attempt;
use crate::model::traffic::HashOn;
use crate::model::{Edits, HeaderEdit, RequestHead};
use crate::proxy::dice::Dice;

/// What the hash of a request is of.
pub(super) fn hash(on: &HashOn, head: &RequestHead<'_>, attempt: &mut Attempt, dice: &Dice) {
    match on {
        HashOn::Header(name) => attempt.hash_of(head.joined(name).as_deref()),
        HashOn::Cookie { name, path, ttl } => {
            let had = value(head, name);
            if let Some(value) = had {
                return attempt.hash_of(Some(value));
            }
            // The same one, however often it is decided on.
            let value = match attempt.given() {
                Some(value) => value,
                None => {
                    let value = dice.below(u64::MAX);
                    let ttl = ttl.map(|ttl| format!("; Max-Age={}", ttl.as_secs().max(1)));
                    let ttl = ttl.unwrap_or_default();
                    let line = format!("{name}={value:016x}; Path={path}{ttl}; HttpOnly");
                    attempt.give(value, line);
                    value
                }
            };
            attempt.hash_of(Some(format!("{value:016x}").as_bytes()));
        }
        HashOn::SourceIp => {}
    }
}

/// Of the first cookie with that name (RFC 6265, section 5.4).
fn value<'h>(head: &RequestHead<'h>, name: &str) -> Option<&'h [u8]> {
    let lines = head.values("cookie");
    let mut pairs = lines.flat_map(|line| line.split(|byte| *byte == b';'));
    pairs.find_map(|pair| {
        let value = pair.trim_ascii().strip_prefix(name.as_bytes())?;
        let value = value.strip_prefix(b"=")?.trim_ascii();
        let quoted = value
            .strip_prefix(b"\"")
            .and_then(|rest| rest.strip_suffix(b"\""));
        Some(quoted.unwrap_or(value)).filter(|value| !value.is_empty())
    })
}

/// The answer sets it where the request had none.
pub(super) fn set(attempt: &Attempt, response: &mut Edits) {
    if let Some(value) = attempt.given_line() {
        response.headers.push(HeaderEdit::Add {
            name: "set-cookie".to_owned(),
            value: value.to_owned(),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::HeaderLine;

    fn line(value: &'static str) -> HeaderLine<'static> {
        HeaderLine {
            name: "Cookie",
            value: value.as_bytes(),
        }
    }

    fn on(ttl: Option<u64>) -> HashOn {
        HashOn::Cookie {
            name: "shop".into(),
            path: "/cart".into(),
            ttl: ttl.map(Duration::from_secs),
        }
    }

    #[test]
    fn the_cookie_is_found_among_others_and_in_several_lines() {
        for lines in [
            [line("a=1; shop=x"), line("b=2")],
            [line("a=1"), line("shop=\"x\";b=2")],
            [line("shopping=y;shop=x"), line("shop=z")],
        ] {
            let head = RequestHead::for_test("GET", "/", &lines);
            assert_eq!(value(&head, "shop"), Some(&b"x"[..]), "{lines:?}");
        }
        let lines = [line("shop="), line("ashop=x; Shop=x")];
        let head = RequestHead::for_test("GET", "/", &lines);
        assert_eq!(value(&head, "shop"), None);
    }

    #[test]
    fn whoever_has_none_gets_one_that_leads_to_the_same_hash() {
        let (dice, mut first) = (Dice::new(), Attempt::default());
        let head = RequestHead::for_test("GET", "/", &[]);
        hash(&on(Some(60)), &head, &mut first, &dice);
        let given = first.given_line().expect("a cookie").to_owned();
        let before = first.hash_now();
        hash(&on(Some(60)), &head, &mut first, &dice);
        assert_eq!(first.given_line(), Some(&*given), "once for all its tries");
        assert_eq!(first.hash_now(), before);
        let (pair, rest) = given.split_once(';').expect("attributes");
        assert_eq!(rest, " Path=/cart; Max-Age=60; HttpOnly");
        let lines = [HeaderLine {
            name: "cookie",
            value: pair.as_bytes(),
        }];
        let head = RequestHead::for_test("GET", "/", &lines);
        let mut next = Attempt::default();
        hash(&on(Some(60)), &head, &mut next, &dice);
        assert_eq!(next.hash_now(), before);
        assert_eq!(next.given_line(), None, "it has one");
    }
}
