//! One connection as text: the notation of `agent::pipeline::transcript`, whatever its bytes.

use agent::pipeline::{
    Policy,
    counters::{ServerErrors, ValidationErrors},
    detail::{Keep, Logged},
    ledger::Ledger,
    transcript::{Line, Player, Split, TARGET, read},
};

use crate::account::{Account, assert_adds_up};

/// Adds up after every line; keeping details changes no count; and without gaps, how the bytes are cut into records
/// changes nothing.
pub fn check(input: &[u8]) {
    let lines = read(&String::from_utf8_lossy(input));
    let whole = play(&lines, Split::Whole, Keep::default());
    let kept = play(&lines, Split::Whole, keep_all());
    assert_same_counts(&kept, &whole);
    if is_lossy(&lines) {
        return;
    }
    let length: usize =
        lines.iter().map(|line| if let Line::Bytes(_, bytes) = line { bytes.len() } else { 0 }).sum();
    let cuts = [1, 2, 3].map(|quarter| Split::At(length * quarter / 4));
    // By bytes is slow where a line stands for a body.
    let by_bytes = (length < 8 * 1024).then_some(Split::Bytes);
    for split in cuts.into_iter().chain(by_bytes) {
        assert_eq!(play(&lines, split, Keep::default()), whole, "{split:?}");
        assert_eq!(play(&lines, split, keep_all()), kept, "{split:?}");
    }
}

/// Whether bytes are missing: in a gap, or, of a connection that goes on after its end, at the beginning.
fn is_lossy(lines: &[Line]) -> bool {
    let end = lines.iter().position(|line| matches!(line, Line::Close | Line::Exit)).unwrap_or(lines.len());
    let goes_on = lines[end..].iter().any(|line| matches!(line, Line::Bytes(..) | Line::Position(_)));
    goes_on || lines.iter().any(|line| matches!(line, Line::Gap(..) | Line::Unread(..)))
}

/// Everything that can be kept.
fn keep_all() -> Keep {
    Keep {
        exchanges: true,
        request_bodies: true,
        response_bodies: true,
        content_types: vec!["text/plain".to_owned(), "application/json".to_owned()],
        errors: true,
    }
}

/// What came of a transcript.
#[derive(Debug, PartialEq)]
struct Played {
    account: Account,
    ledger: Ledger,
    connections: usize,
    logged: Vec<Logged>,
    /// Errors that bodies told of.
    told: (Vec<ValidationErrors>, Vec<ServerErrors>),
}

/// The same but for what is only there where details are kept.
fn assert_same_counts(kept: &Played, plain: &Played) {
    let mut ledger = kept.ledger;
    (ledger.error_bodies_unread, ledger.validation_errors_dropped, ledger.server_errors_dropped) = (0, 0, 0);
    assert_eq!((&kept.account, ledger, kept.connections), (&plain.account, plain.ledger, plain.connections));
    assert!(kept.logged.len() as u64 >= kept.ledger.reported);
    assert_eq!((plain.logged.len(), plain.told.0.len(), plain.told.1.len()), (0, 0, 0));
}

/// What came of it, up to the end of the target.
fn play(lines: &[Line], split: Split, keep: Keep) -> Played {
    let mut player = Player::new(Policy { keep, ..Policy::default() });
    player.play_each(lines, split, |player| {
        assert_adds_up(&player.pipeline, TARGET);
        assert!(player.pipeline.details_add_up());
    });
    let connections = player.pipeline.connections(TARGET);
    player.pipeline.finish_target(TARGET);
    assert_eq!(player.pipeline.open_exchanges(TARGET), 0);
    let logged = player.pipeline.take_logged(TARGET);
    assert_eq!(player.pipeline.details(), 0);
    let mut account = Account::default();
    let told = account.close(&mut player.pipeline, TARGET);
    Played { account, ledger: player.pipeline.ledger(TARGET), connections, logged, told }
}
