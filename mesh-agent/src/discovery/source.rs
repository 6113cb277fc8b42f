//! Where the configuration is from, for who does not care.

use std::sync::Arc;
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use super::api::{Api, Watched};
use super::directory::Directory;
use super::held::Held;
use super::looked::Looked;
use crate::plan::InForce;

pub(crate) enum ConfigSource {
    Directory(Directory),
    Api(Api),
}

/// When something was last heard of it, and what.
#[derive(Clone, Debug)]
pub(crate) enum Heard {
    Directory(Arc<Looked>),
    Api(Arc<Watched>),
}

impl ConfigSource {
    #[must_use]
    pub(crate) fn published(&self) -> Arc<ArcSwap<InForce>> {
        match self {
            Self::Directory(directory) => directory.published(),
            Self::Api(api) => api.published(),
        }
    }

    /// Configurations that are in memory.
    #[must_use]
    pub(crate) fn held(&self) -> Held {
        match self {
            Self::Directory(directory) => directory.held(),
            Self::Api(api) => api.held(),
        }
    }

    #[must_use]
    pub(crate) fn heard(&self) -> Heard {
        match self {
            Self::Directory(directory) => Heard::Directory(directory.looked()),
            Self::Api(api) => Heard::Api(api.watched()),
        }
    }

    /// Follows changes until cancelled, on a thread of its own.
    pub(crate) fn follow(self, cancel: CancellationToken) -> std::io::Result<JoinHandle<()>> {
        match self {
            Self::Directory(directory) => directory.follow(cancel),
            Self::Api(api) => api.follow(cancel),
        }
    }
}
