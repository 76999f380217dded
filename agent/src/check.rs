//! `apitally-agent check`: can we run here, what would we watch, what would be blind?

use std::io::{self, Write};

use crate::{
    config::{Config, Delivery, HubTarget, Origin, TargetConfig},
    exit::{Exit, Failure},
    probe::{
        discover,
        host::{Host, Lockdown},
        load::{LoadOptions, Probe},
    },
    watch::Target,
};

/// Prints what it finds, one line each, and answers `Exit::Ok` when the agent could run.
///
/// # Errors
/// When stdout cannot be written to.
pub fn run(config: &Config) -> Result<Exit, Failure> {
    let mut out = io::stdout().lock();
    print(&mut out, config).map_err(|error| Failure::Io { doing: "print the report", error })
}

fn print(out: &mut impl Write, config: &Config) -> io::Result<Exit> {
    let host = Host::inspect();
    let obstacles = host.obstacles();
    writeln!(out, "host")?;
    writeln!(out, "  kernel         {} on {}", host.release, host.machine)?;
    writeln!(out, "  types (BTF)    {}", if host.has_btf { "present" } else { "missing" })?;
    let lockdown = match host.lockdown {
        Lockdown::None => "none",
        Lockdown::Integrity => "integrity (harmless)",
        Lockdown::Confidentiality => "confidentiality",
    };
    writeln!(out, "  lockdown       {lockdown}")?;
    let capabilities = match host.missing_capabilities.as_slice() {
        [] => "all that are needed".to_owned(),
        missing => format!("missing {}", missing.join(", ")),
    };
    writeln!(out, "  capabilities   {capabilities}")?;
    writeln!(
        out,
        "  pid namespace  {}",
        if host.initial_pid_namespace { "the host's" } else { "a private one" }
    )?;

    let mut problems: Vec<String> = obstacles.iter().map(ToString::to_string).collect();
    if let (true, Some(kernel)) = (obstacles.is_empty(), host.kernel) {
        match Probe::load(kernel, LoadOptions::default()) {
            Ok(_) => writeln!(out, "  programs       loaded and attached, and taken out again")?,
            Err(error) => problems.push(error.to_string()),
        }
    }
    writeln!(out, "agent")?;
    print_origins(out, &config.origins)?;
    for TargetConfig { spec, app, delivery, warnings, origins, .. } in &config.targets {
        writeln!(out, "target {spec}")?;
        match Target::find(1, spec.clone()) {
            Ok(target) => describe(out, &target)?,
            Err(error) => problems.push(error.to_string()),
        }
        if let Delivery::Hub(HubTarget { base_url, env, .. }) = delivery {
            writeln!(out, "  reports to     {base_url}, environment {env}")?;
        }
        if let Some(version) = &app.version {
            writeln!(out, "  app version    {version}")?;
        }
        print_origins(out, origins)?;
        for warning in warnings {
            writeln!(out, "  warning        {warning}")?;
        }
    }
    if let Some(kubernetes) = &config.kubernetes {
        writeln!(out, "kubernetes")?;
        writeln!(out, "  pods of node   {}", kubernetes.node)?;
        print_origins(out, &kubernetes.origins)?;
    }
    writeln!(out, "not seen, on any host")?;
    writeln!(out, "  TLS that ends inside the target (end it in a proxy), HTTP/2 and HTTP/3, io_uring")?;
    if problems.is_empty() {
        writeln!(out, "the agent can run here")?;
        return Ok(Exit::Ok);
    }
    writeln!(out, "the agent cannot run like this")?;
    for problem in problems {
        writeln!(out, "  - {problem}")?;
    }
    Ok(Exit::Unavailable)
}

/// Where values come from. The values themselves are not shown, since some are secrets.
fn print_origins(out: &mut impl Write, origins: &[(&'static str, Origin)]) -> io::Result<()> {
    for (key, origin) in origins {
        writeln!(out, "  {key:<14} from {}", origin.place(key))?;
    }
    let rest = if origins.is_empty() { "everything" } else { "the rest" };
    writeln!(out, "  {rest:<14} as by default")
}

fn describe(out: &mut impl Write, target: &Target) -> io::Result<()> {
    let roots = target.root_pids();
    let children: Vec<u32> = roots.iter().flat_map(|pid| discover::descendants(*pid, |_| false)).collect();
    let pids = || roots.iter().chain(&children).copied();
    writeln!(out, "  name           {}", target.stable_name())?;
    writeln!(out, "  processes      {} and {} children", list(&roots), children.len())?;
    let ports = discover::listening_ports(pids());
    let ports = if ports.is_empty() { "none in this network namespace".to_owned() } else { list(&ports) };
    writeln!(out, "  listens on     {ports}")?;
    let with_io_uring: Vec<u32> = pids().filter(|pid| discover::uses_io_uring(*pid)).collect();
    if !with_io_uring.is_empty() {
        writeln!(
            out,
            "  blind          {} use io_uring; what they move through it is not seen",
            list(&with_io_uring)
        )?;
    }
    Ok(())
}

fn list(numbers: &[impl ToString]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
