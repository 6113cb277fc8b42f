//! Is a kind installed? Believed only of an answer that says what there is: a
//! path that is not found may be the fault of whoever answers.
//!
//! One that has just started, or has lost what it is made of, says less than there
//! is. So what a server lacks counts only where it called itself ready right before,
//! on the same connection. Of a kind that was there even that is one look of several
//! ([`Doubt`]): until then what was known stays, in force and on disk.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::sync::Mutex;

use super::client::Client;
use super::fault::Fault;
use super::resource::Resource;

/// Of a list of groups, or of the kinds of a group.
const MAX_ANSWER: usize = 4 << 20;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// In a version that is understood.
    Installed(&'static str),
    Absent,
    /// Only in versions that are not understood: there may be any number of them.
    Foreign(String),
}

/// Looks at least that a kind that was there must have been missing in.
const LOOKS: u32 = 5;
/// How often two answers are wanted by one connection: others may take it.
const TRIES: usize = 4;
/// What a server says of itself.
const READY: &str = "/readyz";

/// Which answer is good enough.
#[derive(Clone, Copy, Debug)]
pub(super) enum Look {
    /// For what is known to be absent: any that is not old.
    Glance,
    /// One that was asked for after this, of a server that is ready.
    Since(Instant),
}

/// What is to be believed of a kind's absence.
#[derive(Debug)]
pub(super) struct Doubt {
    was_there: bool,
    looks: u32,
    begun: Instant,
}

impl Doubt {
    pub(super) fn new(was_there: bool) -> Self {
        Self {
            was_there,
            looks: 0,
            begun: Instant::now(),
        }
    }

    /// It is missing once more. True: so it is.
    pub(super) fn is_over(&mut self, gone: Duration) -> bool {
        self.looks += 1;
        !self.was_there || (self.looks >= LOOKS && self.begun.elapsed() >= gone)
    }
}

/// The groups that there are, asked for once for all kinds.
#[derive(Debug, Default)]
pub(super) struct Groups(Mutex<Option<Answered>>);

#[derive(Debug)]
struct Answered {
    asked: Instant,
    by_ready: bool,
    groups: Arc<[Group]>,
}

#[derive(Deserialize)]
struct GroupList {
    kind: String,
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
struct Group {
    name: String,
    versions: Vec<GroupVersion>,
}

#[derive(Debug, Deserialize)]
struct GroupVersion {
    version: String,
}

#[derive(Deserialize)]
struct KindList {
    kind: String,
    resources: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    name: String,
}

impl Groups {
    /// An error says neither that it is installed nor that it is not.
    pub(super) async fn find(
        &self,
        client: &Client,
        resource: &Resource,
        look: Look,
    ) -> Result<Presence, Fault> {
        if resource.group.is_empty() {
            return Ok(Presence::Installed(resource.version()));
        }
        let groups = self.groups(client, look).await?;
        let Some(group) = groups.iter().find(|group| group.name == resource.group) else {
            return Ok(Presence::Absent);
        };
        let served = |version: &&str| group.versions.iter().any(|v| v.version == *version);
        for version in resource.versions.iter().copied().filter(served) {
            if has_kind(client, resource, version, look).await? {
                return Ok(Presence::Installed(version));
            }
        }
        for GroupVersion { version } in &group.versions {
            let is_known = resource.versions.contains(&version.as_str());
            if !is_known && has_kind(client, resource, version, look).await? {
                return Ok(Presence::Foreign(version.clone()));
            }
        }
        Ok(Presence::Absent)
    }

    /// One asks at a time: the others have the answer, or a connection each.
    async fn groups(&self, client: &Client, look: Look) -> Result<Arc<[Group]>, Fault> {
        let mut known = self.0.lock().await;
        let fresh = client.patience().absent / 2;
        let is_good = |answered: &&Answered| match look {
            Look::Glance => answered.asked.elapsed() < fresh,
            Look::Since(since) => answered.by_ready && answered.asked > since,
        };
        if let Some(answered) = known.as_ref().filter(is_good) {
            return Ok(answered.groups.clone());
        }
        let asked = Instant::now();
        let list: GroupList = read(&ask(client, "/apis", look).await?)?;
        if list.kind != "APIGroupList" {
            return Err(Fault::Garbled(format!("{:?} at /apis", list.kind)));
        }
        let groups: Arc<[Group]> = list.groups.into();
        *known = Some(Answered {
            asked,
            by_ready: matches!(look, Look::Since(_)),
            groups: groups.clone(),
        });
        Ok(groups)
    }
}

async fn has_kind(
    client: &Client,
    resource: &Resource,
    version: &str,
    look: Look,
) -> Result<bool, Fault> {
    let list: KindList = read(&ask(client, &resource.root(version), look).await?)?;
    if list.kind != "APIResourceList" {
        return Err(Fault::Garbled(format!("{:?} of a group", list.kind)));
    }
    Ok(list
        .resources
        .iter()
        .any(|kind| kind.name == resource.plural))
}

async fn ask(client: &Client, path: &str, look: Look) -> Result<Vec<u8>, Fault> {
    if matches!(look, Look::Glance) {
        return Ok(client.get(path, MAX_ANSWER).await?.0);
    }
    for _ in 0..TRIES {
        let (_, ready) = client.get(READY, MAX_ANSWER).await?;
        let (answer, by) = client.get(path, MAX_ANSWER).await?;
        if by.is_some() && by == ready {
            return Ok(answer);
        }
    }
    let message = format!("{READY} and {path} are never answered by one connection");
    Err(Fault::Garbled(message))
}

fn read<'b, T: Deserialize<'b>>(body: &'b [u8]) -> Result<T, Fault> {
    serde_json::from_slice(body).map_err(|error| Fault::Garbled(error.to_string()))
}
