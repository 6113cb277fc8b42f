//! What a RESET says: why, and of a denial which rule, where the peer asked for that.

use std::sync::Arc;

use smallvec::SmallVec;

use super::frame::{MAX_RESET, ResetReason};
use crate::model::{PeerRule, RuleRef};

/// Of a field's value; its length is a byte.
const MAX_FIELD: usize = u8::MAX as usize;
const _: () = assert!(MAX_RESET == 1 + 2 + MAX_FIELD);
/// Longest name of a policy; one that is longer is not sent.
pub(super) const MAX_POLICY: usize = MAX_FIELD - INDEX;
/// Bytes of the rule's index.
const INDEX: usize = 2;
/// No single rule decided.
const NO_RULE: u16 = u16::MAX;
const TLV_RULE: u8 = 1;

/// A RESET that is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reset {
    reason: ResetReason,
    rule: Option<PeerRule>,
}

impl From<ResetReason> for Reset {
    fn from(reason: ResetReason) -> Self {
        Self { reason, rule: None }
    }
}

impl Reset {
    /// A policy says no; `rule`: which, for a peer that takes it.
    #[must_use]
    pub(crate) fn denied(rule: Option<&RuleRef>) -> Self {
        Self {
            reason: ResetReason::Denied,
            rule: rule.map(|rule| PeerRule {
                policy: rule.policy.clone(),
                rule: rule.rule,
            }),
        }
    }

    pub(super) fn encode(&self) -> SmallVec<[u8; 64]> {
        let mut out = SmallVec::new();
        out.push(self.reason as u8);
        if let Some(rule) = self.rule.as_ref().filter(|r| is_policy(&r.policy)) {
            let name = rule.policy.as_bytes();
            // `is_policy` holds it below a byte's 255.
            out.extend_from_slice(&[TLV_RULE, (INDEX + name.len()) as u8]);
            out.extend_from_slice(&rule.rule.unwrap_or(NO_RULE).to_be_bytes());
            out.extend_from_slice(name);
        }
        out
    }
}

/// The rule that a RESET's payload names. It is for people to read: what is no
/// name of a policy is left out, and later versions may add fields.
pub(super) fn rule(payload: &[u8]) -> Option<PeerRule> {
    let mut rest = payload.get(1..)?;
    while let [kind, len, tail @ ..] = rest {
        let value = tail.get(..usize::from(*len))?;
        rest = &tail[value.len()..];
        if *kind != TLV_RULE {
            continue;
        }
        let (index, name) = value.split_first_chunk::<INDEX>()?;
        let index = u16::from_be_bytes(*index);
        let policy = std::str::from_utf8(name).ok().filter(|n| is_policy(n))?;
        return Some(PeerRule {
            policy: Arc::from(policy),
            rule: (index != NO_RULE).then_some(index),
        });
    }
    None
}

/// `namespace/name`, of the characters that Kubernetes has for them.
fn is_policy(text: &str) -> bool {
    let is_name = |part: &str| {
        let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
        !part.is_empty() && part.bytes().all(allowed)
    };
    text.len() <= MAX_POLICY
        && text
            .split_once('/')
            .is_some_and(|(namespace, name)| is_name(namespace) && is_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ruled(policy: &str, rule: Option<u16>) -> RuleRef {
        RuleRef {
            policy: policy.into(),
            rule,
            generation: 7,
        }
    }

    #[test]
    fn a_rule_is_read_as_it_was_written() {
        for index in [None, Some(0), Some(300)] {
            let sent = Reset::denied(Some(&ruled("shop/no-web", index)));
            let payload = sent.encode();
            assert_eq!(payload[0], ResetReason::Denied as u8);
            assert_eq!(rule(&payload), sent.rule);
        }
        assert_eq!(Reset::denied(None).encode().as_slice(), [1]);
        assert_eq!(rule(&[1]), None);
        assert_eq!(rule(&[]), None);
    }

    #[test]
    fn what_is_no_name_of_a_policy_is_neither_sent_nor_believed() {
        let long = format!("shop/{}", "a".repeat(MAX_POLICY));
        for name in ["", "shop", "/a", "a/", "a/b/c", "a/\u{1b}[2J", "A/b", &long] {
            let payload = Reset::denied(Some(&ruled(name, None))).encode();
            assert_eq!(payload.as_slice(), [1], "{name}");
            if name.len() > MAX_POLICY {
                continue;
            }
            let value = [&[0, 0], name.as_bytes()].concat();
            let len = u8::try_from(value.len()).expect("short");
            let payload = [&[1, TLV_RULE, len], &value[..]].concat();
            assert_eq!(rule(&payload), None, "{name}");
        }
        let longest = format!("shop/{}", "a".repeat(MAX_POLICY - "shop/".len()));
        let payload = Reset::denied(Some(&ruled(&longest, None))).encode();
        assert_eq!(payload.len(), MAX_RESET);
        assert!(rule(&payload).is_some_and(|r| *r.policy == *longest));
    }

    #[test]
    fn fields_that_a_later_version_adds_are_skipped_and_cut_ones_name_nothing() {
        let payload = Reset::denied(Some(&ruled("shop/no-web", Some(1)))).encode();
        let later = [&[1, 200, 2, 9, 9], &payload[1..]].concat();
        assert!(rule(&later).is_some());
        for end in 1..payload.len() {
            assert_eq!(rule(&payload[..end]), None, "cut at {end}");
        }
    }
}
