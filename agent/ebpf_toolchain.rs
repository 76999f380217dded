//! Which compiler, core source, linker and LLVM build the eBPF programs on this machine.
//!
//! Programs for `bpfel-unknown-none` need `core` compiled from source, so the compiler must be one that takes
//! `-Z build-std` and whose own source is at hand. Two kinds of machine have that:
//!
//! | machine | compiler | source |
//! | --- | --- | --- |
//! | a developer's | rustup's `nightly` | rustup's component `rust-src` |
//! | Debian 12 with nothing but rustup's `stable` | Debian's `rustc-web` and `cargo-web` | Debian's `rust-web-src` |
//!
//! Looking is a handful of `stat` calls, plus one question to rustc on Debian. Included by `build.rs`, which
//! compiles, and by xtask, which brings what is missing; so it depends on nothing.
#![allow(dead_code, reason = "each of the two uses its own part")]

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The release of bpf-linker that goes with LLVM 22, which rustup's toolchains of 1.95 to 1.97 carry.
pub const BPF_LINKER_VERSION: &str = "0.10.4";

/// Debian's compiler, its cargo and its source, in the words of `apt-get install`.
pub const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// What compiles the eBPF crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compiler {
    /// rustup's nightly with rust-src.
    Nightly { sysroot: PathBuf },
    /// Debian's packages, made to take `-Z` by RUSTC_BOOTSTRAP=1.
    Debian,
}

/// Everything an eBPF build needs, found.
#[derive(Clone, Debug)]
pub struct Toolchain {
    pub compiler: Compiler,
    /// Absolute path of bpf-linker.
    pub linker: PathBuf,
    /// Where bpf-linker looks for the LLVM it loads at run time.
    pub llvm_dir: PathBuf,
}

/// A piece that is not there. Displays as what is wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// No compiler at all that could build `core` for eBPF.
    Compiler,
    /// rustup's nightly is there, its source is not, and neither is Debian's compiler.
    NightlySource,
    Linker,
    /// rustc does not say where it lives, or no LLVM lives there.
    Llvm {
        looked_in: Option<PathBuf>,
    },
}

/// Everything, or every piece that is missing.
pub fn find() -> Result<Toolchain, Vec<Missing>> {
    match (find_compiler(), find_linker()) {
        (Ok(compiler), Some(linker)) => {
            let llvm_dir = find_llvm(&compiler).map_err(|missing| vec![missing])?;
            Ok(Toolchain { compiler, linker, llvm_dir })
        }
        (compiler, linker) => {
            Err(compiler.err().into_iter().chain(linker.is_none().then_some(Missing::Linker)).collect())
        }
    }
}

/// The first row of the table that this machine fits.
pub fn find_compiler() -> Result<Compiler, Missing> {
    let nightly = rustup_nightly();
    if let Some(sysroot) = nightly.as_ref().filter(|sysroot| has_core_source(sysroot)) {
        return Ok(Compiler::Nightly { sysroot: sysroot.clone() });
    }
    if ["/usr/bin/rustc", "/usr/bin/cargo"].iter().all(|tool| is_program(Path::new(tool)))
        && has_core_source(Path::new("/usr"))
    {
        return Ok(Compiler::Debian);
    }
    Err(if nightly.is_some() { Missing::NightlySource } else { Missing::Compiler })
}

/// bpf-linker from PATH or from where `cargo install` puts it.
pub fn find_linker() -> Option<PathBuf> {
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&on_path)
        .chain(cargo_home().map(|home| home.join("bin")))
        .map(|dir| dir.join("bpf-linker"))
        .find(|candidate| candidate.is_absolute() && is_program(candidate))
}

impl Toolchain {
    /// `cargo build` of the chosen compiler for the crate with this manifest, for the eBPF target, with `core` from
    /// source. Nothing of an outer cargo, clippy or rustup gets through.
    pub fn build(&self, manifest: &Path, target_dir: &Path) -> Command {
        let mut command = self.command(&self.bin_dir().join("cargo"), manifest, target_dir);
        command.arg("build").args(FOR_EBPF);
        command
    }

    /// The same for `cargo clippy`, warnings being errors; None when this compiler has no clippy.
    pub fn clippy(&self, manifest: &Path, target_dir: &Path) -> Option<Command> {
        // Cargo would prefer the cargo-clippy in ~/.cargo/bin, which belongs to another compiler.
        let program = self.bin_dir().join("cargo-clippy");
        self.has_clippy().then(|| {
            let mut command = self.command(&program, manifest, target_dir);
            command.arg("clippy").args(FOR_EBPF).args(["--", "-D", "warnings"]);
            command
        })
    }

    pub fn has_clippy(&self) -> bool {
        is_program(&self.bin_dir().join("cargo-clippy"))
    }

    fn bin_dir(&self) -> PathBuf {
        match &self.compiler {
            Compiler::Nightly { sysroot } => sysroot.join("bin"),
            Compiler::Debian => PathBuf::from("/usr/bin"),
        }
    }

    fn command(&self, program: &Path, manifest: &Path, target_dir: &Path) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(is_of_outer_build) {
                command.env_remove(name);
            }
        }
        let workspace =
            manifest.parent().and_then(Path::parent).expect("a manifest lies in a folder of the workspace");
        let mut flags: Vec<OsString> = vec![
            r#"--cfg=bpf_target_arch="x86_64""#.into(),
            "-Cdebuginfo=2".into(), // BTF is made from it
            "-Clink-arg=--btf".into(),
            with_path("-Clinker=", &self.linker),
            remapped(workspace, "."),
        ];
        // BTF names the files; where they lay is nobody's business, and would make each machine's object another one.
        flags.extend(cargo_home().map(|home| remapped(&home, "cargo")));
        if let Compiler::Nightly { sysroot } = &self.compiler {
            flags.push(remapped(sysroot, "rust"));
        }
        command
            .env("CARGO", self.bin_dir().join("cargo"))
            .env("RUSTC", self.bin_dir().join("rustc"))
            .env("CARGO_BUILD_TARGET_DIR", target_dir)
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join(&OsString::from("\u{1f}")))
            // bpf-linker finds its LLVM here; the compiler's own libraries have other names.
            .env("LD_LIBRARY_PATH", &self.llvm_dir)
            .current_dir(manifest.parent().expect("a manifest lies in a folder"));
        if self.compiler == Compiler::Debian {
            command.env("RUSTC_BOOTSTRAP", "1"); // lets a stable compiler take -Z
        }
        command
    }
}

const FOR_EBPF: [&str; 5] = ["--release", "--target", "bpfel-unknown-none", "-Z", "build-std=core"];

/// Where the eBPF programs are compiled: `ebpf` in the target directory that `below` lies in, so that all profiles of
/// the agent and clippy share the build of `core` and of a dozen crates, which takes a minute and more.
pub fn target_dir(below: &Path) -> PathBuf {
    // Cargo marks its target directory so.
    let outer = below.ancestors().find(|dir| dir.join("CACHEDIR.TAG").is_file());
    outer.unwrap_or(below).join("ebpf")
}

/// Where the eBPF object lies after `cargo build` with this target directory.
pub fn object_in(target_dir: &Path) -> PathBuf {
    target_dir.join("bpfel-unknown-none/release/agent-ebpf")
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Compiler::Nightly { sysroot } => {
                write!(f, "rustup's nightly with rust-src ({})", sysroot.display())
            }
            Compiler::Debian => write!(f, "Debian's rustc-web with rust-web-src (/usr/bin/rustc)"),
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::Compiler => write!(
                f,
                "no compiler for eBPF: run `cargo xtask setup`, or \
                 `rustup toolchain install nightly --component rust-src`, or, on Debian 12 as root, \
                 `apt-get install -y {}`",
                DEBIAN_PACKAGES.join(" ")
            ),
            Missing::NightlySource => write!(
                f,
                "rustup's nightly has no core source: run `rustup component add rust-src --toolchain nightly`, \
                 or `cargo xtask setup`"
            ),
            Missing::Linker => write!(
                f,
                "no bpf-linker on PATH or in ~/.cargo/bin: run \
                 `cargo install bpf-linker --version {BPF_LINKER_VERSION} --locked`, or `cargo xtask setup`"
            ),
            Missing::Llvm { looked_in: Some(dir) } => write!(
                f,
                "no libLLVM for bpf-linker in {}: use a toolchain of rustup, which carries one \
                 (`rustup toolchain install stable`)",
                dir.display()
            ),
            Missing::Llvm { looked_in: None } => {
                write!(
                    f,
                    "`rustc --print sysroot` gave no answer: install rustup's stable (https://rustup.rs)"
                )
            }
        }
    }
}

/// The folder of rustup's toolchain `nightly`, with or without source.
fn rustup_nightly() -> Option<PathBuf> {
    let home =
        std::env::var_os("RUSTUP_HOME").map(PathBuf::from).or_else(|| home().map(|h| h.join(".rustup")))?;
    ["nightly-x86_64-unknown-linux-gnu", "nightly-x86_64-unknown-linux-musl", "nightly"]
        .iter()
        .map(|name| home.join("toolchains").join(name))
        .find(|sysroot| is_program(&sysroot.join("bin/rustc")) && is_program(&sysroot.join("bin/cargo")))
}

fn has_core_source(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
}

/// The compiler's own LLVM where rustup brought it, so that it is never older than the code it links. Debian's
/// compiler has its LLVM inside; there it is the one of the rustc that builds the agent.
fn find_llvm(compiler: &Compiler) -> Result<PathBuf, Missing> {
    let sysroot = match compiler {
        Compiler::Nightly { sysroot } => sysroot.clone(),
        Compiler::Debian => rustc_sysroot().ok_or(Missing::Llvm { looked_in: None })?,
    };
    let dir = sysroot.join("lib");
    let has_llvm = std::fs::read_dir(&dir).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libLLVM"))
    });
    if has_llvm { Ok(dir) } else { Err(Missing::Llvm { looked_in: Some(dir) }) }
}

fn rustc_sysroot() -> Option<PathBuf> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).args(["--print", "sysroot"]).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !path.trim().is_empty()).then(|| PathBuf::from(path.trim()))
}

/// What cargo, clippy and rustup put into the environment of a build script or of `cargo run`, and what a user
/// set for the agent's own build. Where cargo keeps things and how it reaches its registry stays.
fn is_of_outer_build(name: &str) -> bool {
    const STAYS: [&str; 6] =
        ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTRIES_", "CARGO_SOURCE_", "CARGO_TERM_"];
    match name {
        "HOST" | "TARGET" | "PROFILE" | "OPT_LEVEL" | "DEBUG" | "OUT_DIR" | "NUM_JOBS" => true,
        "RUSTFLAGS" | "RUSTDOCFLAGS" | "RUSTDOC" | "CLIPPY_ARGS" | "RUSTUP_TOOLCHAIN" => true,
        _ if name.starts_with("RUSTC") => true,
        _ if name.starts_with("CARGO") => !STAYS.iter().any(|prefix| name.starts_with(prefix)),
        _ => false,
    }
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn cargo_home() -> Option<PathBuf> {
    std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| home().map(|home| home.join(".cargo")))
}

fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").map(PathBuf::from)
}

fn remapped(path: &Path, name: &str) -> OsString {
    let mut flag = with_path("--remap-path-prefix=", path);
    flag.push("=");
    flag.push(name);
    flag
}

fn with_path(prefix: &str, path: &Path) -> OsString {
    let mut joined = OsString::from(prefix);
    joined.push(path);
    joined
}
