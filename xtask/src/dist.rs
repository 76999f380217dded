//! `cargo xtask dist`: what is given to others. The program, packages for Debian and for RPM, and the file tree of a
//! container's image, all of it below `target/dist`, and the same to the byte wherever and whenever it is built from the
//! same source by the same compilers.

mod debian;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::{packages, setup, step, workspace};

#[derive(clap::Args)]
pub struct Args {
    /// Build everything a second time, elsewhere, and compare
    #[arg(long, conflicts_with = "program")]
    twice: bool,
    /// Package this program, which is built already
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Install the package on a Debian under systemd, in QEMU, and use it there (needs root)
    #[arg(long)]
    verify: bool,
}

/// The oldest glibc that the program is to run with: that of Debian 12, Ubuntu 22.04 and RHEL 9.
const GLIBC: (u32, u32) = (2, 34);

/// Who answers for the Debian package, which must have an address (Debian Policy 5.6.2). The project has none, so it is
/// one that cannot be anybody's: `.invalid` is no domain (RFC 6761 section 6.4). Whoever gives packages to others puts in
/// their own.
const MAINTAINER: &str = "The apitally-agent authors <apitally-agent@example.invalid>";

/// Cargo's subcommands that write packages, and their versions.
const TOOLS: [(&str, &str, &[&str]); 2] =
    [("cargo-deb", "3.8.0", &["--no-default-features"]), ("cargo-generate-rpm", "0.21.1", &[])];

/// # Errors
/// When something cannot be installed or built, packages are not as they should be, or two builds differ.
pub fn run(args: &Args) -> Result<()> {
    let program = match &args.program {
        Some(program) => program.clone(),
        None => build("build")?,
    };
    let epoch = source_date()?;
    let made = pack(&program, &epoch)?;
    if args.twice {
        let first = made.iter().map(fs::read).collect::<Result<Vec<_>, _>>()?;
        for (file, first) in pack(&build("build-again")?, &epoch)?.iter().zip(first) {
            ensure!(fs::read(file)? == first, "two builds of {} differ", file.display());
        }
        println!("both builds are the same, to the byte");
    }
    check(&made)?;
    if args.verify {
        // The same program, as the version after it.
        let (newer_deb, newer_rpm) = (dir().join("newer.deb"), dir().join("newer.rpm"));
        make_deb(&newer_deb, &["--deb-revision", "2"], &epoch)?;
        make_rpm(&newer_rpm, &["--set-metadata", "release = \"2\""], &epoch)?;
        debian::verify(&[&made[0], &newer_deb, &made[1], &newer_rpm])?;
    }
    let mut sums = Command::new("sha256sum");
    sums.current_dir(dir()).args(made.iter().filter_map(|file| file.file_name()));
    let status = sums.status().context("cannot start sha256sum")?;
    ensure!(status.success(), "sha256sum ended with {status}");
    Ok(())
}

/// Makes the packages of a program that is built already, and looks whether they are as they should be; for tests.
///
/// # Errors
/// As [`run`].
pub fn rehearse(program: &Path) -> Result<()> {
    check(&pack(program, &source_date()?)?)
}

/// Everything that is made lies here, whatever cargo's target directory is: the packages' metadata has the path.
fn dir() -> PathBuf {
    workspace::root().join("target/dist")
}

/// Builds the program in a directory of its own, without a trace of where.
fn build(name: &str) -> Result<PathBuf> {
    setup::run()?;
    let target = dir().join(name);
    let mut flags = vec![format!("--remap-path-prefix={}=.", workspace::root().display())];
    if let Some(home) = cargo_home() {
        flags.push(format!("--remap-path-prefix={}=cargo", home.display()));
    }
    let mut cargo = workspace::cargo();
    cargo.args([
        "build",
        "--locked",
        "--profile=dist",
        "--package=agent",
        "--bin=apitally-agent",
        "--target-dir",
    ]);
    cargo.arg(&target).env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}")).env_remove("RUSTFLAGS");
    step::run(&format!("building what is given to others, in {name}"), &mut cargo)?;
    Ok(target.join("dist/apitally-agent"))
}

fn cargo_home() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))
}

/// Writes the packages and the image's tree: the Debian package, the RPM, the tree.
fn pack(program: &Path, epoch: &str) -> Result<Vec<PathBuf>> {
    bring_tools()?;
    let stage = stage(program, epoch)?;
    let (deb, rpm, image) =
        (dir().join("apitally-agent.deb"), dir().join("apitally-agent.rpm"), dir().join("image.tar"));
    make_deb(&deb, &[], epoch)?;
    make_rpm(&rpm, &[], epoch)?;
    tree::write(&stage.join("apitally-agent"), epoch, &image)?;
    Ok(vec![deb, rpm, image])
}

fn make_deb(deb: &Path, options: &[&str], epoch: &str) -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args([
        "deb",
        "--package=agent",
        "--no-build",
        "--no-strip",
        "--maintainer",
        MAINTAINER,
        "--output",
    ]);
    cargo.arg(deb).args(options);
    step::run("making the Debian package", cargo.env("SOURCE_DATE_EPOCH", epoch))
}

fn make_rpm(rpm: &Path, options: &[&str], epoch: &str) -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(["generate-rpm", "--package=agent", "--auto-req=no", "--output"]).arg(rpm).args(options);
    step::run("making the RPM", cargo.env("SOURCE_DATE_EPOCH", epoch))
}

fn bring_tools() -> Result<()> {
    let missing: Vec<&str> = [("binutils", "strip"), ("rpm", "rpm"), ("lintian", "lintian")]
        .into_iter()
        .filter(|(_, program)| workspace::on_path(program).is_none())
        .map(|(package, _)| package)
        .collect();
    if !missing.is_empty() {
        packages::install(&missing)?;
    }
    let bin = cargo_home().map(|home| home.join("bin"));
    for (tool, version, features) in TOOLS {
        let is_there =
            workspace::on_path(tool).is_some() || bin.as_ref().is_some_and(|bin| bin.join(tool).is_file());
        if !is_there {
            let mut cargo = workspace::cargo();
            cargo.args(["install", tool, "--version", version, "--locked"]).args(features);
            step::run(&format!("installing {tool}"), &mut cargo)?;
        }
    }
    Ok(())
}

/// When the source was made, seconds since 1970: whoever packages says so, else the last commit does.
fn source_date() -> Result<String> {
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(epoch);
    }
    let epoch =
        output(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(workspace::root()));
    Ok(epoch.context("set SOURCE_DATE_EPOCH where there is no git")?.trim().to_owned())
}

/// Puts together what the packages' metadata names.
fn stage(program: &Path, epoch: &str) -> Result<PathBuf> {
    let stage = dir().join("stage");
    let _ = fs::remove_dir_all(&stage);
    fs::create_dir_all(&stage).with_context(|| format!("cannot create {}", stage.display()))?;
    let staged = stage.join("apitally-agent");
    let mut strip = Command::new("strip");
    step::run("leaving out lines of code", strip.args(["--strip-debug", "-o"]).arg(&staged).arg(program))?;
    check_program(&staged)?;
    let write = |name: &str, text: &str| {
        fs::write(stage.join(name), text).with_context(|| format!("cannot write {name}"))
    };
    let page = output(Command::new(&staged).arg("man"))?;
    write("apitally-agent.1", &page)?;
    for shell in ["bash", "fish", "zsh"] {
        let script = output(Command::new(&staged).args(["completions", shell]))?;
        write(&format!("apitally-agent.{shell}"), &script)?;
    }
    let date = output(Command::new("date").args(["--utc", "--rfc-email", "--date", &format!("@{epoch}")]))?;
    let version = env!("CARGO_PKG_VERSION");
    write(
        "changelog",
        &format!(
            "apitally-agent ({version}-1) stable; urgency=medium\n\n  * Packaged from the source of that version.\n\n \
             -- {MAINTAINER}  {date}"
        ),
    )?;
    let mut gzip = Command::new("gzip");
    step::run(
        "compressing the manual page",
        gzip.args(["-9", "-n", "-k", "apitally-agent.1"]).current_dir(&stage),
    )?;
    Ok(stage)
}

/// What a program gives away, and what it asks for.
fn check_program(program: &Path) -> Result<()> {
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let needs = glibc_of(&bytes);
    ensure!(
        needs <= Some(GLIBC),
        "the program needs glibc {needs:?}, the packages say {GLIBC:?}: build on an older system, or say so in \
         agent/Cargo.toml"
    );
    Ok(())
}

/// The newest `GLIBC_` version that a program names.
fn glibc_of(program: &[u8]) -> Option<(u32, u32)> {
    const NAME: &[u8] = b"GLIBC_";
    let names = program.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME);
    let versions = names.filter_map(|(at, _)| {
        let rest = program.get(at + NAME.len()..)?;
        let length = rest.iter().position(|byte| !byte.is_ascii_digit() && *byte != b'.')?;
        let (major, minor) = str::from_utf8(rest.get(..length)?).ok()?.split_once('.')?;
        Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
    });
    versions.max()
}

/// Whether packages are what they should be: by what is in them, and by those who judge such things.
fn check(made: &[PathBuf]) -> Result<()> {
    let [deb, rpm, _] = made else { bail!("there are three of them") };
    let unit = workspace::root().join("deploy/systemd/apitally-agent.service");
    let deb_files = output(Command::new("dpkg-deb").arg("--contents").arg(deb))?;
    let rpm_files = output(Command::new("rpm").args(["-qp", "--list"]).arg(rpm))?;
    for file in [
        "usr/bin/apitally-agent",
        "usr/lib/systemd/system/apitally-agent.service",
        "etc/apitally-agent/agent.toml",
        "usr/share/man/man1/apitally-agent.1.gz",
        "usr/share/bash-completion/completions/apitally-agent",
        "usr/share/fish/vendor_completions.d/apitally-agent.fish",
        "usr/share/doc/apitally-agent/agent.toml",
        "usr/share/doc/apitally-agent/configuration.md",
    ] {
        // Debian's path of units is lib/systemd, behind which usr/lib lies.
        let has = |list: &str| list.lines().any(|line| line.ends_with(file.trim_start_matches("usr/")));
        ensure!(has(&deb_files), "{file} is not in the Debian package:\n{deb_files}");
        ensure!(has(&rpm_files), "{file} is not in the RPM:\n{rpm_files}");
    }
    let conffiles = output(Command::new("dpkg-deb").args(["--info"]).arg(deb).arg("conffiles"))?;
    ensure!(conffiles.trim() == "/etc/apitally-agent/agent.toml", "conffiles are {conffiles:?}");
    ensure!(
        deb_files.lines().any(|line| line.starts_with("-rw------- ") && line.ends_with("agent.toml")),
        "others may read the configuration:\n{deb_files}"
    );
    let mut lintian = Command::new("lintian");
    lintian.args(["--no-cfg", "--fail-on", "error,warning", "--allow-root", "--tag-display-limit", "0"]);
    step::run("lintian", lintian.arg(deb))?;
    check_unit(&unit)
}

/// Exposure in hundredths that `systemd-analyze security` may find at most; of 1000.
const EXPOSURE: u32 = 30;

/// systemd's own judgement, where it is installed.
fn check_unit(unit: &Path) -> Result<()> {
    if workspace::on_path("systemd-analyze").is_none() {
        packages::install(&["systemd"])?;
    }
    // It wants the program to be where the unit says.
    let staged = dir().join("stage/apitally-agent");
    let text = fs::read_to_string(unit).with_context(|| format!("cannot read {}", unit.display()))?;
    let copy = dir().join("stage/apitally-agent.service");
    let text = text.replace("/usr/bin/apitally-agent", &staged.to_string_lossy());
    // There is no manual page of a program that is not installed.
    let text = text.replace("Documentation=man:apitally-agent(1)\n", "");
    fs::write(&copy, text).with_context(|| format!("cannot write {}", copy.display()))?;
    step::run("systemd-analyze verify", Command::new("systemd-analyze").arg("verify").arg(&copy))?;
    let mut security = Command::new("systemd-analyze");
    security
        .args(["security", "--offline=true", "--no-pager", &format!("--threshold={EXPOSURE}")])
        .arg(&copy);
    let mut score = String::new();
    step::run_watching("systemd-analyze security", &mut security, |line| {
        if line.contains("Overall exposure level") {
            score = line.trim().to_owned();
        }
    })?;
    println!("{score}");
    Ok(())
}

/// What a command prints.
fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot start {command:?}"))?;
    ensure!(output.status.success(), "{command:?} ended with {}", output.status);
    String::from_utf8(output.stdout).with_context(|| format!("{command:?} does not print text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_version_of_glibc_counts() {
        assert_eq!(glibc_of(b"x\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.4\0GLIBC_PRIVATE\0"), Some((2, 34)));
        assert_eq!(glibc_of(b"no names"), None);
    }
}
