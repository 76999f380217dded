//! The file tree of a container's image: the program, the libraries that it loads, and how names of hosts are looked up.
//! There is nothing else in it, no shell either.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::initramfs::libraries_of;
use crate::{step, workspace};

/// Writes the tree as an archive in which nothing depends on who made it, or when.
///
/// # Errors
/// When a file cannot be read or written.
pub fn write(program: &Path, epoch: &str, archive: &Path) -> Result<()> {
    let root = super::dir().join("image");
    let _ = fs::remove_dir_all(&root);
    copy(program, &root.join("usr/bin/apitally-agent"))?;
    for library in libraries_of(program)? {
        copy(Path::new(&library), &root.join(library.trim_start_matches('/')))?;
    }
    for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
        let to = root.join("usr/share/doc/apitally-agent").join(licence);
        copy(&workspace::root().join(licence), &to)?;
    }
    fs::create_dir_all(root.join("etc")).context("cannot create etc")?;
    fs::write(root.join("etc/nsswitch.conf"), "hosts: files dns\n").context("cannot write nsswitch.conf")?;
    let mut tar = Command::new("tar");
    tar.args(["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mode=u+w,go-w"]);
    tar.args(["--format=gnu", &format!("--mtime=@{epoch}"), "--directory"])
        .arg(&root)
        .arg("--file")
        .arg(archive);
    step::run("making the image's tree", tar.arg("."))
}

/// Copies what a link leads to.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("a file lies in a folder")?)
        .and_then(|()| fs::copy(from, to).map(drop))
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}
