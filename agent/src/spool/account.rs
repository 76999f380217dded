//! What would be lost if the agent were killed now, kept where the next agent finds it.
//!
//! An exchange that was counted is in no message until the next one is made, and in no safe place until that message
//! is on disk or delivered. How many there are stands in a small file for each target. It is written without waiting
//! for the disk: what a process wrote survives its own death in the page cache, and a power failure, which it may not
//! survive, ends the target's processes too. The next agent takes the number over as lost to
//! [`crate::pipeline::ledger::Cause::AgentKilled`].

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use sha2::{Digest as _, Sha256};
use tracing::debug;
use uuid::Uuid;

use super::entry::Settled;
use crate::slots;

/// The account of one target, for the life of this agent.
#[derive(Debug)]
pub struct Account {
    /// Locked; see [`Page`] for what is in it.
    file: File,
    life: Uuid,
    /// Exchanges in messages, settled or not.
    handed_over: AtomicU64,
    /// As written last.
    counted: AtomicU64,
    open: AtomicU64,
    settled: AtomicU64,
}

/// What an agent that is gone had seen and could not hand over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsettled {
    /// Exchanges that it had counted, and that are in no message.
    pub counted: u64,
    /// Exchanges that had no answer yet.
    pub open: u64,
}

/// The content of the file: one fact a line, each at a fixed place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Page {
    life: Uuid,
    counted: u64,
    open: u64,
    settled: u64,
}

/// Where `counted` and `open` stand, then `settled`: after "account 1\n" and "life " with a UUID.
const COUNTED_AT: u64 = 10 + 42;
const SETTLED_AT: u64 = COUNTED_AT + 29 + 26;
const LEN: u64 = SETTLED_AT + 29;

impl Account {
    /// Opens the account of `owner`, and says what the last agent that had it left there.
    ///
    /// `settled` knows up to where messages that are still in the spool settle the account of an earlier life.
    ///
    /// # Errors
    /// When `state_dir` cannot be used, or too many agents watch the same.
    pub fn claim(
        state_dir: &Path,
        owner: &str,
        settled: impl Fn(Uuid) -> Option<u64>,
    ) -> io::Result<(Self, Unsettled)> {
        let digest = Sha256::digest(owner);
        let key: String = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        let file = slots::claim(state_dir, "account", &key)?.ok_or(io::ErrorKind::ResourceBusy)?;
        let mut text = String::new();
        // What is no text is no account.
        let _ = (&file).take(2 * LEN).read_to_string(&mut text);
        let page = Page::parse(&text);
        if page.is_none() && !text.is_empty() {
            debug!("an account in the state directory cannot be read, it begins anew");
        }
        let left = page.map_or_else(Unsettled::default, |page| {
            let settled = page.settled.max(settled(page.life).unwrap_or(0));
            Unsettled { counted: page.counted.saturating_sub(settled), open: page.open }
        });
        let life = Uuid::new_v4();
        file.set_len(LEN)?;
        file.write_all_at(Page { life, ..Page::default() }.to_text().as_bytes(), 0)?;
        let (handed_over, counted, open, settled) = Default::default();
        Ok((Self { file, life, handed_over, counted, open, settled }, left))
    }

    /// Notes how many exchanges were counted that are in no message yet, and how many have no answer yet. Costs nothing
    /// when that is as before, and one write into the page cache otherwise.
    pub fn note(&self, counted: u64, open: u64) {
        let counted = counted.saturating_add(self.handed_over.load(Relaxed));
        let before = (self.counted.swap(counted, Relaxed), self.open.swap(open, Relaxed));
        if before != (counted, open) {
            self.write(&Page::note(counted, open), COUNTED_AT);
        }
    }

    /// To go with a message that holds so many of the exchanges counted.
    pub fn receipt(self: &Arc<Self>, exchanges: u64) -> Receipt {
        self.handed_over.fetch_add(exchanges, Relaxed);
        Receipt { account: Arc::clone(self), exchanges }
    }

    fn write(&self, text: &str, at: u64) {
        // The disk is full or broken, and the spool says so.
        let _ = self.file.write_all_at(text.as_bytes(), at);
    }
}

/// Says to the account that a message is in a safe place. A message may go without.
#[derive(Debug)]
pub struct Receipt {
    account: Arc<Account>,
    exchanges: u64,
}

impl Receipt {
    /// How far the account is settled with this one. Right as long as nobody else settles meanwhile: receipts of one
    /// spool are settled one after the other.
    pub(super) fn settles(&self) -> Settled {
        let settled = self.account.settled.load(Relaxed);
        Settled { life: self.account.life, exchanges: settled.saturating_add(self.exchanges) }
    }

    pub(super) fn settle(self) {
        let Settled { exchanges, .. } = self.settles();
        self.account.settled.store(exchanges, Relaxed);
        self.account.write(&Page::settled(exchanges), SETTLED_AT);
    }
}

impl Page {
    fn to_text(self) -> String {
        let Self { life, counted, open, settled } = self;
        format!("account 1\nlife {life}\n{}{}", Self::note(counted, open), Self::settled(settled))
    }

    fn note(counted: u64, open: u64) -> String {
        format!("counted {counted:020}\nopen {open:020}\n")
    }

    fn settled(settled: u64) -> String {
        format!("settled {settled:020}\n")
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let mut fact = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        if fact("account")? != "1" {
            return None;
        }
        let life = Uuid::try_parse(fact("life")?).ok()?;
        let mut number = |name| fact(name)?.parse().ok();
        Some(Self { life, counted: number("counted")?, open: number("open")?, settled: number("settled")? })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn claim(dir: &Path) -> (Arc<Account>, Unsettled) {
        let (account, left) = Account::claim(dir, "shop", |_| None).unwrap();
        (Arc::new(account), left)
    }

    fn path(dir: &Path) -> std::path::PathBuf {
        fs::read_dir(dir).unwrap().next().unwrap().unwrap().path()
    }

    #[test]
    fn places_in_the_page_are_where_they_are_written() {
        let page = Page { life: Uuid::from_u128(1), counted: 2, open: u64::MAX, settled: 3 };
        let text = page.to_text();
        assert_eq!(text.len() as u64, LEN);
        assert!(text[COUNTED_AT as usize..].starts_with("counted "), "{text}");
        assert!(text[SETTLED_AT as usize..].starts_with("settled "), "{text}");
        assert_eq!(Page::parse(&text), Some(page));
    }

    #[test]
    fn what_is_not_settled_is_left_to_the_next_life() {
        let dir = tempfile::tempdir().unwrap();
        let (account, left) = claim(dir.path());
        assert_eq!(left, Unsettled::default());
        account.note(7, 2);
        account.receipt(7).settle();
        account.note(5, 1);
        drop(account);
        let (account, left) = claim(dir.path());
        assert_eq!(left, Unsettled { counted: 5, open: 1 });
        drop(account);
        assert_eq!(claim(dir.path()).1, Unsettled::default(), "it was taken over once");
    }

    #[test]
    fn a_message_in_the_spool_settles_what_the_page_does_not_know_of() {
        let dir = tempfile::tempdir().unwrap();
        let (account, _) = claim(dir.path());
        account.note(7, 0);
        account.receipt(7).settle();
        account.note(5, 0);
        let last = account.receipt(5);
        let settled = last.settles();
        assert_eq!(settled, Settled { life: account.life, exchanges: 12 });
        drop((account, last)); // killed between the message and the page
        let known = |life| (life == settled.life).then_some(settled.exchanges);
        let (_, left) = Account::claim(dir.path(), "shop", known).unwrap();
        assert_eq!(left, Unsettled::default());
    }

    #[test]
    fn two_agents_have_two_accounts() {
        let dir = tempfile::tempdir().unwrap();
        let (first, _) = claim(dir.path());
        let (second, _) = claim(dir.path());
        first.note(1, 0);
        second.note(2, 0);
        drop((first, second));
        let ((_first, left), (_second, other)) = (claim(dir.path()), claim(dir.path()));
        assert_eq!((left.counted, other.counted), (1, 2));
    }

    #[test]
    fn damaged_pages_are_worth_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let whole = Page { life: Uuid::from_u128(1), counted: 2, open: 3, settled: 0 }.to_text();
        drop(claim(dir.path()));
        for len in 0..whole.len() - 1 {
            fs::write(path(dir.path()), &whole[..len]).unwrap();
            let left = claim(dir.path()).1;
            // A last number that lost digits would only settle less than it did: 0 here.
            assert!(left == Unsettled::default() || len > SETTLED_AT as usize + 8, "{left:?} of {len} bytes");
        }
        for garbage in [vec![0; LEN as usize], vec![0xff; 5000], b"account 2\n".to_vec()] {
            fs::write(path(dir.path()), garbage).unwrap();
            assert_eq!(claim(dir.path()).1, Unsettled::default());
        }
    }
}
