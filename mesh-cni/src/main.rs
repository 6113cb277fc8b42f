//! The plugin as a program of its own; all of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    mesh_cni::main()
}
