//! What is kept of exchanges beyond their counts: which parts, how far, and in how much memory.

use agent_common::conn::{Direction, Mute};

use super::{Line, Player, Split, TARGET, read};
use crate::pipeline::{
    Limits, Policy,
    consumer::{ConsumerRule, ConsumerRules, Key, Source},
    counters::ValidationErrors,
    detail::{Body, Keep, Logged, MAX_BODY},
    http::head::Method,
};

/// Everything is kept.
pub fn keep_all() -> Policy {
    let keep = Keep {
        exchanges: true,
        request_bodies: true,
        response_bodies: true,
        content_types: vec!["application/json".to_owned(), "text/plain".to_owned()],
        errors: true,
    };
    Policy { keep, ..Policy::default() }
}

/// What was kept of a transcript, whole, by bytes, and cut in two at every byte; it must be the same.
#[track_caller]
fn kept(script: &str) -> Vec<Logged> {
    let lines = read(script);
    let whole = logged(&lines, Split::Whole);
    let count: usize = lines.iter().map(|line| if let Line::Bytes(_, b) = line { b.len() } else { 0 }).sum();
    let cuts = (1..count).step_by(1 + count / 500).map(Split::At);
    for split in [Split::Bytes].into_iter().chain(cuts) {
        assert_eq!(logged(&lines, split), whole, "{split:?}");
    }
    whole
}

#[track_caller]
fn logged(lines: &[Line], split: Split) -> Vec<Logged> {
    let mut player = Player::new(keep_all());
    player.play_each(lines, split, |player| assert!(player.pipeline.details_add_up()));
    player.pipeline.finish_target(TARGET);
    let logged = player.pipeline.take_logged(TARGET);
    assert_eq!(player.pipeline.details(), 0);
    logged
}

/// Bodies of the request and the response of the only exchange.
#[track_caller]
fn check_bodies(script: &str, request: &Body, response: &Body) {
    let kept = kept(script);
    let [exchange] = kept.as_slice() else { panic!("{kept:?}") };
    assert_eq!((&exchange.request.body, &exchange.response.body), (request, response));
}

fn whole(text: &str) -> Body {
    Body::Whole(text.as_bytes().to_vec())
}

#[test]
fn an_exchange_is_kept_as_it_was_on_the_wire() {
    let kept = kept(
        r"> POST /items/7?key=a%20b HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nX-Twice: 1\r\nx-twice: 2\r\ncontent-length: 3\r\n\r\n
          ~ 10ms
          > abc
          ~ 20ms
          < HTTP/1.1 201 Created\r\nContent-Type: application/json\r\ntransfer-encoding: chunked\r\n\r\n
          ~ 40ms
          < 5;x=y\r\nhello\r\n
          < 2\r\n\r\n\r\n0\r\nsum: 1\r\n\r\n",
    );
    let [exchange] = kept.as_slice() else { panic!("{kept:?}") };
    let ms = |time: crate::pipeline::Ktime| time.0 / 1_000_000 - 1000;
    assert_eq!([exchange.head_received, exchange.first_byte, exchange.last_byte].map(ms), [0, 30, 70]);
    assert_eq!(exchange.response_time.as_millis(), 70);
    assert_eq!(exchange.method.as_ref().map(Method::as_str), Some("POST"));
    assert_eq!((exchange.route.as_deref(), exchange.status), (Some("/items/{id}"), 201));
    assert_eq!((exchange.request_size, exchange.response_size), (Some(3), Some(7)));
    assert_eq!(exchange.target, "/items/7?key=a%20b");
    let names: Vec<&str> = exchange.request.fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["Host", "Content-Type", "X-Twice", "x-twice", "content-length"]);
    assert_eq!(exchange.request.field("HOST"), Some(b"a".as_slice()));
    assert_eq!(exchange.request.body, whole("abc"));
    assert_eq!(exchange.response.field("content-type"), Some(b"application/json".as_slice()));
    assert_eq!(exchange.response.body, whole("hello\r\n"));
}

#[test]
fn exchanges_that_are_no_rows_are_kept_and_lost_ones_are_not() {
    let kept = kept(
        r"> GET /nothing HTTP/1.1\r\n\r\n
          < HTTP/1.1 404 N\r\ncontent-length: 0\r\n\r\n
          > OPTIONS * HTTP/1.1\r\n\r\n
          < HTTP/1.1 204 N\r\n\r\n
          > G_T /a HTTP/1.1\r\n\r\n
          < HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n
          > GET /late HTTP/1.1\r\n\r\n
          x",
    );
    let method = |it: &Logged| it.method.map(|method| method.as_str().to_owned());
    let rows: Vec<_> = kept.iter().map(|it| (method(it), it.route.clone(), it.target.as_str())).collect();
    let options = Some("OPTIONS".to_owned());
    assert_eq!(rows, [(Some("GET".to_owned()), None, "/nothing"), (options, None, "*"), (None, None, "/a")]);
}

#[test]
fn bodies_are_kept_by_content_type_and_framing() {
    let response = |head: &str, rest: &str, want: &Body| {
        check_bodies(
            &format!("> GET /a HTTP/1.1\\r\\n\\r\\n\n< HTTP/1.1 200 OK\\r\\n{head}\\r\\n\\r\\n\n{rest}"),
            &Body::None,
            want,
        );
    };
    response("content-type: application/json\\r\\ncontent-length: 2", "< {}", &whole("{}"));
    response("content-type: image/png\\r\\ncontent-length: 2", "< {}", &Body::None);
    response("content-length: 2", "< {}", &Body::None);
    response("content-type: text/plain\\r\\ncontent-length: 0", "", &Body::None);
    response("content-type: text/plain\\r\\ntransfer-encoding: chunked", "< 0\\r\\n\\r\\n", &Body::None);
    response("content-type: text/plain", "< abc\n< def\nx", &whole("abcdef"));
    check_bodies(
        r"> HEAD /a HTTP/1.1\r\n\r\n
          < HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 9\r\n\r\n",
        &Body::None,
        &Body::None,
    );
}

#[test]
fn a_body_with_a_hole_or_cut_off_is_incomplete() {
    let post = "> POST /a HTTP/1.1\\r\\ncontent-type: text/plain\\r\\n";
    let answer = "< HTTP/1.1 200 OK\\r\\ncontent-length: 0\\r\\n\\r\\n";
    let request = |rest: &str| check_bodies(&format!("{post}{rest}"), &Body::Incomplete, &Body::None);
    request(&format!("content-length: 20\\r\\n\\r\\nabc\n>! 5\n> abcdefabcdef\n{answer}"));
    request(&format!("content-length: 20\\r\\n\\r\\nabc\n>! 17\n{answer}\n> GET /b HT\nx"));
    request(&format!("transfer-encoding: chunked\\r\\n\\r\\n9\\r\\nabc\n>! 20\n{answer}\nx"));
    request(&format!("content-length: 20\\r\\n\\r\\nabc\n{answer}\nx"));

    let get = "> GET /a HTTP/1.1\\r\\n\\r\\n\n< HTTP/1.1 200 OK\\r\\ncontent-type: text/plain\\r\\n";
    let response = |rest: &str| check_bodies(&format!("{get}{rest}"), &Body::None, &Body::Incomplete);
    response("content-length: 20\\r\\n\\r\\nabc\n<0 5\n< abcdefabcdef");
    response("content-length: 20\\r\\n\\r\\nabc\n<! 17\nx");
    response("content-length: 20\\r\\n\\r\\nabc\nx");
    response("transfer-encoding: chunked\\r\\n\\r\\n9\\r\\nabc\nx");
    response("transfer-encoding: chunked\\r\\n\\r\\n9\\r\\nabc\n<! 11\nx");
    response("transfer-encoding: chunked\\r\\n\\r\\nnonsense\\r\\n\nx");
    response("\\r\\nabc\n<! 11\n< def\nx");
}

#[test]
fn a_body_beyond_the_bound_is_too_large() {
    let check = |fields: &str, lengths: [usize; 2], want: &Body| {
        let [first, second] = lengths;
        let script = format!(
            "> GET /a HTTP/1.1\\r\\n\\r\\n
             < HTTP/1.1 200 OK\\r\\ncontent-type: text/plain\\r\\n{fields}\\r\\n\\r\\n
             <* {first}
             <* {second}
             x"
        );
        let lines = read(&script);
        let got = logged(&lines, Split::Whole);
        assert_eq!(got[0].response.body, *want, "{fields} {lengths:?}");
    };
    check("content-length: 50000", [1, 49_999], &Body::Whole(vec![b'x'; MAX_BODY]));
    check("content-length: 50001", [1, 50_000], &Body::TooLarge);
    check("connection: close", [20_000, 30_000], &Body::Whole(vec![b'x'; MAX_BODY]));
    check("connection: close", [20_000, 30_001], &Body::TooLarge);
}

/// Mutes that the kernel side is told after each line.
fn mutes(policy: Policy, script: &str) -> Vec<Mute> {
    let mut player = Player::new(policy);
    player.play(&read(script), Split::Whole);
    player.pipeline.take_mutes().map(|(_, mute)| mute).collect()
}

#[test]
fn bytes_of_wanted_bodies_are_not_muted() {
    let script = |length: u32, kind: &str| {
        format!(
            "> POST /a HTTP/1.1\\r\\ncontent-type: {kind}\\r\\ncontent-length: {length}\\r\\n\\r\\n
             >* {length}
             < HTTP/1.1 200 OK\\r\\ncontent-type: {kind}\\r\\ncontent-length: {length}\\r\\n\\r\\n"
        )
    };
    assert_eq!(mutes(keep_all(), &script(50_000, "text/plain")), []);
    // What is too large, or of another type, is not needed from its head on.
    assert_eq!(mutes(keep_all(), &script(50_001, "text/plain")).len(), 2);
    assert_eq!(mutes(keep_all(), &script(50_000, "image/png")).len(), 2);
    assert_eq!(mutes(Policy::default(), &script(50_000, "text/plain")).len(), 2);

    // Of a chunked body it shows on the way.
    let head = "> GET /a HTTP/1.1\\r\\n\\r\\n
                < HTTP/1.1 200 OK\\r\\ncontent-type: text/plain\\r\\ntransfer-encoding: chunked\\r\\n\\r\\n";
    assert_eq!(mutes(keep_all(), &format!("{head}\n< ffff\\r\\n\n<* 50000")), []);
    assert_eq!(mutes(keep_all(), &format!("{head}\n< ffff\\r\\n\n<* 50001")).len(), 1);
    // With a hole in it nobody wants the rest.
    assert_eq!(mutes(keep_all(), &format!("{head}\n< ffff\\r\\n\n<! 5\n< a")).len(), 1);
}

#[test]
fn what_finds_no_room_is_counted_and_leaves_no_trace_in_the_counts() {
    let limits = Limits { max_details: 3000, ..Limits::default() };
    let mut player = Player::within(keep_all(), limits);
    let lines = read(
        r"> POST /a HTTP/1.1\r\ncontent-type: text/plain\r\ncontent-length: 2000\r\n\r\n
          >* 2000
          < HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n
          > GET /b HTTP/1.1\r\n\r\n
          < HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 3\r\n\r\nabc",
    );
    player.play_each(&[lines.clone(), lines].concat(), Split::Whole, |player| {
        assert!(player.pipeline.details_add_up());
        assert!(player.pipeline.details() <= 3000);
    });
    let ledger = player.pipeline.ledger(TARGET);
    assert_eq!((ledger.reported, ledger.lost()), (4, 0));
    let kept = player.pipeline.take_logged(TARGET);
    assert_eq!(kept.len() as u64 + ledger.details_dropped, 4, "{kept:?}");
    assert!(ledger.details_dropped > 0);
    assert_eq!(player.pipeline.details(), 0);
}

#[test]
fn memory_of_a_connection_goes_with_it() {
    let open = r"> POST /a HTTP/1.1\r\ncontent-type: text/plain\r\ncontent-length: 900\r\n\r\n
                 >* 500";
    for end in ["x", "p", "~ 4000000ms"] {
        let mut player = Player::new(keep_all());
        player.play(&read(&format!("{open}\n{end}")), Split::Whole);
        player.tick();
        assert_eq!(player.pipeline.details(), 0, "{end}");
    }
    let mut player = Player::new(keep_all());
    player.play(&read(open), Split::Whole);
    assert!(player.pipeline.details() > 500);
    player.pipeline.remove_target(TARGET);
    assert_eq!(player.pipeline.details(), 0);
}

#[test]
fn nothing_is_kept_unless_it_is_asked_for() {
    let mut player = Player::new(Policy::default());
    player.data(Direction::Ingress, b"GET /a HTTP/1.1\r\n\r\n", 19);
    assert_eq!(player.pipeline.details(), 0);
    player.data(Direction::Egress, b"HTTP/1.1 204 N\r\n\r\n", 18);
    assert_eq!(player.pipeline.take_logged(TARGET), []);
}

/// Errors alone are kept.
fn keep_errors() -> Policy {
    Policy { keep: Keep { errors: true, ..Keep::default() }, ..Policy::default() }
}

/// A request and its answer, the body chunked.
fn answered(request: &str, status: u16, fields: &str, body: &str) -> String {
    format!(
        "> {request} HTTP/1.1\\r\\n\\r\\n
         < HTTP/1.1 {status} S\\r\\n{fields}\\r\\ntransfer-encoding: chunked\\r\\n\\r\\n{:x}\\r\\n{body}\\r\\n0\\r\\n\\r\\n\n",
        body.len()
    )
}

const INVALID: &str = r#"{"detail":[{"loc":["body","name"],"msg":"Field required","type":"missing"},{"loc":["path","id"],"msg":"no number","type":"int"}]}"#;

#[test]
fn validation_errors_are_counted_by_row_and_text() {
    let json = "content-type: application/json";
    let script = [
        answered("POST /items/1", 422, json, INVALID),
        answered("POST /items/2", 422, json, INVALID),
        answered("PUT /items/3", 422, json, INVALID),
        answered("OPTIONS /items/3", 422, json, INVALID),
        answered("PUT /gone", 404, "content-type: application/problem+json", INVALID),
        answered("PUT /items/3", 200, json, INVALID),
        answered("PUT /items/3", 422, "content-type: text/plain", INVALID),
    ]
    .concat();
    for policy in [keep_errors(), keep_all()] {
        let mut player = Player::new(policy);
        player.play(&read(&script), Split::Whole);
        let counts = player.pipeline.take_counts(TARGET);
        let errors: Vec<_> = counts
            .validation_errors
            .iter()
            .map(|it| {
                let ValidationErrors { method, path, location, message, kind, count, .. } = it;
                format!("{method} {path} {} {message} {kind} {count}", location.join("."))
            })
            .collect();
        let want = [
            "POST /items/{id} body.name Field required missing 2",
            "POST /items/{id} path.id no number int 2",
            "PUT /items/{id} body.name Field required missing 1",
            "PUT /items/{id} path.id no number int 1",
        ];
        assert_eq!(errors, want);
        assert_eq!(player.pipeline.take_counts(TARGET).validation_errors, []);
        player.pipeline.take_logged(TARGET);
        assert_eq!((player.pipeline.ledger(TARGET).reported, player.pipeline.details()), (5, 0));
    }
}

#[test]
fn server_errors_are_counted_by_row_and_text() {
    let boom = r#"{"error":{"name":"TypeError","message":"boom"}}"#;
    let script = [
        answered("GET /a", 500, "content-type: application/json", boom),
        answered("GET /a", 500, "content-type: application/json", boom),
        answered("GET /a", 500, "content-type: application/json", r#"{"detail":"Internal Server Error"}"#),
        answered("GET /a", 503, "content-type: application/json", r#"{"message":"too busy"}"#),
    ]
    .concat();
    let mut player = Player::new(keep_errors());
    player.play(&read(&script), Split::Bytes);
    let counts = player.pipeline.take_counts(TARGET);
    let [error] = counts.server_errors.as_slice() else { panic!("{counts:?}") };
    assert_eq!((error.kind.as_str(), error.message.as_str(), error.count), ("TypeError", "boom", 2));
    assert_eq!(player.pipeline.take_logged(TARGET), []);
}

#[test]
fn bodies_that_say_errors_are_not_in_the_log_unless_bodies_are() {
    let keep = Keep { exchanges: true, errors: true, ..Keep::default() };
    let mut player = Player::new(Policy { keep, ..Policy::default() });
    player.play(&read(&answered("GET /a", 422, "content-type: application/json", INVALID)), Split::Whole);
    assert_eq!(player.pipeline.take_counts(TARGET).validation_errors.len(), 2);
    let logged = player.pipeline.take_logged(TARGET);
    assert_eq!((logged.len(), &logged[0].response.body), (1, &Body::None));
}

#[test]
fn bodies_that_cannot_be_read_are_counted() {
    let head = "> GET /a HTTP/1.1\\r\\n\\r\\n\n< HTTP/1.1 422 S\\r\\ncontent-type: application/json\\r\\n";
    for (rest, mutes) in [
        ("content-length: 60000\\r\\n\\r\\n\n<* 60000", 1),
        ("content-length: 40000\\r\\n\\r\\n\n<* 30000\nx", 0),
        ("content-length: 40000\\r\\n\\r\\n\n<! 39000\n<* 1000", 0),
        ("content-encoding: gzip\\r\\ncontent-length: 2\\r\\n\\r\\n{}", 0),
        ("content-encoding: sdch\\r\\ncontent-length: 2\\r\\n\\r\\n{}", 0),
    ] {
        let mut player = Player::new(keep_errors());
        player.play(&read(&format!("{head}{rest}")), Split::Whole);
        let ledger = player.pipeline.ledger(TARGET);
        assert_eq!((ledger.reported, ledger.error_bodies_unread), (1, 1), "{rest}");
        assert_eq!(player.pipeline.take_mutes().count(), mutes, "{rest}");
        assert_eq!(player.pipeline.details(), 0);
    }
}

#[test]
fn a_consumer_whose_errors_were_read_makes_room_when_it_is_idle() {
    let who = ConsumerRule::new(Source::header("who").unwrap());
    let consumers = ConsumerRules::new(Key::from_client_id(""), vec![who]).unwrap().into();
    let policy = Policy { consumers, ..keep_errors() };
    let mut player = Player::within(policy, Limits { max_consumers: 1, ..Limits::default() });
    for who in ["first", "second"] {
        // The connection before it was idle for too long, too.
        (player.conn, player.positions, player.turn) = (player.conn + 1, [0, 0], 0);
        let request = format!("GET /a HTTP/1.1\\r\\nwho: {who}");
        let answer =
            "< HTTP/1.1 422 S\\r\\ncontent-type: application/json\\r\\ncontent-length: 19\\r\\n\\r\\n";
        player.play(
            &read(&format!("> {request}\\r\\n\\r\\n\n{answer}{{\"message\":[\"why\"]}}")),
            Split::Whole,
        );
        let counts = player.pipeline.take_counts(TARGET);
        assert_eq!(counts.validation_errors[0].consumer.as_deref(), Some(who));
        player.wait(2 * 60 * 60 * 1000);
        player.tick();
        player.pipeline.take_counts(TARGET);
    }
    assert_eq!(player.pipeline.ledger(TARGET).consumers_over_limit, 0);
}
