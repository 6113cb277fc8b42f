//! Other meshes' configuration as the mesh's own.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::ending::CannotAsk;
use super::out;
use crate::config::Exit;
use crate::discovery::Converted;

/// As large as a file of a configuration directory may be.
const MOST: u64 = 8 << 20;

pub(super) fn destination_rule(file: &Path) -> anyhow::Result<Exit> {
    let text = read(file).map_err(|error| CannotAsk(format!("{}: {error}", file.display())))?;
    let converted = Converted::of(&text);
    say_part!("{}", converted.policies);
    for note in &converted.notes {
        out::note(format_args!("{note}"));
    }
    Ok(if converted.has_errors() {
        Exit::No
    } else if converted.notes.is_empty() {
        Exit::Yes
    } else {
        Exit::Degraded
    })
}

fn read(file: &Path) -> io::Result<String> {
    match file.to_str() {
        Some("-") => whole(io::stdin().lock()),
        _ => whole(File::open(file)?),
    }
}

fn whole(from: impl Read) -> io::Result<String> {
    let mut text = String::new();
    from.take(MOST + 1).read_to_string(&mut text)?;
    match text.len() as u64 > MOST {
        true => Err(io::Error::other(format!(
            "is larger than {} MiB",
            MOST >> 20
        ))),
        false => Ok(text),
    }
}
