//! One connection as text: the notation of `agent::pipeline::transcript`, whatever its bytes.

use agent::pipeline::{
    Policy,
    ledger::Ledger,
    transcript::{Line, Player, Split, TARGET, read},
};

use crate::account::{Account, assert_adds_up};

/// Adds up after every line; and without gaps, how the bytes are cut into records changes nothing.
pub fn check(input: &[u8]) {
    let lines = read(&String::from_utf8_lossy(input));
    let whole = play(&lines, Split::Whole);
    if is_lossy(&lines) {
        return;
    }
    let length: usize =
        lines.iter().map(|line| if let Line::Bytes(_, bytes) = line { bytes.len() } else { 0 }).sum();
    let cuts = [1, 2, 3].map(|quarter| Split::At(length * quarter / 4));
    // By bytes is slow where a line stands for a body.
    let by_bytes = (length < 8 * 1024).then_some(Split::Bytes);
    for split in cuts.into_iter().chain(by_bytes) {
        assert_eq!(play(&lines, split), whole, "{split:?}");
    }
}

/// Whether bytes are missing: in a gap, or, of a connection that goes on after its end, at the beginning.
fn is_lossy(lines: &[Line]) -> bool {
    let end = lines.iter().position(|line| matches!(line, Line::Close | Line::Exit)).unwrap_or(lines.len());
    let goes_on = lines[end..].iter().any(|line| matches!(line, Line::Bytes(..) | Line::Position(_)));
    goes_on || lines.iter().any(|line| matches!(line, Line::Gap(..) | Line::Unread(..)))
}

/// What came of it, up to the end of the target.
fn play(lines: &[Line], split: Split) -> (Account, Ledger, usize) {
    let mut player = Player::new(Policy::default());
    player.play_each(lines, split, |player| assert_adds_up(&player.pipeline, TARGET));
    let connections = player.pipeline.connections(TARGET);
    player.pipeline.finish_target(TARGET);
    assert_eq!(player.pipeline.open_exchanges(TARGET), 0);
    let mut account = Account::default();
    account.close(&mut player.pipeline, TARGET);
    (account, player.pipeline.ledger(TARGET), connections)
}
