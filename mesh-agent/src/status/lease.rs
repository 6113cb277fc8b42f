//! Who writes: one replica, by a Lease. Enough for what is written with the version
//! that was read, and says the same whoever writes it; not for a root.
//!
//! No clock of another node is looked at: a Lease has run out when it did not change
//! for its whole duration before these eyes. Each change names the version that was
//! read, so that of two who take it one does.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Api, ApiError, Verb};

pub(super) const LIFE: Duration = Duration::from_secs(15);
/// So long before its end a holder holds it no more.
const MARGIN: Duration = Duration::from_secs(5);

pub(super) struct Lease {
    leases: String,
    name: String,
    me: String,
    /// Version of the Lease, and since when it is that one.
    seen: Option<(String, Instant)>,
    held_until: Option<Instant>,
}

impl Lease {
    pub(super) fn new(namespace: &str, name: &str, me: &str) -> Self {
        Self {
            leases: format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"),
            name: name.to_owned(),
            me: me.to_owned(),
            seen: None,
            held_until: None,
        }
    }

    /// Whatever the API server says: nobody else can have it before.
    pub(super) fn is_held(&self, now: Instant) -> bool {
        self.held_until.is_some_and(|until| now < until)
    }

    /// Takes or renews it where that is right. An error changes nothing.
    pub(super) async fn look(&mut self, api: &dyn Api, now: Instant) -> Result<bool, ApiError> {
        let path = format!("{}/{}", self.leases, self.name);
        let done = match api.call(&path, Verb::Get).await {
            Err(ApiError::NotFound(_)) => {
                let create = Verb::Create(self.object(None, 1));
                api.call(&self.leases, create).await
            }
            Err(error) => return Err(error),
            Ok(text) => {
                let lease: Value = serde_json::from_str(&text)?;
                if !self.may_take(&lease, now) {
                    self.held_until = None;
                    return Ok(false);
                }
                let before = lease["spec"]["leaseTransitions"].as_i64().unwrap_or(0);
                let mine = lease["spec"]["holderIdentity"] == self.me;
                let version = lease["metadata"]["resourceVersion"].clone();
                let object = self.object(Some(version), before + i64::from(!mine));
                api.call(&path, Verb::Replace(object)).await
            }
        };
        match done {
            Ok(_) => {
                // From before the call: whoever looks sees the change later.
                self.held_until = Some(now + LIFE - MARGIN);
                Ok(true)
            }
            // Another one was faster.
            Err(ApiError::Conflict(_) | ApiError::Exists(_) | ApiError::NotFound(_)) => {
                self.held_until = None;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn may_take(&mut self, lease: &Value, now: Instant) -> bool {
        let version = lease["metadata"]["resourceVersion"].as_str();
        let version = version.unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if seen == version => *since,
            _ => now,
        };
        self.seen = Some((version.to_owned(), since));
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
        holder == self.me || holder.is_empty() || now.duration_since(since) >= LIFE
    }

    fn object(&self, version: Option<Value>, transitions: i64) -> Value {
        let now = humantime::format_rfc3339_micros(std::time::SystemTime::now()).to_string();
        let mut object = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": self.name},
            "spec": {
                "holderIdentity": self.me,
                "leaseDurationSeconds": LIFE.as_secs(),
                "leaseTransitions": transitions,
                "renewTime": now,
            },
        });
        if let Some(version) = version {
            object["metadata"]["resourceVersion"] = version;
        }
        object
    }

    /// So that the next one need not wait.
    pub(super) async fn give_up(&mut self, api: &dyn Api) {
        if self.held_until.take().is_none() {
            return;
        }
        let path = format!("{}/{}", self.leases, self.name);
        let Ok(text) = api.call(&path, Verb::Get).await else {
            return;
        };
        let Ok(mut lease) = serde_json::from_str::<Value>(&text) else {
            return;
        };
        if lease["spec"]["holderIdentity"] == self.me {
            lease["spec"]["holderIdentity"] = json!("");
            let _unneeded = api.call(&path, Verb::Replace(lease)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fake::Fake;

    #[tokio::test]
    async fn one_of_two_holds_it_and_the_other_takes_it_when_it_has_run_out() {
        let (fake, begun) = (Fake::default(), Instant::now());
        let mut a = Lease::new("mesh-system", "writer", "a");
        let mut b = Lease::new("mesh-system", "writer", "b");
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(a.look(&fake, at(0)).await, Ok(true));
        assert_eq!(b.look(&fake, at(1)).await, Ok(false));
        assert_eq!(a.look(&fake, at(5)).await, Ok(true));
        assert_eq!(
            b.look(&fake, at(16)).await,
            Ok(false),
            "it changed meanwhile"
        );
        // The first is cut off: it lets go before anybody else can take it.
        assert!(a.is_held(at(14)) && !a.is_held(at(15)));
        assert_eq!(b.look(&fake, at(30)).await, Ok(false));
        assert_eq!(b.look(&fake, at(31)).await, Ok(true));
        assert_eq!(a.look(&fake, at(32)).await, Ok(false));
        b.give_up(&fake).await;
        assert!(!b.is_held(at(32)));
        assert_eq!(a.look(&fake, at(33)).await, Ok(true));
    }

    #[tokio::test]
    async fn an_api_server_that_is_away_takes_nothing_and_gives_nothing() {
        let (fake, begun) = (Fake::default(), Instant::now());
        let mut a = Lease::new("mesh-system", "writer", "a");
        assert_eq!(a.look(&fake, begun).await, Ok(true));
        fake.set_away(true);
        assert!(a.look(&fake, begun + Duration::from_secs(5)).await.is_err());
        assert!(a.is_held(begun + Duration::from_secs(9)));
        assert!(!a.is_held(begun + Duration::from_secs(10)));
    }
}
