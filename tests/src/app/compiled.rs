//! Servers in compiled languages: Go, Java, Rust.

use std::process::Command;

use super::{Site, found, installed};
use crate::process::ending_with_us;

/// Tomcat, and the annotations that it looks for in servlets.
pub(super) const TOMCAT_JARS: &str =
    "/usr/share/java/tomcat10-embed-core.jar:/usr/share/java/jakarta-annotation-api.jar";

pub(super) fn go(site: &Site<'_>) -> Command {
    let mut command = ending_with_us(installed("net_http"));
    command.arg(site.port_or_path());
    command
}

pub(super) fn jdk(site: &Site<'_>) -> Command {
    let mut command = java("Jdk");
    command.arg(site.port_or_path());
    command
}

pub(super) fn tomcat(site: &Site<'_>) -> Command {
    let mut command = java("Tomcat");
    command.arg(site.dir).arg(site.port_or_path());
    command
}

/// A machine that starts quickly and takes little memory.
fn java(class: &str) -> Command {
    let mut command = ending_with_us("java");
    command.args(["-Xmx128m", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]);
    command.arg("-cp").arg(format!("{}:{TOMCAT_JARS}", installed("java").display())).arg(class);
    command
}

pub(super) fn axum(site: &Site<'_>) -> Command {
    let ours = std::env::current_exe().expect("a program knows its own path");
    // target/debug/record, or target/debug/deps/e2e-0123456789abcdef
    let mut dirs = ours.ancestors().skip(1).map(|dir| dir.join("axum-app"));
    let program = dirs.find(|path| path.exists()).unwrap_or_else(|| found("target/debug/axum-app"));
    let mut command = ending_with_us(program);
    command.arg(site.port_or_path());
    command
}
