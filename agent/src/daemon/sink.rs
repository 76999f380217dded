//! Where the messages of a target go: to the hub, by OTLP, to stdout, or nowhere.

use std::{
    path::Path,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::task::JoinSet;
use tracing::{debug, error, warn};
use uuid::Uuid;

use super::{
    LAST_WORDS,
    otlp::{self, OtlpSink, Otlps},
};
use crate::{
    config::{Delivery, HubTarget, TargetConfig},
    delivery::{self, StartError},
    dry_run,
    exit::Failure,
    hub::{App, Env, Hub, HubConfig, Instance, Pace, Resources, Startup, Sync},
    machine,
    pipeline::{counters::Counts, ledger::Ledger},
    request_log::{RequestLog, item::WallClock, policy::LogPolicy},
    spool::{Account, Unsettled},
    watch::Target,
};

/// Where the messages of one target go, and in whose name.
pub enum Sink {
    Hub {
        hub: Rc<Hub>,
        instance: Instance,
        /// What the end of the agent would cost. None where there is no directory for it.
        account: Option<Arc<Account>>,
    },
    Otlp(Box<OtlpSink>),
    Stdout,
    Nowhere,
}

impl Sink {
    /// Gives, too, what an agent that was killed had counted of this target and could not hand over.
    pub fn open(
        config: &TargetConfig,
        target: &Target,
        state_dir: &Path,
        hubs: &mut Hubs,
    ) -> Result<(Self, Unsettled), Failure> {
        match &config.delivery {
            Delivery::Hub(app) => {
                let hub = hubs.start(app, config.sync_interval, state_dir)?;
                Ok(Self::to_hub(hub, app, target, state_dir))
            }
            Delivery::Otlp(to) => {
                let delivery = hubs.otlps.start(to, config.sync_interval, state_dir)?;
                let endpoint = otlp::config(to);
                let settled = |life| delivery.settled(life);
                let (account, left) = claim_account(state_dir, &endpoint.spool_name(), target, settled);
                let sink = OtlpSink::new(&endpoint, &config.app, target, Some(Rc::clone(&delivery)), account);
                Ok((Self::Otlp(sink.into()), left))
            }
            Delivery::OtlpStdout(to) => {
                let sink = OtlpSink::new(&otlp::config(to), &config.app, target, None, None);
                Ok((Self::Otlp(sink.into()), Unsettled::default()))
            }
            Delivery::Stdout => Ok((Self::Stdout, Unsettled::default())),
            Delivery::Nowhere => Ok((Self::Nowhere, Unsettled::default())),
        }
    }

    fn to_hub(hub: Rc<Hub>, app: &HubTarget, target: &Target, state_dir: &Path) -> (Self, Unsettled) {
        let HubTarget { client_id, env, .. } = app;
        let instance = Instance::claim(state_dir, client_id, env, &target.stable_name());
        let destination = format!("hub {client_id} {env}");
        let (account, left) = claim_account(state_dir, &destination, target, |life| hub.settled(life));
        (Self::Hub { hub, instance, account }, left)
    }

    /// Says how many exchanges were counted that are in no message yet, and how many have no answer yet.
    pub fn note(&self, counted: u64, open: u64) {
        let account = match self {
            Self::Hub { account, .. } => account,
            Self::Otlp(otlp) => &otlp.account,
            Self::Stdout | Self::Nowhere => return,
        };
        if let Some(account) = account {
            account.note(counted, open);
        }
    }

    /// Messages that were given up so far, for whatever reason.
    pub fn dropped(&self) -> u64 {
        match self {
            Self::Hub { hub, .. } => hub.state().dropped.total(),
            Self::Otlp(otlp) => otlp.dropped(),
            Self::Stdout | Self::Nowhere => 0,
        }
    }

    /// `log`: what is logged of requests.
    pub fn startup(&mut self, pid: u32, app: App, log: Option<&LogPolicy>) {
        match self {
            Self::Hub { hub, instance, .. } => hub.send_startup(&Startup::new(instance.uuid, app)),
            Self::Otlp(otlp) => otlp.startup(pid, app, log),
            Self::Stdout => dry_run::print_startup(pid, &Startup::new(Uuid::nil(), app)),
            Self::Nowhere => {}
        }
    }

    /// `exchanges`: how many are in the counts.
    pub fn sync(&mut self, pid: u32, counts: Counts, exchanges: u64, resources: Option<Resources>) {
        let now = SystemTime::now();
        match self {
            Self::Hub { hub, instance, account } => {
                let receipt = account.as_ref().map(|account| account.receipt(exchanges));
                hub.send_sync(&Sync::new(now, instance.uuid, counts, resources), receipt);
            }
            Self::Otlp(otlp) => otlp.counts(pid, &counts, resources),
            Self::Stdout => dry_run::print_sync(pid, &Sync::new(now, Uuid::nil(), counts, resources)),
            Self::Nowhere => {}
        }
    }

    /// Takes the requests that wait in the log. A hub gets them in files, those that are full at once.
    pub fn write_log(&mut self, pid: u32, log: &mut RequestLog, clock: &WallClock) {
        match self {
            Self::Hub { hub, instance, .. } => {
                if let Some(until) = hub.state().logs_paused_until {
                    log.pause(Instant::now() + until.duration_since(clock.wall).unwrap_or_default());
                }
                for file in log.write(clock) {
                    hub.send_log(instance.uuid, file);
                }
            }
            Self::Otlp(otlp) => otlp.requests(pid, log, clock),
            Self::Stdout => log.take_items(clock).iter().for_each(|item| dry_run::print_log(pid, item)),
            Self::Nowhere => {}
        }
    }

    /// Sends the file that is being written.
    pub fn end_log_file(&self, log: &mut RequestLog) {
        if let (Self::Hub { hub, instance, .. }, Some(file)) = (self, log.close_file()) {
            hub.send_log(instance.uuid, file);
        }
    }

    pub fn ledger(&self, pid: u32, ledger: &Ledger) {
        match self {
            Self::Stdout => dry_run::print_ledger(pid, ledger),
            Self::Otlp(otlp) if otlp.is_dry_run() => dry_run::print_ledger(pid, ledger),
            Self::Otlp(_) | Self::Hub { .. } | Self::Nowhere => {}
        }
    }
}

/// The account of what a target reports to a destination; none where there is no directory for it.
fn claim_account(
    state_dir: &Path,
    destination: &str,
    target: &Target,
    settled: impl Fn(Uuid) -> Option<u64>,
) -> (Option<Arc<Account>>, Unsettled) {
    let owner = format!("{destination} {} {}", target.stable_name(), machine::identity());
    Account::claim(state_dir, &owner, settled)
        .map(|(account, left)| (Some(Arc::new(account)), left))
        .inspect_err(|error| debug!(%error, "nobody will know what the end of this agent cost"))
        .unwrap_or_default()
}

/// The deliveries that run: one for each environment of each app, whatever number of targets reports to it.
#[derive(Default)]
pub struct Hubs {
    pub otlps: Otlps,
    running: Vec<(HubTarget, Rc<Hub>)>,
}

impl Hubs {
    /// The delivery to this environment, started if it does not run yet. The target that comes first decides how
    /// patient it is.
    fn start(
        &mut self,
        app: &HubTarget,
        sync_interval: Option<Duration>,
        state_dir: &Path,
    ) -> Result<Rc<Hub>, StartError> {
        if let Some((_, hub)) = self.running.iter().find(|(known, _)| known == app) {
            return Ok(Rc::clone(hub));
        }
        let HubTarget { base_url, client_id, env } = app.clone();
        let (pace, state_dir) = (Pace::for_interval(sync_interval), Some(state_dir.to_owned()));
        let config = HubConfig { pace, state_dir, ..HubConfig::new(base_url, client_id, env) };
        let hub = Rc::new(Hub::start(config)?);
        self.running.push((app.clone(), Rc::clone(&hub)));
        Ok(hub)
    }

    /// Where each one delivers.
    pub fn deliveries(&self) -> impl Iterator<Item = (&HubTarget, &Hub)> {
        self.running.iter().map(|(app, hub)| (app, &**hub))
    }

    /// Ends those that no target reports to any more, once they have sent what they had.
    pub fn end_unused(&mut self) {
        let is_unused = |(_, hub): &mut (_, Rc<Hub>)| Rc::strong_count(hub) == 1 && hub.state().queued == 0;
        for (_, hub) in self.running.extract_if(.., is_unused) {
            if let Some(hub) = Rc::into_inner(hub) {
                tokio::spawn(hub.finish(LAST_WORDS));
            }
        }
    }

    /// Sends what waits, to all at once, and ends. To be called when the last sink is gone.
    pub async fn close(self) {
        let mut closing = JoinSet::new();
        for (app, hub) in self.running {
            if let Some(hub) = Rc::into_inner(hub) {
                closing.spawn(async move { ("hub", app.env, hub.finish(LAST_WORDS).await) });
            }
        }
        for (target, otlp) in self.otlps.running {
            if let Some(otlp) = Rc::into_inner(otlp) {
                closing.spawn(async move { ("OTLP endpoint", target.env, otlp.finish(LAST_WORDS).await) });
            }
        }
        while let Some(closed) = closing.join_next().await {
            let Ok((to, env, delivery)) = closed else { continue };
            log_last_words(to, &env, delivery);
        }
    }
}

fn log_last_words(to: &str, env: &Env, delivery: delivery::Delivery) {
    let (env, messages) = (env.as_str(), delivery.kept);
    let lost = delivery.undelivered.saturating_sub(delivery.kept);
    if lost > 0 {
        error!(env, messages = lost, "the {to} did not take the last messages, their counts are lost");
    }
    if messages > 0 {
        warn!(env, messages, "the {to} did not take the last messages, they wait on disk for the next agent");
    } else if lost == 0 {
        debug!(env, messages = delivery.delivered, "last messages delivered");
    }
}
