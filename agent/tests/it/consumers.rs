//! Very many consumers: what they take of a message.

use std::time::SystemTime;

use agent::{
    hub::Sync,
    pipeline::{
        Limits, Policy,
        consumer::{ConsumerRule, ConsumerRules, Key, OTHERS, Source},
        transcript::{Player, Split, TARGET, read},
    },
};
use uuid::Uuid;

const REQUESTS: usize = 50_000;

/// Every request by somebody else, who gives a name and a group, all as long as the hub takes them.
fn visitors() -> Player {
    let header = |name| Source::header(name).unwrap();
    let rules = ConsumerRules::new(Key::from_client_id("id"), vec![ConsumerRule::new(header("x-who"))]);
    let rules = rules.unwrap().named_by(vec![header("x-name")], vec![header("x-group")]).unwrap();
    let mut player = Player::new(Policy { consumers: rules.into(), ..Policy::default() });
    for who in 0..REQUESTS {
        let fields = format!("X-Who: {who:0128}\\r\\nX-Name: {who:064}\\r\\nX-Group: {who:064}");
        let exchange =
            format!("> GET /items/{who} HTTP/1.1\\r\\n{fields}\\r\\n\\r\\n\n< HTTP/1.1 204 N\\r\\n\\r\\n\n");
        player.play(&read(&exchange), Split::Whole);
    }
    player
}

#[test]
fn fifty_thousand_consumers_make_bounded_messages() {
    let mut player = visitors();
    let limits = Limits::default();
    let mut announced = 0;
    for message in 0..=limits.max_consumers / 1000 {
        let counts = player.pipeline.take_counts(TARGET);
        announced += counts.consumers.len();
        if message == 0 {
            let others = counts.rows.iter().find(|row| row.consumer.as_deref() == Some(OTHERS)).unwrap();
            assert_eq!(others.request_count as usize, REQUESTS - limits.max_consumers);
            assert_eq!(counts.rows.len(), limits.max_consumers + 1);
            assert!(counts.rows.iter().all(|row| row.path == "/items/{id}"), "no route but the one");
        }
        let sync = Sync::new(SystemTime::now(), Uuid::nil(), counts, None);
        let bytes = serde_json::to_vec(&sync).unwrap().len();
        assert!(bytes < 5_000_000, "{bytes} bytes in message {message}");
    }
    let why = "names that did not fit into one message come in the next ones";
    assert_eq!(announced, limits.max_consumers, "{why}");
}
