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

/// A text of a certain form.
macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident: $pattern:literal, $most:literal, $is:expr, $what:literal;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug)]
            pub(super) struct $name(pub(super) String);

            impl<'de> Deserialize<'de> for $name {
                fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
                    let text = String::deserialize(value)?;
                    let is: fn(&[u8]) -> bool = $is;
                    match (1..=$most).contains(&text.len()) && is(text.as_bytes()) {
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
                    schemars::json_schema!({
                        "type": "string", "minLength": 1, "maxLength": $most, "pattern": $pattern,
                    })
                }
            }
        )*
    };
}

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
    PathText: "^[/*][^?#\\\\]*$", 1024, |text| {
        matches!(text.first(), Some(b'/' | b'*')) && !text.iter().any(|b| b"?#\\".contains(b))
    }, "path: it begins with \"/\" or \"*\", and has no query";
    /// An identity, without `spiffe://`.
    PrincipalName: "^[a-z0-9._-]+/ns/[A-Za-z0-9._-]+/sa/[A-Za-z0-9._-]+$", 512, |text| {
        let text = std::str::from_utf8(text).unwrap_or_default();
        SpiffeId::parse(&format!("spiffe://{text}")).is_ok()
    }, "identity: TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT, without spiffe://";
}

#[cfg(test)]
mod schema {
    use std::borrow::Cow;

    use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

    use super::{Time, Timestamp, Within};

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
    use serde_json::json;

    use super::*;

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
