//! Where messages go: to the hub, or to stdout.

use std::time::Duration;

use tracing::{debug, error};

use super::LAST_WORDS;
use crate::{
    config::{HubTarget, SinkConfig},
    dry_run,
    exit::Failure,
    hub::{BaseUrl, Hub, HubConfig, HubState, Instance, Pace, Startup, Sync},
    pipeline::ledger::Ledger,
    watch::Target,
};

/// Where messages go.
pub enum Sink {
    Hub { hub: Hub, target: HubTarget },
    Stdout,
}

impl Sink {
    pub fn open(config: SinkConfig, sync_interval: Option<Duration>) -> Result<Self, Failure> {
        Ok(match config {
            SinkConfig::Stdout => Self::Stdout,
            SinkConfig::Hub(target) => {
                let config =
                    HubConfig::new(target.base_url.clone(), target.client_id.clone(), target.env.clone());
                let hub = Hub::start(HubConfig { pace: Pace::for_interval(sync_interval), ..config })?;
                Self::Hub { hub, target }
            }
        })
    }

    pub fn claim_instance(&self, target: &Target) -> Option<Instance> {
        match self {
            Self::Hub { target: hub, .. } => {
                Some(Instance::claim(&hub.state_dir, &hub.client_id, &hub.env, &target.stable_name()))
            }
            Self::Stdout => None,
        }
    }

    pub fn startup(&mut self, pid: u32, message: &Startup) {
        match self {
            Self::Hub { hub, .. } => hub.send_startup(message),
            Self::Stdout => dry_run::print_startup(pid, message),
        }
    }

    pub fn sync(&mut self, pid: u32, message: &Sync) {
        match self {
            Self::Hub { hub, .. } => hub.send_sync(message),
            Self::Stdout => dry_run::print_sync(pid, message),
        }
    }

    pub fn ledger(&self, pid: u32, ledger: &Ledger) {
        if matches!(self, Self::Stdout) {
            dry_run::print_ledger(pid, ledger);
        }
    }

    /// The hub's address, and how the delivery stands.
    pub fn hub(&self) -> Option<(&BaseUrl, HubState)> {
        match self {
            Self::Hub { hub, target } => Some((&target.base_url, hub.state())),
            Self::Stdout => None,
        }
    }

    pub async fn close(self) {
        if let Self::Hub { hub, .. } = self {
            let delivery = hub.finish(LAST_WORDS).await;
            if delivery.undelivered > 0 {
                error!(
                    messages = delivery.undelivered,
                    "the hub did not take the last messages, their counts are lost"
                );
            } else {
                debug!(messages = delivery.delivered, "last messages delivered");
            }
        }
    }
}
