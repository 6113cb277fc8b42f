//! Any bytes as a request that a route's rules look at: what they make of it is read
//! again, as what they say.

use std::sync::OnceLock;
use std::time::Duration;

use http::Uri;

use crate::discovery;
use crate::http::h1::{self, Lines, Parsed, Request, Scan};
use crate::http::{grpc, hygiene, trace};
use crate::model::{Host, NormalPath, Path, RequestHead, ServiceKey, TraceId};
use crate::route::Routes;
use crate::route::http::{Decision, Forward, Respond, RouteReason};

const RULES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.5, ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /v2}}]
    filters:
    - {type: URLRewrite, urlRewrite: {hostname: other.shop, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /v3/api}}]
    filters:
    - {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /x/y}}}
    backendRefs: [{name: web, port: 80}]
  - matches: [{headers: [{name: x-all, value: "yes"}]}]
    filters:
    - {type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /all}}}
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], add: [{name: c, value: d}], remove: [e]}}
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /old}}]
    filters:
    - {type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}
  - matches: [{path: {type: Exact, value: /gone}}]
    filters:
    - {type: RequestRedirect, requestRedirect: {hostname: other.shop, port: 8443, path: {type: ReplaceFullPath, replaceFullPath: /here}}}
  - matches: [{path: {type: RegularExpression, value: "/go/.*"}}]
    filters:
    - {type: RequestRedirect, requestRedirect: {}}
  - backendRefs: [{name: web, port: 80}]
"#;
/// What the rules above call it.
const HOST: &str = "other.shop";

/// A request of HTTP/1; and all of it as a time that a caller of gRPC waits.
pub(crate) fn routed(bytes: &[u8]) {
    is_no_longer(bytes);
    let mut lines = Lines::new();
    let parsed = h1::request_head(bytes, &mut Scan::default(), &mut lines);
    let Ok(Parsed::Head { head: request, len }) = parsed else {
        return;
    };
    let head = &request.head;
    head.values(grpc::TIMEOUT).for_each(is_no_longer);
    if let Some(TraceId(id)) = trace::id(head) {
        assert_ne!(id, [0; 16]);
    }
    // Bytes of whatever somebody speaks: no rule is asked.
    if head.method == "CONNECT" {
        return;
    }
    match decide(head) {
        Decision::Forward(forward) => goes_on(&request, &bytes[..len], &forward),
        Decision::Respond(answer) => leads_on(head, &answer),
        Decision::Implicit => panic!("the last rule is of any request"),
    }
}

fn decide(head: &RequestHead<'_>) -> Decision<'static> {
    static ROUTES: OnceLock<Routes> = OnceLock::new();
    let routes = ROUTES.get_or_init(|| Routes::compile(&discovery::fuzz::snapshot(RULES)));
    let web = routes.of(&ServiceKey::new("shop", "web"), 80);
    let web = web.expect("it has routes");
    web.decide_at(head, "shop", None, |_| 0)
}

/// What is left of a time is told as no more than it was, and nearly as much.
fn is_no_longer(value: &[u8]) {
    let Some(left) = grpc::timeout(value) else {
        return;
    };
    for left in [
        left,
        left.mul_f64(0.7),
        left.saturating_sub(Duration::from_millis(1)),
    ] {
        let told = grpc::timeout_value(left);
        let read = grpc::timeout(told.as_bytes()).expect("it is one");
        assert!(
            read <= left && left - read <= left / 1_000,
            "{left:?} as {told}"
        );
    }
}

/// The server reads what the rules say, and no way to another place.
fn goes_on(request: &Request<'_>, bytes: &[u8], forward: &Forward<'_>) {
    let edits = &*forward.request;
    let sent = hygiene::rewritten(request, bytes, Some(edits)).expect("its edits are good");
    let sent = sent.unwrap_or_else(|| bytes.to_vec());
    let mut lines = Lines::new();
    let parsed = h1::request_head(&sent, &mut Scan::default(), &mut lines);
    let Ok(Parsed::Head { head: again, len }) = parsed else {
        panic!("{parsed:?}: {sent:?}")
    };
    assert_eq!((len, again.head.method), (sent.len(), request.head.method));
    assert_eq!(again.framing, request.framing);
    let name = |host: &Option<Host<'_>>| host.as_ref().map(|host| host.name.to_string());
    let (host, own) = (name(&again.head.host), name(&request.head.host));
    match &edits.host {
        Some(_) => assert_eq!(host.as_deref(), Some(HOST)),
        None => assert_eq!(host, own, "{sent:?}"),
    }
    // Rules go by the path here: it goes on as they saw it, or as they say.
    assert_eq!(again.head.normal_target(), None, "{sent:?}");
    let path = |head: &RequestHead<'_>| match &head.path {
        Path::Normal(path) => Some(path.normal.clone().into_owned()),
        Path::Ambiguous(_) | Path::None => None,
    };
    let (before, after) = (path(&request.head), path(&again.head));
    assert_eq!(after.is_some(), before.is_some() || edits.target.is_some());
    let rewritten = |before: &str| {
        let rest = |prefix: &str| {
            let rest = before.strip_prefix(prefix)?;
            (rest.is_empty() || rest.starts_with('/')).then_some(rest)
        };
        let of_v2 = rest("/v2").map(|rest| if rest.is_empty() { "/" } else { rest }.to_owned());
        of_v2.or_else(|| rest("/v3/api").map(|rest| format!("/x/y{rest}")))
    };
    let is_all = again.head.target.starts_with(b"/all");
    if let (Some(before), Some(after), false) = (before, after, is_all) {
        assert_eq!(after, rewritten(&before).unwrap_or(before));
    }
    // What is no text is escaped where the target is another one.
    let is_text = |query: &&[u8]| std::str::from_utf8(query).is_ok();
    if request.head.query.as_ref().is_none_or(is_text) {
        assert_eq!(again.head.query, request.head.query);
    }
}

/// A client that follows reads one place in it.
fn leads_on(head: &RequestHead<'_>, answer: &Respond<'_>) {
    if answer.reason != RouteReason::Redirect {
        assert_eq!(answer.reason, RouteReason::AmbiguousPath);
        return;
    }
    let [("location", to)] = &answer.headers[..] else {
        panic!("{answer:?}")
    };
    assert!(to.bytes().all(|byte| byte.is_ascii_graphic()), "{to}");
    let uri: Uri = to.parse().unwrap_or_else(|why| panic!("{why}: {to}"));
    let path = NormalPath::of(uri.path().as_bytes());
    let path = path.unwrap_or_else(|why| panic!("{why:?}: {to}"));
    assert_eq!(path.normal, uri.path());
    let host = head.host.as_ref().map(|host| &*host.name);
    let wanted = if path.normal == "/here" {
        Some(HOST)
    } else {
        host
    };
    assert!(uri.host() == wanted || uri.host() == Some(HOST), "{to}");
}

#[cfg(test)]
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let seeds: [(&str, &str); 12] = [
        ("seconds", "30S"),
        ("hours", "99999999H"),
        ("plain", "GET /a/b?c=d HTTP/1.1\r\nHost: web\r\n\r\n"),
        (
            "prefix",
            "GET /v2/a%20b/?x=//.. HTTP/1.1\r\nHost: web:80\r\n\r\n",
        ),
        ("bare", "GET /v2 HTTP/1.1\r\nHost: web\r\n\r\n"),
        (
            "dots",
            "GET /%76%32/../v3//api/./b;c HTTP/1.1\r\nHost: Web.shop.svc.\r\n\r\n",
        ),
        (
            "all",
            "POST /z?y HTTP/1.1\r\nHost: web\r\nX-All: yes\r\nA: 1\r\nE: 2\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            "old",
            "GET /old/caf%C3%A9?a=%22 HTTP/1.1\r\nHost: web\r\n\r\n",
        ),
        (
            "gone",
            "GET /gone HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n",
        ),
        ("go", "GET http://web/go/a?b HTTP/1.0\r\nHost: web\r\n\r\n"),
        (
            "trace",
            "POST /a.B/C HTTP/1.1\r\nHost: web\r\ngrpc-timeout: 100m\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nb3: a3ce929d0e0e4736-00f067aa0ba902b7-d\r\n\r\n",
        ),
        ("options", "OPTIONS * HTTP/1.1\r\nHost: web\r\n\r\n"),
    ];
    seeds
        .map(|(name, seed)| (name, seed.as_bytes().to_vec()))
        .into()
}
