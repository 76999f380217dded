//! The real servers that the end-to-end tests watch: nginx and Node from Debian, Python's and Node's frameworks
//! in `target/servers`, in the versions that `tests/e2e/apps` pins.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::{packages, step, workspace};

/// Brings what is missing; a few milliseconds when nothing is.
///
/// # Errors
/// When something cannot be installed here: names it, and the command that brings it.
pub fn install() -> Result<()> {
    let missing = missing_packages();
    if !missing.is_empty() {
        packages::install(&missing)?;
    }
    let apps = workspace::root().join("tests/e2e/apps");
    let servers = workspace::servers_dir();
    fs::create_dir_all(&servers).with_context(|| format!("cannot create {}", servers.display()))?;
    install_python(&apps.join("requirements.txt"), &servers)?;
    install_node(&apps.join("package.json"), &servers)
}

fn missing_packages() -> Vec<&'static str> {
    let mut missing = Vec::new();
    if !Path::new("/usr/sbin/nginx").exists() {
        missing.push("nginx-light");
    }
    if workspace::on_path("node").is_none() {
        missing.push("nodejs");
    }
    if workspace::on_path("npm").is_none() {
        missing.push("npm");
    }
    // Debian's python3 has venv, but not the ensurepip that makes a venv usable.
    let python = workspace::on_path("python3").filter(|python| {
        let mut check = Command::new(python);
        check.args(["-c", "import venv, ensurepip"]).stdout(Stdio::null()).stderr(Stdio::null());
        check.status().is_ok_and(|status| status.success())
    });
    if python.is_none() {
        missing.push("python3-venv");
    }
    missing
}

fn install_python(requirements: &Path, servers: &Path) -> Result<()> {
    let venv = servers.join("venv");
    unless_current(requirements, &servers.join("venv.stamp"), || {
        let _ = fs::remove_dir_all(&venv);
        step::run("creating a Python environment", Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        let mut pip = Command::new(venv.join("bin/pip"));
        pip.args(["install", "--disable-pip-version-check", "--no-input", "--requirement"]).arg(requirements);
        step::run("installing Django Ninja, FastAPI, gunicorn and uvicorn", &mut pip)
    })
}

fn install_node(manifest: &Path, servers: &Path) -> Result<()> {
    let node = servers.join("node");
    unless_current(manifest, &servers.join("node.stamp"), || {
        let _ = fs::remove_dir_all(&node);
        fs::create_dir_all(&node).with_context(|| format!("cannot create {}", node.display()))?;
        fs::copy(manifest, node.join("package.json")).context("cannot copy package.json")?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(&node);
        step::run("installing Express", &mut npm)
    })
}

/// Runs `install` unless it went well before with the same list; the stamp is a copy of that list.
fn unless_current(list: &Path, stamp: &Path, install: impl FnOnce() -> Result<()>) -> Result<()> {
    let wanted = fs::read_to_string(list).with_context(|| format!("cannot read {}", list.display()))?;
    if fs::read_to_string(stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    let _ = fs::remove_file(stamp);
    install()?;
    fs::write(stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))
}
