//! Roots that are in a ConfigMap of the cluster. What is there is kept in files, so
//! that whoever needs it reads it as if an operator had put it there, also after a
//! restart without the API server.
//!
//! What is gone or cannot be used takes nothing away: the last good ones stay.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Access, Api, Client, Metadata, Seen, follow, read};
use crate::model::kubernetes_name::{is_label, is_subdomain};
use crate::tls::{CaClient, CaName};

/// Revocation lists beside the roots, where the authority publishes them.
const LISTS: &str = "crl.pem";
/// Without a service account's files there is nothing to ask with.
const AGAIN: Duration = Duration::from_secs(5);

/// `NAMESPACE/NAME` or `NAMESPACE/NAME/KEY`, with the key `root.pem` where none is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigMap {
    namespace: String,
    name: String,
    key: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is neither NAMESPACE/NAME nor NAMESPACE/NAME/KEY")]
pub(crate) struct NotAConfigMap;

impl std::str::FromStr for ConfigMap {
    type Err = NotAConfigMap;

    fn from_str(text: &str) -> Result<Self, NotAConfigMap> {
        let parts: Vec<&str> = text.split('/').collect();
        let (namespace, name, key) = match parts[..] {
            [namespace, name] => (namespace, name, "root.pem"),
            [namespace, name, key] => (namespace, name, key),
            _ => return Err(NotAConfigMap),
        };
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        let plain = |t: &str| (1..=253).contains(&t.len()) && t.bytes().all(allowed);
        let good = is_label(namespace) && is_subdomain(name) && plain(key);
        good.then(|| Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
        })
        .ok_or(NotAConfigMap)
    }
}

impl std::fmt::Display for ConfigMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} ({})", self.namespace, self.name, self.key)
    }
}

/// Roots in a ConfigMap, and the directory in which they are kept.
#[derive(Clone, Debug)]
pub(crate) struct RootsFrom {
    pub(crate) configmap: ConfigMap,
    pub(crate) access: Access,
    pub(crate) dir: PathBuf,
}

impl RootsFrom {
    pub(super) fn roots(&self) -> PathBuf {
        self.dir.join("root.pem")
    }

    pub(super) fn lists(&self) -> PathBuf {
        self.dir.join(LISTS)
    }
}

/// What is written into such a directory, finished or not.
#[must_use]
pub(crate) fn root_files(dir: &Path) -> [PathBuf; 4] {
    let (roots, lists) = (dir.join("root.pem"), dir.join(LISTS));
    let unfinished = [&roots, &lists].map(|file| file.with_extension("new"));
    let [new_roots, new_lists] = unfinished;
    [roots, lists, new_roots, new_lists]
}

/// What the files are to say.
#[derive(Debug)]
struct Good {
    roots: String,
    lists: Option<String>,
}

impl Good {
    /// Lists before roots: who has the roots has what they revoked.
    fn keep(&self, at: &RootsFrom) -> Result<(), String> {
        if let Some(lists) = &self.lists {
            keep(lists.as_bytes(), &at.lists())?;
        }
        keep(self.roots.as_bytes(), &at.roots())
    }
}

/// What was seen last.
#[derive(Debug, Default)]
struct Last {
    good: Option<Arc<Good>>,
    problem: Option<String>,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    #[serde(default)]
    data: BTreeMap<String, String>,
}

/// Follows one ConfigMap.
pub(crate) struct Mirror {
    from: RootsFrom,
    /// Why there is nothing newer.
    problem: Arc<Mutex<Option<String>>>,
    pace: Pace,
}

/// Of what goes to the disk.
struct Pace {
    /// From when on a write that goes on is told.
    slow: Duration,
    /// How long after a write that failed the next one comes: at first, and at last.
    again: Range<Duration>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            slow: Duration::from_secs(5),
            again: Duration::from_secs(1)..Duration::from_secs(60),
        }
    }
}

impl Mirror {
    pub(super) fn new(from: RootsFrom) -> Self {
        Self {
            from,
            problem: Arc::default(),
            pace: Pace::default(),
        }
    }

    pub(super) fn problem(&self) -> Arc<Mutex<Option<String>>> {
        self.problem.clone()
    }

    /// Where lists are kept, when there are any.
    pub(super) fn lists(&self) -> PathBuf {
        self.from.lists()
    }

    pub(super) async fn run(self, cancel: CancellationToken) {
        let following = async {
            loop {
                match Client::start(&self.from.access).await {
                    Ok(client) => self.follow(&client).await,
                    Err(error) => self.tell(Some(error.to_string())),
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = following => {}
        }
    }

    /// Does not end.
    pub(crate) async fn follow(&self, api: &dyn Api) {
        let ConfigMap {
            namespace, name, ..
        } = &self.from.configmap;
        let path = format!("/api/v1/namespaces/{namespace}/configmaps");
        let named = format!("fieldSelector=metadata.name%3D{name}");
        let (last, news) = watch::channel(Last::default());
        let following = follow(api, (&path, &named), read::<Object>, |seen| {
            self.see(seen, &last);
        });
        tokio::join!(following, self.keep(news));
    }

    /// Writes in the background what is good, one at a time: a disk that does not answer
    /// holds up nothing else. Of what was seen meanwhile the newest counts. What failed is
    /// written again, ever later.
    async fn keep(&self, mut news: watch::Receiver<Last>) {
        let Range { start, end } = self.pace.again.clone();
        let (mut pause, mut is_kept) = (start, true);
        loop {
            let changed = match is_kept {
                true => news.changed().await,
                // Nothing new, but time to try again.
                false => timeout(pause, news.changed()).await.unwrap_or(Ok(())),
            };
            if changed.is_err() {
                return;
            }
            let (good, problem) = {
                let last = news.borrow_and_update();
                (last.good.clone(), last.problem.clone())
            };
            let kept = match good {
                Some(good) => self.write(good, problem.as_ref()).await,
                None => Ok(()),
            };
            pause = match (kept.is_ok(), is_kept) {
                (true, _) | (false, true) => start,
                (false, false) => (pause * 2).min(end),
            };
            is_kept = kept.is_ok();
            self.tell(problem.or(kept.err()));
        }
    }

    /// Tells of one that goes on and on, while it does.
    async fn write(&self, good: Arc<Good>, problem: Option<&String>) -> Result<(), String> {
        let from = self.from.clone();
        let mut writing = spawn_blocking(move || good.keep(&from));
        let written = match timeout(self.pace.slow, &mut writing).await {
            Ok(written) => written,
            Err(_) => {
                let slow = || {
                    let dir = self.from.dir.display();
                    format!("it is not kept in {dir} yet: the disk does not answer")
                };
                self.tell(Some(problem.cloned().unwrap_or_else(slow)));
                writing.await
            }
        };
        written.unwrap_or_else(|error| Err(error.to_string()))
    }

    fn see(&self, seen: Seen<'_, Object>, last: &watch::Sender<Last>) {
        let is_it = |object: &Object| object.metadata.name == self.from.configmap.name;
        let seen = match seen {
            Seen::All(all) => match all.into_iter().find(is_it) {
                Some(object) => self.good(&object),
                None => Err("there is none".to_owned()),
            },
            Seen::Is(object) if is_it(&object) => self.good(&object),
            Seen::IsGone(object) if is_it(&object) => Err("it is gone".to_owned()),
            Seen::Is(_) | Seen::IsGone(_) | Seen::Same => return,
            Seen::Failed(error) => Err(error.to_string()),
        };
        last.send_modify(|last| match seen {
            Ok(good) => (last.good, last.problem) = (Some(Arc::new(good)), None),
            Err(problem) => last.problem = Some(problem),
        });
    }

    fn tell(&self, problem: Option<String>) {
        let configmap = &self.from.configmap;
        let problem = problem.map(|what| format!("ConfigMap {configmap}: {what}"));
        let before = std::mem::replace(&mut *self.problem.lock(), problem.clone());
        if let Some(what) = problem.filter(|_| problem_is_new(&before)) {
            tracing::warn!("roots are not followed: {what}");
        }
    }

    fn good(&self, object: &Object) -> Result<Good, String> {
        let key = &self.from.configmap.key;
        let roots = object.data.get(key).filter(|text| !text.trim().is_empty());
        let roots = roots.ok_or_else(|| format!("it has no {key}"))?;
        let name = CaName::Server("any".to_owned());
        CaClient::new(roots.as_bytes(), &name)
            .map_err(|error| format!("its {key} cannot be used: {error}"))?;
        let lists = object.data.get(LISTS).filter(|text| !text.is_empty());
        Ok(Good {
            roots: roots.clone(),
            lists: lists.cloned(),
        })
    }
}

/// It is told once, until it is another time.
fn problem_is_new(before: &Option<String>) -> bool {
    before.is_none()
}

/// Whole or not at all, and still there after a crash of the node.
fn keep(bytes: &[u8], to: &Path) -> Result<(), String> {
    if fs::read(to).is_ok_and(|kept| kept == bytes) {
        return Ok(());
    }
    let write = || {
        let dir = to.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
        let draft = to.with_extension("new");
        let mut options = fs::OpenOptions::new();
        options.mode(0o600).create(true).truncate(true).write(true);
        let mut file = options.open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, to)
    };
    let failed = |error: std::io::Error| format!("it is not kept in {}: {error}", to.display());
    write().map_err(failed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::fake::Fake;

    const PATH: &str = "/api/v1/namespaces/mesh-system/configmaps/mesh-agent-ca-root";

    fn root(name: &str) -> String {
        crate::tls::tests::support::root(name).pem()
    }

    fn configmap(data: serde_json::Value) -> serde_json::Value {
        json!({"metadata": {"name": "mesh-agent-ca-root"}, "data": data})
    }

    async fn until(what: &str, is_so: impl Fn() -> bool) {
        let waited = tokio::time::timeout(Duration::from_secs(10), async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(waited.await.is_ok(), "{what}");
    }

    fn from(dir: &Path) -> RootsFrom {
        RootsFrom {
            configmap: "mesh-system/mesh-agent-ca-root".parse().expect("one"),
            access: Access::InCluster,
            dir: dir.to_owned(),
        }
    }

    /// One whose time is short.
    fn hurried(from: &RootsFrom) -> Mirror {
        let again = Duration::from_millis(1)..Duration::from_millis(20);
        let slow = Duration::from_millis(20);
        Mirror {
            pace: Pace { slow, again },
            ..Mirror::new(from.clone())
        }
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_written_when_the_disk_is_well_again() {
        let (fake, dir) = (Fake::default(), tempfile::tempdir().expect("a directory"));
        // A file in the place of the directory.
        let from = from(&dir.path().join("ca"));
        fs::write(&from.dir, "").expect("written");
        let mirror = hurried(&from);
        let (problem, api) = (mirror.problem(), fake.clone());
        let following = tokio::spawn(async move { mirror.follow(&api).await });
        let a = root("a");
        fake.put(PATH, configmap(json!({"root.pem": a})));
        let is_told = |words: &str| problem.lock().as_ref().is_some_and(|p| p.contains(words));
        until("it is told", || is_told("it is not kept in")).await;
        fs::remove_file(&from.dir).expect("removed");
        let kept = || fs::read_to_string(from.roots()).unwrap_or_default();
        until("it is kept", || kept() == a && problem.lock().is_none()).await;
        following.abort();
    }

    #[tokio::test]
    async fn a_disk_that_does_not_answer_is_told_while_it_does_not() {
        let (fake, dir) = (Fake::default(), tempfile::tempdir().expect("a directory"));
        let from = from(dir.path());
        // Nobody reads from it: who opens it waits.
        let draft = from.roots().with_extension("new");
        nix::unistd::mkfifo(&draft, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        let mirror = hurried(&from);
        let (problem, api) = (mirror.problem(), fake.clone());
        let following = tokio::spawn(async move { mirror.follow(&api).await });
        let a = root("a");
        fake.put(PATH, configmap(json!({"root.pem": a})));
        let is_told = || {
            problem
                .lock()
                .as_ref()
                .is_some_and(|p| p.contains("does not answer"))
        };
        let told = timeout(Duration::from_secs(10), async {
            while !is_told() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let was_told = told.await.is_ok();
        // Before anything fails: who waits for a reader keeps the runtime from its end.
        let reader = fs::File::open(&draft).expect("the pipe's other end");
        fs::remove_file(&draft).expect("removed");
        assert!(was_told);
        let kept = || fs::read_to_string(from.roots()).unwrap_or_default();
        until("it is kept", || kept() == a && problem.lock().is_none()).await;
        drop(reader);
        following.abort();
    }

    #[tokio::test]
    async fn roots_follow_the_configmap_and_what_is_no_root_takes_none_away() {
        let (fake, dir) = (Fake::default(), tempfile::tempdir().expect("a directory"));
        let from = RootsFrom {
            configmap: "mesh-system/mesh-agent-ca-root".parse().expect("one"),
            access: Access::InCluster,
            dir: dir.path().join("ca"),
        };
        let mirror = Mirror::new(from.clone());
        let problem = mirror.problem();
        let (api, mirror) = (fake.clone(), Arc::new(mirror));
        let following = tokio::spawn(async move { mirror.follow(&api).await });
        let kept = || fs::read_to_string(from.roots()).unwrap_or_default();
        until("it is told", || problem.lock().is_some()).await;
        let (a, b) = (root("a"), root("b"));
        fake.put(PATH, configmap(json!({"root.pem": a})));
        until("A", || kept() == a && problem.lock().is_none()).await;
        assert!(!from.lists().exists());
        fake.put(
            PATH,
            configmap(json!({"root.pem": format!("{a}{b}"), "crl.pem": "lists"})),
        );
        until("A+B", || kept() == format!("{a}{b}")).await;
        assert_eq!(fs::read_to_string(from.lists()).expect("lists"), "lists");
        for bad in [
            json!({}),
            json!({"root.pem": ""}),
            json!({"root.pem": "noise"}),
        ] {
            fake.put(PATH, configmap(bad));
            until("it is told", || problem.lock().is_some()).await;
            assert_eq!(kept(), format!("{a}{b}"));
            fake.put(PATH, configmap(json!({"root.pem": format!("{a}{b}")})));
            until("it is well", || problem.lock().is_none()).await;
        }
        fake.put(PATH, configmap(json!({"root.pem": b})));
        until("B", || kept() == b).await;
        fake.delete(PATH);
        until("it is told", || problem.lock().is_some()).await;
        assert_eq!(kept(), b);
        assert!(from.lists().exists(), "lists that are not there revoke on");
        following.abort();
    }

    /// Follows until the test ends, and answers who asks whether anything else goes on.
    async fn followed(fake: Fake, mirror: Mirror, asked: std::sync::mpsc::Receiver<()>) {
        let answering = async {
            while asked.try_recv().is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = mirror.follow(&fake) => {}
            () = answering => {}
        }
    }

    #[test]
    fn a_disk_that_does_not_answer_holds_up_nothing_beside_the_roots() {
        let (fake, dir) = (Fake::default(), tempfile::tempdir().expect("a directory"));
        let from = RootsFrom {
            configmap: "mesh-system/mesh-agent-ca-root".parse().expect("one"),
            access: Access::InCluster,
            dir: dir.path().to_owned(),
        };
        fake.put(PATH, configmap(json!({"root.pem": root("a")})));
        // Whoever reads it waits for what a writer says.
        let fifo = from.roots();
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
        let (ask, asked) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = builder.enable_all().build().expect("a runtime");
            runtime.block_on(followed(fake, Mirror::new(from), asked));
            runtime.shutdown_background();
            end.send(()).expect("it is waited for");
        });
        let _writer = fs::OpenOptions::new()
            .write(true)
            .open(&fifo)
            .expect("it reads");
        ask.send(()).expect("it listens");
        let within = ended.recv_timeout(Duration::from_secs(10));
        assert_eq!(within, Ok(()), "it does nothing else");
    }

    #[test]
    fn a_configmap_is_named_with_its_namespace() {
        let parsed = "a/b/c.pem".parse::<ConfigMap>().expect("one");
        assert_eq!(parsed.to_string(), "a/b (c.pem)");
        for text in ["a", "a/", "/b", "a/b/c/d", "a/b/../c", "a/b c", ""] {
            assert!(text.parse::<ConfigMap>().is_err(), "{text}");
        }
    }
}
