//! The CNI plugin of the node agent, and what the two say to each other.
//!
//! The container runtime runs it for each sandbox, in the host's mount namespace,
//! as the last plugin of the node's chain. It hands the sandbox's network namespace
//! to the agent and waits until the pod is enrolled. It holds no credentials and
//! asks nobody but the agent of its own node.
#![forbid(unsafe_code)]

mod add;
mod ask;
mod call;
mod entry;
mod message;
mod outside;
mod reply;
#[cfg(test)]
mod tests;
mod text;

use std::io::{Read as _, Write as _};
use std::process::ExitCode;

pub use call::Call;
pub use entry::{Entry, PLUGIN, SUPPORTED_VERSIONS, is_supported};
pub use message::{Answer, MAX_BYTES, Outcome, Request, VERSION};
pub use outside::{Outside, Read, read as read_outside};
pub use reply::Reply;

use reply::{Code, Failure};

/// Most of a network's configuration that is read.
const MAX_STDIN: u64 = 4 << 20;

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let call = Call::from(|name| std::env::var_os(name));
    // Nobody else's words are needed to take a pod away.
    let mut stdin = String::new();
    let read = match call.needs_configuration() {
        true => std::io::stdin().take(MAX_STDIN).read_to_string(&mut stdin),
        false => Ok(0),
    };
    let reply = match read {
        Ok(_) => run(&call, &stdin),
        Err(error) => {
            let what = format!("cannot read the network's configuration: {error}");
            Failure::new(Code::Io, what, "").reply(None)
        }
    };
    // Whoever does not listen knows by the code.
    let _deaf = std::io::stdout().write_all(reply.text.as_bytes());
    match reply.is_success {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// One call of the container runtime.
#[must_use]
pub fn run(call: &Call, stdin: &str) -> Reply {
    match call.command.as_str() {
        "ADD" => add::add(call, stdin),
        "VERSION" => reply::versions(),
        // The agent sees by itself what is gone; a pod that cannot be taken away
        // holds its node for ever. A node that is not ready loses its pods, and
        // whether they may start is for ADD to say.
        "DEL" | "CHECK" | "GC" | "STATUS" => Reply::nothing(),
        other => {
            let what = format!("CNI_COMMAND is {:?}", text::line(other));
            let remedy = "this is a CNI plugin, which the container runtime calls with ADD, DEL, CHECK, GC, STATUS or VERSION";
            Failure::new(Code::Environment, what, remedy).reply(None)
        }
    }
}
