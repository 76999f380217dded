//! Virtual machines, emulated: they need neither hardware support nor rights.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::initramfs::Initramfs;
use crate::{packages, step, workspace};

const QEMU: &str = "qemu-system-x86_64";
const INIT: &str = include_str!("qemu/init.sh");
/// Many times what it takes.
const LIMIT: Duration = Duration::from_secs(1200);

/// Brings what is missing.
///
/// # Errors
/// When it cannot be installed here: names it, and the command that brings it.
pub fn install() -> Result<()> {
    let mut missing = Vec::new();
    if workspace::on_path(QEMU).is_none() {
        missing.push("qemu-system-x86");
    }
    if workspace::on_path("busybox").is_none() {
        missing.push("busybox-static");
    }
    if missing.is_empty() { Ok(()) } else { packages::install(&missing) }
}

/// What a machine starts with: a shell to set it up, and these programs in its root directory.
///
/// # Errors
/// When one cannot be read, or the archive not be written.
pub fn initramfs(programs: &[&Path]) -> Result<PathBuf> {
    let mut initramfs = Initramfs::default();
    initramfs.add_file("init", INIT.as_bytes());
    let busybox = workspace::on_path("busybox").context("busybox was installed just now")?;
    initramfs.add_program("bin/busybox", &busybox)?;
    for program in programs {
        let name = program.file_name().context("a program has a name")?.to_string_lossy();
        initramfs.add_program(&name, program)?;
    }
    let path = workspace::target_dir().join("kernels/initramfs");
    fs::write(&path, initramfs.finish()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Starts a kernel and waits until it powers off; what it printed, a line each.
///
/// # Errors
/// When it has not powered off after [`LIMIT`].
pub fn boot(what: &str, kernel: &Path, initramfs: &Path) -> Result<Vec<String>> {
    let mut console = Vec::new();
    let started = Instant::now();
    let ended = step::run_watching(what, &mut machine(kernel, initramfs), |line| {
        console.push(line.trim_end().to_owned());
    });
    match ended {
        Err(_) if started.elapsed() >= LIMIT => {
            bail!(
                "{what}: not done after {} s; its console: {}",
                LIMIT.as_secs(),
                step::log_path(what).display()
            )
        }
        ended => ended.map(|()| console),
    }
}

fn machine(kernel: &Path, initramfs: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--foreground", "--kill-after=5", &LIMIT.as_secs().to_string(), QEMU]);
    // QEMU 7.2 gets the flags after a cmpxchg16b wrong on one processor, on which kernels of 6.12 stumble; on two, some
    // stumble over breakpoints of their own while they patch themselves.
    command.args(["-accel", "tcg", "-cpu", "max,cx16=off", "-smp", "1", "-m", "2G"]);
    command.args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot", "-nodefaults"]);
    // A kernel in trouble panics, one that panics reboots, and that ends the machine.
    command.args(["-append", "console=ttyS0 quiet oops=panic panic=-1"]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs);
    command
}
