//! The API server, by HTTP.

use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use hyper::{Method, Request, Response, header};
use kube::client::Body;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Answer, Api, ApiError, Page, TakeItem, Verb};
use crate::kube::{Access, AccessError, ListReader, Patience};

/// Of one call, with its answer.
const CALL: Duration = Duration::from_secs(5);
/// Of a whole page.
const LIST: Duration = Duration::from_secs(60);
/// Of one object. It is at most 1.5 MiB where etcd has its default limit.
const MAX_ANSWER: usize = 8 << 20;
const MAX_LINE: usize = 8 << 20;
/// Events that wait for who follows; then the server does. Each may be as large as
/// an object is.
const AHEAD: usize = 2;

/// Cheap to clone. Lives in the runtime in which it was made.
#[derive(Clone)]
pub(crate) struct Client(kube::Client);

impl Client {
    /// By a kubeconfig, or as the service account of the pod that this runs in.
    pub(crate) async fn start(access: &Access) -> Result<Self, AccessError> {
        let client = crate::kube::Client::new(access, Patience::default()).await?;
        Ok(Self(client.inner()))
    }

    async fn send(&self, path: &str, verb: Verb) -> Result<Response<Body>, ApiError> {
        let (method, body) = match verb {
            Verb::Get => (Method::GET, None),
            Verb::Create(object) => (Method::POST, Some(object)),
            Verb::Replace(object) => (Method::PUT, Some(object)),
        };
        let body = body.map(|object| serde_json::to_vec(&object)).transpose()?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(Body::from(body.unwrap_or_default()))
            .map_err(|error| ApiError::Odd(error.to_string()))?;
        let sent = self.0.send(request).await;
        sent.map_err(|error| ApiError::Away(causes(&error)))
    }

    async fn listed(&self, path: &str, take: &mut TakeItem<'_>) -> Result<Page, ApiError> {
        let silent = |_| ApiError::Away("no answer in time".to_owned());
        let response = timeout(CALL, self.send(path, Verb::Get)).await;
        let response = response.map_err(silent)??;
        let status = response.status();
        if !status.is_success() {
            let text = timeout(CALL, text(response)).await.map_err(silent)?;
            return Err(ApiError::of(path, status.as_u16(), &text?));
        }
        let mut body = response.into_body();
        let mut reader = ListReader::default();
        let mut items = Vec::new();
        while let Some(frame) = timeout(CALL, body.frame()).await.map_err(silent)? {
            let frame = frame.map_err(|error| ApiError::Away(error.to_string()))?;
            reader.feed(&frame.into_data().unwrap_or_default(), &mut items)?;
            for item in items.drain(..) {
                let text = std::str::from_utf8(&item);
                take(text.map_err(|_| ApiError::Odd("no UTF-8".to_owned()))?)?;
            }
        }
        Ok(reader.end()?)
    }

    async fn answer(&self, path: &str, verb: Verb) -> Result<String, ApiError> {
        let response = self.send(path, verb).await?;
        let status = response.status();
        let text = text(response).await?;
        match status.is_success() {
            true => Ok(text),
            false => Err(ApiError::of(path, status.as_u16(), &text)),
        }
    }
}

/// An error and what is below it: the first one alone says little.
fn causes(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        let cause_said = cause.to_string();
        if !said.contains(&cause_said) {
            said.push_str(": ");
            said.push_str(&cause_said);
        }
        below = cause.source();
    }
    said
}

async fn text(response: Response<Body>) -> Result<String, ApiError> {
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect();
    let body = body.await.map_err(|e| ApiError::Away(e.to_string()))?;
    String::from_utf8(body.to_bytes().into()).map_err(|_| ApiError::Odd("no UTF-8".to_owned()))
}

impl Api for Client {
    fn call<'a>(&'a self, path: &'a str, verb: Verb) -> Answer<'a, String> {
        Box::pin(async move {
            let answer = timeout(CALL, self.answer(path, verb)).await;
            answer.unwrap_or_else(|_| Err(ApiError::Away("no answer in time".to_owned())))
        })
    }

    fn list<'a>(&'a self, path: &'a str, take: &'a mut TakeItem<'_>) -> Answer<'a, Page> {
        Box::pin(async move {
            let listed = timeout(LIST, self.listed(path, take)).await;
            listed.unwrap_or_else(|_| Err(ApiError::Away("a list takes too long".to_owned())))
        })
    }

    fn watch<'a>(&'a self, path: &'a str) -> Answer<'a, mpsc::Receiver<Result<String, ApiError>>> {
        Box::pin(async move {
            let response = timeout(CALL, self.send(path, Verb::Get)).await;
            let response =
                response.unwrap_or_else(|_| Err(ApiError::Away("no answer in time".to_owned())))?;
            let status = response.status();
            if !status.is_success() {
                let text = timeout(CALL, text(response)).await;
                let text = text.unwrap_or_else(|_| Ok(String::new()))?;
                return Err(ApiError::of(path, status.as_u16(), &text));
            }
            let (lines, followed) = mpsc::channel(AHEAD);
            tokio::spawn(pass_lines(response.into_body(), lines));
            Ok(followed)
        })
    }
}

/// Ends with the body, or with who follows.
async fn pass_lines(mut body: Body, lines: mpsc::Sender<Result<String, ApiError>>) {
    let mut held = Vec::new();
    loop {
        let frame = tokio::select! {
            () = lines.closed() => return,
            frame = body.frame() => frame,
        };
        let data = match frame {
            None => return,
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            Some(Err(error)) => {
                let _unheard = lines.send(Err(ApiError::Away(error.to_string()))).await;
                return;
            }
        };
        held.extend_from_slice(&data);
        while let Some(end) = held.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = held.drain(..=end).collect();
            let line = String::from_utf8(line).map_err(|_| ApiError::Odd("no UTF-8".to_owned()));
            if lines.send(line).await.is_err() {
                return;
            }
        }
        if held.len() > MAX_LINE {
            let long = ApiError::Odd("a line without an end".to_owned());
            let _unheard = lines.send(Err(long)).await;
            return;
        }
    }
}
