//! Delivers messages to the hub.
//!
//! A hub in trouble sees three tries per interval, however many targets report. A message that is sent once more has the
//! same identity.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use reqwest::{
    RequestBuilder, Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use super::{
    config::{BaseUrl, ClientId, Env},
    message::{Startup, Sync},
    queue::{Dropped, Kind, Message, Queue, RULES},
    schedule::Pace,
};
use crate::{
    delivery::{self, Delivery, Failure, Handle, Outage, StartError, Then, Way, http_client},
    request_log::file::LogFile,
    spool::{Clock, Entry, Id, Receipt, Spool, SpoolState},
};

/// Kept within a round, not until the next: by then the other side has often closed it.
const IDLE: Duration = Duration::from_secs(5);
/// Log files are not kept back for longer, whatever the hub says.
const LONGEST_PAUSE: Duration = Duration::from_secs(31 * 24 * 3600);

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
    handle: Handle<Message, HubState>,
    /// See [`Self::settled`].
    settled: HashMap<Uuid, u64>,
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

pub type LastAnswer = delivery::LastAnswer<Answer>;

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
        let way = HubWay {
            http,
            condition: Condition::Running,
            delivered: 0,
            last_answer: None,
            catching_up: !spool.is_empty(),
            queue: Queue::new(spool),
            outage: Outage::default(),
            config,
        };
        Ok(Self { handle: Handle::start(way), settled })
    }

    /// Up to where messages that an earlier run left settle the account of that run; see [`crate::spool::Account`].
    pub fn settled(&self, life: Uuid) -> Option<u64> {
        self.settled.get(&life).copied()
    }

    /// Announces a target, before its syncs. A later one of the same instance replaces one that still waits.
    pub fn send_startup(&self, startup: &Startup) {
        self.handle.send(startup.into(), 1);
    }

    /// Hands over a sync; does not wait. The receipt is settled when it is in a safe place.
    pub fn send_sync(&self, sync: &Sync, receipt: Option<Receipt>) {
        self.handle.send(Message { receipt, ..sync.into() }, 1);
    }

    /// Hands over a file of request-log items; does not wait. Files are sent after the syncs, at most ten an interval.
    pub fn send_log(&self, instance: Uuid, file: LogFile) {
        self.handle.send(Message::log(instance, file), 1);
    }

    /// Tries that failed, by reason; some of them for the same one of the messages.
    pub fn failures(&self) -> BTreeMap<&'static str, u64> {
        self.handle.failures()
    }

    pub fn state(&self) -> HubState {
        let mut state = self.handle.state();
        state.dropped.queue_full += self.handle.overflow();
        state
    }

    /// Sends what waits, as far as it can be done within `deadline`, and ends; see [`Handle::finish`].
    pub async fn finish(self, deadline: Duration) -> Delivery {
        self.handle.finish(deadline, |state| state.queued).await
    }
}

struct HubWay {
    http: reqwest::Client,
    config: HubConfig,
    queue: Queue,
    condition: Condition,
    delivered: u64,
    last_answer: Option<LastAnswer>,
    /// Messages wait that others may have too: of an outage, or of an earlier run.
    catching_up: bool,
    outage: Outage,
}

impl Way for HubWay {
    type Message = Message;
    type Kind = Kind;
    type Answer = Answer;
    type State = HubState;

    fn spool(&self) -> &Spool {
        &self.queue.spool
    }

    fn spool_mut(&mut self) -> &mut Spool {
        &mut self.queue.spool
    }

    fn into_spool(self) -> Spool {
        self.queue.spool
    }

    fn push(&mut self, message: Message) {
        match self.condition {
            Condition::Running => self.queue.push(message, &self.config.clock.now()),
            Condition::Stopped => self.queue.refuse(message),
        }
    }

    fn interval(&self) -> Duration {
        self.config.pace.next_round
    }

    fn start_round(&mut self, finishing: bool) {
        let interval = if finishing { Duration::ZERO } else { self.interval() };
        self.queue.start_round(&self.config.clock.now(), interval);
    }

    fn next(&self) -> Option<(Kind, Id)> {
        self.queue.next().map(|(kind, item)| (kind, item.id))
    }

    fn request(&self, kind: Kind, entry: &Entry) -> RequestBuilder {
        let HubConfig { base_url, client_id, env, .. } = &self.config;
        let mut url = base_url.endpoint(client_id, env, kind.as_str());
        let request = match kind {
            Kind::Startup | Kind::Sync => self.http.post(url).header(CONTENT_TYPE, "application/json"),
            // A file that happens to be gzip: neither a type nor a coding is declared.
            Kind::Log => {
                url.query_pairs_mut().append_pair("uuid", &entry.label.message.to_string());
                self.http.post(url)
            }
        };
        request.body(entry.body.clone())
    }

    async fn read(kind: Kind, reply: Response) -> Result<Answer, Failure> {
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

    /// A log file can wait for the next interval.
    fn retry_wait(&self, kind: Kind, failed: u32, _failure: &Failure) -> Option<Duration> {
        self.config.pace.retry_wait(failed, fastrand::f64()).filter(|_| kind != Kind::Log)
    }

    fn settle(&mut self, kind: Kind, id: Id, answer: Result<Answer, Failure>) -> Then {
        self.last_answer = Some(LastAnswer { at: SystemTime::now(), answer: answer.clone() });
        match answer {
            Ok(Answer::Delivered) => {
                self.queue.delivered(kind, id);
                self.delivered += 1;
            }
            Ok(Answer::Rejected) => self.queue.rejected(id),
            Ok(Answer::UnknownClientId) => self.queue.stop(id),
            Ok(Answer::NoLogs(pause)) => self.queue.pause_logs(Instant::now() + pause),
            Err(Failure::Status(400 | 413)) => self.queue.put_last(kind, id),
            Err(_) => self.queue.put_back(kind, id),
        }
        match answer {
            Ok(answer) => {
                self.note_answer(kind, answer);
                Then::Next
            }
            Err(failure) => {
                self.catching_up = true;
                self.note_failure(kind, &failure);
                // A hub that answers a start-up with an error is there, and may well take the heartbeat.
                let is_there = kind == Kind::Startup && matches!(failure, Failure::Status(_));
                if is_there { Then::Next } else { Then::End }
            }
        }
    }

    fn pause(&self, kind: Kind, backlog: usize) -> Duration {
        let to_catch_up = (self.catching_up || kind == Kind::Log).then_some(backlog);
        self.config.pace.pause(to_catch_up, fastrand::f64())
    }

    fn round_after(&self, started: Instant, ended: Instant) -> Instant {
        self.config.pace.round_after(started.into_std(), ended.into_std(), fastrand::f64()).into()
    }

    /// Says that the hub can be reached again, if it was said that it cannot.
    fn recovered(&mut self) {
        self.catching_up = false;
        if let Some(away) = self.outage.end() {
            let (host, env) = (self.config.base_url.host(), self.config.env.as_str());
            info!(host, env, away_s = away.as_secs(), "hub is back, everything is delivered");
        }
    }

    fn delivered(&self) -> u64 {
        self.delivered
    }

    fn state(&self) -> HubState {
        let spool = self.queue.spool.state();
        let until = |at: Instant| SystemTime::now() + at.saturating_duration_since(Instant::now());
        HubState {
            condition: self.condition,
            queued: spool.messages,
            queued_bytes: spool.bytes,
            delivered: self.delivered,
            dropped: self.queue.dropped(),
            last_answer: self.last_answer.clone(),
            spool,
            logs_paused_until: self.queue.logs_paused_until().map(until),
        }
    }
}

impl HubWay {
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
                self.condition = Condition::Stopped;
                self.outage.end();
                error!(
                    host,
                    env,
                    "hub rejected our client id, nothing more is sent; compare --client-id with the dashboard"
                );
            }
        }
    }

    /// Says that the hub cannot be reached, but not too often.
    fn note_failure(&mut self, kind: Kind, failure: &Failure) {
        if self.outage.goes_on() {
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
    }
}
