//! The targets: which processes belong to each, whether they are still there, and where they came from.

use std::{
    cell::OnceCell,
    collections::{HashMap, HashSet},
    mem,
};

use agent_common::{conn::TargetId, decode::Listener};
use tracing::{debug, info};

use crate::{
    config::{OfPod, TargetSpec},
    exit::Failure,
    probe::{
        cgroup::Cgroups,
        discover::{self, DiscoverError, Root},
        load::Probe,
        program::Program,
    },
};

/// One target, as long as the agent lives.
#[derive(Debug)]
pub struct Target {
    pub id: TargetId,
    pub spec: TargetSpec,
    /// What it is called where `spec` is another one after each restart.
    pub name: Option<String>,
    /// The process it is known by: the one that was asked for, or the first of those that were found.
    pub pid: u32,
    /// The processes whose descendants it is.
    roots: Vec<Root>,
    /// Whether any process of it is left.
    pub alive: bool,
}

/// Which target a process is a root of: it stays that target's, whoever else its parents belong to.
pub type RootsOf = HashMap<u32, TargetId>;

impl Target {
    /// Finds the processes of what was asked for.
    ///
    /// # Errors
    /// When there are none, or none that could be watched.
    pub fn find(id: TargetId, spec: TargetSpec) -> Result<Self, DiscoverError> {
        let roots = roots(&spec)?;
        Ok(Self { roots, ..Self::awaited(id, spec) }.known_by_its_first())
    }

    /// One of which there is no process yet.
    pub fn awaited(id: TargetId, spec: TargetSpec) -> Self {
        Self { id, spec, name: None, pid: 0, roots: Vec::new(), alive: false }
    }

    /// Likewise, a container of a pod.
    pub fn of_pod(id: TargetId, spec: TargetSpec, pod: &OfPod) -> Self {
        Self { name: Some(pod.stable_name()), ..Self::awaited(id, spec) }
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
        if let Some(name) = &self.name {
            return name.clone();
        }
        match &self.spec {
            TargetSpec::Pid(_) => self.process_name().to_owned(),
            TargetSpec::Port(port) => format!("port-{port}"),
            TargetSpec::Exe(glob) => format!("exe-{glob}"),
            TargetSpec::Unit(unit) => format!("unit-{unit}"),
            TargetSpec::Container(container) => format!("container-{container}"),
        }
    }

    /// Name of the process it is known by; of one that is yet to come, what it is looked for by.
    pub fn process_name(&self) -> &str {
        match (self.roots.first(), &self.spec) {
            (Some(root), _) => &root.name,
            (None, TargetSpec::Exe(glob)) => glob.file_name(),
            (None, TargetSpec::Unit(unit)) => unit.short_name(),
            (None, TargetSpec::Container(container)) => container.as_str(),
            (None, TargetSpec::Pid(_) | TargetSpec::Port(_)) => "",
        }
    }

    /// Whether a target that is gone may come back.
    pub fn may_return(&self) -> bool {
        self.spec.may_return()
    }

    /// Hands the processes that were found, and those they have forked so far, to the kernel side.
    ///
    /// # Errors
    /// When none is left.
    pub fn attach(&mut self, probe: &mut Probe, roots_of: &RootsOf) -> Result<(), Failure> {
        let roots = mem::take(&mut self.roots);
        self.join(roots, probe, roots_of)
    }

    /// Has processes belong to the target from now on, with those they have forked so far, but for those that are roots
    /// of other targets, with theirs.
    ///
    /// # Errors
    /// When no process of it is left.
    pub fn join(&mut self, roots: Vec<Root>, probe: &mut Probe, roots_of: &RootsOf) -> Result<(), Failure> {
        let id = self.id;
        let is_others = |pid: u32| roots_of.get(&pid).is_some_and(|of| *of != id);
        let mut entered = Vec::new();
        for root in roots.into_iter().filter(|root| !is_others(root.pid)) {
            let mut known = HashSet::from([root.pid]);
            probe.watch(root.pid, self.id)?;
            // What was forked before the kernel side knew the parent is found here, what is forked from now on
            // is entered by it. A child may fork between being found and being entered, so we look until a
            // look finds nobody new.
            loop {
                let mut children = discover::descendants(root.pid, is_others);
                children.retain(|child| known.insert(*child));
                if children.is_empty() {
                    break;
                }
                for child in children {
                    probe.watch(child, self.id)?;
                    debug!(pid = child, parent = root.pid, "watching child");
                }
            }
            drop_dead(probe, known.iter().copied());
            if probe.target_of(root.pid) == Some(self.id) {
                entered.push(root);
            } else {
                // A daemon's parent, which is gone now.
                known.retain(|pid| probe.target_of(*pid) == Some(self.id));
                entered.extend(known.into_iter().filter_map(|pid| Root::open(pid).ok()));
            }
        }
        if !self.alive {
            self.roots.clear();
        }
        for root in &entered {
            self.log(root);
            self.alive = true;
        }
        self.roots.extend(entered);
        self.keep_up(probe);
        match &self.spec {
            TargetSpec::Pid(pid) if !self.alive && is_others(*pid) => {
                Err(DiscoverError::Taken { pid: *pid }.into())
            }
            TargetSpec::Pid(pid) if !self.alive => Err(DiscoverError::Vanished { pid: *pid }.into()),
            _ => Ok(()),
        }
    }

    fn log(&self, root: &Root) {
        let (pid, name, spec) = (root.pid, &root.name, &self.spec);
        match spec {
            TargetSpec::Pid(_) => info!(pid, name, "watching"),
            TargetSpec::Port(port) => info!(pid, name, port, "watching"),
            // Health checks and reloads are processes of a unit or container, too, one after the other.
            TargetSpec::Unit(_) | TargetSpec::Container(_) if self.alive => {
                debug!(pid, name, target = %spec, "watching");
            }
            TargetSpec::Exe(_) | TargetSpec::Unit(_) | TargetSpec::Container(_) => {
                info!(pid, name, target = %spec, "watching");
            }
        }
    }

    /// Looks whether any process of the target is left. True when the last one went just now.
    pub fn has_ended(&mut self, probe: &Probe) -> bool {
        let was_alive = self.alive;
        self.keep_up(probe);
        was_alive && !self.alive
    }

    /// Forgets the roots that are gone, as long as there is anybody left to be known by.
    fn keep_up(&mut self, probe: &Probe) {
        let left = probe.processes(self.id);
        self.alive = !left.is_empty();
        if let Some(any) = left.first() {
            self.roots.retain(|root| left.contains(&root.pid));
            if !left.contains(&self.pid) {
                self.pid = self.roots.first().map_or(*any, |root| root.pid);
            }
        }
    }

    fn known_by_its_first(mut self) -> Self {
        self.pid = self.roots.first().map_or(0, |root| root.pid);
        self
    }
}

/// The roots of these targets. One that several have is the first one's.
pub fn roots_of<'t>(targets: impl DoubleEndedIterator<Item = &'t Target>) -> RootsOf {
    targets.rev().flat_map(|target| target.roots.iter().map(|root| (root.pid, target.id))).collect()
}

/// Gives the processes that are there now to those of these targets that are known by what their processes are, as
/// roots yet to be attached.
pub fn fill(mut targets: Vec<&mut Target>) {
    let specs: Vec<&TargetSpec> = targets.iter().map(|target| &target.spec).collect();
    let found = meant_by(&specs);
    for (target, roots) in targets.iter_mut().zip(found).filter(|(target, _)| target.spec.is_of_processes()) {
        target.pid = roots.first().map_or(0, |root| root.pid);
        target.roots = roots;
    }
}

/// Likewise, by what was asked for. One pass over all processes, if any of it is known by what its processes are.
pub fn meant_by(specs: &[&TargetSpec]) -> Vec<Vec<Root>> {
    let mut found: Vec<Vec<Root>> = specs.iter().map(|_| Vec::new()).collect();
    if !specs.iter().any(|spec| spec.is_of_processes()) {
        return found;
    }
    let meant: HashMap<u32, usize> = discover::all_pids()
        .filter_map(|pid| {
            let candidate = Candidate::new(pid);
            Some((pid, specs.iter().position(|spec| candidate.is_meant_by(spec))?))
        })
        .collect();
    for (pid, index) in &meant {
        // Below another one of the same target it is found, and kept, with that.
        let parent = discover::parent(*pid);
        if parent.is_some_and(|parent| meant.get(&parent) == Some(index)) {
            continue;
        }
        // One that exits between being found and being opened is as good as not found.
        found[*index].extend(Root::open(*pid));
    }
    found.iter_mut().for_each(|roots| roots.sort_by_key(|root| root.pid));
    found
}

/// A process, and what decides whose it is; each looked up when it is first asked for.
pub struct Candidate {
    pid: u32,
    program: OnceCell<Option<Program>>,
    cgroups: OnceCell<Cgroups>,
}

impl Candidate {
    pub fn new(pid: u32) -> Self {
        Self { pid, program: OnceCell::new(), cgroups: OnceCell::new() }
    }

    /// Whether the process itself is what was asked for, whoever its parents are.
    pub fn is_meant_by(&self, spec: &TargetSpec) -> bool {
        match spec {
            TargetSpec::Pid(_) | TargetSpec::Port(_) => false,
            TargetSpec::Exe(glob) => {
                let program = self.program.get_or_init(|| Program::of(self.pid));
                program.as_ref().is_some_and(|program| glob.matches(program))
            }
            TargetSpec::Unit(unit) => self.cgroups().are_of_unit(unit),
            TargetSpec::Container(container) => container.means(self.cgroups()),
        }
    }

    /// None when it is gone.
    fn cgroups(&self) -> &Cgroups {
        self.cgroups.get_or_init(|| Cgroups::of(self.pid).unwrap_or_default())
    }
}

/// The root that a process which begins to listen belongs to: the uppermost of its parents that holds the socket, too.
/// None in another network namespace than ours, where the port is another one.
pub fn root_of_listener(pid: u32, listener: &Listener) -> Option<Root> {
    if !discover::shares_our_network(pid) {
        return None;
    }
    let mut root = pid;
    while let Some(parent) = discover::parent(root)
        && parent != discover::INIT
        && discover::sockets(parent).contains(&listener.socket)
    {
        root = parent;
    }
    Root::open(root).ok()
}

/// The processes of a target as they are now.
///
/// # Errors
/// When there are none.
pub fn roots(spec: &TargetSpec) -> Result<Vec<Root>, DiscoverError> {
    let found = match spec {
        TargetSpec::Pid(pid) => vec![Root::open(*pid)?],
        TargetSpec::Port(port) => {
            discover::listeners(*port)?.into_iter().filter_map(|pid| Root::open(pid).ok()).collect()
        }
        TargetSpec::Exe(_) | TargetSpec::Unit(_) | TargetSpec::Container(_) => {
            meant_by(&[spec]).pop().unwrap_or_default()
        }
    };
    if !found.is_empty() {
        return Ok(found);
    }
    Err(match spec {
        TargetSpec::Pid(pid) => DiscoverError::NoProcess { pid: *pid },
        TargetSpec::Port(port) => DiscoverError::OwnerHidden { port: *port },
        TargetSpec::Exe(glob) => DiscoverError::NoProgram { glob: glob.to_string() },
        TargetSpec::Unit(unit) => DiscoverError::NoUnit { unit: unit.to_string() },
        TargetSpec::Container(container) => DiscoverError::NoContainer { container: container.to_string() },
    })
}

/// Takes those of these processes out of the kernel side's table that are gone without its having seen them go: they
/// exited while they were being entered.
pub fn drop_dead(probe: &mut Probe, pids: impl Iterator<Item = u32>) {
    probe.catch_up();
    for pid in pids.filter(|pid| !discover::exists(*pid)) {
        probe.unwatch(pid);
    }
}
