//! Is a kind installed? Believed only of an answer that says what there is: a
//! path that is not found may be the fault of whoever answers.

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

/// The groups that there are, asked for once for all kinds.
#[derive(Debug, Default)]
pub(super) struct Groups(Mutex<Option<(Instant, Arc<[Group]>)>>);

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
    ) -> Result<Presence, Fault> {
        if resource.group.is_empty() {
            return Ok(Presence::Installed(resource.version()));
        }
        let groups = self.groups(client).await?;
        let Some(group) = groups.iter().find(|group| group.name == resource.group) else {
            return Ok(Presence::Absent);
        };
        let served = |version: &&str| group.versions.iter().any(|v| v.version == *version);
        for version in resource.versions.iter().copied().filter(served) {
            if has_kind(client, resource, version).await? {
                return Ok(Presence::Installed(version));
            }
        }
        for GroupVersion { version } in &group.versions {
            let is_known = resource.versions.contains(&version.as_str());
            if !is_known && has_kind(client, resource, version).await? {
                return Ok(Presence::Foreign(version.clone()));
            }
        }
        Ok(Presence::Absent)
    }

    async fn groups(&self, client: &Client) -> Result<Arc<[Group]>, Fault> {
        let mut known = self.0.lock().await;
        let fresh = client.patience().absent / 2;
        if let Some((at, groups)) = known.as_ref().filter(|(at, _)| is_fresh(*at, fresh)) {
            let _at = at;
            return Ok(groups.clone());
        }
        let list: GroupList = read(&client.get("/apis", MAX_ANSWER).await?)?;
        if list.kind != "APIGroupList" {
            return Err(Fault::Garbled(format!("{:?} at /apis", list.kind)));
        }
        let groups: Arc<[Group]> = list.groups.into();
        *known = Some((Instant::now(), groups.clone()));
        Ok(groups)
    }
}

fn is_fresh(at: Instant, fresh: Duration) -> bool {
    at.elapsed() < fresh
}

async fn has_kind(client: &Client, resource: &Resource, version: &str) -> Result<bool, Fault> {
    let list: KindList = read(&client.get(&resource.root(version), MAX_ANSWER).await?)?;
    if list.kind != "APIResourceList" {
        return Err(Fault::Garbled(format!("{:?} of a group", list.kind)));
    }
    Ok(list
        .resources
        .iter()
        .any(|kind| kind.name == resource.plural))
}

fn read<'b, T: Deserialize<'b>>(body: &'b [u8]) -> Result<T, Fault> {
    serde_json::from_slice(body).map_err(|error| Fault::Garbled(error.to_string()))
}
