//! A Debian under systemd, in a virtual machine: the package is installed there, used as an administrator would use it,
//! upgraded and purged. `debian/verify.sh` says how.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::kernels::{self, Series};
use crate::{apt, packages, qemu, step, workspace};

/// The release that the packages are made for, and its kernel.
const RELEASE: &str = "bookworm";
const KERNEL: Series = Series::Bookworm;
/// Beyond what every Debian has: an app and its client, and who installs packages of the other kind.
const PACKAGES: &str = "systemd-sysv,python3,procps,rpm";

/// What is put into the machine.
const FILES: [(&str, &str); 4] = [
    ("verify/verify.sh", include_str!("debian/verify.sh")),
    ("verify/app.py", include_str!("debian/app.py")),
    ("etc/systemd/system/verify.service", include_str!("debian/verify.service")),
    ("etc/systemd/system/app.service", include_str!("debian/app.service")),
];

/// Services that would wait for a terminal which nobody sits at.
const MASKED: [&str; 2] = ["serial-getty@.service", "getty@.service"];

/// Its last line when all went well.
const VERIFIED: &str = "verified";
const SHOWN: usize = 60;

/// `made`: a Debian package and an RPM, and the next version of each, named as in the script.
///
/// # Errors
/// When something cannot be installed or fetched, or did not go in the machine as it should.
pub fn verify(made: &[&Path]) -> Result<()> {
    workspace::require_root("dist --verify", "since a Debian is unpacked as root has it")?;
    qemu::install()?;
    let missing: Vec<&str> =
        ["mmdebstrap", "cpio"].into_iter().filter(|program| workspace::on_path(program).is_none()).collect();
    if !missing.is_empty() {
        packages::install(&missing)?;
    }
    let kernel = kernels::fetch(KERNEL)?;
    let root = unpack()?;
    for (path, text) in FILES {
        let path = root.join(path);
        fs::create_dir_all(path.parent().context("a file lies in a folder")?)
            .and_then(|()| fs::write(&path, text))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    for package in made {
        let name = package.file_name().context("a package is a file")?;
        fs::copy(package, root.join("verify").join(name))
            .with_context(|| format!("cannot copy {}", package.display()))?;
    }
    let archive = pack(&root)?;
    let what = "a Debian under systemd, in QEMU";
    let console = qemu::boot(what, &kernel.image, &archive)?;
    for line in console.iter().filter(|line| line.starts_with("verify: ")) {
        println!("  {line}");
    }
    if console.iter().any(|line| line == VERIFIED) {
        return Ok(());
    }
    for line in &console[console.len().saturating_sub(SHOWN)..] {
        eprintln!("    {line}");
    }
    bail!(
        "the package does not do what it should; all that was said is in {}",
        step::log_path(what).display()
    )
}

/// A small Debian, unpacked anew each time from what was fetched once.
fn unpack() -> Result<PathBuf> {
    let dir = super::dir().join("debian");
    let (archive, root) = (dir.join("root.tar"), dir.join("root"));
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    if !archive.exists() {
        let partial = dir.join("partial.tar");
        let mut bootstrap = Command::new("mmdebstrap");
        bootstrap.args(["--variant=minbase", &format!("--include={PACKAGES}")]);
        for path in ["doc", "locale", "man"] {
            bootstrap.arg(format!("--dpkgopt=path-exclude=/usr/share/{path}/*"));
        }
        bootstrap.arg(RELEASE).arg(&partial).arg(apt::debian());
        step::run(&format!("fetching Debian {RELEASE}"), &mut bootstrap)?;
        fs::rename(&partial, &archive).context("cannot keep what was fetched")?;
    }
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--numeric-owner", "--exclude=./dev/*", "--file"])
        .arg(&archive)
        .arg("--directory");
    step::run("unpacking Debian", tar.arg(&root))?;
    let units = root.join("etc/systemd/system");
    let wanted = units.join("multi-user.target.wants");
    fs::create_dir_all(&wanted).with_context(|| format!("cannot create {}", wanted.display()))?;
    let links = MASKED.map(|unit| ("/dev/null", units.join(unit)));
    let own = [
        ("/etc/systemd/system/verify.service", wanted.join("verify.service")),
        ("/lib/systemd/systemd", root.join("init")),
    ];
    for (to, link) in links.into_iter().chain(own) {
        symlink(to, &link).with_context(|| format!("cannot write {}", link.display()))?;
    }
    Ok(root)
}

/// All of it as what the kernel starts with: a machine without disks needs no drivers for any.
fn pack(root: &Path) -> Result<PathBuf> {
    let archive = super::dir().join("debian/initramfs");
    let mut cpio = Command::new("sh");
    cpio.args(["-c", "find . | cpio --quiet -o -H newc -R 0:0 > \"$1\"", "sh"])
        .arg(&archive)
        .current_dir(root);
    step::run("packing Debian", &mut cpio)?;
    Ok(archive)
}
