use super::*;

fn identity(name: &str, state: &'static str, failures: u32) -> IdentityStatus {
    IdentityStatus {
        identity: name.to_owned(),
        state,
        serial: None,
        expires: Some("2026-01-01T00:00:00Z".to_owned()),
        expires_in_seconds: Some(60),
        is_ending: false,
        age_seconds: None,
        failures,
        last_error: (failures > 0).then(|| "the authority is away".to_owned()),
        remedy: None,
        is_awaited: false,
    }
}

fn status(identities: Vec<IdentityStatus>) -> identity::Status {
    identity::Status {
        trust_domain: "cluster.local".to_owned(),
        source: "ca",
        trust_generation: 1,
        revocations: None,
        revocations_since: None,
        token: None,
        identities,
    }
}

fn problems(identities: Vec<IdentityStatus>) -> Vec<Problem> {
    of_identities(&status(identities))
}

fn pod() -> PodStatus {
    PodStatus {
        pod: "shop/a".to_owned(),
        enrolled: true,
        addresses: vec![],
        identity: None,
        netns_cookie: None,
        enrol_seconds: None,
        reason: None,
        message: None,
        unknown: None,
        unwatched: None,
        fails_open: false,
        untold: None,
        warning: None,
    }
}

const PLAIN: WithoutPlugin = WithoutPlugin {
    is_guarded: false,
    is_ready: false,
};

fn standing(standing: cni::Standing) -> cni::Report {
    cni::Report {
        standing,
        ..cni::Report::default()
    }
}

#[test]
fn what_a_pod_meets_without_the_plugin_is_what_its_node_does() {
    let report = standing(cni::Standing::NoNetwork(Vec::new()));
    let told = |is_guarded| {
        let without = WithoutPlugin {
            is_guarded,
            ..PLAIN
        };
        of_plugin(&report, without)[0].effect.clone()
    };
    assert!(told(false).contains("until then it connects, and is reached, in plaintext"));
    assert!(!told(false).contains("refused"), "{}", told(false));
    assert!(told(true).contains("below --guard-cgroup is refused"));
}

#[test]
fn a_node_is_ready_when_its_plugin_was_in_the_chain_and_heard_once() {
    let blocks = |report: &cni::Report, is_ready| {
        let without = WithoutPlugin { is_ready, ..PLAIN };
        let problems = of_plugin(report, without);
        problems.iter().any(|problem| problem.blocks)
    };
    let mut report = standing(cni::Standing::Unknown);
    assert!(blocks(&report, false) && of_plugin(&report, PLAIN)[0].starting);
    report.standing = cni::Standing::Waits("/etc/cni/net.d/10".into());
    assert!(blocks(&report, false) && !blocks(&report, true));
    let told = of_plugin(&report, PLAIN)[0].to_string();
    assert!(told.contains("--ready-without-cni"), "{told}");
    report.standing = cni::Standing::In("/etc/cni/net.d/10".into());
    assert!(blocks(&report, false), "nobody has heard it yet");
    report.unheard = Some("it is silent".to_owned());
    assert!(blocks(&report, false) && !blocks(&report, true));
    (report.was_whole, report.unheard) = (true, None);
    assert_eq!(of_plugin(&report, PLAIN), []);
    // Taken out again: told, and the node goes on.
    report.standing = cni::Standing::Waits("/etc/cni/net.d/10".into());
    assert!(!blocks(&report, false) && of_plugin(&report, PLAIN).len() == 1);
}

#[test]
fn a_runtime_that_goes_by_another_file_than_the_plugin_is_in_is_told() {
    let standing = cni::Standing::In("/etc/cni/net.d/10-a.conflist".into());
    assert_eq!(of_passed_over(&[], &standing, PLAIN), None);
    let told = of_passed_over(&["shop/web", "shop/api"], &standing, PLAIN);
    let told = told.expect("a problem").to_string();
    for word in ["10-a.conflist", "2 pods", "shop/web", "cni_default_network"] {
        assert!(told.contains(word), "{word}: {told}");
    }
}

#[test]
fn what_becomes_of_a_pod_that_is_not_enrolled_is_what_it_asks_for() {
    let told = |fails_open| {
        let pod = PodStatus {
            enrolled: false,
            message: Some("Too many open files".to_owned()),
            fails_open,
            ..pod()
        };
        of_pod(&pod)
            .iter()
            .map(ToString::to_string)
            .collect::<String>()
    };
    assert!(told(false).contains("is refused"), "{}", told(false));
    assert!(told(true).contains("in plaintext"), "{}", told(true));
    assert!(!told(true).contains("closed"), "{}", told(true));
}

#[test]
fn a_pod_that_starts_is_no_problem_of_its_node() {
    let told = |reason| {
        let pod = PodStatus {
            enrolled: false,
            reason: Some(reason),
            message: Some("why".to_owned()),
            ..pod()
        };
        assert!(!pod.is_whole(), "it is looked at again");
        of_pod(&pod).len()
    };
    assert_eq!(told("NoAddress"), 0);
    // It has an address, and should be there.
    assert_eq!((told("SandboxNotFound"), told("AddressNotFound")), (1, 1));
}

#[test]
fn a_pod_whose_cgroup_is_not_watched_is_enrolled_and_not_whole() {
    let pod = PodStatus {
        unwatched: Some("it is 42 levels deep".to_owned()),
        ..pod()
    };
    let [one] = &of_pod(&pod)[..] else {
        panic!("once");
    };
    assert!(one.what.contains("not watched: it is 42"), "{one}");
    assert!(!one.to_string().contains("not enrolled"), "{one}");
    assert!(!pod.is_whole(), "it is tried again");
}

#[test]
fn a_pod_that_cannot_be_looked_at_is_not_called_one_that_is_not_enrolled() {
    let pod = PodStatus {
        unknown: Some("Too many open files".to_owned()),
        ..pod()
    };
    let [one] = &of_pod(&pod)[..] else {
        panic!("once");
    };
    assert!(one.what.contains("cannot be looked at: Too many"), "{one}");
    assert!(!one.to_string().contains("not enrolled"), "{one}");
    assert!(!pod.is_whole(), "it is tried again");
}

#[test]
fn certificates_that_nobody_renews_and_lists_that_are_old_are_told_ahead() {
    let mut last = identity("a", "valid", 0);
    assert_eq!(problems(vec![last.clone()]), []);
    last.is_ending = true;
    let [one] = &problems(vec![last, identity("b", "valid", 0)])[..] else {
        panic!("once");
    };
    assert!(one.what.contains("of a ends soon, at 2026-01-01"), "{one}");
    let old = of_identities(&identity::Status {
        revocations_since: Some("2026-01-01T00:00:00Z".to_owned()),
        ..status(vec![])
    });
    assert!(old.len() == 1 && !old[0].blocks, "{old:?}");
}

#[test]
fn a_token_that_ends_is_told_before_and_afterwards_once() {
    let told = |left, is_ending, failures| {
        let token = TokenStatus {
            expires: "2026-01-01T00:00:00Z".to_owned(),
            expires_in_seconds: left,
            is_ending,
            remedy: "make a token".to_owned(),
        };
        let status = identity::Status {
            token: Some(token),
            ..status(vec![identity("a", "valid", failures)])
        };
        let all = of_identities(&status).into_iter();
        all.filter(|p| p.subject == "token").collect::<Vec<_>>()
    };
    assert_eq!(told(100_000, false, 0), []);
    let [soon] = &told(1_000, true, 0)[..] else {
        panic!("it is told ahead");
    };
    assert!(soon.what.contains("expires at 2026-01-01"), "{soon}");
    assert!(!soon.blocks && soon.remedy.contains("make a token"));
    let ended = told(-1, true, 0);
    assert!(ended[0].what.contains("expired at"), "{ended:?}");
    assert_eq!(told(-1, true, 1), [], "the failed renewal says it");
}

#[test]
fn a_node_of_which_every_certificate_expired_is_blocked() {
    let all = problems(vec![
        identity("a", "expired", 9),
        identity("b", "expired", 9),
    ]);
    let [one] = &all[..] else {
        panic!("once: {all:?}");
    };
    assert!(one.blocks && !one.starting);
    assert!(
        one.what.contains("has expired: the authority is away"),
        "{one}"
    );
}

#[test]
fn a_node_of_which_one_certificate_is_valid_is_degraded() {
    let all = problems(vec![identity("a", "expired", 9), identity("b", "valid", 0)]);
    assert!(all.len() == 1 && !all[0].blocks, "{all:?}");
}

#[test]
fn a_failed_renewal_is_not_called_a_missing_certificate() {
    let all = problems(vec![identity("a", "valid", 2)]);
    assert_eq!(all.len(), 1);
    assert!(!all[0].blocks && all[0].what.contains("cannot be renewed"));
    assert!(
        all[0].effect.contains("valid until 2026-01-01"),
        "{}",
        all[0]
    );
}

#[test]
fn the_first_certificate_that_is_on_its_way_blocks_and_is_no_news() {
    let all = problems(vec![identity("a", "missing", 0)]);
    assert!(all[0].blocks && all[0].starting, "{all:?}");
    assert!(
        problems(vec![]).is_empty(),
        "a node without pods lacks nothing"
    );
}

#[test]
fn many_identities_with_one_fault_are_one_problem() {
    let all = (0..50).map(|n| identity(&format!("id-{n}"), "missing", 1));
    let all = problems(all.collect());
    assert_eq!(all.len(), 1);
    assert!(all[0].what.contains("and 47 more"), "{}", all[0]);
}

fn limited(open_files: u64) -> proxy::Config {
    let limits = io::Limits::of(open_files, 2);
    proxy::Config {
        limits,
        max_connections: limits.connections,
        ..proxy::Config::default()
    }
}

#[test]
fn a_limit_of_open_files_that_leaves_no_connection_is_not_called_enough_for_some() {
    let none = of_limits(&limited(200), 6).expect("a problem");
    let enough = none.what.contains("enough");
    assert!(
        !enough && none.what.contains("none for connections"),
        "{}",
        none.what
    );
    assert!(none.remedy.contains("LimitNOFILE") && none.effect.contains("over_limit"));
    let few = of_limits(&limited(1024), 0).expect("a problem");
    assert!(
        few.what.contains("enough for about 392 connections"),
        "{}",
        few.what
    );
    assert!(of_limits(&limited(20_000), 0).is_none());
}

#[test]
fn pods_that_leave_little_room_for_connections_are_told_once_and_before_there_is_none() {
    let config = limited(1024);
    let said = |pods| of_limits(&config, pods).expect("a problem").what;
    assert_eq!(said(0), said(30), "the log is not to say it for each pod");
    let near = said(80);
    assert!(
        near.contains("98 pods") && !near.contains("none for connections"),
        "{near}"
    );
    assert_eq!(near, said(97));
    assert_ne!(near, said(30));
    let none = said(98);
    assert!(none.contains("none for connections"), "{none}");
    assert_eq!(none, said(300));
    // Also of a limit that is not low.
    let config = limited(20_000);
    assert!(of_limits(&config, 1_000).is_none());
    let near = of_limits(&config, 1_900).expect("a problem").what;
    assert!(near.contains("pods"), "{near}");
}

#[test]
fn who_uses_the_open_files_up_is_said_as_it_is() {
    // Less than is held back for control: whatever is open is over it.
    let limits = io::Limits::of(64, 1);
    let used_up = of_open_files(&limits, 0).expect("a problem");
    assert!(
        !used_up.remedy.contains("mesh-agent connections"),
        "{}",
        used_up.remedy
    );
    assert!(used_up.remedy.contains("LimitNOFILE"), "{}", used_up.remedy);
}
