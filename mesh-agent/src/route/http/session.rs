//! Sessions: which requests go where the ones before them went (GEP-1619).
//!
//! A client keeps a token, in a cookie or a header, that names a rule, a backend and an
//! endpoint by hashes, and when the session began. The agent keeps nothing. Who makes
//! one up gets to an endpoint of the rule that it could get to by chance, or to one of a
//! backend with the weight 0, where sessions may go on: a token is no leave, and a weight no
//! lock.

use std::hash::{BuildHasher as _, Hash};
use std::time::Duration;

use crate::model::cookie::{self, SetCookie};
use crate::model::http_route::{SessionBy, SessionPersistence};
use crate::model::route::{BackendRef, RouteKey};
use crate::model::{HeaderEdit, Name, RequestHead};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;

/// Clocks of two nodes differ by less than that, in seconds. A token that is younger is
/// made up.
const SKEW: u64 = 300;
/// What outlives the browser and has no end does so for as long as browsers keep a cookie:
/// 400 days, in seconds (RFC 6265bis, section 5.5).
const FOREVER: u64 = 400 * 24 * 60 * 60;

/// Of a rule.
#[derive(Debug)]
pub(crate) struct Session {
    says: SessionPersistence,
    name: Box<str>,
    rule: u64,
}

/// What a client has of one. Times are in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    backend: u64,
    pub(crate) endpoint: u64,
    begun: u64,
    seen: u64,
}

/// A request's part in a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sticky<'r> {
    session: &'r Session,
    backend: u64,
    /// Where it goes on.
    pub(crate) token: Option<Token>,
}

impl Session {
    /// Rules never share one; a rule with a name keeps its own wherever it stands.
    pub(super) fn new(
        says: &SessionPersistence,
        route: &RouteKey,
        (index, named): (u32, Option<&Name>),
    ) -> Self {
        let route = (route.kind.name(), &route.namespace, &route.name);
        let rule = match named {
            Some(name) => hash((route, name)),
            None => hash((route, index)),
        };
        let name = says.name.clone();
        Self {
            name: name.unwrap_or_else(|| format!("mesh-session-{:08x}", rule >> 32).into()),
            says: SessionPersistence {
                absolute: lasting(says.absolute),
                idle: lasting(says.idle),
                ..says.clone()
            },
            rule,
        }
    }

    fn backend(&self, to: &BackendRef) -> u64 {
        hash((self.rule, &to.service.namespace, &to.service.name, to.port))
    }

    /// Of a session that still lasts.
    pub(super) fn came(&self, head: &RequestHead<'_>, now: u64) -> Option<Token> {
        let token = match self.says.by {
            SessionBy::Header => Token::of(head.values(&self.name).next()?),
            SessionBy::Cookie { .. } => cookie::values(head, &self.name).find_map(Token::of),
        }?;
        let lasts = |longest: Option<Duration>, since: u64| {
            longest.is_none_or(|longest| Duration::from_secs(now.saturating_sub(since)) <= longest)
        };
        let is_past = token.begun.max(token.seen) <= now + SKEW;
        let is_live = lasts(self.says.absolute, token.begun) && lasts(self.says.idle, token.seen);
        (is_past && is_live).then_some(token)
    }

    pub(super) fn is_of(&self, token: &Token, to: &BackendRef) -> bool {
        token.backend == self.backend(to)
    }

    /// A new one.
    pub(super) fn sticky(&self, to: &BackendRef) -> Sticky<'_> {
        Sticky {
            session: self,
            backend: self.backend(to),
            token: None,
        }
    }
}

impl Token {
    const DIGITS: usize = 48;

    fn of(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        if text.len() != Self::DIGITS || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let part = |from, to| u64::from_str_radix(&text[from..to], 16).ok();
        Some(Self {
            backend: part(0, 16)?,
            endpoint: part(16, 32)?,
            begun: part(32, 40)?,
            seen: part(40, 48)?,
        })
    }

    fn text(self) -> String {
        let Self {
            backend,
            endpoint,
            begun,
            seen,
        } = self;
        let time = |seconds: u64| u32::try_from(seconds).unwrap_or(u32::MAX);
        let (begun, seen) = (time(begun), time(seen));
        format!("{backend:016x}{endpoint:016x}{begun:08x}{seen:08x}")
    }
}

impl Sticky<'_> {
    /// For people.
    #[must_use]
    pub(crate) fn shown(&self) -> String {
        let by = match self.session.says.by {
            SessionBy::Header => "header",
            SessionBy::Cookie { .. } => "cookie",
        };
        format!("session by {by} {}", self.session.name)
    }

    /// What its answer says; nothing where the client has it already.
    pub(crate) fn answer(&self, endpoint: u64, now: u64) -> Option<HeaderEdit> {
        let says = &self.session.says;
        let goes_on = self.token.filter(|token| token.endpoint == endpoint);
        if let Some(token) = goes_on
            && (says.idle.is_none() || token.seen == now)
        {
            return None;
        }
        let token = Token {
            backend: self.backend,
            endpoint,
            begun: goes_on.map_or(now, |token| token.begun),
            seen: now,
        };
        let (name, text) = (&self.session.name, token.text());
        let SessionBy::Cookie { path, is_permanent } = &says.by else {
            return Some(HeaderEdit::Set {
                name: name.to_string(),
                value: text,
            });
        };
        let ends = |longest: Duration| (token.begun + longest.as_secs()).saturating_sub(now);
        let given = SetCookie {
            name,
            value: &text,
            path: path.as_deref().unwrap_or("/"),
            max_age: is_permanent.then(|| says.absolute.map_or(FOREVER, ends)),
            is_strict: true,
        };
        Some(cookie::set(given.line()))
    }
}

/// Zero is no limit, as for the other timeouts of a route.
fn lasting(longest: Option<Duration>) -> Option<Duration> {
    longest.filter(|longest| !longest.is_zero())
}

/// The same in each process.
fn hash(of: impl Hash) -> u64 {
    foldhash::quality::FixedState::default().hash_one(of)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::route::RouteKind;
    use crate::model::{HeaderLine, ServiceKey};

    fn session(by: SessionBy, absolute: Option<u64>, idle: Option<u64>) -> Session {
        let says = SessionPersistence {
            name: Some("s".into()),
            by,
            absolute: absolute.map(Duration::from_secs),
            idle: idle.map(Duration::from_secs),
        };
        Session::new(&says, &key("r"), (0, None))
    }

    fn key(name: &str) -> RouteKey {
        RouteKey {
            kind: RouteKind::Http,
            namespace: "shop".into(),
            name: name.into(),
        }
    }

    fn to() -> BackendRef {
        BackendRef {
            service: ServiceKey::new("shop", "web"),
            port: 80,
        }
    }

    const COOKIE: SessionBy = SessionBy::Cookie {
        path: None,
        is_permanent: false,
    };

    fn came(session: &Session, name: &str, value: &str, now: u64) -> Option<Token> {
        let lines = [HeaderLine {
            name,
            value: value.as_bytes(),
        }];
        session.came(&RequestHead::for_test("GET", "/", &lines), now)
    }

    /// What an answer with that endpoint leaves with the client.
    fn told(session: &Session, token: Option<Token>, now: u64) -> Option<String> {
        let sticky = Sticky {
            token,
            ..session.sticky(&to())
        };
        match sticky.answer(9, now)? {
            HeaderEdit::Set { value, .. } | HeaderEdit::Add { value, .. } => Some(value),
            HeaderEdit::Remove { .. } => None,
        }
    }

    #[test]
    fn a_header_is_told_once_and_leads_back() {
        let session = session(SessionBy::Header, None, None);
        let value = told(&session, None, 100).expect("a value");
        let token = came(&session, "S", &value, 1_000_000).expect("a token");
        assert!(session.is_of(&token, &to()) && token.endpoint == 9);
        assert_eq!(told(&session, Some(token), 1_000_000), None);
        let sticky = Sticky {
            token: Some(token),
            ..session.sticky(&to())
        };
        let other = sticky.answer(10, 200);
        assert!(other.is_some(), "it goes elsewhere from now on");
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let session = session(COOKIE, None, None);
        let set = told(&session, None, 100).expect("a cookie");
        let (pair, rest) = set.split_once(';').expect("attributes");
        assert_eq!(rest, " Path=/; HttpOnly; SameSite=Strict");
        let lines = format!("a=b; ss=1; s=no;{pair}; c=d");
        assert!(came(&session, "cookie", &lines, 100).is_some());
        let quoted = pair.replace("s=", "s=\"") + "\"";
        assert!(came(&session, "cookie", &quoted, 100).is_some());
        assert_eq!(came(&session, "cookie", "s=1", 100), None);
        assert_eq!(came(&session, "x", &lines, 100), None);
    }

    #[test]
    fn a_session_ends_by_age_and_by_silence() {
        let session = session(SessionBy::Header, Some(100), Some(10));
        let first = told(&session, None, 1000).expect("a value");
        assert_eq!(
            came(&session, "s", &first, 1011),
            None,
            "silent for too long"
        );
        let token = came(&session, "s", &first, 1010).expect("a token");
        let second = told(&session, Some(token), 1010).expect("it is told anew");
        let token = came(&session, "s", &second, 1020).expect("a token");
        assert_eq!(token.begun, 1000, "it is as old as it was");
        let late = Token {
            seen: 1101,
            ..token
        };
        assert_eq!(came(&session, "s", &late.text(), 1101), None, "too old");
        let endless = Token {
            begun: u64::from(u32::MAX),
            seen: u64::from(u32::MAX),
            ..token
        };
        assert_eq!(came(&session, "s", &endless.text(), 1020), None, "made up");
    }

    #[test]
    fn one_that_outlives_the_browser_says_for_how_long() {
        let by = SessionBy::Cookie {
            path: Some("/shop".into()),
            is_permanent: true,
        };
        let session = session(by, Some(3600), None);
        let set = told(&session, None, 50).expect("a cookie");
        assert!(
            set.ends_with("; Path=/shop; Max-Age=3600; HttpOnly; SameSite=Strict"),
            "{set}"
        );
    }

    #[test]
    fn a_timeout_of_zero_is_none() {
        let permanent = SessionBy::Cookie {
            path: None,
            is_permanent: true,
        };
        let session = session(permanent, Some(0), Some(0));
        let set = told(&session, None, 50).expect("a cookie");
        assert!(set.contains("; Max-Age=34560000;"), "{set}");
        let pair = set.split(';').next().expect("a pair");
        let (_, value) = pair.split_once('=').expect("a value");
        let token = Token::of(value.as_bytes()).expect("a token");
        assert_eq!(came(&session, "cookie", pair, 1_000_000), Some(token));
        assert_eq!(told(&session, Some(token), 1_000_000), None, "it has it");
    }

    #[test]
    fn rules_share_no_session() {
        let says = session(COOKIE, None, None).says;
        let of = |name, rule| Session::new(&says, &key(name), rule).backend(&to());
        let (first, second) = ((0, None), (1, None));
        assert_eq!(of("r", first), of("r", first));
        assert_ne!(of("r", first), of("r", second));
        assert_ne!(of("r", first), of("q", first));
        let name = Name::from("checkout");
        assert_eq!(
            of("r", (0, Some(&name))),
            of("r", (3, Some(&name))),
            "it moves"
        );
        assert_ne!(of("r", (0, Some(&name))), of("r", first));
    }
}
