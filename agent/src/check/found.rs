//! One target as `check` finds it: its processes, ports, software and clients, and what it was heard to speak.

use std::{
    io::{self, Write},
    time::Duration,
};

use procfs::process::Process;

use super::{blind, clients::Clients, fact};
use crate::{
    pipeline::ledger::Ledger,
    probe::{
        discover,
        software::{self, Software},
    },
    status::is_harmless,
    watch::Target,
};

/// A target that is there.
pub struct Found {
    pub target: Target,
    /// What it was heard to speak; None when nobody listened.
    pub heard: Option<Ledger>,
    roots: Vec<u32>,
    /// The roots and their descendants.
    processes: Vec<u32>,
    ports: Vec<u16>,
    clients: Clients,
    software: Software,
}

impl Found {
    pub fn new(target: Target) -> Self {
        let roots = target.root_pids();
        let mut processes = roots.clone();
        processes.extend(roots.iter().flat_map(|pid| discover::descendants(*pid, |_| false)));
        let ports = discover::listening_ports(&processes);
        let asked = target.spec.ports();
        let watched = if asked.is_empty() { &ports } else { &asked };
        Self {
            clients: roots.first().map(|pid| Clients::of(*pid, watched)).unwrap_or_default(),
            software: software::detect(&processes),
            target,
            heard: None,
            roots,
            processes,
            ports,
        }
    }

    /// What was found, what will not be seen of it and what to do. `time`: for how long it was listened to.
    pub fn print(&self, out: &mut impl Write, time: Duration) -> io::Result<()> {
        let Self { roots, processes, ports, .. } = self;
        fact(out, "name", &harmless(&self.target.stable_name()))?;
        fact(out, "processes", &format!("{} and {} children", list(roots), processes.len() - roots.len()))?;
        let is_apart = roots.first().is_some_and(|pid| !discover::shares_our_network(*pid));
        let namespace = if is_apart { ", in a network namespace of its own" } else { "" };
        let ports = if ports.is_empty() { "no TCP port".to_owned() } else { list(ports) };
        fact(out, "listens on", &format!("{ports}{namespace}"))?;
        fact(out, "software", &self.software())?;
        fact(out, "clients", &self.clients())?;
        let proxies: Vec<&str> = self.clients.proxies().collect();
        if !proxies.is_empty() {
            let proxies = harmless(&proxies.join(", "));
            let advice = format!("{proxies}; who the clients are is in its header, see docs/consumers.md");
            fact(out, "behind", &advice)?;
        }
        if let Some(heard) = &self.heard {
            fact(out, "heard", &requests(heard, time))?;
        }
        self.print_blindness(out)
    }

    fn print_blindness(&self, out: &mut impl Write) -> io::Result<()> {
        let heard = self.heard.unwrap_or_default();
        const END_IT: &str =
            "end TLS in a proxy in front of it, and have that speak HTTP/1.1 to it in the clear";
        if heard.connections_tls > 0 {
            blind(out, &format!("{} connections are TLS that ends in it: {END_IT}", heard.connections_tls))?;
        } else if heard.seen == 0
            && let Some(option) = self.processes.iter().find_map(|pid| certificate_option(*pid))
        {
            blind(out, &format!("it is run with {}, so TLS ends in it: {END_IT}", harmless(&option)))?;
        }
        if heard.connections_http2 > 0 {
            let count = heard.connections_http2;
            blind(
                out,
                &format!(
                    "{count} connections are HTTP/2: have the proxy in front of it speak HTTP/1.1 to it"
                ),
            )?;
        }
        let with_rings: Vec<u32> =
            self.processes.iter().copied().filter(|pid| discover::uses_io_uring(*pid)).collect();
        if !with_rings.is_empty() {
            let advice = "requests that move through it are not seen; Node and uvloop have it for files alone, which \
                          does no harm";
            blind(out, &format!("{} have set up io_uring: {advice}", list(&with_rings)))?;
        }
        Ok(())
    }

    fn software(&self) -> String {
        let Software { client, components } = &self.software;
        let components: Vec<String> =
            components.iter().map(|(name, version)| harmless(&format!("{name} {version}"))).collect();
        match (components.is_empty(), client) {
            (true, None) => "none that is known".to_owned(),
            (_, None) => components.join(", "),
            (true, Some(client)) => client.clone(),
            (false, Some(client)) => format!("{} ({client})", components.join(", ")),
        }
    }

    fn clients(&self) -> String {
        let Clients { here, elsewhere } = &self.clients;
        let mut found: Vec<String> = here
            .iter()
            .map(|(name, count)| format!("{count} connections from {} on this host", harmless(name)))
            .collect();
        if *elsewhere > 0 {
            found.push(format!("{elsewhere} connections from other hosts"));
        }
        if found.is_empty() { "none is connected now".to_owned() } else { found.join(", ") }
    }
}

fn requests(heard: &Ledger, time: Duration) -> String {
    let time = humantime::format_duration(time);
    let http = heard.connections.saturating_sub(heard.connections_tls + heard.connections_http2);
    match heard.connections {
        0 => {
            format!("nothing within {time}; have a client send requests meanwhile, or wait longer with --for")
        }
        _ => format!("{} requests of HTTP/1.1 on {http} connections within {time}", heard.seen),
    }
}

/// The option among a process's arguments that names a certificate, as servers in Python and others have them.
fn certificate_option(pid: u32) -> Option<String> {
    let args = Process::new(i32::try_from(pid).ok()?).ok()?.cmdline().ok()?;
    args.iter().find_map(|arg| names_certificate(arg))
}

fn names_certificate(arg: &str) -> Option<String> {
    const OPTIONS: [&str; 5] = ["--certfile", "--ssl-certfile", "--cert", "--tls-cert", "--tls-certificate"];
    let option = arg.split('=').next().filter(|option| OPTIONS.contains(option))?;
    Some(option.to_owned())
}

/// Names are written by strangers, and a terminal obeys more than it shows.
fn harmless(text: &str) -> String {
    text.chars().map(|c| if is_harmless(c) { c } else { '?' }).collect()
}

fn list(numbers: &[impl ToString]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_name_a_certificate_are_known_without_their_values() {
        let check =
            |arg: &str, want: Option<&str>| assert_eq!(names_certificate(arg).as_deref(), want, "{arg}");
        check("--certfile=/etc/ssl/private/shop.pem", Some("--certfile"));
        check("--ssl-certfile", Some("--ssl-certfile"));
        check("--certainty", None);
        check("cert.pem", None);
    }

    #[test]
    fn what_was_heard_is_told() {
        let time = Duration::from_secs(2);
        let text = |heard: Ledger| requests(&heard, time);
        assert!(text(Ledger::default()).starts_with("nothing within 2s"));
        let mut heard = Ledger::default();
        (heard.seen, heard.connections) = (12, 5);
        (heard.connections_tls, heard.connections_http2) = (1, 1);
        assert_eq!(text(heard), "12 requests of HTTP/1.1 on 3 connections within 2s");
    }

    #[test]
    fn names_do_nothing_to_a_terminal() {
        assert_eq!(harmless("shop\x1b[2J\u{202e}"), "shop?[2J?");
    }
}
