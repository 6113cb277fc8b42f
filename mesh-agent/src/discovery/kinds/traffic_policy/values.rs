//! Values of fields that say themselves what they may be: what is read and what the
//! CustomResourceDefinition has is one and the same.

use std::time::{Duration, SystemTime};

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::super::route::duration;
use crate::model::policy::Pattern;
use crate::model::{SpiffeId, cookie};

/// A whole number from here to there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Within<const LEAST: u32, const MOST: u32>(pub(super) u32);

impl<'de, const LEAST: u32, const MOST: u32> Deserialize<'de> for Within<LEAST, MOST> {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(value)?;
        let within = u32::try_from(number).ok();
        let within = within.filter(|number| (LEAST..=MOST).contains(number));
        within.map(Self).ok_or_else(|| {
            D::Error::custom(format!("{number} is not a number from {LEAST} to {MOST}"))
        })
    }
}

/// From here to there, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time<const LEAST: u64, const MOST: u64>(pub(super) Duration);

impl<'de, const LEAST: u64, const MOST: u64> Deserialize<'de> for Time<LEAST, MOST> {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        let text = String::deserialize(value)?;
        let wrong = |why: String| D::Error::custom(format!("{text:?} is not a duration {why}"));
        let time = duration(&text);
        let time = time.ok_or_else(|| wrong("such as 10s, 500ms or 1h30m".to_owned()))?;
        let (least, most) = (Duration::from_millis(LEAST), Duration::from_millis(MOST));
        match (least..=most).contains(&time) {
            true => Ok(Self(time)),
            false => Err(wrong(format!(
                "from {} to {}",
                humantime::format_duration(least),
                humantime::format_duration(most)
            ))),
        }
    }
}

/// A second, in UTC.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timestamp(pub(super) SystemTime);

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        let text = String::deserialize(value)?;
        let time = humantime::parse_rfc3339(&text).ok();
        // No parts of a second: as the pattern of the definition has it.
        let time = time.filter(|_| text.len() == "2026-12-31T17:30:00Z".len());
        let wrong = || format!("{text:?} is not a time such as 2026-12-31T17:30:00Z");
        time.map(Self).ok_or_else(|| D::Error::custom(wrong()))
    }
}

/// A text of a certain form: `$pattern` is like it, and none of `$never`.
macro_rules! texts {
    ($(
        $(#[$doc:meta])* $name:ident: $pattern:literal, $most:literal, $is:expr, $what:literal
        $(, never $never:expr)?;
    )*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug)]
            pub(super) struct $name(pub(super) String);

            impl<'de> Deserialize<'de> for $name {
                fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
                    let text = String::deserialize(value)?;
                    let is: fn(&[u8]) -> bool = $is;
                    // As an API server counts.
                    let count = text.chars().count();
                    match (1..=$most).contains(&count) && is(text.as_bytes()) {
                        true => Ok(Self(text)),
                        false => Err(D::Error::custom(format!("{text:?} is no {}", $what))),
                    }
                }
            }

            #[cfg(test)]
            impl schemars::JsonSchema for $name {
                fn schema_name() -> std::borrow::Cow<'static, str> {
                    stringify!($name).into()
                }

                fn inline_schema() -> bool {
                    true
                }

                fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                    let never: &[&[(&str, &str)]] = &[$($never)?];
                    schema::of_text($pattern, $most, &never.concat())
                }
            }
        )*
    };
}

/// What no path in its normal form has, and why: a regular expression each.
#[cfg(test)]
const OF_NO_PATH: &[(&str, &str)] = &[
    ("//", "empty segments are taken out of a path"),
    (
        "/([.]|%2[eE]){1,2}(/|$)",
        "'.' and '..' are taken out of a path",
    ),
    (
        "%([^0-9a-fA-F]|.[^0-9a-fA-F]|.?$|00|2[fF]|5[cC])",
        "'%' is followed by two digits, of no separator",
    ),
];

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

texts! {
    /// A name of an object, of a port, or of a limit.
    Label: "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", 63, |text| {
        let is_word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        text.iter().all(|b| is_word(b) || *b == b'-')
            && [text.first(), text.last()].into_iter().flatten().all(is_word)
    }, "name: lower case, digits and \"-\"";
    HeaderName: "^[A-Za-z0-9!#$%&'*+\\-.^_`|~]+$", 256, |text| {
        text.iter().all(|b| is_token(*b))
    }, "name of a header";
    CookieName: "^[A-Za-z0-9!#$%&'*+\\-.^_`|~]+$", 256, |text| {
        text.iter().all(|b| is_token(*b))
    }, "name of a cookie";
    CookiePath: "^/[!-:<-~]*$", 1024, |text| cookie::is_path(text), "path of a cookie";
    /// `package.Service/Method`.
    GrpcMethod: "^[A-Za-z_][A-Za-z0-9_.]*/[A-Za-z_][A-Za-z0-9_]*$", 512, |text| {
        let is_begin = |b: &u8| b.is_ascii_alphabetic() || *b == b'_';
        let is_word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
        let text = std::str::from_utf8(text).unwrap_or_default();
        text.split_once('/').is_some_and(|(service, method)| {
            let begins = |name: &str| name.as_bytes().first().is_some_and(is_begin);
            begins(service) && service.bytes().all(|b| is_word(&b) || b == b'.')
                && begins(method) && method.bytes().all(|b| is_word(&b))
        })
    }, "method of gRPC: package.Service/Method";
    /// With `*` at most as its first or last sign.
    MethodPattern: "^(\\*|\\*?[A-Z-]+|[A-Z-]+\\*)$", 64, |text| {
        let is_sign = |b: &u8| b.is_ascii_uppercase() || matches!(b, b'-' | b'*');
        let text = std::str::from_utf8(text).unwrap_or_default();
        text.bytes().all(|b| is_sign(&b)) && Pattern::parse(text).is_some()
    }, "method: capitals, with \"*\" at most as first or last sign";
    /// What it means is looked at where it is read.
    PathText: "^(/[^?#\\\\\\x00*{}]*[*]?|[*][^?#\\\\\\x00*{}]*|(/([^?#\\\\\\x00*{}/]*|[{][*][}]))*(/[{][*][*][}](/[^?#\\\\\\x00*{}/]*)*)?)$", 1024, |text| {
        matches!(text.first(), Some(b'/' | b'*')) && !text.iter().any(|b| b"?#\\".contains(b))
    }, "path: it begins with \"/\" or \"*\", and has no query", never OF_NO_PATH;
    /// An identity, without `spiffe://`.
    PrincipalName: "^[a-z0-9._-]{1,255}/ns/[A-Za-z0-9._-]+/sa/[A-Za-z0-9._-]+$", 512, |text| {
        let text = std::str::from_utf8(text).unwrap_or_default();
        SpiffeId::parse(&format!("spiffe://{text}")).is_ok()
    }, "identity: TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT, without spiffe://",
        never &[("/[.]{1,2}(/|$)", "'.' and '..' are no names")];
}

#[cfg(test)]
mod schema {
    use std::borrow::Cow;

    use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
    use serde_json::{Value, json};

    use super::{Time, Timestamp, Within};

    /// The rules say what the pattern alone cannot, in words.
    pub(super) fn of_text(pattern: &str, most: u32, never: &[(&str, &str)]) -> Schema {
        let mut schema = json_schema!({
            "type": "string", "minLength": 1, "maxLength": most, "pattern": pattern,
        });
        let rule = |(like, why): &(&str, &str)| {
            let rule = format!("!self.matches('{like}')");
            json!({"rule": rule, "message": why})
        };
        if !never.is_empty() {
            let rules: Value = never.iter().map(rule).collect();
            schema.insert("x-kubernetes-validations".to_owned(), rules);
        }
        schema
    }

    impl JsonSchema for Timestamp {
        fn schema_name() -> Cow<'static, str> {
            "Timestamp".into()
        }

        fn inline_schema() -> bool {
            true
        }

        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            json_schema!({
                "type": "string", "format": "date-time", "maxLength": 20,
                "pattern": "^[0-9]{4}(-[0-9]{2}){2}T([0-9]{2}:){2}[0-9]{2}Z$",
            })
        }
    }

    impl<const LEAST: u32, const MOST: u32> JsonSchema for Within<LEAST, MOST> {
        fn schema_name() -> Cow<'static, str> {
            format!("Within{LEAST}To{MOST}").into()
        }

        fn inline_schema() -> bool {
            true
        }

        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            json_schema!({
                "type": "integer", "format": "int32", "minimum": LEAST, "maximum": MOST,
            })
        }
    }

    impl<const LEAST: u64, const MOST: u64> JsonSchema for Time<LEAST, MOST> {
        fn schema_name() -> Cow<'static, str> {
            format!("Time{LEAST}To{MOST}").into()
        }

        fn inline_schema() -> bool {
            true
        }

        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            let rule = format!(
                "duration(self) >= duration('{LEAST}ms') && duration(self) <= duration('{MOST}ms')"
            );
            json_schema!({
                "type": "string", "maxLength": 28, "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$",
                "x-kubernetes-validations": [{
                    "rule": rule, "message": format!("not from {LEAST}ms to {MOST}ms"),
                }],
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use proptest::prelude::*;
    use regex::Regex;
    use schemars::{JsonSchema, SchemaGenerator};
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;
    use crate::model::policy::PathPattern;

    fn schema<T: JsonSchema>() -> Value {
        T::json_schema(&mut SchemaGenerator::default()).to_value()
    }

    /// How an API server judges a text.
    struct Judge {
        least: u64,
        most: u64,
        like: Regex,
        never: Vec<Regex>,
    }

    impl Judge {
        fn of<T: JsonSchema>() -> Self {
            let schema = schema::<T>();
            let number = |name: &str| schema[name].as_u64().expect("a number");
            let regex = |text: &str| Regex::new(text).expect("a pattern");
            let never = |rule: &Value| {
                let rule = rule["rule"].as_str().expect("a rule");
                let never = rule.strip_prefix("!self.matches('");
                let never = never.and_then(|rest| rest.strip_suffix("')"));
                regex(never.expect("of this form"))
            };
            let rules = schema["x-kubernetes-validations"].as_array();
            Self {
                least: number("minLength"),
                most: number("maxLength"),
                like: regex(schema["pattern"].as_str().expect("a pattern")),
                never: rules.into_iter().flatten().map(never).collect(),
            }
        }

        fn takes(&self, text: &str) -> bool {
            let count = text.chars().count() as u64;
            (self.least..=self.most).contains(&count)
                && self.like.is_match(text)
                && !self.never.iter().any(|never| never.is_match(text))
        }
    }

    /// What is taken is read.
    fn is_read_if_taken<T: JsonSchema + DeserializeOwned + Debug>(texts: &[String]) {
        let judge = Judge::of::<T>();
        for text in texts.iter().filter(|text| judge.takes(text)) {
            let read = serde_json::from_value::<T>(json!(text));
            assert!(read.is_ok(), "{} {text:?}: {read:?}", T::schema_name());
        }
    }

    fn texts_like<T: JsonSchema>() -> impl Strategy<Value = Vec<String>> {
        let schema = schema::<T>();
        let pattern = schema["pattern"].as_str().expect("a pattern");
        let inner = pattern.trim_start_matches('^').trim_end_matches('$');
        let one = proptest::string::string_regex(inner).expect("a pattern");
        proptest::collection::vec(one, 8)
    }

    /// What is near to what a path may be.
    fn path_texts() -> impl Strategy<Value = String> {
        let part = proptest::sample::select(vec![
            "/", "/", "/", "*", "{*}", "/{*}", "/{**}", ".", "..", "%2e", "%2E", "%2F", "%5c",
            "%00", "%41", "%a", "%", "%zz", "a", "b c", "é", "{", "}", "?", "#", "\\", "\0", "\n",
        ]);
        let rest = proptest::collection::vec(part, 0..8);
        let first = proptest::sample::select(vec!["/", "*", "/a", "/{*}", ""]);
        (first, rest).prop_map(|(first, rest)| format!("{first}{}", rest.concat()))
    }

    proptest! {
        /// Whatever the API server keeps, a node that has just started understands as well.
        #[test]
        fn what_the_definition_takes_is_understood(
            header in texts_like::<HeaderName>(),
            cookie in texts_like::<CookieName>(),
            path in texts_like::<CookiePath>(),
            label in texts_like::<Label>(),
            grpc in texts_like::<GrpcMethod>(),
            method in texts_like::<MethodPattern>(),
            principal in texts_like::<PrincipalName>(),
        ) {
            is_read_if_taken::<HeaderName>(&header);
            is_read_if_taken::<CookieName>(&cookie);
            is_read_if_taken::<CookiePath>(&path);
            is_read_if_taken::<Label>(&label);
            is_read_if_taken::<GrpcMethod>(&grpc);
            is_read_if_taken::<MethodPattern>(&method);
            is_read_if_taken::<PrincipalName>(&principal);
        }

        #[test]
        fn the_definition_takes_those_paths_that_are_understood(text in path_texts()) {
            let read = serde_json::from_value::<PathText>(json!(text)).is_ok();
            let is_understood = read && PathPattern::parse(&text).is_ok();
            prop_assert_eq!(Judge::of::<PathText>().takes(&text), is_understood, "{}", text);
        }
    }

    #[test]
    fn the_definition_refuses_what_no_path_or_identity_is_like() {
        let (path, principal) = (Judge::of::<PathText>(), Judge::of::<PrincipalName>());
        for wrong in [
            "/a*b",
            "/a/../b",
            "/a/%2e",
            "/%zz",
            "/a//b",
            "/{a}",
            "/{**}/{*}",
            "/%2f",
        ] {
            assert!(!path.takes(wrong), "{wrong}");
        }
        let long = "é".repeat(1_023);
        for right in [
            "/",
            "*",
            "/a/.*",
            "/a/{*}/b",
            "*.txt",
            "/{**}/b/",
            &format!("/{long}"),
        ] {
            assert!(path.takes(right), "{right}");
            assert!(
                serde_json::from_value::<PathText>(json!(right)).is_ok(),
                "{right}"
            );
        }
        for wrong in ["a/ns/../sa/x", "a/ns/x/sa/."] {
            assert!(!principal.takes(wrong), "{wrong}");
        }
        assert!(principal.takes("a/ns/.x/sa/x."));
    }

    #[test]
    fn a_value_is_what_its_type_says_and_nothing_else() {
        let number = |value| serde_json::from_value::<Within<1, 100>>(value);
        assert_eq!(number(json!(100)).expect("a number").0, 100);
        for wrong in [
            json!(0),
            json!(101),
            json!(-1),
            json!(1.5),
            json!("5"),
            json!(u64::MAX),
        ] {
            assert!(number(wrong.clone()).is_err(), "{wrong}");
        }
        let time = |text: &str| serde_json::from_value::<Time<1, 60_000>>(json!(text));
        assert_eq!(time("1m").expect("a time").0, Duration::from_secs(60));
        for wrong in ["0s", "61s", "1", "1.5s", "-1s", ""] {
            let said = time(wrong).expect_err(wrong).to_string();
            assert!(said.contains("is not a duration"), "{said}");
        }
        let stamp = |text: &str| serde_json::from_value::<Timestamp>(json!(text)).is_ok();
        assert!(stamp("2026-12-31T17:30:00Z"));
        for wrong in [
            "2026-12-31T17:30:00",
            "2026-12-31T17:30:00+01:00",
            "2026-12-31T17:30:00.5Z",
            "2026-13-31T17:30:00Z",
            "2026-12-31",
            "1h",
        ] {
            assert!(!stamp(wrong), "{wrong}");
        }
        let principal = |text: &str| serde_json::from_value::<PrincipalName>(json!(text)).is_ok();
        assert!(principal("cluster.local/ns/shop/sa/web"));
        for wrong in [
            "spiffe://cluster.local/ns/shop/sa/web",
            "cluster.local/ns/shop/sa/*",
            "*",
            "cluster.local/ns/shop",
        ] {
            assert!(!principal(wrong), "{wrong}");
        }
        let label = |text: &str| serde_json::from_value::<Label>(json!(text)).is_ok();
        assert!(label("a-1") && label("a"));
        assert!(!label("-a") && !label("A") && !label("") && !label(&"a".repeat(64)));
        let grpc = |text: &str| serde_json::from_value::<GrpcMethod>(json!(text)).is_ok();
        assert!(grpc("shop.v1.Cart/Get") && grpc("Cart/Get"));
        for wrong in [
            "/shop.Cart/Get",
            "shop.Cart",
            "shop.Cart/",
            "a/b/c",
            "a/*",
            "1a/b",
            "",
        ] {
            assert!(!grpc(wrong), "{wrong}");
        }
        let method = |text: &str| serde_json::from_value::<MethodPattern>(json!(text)).is_ok();
        assert!(method("GET") && method("M-SEARCH") && method("P*") && method("*") && method("*T"));
        assert!(
            !method("get") && !method("*P*") && !method("") && !method("A B") && !method("P*T")
        );
        let text = |text: &str| serde_json::from_value::<PathText>(json!(text)).is_ok();
        assert!(text("/a") && text("/a/{*}/b*") && text("*.txt"));
        assert!(!text("a") && !text("/a?b") && !text("") && !text("/a#b") && !text("/a\\b"));
        let path = |text: &str| serde_json::from_value::<CookiePath>(json!(text)).is_ok();
        assert!(path("/a/b") && !path("a") && !path("/a;b") && !path("/a b"));
    }
}
