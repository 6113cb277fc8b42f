//! What is wrong, in the operator's words: what, what follows, what to do. Pure.

use std::time::Duration;

use crate::admin::Problem;
use crate::cni;
use crate::discovery;
use crate::enrol::PodStatus;
use crate::identity::{self, IdentityStatus, TokenStatus};
use crate::io;
use crate::proxy;

const REFUSED: &str = "connections to and from other nodes are refused, but for ports that PeerAuthentication sets to DISABLE";
/// Identities that are named in one problem.
const NAMED: usize = 3;

pub(super) fn starting() -> Problem {
    let what = "starting: the node's pods are not yet looked at";
    let effect = "closed pods are refused";
    Problem::new("start", what, effect, "wait for a moment")
        .blocking()
        .starting()
}

pub(super) fn stopping() -> Problem {
    let what = "stopping: live connections end";
    Problem::new("stop", what, "", "").blocking().starting()
}

/// Of a limit of open files that is low, lower than what the flags ask for, or nearly
/// used up by so many enrolled pods. What it says changes with few of their numbers: the
/// log has each change.
pub(super) fn of_limits(config: &proxy::Config, pods: usize) -> Option<Problem> {
    let limits = &config.limits;
    let (files, connections) = (limits.open_files(), limits.connections_beside(0));
    let left = limits.connections_beside(pods);
    let (of_pod, full) = (limits.files_of_pod(), limits.pods_that_fill());
    let is_near = left < connections / 4;
    if !limits.is_short(config.max_connections) && !is_near && left > 0 {
        return None;
    }
    let (what, effect) = match (left, is_near) {
        (0, _) => (
            format!(
                "{files} open files leave none for connections: a part is held back for control, and the agent has about {} open of itself and {of_pod} for each enrolled pod",
                limits.own_files(0)
            ),
            "connections are refused (over_limit), and pods may fail to be enrolled",
        ),
        (_, true) => (
            format!(
                "{files} open files leave few for connections: the agent has about {of_pod} open for each enrolled pod, and with about {full} pods none is left"
            ),
            "further connections are refused (over_limit), with more pods all",
        ),
        (_, false) => (
            format!(
                "{files} open files are enough for about {connections} connections at once, less {} for each enrolled pod",
                of_pod.div_ceil(2)
            ),
            "further connections are refused (over_limit)",
        ),
    };
    Some(Problem::new("open files", what, effect, raise(limits)))
}

/// By how much the limit is to be more.
fn raise(limits: &io::Limits) -> String {
    let enough = io::RECOMMENDED_OPEN_FILES.max(limits.open_files() as u64 * 2);
    format!("raise LimitNOFILE to {enough} or more, or to two for each of --max-connections")
}

/// Of a configuration directory that has not answered for so long.
pub(super) fn of_stalled(silent: Duration) -> Problem {
    Problem::new(
        "configuration directory",
        format!(
            "the configuration directory has not answered for {} s",
            silent.as_secs()
        ),
        "changes of the configuration, denials too, are not heard of",
        "look at the file system that it is on",
    )
}

/// Of descriptors that are in use now, beside so many enrolled pods.
pub(super) fn of_open_files(limits: &io::Limits, pods: usize) -> Option<Problem> {
    let used_up = || {
        Problem::new(
            "open files in use",
            format!(
                "the open files that connections may have, of {} in all, are used up",
                limits.open_files()
            ),
            "further connections are refused (over_limit), and pods may fail to be enrolled",
            match limits.are_own(pods) {
                true => format!("most are the agent's own and its pods': {}", raise(limits)),
                false => {
                    "`mesh-agent connections` shows whose they are; or raise LimitNOFILE".to_owned()
                }
            },
        )
    };
    limits.are_used_up().then(used_up)
}

pub(super) fn of_access_log(why: String) -> Problem {
    Problem::new(
        "access log",
        format!("lines of the access log are dropped: {why}"),
        "who was refused, and who talked to whom, is not written down (mesh_agent_log_lines_dropped_total); connections are carried",
        "mend what --access-log names: a full disk, a reader that stands still, a directory that is gone",
    )
}

pub(super) fn of_configuration(problem: &discovery::Problem) -> Problem {
    let place = (&problem.origin.place, &problem.object, &problem.field);
    Problem::new(
        format!("configuration {} {} {}", place.0, place.1, place.2),
        problem.to_string(),
        "what it said before stays in force; else an ALLOW like it grants nothing, a DENY denies all that it selects, and a pod or a Service stays closed as far as it can be read",
        match problem.origin.place.is_file() {
            true => {
                "correct the file; `mesh-agent check-config` on its directory shows every mistake"
            }
            false => "correct the object",
        },
    )
}

pub(super) fn of_policy(sentence: String) -> Problem {
    Problem::new(
        format!("policy {sentence}"),
        sentence,
        "it allows less than it is written to",
        "correct the policy",
    )
}

pub(super) fn of_pod(pod: &PodStatus) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Some(message) = pod.message.as_ref().filter(|_| !pod.is_starting()) {
        problems.push(Problem::new(
            format!("pod {}", pod.pod),
            format!("Pod {} is not enrolled: {message}", pod.pod),
            match pod.fails_open {
                false => "it stays as closed as it was: what the mesh does not carry of its connections is refused",
                true => "it fails open: where the agent does not listen for it, its connections pass outside of the mesh, in plaintext",
            },
            "mend what the message names; it is tried again every second",
        ));
    }
    if let Some(unknown) = &pod.unknown {
        problems.push(Problem::new(
            format!("look at pod {}", pod.pod),
            format!("Pod {} cannot be looked at: {unknown}", pod.pod),
            "it is carried as it was seen last; what changes about it, or is taken from it, is not seen meanwhile",
            "mend what the message names; it is looked at again all the time",
        ));
    }
    if let Some(unwatched) = &pod.unwatched {
        problems.push(Problem::new(
            format!("cgroup of pod {}", pod.pod),
            format!("Pod {}: its cgroup is not watched: {unwatched}", pod.pod),
            "what its processes connect to from another network namespace is not refused",
            "mend what the message names; it is tried again every second",
        ));
    }
    if let Some(warning) = &pod.warning {
        problems.push(Problem::new(
            format!("warning of pod {}", pod.pod),
            format!("Pod {}: {warning}", pod.pod),
            "it is enrolled; some of its connections may fail",
            "change what the message names",
        ));
    }
    problems
}

/// What becomes of a node whose chain the CNI plugin is not in.
#[derive(Clone, Copy, Debug)]
pub(super) struct WithoutPlugin {
    /// Some of the node's cgroups are closed to pods that nobody knows (`--guard-cgroup`).
    pub(super) is_guarded: bool,
    /// Its agent is ready all the same (`--ready-without-cni`).
    pub(super) is_ready: bool,
}

impl WithoutPlugin {
    /// What a pod meets between its start and its enrolment.
    fn effect(self) -> &'static str {
        match self.is_guarded {
            false => {
                "a new pod's first containers start before it is found and enrolled: until then it connects, and is reached, in plaintext and by no policy"
            }
            true => {
                "a new pod's first containers start before it is found and enrolled: until then what it connects to below --guard-cgroup is refused, and it is reached in plaintext and by no policy"
            }
        }
    }
}

/// Of the CNI plugin's place in the node's chain. The node is ready when it was there once.
pub(super) fn of_plugin(report: &cni::Report, without: WithoutPlugin) -> Vec<Problem> {
    let blocks = !report.was_whole && !without.is_ready;
    let mut problems = Vec::new();
    let remedy = match &report.standing {
        cni::Standing::Unknown | cni::Standing::In(_) => None,
        cni::Standing::NoNetwork(_) => {
            Some("install the cluster's network, or name its folder with --cni-conf-dir")
        }
        cni::Standing::Waits(_) => Some(
            "have the program that owns the file leave other plugins in it (Cilium: cni.exclusive=false); it is put back, ever slower",
        ),
        cni::Standing::Failed { .. } => {
            Some("mend what the message names; it is tried again every 10 seconds")
        }
    };
    if let Some(remedy) = remedy {
        let what = format!(
            "the CNI plugin is not in the node's chain: {}",
            report.standing
        );
        problems.push(match blocks {
            false => Problem::new("CNI plugin", what, without.effect(), remedy),
            true => Problem::new(
                "CNI plugin",
                what,
                format!(
                    "{}; the agent is not ready until it was there once",
                    without.effect()
                ),
                format!("{remedy}; or let the agent be ready without it: --ready-without-cni"),
            )
            .blocking(),
        });
    } else if let Some(why) = &report.unheard {
        problems.push(Problem {
            blocks,
            ..Problem::new(
                "CNI plugin's socket",
                format!("the agent does not hear its CNI plugin: {why}"),
                "new pods that are enrolled wait for an agent, and do not start",
                "have --run-dir be the same folder here and on the host; it is tried again every second",
            )
        });
    } else if blocks {
        let what = "starting: the node's chain of CNI plugins is not yet looked at";
        let starting = Problem::new("CNI plugin", what, "", "wait for a moment");
        problems.push(starting.blocking().starting());
    }
    if !report.broken.is_empty() {
        problems.push(Problem::new(
            "CNI configuration",
            format!(
                "files of the node's CNI configuration cannot be used: {}",
                report.broken.join("; ")
            ),
            "a container runtime that takes the first file alone (containerd) starts no pod",
            "correct the files, or remove them",
        ));
    }
    if let Some(why) = &report.unwritten {
        problems.push(Problem::new(
            "CNI plugin's file",
            format!("what is outside the mesh cannot be left on the node for its CNI plugin: {why}"),
            "while no agent runs new pods wait for one, or those that were outside the mesh before are taken to be so",
            "mend what the message names; it is tried again every 10 seconds",
        ));
    }
    problems
}

/// Of pods that the container runtime made without the plugin that is in its chain.
pub(super) fn of_passed_over(
    pods: &[&str],
    standing: &cni::Standing,
    without: WithoutPlugin,
) -> Option<Problem> {
    let first = pods.first()?;
    Some(Problem::new(
        "CNI plugin's chain",
        format!(
            "the CNI plugin is {standing}, and the container runtime does not go by that file: since then it made {} pods of the mesh without calling it, such as {first}",
            pods.len()
        ),
        without.effect(),
        "have the runtime use that file (CRI-O: cni_default_network may name another one), or name its folder with --cni-conf-dir, and make these pods anew",
    ))
}

/// Of what earlier agents left and nobody wants.
pub(super) fn of_strangers(why: &str) -> Problem {
    Problem::new(
        "earlier agents",
        format!("what earlier agents left cannot be looked at or removed: {why}"),
        "closed pods stay closed, and nothing is let go of meanwhile",
        "mend what the message names; it is tried again every second",
    )
}

/// Of another load balancer at connect.
pub(super) fn of_neighbours(programs: &str) -> Problem {
    Problem::new(
        "another load balancer",
        format!(
            "programs of others run where pods connect ({programs}), and no connection of a pod came with a Service's address since they are there: they put pods' addresses in place first"
        ),
        "mutual TLS and policies hold; what a Service says (which endpoints, session affinity, its name in logs and metrics) does not count",
        "have it leave pods alone (Cilium: socketLB.hostNamespaceOnly=true; Calico: bpfConnectTimeLoadBalancing: Disabled)",
    )
}

/// Of certificates. Without any valid one no call to or from another node can
/// succeed: then the node is not ready, though what stays within it goes on.
pub(super) fn of_identities(status: &identity::Status) -> Vec<Problem> {
    if status.source == "none" {
        let what = "no source of certificates";
        let remedy = "give --ca-address (with --ca-root and --ca-token-file) or --identity-dir";
        return vec![Problem::new("certificates", what, REFUSED, remedy)];
    }
    let mut problems: Vec<_> = status.revocations.iter().map(revocations).collect();
    let is_told = status.identities.iter().any(|i| i.failures > 0);
    problems.extend(status.revocations_since.iter().map(overdue));
    // One that has ended is the reason of a failed renewal, which names it.
    let is_news = |t: &&TokenStatus| t.is_ending && (t.expires_in_seconds > 0 || !is_told);
    problems.extend(status.token.iter().filter(is_news).map(of_token));
    let all = status.identities.len();
    let in_state = |state: &str| -> Vec<&IdentityStatus> {
        let of = status.identities.iter();
        of.filter(|i| i.state == state).collect()
    };
    let lacking = [("expired", "has expired"), ("missing", "is not there")];
    let lost: usize = lacking.map(|(state, _)| in_state(state).len()).iter().sum();
    for (state, words) in lacking {
        let which = in_state(state);
        let Some(first) = which.first() else {
            continue;
        };
        let why = match &first.last_error {
            Some(error) => error.clone(),
            None if state == "expired" => "its source gives no newer one".to_owned(),
            None => "the first answer is awaited".to_owned(),
        };
        let mut problem = Problem::new(
            format!("certificates {state}"),
            format!("the certificate of {} {words}: {why}", names(&which)),
            match lost == all {
                true => format!(
                    "no pod of this node has one: {REFUSED}; what stays within the node goes on"
                ),
                false => format!("of these pods, {REFUSED}"),
            },
            remedy(first),
        );
        problem.blocks = lost == all;
        problem.starting = which.iter().all(|i| i.failures == 0 && state == "missing");
        problems.push(problem);
    }
    problems.extend(ending(&in_state("valid")));
    let failing: Vec<_> = in_state("valid")
        .into_iter()
        .filter(|i| i.failures > 0)
        .collect();
    if let Some(first) = failing.iter().min_by_key(|i| i.expires_in_seconds) {
        let why = first.last_error.as_deref().unwrap_or("no answer");
        let until = first.expires.as_deref().unwrap_or("its end");
        problems.push(Problem::new(
            "certificates renewal",
            format!(
                "the certificate of {} cannot be renewed: {why}",
                names(&failing)
            ),
            format!("it is valid until {until} and used till then; afterwards {REFUSED}"),
            remedy(first),
        ));
    }
    problems
}

/// Of a join token that ends: every renewal shows it again.
fn of_token(token: &TokenStatus) -> Problem {
    let (what, effect) = match token.expires_in_seconds > 0 {
        true => ("expires", "from then on no certificate is renewed"),
        false => ("expired", "no certificate is renewed"),
    };
    Problem::new(
        "token",
        format!("the node's join token {what} at {}", token.expires),
        format!("{effect}; those that are there are used until they end, and then {REFUSED}"),
        token.remedy.clone(),
    )
}

/// Of certificates that somebody else has to renew.
fn ending(valid: &[&IdentityStatus]) -> Option<Problem> {
    let which: Vec<_> = valid.iter().copied().filter(|i| i.is_ending).collect();
    let first = which.iter().min_by_key(|i| i.expires_in_seconds)?;
    let until = first.expires.as_deref().unwrap_or("its end");
    Some(Problem::new(
        "certificates ending",
        format!("the certificate of {} ends soon, at {until}", names(&which)),
        format!("afterwards {REFUSED}"),
        "put newer ones into --identity-dir; they are taken at once",
    ))
}

fn overdue(since: &String) -> Problem {
    Problem::new(
        "revocations age",
        format!("the revocation lists were to be replaced by newer ones at {since}"),
        "certificates that were revoked since are believed; those that were revoked before are not",
        "put the authority's newest crl.pem where --crl-file names it",
    )
}

fn revocations(what: &String) -> Problem {
    Problem::new(
        "revocations",
        format!("revocations: {what}"),
        "the last lists that could be read stay in force; without any there are no certificates",
        "put the authority's crl.pem where --crl-file names it",
    )
}

fn remedy(identity: &IdentityStatus) -> String {
    let told = identity.remedy.clone();
    told.unwrap_or_else(|| {
        "see the source of certificates; it is tried again all the time".to_owned()
    })
}

fn names(which: &[&IdentityStatus]) -> String {
    let named = which.iter().take(NAMED).map(|i| &*i.identity);
    let text = named.collect::<Vec<_>>().join(", ");
    match which.len().saturating_sub(NAMED) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

#[cfg(test)]
mod tests;
