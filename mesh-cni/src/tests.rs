//! The plugin against an agent that is there, is not, or is odd.

use std::ffi::OsString;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    self, AddressFamily, Backlog, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
};

use super::*;

const RESULT: &str = r#"{"cniVersion":"1.0.0",  "interfaces":[{"name":"eth0","sandbox":"/x"}],
  "ips":[{"address":"10.1.0.5/24","interface":0}],"dns":{},"z":1,"a":2.50}"#;

struct Node {
    dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self { dir }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("cni.sock")
    }

    fn outside(&self, text: &str) {
        std::fs::write(self.dir.path().join("outside.json"), text).expect("written");
    }

    /// The configuration as the runtime hands it over.
    fn configuration(&self, version: &str) -> String {
        let dir = self.dir.path().display();
        format!(
            r#"{{"cniVersion":"{version}","name":"kindnet","type":"mesh-agent-cni","socket":"{dir}/cni.sock",
            "outsideFile":"{dir}/outside.json","meshNamespace":"mesh-system","patienceSeconds":1,"prevResult":{RESULT}}}"#
        )
    }

    fn add(&self, namespace: &str) -> Reply {
        run(&call("ADD", namespace), &self.configuration("1.0.0"))
    }

    /// Listens now, and answers what each of them gets with the next of `answers`.
    fn agent(&self, answers: &[&str]) -> JoinHandle<Vec<String>> {
        let listener = listen(&self.socket());
        let answers: Vec<String> = answers.iter().map(|a| (*a).to_owned()).collect();
        std::thread::spawn(move || {
            let answer = |answer: String| answer_one(&listener, &answer);
            answers.into_iter().map(answer).collect()
        })
    }
}

fn call(command: &str, namespace: &str) -> Call {
    let variables = [
        ("CNI_COMMAND", command.to_owned()),
        ("CNI_CONTAINERID", "sandbox1".to_owned()),
        ("CNI_NETNS", "/proc/self/ns/net".to_owned()),
        (
            "CNI_ARGS",
            format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=web;K8S_POD_UID=u1"),
        ),
    ];
    let find = |name: &str| variables.iter().find(|(n, _)| *n == name);
    Call::from(|name| find(name).map(|(_, value)| OsString::from(value)))
}

fn listen(path: &Path) -> OwnedFd {
    let kind = SockType::SeqPacket;
    let listener = socket::socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None);
    let listener = listener.expect("a socket");
    let address = UnixAddr::new(path).expect("an address");
    socket::bind(listener.as_raw_fd(), &address).expect("bound");
    socket::listen(&listener, Backlog::new(4).expect("a number")).expect("listens");
    listener
}

/// What was asked, after it was answered; an empty answer hangs up.
fn answer_one(listener: &OwnedFd, answer: &str) -> String {
    let client = socket::accept(listener.as_raw_fd()).expect("accepted");
    let mut buffer = vec![0; MAX_BYTES];
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let mut space = nix::cmsg_space!([i32; 2]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = socket::recvmsg::<()>(client, &mut parts, Some(&mut space), flags);
    let message = message.expect("a question");
    let mut descriptors = 0;
    for part in message.cmsgs().expect("all of it") {
        if let ControlMessageOwned::ScmRights(fds) = part {
            descriptors += fds.len();
            fds.iter()
                .for_each(|fd| nix::unistd::close(*fd).expect("closed"));
        }
    }
    assert_eq!(descriptors, 1, "the namespace comes along");
    let length = message.bytes;
    if !answer.is_empty() {
        let parts = [IoSlice::new(answer.as_bytes())];
        socket::sendmsg::<()>(client, &parts, &[], MsgFlags::empty(), None).expect("answered");
    }
    nix::unistd::close(client).expect("closed");
    String::from_utf8(buffer[..length].to_vec()).expect("text")
}

fn error(reply: &Reply) -> (u64, String) {
    assert!(!reply.is_success, "{reply:?}");
    let error: serde_json::Value = serde_json::from_str(&reply.text).expect("JSON");
    let word = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
    let text = format!("{}; {}", word("msg"), word("details"));
    assert!(!text.contains('\n'), "{text}");
    (error["code"].as_u64().expect("a code"), text)
}

const ENROLLED: &str = r#"{"needs":1,"outcome":"enrolled"}"#;
const REFUSED: &str =
    r#"{"needs":1,"outcome":"refused","message":"no certificate;\nsee the authority"}"#;

#[test]
fn a_pod_that_is_enrolled_goes_on_with_the_result_as_it_was_written() {
    let node = Node::new();
    node.outside(r#"{"needs":1,"namespaces":[]}"#);
    let agent = node.agent(&[ENROLLED]);
    let reply = node.add("shop");
    assert_eq!(reply, Reply::result(RESULT.to_owned()));
    let asked = agent.join().expect("it answered").remove(0);
    let request = Request::read(asked.as_bytes()).expect("a question");
    assert_eq!(request.sandbox, "sandbox1");
    assert_eq!(
        (&*request.namespace, &*request.name, &*request.uid),
        ("shop", "web", "u1")
    );
    assert_eq!(request.addresses[0].to_string(), "10.1.0.5");
    assert!(request.patience() <= Duration::from_secs(1) && request.patience_ms > 0);
}

#[test]
fn what_the_agent_refuses_ends_as_one_line_with_the_cause() {
    let node = Node::new();
    let agent = node.agent(&[REFUSED, r#"{"needs":7,"outcome":"enrolled"}"#, "nonsense"]);
    let (code, text) = error(&node.add("shop"));
    assert_eq!(code, 100);
    assert!(
        text.starts_with("pod shop/web is not enrolled: no certificate; see"),
        "{text}"
    );
    let (_, text) = error(&node.add("shop"));
    assert!(text.contains("newer"), "{text}");
    let (_, text) = error(&node.add("shop"));
    assert!(text.contains("cannot be read"), "{text}");
    agent.join().expect("it answered");
}

#[test]
fn while_the_agent_is_away_only_what_may_be_enrolled_waits_for_it() {
    let node = Node::new();
    let started = Instant::now();
    // Nothing of a mesh was ever here, or it was uninstalled.
    assert!(node.add("shop").is_success);
    node.outside(r#"{"needs":1,"namespaces":["kube-system"],"pods":[]}"#);
    assert!(node.add("kube-system").is_success, "outside the mesh");
    assert!(node.add("mesh-system").is_success, "the mesh's own");
    node.outside(r#"{"needs":1,"namespaces":[],"pods":["u1"]}"#);
    assert!(node.add("shop").is_success, "known by its UID");
    assert!(started.elapsed() < Duration::from_secs(1), "nobody waited");
    for unsure in [r#"{"needs":1,"namespaces":["kube-system"]}"#, "{", ""] {
        node.outside(unsure);
        let started = Instant::now();
        let (code, text) = error(&node.add("shop"));
        assert_eq!(code, 11);
        assert!(
            text.contains("shop/web waits for the mesh's agent"),
            "{text}"
        );
        assert!(text.contains("its socket is not there"), "{text}");
        assert!(text.contains("kubectl -n mesh-system get pods"), "{text}");
        assert!(started.elapsed() >= Duration::from_millis(800), "it waits");
    }
    // One that has ended leaves its socket's file.
    drop(listen(&node.socket()));
    assert!(node.add("mesh-system").is_success);
    let (_, text) = error(&node.add("shop"));
    assert!(text.contains("nobody listens there"), "{text}");
}

#[test]
fn an_agent_that_comes_in_time_is_asked_and_one_that_ends_meanwhile_is_asked_again() {
    let node = Node::new();
    node.outside(r#"{"needs":1,"namespaces":[]}"#);
    let waiting = {
        let configuration = node.configuration("1.0.0");
        std::thread::spawn(move || run(&call("ADD", "shop"), &configuration))
    };
    // The first one hangs up on it.
    let agent = node.agent(&["", ENROLLED]);
    assert!(waiting.join().expect("it ends").is_success);
    assert_eq!(agent.join().expect("it answered").len(), 2);
}

#[test]
fn an_agent_that_stands_still_is_not_waited_for_without_an_end() {
    let node = Node::new();
    let _listener = listen(&node.socket());
    node.outside(r#"{"needs":1,"namespaces":["kube-system"]}"#);
    let started = Instant::now();
    let (code, text) = error(&node.add("shop"));
    assert_eq!(code, 11);
    assert!(text.contains("it is busy, or stands still"), "{text}");
    assert!(node.add("kube-system").is_success, "certainly outside");
    assert!(started.elapsed() < Duration::from_secs(4));
}

#[test]
fn whatever_else_is_asked_succeeds_twice_in_any_order_without_anything() {
    for command in ["DEL", "STATUS", "CHECK", "GC", "DEL", "STATUS"] {
        let call = Call::from(|name| (name == "CNI_COMMAND").then(|| command.into()));
        assert_eq!(run(&call, ""), Reply::nothing(), "{command}");
        assert_eq!(run(&call, "{"), Reply::nothing(), "{command}");
    }
    let versions = run(&call("VERSION", "shop"), "");
    let versions: serde_json::Value = serde_json::from_str(&versions.text).expect("JSON");
    assert_eq!(versions["supportedVersions"][4], "1.1.0");
    for command in ["", "add", "REMOVE\n"] {
        let (code, _) = error(&run(&call(command, "shop"), ""));
        assert_eq!(code, 4);
    }
}

#[test]
fn the_asked_version_is_answered_and_an_unknown_one_refused() {
    let node = Node::new();
    for version in SUPPORTED_VERSIONS {
        assert!(run(&call("ADD", "shop"), &node.configuration(version)).is_success);
    }
    for version in ["", "0.2.0", "1.2.0", "2.0.0"] {
        let (code, _) = error(&run(&call("ADD", "shop"), &node.configuration(version)));
        assert_eq!(code, 1, "{version}");
    }
    let alone = r#"{"cniVersion":"0.4.0","name":"n","type":"mesh-agent-cni"}"#;
    let reply = run(&call("ADD", "mesh-system"), alone);
    assert_eq!(reply.text, "{\"cniVersion\":\"0.4.0\"}\n");
    let (code, _) = error(&run(&call("ADD", "mesh-system"), "{"));
    assert_eq!(code, 6);
}

#[test]
fn what_is_no_pod_of_the_kubelets_passes_and_half_a_pod_does_not() {
    let node = Node::new();
    node.outside(r#"{"needs":1,"namespaces":["kube-system"]}"#);
    let with_args = |args: &'static str| {
        Call::from(move |name| match name {
            "CNI_COMMAND" => Some("ADD".into()),
            "CNI_NETNS" => Some("/proc/self/ns/net".into()),
            "CNI_ARGS" => Some(args.into()),
            _ => None,
        })
    };
    let add = |args| run(&with_args(args), &node.configuration("0.3.1"));
    assert!(add("").is_success, "a container of another program");
    let (_, text) = error(&add("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web"));
    assert!(text.contains("upgrade the container runtime"), "{text}");
    assert!(add("K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=dns").is_success);
    assert!(!add("K8S_POD_NAME=web;K8S_POD_UID=u1").is_success);
}
