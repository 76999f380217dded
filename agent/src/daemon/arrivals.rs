//! Processes that the kernel side has noticed, and the targets that they join.
//!
//! A host may start thousands of processes a second. So each is looked at once, a turn of the loop takes a few, and
//! when more wait than there is room for, one pass over the processes that are left then does for all.

use std::collections::BTreeSet;

use agent_common::{
    conn::TargetId,
    decode::{Listener, Notice},
};
use tracing::{debug, warn};

use super::Daemon;
use crate::{
    config::TargetSpec,
    exit::Failure,
    probe::discover::Root,
    watch::{self, Candidate, RootsOf},
};

/// Processes that may wait to be looked at. Beyond that all are forgotten, and the next tick looks at everybody.
const MOST_WAITING: usize = 4096;
/// Processes looked at in one turn of the loop; each costs a few files of /proc.
const LOOKS: usize = 512;

/// Who was noticed, and not looked at yet.
#[derive(Debug, Default)]
pub struct Arrivals {
    waiting: BTreeSet<(u32, Option<Listener>)>,
    /// Some were not kept, or not told of.
    look_at_all: bool,
    /// Somebody came since the last tick.
    any: bool,
    /// Notices that found no room, and runs of the programs that the kernel left out, as far as we have made up for
    /// them.
    lost: u64,
    missed_runs: u64,
}

impl Arrivals {
    pub fn add(&mut self, notice: &Notice) {
        self.any = true;
        if self.waiting.len() >= MOST_WAITING {
            self.waiting.clear();
            self.look_at_all = true;
        }
        self.waiting.insert((notice.pid, notice.listener));
    }
}

impl Daemon {
    /// Has the kernel side notice processes, if any of these targets is looked for by that.
    pub fn notice_for<'s>(&mut self, mut specs: impl Iterator<Item = &'s TargetSpec>) -> Result<(), Failure> {
        Ok(self.probe.notice(specs.any(TargetSpec::may_return))?)
    }

    /// Has processes that were noticed join the targets that mean them.
    pub fn meet_arrivals(&mut self) {
        for _ in 0..LOOKS {
            let Some((pid, listener)) = self.arrivals.waiting.pop_first() else { return };
            match listener {
                Some(listener) => self.meet_listener(pid, &listener),
                None => self.meet(pid),
            }
        }
    }

    /// Makes up for notices that were missed; and looks for ports that nobody serves where somebody came, since a
    /// socket may have come along. Once a second; when it is `thorough`, also where nobody came.
    pub fn look_around(&mut self, thorough: bool) {
        if !self.probe.notices() {
            return;
        }
        let lost = self.probe.lost_notices();
        let missed_runs = if thorough { self.probe.missed_runs() } else { self.arrivals.missed_runs };
        let Arrivals { look_at_all, any, .. } = self.arrivals;
        let is_behind = look_at_all || lost != self.arrivals.lost || missed_runs != self.arrivals.missed_runs;
        self.arrivals.lost = lost;
        self.arrivals.missed_runs = missed_runs;
        self.arrivals.look_at_all = false;
        self.arrivals.any = false;
        if is_behind {
            debug!("looking at all processes");
            self.look_at_all();
        }
        if any || is_behind || thorough {
            self.look_for_ports();
        }
    }

    /// One pass over all processes, for the targets that are known by what theirs are.
    pub fn look_at_all(&mut self) {
        let specs: Vec<&TargetSpec> = self.reports.iter().map(|report| &report.target.spec).collect();
        for (index, roots) in watch::meant_by(&specs).into_iter().enumerate() {
            self.join(index, roots);
        }
    }

    /// The roots of all targets.
    pub fn roots_of(&self) -> RootsOf {
        watch::roots_of(self.reports.iter().map(|report| &report.target).filter(|target| target.alive))
    }

    fn meet(&mut self, pid: u32) {
        let candidate = Candidate::new(pid);
        let means = |spec: &TargetSpec| candidate.is_meant_by(spec);
        let Some(index) = self.reports.iter().position(|report| means(&report.target.spec)) else { return };
        if self.probe.target_of(pid) != Some(self.reports[index].target.id) {
            // One that is gone again is as good as not noticed.
            self.join(index, Root::open(pid).into_iter().collect());
        }
    }

    fn meet_listener(&mut self, pid: u32, listener: &Listener) {
        let wanted = TargetSpec::Port(listener.port);
        let Some(index) = self.reports.iter().position(|report| report.target.spec == wanted) else { return };
        if self.probe.target_of(pid) != Some(self.reports[index].target.id) {
            self.join(index, watch::root_of_listener(pid, listener).into_iter().collect());
        }
    }

    fn look_for_ports(&mut self) {
        for index in 0..self.reports.len() {
            let target = &self.reports[index].target;
            if !target.alive
                && matches!(target.spec, TargetSpec::Port(_))
                && let Ok(roots) = watch::roots(&target.spec)
            {
                self.join(index, roots);
            }
        }
    }

    /// Has processes belong to a target, but for those that do already, and the roots of one that is named before it.
    fn join(&mut self, index: usize, mut roots: Vec<Root>) {
        let mut roots_of = self.roots_of();
        let Self { reports, probe, pipeline, .. } = self;
        let (before, others) = reports.split_at_mut(index);
        let report = &mut others[0];
        let id = report.target.id;
        let is_before = |of: &TargetId| before.iter().any(|report| report.target.id == *of);
        roots.retain(|root| {
            probe.target_of(root.pid) != Some(id) && !roots_of.get(&root.pid).is_some_and(is_before)
        });
        if roots.is_empty() {
            return;
        }
        for root in &roots {
            roots_of.remove(&root.pid);
        }
        let was_alive = report.target.alive;
        pipeline.resume_target(id);
        if let Err(error) = report.target.join(roots, probe, &roots_of) {
            warn!(target = %report.target.spec, %error, "a process cannot be watched");
        }
        match (was_alive, report.target.alive) {
            (false, true) => report.restart(probe),
            (false, false) => pipeline.finish_target(id),
            (true, _) => {}
        }
    }
}
