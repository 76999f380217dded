//! A hub client as the daemon runs it, for tests that block.

use std::{
    fs::File,
    time::{Duration, SystemTime},
};

use agent::{
    delivery::Delivery,
    hub::{App, BaseUrl, ClientId, Env, Hub, HubConfig, HubState, Pace, PathItem, Startup, Sync},
    pipeline::counters::{Counts, Row},
};
use tests::eventually::eventually;
use uuid::Uuid;

use crate::aside::Aside;

pub const CLIENT_ID: &str = "76b5cb91-a0a4-4ea0-a894-57d2b9fcb2c9";
pub const ENV: &str = "golden";

/// What `reporter.sync(n)` counts.
pub const ROUTE: &str = "/items/{id}";

pub struct Reporter {
    pub hub: Hub,
    pub instance: Uuid,
    aside: Aside,
}

/// Quick about everything that takes seconds in earnest, but for the timeout: a busy machine is not a silent hub.
pub fn config(url: &str) -> HubConfig {
    HubConfig {
        pace: Pace {
            retry_base: Duration::from_millis(4),
            between: Duration::ZERO,
            catching_up: (Duration::ZERO, Duration::from_millis(2)),
            catch_up_within: Duration::from_secs(180),
            next_round: Duration::from_millis(20),
            next_round_jitter: Duration::from_millis(2),
        },
        ..HubConfig::new(
            BaseUrl::parse(url).unwrap(),
            ClientId::parse(CLIENT_ID).unwrap(),
            Env::parse(ENV).unwrap(),
        )
    }
}

impl Reporter {
    pub fn start(config: HubConfig) -> Self {
        Self::start_logging_to(config, tempfile::tempfile().unwrap())
    }

    pub fn start_logging_to(config: HubConfig, log: File) -> Self {
        let aside = Aside::start(log);
        let hub = aside.spawning(|| Hub::start(config).unwrap());
        Self { hub, instance: Uuid::new_v4(), aside }
    }

    /// Sends a sync that counts `requests`.
    pub fn sync(&self, requests: u64) -> Sync {
        let row = Row {
            method: "GET".to_owned(),
            path: ROUTE.to_owned(),
            status: 200,
            request_count: requests,
            response_times: [(0, requests)].into(),
            ..Row::default()
        };
        let counts = Counts { rows: vec![row], ..Counts::default() };
        let sync = Sync::new(SystemTime::now(), self.instance, counts, None);
        self.hub.send_sync(&sync, None);
        sync
    }

    /// Sends a start-up with this many routes.
    pub fn startup(&self, routes: usize) -> Startup {
        let route = |n| PathItem { method: "GET".to_owned(), path: format!("/{n}"), ..PathItem::default() };
        let app = App { routes: (0..routes).map(route).collect(), ..App::default() };
        let startup = Startup::new(self.instance, app);
        self.hub.send_startup(&startup);
        startup
    }

    pub fn eventually(&self, what: &str, check: impl Fn(&HubState) -> bool) -> HubState {
        eventually(what, Duration::from_secs(20), || Some(self.hub.state()).filter(&check))
    }

    pub fn finish(self, deadline: Duration) -> Delivery {
        self.aside.block_on(self.hub.finish(deadline))
    }
}
