//! A consistent hash by cookie: whoever has none gets one, and so comes back to the
//! endpoint that it was given.

use crate::balance::Attempt;
use crate::model::cookie::{self, SetCookie};
use crate::model::traffic::HashOn;
use crate::model::{Edits, RequestHead};
use crate::proxy::dice::Dice;

/// What the hash of a request is of.
pub(super) fn hash(on: &HashOn, head: &RequestHead<'_>, attempt: &mut Attempt, dice: &Dice) {
    match on {
        HashOn::Header(name) => attempt.hash_of(head.joined(name).as_deref()),
        HashOn::Cookie { name, path, ttl } => {
            // Of the first with that name (RFC 6265, section 5.4).
            let mut had = cookie::values(head, name);
            if let Some(value) = had.find(|value| !value.is_empty()) {
                return attempt.hash_of(Some(value));
            }
            // The same one, however often it is decided on.
            let value = match attempt.given() {
                Some(value) => value,
                None => {
                    let value = dice.below(u64::MAX);
                    let given = SetCookie {
                        name,
                        value: &format!("{value:016x}"),
                        path,
                        max_age: ttl.map(|ttl| ttl.as_secs().max(1)),
                        is_strict: false,
                    };
                    attempt.give(value, given.line());
                    value
                }
            };
            attempt.hash_of(Some(format!("{value:016x}").as_bytes()));
        }
        HashOn::SourceIp => {}
    }
}

/// The answer sets it where the request had none.
pub(super) fn set(attempt: &Attempt, response: &mut Edits) {
    if let Some(value) = attempt.given_line() {
        response.headers.push(cookie::set(value.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::HeaderLine;

    fn on(ttl: Option<u64>) -> HashOn {
        HashOn::Cookie {
            name: "shop".into(),
            path: "/cart".into(),
            ttl: ttl.map(Duration::from_secs),
        }
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
