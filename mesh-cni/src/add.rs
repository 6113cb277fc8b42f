//! ADD: a sandbox has its network; its containers start when this succeeds.

use std::fs::File;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::ask::{NoAnswer, ask};
use crate::call::{Call, Pod};
use crate::entry::{Entry, is_supported};
use crate::message::{MAX_ADDRESSES, Request};
use crate::outside::{self, Read};
use crate::reply::{Code, Failure, Reply};

/// How often an agent that is away is looked for.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Configuration<'a> {
    #[serde(default)]
    cni_version: String,
    /// Handed on as it is written.
    #[serde(borrow)]
    prev_result: Option<&'a RawValue>,
}

pub(crate) fn add(call: &Call, stdin: &str) -> Reply {
    let read = |error: serde_json::Error| {
        let what = format!("the network's configuration cannot be read: {error}");
        Failure::new(Code::Decode, what, "correct the node's CNI configuration").reply(None)
    };
    let configuration: Configuration<'_> = match serde_json::from_str(stdin) {
        Ok(configuration) => configuration,
        Err(error) => return read(error),
    };
    let entry: Entry = match serde_json::from_str(stdin) {
        Ok(entry) => entry,
        Err(error) => return read(error),
    };
    let version = &configuration.cni_version;
    if !is_supported(version) {
        let what = format!("version {version:?} of CNI is not known to the mesh's plugin");
        let failure = Failure::new(Code::Version, what, "upgrade the mesh's agent");
        return failure.reply(None);
    }
    let addresses = configuration.prev_result.map(addresses).unwrap_or_default();
    match admit(call, &entry, addresses) {
        Ok(()) => match configuration.prev_result {
            Some(result) => Reply::result(result.get().to_owned()),
            None => Reply::result(format!("{{\"cniVersion\":{version:?}}}\n")),
        },
        Err(failure) => failure.reply(Some(version)),
    }
}

/// May the pod start?
fn admit(call: &Call, entry: &Entry, addresses: Vec<IpAddr>) -> Result<(), Failure> {
    // A container of somebody else's than the kubelet.
    let Some(pod) = &call.pod else {
        return Ok(());
    };
    // Before anything that could wait for the agent: it may be the agent.
    if pod.namespace == entry.mesh_namespace {
        return Ok(());
    }
    let netns = File::open(&call.netns).map_err(|error| {
        let what = format!(
            "cannot open the network namespace {}: {error}",
            call.netns.display()
        );
        Failure::new(Code::Io, what, "the pod is tried again by itself")
    })?;
    if pod.uid.is_empty() {
        return without_uid(entry, pod);
    }
    enrol(call, entry, pod, (&netns, addresses))
}

/// Asks until there is an answer, or it is certain that none is needed.
fn enrol(
    call: &Call,
    entry: &Entry,
    pod: &Pod,
    (netns, addresses): (&File, Vec<IpAddr>),
) -> Result<(), Failure> {
    let patience = entry.patience();
    let deadline = Instant::now() + patience;
    let mut request = Request {
        needs: 1,
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        sandbox: call.sandbox.clone(),
        addresses,
        patience_ms: 0,
    };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        request.patience_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let why = match ask(&entry.socket, &request, netns, deadline) {
            Ok(answer) => return answer.permits().map_err(|why| refused(pod, &why)),
            Err(NoAnswer::Odd(why)) => return Err(refused(pod, &why)),
            Err(NoAnswer::Away(error)) => error,
        };
        let doubt = match may_be_enrolled(entry, pod) {
            None => return Ok(()),
            Some(doubt) => doubt,
        };
        if Instant::now() + PAUSE >= deadline {
            return Err(away(entry, pod, &words(&why), &doubt));
        }
        std::thread::sleep(PAUSE);
    }
}

/// Why a pod may be in the mesh, where no agent says it; `None`: it is not.
fn may_be_enrolled(entry: &Entry, pod: &Pod) -> Option<String> {
    match outside::read(&entry.outside_file) {
        Read::NoMesh => None,
        Read::Known(outside) if outside.has(&pod.namespace, &pod.uid) => None,
        Read::Known(_) => Some(format!(
            "the namespace {} is enrolled, or not known to be outside the mesh",
            pod.namespace
        )),
        Read::Unreadable(why) => Some(format!(
            "what is outside the mesh cannot be read ({}: {why})",
            entry.outside_file.display()
        )),
    }
}

fn without_uid(entry: &Entry, pod: &Pod) -> Result<(), Failure> {
    let Some(doubt) = may_be_enrolled(entry, pod) else {
        return Ok(());
    };
    let what = format!(
        "pod {}/{} cannot be enrolled: the container runtime does not say its UID (K8S_POD_UID); {doubt}",
        pod.namespace, pod.name
    );
    Err(Failure::new(
        Code::Refused,
        what,
        "upgrade the container runtime",
    ))
}

fn refused(pod: &Pod, why: &str) -> Failure {
    let what = format!("pod {}/{} is not enrolled: {why}", pod.namespace, pod.name);
    Failure::new(Code::Refused, what, "the pod is tried again by itself")
}

fn away(entry: &Entry, pod: &Pod, why: &str, doubt: &str) -> Failure {
    let what = format!(
        "pod {}/{} waits for the mesh's agent, which did not answer on {} for {} s: {why}; {doubt}",
        pod.namespace,
        pod.name,
        entry.socket.display(),
        entry.patience().as_secs(),
    );
    let remedy = format!(
        "see why the agent of this node does not run (kubectl -n {} get pods -o wide); the pod is tried again by itself",
        entry.mesh_namespace
    );
    Failure::new(Code::TryAgain, what, remedy)
}

/// What the kernel's word means here.
fn words(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "its socket is not there".to_owned(),
        ErrorKind::ConnectionRefused => "nobody listens there".to_owned(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "it is busy, or stands still".to_owned(),
        ErrorKind::ConnectionReset => "it ended while it was asked".to_owned(),
        _ => error.to_string(),
    }
}

/// Those that the sandbox's own interfaces were given. What is not understood of
/// them is left out: the agent looks at the namespace itself.
fn addresses(result: &RawValue) -> Vec<IpAddr> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Given {
        ips: Vec<Ip>,
        interfaces: Vec<Interface>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Ip {
        address: String,
        interface: Option<usize>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Interface {
        sandbox: String,
    }
    let given: Given = serde_json::from_str(result.get()).unwrap_or_default();
    let is_inside = |ip: &&Ip| {
        let interface = ip.interface.and_then(|at| given.interfaces.get(at));
        interface.is_none_or(|interface| !interface.sandbox.is_empty())
    };
    let address = |ip: &Ip| ip.address.split('/').next()?.parse().ok();
    let inside = given.ips.iter().filter(is_inside);
    inside.filter_map(address).take(MAX_ADDRESSES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_addresses_are_those_of_interfaces_inside_it() {
        let of = |text: &str| {
            let raw: Box<RawValue> = serde_json::from_str(text).expect("JSON");
            let ips = addresses(&raw);
            ips.iter().map(IpAddr::to_string).collect::<Vec<_>>()
        };
        let two = r#"{"interfaces":[{"name":"veth1"},{"name":"eth0","sandbox":"/run/netns/x"}],
            "ips":[{"version":"4","address":"10.1.0.5/24","interface":1},
                   {"address":"fd00::5/64","interface":1},{"address":"10.1.0.1/24","interface":0},
                   {"address":"10.9.0.1/32"}]}"#;
        assert_eq!(of(two), ["10.1.0.5", "fd00::5", "10.9.0.1"]);
        assert_eq!(of(r#"{"ips":[{"address":"x"},{"address":""}]}"#), [""; 0]);
        assert_eq!(of(r#"{"ips":{}}"#), [""; 0]);
        assert_eq!(of("3"), [""; 0]);
    }
}
