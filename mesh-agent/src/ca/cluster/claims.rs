//! What a service account's token says of itself. Nothing of it is believed: only
//! what it denies, so that the API server is not asked about anybody's noise, and
//! its end, once the API server said that it is good.

use serde::Deserialize;

use crate::cluster::decode;

/// Longer ones are no service account's.
const MAX_TOKEN: usize = 8 * 1024;

#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    #[serde(default)]
    aud: Audience,
    pub(super) exp: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Some(Vec<String>),
    #[default]
    None,
}

impl Claims {
    pub(super) fn read(token: &str) -> Option<Self> {
        let mut parts = token.split('.');
        let (Some(_), Some(payload), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        (token.len() <= MAX_TOKEN).then_some(())?;
        serde_json::from_slice(&decode(payload)?).ok()
    }

    pub(super) fn is_for(&self, audience: &str) -> bool {
        match &self.aud {
            Audience::One(one) => one == audience,
            Audience::Some(some) => some.iter().any(|a| a == audience),
            Audience::None => false,
        }
    }
}
