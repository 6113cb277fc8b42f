//! Verbs that ask the running agent.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::time::SystemTime;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ending::CannotAsk;
use crate::admin::endpoints::EndpointList;
use crate::admin::routes::RouteList;
use crate::admin::traffic::TrafficList;
use crate::admin::{self, FetchError, Question, Status};
use crate::config::{Exit, Probe};
use crate::model::policy::MeshSettings;
use crate::model::text::printable;
use crate::observe::explanation::{Explanation, Verdict};
use crate::observe::{ConnectionFilter, ConnectionList};
use crate::plan::InForce;
use crate::route::Routes;
use crate::{app, discovery, explain};

pub(super) fn status(run_dir: &Path, wide: bool, json: bool) -> anyhow::Result<Exit> {
    let status: Status = ask(run_dir, "/status")?;
    let text = |status: &Status| admin::text::status(status, wide, SystemTime::now());
    show(&status, json, text)?;
    Ok(match (status.ready, status.degraded) {
        (false, _) => Exit::No,
        (true, true) => Exit::Degraded,
        (true, false) => Exit::Yes,
    })
}

/// Yes where each is accepted and all that it leads to is there.
pub(super) fn routes(run_dir: &Path, json: bool) -> anyhow::Result<Exit> {
    let list: RouteList = ask(run_dir, "/routes")?;
    show(&list, json, admin::routes::text)?;
    let mut conditions = list.routes.iter().flat_map(|row| &row.conditions);
    Ok(match conditions.all(|one| one.holds) {
        true => Exit::Yes,
        false => Exit::Degraded,
    })
}

/// Yes where each holds.
pub(super) fn traffic(run_dir: &Path, json: bool) -> anyhow::Result<Exit> {
    let list: TrafficList = ask(run_dir, "/traffic")?;
    show(&list, json, admin::traffic::text)?;
    Ok(match list.policies.iter().all(|row| row.condition.holds) {
        true => Exit::Yes,
        false => Exit::Degraded,
    })
}

/// Yes where none is ejected or failing.
pub(super) fn endpoints(run_dir: &Path, wide: bool, json: bool) -> anyhow::Result<Exit> {
    let list: EndpointList = ask(run_dir, "/endpoints")?;
    show(&list, json, |list| admin::endpoints::text(list, wide))?;
    let mut endpoints = list.endpoints.iter();
    Ok(
        match endpoints.all(|row| row.next_probe_seconds.is_none()) {
            true => Exit::Yes,
            false => Exit::Degraded,
        },
    )
}

pub(super) fn connections(
    run_dir: &Path,
    filter: &ConnectionFilter,
    json: bool,
) -> anyhow::Result<Exit> {
    let list: ConnectionList = ask(run_dir, &admin::connections_page(filter))?;
    show(&list, json, admin::text::connections)?;
    Ok(Exit::Yes)
}

/// Of the running agent, or of a directory.
pub(super) fn explain(
    (run_dir, directory): (&Path, Option<(&Path, MeshSettings)>),
    question: &Question,
    json: bool,
) -> anyhow::Result<Exit> {
    let answer: Explanation = match directory {
        None => ask(run_dir, &question.page())?,
        Some((dir, settings)) => offline(dir, settings, question)?,
    };
    show(&answer, json, admin::text::explanation)?;
    Ok(match answer.verdict {
        Verdict::Allowed => Exit::Yes,
        Verdict::Refused | Verdict::Mixed | Verdict::NeedsRequest => Exit::No,
    })
}

fn offline(
    dir: &Path,
    settings: MeshSettings,
    question: &Question,
) -> Result<Explanation, CannotAsk> {
    let trust_domain = settings.trust_domain.clone();
    let update = discovery::check(dir, settings).map_err(|why| CannotAsk(why.to_string()))?;
    let published = InForce {
        routes: Routes::compile(&update.snapshot).into(),
        snapshot: update.snapshot,
        policy: update.policy,
        ..InForce::default()
    };
    let answer = explain::offline(&published, &trust_domain, app::words(question));
    answer.map_err(|why| CannotAsk(why.to_string()))
}

fn show<T: Serialize + DeserializeOwned>(
    answer: &T,
    json: bool,
    text: impl Fn(&T) -> String,
) -> anyhow::Result<()> {
    if json {
        say!("{}", serde_json::to_string_pretty(answer)?);
    } else {
        let mut shown = serde_json::to_value(answer)?;
        on_one_line(&mut shown);
        say_part!("{}", text(&serde_json::from_value(shown)?));
    }
    Ok(())
}

/// Each text of it: a name begins no line of a table.
fn on_one_line(answer: &mut serde_json::Value) {
    match answer {
        serde_json::Value::String(text) => *text = printable(text).into_owned(),
        serde_json::Value::Array(all) => all.iter_mut().for_each(on_one_line),
        serde_json::Value::Object(all) => all.values_mut().for_each(on_one_line),
        _ => {}
    }
}

/// What it says stands in the event of a probe that failed.
pub(super) fn probe(run_dir: &Path, what: Probe) -> anyhow::Result<Exit> {
    probed(admin::fetch(run_dir, page_of(what)), |error| {
        no_answer(run_dir, error)
    })
}

/// The same of an authority.
pub(super) fn probe_authority(pages: SocketAddr, what: Probe) -> anyhow::Result<Exit> {
    probed(admin::fetch_at(pages, page_of(what)), |error| {
        CannotAsk(format!(
            "{pages}: no authority answers here, or its --metrics-addr is another: {error}"
        ))
    })
}

fn page_of(what: Probe) -> &'static str {
    match what {
        Probe::Ready => "/readyz",
        Probe::Live => "/livez",
    }
}

fn probed(
    answer: Result<String, FetchError>,
    no_answer: impl Fn(&std::io::Error) -> CannotAsk,
) -> anyhow::Result<Exit> {
    let (said, exit) = match answer {
        Ok(said) => (said, Exit::Yes),
        Err(FetchError::Refused(why)) => (why, Exit::No),
        Err(FetchError::Io(error)) => return Err(no_answer(&error).into()),
    };
    say!("{}", said.trim_end());
    Ok(exit)
}

fn ask<T: DeserializeOwned>(run_dir: &Path, page: &str) -> Result<T, CannotAsk> {
    let text = admin::fetch(run_dir, page).map_err(|error| match error {
        FetchError::Io(error) => no_answer(run_dir, &error),
        FetchError::Refused(why) => CannotAsk(why),
    })?;
    serde_json::from_str(&text).map_err(|error| {
        CannotAsk(format!(
            "the agent's answer cannot be read; is it of another version? {error}"
        ))
    })
}

/// Whatever keeps the answer away, it is no answer.
fn no_answer(run_dir: &Path, error: &std::io::Error) -> CannotAsk {
    let socket = admin::socket_path(run_dir);
    let hint = match error.kind() {
        ErrorKind::PermissionDenied => "ask as root",
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            "no agent runs here, or its --run-dir is another"
        }
        ErrorKind::TimedOut => {
            "the agent is there and does not answer: it stands still, or has no time"
        }
        _ => "the agent does not answer",
    };
    CannotAsk(format!("{}: {hint}: {error}", socket.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_two_lines_is_shown_on_one() {
        let mut answer = serde_json::json!({"pods": [{"pod": "shop/a\nshop/b  yes"}], "n": 1});
        on_one_line(&mut answer);
        assert_eq!(answer["pods"][0]["pod"], "shop/a\\u000ashop/b  yes");
        assert_eq!(answer["n"], 1);
    }
}
