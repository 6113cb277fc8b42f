//! What verbs print.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};

/// Prints it. A reader that has seen enough (`| head`) ends nothing: the verb
/// goes on to its exit code.
pub(super) fn text(text: Arguments<'_>) {
    if let Err(error) = to(&mut io::stdout().lock(), text) {
        eprintln!("mesh-agent: cannot print: {error}");
    }
}

fn to(out: &mut impl Write, text: Arguments<'_>) -> io::Result<()> {
    match out.write_fmt(text) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
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
}
