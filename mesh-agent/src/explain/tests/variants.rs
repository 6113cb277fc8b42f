//! Ways to write a denied path or host: none is let through, and what goes on to the
//! application means the denied thing to no server.

use super::pod;
use crate::http::h1::{Lines, Parsed, Scan, request_head};
use crate::model::policy::{
    Action, AuthorizationPolicy, HostPattern, Match, Operation, PathPattern, Rule, Scope,
};
use crate::model::{Path, Snapshot, Workload};
use crate::policy::{Authorizer, Request, Verdict};

/// What becomes of a request's bytes.
#[derive(Debug, PartialEq)]
enum Became {
    /// No policy was asked.
    Malformed,
    Denied,
    /// And the path that the application gets.
    Permitted(String),
}

struct Policed {
    authorizer: Authorizer,
    web: std::sync::Arc<Workload>,
}

impl Policed {
    fn by(action: Action, to: Operation) -> Self {
        let rule = Rule {
            to: vec![to],
            ..Rule::default()
        };
        let policy = AuthorizationPolicy {
            namespace: "shop".to_owned(),
            name: "p".to_owned(),
            action,
            dry_run: false,
            scope: Scope::Namespace,
            rules: vec![rule],
            broken: None,
        };
        let web = pod("web", "n1", "10.0.0.1", true);
        let mut snapshot = Snapshot {
            policies: vec![policy].into(),
            ..Snapshot::default()
        };
        snapshot.workloads.insert(web.clone());
        Self {
            authorizer: Authorizer::compile(&snapshot),
            web,
        }
    }

    fn became(&self, target: &[u8], host: &str) -> Became {
        let mut bytes = b"GET ".to_vec();
        bytes.extend_from_slice(target);
        bytes.extend_from_slice(format!(" HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
        let mut lines = Lines::new();
        let parsed = request_head(&bytes, &mut Scan::default(), &mut lines);
        let Ok(Parsed::Head { head, .. }) = parsed else {
            return Became::Malformed;
        };
        let asked = Request {
            source: None,
            source_ip: [10, 0, 0, 9].into(),
            destination: &self.web,
            destination_ip: [10, 0, 0, 1].into(),
            destination_port: 80,
            sni: None,
            http: Some(&head.head),
        };
        match (self.authorizer.check(&asked), &head.head.path) {
            (Verdict::Permit(_), Path::Normal(path)) => {
                Became::Permitted(path.normal.clone().into_owned())
            }
            (Verdict::Permit(_), _) => panic!("permitted without a path"),
            (Verdict::Deny(_), _) => Became::Denied,
            (Verdict::NeedsRequest, _) => panic!("there is a request"),
        }
    }
}

fn paths(patterns: &[&str]) -> Operation {
    let parse = |text: &&str| PathPattern::parse(text).expect(text);
    Operation {
        paths: Match {
            values: patterns.iter().map(parse).collect(),
            not_values: vec![],
        },
        ..Operation::default()
    }
}

fn hosts(patterns: &[&str]) -> Operation {
    let parse = |text: &&str| HostPattern::parse(text).expect(text);
    Operation {
        hosts: Match {
            values: patterns.iter().map(parse).collect(),
            not_values: vec![],
        },
        ..Operation::default()
    }
}

/// A server's reading of a target: are escaped slashes slashes, are backslashes, are
/// parameters of segments cut. All decode, and resolve dots and empty segments.
fn reading(target: &[u8], [slashes, backslashes, parameters]: [bool; 3]) -> Vec<u8> {
    let path = target.split(|b| b"?#".contains(b)).next().unwrap_or(b"");
    let mut segments = Vec::new();
    for segment in path.split(|b| *b == b'/') {
        let end = segment.iter().position(|b| *b == b';' && parameters);
        let decoded = decode(&segment[..end.unwrap_or(segment.len())]);
        let is_slash = |b: &u8| (*b == b'/' && slashes) || (*b == b'\\' && backslashes);
        segments.extend(decoded.split(is_slash).map(<[u8]>::to_vec));
    }
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for segment in segments {
        match &segment[..] {
            b"" | b"." => {}
            b".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    let mut whole = b"/".to_vec();
    whole.extend(kept.join(&b"/"[..]));
    whole
}

fn decode(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let digits = text
            .get(at + 1..at + 3)
            .and_then(|d| std::str::from_utf8(d).ok());
        let byte = digits.and_then(|d| u8::from_str_radix(d, 16).ok());
        match byte.filter(|_| text[at] == b'%') {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(text[at]);
                at += 1;
            }
        }
    }
    decoded
}

fn readings(target: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    (0..8).map(move |bits| reading(target, [bits & 1 != 0, bits & 2 != 0, bits & 4 != 0]))
}

fn is_under(path: &[u8], prefix: &str) -> bool {
    let rest = path.strip_prefix(prefix.as_bytes());
    rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// The word `admin` in all its places and disguises.
fn targets() -> Vec<Vec<u8>> {
    let mut targets: Vec<Vec<u8>> = Vec::new();
    let written = [
        "/admin",
        "/admin/",
        "/admin/secret",
        "//admin",
        "///admin//secret",
        "/./admin",
        "/.//./admin",
        "/public/../admin",
        "/admin/x/../secret",
        "/public/..//admin",
        "/../admin",
        "/public/../../admin",
        "/%61dmin",
        "/a%64min",
        "/ad%6din",
        "/ad%6Din",
        "/adm%69n",
        "/admi%6e",
        "/%61%64%6d%69%6e",
        "/admin%2fsecret",
        "/admin%2Fsecret",
        "/%2fadmin",
        "/public/%2e%2e/admin",
        "/public/.%2e/admin",
        "/public/%2e./admin",
        "/public/%2E%2E/admin",
        "/public/..%2fadmin",
        "/%2e/admin",
        "/%2e%2f/admin",
        "/admin\\secret",
        "/public/..\\admin",
        "/\\admin",
        "/admin%5csecret",
        "/public/..%5Cadmin",
        "/admin;x/secret",
        "/admin;/",
        "/admin;a=b;c",
        "/;x/admin",
        "/public/..;/admin",
        "/public/..;x/admin",
        "/public/.;/../admin",
        "/public/.;/admin",
        "/public;/../admin",
        "/admin?x",
        "/admin/?",
        "/admin#x",
        "/admin/secret;x=/../y",
        "/admin/.",
        "/admin/./",
        "/x/y/../../admin",
        "/x/%2e%2e/admin/%2e",
        "/public/%c0%ae%c0%ae/admin",
        "/public/%u002e./admin",
        "/public/%252e%252e/admin",
        "/admin/%zz",
        "/admin%",
        "/admin/secret%00",
        "/admin%00",
        "/admin/secret%20",
        "/admin/secret.",
        "/admin/\"<>",
        "http://shop.example/admin",
        "HTTP://shop.example/admin",
        "http://shop.example//admin",
        "http://shop.example/public/../admin",
        "http://shop.example:80/admin",
        "http://shop.example./admin",
        "http://SHOP.example/%61dmin",
        "https://shop.example/admin",
        "http://user@shop.example/admin",
        "http://other.example/admin",
        "admin",
        "*",
        "//shop.example/admin",
    ];
    targets.extend(written.map(|target| target.as_bytes().to_vec()));
    for byte in 1..=255_u8 {
        for hex in [format!("%{byte:02x}"), format!("%{byte:02X}")] {
            for place in [
                "/@admin",
                "/admin@",
                "/admin/@",
                "/admin/@secret",
                "/public/@/../admin",
                "/@/admin",
                "/public/@@/admin",
                "/public/..@admin",
                "/public/.@admin",
                "/@@admin",
                "/admin@@secret",
            ] {
                targets.push(place.replace('@', &hex).into_bytes());
            }
        }
        for place in [
            &b"/@admin"[..],
            b"/admin@",
            b"/admin@secret",
            b"/public/..@admin",
        ] {
            let raw = place.iter().map(|b| if *b == b'@' { byte } else { *b });
            targets.push(raw.collect());
        }
    }
    targets
}

#[test]
fn no_way_to_write_a_denied_path_gets_through() {
    let deny = Policed::by(Action::Deny, paths(&["/admin", "/admin/*"]));
    let (mut refused, mut passed) = (0, 0);
    for target in targets() {
        let became = deny.became(&target, "shop.example");
        let text = String::from_utf8_lossy(&target).into_owned();
        let path = match text.to_ascii_lowercase().strip_prefix("http") {
            Some(_) => text
                .splitn(4, '/')
                .last()
                .map(|path| format!("/{path}").into_bytes()),
            None => Some(target.clone()),
        };
        let path = path.unwrap_or_default();
        match became {
            Became::Permitted(normal) => {
                passed += 1;
                for read in readings(normal.as_bytes()) {
                    let read = String::from_utf8_lossy(&read).into_owned();
                    assert!(
                        !is_under(read.as_bytes(), "/admin"),
                        "{text:?} went on as {normal}"
                    );
                }
                assert!(
                    !readings(&path).any(|r| is_under(&r, "/admin")),
                    "{text:?} {normal}"
                );
            }
            Became::Denied | Became::Malformed => {
                refused += usize::from(readings(&path).any(|r| is_under(&r, "/admin")));
            }
        }
    }
    assert!(refused >= 400, "{refused}");
    assert!(passed >= 400, "{passed} neighbours");
}

#[test]
fn no_way_to_write_another_path_gets_through_as_the_allowed_one() {
    let allow = Policed::by(Action::Allow, paths(&["/public", "/public/*"]));
    let mut passed = 0;
    for target in targets() {
        if let Became::Permitted(normal) = allow.became(&target, "shop.example") {
            passed += 1;
            let text = String::from_utf8_lossy(&target).into_owned();
            for read in readings(normal.as_bytes()) {
                assert!(is_under(&read, "/public"), "{text:?} went on as {normal}");
            }
        }
    }
    assert!(passed >= 100, "{passed}");
}

#[test]
fn neighbours_of_a_denied_path_are_let_through_as_they_came() {
    let deny = Policed::by(Action::Deny, paths(&["/admin", "/admin/*"]));
    for target in [
        "/",
        "/administrator",
        "/admin.html",
        "/admin-x",
        "/ADMIN",
        "/x/admin",
        "/public/admin",
        "/adm/in",
        "/admin%3Bx",
        "/admin%20",
        "/%2561dmin",
        "/~user",
        "/a%20b",
        "/a+b",
        "/%C3%A9",
    ] {
        let expected = Became::Permitted(target.to_owned());
        assert_eq!(
            deny.became(target.as_bytes(), "shop.example"),
            expected,
            "{target}"
        );
    }
}

#[test]
fn no_way_to_write_a_denied_host_gets_through() {
    let deny = Policed::by(Action::Deny, hosts(&["admin.example"]));
    let mut written: Vec<String> = [
        "admin.example",
        "ADMIN.EXAMPLE",
        "Admin.Example",
        "admin.example.",
        "ADMIN.example.:80",
        "admin.example:",
        "admin.example:0",
        "admin.example:080",
        "admin.example:65536",
        "admin.example:x",
        " admin.example",
        "admin.example ",
        "admin.example,x",
        "x,admin.example",
        "user@admin.example",
        "admin.example/x",
        "admin.example#",
        "admin.example?",
        "admin%2eexample",
        "%61dmin.example",
        "admin.example\\x",
        "admin..example",
        "admin.example..",
        "[admin.example]",
        "admin\u{3002}example",
        "",
    ]
    .map(str::to_owned)
    .into();
    written.extend((1..=400).map(|port| format!("admin.example:{port}")));
    written.extend([8080, 8443, 15021, 65535].map(|port| format!("ADMIN.EXAMPLE.:{port}")));
    let name = "admin.example";
    for at in 0..name.len() {
        let mut capital = name.to_owned();
        capital[at..=at].make_ascii_uppercase();
        written.push(capital);
        written.push(format!(
            "{}%{:02x}{}",
            &name[..at],
            name.as_bytes()[at],
            &name[at + 1..]
        ));
    }
    for byte in (1..=0x20_u8).chain(0x7f..=0xff) {
        // Inside of it: around it blanks are no part of the value.
        written.push(format!("admin{}.example", char::from(byte)));
    }
    let mut refused = 0;
    for host in &written {
        let is_odd = |normal: &Became| matches!(normal, Became::Permitted(_));
        let became = deny.became(b"/", host);
        // Another name altogether, which no server takes for it.
        let is_other = host.contains("..") && !host.ends_with("..");
        assert!(!is_odd(&became) || is_other, "{host:?}");
        refused += usize::from(!is_odd(&became));
    }
    for (target, host) in [
        ("http://admin.example/", "admin.example"),
        ("http://ADMIN.example./", "admin.example"),
        ("http://admin.example:8080/", "admin.example:8080"),
        ("http://admin.example/", "shop.example"),
        ("http://shop.example/", "admin.example"),
        ("http://x@admin.example/", "admin.example"),
    ] {
        let became = deny.became(target.as_bytes(), host);
        assert!(!matches!(became, Became::Permitted(_)), "{target} {host}");
        refused += 1;
    }
    assert!(refused >= 400, "{refused}");
    for host in [
        "shop.example",
        "admin.example.org",
        "x-admin.example",
        "example",
        "xadmin.example:80",
    ] {
        let became = deny.became(b"/", host);
        assert_eq!(became, Became::Permitted("/".to_owned()), "{host}");
    }
}
