//! Kernel events in, counts out: event -> connection -> exchange -> route and consumer -> counters.
//!
//! Pure: no IO, no clock, no async. Everything uncertain comes in as an argument and leaves as a return
//! value, so that a recording, a test and a live machine run the same code. Captured traffic is never an
//! error; what cannot be reconstructed is counted with its reason ([`ledger`]), and nothing is made up.

pub mod coding;
pub mod conn;
pub mod consumer;
pub mod counters;
pub mod cumulative;
pub mod detail;
pub mod errors;
pub mod exponential;
pub mod http;
pub mod ledger;
pub mod route;
pub mod stream;
pub mod target;
pub mod transcript;

use std::{sync::Arc, time::Duration};

use agent_common::{
    conn::{ConnId, Mute, TargetId},
    decode::{Process, Record},
};

use self::{
    conn::{ConnTracker, Targets},
    consumer::ConsumerRules,
    counters::{Counts, Distributions},
    cumulative::Cumulative,
    detail::{Keep, Logged, budget::Budget},
    ledger::{Cause, Ledger},
    route::{Source, declared::Declared},
    target::{Operation, Target},
};

/// Kernel time: CLOCK_MONOTONIC, nanoseconds. Only comparable with itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ktime(pub u64);

impl Ktime {
    /// From `earlier` to here; zero when it is not earlier, as times from different CPUs may be.
    pub fn since(self, earlier: Ktime) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// What is reported as response time. Both begin when the request's head was complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResponseTime {
    /// Until the last byte of the response was handed to the kernel.
    #[default]
    LastByte,
    /// Until the first byte of the final response was.
    FirstByte,
}

/// Bounds. What happens at each, says the type that keeps it; it is counted whenever it happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of all targets together.
    pub max_connections: usize,
    /// After this long without a record, a connection without open exchanges is forgotten. Should it come
    /// back, one exchange is lost until it is proved to be in step.
    pub idle_timeout: Duration,
    /// Likewise, one with open exchanges. Long, since muted bodies bring no records.
    pub idle_open_timeout: Duration,
    /// Requests of one connection that wait for their responses; with one more, the connection is given up.
    pub max_pipelined: usize,
    /// Open exchanges of one target; with one more, its connection is given up.
    pub max_open: u64,
    /// Memory for incomplete heads, of all connections together, bytes.
    pub max_buffered: usize,
    /// Routes of one target that are learned.
    pub max_routes: usize,
    /// Consumers of one target.
    pub max_consumers: usize,
    /// Rows of one target between two takes.
    pub max_rows: usize,
    /// Memory for details of exchanges that are open or not taken yet, of all targets together, bytes. Beyond it
    /// the details are dropped, never the counts.
    pub max_details: usize,
    /// Text that the cumulative rows of all targets together would make, bytes, about. 0: there are none.
    pub max_cumulative: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: agent_common::limits::CONNS as usize,
            idle_timeout: Duration::from_secs(30 * 60),
            idle_open_timeout: Duration::from_secs(60 * 60),
            max_pipelined: 1024,
            max_open: 131_072,
            max_buffered: 16 * 1024 * 1024,
            max_routes: 1000,
            max_consumers: 10_000,
            max_rows: 50_000,
            max_details: 32 * 1024 * 1024,
            max_cumulative: 0,
        }
    }
}

/// What the user decides about one target.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Local ports that count; empty for every port. Connections on others are muted for good and counted.
    pub ports: Vec<u16>,
    pub response_time: ResponseTime,
    pub distributions: Distributions,
    /// None declared: all are learned.
    pub routes: Arc<Declared>,
    pub consumers: Arc<ConsumerRules>,
    pub keep: Keep,
}

impl Policy {
    /// Whether it matters who is at the other end of connections, which the kernel side does not tell unless it is
    /// asked to.
    pub fn needs_clients(&self) -> bool {
        self.consumers.needs_peer() || self.keep.exchanges
    }
}

/// Turns kernel events into counts. Owns its state, performs no IO, never blocks, cannot fail.
#[derive(Debug)]
pub struct Pipeline {
    limits: Limits,
    details: Budget,
    cumulative: Budget,
    conns: ConnTracker,
    targets: Targets,
}

impl Pipeline {
    pub fn new(limits: Limits) -> Self {
        let details = Budget::new(limits.max_details);
        let cumulative = Budget::new(limits.max_cumulative);
        Self { limits, details, cumulative, conns: ConnTracker::default(), targets: Targets::default() }
    }

    /// Starts to take events of a target; those of others are ignored. Adding a target again changes nothing.
    pub fn add_target(&mut self, target: TargetId, policy: Policy) {
        let Self { limits, details, cumulative, targets, .. } = self;
        let cumulative = (limits.max_cumulative > 0).then(|| Cumulative::new(cumulative.clone()));
        targets.entry(target).or_insert_with(|| Target::new(policy, limits, details.clone(), cumulative));
    }

    /// Decides anew about a target: what happens from here on follows this policy. Counts, open exchanges, routes and
    /// consumers stay. Connections that were muted because their port did not count stay muted.
    pub fn set_policy(&mut self, target: TargetId, policy: Policy) {
        if let Some(target) = self.targets.get_mut(&target) {
            target.set_policy(policy);
        }
    }

    /// Forgets a target and all that was counted for it. Finish it and take its counts before.
    pub fn remove_target(&mut self, target: TargetId) {
        self.finish_target(target);
        self.targets.remove(&target);
    }

    pub fn handle_event(&mut self, event: Record<'_>) {
        let Self { limits, conns, targets, .. } = self;
        match event {
            Record::Data(data) => conns.handle_data(&data, targets, limits),
            Record::End(end) => conns.handle_end(&end, targets, limits),
            Record::Closed(closed) => conns.handle_closed(&closed, targets, limits),
            Record::ProcessExited(process) => conns.handle_exit(&process, targets, limits),
            Record::Peer(peer) => conns.handle_peer(&peer, limits),
            Record::ProcessForked(_) | Record::Notice(_) => {}
        }
        debug_assert!(self.targets.values().all(Target::adds_up), "an exchange got lost, or counted twice");
    }

    /// Evicts what has been idle too long; to be called about once a second.
    pub fn handle_tick(&mut self, now: Ktime) {
        self.conns.handle_tick(now, &mut self.targets, &self.limits);
        self.targets.values_mut().for_each(|target| target.handle_tick(now));
        debug_assert!(self.details_add_up(), "memory of details got lost, or was counted twice");
    }

    /// Connections that wait for the end of an exchange, and brought no record for a time that `is_due` likes. A
    /// close that nobody saw leaves them like that.
    pub fn quiet_connections(
        &self,
        now: Ktime,
        is_due: impl Fn(Duration) -> bool,
    ) -> impl Iterator<Item = (TargetId, ConnId)> {
        self.conns.quiet(now, is_due)
    }

    /// Connections that this process used last, and that end with it. Where each of them had come to, the exit does
    /// not say: a close does that, in front of it.
    pub fn last_used_by(&self, process: &Process) -> impl Iterator<Item = ConnId> {
        self.conns.last_used_by(process)
    }

    /// What the kernel side may stop copying, since the last call. Grows by at most one per event: to be
    /// drained after each batch. A later entry of a connection replaces an earlier one.
    pub fn take_mutes(&mut self) -> impl Iterator<Item = (ConnId, Mute)> {
        self.conns.take_mutes()
    }

    /// Connections that the kernel side closed since the last call, known to us or not: what it was told about
    /// them can be removed. To be drained after each batch, and after [`Pipeline::take_mutes`].
    pub fn take_closed(&mut self) -> impl Iterator<Item = ConnId> {
        self.conns.take_closed()
    }

    /// Connections that we have forgotten since the last call, and the kernel side has not. To be drained
    /// likewise.
    pub fn take_forgotten(&mut self) -> impl Iterator<Item = ConnId> {
        self.conns.take_forgotten()
    }

    /// Lets go of connections that are idle now, to give back memory. Should one come back, it is one met in the middle.
    pub fn make_room(&mut self, now: Ktime) {
        self.conns.make_room(now, &mut self.targets, &self.limits);
    }

    /// Counts as lost what the kernel side does not tell of: so many turns, of connections that will bring no more
    /// records.
    pub fn lose(&mut self, target: TargetId, cause: Cause, turns: u64) {
        if let Some(target) = self.targets.get_mut(&target) {
            target.lose(cause, turns);
        }
    }

    /// Counts as lost what an agent that was killed had seen of the target: exchanges that it had counted and not yet
    /// handed over, and those that had no answer yet.
    pub fn lose_killed(&mut self, target: TargetId, counted: u64, open: u64) {
        if let Some(target) = self.targets.get_mut(&target) {
            target.lose(Cause::AgentKilled, counted);
            target.lose(Cause::OpenAtExit, open);
        }
    }

    /// Everything counted since the last call; counting restarts from zero.
    pub fn take_counts(&mut self, target: TargetId) -> Counts {
        self.targets.get_mut(&target).map(Target::take_counts).unwrap_or_default()
    }

    /// Everything counted since the target was added, where [`Limits::max_cumulative`] leaves room for it.
    pub fn cumulative(&self, target: TargetId) -> Vec<cumulative::Row> {
        self.targets.get(&target).map(Target::cumulative).unwrap_or_default()
    }

    /// Has the names of all consumers of a target in its next counts, as if they were new: messages were dropped, and
    /// nobody knows what was in them.
    pub fn resend_consumers(&mut self, target: TargetId) {
        if let Some(target) = self.targets.get_mut(&target) {
            target.resend_consumers();
        }
    }

    /// Goes on with a target by other rules for consumers, or by another table of their names. Counts go on, and who is
    /// known stays known.
    pub fn replace_consumer_rules(&mut self, target: TargetId, rules: Arc<ConsumerRules>) {
        if let Some(target) = self.targets.get_mut(&target) {
            target.replace_consumer_rules(rules);
        }
    }

    /// Exchanges of the target that closed since the last call, where the policy keeps them. To be drained after each
    /// batch.
    pub fn take_logged(&mut self, target: TargetId) -> Vec<Logged> {
        self.targets.get_mut(&target).map(Target::take_logged).unwrap_or_default()
    }

    /// The account of a target since it was added.
    pub fn ledger(&self, target: TargetId) -> Ledger {
        self.targets.get(&target).map(|target| target.ledger).unwrap_or_default()
    }

    /// The bounds it works within.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Templates of a target's routes and where they come from, in the order in which they became known.
    pub fn templates(&self, target: TargetId) -> impl Iterator<Item = (&str, Source)> {
        self.targets.get(&target).into_iter().flat_map(Target::templates)
    }

    /// Consumers of a target that are known.
    pub fn consumers(&self, target: TargetId) -> usize {
        self.targets.get(&target).map_or(0, Target::consumers)
    }

    /// Exchanges of a target that are open right now.
    pub fn open_exchanges(&self, target: TargetId) -> u64 {
        self.targets.get(&target).map_or(0, Target::open_exchanges)
    }

    /// What may be called on a target: what is declared with its method, in that order, and then what was called
    /// beside it, in order of appearance and without HEAD and OPTIONS.
    pub fn operations(&self, target: TargetId) -> Vec<Operation> {
        self.targets.get(&target).map(Target::operations).unwrap_or_default()
    }

    /// Moves when the list of [`Pipeline::operations`] changes.
    pub fn route_generation(&self, target: TargetId) -> u64 {
        self.targets.get(&target).map_or(0, Target::generation)
    }

    /// Ends every exchange of the target that is still open, and takes no more of its events. Counts and
    /// ledger stay.
    pub fn finish_target(&mut self, target: TargetId) {
        self.conns.finish_target(target, &mut self.targets, &self.limits);
        if let Some(target) = self.targets.get_mut(&target) {
            target.finished = true;
        }
    }

    /// Takes events of a finished target again: it is back, as another process. Counts and ledger go on.
    pub fn resume_target(&mut self, target: TargetId) {
        if let Some(target) = self.targets.get_mut(&target) {
            target.finished = false;
        }
    }

    /// Memory held by heads that are not complete, bytes; at most [`Limits::max_buffered`].
    pub fn buffered(&self) -> usize {
        self.conns.buffered()
    }

    /// Memory held by details of exchanges, bytes; at most [`Limits::max_details`].
    pub fn details(&self) -> usize {
        self.details.used()
    }

    /// Whether the memory that details hold is what is counted. Looks at every connection.
    pub fn details_add_up(&self) -> bool {
        let logged: usize = self.targets.values().map(Target::logged).sum();
        self.details.used() == self.conns.details() + logged
    }

    /// Connections of a target that are known right now, muted ones included.
    pub fn connections(&self, target: TargetId) -> usize {
        self.conns.count(target)
    }
}
