//! What names a row: routes out of paths, consumers out of header values.
//!
//! The paths of the first lines are declared, as far as they are patterns; the others, and the same ones again, are
//! looked up where these are all there is, and where templates are learned.

use std::sync::Arc;

use agent::pipeline::{
    consumer::{ConsumerRules, Consumers, HeaderRule, Identified, Identity},
    http::head::Method,
    route::{
        Found, MAX_TEMPLATE, RouteId, Routes, Settle,
        declared::{Declared, Endpoint, Matching, TrailingSlash},
    },
};
use httparse::Header;

const MAX_ROUTES: usize = 8;
const MAX_DECLARED: usize = 16;
/// The longest path that a template may be made of: percent-encoding triples it.
const SURELY_SHORT: usize = MAX_TEMPLATE / 3 - 8;
const MAX_CONSUMERS: usize = 4;

/// Each line is a path and, behind a space, a header's value.
pub fn check(input: &[u8]) {
    let rules = |identity| Arc::new(ConsumerRules { headers: vec![HeaderRule::new("x-who", identity)] });
    let lines = input.split(|&byte| byte == b'\n');
    let paths: Vec<&str> = lines.filter_map(|line| str::from_utf8(line).ok()).collect();
    check_declared(&paths);
    let mut routes = Routes::new(Arc::default(), MAX_ROUTES);
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

/// Whatever is declared, a look-up is the same every time, whatever the order of the routes; a path with words in
/// place of the parameters leads to some declared route.
fn check_declared(lines: &[&str]) {
    let mut endpoints: Vec<Endpoint> =
        lines.iter().filter_map(|line| Endpoint::parse(line).ok()).take(MAX_DECLARED).collect();
    for trailing_slash in [TrailingSlash::Strict, TrailingSlash::Ignore] {
        let matching = Matching { trailing_slash, ..Matching::default() };
        let declared = Arc::new(Declared::new(endpoints.clone(), matching).expect("they are few"));
        let mut routes = Routes::new(Arc::clone(&declared), MAX_ROUTES);
        assert_eq!(routes.templates().count(), declared.templates().count());
        for path in lines.iter().filter(|line| line.starts_with('/')) {
            for method in [None, Some(Method::GET), Some(Method::HEAD)] {
                let found = routes.find(method, path);
                assert_eq!(routes.find(method, path), found);
                match found {
                    Found::Route(id) => {
                        assert!(declared.templates().any(|(template, _)| template == routes.template(id)));
                    }
                    Found::Unmatched => assert!(!declared.is_empty()),
                    Found::Candidate(_) | Found::TooLong => assert!(declared.is_empty()),
                    Found::NoRoom => assert!(declared.is_empty() && lines.len() > 1000),
                }
            }
        }
        for endpoint in &endpoints {
            let template = endpoint.pattern.template();
            assert!(template.starts_with('/') && template.len() <= MAX_TEMPLATE);
            assert!(template.bytes().all(|byte| byte.is_ascii_graphic()));
            if endpoint.pattern.is_literal() {
                assert!(matches!(routes.find(endpoint.method, template), Found::Route(_)), "{template}");
            }
        }
        // Declared anew, in whatever order, routes keep their ids.
        let ids = |routes: &mut Routes| -> Vec<Option<RouteId>> {
            let find = |line: &&str| match routes.find(Some(Method::GET), line) {
                Found::Route(id) => Some(id),
                _ => None,
            };
            lines.iter().filter(|line| line.starts_with('/')).map(find).collect()
        };
        if !declared.is_empty() {
            let before = ids(&mut routes);
            routes.replace(Arc::clone(&declared));
            assert_eq!(ids(&mut routes), before);
        }
        endpoints.reverse();
    }
}

/// A template is printable ASCII within the hub's bound, the same every time, and settles on itself.
fn check_path(path: &str, routes: &mut Routes, templates: &mut Vec<String>) {
    let candidate = match routes.find(None, path) {
        Found::Candidate(candidate) => candidate,
        Found::Route(id) => {
            assert!(templates.iter().any(|template| template == routes.template(id)));
            return;
        }
        Found::TooLong => {
            assert!(path.len() > SURELY_SHORT || path.matches('/').count() >= 128);
            return;
        }
        found => panic!("{found:?}, and nothing is declared and every candidate was settled"),
    };
    let template = candidate.to_string();
    assert!(template.len() <= MAX_TEMPLATE && template.bytes().all(|byte| byte.is_ascii_graphic()));
    assert_eq!(template.matches('/').count(), path.matches('/').count());
    let Found::Candidate(again) = routes.find(None, path) else { panic!("{path:?} was no route yet") };
    assert_eq!(again, candidate);
    assert_eq!(routes.settle(again, Settle::Drop), None);
    match routes.settle(candidate, Settle::Confirm) {
        Some(id) => {
            assert_eq!(routes.template(id), template);
            assert_eq!(routes.find(None, path), Found::Route(id));
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
