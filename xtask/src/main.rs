//! What people and CI type: `cargo xtask setup`, `servers`, `demo`, `record`, `bench`, `fuzz`, `dist`, `test`,
//! `e2e`. Each brings what the machine lacks, asks nothing, and does nothing twice.
#![allow(clippy::print_stdout, reason = "talking to whoever typed the command is what this program is for")]

mod apt;
mod bench;
mod cluster;
mod demo;
mod dist;
mod e2e;
#[path = "../../agent/ebpf_toolchain.rs"]
mod ebpf_toolchain;
mod fuzz;
mod initramfs;
mod kernels;
mod packages;
mod qemu;
mod record;
mod servers;
mod setup;
mod soak;
mod step;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Sets up, tries out and tests apitally-agent"
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Bring what building needs and this machine lacks: a compiler for eBPF, its core source, bpf-linker
    Setup,
    /// Build everything and watch a sample API through the kernel, with a hub of our own (needs root)
    Demo(demo::Args),
    /// Install the servers that the end-to-end tests watch (needs root)
    Servers,
    /// Record these servers anew for the tests that replay them, and write docs/tested.md (needs root)
    Record(record::Args),
    /// Traffic for minutes on end, while servers restart and clients go away (needs root)
    Soak(soak::Args),
    /// Measure what the agent costs, and write docs/performance.md (needs root and an otherwise idle machine)
    Bench(bench::Args),
    /// Feed the agent what the fuzzer makes up
    Fuzz(fuzz::Args),
    /// Build what is given to others: packages for Debian and RPM, and the file tree of an image
    Dist(dist::Args),
    /// Formatting, clippy and all tests, those through the kernel included (needs root)
    Test,
    /// The agent on kernels from Linux 5.10 to 7.2, emulated by QEMU
    E2e(e2e::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Setup => setup::run().map(drop),
        Task::Demo(args) => demo::run(&args),
        Task::Servers => servers::install(),
        Task::Record(args) => record::run(&args),
        Task::Soak(args) => soak::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Dist(args) => dist::run(&args),
        Task::Test => test::run(),
        Task::E2e(args) => e2e::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
