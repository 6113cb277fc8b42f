//! What is told of one of the node's pods.

use std::net::IpAddr;
use std::time::Instant;

use serde::Serialize;

/// State of one of the node's enrolled pods, for `status`.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct PodStatus {
    pub(crate) pod: String,
    pub(crate) enrolled: bool,
    pub(crate) addresses: Vec<IpAddr>,
    /// Its SPIFFE id, where its names make one.
    pub(crate) identity: Option<String>,
    pub(crate) netns_cookie: Option<u64>,
    /// How long enrolling took.
    pub(crate) enrol_seconds: Option<f64>,
    /// Why not, in one word that stays the same.
    pub(crate) reason: Option<&'static str>,
    /// Why not.
    pub(crate) message: Option<String>,
    /// Why it cannot be told whether all of it is still as it was seen last.
    pub(crate) unknown: Option<String>,
    /// Why its cgroup is not watched, though it is enrolled.
    pub(crate) unwatched: Option<String>,
    /// It asks to be outside of the mesh where no agent serves it.
    pub(crate) fails_open: bool,
    /// No container runtime told of it: a time at which it was not there yet.
    #[serde(skip)]
    pub(crate) untold: Option<Instant>,
    /// What does not work for it though it is enrolled.
    pub(crate) warning: Option<String>,
}

impl PodStatus {
    pub(crate) fn is_whole(&self) -> bool {
        self.enrolled && self.unknown.is_none() && self.unwatched.is_none()
    }

    /// It has no address yet: where that is a mistake, the configuration says so.
    pub(crate) fn is_starting(&self) -> bool {
        self.reason == Some(super::error::NO_ADDRESS)
    }
}

/// Of a pod that the configuration says nothing certain about.
pub(super) const UNREAD: &str = "its document cannot be read: it stays as it was";
