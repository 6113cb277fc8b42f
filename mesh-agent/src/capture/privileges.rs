//! What the agent may do, by its effective capabilities.

use super::Error;

/// Number and name of each capability that capture cannot do without.
const NEEDED: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")];

/// Fails where a needed capability is missing; for root in a container as for anybody.
pub(crate) fn check_privileges() -> Result<(), Error> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    match missing(&status) {
        None => Ok(()),
        Some(missing) => Err(Error::Privileges { missing }),
    }
}

fn missing(status: &str) -> Option<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    NEEDED
        .iter()
        .find(|(bit, _)| effective >> bit & 1 == 0)
        .map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::missing;

    #[test]
    fn the_first_missing_capability_is_named() {
        assert_eq!(missing("CapEff:\t000001ffffffffff\n"), None);
        assert_eq!(missing("CapEff:\t0000000000201000\n"), None);
        assert_eq!(
            missing("CapEff:\t0000000000001000\n"),
            Some("CAP_SYS_ADMIN")
        );
        assert_eq!(missing(""), Some("CAP_NET_ADMIN"));
    }
}
