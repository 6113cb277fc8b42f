//! Any bytes as what a client has of a session.

use super::*;
use crate::model::route::RouteKind;
use crate::model::{HeaderLine, Host, HttpVersion, Path, ServiceKey};

const NOW: u64 = 1_000;
const LONGEST: u64 = 500;
const SILENT: u64 = 100;

/// In a header, and in a cookie: a token that is taken lasts, and the one that is told
/// behind it leads to the same place.
pub(crate) fn session(bytes: &[u8]) {
    let cookie = SessionBy::Cookie {
        path: None,
        is_permanent: true,
    };
    for (by, name) in [(SessionBy::Header, "s"), (cookie, "cookie")] {
        let says = SessionPersistence {
            name: Some("s".into()),
            by,
            absolute: Some(Duration::from_secs(LONGEST)),
            idle: Some(Duration::from_secs(SILENT)),
        };
        let route = RouteKey {
            kind: RouteKind::Http,
            namespace: "shop".into(),
            name: "r".into(),
        };
        let session = Session::new(&says, &route, (0, None));
        if let Some(token) = came(&session, (name, bytes), NOW) {
            goes_on(&session, token);
        }
    }
}

fn came(session: &Session, (name, value): (&str, &[u8]), now: u64) -> Option<Token> {
    let head = RequestHead {
        version: HttpVersion::Http11,
        method: "GET",
        target: b"/",
        path: Path::of(b"/"),
        query: None,
        host: Host::parse(b"shop"),
        headers: &[HeaderLine { name, value }],
    };
    session.came(&head, now)
}

fn goes_on(session: &Session, token: Token) {
    assert!(token.begun.max(token.seen) <= NOW + SKEW, "{token:?}");
    assert!(token.begun + LONGEST >= NOW && token.seen + SILENT >= NOW);
    assert_eq!(Token::of(token.text().as_bytes()), Some(token));
    let to = BackendRef {
        service: ServiceKey::new("shop", "web"),
        port: 80,
    };
    let own = session.sticky(&to);
    let sticky = Sticky {
        token: Some(token),
        ..own
    };
    let told = sticky.answer(token.endpoint, NOW);
    let (name, value) = match told {
        None => return assert_eq!(token.seen, NOW, "it is told that it goes on"),
        Some(HeaderEdit::Set { name, value }) => (name, value),
        Some(HeaderEdit::Add { name, value }) => {
            let pair = value.split(';').next().unwrap_or_default().to_owned();
            assert!(name.eq_ignore_ascii_case("set-cookie"), "{name}");
            ("cookie".to_owned(), pair)
        }
        Some(HeaderEdit::Remove { name }) => panic!("{name} is removed"),
    };
    let next = came(session, (&name, value.as_bytes()), NOW);
    let wanted = Token {
        backend: own.backend,
        seen: NOW,
        ..token
    };
    assert_eq!(next, Some(wanted), "{name}: {value}");
}

#[cfg(test)]
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let token = |begun: u64, seen: u64| {
        let token = Token {
            backend: 1 << 60,
            endpoint: 0xdead_beef,
            begun,
            seen,
        };
        token.text()
    };
    let live = token(800, 950);
    let seeds = [
        ("live", live.clone()),
        ("now", token(NOW, NOW)),
        ("old", token(1, 990)),
        ("silent", token(900, 1)),
        ("ahead", token(1_200, 1_250)),
        ("made-up", token(u64::MAX, u64::MAX)),
        ("cookie", format!("a=b; s={live}; s=c")),
        ("quoted", format!("s=\"{live}\"")),
        ("none", "s=".to_owned()),
    ];
    seeds.map(|(name, seed)| (name, seed.into_bytes())).into()
}
