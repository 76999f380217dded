//! The thread that waits for the disk, so that nobody else has to.

use std::{
    iter,
    path::Path,
    sync::{Arc, mpsc},
    thread,
};

use tokio::sync::{mpsc as wakers, oneshot};

use super::{
    account::Receipt,
    clock::Moment,
    dir::{ClaimError, Dir, Found, Id},
    entry::{Entry, Settled},
};

/// Messages whose names are made permanent together.
const BATCH: usize = 64;

/// The way to a directory. The thread behind it ends, once it has done everything, when this is dropped.
#[derive(Debug)]
pub struct Writer {
    work: mpsc::Sender<Work>,
    pub outcomes: wakers::UnboundedReceiver<Outcome>,
}

#[derive(Debug)]
enum Work {
    Store { id: Id, entry: Arc<Entry>, receipt: Option<Receipt> },
    Load { id: Id, reply: oneshot::Sender<Option<Entry>> },
    Remove(Id),
    Settle(Receipt),
}

/// What became of a message that was to be stored.
#[derive(Debug)]
pub struct Outcome {
    pub id: Id,
    pub stored: Result<(), Refused>,
}

/// It is not on disk.
#[derive(Debug)]
pub struct Refused {
    pub cause: String,
    pub receipt: Option<Receipt>,
}

impl Writer {
    /// # Errors
    /// When there is no directory, or no thread.
    pub fn start(state_dir: &Path, destination: &str, now: &Moment) -> Result<(Self, Found), ClaimError> {
        let (dir, found) = Dir::claim(state_dir, destination, now)?;
        let (work, inbox) = mpsc::channel();
        let (outbox, outcomes) = wakers::unbounded_channel();
        thread::Builder::new()
            .name("spool".to_owned())
            .spawn(move || run(dir, &inbox, &outbox))
            .map_err(|error| ClaimError::Io { path: state_dir.to_owned(), error })?;
        Ok((Self { work, outcomes }, found))
    }

    /// There will be an [`Outcome`]. The receipt is settled as soon as the message would survive our death.
    pub fn store(&self, id: Id, entry: Arc<Entry>, receipt: Option<Receipt>) {
        self.put(Work::Store { id, entry, receipt });
    }

    pub fn load(&self, id: Id) -> oneshot::Receiver<Option<Entry>> {
        let (reply, loaded) = oneshot::channel();
        self.put(Work::Load { id, reply });
        loaded
    }

    pub fn remove(&self, id: Id) {
        self.put(Work::Remove(id));
    }

    pub fn settle(&self, receipt: Receipt) {
        self.put(Work::Settle(receipt));
    }

    /// Waits until everything is done and the directory is free.
    pub async fn close(self) {
        let Self { work, mut outcomes } = self;
        drop(work);
        while outcomes.recv().await.is_some() {}
    }

    fn put(&self, work: Work) {
        self.work.send(work).expect("the thread ends after its last client");
    }
}

/// Whoever sees `outbox` end can have the directory.
fn run(dir: Dir, inbox: &mpsc::Receiver<Work>, outbox: &wakers::UnboundedSender<Outcome>) {
    while let Ok(first) = inbox.recv() {
        let mut stored = Vec::new();
        for work in iter::once(first).chain(inbox.try_iter()).take(BATCH) {
            match work {
                Work::Store { id, entry, receipt } => {
                    let settled = receipt.as_ref().map_or_else(Settled::default, Receipt::settles);
                    match dir.store(id, &entry, settled) {
                        Ok(()) => {
                            receipt.into_iter().for_each(Receipt::settle);
                            stored.push(id);
                        }
                        Err(error) => {
                            let refused = Refused { cause: error.to_string(), receipt };
                            // Fails when nobody is interested any more; so below.
                            let _ = outbox.send(Outcome { id, stored: Err(refused) });
                        }
                    }
                }
                Work::Load { id, reply } => {
                    let _ = reply.send(dir.load(id));
                }
                Work::Remove(id) => dir.remove(id),
                Work::Settle(receipt) => receipt.settle(),
            }
        }
        if stored.is_empty() {
            continue;
        }
        // Without it they are there all the same, unless the power fails before the disk gets to it by itself.
        let _ = dir.sync();
        for id in stored {
            let _ = outbox.send(Outcome { id, stored: Ok(()) });
        }
    }
    drop(dir);
}
