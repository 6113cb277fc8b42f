//! A policy's file that is half written, or broken by a typing error, while the policy is
//! in force.

use std::time::Duration;

use mesh_tests::eventually;

use super::Mesh;

/// Of pods that are none of the test's.
const DENY: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: none-of-b, namespace: shop}
spec:
  selector: {matchLabels: {app: b}}
  action: DENY
  rules: [{}]
";

impl Mesh {
    /// Writes the file as it is, and waits until both agents tell of a mistake with these
    /// words, or of none.
    fn says(&self, yaml: &str, words: Option<&str>) {
        self.world.write_config("deny", yaml).expect("written");
        let told = |agent: &mesh_tests::Agent| {
            let problems = agent.status().map(|status| status["problems"].to_string());
            problems.is_ok_and(|told| match words {
                Some(words) => told.contains(words),
                None => !told.contains("deny.yaml"),
            })
        };
        let both = || self.agents.iter().all(told);
        assert!(eventually(Duration::from_secs(20), both), "{words:?}");
    }

    /// The policies that the agents say they hold to.
    fn policies(&self) -> [String; 2] {
        let of = |agent: &mesh_tests::Agent| Ok(agent.status()?["policies"].to_string());
        self.agents.each(of).expect("a page")
    }

    fn only_b_is_denied(&self, context: &str) {
        assert_eq!(self.through(&self.a, &self.b), 0, "{context}");
        let policies = self.policies();
        assert_eq!(
            self.through(&self.a, &self.c),
            10,
            "{context}: {policies:?}"
        );
        assert!(!policies.concat().contains("default/"), "{policies:?}");
    }
}

#[test]
fn half_a_file_of_a_policy_in_force_denies_nobody_whom_the_policy_does_not_select() {
    let mesh = Mesh::new(&[]);
    mesh.policy("deny", DENY);
    mesh.only_b_is_denied("whole");
    // Up to within its metadata, as a reader sees a file that is being written.
    let (half, _) = DENY.split_once(", namespace").expect("it has one");
    mesh.says(half, Some("unclosed"));
    mesh.only_b_is_denied("half");
    // Of a template that nobody filled in.
    mesh.says(DENY, None);
    mesh.only_b_is_denied("mended");
    let template = DENY.replace("shop", "{{ .Values.namespace }}");
    mesh.says(&template, Some("must be a text"));
    mesh.only_b_is_denied("template");
}

#[test]
fn what_was_guessed_of_a_broken_file_is_gone_with_what_was_broken() {
    let mesh = Mesh::new(&[]);
    mesh.policy("deny", DENY);
    let (half, _) = DENY.split_once(", namespace").expect("it has one");
    mesh.says(half, Some("unclosed"));
    // The file is whole again, and has another mistake.
    mesh.says(
        &DENY.replace("action: DENY", "action: DENNY"),
        Some("DENNY"),
    );
    mesh.only_b_is_denied("mended but for a word");
}
