//! A Kubernetes API server, compiled from Debian's source of Kubernetes with Debian's Go.
//!
//! Nobody gives the program away as a package. Of the releases of Debian this is the one whose source has all that it
//! depends on, which is why it is one of 2021 that is tested against. What the agent asks of it is as old as Kubernetes
//! 1.16: lists by a field, watches with bookmarks, tokens of service accounts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt::{Apt, Archive, lines};
use crate::{step, workspace};

/// As Debian packages it. The one in the source of Kubernetes reaches into a Go that is older than 1.18.
pub const REFLECT2: &str = "/usr/share/gocode/src/github.com/modern-go/reflect2";
const RELEASE: &str = "bookworm";
/// As Go calls it, and where it is below the packages' root.
const PACKAGE: &str = "k8s.io/kubernetes";
/// Kubernetes' own tag for types that are in the description of its API.
const TAG: &str = "+k8s:openapi-gen=";

/// Leaves the program in `servers`, and nothing else.
///
/// # Errors
/// When the source cannot be fetched or compiled.
pub fn compile_api_server(servers: &Path) -> Result<()> {
    let program = servers.join("kube-apiserver");
    if program.exists() {
        return Ok(());
    }
    let dir = workspace::target_dir().join("kubernetes");
    let _ = fs::remove_dir_all(&dir);
    let apt = Apt::new(&dir.join("apt"), Archive::Sources, RELEASE)?;
    step::run("looking for the source of Kubernetes", apt.command("apt-get").arg("update"))?;
    let mut fetch = apt.command("apt-get");
    fetch.args(["source", "--download-only", "kubernetes"]).current_dir(&apt.dir);
    step::run("fetching the source of Kubernetes", &mut fetch)?;
    let source = dir.join("go/src").join(PACKAGE);
    fs::create_dir_all(&source).with_context(|| format!("cannot create {}", source.display()))?;
    let mut unpack = Command::new("tar");
    unpack
        .arg("--extract")
        .arg("--file")
        .arg(archive_in(&apt.dir)?)
        .arg("--strip-components=1")
        .current_dir(&source);
    step::run("unpacking the source of Kubernetes", &mut unpack)?;
    let own = source.join("vendor/github.com/modern-go/reflect2");
    fs::remove_dir_all(&own).with_context(|| format!("cannot remove {}", own.display()))?;
    let mut copy = Command::new("cp");
    step::run("replacing a dependency of Kubernetes", copy.arg("--recursive").arg(REFLECT2).arg(&own))?;
    describe_api(&dir, &source)?;
    let mut build = go(&dir, &source);
    build.args(["build", "-trimpath", "-ldflags=-s -w", "-o"]).arg(dir.join("kube-apiserver"));
    step::run("compiling Kubernetes' API server", build.arg(format!("{PACKAGE}/cmd/kube-apiserver")))?;
    fs::copy(dir.join("kube-apiserver"), &program).context("cannot keep the API server")?;
    fs::remove_dir_all(&dir).context("cannot remove the source of Kubernetes")
}

/// The upstream source, without Debian's changes: those are for the programs that Debian makes of it.
fn archive_in(dir: &Path) -> Result<PathBuf> {
    let files = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let is_source = |path: &PathBuf| path.to_string_lossy().contains(".orig.tar.");
    let found = files.flatten().map(|file| file.path()).find(is_source);
    found.with_context(|| format!("no source in {}", dir.display()))
}

/// The description of the API is no part of the source: it is generated from that.
fn describe_api(dir: &Path, source: &Path) -> Result<()> {
    let generator = dir.join("openapi-gen");
    let mut build = go(dir, source);
    build.args(["build", "-o"]).arg(&generator);
    build.arg(format!("{PACKAGE}/vendor/k8s.io/kube-openapi/cmd/openapi-gen"));
    step::run("compiling Kubernetes' generator", &mut build)?;
    let mut tagged = Command::new("grep");
    tagged.args([
        "--recursive",
        "--files-with-matches",
        "--include=*.go",
        "--exclude=*_test.go",
        "--fixed-strings",
    ]);
    tagged.args(["--exclude-dir=code-generator", "--exclude-dir=sample-apiserver", "--", TAG]);
    let files = lines(tagged.args(["cmd", "pkg", "plugin", "staging/src/k8s.io"]).current_dir(source))?;
    let mut packages: Vec<String> = files
        .iter()
        .filter_map(|file| file.rsplit_once('/'))
        // Packages of a repository of their own are found where dependencies are.
        .map(|(package, _)| format!("{PACKAGE}/{}", package.replace("staging/src/", "vendor/")))
        .collect();
    packages.sort_unstable();
    packages.dedup();
    let mut command = with_go(Command::new(generator), dir, source);
    command.args(["--go-header-file", "hack/boilerplate/boilerplate.generatego.txt"]);
    command.args(["-i", &packages.join(","), "-p", &format!("{PACKAGE}/pkg/generated/openapi")]);
    command.args(["-O", "zz_generated.openapi"]).arg("--output-base").arg(dir.join("go/src"));
    step::run("describing Kubernetes' API", command.arg("-r").arg(dir.join("violations")))
}

fn go(dir: &Path, source: &Path) -> Command {
    with_go(Command::new("go"), dir, source)
}

/// Go as it was when this was written: packages by where they lie, dependencies among them.
fn with_go(mut command: Command, dir: &Path, source: &Path) -> Command {
    command.env("GOPATH", dir.join("go")).env("GOCACHE", dir.join("cache")).current_dir(source);
    command.env("GO111MODULE", "off").env("GOFLAGS", "").env("GOTOOLCHAIN", "local").env("CGO_ENABLED", "0");
    command
}
