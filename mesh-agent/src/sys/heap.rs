//! The heap as a whole.

/// Memory that was freed between what is still used goes back to the system. The C
/// library keeps it by itself, for each thread that ever freed much: a list of all
/// objects would count for ever.
pub(crate) fn give_back() {
    // SAFETY: no argument has a meaning beyond its number, and it locks what it looks at.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
pub(crate) use counting::held;

#[cfg(test)]
mod counting;
