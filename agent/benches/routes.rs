//! What finding a route costs, per request: to stay below 1 µs with 1,000 declared routes.
//!
//! Each figure is that of one look-up, over paths that follow each other in an order without a pattern, as those of
//! many clients do: a path asked for again and again would lie in the processor's caches. `cargo bench --bench routes`

use std::{hint::black_box, sync::Arc};

use agent::pipeline::{
    http::head::Method,
    route::{
        Found, Routes, Settle,
        declared::{Declared, Endpoint, Matching},
    },
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Paths of one workload, so many that their texts alone do not fit into a processor's first cache.
const PATHS: usize = 4096;

/// Nested resources as an API has them: 50 of 20 routes each, on 13 different paths.
fn api() -> Vec<String> {
    const RESOURCES: [&str; 10] = [
        "users", "orders", "invoices", "products", "projects", "teams", "reports", "events", "devices",
        "files",
    ];
    let mut routes = Vec::new();
    for version in ["v1", "v2", "v3", "admin", "internal"] {
        for resource in RESOURCES {
            let one = resource.trim_end_matches('s');
            for (method, path) in [
                ("GET", String::new()),
                ("POST", String::new()),
                ("GET", "/search".to_owned()),
                ("GET", "/me".to_owned()),
                ("POST", "/import".to_owned()),
                ("GET", "/export.{format}".to_owned()),
                ("GET", format!("/{{{one}_id}}")),
                ("PUT", format!("/{{{one}_id}}")),
                ("PATCH", format!("/{{{one}_id}}")),
                ("DELETE", format!("/{{{one}_id}}")),
                ("GET", format!("/{{{one}_id}}/comments")),
                ("POST", format!("/{{{one}_id}}/comments")),
                ("GET", format!("/{{{one}_id}}/comments/{{comment_id}}")),
                ("DELETE", format!("/{{{one}_id}}/comments/{{comment_id}}")),
                ("GET", format!("/{{{one}_id}}/members/{{member_id}}/roles")),
                ("PUT", format!("/{{{one}_id}}/members/{{member_id}}/roles/{{role}}")),
                ("DELETE", format!("/{{{one}_id}}/members/{{member_id}}/roles/{{role}}")),
                ("POST", format!("/{{{one}_id}}/archive")),
                ("GET", format!("/{{{one}_id}}/history")),
                ("GET", format!("/{{{one}_id}}/attachments/{{path:path}}")),
            ] {
                routes.push(format!("{method} /api/{version}/{resource}{path}"));
            }
        }
    }
    assert_eq!(routes.len(), 1000);
    routes
}

/// Numbers without a pattern, the same in each run (a linear congruential generator).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

/// Requests for these routes, parameters filled in.
fn requests(routes: &[String], numbers: &mut Numbers) -> Vec<(Option<Method>, String)> {
    let request = |_| {
        let route = &routes[numbers.next() as usize % routes.len()];
        let (method, template) = route.split_once(' ').expect("each has a method");
        let mut path = String::new();
        for segment in template.split('/').skip(1) {
            let number = numbers.next();
            path.push('/');
            match segment {
                "{path:path}" => path.push_str(&format!("{number}/scan-{number:x}.pdf")),
                "{role}" => path.push_str("editor"),
                "{comment_id}" => path.push_str(&format!("{number:08x}-6b2f-4e1c-9d2a-{number:012x}")),
                "export.{format}" => path.push_str("export.csv"),
                _ if segment.starts_with('{') => path.push_str(&number.to_string()),
                literal => path.push_str(literal),
            }
        }
        (Method::new(method), path)
    };
    (0..PATHS).map(request).collect()
}

/// Paths that lead nowhere: a scanner's, and ones that leave the API at their last segment.
fn misses(numbers: &mut Numbers) -> Vec<(Option<Method>, String)> {
    let path = |index: usize| {
        let number = numbers.next();
        match index % 4 {
            0 => format!("/wp-content/plugins/{number:x}/readme.txt"),
            1 => format!("/api/v1/users/{number}/members/{number}/roles/editor/x"),
            2 => format!("/.git/{number:x}"),
            _ => format!("/api/v2/orders/{number}/nothing"),
        }
    };
    (0..PATHS).map(path).map(|path| (Some(Method::GET), path)).collect()
}

fn declared(routes: &[String]) -> Arc<Declared> {
    let endpoints = routes.iter().map(|route| Endpoint::parse(route).expect("it is a route")).collect();
    Declared::new(endpoints, Matching::default()).expect("they are few").into()
}

/// Routes as the agent has learned them once these requests were answered.
fn learned(requests: &[(Option<Method>, String)]) -> Routes {
    let mut routes = Routes::new(Arc::default(), 1000);
    for (method, path) in requests {
        if let Found::Candidate(candidate) = routes.find(*method, path) {
            routes.settle(candidate, Settle::Confirm);
        }
    }
    routes
}

fn look_up(criterion: &mut Criterion) {
    let api = api();
    let mut numbers = Numbers(7);
    let hits = requests(&api, &mut numbers);
    let misses = misses(&mut numbers);
    let encoded: Vec<_> =
        hits.iter().map(|(method, path)| (*method, path.replacen("/api", "/%61pi", 1))).collect();
    let mixed: Vec<_> =
        hits.iter().zip(&misses).flat_map(|(hit, miss)| [hit, hit, hit, miss]).cloned().collect();

    let mut group = criterion.benchmark_group("look-up");
    let mut bench =
        |name, routes: &mut Routes, requests: &[(Option<Method>, String)], expect_hit: Option<bool>| {
            for (method, path) in requests {
                let found = routes.find(*method, path);
                let is_hit = matches!(found, Found::Route(_));
                assert!(expect_hit.is_none_or(|expected| expected == is_hit), "{path}: {found:?}");
                if let Found::Candidate(candidate) = found {
                    routes.settle(candidate, Settle::Drop);
                }
            }
            group.throughput(Throughput::Elements(1));
            group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                let mut order = requests.iter().cycle();
                bencher.iter(|| {
                    let (method, path) = order.next().expect("it goes around");
                    if let Found::Candidate(candidate) = routes.find(*method, black_box(path)) {
                        routes.settle(candidate, Settle::Drop);
                    }
                });
            });
        };
    let mut thousand = Routes::new(declared(&api), 1000);
    bench("declared, hit", &mut thousand, &hits, Some(true));
    bench("declared, hit, percent-encoded", &mut thousand, &encoded, Some(true));
    bench("declared, miss", &mut thousand, &misses, Some(false));
    bench("declared, three hits and a miss", &mut thousand, &mixed, None);
    bench("learned, hit", &mut learned(&hits), &hits, Some(true));
    bench("learned, miss", &mut learned(&hits), &misses, None);
    group.finish();
}

fn build(criterion: &mut Criterion) {
    let api = api();
    criterion
        .bench_function("a thousand routes declared", |bencher| bencher.iter(|| declared(black_box(&api))));
}

criterion_group!(benches, look_up, build);
criterion_main!(benches);
