//! What `deploy/` gives the agent's container, and what the documentation says of it.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::proxy::longest_drain;

const DAEMONSET: &str = include_str!("../../../deploy/base/agent.yaml");
const UNINSTALL: &str = include_str!("../../../deploy/uninstall/agent.yaml");
const WITHOUT_CNI: &str = include_str!("../../../deploy/components/no-cni/kustomization.yaml");
const AUTHORITY: &str = include_str!("../../../deploy/base/ca.yaml");
const CONSTRAINTS: &str = include_str!("../../../deploy/components/openshift/constraints.yaml");
const PROBE_HOSTS: &str = include_str!("../../../deploy/base/probe-hosts.yaml");
const BASE: &str = include_str!("../../../deploy/base/kustomization.yaml");
const UNIT: &str = include_str!("../../../deploy/vm/mesh-agent.service");
const VM_PAGE: &str = include_str!("../../../deploy/vm/README.md");
const PAGE: &str = include_str!("../../../docs/kubernetes.md");
/// For what an agent does after its last connection, and on a busy node.
const MARGIN: Duration = Duration::from_secs(7);

fn read(yaml: &str) -> Value {
    serde_saphyr::from_str(yaml).expect("YAML")
}

fn pod() -> Value {
    read(DAEMONSET)["spec"]["template"]["spec"].clone()
}

fn list<'v>(value: &'v Value, what: &str) -> &'v [Value] {
    let all = value[what].as_array();
    all.unwrap_or_else(|| panic!("{what} of {value}"))
}

/// How long a kustomization lets the agent drain.
fn drain(kustomization: &Value) -> Duration {
    let settings = &list(kustomization, "configMapGenerator")[0];
    let literals = list(settings, "literals").iter();
    let mut literals = literals.filter_map(|one| one.as_str()?.split_once('='));
    let (_, time) = literals
        .find(|(name, _)| *name == "MESH_DRAIN_TIMEOUT")
        .expect("the time of a drain");
    humantime::parse_duration(time).expect("a time")
}

fn is_long_enough(pod: &Value, drain: Duration) {
    let grace = pod["terminationGracePeriodSeconds"].as_u64();
    suffices(Duration::from_secs(grace.expect("a time of grace")), drain);
}

fn suffices(grace: Duration, drain: Duration) {
    let needed = longest_drain(drain) + MARGIN;
    assert!(grace >= needed, "{grace:?}, and {needed:?} are needed");
}

#[test]
fn an_agent_has_ended_its_connections_before_the_kubelet_kills_it() {
    is_long_enough(&pod(), drain(&read(BASE)));
}

/// What stands after `name` in the text, up to white space.
fn time_after(text: &str, name: &str) -> Duration {
    let (_, rest) = text.split_once(name).expect("it is there");
    let word = rest.split_whitespace().next().expect("a word");
    humantime::parse_duration(word).expect("a time")
}

#[test]
fn an_agent_has_ended_its_connections_before_systemd_kills_it() {
    let grace = time_after(UNIT, "\nTimeoutStopSec=");
    for text in [UNIT, VM_PAGE] {
        suffices(grace, time_after(text, "--drain-timeout="));
    }
}

#[test]
fn the_authority_is_told_what_the_agents_are_told_where_both_have_to_agree() {
    let authority = AUTHORITY.split("---").next().expect("a document");
    let pod = read(authority)["spec"]["template"]["spec"].clone();
    let mut given = BTreeSet::new();
    for variable in list(&list(&pod, "containers")[0], "env") {
        let name = variable["name"].as_str().expect("a name");
        let from = &variable["valueFrom"]["configMapKeyRef"];
        assert_eq!(from["name"], "mesh-agent-settings", "{name}");
        assert_eq!(from["key"], name);
        // The map of a mesh may have none, and the default holds for both.
        assert_eq!(from["optional"], true, "{name}");
        given.insert(name.to_owned());
    }
    let variables = |verb: &[&str]| {
        let mut command = crate::config::command();
        for name in verb {
            command = command.find_subcommand(name).expect("a verb").clone();
        }
        let all = command.get_arguments().filter_map(|arg| {
            let env = arg.get_env()?.to_str()?;
            Some((env.to_owned(), arg.get_default_values().to_owned()))
        });
        all.collect::<std::collections::BTreeMap<_, _>>()
    };
    let (agent, authority) = (variables(&["run"]), variables(&["ca", "run"]));
    for name in &given {
        let of_agent = agent.get(name);
        assert_eq!(of_agent, authority.get(name), "{name}");
        assert!(of_agent.is_some(), "{name}");
    }
    for name in [
        "MESH_NAMESPACE",
        "MESH_ROOT_NAMESPACE",
        "MESH_TRUST_DOMAIN",
        "MESH_TRUST_DOMAIN_ALIAS",
    ] {
        assert!(given.contains(name), "{name}");
    }
}

#[test]
fn the_documented_example_gives_a_longer_drain_the_grace_that_it_needs() {
    let blocks = PAGE.split("```yaml\n").skip(1);
    let blocks = blocks.filter_map(|block| block.split("```").next());
    let example = blocks
        .map(read)
        .find(|block| block["kind"] == "Kustomization");
    let example = example.expect("an example");
    let patch = list(&example, "patches")[0]["patch"].as_str();
    let patch = read(patch.expect("a patch"));
    is_long_enough(&patch["spec"]["template"]["spec"], drain(&example));
}

#[test]
fn the_agents_container_may_do_what_is_documented_and_takes_no_port_of_the_node() {
    let pod = pod();
    assert_eq!(pod["hostNetwork"], true);
    let [container] = list(&pod, "containers") else {
        panic!("one container");
    };
    assert_eq!(
        container["ports"],
        Value::Null,
        "each is a port of the node"
    );
    let context = &container["securityContext"];
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(context["privileged"], Value::Null);
    assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
    let capabilities = &context["capabilities"];
    assert_eq!(list(capabilities, "drop"), ["ALL"]);
    let given = added(context);
    let section = PAGE.split("## What it may do\n").nth(1).expect("it");
    let section = section.split("\n## ").next().expect("its text");
    let words = section.split(|c: char| !c.is_ascii_uppercase() && c != '_');
    let is_capability = |word: &&str| word.len() > 4 && (word.contains('_') || *word == "CHOWN");
    let documented: BTreeSet<&str> = words.filter(is_capability).collect();
    assert_eq!(given, documented);
}

/// The capabilities that a container is given.
fn added(context: &Value) -> BTreeSet<&str> {
    let all = list(&context["capabilities"], "add").iter();
    all.filter_map(Value::as_str).collect()
}

#[test]
fn who_writes_to_the_nodes_folders_may_write_to_those_of_another_owner() {
    let (pod, uninstall) = (pod(), read(UNINSTALL));
    let agent = &list(&pod, "containers")[0]["securityContext"];
    let given = added(agent);
    assert!(given.is_superset(&["DAC_OVERRIDE", "CHOWN"].into()));
    // What an agent wrote its uninstall takes out again.
    let removing = &uninstall["spec"]["template"]["spec"];
    for containers in ["initContainers", "containers"] {
        let context = &list(removing, containers)[0]["securityContext"];
        assert_eq!(added(context), given, "{containers}");
    }
    // Who writes to none of them needs neither.
    let component = read(WITHOUT_CNI);
    let patch = list(&component, "patches")[0]["patch"].as_str();
    let patch = read(patch.expect("a patch"));
    let patched = &patch["spec"]["template"]["spec"];
    let without = added(&list(patched, "containers")[0]["securityContext"]);
    let files = ["DAC_OVERRIDE", "CHOWN"].into();
    assert_eq!(&without | &files, given);
    assert!(without.is_disjoint(&files));
}

#[test]
fn a_node_with_selinux_does_not_confine_the_agent_nor_its_uninstall() {
    let pod = pod();
    let options = &pod["securityContext"]["seLinuxOptions"];
    assert_eq!(options["type"], "spc_t");
    let uninstall = read(UNINSTALL);
    let patched = &uninstall["spec"]["template"]["spec"];
    assert_eq!(patched["securityContext"], Value::Null, "the base's stays");
}

#[test]
fn on_openshift_the_accounts_that_run_may_use_the_constraint_that_admits_them_and_no_other() {
    let documents: Vec<Value> = CONSTRAINTS.split("\n---\n").map(read).collect();
    let of = |account: &Value| {
        let of_account = |one: &&Value| one["subjects"][0]["name"] == *account;
        let bindings: Vec<&Value> = documents.iter().filter(of_account).collect();
        let [binding] = bindings[..] else {
            panic!("one binding of {account}");
        };
        let role = &binding["roleRef"]["name"];
        let is_role = |one: &&Value| one["kind"] == "Role" && one["metadata"]["name"] == *role;
        let role = documents.iter().find(is_role).expect("its role");
        let [rule] = list(role, "rules") else {
            panic!("one rule: {role}");
        };
        assert_eq!(rule["verbs"], serde_json::json!(["use"]));
        rule["resourceNames"].clone()
    };
    assert_eq!(
        of(&pod()["serviceAccountName"]),
        serde_json::json!(["privileged"])
    );
    let authority = AUTHORITY.split("\n---\n").next().map(read);
    let authority = &authority.expect("a Deployment")["spec"]["template"]["spec"];
    assert_eq!(
        of(&authority["serviceAccountName"]),
        serde_json::json!(["nonroot-v2"])
    );
    assert_eq!(authority["securityContext"]["runAsNonRoot"], true);
}

#[test]
fn static_pods_and_the_clusters_own_may_name_the_host_of_a_probe_and_nobody_else_may() {
    let mut documents = PROBE_HOSTS.split("\n---\n").map(read);
    let policy = documents.next().expect("the policy");
    assert_eq!(policy["spec"]["failurePolicy"], "Fail");
    let conditions = list(&policy["spec"], "matchConditions").iter();
    let mut conditions: Vec<&str> = conditions
        .filter_map(|one| one["expression"].as_str())
        .collect();
    conditions.sort_unstable();
    // Of a node alone, and for a mirror alone: the kubelet asks what its own file says.
    let expected = [
        "!('system:nodes' in request.userInfo.groups && has(object.metadata.annotations) && 'kubernetes.io/config.mirror' in object.metadata.annotations)",
        "request.namespace != 'kube-system'",
    ];
    assert_eq!(conditions, expected);
    let binding = documents.next().expect("its binding");
    let selector = &binding["spec"]["matchResources"]["namespaceSelector"];
    let [label] = list(selector, "matchExpressions") else {
        panic!("one label: {selector}");
    };
    assert_eq!(label["key"], "mesh-agent.io/probe-hosts");
}

#[test]
fn the_kinds_of_routes_are_installed_in_the_version_that_is_tested() {
    let of = |text: &str, before: &str| {
        let (_, rest) = text.split_once(before).expect("it is named");
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.');
        rest[..end.unwrap_or(rest.len())].to_owned()
    };
    let tested = include_str!("../../../tests/kube/conformance/go.mod");
    assert_eq!(
        of(PAGE, "gateway-api/releases/download/"),
        of(tested, "sigs.k8s.io/gateway-api ")
    );
}
