//! `cargo xtask test`: everything that must hold before a commit. Ends in one line: `N passed, M failed`.
//! A kernel in QEMU counts as one test, and so do a fuzz target, and the packages.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::e2e::{self, Outcome};
use crate::kernels::Series;
use crate::{dist, ebpf_toolchain, fuzz, servers, setup, step, workspace};

/// # Errors
/// When we are not root, something cannot be installed, or anything does not hold. All tests run all the same.
pub fn run() -> Result<()> {
    workspace::require_root("test", "since the end-to-end tests load eBPF programs")?;
    let toolchain = setup::run()?;
    setup::bring_ebpf_clippy(&toolchain)?;
    servers::install()?;

    let ebpf_manifest = workspace::ebpf_manifest();
    step::run("formatting", workspace::cargo().args(["fmt", "--all", "--check", "--", "--color=never"]))?;
    step::run(
        "formatting of the eBPF programs",
        workspace::cargo()
            .args(["fmt", "--check", "--manifest-path"])
            .arg(&ebpf_manifest)
            .args(["--", "--color=never"]),
    )?;
    let ebpf_target = ebpf_toolchain::target_dir(&workspace::target_dir());
    let mut ebpf_clippy =
        toolchain.clippy(&ebpf_manifest, &ebpf_target).context("clippy was installed just now")?;
    step::run("clippy of the eBPF programs", &mut ebpf_clippy)?;
    step::run(
        "clippy",
        workspace::cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    )?;
    check_dependencies()?;

    step::run(
        "building the agent",
        workspace::cargo().args(["build", "--package=agent", "--bin=apitally-agent"]),
    )?;
    step::run("building the tests", workspace::cargo().args(["test", "--workspace", "--no-run"]))?;
    let mut tests = run_tests()?;
    run_on_kernels(&mut tests);
    rehearse_packages(&mut tests);
    tests.add(&fuzz::short()?);
    if tests.ignored > 0 {
        println!("\n{} ignored: a test that does not run proves nothing, so none may be", tests.ignored);
    }
    println!("\n{} passed, {} failed", tests.passed, tests.failed);
    if tests.ok && tests.failed == 0 && tests.ignored == 0 && tests.passed > 0 {
        return Ok(());
    }
    bail!("not all tests passed")
}

/// Licences, bans and sources. cargo-deny takes minutes to build, so it is used where it is and not brought.
fn check_dependencies() -> Result<()> {
    if workspace::on_path("cargo-deny").is_none() {
        println!(
            "licences of dependencies: not checked, `cargo install cargo-deny --locked` brings the checker"
        );
        return Ok(());
    }
    step::run(
        "licences of dependencies",
        workspace::cargo().args(["deny", "--offline", "check", "licenses", "bans", "sources"]),
    )
}

/// What all test binaries, or another step, said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tests {
    pub passed: u64,
    pub failed: u64,
    pub ignored: u64,
    /// Whether cargo itself ended well: a binary that crashed has no last line to count.
    pub ok: bool,
}

/// Runs all tests, showing what they print and counting along.
fn run_tests() -> Result<Tests> {
    let agent = workspace::target_dir().join("debug/apitally-agent");
    let mut child = workspace::cargo()
        .args(["test", "--workspace", "--no-fail-fast"])
        .env("APITALLY_AGENT_BIN", agent)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the tests")?;
    let stdout = child.stdout.take().expect("it was asked for");
    let mut tests = Tests::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("cannot read what the tests print")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        tests.count(&line);
    }
    tests.ok = child.wait().context("cannot wait for the tests")?.success();
    Ok(tests)
}

/// Runs the agent on the oldest and the newest kernel there is; each counts as one test.
fn run_on_kernels(tests: &mut Tests) {
    let kernels = [Series::OLDEST, Series::NEWEST];
    println!();
    let exact = match e2e::run_on(&kernels) {
        Ok(outcomes) => outcomes.iter().filter(|outcome| Outcome::is_exact(outcome)).count(),
        Err(error) => {
            eprintln!("error: {error:#}");
            0
        }
    };
    tests.passed += exact as u64;
    tests.failed += (kernels.len() - exact) as u64;
}

/// Makes the packages of the agent that was tested; counts as one test.
fn rehearse_packages(tests: &mut Tests) {
    println!();
    match dist::rehearse(&workspace::target_dir().join("debug/apitally-agent")) {
        Ok(()) => tests.passed += 1,
        Err(error) => {
            eprintln!("error: {error:#}");
            tests.failed += 1;
        }
    }
}

impl Tests {
    /// Adds what another step said.
    fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.ok &= other.ok;
    }

    /// Adds the counts of a line like `test result: ok. 12 passed; 0 failed; 0 ignored; ...`; others say nothing.
    fn count(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            let Some((number, what)) = count.trim().split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Tests;

    #[test]
    fn counts_of_all_binaries_add_up() {
        let mut tests = Tests::default();
        for line in [
            "running 3 tests",
            "test passed ... ok",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 10 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1.20s",
            "what a test printed: 5 passed; 5 failed",
        ] {
            tests.count(line);
        }
        assert_eq!(tests, Tests { passed: 13, failed: 2, ignored: 1, ok: false });
    }
}
