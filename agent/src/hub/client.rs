//! Delivers messages: one task that owns the queue and the HTTP client.
//!
//! What is handed over goes to the spool first, and from there to the hub. The task works in rounds. A round sends
//! what waits, one message after the other, and ends when nothing is left or at the first message that could not be
//! delivered. As long as rounds succeed, one starts whenever something waits; after a failed one the next starts an
//! interval later, so a hub in trouble sees three tries per interval, however many targets report. A message leaves
//! the spool when the hub has decided about it: if we die in between, it is sent once more, with the same identity.

use std::{
    collections::HashMap,
    path::PathBuf,
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use reqwest::{
    StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use super::{
    config::{BaseUrl, ClientId, Env},
    message::{Startup, Sync},
    queue::{Dropped, Kind, Message, Queue, RULES},
    schedule::Pace,
};
use crate::{
    delivery::{Delivery, Failure, Outage, StartError, http_client},
    request_log::file::LogFile,
    spool::{Clock, Entry, Id, Receipt, STALLED, Spool, SpoolState},
};

/// Messages on their way into the queue. Only a stalled runtime lets them pile up; then they are dropped and
/// counted as `queue_full`.
const INBOX: usize = 1024;
/// Kept within a round, not until the next: by then the other side has often closed it.
const IDLE: Duration = Duration::from_secs(5);
/// Log files are not kept back for longer, whatever the hub says.
const LONGEST_PAUSE: Duration = Duration::from_secs(31 * 24 * 3600);
/// At the end, for what was handed over last to get to the disk.
const LAST_WRITES: Duration = Duration::from_millis(300);

#[derive(Clone, Debug)]
pub struct HubConfig {
    pub base_url: BaseUrl,
    pub client_id: ClientId,
    pub env: Env,
    /// For one try, from connecting to the end of the reply.
    pub timeout: Duration,
    pub pace: Pace,
    /// Below it messages are kept until they are delivered. None: in memory.
    pub state_dir: Option<PathBuf>,
    /// For the age of messages.
    pub clock: Clock,
}

impl HubConfig {
    pub fn new(base_url: BaseUrl, client_id: ClientId, env: Env) -> Self {
        let (timeout, pace, clock) = (Duration::from_secs(10), Pace::default(), Clock::default());
        Self { base_url, client_id, env, timeout, pace, state_dir: None, clock }
    }
}

/// Handle of the delivery for one client id and environment. Dropped without [`Hub::finish`], it leaves what is
/// queued unsent.
#[derive(Debug)]
pub struct Hub {
    inbox: mpsc::Sender<Command>,
    state: watch::Receiver<HubState>,
    /// Messages that did not fit into the inbox.
    overflow: AtomicU64,
    /// See [`Self::settled`].
    settled: HashMap<Uuid, u64>,
    task: JoinHandle<Delivery>,
}

/// A look at the delivery, for logs and for those who can stop working when nothing is sent any more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HubState {
    pub condition: Condition,
    /// Messages that wait, the one being sent included.
    pub queued: usize,
    /// Their bodies.
    pub queued_bytes: usize,
    pub delivered: u64,
    pub dropped: Dropped,
    pub last_answer: Option<LastAnswer>,
    /// Where the messages wait.
    pub spool: SpoolState,
    /// Until then the hub wants no log files.
    pub logs_paused_until: Option<SystemTime>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    #[default]
    Running,
    /// The hub does not know our client id; nothing is sent any more.
    Stopped,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LastAnswer {
    pub at: SystemTime,
    pub answer: Result<Answer, Failure>,
}

/// What the hub made of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Delivered,
    /// 422: it will never take this message.
    Rejected,
    /// 404
    UnknownClientId,
    /// 402: no log files for so long.
    NoLogs(Duration),
}

enum Command {
    Send(Message),
    Finish { deadline: Instant },
}

impl Hub {
    /// Spawns the delivery. It begins with what an earlier run left, which is looked for now: waits for the disk. Needs
    /// a tokio runtime around it.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn start(config: HubConfig) -> Result<Self, StartError> {
        let http = http_client(config.timeout, IDLE)?;
        let destination = format!("hub {} {} {}", config.base_url, config.client_id, config.env);
        let spool = Spool::open(config.state_dir.as_deref(), &destination, RULES, &config.clock.now());
        let settled = spool.settled().clone();
        let (inbox, commands) = mpsc::channel(INBOX);
        let (publish, state) = watch::channel(HubState::default());
        let mut task = Task {
            http,
            commands,
            publish,
            state: HubState::default(),
            catching_up: !spool.is_empty(),
            queue: Queue::new(spool),
            finish: None,
            outage: Outage::default(),
            config,
        };
        task.publish();
        Ok(Self { inbox, state, overflow: AtomicU64::new(0), settled, task: tokio::spawn(task.run()) })
    }

    /// Up to where messages that an earlier run left settle the account of that run; see [`crate::spool::Account`].
    pub fn settled(&self, life: Uuid) -> Option<u64> {
        self.settled.get(&life).copied()
    }

    /// Announces a target, before its syncs. A later one of the same instance replaces one that still waits.
    pub fn send_startup(&self, startup: &Startup) {
        self.send(startup.into());
    }

    /// Hands over a sync; does not wait. The receipt is settled when it is in a safe place.
    pub fn send_sync(&self, sync: &Sync, receipt: Option<Receipt>) {
        self.send(Message { receipt, ..sync.into() });
    }

    /// Hands over a file of request-log items; does not wait. Files are sent after the syncs, at most ten an interval.
    pub fn send_log(&self, instance: Uuid, file: LogFile) {
        self.send(Message::log(instance, file));
    }

    fn send(&self, message: Message) {
        if self.inbox.try_send(Command::Send(message)).is_err()
            && self.overflow.fetch_add(1, Ordering::Relaxed) == 0
        {
            warn!("delivery does not keep up, a message was dropped");
        }
    }

    pub fn state(&self) -> HubState {
        let mut state = self.state.borrow().clone();
        state.dropped.queue_full += self.overflow.load(Ordering::Relaxed);
        state
    }

    /// Sends what waits, as far as it can be done within `deadline`, and ends.
    ///
    /// Gives up early when a message fails all its tries. Does not wait for a reply beyond the deadline: the
    /// message it belongs to counts as undelivered, though the hub may have it.
    pub async fn finish(self, deadline: Duration) -> Delivery {
        let deadline = Instant::now() + deadline;
        // Fails only if the task has ended, and then it says below what it left.
        let _ = self.inbox.send(Command::Finish { deadline }).await;
        match self.task.await {
            Ok(delivery) => delivery,
            Err(error) => {
                error!(%error, "delivery ended before its time");
                Delivery { delivered: 0, undelivered: self.state.borrow().queued, kept: 0 }
            }
        }
    }
}

struct Task {
    http: reqwest::Client,
    config: HubConfig,
    commands: mpsc::Receiver<Command>,
    publish: watch::Sender<HubState>,
    /// What is published, as far as the queue does not know it.
    state: HubState,
    queue: Queue,
    /// Messages wait that others may have too: of an outage, or of an earlier run.
    catching_up: bool,
    finish: Option<Finish>,
    outage: Outage,
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

impl Task {
    async fn run(mut self) -> Delivery {
        let finish = loop {
            if let Some(finish) = self.finish {
                break finish;
            }
            self.start_round();
            if self.queue.next().is_none() {
                self.wait_for_work().await;
                continue;
            }
            let started = Instant::now().into_std();
            if self.round().await == Round::Failed && self.finish.is_none() {
                let ended = Instant::now().into_std();
                let next = self.config.pace.round_after(started, ended, fastrand::f64());
                self.wait_until(next.into()).await;
            }
        };
        self.start_round();
        self.round().await;
        let delivered = self.state.delivered - finish.delivered_before;
        let undelivered = self.queue.spool.len();
        let deadline = finish.deadline.max(Instant::now() + LAST_WRITES);
        let kept = self.queue.spool.close(deadline).await;
        Delivery { delivered, undelivered, kept }
    }

    fn start_round(&mut self) {
        let interval = match self.finish {
            None => self.config.pace.next_round,
            Some(_) => Duration::ZERO,
        };
        self.queue.start_round(&self.config.clock.now(), interval);
        self.publish();
    }

    /// Sends what waits, until something cannot be delivered.
    async fn round(&mut self) -> Round {
        let mut round = Round::Done;
        let mut backlog = self.queue.spool.len();
        loop {
            let Some((kind, item)) = self.queue.next() else {
                // The last words may be on their way to the disk.
                let now = Instant::now();
                match self.finish {
                    Some(Finish { deadline, .. }) if self.queue.spool.writing() > 0 && now < deadline => {
                        self.wait_for_input(deadline.min(now + STALLED)).await;
                        continue;
                    }
                    _ => break,
                }
            };
            backlog = backlog.max(self.queue.spool.len());
            let loading = self.queue.spool.load(item.id);
            let Some(loaded) = self.meanwhile(loading).await else { break };
            let Some(entry) = loaded else {
                self.queue.spool.give_up_damaged(item.id);
                continue;
            };
            let Some(answer) = self.deliver(kind, item.id, &entry).await else { continue };
            self.state.last_answer = Some(LastAnswer { at: SystemTime::now(), answer: answer.clone() });
            match answer {
                Ok(Answer::Delivered) => {
                    self.queue.delivered(kind, item.id);
                    self.state.delivered += 1;
                }
                Ok(Answer::Rejected) => self.queue.rejected(item.id),
                Ok(Answer::UnknownClientId) => self.queue.stop(item.id),
                Ok(Answer::NoLogs(pause)) => self.queue.pause_logs(Instant::now() + pause),
                Err(Failure::Status(400 | 413)) => self.queue.put_last(kind, item.id),
                Err(_) => self.queue.put_back(kind, item.id),
            }
            match answer {
                Ok(answer) => self.note_answer(kind, answer),
                Err(failure) => {
                    round = Round::Failed;
                    self.catching_up = true;
                    self.note_failure(kind, &failure);
                    // A hub that answers a start-up with an error is there, and may well take the heartbeat.
                    if !(kind == Kind::Startup && matches!(failure, Failure::Status(_))) {
                        break;
                    }
                }
            }
            self.publish();
            if !self.queue.spool.is_empty() && self.finish.is_none() {
                let to_catch_up = (self.catching_up || kind == Kind::Log).then_some(backlog);
                let pause = self.config.pace.pause(to_catch_up, fastrand::f64());
                self.wait_until(Instant::now() + pause).await;
            }
        }
        if round == Round::Done {
            self.catching_up = false;
            self.note_recovery();
        }
        self.publish();
        round
    }

    /// Sends one message, several times if need be. A log file can wait for the next interval. None when the message is
    /// no longer wanted: a newer one took its place, or there was no room for it.
    async fn deliver(&mut self, kind: Kind, id: Id, entry: &Entry) -> Option<Result<Answer, Failure>> {
        let mut failed = 0;
        loop {
            let failure = match self.post(kind, entry).await {
                Ok(answer) => return Some(Ok(answer)),
                Err(failure) => failure,
            };
            failed += 1;
            debug!(kind = kind.as_str(), failed, cause = %failure, "a try failed");
            let wait = self.config.pace.retry_wait(failed, fastrand::f64());
            let Some(wait) = wait.filter(|_| kind != Kind::Log) else {
                return Some(Err(failure));
            };
            let next_try = Instant::now() + wait;
            if self.finish.is_some_and(|finish| finish.deadline <= next_try) {
                return Some(Err(failure));
            }
            self.wait_until(next_try).await;
            if !self.queue.spool.contains(id) {
                return None;
            }
        }
    }

    /// One try.
    async fn post(&mut self, kind: Kind, entry: &Entry) -> Result<Answer, Failure> {
        let HubConfig { base_url, client_id, env, .. } = &self.config;
        let mut url = base_url.endpoint(client_id, env, kind.as_str());
        let mut request = match kind {
            Kind::Startup | Kind::Sync => self.http.post(url).header(CONTENT_TYPE, "application/json"),
            // A file that happens to be gzip: neither a type nor a coding is declared.
            Kind::Log => {
                url.query_pairs_mut().append_pair("uuid", &entry.label.message.to_string());
                self.http.post(url)
            }
        };
        request = request.body(entry.body.clone());
        let reply = self.meanwhile(request.send()).await.ok_or(Failure::TimedOut)??;
        match reply.status() {
            status if status.is_success() => Ok(Answer::Delivered),
            StatusCode::NOT_FOUND => Ok(Answer::UnknownClientId),
            StatusCode::UNPROCESSABLE_ENTITY => Ok(Answer::Rejected),
            status => {
                let seconds =
                    reply.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
                match (kind, status, seconds) {
                    (Kind::Log, StatusCode::PAYMENT_REQUIRED, Some(seconds)) => {
                        Ok(Answer::NoLogs(Duration::from_secs(seconds).min(LONGEST_PAUSE)))
                    }
                    _ => Err(Failure::Status(status.as_u16())),
                }
            }
        }
    }

    /// Waits for something, and takes commands and hears from the disk until then. None when it is time to finish.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        loop {
            let deadline = self.finish.map(|finish| finish.deadline);
            tokio::select! {
                biased;
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => return None,
                done = &mut work => return Some(done),
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
        let soonest = if self.queue.spool.writing() > 0 { STALLED } else { self.config.pace.next_round };
        if self.queue.spool.is_empty() {
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
            () = self.queue.spool.outcome() => {}
        }
        self.publish();
    }

    /// None: whoever could send commands is gone.
    fn accept(&mut self, command: Option<Command>) {
        match command {
            Some(Command::Send(message)) => match self.state.condition {
                Condition::Running => self.queue.push(message, &self.config.clock.now()),
                Condition::Stopped => self.queue.refuse(message),
            },
            Some(Command::Finish { deadline }) => {
                self.finish = Some(Finish { deadline, delivered_before: self.state.delivered });
            }
            None => {
                let deadline = Instant::now();
                self.finish = Some(Finish { deadline, delivered_before: self.state.delivered });
            }
        }
    }

    /// The hub has decided about a message.
    fn note_answer(&mut self, kind: Kind, answer: Answer) {
        let (host, env, kind) = (self.config.base_url.host(), self.config.env.as_str(), kind.as_str());
        match answer {
            Answer::Delivered => debug!(host, env, kind, "message delivered"),
            Answer::Rejected => {
                warn!(host, env, kind, "hub refused a message as invalid, it is dropped; please report this");
            }
            Answer::NoLogs(pause) => {
                let pause_s = pause.as_secs();
                warn!(
                    host,
                    env, pause_s, "hub takes no more request logs for now, they are dropped; metrics go on"
                );
            }
            Answer::UnknownClientId => {
                self.state.condition = Condition::Stopped;
                self.outage.end();
                error!(
                    host,
                    env,
                    "hub rejected our client id, nothing more is sent; compare --client-id with the dashboard"
                );
            }
        }
    }

    /// Says that the hub can be reached again, if it was said that it cannot.
    fn note_recovery(&mut self) {
        if let Some(away) = self.outage.end() {
            let (host, env) = (self.config.base_url.host(), self.config.env.as_str());
            info!(host, env, away_s = away.as_secs(), "hub is back, everything is delivered");
        }
    }

    /// Says that the hub cannot be reached, but not too often.
    fn note_failure(&mut self, kind: Kind, failure: &Failure) {
        if !self.outage.goes_on() {
            return;
        }
        warn!(
            host = self.config.base_url.host(),
            env = self.config.env.as_str(),
            kind = kind.as_str(),
            cause = %failure,
            queued = self.queue.spool.len(),
            dropped = self.queue.dropped().total(),
            "hub took no message, keeping it for later"
        );
    }

    fn publish(&mut self) {
        let spool = self.queue.spool.state();
        let until = |at: Instant| SystemTime::now() + at.saturating_duration_since(Instant::now());
        let state = HubState {
            queued: spool.messages,
            queued_bytes: spool.bytes,
            dropped: self.queue.dropped(),
            logs_paused_until: self.queue.logs_paused_until().map(until),
            spool,
            ..self.state.clone()
        };
        self.publish.send_replace(state);
    }
}
