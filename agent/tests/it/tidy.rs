//! Rules of the tree that no compiler checks.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the agent lies in the workspace")
}

fn sources(dir: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut dirs = vec![workspace().join(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(workspace()).unwrap().to_owned(), text));
            }
        }
    }
    assert!(!found.is_empty(), "no sources in {dir}");
    found
}

/// Lines of code that contain one of `words`, without comments.
fn offenders(dir: &str, words: &[&str]) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, text) in sources(dir) {
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if words.iter().any(|word| code.contains(word)) {
                lines.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    lines
}

#[test]
fn the_pipeline_touches_nothing_outside() {
    let words = [
        "tokio",
        "aya",
        // Formats may be read there; what is sent is put into words elsewhere.
        "Serialize",
        "#[serde",
        "reqwest",
        "tracing",
        "std::fs",
        "std::net",
        "std::io",
        "std::env",
        "std::thread",
        "Instant",
        "SystemTime",
        "println!",
        "async ",
    ];
    let found = offenders("agent/src/pipeline", &words);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn unsafe_code_lives_where_it_is_expected() {
    let allowed = [
        "agent-common/src/pod.rs",
        "agent-ebpf/src/raw.rs",
        // The function that bpf_loop calls back.
        "agent-ebpf/src/capture.rs",
        // mallopt
        "agent/src/memory.rs",
        // A map's memory, shared with the kernel.
        "agent/src/probe/shared.rs",
    ];
    let mut found = Vec::new();
    for dir in ["agent/src", "agent-common/src", "agent-ebpf/src", "xtask/src"] {
        let blocks = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"];
        found.extend(
            offenders(dir, &blocks)
                .into_iter()
                .filter(|line| !allowed.iter().any(|file| line.starts_with(file))),
        );
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn no_test_is_switched_off() {
    let mut found = Vec::new();
    for dir in ["agent", "agent-common/src", "tests", "xtask/src"] {
        // Written in two parts, so that this line is none of those it looks for.
        found.extend(offenders(
            dir,
            &[concat!("#[", "ignore"), concat!("to", "do!("), concat!("unimpl", "emented!(")],
        ));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
