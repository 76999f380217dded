//! `apitally-agent check`: can we run here, what would we watch, what would be blind, and what helps?

mod clients;
mod found;
mod heard;
mod pods;

use std::{
    fs,
    io::{self, Write},
    path::Path,
    time::Duration,
};

use self::{found::Found, pods::Pods};
use crate::{
    config::{Config, Delivery, HubTarget, Origin, TargetConfig},
    exit::{Exit, Failure},
    probe::{
        host::{Host, Lockdown},
        load::{LoadOptions, NEEDS_TRACEFS, Probe},
        source::Records,
    },
    watch::Target,
};

/// Prints what it finds, one line each, and answers `Exit::Ok` when the agent could run. The targets are watched for
/// as long as `time`.
///
/// # Errors
/// When stdout cannot be written to.
pub fn run(config: &Config, time: Duration) -> Result<Exit, Failure> {
    let mut out = io::stdout().lock();
    print(&mut out, config, time).map_err(|error| Failure::Io { doing: "print the report", error })
}

fn print(out: &mut impl Write, config: &Config, time: Duration) -> io::Result<Exit> {
    let host = Host::inspect();
    let obstacles = host.obstacles();
    print_host(out, &host)?;

    let mut problems: Vec<String> = obstacles.iter().map(ToString::to_string).collect();
    let mut found: Vec<Option<Found>> = Vec::new();
    for (id, TargetConfig { spec, .. }) in (1..).zip(&config.targets) {
        let target = Target::find(id, spec.clone()).map_err(|error| problems.push(error.to_string()));
        found.push(target.ok().map(Found::new));
    }
    if let (true, Some(kernel)) = (obstacles.is_empty(), host.kernel) {
        let heard = Probe::load(kernel, LoadOptions::default())
            .map_err(Failure::from)
            .and_then(|tap| hear(tap, &mut found, &config.targets, time));
        match heard {
            Ok(()) => fact(out, "programs", "loaded and attached, and taken out again")?,
            Err(error) => problems.push(error.to_string()),
        }
    }

    let pods = config
        .kubernetes
        .as_ref()
        .and_then(|kubernetes| Pods::ask(kubernetes).map_err(|error| problems.push(error.to_string())).ok());

    writeln!(out, "agent")?;
    print_origins(out, &config.origins)?;
    for (target, found) in config.targets.iter().zip(&found) {
        print_target(out, target, found.as_ref(), time)?;
    }
    if let Some(kubernetes) = &config.kubernetes {
        writeln!(out, "kubernetes")?;
        fact(out, "pods of node", &kubernetes.node)?;
        if let Some(pods) = &pods {
            pods.print(out)?;
        }
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

fn print_host(out: &mut impl Write, host: &Host) -> io::Result<()> {
    writeln!(out, "host")?;
    fact(out, "kernel", &format!("{} on {}", host.release, host.machine))?;
    fact(out, "types (BTF)", if host.has_btf { "present" } else { "missing" })?;
    let lockdown = match host.lockdown {
        Lockdown::None => "none",
        Lockdown::Integrity => "integrity (harmless)",
        Lockdown::Confidentiality => "confidentiality",
    };
    fact(out, "lockdown", lockdown)?;
    let capabilities = match host.missing_capabilities.as_slice() {
        [] => "all that are needed".to_owned(),
        missing => format!("missing {}", missing.join(", ")),
    };
    fact(out, "capabilities", &capabilities)?;
    let namespace = if host.initial_pid_namespace { "the host's" } else { "a private one" };
    fact(out, "pid namespace", namespace)?;
    let has_tracefs = TRACEFS.iter().any(|mount| Path::new(mount).join("events/raw_syscalls").exists());
    match (has_tracefs, host.kernel.is_some_and(|kernel| kernel >= NEEDS_TRACEFS)) {
        (true, _) => fact(out, "tracefs", "mounted")?,
        (false, false) => fact(out, "tracefs", "not mounted, which this kernel does not need")?,
        (false, true) => blind(
            out,
            "tracefs is not mounted, and this kernel leaves out calls without it: mount -t tracefs tracefs \
             /sys/kernel/tracing",
        )?,
    }
    if fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").is_ok_and(|value| value.trim() == "0") {
        let advice = "off: calls of the targets cost several times as much as they need to; sysctl -w \
                      net.core.bpf_jit_enable=1";
        fact(out, "eBPF compiler", advice)?;
    }
    Ok(())
}

/// Where tracefs is mounted, as aya looks for it.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Listens to the targets that are there.
fn hear(
    tap: (Probe, Records),
    found: &mut [Option<Found>],
    configs: &[TargetConfig],
    time: Duration,
) -> Result<(), Failure> {
    let there =
        found.iter_mut().zip(configs).filter_map(|(found, config)| Some((found.as_mut()?, &config.policy)));
    let there: Vec<_> = there.collect();
    if time.is_zero() || there.is_empty() { Ok(()) } else { heard::hear(tap, there, time) }
}

fn print_target(
    out: &mut impl Write,
    config: &TargetConfig,
    found: Option<&Found>,
    time: Duration,
) -> io::Result<()> {
    let TargetConfig { spec, app, delivery, warnings, origins, .. } = config;
    writeln!(out, "target {spec}")?;
    if let Some(found) = found {
        found.print(out, time)?;
    }
    if let Delivery::Hub(HubTarget { base_url, env, .. }) = delivery {
        fact(out, "reports to", &format!("{base_url}, environment {env}"))?;
    }
    if let Some(version) = &app.version {
        fact(out, "app version", version)?;
    }
    print_origins(out, origins)?;
    for warning in warnings {
        fact(out, "warning", &warning.to_string())?;
    }
    Ok(())
}

/// Where values come from. The values themselves are not shown, since some are secrets.
fn print_origins(out: &mut impl Write, origins: &[(&'static str, Origin)]) -> io::Result<()> {
    for (key, origin) in origins {
        fact(out, key, &format!("from {}", origin.place(key)))?;
    }
    fact(out, if origins.is_empty() { "everything" } else { "the rest" }, "as by default")
}

fn fact(out: &mut impl Write, label: &str, text: &str) -> io::Result<()> {
    writeln!(out, "  {label:<14} {text}")
}

/// Something that will not be seen, and what to do.
fn blind(out: &mut impl Write, text: &str) -> io::Result<()> {
    fact(out, "blind", text)
}
