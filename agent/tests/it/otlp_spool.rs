//! What outlives an outage of an OTLP endpoint, and what outlives the agent.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use agent::{
    delivery::Delivery,
    otlp::{Destination, Dropped, Header, OtlpConfig, Signal, WriteToken},
    spool::{Account, Unsettled},
};
use tests::fake_hub::{FakeHub, Reply};

use crate::{
    hub_spool::{clock, files_in},
    otlp_sender::{AMPLE, BRIEF, METRICS, Sender, TOKEN, config, hub, names},
};

fn keeping(hub: &FakeHub, dir: &Path) -> OtlpConfig {
    OtlpConfig { state_dir: Some(dir.to_owned()), ..config(&hub.url()) }
}

/// All files below a directory.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { tree(&path) } else { vec![path] }).collect()
}

fn messages_in(dir: &Path) -> Vec<PathBuf> {
    let mut messages = tree(dir);
    messages.retain(|path| path.extension().is_some_and(|extension| extension == "msg"));
    messages.sort();
    messages
}

#[test]
fn an_hour_without_an_endpoint_and_three_agents_costs_nothing() {
    const EACH: usize = 78; // of 15 s, by three: 58.5 minutes
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    hub.go_down();
    let (second, clock) = clock();
    let mut sent = Vec::new();
    for agent in 1..=3 {
        let sender = Sender::start(OtlpConfig { clock: clock.clone(), ..keeping(&hub, dir.path()) });
        for _ in 0..EACH {
            let name = format!("m{}", sent.len());
            sender.send(&[(Signal::Metrics, &name)]);
            sent.push(name);
            second.fetch_add(15, Relaxed);
        }
        let waiting = agent * EACH;
        sender.eventually_keeps(waiting);
        if agent < 3 {
            let delivery = sender.finish(BRIEF);
            assert_eq!(delivery, Delivery { delivered: 0, undelivered: waiting, kept: waiting });
            continue;
        }
        assert_eq!(files_in(dir.path()), waiting);
        hub.come_back();
        let state = sender.eventually("all is delivered", |state| state.delivered == waiting as u64);
        assert_eq!((state.dropped.total(), state.spool.recovered), (0, 2 * EACH as u64));
        assert_eq!(sender.finish(AMPLE), Delivery { delivered: 0, undelivered: 0, kept: 0 });
    }
    assert_eq!(names(&hub), sent, "once, in order, and as they were made");
    assert_eq!(files_in(dir.path()), 0);
}

#[test]
fn what_was_tried_for_an_hour_is_given_up_and_counted() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    hub.reply_with(503);
    let (second, clock) = clock();
    let start = || Sender::start(OtlpConfig { clock: clock.clone(), ..keeping(&hub, dir.path()) });
    let sender = start();
    sender.send(&[(Signal::Metrics, "m1")]);
    sender.eventually("it was tried", |state| state.last_answer.is_some());
    sender.finish(BRIEF);
    second.store(59 * 60, Relaxed);
    let sender = start();
    let state = sender.eventually("it is given up", |state| state.queued == 0);
    assert_eq!(state.dropped, Dropped { too_old: 1, ..Dropped::default() });
    sender.send(&[(Signal::Metrics, "m2")]);
    sender.eventually("it was tried in vain", |state| state.last_answer.is_some());
    second.store(2 * 59 * 60 + 60, Relaxed);
    let state = sender.eventually("it is given up, too", |state| state.queued == 0);
    assert_eq!(state.dropped, Dropped { too_old: 2, ..Dropped::default() });
    sender.finish(AMPLE);
    assert_eq!(files_in(dir.path()), 0);
}

#[test]
fn the_next_agent_sends_what_the_last_one_could_not() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    hub.go_down();
    let sender = Sender::start(keeping(&hub, dir.path()));
    sender.send(&[(Signal::Traces, "t1"), (Signal::Logs, "l1"), (Signal::Metrics, "m1")]);
    sender.eventually_keeps(3);
    assert_eq!(sender.finish(BRIEF), Delivery { delivered: 0, undelivered: 3, kept: 3 });

    let sender = Sender::start(keeping(&hub, dir.path()));
    sender.send(&[(Signal::Traces, "t2"), (Signal::Metrics, "m2")]);
    sender.eventually_keeps(5);
    hub.come_back();
    let state = sender.eventually("all is delivered", |state| state.delivered == 5);
    assert_eq!((state.spool.recovered, state.dropped.total()), (3, 0));
    assert_eq!(names(&hub), ["t1", "t2", "l1", "m1", "m2"]);
}

#[test]
fn what_was_answered_too_late_is_sent_again_byte_for_byte() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    hub.reply_to_next(1, METRICS, Reply::Late(AMPLE)); // it has the payload, and we end before it says so
    let sender = Sender::start(keeping(&hub, dir.path()));
    sender.send(&[(Signal::Metrics, "m")]);
    hub.eventually_receives(1, METRICS);
    assert_eq!(sender.finish(BRIEF), Delivery { delivered: 0, undelivered: 1, kept: 1 });
    let sender = Sender::start(keeping(&hub, dir.path()));
    sender.eventually("it is delivered", |state| state.delivered == 1);
    assert_eq!(names(&hub), ["m", "m"]);
}

#[test]
fn what_is_refused_for_good_leaves_the_disk_and_is_counted() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    hub.reply_with(401);
    let sender = Sender::start(keeping(&hub, dir.path()));
    sender.send(&[(Signal::Logs, "l"), (Signal::Metrics, "m")]);
    let state = sender.eventually("both are refused", |state| state.dropped.rejected == 2);
    assert_eq!((state.queued, state.delivered), (0, 0));
    sender.finish(AMPLE);
    assert_eq!(files_in(dir.path()), 0);
}

#[test]
fn torn_files_are_counted_and_hold_up_nothing() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    hub.go_down();
    let sender = Sender::start(keeping(&hub, dir.path()));
    sender.send(&[(Signal::Metrics, "m1"), (Signal::Metrics, "m2"), (Signal::Metrics, "m3")]);
    sender.eventually_keeps(3);
    assert_eq!(sender.finish(BRIEF).kept, 3);
    let torn = &messages_in(dir.path())[1];
    let len = fs::metadata(torn).unwrap().len();
    OpenOptions::new().write(true).open(torn).unwrap().set_len(len - 1).unwrap();
    hub.come_back();
    let sender = Sender::start(keeping(&hub, dir.path()));
    let state = sender.eventually("the others are delivered", |state| state.delivered == 2);
    assert_eq!(state.dropped, Dropped { damaged: 1, ..Dropped::default() });
    assert_eq!(names(&hub), ["m1", "m3"]);
}

#[test]
fn nobody_else_sends_it_and_no_secret_is_on_disk() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    hub.go_down();
    let collector = |key: &str| {
        let key = Header::parse(&format!("X-Api-Key: {key}")).unwrap();
        OtlpConfig { destination: Destination::Collector(vec![key]), ..keeping(&hub, dir.path()) }
    };
    let with_token = |token: &str| {
        let token = WriteToken::parse(token).unwrap();
        OtlpConfig { destination: Destination::Apitally(token), ..keeping(&hub, dir.path()) }
    };
    let owners: [&dyn Fn() -> OtlpConfig; 4] = [
        &|| with_token(TOKEN),
        &|| with_token("apt_2l1K0j9I8h7G6f5E4d3C2b1A"),
        &|| collector("hunter2"),
        &|| collector("hunter3"),
    ];
    for (index, owner) in owners.iter().enumerate() {
        let sender = Sender::start(owner());
        assert_eq!(sender.otlp.state().queued, 0);
        sender.send(&[(Signal::Metrics, &format!("m{index}"))]);
        sender.eventually_keeps(1);
        assert_eq!(sender.finish(BRIEF).kept, 1);
    }
    assert_eq!(files_in(dir.path()), owners.len());
    for path in tree(dir.path()) {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
        let text = format!("{} {}", path.display(), String::from_utf8_lossy(&fs::read(&path).unwrap()));
        assert!(
            !["apt_", &TOKEN[4..], "hunter", "Bearer"].iter().any(|secret| text.contains(secret)),
            "{text}"
        );
    }
    hub.come_back();
    for owner in owners {
        Sender::start(owner()).eventually("its own is delivered", |state| state.delivered == 1);
    }
    assert_eq!(names(&hub), ["m0", "m1", "m2", "m3"]);
}

#[test]
fn what_is_on_disk_is_settled_and_what_is_in_no_payload_is_left() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    hub.go_down();
    let sender = Sender::start(keeping(&hub, dir.path()));
    let claim = |sender: &Sender| {
        let (account, left) = Account::claim(dir.path(), "shop", |life| sender.otlp.settled(life)).unwrap();
        (Arc::new(account), left)
    };
    let (account, left) = claim(&sender);
    assert_eq!(left, Unsettled::default());
    account.note(7, 0);
    sender.send_counts("m", account.receipt(7));
    sender.eventually_keeps(1);
    account.note(5, 2);
    drop(account);
    sender.finish(Duration::ZERO);
    let (_account, left) = claim(&Sender::start(keeping(&hub, dir.path())));
    assert_eq!(left, Unsettled { counted: 5, open: 2 });
}
