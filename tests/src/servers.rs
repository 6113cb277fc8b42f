//! Servers that others wrote, inside pods.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::{Pod, World, eventually};

/// The compiler of Go, which also builds the cluster of tests.
#[must_use]
pub fn go() -> Command {
    const USUAL: &str = "/usr/local/go/bin/go";
    let is_there = Path::new(USUAL).exists();
    Command::new(if is_there { USUAL } else { "go" })
}

/// Builds a package of the module of HTTP/2 and gRPC peers into the directory; the program.
#[must_use]
pub fn http2_peer(name: &str, package: &str, dir: &str) -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("suites/http2/peer");
    let to = Path::new(dir).join(name);
    let built = go()
        .current_dir(source)
        .args(["build", "-o"])
        .args([to.as_os_str(), package.as_ref()])
        .env("CGO_ENABLED", "0")
        .output()
        .expect("Go is there");
    let problem = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{problem}");
    to.into_os_string().into_string().expect("a path of UTF-8")
}

impl World {
    /// Starts a program that lives as long as the world, and waits for the
    /// pod to listen on `port`.
    pub fn start_server(&mut self, pod: &Pod, port: u16, mut command: Command) -> Result<()> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start {:?}", command.get_program()))?;
        self.children.push(child);
        let pid = self.children.last().map_or(0, std::process::Child::id);
        // One of Java's needs seconds even where nothing else runs.
        if eventually(Duration::from_secs(60), || listens(pid, port)) {
            return Ok(());
        }
        bail!("nothing listens on port {port} of {}", pod.name)
    }

    /// nginx that answers every path with `NAME CLIENT SERVER\n`: its own
    /// name, the client's address, and the address it was reached at.
    pub fn nginx(&mut self, pod: &Pod, port: u16) -> Result<()> {
        self.nginx_speaking(pod, port, "", "")
    }

    /// The same, that answers 503 while there is a file at the path that it returns.
    pub fn nginx_that_breaks(&mut self, pod: &Pod, port: u16) -> Result<PathBuf> {
        let broken = self.dir().join(format!("broken-{}", pod.name));
        let breaks = format!("if (-f {}) {{ return 503; }}", broken.display());
        self.nginx_speaking(pod, port, "", &breaks)?;
        Ok(broken)
    }

    /// The same, that speaks HTTP/2 and nothing else.
    pub fn nginx_http2(&mut self, pod: &Pod, port: u16) -> Result<()> {
        self.nginx_speaking(pod, port, " http2", "")
    }

    fn nginx_speaking(&mut self, pod: &Pod, port: u16, protocol: &str, first: &str) -> Result<()> {
        let dir = self.dir().join(format!("nginx-{}", pod.name));
        fs::create_dir_all(&dir)?;
        let name = &pod.name;
        let at = dir.display();
        let configuration = format!(
            r#"user root;
worker_processes 1;
pid {at}/pid;
error_log {at}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log {at}/access.log;
  client_body_temp_path {at}/b; proxy_temp_path {at}/p; fastcgi_temp_path {at}/f;
  uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;
  server {{
    listen {port} reuseport{protocol}; listen [::]:{port} reuseport{protocol};
    location / {{ {first} return 200 "{name} $remote_addr $server_addr:$server_port\n"; }}
  }}
}}
"#
        );
        let file = dir.join("nginx.conf");
        fs::write(&file, configuration)?;
        let mut command = self.in_pod(pod, "nginx");
        command
            .arg("-e")
            .arg(dir.join("error.log"))
            .arg("-p")
            .arg(&dir)
            .arg("-c")
            .arg(&file)
            .args(["-g", "daemon off;"]);
        self.start_server(pod, port, command)
    }

    /// Python's file server, of a directory with the file `name.txt` in it.
    pub fn python_http(&mut self, pod: &Pod, port: u16) -> Result<()> {
        let dir = self.dir().join(format!("www-{}", pod.name));
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("name.txt"), format!("{}\n", pod.name))?;
        let mut command = self.in_pod(pod, "python3");
        command
            .args(["-m", "http.server", "--bind", "::", "--directory"])
            .arg(&dir)
            .arg(port.to_string());
        self.start_server(pod, port, command)
    }
}

/// Whether the process's namespace has a listener on the port, either family.
fn listens(pid: u32, port: u16) -> bool {
    const LISTEN: &str = "0A";
    let suffix = format!(":{port:04X}");
    ["tcp", "tcp6"].iter().any(|family| {
        let table = fs::read_to_string(format!("/proc/{pid}/net/{family}")).unwrap_or_default();
        table.lines().skip(1).any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let (local, state) = (fields.next(), fields.nth(1));
            local.is_some_and(|l| l.ends_with(&suffix)) && state == Some(LISTEN)
        })
    })
}
