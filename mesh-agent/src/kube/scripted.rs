//! An API server for tests: it lists, watches, and misbehaves as it is told.
//!
//! HTTP by hand, so that it can also break off in the middle of anything.

mod answers;
mod odd;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::resource::Resource;
use answers::{Io, answer, answer_and_stay, begin_chunks, chunk, status};
pub(crate) use odd::Odd;

struct Told {
    version: u64,
    plural: &'static str,
    line: String,
}

/// By plural, namespace, name.
type Objects = BTreeMap<(&'static str, String, String), Value>;

/// What a server of several had heard of at a time.
#[derive(Clone)]
pub(crate) struct Memory {
    version: u64,
    objects: Objects,
}

#[derive(Default)]
struct State {
    version: u64,
    objects: Objects,
    /// It has not heard of more.
    memory: Option<Memory>,
    told: Vec<Told>,
    /// What was told before is forgotten.
    oldest: u64,
    absent: BTreeSet<&'static str>,
    /// With which code.
    refused: BTreeMap<&'static str, u16>,
    odd: VecDeque<Odd>,
    requests: Vec<String>,
    page: usize,
    is_unready: bool,
}

impl State {
    /// Up to which it has heard of everything.
    fn heard(&self) -> u64 {
        let memory = self.memory.as_ref();
        memory.map_or(self.version, |memory| memory.version)
    }
}

/// Everything ends with it.
pub(crate) struct Scripted {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
    resources: Vec<Resource>,
    changed: watch::Sender<u64>,
    cut: watch::Sender<u64>,
    serving: Option<JoinHandle<()>>,
    dir: tempfile::TempDir,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
        self.cut();
    }
}

impl Scripted {
    pub(crate) async fn start(resources: &[Resource]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut scripted = Self {
            addr: listener.local_addr().expect("an address"),
            state: Arc::new(Mutex::new(State {
                version: 10,
                page: 500,
                ..State::default()
            })),
            resources: resources.to_vec(),
            changed: watch::Sender::new(0),
            cut: watch::Sender::new(0),
            serving: None,
            dir: tempfile::tempdir().expect("a directory"),
        };
        scripted.serve(listener);
        scripted
    }

    /// A kubeconfig that leads to it.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig_with(None)
    }

    /// The same of a cluster with the root in that file.
    pub(crate) fn kubeconfig_with(&self, root: Option<&Path>) -> PathBuf {
        let path = self.dir.path().join("kubeconfig");
        let server = format!("http://{}", self.addr);
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority": root}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {}}],
        });
        std::fs::write(&path, text.to_string()).expect("written");
        path
    }

    fn serve(&mut self, listener: TcpListener) {
        let shared = Shared {
            state: self.state.clone(),
            resources: self.resources.clone(),
            changed: self.changed.clone(),
        };
        let cut = self.cut.clone();
        self.serving = Some(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, mut cut) = (shared.clone(), cut.subscribe());
                tokio::spawn(async move {
                    tokio::select! {
                        // The connection is gone: whoever is there sees that.
                        _served = shared.connection(stream) => {}
                        _cut = cut.changed() => {}
                    }
                });
            }
        }));
    }

    /// Nobody listens any more, and every connection is lost.
    pub(crate) async fn stop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            // Then the listener is closed.
            let _aborted = serving.await;
        }
        self.cut();
    }

    /// At the same address.
    pub(crate) async fn start_again(&mut self) {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("set");
        socket.bind(self.addr).expect("the same port");
        self.serve(socket.listen(64).expect("listen"));
    }

    /// Every connection is lost.
    pub(crate) fn cut(&self) {
        self.cut.send_modify(|cut| *cut += 1);
    }

    pub(crate) fn odd(&self, odd: Odd) {
        self.state.lock().odd.push_back(odd);
    }

    /// As many at most come in one page.
    pub(crate) fn page(&self, most: usize) {
        self.state.lock().page = most;
    }

    /// Watches from before now are told that they are too late.
    pub(crate) fn forget(&self) {
        let mut state = self.state.lock();
        state.version += 1;
        state.oldest = state.version;
        state.told.clear();
    }

    /// As if it had been restored from a former state.
    pub(crate) fn set_back(&self, version: u64) {
        let mut state = self.state.lock();
        state.version = version;
        state.told.clear();
        for object in state.objects.values_mut() {
            object["metadata"]["resourceVersion"] = json!(version.to_string());
        }
    }

    pub(crate) fn version(&self) -> u64 {
        self.state.lock().version
    }

    /// What there is.
    pub(crate) fn memory(&self) -> Memory {
        let state = self.state.lock();
        Memory {
            version: state.version,
            objects: state.objects.clone(),
        }
    }

    /// Where it answers from its memory it is behind, and stays so.
    pub(crate) fn lag(&self, memory: Memory) {
        self.state.lock().memory = Some(memory);
    }

    pub(crate) fn install(&self, plural: &'static str, is_there: bool) {
        let mut state = self.state.lock();
        match is_there {
            true => state.absent.remove(plural),
            false => state.absent.insert(plural),
        };
    }

    /// What it says of itself.
    pub(crate) fn ready(&self, is_ready: bool) {
        self.state.lock().is_unready = !is_ready;
    }

    pub(crate) fn forbid(&self, plural: &'static str, is_forbidden: bool) {
        self.refuse(plural, is_forbidden.then_some(403));
    }

    /// Whatever is asked of the kind is answered so.
    pub(crate) fn refuse(&self, plural: &'static str, code: Option<u16>) {
        let mut state = self.state.lock();
        match code {
            Some(code) => state.refused.insert(plural, code),
            None => state.refused.remove(plural),
        };
    }

    /// Makes it, or changes it.
    pub(crate) fn put(&self, plural: &'static str, mut object: Value) {
        {
            let mut state = self.state.lock();
            state.version += 1;
            let version = state.version;
            let text = |field: &str| object["metadata"][field].as_str().unwrap_or("").to_owned();
            let key = (plural, text("namespace"), text("name"));
            object["metadata"]["resourceVersion"] = json!(version.to_string());
            let before = state
                .objects
                .get(&key)
                .map(|old| old["metadata"]["uid"].clone());
            let is_new = before.is_none();
            let uid = before.unwrap_or_else(|| json!(format!("uid-{version}")));
            object["metadata"]["uid"] = uid;
            let what = if is_new { "ADDED" } else { "MODIFIED" };
            let line = json!({"type": what, "object": object}).to_string();
            state.objects.insert(key, object);
            state.told.push(Told {
                version,
                plural,
                line,
            });
        }
        self.changed.send_modify(|n| *n += 1);
    }

    pub(crate) fn delete(&self, plural: &'static str, namespace: &str, name: &str) {
        {
            let mut state = self.state.lock();
            let key = (plural, namespace.to_owned(), name.to_owned());
            if let Some(mut object) = state.objects.remove(&key) {
                state.version += 1;
                let version = state.version;
                object["metadata"]["resourceVersion"] = json!(version.to_string());
                let line = json!({"type": "DELETED", "object": object}).to_string();
                state.told.push(Told {
                    version,
                    plural,
                    line,
                });
            }
        }
        self.changed.send_modify(|n| *n += 1);
    }

    /// Path and version of each.
    pub(crate) fn objects(&self, resource: &Resource) -> BTreeMap<String, String> {
        let state = self.state.lock();
        let of = |((plural, ns, name), object): (&(&str, String, String), &Value)| {
            let namespace = (!ns.is_empty()).then_some(ns.as_str());
            let version = object["metadata"]["resourceVersion"].as_str()?.to_owned();
            (*plural == resource.plural).then(|| (resource.path(namespace, name), version))
        };
        state.objects.iter().filter_map(of).collect()
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Value> {
        self.state.lock().objects.values().cloned().collect()
    }

    /// Paths with their queries, in order.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.lock().requests.clone()
    }
}

#[derive(Clone)]
struct Shared {
    state: Arc<Mutex<State>>,
    resources: Vec<Resource>,
    changed: watch::Sender<u64>,
}

impl Shared {
    /// Up to what is listed or watched.
    async fn connection(&self, mut stream: TcpStream) -> Io {
        while self.request(&mut stream).await? {}
        Ok(())
    }

    /// True: another one may follow.
    async fn request(&self, stream: &mut TcpStream) -> std::io::Result<bool> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
        self.state.lock().requests.push(target.clone());
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let query: BTreeMap<&str, &str> =
            query.split('&').filter_map(|q| q.split_once('=')).collect();
        let resources = self.resources.iter();
        let found = resources
            .flat_map(|r| r.versions.iter().map(move |version| (r, *version)))
            .find(|(r, version)| r.collection(version) == path);
        match found {
            Some((resource, _)) => self.collection(stream, resource, &query).await?,
            None => self.other(stream, path).await?,
        }
        Ok(found.is_none())
    }

    async fn other(&self, stream: &mut TcpStream, path: &str) -> Io {
        if path == "/readyz" {
            let code = if self.state.lock().is_unready {
                500
            } else {
                200
            };
            return answer_and_stay(stream, code, "as told").await;
        }
        let absent = self.state.lock().absent.clone();
        let there = self.resources.iter().filter(|r| !absent.contains(r.plural));
        let there: Vec<&Resource> = there.filter(|r| !r.group.is_empty()).collect();
        if path == "/apis" {
            let group = |r: &&Resource| {
                let version = |v: &&str| json!({"version": v});
                let versions: Vec<Value> = r.versions.iter().map(version).collect();
                json!({"name": r.group, "versions": versions})
            };
            let groups: Vec<Value> = there.iter().map(group).collect();
            let body = json!({"kind": "APIGroupList", "groups": groups}).to_string();
            return answer_and_stay(stream, 200, &body).await;
        }
        let is_root = |r: &&&Resource| r.versions.iter().any(|version| r.root(version) == path);
        let of_root: Vec<Value> = there
            .iter()
            .filter(is_root)
            .map(|r| json!({"name": r.plural}))
            .collect();
        match of_root.is_empty() {
            true => answer_and_stay(stream, 404, "404 page not found\n").await,
            false => {
                let body = json!({"kind": "APIResourceList", "resources": of_root}).to_string();
                answer_and_stay(stream, 200, &body).await
            }
        }
    }

    fn take_odd(&self, is_watch: bool) -> Option<Odd> {
        let mut state = self.state.lock();
        let odd = state
            .odd
            .front()
            .copied()
            .filter(|odd| odd.fits(is_watch))?;
        state.odd.pop_front();
        Some(odd)
    }

    async fn collection(
        &self,
        stream: &mut TcpStream,
        resource: &Resource,
        query: &BTreeMap<&str, &str>,
    ) -> Io {
        let plural = resource.plural;
        let refused = self.state.lock().refused.get(plural).copied();
        if let Some(code) = refused {
            let reason = if code == 403 { "Forbidden" } else { "Refused" };
            let body = status(code, reason, "you may not");
            return answer(stream, code, &body).await;
        }
        if self.state.lock().absent.contains(plural) {
            return answer(stream, 404, "404 page not found\n").await;
        }
        let is_watch = query.contains_key("watch");
        let odd = self.take_odd(is_watch);
        match odd {
            Some(Odd::Stall) => return std::future::pending().await,
            Some(Odd::Refuse(code)) => {
                return answer(stream, code, &status(code, "Refused", "as told")).await;
            }
            _ => {}
        }
        let version = query
            .get("resourceVersion")
            .and_then(|v| v.parse::<u64>().ok());
        let now = self.state.lock().heard();
        if version.is_some_and(|version| version > now) {
            let body = status(504, "Timeout", "Too large resource version: as told");
            return answer(stream, 504, &body).await;
        }
        match is_watch {
            true => self.watch(stream, resource, query, odd).await,
            false => self.list(stream, resource, query, odd).await,
        }
    }

    async fn list(
        &self,
        stream: &mut TcpStream,
        resource: &Resource,
        query: &BTreeMap<&str, &str>,
        odd: Option<Odd>,
    ) -> Io {
        let body = {
            let state = self.state.lock();
            // As the API server: without a version what there is now, from elsewhere.
            let is_paged = query.get("resourceVersion").is_none();
            let memory = state.memory.as_ref().filter(|_| !is_paged);
            let objects = memory.map_or(&state.objects, |memory| &memory.objects);
            let version = memory.map_or(state.version, |memory| memory.version);
            let objects = objects.iter();
            let all: Vec<&Value> = objects
                .filter(|((plural, ..), _)| *plural == resource.plural)
                .map(|(_, object)| object)
                .collect();
            let begin = query
                .get("continue")
                .map_or(0, |at| at.parse().expect("a place"));
            let page = if is_paged { state.page } else { usize::MAX };
            let end = begin + page.min(all.len() - begin);
            let next = if end < all.len() {
                end.to_string()
            } else {
                String::new()
            };
            let mut items: Vec<Value> = all[begin..end].iter().copied().cloned().collect();
            for item in &mut items {
                let fields = item.as_object_mut().expect("an object");
                fields.retain(|name, _| name != "kind" && name != "apiVersion");
            }
            json!({
                "kind": format!("{}List", resource.kind), "apiVersion": resource.api_version(),
                "metadata": {"resourceVersion": version.to_string(), "continue": next},
                "items": items,
            })
            .to_string()
        };
        if odd == Some(Odd::HalfList) {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).await?;
            return stream.write_all(&body.as_bytes()[..body.len() / 2]).await;
        }
        let pieces = if odd == Some(Odd::SlowList) {
            7
        } else {
            1 << 20
        };
        begin_chunks(stream).await?;
        for piece in body.as_bytes().chunks(pieces) {
            chunk(stream, piece).await?;
            tokio::task::yield_now().await;
        }
        stream.write_all(b"0\r\n\r\n").await
    }

    async fn watch(
        &self,
        stream: &mut TcpStream,
        resource: &Resource,
        query: &BTreeMap<&str, &str>,
        odd: Option<Odd>,
    ) -> Io {
        let number = |name: &str| query.get(name).map(|v| v.parse::<u64>().expect("a number"));
        let mut from = number("resourceVersion").expect("a version");
        let gone = status(410, "Expired", "too old resource version");
        if odd == Some(Odd::GoneByCode) {
            return answer(stream, 410, &gone).await;
        }
        begin_chunks(stream).await?;
        if odd == Some(Odd::GoneByEvent) {
            let line = format!("{{\"type\":\"ERROR\",\"object\":{gone}}}\n");
            chunk(stream, line.as_bytes()).await?;
            return stream.write_all(b"0\r\n\r\n").await;
        }
        if odd == Some(Odd::Garbage) {
            return chunk(stream, b"{\"type\":\"ADDED\",\"obj\n").await;
        }
        let mut changed = self.changed.subscribe();
        let seconds = Duration::from_secs(number("timeoutSeconds").unwrap_or(3600));
        let end = tokio::time::sleep(seconds);
        tokio::pin!(end);
        loop {
            // Of what it has not told yet something may be forgotten.
            let Some((lines, now)) = self.since(resource.plural, from) else {
                let line = format!("{{\"type\":\"ERROR\",\"object\":{gone}}}\n");
                chunk(stream, line.as_bytes()).await?;
                return stream.write_all(b"0\r\n\r\n").await;
            };
            for line in lines {
                chunk(stream, line.as_bytes()).await?;
            }
            from = now;
            tokio::select! {
                // As the API server does before a watch ends.
                () = &mut end => {
                    let line = json!({"type": "BOOKMARK", "object": {"kind": resource.kind,
                        "metadata": {"resourceVersion": from.to_string()}}});
                    chunk(stream, format!("{line}\n").as_bytes()).await?;
                    return stream.write_all(b"0\r\n\r\n").await;
                }
                _changed = changed.changed() => {}
            }
        }
    }

    fn since(&self, plural: &str, from: u64) -> Option<(Vec<String>, u64)> {
        let mut state = self.state.lock();
        if from < state.oldest {
            return None;
        }
        let now = state.heard();
        let told = state.told.iter().filter(|told| told.version <= now);
        let new = told.filter(|told| told.plural == plural && told.version > from);
        let mut lines: Vec<String> = new.map(|told| format!("{}\n", told.line)).collect();
        let odd = state.odd.front().copied();
        match odd {
            Some(Odd::Repeat) if !lines.is_empty() => {
                lines = lines
                    .iter()
                    .flat_map(|line| [line.clone(), line.clone()])
                    .collect();
                state.odd.pop_front();
            }
            Some(Odd::Reverse) if lines.len() > 1 => {
                lines.reverse();
                state.odd.pop_front();
            }
            _ => {}
        }
        Some((lines, now))
    }
}
