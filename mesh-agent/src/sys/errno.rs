//! What the kernel's errors mean to an operator: one table for all messages.

use std::error::Error;
use std::io;

/// What to do about an error, by what the kernel said: who ran out of something
/// or may not do it has no broken kernel, mount or pin. `otherwise`: where that
/// tells nothing.
#[must_use]
pub(crate) fn remedy(error: &(dyn Error + 'static), otherwise: &'static str) -> &'static str {
    match errno(error) {
        Some(libc::EMFILE) => "the agent has used up its open files: raise LimitNOFILE",
        Some(libc::ENFILE) => "the node has used up its open files: raise fs.file-max",
        Some(libc::ENOMEM | libc::ENOBUFS) => {
            "memory is short: raise the agent's limit, or free some on the node"
        }
        Some(libc::ENOSPC | libc::EDQUOT | libc::E2BIG) => {
            "there is no room for more: remove what is not needed there"
        }
        Some(libc::EPERM | libc::EACCES) => {
            "the agent may not do it: run it as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN; where it is, a security module or a seccomp profile forbids it, and `mesh-agent doctor` shows what"
        }
        _ => otherwise,
    }
}

/// Does it say nothing of what was asked for? What was asked ran out of something.
#[must_use]
pub(crate) fn is_shortage(error: &(dyn Error + 'static)) -> bool {
    let short = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS];
    errno(error).is_some_and(|errno| short.contains(&errno))
}

/// An error and what caused it. Some name only the call, and the kernel's word
/// is their cause.
#[must_use]
pub(crate) fn told(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |mut said, cause| {
        let cause = cause.to_string();
        if !said.contains(&cause) {
            said = format!("{said}: {cause}");
        }
        said
    })
}

/// What the kernel said, where it is known.
fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    let all = std::iter::successors(Some(error), |error| (*error).source());
    all.filter_map(<dyn Error>::downcast_ref::<io::Error>)
        .find_map(io::Error::raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the call failed")]
    struct Call(#[source] io::Error);

    #[test]
    fn what_the_kernel_said_is_found_below_who_called_it() {
        let call = Call(io::Error::from_raw_os_error(libc::EMFILE));
        assert!(remedy(&call, "").contains("LimitNOFILE"));
        assert_eq!(
            told(&call),
            "the call failed: Too many open files (os error 24)"
        );
        assert!(is_shortage(&call));
        assert!(!is_shortage(&io::Error::from_raw_os_error(libc::ENOENT)));
        let boxed = Box::new(call);
        assert!(remedy(&boxed, "").contains("LimitNOFILE"));
    }

    #[test]
    fn what_tells_nothing_leaves_the_word_to_who_asked() {
        let error = io::Error::from_raw_os_error(libc::EINVAL);
        assert_eq!(remedy(&error, "look there"), "look there");
        assert_eq!(remedy(&io::Error::other("x"), "look there"), "look there");
    }
}
