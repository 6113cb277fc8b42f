//! Calls to the Kubernetes API server: one object at a time, and lists that are
//! followed. For the authority, the writer of status and the reader of roots;
//! what the mesh is configured with comes by `discovery`.
//!
//! [`Api`] is the seam: a test answers in the server's place. Every call has a
//! deadline, every answer a bound. That nobody answers is told apart from an
//! answer ([`ApiError::Away`]): the first says nothing about what was asked.

mod base64;
mod client;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod follow;
#[cfg(test)]
pub(crate) mod rbac;

use std::future::Future;
use std::pin::Pin;

use serde::Deserialize;
use tokio::sync::mpsc;

pub(crate) use base64::decode;
pub(crate) use client::Client;
pub(crate) use error::ApiError;
pub(crate) use follow::{Seen, follow, read};

pub(crate) use crate::kube::{Access, Page};

pub(crate) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, ApiError>> + Send + 'a>>;

/// An error ends the list.
pub(crate) type TakeItem<'t> = dyn FnMut(&str) -> Result<(), ApiError> + Send + 't;

/// What is done with the object, or list, at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    /// At the list's path; refused as [`ApiError::Exists`].
    Create(serde_json::Value),
    /// Refused as [`ApiError::Conflict`] where it is not of the newest version.
    Replace(serde_json::Value),
}

pub(crate) trait Api: Send + Sync {
    /// The answer's text.
    fn call<'a>(&'a self, path: &'a str, verb: Verb) -> Answer<'a, String>;

    /// A page of a list, item by item as they come: no more than one is held.
    fn list<'a>(&'a self, path: &'a str, take: &'a mut TakeItem<'_>) -> Answer<'a, Page>;

    /// One event in each line.
    fn watch<'a>(&'a self, path: &'a str) -> Answer<'a, mpsc::Receiver<Result<String, ApiError>>>;
}

/// What every object has.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
    pub(crate) resource_version: String,
    pub(crate) generation: i64,
    pub(crate) deletion_timestamp: Option<String>,
}

/// For a path's query.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
                escaped.push(char::from(byte));
            }
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}
