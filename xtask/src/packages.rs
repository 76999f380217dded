//! Debian's packages.

use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Result, bail};

use crate::{step, workspace};

/// Whether `apt-get` is how this machine gets packages.
pub fn is_debian() -> bool {
    workspace::on_path("apt-get").is_some()
}

/// Installs these packages.
///
/// # Errors
/// When this is not Debian, we are not root, or apt-get fails; says which packages are missing and the command.
pub fn install(packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    if !is_debian() {
        bail!(
            "{names} are missing (names of Debian's packages), and this is not Debian: install them and run this again"
        );
    }
    if !workspace::is_root() {
        bail!("{names} are missing: run `sudo apt-get install -y {names}`");
    }
    refresh()?;
    step::run(
        &format!("installing {names}"),
        apt().arg("install").arg("-y").arg("--no-install-recommends").args(packages),
    )
}

/// The lists of packages, once per run: a fresh machine has none.
fn refresh() -> Result<()> {
    static DONE: OnceLock<()> = OnceLock::new();
    if DONE.get().is_none() {
        step::run("refreshing the lists of packages", apt().arg("update"))?;
        let _ = DONE.set(());
    }
    Ok(())
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    // Another apt may be at work on a machine that has just started.
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "DPkg::Lock::Timeout=120", "-q"]);
    command
}
