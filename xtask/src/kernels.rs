//! Kernels that others run: Debian's for virtual machines, of four of its releases.
//!
//! apt fetches and verifies them. What was fetched once is not fetched again: remove
//! `target/kernels` for newer ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::apt::{Apt, Archive, lines};
use crate::{packages, step, workspace};

/// The newest kernel of each of these releases. `sid` moves on: what was 7.2 becomes what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Series {
    #[value(name = "5.10")]
    Bullseye,
    #[value(name = "6.1")]
    Bookworm,
    #[value(name = "6.12")]
    Trixie,
    #[value(name = "7.2")]
    Sid,
}

impl Series {
    pub const OLDEST: Self = Self::Bullseye;
    pub const NEWEST: Self = Self::Sid;

    /// As on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().expect("none is skipped").get_name().to_owned()
    }

    fn release(self) -> &'static str {
        match self {
            Self::Bullseye => "bullseye",
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        }
    }
}

#[derive(Debug)]
pub struct Kernel {
    pub series: Series,
    /// Version of the Debian package that it is from.
    pub version: String,
    pub image: PathBuf,
}

/// Depends on the release's newest kernel, whatever its name is.
const METAPACKAGE: &str = "linux-image-cloud-amd64";
/// From Linux 7 on the image is in a package of its own.
const IMAGE_PACKAGES: [&str; 2] = ["linux-image-", "linux-binary-"];

/// Fetches the kernel unless that was done before.
///
/// # Errors
/// When apt cannot fetch it: says what it was after.
pub fn fetch(series: Series) -> Result<Kernel> {
    let dir = workspace::target_dir().join("kernels").join(series.name());
    let (image, stamp) = (dir.join("vmlinuz"), dir.join("version"));
    if let Ok(version) = fs::read_to_string(&stamp) {
        return Ok(Kernel { series, version, image });
    }
    let _ = fs::remove_dir_all(&dir);
    let version = download(series, &dir, &image).with_context(|| {
        format!("Linux {} of Debian {} cannot be fetched", series.name(), series.release())
    })?;
    fs::write(&stamp, &version).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(Kernel { series, version, image })
}

/// Leaves nothing in `dir` but the image, and answers with the version of its package.
fn download(series: Series, dir: &Path, image: &Path) -> Result<String> {
    if !packages::is_debian() {
        bail!("there is no apt-get here: run this on Debian, or leave `--kernel {}` out", series.name());
    }
    let apt = Apt::new(&dir.join("apt"), Archive::Packages, series.release())?;
    let what = |doing: &str| format!("{doing} Linux {}", series.name());
    step::run(&what("looking for"), apt.command("apt-get").arg("update"))?;
    let names = image_packages(&apt)?;
    step::run(&what("fetching"), apt.command("apt-get").arg("download").args(&names).current_dir(&apt.dir))?;
    for archive in files_in(&apt.dir)?.iter().filter(|file| file.extension().is_some_and(|ext| ext == "deb"))
    {
        let unpacked = apt.dir.join("unpacked");
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("--extract").arg(archive).arg(&unpacked);
        step::run(&what("unpacking"), &mut unpack)?;
        if let Some(found) = find_image(&unpacked)? {
            fs::rename(&found, image).context("cannot move the image")?;
            let version = version_of(archive)?;
            fs::remove_dir_all(&apt.dir).context("cannot remove what was unpacked")?;
            return Ok(version);
        }
    }
    bail!("none of its packages holds an image: {}", names.join(", "))
}

fn version_of(archive: &Path) -> Result<String> {
    let fields = lines(Command::new("dpkg-deb").arg("--field").arg(archive).arg("Version"))?;
    fields.into_iter().next().with_context(|| format!("{} has no version", archive.display()))
}

/// `boot/vmlinuz-VERSION`, from Linux 7 on `usr/lib/modules/VERSION/vmlinuz`.
fn find_image(unpacked: &Path) -> Result<Option<PathBuf>> {
    let mut candidates = files_in(&unpacked.join("boot")).unwrap_or_default();
    for modules in files_in(&unpacked.join("usr/lib/modules")).unwrap_or_default() {
        candidates.push(modules.join("vmlinuz"));
    }
    let is_image = |file: &PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("vmlinuz") && file.is_file()
    };
    Ok(candidates.into_iter().find(is_image))
}

fn files_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// What the metapackage depends on, as far as it may hold the image.
fn image_packages(apt: &Apt) -> Result<Vec<String>> {
    let mut names = vec![METAPACKAGE.to_owned()];
    let mut looked_at = 0;
    while let Some(name) = names.get(looked_at) {
        let depends = lines(apt.command("apt-cache").args(["depends", "--important", name]))?;
        for name in depends.iter().filter_map(|line| line.trim().strip_prefix("Depends: ")) {
            let may_hold_it = IMAGE_PACKAGES.iter().any(|prefix| name.starts_with(prefix));
            if may_hold_it && !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        looked_at += 1;
    }
    names.remove(0);
    if names.is_empty() {
        bail!("{METAPACKAGE} depends on no kernel");
    }
    Ok(names)
}
