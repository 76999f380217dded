//! Delivers messages: one task that owns the queue and the HTTP client.
//!
//! The task works in rounds. A round sends what waits, one message after the other, and ends when nothing is
//! left or at the first message that could not be delivered. As long as rounds succeed, one starts whenever
//! something waits; after a failed one the next starts an interval later, so a hub in trouble sees three tries
//! per interval, however many targets report. Messages that arrive in between go straight into the queue.
//!
//! A sink for another protocol, or a spool on disk behind the queue, joins here: producers only know
//! [`Hub::send_startup`] and [`Hub::send_sync`].

use std::{
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use reqwest::{StatusCode, header::CONTENT_TYPE, redirect};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tracing::{debug, error, info, warn};

use super::{
    config::{BaseUrl, ClientId, Env},
    failure::Failure,
    message::{Startup, Sync},
    queue::{Dropped, Kind, Message, Queue},
    schedule::Pace,
};

/// Messages on their way into the queue. Only a stalled runtime lets them pile up; then they are dropped and
/// counted as `queue_full`.
const INBOX: usize = 1024;
/// How often a failing hub is worth a line in the log.
const WARN_EVERY: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct HubConfig {
    pub base_url: BaseUrl,
    pub client_id: ClientId,
    pub env: Env,
    /// For one try, from connecting to the end of the reply.
    pub timeout: Duration,
    pub pace: Pace,
}

impl HubConfig {
    pub fn new(base_url: BaseUrl, client_id: ClientId, env: Env) -> Self {
        Self { base_url, client_id, env, timeout: Duration::from_secs(10), pace: Pace::default() }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot set up the HTTP client for the hub; look at SSL_CERT_FILE and the proxy variables: {0}")]
pub struct StartError(reqwest::Error);

/// Handle of the delivery for one client id and environment. Dropped without [`Hub::finish`], it leaves what is
/// queued unsent.
#[derive(Debug)]
pub struct Hub {
    inbox: mpsc::Sender<Command>,
    state: watch::Receiver<HubState>,
    /// Messages that did not fit into the inbox.
    overflow: AtomicU64,
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
}

/// What became of the messages when the delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Since [`Hub::finish`] was called.
    pub delivered: u64,
    pub undelivered: usize,
}

enum Command {
    Send(Message),
    Finish { deadline: Instant },
}

impl Hub {
    /// Spawns the delivery; nothing is sent until there is a message. Needs a tokio runtime around it.
    ///
    /// Proxies and certificates come from the environment: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`,
    /// `SSL_CERT_FILE`.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn start(config: HubConfig) -> Result<Self, StartError> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("apitally-agent/", env!("CARGO_PKG_VERSION")))
            .timeout(config.timeout)
            .redirect(redirect::Policy::none())
            // Kept within a round, not until the next: by then the other side has often closed it.
            .pool_idle_timeout(Duration::from_secs(5))
            .build()
            .map_err(StartError)?;
        let (inbox, commands) = mpsc::channel(INBOX);
        let (publish, state) = watch::channel(HubState::default());
        let task = Task {
            http,
            config,
            commands,
            publish,
            state: HubState::default(),
            queue: Queue::default(),
            sending: None,
            finish: None,
            outage: None,
            last_warned: None,
        };
        Ok(Self { inbox, state, overflow: AtomicU64::new(0), task: tokio::spawn(task.run()) })
    }

    /// Announces a target, before its syncs. A later one of the same instance replaces one that still waits.
    pub fn send_startup(&self, startup: &Startup) {
        self.send(startup.into());
    }

    /// Hands over a sync; does not wait.
    pub fn send_sync(&self, sync: &Sync) {
        self.send(sync.into());
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
                Delivery { delivered: 0, undelivered: self.state.borrow().queued }
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
    /// Body length of the message that is out of the queue and not yet answered.
    sending: Option<usize>,
    finish: Option<Finish>,
    outage: Option<Outage>,
    last_warned: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Finish {
    deadline: Instant,
    delivered_before: u64,
}

/// From a message that failed all its tries to a round without such.
#[derive(Clone, Copy)]
struct Outage {
    since: Instant,
    /// There was a line about it in the log.
    warned: bool,
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
            if self.queue.is_empty() {
                let command = self.commands.recv().await;
                self.accept(command);
                continue;
            }
            let started = Instant::now().into_std();
            if self.round().await == Round::Failed && self.finish.is_none() {
                let ended = Instant::now().into_std();
                let next = self.config.pace.round_after(started, ended, fastrand::f64());
                self.wait_until(next.into()).await;
            }
        };
        self.round().await;
        Delivery { delivered: self.state.delivered - finish.delivered_before, undelivered: self.queue.len() }
    }

    /// Sends what waits, until something cannot be delivered.
    async fn round(&mut self) -> Round {
        let mut round = Round::Done;
        self.queue.start_round(SystemTime::now());
        self.publish();
        while let Some(message) = self.queue.take_next() {
            let kind = message.kind;
            self.sending = Some(message.body.len());
            let answer = self.deliver(&message).await;
            self.sending = None;
            self.state.last_answer = Some(LastAnswer { at: SystemTime::now(), answer: answer.clone() });
            match answer {
                Ok(answer) => self.settle(kind, answer),
                Err(failure) => {
                    round = Round::Failed;
                    match failure {
                        // The hub objects to this message; the others may fare better.
                        Failure::Status(400 | 413) => self.queue.put_last(message),
                        _ => self.queue.put_back(message),
                    }
                    self.note_failure(kind, &failure);
                    // A hub that answers a start-up with an error is there, and may well take the heartbeat.
                    if !(kind == Kind::Startup && matches!(failure, Failure::Status(_))) {
                        break;
                    }
                }
            }
            self.publish();
            if !self.queue.is_empty() && self.finish.is_none() {
                self.wait_until(Instant::now() + self.config.pace.pause(fastrand::f64())).await;
            }
        }
        if round == Round::Done {
            self.note_recovery();
        }
        self.publish();
        round
    }

    /// Sends one message, several times if need be.
    async fn deliver(&mut self, message: &Message) -> Result<Answer, Failure> {
        let mut failed = 0;
        loop {
            let failure = match self.post(message).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            failed += 1;
            debug!(kind = message.kind.as_str(), failed, cause = %failure, "a try failed");
            let Some(wait) = self.config.pace.retry_wait(failed, fastrand::f64()) else {
                return Err(failure);
            };
            let next_try = Instant::now() + wait;
            if self.finish.is_some_and(|finish| finish.deadline <= next_try) {
                return Err(failure);
            }
            self.wait_until(next_try).await;
        }
    }

    /// One try. Takes commands meanwhile.
    async fn post(&mut self, message: &Message) -> Result<Answer, Failure> {
        let HubConfig { base_url, client_id, env, .. } = &self.config;
        let request = self
            .http
            .post(base_url.endpoint(client_id, env, message.kind.as_str()))
            .header(CONTENT_TYPE, "application/json")
            .body(message.body.clone());
        let mut reply = pin!(request.send());
        let status = loop {
            let deadline = self.finish.map(|finish| finish.deadline);
            tokio::select! {
                biased;
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    return Err(Failure::TimedOut);
                }
                reply = &mut reply => break reply?.status(),
                command = self.commands.recv(), if deadline.is_none() => self.accept(command),
            }
        };
        match status {
            _ if status.is_success() => Ok(Answer::Delivered),
            StatusCode::NOT_FOUND => Ok(Answer::UnknownClientId),
            StatusCode::UNPROCESSABLE_ENTITY => Ok(Answer::Rejected),
            _ => Err(Failure::Status(status.as_u16())),
        }
    }

    /// Takes commands until then, or until one of them is to finish.
    async fn wait_until(&mut self, until: Instant) {
        let finishing = self.finish.is_some();
        loop {
            tokio::select! {
                () = sleep_until(until) => return,
                command = self.commands.recv(), if !finishing => self.accept(command),
            }
            if self.finish.is_some() && !finishing {
                return;
            }
        }
    }

    /// None: whoever could send commands is gone.
    fn accept(&mut self, command: Option<Command>) {
        match command {
            Some(Command::Send(message)) => match self.state.condition {
                Condition::Running => self.queue.push(message),
                Condition::Stopped => self.queue.dropped.stopped += 1,
            },
            Some(Command::Finish { deadline }) => {
                self.finish = Some(Finish { deadline, delivered_before: self.state.delivered });
            }
            None => {
                let deadline = Instant::now();
                self.finish = Some(Finish { deadline, delivered_before: self.state.delivered });
            }
        }
        self.publish();
    }

    /// The hub has decided about a message.
    fn settle(&mut self, kind: Kind, answer: Answer) {
        let (host, env, kind) = (self.config.base_url.host(), self.config.env.as_str(), kind.as_str());
        match answer {
            Answer::Delivered => {
                self.state.delivered += 1;
                debug!(host, env, kind, "message delivered");
            }
            Answer::Rejected => {
                self.queue.dropped.rejected += 1;
                warn!(host, env, kind, "hub refused a message as invalid, it is dropped; please report this");
            }
            Answer::UnknownClientId => {
                self.state.condition = Condition::Stopped;
                self.outage = None;
                self.queue.stop();
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
        if let Some(Outage { since, warned: true }) = self.outage.take() {
            let (host, env) = (self.config.base_url.host(), self.config.env.as_str());
            info!(host, env, away_s = since.elapsed().as_secs(), "hub is back, everything is delivered");
        }
    }

    /// Says that the hub cannot be reached, but not too often.
    fn note_failure(&mut self, kind: Kind, failure: &Failure) {
        let now = Instant::now();
        let outage = self.outage.get_or_insert(Outage { since: now, warned: false });
        if self.last_warned.is_some_and(|last| now - last < WARN_EVERY) {
            return;
        }
        outage.warned = true;
        self.last_warned = Some(now);
        warn!(
            host = self.config.base_url.host(),
            env = self.config.env.as_str(),
            kind = kind.as_str(),
            cause = %failure,
            queued = self.queue.len(),
            dropped = self.queue.dropped.total(),
            "hub took no message, keeping it for later"
        );
    }

    fn publish(&mut self) {
        self.state.queued = self.queue.len() + usize::from(self.sending.is_some());
        self.state.queued_bytes = self.queue.bytes() + self.sending.unwrap_or(0);
        self.state.dropped = self.queue.dropped;
        self.publish.send_replace(self.state.clone());
    }
}
