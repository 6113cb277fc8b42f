//! What is known of one kind, in a file.
//!
//! It is written beside its place and renamed to it, root's alone, and counts as
//! a whole or not at all: the last bytes are a digest of all before. A list is
//! written as it comes; of a change no more is held than what changed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

use crate::kube::Cluster;

/// So all of them begin, whatever their version.
const OURS: &[u8] = b"mesh-agent api ";
/// First bytes, with the version of what follows.
const MAGIC: &[u8; 16] = b"mesh-agent api 2";
const DIGEST: usize = 32;
/// Instead of a length: no record follows.
const END: u32 = u32::MAX;
/// Of one text of it; larger than any object.
const MAX_TEXT: u32 = 16 << 20;

/// Why a file says nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("there is none")]
    None,
    #[error("cannot be read: {0}")]
    Io(io::Error),
    #[error("is not root's alone")]
    NotOurs,
    #[error("is no copy that this version can read")]
    Foreign,
    #[error("is of another cluster (its API server was {0}): it is not used")]
    Elsewhere(String),
    #[error("is damaged")]
    Damaged,
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::None,
            // It ends too early.
            io::ErrorKind::UnexpectedEof => Self::Damaged,
            _ => Self::Io(error),
        }
    }
}

/// Of what it is a copy.
#[derive(Clone, Debug)]
pub(super) struct Of {
    pub(super) path: PathBuf,
    pub(super) cluster: Arc<Cluster>,
}

/// What stands at its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Whole {
    /// The version that the kind had.
    pub(super) version: String,
    /// When that was.
    pub(super) as_of: SystemTime,
    pub(super) objects: u64,
    pub(super) size: u64,
}

impl Whole {
    /// Of a kind that nobody has written of yet.
    pub(super) fn none() -> Self {
        Self {
            version: String::new(),
            as_of: SystemTime::now(),
            objects: 0,
            size: 0,
        }
    }
}

/// Writes what is a copy when it is finished, and nothing otherwise.
pub(super) struct Writer {
    of: Of,
    out: BufWriter<File>,
    digest: Sha256,
    objects: u64,
    size: u64,
}

impl Of {
    /// Where the API server is, and each root's digest on a line of its own.
    fn header(&self) -> String {
        let Cluster { server, roots } = &*self.cluster;
        [server]
            .into_iter()
            .chain(roots)
            .cloned()
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Whose that is whom a header names. A root says it, whatever the address: one in
    /// common is enough, for a cluster changes them one after the other.
    fn is_of(&self, header: &str) -> Result<(), Unusable> {
        let mut lines = header.lines();
        let server = lines.next().unwrap_or_default();
        let roots: Vec<&str> = lines.collect();
        let own = &self.cluster.roots;
        let is_it = match roots.is_empty() && own.is_empty() {
            true => server == self.cluster.server,
            false => own.iter().any(|root| roots.contains(&root.as_str())),
        };
        is_it
            .then_some(())
            .ok_or_else(|| Unusable::Elsewhere(server.to_owned()))
    }

    fn beside(&self) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".new");
        name.into()
    }
}

impl Writer {
    pub(super) fn create(of: &Of) -> io::Result<Self> {
        let beside = of.beside();
        // Of an agent that died over it.
        let _absent = fs::remove_file(&beside);
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        let mut writer = Self {
            of: of.clone(),
            out: BufWriter::with_capacity(64 << 10, file),
            digest: Sha256::new(),
            objects: 0,
            size: 0,
        };
        writer.put(MAGIC)?;
        writer.text(of.header().as_bytes())?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.size += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn text(&mut self, text: &[u8]) -> io::Result<()> {
        let length = u32::try_from(text.len())
            .ok()
            .filter(|length| *length <= MAX_TEXT);
        let length = length.ok_or(io::ErrorKind::FileTooLarge)?;
        self.put(&length.to_le_bytes())?;
        self.put(text)
    }

    pub(super) fn object(&mut self, path: &str, json: &[u8]) -> io::Result<()> {
        self.objects += 1;
        self.text(path.as_bytes())?;
        self.text(json)
    }

    /// From now on it is the copy. Gives its size.
    pub(super) fn finish(mut self, version: &str) -> io::Result<u64> {
        self.put(&END.to_le_bytes())?;
        self.text(version.as_bytes())?;
        let digest = self.digest.clone().finalize();
        self.out.write_all(&digest)?;
        let beside = self.of.beside();
        let file = self
            .out
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        file.sync_data()?;
        fs::rename(&beside, &self.of.path)?;
        Ok(self.size)
    }
}

/// It is as new as now, though nothing changed.
pub(super) fn touch(of: &Of) -> io::Result<()> {
    let file = File::options().write(true).open(&of.path)?;
    file.set_modified(SystemTime::now())
}

/// The names of those that are in a directory, also of one that was never finished.
pub(crate) fn copies(dir: &Path) -> io::Result<Vec<OsString>> {
    let all = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        all => all?,
    };
    let mut names = Vec::new();
    for entry in all {
        let entry = entry?;
        if entry.file_type()?.is_file() && begins(&entry.path(), OURS)? {
            names.push(entry.file_name());
        }
    }
    Ok(names)
}

fn begins(path: &Path, with: &[u8]) -> io::Result<bool> {
    let mut first = Vec::new();
    let length = u64::try_from(with.len()).unwrap_or(u64::MAX);
    File::open(path)?.take(length).read_to_end(&mut first)?;
    Ok(first == with)
}

/// A directory that is root's alone; made where it is not there.
pub(super) fn directory(dir: &Path) -> Result<(), Unusable> {
    use std::os::unix::fs::DirBuilderExt as _;
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(dir)?;
    let meta = fs::symlink_metadata(dir)?;
    let is_ours = meta.is_dir() && is_root_alone(&meta, 0o022);
    is_ours.then_some(()).ok_or(Unusable::NotOurs)
}

/// Nobody else may do that with it.
fn is_root_alone(meta: &fs::Metadata, others: u32) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    meta.uid() == own && meta.mode() & others == 0
}

struct Reading {
    from: BufReader<File>,
    digest: Sha256,
    size: u64,
}

impl Reading {
    fn take(&mut self, buffer: &mut [u8]) -> Result<(), Unusable> {
        self.from.read_exact(buffer)?;
        self.digest.update(&*buffer);
        self.size += buffer.len() as u64;
        Ok(())
    }

    /// `None` at the end of the records.
    fn length(&mut self) -> Result<Option<usize>, Unusable> {
        let mut length = [0; 4];
        self.take(&mut length)?;
        match u32::from_le_bytes(length) {
            END => Ok(None),
            length if length <= MAX_TEXT => Ok(usize::try_from(length).ok()),
            _ => Err(Unusable::Damaged),
        }
    }

    fn text(&mut self, length: Option<usize>) -> Result<Vec<u8>, Unusable> {
        let mut text = vec![0; length.ok_or(Unusable::Damaged)?];
        self.take(&mut text)?;
        Ok(text)
    }

    fn next(&mut self) -> Result<Vec<u8>, Unusable> {
        let length = self.length()?;
        self.text(length)
    }
}

/// Gives each object with its path. What was given counts only when this ends
/// well.
pub(super) fn read(
    of: &Of,
    mut object: impl FnMut(String, Vec<u8>) -> io::Result<()>,
) -> Result<Whole, Unusable> {
    let mut options = OpenOptions::new();
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = options.read(true).custom_flags(flags).open(&of.path)?;
    let meta = file.metadata()?;
    if !meta.is_file() || !is_root_alone(&meta, 0o077) {
        return Err(Unusable::NotOurs);
    }
    let mut reading = Reading {
        from: BufReader::with_capacity(64 << 10, file),
        digest: Sha256::new(),
        size: 0,
    };
    let mut magic = [0; MAGIC.len()];
    reading.take(&mut magic)?;
    if magic != *MAGIC {
        return Err(Unusable::Foreign);
    }
    let header = String::from_utf8(reading.next()?).map_err(|_| Unusable::Damaged)?;
    let mut objects = 0;
    while let Some(length) = reading.length()? {
        let path = String::from_utf8(reading.text(Some(length))?);
        let json = reading.next()?;
        object(path.map_err(|_| Unusable::Damaged)?, json)?;
        objects += 1;
    }
    let version = String::from_utf8(reading.next()?).map_err(|_| Unusable::Damaged)?;
    let mut digest = [0; DIGEST];
    reading.from.read_exact(&mut digest)?;
    let is_last = reading.from.read(&mut [0])? == 0;
    if !is_last || reading.digest.finalize()[..] != digest {
        return Err(Unusable::Damaged);
    }
    // Only of a file that is whole is it known what it says.
    of.is_of(&header)?;
    Ok(Whole {
        version,
        as_of: meta.modified()?,
        objects,
        size: reading.size,
    })
}

/// The copy with what changed since; `None` is gone. Gives its size.
pub(super) fn merge(
    of: &Of,
    mut changes: BTreeMap<String, Option<Vec<u8>>>,
    version: &str,
) -> Result<u64, Unusable> {
    let mut writer = Writer::create(of)?;
    read(of, |path, json| match changes.remove(&path) {
        None => writer.object(&path, &json),
        Some(Some(now)) => writer.object(&path, &now),
        Some(None) => Ok(()),
    })?;
    for (path, json) in changes {
        if let Some(json) = json {
            writer.object(&path, &json)?;
        }
    }
    Ok(writer.finish(version)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn of(dir: &Path) -> Of {
        Of {
            path: dir.join("pods"),
            cluster: cluster("https://10.96.0.1/", &[]),
        }
    }

    fn cluster(server: &str, roots: &[&str]) -> Arc<Cluster> {
        Arc::new(Cluster {
            server: server.to_owned(),
            roots: roots.iter().map(ToString::to_string).collect(),
        })
    }

    fn write(of: &Of, objects: &[(&str, &str)], version: &str) {
        let mut writer = Writer::create(of).expect("created");
        for (path, json) in objects {
            writer.object(path, json.as_bytes()).expect("written");
        }
        writer.finish(version).expect("finished");
    }

    fn all(of: &Of) -> Result<(Vec<(String, String)>, String), Unusable> {
        let mut objects = Vec::new();
        let whole = read(of, |path, json| {
            objects.push((path, String::from_utf8_lossy(&json).into_owned()));
            Ok(())
        })?;
        Ok((objects, whole.version))
    }

    fn pairs(objects: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
        objects.iter().map(owned).collect()
    }

    #[test]
    fn what_was_written_is_read_and_is_roots_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let of = of(dir.path());
        assert!(matches!(all(&of), Err(Unusable::None)));
        let objects = [("/a", "{}"), ("/b", r#"{"x":1}"#)];
        write(&of, &objects, "7");
        assert_eq!(all(&of).expect("whole"), (pairs(&objects), "7".to_owned()));
        let mode = fs::metadata(&of.path).expect("there").mode();
        assert_eq!(mode & 0o777, 0o600);
        // One that has not come to its end changes nothing.
        let mut writer = Writer::create(&of).expect("created");
        writer.object("/c", b"{}").expect("written");
        drop(writer);
        assert_eq!(all(&of).expect("whole").1, "7");
        write(&of, &[], "8");
        assert_eq!(all(&of).expect("whole"), (Vec::new(), "8".to_owned()));
    }

    #[test]
    fn changes_are_taken_into_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let of = of(dir.path());
        write(&of, &[("/a", "1"), ("/b", "2"), ("/c", "3")], "7");
        let change = |path: &str, json: Option<&str>| {
            (path.to_owned(), json.map(|json| json.as_bytes().to_vec()))
        };
        let changes = [
            change("/a", None),
            change("/b", Some("5")),
            change("/d", Some("4")),
            change("/e", None),
        ];
        merge(&of, changes.into(), "9").expect("merged");
        let expected = pairs(&[("/b", "5"), ("/c", "3"), ("/d", "4")]);
        assert_eq!(all(&of).expect("whole"), (expected, "9".to_owned()));
    }

    #[test]
    fn not_one_byte_of_it_may_be_another_or_missing() {
        let dir = tempfile::tempdir().expect("a directory");
        let of = of(dir.path());
        write(&of, &[("/a", "{}"), ("/b", "{}")], "7");
        let good = fs::read(&of.path).expect("read");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            fs::write(&of.path, &bad).expect("written");
            assert!(all(&of).is_err(), "byte {at}");
            fs::write(&of.path, &good[..at]).expect("written");
            assert!(all(&of).is_err(), "cut at {at}");
        }
        fs::write(&of.path, [&good[..], b"x"].concat()).expect("written");
        assert!(all(&of).is_err(), "one byte more");
        fs::write(&of.path, &good).expect("written");
        assert!(all(&of).is_ok());
        let other = Of {
            cluster: cluster("https://10.0.0.1/", &[]),
            ..of.clone()
        };
        assert!(matches!(all(&other), Err(Unusable::Elsewhere(_))));
        let mode = fs::Permissions::from_mode(0o640);
        fs::set_permissions(&of.path, mode).expect("set");
        assert!(
            matches!(all(&of), Err(Unusable::NotOurs)),
            "others may read it"
        );
    }

    #[test]
    fn a_copy_is_of_the_cluster_whose_roots_it_has_wherever_that_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let written = Of {
            cluster: cluster("https://10.96.0.1/", &["a", "b"]),
            ..of(dir.path())
        };
        write(&written, &[], "7");
        let is_good = |server: &str, roots: &[&str]| {
            let cluster = cluster(server, roots);
            let path = written.path.clone();
            match all(&Of { path, cluster }) {
                Ok(_) => true,
                Err(Unusable::Elsewhere(_)) => false,
                Err(error) => panic!("{error}"),
            }
        };
        assert!(is_good("https://10.96.0.1/", &["a", "b"]));
        assert!(is_good("https://10.96.0.1/", &["b", "c"]), "one is changed");
        assert!(is_good("https://192.0.2.1/", &["a"]), "it has moved");
        for roots in [&["c"][..], &[]] {
            assert!(!is_good("https://10.96.0.1/", roots), "{roots:?}");
        }
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let of = of(dir.path());
        write(&of, &[], "7");
        let elsewhere = dir.path().join("elsewhere");
        fs::rename(&of.path, &elsewhere).expect("renamed");
        std::os::unix::fs::symlink(&elsewhere, &of.path).expect("linked");
        assert!(all(&of).is_err());
        let open = dir.path().join("open");
        directory(&open).expect("made");
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("set");
        assert!(matches!(directory(&open), Err(Unusable::NotOurs)));
    }
}
