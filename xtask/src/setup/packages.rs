//! Programs that come from the distribution's packages.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};

use super::Finding;
use crate::command::{output, run_quietly, which};
use crate::toolchain::Compiler;

/// Program, or `module` of Python; Debian package, Fedora package.
const PROGRAMS: &[(&str, &str, &str)] = &[
    ("ip", "iproute2", "iproute"),
    ("nft", "nftables", "nftables"),
    ("nginx", "nginx-light", "nginx"),
    ("curl", "curl", "curl"),
    ("iperf3", "iperf3", "iperf3"),
    ("tcpdump", "tcpdump", "tcpdump"),
    ("openssl", "openssl", "openssl"),
    ("ps", "procps", "procps-ng"),
    ("python3", "python3", "python3"),
    ("apache2", "apache2-bin", "httpd"),
    (
        "java",
        "default-jre-headless",
        "java-latest-openjdk-headless",
    ),
    // No program of PATH.
    (
        "/usr/share/tomcat10/bin/catalina.sh",
        "tomcat10-common",
        "tomcat",
    ),
    ("slowhttptest", "slowhttptest", "slowhttptest"),
    ("module grpc", "python3-grpcio", "python3-grpcio"),
    ("module aiosmtpd", "python3-aiosmtpd", "python3-aiosmtpd"),
];

const DEBIAN_COMPILER: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];

/// Refuses service starts for the length of the install: a test machine wants
/// the nginx binary, not a web server on port 80. An administrator's own
/// policy-rc.d stays as it is.
const APT_SCRIPT: &str = r#"
set -e
guard=/usr/sbin/policy-rc.d
if [ ! -e "$guard" ]; then
    trap 'rm -f "$guard"' EXIT INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$guard"
    chmod 755 "$guard"
fi
export DEBIAN_FRONTEND=noninteractive
if [ "$1" = update ]; then apt-get update -q; fi
shift
apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"
"#;

pub(super) fn findings() -> Vec<Finding> {
    PROGRAMS
        .iter()
        .map(|(program, debian, fedora)| Finding {
            what: program,
            state: found(program)
                .map(|path| path.display().to_string())
                .ok_or_else(|| format!("install the package {debian} (Fedora: {fedora})")),
        })
        .collect()
}

/// Where it is: one of Python's modules as the distribution's Python finds it, as tests do.
fn found(what: &str) -> Option<PathBuf> {
    let Some(module) = what.strip_prefix("module ") else {
        return which(what);
    };
    let ask = format!("import importlib.util as u; print(u.find_spec('{module}').origin)");
    let place = output(Command::new("/usr/bin/python3").args(["-c", &ask]));
    place.ok().map(|place| PathBuf::from(place.trim()))
}

/// Installs the programs that tests and the demo run.
pub(super) fn ensure_programs() -> Result<()> {
    let missing: Vec<_> = PROGRAMS
        .iter()
        .filter(|(program, ..)| found(program).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let debian: Vec<&str> = missing.iter().map(|(_, package, _)| *package).collect();
    let fedora: Vec<&str> = missing.iter().map(|(_, _, package)| *package).collect();
    if which("apt-get").is_none() {
        bail!(
            "programs are missing; install the packages\n  Fedora: sudo dnf install {}\n  \
             others: what provides {}",
            fedora.join(" "),
            missing
                .iter()
                .map(|(program, ..)| *program)
                .collect::<Vec<_>>()
                .join(", ")
        );
    }
    let web_server_is_new = debian.contains(&"nginx-light");
    apt_install(&debian).context("install the programs that tests run")?;
    if web_server_is_new {
        keep_web_server_off_at_boot();
    }
    Ok(())
}

/// The distribution's compiler with its library source.
pub(super) fn install_compiler() -> Result<Compiler> {
    if which("apt-get").is_none() {
        bail!("{}", compiler_advice());
    }
    apt_install(DEBIAN_COMPILER).with_context(|| {
        format!(
            "install a compiler for the kernel programs; {}",
            compiler_advice()
        )
    })?;
    Compiler::find().with_context(|| {
        format!(
            "{} are installed and still give no usable compiler with library source; {}",
            DEBIAN_COMPILER.join(" "),
            compiler_advice()
        )
    })
}

/// The development files that a bpf-linker for this LLVM links with.
pub(super) fn install_llvm(major: u32) -> Result<()> {
    if which("apt-get").is_none() {
        bail!(
            "bpf-linker needs the development files of LLVM {major}; install them\n  \
             Fedora: sudo dnf install llvm{major}-devel libzstd-devel zlib-devel libxml2-devel\n  \
             others: the LLVM {major} development package; or put a bpf-linker on PATH"
        );
    }
    let (llvm, polly) = (format!("llvm-{major}-dev"), format!("libpolly-{major}-dev"));
    apt_install(&[&llvm, &polly, "libzstd-dev", "zlib1g-dev", "libxml2-dev"])
        .context("install what bpf-linker links with")
}

/// Builds the programs of the cluster that tests run in.
pub(crate) fn install_go() -> Result<()> {
    if which("apt-get").is_none() {
        bail!("install Go 1.21 or newer (https://go.dev/dl/)");
    }
    apt_install(&["golang-go"])
}

/// What to install by hand, by distribution.
pub(super) fn compiler_advice() -> String {
    format!(
        "install one of\n  any:           rustup toolchain install nightly --profile minimal --component rust-src\n  \
         Debian/Ubuntu: sudo apt-get install {}\n  \
         Fedora:        sudo dnf install rust cargo rust-src",
        DEBIAN_COMPILER.join(" ")
    )
}

fn apt_install(packages: &[&str]) -> Result<()> {
    // Package lists are refreshed at most once in one run of xtask.
    static UPDATED: AtomicBool = AtomicBool::new(false);
    let update = if UPDATED.swap(true, Ordering::Relaxed) {
        "no-update"
    } else {
        "update"
    };
    eprintln!("setup: apt-get install {}", packages.join(" "));
    let mut command = as_root()?;
    command
        .args(["sh", "-c", APT_SCRIPT, "apt", update])
        .args(packages)
        .stdin(Stdio::null())
        // The package manager's chatter is not a verb's result.
        .stdout(std::io::stderr());
    run_quietly(&mut command)
        .map_err(|_| anyhow::anyhow!("`apt-get install {}` failed, see above", packages.join(" ")))
}

/// `env`, through sudo where we are not root.
fn as_root() -> Result<Command> {
    if is_root() {
        return Ok(Command::new("env"));
    }
    if which("sudo").is_none() {
        bail!("packages are missing, and this is neither root nor is there sudo");
    }
    let mut command = Command::new("sudo");
    if std::env::var_os("CI").is_some() {
        command.arg("--non-interactive");
    }
    command.arg("env");
    Ok(command)
}

pub(crate) fn is_root() -> bool {
    output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

/// The package enables its unit; a machine that only runs tests must not
/// serve on port 80 after its next boot.
fn keep_web_server_off_at_boot() {
    if !Path::new("/run/systemd/system").exists() {
        return;
    }
    eprintln!("setup: systemctl disable nginx (only its binary is wanted)");
    let disabled = as_root().and_then(|mut command| {
        run_quietly(command.args(["systemctl", "disable", "--quiet", "nginx"]))
    });
    if let Err(error) = disabled {
        eprintln!("setup: {error:#}; nginx may start at the next boot");
    }
}
