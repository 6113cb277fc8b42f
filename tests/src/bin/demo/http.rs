//! The demo's steps of HTTP: where requests go, which are denied, and what becomes of a
//! server that fails.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mesh_tests::{APP_PORT, eventually};

use crate::scene::Scene;
use crate::steps::Step;

/// Of the Service `shop`, behind which both versions are.
const VIP: &str = "10.96.77.1";

pub(crate) const STEPS: &[Step] = &[
    Step {
        name: "canary: a route with the weights 80 and 20",
        expected: "v1 80 %, v2 20 % of 1,000 requests, +-5 %",
        act: canary,
    },
    Step {
        name: "a header decides: x-user: beta",
        expected: "with it always v2, without it always v1",
        act: header,
    },
    Step {
        name: "blue-green: the route is switched under load",
        expected: "0 of 900 requests fail, both versions answer",
        act: blue_green,
    },
    Step {
        name: "RequestMirror: v2 gets a copy of each request",
        expected: "v1 alone answers; as many copies as requests",
        act: mirror,
    },
    Step {
        name: "a policy denies /admin/*",
        expected: "403 with the reason; other paths stay open",
        act: deny_path,
    },
    Step {
        name: "v2 begins to answer 503",
        expected: "it is left out, then all is answered; it comes back",
        act: eject,
    },
    Step {
        name: "a rate limit: each caller 5 requests in 10 s",
        expected: "5 times 200, then 429 with Retry-After",
        act: limit,
    },
    Step {
        name: "a greedy pod of n1 asks with 100 connections as fast as it can",
        expected: "300 of 300 requests of web, 100 a second, are answered beside it",
        act: greedy,
    },
];

pub(crate) fn service() -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: shop, namespace: shop}}\n\
         spec:\n  clusterIP: {VIP}\n  selector: {{tier: shop}}\n  \
         ports: [{{name: http, port: 80, targetPort: {APP_PORT}}}]\n"
    )
}

/// Of the Service `shop`; `rules` are those of an HTTPRoute.
fn route(rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {{name: shop, namespace: shop}}\n\
         spec:\n  parentRefs: [{{group: \"\", kind: Service, name: shop, port: 80}}]\n  \
         rules: {rules}\n"
    )
}

fn backends(weights: [u32; 2]) -> String {
    let [v1, v2] = weights;
    format!(
        "backendRefs: [{{name: shop-v1, port: 80, weight: {v1}}}, \
         {{name: shop-v2, port: 80, weight: {v2}}}]"
    )
}

/// What came of some requests: who answered, or the status that is not 200.
type Answers = BTreeMap<String, usize>;

impl Scene {
    /// Writes objects; both agents go by them when this returns.
    fn apply(&self, name: &str, yaml: &str) -> Result<()> {
        let before = self.generations()?;
        self.world.write_config(name, yaml)?;
        let is_newer = || {
            let now = self.generations();
            now.is_ok_and(|now| now.iter().zip(before).all(|(now, before)| *now > before))
        };
        ensure!(
            eventually(Duration::from_secs(5), is_newer),
            "not read within 5 s"
        );
        Ok(())
    }

    fn generations(&self) -> Result<[u64; 2]> {
        let of = |status: serde_json::Value| status["generation"].as_u64().context("a generation");
        Ok([of(self.near()?.status()?)?, of(self.far.status()?)?])
    }

    /// curl of web, that asks the shop.
    fn asking(&self, path: &str, args: &[&str]) -> Result<String> {
        let mut curl = self.world.in_pod(&self.web, "curl");
        curl.args(["-sS", "--max-time", "10"]).args(args);
        let out = curl.arg(format!("http://{VIP}{path}")).output()?;
        let problem = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "{}", problem.trim());
        Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    }

    fn ask_often(&self, count: usize, args: &[&str]) -> Result<Answers> {
        let mut all = vec!["-w", "\n= %{http_code}\n"];
        all.extend(args);
        let told = self.asking(&format!("/?[1-{count}]"), &all)?;
        let mut answers = Answers::new();
        let mut name = String::new();
        for line in told.lines() {
            let word = line.split_whitespace().next().unwrap_or_default();
            match line.strip_prefix("= ") {
                Some("200") => *answers.entry(std::mem::take(&mut name)).or_default() += 1,
                Some(status) => *answers.entry(status.to_owned()).or_default() += 1,
                None if word.starts_with("shop-") => word.clone_into(&mut name),
                None => {}
            }
        }
        Ok(answers)
    }
}

fn shown(answers: &Answers) -> String {
    let all = answers.iter().map(|(who, count)| format!("{who}: {count}"));
    all.collect::<Vec<_>>().join(", ")
}

fn only(answers: &Answers, name: &str, count: usize) -> Result<()> {
    let is_so = answers.len() == 1 && answers.get(name) == Some(&count);
    ensure!(is_so, "{} and not {name}: {count}", shown(answers));
    Ok(())
}

fn canary(scene: &mut Scene) -> Result<String> {
    scene.apply("route", &route(&format!("[{{{}}}]", backends([80, 20]))))?;
    let answers = scene.ask_often(1000, &[])?;
    let of = |name: &str| answers.get(name).copied().unwrap_or_default();
    let (v1, v2) = (of("shop-v1"), of("shop-v2"));
    let is_right = v1 + v2 == 1000 && (150..=250).contains(&v2);
    ensure!(is_right, "{}", shown(&answers));
    Ok(shown(&answers))
}

fn header(scene: &mut Scene) -> Result<String> {
    let beta = format!(
        "[{{matches: [{{headers: [{{name: x-user, value: beta}}]}}], {}}}, {{{}}}]",
        backends([0, 1]),
        backends([1, 0])
    );
    scene.apply("route", &route(&beta))?;
    let with = scene.ask_often(50, &["-H", "x-user: beta"])?;
    let without = scene.ask_often(50, &[])?;
    only(&with, "shop-v2", 50)?;
    only(&without, "shop-v1", 50)?;
    Ok(format!(
        "with it {}; without {}",
        shown(&with),
        shown(&without)
    ))
}

fn blue_green(scene: &mut Scene) -> Result<String> {
    const COUNT: usize = 900;
    let to = |weights| route(&format!("[{{{}}}]", backends(weights)));
    scene.apply("route", &to([1, 0]))?;
    let this: &Scene = scene;
    let (answers, switched) = std::thread::scope(|scope| {
        let load = scope.spawn(|| this.ask_often(COUNT, &["--rate", "300/s"]));
        let mut switched = 0;
        let mut failed = None;
        while !load.is_finished() && failed.is_none() {
            let weights = [[0, 1], [1, 0]][switched % 2];
            // Each one is in force before the next.
            failed = this.apply("route", &to(weights)).err();
            switched += 1;
        }
        let answers = load.join().ok().context("the load ends");
        (
            answers.and_then(|answers| answers),
            failed.map_or(Ok(switched), Err),
        )
    });
    let (answers, switched) = (answers?, switched?);
    let of = |name: &str| answers.get(name).copied().unwrap_or_default();
    let (blue, green) = (of("shop-v1"), of("shop-v2"));
    let is_right = blue + green == COUNT && blue > 0 && green > 0;
    ensure!(is_right && switched > 1, "{}", shown(&answers));
    Ok(format!(
        "{}; switched {switched} times, 0 failed",
        shown(&answers)
    ))
}

fn mirror(scene: &mut Scene) -> Result<String> {
    const COUNT: usize = 40;
    let copies = || -> Result<f64> {
        let answered = "copy=\"answered\"";
        let near = scene.near()?;
        near.metric("mesh_agent_mirrored_requests_total", answered)
    };
    let rule = "[{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: shop-v2, port: 80}}}], ";
    scene.apply("route", &route(&format!("{rule}{}}}]", backends([1, 0]))))?;
    let before = copies()?;
    let answers = scene.ask_often(COUNT, &[])?;
    only(&answers, "shop-v1", COUNT)?;
    let all = || copies().is_ok_and(|now| now - before >= COUNT as f64);
    let came = eventually(Duration::from_secs(5), all);
    let count = copies()? - before;
    ensure!(came, "{count} copies");
    Ok(format!("{}, {count} copies", shown(&answers)))
}

const NO_ADMIN: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: shop}
spec:
  action: DENY
  selector: {matchLabels: {tier: shop}}
  rules: [{to: [{operation: {paths: [/admin/*]}}]}]
";

fn deny_path(scene: &mut Scene) -> Result<String> {
    scene.apply("route", &route(&format!("[{{{}}}]", backends([1, 0]))))?;
    scene.apply("no-admin", NO_ADMIN)?;
    let what = ["-w", "= %{http_code}"];
    let mut seen = Vec::new();
    for path in ["/admin/users", "/x/../admin/users"] {
        let mut args = vec!["--path-as-is"];
        args.extend(what);
        let told = scene.asking(path, &args)?;
        let (reason, status) = told.rsplit_once("= ").context("a status")?;
        let told = format!("{path}: {status} {}", reason.trim());
        ensure!(told == format!("{path}: 403 denied"), "{told}");
        seen.push(told);
    }
    let open = scene.ask_often(1, &[])?;
    only(&open, "shop-v1", 1)?;
    let by = "policy=\"shop/no-admin\"";
    let counted = scene.far.metric("mesh_agent_authz_denied_total", by)?;
    ensure!(counted >= 2.0, "counted {counted}");
    seen.push(format!("n2 counts {counted} for shop/no-admin"));
    scene.world.remove_config("no-admin")?;
    Ok(seen.join("\n"))
}

/// `mesh-agent status endpoints` of n1, the rows of the shop.
fn endpoints(scene: &Scene) -> Result<String> {
    let run_dir = scene.near()?.run_dir();
    let mut status = scene.world.agent_command("n1", "status");
    let out = status
        .arg("endpoints")
        .arg("--run-dir")
        .arg(run_dir)
        .output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let of_shop = |line: &&str| line.starts_with("shop/shop:");
    Ok(text.lines().filter(of_shop).collect::<Vec<_>>().join("\n"))
}

fn eject(scene: &mut Scene) -> Result<String> {
    scene.world.remove_config("route")?;
    let is_even = || {
        let answers = scene.ask_often(20, &[]).unwrap_or_default();
        answers.len() == 2 && answers.keys().all(|name| name.starts_with("shop-"))
    };
    ensure!(
        eventually(Duration::from_secs(10), is_even),
        "not both answer before"
    );
    let broken = &scene.shop[1].broken;
    fs::write(broken, "")?;
    let mut errors = 0;
    let mut looks = Vec::new();
    let is_ejected = || {
        let answers = scene.ask_often(20, &[]).unwrap_or_default();
        errors += answers.get("503").copied().unwrap_or_default();
        looks = endpoints(scene)
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect();
        looks.iter().any(|line| line.contains("  ejected for "))
    };
    let ejected = eventually(Duration::from_secs(10), is_ejected);
    let after = scene.ask_often(20, &[])?;
    fs::remove_file(broken)?;
    ensure!(ejected, "not left out: {}", looks.join("\n"));
    let back = || {
        let answers = scene.ask_often(20, &[]).unwrap_or_default();
        answers.len() == 2 && !answers.contains_key("503")
    };
    if !eventually(Duration::from_secs(30), back) {
        bail!("it does not come back: {}", endpoints(scene)?);
    }
    let [_, v2] = &scene.shop;
    let seen = format!(
        "{} left out after {errors} times 503, then {}; back in use",
        v2.pod.name,
        shown(&after)
    );
    let now = endpoints(scene)?;
    scene.shown.push(format!(
        "$ mesh-agent status endpoints     # while v2 is left out\n{}\n\n\
         $ mesh-agent status endpoints     # when it works again\n{now}",
        looks.join("\n")
    ));
    only(&after, "shop-v1", 20)?;
    Ok(seen)
}

const LIMIT: &str = "apiVersion: mesh-agent.io/v1alpha1
kind: TrafficPolicy
metadata: {name: shop, namespace: shop}
spec:
  targetRefs: [{group: \"\", kind: Service, name: shop-v1}]
  rateLimits: [{name: per-caller, requests: 5, interval: 10s}]
";

fn limit(scene: &mut Scene) -> Result<String> {
    scene.apply("route", &route(&format!("[{{{}}}]", backends([1, 0]))))?;
    scene.apply("limit", LIMIT)?;
    let answers = scene.ask_often(8, &[])?;
    let what = "= %{http_code} Retry-After: %header{retry-after}";
    let told = scene.asking("/", &["-w", what])?;
    scene.world.remove_config("limit")?;
    scene.world.remove_config("route")?;
    let of = |name: &str| answers.get(name).copied().unwrap_or_default();
    ensure!(of("shop-v1") == 5 && of("429") == 3, "{}", shown(&answers));
    let (_, told) = told.rsplit_once("= ").context("a status")?;
    let after = told.strip_prefix("429 Retry-After: ");
    let seconds = after.and_then(|after| after.parse::<u32>().ok());
    ensure!(seconds.is_some_and(|seconds| seconds > 0), "{told}");
    Ok(format!("5 times 200, then {told} s"))
}

/// Requests of web in three seconds.
const QUIET: usize = 300;
const GREEDY: usize = 100;

impl Scene {
    /// Web at its pace: how long the slowest but one of a hundred took, in ms.
    fn quiet(&self) -> Result<f64> {
        let what = "\n= %{http_code} %{time_total}\n";
        let told = self.asking(&format!("/?[1-{QUIET}]"), &["--rate", "100/s", "-w", what])?;
        let answered = told.lines().filter_map(|line| line.strip_prefix("= 200 "));
        let times: std::result::Result<Vec<f64>, _> = answered.map(str::parse).collect();
        let mut times = times?;
        ensure!(times.len() == QUIET, "{} of {QUIET} answered", times.len());
        times.sort_by(f64::total_cmp);
        Ok(times[QUIET * 99 / 100] * 1e3)
    }

    fn requests_of_files(&self) -> Result<f64> {
        let label = format!("source_workload=\"{}\"", self.files.name);
        self.near()?.metric("istio_requests_total", &label)
    }

    /// Until it is ended.
    fn floods(&self) -> Result<Child> {
        let mut curl = self.world.in_pod(&self.files, "curl");
        curl.args(["-s", "-Z", "--parallel-immediate"]);
        curl.args(["--parallel-max", &GREEDY.to_string(), "-o", "/dev/null"]);
        curl.arg(format!("http://{VIP}/?[1-1000000]"));
        curl.stdout(Stdio::null()).stderr(Stdio::null());
        curl.spawn().context("start curl")
    }
}

fn greedy(scene: &mut Scene) -> Result<String> {
    scene.apply("route", &route(&format!("[{{{}}}]", backends([1, 0]))))?;
    let alone = scene.quiet()?;
    let before = scene.requests_of_files()?;
    let mut greedy = scene.floods()?;
    let is_greedy = eventually(Duration::from_secs(10), || {
        let now = scene.requests_of_files();
        now.is_ok_and(|now| now - before > 2.0 * GREEDY as f64)
    });
    let beside = scene.quiet();
    let goes_on = greedy.try_wait().is_ok_and(|ended| ended.is_none());
    greedy.kill()?;
    let _ended = greedy.wait();
    let asked = scene.requests_of_files()? - before;
    scene.world.remove_config("route")?;
    let beside = beside?;
    ensure!(is_greedy && goes_on, "the greedy one asked {asked} times");
    ensure!(
        asked > 3.0 * QUIET as f64,
        "the greedy one asked {asked} times"
    );
    Ok(format!(
        "{QUIET} of {QUIET} answered beside {asked} of the greedy one; p99 {beside:.1} ms, alone {alone:.1} ms"
    ))
}
