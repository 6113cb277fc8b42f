//! Heads and trailers on their way from one HTTP/2 connection to another: all lines in
//! their order, but for what is to change and what nobody may send through a mesh.

use ::h2::ext::Protocol;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, Version};
use http::{request, response};

use super::blocks::LINE;
use crate::http::h1::InvalidEdit;
use crate::http::{hygiene, names};
use crate::model::{Edits, HeaderEdit};

/// A request as the next one gets it.
#[derive(Debug)]
pub(crate) struct Forwarded {
    pub(crate) parts: request::Parts,
    /// It is not the one that came.
    pub(crate) is_changed: bool,
}

pub(crate) fn forwarded(parts: &request::Parts, edits: &Edits) -> Result<Forwarded, InvalidEdit> {
    let mut request = Request::new(());
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = uri(&parts.uri, edits)?;
    // Without `:authority` h2 takes it for one of HTTP/1.1, which has none.
    *request.version_mut() = match parts.uri.scheme() {
        Some(_) => Version::HTTP_2,
        None => Version::HTTP_11,
    };
    if let Some(protocol) = parts.extensions.get::<Protocol>() {
        request.extensions_mut().insert(protocol.clone());
    }
    let renamed = edits.host.as_deref();
    let has_authority = parts.uri.authority().is_some();
    let goes = |name: &str| names::is_identity(name) || (name == "host" && renamed.is_some());
    *request.headers_mut() = map(&parts.headers, &goes, edits)?;
    if let (Some(host), false) = (renamed, has_authority) {
        let host = HeaderValue::from_str(host).map_err(|_| InvalidEdit)?;
        request.headers_mut().insert("host", host);
    }
    Ok(Forwarded {
        is_changed: !edits.is_empty() || request.headers().len() != parts.headers.len(),
        parts: request.into_parts().0,
    })
}

/// An answer, also one before the answer.
pub(crate) fn passed_back(
    parts: response::Parts,
    edits: &Edits,
) -> Result<Response<()>, InvalidEdit> {
    let mut response = Response::new(());
    *response.status_mut() = parts.status;
    let headers = &parts.headers;
    let is_own = |name: &HeaderName| hygiene::is_mesh_only(name.as_str());
    *response.headers_mut() = match edits.headers.is_empty() && !headers.keys().any(is_own) {
        true => parts.headers,
        false => map(headers, &hygiene::is_mesh_only, edits)?,
    };
    Ok(response)
}

/// What may stand behind a request: nothing that says who asks, where it ends, or whom
/// it is for.
pub(crate) fn request_trailers(came: HeaderMap) -> HeaderMap {
    without(came, &|name| {
        names::is_identity(name) || names::is_framing(name)
    })
}

/// Behind an answer.
pub(crate) fn answer_trailers(came: HeaderMap) -> HeaderMap {
    without(came, &|name| {
        hygiene::is_mesh_only(name) || names::is_framing(name)
    })
}

fn without(came: HeaderMap, goes: &impl Fn(&str) -> bool) -> HeaderMap {
    if !came.keys().any(|name| goes(name.as_str())) {
        return came;
    }
    kept(&came, goes)
}

/// Of lines: what they would take on HTTP/1.
pub(crate) fn size(lines: &HeaderMap) -> usize {
    let line = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
    lines.iter().map(line).sum()
}

/// What a head takes here.
pub(crate) fn held(head: &request::Parts) -> usize {
    let target = head.uri.path_and_query().map_or(0, |to| to.as_str().len());
    target + size(&head.headers) + head.headers.len() * LINE
}

fn uri(came: &Uri, edits: &Edits) -> Result<Uri, InvalidEdit> {
    if edits.target.is_none() && edits.host.is_none() {
        return Ok(came.clone());
    }
    let mut parts = came.clone().into_parts();
    if let Some(target) = edits.target.as_deref() {
        let target = PathAndQuery::try_from(target).map_err(|_| InvalidEdit)?;
        parts.path_and_query = Some(target);
    }
    if let (Some(host), true) = (edits.host.as_deref(), parts.authority.is_some()) {
        parts.authority = Some(Authority::try_from(host).map_err(|_| InvalidEdit)?);
    }
    Uri::from_parts(parts).map_err(|_| InvalidEdit)
}

fn kept(came: &HeaderMap, goes: &impl Fn(&str) -> bool) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(came.len());
    let lines = came.iter().filter(|(name, _)| !goes(name.as_str()));
    // One behind the other: a name as an `Option` would take the place of those before.
    map.extend(lines.map(|(name, value)| (name.clone(), value.clone())));
    map
}

fn map(
    came: &HeaderMap,
    goes: &impl Fn(&str) -> bool,
    edits: &Edits,
) -> Result<HeaderMap, InvalidEdit> {
    let is_removed = |name: &str| {
        let mut edits = edits.headers.iter();
        edits.any(|edit| matches!(edit, HeaderEdit::Remove { name: gone } if gone.eq_ignore_ascii_case(name)))
    };
    let mut map = match came.keys().any(|name| goes(name.as_str())) || !edits.headers.is_empty() {
        true => kept(came, &|name| goes(name) || is_removed(name)),
        false => came.clone(),
    };
    for edit in &edits.headers {
        match edit {
            HeaderEdit::Remove { .. } => {}
            HeaderEdit::Set { name, value } => {
                if let Some((name, value)) = line(name, value)? {
                    map.insert(name, value);
                }
            }
            HeaderEdit::Add { name, value } => {
                if let Some((name, value)) = line(name, value)? {
                    map.append(name, value);
                }
            }
        }
    }
    Ok(map)
}

/// `None` of what HTTP/2 has no line for.
fn line(name: &str, value: &str) -> Result<Option<(HeaderName, HeaderValue)>, InvalidEdit> {
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| InvalidEdit)?;
    let value = HeaderValue::from_str(value).map_err(|_| InvalidEdit)?;
    let is_left = matches!(name.as_str(), "transfer-encoding" | "upgrade")
        || names::HOP_BY_HOP.contains(&name.as_str());
    Ok((!is_left).then_some((name, value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: &str) -> HeaderEdit {
        let (name, value) = (name.to_owned(), value.to_owned());
        HeaderEdit::Set { name, value }
    }

    fn shown(headers: &HeaderMap) -> Vec<String> {
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("{name}: {}", value.to_str().expect("text"))
        };
        headers.iter().map(line).collect()
    }

    fn parts(uri: &str, lines: &[(&'static str, &'static str)]) -> request::Parts {
        let mut request = Request::get(uri);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    #[test]
    fn a_request_goes_on_as_it_came_but_for_what_speaks_for_others() {
        let came = parts(
            "http://shop/a?b",
            &[
                ("x-b", "1"),
                ("x-envoy-internal", "true"),
                ("a", "2"),
                ("x_mesh_source", "c"),
            ],
        );
        let request = forwarded(&came, &Edits::default()).expect("it can go");
        assert!(request.is_changed);
        let request = request.parts;
        assert_eq!(request.uri, "http://shop/a?b");
        assert_eq!(shown(&request.headers), ["x-b: 1", "a: 2"]);
        let relative = forwarded(&parts("/a", &[("host", "shop")]), &Edits::default());
        let relative = relative.expect("it can go");
        assert!(!relative.is_changed);
        assert_eq!(relative.parts.version, Version::HTTP_11);
        assert_eq!(shown(&relative.parts.headers), ["host: shop"]);
    }

    #[test]
    fn lines_of_one_name_stay_when_another_goes_or_is_changed() {
        let lines = [
            ("cookie", "a=1"),
            ("x-envoy-internal", "true"),
            ("cookie", "b=2"),
            ("x-a", "1"),
            ("x-a", "2"),
        ];
        let kept = ["cookie: a=1", "cookie: b=2", "x-a: 1", "x-a: 2"];
        let came = parts("http://shop/a", &lines);
        let request = forwarded(&came, &Edits::default()).expect("it can go");
        assert_eq!(shown(&request.parts.headers), kept);
        let edits = Edits {
            headers: vec![set("x-b", "3")],
            ..Edits::default()
        };
        let request = forwarded(&came, &edits).expect("it can go");
        assert_eq!(
            shown(&request.parts.headers),
            [&kept[..], &["x-b: 3"]].concat()
        );
        let mut answer = Response::new(());
        *answer.headers_mut() = came.headers.clone();
        let answer = passed_back(answer.into_parts().0, &edits).expect("it can go");
        assert_eq!(answer.headers().get_all("cookie").iter().count(), 2);
        let mut trailers = came.headers;
        trailers.append("content-length", HeaderValue::from_static("3"));
        assert_eq!(shown(&request_trailers(trailers.clone())), kept);
        assert_eq!(answer_trailers(trailers).get_all("x-a").iter().count(), 2);
    }

    #[test]
    fn edits_change_what_they_name() {
        let edits = Edits {
            target: Some("/new?b".to_owned()),
            host: Some("other:81".to_owned()),
            headers: vec![
                set("X-A", "new"),
                HeaderEdit::Remove {
                    name: "X-Gone".to_owned(),
                },
                HeaderEdit::Add {
                    name: "x-b".to_owned(),
                    value: "2".to_owned(),
                },
                set("connection", "close"),
            ],
        };
        let came = parts(
            "http://shop/a?b",
            &[
                ("x-a", "old"),
                ("x-gone", "1"),
                ("x-b", "1"),
                ("host", "shop"),
            ],
        );
        let request = forwarded(&came, &edits).expect("it can go").parts;
        assert_eq!(request.uri, "http://other:81/new?b");
        assert_eq!(shown(&request.headers), ["x-a: new", "x-b: 1", "x-b: 2"]);
        let relative = forwarded(&parts("/a", &[("host", "shop")]), &edits).expect("it can go");
        assert_eq!(relative.parts.headers["host"], "other:81");
        let bad = Edits {
            headers: vec![set("a", "b\r\nc: d")],
            ..Edits::default()
        };
        assert_eq!(forwarded(&came, &bad).err(), Some(InvalidEdit));
    }

    #[test]
    fn nobody_speaks_for_the_mesh_in_an_answer_or_behind_a_message() {
        let mut response = Response::builder().header("x-mesh-reason", "denied");
        response = response.header("server", "x");
        let (parts, ()) = response.body(()).expect("an answer").into_parts();
        let response = passed_back(parts, &Edits::default()).expect("it can go");
        assert_eq!(shown(response.headers()), ["server: x"]);
        let mut came = HeaderMap::new();
        for name in [
            "grpc-status",
            "x-forwarded-client-cert",
            "content-length",
            "host",
        ] {
            came.insert(name, HeaderValue::from_static("0"));
        }
        assert_eq!(shown(&request_trailers(came)), ["grpc-status: 0"]);
    }
}
