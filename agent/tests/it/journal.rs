//! The log where systemd takes it, and where somebody else does.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    process::Command,
};

/// What an agent without anything to watch says in a file, when it is told that the journal is this file, or another one.
fn said(is_journal: bool, words: &[&str]) -> String {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("stderr");
    let stderr = File::create(&path).unwrap();
    let inode = stderr.metadata().unwrap();
    let other = u64::from(!is_journal);
    let status = Command::new(env!("CARGO_BIN_EXE_apitally-agent"))
        .args(words)
        .env("JOURNAL_STREAM", format!("{}:{}", inode.dev(), inode.ino() + other))
        .stderr(stderr)
        .status();
    assert_eq!(status.unwrap().code(), Some(64));
    fs::read_to_string(path).unwrap()
}

#[test]
fn journal_gets_a_priority_in_the_place_of_time_and_level() {
    let line = said(true, &["--dry-run"]);
    assert!(line.starts_with("<3>nothing to watch: "), "{line}");
}

#[test]
fn whoever_else_stderr_belongs_to_gets_the_whole_line() {
    let line = said(false, &["--dry-run"]);
    assert!(line.starts_with("20") && line.contains(" ERROR nothing to watch: "), "{line}");
    let json = said(true, &["--dry-run", "--log-format", "json"]);
    assert!(json.starts_with(r#"{"timestamp":"#), "{json}");
}
