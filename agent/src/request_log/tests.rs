use std::{
    io::Read as _,
    time::{Duration, SystemTime},
};

use flate2::read::GzDecoder;
use serde_json::Value;

use super::{fixtures::logged, *};
use crate::{pipeline::Ktime, request_log::file::MAX_FILE};

fn clock() -> WallClock {
    // What the fixtures call 1 s was half a second ago.
    WallClock {
        wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        ktime: Ktime(1_500_000_000),
    }
}

fn exchange(target: &str) -> Logged {
    logged(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), "HTTP/1.1 200 OK\r\nX-Plain: kept\r\n\r\n")
}

fn lines(file: &LogFile) -> Vec<Value> {
    let mut text = String::new();
    GzDecoder::new(file.gzip.as_slice()).read_to_string(&mut text).unwrap();
    assert!(text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn files_hold_a_line_for_each_exchange() {
    let mut log = RequestLog::new(Arc::default());
    assert_eq!(log.close_file(), None);
    for target in ["/a", "/b?token=x", "/ping"] {
        log.add(exchange(target), Instant::now());
    }
    assert_eq!(log.write(&clock()), []);
    log.add(exchange("/c"), Instant::now());
    assert_eq!(log.write(&clock()), []);
    let file = log.close_file().unwrap();
    let lines = lines(&file);
    let urls: Vec<&str> = lines.iter().map(|line| line["request"]["url"].as_str().unwrap()).collect();
    assert_eq!(urls, ["http://a/a", "http://a/b?token=******", "http://a/c"]);
    assert_eq!(file.items, 3);
    assert_eq!(log.counts(), LogCounts { logged: 3, excluded: 1, dropped: 0 });
    assert_eq!(log.close_file(), None);
}

#[test]
fn items_say_when_and_how_long() {
    let mut log = RequestLog::new(Arc::default());
    let mut one = exchange("/a");
    (one.route, one.consumer) = (Some("/{x}".to_owned()), Some("alice".to_owned()));
    (one.request_size, one.response_size) = (None, Some(0));
    log.add(one, Instant::now());
    let [item] = &log.take_items(&clock())[..] else { panic!("one went in") };
    let item = serde_json::to_value(item).unwrap();
    let want = serde_json::json!({
        "uuid": item["uuid"],
        "request": {
            "timestamp": 1_799_999_999.5, "method": "GET", "path": "/{x}", "url": "http://a/a", "consumer": "alice",
        },
        "response": { "status_code": 200, "response_time": 0.04, "headers": [["x-plain", "kept"]], "size": 0 },
    });
    assert_eq!(item, want);
}

#[test]
fn of_too_many_the_latest_are_kept() {
    let mut log = RequestLog::new(Arc::default());
    for number in 0..MAX_WAITING + 7 {
        log.add(exchange(&format!("/{number}")), Instant::now());
    }
    let items = log.take_items(&clock());
    assert_eq!(items.len(), MAX_WAITING);
    assert_eq!(items[0].request.url, "http://a/7");
    assert_eq!(log.counts(), LogCounts { logged: 100, excluded: 0, dropped: 7 });
}

#[test]
fn a_file_that_is_full_is_closed() {
    let mut log = RequestLog::new(Arc::default());
    let mut files = Vec::new();
    let mut noise = fastrand::Rng::with_seed(7);
    for number in 0..400 {
        let word: String = (0..10_000).map(|_| noise.alphanumeric()).collect();
        log.add(exchange(&format!("/{number}/{word}")), Instant::now());
        files.extend(log.write(&clock()));
    }
    files.extend(log.close_file());
    assert!(files.len() > 2, "{}", files.len());
    assert!(files.iter().rev().skip(1).all(|file| (MAX_FILE..MAX_FILE + 300_000).contains(&file.gzip.len())));
    assert_eq!(files.iter().map(|file| lines(file).len() as u64).sum::<u64>(), 400);
    assert_eq!(files.iter().map(|file| file.items).sum::<u64>(), 400);
}

#[test]
fn while_the_hub_takes_none_nothing_is_kept() {
    let mut log = RequestLog::new(Arc::default());
    let start = Instant::now();
    log.add(exchange("/written"), start);
    assert_eq!(log.write(&clock()), []);
    log.add(exchange("/waiting"), start);
    log.pause(start + Duration::from_secs(15));
    log.add(exchange("/later"), start + Duration::from_secs(14));
    assert_eq!((log.write(&clock()), log.close_file()), (vec![], None));
    assert_eq!(log.counts(), LogCounts { logged: 0, excluded: 0, dropped: 3 });
    log.add(exchange("/again"), start + Duration::from_secs(15));
    assert_eq!(log.take_items(&clock()).len(), 1);
}

#[test]
fn wall_time_follows_kernel_time() {
    let at = |ns| clock().at(Ktime(ns)).as_secs_f64();
    assert_eq!((at(1_500_000_000), at(1_000_000_000), at(2_000_000_000)), (1.8e9, 1.8e9 - 0.5, 1.8e9 + 0.5));
}
