//! Behaviour, case by case.

use core::net::SocketAddr;
use std::time::Duration;

use agent_common::{
    conn::{Direction, Mute},
    decode::{Peer, Record},
};

use super::{Line, Player, Split, TARGET, check_transcript, check_with, read};
use crate::pipeline::{
    Ktime, Limits, Policy, ResponseTime,
    consumer::{ConsumerRule, ConsumerRules, Key, NameTable, OTHERS, Source},
    detail::Keep,
    ledger::{Bytes, Cause},
    route::declared::{Declared, Endpoint, Matching},
};

fn played(script: &str) -> Player {
    played_with(Policy::default(), script)
}

fn played_with(policy: Policy, script: &str) -> Player {
    played_within(policy, Limits::default(), script)
}

fn played_within(policy: Policy, limits: Limits, script: &str) -> Player {
    let mut player = Player::within(policy, limits);
    player.play(&read(script), Split::Whole);
    player
}

#[test]
fn an_exchange_is_timed_from_the_requests_head_to_the_responses_last_byte() {
    check_transcript(
        r"> POST /items HTTP/1.1\r\ncontent-length: 3\r\n\r\n
          ~ 10ms
          > abc
          ~ 20ms
          < HTTP/1.1 201 Created\r\ncontent-length: 5\r\n\r\n
          ~ 40ms
          < hello",
        "POST /items 201 70ms 3B>5B",
    );
}

#[test]
fn the_first_byte_can_be_asked_for() {
    let policy = Policy { response_time: ResponseTime::FirstByte, ..Policy::default() };
    check_with(
        || Player::new(policy.clone()),
        r"> GET /a HTTP/1.1\r\n\r\n
          ~ 10ms
          < HTTP/1.1 100 Continue\r\n\r\n
          ~ 20ms
          < HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n
          ~ 40ms
          < hi",
        "GET /a 200 30ms ?>2B",
    );
}

#[test]
fn keep_alive_and_sizes() {
    check_transcript(
        r"> GET /items/7?q=1 HTTP/1.1\r\nhost: a\r\n\r\n
          < HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc
          > PUT /items/8 HTTP/1.1\r\ncontent-length: 0\r\n\r\n
          < HTTP/1.1 204 No Content\r\n\r\n
          > \r\n\r\nHEAD /items/9 HTTP/1.1\r\n\r\n
          < HTTP/1.1 200 OK\r\ncontent-length: 300\r\n\r\n
          > GET /items/10 HTTP/1.1\r\n\r\n
          < HTTP/1.1 304 Not Modified\r\ncontent-length: 300\r\n\r\n
          > GET /x HTTP/1.1\n\n
          < HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nab\n0\n\n
          x",
        "GET /items/{id} 200 0ms ?>3B
         PUT /items/{id} 204 0ms 0B>0B
         HEAD /items/{id} 200 0ms ?>0B
         GET /items/{id} 304 0ms ?>0B
         GET /x 200 0ms ?>2B",
    );
}

#[test]
fn pipelined_requests_take_their_responses_in_order() {
    check_transcript(
        r"> GET /a HTTP/1.1\r\n\r\nHEAD /b HTTP/1.1\r\n\r\nPOST /c HTTP/1.1\r\ncontent-length: 2\r\n\r\nhiGET /d HTTP/1.1\r\n\r\nGET /e HTTP/1.1\r\n\r\n
          < HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\naHTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 102 P\r\n\r\n
          < HTTP/1.1 201 C\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nt: 1\r\n\r\nHTTP/1.1 204 N\r\n\r\nHTTP/1.1 304 N\r\n\r\n",
        "GET /a 200 0ms ?>1B
         HEAD /b 200 0ms ?>0B
         POST /c 201 0ms 2B>3B
         GET /d 204 0ms ?>0B
         GET /e 304 0ms ?>0B",
    );
    let batch = r"GET /a HTTP/1.1\r\n\r\n".repeat(16);
    let answers = r"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".repeat(16);
    let player = played(&format!("> {batch}\n< {answers}\n> {batch}\n< {answers}"));
    assert_eq!(player.pipeline.ledger(TARGET).reported, 32);
}

#[test]
fn chunked_both_ways() {
    check_transcript(
        r"> POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5;ext=\x22a\x22\r\nhel
          > lo\r\n
          > 0\r\nsum: 1\r\n\r\n
          < HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n
          ~ 5ms
          < a\r\n0123456789\r\n0\r\n\r\n
          > GET /b HTTP/1.1\r\n\r\n",
        "POST /a 200 5ms 5B>10B
         open 1",
    );
}

#[test]
fn until_close_ends_at_the_end() {
    for end in ["<x", "x", "p"] {
        check_transcript(
            &format!(
                r"> GET /a HTTP/1.0\r\n\r\n
                  < HTTP/1.0 200 OK\r\n\r\nabc
                  ~ 5ms
                  < def
                  ~ 50ms
                  {end}"
            ),
            "GET /a 200 5ms ?>6B",
        );
    }
}

#[test]
fn expect_100_continue_is_one_exchange() {
    check_transcript(
        r"> POST /a HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 18\r\n\r\n
          < HTTP/1.1 100 Continue\r\n\r\n
          > GET / HTTP/1.1\r\n\r\n
          < HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "POST /a 200 0ms 18B>0B",
    );
}

#[test]
fn upgrades_and_tunnels_end_http() {
    check_transcript(
        r"> GET /ws HTTP/1.1\r\nupgrade: websocket\r\n\r\n
          < HTTP/1.1 101 Switching Protocols\r\n\r\nGET / HTTP/1.1\r\n\r\n
          > GET / HTTP/1.1\r\n\r\n
          x",
        "upgraded 1",
    );
    check_transcript(
        r"> CONNECT a:443 HTTP/1.1\r\n\r\n
          < HTTP/1.1 200 OK\r\n\r\n
          > GET / HTTP/1.1\r\n\r\n
          x",
        "upgraded 1",
    );
    check_transcript(
        r"> CONNECT a:443 HTTP/1.1\r\n\r\n
          < HTTP/1.1 403 No\r\ncontent-length: 2\r\n\r\nno
          > GET /a HTTP/1.1\r\n\r\n
          < HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "GET /a 200 0ms ?>0B
         excluded 1",
    );
    let mut player = played(
        r"> GET /a HTTP/1.1\r\n\r\n
                              < HTTP/1.1 101 S\r\n\r\n",
    );
    assert_eq!(player.pipeline.take_mutes().collect::<Vec<_>>(), [(7, Mute::FOR_GOOD)]);
}

#[test]
fn aborts_are_named_by_when_they_came() {
    check_transcript(
        r"> GET /a HT
                       x",
        "incomplete_head 1",
    );
    check_transcript(
        r"> GET /a HTTP/1.1\r\n\r\n
                       x",
        "aborted_before_response 1",
    );
    check_transcript(
        r"> GET /a HTTP/1.1\r\n\r\n
          < HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc
          ~ 9ms
          x",
        "GET /a 200 0ms ?>3B
         aborted_responses 1",
    );
    check_transcript(
        r"> GET /a HTTP/1.1\r\n\r\n
          < HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n
          x",
        "GET /a 200 0ms ?>3B
         aborted_responses 1",
    );
    check_transcript(
        r"> GET /a HTTP/1.1\r\n\r\n
          < HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n
          >x
          x",
        "GET /a 200 0ms ?>0B",
    );
}

#[test]
fn a_body_the_target_did_not_read_counts_as_declared() {
    let refused = r"> POST /a HTTP/1.1\r\ncontent-length: 100\r\n\r\nabc
                    < HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n";
    check_transcript(&format!("{refused}\nx"), "POST /a 413 0ms 100B>0B");
    check_transcript(&format!("{refused}\n>x\nx"), "POST /a 413 0ms 3B>0B");
    let refused = r"> POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabc
                    < HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n";
    check_transcript(&format!("{refused}\nx"), "POST /a 413 0ms ?>0B");
    check_transcript(&format!("{refused}\n>x\nx"), "POST /a 413 0ms 3B>0B");
}

#[test]
fn what_was_lost_right_before_the_client_ended_counts() {
    let aborted = r"> POST /a HTTP/1.1\r\ncontent-length: 100\r\n\r\nabc
                    >! 40
                    >x
                    < HTTP/1.1 400 Bad\r\ncontent-length: 0\r\n\r\n
                    x";
    check_transcript(aborted, "POST /a 400 0ms 43B>0B");
}

#[test]
fn what_was_probed_and_no_head_is_not_the_beginning_of_the_next() {
    // A server that answers before it has read the body, and whose client goes on.
    check_transcript(
        r"> GET /a HTTP/1.1\r\n\r\n
          < HTTP/1.1 204 N\r\n\r\n
          >! 60
          < HTTP/1.1 503 N\r\ncontent-length: 0\r\n\r\n
          > xxxx
          < HTTP/1.1 103 N\r\n\r\n
          > GET /b HTTP/1.1\r\n\r\n
          < HTTP/1.1 204 N\r\n\r\n
          x",
        "GET /a 204 0ms ?>0B
         lost_ring_full 3",
    );
}

#[test]
fn what_cannot_begin_a_request_is_no_exchange() {
    let answered = r"> POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5;
                     < HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let endless = "a".repeat(5000);
    let played = played(&format!("{answered}\n> {endless}\n< x\n> {endless}\nx"));
    assert_eq!(played.outcome(), "POST /a 200 0ms ?>0B");
    // Of a request whose head was lost.
    check_transcript(
        r"> GET /a HTTP/1.1\r\n\r\n
          < HTTP/1.1 204 N\r\n\r\n
          >! 60
          < HTTP/1.1 503 N\r\ncontent-length: 0\r\n\r\n
          > { a body, behind an early answer }
          < HTTP/1.1 103 N\r\n\r\n
          x",
        "GET /a 204 0ms ?>0B
         lost_ring_full 1",
    );
}

#[test]
fn unasked_responses_are_noted() {
    check_transcript(
        r"> GET /a HTTP/1.1\r\n\r\n
          < HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n
          < HTTP/1.1 408 Timeout\r\ncontent-length: 3\r\n\r\nabc
          x",
        "GET /a 200 0ms ?>0B
         responses_without_request 1",
    );
}

#[test]
fn what_is_no_http_is_let_go() {
    check_transcript("> PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n\n> xyz\nx", "connections_http2 1");
    check_transcript("> \x16\x03\x01\x02\x01\x01\n> xyz\nx", "connections_tls 1");
    check_transcript("> GET foo\\r\\n\n> GET bar\\r\\n\nx", "connections_refused 1");
    check_transcript(
        r"> GET /a HTTP/1.1\r\n\r\n
          < +OK\r\n
          < HTTP/1.1 200 OK\r\n\r\n
          x",
        "unreadable_head 1",
    );
    check_transcript(
        r"> PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET /a HTTP/1.1\r\n\r\n
          < HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "GET /a 200 0ms ?>0B",
    );
}

#[test]
fn broken_heads_are_counted() {
    check_transcript(
        r"> GET /a HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n
          < HTTP/1.1 400 Bad\r\ncontent-length: 0\r\n\r\n
          > GET /b HTTP/1.1\r\n\r\n
          < HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "GET /b 200 0ms ?>0B
         unreadable_head 1",
    );
}

#[test]
fn a_404_is_a_row_once_its_template_has_answered() {
    check_transcript(
        r"> GET /items/1 HTTP/1.1\r\n\r\n
          < HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n
          > GET /items/2 HTTP/1.1\r\n\r\n
          < HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n
          > GET /items/3 HTTP/1.1\r\n\r\n
          < HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n
          > GET /.env HTTP/1.1\r\n\r\n
          < HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n",
        "GET /items/{id} 200 0ms ?>0B
         GET /items/{id} 404 0ms ?>0B
         unmatched 2",
    );
}

#[test]
fn what_the_hub_does_not_take_stays_in_the_ledger() {
    let long = "a".repeat(2100);
    check_transcript(
        &format!(
            r"> OPTIONS * HTTP/1.1\r\n\r\nOPTIONS /a HTTP/1.1\r\n\r\nGET1 /a HTTP/1.1\r\n\r\nget /a HTTP/1.1\r\n\r\nGET /{long} HTTP/1.1\r\n\r\n
              < HTTP/1.1 204 N\r\n\r\nHTTP/1.1 204 N\r\n\r\nHTTP/1.1 204 N\r\n\r\nHTTP/1.1 204 N\r\n\r\nHTTP/1.1 204 N\r\n\r\n"
        ),
        "GET /a 204 0ms ?>0B
         excluded 2
         bad_method 1
         path_too_long 1",
    );
}

#[test]
fn response_with_missing_bytes_still_counts() {
    check_transcript(
        r"> GET /items/7 HTTP/1.1\r\n\r\n
          ~ 40ms
          < HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\nabc
          <! 800
          ~ 5ms
          <0 97
          > GET /items/8 HTTP/1.1\r\n\r\n
          < HTTP/1.1 204 N\r\n\r\n",
        "GET /items/{id} 200 45ms ?>900B
         GET /items/{id} 204 0ms ?>0B",
    );
}

#[test]
fn a_lost_request_costs_one_exchange() {
    check_transcript(
        r"> GET /a HTTP/1.1\r\n\r\n
          < HTTP/1.1 204 N\r\n\r\n
          >! 30
          < HTTP/1.1 200 N\r\ncontent-length: 3\r\n\r\nabc
          > GET /c HTTP/1.1\r\n\r\n
          < HTTP/1.1 204 N\r\n\r\n
          x",
        "GET /a 204 0ms ?>0B
         GET /c 204 0ms ?>0B
         lost_ring_full 1",
    );
}

#[test]
fn a_lost_response_costs_one_exchange() {
    check_transcript(
        r"> GET /a HTTP/1.1\r\n\r\n
          <! 30
          > GET /b HTTP/1.1\r\n\r\n
          < HTTP/1.1 204 N\r\n\r\n
          x",
        "GET /b 204 0ms ?>0B
         lost_ring_full 1",
    );
    check_transcript(
        r"> GET /a HTTP/1.1\r\n\r\n
          <! 30
          x",
        "lost_ring_full 1",
    );
}

#[test]
fn lost_turns_are_counted_and_one_more_is_needed_to_be_sure() {
    check_transcript(
        r"> GET /a HTTP/1.1\r\n\r\n
          < HTTP/1.1 204 N\r\n\r\n
          >! 30
          <! 30
          >! 30
          <! 30
          > GET /d HTTP/1.1\r\n\r\n
          < HTTP/1.1 204 N\r\n\r\n
          > GET /e HTTP/1.1\r\n\r\n
          < HTTP/1.1 204 N\r\n\r\n
          x",
        "GET /a 204 0ms ?>0B
         GET /e 204 0ms ?>0B
         lost_ring_full 3",
    );
}

#[test]
fn turns_that_an_end_and_a_lost_close_tell_of_are_counted_once() {
    check_transcript(
        r"> GET /a HTTP/1.1\r\n\r\n
          < HTTP/1.1 204 N\r\n\r\n
          >! 30
          <! 30
          >! 30
          <! 30
          >x
          x!
          p",
        "GET /a 204 0ms ?>0B
         lost_ring_full 2",
    );
}

#[test]
fn what_was_seen_of_a_connection_that_is_left_out_counts_and_so_does_the_turn_that_is_not() {
    let left_out = |before: &str, want: &str| check_transcript(&format!("{before}\nx%"), want);
    left_out(
        r"> GET /a HTTP/1.1\r\n\r\n
          < HTTP/1.1 204 N\r\n\r\n
          > GET /b HTTP/1.1\r\n\r\n
          < HTTP/1.1 200 K\r\nContent-Length: 300\r\n\r\n
          <! 300",
        "GET /a 204 0ms ?>0B
         GET /b 200 0ms ?>300B
         sampled_out 1",
    );
    // An answer that the client went on without, and one that never came within sight.
    left_out(r"> GET /a HTTP/1.1\r\n\r\n", "sampled_out 2");
    left_out("> GET /a HTTP/1.1\\r\\n\\r\\n\n<! 30", "lost_ring_full 1\nsampled_out 1");
    left_out(
        r"> GET /a HTTP/1.1\r\n\r\n
          < HTTP/1.1 200 K\r\nContent-Length: 300\r\n\r\n",
        "sampled_out 2",
    );
    // The turn goes on with what is there.
    left_out(
        r"> POST /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n
          < HTTP/1.1 100 C\r\n\r\n",
        "sampled_out 1",
    );
    left_out(
        r"> POST /a HTTP/1.1\r\nContent-Length: 10\r\n\r\n
          < HTTP/1.1 200 K\r\nContent-Length: 0\r\n\r\n",
        "POST /a 200 0ms 10B>0B",
    );
    left_out(r"> GET /a HT", "sampled_out 1");
}

#[test]
fn a_loss_is_put_down_to_the_ring_where_that_is_certain() {
    // A record came, but without the bytes: a call longer than what is copied of it.
    let cut_off = |first: &str| {
        let mut player = played("> GET /a HTTP/1.1\\r\\n\\r\\n\n< HTTP/1.1 204 N\\r\\n\\r\\n");
        player.data(Direction::Ingress, first.as_bytes(), 900);
        player.play(&read("< HTTP/1.1 204 N\\r\\n\\r\\n\nx"), Split::Whole);
        player.outcome()
    };
    assert_eq!(cut_off("GET /b HT"), "GET /a 204 0ms ?>0B\nlost_gap 1");
    // Behind it records are lost too: what came first decides.
    let mut player = played("> GET /a HTTP/1.1\\r\\n\\r\\n\n< HTTP/1.1 204 N\\r\\n\\r\\n");
    player.data(Direction::Ingress, b"GET /b HT", 900);
    player.play(
        &read(
            r"<! 30
              >! 30
              <! 30
              > GET /d HTTP/1.1\r\n\r\n
              < HTTP/1.1 204 N\r\n\r\n
              x",
        ),
        Split::Whole,
    );
    assert_eq!(player.outcome(), "GET /a 204 0ms ?>0B\nlost_gap 3");
    // The next record goes on with a call, of which the middle may not have been copied.
    let mut player = played("> GET /a HTTP/1.1\\r\\n\\r\\n");
    player.skip(Direction::Egress, 300_000);
    player.goes_on(Direction::Egress, b"bytes at the end of the same call");
    player.play(&read("x"), Split::Whole);
    assert_eq!(player.outcome(), "lost_gap 1");
}

#[test]
fn a_first_request_whose_record_never_came_is_counted() {
    check_transcript(
        r">! 30
          < HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc
          > GET /b HTTP/1.1\r\n\r\n
          < HTTP/1.1 204 N\r\n\r\n
          x",
        "GET /b 204 0ms ?>0B
         lost_ring_full 1",
    );
}

#[test]
fn every_byte_is_captured_muted_or_missing() {
    let check = |player: &Player, captured, muted, gapped| {
        let bytes = player.pipeline.ledger(TARGET).bytes;
        let want = Bytes { seen: captured + muted + gapped, captured, muted, gapped };
        assert_eq!(bytes, want, "{}", player.outcome());
    };
    // 19 of the request, 39 of the response's head.
    let mut player = played(
        r"> GET /a HTTP/1.1\r\n\r\n
          < HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n
          <* 30
          <! 40
          <0 20",
    );
    check(&player, 19 + 39 + 30, 0, 60);
    // A record that comes twice.
    player.positions[0] = 0;
    player.data(Direction::Ingress, b"GET /a HTTP/1.1\r\n\r\n", 19);
    check(&player, 19 + 39 + 30, 0, 60);
    // What is known only by where a direction ended.
    player.skip(Direction::Ingress, 5);
    player.skip(Direction::Egress, 7);
    player.play(&read(">x\nx"), Split::Whole);
    check(&player, 19 + 39 + 30, 0, 60 + 5 + 7);

    // 43 of the head; the body is muted up to 100,043, and a record behind that is lost.
    let mut player = played(
        r"> GET /a HTTP/1.1\r\n\r\n
          < HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\nabc",
    );
    player.skip(Direction::Egress, 99_997 + 11);
    player.data(Direction::Egress, b"HTTP", 4);
    check(&player, 19 + 43 + 3 + 4, 99_997, 11);
    assert_eq!(player.pipeline.ledger(TARGET).gaps, 1);

    // Nothing counts on a connection that proves to be no server's.
    let mut player = Player::new(Policy::default());
    (player.positions, player.turn, player.from_start) = ([5000, 70_000], 30, false);
    player.play(&read("> PUT it there\\r\\n\n< answer"), Split::Whole);
    check(&player, 0, 0, 0);
    // Nor what was before the first record.
    player.play(&read("> GET /b HTTP/1.1\\r\\n\\r\\n\n< HTTP/1.1 204 N\\r\\n\\r\\n"), Split::Whole);
    check(&player, 19 + 18, 0, 0);
    // What comes after an upgrade is not wanted, and may come nevertheless.
    let mut player = played("> GET /a HTTP/1.1\\r\\n\\r\\n\n< HTTP/1.1 101 S\\r\\n\\r\\n");
    player.data(Direction::Egress, b"frame", 5);
    player.skip(Direction::Egress, 1000);
    player.play(&read("x"), Split::Whole);
    check(&player, 19 + 18 + 5, 1000, 0);
}

#[test]
fn connections_that_are_let_go_are_counted() {
    let limits = Limits { max_connections: 1, ..Limits::default() };
    let mut player = Player::within(Policy::default(), limits);
    let exchange = read("> GET /a HTTP/1.1\\r\\n\\r\\n\n< HTTP/1.1 204 N\\r\\n\\r\\n");
    player.play(&exchange, Split::Whole);
    player.wait(6000);
    (player.conn, player.positions, player.turn) = (8, [0, 0], 0);
    player.play(&exchange, Split::Whole);
    assert_eq!(player.pipeline.ledger(TARGET).connections_evicted_full, 1);
    player.wait(31 * 60 * 1000);
    player.tick();
    let ledger = player.pipeline.ledger(TARGET);
    assert_eq!((ledger.connections_evicted_idle, ledger.connections_evicted()), (1, 2));
}

#[test]
fn a_body_is_never_taken_for_a_message() {
    // The request's head and the interim response are lost; what follows looks like a request.
    check_transcript(
        r"> GET /a HTTP/1.1\r\n\r\n
          < HTTP/1.1 204 N\r\n\r\n
          >! 60
          <! 25
          > GET /evil HTTP/1.1\r\n\r\n
          < HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n
          > GET /b HTTP/1.1\r\n\r\n
          < HTTP/1.1 204 N\r\n\r\n",
        "GET /a 204 0ms ?>0B
         GET /b 204 0ms ?>0B
         lost_ring_full 2",
    );
    // Only the head is lost.
    check_transcript(
        r"> GET /a HTTP/1.1\r\n\r\n
          < HTTP/1.1 204 N\r\n\r\n
          >! 60
          < HTTP/1.1 100 Continue\r\n\r\n
          > GET /evil HTTP/1.1\r\n\r\n
          < HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n
          > GET /b HTTP/1.1\r\n\r\n
          < HTTP/1.1 204 N\r\n\r\n",
        "GET /a 204 0ms ?>0B
         GET /b 204 0ms ?>0B
         lost_ring_full 1",
    );
    // A response's head is lost, its body looks like a response.
    check_transcript(
        r"> GET /a HTTP/1.1\r\n\r\n
          <! 60
          < HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n
          > GET /b HTTP/1.1\r\n\r\n
          < HTTP/1.1 204 N\r\n\r\n",
        "GET /b 204 0ms ?>0B
         lost_ring_full 1",
    );
}

#[test]
fn a_chunked_response_with_a_hidden_end_counts_without_size() {
    let hidden = r"> GET /a HTTP/1.1\r\n\r\n
                   < HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n
                   <! 100
                   ~ 7ms
                   < lo\r\n0\r\n\r\n";
    check_transcript(
        &format!(
            "{hidden}
             ~ 90ms
             > GET /b HTTP/1.1\\r\\n\\r\\n
             < HTTP/1.1 204 N\\r\\n\\r\\n"
        ),
        "GET /a 200 7ms ?>?
         GET /b 204 0ms ?>0B",
    );
    check_transcript(&format!("{hidden}\n~ 50ms\nx"), "GET /a 200 7ms ?>?");
}

#[test]
fn a_gap_inside_a_chunk_is_harmless() {
    check_transcript(
        r"> POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n64\r\nab
          >! 97
          > z\r\n0\r\n\r\n
          < HTTP/1.1 204 N\r\n\r\n",
        "POST /a 204 0ms 100B>0B",
    );
}

#[test]
fn heads_sent_without_a_copy_are_unreadable() {
    check_transcript(
        r"> GET /a HTTP/1.1\r\n\r\n
          <0 500
          > GET /b HTTP/1.1\r\n\r\n
          < HTTP/1.1 204 N\r\n\r\n
          x",
        "GET /b 204 0ms ?>0B
         unreadable_head 1",
    );
}

#[test]
fn head_that_is_answered_before_it_is_complete_counts_as_incomplete() {
    check_transcript(
        r"> GET /a HTTP/1.1\r\n\r\n
          < HTTP/1.1 204 N\r\n\r\n
          > GET /b HTTP/1.1\r\nx: aaaaaaaa
          < HTTP/1.1 431 Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno
          x",
        "GET /a 204 0ms ?>0B
         incomplete_head 1",
    );
}

#[test]
fn a_connection_met_in_the_middle_waits_for_a_request() {
    let middle = || {
        let mut player = Player::new(Policy::default());
        (player.positions, player.turn, player.from_start) = ([5000, 70_000], 30, false);
        player
    };
    check_with(
        middle,
        r"> GET /a HTTP/1.1\r\n\r\n
          < HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi
          > GET /b HTTP/1.1\r\n\r\n
          < HTTP/1.1 204 N\r\n\r\n
          x",
        "GET /a 200 0ms ?>2B
         GET /b 204 0ms ?>0B",
    );
    check_with(
        middle,
        r"> PUT it there\r\n
          < HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi
          > GET /b HTTP/1.1\r\n\r\n
          < HTTP/1.1 204 N\r\n\r\n
          x",
        "GET /b 204 0ms ?>0B",
    );
    // The target is a client, and what it reads of a body has the form of a request, with more of the body behind it
    // or not.
    for body in [r"> GET /a HTTP/1.1\r\n\r\n0\r\n\r\n", r"> GET /a HTTP/1.1\r\n\r\n"] {
        let script = r"< GET /next HTTP/1.1\r\n\r\n
                       > HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n
                       < GET /next HTTP/1.1\r\n\r\n
                       > HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n
                       x";
        check_with(middle, &format!("{body}\n{script}"), "");
    }
    // Answers that the target waited for, byte by byte.
    check_with(
        middle,
        r"> S
          < next
          > ELECT 1
          < next
          > 'quoted'
          x",
        "",
    );
}

#[test]
fn long_bodies_are_muted_to_their_end() {
    let script = r"> GET /a HTTP/1.1\r\n\r\n
                   < HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\nabc";
    let mut player = played(script);
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n".len() as u64;
    let mute = Mute { ingress_until: 0, egress_until: head + 100_000 };
    assert_eq!(player.pipeline.take_mutes().collect::<Vec<_>>(), [(7, mute)]);
    player.skip(Direction::Egress, 99_997);
    player.wait(3000);
    player.data(Direction::Egress, &[], 0);
    assert_eq!(player.outcome(), "GET /a 200 3000ms ?>100000B");
    assert_eq!(player.pipeline.ledger(TARGET).gaps, 0);

    let mut player = played(r"> POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nffff\r\n");
    assert_eq!(player.pipeline.take_mutes().count(), 1);
}

#[test]
fn other_ports_are_muted_for_good() {
    let mut player = Player::new(Policy::default());
    player.pipeline.remove_target(TARGET);
    player.pipeline.add_target(TARGET, Policy { ports: vec![8000], ..Policy::default() });
    player.play(&read("> GET /a HTTP/1.1\\r\\n\\r\\n\nx"), Split::Whole);
    assert_eq!(player.outcome(), "connections_other_port 1");
    assert_eq!(player.pipeline.take_mutes().collect::<Vec<_>>(), [(7, Mute::FOR_GOOD)]);
    assert_eq!(player.pipeline.take_closed().collect::<Vec<_>>(), [7]);
}

fn by_headers(names: &[&str]) -> ConsumerRules {
    let rules = names.iter().map(|name| ConsumerRule::new(Source::header(name).unwrap()));
    ConsumerRules::new(Key::from_client_id("id"), rules.collect()).unwrap()
}

/// A request by `consumer` and its answer.
fn exchange_by(consumer: &str) -> Vec<Line> {
    read(&format!("> GET /a HTTP/1.1\\r\\nx: {consumer}\\r\\n\\r\\n\n< HTTP/1.1 204 N\\r\\n\\r\\n"))
}

#[test]
fn fifty_thousand_consumers_are_ten_thousand_and_the_others() {
    let policy = Policy { consumers: by_headers(&["x"]).into(), ..Policy::default() };
    let mut player = Player::new(policy);
    (0..50_000).for_each(|who: u32| player.play(&exchange_by(&format!("visitor-{who:0100}")), Split::Whole));
    let rows = player.pipeline.take_counts(TARGET).rows;
    let others = rows.iter().find(|row| row.consumer.as_deref() == Some(OTHERS)).unwrap();
    assert_eq!((rows.len(), others.request_count), (10_001, 40_000));
    assert_eq!(rows.iter().map(|row| row.request_count).sum::<u64>(), 50_000);
    let ledger = player.pipeline.ledger(TARGET);
    assert_eq!((ledger.reported, ledger.lost(), ledger.consumers_over_limit), (50_000, 0, 40_000));
    assert_eq!(player.pipeline.consumers(TARGET), 10_000);

    player.pipeline.handle_tick(Ktime(2 * 3_600_000_000_000));
    player.pipeline.take_counts(TARGET);
    assert_eq!(player.pipeline.consumers(TARGET), 0, "none was seen for an hour");
    (player.conn, player.positions) = (8, [0, 0]); // the connection was idle as long, and is forgotten too
    player.play(&exchange_by("somebody"), Split::Whole);
    let rows = player.pipeline.take_counts(TARGET).rows;
    assert_eq!(rows.first().and_then(|row| row.consumer.as_deref()), Some("somebody"));
}

#[test]
fn a_consumer_is_let_go_however_its_exchange_was_kept() {
    let (limits, keep) = (Limits { max_consumers: 1, ..Limits::default() }, Keep::default());
    for keep in [
        keep.clone(),
        Keep { errors: true, ..keep.clone() },
        Keep { exchanges: true, ..keep.clone() },
        Keep { exchanges: true, errors: true, ..keep },
    ] {
        let policy = Policy { consumers: by_headers(&["x"]).into(), keep: keep.clone(), ..Policy::default() };
        let request = r"> POST /a HTTP/1.1\r\nx: alice\r\ncontent-length: 0\r\n\r\n";
        let response = r"< HTTP/1.1 422 U\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
        let mut player = played_within(policy, limits.clone(), &format!("{request}\n{response}\n"));
        assert_eq!(player.pipeline.consumers(TARGET), 1);
        player.wait(2 * 3_600_000);
        player.tick();
        player.pipeline.take_counts(TARGET);
        assert_eq!(player.pipeline.consumers(TARGET), 0, "{keep:?}");
    }
}

#[test]
fn the_other_end_is_known_where_the_kernel_side_tells_of_it() {
    let rule = ConsumerRule::new(Source::peer_address());
    let consumers = ConsumerRules::new(Key::from_client_id("id"), vec![rule]).unwrap();
    let keep = Keep { exchanges: true, ..Keep::default() };
    let mut player = Player::new(Policy { consumers: consumers.into(), keep, ..Policy::default() });
    let tell = |player: &mut Player, conn, address: &str| {
        let (ktime_ns, address) = (player.now, address.parse().unwrap());
        player.pipeline.handle_event(Record::Peer(Peer { ktime_ns, conn, target: TARGET, address }));
    };
    let play = |player: &mut Player, conn| {
        (player.conn, player.positions) = (conn, [0, 0]);
        player.play(&exchange_by("x"), Split::Whole);
    };
    tell(&mut player, 1, "192.0.2.7:4711");
    tell(&mut player, 2, "[2001:db8::9]:4712");
    tell(&mut player, 3, "192.0.2.8:4713");
    (1..=2).for_each(|conn| play(&mut player, conn));
    player.wait(10_000);
    player.tick(); // what was told of a connection that brought nothing is forgotten
    (3..=4).for_each(|conn| play(&mut player, conn));
    let rows = player.pipeline.take_counts(TARGET).rows;
    let seen: Vec<_> = rows.iter().map(|row| (row.consumer.as_deref(), row.request_count)).collect();
    assert_eq!(seen, [(None, 2), (Some("192.0.2.7"), 1), (Some("2001:db8::9"), 1)]);
    let clients = player.pipeline.take_logged(TARGET).into_iter().map(|logged| logged.client);
    let text = |client: Option<SocketAddr>| client.map_or("-".to_owned(), |client| client.to_string());
    assert_eq!(clients.map(text).collect::<Vec<_>>(), ["192.0.2.7:4711", "[2001:db8::9]:4712", "-", "-"]);
}

#[test]
fn names_are_announced_once_and_again_after_a_loss() {
    let rules = by_headers(&["x"]);
    let mut table = NameTable::default();
    table.insert(rules.key(), "alice", "Alice", "Admins").unwrap();
    let policy = Policy { consumers: rules.clone().with_names(table.into()).into(), ..Policy::default() };
    let mut player = Player::new(policy);
    let announced = |player: &mut Player| {
        player.play(&exchange_by("alice"), Split::Whole);
        let names = player.pipeline.take_counts(TARGET).consumers;
        names.into_iter().filter_map(|it| it.name).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(announced(&mut player), "Alice");
    assert_eq!(announced(&mut player), "");
    player.pipeline.resend_consumers(TARGET);
    assert_eq!(announced(&mut player), "Alice");

    let mut table = NameTable::default();
    table.insert(rules.key(), "alice", "Alicia", "").unwrap();
    player.pipeline.replace_consumer_rules(TARGET, rules.with_names(table.into()).into());
    assert_eq!(announced(&mut player), "Alicia");
    assert_eq!(announced(&mut player), "");
}

#[test]
fn consumers_are_in_the_rows() {
    let consumers = by_headers(&["x-consumer", "authorization"]);
    let limits = Limits { max_consumers: 2, ..Limits::default() };
    let script = [
        "X-Consumer: bob",
        "Authorization: Bearer 1",
        "x-consumer: carol",
        "x-consumer: ",
        "x-consumer: bob",
    ]
    .map(|field| format!("> GET /a HTTP/1.1\\r\\n{field}\\r\\n\\r\\n\n< HTTP/1.1 204 N\\r\\n\\r\\n\n"));
    let policy = Policy { consumers: consumers.into(), ..Policy::default() };
    let mut player = played_within(policy, limits, &script.concat());
    let rows = player.pipeline.take_counts(TARGET).rows;
    let seen: Vec<_> = rows.iter().map(|row| (row.consumer.as_deref(), row.request_count)).collect();
    let [(None, 1), (Some(OTHERS), 1), (Some("bob"), 2), (Some(hash), 1)] = seen.as_slice() else {
        panic!("{seen:?}")
    };
    assert_eq!(hash.len(), 16);
    assert_eq!(player.pipeline.ledger(TARGET).consumers_over_limit, 1);
}

#[test]
fn a_new_policy_holds_for_what_comes_after_it() {
    let named = |header| {
        let consumers = by_headers(&[header]);
        Policy { consumers: consumers.into(), ..Policy::default() }
    };
    let mut player = Player::new(named("x-a"));
    let request = "> GET /a HTTP/1.1\\r\\nx-a: alice\\r\\nx-b: bob\\r\\n\\r\\n\n";
    let response = "< HTTP/1.1 204 N\\r\\n\\r\\n\n";
    player.play(&read(&[request, response, request].concat()), Split::Whole);
    player.pipeline.set_policy(TARGET, named("x-b"));
    assert_eq!(player.pipeline.open_exchanges(TARGET), 1);
    player.play(&read(&[response, request, response].concat()), Split::Whole);
    let rows = player.pipeline.take_counts(TARGET).rows;
    let seen: Vec<_> = rows.iter().map(|row| (row.consumer.as_deref(), row.request_count)).collect();
    assert_eq!(seen, [(Some("alice"), 2), (Some("bob"), 1)]);
    assert_eq!(player.pipeline.connections(TARGET), 1);
}

/// What a policy has to say to declare these.
fn declaring(routes: &[&str]) -> Policy {
    let endpoints = routes.iter().map(|route| Endpoint::parse(route).unwrap()).collect();
    Policy { routes: Declared::new(endpoints, Matching::default()).unwrap().into(), ..Policy::default() }
}

#[test]
fn where_routes_are_declared_others_are_unmatched() {
    check_with(
        || Player::new(declaring(&["GET /items/{id}", "GET /items/me"])),
        r"> GET /items/me HTTP/1.1\r\n\r\n
          < HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n
          > GET /items/x HTTP/1.1\r\n\r\n
          < HTTP/1.1 404 N\r\ncontent-length: 0\r\n\r\n
          > DELETE /items/x HTTP/1.1\r\n\r\n
          < HTTP/1.1 405 N\r\ncontent-length: 0\r\n\r\n
          > GET /items/x/y HTTP/1.1\r\n\r\n
          < HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "GET /items/me 200 0ms ?>0B
         GET /items/{id} 404 0ms ?>0B
         DELETE /items/{id} 405 0ms ?>0B
         unmatched 1",
    );
}

#[test]
fn what_may_be_called_is_declared_or_was() {
    let exchange = |method: &str, status: u16| {
        format!(
            "> {method} /items/7 HTTP/1.1\\r\\n\\r\\n\n< HTTP/1.1 {status} S\\r\\ncontent-length: 0\\r\\n\\r\\n\n"
        )
    };
    let mut player = Player::new(declaring(&["GET /items/{id}", "GET /other"]));
    let operations = |player: &Player| -> Vec<String> {
        let operations = player.pipeline.operations(TARGET).into_iter();
        operations.map(|it| format!("{} {}", it.method.as_str(), it.template)).collect()
    };
    assert_eq!(operations(&player), ["GET /items/{id}", "GET /other"]);
    let script = [("GET", 200), ("HEAD", 200), ("PUT", 405), ("PATCH", 404), ("BREW", 501)]
        .map(|(method, status)| exchange(method, status));
    player.play(&read(&script.concat()), Split::Whole);
    assert_eq!((operations(&player).len(), player.pipeline.route_generation(TARGET)), (2, 0));
    player.play(&read(&exchange("DELETE", 403)), Split::Whole);
    assert_eq!(operations(&player), ["GET /items/{id}", "GET /other", "DELETE /items/{id}"]);
    assert_eq!(player.pipeline.route_generation(TARGET), 1);
}

#[test]
fn routes_change_under_an_open_exchange() {
    let mut player = Player::new(declaring(&["/items/{id}", "/old/{id}"]));
    let request = |path: &str| format!("> GET {path} HTTP/1.1\\r\\n\\r\\n\n");
    let response = "< HTTP/1.1 200 OK\\r\\ncontent-length: 0\\r\\n\\r\\n\n";
    player.play(&read(&[&request("/items/1"), response, &request("/old/1")].concat()), Split::Whole);
    player.pipeline.set_policy(TARGET, declaring(&["/new/{id}", "/items/{item_id}"]));
    player.play(&read(&[response, &request("/items/1"), response].concat()), Split::Whole);
    player.play(&read(&[&request("/old/1"), response, &request("/new/1"), response].concat()), Split::Whole);
    let rows = player.pipeline.take_counts(TARGET).rows;
    let rows: Vec<_> = rows.iter().map(|row| (row.path.as_str(), row.request_count)).collect();
    assert_eq!(rows, [("/items/{id}", 1), ("/items/{item_id}", 1), ("/new/{id}", 1), ("/old/{id}", 1)]);
    assert_eq!(player.pipeline.ledger(TARGET).reported, 4);
    let templates: Vec<_> = player.pipeline.templates(TARGET).map(|(template, _)| template).collect();
    assert_eq!(templates, ["/new/{id}", "/items/{item_id}"]);
}

#[test]
fn counts_restart_and_routes_stay() {
    let mut player = played(
        r"> GET /a/1 HTTP/1.1\r\n\r\nGET /a/2 HTTP/1.1\r\n\r\nHEAD /a/3 HTTP/1.1\r\n\r\n
          ~ 25ms
          < HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\n\r\n",
    );
    let counts = player.pipeline.take_counts(TARGET);
    let row = counts.rows.first().unwrap();
    assert_eq!(
        (row.method.as_str(), row.path.as_str(), row.status, row.request_count),
        ("GET", "/a/{id}", 200, 2)
    );
    assert_eq!(row.response_times.iter().collect::<Vec<_>>(), [(&2, &2)]);
    assert_eq!((row.response_size_sum, row.request_sizes.len()), (6, 0));
    assert_eq!(counts.rows.len(), 2);
    assert!(player.pipeline.take_counts(TARGET).rows.is_empty());
    let operations = player.pipeline.operations(TARGET);
    let operations: Vec<_> = operations.iter().map(|it| (it.method.as_str(), it.template.as_str())).collect();
    assert_eq!(operations, [("GET", "/a/{id}")]);
    assert_eq!(player.pipeline.route_generation(TARGET), 1);
}

#[test]
fn open_exchanges_end_under_their_own_names() {
    let open = "> GET /a HTTP/1.1\\r\\n\\r\\n";
    let mut player = played(open);
    player.pipeline.finish_target(TARGET);
    assert_eq!((player.outcome().as_str(), player.pipeline.connections(TARGET)), ("open_at_exit 1", 0));

    let mut player = played(open);
    player.wait(31 * 60 * 1000);
    player.tick();
    assert_eq!(player.outcome(), "open 1");
    player.wait(30 * 60 * 1000);
    player.tick();
    assert_eq!((player.outcome().as_str(), player.pipeline.connections(TARGET)), ("evicted_open 1", 0));
}

#[test]
fn an_evicted_connection_is_one_met_in_the_middle() {
    let exchange = "> GET /a HTTP/1.1\\r\\nhost: a\\r\\n\\r\\n\n< HTTP/1.1 204 N\\r\\n\\r\\n";
    let evicted = || {
        let mut player = played(exchange);
        player.wait(Duration::from_secs(3600).as_millis() as u64);
        player.tick();
        assert_eq!(player.pipeline.connections(TARGET), 0);
        assert_eq!(player.pipeline.take_forgotten().collect::<Vec<_>>(), [7]);
        player
    };
    let two_more = read(&format!("{exchange}\n{exchange}"));
    // The kernel side has forgotten it too.
    let mut player = evicted();
    (player.from_start, player.turn) = (false, 0);
    player.play(&two_more, Split::Whole);
    assert_eq!(player.outcome(), ["GET /a 204 0ms ?>0B"; 3].join("\n"));
    // Records that were on their way. What was counted before is not counted again.
    let mut player = evicted();
    player.play(&two_more, Split::Whole);
    assert_eq!(player.outcome(), "GET /a 204 0ms ?>0B\nGET /a 204 0ms ?>0B\nlost_gap 1");
}

/// Its table was full, or it was told to when a request was on its way.
#[test]
fn a_connection_that_the_kernel_side_forgot_begins_anew() {
    let exchange = "> GET /a HTTP/1.1\\r\\nhost: a\\r\\n\\r\\n\n< HTTP/1.1 204 N\\r\\n\\r\\n";
    let check = |before: &str, want: &str| {
        let mut player = played(before);
        (player.from_start, player.turn, player.last, player.positions) = (false, 0, None, [0, 0]);
        player.play(&read(&format!("{exchange}\n{exchange}")), Split::Whole);
        assert_eq!(player.outcome(), want);
        assert_eq!(player.pipeline.ledger(TARGET).stale_bytes, 0);
    };
    check(&format!("{exchange}\n{exchange}"), &["GET /a 204 0ms ?>0B"; 4].join("\n"));
    // What it said last did not reach us.
    let last = "> GET /b HTTP/1.1\\r\\n\\r\\n";
    let want = format!("{}\nevicted_open 1", ["GET /a 204 0ms ?>0B"; 3].join("\n"));
    check(&format!("{exchange}\n{last}"), &want);
}

#[test]
fn hostile_input_is_bounded() {
    // A head without end.
    let mut player = Player::new(Policy::default());
    player.play(&read("> GET / HTTP/1.1\\r\\na: "), Split::Whole);
    (0..100).for_each(|_| player.data(Direction::Ingress, &[b'a'; 1000], 1000));
    assert_eq!(player.outcome(), "unreadable_head 1");
    // A request line without end.
    let mut player = Player::new(Policy::default());
    player.play(&read("> GET /"), Split::Whole);
    (0..100).for_each(|_| player.data(Direction::Ingress, &[b'a'; 1000], 1000));
    assert_eq!(player.outcome(), "unreadable_head 1");
    // Too many fields.
    let fields = r"a: b\r\n".repeat(200);
    assert_eq!(played(&format!("> GET / HTTP/1.1\\r\\n{fields}\\r\\n")).outcome(), "unreadable_head 1");
    // Chunk lines without end.
    let mut player = played("> POST /a HTTP/1.1\\r\\ntransfer-encoding: chunked\\r\\n\\r\\n5;");
    (0..100).for_each(|_| player.data(Direction::Ingress, &[b'a'; 1000], 1000));
    player.play(&read("< HTTP/1.1 400 Bad\\r\\ncontent-length: 0\\r\\n\\r\\n"), Split::Whole);
    assert_eq!(player.outcome(), "POST /a 400 0ms ?>0B");
    // More requests than anyone answers.
    let mut player = Player::new(Policy::default());
    let batch = b"GET /a HTTP/1.1\r\n\r\n".repeat(2000);
    player.data(Direction::Ingress, &batch, batch.len() as u32);
    assert_eq!(player.outcome(), "evicted_open 1025");
    assert_eq!(player.pipeline.take_mutes().collect::<Vec<_>>(), [(7, Mute::FOR_GOOD)]);
}

#[test]
fn connections_and_heads_share_their_bounds() {
    let limits = Limits { max_connections: 3, max_buffered: 2000, ..Limits::default() };
    let mut player = Player::within(Policy::default(), limits);
    for conn in 0..5 {
        (player.conn, player.positions) = (conn, [0, 0]);
        player.data(Direction::Ingress, &b"GET /aaaaa".repeat(90), 900);
    }
    assert_eq!(player.pipeline.connections(TARGET), 3);
    assert_eq!(player.outcome(), "unreadable_head 1\nconnections_over_limit 2");
}

#[test]
fn rows_are_bounded_by_their_text() {
    let consumers = by_headers(&["x"]);
    let mut player = Player::new(Policy { consumers: consumers.into(), ..Policy::default() });
    let path = "a".repeat(2000);
    let exchange = |consumer: u32| {
        let request = format!("> GET /{path} HTTP/1.1\\r\\nx: {consumer:06}\\r\\n\\r\\n\n");
        read(&(request + "< HTTP/1.1 204 N\\r\\n\\r\\n"))
    };
    (0..5000).for_each(|consumer| player.play(&exchange(consumer), Split::Whole));
    let most = 8 * 1024 * 1024 / (2001 + 6);
    let ledger = player.pipeline.ledger(TARGET);
    assert_eq!((ledger.reported, ledger.lost_to(Cause::OverCountLimit)), (most, 5000 - most));
    assert_eq!(player.pipeline.take_counts(TARGET).rows.len() as u64, most);
    player.play(&exchange(4999), Split::Whole);
    assert_eq!(player.pipeline.ledger(TARGET).reported, most + 1);
}

#[test]
fn a_head_is_refused_at_the_end_of_a_line_however_it_is_cut() {
    for response in [r"HTTP/1.1 2x0", r"HTTP/1.1 200 OK\r\nbad field: x"] {
        let cut_off = format!("> GET /a HTTP/1.1\\r\\n\\r\\n\n< {response}\nx");
        check_transcript(&cut_off, "aborted_before_response 1");
        let refused = format!("> GET /a HTTP/1.1\\r\\n\\r\\n\n< {response}\\r\\n\nx");
        check_transcript(&refused, "unreadable_head 1");
    }
    check_transcript("> GET /a HTTP/1.1\\r\\n\\r\\n\n< HTTX", "unreadable_head 1");
    check_transcript("> GET /a HTTP/1.1\\r\\nbad field: x\nx", "incomplete_head 1");
    check_transcript("> GET /a HTTP/1.1\\r\\nbad field: x\\r\\n\nx", "unreadable_head 1");
}

#[test]
fn a_head_takes_no_more_memory_than_there_is() {
    let limits = Limits { max_buffered: 400, ..Limits::default() };
    let mut player = Player::within(Policy::default(), limits);
    for (conn, length) in [(0, 190), (1, 150), (1, 10)] {
        if player.conn != conn {
            (player.conn, player.positions) = (conn, [0, 0]);
        }
        player.data(Direction::Ingress, &b"GET /".repeat(length / 5), length as u32);
        let held = player.pipeline.buffered();
        assert!(held <= 400, "{held} bytes");
    }
}

#[test]
fn the_end_of_a_chunked_body_is_seen_however_it_is_cut() {
    // The framing is broken, so where the body ends is not known; but it looks like an end.
    let lines = read(
        r"> GET /a HTTP/1.1\r\n\r\n
          < HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nabc
          < def\r\n0\r\n\r\n",
    );
    for split in [Split::Whole, Split::Bytes] {
        let mut player = Player::new(Policy::default());
        player.play(&lines, split);
        player.pipeline.finish_target(TARGET);
        assert_eq!(player.outcome(), "GET /a 200 0ms ?>?", "{split:?}");
    }
}

#[test]
fn what_begins_no_request_is_told_however_it_is_cut() {
    check_transcript(
        r"> GE( /a HTTP/1.1\r\n\r\n
          < what
          > GE( /b HTTP/1.1\r\n\r\n
          < what
          x",
        "unreadable_head 1",
    );
}
