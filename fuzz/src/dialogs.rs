//! Correct HTTP: all of it is counted, however it is cut and whatever was muted; where records are lost nothing is made
//! up, and of clients that do not pipeline every exchange is seen, reported or lost.

use agent::pipeline::ledger::Cause;
use arbitrary::{Result, Unstructured};

use crate::{
    account::Account,
    dialog::{Dialog, Exchange},
    tap::{Fate, Manner, Seen, deliver},
};

/// Counts a dialog whole, cut, muted, and with losses.
pub fn check(input: &[u8]) {
    // Without bytes to choose by there is nothing to check.
    let _ = check_dialog(&mut Unstructured::new(input));
}

fn check_dialog(choices: &mut Unstructured<'_>) -> Result<()> {
    let dialog = Dialog::arbitrary(choices)?;
    let _shown = Shown(&dialog);
    let manner = Manner { piece: 16 * 1024, mutes: false, fates: Vec::new() };
    let whole = deliver(&dialog.steps, &manner);
    assert_complete(&whole, &dialog);

    let steps = dialog.cut(choices)?;
    let piece = choices.int_in_range(20..=2000)?;
    let cut = deliver(&steps, &Manner { piece, ..manner.clone() });
    assert_same("cut", &cut, &whole, &dialog);
    assert_complete(&cut, &dialog);

    let muted = deliver(&steps, &Manner { mutes: true, ..manner.clone() });
    assert_same("muted", &muted, &whole, &dialog);
    assert_complete(&muted, &dialog);
    assert!(muted.captured <= whole.captured);

    if dialog.answers_early {
        // A body that is read after the response begins a turn as a request does. Without the head in front of
        // it, one that reads like a request is taken for one.
        return Ok(());
    }
    let mut fates = Vec::new();
    for _ in 0..choices.int_in_range(1..=60)? {
        fates.push(match choices.int_in_range(0..=9)? {
            0 | 1 => Fate::Lost,
            2 => Fate::Cut(choices.int_in_range(0..=60)?),
            _ => Fate::Arrives,
        });
    }
    for mutes in [false, true] {
        let lossy = deliver(&steps, &Manner { mutes, fates: fates.clone(), ..manner.clone() });
        assert_nothing_made_up(&lossy.account, &dialog);
        if dialog.is_plain && !fates.iter().any(|fate| matches!(fate, Fate::Cut(_))) {
            assert_eq!(lossy.ledger.seen, dialog.exchanges.len() as u64, "{fates:?}");
        }
    }
    Ok(())
}

/// Prints the dialog when something does not hold; the fuzzer itself ends too early for that, the replay does not.
struct Shown<'a>(&'a Dialog);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.steps.iter().for_each(|step| eprintln!("{step}"));
        }
    }
}

/// The same rows, times included.
fn assert_same(how: &str, seen: &Seen, whole: &Seen, dialog: &Dialog) {
    for (key, row) in &whole.account.rows {
        let mut got = seen.account.rows.get(key).cloned().unwrap_or_default();
        if dialog.exchanges.iter().any(|exchange| exchange.aborted && exchange.path == key.2) {
            // When the last byte of a response moved is not known if it was muted and no more follow.
            got.response_times.clone_from(&row.response_times);
        }
        assert_eq!(got, *row, "{key:?}, {how}");
    }
    assert_eq!(seen.account.rows.len(), whole.account.rows.len(), "{how}");
}

/// Every exchange is reported, with its sizes.
fn assert_complete(seen: &Seen, dialog: &Dialog) {
    let rows = &seen.account.rows;
    assert_eq!(rows.len(), dialog.exchanges.len());
    for exchange in &dialog.exchanges {
        let Exchange { method, path, status, request_size, response_size, .. } = exchange;
        let row = rows.get(&(None, (*method).to_owned(), path.clone(), *status));
        let row = row.unwrap_or_else(|| panic!("{exchange:?} is missing: {rows:#?}"));
        assert_eq!(row.request_count, 1, "{exchange:?}");
        let known = (!row.request_sizes.is_empty()).then_some(row.request_size_sum);
        assert_eq!((known, row.response_size_sum), (*request_size, *response_size), "{exchange:?}");
        assert!(!row.response_sizes.is_empty());
    }
    assert_eq!(seen.ledger.reported, dialog.exchanges.len() as u64);
    assert_eq!(seen.ledger.lost(), dialog.upgraded);
    assert_eq!(seen.ledger.lost_to(Cause::Upgraded), dialog.upgraded);
    assert_eq!((seen.ledger.gaps, seen.ledger.stale_bytes), (0, 0));
}

/// Each exchange that is reported happened, once, and its sizes are no more than they were.
fn assert_nothing_made_up(account: &Account, dialog: &Dialog) {
    for ((_, method, path, status), row) in &account.rows {
        let truth = dialog.exchanges.iter().find(|exchange| exchange.path == *path);
        let Some(truth) = truth else { panic!("{method} {path} {status} was made up") };
        assert_eq!((method.as_str(), *status), (truth.method, truth.status), "{path}");
        assert_eq!(row.request_count, 1, "{path}");
        assert!(row.request_size_sum <= truth.request_size.unwrap_or(0), "{path}");
        assert!(row.response_size_sum <= truth.response_size, "{path}");
    }
}
