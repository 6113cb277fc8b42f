//! `conformance`: the Gateway API conformance suite against the mesh in a cluster, and
//! the page of the documentation that says what came of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{output, run as run_command};
use crate::repo::Repo;
use crate::test::PROFILE;
use crate::{build_ebpf, kube, setup, test};

const USAGE: &str = "usage: cargo xtask conformance [--features F,…] [CASE...] [-- FLAGS]";
const PAGE: &str = "docs/conformance.md";
/// In the recipe's folder: what must pass.
const CLAIMED: &str = "conformance/claimed";

/// What is run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    features: Option<String>,
    /// None: every one of these features.
    cases: Vec<String>,
    /// For the suite.
    rest: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    /// Needs a feature that is not among those asked for.
    NotRun,
}

pub(crate) fn run(repo: &Repo, args: &[String]) -> Result<()> {
    let plan = Plan::parse(args)?;
    if let Some(why) = kube::missing() {
        bail!("no cluster can be started here: {why}");
    }
    setup::ensure_all(repo)?;
    build_ebpf::build(repo, false)?;
    test::build(repo)?;
    kube::build(repo)?;
    let images = kube::images(repo, PROFILE)?;
    let out = repo.target.join("conformance");
    let commit = commit(repo)?;
    let version = concat!("v", env!("CARGO_PKG_VERSION"));
    let mut command = kube::with_cluster(repo, &images)?;
    command
        .arg(kube::recipe(repo).join("conformance.sh"))
        .env("CONFORMANCE_OUT", &out)
        .env("CONFORMANCE_VERSION", format!("{version}-{commit}"))
        .env("CONFORMANCE_INSTALL", images.join("mesh-agent.tar"));
    if let Some(features) = &plan.features {
        command.env("CONFORMANCE_FEATURES", features);
    }
    match plan.cases.is_empty() {
        true => command.arg("all"),
        false => command.args(&plan.cases),
    };
    // It fails for any case; which one matters is said below.
    let ran = run_command(command.args(&plan.rest));
    let log = out.join("log.txt");
    let log = fs::read_to_string(&log).with_context(|| format!("read {}", log.display()))?;
    let outcomes = outcomes(&log);
    if outcomes.is_empty() {
        return ran.and_then(|()| bail!("the suite ran no case"));
    }
    let claimed = claimed(&kube::recipe(repo).join(CLAIMED))?;
    if plan.cases.is_empty() {
        let path = out.join("report.yaml");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let report = Report::read(&text);
        let page = page((version, &commit), &report, (&outcomes, &claimed));
        fs::write(repo.root.join(PAGE), page)?;
        println!("{PAGE}: written");
        judge(&outcomes, &claimed)
    } else {
        judge(&outcomes, &plan.cases)
    }
}

impl Plan {
    fn parse(args: &[String]) -> Result<Self> {
        let mut plan = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--" => plan.rest = args.by_ref().cloned().collect(),
                "--features" => plan.features = Some(args.next().context(USAGE)?.clone()),
                flag if flag.starts_with('-') => bail!("{USAGE}"),
                case => plan.cases.push(case.to_owned()),
            }
        }
        Ok(plan)
    }
}

fn claimed(file: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

/// What the suite's log says of each case of a mesh, and not of their parts.
fn outcomes(log: &str) -> BTreeMap<String, Outcome> {
    let outcome = |line: &str| {
        let (word, rest) = line.trim().strip_prefix("--- ")?.split_once(": ")?;
        let case = rest.strip_prefix("TestConformance/")?.split(' ').next()?;
        let outcome = match word {
            "PASS" => Outcome::Passed,
            "SKIP" => Outcome::NotRun,
            _ => Outcome::Failed,
        };
        let is_ours = case.starts_with("Mesh") && !case.contains('/');
        is_ours.then(|| (case.to_owned(), outcome))
    };
    log.lines().filter_map(outcome).collect()
}

/// An error that names those of `wanted` that did not pass.
fn judge(outcomes: &BTreeMap<String, Outcome>, wanted: &[String]) -> Result<()> {
    let has_not = |case: &&String| outcomes.get(*case) != Some(&Outcome::Passed);
    let missing: Vec<&str> = wanted.iter().filter(has_not).map(String::as_str).collect();
    if !missing.is_empty() {
        bail!("not passed: {}", missing.join(", "));
    }
    Ok(())
}

/// Of what is run; with a mark where files differ from it.
fn commit(repo: &Repo) -> Result<String> {
    let mut git = Command::new("git");
    git.args([
        "describe",
        "--always",
        "--abbrev=12",
        "--dirty",
        "--exclude=*",
    ]);
    let commit = output(git.current_dir(&repo.root))?;
    Ok(commit.trim().to_owned())
}

/// Passed, failed, skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts([u32; 3]);

impl Counts {
    fn text(self) -> String {
        let Self([passed, failed, skipped]) = self;
        match (failed, skipped) {
            (0, 0) => format!("{passed} of {passed}"),
            _ => format!("{passed} passed, {failed} failed, {skipped} skipped"),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Profile {
    name: String,
    core: Counts,
    extended: Counts,
    features: Vec<String>,
}

/// As far as it is shown, of the suite's own report.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    date: String,
    channel: String,
    api: String,
    profiles: Vec<Profile>,
}

impl Report {
    /// Its keys are in the order of the alphabet, so that a profile's name ends it.
    fn read(text: &str) -> Self {
        let mut report = Self::default();
        let (mut profile, mut is_extended, mut list) = (Profile::default(), false, "");
        for line in text.lines() {
            let item = line.trim();
            let line = item.strip_prefix("- ").unwrap_or(item);
            let Some((key, value)) = line.split_once(':') else {
                if list == "supportedFeatures" {
                    profile.features.push(line.to_owned());
                }
                continue;
            };
            list = key;
            let value = value.trim().trim_matches('"');
            let counts = match is_extended {
                false => &mut profile.core.0,
                true => &mut profile.extended.0,
            };
            match key {
                "date" => report.date = value.to_owned(),
                "gatewayAPIChannel" => report.channel = value.to_owned(),
                "gatewayAPIVersion" => report.api = value.to_owned(),
                "core" => is_extended = false,
                "extended" => is_extended = true,
                "Passed" => counts[0] = value.parse().unwrap_or(0),
                "Failed" => counts[1] = value.parse().unwrap_or(0),
                "Skipped" => counts[2] = value.parse().unwrap_or(0),
                "name" => {
                    profile.name = value.to_owned();
                    report.profiles.push(std::mem::take(&mut profile));
                }
                _other => {}
            }
        }
        report
    }
}

fn page(
    (version, commit): (&str, &str),
    report: &Report,
    (outcomes, claimed): (&BTreeMap<String, Outcome>, &[String]),
) -> String {
    let mut text = String::from(
        "# Gateway API conformance\n\n\
         <!-- made by `cargo xtask conformance`: do not edit -->\n\n\
         What the mesh profiles MESH-HTTP and MESH-GRPC of the upstream suite, v1.6.3, say of\n\
         the mesh in a real cluster, in enrolled namespaces. A case that is claimed must pass\n\
         (`tests/kube/conformance/claimed`; the suite `kube` runs those). One that passes and is\n\
         not claimed may do so by chance: without any mesh four of them do.\n\n\
         | version | commit | Gateway API | date |\n| --- | --- | --- | --- |\n",
    );
    let Report {
        date, channel, api, ..
    } = report;
    text.push_str(&format!(
        "| {version} | `{commit}` | {api}, {channel} | {date} |\n\n\
         | profile | core | extended | its features |\n| --- | --- | --- | --- |\n"
    ));
    for profile in &report.profiles {
        let (core, extended) = (profile.core.text(), profile.extended.text());
        let features = profile.features.join(", ");
        text.push_str(&format!(
            "| {} | {core} | {extended} | {features} |\n",
            profile.name
        ));
    }
    text.push_str("\n| case | result | claimed |\n| --- | --- | --- |\n");
    for (case, outcome) in outcomes {
        let outcome = match outcome {
            Outcome::Passed => "passed",
            Outcome::Failed => "failed",
            Outcome::NotRun => "not run: its features are not claimed",
        };
        let is_claimed = if claimed.contains(case) { "yes" } else { "" };
        text.push_str(&format!("| {case} | {outcome} | {is_claimed} |\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
=== RUN   TestConformance/MeshBasic
--- FAIL: TestConformance (5.84s)
    --- PASS: TestConformance/MeshBasic (0.21s)
        --- PASS: TestConformance/MeshBasic/0_request (0.20s)
    --- FAIL: TestConformance/MeshHTTPRouteWeight (0.21s)
        --- PASS: TestConformance/MeshHTTPRouteWeight/0_request (0.20s)
    --- SKIP: TestConformance/MeshPorts (0.00s)
    --- SKIP: TestConformance/GatewayModifyListeners (0.00s)
";

    const REPORT: &str = "\
apiVersion: gateway.networking.k8s.io/v1
date: \"2026-11-29T10:00:00Z\"
gatewayAPIChannel: standard
gatewayAPIVersion: v1.6.3
implementation:
  contact:
  - local
  project: mesh-agent
  version: v0.1.0-abc
kind: ConformanceReport
mode: default
profiles:
- core:
    result: success
    statistics:
      Failed: 0
      Passed: 2
      Skipped: 0
  name: MESH-GRPC
  summary: Core tests succeeded.
- core:
    result: partial
    skippedTests:
    - MeshHTTPRouteMatching
    statistics:
      Failed: 0
      Passed: 6
      Skipped: 1
  extended:
    result: success
    statistics:
      Failed: 0
      Passed: 2
      Skipped: 0
    supportedFeatures:
    - MeshA
    - MeshB
    unsupportedFeatures:
    - MeshC
  name: MESH-HTTP
  summary: Core tests partially succeeded with 1 test skips. Extended tests
    succeeded.
";

    #[test]
    fn a_profile_has_its_counts_and_the_features_that_it_supports() {
        let report = Report::read(REPORT);
        let [grpc, http] = &report.profiles[..] else {
            panic!("{report:?}");
        };
        assert_eq!((&*grpc.name, grpc.core), ("MESH-GRPC", Counts([2, 0, 0])));
        assert_eq!((grpc.extended, grpc.features.len()), (Counts::default(), 0));
        assert_eq!(
            (http.core, http.extended),
            (Counts([6, 0, 1]), Counts([2, 0, 0]))
        );
        assert_eq!(http.features, ["MeshA", "MeshB"]);
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_case_is_what_the_log_says_of_it_and_not_of_its_parts() {
        let outcomes = outcomes(LOG);
        let expected = [
            ("MeshBasic", Outcome::Passed),
            ("MeshHTTPRouteWeight", Outcome::Failed),
            ("MeshPorts", Outcome::NotRun),
        ];
        let expected = expected.map(|(case, outcome)| (case.to_owned(), outcome));
        assert_eq!(outcomes, BTreeMap::from(expected));
    }

    #[test]
    fn what_is_wanted_and_did_not_run_has_not_passed() {
        let outcomes = outcomes(LOG);
        assert!(judge(&outcomes, &words("MeshBasic")).is_ok());
        let error = judge(&outcomes, &words("MeshBasic MeshPorts MeshElse")).expect_err("two");
        assert_eq!(error.to_string(), "not passed: MeshPorts, MeshElse");
    }

    #[test]
    fn cases_features_and_the_suites_own_flags_are_told_apart() {
        let plan = Plan::parse(&words("--features Mesh,X A B -- -debug")).expect("a plan");
        assert_eq!(plan.features.as_deref(), Some("Mesh,X"));
        assert_eq!((plan.cases, plan.rest), (words("A B"), words("-debug")));
        assert!(Plan::parse(&words("--else")).is_err());
    }

    #[test]
    fn the_page_says_which_cases_are_claimed() {
        let report = Report::read(REPORT);
        let (outcomes, claimed) = (outcomes(LOG), words("MeshBasic"));
        let page = page(("v0.1.0", "abc"), &report, (&outcomes, &claimed));
        let head = "| v0.1.0 | `abc` | v1.6.3, standard | 2026-11-29T10:00:00Z |\n";
        assert!(page.contains(head), "{page}");
        let http = "| MESH-HTTP | 6 passed, 0 failed, 1 skipped | 2 of 2 | MeshA, MeshB |\n";
        assert!(page.contains(http), "{page}");
        assert!(page.contains("| MeshBasic | passed | yes |\n"), "{page}");
        assert!(
            page.contains("| MeshHTTPRouteWeight | failed |  |\n"),
            "{page}"
        );
    }
}
