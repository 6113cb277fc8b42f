//! `x-forwarded-client-cert`: who calls, told to the applications of pods that ask for
//! it, in the form of Envoy. Whatever a client says in this header never arrives.

use crate::model::{HeaderEdit, SpiffeId, Workload};
use crate::tls::Fingerprint;

const NAME: &str = "x-forwarded-client-cert";

/// A caller that has proved who it is.
#[derive(Debug)]
pub(super) struct ProvenCaller {
    pub(super) identity: SpiffeId,
    /// Of its certificate; `None` where it has none at the moment.
    pub(super) certificate: Option<Fingerprint>,
}

/// What `pod`, whose identity is `own`, is told of the caller, if it asks for it.
pub(super) fn told(
    pod: &Workload,
    own: impl FnOnce() -> Option<SpiffeId>,
    caller: impl FnOnce() -> Option<ProvenCaller>,
) -> Option<String> {
    if !pod.on_node.forwards_client_cert {
        return None;
    }
    Some(value(&own()?, &caller()?))
}

pub(super) fn line(value: String) -> HeaderEdit {
    HeaderEdit::Set {
        name: NAME.to_owned(),
        value,
    }
}

/// No character of a SPIFFE ID has to be quoted there.
fn value(own: &SpiffeId, caller: &ProvenCaller) -> String {
    use std::fmt::Write as _;
    let mut text = format!("By={own};");
    if let Some(certificate) = caller.certificate {
        text.push_str("Hash=");
        for byte in certificate {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        text.push(';');
    }
    let _ = write!(text, "URI={}", caller.identity);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_that_of_envoy() {
        let id = |text: &str| SpiffeId::parse(text).expect("an identity");
        let own = id("spiffe://cluster.local/ns/shop/sa/b");
        let mut caller = ProvenCaller {
            identity: id("spiffe://cluster.local/ns/shop/sa/a"),
            certificate: Some([0xab; 32]),
        };
        let hash = "ab".repeat(32);
        let [by, uri] = [
            "By=spiffe://cluster.local/ns/shop/sa/b",
            "URI=spiffe://cluster.local/ns/shop/sa/a",
        ];
        assert_eq!(value(&own, &caller), format!("{by};Hash={hash};{uri}"));
        caller.certificate = None;
        assert_eq!(value(&own, &caller), format!("{by};{uri}"));
    }
}
