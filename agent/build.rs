//! Compiles agent-ebpf and puts the object where the loader embeds it: `OUT_DIR/agent-ebpf.o`.
//!
//! The programs are built by another compiler for another target, so this starts a second cargo with an
//! environment of its own. Which one, and what is missing on this machine, says `ebpf_toolchain`.

mod ebpf_toolchain;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problems) => {
            for problem in problems {
                println!("cargo::error={problem}");
            }
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), Vec<String>> {
    let manifest_dir = dir_from_env("CARGO_MANIFEST_DIR");
    let out_dir = dir_from_env("OUT_DIR");
    let ebpf_dir = manifest_dir.parent().expect("the agent lies in the workspace").join("agent-ebpf");
    watch(&manifest_dir, &ebpf_dir);

    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    if arch != "x86_64" {
        return Err(vec![format!("the agent reads registers of x86-64; it cannot be built for {arch}")]);
    }

    let toolchain = ebpf_toolchain::find()
        .map_err(|missing| missing.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let target_dir = ebpf_toolchain::target_dir(&out_dir);
    let mut cargo = toolchain.build(&ebpf_dir.join("Cargo.toml"), &target_dir);
    eprintln!("eBPF programs: {}\n{cargo:?}", toolchain.compiler);
    run(&mut cargo).map_err(|problem| {
        vec![format!("the eBPF programs did not build with {}: {problem}", toolchain.compiler)]
    })?;

    let object = ebpf_toolchain::object_in(&target_dir);
    std::fs::copy(&object, out_dir.join("agent-ebpf.o"))
        .map(drop)
        .map_err(|error| vec![format!("cannot copy {}: {error}", object.display())])
}

/// What the object depends on: its own crate, the types it shares, and which tools are here.
fn watch(manifest_dir: &Path, ebpf_dir: &Path) {
    let common = manifest_dir.with_file_name("agent-common");
    for path in [
        manifest_dir.join("build.rs"),
        manifest_dir.join("ebpf_toolchain.rs"),
        ebpf_dir.join("src"),
        ebpf_dir.join("Cargo.toml"),
        ebpf_dir.join("Cargo.lock"),
        common.join("src"),
        common.join("Cargo.toml"),
    ] {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}

/// The compiler's messages go to stderr, which cargo shows when a build script fails.
fn run(command: &mut Command) -> Result<(), String> {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::from(std::io::stderr()))
        .status()
        .map_err(|error| format!("cannot start {}: {error}", command.get_program().display()))?;
    if status.success() { Ok(()) } else { Err(format!("cargo ended with {status}, its messages are below")) }
}

fn dir_from_env(name: &str) -> PathBuf {
    std::env::var_os(name).map(PathBuf::from).expect("cargo sets it for build scripts")
}
