//! Embeds the kernel programs that `cargo xtask build-ebpf` built.
//!
//! Without them an empty object is embedded, so that `cargo check`, clippy and
//! editors need no eBPF toolchain; such an agent refuses to start and says why.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=MESH_EBPF_OBJECT");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let object = std::env::var_os("MESH_EBPF_OBJECT").map_or_else(|| built(&out), PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = std::fs::read(&object).unwrap_or_else(|e| {
        println!("cargo::warning=no kernel programs at {} ({e}): run `cargo xtask build-ebpf`; this agent will refuse to start", object.display());
        Vec::new()
    });
    std::fs::write(out.join("mesh-ebpf.o"), bytes).expect("write the embedded object");
}

/// `TARGET_DIR/bpf/mesh-ebpf.o`; OUT_DIR is `TARGET_DIR/[TRIPLE/]PROFILE/build/NAME/out`.
fn built(out: &Path) -> PathBuf {
    let target = out.ancestors().find(|dir| dir.join("bpf").is_dir());
    let target = target.or_else(|| out.ancestors().nth(4));
    target.unwrap_or(out).join("bpf/mesh-ebpf.o")
}
