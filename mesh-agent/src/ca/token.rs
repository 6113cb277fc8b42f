//! Who calls: join tokens, and the seam for other proofs.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::errors::Refusal;
use super::units::{hex, time};
use crate::identity::TokenLife;
use crate::model::SpiffeId;
use crate::model::kubernetes_name::{is_label, is_subdomain};

const PREFIX: &str = "mesh1";

/// Identities that a node may have: `NAMESPACE/SERVICE_ACCOUNT` or `NAMESPACE/*`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Allowed {
    namespace: String,
    /// None: all of the namespace.
    account: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is neither NAMESPACE/SERVICE_ACCOUNT nor NAMESPACE/*, with names as Kubernetes has them (a-z, 0-9, '-')"
)]
pub(crate) struct NotAllowed;

/// As given: names that no namespace and no account can have are mistakes.
impl FromStr for Allowed {
    type Err = NotAllowed;

    fn from_str(text: &str) -> Result<Self, NotAllowed> {
        let allowed = Self::try_from(text.to_owned())?;
        let account = allowed.account.as_deref();
        let good = is_label(&allowed.namespace) && account.is_none_or(is_subdomain);
        good.then_some(allowed).ok_or(NotAllowed)
    }
}

/// As kept, also by an earlier version that took any name.
impl TryFrom<String> for Allowed {
    type Error = NotAllowed;

    fn try_from(text: String) -> Result<Self, NotAllowed> {
        let (namespace, account) = text.split_once('/').ok_or(NotAllowed)?;
        let plain = |t: &str| !t.is_empty() && !t.contains(['*', '/', '?', '%']);
        if !plain(namespace) || !(account == "*" || plain(account)) {
            return Err(NotAllowed);
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            account: (account != "*").then(|| account.to_owned()),
        })
    }
}

impl From<Allowed> for String {
    fn from(allowed: Allowed) -> Self {
        let account = allowed.account.as_deref().unwrap_or("*");
        format!("{}/{account}", allowed.namespace)
    }
}

impl Allowed {
    pub(super) fn covers(&self, id: &SpiffeId) -> bool {
        let account = self.account.as_deref();
        self.namespace == id.namespace() && account.is_none_or(|a| a == id.service_account())
    }
}

/// A caller that proved who it is.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// For limits and the audit log.
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) entitled: Entitled,
    /// How long what it showed is good, where that ends.
    pub(crate) token: Option<TokenLife>,
}

/// Which identities a caller may have.
#[derive(Clone, Debug)]
pub(crate) enum Entitled {
    Named(Vec<Allowed>),
    /// Those of the pods that live on its node.
    PodsOfNode,
}

/// What a caller shows.
pub(crate) struct Proof<'a> {
    /// After `Bearer `.
    pub(crate) token: Option<&'a str>,
    /// The node that it says to be.
    pub(crate) node: Option<&'a str>,
    /// Where the call comes from.
    pub(crate) source: IpAddr,
    /// Seconds since 1970.
    pub(crate) now: u64,
}

/// Why a caller is not taken. Who shows the secret of a known token is told
/// what is the matter with it; nobody else learns anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denied {
    pub(crate) why: Refusal,
    /// The token whose secret was shown.
    pub(crate) token: Option<Shown>,
    /// What is the matter, for who has shown a token that is authentic.
    pub(crate) said: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) id: String,
    /// The node that it is for.
    pub(crate) node: String,
    pub(crate) expires: u64,
}

impl From<Refusal> for Denied {
    fn from(why: Refusal) -> Self {
        Self {
            why,
            token: None,
            said: None,
        }
    }
}

impl Denied {
    /// For who asked.
    #[must_use]
    pub(crate) fn sentence(&self) -> String {
        let Some(Shown { id, node, expires }) = &self.token else {
            let said = self.said.as_deref();
            return said.unwrap_or("not authenticated").to_owned();
        };
        match self.why {
            Refusal::ExpiredToken => format!("token {id} expired at {}", time(*expires)),
            Refusal::RevokedToken => format!("token {id} was revoked"),
            Refusal::OtherNode => format!("token {id} is for node {node}"),
            _ => "not authenticated".to_owned(),
        }
    }
}

pub(crate) type Answer<'a> = Pin<Box<dyn Future<Output = Result<Caller, Denied>> + Send + 'a>>;

/// Join tokens here; an API server's token review is another one.
pub(crate) trait Authenticator: Send + Sync {
    fn authenticate<'a>(&'a self, proof: Proof<'a>) -> Answer<'a>;
}

/// One join token as it is kept: its secret only as a hash.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Token {
    pub(crate) id: String,
    hash: String,
    pub(crate) node: String,
    pub(crate) allowed: Vec<Allowed>,
    pub(crate) created: u64,
    pub(crate) expires: u64,
    pub(crate) revoked: bool,
}

/// What a token is good for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TokenState {
    Valid,
    Expired,
    Revoked,
}

impl Token {
    #[must_use]
    pub(crate) fn life(&self) -> TokenLife {
        TokenLife {
            created: self.created,
            expires: self.expires,
        }
    }

    /// `now` in seconds since 1970.
    #[must_use]
    pub(crate) fn state(&self, now: u64) -> TokenState {
        match (self.revoked, self.expires <= now) {
            (true, _) => TokenState::Revoked,
            (false, true) => TokenState::Expired,
            (false, false) => TokenState::Valid,
        }
    }

    /// A new one, and the text to hand to the node.
    pub(super) fn new(
        node: String,
        allowed: Vec<Allowed>,
        now: u64,
        lifetime: u64,
    ) -> (Self, String) {
        let id = hex(&rand::random::<[u8; 8]>());
        // 256 bits: a plain hash cannot be guessed back.
        let secret = hex(&rand::random::<[u8; 32]>());
        let text = format!("{PREFIX}.{id}.{secret}");
        let token = Self {
            hash: hash(&secret),
            id,
            node,
            allowed,
            created: now,
            expires: now.saturating_add(lifetime),
            revoked: false,
        };
        (token, text)
    }
}

/// Else it is another authenticator's.
pub(super) fn is_join_token(proof: &Proof<'_>) -> bool {
    let word = proof.token.and_then(|text| text.split('.').next());
    word.is_none_or(|word| word == PREFIX)
}

pub(super) fn check(tokens: &[Token], proof: &Proof<'_>) -> Result<Caller, Denied> {
    let text = proof.token.ok_or(Refusal::NoToken)?;
    let mut parts = text.split('.');
    let (Some(PREFIX), Some(id), Some(secret), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refusal::UnknownToken.into());
    };
    let token = tokens
        .iter()
        .find(|t| t.id == id)
        .ok_or(Refusal::UnknownToken)?;
    if !same(token.hash.as_bytes(), hash(secret).as_bytes()) {
        return Err(Refusal::UnknownToken.into());
    }
    let why = if token.revoked {
        Refusal::RevokedToken
    } else if token.expires <= proof.now {
        Refusal::ExpiredToken
    } else if proof.node != Some(&token.node) {
        // Who does not say which node it is does not have the token's node.
        Refusal::OtherNode
    } else {
        return Ok(Caller {
            name: token.id.clone(),
            node: token.node.clone(),
            entitled: Entitled::Named(token.allowed.clone()),
            token: Some(token.life()),
        });
    };
    Err(Denied {
        why,
        said: None,
        token: Some(Shown {
            id: token.id.clone(),
            node: token.node.clone(),
            expires: token.expires,
        }),
    })
}

fn hash(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

/// Takes as long whatever differs.
fn same(a: &[u8], b: &[u8]) -> bool {
    let differs = a
        .iter()
        .zip(b)
        .fold(0, |all, (x, y)| std::hint::black_box(all | (x ^ y)));
    a.len() == b.len() && differs == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> (Token, String) {
        let allowed = vec![
            "shop/web".parse().expect("exact"),
            "jobs/*".parse().expect("all"),
        ];
        Token::new("n1".to_owned(), allowed, 100, 50)
    }

    fn proof<'a>(text: &'a str, node: &'a str, now: u64) -> Proof<'a> {
        Proof {
            token: Some(text),
            node: Some(node),
            source: IpAddr::from([127, 0, 0, 1]),
            now,
        }
    }

    #[test]
    fn a_token_is_good_for_its_node_until_it_expires_or_is_revoked() {
        let (mut token, text) = token();
        let check = |t: &Token, text: &str, node, now| {
            let checked = check(std::slice::from_ref(t), &proof(text, node, now));
            checked.map(|c| c.node).map_err(|denied| denied.why)
        };
        assert_eq!(check(&token, &text, "n1", 149), Ok("n1".to_owned()));
        assert_eq!(check(&token, &text, "n2", 149), Err(Refusal::OtherNode));
        assert_eq!(check(&token, &text, "n1", 150), Err(Refusal::ExpiredToken));
        let mut other = text.clone();
        other.replace_range(
            text.len() - 1..,
            if text.ends_with('0') { "1" } else { "0" },
        );
        assert_eq!(check(&token, &other, "n1", 149), Err(Refusal::UnknownToken));
        assert_eq!(
            check(&token, &format!("{text}.x"), "n1", 149),
            Err(Refusal::UnknownToken)
        );
        token.revoked = true;
        assert_eq!(check(&token, &text, "n1", 149), Err(Refusal::RevokedToken));
        assert!(
            !token
                .hash
                .contains(text.rsplit('.').next().expect("a secret"))
        );
    }

    #[test]
    fn the_tokens_node_cannot_be_left_out() {
        let (token, text) = token();
        let nameless = Proof {
            node: None,
            ..proof(&text, "n1", 100)
        };
        let denied = check(&[token], &nameless).expect_err("refused");
        assert_eq!(denied.why, Refusal::OtherNode);
    }

    #[test]
    fn who_has_the_secret_is_told_what_is_wrong_with_the_token_and_nobody_else() {
        let (token, text) = token();
        let id = token.id.clone();
        let denied = |text: &str, now| {
            let denied = check(std::slice::from_ref(&token), &proof(text, "n1", now));
            denied.expect_err("refused").sentence()
        };
        let expired = format!("token {id} expired at 1970-01-01T00:02:30Z");
        assert_eq!(denied(&text, 150), expired);
        let guess = format!("mesh1.{id}.{}", "0".repeat(64));
        assert_eq!(denied(&guess, 150), "not authenticated");
    }

    #[test]
    fn a_pattern_that_an_earlier_version_kept_is_still_read() {
        let kept: Allowed = serde_json::from_str("\"Shop_X/WEB\"").expect("it is read");
        assert_eq!(String::from(kept), "Shop_X/WEB");
    }

    #[test]
    fn a_caller_may_have_only_what_its_token_names() {
        let (token, text) = token();
        let caller = check(&[token], &proof(&text, "n1", 100)).expect("a caller");
        for (id, may) in [
            ("shop/sa/web", true),
            ("shop/sa/web2", false),
            ("jobs/sa/any", true),
            ("job/sa/any", false),
        ] {
            let id =
                SpiffeId::parse(&format!("spiffe://cluster.local/ns/{id}")).expect("an identity");
            let Entitled::Named(allowed) = &caller.entitled else {
                panic!("it names them");
            };
            let has = allowed.iter().any(|allowed| allowed.covers(&id));
            assert_eq!(has, may, "{id}");
        }
    }

    #[test]
    fn patterns_are_exact_or_a_namespace() {
        for text in [
            "*/*",
            "shop",
            "shop/",
            "/web",
            "shop/w*",
            "*/web",
            "shop/a/b",
            "",
            "Shop_X/WEB",
            "shop/WEB",
            "Shop/*",
            "shop.x/web",
            "-shop/web",
            "shop/web.",
            "shop/we b",
        ] {
            assert_eq!(text.parse::<Allowed>(), Err(NotAllowed), "{text}");
        }
    }
}
