//! The demo's steps, in order.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mesh_tests::{APP_PORT, Pod};

use crate::scene::{LOAD_PORT, Scene};

/// One line of the table. What was seen, or why it is not what was expected.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) expected: &'static str,
    pub(crate) act: fn(&mut Scene) -> Result<String>,
}

pub(crate) const STEPS: &[Step] = &[
    Step {
        name: "curl to a service on the other node (nginx)",
        expected: "answered, client's own address at the server",
        act: |scene| ask_nginx(scene, 0),
    },
    Step {
        name: "the same over IPv6",
        expected: "the same",
        act: |scene| ask_nginx(scene, 1),
    },
    Step {
        name: "curl to a service on the same node (python)",
        expected: "answered",
        act: |scene| {
            let [vip, _] = scene.files.vips();
            let url = format!("http://{vip}/name.txt");
            let body = scene.curl(&scene.web, &url)?;
            ensure!(body == "files", "{body}");
            Ok(format!("{vip} says {body}"))
        },
    },
    Step {
        name: "curl to a pod that is not enrolled",
        expected: "answered, own address",
        act: |scene| {
            let url = format!("http://{}:{APP_PORT}/", scene.outside.v4());
            says(scene, &scene.job, &url, &scene.outside, 0)
        },
    },
    Step {
        name: "curl from a pod that is not enrolled",
        expected: "answered, own address",
        act: |scene| {
            let url = format!("http://{}:{APP_PORT}/", scene.api.v4());
            says(scene, &scene.outside, &url, &scene.api, 0)
        },
    },
    Step {
        name: "mutual TLS: the packets between the nodes",
        expected: "the text is on the pod's link, not between the nodes",
        act: look_at_packets,
    },
    Step {
        name: "a policy that denies web at api",
        expected: "refused, the policy named; web's other ways stay open",
        act: deny,
    },
    Step {
        name: "certificates are replaced under traffic",
        expected: "new serial, no connection fails",
        act: rotate,
    },
    Step {
        name: "1,000 connections across the nodes",
        expected: "both agents count each one",
        act: count_connections,
    },
    Step {
        name: "latency of 64 B there and back",
        expected: "shown: one node, two nodes",
        act: latency,
    },
];

pub(crate) const LAST: &[Step] = &[
    Step {
        name: "kill -9 of n1's agent",
        expected: "its pods are refused, nothing passes",
        act: kill_agent,
    },
    Step {
        name: "start it again",
        expected: "all works within 1 s",
        act: |scene| {
            let after = scene.restart_near()?;
            ensure!(after < Duration::from_secs(1), "after {after:?}");
            Ok(format!("after {} ms", after.as_millis()))
        },
    },
];

/// nginx says who asked, and at which address.
fn says(scene: &Scene, from: &Pod, url: &str, server: &Pod, family: usize) -> Result<String> {
    let body = scene.curl(from, url)?;
    let ip = |pod: &Pod| [pod.v4(), pod.v6()][family].clone();
    let at = if family == 0 {
        ip(server)
    } else {
        format!("[{}]", ip(server))
    };
    let right = [
        format!("{} {} {at}:{APP_PORT}", server.name, ip(from)),
        format!("{} {} {}:{APP_PORT}", server.name, ip(from), ip(server)),
    ];
    ensure!(right.contains(&body), "{body:?} and not {:?}", right[0]);
    Ok(body)
}

fn ask_nginx(scene: &mut Scene, family: usize) -> Result<String> {
    let url = format!("http://{}/", scene.api.vips()[family]);
    says(scene, &scene.web, &url, &scene.api, family)
}

fn look_at_packets(scene: &mut Scene) -> Result<String> {
    const MARKER: &str = "marker-of-the-demo";
    let between = scene
        .world
        .capture_packets("n1", scene.world.wire("n1"), "tcp")?;
    // The control: between the application and the agent of its node.
    let inside = scene.world.capture_packets(&scene.api, "lo", "tcp")?;
    let [vip, _] = scene.api.vips();
    scene.curl(&scene.web, &format!("http://{vip}/?{MARKER}"))?;
    let (between, inside) = (between.stop()?, inside.stop()?);
    ensure!(
        inside.contains(MARKER.as_bytes()),
        "the control saw nothing"
    );
    ensure!(between.packets > 0, "nothing went between the nodes");
    ensure!(
        !between.contains(MARKER.as_bytes()),
        "plaintext on the wire"
    );
    Ok(format!(
        "{} packets between the nodes, none with it",
        between.packets
    ))
}

const DENY: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-callers, namespace: shop}
spec:
  action: DENY
  selector: {matchLabels: {app: api}}
  rules: [{from: [{source: {namespaces: [shop]}}]}]
";

fn deny(scene: &mut Scene) -> Result<String> {
    let [vip, _] = scene.api.vips();
    let url = format!("http://{vip}/");
    scene.world.write_config("deny", DENY)?;
    let refused = || scene.curl(&scene.web, &url).is_err();
    let denied = mesh_tests::eventually(Duration::from_secs(5), refused);
    ensure!(denied, "it was answered");
    let count = scene.far.metric(
        "mesh_agent_authz_denied_total",
        "policy=\"shop/no-callers\"",
    )?;
    let [files, _] = scene.files.vips();
    scene.curl(&scene.web, &format!("http://{files}/name.txt"))?;
    scene.world.remove_config("deny")?;
    let again = mesh_tests::eventually(Duration::from_secs(5), || !refused());
    ensure!(again && count >= 1.0, "again {again}, counted {count}");
    Ok(format!("shop/no-callers denied {count}, then open again"))
}

/// Serial numbers of the certificates that n1's agent holds.
fn serials(scene: &Scene) -> Result<Vec<String>> {
    let status = scene.near()?.status()?;
    let held = status["identities"]["identities"].as_array();
    let serials = held
        .context("identities in the status")?
        .iter()
        .filter_map(|i| Some(i["serial"].as_str()?.to_owned()));
    Ok(serials.collect())
}

fn rotate(scene: &mut Scene) -> Result<String> {
    let before = serials(scene)?;
    ensure!(!before.is_empty(), "no certificates");
    let [vip, _] = scene.api.vips();
    let url = format!("http://{vip}/");
    let mut answers = 0;
    let mut failed = None;
    let replaced = mesh_tests::eventually(Duration::from_secs(15), || {
        match scene.curl(&scene.web, &url) {
            Ok(_) => answers += 1,
            Err(error) => failed = Some(error),
        }
        failed.is_some() || serials(scene).is_ok_and(|now| now.iter().all(|s| !before.contains(s)))
    });
    if let Some(error) = failed {
        return Err(error);
    }
    ensure!(replaced, "the certificates stayed");
    Ok(format!(
        "{} replaced, {answers} answers meanwhile",
        before.len()
    ))
}

fn count_connections(scene: &mut Scene) -> Result<String> {
    const COUNT: usize = 1000;
    let (near, far) = (scene.near()?, &scene.far);
    let counts = || -> Result<[f64; 2]> {
        Ok([
            scene.carried(near, &scene.web)?,
            scene.carried(far, &scene.web)?,
        ])
    };
    let before = counts()?;
    let [vip, _] = scene.api.vip_addresses();
    let url = format!("http://{vip}/?[1-{COUNT}]");
    let out = scene
        .world
        .in_pod(&scene.web, "curl")
        .args(["-sS", "--fail", "-H", "Connection: close", &url])
        .output()?;
    let answers = String::from_utf8_lossy(&out.stdout).lines().count();
    ensure!(
        answers == COUNT,
        "{answers} answers: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    let after = counts()?;
    let [near, far] = [after[0] - before[0], after[1] - before[1]];
    ensure!(
        near >= COUNT as f64 && far >= COUNT as f64,
        "agents carried {near} and {far}"
    );
    Ok(format!("{answers} answers; n1 carried {near}, n2 {far}"))
}

fn latency(scene: &mut Scene) -> Result<String> {
    let [near, _] = scene.files.vip_addresses();
    let [far, _] = scene.api.vip_addresses();
    let mut shown = vec![];
    for (name, address) in [("one node", near), ("two nodes", far)] {
        shown.push(percentiles(scene, name, &address)?);
    }
    Ok(shown.join("\n"))
}

fn percentiles(scene: &Scene, name: &str, address: &str) -> Result<String> {
    let report = scene.echo(&format!("{address}:{LOAD_PORT}"))?;
    let us = |key: &str| report[key].as_f64().context("a time");
    Ok(format!(
        "{name}: p50 {:.0}, p90 {:.0}, p99 {:.0} us",
        us("p50_us")?,
        us("p90_us")?,
        us("p99_us")?
    ))
}

fn kill_agent(scene: &mut Scene) -> Result<String> {
    scene.near.take().context("no agent")?.kill9()?;
    let [vip, _] = scene.api.vips();
    let direct = format!("{}:{APP_PORT}", scene.api.v4());
    let mut seen = String::new();
    for to in [vip, direct] {
        match scene.curl(&scene.web, &format!("http://{to}/")) {
            Ok(body) => bail!("{to} answered {body}"),
            Err(error) => seen = error.to_string(),
        }
    }
    let [files, _] = scene.files.vips();
    let url = format!("http://{}:{APP_PORT}/", scene.files.v4());
    if let Ok(body) = scene.curl(&scene.job, &url) {
        bail!("into {files} came {body}");
    }
    Ok(format!("in and out: {seen}"))
}
