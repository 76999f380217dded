//! What names a row: routes out of paths, consumers out of whatever says who called.
//!
//! The paths of the first lines are declared, as far as they are patterns; the others, and the same ones again, are
//! looked up where these are all there is, and where templates are learned.

use std::sync::Arc;

use agent::pipeline::{
    consumer::{
        CertificatePart, ConsumerRule, ConsumerRules, Consumers, Evidence, Forwarding, Hashing, Identified,
        Key, Source,
    },
    http::head::Method,
    route::{
        Found, MAX_TEMPLATE, RouteId, Routes, Settle,
        declared::{Declared, Endpoint, Matching, TrailingSlash},
    },
};
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine as _};
use httparse::Header;

const MAX_ROUTES: usize = 8;
const MAX_DECLARED: usize = 16;
/// The longest path that a template may be made of: percent-encoding triples it.
const SURELY_SHORT: usize = MAX_TEMPLATE / 3 - 8;
const MAX_CONSUMERS: usize = 4;

/// Headers that sources look into.
const HEADERS: [&str; 8] = [
    "X-Who",
    "Authorization",
    "Cookie",
    "X-Forwarded-Client-Cert",
    "X-SSL-Client-S-DN",
    "X-Forwarded-For",
    "Forwarded",
    "X-Real-IP",
];

/// Each line is a path and, behind a space, what stands in each header, in the query, and in credentials.
pub fn check(input: &[u8]) {
    let lines = input.split(|&byte| byte == b'\n');
    let paths: Vec<&str> = lines.filter_map(|line| str::from_utf8(line).ok()).collect();
    check_declared(&paths);
    let mut routes = Routes::new(Arc::default(), MAX_ROUTES);
    let mut consumers: Vec<_> = sources().into_iter().flat_map(consumers_by).collect();
    let mut templates = Vec::new();
    for line in input.split(|&byte| byte == b'\n') {
        let (path, value) = line.split_at(line.iter().position(|&byte| byte == b' ').unwrap_or(line.len()));
        if let Ok(path) = str::from_utf8(path) {
            check_path(path, &mut routes, &mut templates);
        }
        let value = value.get(1..).unwrap_or_default();
        for (consumers, hashing) in &mut consumers {
            check_value(value, consumers, *hashing);
        }
        check_credentials(value);
    }
}

fn sources() -> Vec<Source> {
    let header = Source::header;
    let sources = [
        header("x-who"),
        header("authorization"),
        Ok(Source::basic_user()),
        Source::jwt_claim("a.b"),
        Source::jwt_claim_in("x-who", "a"),
        Source::cookie("a"),
        Source::query("a"),
        Ok(Source::forwarded_certificate(CertificatePart::Attribute("CN".to_owned()))),
        Ok(Source::forwarded_certificate(CertificatePart::Uri)),
        Source::distinguished_name("X-SSL-Client-S-DN", "CN"),
        Source::forwarded_address(Forwarding::XForwardedFor, 1),
        Source::forwarded_address(Forwarding::Forwarded, 2),
        Source::forwarded_address(Forwarding::XRealIp, 1),
    ];
    sources.into_iter().map(|source| source.expect("its name is one")).collect()
}

/// Two tables, of which one hashes.
fn consumers_by(source: Source) -> [(Consumers, Hashing); 2] {
    [Hashing::Never, Hashing::Always].map(|hashing| {
        let rule = ConsumerRule::new(source.clone()).hashing(hashing).prefix("p:").expect("it is short");
        let rules = ConsumerRules::new(Key::from_client_id(""), vec![rule]).expect("one is not too many");
        let (names, groups) = (vec![source.clone()], vec![Source::query("a").expect("it is a name")]);
        let rules =
            if source.is_secret() { rules } else { rules.named_by(names, groups).expect("none is a secret") };
        (Consumers::new(rules.into(), MAX_CONSUMERS), hashing)
    })
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
fn check_value(value: &[u8], consumers: &mut Consumers, hashing: Hashing) {
    if value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return; // no head has such a field
    }
    let target = format!("/?{}", String::from_utf8_lossy(value));
    let fields = HEADERS.map(|name| Header { name, value });
    let evidence = Evidence { fields: &fields, target: &target, peer: None };
    let identified = consumers.identify(&evidence);
    assert_eq!(consumers.identify(&evidence), identified);
    if value.trim_ascii().is_empty() {
        assert_eq!(identified, Identified::Nobody);
    }
    if let Identified::Consumer(id) = identified {
        let identifier = consumers.identifier(id).expect("it was given out");
        assert!((3..=128).contains(&identifier.chars().count()));
        assert_eq!(identifier, identifier.trim());
        let value = identifier.strip_prefix("p:").expect("the rule has a prefix");
        if hashing == Hashing::Always {
            assert!(value.len() == 16 && value.bytes().all(|byte| byte.is_ascii_hexdigit()));
        }
        consumers.release(id);
        consumers.release(id);
    }
    for names in consumers.take_names() {
        for text in [names.name, names.group].into_iter().flatten() {
            assert!((1..=64).contains(&text.chars().count()));
            assert_eq!(text, text.trim());
        }
    }
}

/// Behind Basic is a user up to the first colon; behind Bearer a token, whatever its payload.
fn check_credentials(value: &[u8]) {
    let basic = format!("Basic {}", BASE64_STANDARD.encode(value));
    let user =
        value.split(|&byte| byte == b':').next().filter(|user| user.len() < value.len()).unwrap_or_default();
    let found = identify(Source::basic_user(), &basic);
    assert_eq!(found.is_some(), !is_blank(user));
    if let (Some(found), Ok(user)) = (found, str::from_utf8(user)) {
        let user: String = user.trim().chars().take(128).collect();
        assert_eq!(found, user.trim_end());
    }
    let token = format!("Bearer e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(value));
    identify(Source::jwt_claim("a.b").expect("it is a name"), &token);
}

/// Nothing but blanks, in whichever of the two ways it is read.
fn is_blank(text: &[u8]) -> bool {
    match str::from_utf8(text) {
        Ok(text) => text.trim().is_empty(),
        Err(_) => text.iter().all(|&byte| (byte as char).is_whitespace()),
    }
}

fn identify(source: Source, authorization: &str) -> Option<String> {
    let rule = ConsumerRule::new(source).hashing(Hashing::Never);
    let rules = ConsumerRules::new(Key::from_client_id(""), vec![rule]).expect("one is not too many");
    let fields = [Header { name: "Authorization", value: authorization.as_bytes() }];
    let mut consumers = Consumers::new(rules.into(), 1);
    match consumers.identify(&Evidence { fields: &fields, ..Evidence::default() }) {
        Identified::Consumer(id) => consumers.identifier(id).map(str::to_owned),
        Identified::Nobody | Identified::NoRoom => None,
    }
}
