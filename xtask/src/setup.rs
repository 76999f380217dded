//! `cargo xtask setup`: what an ordinary `cargo build` of the agent needs.

use std::process::Command;

use anyhow::{Result, anyhow, bail};

use crate::ebpf_toolchain::{self, BPF_LINKER_VERSION, Compiler, DEBIAN_PACKAGES, Missing, Toolchain};
use crate::{packages, step, workspace};

/// Brings what is missing; a few milliseconds when nothing is.
///
/// # Errors
/// When something cannot be installed here: names it, and the command that brings it.
pub fn run() -> Result<Toolchain> {
    if ebpf_toolchain::find_compiler().is_err() {
        bring_compiler()?;
    }
    if ebpf_toolchain::find_linker().is_none() {
        let mut cargo = workspace::cargo();
        cargo.args(["install", "bpf-linker", "--version", BPF_LINKER_VERSION, "--locked"]);
        step::run("installing bpf-linker", &mut cargo)?;
    }
    let toolchain = ebpf_toolchain::find().map_err(|missing| anyhow!(in_one_line(&missing)))?;
    println!("eBPF programs: compiled by {}, linked by {}", toolchain.compiler, toolchain.linker.display());
    Ok(toolchain)
}

/// Clippy for the compiler of the eBPF programs; only the tests need it.
///
/// # Errors
/// As [`run`].
pub fn bring_ebpf_clippy(toolchain: &Toolchain) -> Result<()> {
    if toolchain.has_clippy() {
        return Ok(());
    }
    match toolchain.compiler {
        Compiler::Nightly { .. } => step::run(
            "installing nightly's clippy",
            rustup().args(["component", "add", "clippy", "--toolchain", "nightly"]),
        ),
        Compiler::Debian => packages::install(&["rust-web-clippy"]),
    }
}

/// rustup's nightly where rustup can fetch it, else Debian's packages.
fn bring_compiler() -> Result<()> {
    let mut problem = anyhow!("rustup is not on PATH");
    if workspace::on_path("rustup").is_some() {
        match bring_nightly() {
            Ok(()) => return Ok(()),
            Err(error) => problem = error,
        }
    }
    if packages::is_debian() && workspace::is_root() {
        println!("  rustup's nightly cannot be had here, so Debian's compiler it is");
        return packages::install(&DEBIAN_PACKAGES);
    }
    bail!("{problem:#}\n{}", Missing::Compiler)
}

fn bring_nightly() -> Result<()> {
    let what = "installing rustup's nightly with rust-src";
    match ebpf_toolchain::find_compiler() {
        // Whoever has a nightly chose its date; it only gets its source.
        Err(Missing::NightlySource) => {
            step::run(what, rustup().args(["component", "add", "rust-src", "--toolchain", "nightly"]))
        }
        _ => step::run(
            what,
            rustup()
                .args(["toolchain", "install", "nightly", "--profile", "minimal", "--no-self-update"])
                .args(["--component", "rust-src", "--component", "clippy"]),
        ),
    }
}

fn rustup() -> Command {
    let mut command = Command::new("rustup");
    command.env_remove("RUSTUP_TOOLCHAIN");
    command
}

fn in_one_line(missing: &[Missing]) -> String {
    missing.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
