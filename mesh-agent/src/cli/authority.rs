//! `mesh-agent ca …`.

use std::time::{Duration, UNIX_EPOCH};

use super::ending::CannotAsk;
use crate::ca;
use crate::config::{Ca, Exit, Token};

pub(super) fn run(command: Ca) -> anyhow::Result<Exit> {
    tell(command).map_err(|error| match error.downcast_ref::<ca::Error>() {
        Some(ca::Error::Empty(_)) => CannotAsk(format!("{error:#}")).into(),
        _ => error,
    })?;
    Ok(Exit::Yes)
}

fn tell(command: Ca) -> anyhow::Result<()> {
    match command {
        Ca::Run(flags) => super::runtime::control()?.block_on(serve(flags.config()))?,
        Ca::Token(Token::Create {
            state,
            node,
            allow,
            expires,
        }) => {
            println!(
                "{}",
                ca::create_token(&state.state_dir, &node, allow, expires)?
            );
        }
        Ca::Token(Token::List { state }) => {
            for token in ca::list_tokens(&state.state_dir)? {
                let expires = UNIX_EPOCH + Duration::from_secs(token.expires);
                let expires = humantime::format_rfc3339_seconds(expires);
                let allowed: Vec<String> = token.allowed.into_iter().map(Into::into).collect();
                let revoked = if token.revoked { " revoked" } else { "" };
                println!(
                    "{} node={} allow={} expires={expires}{revoked}",
                    token.id,
                    token.node,
                    allowed.join(",")
                );
            }
        }
        Ca::Token(Token::Revoke { state, id }) => ca::revoke_token(&state.state_dir, &id)?,
        Ca::Show { state } => {
            println!(
                "{}",
                serde_json::to_string_pretty(&ca::show(&state.state_dir)?)?
            );
        }
        Ca::Rotate { step } => {
            let (dir, step, force) = step.step();
            ca::rotate(&dir, &step, force)?;
        }
        Ca::Revoke {
            serial,
            state,
            out,
            force,
        } => {
            let list = ca::revoke(&state.state_dir, &serial, force, out.as_deref())?;
            println!("{}", list.display());
        }
    }
    Ok(())
}

async fn serve(config: ca::Config) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let cancel = tokio_util::sync::CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let serving = ca::run(config, cancel.clone(), |address| {
        println!("listening on {address}");
    });
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return Ok(ended?),
        _ = terminate.recv() => cancel.cancel(),
        _ = interrupt.recv() => cancel.cancel(),
    }
    Ok(serving.await?)
}
