//! Property: a part of a policy that is not understood never lets more through.
//!
//! Policies are made at random, then one part of the spec is spoilt.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use super::istio::{HTTPBIN, SOURCES, compile, may};

struct Dice(StdRng);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end)
    }

    fn pick<'t>(&mut self, of: &[&'t str]) -> &'t str {
        of[self.below(of.len())]
    }

    fn field(&mut self) -> (&'static str, Value) {
        let all: [(&str, &str); 8] = [
            ("principals", "cluster.local/ns/foo/*"),
            ("notPrincipals", "cluster.local/ns/bar/sa/sleep"),
            ("namespaces", "foo"),
            ("notNamespaces", "bar"),
            ("serviceAccounts", "bar/sleep"),
            ("notServiceAccounts", "foo/web"),
            ("ipBlocks", "10.0.0.0/24"),
            ("notIpBlocks", "10.0.0.8/30"),
        ];
        let (name, value) = all[self.below(all.len())];
        (name, json!([value]))
    }

    fn rule(&mut self) -> Value {
        let mut rule = json!({});
        if self.below(3) > 0 {
            let mut source = json!({});
            for _ in 0..=self.below(2) {
                let (name, value) = self.field();
                source[name] = value;
            }
            rule["from"] = json!([{ "source": source }]);
        }
        if self.below(2) > 0 {
            let field = self.pick(&["ports", "notPorts"]);
            rule["to"] = json!([{ "operation": { field: [self.pick(&["80", "81"])] } }]);
        }
        if self.below(3) == 0 {
            let values = self.pick(&["values", "notValues"]);
            let (key, value) = [
                ("source.namespace", "foo"),
                ("destination.port", "80"),
                ("source.ip", "10.0.0.0/8"),
                ("connection.sni", "a.b"),
            ][self.below(4)];
            rule["when"] = json!([{ "key": key, values: [value] }]);
        }
        rule
    }

    fn policy(&mut self, name: &str) -> Value {
        let rules: Vec<Value> = (0..=self.below(2)).map(|_| self.rule()).collect();
        let mut spec = json!({ "action": self.pick(&["ALLOW", "DENY"]), "rules": rules });
        match self.below(4) {
            0 => spec["selector"] = json!({ "matchLabels": { "app": "httpbin" } }),
            1 => spec["targetRefs"] = json!([{ "kind": "Service", "name": "httpbin" }]),
            _ => {}
        }
        json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": { "name": name, "namespace": "foo" }, "spec": spec,
        })
    }
}

/// Every value below the spec, as JSON pointers; labels may be called anything.
fn parts(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    let mut below = |key: &str, value: &Value| parts(value, &format!("{at}/{key}"), found);
    match value {
        Value::Object(map) if !at.ends_with("/matchLabels") => {
            map.iter().for_each(|(key, value)| below(key, value));
        }
        Value::Array(list) => {
            for (i, value) in list.iter().enumerate() {
                below(&i.to_string(), value);
            }
        }
        _ => {}
    }
}

/// Spoils one part; true when that must be told as a mistake.
fn spoil(dice: &mut Dice, policy: &mut Value) -> bool {
    let mut found = Vec::new();
    parts(&policy["spec"], "/spec", &mut found);
    let at = &found[dice.below(found.len())];
    let part = policy.pointer_mut(at).expect("a part");
    match dice.below(9) {
        0 => *part = Value::Null,
        1 => *part = json!(7),
        2 => *part = json!(true),
        3 => {
            *part = json!("?!");
            // A header's name or a label may be anything.
            return false;
        }
        4 => {
            *part = [json!([]), json!({}), json!([[]]), json!([{}])][dice.below(4)].clone();
            return false;
        }
        5 => return misspell(dice, part),
        6 => match part {
            Value::Object(map) if !at.ends_with("/matchLabels") => {
                map.insert("unknwon".to_owned(), json!(["x"]));
            }
            Value::Array(list) => list.push(json!(7)),
            _ => return false,
        },
        7 => match part {
            Value::String(text) => text.push('\u{7f}'),
            _ => return false,
        },
        _ => match part {
            Value::Array(list) => {
                let item = list.first().cloned();
                *part = item.unwrap_or(json!(0));
            }
            other => *other = json!([[other.clone()]]),
        },
    }
    !at.ends_with("/matchLabels") || !matches!(part_of(policy, at), Value::Object(_))
}

fn part_of<'v>(policy: &'v Value, at: &str) -> &'v Value {
    policy.pointer(at).expect("a part")
}

/// Another name for one of the fields.
fn misspell(dice: &mut Dice, part: &mut Value) -> bool {
    let Value::Object(map) = part else {
        return false;
    };
    let keys: Vec<String> = map.keys().cloned().collect();
    if keys.is_empty() || map.contains_key("app") {
        return false;
    }
    let key = &keys[dice.below(keys.len())];
    let value = map.remove(key).expect("a field");
    let change = dice.below(3);
    let other = match change {
        0 => key.to_uppercase(),
        1 => format!("{key}x"),
        _ => key[1..].to_owned(),
    };
    map.insert(other, value);
    true
}

#[test]
fn no_part_that_is_not_understood_lets_more_through() {
    let mut dice = Dice(StdRng::seed_from_u64(5));
    let (mut told, mut narrowed) = (0, 0);
    for case in 0..2_000 {
        let (first, second) = (dice.policy("a"), dice.policy("b"));
        let mut spoilt = first.clone();
        let must_tell = spoil(&mut dice, &mut spoilt);
        let before = compile(&format!("{first}\n---\n{second}\n"));
        assert_eq!(before.2, Vec::<String>::new(), "{first} {second}");
        let now = compile(&format!("{spoilt}\n---\n{second}\n"));
        assert!(
            !must_tell || !now.2.is_empty(),
            "case {case}: {spoilt} is not told"
        );
        if now.2.is_empty() {
            continue;
        }
        told += 1;
        for source in SOURCES {
            for to in [(HTTPBIN, 80), (HTTPBIN, 81), ("bar/sleep", 80)] {
                let (was, is) = (may(&before, source, to), may(&now, source, to));
                assert!(
                    was || !is,
                    "case {case}: {source} to {to:?}: {:?}\n{first}\n{spoilt}",
                    now.2
                );
                narrowed += usize::from(was && !is);
            }
        }
    }
    assert!(told > 1_000 && narrowed > 500, "{told} {narrowed}");
}
