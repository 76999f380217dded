//! Delivers messages: one task that owns what waits for a destination, and waits for whoever takes it.
//!
//! What is handed over goes to the spool first, and from there to the destination. The task works in rounds. A round
//! sends what waits, one message after the other, and ends when nothing is left or at a message that could not be
//! delivered. As long as rounds succeed, one starts whenever something waits; after a failed one the next starts an
//! interval later. A message leaves the spool when the destination has decided about it: if we die in between, it is
//! sent once more, the same byte for byte.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use reqwest::{RequestBuilder, Response, header::HeaderMap};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tracing::{debug, error, warn};

use super::{Failure, Failures};
use crate::spool::{Entry, Id, STALLED, Spool};

/// Messages on their way into the queue. Only a stalled runtime lets them pile up; then they are dropped and
/// counted, see [`Handle::overflow`].
const INBOX: usize = 1024;
/// At the end, for what was handed over last to get to the disk.
const LAST_WRITES: Duration = Duration::from_millis(300);

/// What tells one way out from another: whose turn it is, what is said, and what is made of the answer. It never
/// waits; that is done for it.
pub trait Way: Send + 'static {
    /// What is handed over.
    type Message: Send + 'static;
    type Kind: Copy + Debug + Send + 'static;
    type Answer: Send + 'static;
    /// A look at the delivery.
    type State: Clone + Send + Sync + 'static;

    fn spool(&self) -> &Spool;
    fn spool_mut(&mut self) -> &mut Spool;
    fn into_spool(self) -> Spool;

    fn push(&mut self, message: Self::Message);

    /// Between two rounds, when nothing hurries.
    fn interval(&self) -> Duration;

    /// A round begins, the last one if we are `finishing`: gives up what is too old.
    fn start_round(&mut self, finishing: bool);

    /// The message whose turn it is. It stays until [`Self::settle`] takes it out.
    fn next(&self) -> Option<(Self::Kind, Id)>;

    fn request(&self, kind: Self::Kind, entry: &Entry) -> RequestBuilder;

    /// A reply has come, and says this besides the answer.
    fn heed(&mut self, _headers: &HeaderMap) {}

    /// What a reply says of the message.
    fn read(kind: Self::Kind, reply: Response) -> impl Future<Output = Result<Self::Answer, Failure>> + Send;

    /// How long to wait after the `failed`th failed try of a message, the first being 1. None: enough tries for this
    /// round.
    fn retry_wait(&self, kind: Self::Kind, failed: u32, failure: &Failure) -> Option<Duration>;

    /// What comes of the message.
    fn settle(&mut self, kind: Self::Kind, id: Id, answer: Result<Self::Answer, Failure>) -> Then;

    /// Between a message and the next, when so many wait or did in this round.
    fn pause(&self, kind: Self::Kind, backlog: usize) -> Duration;

    /// When a round is due after one that failed.
    fn round_after(&self, started: Instant, ended: Instant) -> Instant;

    /// Nothing failed in a round.
    fn recovered(&mut self);

    /// Messages delivered so far.
    fn delivered(&self) -> u64;

    fn state(&self) -> Self::State;
}

/// How a round goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// With the next message.
    Next,
    /// Not at all: nobody is there to take the next message.
    End,
}

/// What became of the messages when a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Since [`Handle::finish`] was called.
    pub delivered: u64,
    pub undelivered: usize,
    /// Those of the undelivered that are on disk: the next agent sends them.
    pub kept: usize,
}

/// Handle of a delivery. Dropped without [`Handle::finish`], it leaves what is queued unsent.
#[derive(Debug)]
pub struct Handle<M, S> {
    inbox: mpsc::Sender<Command<M>>,
    state: watch::Receiver<S>,
    overflow: AtomicU64,
    failures: Arc<Failures>,
    task: JoinHandle<Delivery>,
}

#[derive(Debug)]
enum Command<M> {
    Send(M),
    Finish { deadline: Instant },
}

impl<M: Send + 'static, S: Clone + Send + Sync + 'static> Handle<M, S> {
    /// Spawns the delivery, which begins with what is in the spool. Needs a tokio runtime around it.
    pub fn start(way: impl Way<Message = M, State = S>) -> Self {
        let (inbox, commands) = mpsc::channel(INBOX);
        let (publish, state) = watch::channel(way.state());
        let failures = Arc::<Failures>::default();
        let courier = Courier { way, commands, publish, failures: Arc::clone(&failures), finish: None };
        Self { inbox, state, overflow: AtomicU64::new(0), failures, task: tokio::spawn(courier.run()) }
    }

    /// Hands something over; does not wait. It stands for so many messages.
    pub fn send(&self, message: M, messages: u64) {
        if self.inbox.try_send(Command::Send(message)).is_err()
            && self.overflow.fetch_add(messages, Ordering::Relaxed) == 0
        {
            warn!("delivery does not keep up, messages were dropped");
        }
    }

    /// Messages that did not fit into the inbox.
    pub fn overflow(&self) -> u64 {
        self.overflow.load(Ordering::Relaxed)
    }

    /// Tries that failed, by reason; some of them for the same message.
    pub fn failures(&self) -> BTreeMap<&'static str, u64> {
        self.failures.counts()
    }

    pub fn state(&self) -> S {
        self.state.borrow().clone()
    }

    /// Sends what waits, as far as it can be done within `deadline`, and ends. `queued` says how many wait.
    ///
    /// Gives up early when a message fails all its tries. Does not wait for a reply beyond the deadline: the message
    /// it belongs to counts as undelivered, though the destination may have it.
    pub async fn finish(self, deadline: Duration, queued: fn(&S) -> usize) -> Delivery {
        let deadline = Instant::now() + deadline;
        // Fails only if the task has ended, and then it says below what it left.
        let _ = self.inbox.send(Command::Finish { deadline }).await;
        match self.task.await {
            Ok(delivery) => delivery,
            Err(error) => {
                error!(%error, "delivery ended before its time");
                Delivery { delivered: 0, undelivered: queued(&self.state.borrow()), kept: 0 }
            }
        }
    }
}

struct Courier<W: Way> {
    way: W,
    commands: mpsc::Receiver<Command<W::Message>>,
    publish: watch::Sender<W::State>,
    failures: Arc<Failures>,
    finish: Option<Finish>,
}

#[derive(Clone, Copy)]
struct Finish {
    deadline: Instant,
    delivered_before: u64,
}

#[derive(PartialEq, Eq)]
enum Round {
    Done,
    Failed,
}

impl<W: Way> Courier<W> {
    async fn run(mut self) -> Delivery {
        let finish = loop {
            if let Some(finish) = self.finish {
                break finish;
            }
            self.start_round();
            if self.way.next().is_none() {
                self.wait_for_work().await;
                continue;
            }
            let started = Instant::now();
            if self.round().await == Round::Failed && self.finish.is_none() {
                let next = self.way.round_after(started, Instant::now());
                self.wait_until(next).await;
            }
        };
        self.start_round();
        self.round().await;
        let delivered = self.way.delivered() - finish.delivered_before;
        let undelivered = self.way.spool().len();
        let deadline = finish.deadline.max(Instant::now() + LAST_WRITES);
        let kept = self.way.into_spool().close(deadline).await;
        Delivery { delivered, undelivered, kept }
    }

    fn start_round(&mut self) {
        self.way.start_round(self.finish.is_some());
        self.publish();
    }

    /// Sends what waits, until something cannot be delivered.
    async fn round(&mut self) -> Round {
        let mut round = Round::Done;
        let mut backlog = self.way.spool().len();
        loop {
            let Some((kind, id)) = self.way.next() else {
                // The last words may be on their way to the disk.
                let now = Instant::now();
                match self.finish {
                    Some(Finish { deadline, .. }) if self.way.spool().writing() > 0 && now < deadline => {
                        self.wait_for_input(deadline.min(now + STALLED)).await;
                        continue;
                    }
                    _ => break,
                }
            };
            backlog = backlog.max(self.way.spool().len());
            let loading = self.way.spool().load(id);
            let Some(loaded) = self.meanwhile(loading).await else { break };
            let Some(entry) = loaded else {
                self.way.spool_mut().give_up_damaged(id);
                continue;
            };
            let Some(answer) = self.deliver(kind, id, &entry).await else { continue };
            if answer.is_err() {
                round = Round::Failed;
            }
            if self.way.settle(kind, id, answer) == Then::End {
                break;
            }
            self.publish();
            if !self.way.spool().is_empty() && self.finish.is_none() {
                self.wait_until(Instant::now() + self.way.pause(kind, backlog)).await;
            }
        }
        if round == Round::Done {
            self.way.recovered();
        }
        self.publish();
        round
    }

    /// Sends one message, several times if need be. None when the message is no longer wanted: a newer one took its
    /// place, or there was no room for it.
    async fn deliver(&mut self, kind: W::Kind, id: Id, entry: &Entry) -> Option<Result<W::Answer, Failure>> {
        let mut failed = 0;
        loop {
            let failure = match self.post(kind, entry).await {
                Ok(answer) => return Some(Ok(answer)),
                Err(failure) => failure,
            };
            failed += 1;
            self.failures.add(&failure);
            debug!(?kind, failed, cause = %failure, "a try failed");
            let Some(wait) = self.way.retry_wait(kind, failed, &failure) else { return Some(Err(failure)) };
            let next_try = Instant::now() + wait;
            if self.finish.is_some_and(|finish| finish.deadline <= next_try) {
                return Some(Err(failure));
            }
            self.wait_until(next_try).await;
            if !self.way.spool().contains(id) {
                return None;
            }
        }
    }

    /// One try.
    async fn post(&mut self, kind: W::Kind, entry: &Entry) -> Result<W::Answer, Failure> {
        let request = self.way.request(kind, entry);
        let reply = self.meanwhile(request.send()).await.ok_or(Failure::TimedOut)??;
        self.way.heed(reply.headers());
        self.meanwhile(W::read(kind, reply)).await.ok_or(Failure::TimedOut)?
    }

    /// Waits for something, and takes commands and hears from the disk until then. None when it is time to finish.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        loop {
            let deadline = self.finish.map(|finish| finish.deadline);
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => return None,
                () = self.input() => {}
            }
        }
    }

    /// Takes commands until then, or until one of them is to finish.
    async fn wait_until(&mut self, until: Instant) {
        let finishing = self.finish.is_some();
        loop {
            tokio::select! {
                () = sleep_until(until) => return,
                () = self.input() => {}
            }
            if self.finish.is_some() && !finishing {
                return;
            }
        }
    }

    /// Waits until there may be something to send.
    async fn wait_for_work(&mut self) {
        let soonest = if self.way.spool().writing() > 0 { STALLED } else { self.way.interval() };
        if self.way.spool().is_empty() {
            self.input().await;
        } else {
            self.wait_for_input(Instant::now() + soonest).await;
        }
    }

    async fn wait_for_input(&mut self, until: Instant) {
        tokio::select! {
            () = sleep_until(until) => {}
            () = self.input() => {}
        }
    }

    /// A command, or news from the disk.
    async fn input(&mut self) {
        tokio::select! {
            command = self.commands.recv(), if self.finish.is_none() => self.accept(command),
            () = self.way.spool_mut().outcome() => {}
        }
        self.publish();
    }

    /// None: whoever could send commands is gone.
    fn accept(&mut self, command: Option<Command<W::Message>>) {
        let deadline = match command {
            Some(Command::Send(message)) => return self.way.push(message),
            Some(Command::Finish { deadline }) => deadline,
            None => Instant::now(),
        };
        self.finish = Some(Finish { deadline, delivered_before: self.way.delivered() });
    }

    fn publish(&mut self) {
        self.publish.send_replace(self.way.state());
    }
}
