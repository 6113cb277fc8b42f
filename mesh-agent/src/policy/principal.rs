//! Principals of rules, by the names that the mesh's trust domain goes by.
//!
//! A peer's identity is of the mesh's own trust domain: the handshake lets in
//! no other, and takes that of an alias for the own one. In a policy the domain
//! may be written as its own name, as an alias or as `cluster.local`. An
//! identity matches where it does so under any of these names.

use crate::model::policy::{MeshSettings, Pattern};
use crate::model::{SpiffeId, TrustDomain};

/// The shortest path of an identity: what is missing of one is taken from here.
const PATH: &str = "/ns/x/sa/x";

/// Patterns for identities of the own trust domain that say what `written`
/// says; none where no peer can have such a principal.
#[must_use]
pub(crate) fn localize(written: &Pattern, settings: &MeshSettings) -> Vec<Pattern> {
    let own = settings.trust_domain.as_str();
    match written {
        Pattern::Present => vec![Pattern::Present],
        Pattern::Exact(text) => {
            let path = path_of(text, |domain| settings.is_own(domain));
            let exact = path.filter(|path| is_identity(own, path));
            exact.map_or(vec![], |path| vec![Pattern::Exact(format!("{own}{path}"))])
        }
        Pattern::Prefix(text) if !text.contains('/') => {
            let begins = settings.own_names().any(|name| name.starts_with(text));
            let all = || vec![Pattern::Prefix(format!("{own}/"))];
            if begins { all() } else { vec![] }
        }
        Pattern::Prefix(text) => {
            let path = path_of(text, |domain| settings.is_own(domain));
            let path = path.filter(|path| {
                (0..=PATH.len()).any(|from| is_identity(own, &format!("{path}{}", &PATH[from..])))
            });
            path.map_or(vec![], |path| vec![Pattern::Prefix(format!("{own}{path}"))])
        }
        Pattern::Suffix(text) => {
            let ends = |domain: &str| settings.own_names().any(|name| name.ends_with(domain));
            let whole = path_of(text, |domain| !domain.is_empty() && ends(domain));
            let whole = whole.filter(|path| is_identity(own, path));
            let least = usize::from(!text.starts_with('/'));
            let is_end =
                (least..=PATH.len()).any(|to| is_identity(own, &format!("{}{text}", &PATH[..to])));
            whole
                .map(|path| Pattern::Exact(format!("{own}{path}")))
                .into_iter()
                .chain(is_end.then(|| written.clone()))
                .collect()
        }
    }
}

/// Why [`localize`] finds nobody, for people.
#[must_use]
pub(crate) fn nobody(written: &str, settings: &MeshSettings) -> String {
    let own = &settings.trust_domain;
    let domain = written.split_once('/').map(|(domain, _)| domain);
    let foreign = |domain: &&str| {
        TrustDomain::new(domain).is_ok() && !settings.is_own(domain) && *domain != "ns"
    };
    match domain.filter(foreign) {
        Some(domain) => format!(
            "no peer is like {written:?}: the mesh's trust domain is {own}, and {domain} is no alias of it (--trust-domain-alias)"
        ),
        None => {
            format!("no peer is like {written:?}: a principal is {own}/ns/NAMESPACE/sa/ACCOUNT")
        }
    }
}

/// From the first `/` on, where `fits` takes what is before it.
fn path_of(text: &str, fits: impl Fn(&str) -> bool) -> Option<&str> {
    let at = text.find('/')?;
    fits(&text[..at]).then(|| &text[at..])
}

fn is_identity(domain: &str, path: &str) -> bool {
    SpiffeId::parse(&format!("spiffe://{domain}{path}")).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(own: &str, aliases: &[&str]) -> MeshSettings {
        let domain = |name: &&str| TrustDomain::new(name).expect("a trust domain");
        MeshSettings {
            trust_domain: domain(&own),
            trust_domain_aliases: aliases.iter().map(domain).collect(),
            ..MeshSettings::default()
        }
    }

    fn localized(text: &str, settings: &MeshSettings) -> Vec<String> {
        let written = Pattern::parse(text).expect("a pattern");
        let own = localize(&written, settings);
        own.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_own_domain_goes_by_its_name_its_aliases_and_cluster_local() {
        let settings = settings("example.org", &["old-td"]);
        for (written, own) in [
            ("example.org/ns/a/sa/b", "example.org/ns/a/sa/b"),
            ("old-td/ns/a/sa/b", "example.org/ns/a/sa/b"),
            ("cluster.local/ns/a/sa/b", "example.org/ns/a/sa/b"),
            ("old-td/ns/a/*", "example.org/ns/a/*"),
            ("cluster.local/*", "example.org/*"),
            ("cluster.*", "example.org/*"),
            ("old*", "example.org/*"),
            ("*", "*"),
            ("*/ns/a/sa/b", "*/ns/a/sa/b"),
            ("*-td/ns/a/sa/b", "example.org/ns/a/sa/b"),
            ("*local/ns/a/sa/b", "example.org/ns/a/sa/b"),
            ("*/sa/b", "*/sa/b"),
            ("*b", "*b"),
        ] {
            assert_eq!(localized(written, &settings), [own], "{written}");
        }
    }

    #[test]
    fn what_no_peer_can_be_is_nobody() {
        let settings = settings("example.org", &["old-td"]);
        for written in [
            "other-td/ns/a/sa/b",
            "other-td/ns/a/*",
            "oldest*",
            "example.orgs/ns/a/sa/b",
            "example.org./*",
            "ns/shop/sa/web",
            "web",
            "example.org",
            "example.org/ns/a/sa/b/",
            "example.org/ns/a/sa/",
            "example.org/sa/b/*",
            "example.org/ns/a/sa/b/c*",
            "example.org/ns//*",
            "*/sa/b/",
            "*/ns/a",
            "*x-td/ns/a/sa/b",
            "*/a/sa/b/c",
        ] {
            let none = localized(written, &settings);
            assert_eq!(none, Vec::<String>::new(), "{written}");
        }
        let said = nobody("other-td/ns/a/sa/b", &settings);
        assert!(said.contains("other-td is no alias"), "{said}");
        let said = nobody("ns/shop/sa/web", &settings);
        assert!(
            said.contains("a principal is example.org/ns/NAMESPACE"),
            "{said}"
        );
    }
}
