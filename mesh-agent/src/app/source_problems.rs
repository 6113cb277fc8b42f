//! What is wrong with the API as the source, in the operator's words. Pure.

use crate::admin::Problem;
use crate::discovery::{ApiState, KindRow};

/// An API server that is started again is away for some seconds.
const TOLD_AFTER: u64 = 5;
/// The first lists take a moment.
const STARTS: u64 = 5;
const UNHEARD: &str = "what changes, denials too, is not heard of; what is known stays in force";

pub(super) fn of_api(state: &ApiState) -> Vec<Problem> {
    let mut problems = Vec::new();
    if !state.is_known {
        problems.push(unknown(state));
    }
    let is_away = state
        .away
        .as_ref()
        .filter(|away| away.seconds >= TOLD_AFTER);
    if let Some(away) = is_away.filter(|_| state.is_known) {
        problems.push(Problem::new(
            "API server",
            format!(
                "the API server {} does not answer: {}",
                state.server, away.why
            ),
            UNHEARD,
            "look at the API server, and at the way from this node to it; it is asked all the time",
        ));
    } else if state.is_known && state.away.is_none() {
        let failing = state.kinds.iter().filter(|kind| {
            let seconds = kind.failing_seconds.unwrap_or_default();
            seconds >= TOLD_AFTER
        });
        problems.extend(failing.filter_map(of_kind));
    }
    if let Some(age) = state.from_disk_age_seconds.filter(|_| state.is_known) {
        problems.push(Problem::new(
            "configuration from disk",
            "what is in force is from disk: the API server has not told everything since the start",
            format!("it is what was known {age} s ago; what has changed since is not heard of"),
            "the API server is asked all the time: its problem is told beside this one",
        ));
    }
    if let Some(why) = &state.copy {
        problems.push(Problem::new(
            "configuration copy",
            format!("what the API says is not kept on disk: {why}"),
            "an agent that is started while the API server is away is not ready before it is back; closed pods stay closed",
            "mend what the message names (--state-dir); it is tried again every minute",
        ));
    }
    if let Some(kind) = state.too_large {
        problems.push(Problem::new(
            format!("number of {kind}"),
            format!("there are more objects of kind {kind} than are taken over"),
            UNHEARD,
            "remove what nobody needs",
        ));
    }
    problems
}

/// Nothing is in force yet.
fn unknown(state: &ApiState) -> Problem {
    let waits = |kind: &&KindRow| !kind.is_whole;
    let missing: Vec<&str> = state
        .kinds
        .iter()
        .filter(waits)
        .map(|kind| kind.kind)
        .collect();
    let mut faults = state
        .kinds
        .iter()
        .filter(waits)
        .filter_map(|kind| kind.fault.as_deref());
    let why = state.away.as_ref().map(|away| away.why.as_str());
    let why = why.or_else(|| faults.next());
    let missing = match missing.is_empty() {
        true => "what it has".to_owned(),
        false => format!("all {}", missing.join(", ")),
    };
    let problem = Problem::new(
        "configuration unknown",
        match why {
            Some(why) => format!(
                "the API server {} has not told {missing} yet: {why}",
                state.server
            ),
            None => format!(
                "the API server {} is being asked for {missing}",
                state.server
            ),
        },
        "no pod is enrolled or let go of; closed pods are refused",
        remedy(why),
    );
    match why.is_none() && state.age_seconds < STARTS {
        true => problem.blocking().starting(),
        false => problem.blocking(),
    }
}

fn of_kind(kind: &KindRow) -> Option<Problem> {
    let why = kind.fault.as_deref()?;
    Some(Problem::new(
        format!("API kind {}", kind.kind),
        format!(
            "the API server does not tell objects of kind {}: {why}",
            kind.kind
        ),
        UNHEARD,
        remedy(Some(why)),
    ))
}

fn remedy(why: Option<&str>) -> &'static str {
    match why {
        Some(why) if why.contains("answers 403") => {
            "let the agent's account get, list and watch it: the ClusterRole of deploy/ does"
        }
        Some(why) if why.contains("answers 401") => {
            "look at the token of the agent's account, and at --kubeconfig"
        }
        Some(_) => {
            "look at the API server, and at the way from this node to it; it is asked all the time"
        }
        None => "wait for a moment",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::ApiAway;

    fn state(kinds: &[(&'static str, bool, Option<&str>)]) -> ApiState {
        let row = |(kind, is_whole, fault): &(&'static str, bool, Option<&str>)| KindRow {
            kind,
            is_whole: *is_whole,
            fault: fault.map(str::to_owned),
            ..KindRow::default()
        };
        ApiState {
            server: "https://10.96.0.1/".to_owned(),
            age_seconds: 60,
            kinds: kinds.iter().map(row).collect(),
            ..ApiState::default()
        }
    }

    #[test]
    fn before_everything_is_known_the_node_is_not_ready_and_says_what_is_missing() {
        let refused = "it answers 403 Forbidden: you may not";
        let state = state(&[("Pod", true, None), ("Service", false, Some(refused))]);
        let problems = of_api(&state);
        let [problem] = &problems[..] else {
            panic!("{problems:?}");
        };
        assert!(problem.blocks && !problem.starting);
        assert!(
            problem.what.contains("all Service yet: it answers 403"),
            "{problem}"
        );
        assert!(problem.remedy.contains("ClusterRole"), "{problem}");
    }

    #[test]
    fn an_api_server_that_is_away_is_told_once_and_keeps_the_node_ready() {
        let silent = "it cannot be reached: refused";
        let mut state = state(&[("Pod", true, Some(silent)), ("Service", true, Some(silent))]);
        state.is_known = true;
        let away = |seconds| ApiAway {
            why: silent.to_owned(),
            seconds,
        };
        state.away = Some(away(60));
        let problems = of_api(&state);
        let [problem] = &problems[..] else {
            panic!("{problems:?}");
        };
        assert!(!problem.blocks && problem.subject == "API server");
        // A restart of it is no news, nor what kinds say of it a moment later.
        state.away = Some(away(1));
        assert_eq!(of_api(&state), []);
        state.away = None;
        assert_eq!(of_api(&state), []);
        state.kinds[0].failing_seconds = Some(60);
        let problems = of_api(&state);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].what.contains("of kind Pod"), "{problems:?}");
    }

    #[test]
    fn what_is_from_disk_is_told_with_its_age() {
        let mut state = state(&[("Pod", true, None)]);
        state.is_known = true;
        state.from_disk_age_seconds = Some(90);
        let problems = of_api(&state);
        assert!(problems[0].effect.contains("90 s ago"), "{problems:?}");
        assert!(!problems[0].blocks);
    }
}
