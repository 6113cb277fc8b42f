//! ServiceAccount: said to be there, and no more; pods name theirs.

use super::about::{About, Fact, Followed, Followers, Record};
use super::found::Found;
use crate::discovery::tree::Node;

const SERVICE_ACCOUNT: &[&str] = &[
    "apiVersion",
    "automountServiceAccountToken",
    "imagePullSecrets",
    "kind",
    "metadata",
    "secrets",
];

#[derive(Clone, Debug)]
pub(crate) struct ServiceAccount;

impl Fact for ServiceAccount {
    const ABOUT: About = About {
        name: "ServiceAccount",
        group: "",
        versions: &["v1"],
        plural: "serviceaccounts",
        namespaced: true,
        followed: Followed::Never,
        meaning: "nothing: pods name theirs, and it is checked alone",
    };

    fn read(value: &Node<'_>, found: &mut Found) -> Self {
        found.names(value, "", SERVICE_ACCOUNT);
        Self
    }
}

impl Record for ServiceAccount {
    const FOLLOWERS: Followers = Followers::Nobody;
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ServiceAccount;

    use super::super::api::{fields, is_of_the_api};
    use super::{Fact as _, ServiceAccount as Kind};

    #[test]
    fn the_fields_are_those_of_the_api() {
        is_of_the_api::<ServiceAccount>(&Kind::ABOUT);
        assert_eq!(super::SERVICE_ACCOUNT, fields::<ServiceAccount>());
    }
}
