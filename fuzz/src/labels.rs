//! What names a row: routes out of paths, consumers out of header values.

use std::sync::Arc;

use agent::pipeline::{
    consumer::{ConsumerRules, Consumers, HeaderRule, Identified, Identity},
    route::{Found, MAX_TEMPLATE, Routes, Settle},
};
use httparse::Header;

const MAX_ROUTES: usize = 8;
const MAX_CONSUMERS: usize = 4;

/// Each line is a path and, behind a space, a header's value.
pub fn check(input: &[u8]) {
    let rules = |identity| Arc::new(ConsumerRules { headers: vec![HeaderRule::new("x-who", identity)] });
    let mut routes = Routes::new(MAX_ROUTES);
    let mut plain = Consumers::new(rules(Identity::Plain), MAX_CONSUMERS);
    let mut hashed = Consumers::new(rules(Identity::hashed(&[7; 32])), MAX_CONSUMERS);
    let mut templates = Vec::new();
    for line in input.split(|&byte| byte == b'\n') {
        let (path, value) = line.split_at(line.iter().position(|&byte| byte == b' ').unwrap_or(line.len()));
        if let Ok(path) = str::from_utf8(path) {
            check_path(path, &mut routes, &mut templates);
        }
        check_value(value, &mut plain, &mut hashed);
    }
}

/// A template is printable ASCII within the hub's bound, the same every time, and its own template.
fn check_path(path: &str, routes: &mut Routes, templates: &mut Vec<String>) {
    let found = routes.find(path);
    let candidate = match found {
        Found::Candidate(candidate) => candidate,
        Found::Route(id) => {
            assert!(templates.iter().any(|template| template == routes.template(id)));
            return;
        }
        Found::TooLong => {
            // Placeholders are no longer than what they stand for by more than a few bytes.
            assert!(path.len() > MAX_TEMPLATE / 4);
            return;
        }
        Found::NoRoom => panic!("every candidate was settled"),
    };
    let template = candidate.to_string();
    assert!(template.len() <= MAX_TEMPLATE && template.bytes().all(|byte| byte.is_ascii_graphic()));
    assert_eq!(template.matches('/').count(), path.matches('/').count());
    for same in [path, template.as_str()] {
        let Found::Candidate(again) = routes.find(same) else { panic!("{same:?} was no route yet") };
        assert_eq!(again, candidate);
        routes.settle(again, Settle::Drop);
    }
    match routes.settle(candidate, Settle::Confirm) {
        Some(id) => {
            assert_eq!(routes.template(id), template);
            templates.push(template);
            assert!(templates.len() <= MAX_ROUTES);
        }
        None => assert_eq!(templates.len(), MAX_ROUTES),
    }
}

/// An identifier is short, without blanks around it, and the same every time; a hash does not show what it hides.
fn check_value(value: &[u8], plain: &mut Consumers, hashed: &mut Consumers) {
    if value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return; // no head has such a field
    }
    let fields = [Header { name: "X-Who", value }];
    for consumers in [&mut *plain, &mut *hashed] {
        let identified = consumers.identify(&fields);
        assert_eq!(consumers.identify(&fields), identified);
        if value.trim_ascii().is_empty() {
            assert_eq!(identified, Identified::Nobody);
        }
        if let Identified::Consumer(id) = identified {
            let identifier = consumers.identifier(id).expect("it was given out");
            assert!((1..=128).contains(&identifier.chars().count()));
            assert_eq!(identifier, identifier.trim());
        }
    }
    if let Identified::Consumer(id) = hashed.identify(&fields) {
        let identifier = hashed.identifier(id).expect("it was given out");
        assert!(identifier.len() == 16 && identifier.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}
