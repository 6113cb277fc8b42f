//! What the agent leaves on the node, for the time when it is away: which pods are
//! certainly not in the mesh.
//!
//! Everything else may be: it waits. The file outlives a reboot, since the first
//! pods may start before the agent.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Largest file that is read: some hundred thousand names.
const MAX_BYTES: u64 = 16 << 20;
/// What is understood here, as with messages.
const VERSION: u32 = 1;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outside {
    /// The oldest version that understands the file.
    pub needs: u32,
    /// Namespaces that are not enrolled and have no pod that is.
    pub namespaces: BTreeSet<String>,
    /// UIDs of other pods of this node that are not enrolled.
    #[serde(default)]
    pub pods: BTreeSet<String>,
}

impl Outside {
    #[must_use]
    pub fn new(namespaces: BTreeSet<String>, pods: BTreeSet<String>) -> Self {
        Self {
            needs: 1,
            namespaces,
            pods,
        }
    }

    pub(crate) fn has(&self, namespace: &str, uid: &str) -> bool {
        self.namespaces.contains(namespace) || (!uid.is_empty() && self.pods.contains(uid))
    }
}

/// What the file says.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// No agent has run here, or it was uninstalled: nothing of this node is in a mesh.
    NoMesh,
    /// It is there and says nothing: any pod may be in the mesh.
    Unreadable(String),
    Known(Outside),
}

#[must_use]
pub fn read(path: &Path) -> Read {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    match read {
        Err(error) if error.kind() == ErrorKind::NotFound => return Read::NoMesh,
        Err(error) => return Read::Unreadable(error.to_string()),
        Ok(length) if length as u64 > MAX_BYTES => {
            return Read::Unreadable("it is too large".to_owned());
        }
        Ok(_) => {}
    }
    match serde_json::from_slice::<Outside>(&bytes) {
        Ok(outside) if outside.needs <= VERSION => Read::Known(outside),
        Ok(_) => Read::Unreadable("it is of a newer agent".to_owned()),
        Err(error) => Read::Unreadable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_that_is_not_there_says_that_there_is_no_mesh() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("outside.json");
        assert_eq!(read(&path), Read::NoMesh);
        for broken in ["", "{", "[]", r#"{"needs":9,"namespaces":["a"]}"#] {
            std::fs::write(&path, broken).expect("written");
            assert!(matches!(read(&path), Read::Unreadable(_)), "{broken:?}");
        }
        assert!(matches!(read(dir.path()), Read::Unreadable(_)), "a folder");
        let said = r#"{"needs":1,"namespaces":["kube-system"],"pods":["u1"],"more":[]}"#;
        std::fs::write(&path, said).expect("written");
        let Read::Known(outside) = read(&path) else {
            panic!("{:?}", read(&path));
        };
        assert!(outside.has("kube-system", "") && outside.has("shop", "u1"));
        assert!(!outside.has("shop", "u2") && !outside.has("shop", "") && !outside.has("", ""));
    }
}
