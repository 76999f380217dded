//! Properties over made-up connections: no split changes a count, no gap invents an exchange, and every
//! exchange that was seen is reported, lost or open.

use std::collections::HashMap;

use agent_common::conn::Direction;

use super::{Line, Player, Split, TARGET, details::keep_all};
use crate::pipeline::{Policy, detail::Body};

/// xorshift64*: enough for tests, and the same every time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

/// Bodies a parser might fall for.
fn body(random: &mut Random, length: usize) -> Vec<u8> {
    let pattern: &[u8] = match random.below(4) {
        0 => b"GET /evil HTTP/1.1\r\n\r\n",
        1 => b"HTTP/1.1 299 Evil\r\ncontent-length: 0\r\n\r\n",
        2 => b"0\r\n\r\n",
        _ => b"body",
    };
    pattern.iter().copied().cycle().take(length).collect()
}

/// Header fields and body, and whether the body is a call of its own.
fn with_body(random: &mut Random, out: &mut Vec<u8>, length: usize) -> Vec<u8> {
    let body = body(random, length);
    if random.one_in(2) {
        out.extend(format!("content-type: text/plain\r\ncontent-length: {length}\r\n\r\n").bytes());
        return body;
    }
    out.extend(b"content-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n");
    let mut chunked = Vec::new();
    for chunk in body.chunks(1 + random.below(40) as usize) {
        chunked.extend(format!("{:x}\r\n", chunk.len()).bytes());
        chunked.extend(chunk);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");
    chunked
}

fn push(lines: &mut Vec<Line>, direction: Direction, bytes: Vec<u8>) {
    if !bytes.is_empty() {
        lines.push(Line::Bytes(direction, bytes));
    }
}

/// What a client may do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Client {
    /// Send requests before their turn, and wait for a 100 before a body.
    Pipelining,
    /// Nothing of the kind: each exchange is one turn.
    Plain,
}

/// A connection, and its exchanges as `outcome` words them, without times and sizes that may be unknown.
fn script(random: &mut Random, client: Client) -> (Vec<Line>, Vec<String>) {
    let (mut lines, mut truth) = (Vec::new(), Vec::new());
    for turn in 0..2 + random.below(8) {
        let pipelines = client == Client::Pipelining && random.one_in(4);
        let batch = if pipelines { 1 + random.below(5) } else { 1 };
        let mut answers = Vec::new();
        let mut pending = Vec::new();
        for index in 0..batch {
            let number = turn * 8 + index;
            let path: String = [number / 26, number % 26].map(|n| (b'a' + n as u8) as char).iter().collect();
            // The status and sizes tell which request a response belongs to.
            let (status, size) = (210 + number, 50 + number);
            let method = ["GET", "HEAD", "POST"][random.below(3) as usize];
            pending.extend(format!("{method} /{path} HTTP/1.1\r\n").bytes());
            let request_size = if method == "POST" {
                let expects = client == Client::Pipelining && batch == 1 && random.one_in(3);
                let body = with_body(random, &mut pending, 100 + number as usize);
                if expects || random.one_in(2) {
                    push(&mut lines, Direction::Ingress, std::mem::take(&mut pending));
                    if expects {
                        push(&mut lines, Direction::Egress, b"HTTP/1.1 100 Continue\r\n\r\n".to_vec());
                    }
                }
                pending.extend(body);
                format!("{}B", 100 + number)
            } else {
                pending.extend(b"\r\n");
                "?".to_owned()
            };
            let mut answer = format!("HTTP/1.1 {status} S\r\n").into_bytes();
            if method != "HEAD" && random.one_in(6) {
                answer.splice(0..0, *b"HTTP/1.1 103 E\r\nlink: a\r\n\r\n");
            }
            let body = with_body(random, &mut answer, size as usize);
            let response_size = if method == "HEAD" {
                0
            } else if random.one_in(2) {
                answers.push(std::mem::take(&mut answer));
                answer = body;
                size
            } else {
                answer.extend(body);
                size
            };
            answers.push(answer);
            truth.push(format!("{method} /{path} {status} 0ms {request_size}>{response_size}B"));
        }
        push(&mut lines, Direction::Ingress, pending);
        for answer in answers {
            push(&mut lines, Direction::Egress, answer);
        }
    }
    (lines, truth)
}

/// Cuts lines at random places.
fn cut(random: &mut Random, lines: Vec<Line>) -> Vec<Line> {
    let mut parts = Vec::new();
    for line in lines {
        let Line::Bytes(direction, mut bytes) = line else { continue };
        while random.one_in(2) && bytes.len() > 1 {
            let rest = bytes.split_off(1 + random.below(bytes.len() as u64 - 1) as usize);
            parts.push(Line::Bytes(direction, std::mem::replace(&mut bytes, rest)));
        }
        parts.push(Line::Bytes(direction, bytes));
    }
    parts
}

/// Loses one in so many records, and closes the connection.
fn lose(random: &mut Random, lines: Vec<Line>, one_in: u64) -> Vec<Line> {
    let parts = if random.one_in(2) { cut(random, lines) } else { lines };
    let mut lossy: Vec<Line> = parts
        .into_iter()
        .map(|line| match line {
            Line::Bytes(direction, bytes) if random.one_in(one_in) => {
                Line::Gap(direction, bytes.len() as u32)
            }
            line => line,
        })
        .collect();
    lossy.push(Line::Close);
    lossy
}

fn play(lines: &[Line]) -> Player {
    play_with(Policy::default(), lines)
}

fn play_with(policy: Policy, lines: &[Line]) -> Player {
    let mut player = Player::new(policy);
    player.play(lines, Split::Whole);
    player
}

#[test]
fn no_split_changes_a_count() {
    let mut random = Random(1);
    for _ in 0..300 {
        let (lines, truth) = script(&mut random, Client::Pipelining);
        assert_eq!(play(&lines).target().reported, truth);
        let parts = cut(&mut random, lines);
        assert_eq!(play(&parts).target().reported, truth);
    }
}

#[test]
fn no_split_changes_what_is_kept() {
    let mut random = Random(5);
    for _ in 0..300 {
        let (lines, truth) = script(&mut random, Client::Pipelining);
        let mut whole = play_with(keep_all(), &lines);
        let kept = whole.pipeline.take_logged(TARGET);
        assert_eq!((kept.len(), whole.pipeline.details()), (truth.len(), 0));
        for exchange in &kept {
            let sizes =
                [(&exchange.request, exchange.request_size), (&exchange.response, exchange.response_size)];
            for (message, size) in sizes {
                let Body::Whole(bytes) = &message.body else {
                    assert!(size.is_none_or(|size| size == 0), "{exchange:?}");
                    continue;
                };
                assert_eq!(Some(bytes.len() as u64), size, "{exchange:?}");
            }
        }
        let parts = cut(&mut random, lines);
        assert_eq!(play_with(keep_all(), &parts).pipeline.take_logged(TARGET), kept);
    }
}

#[test]
fn keeping_details_changes_no_count() {
    let mut random = Random(6);
    for round in 0..3000 {
        let (lines, _) = script(&mut random, Client::Pipelining);
        let lossy = lose(&mut random, lines, [3, 10, 30][round % 3]);
        let mut player = play_with(keep_all(), &lossy);
        assert_eq!(player.outcome(), play(&lossy).outcome(), "round {round}\n{}", show(&lossy));
        let reported = player.target().reported.len();
        assert_eq!(player.pipeline.take_logged(TARGET).len(), reported, "round {round}");
        assert_eq!(player.pipeline.details(), 0);
    }
}

#[test]
fn no_gap_invents_an_exchange() {
    let mut random = Random(2);
    let (mut exchanges, mut reported) = (0, 0);
    for round in 0..6000 {
        let (lines, truth) = script(&mut random, Client::Pipelining);
        let lossy = lose(&mut random, lines, [3, 10, 30][round % 3]);
        let player = play(&lossy);

        let mut left: HashMap<&str, u32> = HashMap::new();
        truth.iter().for_each(|line| *left.entry(line).or_default() += 1);
        for line in &player.target().reported {
            // A size may be unknown where it was not seen to the end.
            let known = truth.iter().find(|truth| agrees(truth, line));
            let Some(known) = known else { panic!("round {round}: {line} was invented\n{}", show(&lossy)) };
            let count = left.get_mut(known.as_str()).unwrap();
            assert!(*count > 0, "round {round}: {line} counted twice");
            *count -= 1;
        }
        let ledger = player.pipeline.ledger(TARGET);
        assert_eq!(ledger.seen, ledger.reported + ledger.lost(), "round {round}");
        exchanges += truth.len();
        reported += ledger.reported as usize;
    }
    assert!(reported * 100 > exchanges * 40, "{reported} of {exchanges} survived");
}

#[test]
fn no_gap_hides_an_exchange_of_a_plain_client() {
    let mut random = Random(4);
    for round in 0..20_000 {
        let (lines, truth) = script(&mut random, Client::Plain);
        let lossy = lose(&mut random, lines, [1, 2, 3, 10, 30][round % 5]);
        let player = play(&lossy);
        let ledger = player.pipeline.ledger(TARGET);
        assert_eq!(
            ledger.seen,
            truth.len() as u64,
            "round {round}: {}\n{}\n{}",
            truth.join("\n"),
            show(&lossy),
            player.outcome()
        );
    }
}

/// For a failure to be read.
fn show(lines: &[Line]) -> String {
    let show = |line: &Line| match line {
        Line::Bytes(direction, bytes) => format!("{direction:?} {:?}\n", String::from_utf8_lossy(bytes)),
        line => format!("{line:?}\n"),
    };
    lines.iter().map(show).collect()
}

/// The same exchange: method, path and status; sizes, where known.
fn agrees(truth: &str, line: &str) -> bool {
    let (truth, line): (Vec<_>, Vec<_>) = (truth.split(' ').collect(), line.split(' ').collect());
    let sizes = |fields: &[&str]| -> Vec<Option<u64>> {
        fields[4].split('>').map(|size| size.trim_end_matches('B').parse().ok()).collect()
    };
    let (true_sizes, sizes) = (sizes(&truth), sizes(&line));
    truth[..3] == line[..3]
        && (sizes[0].is_none() || sizes[0] == true_sizes[0])
        && (sizes[1].is_none() || sizes[1] == true_sizes[1])
}

#[test]
fn noise_never_panics() {
    let mut random = Random(3);
    let words: [&[u8]; 12] = [
        b"GET /a HTTP/1.1\r\n",
        b"\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"content-length: 5\r\n",
        b"0\r\n\r\n",
        b"transfer-encoding: chunked\r\n",
        b"ffffffffffffffff\r\n",
        b"\xff\x00",
        b"PROXY ",
        b":",
        b"5\r\nhello\r\n",
        b"content-length: 18446744073709551615\r\n",
    ];
    for _ in 0..3000 {
        let mut player = Player::new(Policy::default());
        for _ in 0..random.below(40) {
            let direction = Direction::ALL[random.below(2) as usize];
            let mut bytes = Vec::new();
            (0..random.below(5)).for_each(|_| bytes.extend(words[random.below(12) as usize]));
            match random.below(12) {
                0 => player.positions[direction as usize] = u64::from(u32::MAX) * random.below(1 << 31),
                1 => player.turn = random.below(100) as u32,
                2 => player.skip(direction, random.below(50) as u32),
                3 => player.play(&[Line::End(direction)], Split::Whole),
                4 if random.one_in(4) => player.play(&[Line::Close], Split::Whole),
                _ => {}
            }
            let more = random.below(3) as u32 * random.below(20) as u32;
            player.data(direction, &bytes, bytes.len() as u32 + more);
        }
        player.pipeline.finish_target(TARGET);
        assert_eq!(player.pipeline.open_exchanges(TARGET), 0);
        assert!(player.target().adds_up());
    }
}
