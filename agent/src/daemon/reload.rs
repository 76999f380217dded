//! The configuration is read again: targets come, go and change, and nothing that is not to change notices.

use std::mem;

use agent_common::{
    conn::{LocalPorts, TargetId},
    limits,
};
use sd_notify::NotifyState;
use tracing::{debug, error, info, warn};

use super::{
    BATCH, Daemon, account::take_over, documents::Documents, log_warnings, report::Occasion, sink::Sink,
    systemd,
};
use crate::{
    config::{Config, KubernetesConfig, TargetConfig, TargetSpec},
    exit::Failure,
    watch::Target,
};

impl Daemon {
    /// Reads the configuration again and does as it says from now on. One that cannot be used changes nothing.
    pub fn reload(&mut self) {
        let reloading: Vec<NotifyState<'_>> =
            [Ok(NotifyState::Reloading), NotifyState::monotonic_usec_now()].into_iter().flatten().collect();
        systemd::tell(&reloading);
        match Config::load(&self.args) {
            Ok(config) => self.follow(config),
            Err(error) => error!(%error, "the configuration cannot be used, going on with the one before"),
        }
        systemd::tell(&[NotifyState::Ready]);
    }

    fn follow(&mut self, config: Config) {
        // What happened before we were asked is counted as it was to be then.
        while self.handle_records().count == BATCH {}
        let mut keys = self.config.changes(&config.agent);
        let node = |config: &Option<KubernetesConfig>| config.as_ref().map(|config| config.node.clone());
        if node(&self.kubernetes) == node(&config.kubernetes) {
            self.kubernetes = config.kubernetes;
        } else {
            keys.push("kubernetes");
        }
        if !keys.is_empty() {
            warn!(keys = keys.join(", "), "these are as they were until the agent is started anew");
        }
        self.replace(|target| target.pod.is_none(), config.targets);
        let pods = mem::take(&mut self.pods);
        self.replace_pods(pods);
        self.look_at_everybody();
        info!(targets = self.reports.len(), "configuration read again");
    }

    /// Has these targets be watched in the place of those that are `concerned`. To be followed by a look at everybody.
    pub fn replace(&mut self, concerned: impl Fn(&TargetConfig) -> bool, targets: Vec<TargetConfig>) {
        // What is counted by it from now on has it from its first request on.
        if targets.iter().any(|target| target.policy.needs_clients()) {
            self.probe.tell_peers(true);
        }
        for index in (0..self.reports.len()).rev() {
            let config = &self.reports[index].config;
            if concerned(config) && !targets.iter().any(|target| target.spec == config.spec) {
                self.remove(index);
            }
        }
        for target in targets {
            let known = self.reports.iter().position(|report| report.config.spec == target.spec);
            let spec = target.spec.clone();
            let followed = match known {
                Some(index) => self.change(index, target),
                None => self.add_anew(target),
            };
            if let Err(error) = followed {
                error!(target = %spec, %error, "the configuration cannot be followed for this target");
            }
        }
    }

    /// Looks who belongs to the targets as they are now.
    pub fn look_at_everybody(&mut self) {
        self.probe.tell_peers(self.reports.iter().any(|report| report.config.policy.needs_clients()));
        // Who comes from now on is noticed, so that nobody is missed between the two.
        let specs: Vec<TargetSpec> = self.reports.iter().map(|report| report.target.spec.clone()).collect();
        if let Err(error) = self.notice_for(specs.iter()) {
            error!(%error, "targets that are not there yet will not be found");
        }
        // What was a process of one target may be another one's now.
        self.look_at_all();
    }

    /// Has a target counted and reported in another way. What was counted until now goes to where it would have gone.
    fn change(&mut self, index: usize, config: TargetConfig) -> Result<(), Failure> {
        let report = &mut self.reports[index];
        let sink = if report.config.delivery == config.delivery {
            None
        } else {
            report.send(&mut self.pipeline, &self.probe, Occasion::Last);
            let (sink, left) = Sink::open(&config, &report.target, &self.config.state_dir, &mut self.hubs)?;
            take_over(&report.target, left, &mut self.pipeline);
            Some(sink)
        };
        log_warnings(&config);
        self.probe.watch_ports(report.target.id, LocalPorts::of(&config.policy.ports));
        report.change(config, sink, &mut self.pipeline);
        Ok(())
    }

    /// Watches a target that was not watched before. One that is to be known by its port may come later.
    fn add_anew(&mut self, config: TargetConfig) -> Result<(), Failure> {
        let Some(id) = self.free_id() else { return Err(Failure::TooManyTargets) };
        let spec = config.spec.clone();
        let target = if let Some(pod) = &config.pod {
            // One look at everybody does for all of them.
            Target::of_pod(id, spec, pod)
        } else {
            match Target::find(id, spec.clone()) {
                Ok(target) => target,
                Err(error) if spec.may_return() => {
                    warn!(target = %spec, %error, "not there yet, it will be watched when it is");
                    Target::awaited(id, spec)
                }
                Err(error) => return Err(error.into()),
            }
        };
        let documents = Documents::expect(&config.routes);
        let added = self.add(target, config, documents, &self.roots_of());
        if added.is_err() {
            self.forget_target(id);
        }
        added
    }

    /// Watches a target no longer: it has its last words, and is forgotten.
    fn remove(&mut self, index: usize) {
        let id = self.reports[index].target.id;
        for (pid, _) in self.probe.watched().into_iter().filter(|(_, target)| *target == id) {
            self.probe.unwatch(pid);
        }
        while self.handle_records().count == BATCH {}
        self.account_for_turns();
        self.account_for_rest(id);
        let mut report = self.reports.remove(index);
        self.conclude(&mut report);
        self.settle();
        self.forget_target(id);
        info!(pid = report.target.pid, target = %report.config.spec, "watched no longer");
    }

    fn forget_target(&mut self, id: TargetId) {
        self.pipeline.remove_target(id);
        self.probe.forget_target(id);
        debug!(id, "target is forgotten");
    }

    /// A number that no target has, and that none had a moment ago: there may be records under way of one that is
    /// gone. None when there are as many targets as numbers.
    fn free_id(&self) -> Option<TargetId> {
        let is_taken = |id: &TargetId| self.reports.iter().any(|report| report.target.id == *id);
        let numbers = (self.last_id + 1..limits::TARGETS).chain(1..limits::TARGETS);
        numbers.into_iter().find(|id| !is_taken(id))
    }
}
