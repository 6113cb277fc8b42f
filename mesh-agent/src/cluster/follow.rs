//! A list that is followed: what there is, then what changes, for ever.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::error::Status;
use super::{Api, ApiError, Metadata, Verb};

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
struct List<T> {
    #[serde(default)]
    metadata: ListMetadata,
    items: Vec<T>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListMetadata {
    resource_version: String,
    #[serde(rename = "continue")]
    next: String,
}

#[derive(Deserialize)]
struct Event<T> {
    #[serde(rename = "type")]
    kind: String,
    object: T,
}

#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    metadata: Metadata,
}

/// `query`: selectors, empty or as `fieldSelector=…`. Does not end.
pub(crate) async fn follow<T: DeserializeOwned>(
    api: &dyn Api,
    path: &str,
    query: &str,
    mut see: impl FnMut(Seen<'_, T>),
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = tokio::time::Instant::now();
        let ended = match list(api, path, query).await {
            Ok((all, version)) => {
                see(Seen::All(all));
                pause = FIRST_PAUSE;
                follow_from(api, path, query, version, &mut see).await
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

async fn list<T: DeserializeOwned>(
    api: &dyn Api,
    path: &str,
    query: &str,
) -> Result<(Vec<T>, String), ApiError> {
    let (mut all, mut next) = (Vec::new(), String::new());
    for _ in 0..MAX_PAGES {
        let mut asked = format!("{path}?limit={PAGE}");
        for (name, value) in [("", query), ("continue=", &super::escape(&next))] {
            if !value.is_empty() {
                asked.push_str(&format!("&{name}{value}"));
            }
        }
        let page: List<T> = serde_json::from_str(&api.call(&asked, Verb::Get).await?)?;
        all.extend(page.items);
        next = page.metadata.next;
        if next.is_empty() {
            return Ok((all, page.metadata.resource_version));
        }
    }
    Err(ApiError::Odd("a list without an end".to_owned()))
}

/// Until the version is too old, or something else is wrong.
async fn follow_from<T: DeserializeOwned>(
    api: &dyn Api,
    path: &str,
    query: &str,
    mut version: String,
    see: &mut impl FnMut(Seen<'_, T>),
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
            match event(&line, see) {
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
fn event<T: DeserializeOwned>(
    line: &str,
    see: &mut impl FnMut(Seen<'_, T>),
) -> Result<String, ApiError> {
    let Event { kind, object } = serde_json::from_str::<Event<Object>>(line)?;
    let seen = match kind.as_str() {
        "BOOKMARK" => Seen::Same,
        "ADDED" | "MODIFIED" => Seen::Is(serde_json::from_str::<Event<T>>(line)?.object),
        "DELETED" => Seen::IsGone(serde_json::from_str::<Event<T>>(line)?.object),
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
    use serde_json::Value;

    use super::*;
    use crate::cluster::fake::Fake;

    #[tokio::test(start_paused = true)]
    async fn a_list_that_is_too_old_each_time_is_not_asked_for_without_a_pause() {
        let fake = Fake::default();
        fake.say_gone_to_lists();
        let following = follow::<Value>(&fake, "/api/v1/pods", "", |_| {});
        let most = Duration::from_secs(60);
        assert!(tokio::time::timeout(most, following).await.is_err());
        let asked = fake.calls("GET /api/v1/pods");
        assert!((2..20).contains(&asked), "{asked}");
    }
}
