//! The targets: which processes belong to each, whether they are still there, and where they came from.

use std::collections::HashSet;

use agent_common::conn::TargetId;
use tracing::{debug, info};

use crate::{
    config::TargetSpec,
    exit::Failure,
    probe::{
        discover::{self, DiscoverError, Root},
        load::Probe,
    },
};

/// One target, as long as the agent lives.
#[derive(Debug)]
pub struct Target {
    pub id: TargetId,
    pub spec: TargetSpec,
    /// The process it is known by: the one that was asked for, or the first that listens on the port.
    pub pid: u32,
    /// The processes whose descendants it is.
    roots: Vec<Root>,
    /// Whether any process of it is left.
    pub alive: bool,
}

impl Target {
    /// Finds the processes of what was asked for.
    ///
    /// # Errors
    /// When there are none, or none that could be watched.
    pub fn find(id: TargetId, spec: TargetSpec) -> Result<Self, DiscoverError> {
        let roots = roots(&spec)?;
        let pid = roots.first().map_or(0, |root| root.pid);
        Ok(Self { id, spec, pid, roots, alive: false })
    }

    /// One of which there is no process yet.
    pub fn awaited(id: TargetId, spec: TargetSpec) -> Self {
        Self { id, spec, pid: 0, roots: Vec::new(), alive: false }
    }

    /// Whether it has processes to be attached.
    pub fn is_there(&self) -> bool {
        !self.roots.is_empty()
    }

    pub fn root_pids(&self) -> Vec<u32> {
        self.roots.iter().map(|root| root.pid).collect()
    }

    /// A name that is the same after a restart of the target, for its identity towards the hub.
    pub fn stable_name(&self) -> String {
        match &self.spec {
            TargetSpec::Pid(_) => self.process_name().to_owned(),
            TargetSpec::Port(port) => format!("port-{port}"),
        }
    }

    /// Name of the process it is known by.
    pub fn process_name(&self) -> &str {
        self.roots.first().map_or("", |root| root.name.as_str())
    }

    /// Whether a target that is gone may come back.
    pub fn may_return(&self) -> bool {
        self.spec.may_return()
    }

    /// Hands its processes, and those they have forked so far, to the kernel side.
    ///
    /// # Errors
    /// When the process is gone already.
    pub fn attach(&mut self, probe: &mut Probe) -> Result<(), Failure> {
        probe.watch_port(self.id, self.spec.ports().first().copied());
        let mut known = HashSet::new();
        for root in &self.roots {
            probe.watch(root.pid, self.id)?;
            // What was forked before the kernel side knew the parent is found here, what is forked from now on
            // is entered by it. A child may fork between being found and being entered, so we look until a
            // look finds nobody new.
            loop {
                let mut children = discover::descendants(root.pid);
                children.retain(|child| known.insert(*child));
                if children.is_empty() {
                    break;
                }
                for child in children {
                    probe.watch(child, self.id)?;
                    debug!(pid = child, parent = root.pid, "watching child");
                }
            }
        }
        drop_dead(probe);
        self.alive = is_watched(probe, self.id);
        match &self.spec {
            TargetSpec::Pid(pid) if !self.alive => return Err(DiscoverError::Vanished { pid: *pid }.into()),
            TargetSpec::Pid(_) => {
                let name = self.stable_name();
                info!(pid = self.pid, name, "watching");
            }
            TargetSpec::Port(port) => {
                let name = self.process_name();
                info!(pid = self.pid, name, port, processes = self.roots.len(), "watching");
            }
        }
        Ok(())
    }

    /// Looks whether any process of the target is left. True when the last one went just now.
    pub fn has_ended(&mut self, probe: &Probe) -> bool {
        let was_alive = self.alive;
        self.alive = is_watched(probe, self.id);
        was_alive && !self.alive
    }

    /// Looks whether the target is there again; it then has new processes, to be attached.
    pub fn has_returned(&mut self) -> bool {
        let Ok(roots) = roots(&self.spec) else { return false };
        self.pid = roots.first().map_or(self.pid, |root| root.pid);
        self.roots = roots;
        true
    }
}

fn roots(spec: &TargetSpec) -> Result<Vec<Root>, DiscoverError> {
    match spec {
        TargetSpec::Pid(pid) => Ok(vec![Root::open(*pid)?]),
        TargetSpec::Port(port) => {
            // One that exits between being found and being opened is as good as not found.
            let roots: Vec<Root> =
                discover::listeners(*port)?.into_iter().filter_map(|pid| Root::open(pid).ok()).collect();
            if roots.is_empty() { Err(DiscoverError::OwnerHidden { port: *port }) } else { Ok(roots) }
        }
    }
}

fn is_watched(probe: &Probe, id: TargetId) -> bool {
    probe.watched().iter().any(|(_, target)| *target == id)
}

/// Takes processes out of the kernel side's table that are gone without its having seen them go: those that
/// exited while they were being entered.
pub fn drop_dead(probe: &mut Probe) {
    probe.catch_up();
    for (pid, _) in probe.watched() {
        if !discover::exists(pid) {
            probe.unwatch(pid);
        }
    }
}
