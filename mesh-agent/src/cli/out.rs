//! What verbs print.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::config::Exit;
use crate::model::text::printable_lines;

/// Something was not printed that somebody waits for.
static LOST: AtomicBool = AtomicBool::new(false);

/// Prints it. A reader that has seen enough (`| head`) ends nothing: the verb
/// goes on to its exit code. Anything else that keeps it from being read makes
/// the verb a failure.
pub(super) fn text(text: Arguments<'_>) {
    if let Err(error) = to(&mut io::stdout().lock(), text) {
        LOST.store(true, Ordering::Relaxed);
        complain(format_args!("cannot print: {error}"));
    }
}

/// Of what is shown once and never again: who does not read it has lost it.
pub(super) fn only_copy(text: Arguments<'_>) -> io::Result<()> {
    write(&mut io::stdout().lock(), text)
}

/// A failure, on standard error.
pub(super) fn complain(text: Arguments<'_>) {
    note(format_args!("mesh-agent: {text}"));
}

/// Beside what is printed; where it cannot be written nobody is there to be told.
pub(super) fn note(text: Arguments<'_>) {
    let _nobody = write(&mut io::stderr(), format_args!("{text}\n"));
}

/// The verb's ending, by what became of what it printed.
pub(super) fn ended(exit: Exit) -> Exit {
    match LOST.load(Ordering::Relaxed) {
        true => Exit::No,
        false => exit,
    }
}

fn to(out: &mut impl Write, text: Arguments<'_>) -> io::Result<()> {
    match write(out, text) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// All of it, and through whatever buffers it.
fn write(out: &mut impl Write, text: Arguments<'_>) -> io::Result<()> {
    let text = text.to_string();
    out.write_all(printable_lines(&text).as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fails(ErrorKind);

    impl Write for Fails {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_has_seen_enough_is_no_failure_and_a_full_disk_is() {
        assert!(to(&mut Fails(ErrorKind::BrokenPipe), format_args!("x")).is_ok());
        assert!(to(&mut Fails(ErrorKind::StorageFull), format_args!("x")).is_err());
    }

    #[test]
    fn what_cannot_be_shown_again_is_lost_with_its_reader() {
        assert!(write(&mut Fails(ErrorKind::BrokenPipe), format_args!("x")).is_err());
    }

    #[test]
    fn a_name_does_not_steer_the_terminal() {
        let mut out = Vec::new();
        write(&mut out, format_args!("pod a\u{1b}[2J\nnext\n")).expect("memory");
        assert_eq!(out, b"pod a\\u001b[2J\nnext\n");
    }
}
