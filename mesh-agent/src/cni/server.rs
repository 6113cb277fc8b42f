//! Takes in what the plugin asks, and answers when it is decided.
//!
//! The runtime starts no container of the pod before the answer. Only root of the node
//! may ask. Each question is one message with one descriptor; what waits is bounded by
//! number and by time, and whoever hangs up is not worked for any more.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_cni::{Answer, MAX_BYTES, Request};
use nix::sys::stat::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::metrics::{Metrics, Outcome};
use crate::enrol::{Admission, Arrival, Arrivals};
use crate::sys::files;

/// Questions at once: after a reboot all pods of a node start together.
const MAX: usize = 256;
const BACKLOG: i32 = 1024;
/// A plugin asks as soon as it is connected.
const HEAD: Duration = Duration::from_secs(2);
/// Longest wait for a decision, and how much of the plugin's patience is left for the
/// way of the answer.
const LONGEST: Duration = Duration::from_secs(60);
const MARGIN: Duration = Duration::from_millis(500);
/// What the agent asks itself, and what it answers: no plugin says either.
const ARE_YOU_THERE: &[u8] = b"are you there?";
const HERE: &[u8] = b"here";
/// After an accept that failed, for want of a descriptor for example.
const PAUSE: Duration = Duration::from_millis(100);

/// Listens at `path`, in the place of an earlier agent that may listen there still:
/// there is no moment without a socket.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}", std::process::id()));
    let unfinished = PathBuf::from(unfinished);
    super::binary::gone(&unfinished)?;
    let kind = Type::SEQPACKET.nonblocking().cloexec();
    let socket = Socket::new(Domain::UNIX, kind, None)?;
    // Of the file to come: by chmod(2) afterwards anybody could be first.
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket.bind(&SockAddr::unix(&unfinished)?)?;
    socket.listen(BACKLOG)?;
    std::fs::rename(&unfinished, path)?;
    UnixListener::from_std(OwnedFd::from(socket).into())
}

/// Is it this agent that answers at `path`?
pub(super) async fn hears_itself(path: &Path) -> io::Result<()> {
    let asked = tokio::time::timeout(HEAD, ask_itself(path));
    asked
        .await
        .unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

async fn ask_itself(path: &Path) -> io::Result<()> {
    let kind = Type::SEQPACKET.nonblocking().cloexec();
    let socket = Socket::new(Domain::UNIX, kind, None)?;
    socket.connect(&SockAddr::unix(path)?)?;
    let server = UnixStream::from_std(OwnedFd::from(socket).into())?;
    let own = i32::try_from(std::process::id()).ok();
    if server.peer_cred()?.pid() != own {
        return Err(io::Error::other("another program listens there"));
    }
    send(&server, ARE_YOU_THERE).await?;
    let mut buffer = [0; HERE.len()];
    let message = server
        .async_io(Interest::READABLE, || files::receive(&server, &mut buffer))
        .await?;
    match &buffer[..message.length] == HERE {
        true => Ok(()),
        false => Err(io::Error::other("it answers something else")),
    }
}

async fn send(to: &UnixStream, bytes: &[u8]) -> io::Result<()> {
    to.async_io(Interest::WRITABLE, || {
        socket2::SockRef::from(to).send_with_flags(bytes, libc::MSG_NOSIGNAL)
    })
    .await?;
    Ok(())
}

/// Who decides about an arrival.
pub(crate) trait Decide: Clone + Send + Sync + 'static {
    fn decide(&self, arrival: Arrival, within: Duration) -> impl Future<Output = Admission> + Send;
}

impl Decide for Arrivals {
    async fn decide(&self, arrival: Arrival, within: Duration) -> Admission {
        self.arrive(arrival, within).await
    }
}

/// Until cancelled.
pub(crate) async fn serve(
    listener: UnixListener,
    decide: impl Decide,
    metrics: Metrics,
    cancel: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(MAX));
    let mut clients = JoinSet::new();
    loop {
        let place = tokio::select! {
            () = cancel.cancelled() => break,
            Some(_ended) = clients.join_next() => continue,
            place = room.clone().acquire_owned() => place,
        };
        // Nobody closes it.
        let Ok(place) = place else { break };
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((client, _)) => {
                let (decide, metrics) = (decide.clone(), metrics.clone());
                clients.spawn(async move {
                    let _place = place;
                    // Who is not answered asks again, or gives up.
                    if let Err(error) = one(&client, decide, &metrics).await {
                        tracing::debug!(%error, "a question of the CNI plugin has no answer");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept the CNI plugin");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    // The plugins ask the next agent.
    clients.shutdown().await;
}

async fn one(client: &UnixStream, decide: impl Decide, metrics: &Metrics) -> io::Result<()> {
    if client.peer_cred()?.uid() != nix::unistd::getuid().as_raw() {
        return Err(ErrorKind::PermissionDenied.into());
    }
    let Some(question) = tokio::time::timeout(HEAD, question(client)).await?? else {
        return send(client, HERE).await;
    };
    let begun = Instant::now();
    let admission = match question {
        Ok((request, netns)) => {
            let within = request.patience().saturating_sub(MARGIN).min(LONGEST);
            let arrival = Arrival {
                namespace: request.namespace,
                name: request.name,
                uid: request.uid,
                sandbox: request.sandbox,
                netns,
                addresses: request.addresses,
            };
            tokio::select! {
                admission = decide.decide(arrival, within) => admission,
                () = hung_up(client) => return Err(ErrorKind::ConnectionAborted.into()),
            }
        }
        Err(why) => Admission::Refused { why },
    };
    let (outcome, answer) = match admission {
        Admission::Enrolled => (
            Outcome::enrolled,
            Answer::new(mesh_cni::Outcome::Enrolled, ""),
        ),
        Admission::Outside { why } => (
            Outcome::outside,
            Answer::new(mesh_cni::Outcome::Outside, why),
        ),
        Admission::Refused { why } => (
            Outcome::refused,
            Answer::new(mesh_cni::Outcome::Refused, shortened(why)),
        ),
    };
    metrics.answered(outcome, begun.elapsed().as_secs_f64());
    send(client, &serde_json::to_vec(&answer)?).await
}

/// A message has a greatest length, and an event a reader.
fn shortened(mut why: String) -> String {
    const MAX_CHARS: usize = 1_000;
    if let Some((at, _)) = why.char_indices().nth(MAX_CHARS) {
        why.truncate(at);
    }
    why
}

type Question = Result<(Request, OwnedFd), String>;

/// `None`: the agent asks itself.
async fn question(client: &UnixStream) -> io::Result<Option<Question>> {
    let mut buffer = vec![0; MAX_BYTES];
    let message = client
        .async_io(Interest::READABLE, || files::receive(client, &mut buffer))
        .await?;
    if message.length == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    if message.is_cut {
        return Ok(Some(Err("the plugin's question is too long".to_owned())));
    }
    let bytes = &buffer[..message.length];
    if bytes == ARE_YOU_THERE {
        return Ok(None);
    }
    let request = match Request::read(bytes) {
        Ok(request) => request,
        Err(why) => return Ok(Some(Err(why))),
    };
    let mut descriptors = message.descriptors.into_iter();
    Ok(Some(match (descriptors.next(), descriptors.next()) {
        (Some(netns), None) => Ok((request, netns)),
        _ => Err("the plugin's question has not one network namespace beside it".to_owned()),
    }))
}

/// The plugin has given up, or says more than it may.
async fn hung_up(client: &UnixStream) {
    let mut byte = [0];
    let read = client.async_io(Interest::READABLE, || files::receive(client, &mut byte));
    let _either = read.await;
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::sync::Mutex;

    use mesh_cni::{Call, Reply};
    use tokio::task::spawn_blocking;

    use super::*;
    use crate::observe::{AccessLogTarget, Observe};

    /// Answers by the pod's name, and remembers who came.
    #[derive(Clone, Default)]
    struct Scripted(Arc<Mutex<Vec<Arrival>>>);

    impl Decide for Scripted {
        async fn decide(&self, arrival: Arrival, within: Duration) -> Admission {
            let name = arrival.name.clone();
            self.0.lock().expect("no panic").push(arrival);
            match name.as_str() {
                "in" => Admission::Enrolled,
                "out" => Admission::Outside {
                    why: "no label".to_owned(),
                },
                "long" => Admission::Refused {
                    why: "x".repeat(2 * MAX_BYTES),
                },
                "late" => {
                    tokio::time::sleep(within).await;
                    let why = format!("not within {} ms", within.as_millis());
                    Admission::Refused { why }
                }
                _ => std::future::pending().await,
            }
        }
    }

    struct Served {
        dir: tempfile::TempDir,
        decide: Scripted,
        observe: Observe,
        cancel: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    fn start() -> Served {
        let dir = tempfile::tempdir().expect("a directory");
        let observe = Observe::new("n1", AccessLogTarget::Off);
        let metrics = super::super::register(&observe);
        let (decide, cancel) = (Scripted::default(), CancellationToken::new());
        let listener = bind(&dir.path().join("cni.sock")).expect("it listens");
        let task = serve(listener, decide.clone(), metrics, cancel.clone());
        Served {
            dir,
            decide,
            observe,
            cancel,
            task: tokio::spawn(task),
        }
    }

    impl Served {
        /// As a runtime calls the plugin.
        fn add(&self, name: &str) -> tokio::task::JoinHandle<Reply> {
            let dir = self.dir.path().display();
            let text = format!(
                r#"{{"cniVersion":"1.0.0","socket":"{dir}/cni.sock","outsideFile":"{dir}","patienceSeconds":2,
                "prevResult":{{"ips":[{{"address":"10.1.0.5/24"}}]}}}}"#
            );
            let args = format!("K8S_POD_NAMESPACE=shop;K8S_POD_NAME={name};K8S_POD_UID=u1");
            spawn_blocking(move || {
                let call = Call::from(|variable| match variable {
                    "CNI_COMMAND" => Some("ADD".into()),
                    "CNI_CONTAINERID" => Some("s1".into()),
                    "CNI_NETNS" => Some("/proc/self/ns/net".into()),
                    "CNI_ARGS" => Some(OsString::from(&args)),
                    _ => None,
                });
                mesh_cni::run(&call, &text)
            })
        }

        fn counted(&self, outcome: &str) -> bool {
            let page = self.observe.page(crate::observe::NodeState::default(), &[]);
            let line = format!("mesh_agent_cni_adds_total{{outcome=\"{outcome}\"}} 1");
            page.contains(&line)
        }
    }

    #[tokio::test]
    async fn a_plugin_is_told_what_became_of_its_pod() {
        let served = start();
        assert!(served.add("in").await.expect("a reply").is_success);
        assert!(served.counted("enrolled") && !served.counted("outside"));
        assert!(served.add("out").await.expect("a reply").is_success);
        let late = served.add("late").await.expect("a reply");
        assert!(
            !late.is_success && late.text.contains("not within 1"),
            "{late:?}"
        );
        assert!(served.counted("outside") && served.counted("refused"));
        let long = served.add("long").await.expect("a reply");
        assert!(
            !long.is_success && long.text.contains("shop/long is not enrolled"),
            "{long:?}"
        );
        let arrivals = served.decide.0.lock().expect("no panic");
        let first = &arrivals[0];
        assert_eq!(
            (&*first.namespace, &*first.uid, &*first.sandbox),
            ("shop", "u1", "s1")
        );
        assert_eq!(
            first.addresses,
            ["10.1.0.5".parse::<std::net::IpAddr>().expect("one")]
        );
        use std::os::unix::fs::MetadataExt as _;
        let received = std::fs::File::from(first.netns.try_clone().expect("a descriptor"));
        let own = std::fs::metadata("/proc/self/ns/net").expect("own");
        assert_eq!(received.metadata().expect("a file").ino(), own.ino());
    }

    #[tokio::test]
    async fn an_agent_hears_itself_where_it_answers_and_nobody_in_its_place() {
        let served = start();
        let path = served.dir.path().join("cni.sock");
        hears_itself(&path).await.expect("it answers");
        assert!(served.decide.0.lock().expect("no panic").is_empty());
        assert!(!served.counted("refused") && !served.counted("outside"));
        served.cancel.cancel();
        served.task.await.expect("it ends");
        assert!(hears_itself(&path).await.is_err(), "nobody listens");
        // One that is bound, and that nobody serves.
        let _silent = bind(&path).expect("it listens");
        let why = hears_itself(&path).await.expect_err("it is silent");
        assert_eq!(why.kind(), ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn whoever_hangs_up_is_not_worked_for_and_whoever_says_odd_things_is_refused() {
        let served = start();
        let path = served.dir.path().join("cni.sock");
        let connect = || {
            let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
            socket
                .connect(&SockAddr::unix(&path).expect("an address"))
                .expect("connected");
            socket.set_read_timeout(Some(HEAD * 4)).expect("set");
            socket
        };
        let ask = |text: Vec<u8>| {
            let socket = connect();
            spawn_blocking(move || {
                socket.send(&text).expect("sent");
                let mut answer = [std::mem::MaybeUninit::uninit(); 4096];
                socket.recv(&mut answer)
            })
        };
        let whole = br#"{"needs":1,"namespace":"shop","name":"in","uid":"u","sandbox":"s","patience_ms":1000}"#;
        for odd in [b"{".to_vec(), whole.to_vec(), vec![b' '; MAX_BYTES + 1]] {
            let answered = ask(odd).await.expect("no panic").expect("an answer");
            assert!(answered > 0);
        }
        assert!(
            served.decide.0.lock().expect("no panic").is_empty(),
            "no namespace came"
        );
        // Who says nothing is cut off.
        let silent = connect();
        let cut = spawn_blocking(move || {
            let mut byte = [std::mem::MaybeUninit::uninit(); 1];
            silent.recv(&mut byte)
        });
        assert_eq!(cut.await.expect("no panic").expect("an end"), 0);
        // Nobody decides about this one; its plugin gives up.
        let given_up = served.add("never").await.expect("a reply");
        assert!(!given_up.is_success);
        served.cancel.cancel();
        served.task.await.expect("it ends");
    }

    #[tokio::test]
    async fn a_newer_agent_takes_the_place_of_one_that_listens_and_nobody_finds_it_empty() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("run/cni.sock");
        let first = bind(&path).expect("it listens");
        let _second = bind(&path).expect("it listens, too");
        let mode = std::fs::metadata(&path).expect("a socket").permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        drop(first);
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
        socket
            .connect(&SockAddr::unix(&path).expect("an address"))
            .expect("connected");
        assert_eq!(
            std::fs::read_dir(dir.path().join("run"))
                .expect("a folder")
                .count(),
            1
        );
    }
}
