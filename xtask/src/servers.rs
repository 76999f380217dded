//! The real servers that the end-to-end tests watch, and the Prometheus that scrapes the agent: from Debian; Python's and Node's in `target/servers`, in the
//! versions that `tests/e2e/apps` pins; and those that are compiled from there.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::{cluster, packages, step, workspace};

/// A package of Debian's, and a file that is there when it is installed.
const PACKAGES: [(&str, &str); 16] = [
    ("apache2-bin", "/usr/sbin/apache2"),
    ("caddy", "/usr/bin/caddy"),
    ("etcd-server", "/usr/bin/etcd"),
    ("haproxy", "/usr/sbin/haproxy"),
    ("libapache2-mod-php8.2", "/usr/lib/apache2/modules/libphp8.2.so"),
    ("libjakarta-annotation-api-java", "/usr/share/java/jakarta-annotation-api.jar"),
    ("libtomcat10-embed-java", "/usr/share/java/tomcat10-embed-core.jar"),
    ("nginx-light", "/usr/sbin/nginx"),
    ("php-cli", "/usr/bin/php"),
    ("prometheus", "/usr/bin/promtool"),
    ("puma", "/usr/bin/puma"),
    ("uwsgi-core", "/usr/bin/uwsgi"),
    ("uwsgi-plugin-python3", "/usr/lib/uwsgi/plugins/python3_plugin.so"),
    ("default-jdk-headless", "/usr/bin/javac"),
    ("golang-go", "/usr/bin/go"),
    ("golang-github-modern-go-reflect2-dev", cluster::REFLECT2),
];

/// Packages of programs that developers may have from elsewhere, and the program.
const PROGRAMS: [(&str, &str); 4] =
    [("curl", "curl"), ("nodejs", "node"), ("npm", "npm"), ("strace", "strace")];

/// Packages that bring a service: it is not to run, now or after the next boot.
const SERVICES: [(&str, &str); 5] = [
    ("caddy", "caddy"),
    ("etcd-server", "etcd"),
    ("haproxy", "haproxy"),
    ("nginx-light", "nginx"),
    ("prometheus", "prometheus"),
];

const TOMCAT: &str = "/usr/share/java/tomcat10-embed-core.jar";

/// Brings what is missing; a few milliseconds when nothing is.
///
/// # Errors
/// When something cannot be installed here: names it, and the command that brings it.
pub fn install() -> Result<()> {
    let missing = missing_packages();
    if !missing.is_empty() {
        install_without_services(&missing)?;
    }
    let apps = workspace::root().join("tests/e2e/apps");
    let servers = workspace::servers_dir();
    fs::create_dir_all(&servers).with_context(|| format!("cannot create {}", servers.display()))?;
    install_python(&apps.join("requirements.txt"), &servers, "venv")?;
    install_node(&apps.join("package.json"), &servers, "node")?;
    // Two versions of a client do not fit into one environment.
    install_python(&apps.join("official/requirements-0.25.txt"), &servers, "official-0.25")?;
    install_python(&apps.join("official/requirements-1.0.txt"), &servers, "official-1.0")?;
    install_node(&apps.join("official/package.json"), &servers, "official-node")?;
    install_python(&apps.join("kubernetes/requirements.txt"), &servers, "kubernetes")?;
    compile_go(&apps.join("net_http.go"), &servers)?;
    compile_java(&apps.join("java"), &servers)?;
    cluster::compile_api_server(&servers)
}

fn missing_packages() -> Vec<&'static str> {
    let files = PACKAGES.iter().filter(|(_, file)| !Path::new(file).exists());
    let programs = PROGRAMS.iter().filter(|(_, program)| workspace::on_path(program).is_none());
    let mut missing: Vec<_> = files.chain(programs).map(|(package, _)| *package).collect();
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

fn install_without_services(missing: &[&str]) -> Result<()> {
    let refusal = Refusal::of_all_services()?;
    packages::install(missing)?;
    drop(refusal);
    let services = SERVICES.iter().filter(|(package, _)| missing.contains(package));
    let services: Vec<_> = services.map(|(_, service)| *service).collect();
    if !services.is_empty() && workspace::on_path("systemctl").is_some() {
        step::run("disabling their services", Command::new("systemctl").arg("disable").args(services))?;
    }
    Ok(())
}

/// Debian asks a file, if there is one, before it starts a service that a package brings. Ours is there as long as
/// this is.
struct Refusal(Option<PathBuf>);

impl Refusal {
    fn of_all_services() -> Result<Self> {
        let path = PathBuf::from("/usr/sbin/policy-rc.d");
        let file = OpenOptions::new().write(true).create_new(true).mode(0o755).open(&path);
        match file {
            Ok(mut file) => {
                let refusal = Self(Some(path));
                file.write_all(b"#!/bin/sh\nexit 101\n").context("cannot write policy-rc.d")?;
                Ok(refusal)
            }
            // Whoever has one has decided already; without the right to write one nothing can be installed either.
            Err(_) => Ok(Self(None)),
        }
    }
}

impl Drop for Refusal {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

/// Brings a Python environment `name` with what the file lists, dependencies included.
fn install_python(requirements: &Path, servers: &Path, name: &str) -> Result<()> {
    let venv = servers.join(name);
    unless_current(&[requirements], &servers.join(format!("{name}.stamp")), || {
        let _ = fs::remove_dir_all(&venv);
        step::run("creating a Python environment", Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        let mut pip = Command::new(venv.join("bin/pip"));
        pip.args(["install", "--disable-pip-version-check", "--no-input", "--no-deps", "--requirement"]);
        step::run(&format!("installing packages of Python into {name}"), pip.arg(requirements))
    })
}

/// Brings a directory `name` with what the manifest names and all that it needs.
fn install_node(manifest: &Path, servers: &Path, name: &str) -> Result<()> {
    let node = servers.join(name);
    unless_current(&[manifest], &servers.join(format!("{name}.stamp")), || {
        let _ = fs::remove_dir_all(&node);
        fs::create_dir_all(&node).with_context(|| format!("cannot create {}", node.display()))?;
        fs::copy(manifest, node.join("package.json")).context("cannot copy package.json")?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(&node);
        step::run(&format!("installing packages of Node into {name}"), &mut npm)
    })
}

fn compile_go(source: &Path, servers: &Path) -> Result<()> {
    unless_current(&[source], &servers.join("net_http.stamp"), || {
        let mut go = Command::new("go");
        go.arg("build").arg("-o").arg(servers.join("net_http")).arg(source).env("GOTOOLCHAIN", "local");
        step::run("compiling the server in Go", &mut go)
    })
}

fn compile_java(sources: &Path, servers: &Path) -> Result<()> {
    let sources = ["Api.java", "Jdk.java", "Tomcat.java"].map(|file| sources.join(file));
    let sources: Vec<&Path> = sources.iter().map(PathBuf::as_path).collect();
    unless_current(&sources, &servers.join("java.stamp"), || {
        let mut javac = Command::new("javac");
        javac.arg("-Xlint:all").arg("-Werror").arg("-d").arg(servers.join("java")).arg("-cp").arg(TOMCAT);
        step::run("compiling the servers in Java", javac.args(&sources))
    })
}

/// Runs `install` unless it went well before with the same files; the stamp is a copy of them.
fn unless_current(files: &[&Path], stamp: &Path, install: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut wanted = String::new();
    for file in files {
        wanted += &fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    if fs::read_to_string(stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    let _ = fs::remove_file(stamp);
    install()?;
    fs::write(stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))
}
