//! What outlives an outage, and what outlives the agent.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use agent::{
    delivery::Delivery,
    hub::{Dropped, HubConfig, Pace},
    request_log::file::LogFile,
    spool::{Clock, Moment},
};
use serde_json::{Value, to_value};
use tests::fake_hub::{FakeHub, Kind, Received, Reply};
use uuid::Uuid;

use crate::hub_reporter::{CLIENT_ID, ENV, ROUTE, Reporter, config};

const AMPLE: Duration = Duration::from_secs(20);
/// Where the hub will not answer anyway.
const BRIEF: Duration = Duration::from_millis(150);

fn keeping(hub: &FakeHub, dir: &Path) -> HubConfig {
    HubConfig { state_dir: Some(dir.to_owned()), ..config(&hub.url()) }
}

/// A clock that goes on when it is told to.
pub fn clock() -> (Arc<AtomicU64>, Clock) {
    let (second, start) = (Arc::new(AtomicU64::new(0)), Moment::now());
    let hand = Arc::clone(&second);
    let now = move || {
        let passed = Duration::from_secs(hand.load(Relaxed));
        Moment { wall: start.wall + passed, since_boot: start.since_boot + passed, ..start }
    };
    (second, Clock::new(now))
}

fn bodies(received: &[Received]) -> Vec<Value> {
    received.iter().map(|message| message.body.clone()).collect()
}

pub fn files_in(dir: &Path) -> usize {
    let dirs = fs::read_dir(dir.join("spool")).unwrap().map(|entry| entry.unwrap().path());
    let names = dirs.flat_map(|dir| fs::read_dir(dir).unwrap()).map(|file| file.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".msg")).count()
}

#[test]
fn an_hour_without_a_hub_and_three_agents_costs_nothing() {
    const EACH: u64 = 120;
    let (hub, dir) = (FakeHub::start(), tempfile::tempdir().unwrap());
    hub.go_down();
    let (second, clock) = clock();
    let (instance, mut sent) = (Uuid::new_v4(), Vec::new());
    for agent in 0..3 {
        let mut reporter = Reporter::start(HubConfig { clock: clock.clone(), ..keeping(&hub, dir.path()) });
        reporter.instance = instance;
        for n in 0..EACH {
            second.store(10 * sent.len() as u64, Relaxed);
            sent.push(to_value(reporter.sync(n % 7)).unwrap());
        }
        if agent < 2 {
            let waiting = usize::try_from((agent + 1) * EACH).unwrap();
            reporter
                .eventually("all are on disk", |state| state.queued == waiting && state.spool.in_memory == 0);
            let delivery = reporter.finish(BRIEF);
            assert_eq!(delivery, Delivery { delivered: 0, undelivered: waiting, kept: waiting });
            continue;
        }
        reporter.eventually("all are on disk", |state| state.queued == 360 && state.spool.in_memory == 0);
        assert_eq!(files_in(dir.path()), 360);
        hub.come_back();
        let state = reporter.eventually("all is delivered", |state| state.delivered == 360);
        assert_eq!((state.dropped.total(), state.spool.recovered), (0, 240));
        assert_eq!(reporter.finish(AMPLE), Delivery { delivered: 0, undelivered: 0, kept: 0 });
    }
    assert_eq!(bodies(&hub.accepted()), sent, "once, in order, and as they were made");
    assert_eq!(hub.duplicates(), [""; 0]);
    assert_eq!(files_in(dir.path()), 0);
}

#[test]
fn what_is_older_than_an_hour_is_dropped_and_counted() {
    let (hub, dir) = (FakeHub::start(), tempfile::tempdir().unwrap());
    hub.go_down();
    let (second, clock) = clock();
    let reporter = Reporter::start(HubConfig { clock, ..keeping(&hub, dir.path()) });
    for n in 1..=3 {
        reporter.sync(n);
        reporter.eventually("it is on disk", |state| state.queued as u64 == n && state.spool.in_memory == 0);
        second.fetch_add(1000, Relaxed);
    }
    second.store(3601, Relaxed); // the first is older than an hour, the second and the third are not
    reporter.eventually("the first is dropped", |state| state.dropped.total() > 0);
    hub.come_back();
    let state = reporter.eventually("the others are delivered", |state| state.delivered == 2);
    assert_eq!(state.dropped, Dropped { too_old: 1, ..Dropped::default() });
    assert_eq!(hub.counted("GET", ROUTE, 200), 2 + 3);
}

#[test]
fn the_next_agent_sends_what_the_last_one_could_not() {
    let (hub, dir) = (FakeHub::start(), tempfile::tempdir().unwrap());
    hub.go_down();
    let mut reporter = Reporter::start(keeping(&hub, dir.path()));
    let instance = reporter.instance;
    reporter.startup(1);
    let mut sent = vec![to_value(reporter.sync(1)).unwrap(), to_value(reporter.sync(2)).unwrap()];
    assert_eq!(reporter.finish(BRIEF), Delivery { delivered: 0, undelivered: 3, kept: 3 });

    reporter = Reporter::start(keeping(&hub, dir.path()));
    reporter.instance = instance;
    let startup = to_value(reporter.startup(2)).unwrap(); // takes the place of the first
    sent.push(to_value(reporter.sync(3)).unwrap());
    reporter.eventually("all are on disk", |state| state.queued == 4 && state.spool.in_memory == 0);
    hub.come_back();
    let state = reporter.eventually("all is delivered", |state| state.delivered == 4);
    assert_eq!((state.spool.recovered, state.dropped.total()), (3, 0));
    assert_eq!(bodies(&hub.received_of(Kind::Startup)), [startup]);
    assert_eq!(bodies(&hub.received_of(Kind::Sync)), sent);
}

#[test]
fn what_was_answered_too_late_is_sent_again_with_the_same_identity() {
    let (hub, dir) = (FakeHub::start(), tempfile::tempdir().unwrap());
    hub.reply_to_next(1, Kind::Sync, Reply::Late(AMPLE)); // it has the message, and we end before it says so
    let reporter = Reporter::start(keeping(&hub, dir.path()));
    let sync = reporter.sync(7);
    hub.eventually_receives(1, Kind::Sync);
    assert_eq!(reporter.finish(BRIEF), Delivery { delivered: 0, undelivered: 1, kept: 1 });
    let reporter = Reporter::start(keeping(&hub, dir.path()));
    reporter.eventually("it is delivered", |state| state.delivered == 1);
    assert_eq!(hub.duplicates(), [sync.message_uuid.to_string()]);
    assert_eq!(hub.counted("GET", ROUTE, 200), 7);
}

#[test]
fn without_a_directory_the_delivery_goes_on_and_says_so() {
    let (hub, file) = (FakeHub::start(), tempfile::NamedTempFile::new().unwrap());
    let reporter = Reporter::start(keeping(&hub, file.path()));
    reporter.sync(1);
    let state = reporter.eventually("it is delivered", |state| state.delivered == 1);
    assert!(state.spool.degraded.is_some());
    hub.go_down();
    reporter.sync(1);
    assert_eq!(reporter.finish(BRIEF), Delivery { delivered: 0, undelivered: 1, kept: 0 });
}

#[test]
fn three_hundred_messages_do_not_hold_up_the_end() {
    for reply in [Reply::Silence, Reply::Status(503), Reply::Late(Duration::from_millis(40))] {
        let (hub, dir) = (FakeHub::start(), tempfile::tempdir().unwrap());
        hub.reply_with(reply);
        let reporter = Reporter::start(HubConfig { pace: Pace::default(), ..keeping(&hub, dir.path()) });
        (0..300).for_each(|_| _ = reporter.sync(1));
        reporter.eventually("all are on disk", |state| {
            state.queued as u64 + state.delivered == 300 && state.spool.in_memory == 0
        });
        let asked = Instant::now();
        let delivery = reporter.finish(Duration::from_secs(2));
        assert!(asked.elapsed() < Duration::from_secs(3), "{reply:?}: {:?}", asked.elapsed());
        assert_eq!(delivery.kept, delivery.undelivered, "{reply:?}");
        // What was being sent at the deadline, the hub may have.
        let accepted = hub.accepted().len();
        assert!((300..=301).contains(&(accepted + delivery.kept)), "{reply:?}: {accepted}, {delivery:?}");
    }
}

/// A hundred targets that report every ten seconds.
#[test]
fn many_targets_do_not_fall_behind() {
    let hub = FakeHub::start();
    let mut reporter = Reporter::start(HubConfig { pace: Pace::default(), ..config(&hub.url()) });
    for instance in 0..100 {
        reporter.instance = Uuid::from_u128(instance);
        reporter.sync(1);
    }
    let asked = Instant::now();
    reporter.eventually("all is delivered", |state| state.delivered == 100);
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
}

impl Reporter {
    fn log(&self, n: u128) -> Uuid {
        let uuid = Uuid::from_u128(n);
        let gzip = format!("\x1f\u{8b}file {n}").into_bytes();
        self.hub.send_log(self.instance, LogFile { uuid, gzip, items: 1 });
        uuid
    }
}

#[test]
fn log_files_are_uploaded_as_files() {
    let (hub, dir) = (FakeHub::start(), tempfile::tempdir().unwrap());
    hub.go_down();
    let reporter = Reporter::start(keeping(&hub, dir.path()));
    let uuid = reporter.log(1);
    reporter.sync(1);
    reporter.finish(BRIEF);
    hub.come_back();
    let reporter = Reporter::start(keeping(&hub, dir.path()));
    reporter.eventually("both are delivered", |state| state.delivered == 2);
    let received = hub.received();
    assert_eq!(received.iter().map(|message| message.kind).collect::<Vec<_>>(), [Kind::Sync, Kind::Log]);
    let file = &received[1];
    assert_eq!(file.target, format!("/v2/{CLIENT_ID}/{ENV}/log?uuid={uuid}"));
    assert_eq!(file.raw_body, "\x1f\u{8b}file 1".as_bytes());
    assert_eq!((file.header("content-encoding"), file.header("content-type")), (None, None));
    assert_eq!(file.header("content-length"), Some("9"));
}

#[test]
fn a_failed_upload_keeps_its_place_and_holds_up_no_sync() {
    let hub = FakeHub::start();
    hub.reply_to_next(2, Kind::Log, 503);
    let reporter = Reporter::start(config(&hub.url()));
    let sent: Vec<String> = (1..=3).map(|n| reporter.log(n).to_string()).collect();
    reporter.sync(1);
    reporter.eventually("all is delivered", |state| state.delivered == 4);
    let uuids = |received: Vec<Received>| -> Vec<String> {
        received.iter().map(|message| message.message_uuid().to_owned()).collect()
    };
    let tries = [&sent[..1], &sent[..1], &sent].concat();
    assert_eq!(uuids(hub.received_of(Kind::Log)), tries, "one try an interval, then all");
}

#[test]
fn when_the_quota_is_used_up_logs_pause_and_metrics_do_not() {
    let hub = FakeHub::start();
    hub.reply_to_next(1, Kind::Log, Reply::QuotaUsedUp(3600));
    let reporter = Reporter::start(config(&hub.url()));
    (1..=3).for_each(|n| _ = reporter.log(n));
    let state = reporter.eventually("the logs are dropped", |state| state.dropped.logs_paused == 3);
    assert!(state.logs_paused_until.is_some());
    reporter.log(4);
    reporter.sync(1);
    let state = reporter.eventually("the sync is delivered", |state| state.delivered == 1);
    assert_eq!((state.dropped.logs_paused, state.queued), (4, 0));
    assert_eq!(hub.received_of(Kind::Log).len(), 1);
}

#[test]
fn without_a_time_a_used_up_quota_is_a_failure_like_others() {
    let hub = FakeHub::start();
    hub.reply_to_next(1, Kind::Log, 402);
    hub.reply_to_next(1, Kind::Log, 422);
    let reporter = Reporter::start(config(&hub.url()));
    (1..=2).for_each(|n| _ = reporter.log(n));
    let state = reporter.eventually("one is delivered", |state| state.delivered == 1);
    assert_eq!(state.dropped, Dropped { rejected: 1, ..Dropped::default() });
    assert_eq!(hub.received_of(Kind::Log).len(), 3);
}
