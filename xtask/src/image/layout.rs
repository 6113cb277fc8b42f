//! The OCI image layout: a layer, its configuration, a manifest and an index,
//! each named by the digest of its bytes.

use anyhow::{Result, bail};
use sha2::{Digest as _, Sha256};

use super::tar::Files;

const TYPE: &str = "application/vnd.oci.image";
/// No time of this machine is in an image.
const CREATED: &str = "1970-01-01T00:00:00Z";

pub(super) struct Settings {
    /// NAME:TAG.
    pub(super) name: String,
    pub(super) entrypoint: String,
    pub(super) architecture: String,
    pub(super) version: String,
}

pub(super) struct Image {
    pub(super) archive: Vec<u8>,
    pub(super) digest: String,
}

pub(super) fn image(settings: &Settings, layer: &[u8]) -> Result<Image> {
    let Settings {
        name,
        entrypoint,
        architecture,
        version,
    } = settings;
    // They are put into JSON as they are.
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/:@".contains(c);
    let tag = match name.rsplit_once(':') {
        Some((_, tag)) if !tag.contains('/') && name.chars().all(plain) => tag,
        _ => bail!("'{name}' is no NAME:TAG"),
    };
    let mut blobs = Blobs::default();
    let layer = blobs.add("layer.v1.tar", layer.to_vec());
    let config = blobs.add(
        "config.v1+json",
        format!(
            r#"{{"created":"{CREATED}","architecture":"{architecture}","os":"linux","config":{{"Env":["PATH=/usr/local/bin:/usr/bin:/bin"],"Entrypoint":["{entrypoint}"],"WorkingDir":"/","Labels":{{"org.opencontainers.image.version":"{version}","org.opencontainers.image.licenses":"Apache-2.0"}}}},"rootfs":{{"type":"layers","diff_ids":["{}"]}},"history":[{{"created":"{CREATED}","created_by":"cargo xtask image"}}]}}"#,
            layer.digest
        )
        .into_bytes(),
    );
    let manifest = blobs.add(
        "manifest.v1+json",
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{TYPE}.manifest.v1+json","config":{},"layers":[{}]}}"#,
            config.descriptor(""),
            layer.descriptor("")
        )
        .into_bytes(),
    );
    let names = format!(
        r#","annotations":{{"io.containerd.image.name":"{}","org.opencontainers.image.ref.name":"{tag}"}}"#,
        full_name(name)
    );
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{TYPE}.index.v1+json","manifests":[{}]}}"#,
        manifest.descriptor(&names)
    );
    let mut files = blobs.files;
    files.file("index.json", 0o644, index.into_bytes());
    files.file(
        "oci-layout",
        0o644,
        br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
    );
    Ok(Image {
        archive: files.archive(),
        digest: manifest.digest,
    })
}

/// As a container runtime knows it: with a registry's host.
fn full_name(name: &str) -> String {
    match name.split_once('/') {
        None => format!("docker.io/library/{name}"),
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
    }
}

#[derive(Default)]
struct Blobs {
    files: Files,
}

struct Blob {
    kind: &'static str,
    digest: String,
    bytes: usize,
}

impl Blobs {
    fn add(&mut self, kind: &'static str, data: Vec<u8>) -> Blob {
        let sum = hex(&Sha256::digest(&data));
        let bytes = data.len();
        self.files.file(&format!("blobs/sha256/{sum}"), 0o644, data);
        Blob {
            kind,
            digest: format!("sha256:{sum}"),
            bytes,
        }
    }
}

impl Blob {
    /// `more`: further fields, with a comma before each.
    fn descriptor(&self, more: &str) -> String {
        format!(
            r#"{{"mediaType":"{TYPE}.{}","digest":"{}","size":{}{more}}}"#,
            self.kind, self.digest, self.bytes
        )
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Result<Image> {
        let settings = Settings {
            name: name.to_owned(),
            entrypoint: "/p".to_owned(),
            architecture: "amd64".to_owned(),
            version: "1".to_owned(),
        };
        image(&settings, b"layer")
    }

    #[test]
    fn the_same_input_gives_the_same_image() {
        let (one, other) = (named("a:1").expect("one"), named("a:1").expect("other"));
        assert!(one.archive == other.archive && one.digest == other.digest);
        // A name is not part of what the digest is of.
        assert_eq!(named("b:1").expect("named").digest, one.digest);
    }

    #[test]
    fn a_short_name_is_one_of_the_default_registry() {
        assert_eq!(full_name("mesh-agent:1"), "docker.io/library/mesh-agent:1");
        assert_eq!(full_name("me/agent:1"), "docker.io/me/agent:1");
        assert_eq!(full_name("cluster.local/a:1"), "cluster.local/a:1");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for name in ["a", "a b:1", "host:5000/a", "a\":1"] {
            assert!(named(name).is_err(), "{name}");
        }
    }
}
