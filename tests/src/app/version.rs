//! Which version of a server is tested.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::{installed, workspace};

/// Where a version is said.
#[derive(Clone, Copy, Debug)]
pub(super) enum Said {
    /// By a command: the first number with a dot in what it prints.
    By(&'static [&'static str]),
    /// By a package in our Python environment.
    ByPython(&'static str),
    /// By a package that npm installed.
    ByNpm(&'static str),
    /// By the workspace's lock file, of a crate.
    ByCargo(&'static str),
}

impl Said {
    /// # Panics
    /// When it is not said there.
    pub(super) fn version(self) -> String {
        match self {
            Self::By(words) => first_number(&printed(words)),
            Self::ByPython(package) => {
                let code = format!("from importlib.metadata import version; print(version({package:?}))");
                let python = installed("venv/bin/python");
                printed(&[&python.to_string_lossy(), "-c", &code]).trim().to_owned()
            }
            Self::ByNpm(package) => {
                let manifest = installed(&format!("node/node_modules/{package}/package.json"));
                let manifest = fs::read_to_string(manifest).expect("npm wrote it");
                let manifest: Value = serde_json::from_str(&manifest).expect("a manifest is JSON");
                manifest["version"].as_str().expect("a package has a version").to_owned()
            }
            Self::ByCargo(package) => {
                let lock = fs::read_to_string(workspace().join("Cargo.lock")).expect("it is in the tree");
                let name = format!("name = \"{package}\"\nversion = \"");
                let version = lock.split_once(&name).and_then(|(_, rest)| rest.split('"').next());
                version.unwrap_or_else(|| panic!("{package} is not in Cargo.lock")).to_owned()
            }
        }
    }
}

/// On either stream: programs do not agree on where a version goes.
fn printed(words: &[&str]) -> String {
    let output = Command::new(words[0]).args(&words[1..]).output();
    let output =
        output.unwrap_or_else(|error| panic!("{}: {error}; `cargo xtask servers` installs it", words[0]));
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn first_number(text: &str) -> String {
    let words = text.split(|c: char| !c.is_ascii_digit() && c != '.');
    let mut numbers =
        words.filter(|word| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit()));
    numbers.next().unwrap_or_else(|| panic!("no version in {text:?}")).trim_end_matches('.').to_owned()
}
