//! What telling the consumer costs, per request. Together with finding its route it is to stay below 1 µs where the rules
//! are plain: see `routes` for the other half.
//!
//! Every request has the thirteen fields of a browser's, and is by one of 4,096 consumers that are known, in an order
//! without a pattern. `cargo bench --bench consumers`

use std::{fmt, hint::black_box};

use agent::pipeline::consumer::{
    CertificatePart, ConsumerRule, ConsumerRules, Consumers, Evidence, Forwarding, Hashing, Identified, Key,
    Source,
};
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine as _};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use httparse::Header;

const CONSUMERS: usize = 4096;

/// What a browser sends, without what is said about the consumer.
const FIELDS: [(&str, &str); 12] = [
    ("Host", "api.example.com"),
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"),
    ("Accept", "application/json, text/plain, */*"),
    ("Accept-Language", "en-US,en;q=0.5"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Referer", "https://app.example.com/projects/17/reports"),
    ("Content-Type", "application/json"),
    ("Content-Length", "182"),
    ("Origin", "https://app.example.com"),
    ("Connection", "keep-alive"),
    ("Sec-Fetch-Mode", "cors"),
    ("X-Request-Id", "5f0c1e0e-7a7e-4a53-9d0e-1f0f8d6b8f1c"),
];

/// A request of each consumer: the value of one more header, and the query.
struct Request {
    name: &'static str,
    value: String,
    target: String,
}

fn request(name: &'static str, value: impl fmt::Display) -> Request {
    Request { name, value: value.to_string(), target: "/v1/projects/17/reports".to_owned() }
}

/// The payload of a token as identity providers issue them: some 400 bytes.
fn token(who: usize) -> String {
    let payload = format!(
        r#"{{"iss":"https://login.example.com/realms/main","aud":["api","web"],"exp":1793400000,"iat":1793396400,"jti":"0d9b8c1a-5f0f-4f6c-8f0f-3c8f0e6d2b1a","realm_access":{{"roles":["user","editor","offline_access"]}},"scope":"openid profile email","email_verified":true,"name":"Consumer {who}","sub":"user-{who}","email":"user-{who}@example.com","org":{{"id":{who},"name":"Acme"}}}}"#
    );
    let signature = "c2lnbmF0dXJl".repeat(28);
    format!("Bearer eyJhbGciOiJSUzI1NiJ9.{}.{signature}", BASE64_URL_SAFE_NO_PAD.encode(payload))
}

fn measure(
    criterion: &mut Criterion,
    name: &str,
    rules: Vec<ConsumerRule>,
    request: impl Fn(usize) -> Request,
) {
    let rules = ConsumerRules::new(Key::from_client_id("bench"), rules).expect("they are few");
    measure_rules(criterion, name, rules, request);
}

fn measure_rules(
    criterion: &mut Criterion,
    name: &str,
    rules: ConsumerRules,
    request: impl Fn(usize) -> Request,
) {
    let requests: Vec<Request> = (0..CONSUMERS).map(request).collect();
    let fields: Vec<Vec<Header<'_>>> = requests
        .iter()
        .map(|request| {
            let fields = FIELDS.into_iter().chain([(request.name, request.value.as_str())]);
            fields.map(|(name, value)| Header { name, value: value.as_bytes() }).collect()
        })
        .collect();
    let evidence = |who: usize| Evidence {
        fields: &fields[who],
        target: &requests[who].target,
        peer: Some(([192, 0, 2, 1], 4711).into()),
    };
    let mut consumers = Consumers::new(rules.into(), CONSUMERS);
    for who in 0..CONSUMERS {
        assert!(
            matches!(consumers.identify(&evidence(who)), Identified::Consumer(_)),
            "{name}: there is one"
        );
    }
    let mut who = 0;
    let mut group = criterion.benchmark_group("consumers");
    group.throughput(Throughput::Elements(1));
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            who = (who + 1597) % CONSUMERS; // has no factor in common with their number: comes by all of them
            let identified = consumers.identify(black_box(&evidence(who)));
            if let Identified::Consumer(id) = identified {
                consumers.release(id);
            }
            identified
        });
    });
    group.finish();
}

fn consumers(criterion: &mut Criterion) {
    let rule = |source| ConsumerRule::new(source);
    let header = |name| rule(Source::header(name).expect("it is a name"));
    measure(criterion, "header", vec![header("x-consumer")], |who| {
        request("X-Consumer", format!("user-{who}"))
    });
    let misses = ["x-a", "x-b", "x-c", "x-d", "x-consumer"].map(header).to_vec();
    measure(criterion, "fifth header", misses, |who| request("X-Consumer", format!("user-{who}")));
    let few = vec![header("x-consumer").allow(["nobody", "user-*"]).expect("there are two")];
    measure(criterion, "header, allow list", few, |who| request("X-Consumer", format!("user-{who}")));
    measure(criterion, "header, hashed", vec![header("x-api-key")], |who| {
        request("X-API-Key", format!("{who:040x}"))
    });
    let long = vec![header("authorization").scheme("Bearer").expect("it is one")];
    measure(criterion, "token, hashed", long, |who| request("Authorization", token(who)));
    let claim = |name| Source::jwt_claim(name).expect("it is a name");
    measure(criterion, "JWT claim", vec![rule(claim("sub"))], |who| request("Authorization", token(who)));
    let named = ConsumerRules::new(Key::from_client_id("bench"), vec![rule(claim("sub"))])
        .and_then(|rules| rules.named_by(vec![claim("name")], vec![claim("org.name")]))
        .expect("they are few");
    measure_rules(criterion, "JWT claims, name and group", named, |who| request("Authorization", token(who)));
    measure(criterion, "Basic user", vec![rule(Source::basic_user())], |who| {
        request("Authorization", format!("Basic {}", BASE64_STANDARD.encode(format!("user-{who}:password"))))
    });
    let cookie = rule(Source::cookie("sid").expect("it is a name")).hashing(Hashing::Never);
    measure(criterion, "cookie", vec![cookie], |who| {
        request("Cookie", format!("lang=en; theme=dark; sid={who:032x}"))
    });
    measure(criterion, "query parameter", vec![rule(Source::query("user").expect("it is a name"))], |who| {
        Request {
            target: format!("/v1/reports?from=2026-01-01&page=3&user=user-{who}"),
            ..request("X-Other", "")
        }
    });
    let part = CertificatePart::Attribute("CN".to_owned());
    measure(criterion, "forwarded certificate", vec![rule(Source::forwarded_certificate(part))], |who| {
        let value = format!(
            "By=spiffe://mesh/api;Hash={who:064x};Subject=\"CN=user-{who},O=Acme\";URI=spiffe://mesh/web"
        );
        request("X-Forwarded-Client-Cert", value)
    });
    let behind_one = Source::forwarded_address(Forwarding::XForwardedFor, 1).expect("one is trusted");
    measure(criterion, "forwarded address", vec![rule(behind_one)], |who| {
        request("X-Forwarded-For", format!("198.51.100.7, 10.0.{}.{}", who / 256, who % 256))
    });
}

criterion_group!(benches, consumers);
criterion_main!(benches);
