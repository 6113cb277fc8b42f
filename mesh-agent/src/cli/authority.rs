//! `mesh-agent ca …`: what is done is said, and what comes next.

use std::time::{Duration, SystemTime};

use comfy_table::Table;
use comfy_table::presets::NOTHING;

use super::ending::CannotAsk;
use super::out;
use crate::ca::Place;
use crate::config::{Ca, Exit, State, Token};
use crate::{app, ca};

pub(super) fn run(command: Ca) -> anyhow::Result<Exit> {
    if let Ca::Probe { what, metrics_addr } = command {
        return super::ask::probe_authority(metrics_addr, what);
    }
    tell(command).map_err(|error| match error.downcast_ref::<ca::Error>() {
        Some(ca::Error::Empty(_)) => CannotAsk(format!("{error:#}")).into(),
        _ => error,
    })?;
    Ok(Exit::Yes)
}

/// Does it where the state is.
fn on<T: Send + 'static>(
    state: &State,
    work: impl FnOnce(Place) -> Result<T, ca::Error> + Send + 'static,
) -> anyhow::Result<T> {
    let Some(cluster) = state.cluster() else {
        return Ok(work(Place::from(&state.state_dir))?);
    };
    super::runtime::control()?.block_on(async {
        let place = ca::in_cluster(&cluster).await?;
        let done = tokio::task::spawn_blocking(move || work(place)).await?;
        Ok(done?)
    })
}

fn tell(command: Ca) -> anyhow::Result<()> {
    match command {
        Ca::Run(flags) => super::runtime::control()?.block_on(app::authority(*flags))?,
        Ca::Token(command) => token(command)?,
        Ca::Show { state, json } => {
            let shown = on(&state, ca::show)?;
            match json {
                true => say!("{}", serde_json::to_string_pretty(&shown)?),
                false => say_part!("{}", show(&shown)),
            }
        }
        Ca::Probe { .. } => {}
        Ca::Rotate { step } => {
            let (state, step, force) = step.step();
            let rotated = on(&state, move |place| ca::rotate(place, &step, force))?;
            say!("done: {}", rotated.done);
            say!("next: {}", rotated.next);
        }
        Ca::Revoke {
            serial,
            state,
            out,
            force,
        } => {
            let revoke = move |place| ca::revoke(place, &serial, force, out.as_deref());
            let list = on(&state, revoke)?;
            out::note(format_args!(
                "revoked; next: put this list where the agents' --crl-file names it, they follow it at once"
            ));
            say!("{}", list.display());
        }
    }
    Ok(())
}

fn token(command: Token) -> anyhow::Result<()> {
    match command {
        Token::Create {
            state,
            node,
            allow,
            expires,
        } => {
            let of = node.clone();
            let made = on(&state, move |place| {
                ca::create_token(place, &of, allow, expires)
            })?;
            // Only the token is on standard output: it goes into a file.
            if let Err(error) = out::only_copy(format_args!("{}\n", made.text)) {
                on(&state, move |place| ca::revoke_token(place, &made.id))?;
                anyhow::bail!(
                    "the token could not be printed, so it is revoked again; make another one: {error}"
                );
            }
            out::note(format_args!(
                "token {} of node {node}, good until {}; it cannot be shown again; next: put it where that node's --ca-token-file names it, readable by root only",
                made.id,
                humantime::format_rfc3339_seconds(SystemTime::now() + expires)
            ));
        }
        Token::List { state, json } => list(&on(&state, ca::list_tokens)?, json)?,
        Token::Revoke { state, id } => {
            let revoked = id.clone();
            on(&state, move |place| ca::revoke_token(place, &revoked))?;
            say!(
                "done: token {id} is refused from now on; certificates that it got live until they end (`mesh-agent ca revoke SERIAL` ends them)"
            );
        }
    }
    Ok(())
}

fn list(tokens: &[ca::Token], json: bool) -> anyhow::Result<()> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    if json {
        let all: Vec<_> = tokens.iter().map(|t| token_json(t, now)).collect();
        say!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        say_part!("{}", token_table(tokens, now));
    }
    Ok(())
}

fn expires(token: &ca::Token) -> String {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(token.expires);
    humantime::format_rfc3339_seconds(at).to_string()
}

fn allowed(token: &ca::Token) -> Vec<String> {
    token.allowed.iter().cloned().map(Into::into).collect()
}

/// Without the hash of the secret.
fn token_json(token: &ca::Token, now: Duration) -> serde_json::Value {
    serde_json::json!({
        "id": token.id,
        "node": token.node,
        "allow": allowed(token),
        "expires": expires(token),
        "state": token.state(now.as_secs()),
    })
}

fn token_table(tokens: &[ca::Token], now: Duration) -> String {
    let mut table = Table::new();
    let head = ["TOKEN", "STATE", "NODE", "ALLOW", "EXPIRES"];
    table.load_style(NOTHING).set_header(head);
    for token in tokens {
        let state = match token.state(now.as_secs()) {
            ca::TokenState::Valid => "valid",
            ca::TokenState::Expired => "EXPIRED",
            ca::TokenState::Revoked => "REVOKED",
        };
        let node = token.node.clone();
        let allow = allowed(token).join(",");
        table.add_row([
            token.id.clone(),
            state.to_owned(),
            node,
            allow,
            expires(token),
        ]);
    }
    format!("{}\n", table.trim_fmt())
}

fn show(shown: &ca::Shown) -> String {
    let mut table = Table::new();
    let head = [
        "AUTHORITY",
        "STATE",
        "EXPIRES",
        "LIVE CERTIFICATES",
        "LAST ENDS",
    ];
    table.load_style(NOTHING).set_header(head);
    for root in &shown.authorities {
        let days = root.expires_in_seconds / 86_400;
        table.add_row([
            root.id.clone(),
            if root.signing { "signing" } else { "trusted" }.to_owned(),
            format!("{} (in {days} days)", root.expires),
            root.live_certificates
                .map_or_else(|| "-".to_owned(), |n| n.to_string()),
            root.last_expires.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    let [valid, expired, revoked] = shown.tokens;
    let serials = match &shown.revoked[..] {
        [] => "none".to_owned(),
        all => all.join(", "),
    };
    format!(
        "trust domain  {}\ntokens        {valid} valid, {expired} expired, {revoked} revoked\n\
         revoked       {serials}\nbundle        {}\nrevocations   {}\n\n{}\n\nnext: {}\n",
        shown.trust_domain,
        shown.bundle.display(),
        shown.crl.display(),
        table.trim_fmt(),
        shown.next
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_marks_what_is_no_longer_good_and_shows_no_secret() {
        let dir = tempfile::tempdir().expect("a directory");
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(dir.path(), private).expect("chmod");
        let allow = vec!["shop/web".parse().expect("a pattern")];
        let made = ca::create_token(dir.path(), "n1", allow, Duration::from_secs(60));
        let text = made.expect("a token").text;
        let tokens = ca::list_tokens(dir.path()).expect("tokens");
        let created = Duration::from_secs(tokens[0].created);
        let at = |seconds| token_table(&tokens, created + Duration::from_secs(seconds));
        assert!(at(59).contains("valid") && !at(59).contains("EXPIRED"));
        assert!(at(60).contains("EXPIRED"), "{}", at(60));
        let secret = text.rsplit('.').next().expect("a secret");
        assert!(!at(0).contains(secret));
        let json = token_json(&tokens[0], created).to_string();
        assert!(
            json.contains("\"state\":\"valid\"") && !json.contains("hash"),
            "{json}"
        );
    }
}
