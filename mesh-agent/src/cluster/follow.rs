//! A list that is followed: what there is, then what changes, for ever.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::error::Status;
use super::{Api, ApiError, Metadata};

/// The server ends each watch after this long, in seconds: a connection that died
/// unseen is found out soon after.
const WATCH: u64 = 40;
const SILENT: Duration = Duration::from_secs(WATCH + 10);
const PAGE: usize = 500;
/// Most pages of one list: half a million objects.
const MAX_PAGES: usize = 1_000;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(15);

/// What was seen of the list.
#[derive(Debug)]
pub(crate) enum Seen<'a, T> {
    /// All that there is; what was there before and is not named is gone.
    All(Vec<T>),
    Is(T),
    /// As it was last.
    IsGone(T),
    /// Nothing changed, and the server was there to say so.
    Same,
    /// It is tried again.
    Failed(&'a ApiError),
}

#[derive(Deserialize)]
struct Event<T> {
    #[serde(rename = "type")]
    kind: String,
    object: T,
}

/// An event whose object is read by who follows.
#[derive(Deserialize)]
struct Told<'l> {
    #[serde(borrow)]
    object: &'l RawValue,
}

#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    metadata: Metadata,
}

/// Of what is kept of an object as it is read.
pub(crate) fn read<T: DeserializeOwned>(object: &str) -> Result<T, ApiError> {
    Ok(serde_json::from_str(object)?)
}

/// `query`: selectors, empty or as `fieldSelector=…`. Of an object no more is held
/// than what `read` makes of it: whoever may write objects writes large ones. Does
/// not end.
pub(crate) async fn follow<T: Send>(
    api: &dyn Api,
    (path, query): (&str, &str),
    read: impl Fn(&str) -> Result<T, ApiError> + Send + Sync,
    mut see: impl FnMut(Seen<'_, T>),
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = tokio::time::Instant::now();
        let ended = match list(api, (path, query), &read).await {
            Ok((all, version)) => {
                see(Seen::All(all));
                pause = FIRST_PAUSE;
                follow_from(api, (path, query), version, (&read, &mut see)).await
            }
            Err(error) => error,
        };
        // A version that is too old is no trouble: the list says what is now. At once
        // it is not, however often it is said.
        match ended {
            ApiError::Gone if begun.elapsed() >= LAST_PAUSE => continue,
            ApiError::Gone => {}
            ended => see(Seen::Failed(&ended)),
        }
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

async fn list<T: Send>(
    api: &dyn Api,
    (path, query): (&str, &str),
    read: &(impl Fn(&str) -> Result<T, ApiError> + Send + Sync),
) -> Result<(Vec<T>, String), ApiError> {
    let (mut all, mut next) = (Vec::new(), String::new());
    for _ in 0..MAX_PAGES {
        let mut asked = format!("{path}?limit={PAGE}");
        for (name, value) in [("", query), ("continue=", &super::escape(&next))] {
            if !value.is_empty() {
                asked.push_str(&format!("&{name}{value}"));
            }
        }
        let mut take = |item: &str| {
            all.push(read(item)?);
            Ok(())
        };
        let page = api.list(&asked, &mut take).await?;
        match page.next {
            None => return Ok((all, page.version)),
            Some(more) => next = more,
        }
    }
    Err(ApiError::Odd("a list without an end".to_owned()))
}

/// Until the version is too old, or something else is wrong.
async fn follow_from<T>(
    api: &dyn Api,
    (path, query): (&str, &str),
    mut version: String,
    (read, see): (
        &impl Fn(&str) -> Result<T, ApiError>,
        &mut impl FnMut(Seen<'_, T>),
    ),
) -> ApiError {
    loop {
        let mut asked = format!(
            "{path}?watch=1&allowWatchBookmarks=true&timeoutSeconds={WATCH}&resourceVersion={}",
            super::escape(&version)
        );
        if !query.is_empty() {
            asked.push_str(&format!("&{query}"));
        }
        let mut lines = match api.watch(&asked).await {
            Ok(lines) => lines,
            Err(error) => return error,
        };
        see(Seen::Same);
        let begun = tokio::time::Instant::now();
        loop {
            let line = match timeout(SILENT, lines.recv()).await {
                // As it was asked to end.
                Ok(None) => break,
                Ok(Some(Ok(line))) => line,
                Ok(Some(Err(error))) => return error,
                Err(_) => return ApiError::Away("a watch is silent".to_owned()),
            };
            match event(&line, read, see) {
                Ok(now) => version = now,
                Err(error) => return error,
            }
        }
        // One that ends at once, again and again, is not asked for without a pause.
        if begun.elapsed() < FIRST_PAUSE {
            tokio::time::sleep(FIRST_PAUSE).await;
        }
    }
}

/// Gives the version to go on from.
fn event<T>(
    line: &str,
    read: &impl Fn(&str) -> Result<T, ApiError>,
    see: &mut impl FnMut(Seen<'_, T>),
) -> Result<String, ApiError> {
    let Event { kind, object } = serde_json::from_str::<Event<Object>>(line)?;
    let seen = match kind.as_str() {
        "BOOKMARK" => Seen::Same,
        "ADDED" | "MODIFIED" => {
            Seen::Is(read(serde_json::from_str::<Told<'_>>(line)?.object.get())?)
        }
        "DELETED" => Seen::IsGone(read(serde_json::from_str::<Told<'_>>(line)?.object.get())?),
        _ => {
            let status = serde_json::from_str::<Event<Status>>(line)?.object;
            return Err(match status.code {
                410 => ApiError::Gone,
                code => ApiError::Away(format!("a watch ended with {code}")),
            });
        }
    };
    see(seen);
    Ok(object.metadata.resource_version)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::fake::Fake;
    use crate::cluster::{Access, Client};
    use crate::kube::Resource;
    use crate::kube::scripted::Scripted;

    #[tokio::test(start_paused = true)]
    async fn a_list_that_is_too_old_each_time_is_not_asked_for_without_a_pause() {
        let fake = Fake::default();
        fake.say_gone_to_lists();
        let following = follow(&fake, ("/api/v1/pods", ""), read::<Value>, |_| {});
        let most = Duration::from_secs(60);
        assert!(tokio::time::timeout(most, following).await.is_err());
        let asked = fake.calls("GET /api/v1/pods");
        assert!((2..20).contains(&asked), "{asked}");
    }

    /// A page of what a tenant may make is larger than what this process may hold.
    #[tokio::test]
    async fn of_a_list_of_large_objects_no_more_than_one_is_held() {
        let server = Scripted::start(&[Resource::PODS]).await;
        let text = "x".repeat(1 << 20);
        for n in 0..70 {
            let annotations = json!({"a": text});
            let metadata =
                json!({"name": format!("p{n}"), "namespace": "n", "annotations": annotations});
            server.put("pods", json!({"metadata": metadata}));
        }
        let access = Access::Kubeconfig(server.kubeconfig());
        let client = Client::start(&access).await.expect("a client");
        let largest = AtomicUsize::new(0);
        let slim = |object: &str| {
            largest.fetch_max(object.len(), Ordering::Relaxed);
            Ok(read::<Object>(object)?.metadata.name)
        };
        let (seen, all) = tokio::sync::oneshot::channel();
        let mut seen = Some(seen);
        let following = follow(&client, ("/api/v1/pods", ""), slim, |event| {
            if let (Seen::All(names), Some(seen)) = (event, seen.take()) {
                seen.send(names.len()).expect("somebody waits");
            }
        });
        let within = Duration::from_secs(60);
        let counted = tokio::time::timeout(within, async {
            tokio::select! {
                () = following => None,
                all = all => all.ok(),
            }
        });
        assert_eq!(counted.await, Ok(Some(70)));
        assert!(largest.into_inner() < 2 << 20);
    }
}
