//! apt for another release of Debian than this machine's, or for sources, with state of its own. This machine's lists
//! are only asked where Debian's packages come from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::packages;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// For machines that are told nothing else.
const DEBIAN: &str = "http://deb.debian.org/debian";

/// What is fetched.
#[derive(Clone, Copy, Debug)]
pub enum Archive {
    Packages,
    Sources,
}

/// apt for one release of Debian, with all its state in one directory.
pub struct Apt {
    pub dir: PathBuf,
}

impl Apt {
    /// # Errors
    /// When the directory cannot be written to, or Debian's keys cannot be had.
    pub fn new(dir: &Path, archive: Archive, release: &str) -> Result<Self> {
        if !Path::new(KEYRING).exists() {
            packages::install(&["debian-archive-keyring"])?;
        }
        for name in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(dir.join(name)).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        let kind = match archive {
            Archive::Packages => "deb",
            Archive::Sources => "deb-src",
        };
        let sources = format!("{kind} [signed-by={KEYRING}] {} {release} main\n", debian());
        for (name, text) in [("sources.list", sources.as_str()), ("status", "")] {
            fs::write(dir.join(name), text).with_context(|| format!("cannot write to {}", dir.display()))?;
        }
        Ok(Self { dir: dir.to_owned() })
    }

    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let options = [
            ("Dir::Etc::SourceList", "sources.list"),
            ("Dir::Etc::SourceParts", "none"),
            ("Dir::Etc::Preferences", "none"),
            ("Dir::Etc::PreferencesParts", "none"),
            ("Dir::State", "state"),
            ("Dir::State::Status", "status"),
            ("Dir::Cache", "cache"),
        ];
        for (option, file) in options {
            command.arg("-o").arg(format!("{option}={}", self.dir.join(file).display()));
        }
        // The user that apt drops to cannot write below target/.
        command.args(["-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none", "-q"]);
        command.args(["-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"]);
        command
    }
}

/// Where this machine gets Debian's packages from.
pub fn debian() -> String {
    let configured = lines(Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI)"]).args([
        "Created-By: Packages",
        "Origin: Debian",
        "Label: Debian",
        "Component: main",
    ]));
    let first = configured.unwrap_or_default().into_iter().next();
    first.map_or_else(|| DEBIAN.to_owned(), |uri| uri.trim_end_matches('/').to_owned())
}

/// What a command prints.
///
/// # Errors
/// When it does not end well.
pub fn lines(command: &mut Command) -> Result<Vec<String>> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}
